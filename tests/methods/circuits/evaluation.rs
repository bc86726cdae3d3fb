//! What is left of a metric in a circuit: goldens, and the two ends to the bit.

use std::ops::ControlFlow;

use ndarray::{Array2, Axis};
use patchlens::circuits::{
    CircuitEvaluation, Edge, EdgeScores, EdgeSet, ExactEdges, FaithfulnessCurve, Graph,
    Orientation, Ranking,
};
use patchlens::metric::{kl_divergence, logit_diffs};
use patchlens::report::{Absent, Labelled};
use patchlens::{Base, Config, Edit, Error, Intervention, Site};
use proptest::prelude::*;

use super::{Golden, MODELS, random_model, random_pairs};

/// The golden's circuits, of all sizes.
pub(super) fn circuits(golden: &Golden) -> Vec<EdgeSet> {
    let list = golden.metadata["circuits"].as_array().unwrap();
    list.iter().map(|bits| golden.circuit(bits)).collect()
}

pub(super) fn study(golden: &Golden) -> CircuitEvaluation<'_> {
    CircuitEvaluation::new(&golden.model, &golden.clean, &golden.corrupted).unwrap()
}

#[test]
fn circuits_keep_what_they_keep_in_the_reference() {
    for (model, _) in MODELS {
        let golden = Golden::open(model);
        let circuits = circuits(&golden);
        for (key, metric) in [
            ("circuits/corrupted", golden.metric.clone()),
            ("circuits/kl", kl_divergence()),
        ] {
            let found = study(&golden).run(&circuits, &metric).unwrap();
            let expected = golden.tensors[key].view().into_dimensionality().unwrap();
            golden.expect(found.values.view(), expected, key);
        }
    }
}

#[test]
fn pruning_leaves_the_metric_as_it_is() {
    let golden = Golden::open("tiny-gelu");
    let whole = circuits(&golden);
    let pruned: Vec<EdgeSet> = whole.iter().map(EdgeSet::pruned).collect();
    assert_ne!(whole, pruned);
    let values = |circuits: &[EdgeSet]| {
        let found = study(&golden).run(circuits, &golden.metric);
        found.unwrap().values
    };
    let (whole, pruned) = (values(&whole), values(&pruned));
    golden.expect(pruned.view(), whole.view(), "pruned");
}

#[test]
fn faithfulness_is_a_ratio_of_means() {
    let golden = Golden::open("mini");
    let circuits = circuits(&golden);
    let found = study(&golden).run(&circuits, &golden.metric).unwrap();
    let share = found.faithfulness().unwrap();
    let mean =
        |values: &[f32]| values.iter().map(|v| f64::from(*v)).sum::<f64>() / values.len() as f64;
    let ends = [&found.clean, &found.corrupted].map(|v| mean(v.as_slice().unwrap()));
    for (row, share) in found.values.rows().into_iter().zip(share.values()) {
        let expected = (mean(&row.to_vec()) - ends[1]) / (ends[0] - ends[1]);
        assert!((f64::from(*share) - expected).abs() < 1e-5);
    }
    assert_eq!(share.about.title, "Faithfulness of circuits");
    assert_eq!(
        found.effect.about.title,
        "Circuits: change of the logit difference against the corrupted run"
    );
    assert_eq!(
        share.axes()[0].labels[0],
        format!("0: {} edges", circuits[0].len())
    );
    let all = [EdgeSet::empty(golden.graph), EdgeSet::full(golden.graph)];
    let ends = study(&golden).run(&all, &golden.metric).unwrap();
    let ends = ends.faithfulness().unwrap();
    let ends = ends.values();
    assert!(ends[[0]] == 0.0 && (ends[[1]] - 1.0).abs() < 1e-6, "{ends}");
}

pub(super) fn some_edges(graph: Graph, seed: usize, share: usize) -> EdgeSet {
    let list: Vec<Edge> = graph.edges().collect();
    let chosen = list
        .iter()
        .enumerate()
        .filter(|(i, _)| (i * 7919 + seed * 104_729) % 97 < share);
    EdgeSet::new(graph, chosen.map(|(_, edge)| *edge)).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn ends_and_single_edges_are_exact(
        (layers, heads, d_head) in (1_usize..4, 1_usize..4, 1_usize..7),
        seed in 0_u64..1000,
        lengths in prop::collection::vec(1_usize..9, 1..4),
        divergence: bool,
    ) {
        let model = random_model(layers, heads, d_head, seed);
        let [clean, corrupted] = random_pairs(&lengths);
        let metric = if divergence { kl_divergence() } else { logit_diffs(&[(3, 5)]) };
        let study = CircuitEvaluation::new(&model, &clean, &corrupted).unwrap();
        let graph = study.graph();
        let all = EdgeSet::full(graph);
        let mut circuits = vec![EdgeSet::empty(graph), all.clone()];
        for edge in graph.edges() {
            let mut without = all.clone();
            without.remove(edge).unwrap();
            circuits.push(without);
        }
        circuits.extend([15, 45, 80].map(|share| some_edges(graph, seed as usize, share)));
        let found = study.run(&circuits, &metric).unwrap();
        prop_assert_eq!(found.values.row(0), found.corrupted.view());
        prop_assert_eq!(found.values.row(1), found.clean.view());
        // All edges but one is the exact effect of that one, whose bits it has.
        let exact = ExactEdges::new(&model, &clean, &corrupted).unwrap();
        let exact = exact.run(&all, &metric).unwrap().per_prompt;
        for (edge, effects) in exact.rows().into_iter().enumerate() {
            let change = &found.values.row(2 + edge) - &found.clean;
            prop_assert_eq!(change, effects);
        }
        // In whatever company.
        let least = match study.clone().memory_limit(1).run(&circuits, &metric).unwrap_err() {
            Error::MemoryLimit { least, .. } => least,
            error => panic!("{error}"),
        };
        let tight = study.clone().memory_limit(least).run(&circuits, &metric).unwrap();
        prop_assert_eq!(&tight.values, &found.values);
        let alone = study.run(&circuits[circuits.len() - 1..], &metric).unwrap().values;
        prop_assert_eq!(alone.row(0), found.values.row(circuits.len() - 1));
    }
}

#[test]
fn a_study_ends_when_told() {
    let model = random_model(2, 2, 4, 0);
    let [clean, corrupted] = random_pairs(&[5, 4]);
    let metric = logit_diffs(&[(3, 5)]);
    let study = CircuitEvaluation::new(&model, &clean, &corrupted).unwrap();
    let graph = study.graph();
    let circuits: Vec<EdgeSet> = (0..3).map(|i| some_edges(graph, i, 40)).collect();
    let whole = study.run(&circuits, &metric).unwrap().values;
    let least = match study
        .clone()
        .memory_limit(1)
        .run(&circuits, &metric)
        .unwrap_err()
    {
        Error::MemoryLimit { least, .. } => least,
        error => panic!("{error}"),
    };
    for stop in 1..=6 {
        let mut seen = Vec::new();
        let stopped = study.clone().memory_limit(least).observe(|progress| {
            seen.push((progress.done, progress.total));
            if progress.done == stop {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        let part = stopped.run(&circuits, &metric).unwrap();
        drop(stopped);
        let expected: Vec<_> = (1..=stop).map(|done| (done, 6)).collect();
        assert_eq!(seen, expected);
        assert_eq!(part.effect.about.partial, stop < 6);
        let by_pair = part.values.t().iter().copied().collect::<Vec<f32>>();
        let expected = whole.t().iter().copied().collect::<Vec<f32>>();
        assert_eq!(by_pair[..stop], expected[..stop]);
        assert!(by_pair[stop..].iter().all(|v| v.is_nan()));
        let reasons: Vec<_> = part.effect.absent().iter().copied().collect();
        let reached = stop.saturating_sub(3);
        assert!(reasons[..reached].iter().all(Option::is_none));
        assert!(
            reasons[reached..]
                .iter()
                .all(|r| *r == Some(Absent::NotRun))
        );
    }
}

#[test]
fn what_cannot_be_evaluated_is_an_error() {
    let model = random_model(2, 2, 4, 0);
    let [clean, corrupted] = random_pairs(&[5]);
    let study = CircuitEvaluation::new(&model, &clean, &corrupted).unwrap();
    let metric = logit_diffs(&[(3, 5)]);
    let message = |circuits: &[EdgeSet]| study.run(circuits, &metric).unwrap_err().to_string();
    assert_eq!(message(&[]), "circuits: found none; expected at least one");
    let other = EdgeSet::full(Graph::new(&Config::gpt2()));
    assert!(message(&[other]).starts_with("graph: found 12 layers"));
    let same = CircuitEvaluation::new(&model, &clean, &clean).unwrap();
    let found = same.run(&[EdgeSet::full(same.graph())], &metric).unwrap();
    assert_eq!(found.values, found.clean.clone().insert_axis(Axis(0)));
    assert!(found.faithfulness().is_err(), "both runs are the same");
    let base = Base::new(&model, &clean).unwrap();
    let zeroed = vec![Intervention::new(Site::MlpOut.at(0), Edit::Zero)];
    let zeroed = Base::over(&base, &corrupted, zeroed).unwrap();
    let error = CircuitEvaluation::over(&zeroed, &base)
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "clean runs: found runs under an intervention at `blocks.0.hook_mlp_out`; expected plain \
         ones"
    );
    // Corrupted runs may be under interventions: what is outside carries what they left.
    let study = CircuitEvaluation::over(&base, &zeroed).unwrap();
    let ends = [EdgeSet::empty(study.graph()), EdgeSet::full(study.graph())];
    let found = study.run(&ends, &metric).unwrap();
    let expected: Array2<f32> = ndarray::stack![Axis(0), found.corrupted, found.clean];
    assert_eq!(found.values, expected);
}

#[test]
fn curves_are_the_faithfulness_of_the_best_edges() {
    let golden = Golden::open("mini");
    let study = study(&golden);
    let scores = golden.scores();
    let shares = FaithfulnessCurve::MIB_SHARES;
    let curve = |ranking| {
        let found = study.curve(&scores, ranking, &shares, &golden.metric);
        found.unwrap()
    };
    let signed = curve(Ranking::Signed);
    let sizes = [0, 0, 2, 4, 9, 23, 47, 95, 239, 479];
    let circuits = sizes.map(|n| scores.top_n(n, Ranking::Signed).unwrap().pruned());
    assert_eq!(signed.circuits, circuits);
    let alone = study.run(&circuits, &golden.metric).unwrap();
    assert_eq!(signed.evaluated.values, alone.values);
    let alone = alone.faithfulness().unwrap();
    let values = |of: &Labelled| of.values().iter().copied().collect::<Vec<f32>>();
    assert_eq!(values(&signed.faithfulness), values(&alone));
    assert!(signed.faithfulness.curves().is_ok());
    // Trapezoids by hand.
    let f = values(&alone);
    let mut area = 0.0;
    let mut distance = 0.0;
    for i in 1..10 {
        let width = shares[i] - shares[i - 1];
        let (a, b) = (f64::from(f[i - 1]), f64::from(f[i]));
        area += width * (a + b) / 2.0;
        distance += width * ((1.0 - a).abs() + (1.0 - b).abs()) / 2.0;
    }
    assert!((signed.area().unwrap() - area).abs() < 1e-12);
    assert!((signed.distance().unwrap() - distance).abs() < 1e-12);
    // A useful order is nearer to the behaviour than the reverse, and than an arbitrary one.
    let absolute = curve(Ranking::Absolute);
    let of_values = |values: Vec<f32>| {
        let scores = EdgeScores::new(golden.graph, values, Orientation::UsefulIsPositive).unwrap();
        let found = study.curve(&scores, Ranking::Signed, &shares, &golden.metric);
        found.unwrap()
    };
    let sized = scores.values().iter().map(|v| v.abs());
    let reverse = of_values(sized.map(|v| -v).collect());
    let arbitrary = of_values((0..479).map(|i| (i * 7919 % 479) as f32).collect());
    println!(
        "CPR {:?}; CMD {:?}, of the reverse order {:?}, of an arbitrary one {:?}",
        signed.area(),
        absolute.distance(),
        reverse.distance(),
        arbitrary.distance()
    );
    assert!(absolute.distance() < arbitrary.distance());
    assert!(absolute.distance() < reverse.distance());
    assert!(signed.area() > arbitrary.area());
    for bad in [
        vec![0.5, 0.1],
        vec![0.1, 0.1],
        vec![-0.1],
        vec![1.5],
        vec![f64::NAN],
    ] {
        let error = study.curve(&scores, Ranking::Signed, &bad, &golden.metric);
        let message = error.unwrap_err().to_string();
        assert!(
            message.starts_with("shares of the edges: found ["),
            "{message}"
        );
    }
}
