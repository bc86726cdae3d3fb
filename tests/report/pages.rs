//! Self-contained HTML pages.

use ndarray::{Array1, Array2, array};
use patchlens::report::{Axis, Labelled, Page, attention_page, save_attention_page};

use crate::{HOSTILE, about, hostile};

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

/// What the page's first drawing is made from.
fn page_data(page: &str, kind: &str) -> serde_json::Value {
    let (_, rest) = page.split_once("id=\"data\">").unwrap();
    let data: serde_json::Value =
        serde_json::from_str(rest.split_once("</script>").unwrap().0).unwrap();
    data[0][kind].clone()
}

#[test]
fn pages_hold_labels_and_values() {
    let data = page_data(&hostile().to_html().unwrap(), "map");
    assert_eq!(data["axes"][1]["labels"][0], "·Mary@0");
    assert_eq!(data["axes"][1]["labels"][1], "<script>alert(1)</script>@1");
    assert!(data["values"][1].is_null(), "no value is not zero");
    assert_eq!(data["values"][0], 0.0);
    assert_eq!(
        (&data["values"][10], &data["values"][19]),
        (&"inf".into(), &"-inf".into())
    );
    assert_eq!(data["limits"], serde_json::json!([-7.0, 7.0]));
    assert_eq!(data["absent"][0]["name"], "NaN");
    assert_eq!(data["absent"][0]["cells"], serde_json::json!([1]));
    assert!(data["file"].is_null());
    assert!(data["texts"].is_null());
    let texts = Array2::from_elem((3, 8), "</script> x".to_string());
    let page = hostile().with_texts(texts).unwrap().to_html().unwrap();
    assert_eq!(page.matches("</script>").count(), 2);
    assert_eq!(page_data(&page, "map")["texts"][3], "</script> x");
    assert_eq!(
        page_data(&page, "map")["inks"].as_array().unwrap().len(),
        255
    );
    let pattern = array![[1.0, 0.0], [0.25, 0.75]];
    let page = attention_page(
        "t",
        &[("0.1", pattern.view()), ("0.2", pattern.view())],
        &["A", " b"],
    )
    .unwrap();
    let data = page_data(&page, "attention");
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
fn a_page_joins_results_texts_and_attention() {
    let pattern = array![[1.0, 0.0], [0.25, 0.75]];
    let page = Page::new("Study <1>")
        .text("Prompt", "two  spaces\n<b>\u{1b}[31m")
        .result("first", &hostile())
        .unwrap()
        .result("bars", &hostile_row())
        .unwrap()
        .attention("Heads", &[("0.1", pattern.view())], &["A", " b"])
        .unwrap();
    let html = page.to_html().unwrap();
    assert!(!html.contains('\u{1b}') && html.contains("two  spaces\n&#60;b&#62;"));
    assert_eq!(html.matches("class=\"drawn\"").count(), 3);
    assert_eq!(html.matches("<h2>").count(), 4);
    let (_, rest) = html.split_once("id=\"data\">").unwrap();
    let data = rest.split_once("</script>").unwrap().0;
    let data: serde_json::Value = serde_json::from_str(data).unwrap();
    assert_eq!(data[0]["map"]["file"][0], "first.csv");
    assert_eq!(data[1]["map"]["file"][1], hostile_row().to_csv().unwrap());
    assert_eq!(data[2]["attention"]["tokens"][1], "·b");
    let folder = tempfile::tempdir().unwrap();
    let error = page.save(folder.path().join("page.txt")).unwrap_err();
    assert!(error.to_string().contains("expected `.html`"), "{error}");
    page.save(folder.path().join("page.html")).unwrap();
}

fn hostile_row() -> Labelled {
    let axes = vec![Axis::tokens("pos", &HOSTILE)];
    Labelled::new(Array1::linspace(-1.0, 1.0, HOSTILE.len()), axes, about()).unwrap()
}
