//! Information flow routes against the reference.

use std::ops::ControlFlow;

use patchlens::circuits::{InformationFlow, Receiver};
use patchlens::report::Absent;

use super::{Golden, MODELS, random_model, random_pairs};

#[test]
fn shares_are_those_of_the_reference() {
    for (model, n_edges) in MODELS {
        let golden = Golden::open(model);
        let found = InformationFlow::new(&golden.model, &golden.clean).unwrap();
        let found = found.run().unwrap();
        assert_eq!(found.per_prompt.dim(), (n_edges, 4));
        golden.expect(found.per_prompt.view(), golden.by_pair("ifr"), "ifr");
        let scores = found.scores().unwrap();
        let into = golden.graph.edges_into(Receiver::Logits).unwrap();
        let sum: f32 = scores.values()[into].iter().sum();
        assert!((sum - 1.0).abs() < 1e-5, "{sum}");
    }
}

#[test]
fn a_study_ends_when_told() {
    let model = random_model(2, 2, 4, 0);
    let [prompts, _] = random_pairs(&[5, 3, 4]);
    let study = InformationFlow::new(&model, &prompts).unwrap();
    let whole = study.run().unwrap();
    assert!(!whole.effect.about.partial);
    let stopped = study.clone().observe(|_| ControlFlow::Break(()));
    let part = stopped.run().unwrap();
    assert!(part.effect.about.partial && part.scores().is_err());
    assert_eq!(part.per_prompt.column(0), whole.per_prompt.column(0));
    assert!(part.per_prompt.column(1).iter().all(|v| v.is_nan()));
    let reasons = part.effect.absent();
    assert_eq!(
        reasons
            .iter()
            .filter(|r| **r == Some(Absent::NotRun))
            .count(),
        46
    );
}
