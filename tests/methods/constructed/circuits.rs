//! Circuits of edges that were built in: exact effects find these and no others, and where a
//! gradient sees nothing, computing what saturates does.

use patchlens::circuits::{
    Approximation, EdgeAttribution, EdgeEffects, EdgeSet, ExactEdges, Ranking,
};
use patchlens::patching::{ActivationPatching, Corrections};
use patchlens::report::Direction;
use patchlens::{Grid, Head, Metric, Prompt, Site, Transformer, logit_diff};

use super::builder::Builder;
use super::{INDUCTION, PREVIOUS, induction_model};

/// A pair of prompts of a model, measured by a difference of logits.
struct Case {
    model: Transformer,
    clean: Prompt,
    corrupted: Prompt,
    metric: Metric,
    direction: Direction,
}

impl Case {
    fn exact(&self) -> EdgeEffects {
        let study = ExactEdges::new(&self.model, &self.clean, &self.corrupted).unwrap();
        let study = study.direction(self.direction);
        let all = EdgeSet::full(study.graph());
        study.run(&all, &self.metric).unwrap()
    }

    fn estimate(&self, method: Approximation) -> EdgeEffects {
        let study = EdgeAttribution::new(&self.model, &self.clean, &self.corrupted).unwrap();
        let study = study.direction(self.direction);
        study.run(method, &self.metric).unwrap()
    }

    /// By how much the metric changes from the run that is changed to the other one.
    fn change(&self) -> f32 {
        let found = self.exact();
        let change = found.corrupted[0] - found.clean[0];
        if self.direction == Direction::Noising {
            change
        } else {
            -change
        }
    }

    /// Fails unless these edges alone have effects, each of at least half of the whole change.
    fn expect(&self, names: &[&str]) {
        let (found, change) = (self.exact(), self.change());
        let graph = found.edges.graph();
        let expected = EdgeSet::from_names(graph, names.iter().copied()).unwrap();
        let scores = found.scores().unwrap();
        let least = 0.02 * change.abs();
        assert_eq!(
            scores.threshold(least, Ranking::Absolute).unwrap(),
            expected
        );
        assert_eq!(
            expected.pruned(),
            expected,
            "they lead from the input to the logits"
        );
        for edge in expected.edges() {
            let share = scores.of(edge).unwrap() / change;
            assert!((0.5..1.1).contains(&share), "{edge}: {share} of {change}");
        }
    }

    /// Fails unless this edge alone has an effect.
    fn expect_only(&self, name: &str) {
        let (found, change) = (self.exact(), self.change());
        let scores = found.scores().unwrap();
        let least = 0.02 * change.abs();
        let one = EdgeSet::from_names(found.edges.graph(), [name]).unwrap();
        assert_eq!(scores.threshold(least, Ranking::Absolute).unwrap(), one);
    }

    /// The share of an edge's exact effect that a method finds.
    fn share(&self, method: Approximation, edge: &str) -> f32 {
        let of = |found: &EdgeEffects| found.of(edge.parse().unwrap()).unwrap().mean;
        of(&self.estimate(method)) / of(&self.exact())
    }
}

/// `.. A B .. A`, where the first `A`, or `B`, is another token in the corrupted prompt.
fn induction(changed: usize) -> Case {
    let clean: [u32; 7] = [4, 5, 1, 2, 8, 9, 1];
    let mut corrupted = clean;
    corrupted[changed] = 3;
    Case {
        model: induction_model(),
        clean: Prompt::from(clean),
        corrupted: Prompt::from(corrupted),
        metric: logit_diff(2, 3),
        direction: Direction::Noising,
    }
}

#[test]
fn the_planted_induction_pair_is_found() {
    let (previous, head) = ("a0.h1", "a2.h1");
    assert_eq!([PREVIOUS, INDUCTION], [Head::new(0, 1), Head::new(2, 1)]);
    let keys = format!("{previous}->{head}<k>");
    induction(2).expect(&["input->a0.h1<v>", &keys, "a2.h1->logits"]);
    induction(3).expect(&["input->a2.h1<v>", "a2.h1->logits"]);
}

#[test]
fn a_saturated_pattern_is_missed_by_gradients_and_repaired_by_the_exact_receiver() {
    let case = induction(2);
    let keys = "a0.h1->a2.h1<k>";
    let missed = case.share(Approximation::Eap, keys);
    let repaired = case.share(Approximation::ReceiverExact, keys);
    assert!(missed.abs() < 0.1, "{missed}");
    assert!((0.8..1.2).contains(&repaired), "{repaired}");
    // Before it, a gradient has to go through the pattern, whatever the receiver makes of the edge.
    let before = case.share(Approximation::ReceiverExact, "input->a0.h1<v>");
    assert!(before.abs() < 0.1, "{before}");
    let last = case.share(Approximation::ReceiverExact, "a2.h1->logits");
    assert_eq!(last, 1.0);
}

#[test]
fn a_saturated_pattern_is_missed_by_attribution_and_repaired_by_the_qk_fix() {
    let case = induction(2);
    let study = ActivationPatching::new(&case.model, &case.clean, &case.corrupted).unwrap();
    let study = study.direction(Direction::Noising);
    let grid = Grid::HeadPositions(Site::K);
    let position = 3; // where the induction head looks, to the token after `A`
    let at = [INDUCTION.layer, position, INDUCTION.head];
    let exact = study.run(grid, &case.metric).unwrap().effect.values()[at];
    let share = |corrections| {
        let found = study
            .estimate_with(corrections, grid, &case.metric)
            .unwrap();
        found.effect.values()[at] / exact
    };
    let missed = share(Corrections::default());
    let repaired = share(Corrections {
        qk_fix: true,
        ..Corrections::default()
    });
    assert!(missed.abs() < 0.1, "{missed}");
    assert!((0.8..1.2).contains(&repaired), "{repaired}");
}

const FLAGS: [Head; 2] = [Head { layer: 0, head: 0 }, Head { layer: 0, head: 1 }];
const EDGES: [&str; 5] = [
    "input->a0.h0<v>",
    "input->a0.h1<v>",
    "a0.h0->m0",
    "a0.h1->m0",
    "m0->logits",
];

/// Two heads say whether the token 7 stands at positions 1 and 2, an MLP makes the token 5 of it.
fn gate(between: [f32; 2], direction: Direction) -> Case {
    let end = 9;
    let model = Builder::new(2)
        .flag(FLAGS[0], end, 1, 7, 0)
        .flag(FLAGS[1], end, 2, 7, 1)
        .gate(0, between, 5)
        .model();
    Case {
        model,
        clean: Prompt::from([4, 7, 7, end]),
        corrupted: Prompt::from([4, 6, 3, end]),
        metric: logit_diff(5, 8),
        direction,
    }
}

/// Clearly more than one flag, up to less than two: both are needed.
const AND: [f32; 2] = [1.2, 1.8];
/// A part of a flag: one is enough.
const OR: [f32; 2] = [0.3, 0.8];

#[test]
fn both_heads_of_an_and_are_found_by_breaking_it() {
    gate(AND, Direction::Noising).expect(&EDGES);
    // One of them alone restores nothing: what all of it has passed through is found alone.
    gate(AND, Direction::Denoising).expect_only("m0->logits");
}

#[test]
fn both_heads_of_an_or_are_found_by_restoring_it() {
    gate(OR, Direction::Denoising).expect(&EDGES);
    // Each stands in for the other.
    gate(OR, Direction::Noising).expect_only("m0->logits");
}

#[test]
fn a_closed_gate_is_missed_by_gradients_and_seen_by_the_exact_receiver() {
    let case = gate(OR, Direction::Denoising);
    for edge in ["a0.h0->m0", "a0.h1->m0"] {
        let missed = case.share(Approximation::Eap, edge);
        let repaired = case.share(Approximation::ReceiverExact, edge);
        assert!(missed.abs() < 0.1, "{edge}: {missed}");
        assert!((0.9..1.1).contains(&repaired), "{edge}: {repaired}");
    }
}
