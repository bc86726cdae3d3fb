//! Construction, normalisation, labels.

use ndarray::{Array2, array};
use patchlens::report::{Axis, Labelled, Normalization, legible};
use proptest::prelude::*;
use unicode_width::UnicodeWidthChar;

use crate::about;

#[test]
fn construction_says_what_was_found_and_expected() {
    let new = |values: Array2<f32>, axes| Labelled::new(values, axes, about());
    let layers = || Axis::layers(2);
    let two = || Array2::<f32>::zeros((2, 3));
    let named = |name: &str| Axis::new(name, ["a", "b", "c"]);
    for (result, expected) in [
        (
            new(two(), vec![layers()]),
            "values of the axes [layer]: found shape [2, 3]; expected [2]",
        ),
        (
            new(two(), vec![layers(), Axis::heads(4)]),
            "found shape [2, 3]; expected [2, 4]",
        ),
        (
            new(two(), vec![layers(), named("")]),
            "axis name: found ``; expected names",
        ),
        (
            new(two(), vec![layers(), named("layer")]),
            "axis name: found `layer`; expected names",
        ),
        (
            new(two(), vec![layers(), named("value")]),
            "axis name: found `value`; expected names",
        ),
        (
            new(Array2::zeros((2, 0)), vec![layers(), Axis::heads(0)]),
            "axis `head`: found no labels; expected at least one",
        ),
        (
            new(two(), vec![layers(), named("x")])
                .unwrap()
                .with_std_error(array![1.0]),
            "standard errors: found shape [1]; expected [2, 3]",
        ),
        (
            new(two(), vec![layers(), named("text")]),
            "axis name: found `text`; expected names",
        ),
        (
            new(two(), vec![layers(), named("x")])
                .unwrap()
                .with_texts(array![String::new()]),
            "texts of cells: found shape [1]; expected [2, 3]",
        ),
    ] {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}\n  lacks {expected}");
    }
}

#[test]
fn normalization_is_explicit_and_checked() {
    let raw = Labelled::new(
        array![3.0, -1.0, 1.0, f32::NAN],
        vec![Axis::heads(4)],
        about(),
    )
    .unwrap()
    .with_std_error(array![4.0, 2.0, 0.0, f32::NAN])
    .unwrap();
    let normalized = raw.normalized().unwrap();
    assert_eq!(normalized.about.normalization, Normalization::Normalized);
    assert_eq!(
        normalized
            .values()
            .iter()
            .copied()
            .take(3)
            .collect::<Vec<_>>(),
        [1.0, 0.0, 0.5]
    );
    assert!(normalized.values()[[3]].is_nan());
    assert_eq!(normalized.std_error().unwrap()[[0]], 1.0);
    assert!(
        normalized
            .to_string()
            .contains("unit: logit difference, normalized")
    );

    let with = |clean: Option<f32>| {
        let mut changed = raw.clone();
        changed.about.baselines.remove("clean");
        changed
            .about
            .baselines
            .extend(clean.map(|value| ("clean".to_string(), value)));
        changed.normalized().unwrap_err().to_string()
    };
    assert!(with(None).contains("found baselines [corrupted]; expected a baseline `clean`"));
    assert!(with(Some(-1.0)).contains("found clean -1 and corrupted -1"));
    assert!(with(Some(f32::NAN)).contains("two different finite baselines"));
    let twice = normalized.normalized().unwrap_err().to_string();
    assert!(
        twice.contains("found normalized values; expected raw values"),
        "{twice}"
    );
}

#[test]
fn labels_are_legible_and_stay_different() {
    for (raw, shown) in [
        (" Mary@4", "·Mary@4"),
        ("a @3", "a·@3"),
        (" @3", "·@3"),
        ("  x", "··x"),
        ("final residual", "final residual"),
        ("\t\r\n", "\\t\\r\\n"),
        ("\\n", "\\\\n"),
        ("\\xe6@2", "\\xe6@2"),
        ("\\\\xe6", "\\\\\\xe6"),
        ("\\xe", "\\\\xe"),
        ("·", "\\u{b7}"),
        ("\u{1b}[0m", "\\u{1b}[0m"),
        ("\u{200b}\u{202e}\u{a0}", "\\u{200b}\\u{202e}\\u{a0}"),
        ("日本", "日本"),
    ] {
        assert_eq!(legible(raw), shown);
    }
}

/// All texts of up to six of the characters that escapes are made of, more than chance would pair.
#[test]
fn escapes_of_bytes_mean_nothing_else() {
    let mut texts = vec![String::new()];
    let mut start = 0;
    for _ in 0..6 {
        let end = texts.len();
        for i in start..end {
            let longer = ['\\', 'x', 'b', '7', '\n'].map(|c| format!("{}{c}", texts[i]));
            texts.extend(longer);
        }
        start = end;
    }
    let shown: std::collections::BTreeSet<String> = texts.iter().map(|t| legible(t)).collect();
    assert_eq!(shown.len(), texts.len());
}

proptest! {
    #[test]
    fn shown_labels_hide_nothing(text in any::<String>()) {
        let visible = |c: char| c == ' ' || !c.is_control() && !c.is_whitespace() && c.width() > Some(0);
        prop_assert!(legible(&text).chars().all(visible));
    }

    #[test]
    fn different_labels_stay_different(a in "[ @·x\\\\nub7{}\n]{0,6}", b in "[ @·x\\\\nub7{}\n]{0,6}") {
        prop_assert_eq!(a == b, legible(&a) == legible(&b));
    }
}
