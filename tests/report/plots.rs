//! Line plots as pictures.

use ndarray::{Array2, array};
use patchlens::report::{About, Axis, Labelled};

use crate::svg::check_inside;
use crate::{about, plain};

fn curves(series: usize) -> Labelled {
    let x = Axis::numbers("steering scale", &[-2.0, -1.0, 0.0, 1.0, 2.0]);
    let names = Axis::new(
        "direction",
        (0..series).map(|i| format!(" series number {i} with a long name")),
    );
    let values = Array2::from_shape_fn(
        (series, 5),
        |(i, j)| if j == 1 { f32::NAN } else { (i * j) as f32 },
    );
    let errors = values.mapv(|v| v * 0.1);
    Labelled::new(values, vec![names, x], About::default())
        .unwrap()
        .with_std_error(errors)
        .unwrap()
}

#[test]
fn curves_have_room_and_gaps() {
    let folder = tempfile::tempdir().unwrap();
    for series in [1, 7, 40] {
        let table = curves(series);
        let path = folder.path().join("curves.svg");
        table.curves().unwrap().save(&path).unwrap();
        let svg = std::fs::read_to_string(&path).unwrap();
        let texts = check_inside("curves", &svg);
        let named = texts
            .iter()
            .filter(|t| t.text.starts_with("·series"))
            .count();
        assert_eq!(named, series);
        assert!(
            texts
                .iter()
                .any(|t| t.text == "steering scale" && t.at.1 > 300.0)
        );
        let document = roxmltree::Document::parse(&svg).unwrap();
        let lines = document
            .descendants()
            .filter(|node| node.has_tag_name("polyline"));
        let sizes = lines.map(|node| node.attribute("points").unwrap().split_whitespace().count());
        // Of five points, the second is missing: the line has the last three only.
        assert_eq!(
            sizes.filter(|n| *n == 3).count(),
            series,
            "a missing value is a gap, not zero"
        );
    }
    let error = curves(1)
        .curves()
        .unwrap()
        .save(folder.path().join("c.csv"))
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("found `csv`; expected `.svg`, `.png`"),
        "{error}"
    );
    curves(2)
        .curves()
        .unwrap()
        .save(folder.path().join("c.png"))
        .unwrap();
}

#[test]
fn lines_run_from_left_to_right() {
    let x = Axis::numbers("scale", &[2.0, -1.0, 0.5]);
    let table = Labelled::new(array![1.0, 2.0, 3.0], vec![x], About::default()).unwrap();
    let svg = table.curves().unwrap().to_svg().unwrap();
    let document = roxmltree::Document::parse(&svg).unwrap();
    let thick = |node: &roxmltree::Node<'_, '_>| node.attribute("stroke-width") == Some("2");
    let line = document.descendants().find(thick).unwrap();
    let points = line.attribute("points").unwrap().split_whitespace();
    let x = |point: &str| point.split(',').next().unwrap().parse::<f64>().unwrap();
    let xs: Vec<f64> = points.map(x).collect();
    assert!(xs.len() == 3 && xs.is_sorted(), "{xs:?}");
}

#[test]
fn ticks_tell_close_values_apart() {
    let values = [3.551_0, 3.551_3, 3.551_9];
    for scale in [1.0, 1e-9, 1e9, 1e30] {
        let x = Axis::numbers("scale", &[1000.0, 1000.1, 1000.2]);
        let y = array![values[0] * scale, values[1] * scale, values[2] * scale];
        let table = Labelled::new(y, vec![x], About::default()).unwrap();
        let texts = check_inside("ticks", &table.curves().unwrap().to_svg().unwrap());
        let mut ticks: Vec<&str> = texts.iter().map(|t| t.text.as_str()).collect();
        ticks.retain(|text| text.parse::<f64>().is_ok());
        let n = ticks.len();
        ticks.sort_unstable();
        ticks.dedup();
        assert!(n >= 8 && ticks.len() == n, "{scale}: {ticks:?}");
    }
}

#[test]
fn half_a_scale_says_so() {
    let axes = || vec![Axis::layers(1), Axis::heads(2)];
    let note = |values| {
        let table = Labelled::new(values, axes(), about()).unwrap();
        let text = plain(&table.colored(true).to_string());
        let lines = text.lines().filter(|line| line.starts_with("colours: "));
        lines.map(String::from).collect::<String>()
    };
    let found = note(array![[1.0, -0.001]]);
    assert_eq!(
        found,
        "colours: only the half of the scale above 0 is used; the smallest value is -0.001000"
    );
    let found = note(array![[-1.0, -0.5]]);
    assert_eq!(
        found,
        "colours: only the half of the scale below 0 is used; the largest value is -0.5000"
    );
    assert_eq!(note(array![[1.0, -0.1]]), "");
}
