//! How scores agree, against pandas, and for the shipped model's approximations.

use patchlens::circuits::{
    Approximation, EdgeAttribution, EdgeScores, EdgeSet, ExactEdges, Orientation, Ranking, Steps,
};
use patchlens::metric::logit_diffs;

use super::{Golden, MODELS, random_model, random_pairs};

#[test]
fn numbers_are_those_of_pandas() {
    for (model, n_edges) in MODELS {
        let golden = Golden::open(model);
        let of_first_pair = |key: &str| {
            let values = golden.by_pair(key).column(0).to_vec();
            EdgeScores::new(golden.graph, values, Orientation::UsefulIsNegative).unwrap()
        };
        let exact = of_first_pair("exact/noising");
        let methods = golden.metadata["agreement"].as_object().unwrap();
        assert_eq!(methods.len(), 5);
        for (method, expected) in methods {
            let found = of_first_pair(method).agreement(&exact).unwrap();
            assert_eq!(found.edges.len(), n_edges);
            let n = expected["n"].as_u64().unwrap() as usize;
            let overlap = found.overlap(n, Ranking::Absolute).unwrap();
            for (name, found) in [
                ("pearson", found.pearson),
                ("spearman", found.spearman),
                ("spearman_of_sizes", found.spearman_of_sizes),
                ("relative_error", found.relative_error),
                ("overlap", Some(overlap)),
            ] {
                let expected = expected[name].as_f64().unwrap();
                let error = (found.unwrap() - expected).abs();
                assert!(error < 1e-9, "{model}, {method}, {name}: {error:e}");
            }
        }
    }
}

#[test]
fn more_steps_come_nearer_in_the_shipped_model() {
    let golden = Golden::open("mini");
    let exact = ExactEdges::new(&golden.model, &golden.clean, &golden.corrupted).unwrap();
    let all = EdgeSet::full(exact.graph());
    let exact = exact.run(&all, &golden.metric).unwrap();
    let study = EdgeAttribution::new(&golden.model, &golden.clean, &golden.corrupted).unwrap();
    let agreement = |method| {
        let found = study.run(method, &golden.metric).unwrap();
        let found = found.agreement(&exact).unwrap();
        println!("{method:?}: {found}");
        found
    };
    let eap = agreement(Approximation::Eap);
    let ig = agreement(Approximation::EapIg(Steps::Left(5)));
    assert!(ig.relative_error < eap.relative_error);
    assert!(ig.pearson > eap.pearson);
    let receivers = agreement(Approximation::ReceiverExactIg(Steps::Left(5)));
    assert!(receivers.relative_error < ig.relative_error);
    assert!(receivers.pearson > ig.pearson);
    let worst = eap.worst(1)[0].edge.to_string();
    assert_eq!(worst, "input->m0"); // the first MLP is far from linear
}

#[test]
fn exact_effects_of_a_few_edges_are_enough() {
    let model = random_model(2, 2, 4, 0);
    let [clean, corrupted] = random_pairs(&[5, 3]);
    let metric = logit_diffs(&[(3, 5)]);
    let study = EdgeAttribution::new(&model, &clean, &corrupted).unwrap();
    let found = study.run(Approximation::Eap, &metric).unwrap();
    let exact = ExactEdges::new(&model, &clean, &corrupted).unwrap();
    let best = found.scores().unwrap().top_n(6, Ranking::Absolute).unwrap();
    let exact_best = exact.run(&best, &metric).unwrap();
    let agreement = found.agreement(&exact_best).unwrap();
    let edges: Vec<_> = agreement.edges.iter().map(|pair| pair.edge).collect();
    assert_eq!(edges, best.edges().collect::<Vec<_>>());
    for pair in &agreement.edges {
        assert_eq!(pair.reference, exact_best.of(pair.edge).unwrap().mean);
    }
    let rest = exact.run(&best.complement(), &metric).unwrap();
    let message = exact_best.agreement(&rest).unwrap_err().to_string();
    assert_eq!(
        message,
        "edges that are compared: found none; expected at least one that both methods score"
    );
}
