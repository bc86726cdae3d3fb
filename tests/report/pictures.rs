//! Pictures: well-formed SVG whose texts all have room, PNG that decodes, for tables of any form.

use ndarray::{Array2, ArrayD, IxDyn, array};
use patchlens::report::{About, Axis, Labelled, Palette};

use crate::svg::{Text, check_apart, check_inside, decode, texts};

fn tokens(n: usize) -> Vec<String> {
    let words = [
        "<|endoftext|>",
        " Mary",
        "\n\n",
        " antidisestablishmentarianism and then some more",
        "<script>&'\"",
        "日本語",
        ",",
    ];
    (0..n).map(|i| words[i % words.len()].to_string()).collect()
}

fn about(title: &str) -> About {
    About {
        title: title.to_string(),
        caption: "One <sentence> that is long enough to be wrapped, & a word \u{1b}[31m".into(),
        unit: "logit difference".into(),
        counts: [("prompts".to_string(), 8)].into(),
        ..About::default()
    }
}

fn table(rows: usize, cols: usize) -> Labelled {
    let values = Array2::from_shape_fn((rows, cols), |(i, j)| ((i * cols + j) as f32).sin());
    let axes = vec![Axis::layers(rows), Axis::tokens("pos", &tokens(cols))];
    Labelled::new(values, axes, about("Patching")).unwrap()
}

fn constant(value: f32, palette: Palette) -> Labelled {
    let about = About {
        palette,
        ..about("")
    };
    let axes = vec![Axis::layers(3), Axis::heads(4)];
    Labelled::new(Array2::from_elem((3, 4), value), axes, about).unwrap()
}

fn stacked(shape: &[usize]) -> Labelled {
    let values = ArrayD::from_elem(IxDyn(shape), 0.5);
    let axis = |(i, &n): (usize, &usize)| Axis::tokens(format!("axis number {i}"), &tokens(n));
    Labelled::new(
        values,
        shape.iter().enumerate().map(axis).collect(),
        about("Stack"),
    )
    .unwrap()
}

/// A table whose names are wider and higher than its cells.
fn long_names() -> Labelled {
    let name = |what: &str| format!("a very long name for the axis of the {what}");
    let axes = vec![
        Axis::new(name("rows"), ["r"]),
        Axis::new(name("columns"), ["c"]),
    ];
    let about = About {
        unit: "u".repeat(200),
        title: "word ".repeat(60),
        ..about("")
    };
    Labelled::new(array![[f32::NAN]], axes, about).unwrap()
}

/// A token in every cell, as a lens has it.
fn with_texts(rows: usize, cols: usize) -> Labelled {
    let texts = tokens(rows * cols);
    let texts = Array2::from_shape_vec((rows, cols), texts).unwrap();
    table(rows, cols).with_texts(texts).unwrap()
}

/// Name and table of every form that a picture must bear.
fn gallery() -> Vec<(&'static str, Labelled)> {
    let mut special = table(12, 12);
    let mut values = special.values().to_owned();
    values[[0, 0]] = f32::NAN;
    values[[1, 1]] = f32::INFINITY;
    values[[2, 2]] = f32::NEG_INFINITY;
    special = Labelled::new(values, special.axes().to_vec(), special.about).unwrap();
    vec![
        ("15 x 12", table(12, 15)),
        ("48 x 25", table(25, 48)),
        ("25 x 48", table(48, 25)),
        ("1 x 1", table(1, 1)),
        ("one row", table(1, 20)),
        ("one column", table(20, 1)),
        ("very large", table(300, 500)),
        ("special values", special),
        ("zeros", constant(0.0, Palette::Diverging)),
        ("constant", constant(0.25, Palette::Diverging)),
        ("sequential constant", constant(0.25, Palette::Sequential)),
        ("sequential zeros", constant(0.0, Palette::Sequential)),
        ("largest", constant(f32::MAX, Palette::Diverging)),
        ("smallest", constant(f32::MIN_POSITIVE, Palette::Sequential)),
        ("nothing", constant(f32::NAN, Palette::Sequential)),
        ("infinite", constant(f32::INFINITY, Palette::Diverging)),
        (
            "scalar",
            Labelled::new(ndarray::arr0(1.0), vec![], about("")).unwrap(),
        ),
        (
            "vector",
            Labelled::new(array![1.0, -1.0], vec![Axis::heads(2)], about("")).unwrap(),
        ),
        ("every", stacked(&[5, 12, 12])),
        ("patterns", stacked(&[9, 9, 2, 2])),
        ("long names", long_names()),
        ("texts", with_texts(9, 15)),
        ("texts, 48 x 25", with_texts(25, 48)),
        ("too many texts", with_texts(3, 200)),
    ]
}

#[test]
fn every_text_is_inside_the_view_box() {
    for (name, table) in gallery() {
        check_inside(name, &table.to_svg().unwrap());
    }
}

#[test]
fn cells_show_their_texts_where_there_is_room() {
    let shown = |table: &Labelled| -> Vec<String> {
        let all = texts(&table.to_svg().unwrap()).0.into_iter();
        let cells = all.filter(|t| !t.upward && t.size < 11.0);
        cells.map(|t| t.text).collect()
    };
    let found = shown(&with_texts(2, 7));
    let count = |found: &[String], text: &str| found.iter().filter(|t| *t == text).count();
    for text in ["·Mary", "\\n\\n", "日本語", ",", "<|endof…", "·antidi…"] {
        assert_eq!(count(&found, text), 2, "{text} in {found:?}");
    }
    assert_eq!(count(&shown(&with_texts(25, 48)), "·Mary"), 172);
    assert_eq!(count(&shown(&with_texts(3, 200)), "·Mary"), 0);
    // A cell without value says so instead.
    let values = array![[f32::NAN, 1.0]];
    let axes = vec![Axis::layers(1), Axis::heads(2)];
    let table = Labelled::new(values, axes, about("")).unwrap();
    let own = array![["one".to_string(), "two".to_string()]];
    let found = shown(&table.with_texts(own).unwrap());
    assert_eq!([count(&found, "one"), count(&found, "two")], [0, 1]);
}

#[test]
fn texts_do_not_overlap() {
    for (name, table) in gallery() {
        check_apart(name, &table.to_svg().unwrap());
    }
}

#[test]
fn labels_title_unit_and_marks_are_there() {
    let find = |table: &Labelled| texts(&table.to_svg().unwrap()).0;
    let all = find(&table(12, 15));
    let has = |texts: &[Text], wanted: &str| texts.iter().filter(|t| t.text == wanted).count();
    for wanted in [
        "Patching",
        "logit difference",
        "L0",
        "L11",
        "layer",
        "pos",
        "·Mary@1",
        "\\n\\n@2",
        "0",
    ] {
        assert_eq!(has(&all, wanted), 1, "{wanted}");
    }
    assert!(
        all.iter()
            .any(|t| t.text.contains('…') && t.text.ends_with("@10")),
        "the position stays"
    );
    assert!(
        all.iter()
            .filter(|t| t.text.contains('@'))
            .all(|t| t.upward)
    );
    assert!(
        all.iter().any(|t| t.text.contains("patchlens ")),
        "versions"
    );
    let (_, special) = gallery().swap_remove(7);
    let marks = find(&special);
    assert_eq!(
        [has(&marks, "NaN"), has(&marks, "∞"), has(&marks, "-∞")],
        // In the cell, and mark and word of the key.
        [3, 1, 1]
    );
    assert_eq!(has(&all, "NaN"), 0, "no key without missing values");
    let panels = find(&stacked(&[5, 12, 12]));
    assert_eq!(
        panels
            .iter()
            .filter(|t| t.text.starts_with("axis number 0 = "))
            .count(),
        5
    );
    let many = find(&stacked(&[9, 9, 2, 2]));
    assert_eq!(has(&many, "33 more slices of 81 not shown"), 1);
}

/// Fill colours of the cells, in order; the first rectangle is the background.
fn fills(svg: &str, n: usize) -> Vec<String> {
    let document = roxmltree::Document::parse(svg).unwrap();
    let rects = document
        .descendants()
        .filter(|node| node.has_tag_name("rect"));
    rects
        .skip(1)
        .take(n)
        .map(|node| node.attribute("fill").unwrap().to_string())
        .collect()
}

#[test]
fn colors_are_centred_at_zero() {
    let make = |values: [f32; 5], palette| {
        let about = About {
            palette,
            ..about("")
        };
        let axes = vec![Axis::layers(1), Axis::heads(5)];
        let result = Labelled::new(array![values], axes, about);
        fills(&result.unwrap().to_svg().unwrap(), 5)
    };
    let channel = |color: &str, at: usize| u8::from_str_radix(&color[at..at + 2], 16).unwrap();
    let c = make([-0.5, 0.0, 0.5, 2.0, f32::NAN], Palette::Diverging);
    let [red, zero, blue, most, missing] =
        [0, 1, 2, 3, 4].map(|i| [1, 3, 5].map(|k| channel(&c[i], k)));
    assert!(
        red[0] > red[2] && blue[2] > blue[0] && most[2] > most[0],
        "{c:?}"
    );
    assert!(zero.iter().all(|v| *v > 230), "zero is nearly white: {c:?}");
    assert!(
        missing != zero && missing[0] == missing[1] && missing[1] == missing[2],
        "{c:?}"
    );
    let negated = make([0.5, 0.0, -0.5, -2.0, f32::NAN], Palette::Diverging);
    assert_eq!(
        (&negated[0], &negated[2]),
        (&c[2], &c[0]),
        "equally far to both sides"
    );
    let clipped = make([f32::INFINITY, 0.0, 0.5, 2.0, f32::NAN], Palette::Diverging);
    assert_eq!(
        clipped[0], clipped[3],
        "infinity takes the end and does not stretch the scale"
    );
    let mixed = make([-0.5, 0.0, 0.5, 2.0, f32::NAN], Palette::Sequential);
    assert_eq!(mixed, c, "a sequential scale is for one sign only");
    let sequential = make([0.1, 0.2, 0.3, 0.4, 0.5], Palette::Sequential);
    assert_ne!(
        sequential,
        make([0.1, 0.2, 0.3, 0.4, 0.5], Palette::Diverging)
    );
}

#[test]
fn png_of_every_form_cuts_nothing() {
    for (name, table) in gallery() {
        let (width, _, pixels) = decode(&table.to_png().unwrap());
        let row = width * 3;
        let (first, last) = (&pixels[..row], &pixels[pixels.len() - row..]);
        assert!(first.iter().chain(last).all(|v| *v == 255), "{name}");
        let sides = pixels
            .chunks(row)
            .flat_map(|line| line[..3].iter().chain(&line[row - 3..]));
        assert!(sides.into_iter().all(|v| *v == 255), "{name}");
    }
}

#[test]
fn png_shows_the_texts_where_the_svg_has_them() {
    let words = [
        " Mary",
        " gave",
        " a",
        " drink",
        " to",
        ",",
        "\n",
        "<|endoftext|>",
    ];
    let axes = vec![Axis::layers(4), Axis::tokens("pos", &words)];
    let table = Labelled::new(Array2::zeros((4, 8)), axes, about("Title")).unwrap();
    let (texts, width, height) = texts(&table.to_svg().unwrap());
    let (png_width, png_height, pixels) = decode(&table.to_png().unwrap());
    assert_eq!(
        (png_width as f64, png_height as f64),
        (2.0 * width, 2.0 * height)
    );
    for text in texts.iter().filter(|t| !t.text.is_empty()) {
        // A tenth at both ends of the text must have ink, and so must the whole.
        let [left, top, right, bottom] = text.bounds.map(|v| (v * 2.0) as usize);
        let ink = |x: std::ops::Range<usize>, y: std::ops::Range<usize>| {
            let at = |x: usize, y: usize| pixels[(y * png_width + x) * 3];
            y.flat_map(|y| x.clone().map(move |x| (x, y)))
                .filter(|&(x, y)| at(x, y) < 0xb0)
                .count()
        };
        let em = (text.size * 1.3) as usize;
        let (head, tail) = if text.upward {
            (
                ink(left..right, bottom - em..bottom),
                ink(left..right, top..top + em),
            )
        } else {
            (
                ink(left..left + em, top..bottom),
                ink(right - em..right, top..bottom),
            )
        };
        assert!(
            head > 3 && tail > 3,
            "`{}`: {head} and {tail} dark pixels",
            text.text
        );
    }
}

#[test]
fn png_escapes_what_its_font_lacks() {
    let table = |label: &str| {
        let axes = vec![Axis::new("row", [label.repeat(4)]), Axis::heads(20)];
        Labelled::new(Array2::zeros((1, 20)), axes, about("")).unwrap()
    };
    let width = |table: &Labelled| decode(&table.to_png().unwrap()).0;
    let [known, unknown] = ["ab", "日"].map(table);
    let svg_width = |table: &Labelled| texts(&table.to_svg().unwrap()).1;
    assert_eq!(svg_width(&known), svg_width(&unknown));
    assert!(
        width(&unknown) > width(&known) + 200,
        "four times \\u{{65e5}}"
    );
}

#[test]
fn pictures_have_a_largest_size() {
    let huge = table(3, 2049).to_svg().unwrap_err().to_string();
    let expected = "found 1 slices of 3 x 2049 cells; expected at most 2048 rows and columns";
    assert!(huge.contains(expected), "{huge}");
    assert!(
        table(700, 700)
            .to_png()
            .unwrap_err()
            .to_string()
            .contains("700 x 700 cells")
    );
}
