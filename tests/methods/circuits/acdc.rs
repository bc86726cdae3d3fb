//! ACDC: the reference's decisions, those of a program that takes one step at a time, and known
//! circuits.

use std::ops::ControlFlow;

use patchlens::circuits::{Acdc, AcdcSearch, CircuitEvaluation, Edge, EdgeSet, Receiver, Tried};
use patchlens::metric::{kl_divergence, logit_diffs};
use patchlens::report::About;
use patchlens::{Error, Metric};
use proptest::prelude::*;

use super::{Golden, MODELS, random_model, random_pairs};

/// The golden's searches: name of the metric, threshold, whether whole inputs come first.
fn searches(golden: &Golden) -> Vec<(String, f32, bool)> {
    let parse = |name: &String| {
        let parts: Vec<&str> = name.split('/').collect();
        (
            parts[0].to_string(),
            parts[1].parse().unwrap(),
            parts.len() > 2,
        )
    };
    let found = golden.metadata["acdc"].as_object().unwrap();
    found.keys().map(parse).collect()
}

fn key(name: &str, tau: f32, whole: bool) -> String {
    format!("{name}/{tau}{}", if whole { "/whole_inputs" } else { "" })
}

/// What a step tried, as the golden numbers it.
fn number(golden: &Golden, tried: Tried) -> f32 {
    match tried {
        Tried::Edge(edge) => golden.graph.index(edge).unwrap() as f32,
        Tried::Inputs(to) => {
            let receivers: Vec<Receiver> = golden.graph.receivers().collect();
            -1.0 - receivers.iter().position(|r| *r == to).unwrap() as f32
        }
    }
}

fn expect_trace(golden: &Golden, found: &AcdcSearch, key: &str, sign: f32) {
    let tensor = |name: &str| {
        let tensor = &golden.tensors[&format!("acdc/{key}/{name}")];
        tensor.iter().copied().collect::<Vec<f32>>()
    };
    let steps = found.decisions.iter();
    let tried: Vec<f32> = steps.clone().map(|d| number(golden, d.tried)).collect();
    assert_eq!(tried, tensor("tried"), "{}: {key}", golden.name);
    let removed = steps.clone().map(|d| f32::from(u8::from(d.removed)));
    let removed: Vec<f32> = removed.collect();
    assert_eq!(removed, tensor("removed"), "{}: {key}", golden.name);
    let values = tensor("values");
    let scale = values.iter().fold(0.0, |most: f32, v| most.max(v.abs()));
    for (step, expected) in steps.zip(&values) {
        let miss = (sign * step.metric as f32 - expected).abs() / scale;
        assert!(
            miss < 1e-5,
            "{}: {key}, {:?}: {miss:e}",
            golden.name,
            step.tried
        );
    }
    let circuit = golden.circuit(&golden.metadata["acdc"][key]);
    assert_eq!(found.circuit, circuit, "{}: {key}", golden.name);
    assert!(!found.partial);
}

#[test]
fn decisions_are_those_of_the_reference() {
    for (model, _) in MODELS {
        let golden = Golden::open(model);
        let asked = searches(&golden);
        for (name, metric, sign) in [
            ("kl", kl_divergence(), 1.0),
            ("logit_diff", golden.metric.clone(), -1.0),
        ] {
            for whole in [false, true] {
                let own = asked.iter().filter(|(n, _, w)| n == name && *w == whole);
                let taus: Vec<f32> = own.map(|(_, tau, _)| *tau).collect();
                assert_eq!(taus.len(), 2);
                let study = Acdc::new(&golden.model, &golden.clean, &golden.corrupted);
                let found = study
                    .unwrap()
                    .whole_inputs(whole)
                    .run(&taus, &metric)
                    .unwrap();
                for (tau, search) in taus.iter().zip(&found.searches) {
                    assert_eq!(search.tau, *tau);
                    expect_trace(&golden, search, &key(name, *tau, whole), sign);
                }
            }
        }
    }
}

/// Algorithm 1 of the paper, one circuit at a time.
fn one_step_at_a_time(
    study: &CircuitEvaluation<'_>,
    order: &[Edge],
    tau: f32,
    metric: &Metric,
    sign: f64,
) -> (EdgeSet, Vec<(Edge, f64, bool)>) {
    let mut circuit = EdgeSet::full(study.graph());
    let value = |circuit: &EdgeSet| {
        let found = study.run(std::slice::from_ref(circuit), metric).unwrap();
        let values = found.values.iter().map(|v| f64::from(*v));
        values.sum::<f64>() / found.values.len() as f64
    };
    let mut current = value(&circuit);
    let mut steps = Vec::new();
    for edge in order {
        let mut without = circuit.clone();
        without.remove(*edge).unwrap();
        let node = edge.to.source();
        if node.is_some_and(|node| circuit.edges().all(|e| e.from != node)) {
            circuit = without;
            continue;
        }
        let new = value(&without);
        let removed = sign * (new - current) < f64::from(tau);
        steps.push((*edge, new, removed));
        if removed {
            (circuit, current) = (without, new);
        }
    }
    (circuit, steps)
}

/// All edges in the order of the program, from a search that removes everything.
fn order(study: &Acdc<'_>, metric: &Metric) -> Vec<Edge> {
    // With a threshold that nothing reaches, every edge stays, and none goes without a run.
    let found = study.run(&[-1e30], metric).unwrap();
    let edge = |tried| match tried {
        Tried::Edge(edge) => edge,
        Tried::Inputs(_) => panic!("no whole inputs were asked for"),
    };
    let order: Vec<Edge> = found.searches[0]
        .decisions
        .iter()
        .map(|d| edge(d.tried))
        .collect();
    assert_eq!(order.len(), study.graph().n_edges());
    order
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn running_ahead_changes_no_bit(
        (layers, heads, d_head) in (1_usize..4, 1_usize..3, 1_usize..5),
        seed in 0_u64..1000,
        lengths in prop::collection::vec(1_usize..7, 1..3),
        divergence: bool,
        quantile in 0.1..0.9,
    ) {
        let model = random_model(layers, heads, d_head, seed);
        let [clean, corrupted] = random_pairs(&lengths);
        let metric = if divergence { kl_divergence() } else { logit_diffs(&[(3, 5)]) };
        let sign = if divergence { 1.0 } else { -1.0 };
        let study = Acdc::new(&model, &clean, &corrupted).unwrap();
        let order = order(&study, &metric);
        // Thresholds among the sizes of the effects, so that some edges stay.
        let evaluation = CircuitEvaluation::new(&model, &clean, &corrupted).unwrap();
        let evaluation = evaluation.known_nodes(true);
        let (_, steps) = one_step_at_a_time(&evaluation, &order, 1e-3, &metric, sign);
        let mut rises: Vec<f64> = steps.windows(2).map(|w| (w[1].1 - w[0].1).abs()).collect();
        rises.sort_by(f64::total_cmp);
        let tau = rises.get((quantile * rises.len() as f64) as usize).map_or(1e-3, |r| *r as f32);
        let taus = [tau, 1e-3, 10.0 * tau];
        let found = study.run(&taus, &metric).unwrap();
        for (tau, search) in taus.iter().zip(&found.searches) {
            let (circuit, steps) = one_step_at_a_time(&evaluation, &order, *tau, &metric, sign);
            prop_assert_eq!(&search.circuit, &circuit);
            let own = search.decisions.iter();
            let own: Vec<_> = own.map(|d| (d.tried, d.metric, d.removed)).collect();
            let steps: Vec<_> = steps.into_iter().map(|(e, v, r)| (Tried::Edge(e), v, r)).collect();
            prop_assert_eq!(own, steps);
        }
        // Alone, and in the least memory, it decides the same.
        let alone = study.run(&taus[..1], &metric).unwrap();
        prop_assert_eq!(&alone.searches[0], &found.searches[0]);
        let least = match study.clone().memory_limit(1).run(&taus, &metric).unwrap_err() {
            Error::MemoryLimit { least, .. } => least,
            error => panic!("{error}"),
        };
        let tight = study.clone().memory_limit(least).run(&taus, &metric).unwrap();
        prop_assert_eq!(&tight.searches, &found.searches);
    }
}

#[test]
fn thresholds_share_runs_until_they_disagree() {
    let golden = Golden::open("tiny-gelu");
    let study = Acdc::new(&golden.model, &golden.clean, &golden.corrupted).unwrap();
    let metric = kl_divergence();
    let runs = |taus: &[f32]| study.run(taus, &metric).unwrap().runs;
    assert_eq!(runs(&[0.02, 0.02]), runs(&[0.02]));
    let [fine, coarse] = [0.003, 0.02].map(|tau| runs(&[tau]));
    let both = runs(&[0.003, 0.02]);
    assert!(both < fine + coarse, "{both} of {fine} + {coarse}");
    // Where everything goes, next to no run is wasted, and rounds are few.
    let found = study.run(&[1e30], &metric).unwrap();
    assert!(found.searches[0].circuit.is_empty());
    assert_eq!(found.runs, 4 * found.searches[0].decisions.len());
    assert_eq!(found.kept.about.counts["runs"], found.runs as u64);
}

#[test]
fn a_search_costs_less_than_full_passes() {
    let golden = Golden::open("mini");
    let study = Acdc::new(&golden.model, &golden.clean, &golden.corrupted).unwrap();
    let found = study.run(&[0.2], &kl_divergence()).unwrap();
    let evaluation = CircuitEvaluation::new(&golden.model, &golden.clean, &golden.corrupted);
    let one = [EdgeSet::full(golden.graph)];
    let passes = evaluation.unwrap().plan(&one, &kl_divergence()).unwrap();
    let naive = passes.naive_multiply_adds * found.runs as u64 / 4;
    let counted = found.kept.about.counts[About::MULTIPLY_ADDS];
    println!(
        "{} decisions, {} runs, {:.3} of the multiply-adds of as many full passes",
        found.searches[0].decisions.len(),
        found.runs,
        counted as f64 / naive as f64
    );
    assert!(4 * counted < naive, "{counted} of {naive}");
}

#[test]
fn a_plan_is_of_all_edges_that_stay() {
    let golden = Golden::open("tiny-relu");
    let study = Acdc::new(&golden.model, &golden.clean, &golden.corrupted).unwrap();
    let plan = study.plan(&kl_divergence()).unwrap();
    assert_eq!((plan.cells, plan.lanes + plan.unchanged), (46, 4 * 46));
    let found = study.run(&[-1e30], &kl_divergence()).unwrap();
    assert_eq!(found.searches[0].decisions.len(), 46);
    assert!(found.runs >= 4 * 46 && found.runs < 5 * 46);
    let counted = found.kept.about.counts[About::MULTIPLY_ADDS];
    assert!(
        counted >= plan.multiply_adds,
        "{counted} of {}",
        plan.multiply_adds
    );
}

#[test]
fn a_search_ends_when_told() {
    let golden = Golden::open("tiny-gelu");
    let study = Acdc::new(&golden.model, &golden.clean, &golden.corrupted).unwrap();
    let metric = kl_divergence();
    let whole = study.run(&[0.02], &metric).unwrap();
    let mut seen = Vec::new();
    let stopped = study.clone().observe(|progress| {
        seen.push((progress.done, progress.total, progress.unit));
        if progress.done < 60 {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    });
    let part = stopped.run(&[0.02], &metric).unwrap();
    drop(stopped);
    assert!(
        seen.iter()
            .all(|(_, total, unit)| (*total, *unit) == (262, "edges"))
    );
    assert!(seen.windows(2).all(|two| two[0].0 <= two[1].0));
    let (part, whole) = (&part.searches[0], &whole.searches[0]);
    assert!(part.partial && !whole.partial);
    let n = part.decisions.len();
    assert!(n > 0 && n < whole.decisions.len());
    assert_eq!(part.decisions, whole.decisions[..n]);
    assert!(!part.circuit.difference(&whole.circuit).unwrap().is_empty());
    assert!(whole.circuit.difference(&part.circuit).unwrap().is_empty());
}

#[test]
fn what_cannot_be_searched_is_an_error() {
    let model = random_model(2, 2, 4, 0);
    let [clean, corrupted] = random_pairs(&[5]);
    let study = Acdc::new(&model, &clean, &corrupted).unwrap();
    let message = |taus: &[f32]| study.run(taus, &kl_divergence()).unwrap_err().to_string();
    assert_eq!(
        message(&[]),
        "thresholds: found none; expected at least one"
    );
    let expected = "threshold: found NaN; expected a finite number";
    assert_eq!(message(&[0.1, f32::NAN]), expected);
}
