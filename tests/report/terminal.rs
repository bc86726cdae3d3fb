//! Tables and rankings in a terminal.

use ndarray::{Array2, Array3, Array4, array};
use patchlens::report::{Axis, ColorMode, Labelled, PrintStyle};
use unicode_width::UnicodeWidthStr;

use crate::{about, hostile, plain};

fn table_lines(text: &str) -> Vec<&str> {
    let is_row = |line: &&str| line.starts_with("layer \\") || line.starts_with('L');
    text.lines().filter(is_row).collect()
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
        ["L0", "0.00", "NaN", "-2.00"],
        "a true zero, then no value\n{text}"
    );
    assert!(
        text.contains("NaN: 1 cell (the computation's result is not a number)"),
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
fn narrow_labels_of_several_bytes_are_aligned_too() {
    let tokens = [" a", "é", "日", "\u{7f}"];
    let axes = vec![Axis::layers(1), Axis::tokens("pos", &tokens)];
    let values = Array2::from_elem((1, 4), -1234.5);
    let text = Labelled::new(values, axes, about()).unwrap().to_string();
    let rows = table_lines(&text);
    let ends = |row: &str, word: &str| row[..row.find(word).unwrap() + word.len()].width();
    let columns: Vec<usize> = (1..=3).map(|n| "layer \\ pos".len() + 6 * n).collect();
    let labels = ["·a@0", "é@1", "日@2"].map(|label| ends(rows[0], label));
    assert_eq!(labels, columns[..], "{text}");
    assert_eq!(rows[1].width(), rows[0].width(), "{text}");
}

#[test]
fn slices_follow_all_leading_axes() {
    let values = Array4::from_shape_fn((2, 3, 1, 2), |(a, b, _, d)| (a * 100 + b * 10 + d) as f32);
    let named = |name: &str, n| Axis::new(name, (0..n).map(|i| format!("{name}{i}")));
    let axes = vec![named("a", 2), named("b", 3), Axis::layers(1), named("d", 2)];
    let text = Labelled::new(values, axes, about()).unwrap().to_string();
    let mut found = Vec::new();
    for block in text.split("\n\n").skip(1) {
        let (heading, table) = block.split_once('\n').unwrap();
        let row = table.lines().nth(1).unwrap().split_whitespace();
        found.push((heading, row.skip(1).collect::<Vec<_>>()));
    }
    let expected = [
        ("a = a0, b = b0", vec!["0", "1"]),
        ("a = a0, b = b1", vec!["10", "11"]),
        ("a = a0, b = b2", vec!["20", "21"]),
        ("a = a1, b = b0", vec!["100", "101"]),
        ("a = a1, b = b1", vec!["110", "111"]),
        ("a = a1, b = b2", vec!["120", "121"]),
    ];
    assert_eq!(found, expected);
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
fn wide_tables_are_turned_where_that_fits() {
    let positions = (0..14).map(|p| format!("token number {p}"));
    let axes = vec![Axis::layers(3), Axis::new("position", positions)];
    let values = Array2::from_shape_fn((3, 14), |(layer, p)| (100 * layer + p) as f32);
    let errors = Array2::from_elem((3, 14), 1.0_f32);
    let table = Labelled::new(values, axes, about()).unwrap();
    let table = table.with_std_error(errors).unwrap();
    let text = table.to_string();
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let lines: Vec<String> = text.lines().map(words).collect();
    let at = lines
        .iter()
        .position(|line| line == "position \\ layer L0 L1 L2")
        .unwrap();
    assert_eq!(lines[at + 14], "token number 13 13±1 113±1 213±1", "{text}");
    assert!(
        !text.contains("columns 0 to") && !text.contains("standard errors:"),
        "{text}"
    );
    assert!(
        text.contains("max: 213.0 ± 1.0 at L2, token number 13"),
        "{text}"
    );
    // Where neither way fits, the first way is folded.
    let narrow = PrintStyle {
        width: 20,
        ..PrintStyle::default()
    };
    let folded = table.print_style(narrow).to_string();
    assert!(folded.contains("layer \\ position") && folded.contains("columns 13 to 13 of 14:"));
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
    let expected = format!(
        "H0    {}  1.000\nH1    {}    NaN\n",
        "█".repeat(40),
        " ".repeat(40)
    );
    assert!(row.to_string().contains(&expected), "{row}");
    let empty = Labelled::new(array![f32::NAN], vec![Axis::heads(1)], about()).unwrap();
    let text = empty.to_string();
    assert!(text.contains("NaN") && !text.contains("min:") && empty.top(3).cells.is_empty());
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
fn one_axis_prints_as_bars_with_errors() {
    let axes = vec![Axis::new("part", ["embed", "a longer name", "up"])];
    let table = Labelled::new(array![0.0, -2.0, 4.0], axes, about()).unwrap();
    let table = table.with_std_error(array![0.0, 1.0, f32::NAN]).unwrap();
    let text = table.print_style(PrintStyle {
        width: 60,
        ..PrintStyle::default()
    });
    let text = text.to_string();
    let lines: Vec<&str> = text.lines().skip(2).take(4).collect();
    let header = lines[0].trim_start();
    assert!(
        header.starts_with("part") && header.ends_with("logit difference"),
        "{text}"
    );
    let widths: Vec<usize> = lines[1..]
        .iter()
        .map(|line| line.trim_end().width())
        .collect();
    assert_eq!(widths[0], widths[1], "{text}");
    let bar = |line: &str| {
        line.chars()
            .skip(15)
            .take_while(|c| !c.is_ascii_digit())
            .collect::<String>()
    };
    let [zero, down, up] = [1, 2, 3].map(|i| bar(lines[i]));
    assert!(zero.contains('│') && !zero.contains('█'), "{text}");
    assert!(
        down.contains("░") && down.contains("▒█"),
        "an error of 1 about -2\n{text}"
    );
    assert!(
        up.contains('█') && !up.contains('▒'),
        "an unknown error\n{text}"
    );
    assert!(
        text.contains(" -2.000 ± 1.000\n") && text.contains("  4.000\n"),
        "{text}"
    );
}

#[test]
fn standard_errors_are_printed() {
    let of = |rows: usize, cols: usize| {
        let axes = vec![Axis::layers(rows), Axis::heads(cols)];
        let table = Labelled::new(Array2::from_elem((rows, cols), 0.5), axes, about());
        let errors = Array2::from_shape_fn((rows, cols), |(i, j)| (i + j) as f32 / 100.0);
        table.unwrap().with_std_error(errors).unwrap().to_string()
    };
    let beside = of(2, 3);
    assert!(
        beside.contains("L1           0.500±0.010 0.500±0.020 0.500±0.030"),
        "{beside}"
    );
    let apart = of(2, 14);
    let (_, errors) = apart.split_once("standard errors:\n").unwrap();
    assert!(
        errors.contains("L1") && errors.contains(" 0.140"),
        "{apart}"
    );
    let many = of(40, 20);
    assert!(many.contains("standard errors: at most 0.5800\n"), "{many}");
}

#[test]
fn texts_stand_beside_values() {
    let axes = vec![Axis::layers(1), Axis::heads(2)];
    let table = Labelled::new(array![[0.25, 1.0]], axes, about()).unwrap();
    let texts = array![[" Mary".to_string(), " a very long word".to_string()]];
    let table = table.with_texts(texts).unwrap();
    let text = table.to_string();
    assert!(text.contains(" ·Mary 0.25 ·a ve…word 1.00"), "{text}");
    let top = table.top(1).to_string();
    assert!(top.contains("1  0.1   ·a very long word "), "{top}");
}

#[test]
fn shortened_labels_stay_different() {
    let labels = [
        "a_name_that_begins_alike_1_x_and_ends",
        "a_name_that_begins_alike_2_x_and_ends",
    ];
    let long = |i: usize| {
        format!(
            "a_very_long_name_{}_that_ends_alike",
            "y".repeat(30 + 2 * i)
        )
    };
    let labels = labels
        .map(String::from)
        .into_iter()
        .chain([long(0), long(1)]);
    let axes = vec![Axis::layers(1), Axis::new("x", labels)];
    let text = Labelled::new(Array2::zeros((1, 4)), axes, about())
        .unwrap()
        .to_string();
    let header = text
        .lines()
        .find(|line| line.starts_with("layer \\"))
        .unwrap();
    let mut shown: Vec<&str> = header.split_whitespace().skip(3).collect();
    assert_eq!(shown.len(), 4, "{text}");
    shown.sort_unstable();
    shown.dedup();
    assert_eq!(shown.len(), 4, "{text}");
}

#[test]
fn captions_speak_to_people() {
    let mut about = about().model("tiny");
    let counts = [
        ("prompt pairs", 8),
        ("multiply-adds", 117_895_168),
        ("multiply-adds, naive", 5_298_585_600),
    ];
    about.counts = counts.map(|(name, n)| (name.to_string(), n)).into();
    let table = |about| Labelled::new(array![[0.5]], vec![Axis::layers(1), Axis::heads(1)], about);
    let text = table(about.clone()).unwrap().to_string();
    let expected = "\n8 prompt pairs; 45 × fewer multiply-adds than full passes\n";
    assert!(
        text.contains(expected) && text.contains("\nmodel: tiny\n"),
        "{text}"
    );
    about.partial = true;
    let text = table(about.clone()).unwrap().to_string();
    assert!(
        text.contains("8 prompt pairs; 117.9 million multiply-adds\n"),
        "{text}"
    );
    about.counts = [("facts".to_string(), 1), ("tokens".to_string(), 12_345)].into();
    let text = table(about).unwrap().to_string();
    assert!(text.contains("\nfacts: 1; 12,345 tokens\n"), "{text}");
}
