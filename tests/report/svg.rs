//! Reads SVG and PNG pictures.

use unicode_width::UnicodeWidthStr;

/// A text of an SVG with its box: left, top, right, bottom.
pub struct Text {
    pub text: String,
    pub size: f64,
    pub upward: bool,
    pub at: (f64, f64),
    pub bounds: [f64; 4],
}

/// Reads the texts with generous boxes: 0.61 em per column, 1.2 em high.
pub fn texts(svg: &str) -> (Vec<Text>, f64, f64) {
    let document = roxmltree::Document::parse(svg).unwrap();
    let root = document.root_element();
    let number =
        |node: roxmltree::Node<'_, '_>, name| node.attribute(name).unwrap().parse::<f64>().unwrap();
    let texts = document
        .descendants()
        .filter(|node| node.has_tag_name("text"))
        .map(|node| {
            let text = node.text().unwrap_or_default().trim().to_string();
            let (x, y, size) = (
                number(node, "x"),
                number(node, "y"),
                number(node, "font-size"),
            );
            let length = text.width() as f64 * 0.61 * size;
            let start = match node.attribute("text-anchor").unwrap() {
                "start" => 0.0,
                "middle" => -length / 2.0,
                "end" => -length,
                other => panic!("text-anchor {other}"),
            };
            let upward = node
                .attribute("transform")
                .is_some_and(|t| t.starts_with("rotate(270"));
            let (end, half) = (start + length, 0.6 * size);
            let bounds = if upward {
                [x - half, y - end, x + half, y - start]
            } else {
                [x + start, y - half, x + end, y + half]
            };
            Text {
                text,
                size,
                upward,
                at: (x, y),
                bounds,
            }
        });
    (
        texts.collect(),
        number(root, "width"),
        number(root, "height"),
    )
}

/// The texts, each of which must be inside the picture and large enough to read.
pub fn check_inside(name: &str, svg: &str) -> Vec<Text> {
    let (texts, width, height) = texts(svg);
    for text in &texts {
        let [left, top, right, bottom] = text.bounds;
        let inside = left >= 0.0 && top >= 0.0 && right <= width && bottom <= height;
        assert!(
            inside,
            "{name}: `{}` at {:?} leaves {width} x {height}",
            text.text, text.bounds
        );
        assert!(
            text.size >= 9.9,
            "{name}: `{}` is {} px small",
            text.text,
            text.size
        );
    }
    texts
}

/// Texts may touch, but a third of a character's height may not be shared.
pub fn check_apart(name: &str, svg: &str) {
    let texts = check_inside(name, svg);
    let shown: Vec<&Text> = texts.iter().filter(|t| !t.text.is_empty()).collect();
    for (i, a) in shown.iter().enumerate() {
        for b in &shown[i + 1..] {
            let slack = 0.2 * a.size.min(b.size);
            let apart = |k: usize| {
                a.bounds[k + 2] <= b.bounds[k] + slack || b.bounds[k + 2] <= a.bounds[k] + slack
            };
            assert!(
                apart(0) || apart(1),
                "{name}: `{}` {:?} and `{}` {:?}",
                a.text,
                a.bounds,
                b.text,
                b.bounds
            );
        }
    }
}

/// Width, height and the pixels, three bytes each.
pub fn decode(png: &[u8]) -> (usize, usize, Vec<u8>) {
    let decoder = png::Decoder::new(std::io::Cursor::new(png));
    let mut reader = decoder.read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut pixels).unwrap();
    (info.width as usize, info.height as usize, pixels)
}
