//! Scatter plots: texts have room, points lie where their numbers are, the worst are named.

use patchlens::Config;
use patchlens::circuits::{Agreement, EdgePair, EdgeScores, Graph, Orientation};
use patchlens::report::Page;

use crate::svg::{check_apart, decode};

/// The agreement of two scores of the edges of two layers with two heads.
fn agreement(found: impl Fn(usize) -> f32, reference: impl Fn(usize) -> f32) -> Agreement {
    let graph = Graph::new(&Config {
        n_layers: 2,
        n_heads: 2,
        ..Config::gpt2()
    });
    let scores = |value: &dyn Fn(usize) -> f32| {
        let values = (0..graph.n_edges()).map(value).collect();
        EdgeScores::new(graph, values, Orientation::UsefulIsNegative).unwrap()
    };
    scores(&found).agreement(&scores(&reference)).unwrap()
}

/// Name and agreement of every form that a plot must bear.
fn gallery() -> Vec<(&'static str, Agreement)> {
    let wave = |i: usize| ((i * 37 % 46) as f32 - 20.0) / 9.0;
    vec![
        ("waves", agreement(move |i| 0.7 * wave(i + 1), wave)),
        ("equal", agreement(wave, wave)),
        ("zeros", agreement(|_| 0.0, |_| 0.0)),
        (
            "one far away",
            agreement(|i| if i == 9 { 90.0 } else { 0.01 }, wave),
        ),
        ("all at one place", agreement(|_| 1e-7, |_| -1e-7)),
        (
            "large",
            agreement(move |i| 3e30 * wave(i), move |i| 1e30 * wave(i)),
        ),
    ]
}

#[test]
fn texts_have_room_and_the_worst_edges_have_names() {
    for (name, agreement) in gallery() {
        let long = "a method with <a> long name & many words in it";
        let plot = agreement.scatter(long, "exact effect (logit difference)");
        let svg = plot.to_svg().unwrap();
        check_apart(name, &svg);
        let named = |edge: &str| {
            let escaped = edge.replace('<', "&#60;").replace('>', "&#62;");
            svg.contains(&format!(">{escaped}</text>"))
        };
        // Of equal errors, any is as bad.
        let worst = agreement.worst(agreement.edges.len());
        let (shown, others): (Vec<_>, Vec<_>) =
            worst.iter().partition(|pair| named(&pair.edge.to_string()));
        let size = |pair: &&EdgePair| pair.error().abs();
        let far = worst.iter().filter(|pair| pair.error() != 0.0).count();
        assert_eq!(shown.len(), far.min(6), "{name}");
        let least = shown.iter().map(size).fold(f32::INFINITY, f32::min);
        let most = others.iter().map(size).fold(0.0, f32::max);
        assert!(least >= most, "{name}: {least}, {most}");
        assert!(
            svg.contains("stroke-dasharray") && svg.contains(">exact effect (logit difference)<")
        );
        let (width, height, _) = decode(&plot.to_png().unwrap());
        assert!(width > 1000 && height > 1000);
    }
}

#[test]
fn points_on_the_dashed_line_are_equal() {
    let wave = |i: usize| (i as f32 - 20.0) / 9.0;
    let agreement = agreement(move |i| if i % 2 == 0 { wave(i) } else { -wave(i) }, wave);
    let svg = agreement.scatter("found", "exact").to_svg().unwrap();
    let document = roxmltree::Document::parse(&svg).unwrap();
    let line = document
        .descendants()
        .find(|node| node.has_attribute("stroke-dasharray"));
    let ends: Vec<f64> = line
        .and_then(|line| line.attribute("points"))
        .unwrap()
        .split([' ', ','])
        .filter_map(|number| number.parse().ok())
        .collect();
    let level = |x: f64| ends[1] + (x - ends[0]) * (ends[3] - ends[1]) / (ends[2] - ends[0]);
    let mut seen = 0;
    for rect in document
        .descendants()
        .filter(|node| node.has_tag_name("rect"))
    {
        let Some(title) = rect.first_element_child().and_then(|title| title.text()) else {
            continue;
        };
        let (_, numbers) = title.split_once(": ").unwrap();
        let (found, exact) = numbers.split_once(" for ").unwrap();
        let number = |name| rect.attribute(name).unwrap().parse::<f64>().unwrap();
        let (x, y) = (number("x") + 2.0, number("y") + 2.0);
        // Upwards is larger.
        let above = level(x) - y;
        let error = found.parse::<f64>().unwrap() - exact.parse::<f64>().unwrap();
        assert!(
            above.abs() < 3.0 || above.signum() == error.signum(),
            "{title}: {above}"
        );
        assert_eq!(error.abs() < 0.03, above.abs() < 3.0, "{title}: {above}");
        seen += 1;
    }
    assert_eq!(seen, 46);
}

#[test]
fn a_page_has_the_plot_under_its_title() {
    let (_, agreement) = gallery().swap_remove(0);
    let plot = agreement.scatter("EAP", "exact effect");
    let page = Page::new("Study")
        .scatter(&plot)
        .unwrap()
        .to_html()
        .unwrap();
    assert!(page.contains("<h2>EAP against exact effect</h2>"));
    assert_eq!(page.matches("<svg").count(), 1);
    let folder = tempfile::tempdir().unwrap();
    for extension in ["svg", "png"] {
        plot.save(folder.path().join(format!("plot.{extension}")))
            .unwrap();
    }
    assert!(plot.save(folder.path().join("plot.csv")).is_err());
}
