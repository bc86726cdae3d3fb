//! Head detection, weight circuits and composition against TransformerLens.

mod common;

use common::Comparison;
use ndarray::{Array1, Array2, ArrayD, Axis, IxDyn};
use patchlens::{
    AttentionPattern, Circuits, Closeness, Composition, Detection, Embedding, FactoredMatrix, Head,
    Prompt, Transformer, detect_heads,
};

const BOUND: f32 = 1e-5;

const KINDS: [(&str, AttentionPattern); 3] = [
    ("previous_token_head", AttentionPattern::PreviousToken),
    ("duplicate_token_head", AttentionPattern::DuplicateToken),
    ("induction_head", AttentionPattern::Induction),
];

#[test]
fn head_detection() {
    for name in common::MODELS {
        let model = common::open(name);
        let reference = common::tensors(name, "analysis.safetensors");
        let tokens = common::tokens(&common::metadata(name)["analysis"]["repeating_prompt"]);
        let prompt = Prompt::from(&tokens[..]);
        let mut comparison = Comparison::new(BOUND);
        for (kind, pattern) in KINDS {
            let matrix = pattern.matrix(&tokens);
            let key = format!("heads/{kind}/detection_pattern");
            assert_eq!(matrix.view().into_dyn(), reference[&key], "{name} {key}");
            let measures = [("mul", Closeness::Mul), ("abs", Closeness::Abs)];
            let exclusions = [
                ("none", (false, false)),
                ("bos", (true, false)),
                ("current", (false, true)),
                ("both", (true, true)),
            ];
            for (measure_name, measure) in measures {
                for (excluded, (exclude_bos, exclude_current_token)) in exclusions {
                    let detection = Detection {
                        measure,
                        exclude_bos,
                        exclude_current_token,
                    };
                    let patterns = [matrix.clone()];
                    let found = detect_heads(&model, &prompt, &patterns, detection).unwrap();
                    let key = format!("heads/{kind}/{measure_name}/{excluded}");
                    comparison.add(&key, found.values(), reference[&key].view());
                }
            }
        }
        comparison.finish(name);
    }
}

#[test]
fn composition_of_all_pairs() {
    for name in common::MODELS {
        let model = common::open(name);
        let reference = common::tensors(name, "analysis.safetensors");
        let mut comparison = Comparison::new(BOUND);
        for kind in Composition::ALL {
            let found = Circuits::new(&model).composition_scores(kind).unwrap();
            let key = format!("composition/{kind:?}");
            comparison.add(&key, found.values(), reference[&key].view());
        }
        comparison.finish(name);
    }
}

/// A circuit by its name in the goldens.
fn circuit(model: &Transformer, name: &str, head: Head) -> FactoredMatrix {
    let circuits = Circuits::new(model);
    let tokens = Embedding::Tokens;
    match name {
        "ov" => circuits.ov(head),
        "qk" => circuits.qk(head),
        "full_ov" => circuits.full_ov(head),
        _ => circuits.full_qk(head, tokens, tokens),
    }
    .unwrap()
}

/// `u · diag(s) · vᵀ`, and how far the columns are from orthonormal.
fn rebuilt(matrix: &FactoredMatrix) -> (Array2<f32>, f32) {
    let svd = matrix.svd();
    let scaled = &svd.u * &svd.singular_values.mapv(|s| s as f32);
    let rank = svd.u.ncols();
    let off = |m: &Array2<f32>| {
        let delta = m.t().dot(m) - Array2::<f32>::eye(rank);
        delta.iter().fold(0.0_f32, |a, v| a.max(v.abs()))
    };
    (scaled.dot(&svd.v.t()), off(&svd.u).max(off(&svd.v)))
}

#[test]
fn circuits() {
    for name in common::MODELS {
        let model = common::open(name);
        let reference = common::tensors(name, "analysis.safetensors");
        let metadata = common::metadata(name);
        let full_head = common::tokens(&metadata["analysis"]["full_circuit_head"]);
        let mut comparison = Comparison::new(BOUND);
        for (kind, head) in ["ov", "qk", "full_ov", "full_qk"]
            .into_iter()
            .flat_map(|kind| Head::all(model.config()).map(move |head| (kind, head)))
        {
            let matrix = circuit(&model, kind, head);
            let golden = |what: &str| {
                let whole = &reference[&format!("circuits/{kind}/{what}")];
                let layer = whole.index_axis(Axis(0), head.layer);
                layer.index_axis_move(Axis(0), head.head).to_owned()
            };
            let key = |what: &str| format!("{kind} {head} {what}");
            let singular = matrix.singular_values().mapv(|v| v as f32).into_dyn();
            let expected = golden("singular_values");
            comparison.add(&key("singular values"), singular.view(), expected.view());
            let (again, off) = rebuilt(&matrix);
            let dense = matrix.dense().into_dyn();
            comparison.add(&key("svd"), again.view().into_dyn(), dense.view());
            assert!(off < BOUND, "{}: singular vectors off by {off}", key("svd"));
            let norm = Array1::from_elem(1, matrix.norm() as f32).into_dyn();
            let squares: f64 = dense.iter().map(|v| f64::from(*v).powi(2)).sum();
            let expected = Array1::from_elem(1, squares.sqrt() as f32).into_dyn();
            comparison.add(&key("norm"), norm.view(), expected.view());
            let values = matrix.eigenvalues().unwrap();
            let flat = values.iter().flat_map(|v| [v.re as f32, v.im as f32]);
            let values = ArrayD::from_shape_vec(IxDyn(&[values.len(), 2]), flat.collect()).unwrap();
            comparison.add(
                &key("eigenvalues"),
                values.view(),
                golden("eigenvalues").view(),
            );
            if !kind.starts_with("full") {
                comparison.add(&key("dense"), dense.view(), golden("dense").view());
            } else if [head.layer as u32, head.head as u32] == full_head[..] {
                let expected = &reference[&format!("circuits/{kind}/dense")];
                comparison.add(&key("dense"), dense.view(), expected.view());
            }
        }
        let found = Circuits::new(&model).copying_scores().unwrap();
        let expected = &reference["circuits/full_ov/copying_score"];
        comparison.add("copying score", found.values(), expected.view());
        comparison.finish(name);
    }
}

#[test]
fn products_transposes_and_rows_equal_the_dense_ones() {
    let model = common::open("tiny-gelu-new");
    let circuits = Circuits::new(&model);
    let (ov, qk) = (
        circuits.ov(Head::new(0, 1)).unwrap(),
        circuits.qk(Head::new(1, 0)).unwrap(),
    );
    let product = ov.times(&qk).unwrap();
    let mut comparison = Comparison::new(BOUND);
    let mut add = |name: &str, found: Array2<f32>, expected: Array2<f32>| {
        comparison.add(name, found.view().into_dyn(), expected.view().into_dyn());
    };
    add("product", product.dense(), ov.dense().dot(&qk.dense()));
    add(
        "transpose",
        qk.transposed().dense(),
        qk.dense().t().to_owned(),
    );
    let right = Array2::from_shape_fn((ov.dim().1, 3), |(i, j)| (i + 2 * j) as f32);
    let found = ov.times_dense(right.view()).unwrap();
    add("right product", found.dense(), ov.dense().dot(&right));
    let row = ov.row(3).insert_axis(Axis(0));
    add("row", row, ov.dense().select(Axis(0), &[3]));
    comparison.finish("products");
    let wide = circuits.full_ov(Head::new(0, 0)).unwrap();
    let error = ov.times(&wide).unwrap_err().to_string();
    assert!(error.contains("rows"), "{error}");
    assert!(circuits.ov(Head::new(9, 0)).is_err());
}

#[test]
fn patterns_that_do_not_fit_are_errors() {
    let model = common::open("tiny-gelu-new");
    let prompt = Prompt::from([1, 2, 3]);
    let detect = |patterns: &[Array2<f32>]| {
        let error = detect_heads(&model, &prompt, patterns, Detection::default()).unwrap_err();
        error.to_string()
    };
    assert!(detect(&[]).contains("one a prompt"));
    assert!(detect(&[Array2::zeros((2, 2))]).contains("[3, 3]"));
    assert!(detect(&[Array2::ones((3, 3))]).contains("cannot look ahead"));
}
