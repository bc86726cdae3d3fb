//! Labelled results: construction, printing, ranking, files and pages.

use ndarray::{Array1, Array2, Array3, ArrayD, IxDyn, array};
use patchlens::report::{
    About, Axis, ColorMode, Direction, Labelled, Normalization, Palette, PrintStyle,
    attention_page, legible, save_attention_page,
};
use proptest::prelude::*;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

const HOSTILE: [&str; 8] = [
    " Mary",
    "<script>alert(1)</script>",
    "\",\"",
    "=cmd|' /C calc'!A0",
    "\n\u{1b}[31m",
    "日本",
    "</script><!--",
    "\u{202e}a&b'",
];

fn about() -> About {
    About {
        title: "Residual stream <before> each block".into(),
        caption: "clean patched into corrupted & measured".into(),
        unit: "logit difference".into(),
        direction: Some(Direction::Denoising),
        baselines: [("clean".to_string(), 3.0), ("corrupted".to_string(), -1.0)].into(),
        counts: [
            ("prompts".to_string(), 8),
            ("multiply-adds".to_string(), u64::MAX),
        ]
        .into(),
        seed: Some(7),
        ..About::default()
    }
}

/// `[layer, pos]` with all hostile tokens, a NaN, both infinities and a negative zero.
fn hostile() -> Labelled {
    let mut values =
        Array2::from_shape_fn((3, HOSTILE.len()), |(i, j)| (i as f32 - 1.0) * j as f32);
    values[[0, 1]] = f32::NAN;
    values[[1, 2]] = f32::INFINITY;
    values[[2, 3]] = f32::NEG_INFINITY;
    let axes = vec![Axis::layers(3), Axis::tokens("pos", &HOSTILE)];
    Labelled::new(values, axes, about()).unwrap()
}

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
        ("·", "\\u{b7}"),
        ("\u{1b}[0m", "\\u{1b}[0m"),
        ("\u{200b}\u{202e}\u{a0}", "\\u{200b}\\u{202e}\\u{a0}"),
        ("日本", "日本"),
    ] {
        assert_eq!(legible(raw), shown);
    }
}

/// The lines of the tables: those that start with a row label or the corner.
fn table_lines(text: &str) -> Vec<&str> {
    let is_row = |line: &&str| line.starts_with("layer \\") || line.starts_with('L');
    text.lines().filter(is_row).collect()
}

/// A text without ANSI colours.
fn plain(text: &str) -> String {
    let mut parts = text.split('\u{1b}');
    let first = parts.next().unwrap_or_default().to_string();
    first
        + &parts
            .map(|part| part.split_once('m').unwrap().1)
            .collect::<String>()
}

#[test]
fn terminal_rows_are_aligned() {
    let table = hostile();
    let text = table.to_string();
    let rows = table_lines(&text);
    assert_eq!(rows.len(), 4, "{text}");
    for row in &rows {
        assert_eq!(row.width(), rows[0].width(), "{text}");
    }
    assert!(
        !text.contains('\u{1b}') && !text.contains('\u{202e}'),
        "{text}"
    );
    let row = rows[1].split_whitespace().collect::<Vec<_>>();
    assert_eq!(
        &row[..4],
        ["L0", "0.00", "n/a", "-2.00"],
        "a true zero, then no value\n{text}"
    );
    assert!(
        text.contains("n/a: no value (not run, or no path): 1 cells"),
        "{text}"
    );
    assert!(
        text.contains("denoising: clean patched into corrupted"),
        "{text}"
    );
    assert!(
        text.contains("baselines: clean 3.000, corrupted -1.000"),
        "{text}"
    );
}

#[test]
fn colors_change_nothing_but_the_colors() {
    let table = hostile();
    for color in [ColorMode::Ansi256, ColorMode::TrueColor] {
        let style = PrintStyle {
            color,
            ..PrintStyle::default()
        };
        let colored = table.print_style(style).to_string();
        let code = if color == ColorMode::Ansi256 {
            "48;5;"
        } else {
            "48;2;"
        };
        assert!(colored.contains(code));
        let text = plain(&colored);
        assert_eq!(table_lines(&text), table_lines(&table.to_string()));
        let scale = text
            .lines()
            .find(|line| line.starts_with("scale: "))
            .unwrap();
        assert!(
            scale.starts_with("scale: -7.000 ") && scale.ends_with(" 7.000"),
            "{scale}"
        );
    }
    assert_eq!(table.colored(false).to_string(), table.to_string());
    assert!(table.colored(true).to_string().contains("\u{1b}["));
}

#[test]
fn wide_tables_are_folded_and_long_ones_cut_with_a_note() {
    let axes = vec![Axis::layers(40), Axis::heads(50)];
    let table = Labelled::new(Array2::from_elem((40, 50), 0.5), axes, about()).unwrap();
    let style = PrintStyle {
        width: 60,
        max_cells: (30, 45),
        ..PrintStyle::default()
    };
    let text = table.print_style(style).to_string();
    assert!(text.lines().all(|line| line.width() <= 60), "{text}");
    assert!(text.contains("... 10 more rows of 40 not shown"), "{text}");
    assert!(
        text.contains("... 5 more columns of 50 not shown"),
        "{text}"
    );
    for head in 0..45 {
        let shown = text
            .split_whitespace()
            .filter(|word| *word == format!("H{head}"))
            .count();
        assert_eq!(shown, 1, "H{head}\n{text}");
    }
    assert!(text.contains("columns 0 to 7 of 45:"), "{text}");
    // A width that nothing fits still shows one column at a time.
    let narrow = table
        .print_style(PrintStyle { width: 0, ..style })
        .to_string();
    assert!(narrow.contains("columns 44 to 44 of 45:"));
}

#[test]
fn more_axes_are_stacked_slices() {
    let values = Array3::from_shape_fn((20, 2, 3), |(a, b, c)| (a * 6 + b * 3 + c) as f32);
    let axes = vec![
        Axis::new("component", (0..20).map(|i| format!(" c{i}"))),
        Axis::layers(2),
        Axis::heads(3),
    ];
    let text = Labelled::new(values, axes, about()).unwrap().to_string();
    let (_, first) = text.split_once("component = ·c1\n").unwrap();
    let rows: Vec<&str> = first.lines().skip(1).take(2).collect();
    let words = |row: &str| row.split_whitespace().map(String::from).collect::<Vec<_>>();
    assert_eq!(words(rows[0]), ["L0", "6", "7", "8"]);
    assert_eq!(words(rows[1]), ["L1", "9", "10", "11"]);
    assert!(text.contains("component = ·c15\n") && !text.contains("component = ·c16\n"));
    assert!(text.contains("... 4 more slices of 20 not shown"), "{text}");
}

#[test]
fn fewer_axes_print_too() {
    let scalar = Labelled::new(ndarray::arr0(0.25), vec![], about()).unwrap();
    assert!(scalar.to_string().contains("0.250"));
    let row = Labelled::new(array![1.0, f32::NAN], vec![Axis::heads(2)], about()).unwrap();
    assert!(row.to_string().contains("head   H0   H1\n"), "{row}");
    let empty = Labelled::new(array![f32::NAN], vec![Axis::heads(1)], about()).unwrap();
    let text = empty.to_string();
    assert!(text.contains("n/a") && !text.contains("min:") && empty.top(3).cells.is_empty());
}

#[test]
fn ranking_is_by_magnitude_and_skips_missing_values() {
    let table = hostile();
    let top = table.top(4);
    let found: Vec<_> = top
        .cells
        .iter()
        .map(|c| (c.index.clone(), c.value))
        .collect();
    let expected = [
        (vec![1, 2], f32::INFINITY),
        (vec![2, 3], f32::NEG_INFINITY),
        (vec![0, 7], -7.0),
        (vec![2, 7], 7.0),
    ];
    assert_eq!(found, expected);
    assert_eq!(
        (top.of, top.cells[2].labels[1].as_str()),
        (23, "\u{202e}a&b'@7")
    );
    let text = top.to_string();
    let rows: Vec<&str> = text.lines().take(5).collect();
    assert!(
        rows.iter().all(|row| row.width() == rows[0].width()),
        "{text}"
    );
    assert!(text.ends_with("4 of 23 cells\n"), "{text}");
    assert_eq!(table.top(100).cells.len(), 23);
    assert!(
        table.top(100).cells.iter().all(|cell| cell.index != [0, 1]),
        "NaN ranks"
    );
}

#[test]
fn json_reads_back_equal() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("result.json");
    let mut result = hostile()
        .with_std_error(Array2::from_elem((3, 8), 0.1))
        .unwrap();
    result.about.baselines.insert("nan".into(), f32::NAN);
    result.about.partial = true;
    result.about.palette = Palette::Sequential;
    result.save(&path).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains("null") && text.contains("\"-inf\""));
    let back = Labelled::open_json(&path).unwrap();
    assert_eq!(back.about.counts, result.about.counts);
    assert!(back.about.baselines["nan"].is_nan());
    // NaN differs from itself in a map of plain numbers; compare the rest as a whole.
    let without_nan = |mut of: Labelled| {
        of.about.baselines.remove("nan");
        of
    };
    assert_eq!(without_nan(back.clone()), without_nan(result));
    let mut other = back.clone();
    other.about.seed = None;
    assert_ne!(without_nan(other), without_nan(back));
}

#[test]
fn json_that_does_not_fit_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let good = hostile().to_json().unwrap();
    for (text, expected) in [
        (good.replacen("L2", "L1\", \"L2", 1), "expected [4, 8]"),
        (
            good.replacen("null", "null, 1.0", 1),
            "25 numbers; expected the shape [3, 8]",
        ),
        (good.replacen("null", "\"many\"", 1), "did not match"),
        (
            good.replacen("\"axes\"", "\"oxes\"", 1),
            "missing field `axes`",
        ),
        (good[..good.len() / 2].to_string(), "EOF"),
    ] {
        let path = folder.path().join("bad.json");
        std::fs::write(&path, text).unwrap();
        let error = Labelled::open_json(&path).unwrap_err().to_string();
        assert!(
            error.contains(expected) && error.contains("bad.json"),
            "{error}\n  lacks {expected}"
        );
    }
    let missing = Labelled::open_json(folder.path().join("none.json"))
        .unwrap_err()
        .to_string();
    assert!(missing.contains("none.json"), "{missing}");
}

proptest! {
    #[test]
    fn json_keeps_every_bit(bits in proptest::collection::vec(any::<u32>(), 1..40)) {
        let values: Array1<f32> = bits.iter().map(|&b| f32::from_bits(b)).collect();
        let axes = vec![Axis::heads(values.len())];
        let result = Labelled::new(values.clone(), axes, About::default()).unwrap();
        let back: Labelled = serde_json::from_str(&result.to_json().unwrap()).unwrap();
        for (a, b) in values.iter().zip(back.values()) {
            prop_assert!(a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan());
        }
    }

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
fn csv_has_one_row_per_cell_and_no_formula() {
    let table = hostile()
        .with_std_error(Array2::from_elem((3, 8), 0.25))
        .unwrap();
    let text = table.to_csv().unwrap();
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    assert_eq!(
        reader.headers().unwrap(),
        vec!["layer", "pos", "value", "std_error"]
    );
    let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    assert_eq!(rows.len(), 24);
    for (row, value) in rows.iter().zip(table.values()) {
        let read: f32 = row[2].parse().unwrap();
        assert!(read == *value || read.is_nan() && value.is_nan(), "{row:?}");
        assert_eq!(&row[3], "0.25");
        assert!(!row[1].starts_with(['=', '+', '-', '@']), "{row:?}");
        assert!(!row[1].contains(char::is_control), "{row:?}");
    }
    assert_eq!(&rows[0][1], "·Mary@0");
    assert_eq!(&rows[2][1], "\",\"@2");
    assert_eq!(&rows[3][1], "'=cmd|' /C calc'!A0@3");
    assert_eq!((&rows[1][2], &rows[0][2]), ("NaN", "-0"));
    let scales = Labelled::new(array![1.0], vec![Axis::numbers("x", &[-1.5])], about()).unwrap();
    assert!(
        scales.to_csv().unwrap().contains("\n-1.5,1\n"),
        "numbers stay numbers"
    );
}

#[test]
fn npy_is_what_numpy_writes() {
    // numpy.save of numpy.arange(6, dtype="<f4").reshape(2, 3), of its first row and of one number.
    let header = |shape: &str| {
        let dict = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}");
        let mut bytes = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
        bytes.extend(format!("{dict:117}\n").bytes());
        assert_eq!(bytes.len(), 128);
        bytes
    };
    let names = ["a", "b", "c"];
    for shape in [vec![], vec![3], vec![2, 3]] {
        let n: usize = shape.iter().product();
        let values: Vec<f32> = (0..n).map(|i| i as f32).collect();
        let axes = shape
            .iter()
            .zip(names)
            .map(|(&n, name)| Axis::new(name, (0..n).map(|i| i.to_string())));
        let array = ArrayD::from_shape_vec(IxDyn(&shape), values.clone()).unwrap();
        // The order of the elements in memory must not show.
        let array = array.t().as_standard_layout().into_owned().reversed_axes();
        let result = Labelled::new(array, axes.collect(), about()).unwrap();
        let shape = match shape.as_slice() {
            [] => "()",
            [_] => "(3,)",
            _ => "(2, 3)",
        };
        let mut expected = header(shape);
        expected.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        assert_eq!(result.to_npy(), expected, "{shape}");
    }
}

#[test]
fn pages_are_self_contained_and_escaped() {
    let pattern = Array2::from_elem((8, 8), 0.125);
    let attention = attention_page(
        "<b>heads</b>",
        &[("9.6</script>", pattern.view())],
        &HOSTILE,
    )
    .unwrap();
    let heat_map = hostile().to_html().unwrap();
    for page in [&attention, &heat_map] {
        assert!(!page.contains("http:") && !page.contains("https:") && !page.contains("//cdn"));
        assert!(
            page.contains("default-src 'none'"),
            "the page must not reach a network"
        );
        assert!(!page.contains("alert(1)</script>") && !page.contains("<script>alert"));
        assert!(!page.contains("</script><!--"));
        assert_eq!(
            page.matches("</script>").count(),
            2,
            "the data and the program"
        );
        assert!(!page.contains('\u{202e}') && !page.contains('\u{1b}'));
    }
    assert!(attention.contains("&#60;b&#62;heads") || attention.contains("&lt;b&gt;heads"));
    assert!(!attention.contains("<b>heads"));
    assert!(!heat_map.contains("<before>") && heat_map.contains("&#38; measured"));
}

/// The JSON inside a page.
fn page_data(page: &str) -> serde_json::Value {
    let (_, rest) = page.split_once("id=\"data\">").unwrap();
    serde_json::from_str(rest.split_once("</script>").unwrap().0).unwrap()
}

#[test]
fn pages_hold_labels_and_values() {
    let data = page_data(&hostile().to_html().unwrap());
    assert_eq!(data["axes"][1]["labels"][0], "·Mary@0");
    assert_eq!(data["axes"][1]["labels"][1], "<script>alert(1)</script>@1");
    assert!(data["values"][1].is_null(), "no value is not zero");
    assert_eq!(data["values"][0], 0.0);
    assert_eq!(
        (&data["values"][10], &data["values"][19]),
        (&"inf".into(), &"-inf".into())
    );
    assert_eq!((&data["low"], &data["high"]), (&(-7.0).into(), &7.0.into()));
    let pattern = array![[1.0, 0.0], [0.25, 0.75]];
    let page = attention_page(
        "t",
        &[("0.1", pattern.view()), ("0.2", pattern.view())],
        &["A", " b"],
    )
    .unwrap();
    let data = page_data(&page);
    assert_eq!(data["tokens"], serde_json::json!(["A", "·b"]));
    assert_eq!(data["heads"][1]["name"], "0.2");
    assert_eq!(
        data["heads"][1]["pattern"],
        serde_json::json!([1.0, 0.0, 0.25, 0.75])
    );
}

#[test]
fn attention_pages_refuse_what_does_not_fit() {
    let pattern = Array2::<f32>::zeros((2, 3));
    let error = attention_page("t", &[("9.6", pattern.view())], &["a", "b"]).unwrap_err();
    let expected = "pattern of head 9.6: found shape [2, 3]; expected [2, 2] for 2 tokens";
    assert_eq!(error.to_string(), expected);
    let none: [(&str, ndarray::ArrayView2<'_, f32>); 0] = [];
    let error = attention_page("t", &none, &["a"]).unwrap_err().to_string();
    assert_eq!(error, "heads: found none; expected at least one");
    let square = Array2::<f32>::zeros((1, 1));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("page.htm");
    let error = save_attention_page(&path, "t", &[("0.0", square.view())], &["a"]).unwrap_err();
    assert!(
        error.to_string().contains("found `htm`; expected `.html`"),
        "{error}"
    );
    save_attention_page(
        path.with_extension("html"),
        "t",
        &[("0.0", square.view())],
        &["a"],
    )
    .unwrap();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn saving_is_atomic_and_knows_its_formats() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["r.xlsx", "r"] {
        let error = hostile()
            .save(folder.path().join(name))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("`.html`, `.csv`, `.json`, `.npy`"),
            "{error}"
        );
        assert!(
            error.contains("`.svg`") && error.contains("`.png`"),
            "{error}"
        );
    }
    let path = folder.path().join("result.CSV");
    std::fs::write(&path, "old").unwrap();
    hostile().save(&path).unwrap();
    assert!(
        std::fs::read_to_string(&path)
            .unwrap()
            .starts_with("layer,pos,value\n")
    );
    // A folder in the way: the rename fails, and no temporary file stays behind.
    let taken = folder.path().join("taken.json");
    std::fs::create_dir(&taken).unwrap();
    let error = hostile().save(&taken).unwrap_err().to_string();
    assert!(error.contains("taken.json"), "{error}");
    let missing = folder.path().join("no/such/folder.json");
    assert!(
        hostile()
            .save(&missing)
            .unwrap_err()
            .to_string()
            .contains("folder.json")
    );
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode();
        let usual = folder.path().join("usual");
        std::fs::write(&usual, "").unwrap();
        assert_eq!(
            mode(&path),
            mode(&usual),
            "readable for those who may read other new files"
        );
    }
}

#[test]
fn curves_need_numbers_and_at_most_two_axes() {
    let axes = vec![
        Axis::new("series", ["a", "b"]),
        Axis::new("scale", ["0", "1", "x"]),
    ];
    let table = Labelled::new(Array2::<f32>::zeros((2, 3)), axes, about()).unwrap();
    let error = table.curves().unwrap_err().to_string();
    assert_eq!(
        error,
        "labels of axis `scale`: found `x`; expected finite numbers"
    );
    let cube = Labelled::new(
        Array3::<f32>::zeros((1, 1, 1)),
        vec![Axis::layers(1), Axis::heads(1), Axis::numbers("x", &[0.0])],
        about(),
    );
    let error = cube.unwrap().curves().unwrap_err().to_string();
    assert_eq!(
        error,
        "curves: found shape [1, 1, 1]; expected the axes [x] or [series, x]"
    );
}

#[test]
fn curves_print_as_a_plot() {
    let x = Axis::numbers("scale", &[1.0, 0.0, -1.0]);
    let axes = vec![Axis::new("series", [" up", "gap"]), x];
    let values = array![[1.0, 0.0, -1.0], [-1.0, f32::NAN, -1.0]];
    let table = Labelled::new(values, axes, about()).unwrap();
    let text = table.curves().unwrap().to_string();
    let lines: Vec<&str> = text.lines().collect();
    let plot = |line: &str| line.split('|').nth(1).unwrap().to_string();
    assert!(
        plot(lines[0]).ends_with('a') && lines[0].starts_with(" 1.000"),
        "{text}"
    );
    assert_eq!(
        plot(lines[8]).trim(),
        "a",
        "NaN must not be drawn as zero\n{text}"
    );
    assert!(
        plot(lines[16]).starts_with('*') && plot(lines[16]).ends_with('b'),
        "{text}"
    );
    assert!(
        text.contains("logit difference over scale\na ·up\nb gap\n"),
        "{text}"
    );
    assert!(
        lines[..17]
            .iter()
            .all(|line| line.width() == lines[0].width()),
        "{text}"
    );
    let flat = Labelled::new(array![0.0], vec![Axis::numbers("x", &[0.0])], about()).unwrap();
    assert!(flat.curves().unwrap().to_string().contains('a'));
}
