//! Line plots as text.

use ndarray::{Array2, Array3, array};
use patchlens::report::{Axis, Labelled};
use unicode_width::UnicodeWidthStr;

use crate::about;

#[test]
fn curves_need_numbers_and_at_most_two_axes() {
    let axes = vec![
        Axis::new("series", ["a", "b"]),
        Axis::new("scale", ["0", "1", "2"]),
    ];
    let table = Labelled::new(Array2::<f32>::zeros((2, 3)), axes, about()).unwrap();
    let error = table.curves().unwrap_err().to_string();
    assert_eq!(
        error,
        "labels of axis `scale`: found names; expected numbers, see `Axis::numbers`"
    );
    let axes = vec![Axis::numbers("scale", &[0.0, f32::INFINITY])];
    let table = Labelled::new(array![1.0, 2.0], axes, about()).unwrap();
    let error = table.curves().unwrap_err().to_string();
    assert_eq!(
        error,
        "labels of axis `scale`: found `inf`; expected finite numbers"
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
