//! What edges outside a circuit carry, what those inside carry, and circuits' runs as lanes:
//! identities, bits and costs.

use ndarray::{ArrayView1, Axis};
use patchlens::circuits::{
    CircuitEvaluation, CircuitRun, Edge, EdgeAblation, EdgeSet, Graph, Receiver,
};
use patchlens::config::{MlpKind, Norm, Positions};
use patchlens::metric::{kl_divergence, logit_diffs};
use patchlens::report::About;
use patchlens::{
    Base, Config, Edit, Error, Intervention, Metric, Prompt, Prompts, Site, Transformer,
};
use proptest::prelude::*;

use super::evaluation::{circuits, some_edges, study};
use super::full_passes::by_full_passes;
use super::{Golden, random_model, random_pairs};

/// A study of random pairs under each ablation and meaning.
fn studies<'m>(
    model: &'m Transformer,
    [clean, corrupted]: &[Prompts; 2],
) -> Vec<CircuitEvaluation<'m>> {
    let study = CircuitEvaluation::new(model, clean, corrupted).unwrap();
    let tokens = |prompts: &Prompts| prompts.iter().map(|p| p.tokens.clone()).collect::<Vec<_>>();
    let all = Prompts::new([tokens(clean), tokens(corrupted)].concat()).unwrap();
    let ablations = [
        EdgeAblation::MeanByPosition(all.clone()),
        EdgeAblation::Mean(all),
        EdgeAblation::Zero,
    ];
    let mut studies = vec![study.clone(), study.clone().circuit_run(CircuitRun::Edge)];
    studies.extend(ablations.map(|ablation| study.clone().ablation(ablation).unwrap()));
    if let Ok(resampled) = study.ablation(EdgeAblation::Resample { seed: 3 }) {
        studies.push(resampled.clone());
        studies.push(resampled.circuit_run(CircuitRun::Edge));
    }
    studies
}

fn random_circuits(graph: Graph, seed: u64) -> Vec<EdgeSet> {
    let shares = [2, 8, 20, 45, 60, 90];
    shares
        .map(|share| some_edges(graph, seed as usize, share))
        .into()
}

/// A model that may lack MLPs or LayerNorms, or whose queries and keys alone read positions.
fn toy_model(
    (n_layers, n_heads, d_head): (usize, usize, usize),
    [no_mlps, no_norms, shortformer]: [bool; 3],
    seed: u64,
) -> Transformer {
    let of = random_model(n_layers, n_heads, d_head, seed)
        .config()
        .clone();
    let config = Config {
        mlp: if no_mlps { MlpKind::None } else { of.mlp },
        norm: if no_norms { Norm::None } else { of.norm },
        positions: if shortformer {
            Positions::Shortformer
        } else {
            of.positions
        },
        ..of
    };
    Transformer::random(config, seed).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn lanes_have_the_bits_of_full_passes(
        shape in (1_usize..4, 1_usize..4, 1_usize..7),
        parts: [bool; 3],
        seed in 0_u64..1000,
        lengths in prop::collection::vec(1_usize..9, 1..4),
        divergence: bool,
    ) {
        let model = toy_model(shape, parts, seed);
        let [clean, corrupted] = random_pairs(&lengths);
        let metric = if divergence { kl_divergence() } else { logit_diffs(&[(3, 5)]) };
        let study = CircuitEvaluation::new(&model, &clean, &corrupted).unwrap();
        let metric = Base::new(&model, &clean).unwrap().refer(&metric).unwrap();
        let circuits = random_circuits(study.graph(), seed);
        let found = study.run(&circuits, &metric).unwrap();
        let expected = by_full_passes(&model, [&clean, &corrupted], &circuits, &metric);
        prop_assert_eq!(found.values, expected);
    }

    #[test]
    fn both_ends_are_exact_under_every_ablation(
        shape in (1_usize..4, 1_usize..4, 1_usize..7),
        parts: [bool; 3],
        seed in 0_u64..1000,
        lengths in prop::collection::vec(1_usize..6, 1..5),
        divergence: bool,
    ) {
        let model = toy_model(shape, parts, seed);
        let pairs = random_pairs(&lengths);
        let metric = if divergence { kl_divergence() } else { logit_diffs(&[(3, 5)]) };
        for study in studies(&model, &pairs) {
            let graph = study.graph();
            let mut circuits = vec![EdgeSet::empty(graph), EdgeSet::full(graph)];
            circuits.extend(random_circuits(graph, seed));
            let found = study.run(&circuits, &metric).unwrap();
            prop_assert_eq!(found.values.row(0), found.corrupted.view());
            prop_assert_eq!(found.values.row(1), found.clean.view());
            // Planned is counted.
            let plan = study.plan(&circuits, &metric).unwrap();
            prop_assert_eq!(found.effect.about.counts[About::MULTIPLY_ADDS], plan.multiply_adds);
            prop_assert_eq!(plan.lanes + plan.unchanged, circuits.len() * lengths.len());
            // In any order, in chunks of any size, in whatever company.
            let reversed: Vec<EdgeSet> = circuits.iter().rev().cloned().collect();
            let back = study.run(&reversed, &metric).unwrap().values;
            let least = match study.clone().memory_limit(1).run(&circuits, &metric).unwrap_err() {
                Error::MemoryLimit { least, .. } => least,
                error => panic!("{error}"),
            };
            let tight = study.clone().memory_limit(least);
            prop_assert!(tight.plan(&circuits, &metric).unwrap().peak_bytes <= least);
            let tight = tight.run(&circuits, &metric).unwrap().values;
            let bits = |row: ArrayView1<'_, f32>| row.mapv(f32::to_bits);
            for (i, circuit) in circuits.iter().enumerate() {
                let row = bits(found.values.row(i));
                prop_assert_eq!(&row, &bits(back.row(circuits.len() - 1 - i)));
                prop_assert_eq!(&row, &bits(tight.row(i)));
                let alone = study.run(std::slice::from_ref(circuit), &metric).unwrap().values;
                prop_assert_eq!(&row, &bits(alone.row(0)));
            }
        }
    }
}

#[test]
fn known_nodes_are_the_same_up_to_rounding() {
    for model in ["tiny-relu", "tiny-gelu", "mini"] {
        let golden = Golden::open(model);
        // Whole up to the last layer's heads, and a few edges beyond; then random ones.
        let last = golden.graph.n_layers() - 1;
        let early = |edge: &Edge| match edge.to {
            Receiver::Head(head, _) => head.layer < last,
            Receiver::Mlp(layer) => layer < last,
            Receiver::Logits => false,
        };
        let edges: Vec<Edge> = golden.graph.edges().collect();
        let late = edges.iter().filter(|e| !early(e)).step_by(4);
        let whole: Vec<Edge> = edges
            .iter()
            .filter(|e| early(e))
            .chain(late)
            .copied()
            .collect();
        let mut all = vec![EdgeSet::new(golden.graph, whole).unwrap()];
        all.extend(circuits(&golden));
        for ablation in [
            EdgeAblation::Corrupted,
            EdgeAblation::Zero,
            EdgeAblation::Mean(golden.corrupted.clone()),
        ] {
            let study = study(&golden).ablation(ablation).unwrap();
            let known = study.clone().known_nodes(true);
            let found = known.run(&all, &golden.metric).unwrap();
            let expected = study.run(&all, &golden.metric).unwrap();
            golden.expect(found.values.view(), expected.values.view(), "known nodes");
            let [plan, full] = [&known, &study].map(|study| study.plan(&all[..1], &golden.metric));
            let (plan, full) = (plan.unwrap(), full.unwrap());
            if 2 * all[0].len() <= golden.graph.n_edges() {
                println!("{model}: {} of {}", plan.multiply_adds, full.multiply_adds);
                assert!(plan.multiply_adds < full.multiply_adds, "{model}");
            }
            let plan = known.plan(&all, &golden.metric).unwrap();
            assert_eq!(
                found.effect.about.counts[About::MULTIPLY_ADDS],
                plan.multiply_adds
            );
        }
    }
}

#[test]
fn edges_in_any_order_are_the_same_circuit() {
    let golden = Golden::open("tiny-gelu");
    let circuit = &circuits(&golden)[6];
    let mut names: Vec<String> = circuit.edges().map(|edge| edge.to_string()).collect();
    names.reverse();
    let reversed = EdgeSet::from_names(golden.graph, &names).unwrap();
    let both = [circuit.clone(), reversed];
    let found = study(&golden).run(&both, &golden.metric).unwrap();
    assert_eq!(found.values.row(0), found.values.row(1));
}

#[test]
fn equal_prompts_leave_every_circuit_as_it_is() {
    let model = random_model(3, 2, 4, 5);
    let [clean, _] = random_pairs(&[6, 4]);
    let study = CircuitEvaluation::new(&model, &clean, &clean).unwrap();
    let metric = logit_diffs(&[(3, 5)]);
    let circuits = random_circuits(study.graph(), 2);
    let found = study.run(&circuits, &metric).unwrap();
    for row in found.values.rows() {
        assert_eq!(row, found.clean);
    }
    assert_eq!(study.plan(&circuits, &metric).unwrap().lanes, 0);
}

#[test]
fn a_small_circuit_costs_its_own_nodes() {
    let golden = Golden::open("mini");
    let study = study(&golden);
    let names = |names: &[&str]| EdgeSet::from_names(golden.graph, names).unwrap();
    let plan = |circuit: &EdgeSet| {
        let plan = study.plan(std::slice::from_ref(circuit), &golden.metric);
        plan.unwrap()
    };
    let one_head = names(&["input->a2.h1<v>", "a2.h1->logits"]);
    let one_mlp = names(&["input->m1", "m1->logits"]);
    let both = one_head.union(&one_mlp).unwrap();
    let [head, mlp, both] = [&one_head, &one_mlp, &both].map(plan);
    let share =
        |plan: &patchlens::sweep::Plan| plan.multiply_adds as f64 / plan.naive_multiply_adds as f64;
    println!(
        "shares of full passes: {} {} {}",
        share(&head),
        share(&mlp),
        share(&both)
    );
    assert!(share(&head) < 0.08 && share(&mlp) < 0.2 && share(&both) < 0.25);
    assert!(both.multiply_adds > mlp.multiply_adds && both.multiply_adds > head.multiply_adds);
    // What leads nowhere is not computed.
    let blind = names(&["input->m1", "m1->m2", "a1.h0->logits"]);
    assert_eq!(plan(&blind).lanes, 0);
    let with = one_head.union(&blind).unwrap();
    assert_eq!(plan(&with).multiply_adds, head.multiply_adds);
    // The best 5 % of all edges.
    let scores = golden.scores();
    let best = scores
        .top_n(24, patchlens::circuits::Ranking::Absolute)
        .unwrap();
    println!("24 best edges: {}", share(&plan(&best)));
    assert!(share(&plan(&best)) < 0.8);
}

#[test]
fn resampled_edges_carry_another_pairs_run() {
    let model = random_model(2, 2, 4, 1);
    let [clean, corrupted] = random_pairs(&[5, 4, 5, 5, 4]);
    let metric = logit_diffs(&[(3, 5)]);
    let study = CircuitEvaluation::new(&model, &clean, &corrupted).unwrap();
    let circuits = random_circuits(study.graph(), 4);
    let with = |seed| {
        let study = study.clone().ablation(EdgeAblation::Resample { seed });
        study.unwrap().run(&circuits, &metric).unwrap()
    };
    let found = with(7);
    assert_eq!(found.values, with(7).values);
    // Which pair each one's come from shows in the metric of the empty circuit.
    let plain = study.run(&circuits[..1], &metric).unwrap().corrupted;
    let from: Vec<usize> = found
        .corrupted
        .iter()
        .map(|value| plain.iter().position(|other| other == value).unwrap())
        .collect();
    let mut sorted = from.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, [0, 1, 2, 3, 4]);
    for (to, from) in from.iter().enumerate() {
        assert!(to != *from && clean[to].len() == clean[*from].len());
    }
    let others: Vec<Prompt> = from.iter().map(|i| corrupted[*i].clone()).collect();
    let by_hand = CircuitEvaluation::new(&model, &clean, &others).unwrap();
    assert_eq!(
        by_hand.run(&circuits, &metric).unwrap().values,
        found.values
    );
}

fn message<T: std::fmt::Debug>(result: patchlens::Result<T>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn what_cannot_be_ablated_is_an_error() {
    let model = random_model(2, 2, 4, 0);
    let [clean, corrupted] = random_pairs(&[5, 4]);
    let metric: Metric = logit_diffs(&[(3, 5)]);
    let study = CircuitEvaluation::new(&model, &clean, &corrupted).unwrap();
    let with = |ablation| study.clone().ablation(ablation);
    assert_eq!(
        message(with(EdgeAblation::Resample { seed: 0 })),
        "pairs to resample from: found pair 1 alone with 4 tokens; expected at least two pairs of \
         each length"
    );
    let short = Prompts::new([vec![1, 2, 3, 4]]).unwrap();
    assert_eq!(
        message(with(EdgeAblation::MeanByPosition(short.clone()))),
        "prompts to average over: found prompts of [4] tokens; expected one of 5 tokens at least, \
         as a pair has"
    );
    assert!(with(EdgeAblation::Mean(short)).is_ok());
    let unknown = Prompts::new([vec![99]]).unwrap();
    assert!(message(with(EdgeAblation::Mean(unknown))).contains("token 99"));
    let circuits = [EdgeSet::empty(study.graph())];
    let zeroed = with(EdgeAblation::Zero)
        .unwrap()
        .circuit_run(CircuitRun::Edge);
    let expected = "ablation under `CircuitRun::Edge`: found means, zeros or corrupted runs under \
                    interventions; expected plain corrupted runs, which circuits' runs depart from";
    assert_eq!(message(zeroed.run(&circuits, &metric)), expected);
    let base = Base::new(&model, &clean).unwrap();
    let silent = vec![Intervention::new(Site::MlpOut.at(0), Edit::Zero)];
    let silent = Base::over(&base, &corrupted, silent).unwrap();
    let study = CircuitEvaluation::over(&base, &silent).unwrap();
    let edge = study.clone().circuit_run(CircuitRun::Edge);
    assert_eq!(message(edge.run(&circuits, &metric)), expected);
    // Outside of a circuit, edges carry what such runs have left; inside, what their sources write.
    let edges: [Edge; 2] = ["input->m0", "m0->logits"].map(|name| name.parse().unwrap());
    let dead = EdgeSet::new(study.graph(), edges[1..].iter().copied()).unwrap();
    let found = study
        .run(&[EdgeSet::empty(study.graph()), dead], &metric)
        .unwrap();
    assert_ne!(found.values.row(0), found.values.row(1));
    assert_eq!(found.values.index_axis(Axis(0), 0), found.corrupted);
}

#[test]
fn resampled_runs_keep_their_interventions() {
    let model = random_model(2, 2, 4, 1);
    let [clean, corrupted] = random_pairs(&[5, 5]);
    let base = Base::new(&model, &clean).unwrap();
    let silent = |prompts: &Prompts| {
        let silent = vec![Intervention::new(Site::MlpOut.at(0), Edit::Zero)];
        let silent = Base::over(&base, prompts, silent).unwrap();
        CircuitEvaluation::over(&base, &silent).unwrap()
    };
    let resampled = silent(&corrupted).ablation(EdgeAblation::Resample { seed: 0 });
    // Of two pairs, each gets the other one's.
    let swapped = Prompts::new(corrupted.iter().rev().cloned()).unwrap();
    let metric = logit_diffs(&[(3, 5)]);
    let circuits = random_circuits(Graph::new(model.config()), 0);
    let found = resampled.unwrap().run(&circuits, &metric).unwrap();
    let expected = silent(&swapped).run(&circuits, &metric).unwrap();
    assert_eq!(found.values, expected.values);
    let plain = CircuitEvaluation::new(&model, &clean, &swapped).unwrap();
    assert_ne!(found.values, plain.run(&circuits, &metric).unwrap().values);
}
