//! Files of drawings, and what cannot be drawn.

use super::*;

#[test]
fn png_has_the_size_of_the_svg_and_cuts_nothing() {
    for (name, _, _, drawing) in gallery() {
        if name.contains("48 layers") {
            continue; // 40 million pixels
        }
        let (_, width, height) = crate::svg::texts(&drawing.to_svg().unwrap());
        let (png_width, png_height, pixels) = crate::svg::decode(&drawing.to_png().unwrap());
        let size = (png_width as f64, png_height as f64);
        assert_eq!(size, (2.0 * width, 2.0 * height), "{name}");
        let row = png_width * 3;
        let sides = pixels
            .chunks(row)
            .flat_map(|line| line[..3].iter().chain(&line[row - 3..]));
        let (first, last) = (&pixels[..row], &pixels[pixels.len() - row..]);
        assert!(
            first.iter().chain(last).chain(sides).all(|v| *v == 255),
            "{name}"
        );
    }
}

#[test]
fn dashes_leave_gaps_in_the_png() {
    let graph = graph(1, 1);
    let ink = |value: f32| {
        let mut values = vec![0.0; graph.n_edges()];
        values[graph.index("input->a0.h0<k>".parse().unwrap()).unwrap()] = value;
        let scores = EdgeScores::new(graph, values, Orientation::UsefulIsNegative).unwrap();
        let circuit = scores.top_n(1, Ranking::Absolute).unwrap();
        let drawing = circuit.drawing(Some(&scores), "").unwrap();
        let line = read("one", &drawing.to_svg().unwrap()).lines.remove(0);
        let (width, _, pixels) = crate::svg::decode(&drawing.to_png().unwrap());
        let (x, y) = (line.points[0].0 as usize * 2, line.points[0].1 as usize * 2);
        let end = line.points[1].1 as usize * 2;
        assert_eq!(line.points[0].0, line.points[1].0);
        // Away from both boxes.
        let inked = (y + 4..end - 4).filter(|y| pixels[(y * width + x) * 3] < 0x80);
        (inked.count(), end - y - 8)
    };
    let (solid, all) = ink(-1.0);
    assert_eq!(solid, all);
    let (dashed, all) = ink(1.0);
    assert!(
        dashed > all / 3 && dashed < all * 2 / 3,
        "{dashed} of {all}"
    );
}

#[test]
fn files_have_the_format_of_their_extension() {
    let circuit = EdgeSet::full(graph(1, 2));
    let drawing = circuit.drawing(None, "All").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let save = |name: &str| drawing.save(folder.path().join(name));
    save("circuit.svg").unwrap();
    save("circuit.PNG").unwrap();
    save("circuit.html").unwrap();
    let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
    assert_eq!(read("circuit.svg"), drawing.to_svg().unwrap().into_bytes());
    assert_eq!(read("circuit.PNG"), drawing.to_png().unwrap());
    assert_eq!(
        read("circuit.html"),
        drawing.to_html().unwrap().into_bytes()
    );
    let message = save("circuit.csv").unwrap_err().to_string();
    assert!(
        message.contains("found `csv`; expected `.svg`, `.png`, `.html`"),
        "{message}"
    );
}

#[test]
fn what_cannot_be_drawn_is_an_error() {
    let message = |circuit: &EdgeSet, scores: Option<&EdgeScores>| {
        circuit.drawing(scores, "").unwrap_err().to_string()
    };
    let all = EdgeSet::full(graph(12, 12));
    let expected = "edges of a drawing: found 32491; expected at most 4000; \
                    `EdgeScores::top_n` selects the best";
    assert_eq!(message(&all, None), expected);
    let other = scores(graph(2, 2), 0);
    assert!(
        message(&EdgeSet::empty(graph(4, 4)), Some(&other)).starts_with("graph: found 2 layers")
    );
}

#[cfg(feature = "mini")]
#[test]
fn the_shipped_models_circuit_can_be_drawn() {
    use patchlens::circuits::{Approximation, EdgeAttribution};
    use patchlens::metric::logit_diffs;
    use patchlens::{Prompts, Transformer};

    let model = Transformer::mini();
    let tokens = |seed: u32| {
        (0..9)
            .map(|i| (i * 37 + seed * 11) % 200)
            .collect::<Vec<_>>()
    };
    let [clean, corrupted] = [1, 2].map(|seed| Prompts::new([tokens(seed)]).unwrap());
    let study = EdgeAttribution::new(&model, &clean, &corrupted).unwrap();
    let found = study
        .run(Approximation::Eap, &logit_diffs(&[(3, 5)]))
        .unwrap();
    let scores = found.scores().unwrap();
    for n in [5, 479] {
        let circuit = scores.top_n(n, Ranking::Absolute).unwrap();
        let svg = circuit
            .drawing(Some(&scores), "Mini")
            .unwrap()
            .to_svg()
            .unwrap();
        crate::svg::check_apart("mini", &svg);
        assert_eq!(read("mini", &svg).lines.len(), n);
    }
}

#[test]
fn pages_have_the_drawing_and_its_graph() {
    let graph = graph(4, 4);
    let scores = scores(graph, 1);
    let circuit = scores.top_n(100, Ranking::Absolute).unwrap();
    let title = "Circuit <b>\u{202e}</script>";
    for scores in [Some(&scores), None] {
        let drawing = circuit.drawing(scores, title).unwrap();
        let page = drawing.to_html().unwrap();
        assert!(page.contains("default-src 'none'") && !page.contains("https:"));
        assert_eq!(
            page.matches("</script>").count(),
            2,
            "the data and the program"
        );
        assert!(!page.contains("<b>") && !page.contains('\u{202e}'));
        let start = page.find("<svg").unwrap();
        let end = page.find("</svg>").unwrap() + "</svg>".len();
        let drawn = read("page", &page[start..end]);
        let (_, rest) = page.split_once("id=\"data\">").unwrap();
        let (data, _) = rest.split_once("</script>").unwrap();
        let data: serde_json::Value = serde_json::from_str(data).unwrap();
        // By their places, the script knows which lines and boxes are meant.
        let links = data["links"].as_array().unwrap();
        assert_eq!(links.len(), drawn.lines.len());
        let mut last = 0.0;
        for (link, line) in links.iter().zip(&drawn.lines) {
            let name = |key: &str| {
                let place = link[key].as_u64().unwrap() as usize;
                data["nodes"][place].as_str().unwrap()
            };
            let edge: patchlens::circuits::Edge = line.name.parse().unwrap();
            assert_eq!(name("from"), edge.from.to_string());
            let to = edge.to.source().map(|source| source.to_string());
            assert_eq!(name("to"), to.unwrap_or("logits".to_string()));
            assert!(link["title"].as_str().unwrap().starts_with(&line.name));
            let size = link["size"].as_f64();
            assert_eq!(size.is_some(), scores.is_some());
            assert!(size.is_none_or(|size| size >= last), "smallest first");
            last = size.unwrap_or(0.0);
        }
        let boxes: Vec<&str> = drawn.order.iter().map(String::as_str).collect();
        let nodes = data["nodes"].as_array().unwrap().iter();
        assert!(nodes.eq(boxes), "{}", data["nodes"]);
    }
}
