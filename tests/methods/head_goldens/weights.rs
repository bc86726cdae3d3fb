//! Circuits of weights.

use super::*;

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
    let svd = matrix.svd().unwrap();
    let scaled = &svd.u * &svd.singular_values.mapv(|s| s as f32);
    let rank = svd.u.ncols();
    let off = |m: &Array2<f32>| {
        let delta = m.t().dot(m) - Array2::<f32>::eye(rank);
        delta.iter().fold(0.0_f32, |a, v| a.max(v.abs()))
    };
    (scaled.dot(&svd.v.t()), off(&svd.u).max(off(&svd.v)))
}

/// One head's part of a golden `[layer, head, ..]`.
fn at_head(whole: &ArrayD<f32>, head: Head) -> ArrayD<f32> {
    let layer = whole.index_axis(Axis(0), head.layer);
    layer.index_axis_move(Axis(0), head.head).to_owned()
}

#[test]
fn circuits() {
    for golden in goldens() {
        let (name, model, reference) = (golden.name, &golden.model, &golden.tensors);
        let full_head = golden.head("rows_head");
        let mut comparison = Comparison::new(BOUND);
        for (kind, head) in ["ov", "qk", "full_ov", "full_qk"]
            .into_iter()
            .flat_map(|kind| Head::all(model.config()).map(move |head| (kind, head)))
        {
            let matrix = circuit(model, kind, head);
            let golden = |what: &str| at_head(&reference[&format!("circuits/{kind}/{what}")], head);
            let key = |what: &str| format!("{kind} {head} {what}");
            let singular = matrix
                .singular_values()
                .unwrap()
                .mapv(|v| v as f32)
                .into_dyn();
            let expected = golden("singular_values");
            comparison.add(&key("singular values"), singular.view(), expected.view());
            let (again, off) = rebuilt(&matrix);
            let dense = matrix.dense().into_dyn();
            comparison.add(&key("svd"), again.view().into_dyn(), dense.view());
            assert!(off < BOUND, "{}: singular vectors off by {off}", key("svd"));
            let norm = Array1::from_elem(1, matrix.norm() as f32).into_dyn();
            let expected = at_head(&reference[&format!("norms/{kind}")], head);
            let expected = expected.insert_axis(Axis(0));
            comparison.add(&key("norm"), norm.view(), expected.view());
            let values = matrix.eigenvalues().unwrap();
            let flat = values.iter().flat_map(|v| [v.re as f32, v.im as f32]);
            let values = ArrayD::from_shape_vec(IxDyn(&[values.len(), 2]), flat.collect()).unwrap();
            comparison.add(
                &key("eigenvalues"),
                values.view(),
                golden("eigenvalues").view(),
            );
            // Of the shipped model, only some rows are kept.
            if let Some(expected) = reference.get(&format!("circuits/{kind}/dense")) {
                if !kind.starts_with("full") {
                    comparison.add(&key("dense"), dense.view(), at_head(expected, head).view());
                } else if head == full_head {
                    comparison.add(&key("dense"), dense.view(), expected.view());
                }
            }
        }
        let found = Circuits::new(model).copying_scores().unwrap();
        let expected = &reference["circuits/full_ov/copying_score"];
        comparison.add("copying score", found.values(), expected.view());
        comparison.finish(name);
    }
}

#[test]
fn stripes_of_repeated_sequences() {
    for golden in goldens() {
        let period = golden.heads["period"].as_u64().unwrap() as usize;
        let stripes = [
            ("previous", 1),
            ("duplicate", period),
            ("induction", period - 1),
        ];
        let offsets = stripes.map(|(_, back)| AttentionPattern::Offset(back));
        let prompts = golden.prompts("repeated");
        let found = pattern_scores(&golden.model, &prompts, &offsets).unwrap();
        let mut comparison = Comparison::new(BOUND);
        for (i, (name, _)) in stripes.iter().enumerate() {
            let expected = &golden.tensors[&format!("stripes/{name}")];
            let found = found.values().index_axis_move(Axis(0), i);
            comparison.add(name, found, expected.view());
        }
        comparison.finish(golden.name);
    }
}

#[test]
fn copy_scores_of_the_paper() {
    for golden in goldens() {
        let prompts = golden.prompts("copy_prompts");
        let last = vec![vec![1]; prompts.len()];
        let study = CopyScores::new(&golden.model, &prompts, &last).unwrap();
        let found = study.top(5).run().unwrap().score;
        let mut comparison = Comparison::new(BOUND);
        for (i, sign) in ["positive", "negative"].iter().enumerate() {
            let expected = &golden.tensors[&format!("copy/{sign}")];
            let found = found.values().index_axis_move(Axis(0), i);
            comparison.add(sign, found, expected.view());
        }
        comparison.finish(golden.name);
    }
}

#[test]
fn positional_circuits_products_rows_and_singular_vectors() {
    for golden in goldens() {
        let (model, reference) = (&golden.model, &golden.tensors);
        let circuits = Circuits::new(model);
        let mut comparison = Comparison::new(BOUND);
        let mut add = |key: &str, found: Array2<f32>| {
            if let Some(expected) = reference.get(key) {
                comparison.add(key, found.view().into_dyn(), expected.view());
            }
        };
        let of_positions = Embedding::Positions;
        let head = golden.head("positional_head");
        let positional = circuits.full_qk(head, of_positions, of_positions).unwrap();
        add("positional", positional.dense());
        let (ov, qk) = (Head::new(0, 1), Head::new(1, 0));
        let product = circuits.ov(ov).unwrap().times(&circuits.qk(qk).unwrap());
        add("product", product.unwrap().dense());
        let head = golden.head("rows_head");
        let rows: Vec<u32> = crate::common::tokens(&golden.heads["rows"]);
        for kind in ["ov", "full_ov", "full_qk"] {
            let matrix = circuit(model, kind, head);
            if reference.contains_key(&format!("rows/{kind}")) {
                let rows: Vec<_> = rows
                    .iter()
                    .map(|row| matrix.row(*row as usize).unwrap())
                    .collect();
                let views: Vec<_> = rows.iter().map(|row| row.view()).collect();
                add(
                    &format!("rows/{kind}"),
                    ndarray::stack(Axis(0), &views).unwrap(),
                );
            }
            let vectors = matrix.svd().unwrap().u.mapv(f32::abs);
            add(
                &format!("singular/{kind}"),
                vectors.select(Axis(1), &[0, 1, 2]),
            );
        }
        comparison.finish(golden.name);
    }
}

#[test]
fn products_transposes_and_rows_equal_the_dense_ones() {
    let model = crate::common::open("tiny-gelu-new");
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
    let row = ov.row(3).unwrap().insert_axis(Axis(0));
    add("row", row, ov.dense().select(Axis(0), &[3]));
    comparison.finish("products");
    let wide = circuits.full_ov(Head::new(0, 0)).unwrap();
    let error = ov.times(&wide).unwrap_err().to_string();
    assert!(error.contains("rows"), "{error}");
    assert!(circuits.ov(Head::new(9, 0)).is_err());
}

#[test]
fn patterns_that_do_not_fit_are_errors() {
    let model = crate::common::open("tiny-gelu-new");
    let prompt = Prompt::from([1, 2, 3]);
    let detect = |patterns: &[Array2<f32>]| {
        let error = attended(
            &model,
            &prompt,
            Attention::Matrices(patterns, Detection::default()),
        )
        .unwrap_err();
        error.to_string()
    };
    assert!(detect(&[]).contains("one per prompt"));
    assert!(detect(&[Array2::zeros((2, 2))]).contains("[3, 3]"));
    assert!(detect(&[Array2::ones((3, 3))]).contains("cannot look ahead"));
}
