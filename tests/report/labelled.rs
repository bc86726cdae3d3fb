//! Construction, normalisation, labels.

use ndarray::{Array2, Array3, Array4, array};
use patchlens::report::{Absent, Axis, AxisKind, Labelled, Normalization, legible, shared_range};
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
            new(
                two(),
                vec![layers(), named("x").of_kind(AxisKind::InLayer(vec![]))],
            ),
            "axis `x`: found 0 names in the layer; expected 3, one per label",
        ),
        (
            new(two(), vec![layers(), named("x")])
                .unwrap()
                .with_absent(array![None]),
            "reasons of absent values: found shape [1]; expected [2, 3]",
        ),
        (
            new(two(), vec![layers(), named("x")])
                .unwrap()
                .with_absent(Array2::from_elem((2, 3), Some(Absent::NotRun))),
            "absent value (not run) at [0, 0]: found 0; expected NaN",
        ),
        (
            new(two(), vec![layers(), named("x")])
                .unwrap()
                .with_color_range(1.0..=1.0),
            "colour range: found 1 to 1; expected two finite ends",
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
            .contains("logit difference, normalized\n")
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

#[test]
fn a_cell_of_a_layer_and_a_head_has_one_name() {
    let value = |(l, p, h): (usize, usize, usize)| (l * 100 + p * 10 + h) as f32;
    let axes = vec![
        Axis::layers(3),
        Axis::tokens("position", &[" a", " b"]),
        Axis::heads(2),
    ];
    let values = Array3::from_shape_fn((3, 2, 2), value);
    let table = Labelled::new(values, axes, about()).unwrap();
    let top = table.top(1);
    assert_eq!(top.names, ["head", "position"]);
    assert_eq!(top.cells[0].names, ["2.1", " b@1"]);
    assert_eq!(top.cells[0].labels, ["L2", " b@1", "H1"]);
    assert!(top.to_string().contains("1  2.1   ·b@1 "), "{top}");
    assert!(
        table.to_string().contains("max: 211.0 at 2.1, ·b@1\n"),
        "{table}"
    );
    // Two pairs; what is in no layer keeps its label.
    let axes = vec![
        Axis::layers(2),
        Axis::heads(2),
        Axis::layers(2).named("later layer"),
        Axis::heads(2).named("later head"),
    ];
    let mut values = Array4::zeros((2, 2, 2, 2));
    values[[0, 1, 1, 0]] = 1.0;
    let table = Labelled::new(values, axes, about()).unwrap();
    assert_eq!(table.top(1).cells[0].names, ["0.1", "1.0"]);
    assert!(table.to_string().contains("\nhead = 0.1\n"), "{table}");
    let heads = Labelled::new(array![1.0, 0.0], vec![Axis::heads(2)], about()).unwrap();
    assert_eq!(heads.top(1).cells[0].names, ["H0"]);
}

#[test]
fn sorting_keeps_what_belongs_together() {
    let axes = vec![Axis::new("part", ["a", "b", "c", "d"])];
    let table = Labelled::new(array![1.0, f32::NAN, -3.0, 2.0], axes, about()).unwrap();
    let table = table.with_std_error(array![0.1, 0.2, 0.3, 0.4]).unwrap();
    let table = table
        .with_absent(array![None, Some(Absent::NoPath), None, None])
        .unwrap();
    let sorted = table.sorted().unwrap();
    assert_eq!(sorted.axes()[0].labels, ["c", "d", "a", "b"]);
    let values: Vec<f32> = sorted.values().iter().copied().take(3).collect();
    assert_eq!(values, [-3.0, 2.0, 1.0]);
    assert_eq!(sorted.std_error().unwrap()[[0]], 0.3);
    assert_eq!(sorted.absent()[[3]], Some(Absent::NoPath));
    let error = crate::hostile().sorted().unwrap_err().to_string();
    assert!(
        error.contains("found shape [3, 8]; expected one axis"),
        "{error}"
    );
}

#[test]
fn compared_results_share_their_colours() {
    let axes = || vec![Axis::heads(2), Axis::layers(1)];
    let of = |values| Labelled::new(values, axes(), about()).unwrap();
    let (small, large) = (of(array![[0.1], [f32::NAN]]), of(array![[-4.0], [2.0]]));
    let range = shared_range([&small, &large]);
    assert_eq!(range, -4.0..=2.0);
    let shared = small.clone().with_color_range(range).unwrap();
    let limits = |of: &Labelled| of.to_html().unwrap().contains("\"limits\":[-4.0,4.0]");
    assert_eq!([&shared, &large, &small].map(limits), [true, true, false]);
    // A range that does not hold all values says so.
    let narrow = large.with_color_range(-1.0..=1.0).unwrap();
    let note = "colours: from -1.000 to 1.000; the values go from -4.000 to 2.000";
    assert!(narrow.to_html().unwrap().contains(note));
    let nothing = of(array![[f32::NAN], [f32::NAN]]);
    assert_eq!(shared_range([&nothing]), 0.0..=1.0);
}
