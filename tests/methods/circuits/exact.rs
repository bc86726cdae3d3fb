//! Exact effects of edges: goldens, and the bits of full runs.

use std::ops::ControlFlow;

use ndarray::{Array2, Axis};
use patchlens::circuits::{Edge, EdgeSet, ExactEdges};
use patchlens::metric::{kl_divergence, logit_diffs};
use patchlens::report::Direction;
use patchlens::sweep::Cell;
use patchlens::{Base, Error, Metric, Sweep};
use proptest::prelude::*;

use super::{Golden, MODELS, random_model, random_pairs};

const DIRECTIONS: [(&str, Direction); 2] = [
    ("noising", Direction::Noising),
    ("denoising", Direction::Denoising),
];

#[test]
fn every_edge_has_the_effect_that_the_reference_has() {
    for (model, n_edges) in MODELS {
        let golden = Golden::open(model);
        for (name, direction) in DIRECTIONS {
            for (prefix, metric) in [("", golden.metric.clone()), ("kl/", kl_divergence())] {
                let study = ExactEdges::new(&golden.model, &golden.clean, &golden.corrupted);
                let study = study.unwrap().direction(direction);
                let found = study.run(&EdgeSet::full(golden.graph), &metric).unwrap();
                assert_eq!(found.per_prompt.dim(), (n_edges, 4));
                let key = format!("{prefix}exact/{name}");
                golden.expect(found.per_prompt.view(), golden.by_pair(&key), &key);
            }
        }
    }
}

#[test]
fn effects_by_position_are_those_of_the_reference() {
    for model in ["tiny-relu", "tiny-gelu"] {
        let golden = Golden::open(model);
        let study = ExactEdges::new(&golden.model, &golden.clean, &golden.corrupted).unwrap();
        let found = study
            .run_by_position(&EdgeSet::full(golden.graph), &golden.metric)
            .unwrap();
        let key = "exact/noising/by_pos"; // of pair 0
        let expected = golden.tensors[key].view().into_dimensionality().unwrap();
        golden.expect(found.per_prompt.index_axis(Axis(2), 0), expected, key);
    }
}

/// The same by one full run per edge.
fn by_full_runs(
    study: &ExactEdges<'_>,
    base: &Base<'_>,
    edges: &[Edge],
    metric: &Metric,
) -> Array2<f32> {
    let cells: Vec<Cell> = edges
        .iter()
        .map(|edge| study.cell(*edge).unwrap())
        .collect();
    let values = Sweep::over(base).run_naive(&cells, metric).unwrap();
    &values - &base.metric(metric).unwrap()
}

fn same_bits(found: &Array2<f32>, expected: &Array2<f32>) -> bool {
    let bits = |values: &Array2<f32>| values.mapv(|v| (v + 0.0).to_bits());
    bits(found) == bits(expected)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_edge_has_the_bits_of_a_full_run(
        (layers, heads, d_head) in (1_usize..4, 1_usize..4, 1_usize..7),
        seed in 0_u64..1000,
        lengths in prop::collection::vec(1_usize..9, 1..4),
        denoise: bool,
        divergence: bool,
    ) {
        let model = random_model(layers, heads, d_head, seed);
        let [clean, corrupted] = random_pairs(&lengths);
        let [clean, corrupted] = [clean, corrupted].map(|prompts| Base::new(&model, prompts).unwrap());
        let metric = if divergence { kl_divergence() } else { logit_diffs(&[(3, 5)]) };
        let (direction, base) = if denoise {
            (Direction::Denoising, &corrupted)
        } else {
            (Direction::Noising, &clean)
        };
        let study = ExactEdges::over(&clean, &corrupted).unwrap().direction(direction);
        let all = EdgeSet::full(study.graph());
        let found = study.run(&all, &metric).unwrap();
        let list: Vec<Edge> = all.edges().collect();
        let metric = clean.refer(&metric).unwrap();
        let expected = by_full_runs(&study, base, &list, &metric);
        prop_assert!(same_bits(&found.per_prompt, &expected));
        // In whatever groups, and of a part of the edges.
        let least = match study.clone().memory_limit(1).run(&all, &metric).unwrap_err() {
            Error::MemoryLimit { least, .. } => least,
            error => panic!("{error}"),
        };
        let tight = study.clone().memory_limit(least);
        prop_assert_eq!(&tight.run(&all, &metric).unwrap().per_prompt, &found.per_prompt);
        prop_assert!(tight.plan(&all, &metric).unwrap().peak_bytes <= least);
        let some = EdgeSet::new(study.graph(), list.iter().copied().step_by(3)).unwrap();
        let of_some = study.run(&some, &metric).unwrap().per_prompt;
        let every_third: Vec<usize> = (0..list.len()).step_by(3).collect();
        prop_assert_eq!(of_some, found.per_prompt.select(Axis(0), &every_third));
    }
}

#[test]
fn equal_prompts_have_no_effects() {
    let model = random_model(2, 2, 4, 0);
    let [prompts, _] = random_pairs(&[5, 3]);
    let study = ExactEdges::new(&model, &prompts, &prompts).unwrap();
    let found = study
        .run(&EdgeSet::full(study.graph()), &logit_diffs(&[(3, 5)]))
        .unwrap();
    assert!(found.per_prompt.iter().all(|v| *v == 0.0));
    assert_eq!(found.effect.about.counts["multiply-adds"], {
        let plan = study.plan(&found.edges, &logit_diffs(&[(3, 5)])).unwrap();
        assert_eq!(plan.lanes, 0);
        plan.multiply_adds
    });
}

#[test]
fn a_study_counts_what_it_planned_and_ends_when_told() {
    let model = random_model(3, 2, 4, 1);
    let [clean, corrupted] = random_pairs(&[6, 6]);
    let metric = logit_diffs(&[(3, 5)]);
    let study = ExactEdges::new(&model, &clean, &corrupted).unwrap();
    let all = EdgeSet::full(study.graph());
    let plan = study.plan(&all, &metric).unwrap();
    let whole = study.run(&all, &metric).unwrap();
    assert_eq!(
        whole.effect.about.counts["multiply-adds"],
        plan.multiply_adds
    );
    assert_eq!(plan.cells, all.len());

    let mut seen = Vec::new();
    let stopped = study.clone().observe(|progress| {
        seen.push((progress.done, progress.total));
        if seen.len() == 3 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    let part = stopped.run(&all, &metric).unwrap();
    drop(stopped);
    assert!(part.effect.about.partial && part.scores().is_err());
    assert_eq!(seen.len(), 3);
    assert!(seen.iter().all(|(_, total)| *total == all.len()));
    let reached = part
        .per_prompt
        .rows()
        .into_iter()
        .filter(|row| !row[0].is_nan())
        .count();
    assert_eq!(reached, seen[2].0);
    for (part, whole) in part.per_prompt.iter().zip(&whole.per_prompt) {
        assert!(part.is_nan() || part == whole);
    }
    let edge: Edge = "m2->logits".parse().unwrap(); // late receivers come first
    assert_eq!(part.of(edge).unwrap(), whole.of(edge).unwrap());
}

#[test]
fn edges_of_another_model_are_refused() {
    let model = random_model(2, 2, 4, 0);
    let [clean, corrupted] = random_pairs(&[5]);
    let study = ExactEdges::new(&model, &clean, &corrupted).unwrap();
    let other = EdgeSet::full(patchlens::circuits::Graph::new(&patchlens::Config::gpt2()));
    let message = study
        .run(&other, &logit_diffs(&[(3, 5)]))
        .unwrap_err()
        .to_string();
    assert!(message.starts_with("graph: found 12 layers"), "{message}");
    let some = EdgeSet::from_names(study.graph(), ["input->m0"]).unwrap();
    let found = study.run(&some, &logit_diffs(&[(3, 5)])).unwrap();
    assert!(found.scores().is_err());
    let message = found
        .of("input->m1".parse().unwrap())
        .unwrap_err()
        .to_string();
    assert_eq!(
        message,
        "edge: found `input->m1`; expected one of the 1 scored edges"
    );
}

#[test]
fn edges_that_do_not_fit_are_rejected_before_others_have_run() {
    let model = random_model(3, 2, 4, 1);
    let [clean, corrupted] = random_pairs(&[6, 6]);
    let metric = logit_diffs(&[(3, 5)]);
    let study = ExactEdges::new(&model, &clean, &corrupted).unwrap();
    let all = EdgeSet::full(study.graph());
    // What is enough, if it is not enough.
    let least = |limit: u64| {
        let mut seen = 0;
        let limited = study.clone().memory_limit(limit).observe(|_| {
            seen += 1;
            ControlFlow::Continue(())
        });
        let found = limited.run(&all, &metric);
        drop(limited);
        match found {
            Ok(_) => None,
            Err(Error::MemoryLimit { least, .. }) => {
                assert_eq!(seen, 0, "{limit}");
                Some(least)
            }
            Err(error) => panic!("{error}"),
        }
    };
    // The base runs and the edges each name what they need.
    let mut enough = 1;
    while let Some(more) = least(enough) {
        assert!(more > enough);
        enough = more;
    }
    let parts = (1..20).map(|i| least(enough * i / 20));
    assert!(parts.flatten().count() > 10);
}
