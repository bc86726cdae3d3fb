//! Circuits of edges that were built in: ACDC finds exactly these.

use patchlens::circuits::{Acdc, CircuitEvaluation, Edge, EdgeSet, ExactEdges};
use patchlens::{Head, Metric, Prompt, Transformer, logit_diff};

use super::builder::Builder;
use super::induction_model;

/// One pair of prompts.
struct Case {
    model: Transformer,
    clean: Prompt,
    corrupted: Prompt,
    metric: Metric,
}

impl Case {
    /// The edges that ACDC keeps, in graph order.
    fn acdc(&self, tau: f32) -> Vec<String> {
        let study = Acdc::new(&self.model, &self.clean, &self.corrupted).unwrap();
        let found = study.run(&[tau], &self.metric).unwrap();
        let circuit = found.searches[0].circuit.edges();
        circuit.map(|edge| edge.to_string()).collect()
    }

    fn effect(&self, edge: &str) -> f32 {
        let study = ExactEdges::new(&self.model, &self.clean, &self.corrupted).unwrap();
        let found = study
            .run(&EdgeSet::full(study.graph()), &self.metric)
            .unwrap();
        found.of(edge.parse::<Edge>().unwrap()).unwrap().mean
    }

    fn faithfulness(&self, names: &[String]) -> f32 {
        let study = CircuitEvaluation::new(&self.model, &self.clean, &self.corrupted).unwrap();
        let circuit = EdgeSet::from_names(study.graph(), names).unwrap();
        let found = study.run(&[circuit], &self.metric).unwrap();
        found.faithfulness().unwrap().values()[[0]]
    }
}

#[test]
fn acdc_finds_exactly_the_induction_pair() {
    let case = Case {
        model: induction_model(),
        clean: Prompt::from([0, 1, 2, 3, 4, 0, 1, 2]),
        corrupted: Prompt::from([6, 7, 8, 9, 10, 6, 7, 8]),
        metric: logit_diff(3, 9),
    };
    let expected = [
        "input->a0.h1<v>",
        "input->a2.h1<q>",
        "a0.h1->a2.h1<k>",
        "input->a2.h1<v>",
        "a2.h1->logits",
    ];
    for tau in [0.5, 2.0] {
        assert_eq!(case.acdc(tau), expected, "{tau}");
    }
    let share = case.faithfulness(&expected.map(String::from));
    assert!((share - 1.0).abs() < 0.02, "{share}");
}

/// Two heads raise a flag each, of which an MLP asks for more than one, or for a part of one.
fn gate(between: [f32; 2]) -> Case {
    let [first, second] = [0, 1].map(|head| Head::new(0, head));
    Case {
        model: Builder::new(1)
            .flag(first, 9, 1, 7, 0)
            .flag(second, 9, 2, 7, 1)
            .gate(0, between, 5)
            .model(),
        clean: Prompt::from([4, 7, 7, 9]),
        corrupted: Prompt::from([4, 6, 3, 9]),
        metric: logit_diff(5, 8),
    }
}

#[test]
fn acdc_finds_both_heads_of_an_and() {
    let case = gate([1.2, 1.8]);
    let expected = [
        "input->a0.h0<v>",
        "input->a0.h1<v>",
        "a0.h0->m0",
        "a0.h1->m0",
        "m0->logits",
    ];
    assert_eq!(case.acdc(0.5), expected);
    for edge in expected {
        assert!(case.effect(edge) < -1.0, "{edge}: {}", case.effect(edge));
    }
    let share = case.faithfulness(&expected.map(String::from));
    assert!((share - 1.0).abs() < 0.02, "{share}");
}

#[test]
fn acdc_finds_one_head_of_an_or_where_single_effects_find_none() {
    let case = gate([0.3, 0.8]);
    // The first head goes, since the second one does as well alone; then that one has to stay.
    let expected = ["input->a0.h1<v>", "a0.h1->m0", "m0->logits"];
    assert_eq!(case.acdc(0.5), expected);
    for edge in [
        "a0.h0->m0",
        "a0.h1->m0",
        "input->a0.h0<v>",
        "input->a0.h1<v>",
    ] {
        let effect = case.effect(edge);
        assert!(effect.abs() < 0.2, "{edge}: {effect}");
    }
    let share = case.faithfulness(&expected.map(String::from));
    assert!((share - 1.0).abs() < 0.05, "{share}");
}
