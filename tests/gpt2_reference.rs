//! Published figures of GPT-2 small, for those who fetched its weights: after
//! `./weights-fetch.sh gpt2`, `cargo test --release --tests -- --ignored` runs them.

use std::collections::BTreeSet;
use std::path::PathBuf;

use ndarray::Array1;
use patchlens::attribution::{Decomposition, DirectLogitAttribution};
use patchlens::circuits::{
    Acdc, Approximation, CircuitEvaluation, EdgeAttribution, EdgeScores, EdgeSet, ExactEdges,
    FaithfulnessCurve, Orientation, Ranking, Receiver, Steps,
};
use patchlens::heads::{AttentionPattern, pattern_scores};
use patchlens::metric::{kl_divergence, logit_diff, logit_diffs, next_token_loss};
use patchlens::patching::ActivationPatching;
use patchlens::report::Labelled;
use patchlens::tasks::{Corruption, Ioi, Repeated};
use patchlens::{
    Edit, Grid, Intervention, Prompts, Select, Site, Sweep, Target, Tokenizer, Transformer,
};

fn gpt2() -> (Transformer, Tokenizer) {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("weights/gpt2");
    (
        Transformer::open(&dir).unwrap(),
        Tokenizer::open(&dir).unwrap(),
    )
}

/// TransformerLens's demo prompts: four templates, both names as the answer.
const TEMPLATES: [(&str, &str, &str); 4] = [
    (
        "When John and Mary went to the shops,{} gave the bag to",
        " John",
        " Mary",
    ),
    (
        "When Tom and James went to the park,{} gave the ball to",
        " Tom",
        " James",
    ),
    (
        "When Dan and Sid went to the shops,{} gave an apple to",
        " Dan",
        " Sid",
    ),
    (
        "After Martin and Amy went to the park,{} gave a drink to",
        " Martin",
        " Amy",
    ),
];

struct Demo {
    clean: Prompts,
    corrupted: Prompts,
    answers: Vec<(u32, u32)>,
}

fn demo(tokenizer: &Tokenizer) -> Demo {
    let (mut clean, mut corrupted, mut answers) = (Vec::new(), Vec::new(), Vec::new());
    for (template, first, second) in TEMPLATES {
        for (subject, io) in [(second, first), (first, second)] {
            let text = |name: &str| {
                tokenizer
                    .encode_with_bos(&template.replace("{}", name))
                    .unwrap()
            };
            clean.push(text(subject));
            corrupted.push(text(io));
            answers.push((
                tokenizer.token(io).unwrap(),
                tokenizer.token(subject).unwrap(),
            ));
        }
    }
    Demo {
        clean: Prompts::new(clean).unwrap(),
        corrupted: Prompts::new(corrupted).unwrap(),
        answers,
    }
}

fn close(found: f32, expected: f32, within: f32, what: &str) {
    assert!(
        (found - expected).abs() <= within,
        "{what}: found {found}, expected {expected}"
    );
}

#[test]
#[ignore = "needs weights/gpt2: ./weights-fetch.sh gpt2"]
fn the_loss_of_hello_world() {
    let (model, tokenizer) = gpt2();
    let prompt = tokenizer.encode_with_bos("Hello world!").unwrap();
    let logits = model.forward(&prompt).unwrap();
    let (loss, _) = next_token_loss(logits.view(), &prompt.tokens).unwrap();
    close(loss, 5.331_856, 1e-4, "mean loss");
}

#[test]
#[ignore = "needs weights/gpt2: ./weights-fetch.sh gpt2"]
fn indirect_object_identification() {
    let (model, tokenizer) = gpt2();
    let demo = demo(&tokenizer);
    let metric = logit_diffs(&demo.answers);
    let study = ActivationPatching::new(&model, &demo.clean, &demo.corrupted).unwrap();
    let found = study.run(Grid::Heads(Site::Z), &metric).unwrap();
    let mean = |values: &Array1<f32>| values.mean().unwrap();
    close(mean(&found.clean), 3.5519, 1e-3, "clean logit difference");
    close(
        mean(&found.corrupted),
        -3.5519,
        1e-3,
        "corrupted logit difference",
    );
    let strongest: Vec<Vec<usize>> = found
        .effect
        .top(8)
        .cells
        .into_iter()
        .map(|c| c.index)
        .collect();
    for head in [vec![9, 9], vec![8, 6]] {
        assert!(strongest.contains(&head), "{head:?} among {strongest:?}");
    }
}

#[test]
#[ignore = "needs weights/gpt2: ./weights-fetch.sh gpt2"]
fn ablating_a_name_mover() {
    let (model, tokenizer) = gpt2();
    let demo = demo(&tokenizer);
    let target = Target::new(Site::Z.at(9))
        .at_heads(9)
        .at_positions(Select::Last);
    let cells = [vec![Intervention::new(target, Edit::Zero)]];
    let sweep = Sweep::new(&model, &demo.clean).unwrap();
    let result = sweep.run(&cells, &logit_diffs(&demo.answers)).unwrap();
    close(
        result.base.mean().unwrap(),
        3.55,
        0.01,
        "clean logit difference",
    );
    close(result.values.mean().unwrap(), 2.99, 0.01, "without 9.9");
}

#[test]
#[ignore = "needs weights/gpt2: ./weights-fetch.sh gpt2"]
fn what_name_movers_write_directly() {
    let (model, tokenizer) = gpt2();
    let text = "When John and Mary went to the shops, John gave the bag to";
    let prompt = tokenizer.encode_with_bos(text).unwrap();
    let token = |name: &str| tokenizer.token(name).unwrap();
    let metric = logit_diff(token(" Mary"), token(" John"));
    let attribution = DirectLogitAttribution::new(&model, &prompt, &metric).unwrap();
    let heads = attribution.decompose(Decomposition::Heads).unwrap();
    let end = prompt.len() - 1;
    for (head, expected) in [("L9H9", 1.96), ("L9H6", 1.63), ("L10H7", -1.43)] {
        let row = heads.axes()[0].labels.iter().position(|l| l == head);
        close(heads.values()[[row.unwrap(), end]], expected, 0.02, head);
    }
}

#[test]
#[ignore = "needs weights/gpt2: ./weights-fetch.sh gpt2"]
fn heads_of_known_kinds() {
    let (model, tokenizer) = gpt2();
    let pool = (1000..30_000).collect();
    let task = Repeated::from_pool(&tokenizer, pool).unwrap();
    let drawn = task.with_bos().unwrap().prompts(10, 25, 2, 0).unwrap();
    let prompts = Prompts::new(&drawn).unwrap();
    let kinds = [
        (AttentionPattern::PreviousToken, [[2, 2], [4, 11]]),
        (AttentionPattern::Induction, [[5, 5], [6, 9]]),
        (AttentionPattern::DuplicateToken, [[0, 1], [3, 0]]),
    ];
    for (pattern, heads) in kinds {
        let scores: Labelled = pattern_scores(&model, &prompts, &[pattern]).unwrap();
        let best: Vec<Vec<usize>> = scores.top(8).cells.into_iter().map(|c| c.index).collect();
        for [layer, head] in heads {
            let found = best.contains(&vec![0, layer, head]);
            assert!(found, "{layer}.{head} for {pattern}, best are {best:?}");
        }
    }
}

/// The largest edges of `circuits/ioi-eap-ig.json` in the repository of MIB's circuit track
/// (Mueller et al. 2025, arXiv 2504.13151; EAP-IG on inputs, 5 steps, S2 replaced by IO, with BOS),
/// and their signs: that of the change of the logit difference.
const MIB_EDGES: [(&str, f32); 10] = [
    ("a9.h9->logits", -1.0),
    ("input->m0", -1.0),
    ("a10.h7->logits", 1.0),
    ("a9.h6->logits", -1.0),
    ("a11.h10->logits", 1.0),
    ("a9.h9->a11.h10<q>", 1.0),
    ("a5.h5->a8.h6<v>", -1.0),
    ("a10.h7->a11.h10<q>", -1.0),
    ("a10.h0->logits", -1.0),
    ("a9.h9->a10.h7<q>", 1.0),
];

#[test]
#[ignore = "needs weights/gpt2: ./weights-fetch.sh gpt2"]
fn the_edges_of_indirect_object_identification() {
    let (model, tokenizer) = gpt2();
    let demo = demo(&tokenizer);
    let metric = logit_diffs(&demo.answers);
    let study = EdgeAttribution::new(&model, &demo.clean, &demo.corrupted).unwrap();
    let graph = study.graph();
    let edges = EdgeSet::from_names(graph, MIB_EDGES.map(|(name, _)| name)).unwrap();
    let exact = ExactEdges::new(&model, &demo.clean, &demo.corrupted).unwrap();
    let exact = exact.run(&edges, &metric).unwrap();
    for method in [
        Approximation::EapIg(Steps::Left(5)),
        Approximation::ReceiverExactIg(Steps::Left(5)),
    ] {
        let found = study.run(method, &metric).unwrap().scores().unwrap();
        let ranked = found.ranked(Ranking::Absolute);
        for (place, (name, sign)) in MIB_EDGES.into_iter().enumerate() {
            let edge = name.parse().unwrap();
            let rank = ranked.iter().position(|(other, _)| *other == edge).unwrap();
            let (score, effect) = (found.of(edge).unwrap(), exact.of(edge).unwrap().mean);
            println!("{name}: {score:+.3}, number {rank}; exactly {effect:+.3}");
            // Theirs are 1,000 other prompts.
            assert!(
                rank < if place < 2 { 10 } else { 200 },
                "{name}: number {rank}"
            );
            assert_eq!(score.signum(), sign, "{name}: {score}");
            assert_eq!(effect.signum(), sign, "{name}: {effect}");
        }
    }
}

fn ioi(tokenizer: &Tokenizer, n: usize, corruption: Corruption, seed: u64) -> Demo {
    let task = Ioi::new(tokenizer).unwrap().with_bos().unwrap();
    let pairs = task.pairs(n, corruption, seed).unwrap();
    Demo {
        clean: Prompts::new(pairs.iter().map(|pair| &pair.clean)).unwrap(),
        corrupted: Prompts::new(pairs.iter().map(|pair| &pair.corrupted)).unwrap(),
        answers: pairs
            .iter()
            .map(|pair| (pair.clean.io, pair.clean.s))
            .collect(),
    }
}

/// Numbers without any meaning, from 0 to 1.
fn random_scores(graph: patchlens::circuits::Graph) -> EdgeScores {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32
    };
    let values = (0..graph.n_edges()).map(|_| next()).collect();
    EdgeScores::new(graph, values, Orientation::UsefulIsPositive).unwrap()
}

/// MIB's table for IOI and GPT-2 small (Mueller et al. 2025): CMD and CPR by method. Theirs are
/// 1,000 prompts to score and as many to evaluate; S2 is replaced by IO, with BOS.
const MIB_IOI: [(&str, f64, f64); 4] = [
    ("random", 0.75, 0.25),
    ("EAP", 0.03, 1.20),
    ("EAP-IG on inputs", 0.03, 1.85),
    ("exact", 0.02, 2.30),
];

#[test]
#[ignore = "needs weights/gpt2: ./weights-fetch.sh gpt2; some ten minutes"]
fn mibs_areas_under_curves() {
    let (model, tokenizer) = gpt2();
    let scored = ioi(&tokenizer, 8, Corruption::Aba, 0);
    let tried = ioi(&tokenizer, 50, Corruption::Aba, 1);
    let metric = logit_diffs(&scored.answers);
    let study = EdgeAttribution::new(&model, &scored.clean, &scored.corrupted).unwrap();
    let by = |method| study.run(method, &metric).unwrap().scores().unwrap();
    let exact = ExactEdges::new(&model, &scored.clean, &scored.corrupted).unwrap();
    let all = EdgeSet::full(exact.graph());
    let scores = [
        random_scores(study.graph()),
        by(Approximation::Eap),
        by(Approximation::EapIg(Steps::Left(5))),
        exact.run(&all, &metric).unwrap().scores().unwrap(),
    ];
    let evaluation = CircuitEvaluation::new(&model, &tried.clean, &tried.corrupted).unwrap();
    let (shares, metric) = (FaithfulnessCurve::MIB_SHARES, logit_diffs(&tried.answers));
    let mut ratios = Vec::new();
    for ((name, cmd, cpr), scores) in MIB_IOI.into_iter().zip(&scores) {
        let curve = |ranking| evaluation.curve(scores, ranking, &shares, &metric).unwrap();
        let found_cmd = curve(Ranking::Absolute).distance().unwrap();
        let found_cpr = curve(Ranking::Signed).area().unwrap();
        println!("{name}: CMD {found_cmd:.3} ({cmd}), CPR {found_cpr:.3} ({cpr})");
        assert!((found_cmd - cmd).abs() < 0.1, "{name}: CMD {found_cmd}");
        assert!(
            (found_cpr / cpr - 1.0).abs() < 0.4,
            "{name}: CPR {found_cpr}"
        );
        ratios.push(found_cpr);
    }
    // The order of the methods is that of the table.
    assert!(ratios.is_sorted(), "{ratios:?}");
}

/// Edges that ACDC keeps by threshold, of 32,923 (`experiments/results` in the authors' repository:
/// IOI, KL divergence, corrupted by other names).
const ACDC_IOI: [(f32, usize); 5] = [
    (0.0398, 88),
    (0.0251, 168),
    (0.01, 330),
    (0.0025, 479),
    (0.001, 698),
];

#[test]
#[ignore = "needs weights/gpt2: ./weights-fetch.sh gpt2; some ten minutes"]
fn edges_that_acdc_keeps() {
    let (model, tokenizer) = gpt2();
    let pairs = ioi(&tokenizer, 10, Corruption::RandomNames, 0);
    let search = Acdc::new(&model, &pairs.clean, &pairs.corrupted).unwrap();
    let found = search
        .run(&ACDC_IOI.map(|(tau, _)| tau), &kl_divergence())
        .unwrap();
    let mut counts = Vec::new();
    for ((tau, expected), search) in ACDC_IOI.into_iter().zip(&found.searches) {
        // Theirs has one more edge into each of the heads' inputs that is there at all.
        let inputs = search.circuit.edges().filter_map(|edge| match edge.to {
            Receiver::Head(head, read) => Some((head.layer, head.head, read as usize)),
            _ => None,
        });
        let count = search.circuit.len() + inputs.collect::<BTreeSet<_>>().len();
        println!("τ = {tau}: {count} edges ({expected})");
        // Theirs are other prompts.
        let ratio = count as f64 / expected as f64;
        assert!(
            (0.5..2.0).contains(&ratio),
            "τ = {tau}: {count} for {expected}"
        );
        counts.push(count);
    }
    assert!(counts.is_sorted(), "{counts:?}");
}
