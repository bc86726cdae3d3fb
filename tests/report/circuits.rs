//! Drawings of circuits: texts have room, lines end at their boxes and cross no other.

use std::collections::BTreeMap;

use patchlens::Config;
use patchlens::circuits::{CircuitDrawing, EdgeScores, EdgeSet, Graph, Orientation, Ranking};

use crate::svg::{Text, check_inside};

mod files;

fn graph(n_layers: usize, n_heads: usize) -> Graph {
    Graph::new(&Config {
        n_layers,
        n_heads,
        d_model: 64 * n_heads,
        ..Config::gpt2()
    })
}

/// Few large scores, many small ones, of both signs; different everywhere.
fn scores(graph: Graph, seed: u64) -> EdgeScores {
    let value = |i: usize| {
        let mut x = (i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ seed;
        x = (x ^ (x >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let part = ((x ^ (x >> 32)) & 0xff_ffff) as f32 / 16_777_216.0;
        let sign = if x >> 63 == 0 { -1.0 } else { 0.4 };
        sign * part.powi(400)
    };
    let values = (0..graph.n_edges()).map(value).collect();
    EdgeScores::new(graph, values, Orientation::UsefulIsNegative).unwrap()
}

/// Name, circuit, scores and drawing of every form that a drawing must bear.
fn gallery() -> Vec<(String, EdgeSet, Option<EdgeScores>, CircuitDrawing)> {
    let mut gallery = Vec::new();
    let small = graph(12, 12);
    let shapes = [
        (small, 0),
        (small, 1),
        (small, 5),
        (small, 500),
        (graph(4, 4), 5),
        (graph(4, 4), 479),
        (graph(1, 1), 8),
        (graph(48, 25), 500),
    ];
    for (graph, n) in shapes {
        let scores = scores(graph, n as u64);
        let circuit = scores.top_n(n, Ranking::Absolute).unwrap();
        let name = |kind| format!("{n} edges of {} layers, {kind}", graph.n_layers());
        let title = "A circuit <of> many words & none ".repeat(6);
        let drawing = circuit.drawing(Some(&scores), &title).unwrap();
        gallery.push((name("scored"), circuit.clone(), Some(scores), drawing));
        let drawing = circuit.drawing(None, "").unwrap();
        gallery.push((name("plain"), circuit, None, drawing));
    }
    let zero = EdgeScores::new(graph(2, 2), vec![0.0; 46], Orientation::UsefulIsPositive);
    let (circuit, zero) = (EdgeSet::full(graph(2, 2)), zero.unwrap());
    let drawing = circuit.drawing(Some(&zero), "Zeros").unwrap();
    gallery.push(("zeros".to_string(), circuit, Some(zero), drawing));
    gallery
}

/// A line of an edge.
struct Line {
    name: String,
    score: Option<f32>,
    width: f64,
    color: String,
    dashed: bool,
    points: Vec<(f64, f64)>,
}

/// Left, top, right, bottom.
type Bounds = [f64; 4];

struct Drawn {
    texts: Vec<Text>,
    /// In the order of drawing.
    lines: Vec<Line>,
    /// Boxes by node.
    boxes: BTreeMap<String, Bounds>,
    titles: BTreeMap<String, String>,
    /// Nodes in the order of their boxes.
    order: Vec<String>,
}

fn read(name: &str, svg: &str) -> Drawn {
    let document = roxmltree::Document::parse(svg).unwrap();
    let title = |node: roxmltree::Node<'_, '_>| {
        let title = node.children().find(|child| child.has_tag_name("title"))?;
        Some(title.text().unwrap().to_string())
    };
    let mut drawn = Drawn {
        texts: check_inside(name, svg),
        lines: Vec::new(),
        boxes: BTreeMap::new(),
        titles: BTreeMap::new(),
        order: Vec::new(),
    };
    for node in document.descendants() {
        let Some(title) = title(node) else { continue };
        let (name, rest) = title.split_once(": ").unwrap_or((&title, ""));
        if node.has_tag_name("rect") {
            let [x, y, width, height] = ["x", "y", "width", "height"]
                .map(|key| node.attribute(key).unwrap().parse::<f64>().unwrap());
            let bounds = [x, y, x + width, y + height];
            assert!(drawn.boxes.insert(name.to_string(), bounds).is_none());
            drawn.titles.insert(name.to_string(), rest.to_string());
            drawn.order.push(name.to_string());
            continue;
        }
        assert!(node.has_tag_name("g"));
        let lines = node.children().filter(|c| c.has_tag_name("polyline"));
        let lines: Vec<_> = lines.collect();
        assert_eq!(lines.len(), 2, "one to be seen and one for the pointer");
        let points = |of: &roxmltree::Node<'_, '_>| -> Vec<(f64, f64)> {
            let points = of.attribute("points").unwrap().split_whitespace();
            let point = |text: &str| {
                let (x, y) = text.split_once(',').unwrap();
                (x.parse().unwrap(), y.parse().unwrap())
            };
            points.map(point).collect()
        };
        assert_eq!(points(&lines[0]), points(&lines[1]));
        let width = |i: usize| lines[i].attribute("stroke-width").unwrap().parse::<f64>();
        assert!(width(1).unwrap() >= 5.0);
        drawn.lines.push(Line {
            name: name.to_string(),
            score: (!rest.is_empty()).then(|| rest.parse().unwrap()),
            width: width(0).unwrap(),
            color: lines[0].attribute("stroke").unwrap().to_string(),
            dashed: lines[0].attribute("stroke-dasharray").is_some(),
            points: points(&lines[0]),
        });
    }
    drawn
}

#[test]
fn every_edge_is_a_line_between_its_boxes_that_crosses_no_other() {
    for (name, circuit, scores, drawing) in gallery() {
        let drawn = read(&name, &drawing.to_svg().unwrap());
        assert_eq!(drawn.lines.len(), circuit.len(), "{name}");
        let mut found: Vec<_> = drawn
            .lines
            .iter()
            .map(|l| l.name.parse().unwrap())
            .collect();
        found.sort_by_key(|edge| circuit.graph().index(*edge).unwrap());
        assert!(found.into_iter().eq(circuit.edges()), "{name}");
        for line in &drawn.lines {
            let edge: patchlens::circuits::Edge = line.name.parse().unwrap();
            let to = edge.to.source().map(|source| source.to_string());
            let (from, to) = (edge.from.to_string(), to.unwrap_or("logits".to_string()));
            let (a, b) = (drawn.boxes[&from], drawn.boxes[&to]);
            let (first, last) = (line.points[0], *line.points.last().unwrap());
            let inside = |x: f64, of: Bounds| of[0] < x && x < of[2];
            assert!(
                first.1 == a[3] && inside(first.0, a),
                "{name}: {edge} starts"
            );
            assert!(last.1 == b[1] && inside(last.0, b), "{name}: {edge} ends");
            assert!(
                line.points.is_sorted_by(|p, q| p.1 < q.1),
                "{name}: {edge} leads down"
            );
            let others = drawn.boxes.iter().filter(|(n, _)| **n != from && **n != to);
            for (other, bounds) in others {
                let crossed = line.points.windows(2).any(|ends| meets(ends, *bounds));
                assert!(!crossed, "{name}: {edge} crosses {other}");
            }
            let score = scores.as_ref().map(|scores| scores.of(edge).unwrap());
            let near = |(a, b): (f32, f32)| (a - b).abs() <= 1e-3 * b.abs();
            assert_eq!(score.is_some(), line.score.is_some());
            assert!(line.score.zip(score).is_none_or(near), "{name}: {edge}");
            assert_eq!(
                line.dashed,
                score.is_some_and(|score| score > 0.0) && name != "zeros"
            );
        }
    }
}

/// Whether a segment that leads down meets a box.
fn meets(ends: &[(f64, f64)], [left, top, right, bottom]: Bounds) -> bool {
    let [(ax, ay), (bx, by)] = [ends[0], ends[1]];
    if by <= top || ay >= bottom {
        return false;
    }
    let at = |y: f64| ax + (bx - ax) * (y - ay) / (by - ay);
    let (upper, lower) = (at(ay.max(top)), at(by.min(bottom)));
    upper.max(lower) > left && upper.min(lower) < right
}

#[test]
fn layers_lead_downward_and_heads_stand_in_columns() {
    let graph = graph(4, 4);
    let circuit = EdgeSet::full(graph);
    let drawn = read("all", &circuit.drawing(None, "").unwrap().to_svg().unwrap());
    let of = |name: &str| drawn.boxes[name];
    assert_eq!(drawn.boxes.len(), graph.n_sources() + 1);
    for layer in 0..4 {
        let [first, mlp] = [format!("a{layer}.h0"), format!("m{layer}")].map(|n| of(&n));
        assert!(first[3] < mlp[1], "heads write before the MLP reads");
        assert_eq!(mlp[0], of("m0")[0]);
        for head in 0..4 {
            let one = of(&format!("a{layer}.h{head}"));
            assert_eq!(one[1], first[1]);
            assert_eq!(one[0], of(&format!("a0.h{head}"))[0]);
            assert!(one[2] < mlp[0]);
        }
    }
    let tops = ["input", "a0.h0", "m0", "a1.h0", "m3", "logits"].map(|name| of(name)[1]);
    assert!(tops.is_sorted_by(|a, b| a < b), "{tops:?}");
    // Of a small circuit, only its own rows and columns.
    let few = EdgeSet::from_names(graph, ["input->a1.h3<q>", "a1.h3->logits"]).unwrap();
    let few = read("few", &few.drawing(None, "").unwrap().to_svg().unwrap());
    assert_eq!(
        few.boxes.keys().collect::<Vec<_>>(),
        ["a1.h3", "input", "logits"]
    );
    assert!(few.texts.iter().any(|text| text.text == "layer 1"));
    assert!(!few.texts.iter().any(|text| text.text == "layer 0"));
}

#[test]
fn queries_keys_and_values_differ_in_colour_and_place() {
    let graph = graph(2, 2);
    let names = ["m0->a1.h0<q>", "m0->a1.h0<k>", "m0->a1.h0<v>", "m0->m1"];
    let circuit = EdgeSet::from_names(graph, names).unwrap();
    let drawn = read("qkv", &circuit.drawing(None, "").unwrap().to_svg().unwrap());
    let end = |name: &&str| {
        let line = drawn.lines.iter().find(|line| line.name == *name).unwrap();
        (line.color.clone(), line.points.last().unwrap().0)
    };
    let [q, k, v, mlp] = names.each_ref().map(end);
    assert!(q.1 < k.1 && k.1 < v.1);
    let [left, _, right, _] = drawn.boxes["a1.h0"];
    assert!((k.1 - (left + right) / 2.0).abs() <= 1.0);
    let mut colors = [q.0, k.0, v.0, mlp.0];
    colors.sort();
    assert!(colors.is_sorted_by(|a, b| a < b), "{colors:?}");
}

#[test]
fn larger_scores_are_wider_stronger_and_on_top() {
    let graph = graph(12, 12);
    let scores = scores(graph, 3);
    let circuit = scores.top_n(500, Ranking::Absolute).unwrap();
    let drawing = circuit.drawing(Some(&scores), "").unwrap();
    let lines = read("500", &drawing.to_svg().unwrap()).lines;
    assert!(lines.is_sorted_by(|a, b| a.score.unwrap().abs() <= b.score.unwrap().abs()));
    assert!(lines.is_sorted_by(|a, b| a.width <= b.width));
    assert_eq!(lines.last().unwrap().width, 5.0);
    assert!(lines[0].width < 1.0);
    let grey = |line: &&Line| line.name.ends_with("->logits") || line.name.contains("->m");
    let brightness = |line: &Line| u8::from_str_radix(&line.color[1..3], 16).unwrap();
    let greys: Vec<u8> = lines.iter().filter(grey).map(brightness).collect();
    assert!(greys.len() > 10 && greys.is_sorted_by(|a, b| a >= b));
    assert!(greys[0] < 0xd0, "the palest line can be seen");
}

#[test]
fn texts_do_not_overlap() {
    for (name, _, _, drawing) in gallery() {
        crate::svg::check_apart(&name, &drawing.to_svg().unwrap());
    }
}

#[test]
fn names_scores_and_sums_are_told() {
    let graph = graph(4, 4);
    let mut values = vec![0.0; graph.n_edges()];
    let edges = [
        ("input->a0.h1<k>", -0.25),
        ("input->a0.h1<v>", 0.5),
        ("a0.h1->logits", -2.0),
    ];
    for (name, value) in edges {
        values[graph.index(name.parse().unwrap()).unwrap()] = value;
    }
    let scores = EdgeScores::new(graph, values, Orientation::UsefulIsNegative).unwrap();
    let circuit = scores.top_n(3, Ranking::Absolute).unwrap();
    let svg = circuit
        .drawing(Some(&scores), "Three")
        .unwrap()
        .to_svg()
        .unwrap();
    let drawn = read("three", &svg);
    let expected = "edges in: 2, scores sum to 0.2500; edges out: 1, scores sum to -2.000";
    assert_eq!(drawn.titles["a0.h1"], expected);
    assert_eq!(drawn.titles["input"], "edges out: 2, scores sum to 0.2500");
    assert_eq!(drawn.titles["logits"], "edges in: 1, scores sum to -2.000");
    for wanted in [
        "Three",
        "score of size 2.000",
        "works against the behaviour",
        "into its keys (middle)",
        "3 of 479 edges; heads and MLPs: 1. The more negative",
    ] {
        let found = drawn.texts.iter().any(|text| text.text.starts_with(wanted));
        assert!(found, "{wanted}");
    }
    let plain = read(
        "plain",
        &circuit.drawing(None, "").unwrap().to_svg().unwrap(),
    );
    assert_eq!(plain.titles["a0.h1"], "edges in: 2; edges out: 1");
    assert!(!plain.texts.iter().any(|text| text.text.contains("score")));
}
