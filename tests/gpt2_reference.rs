//! Published figures of GPT-2 small, for those who fetched its weights: after
//! `./weights-fetch.sh gpt2`, `cargo test --release --tests -- --ignored` runs them.

use std::path::PathBuf;

use ndarray::Array1;
use patchlens::attribution::{Decomposition, DirectLogitAttribution};
use patchlens::circuits::{Approximation, EdgeAttribution, EdgeSet, ExactEdges, Ranking, Steps};
use patchlens::heads::{AttentionPattern, pattern_scores};
use patchlens::metric::{logit_diff, logit_diffs, next_token_loss};
use patchlens::patching::ActivationPatching;
use patchlens::report::Labelled;
use patchlens::tasks::Repeated;
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
