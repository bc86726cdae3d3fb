//! Edges that are ranked by an estimate, and verified.

use std::ops::ControlFlow;

use patchlens::circuits::{
    Approximation, EdgeSet, ExactEdges, Graph, Ranking, ScreenedEdges, Steps, Verify,
};
use patchlens::metric::logit_diffs;
use patchlens::report::{Absent, Direction};

use super::{Golden, random_model, random_pairs};

const METHOD: Approximation = Approximation::ReceiverExactIg(Steps::Left(5));

#[test]
fn the_best_and_a_sample_have_their_exact_effects() {
    let golden = Golden::open("mini");
    for direction in [Direction::Noising, Direction::Denoising] {
        let study = ScreenedEdges::new(&golden.model, &golden.clean, &golden.corrupted).unwrap();
        let verify = Verify {
            top: 48,
            sample: 60,
            seed: 3,
        };
        let study = study.direction(direction);
        let found = study.run(METHOD, verify, &golden.metric).unwrap();
        assert_eq!((found.top.len(), found.sample.len()), (48, 60));
        assert!(found.top.intersection(&found.sample).unwrap().is_empty());
        let ranked = found.approximate.scores().unwrap();
        let best = ranked.top_n(48, Ranking::Absolute).unwrap();
        assert_eq!(found.top, best);

        let exact = ExactEdges::new(&golden.model, &golden.clean, &golden.corrupted).unwrap();
        let exact = exact.direction(direction);
        let all = exact.run(&EdgeSet::full(golden.graph), &golden.metric);
        let all = all.unwrap();
        let scores = found.scores().unwrap();
        for (i, edge) in golden.graph.edges().enumerate() {
            let verified = found.exact.edges.contains(edge).unwrap();
            let cell = |kind: usize| {
                let receiver = golden.graph.receivers().position(|to| to == edge.to);
                let source = golden.graph.sources().position(|from| from == edge.from);
                let at = [kind, source.unwrap(), receiver.unwrap()];
                (found.effect.values()[at], found.effect.absent()[at])
            };
            assert_eq!(cell(0), (ranked.values()[i], None), "{edge}");
            if verified {
                let mean = all.of(edge).unwrap().mean;
                assert_eq!(cell(1), (mean, None), "{edge}");
                assert_eq!(scores.values()[i], mean, "{edge}");
            } else {
                assert_eq!(cell(1).1, Some(Absent::NotAsked), "{edge}");
                assert_eq!(scores.values()[i], ranked.values()[i], "{edge}");
            }
        }

        println!("{found}");
        let bound = found.bound(0.95).unwrap();
        let pairs = found.sample_agreement().unwrap().edges;
        let largest = pairs.iter().map(|pair| pair.reference.abs());
        assert_eq!(bound.largest_effect, largest.fold(0.0, f32::max));
        let rest = found.top.complement();
        let larger = rest.edges().filter(|edge| {
            let effect = all.of(*edge).unwrap().mean;
            effect.abs() > bound.largest_effect
        });
        assert!(larger.count() <= bound.beyond, "with this seed");
    }
}

#[test]
fn the_bound_fails_as_rarely_as_it_says() {
    let model = random_model(2, 3, 4, 0);
    let [clean, corrupted] = random_pairs(&[5, 4]);
    let metric = logit_diffs(&[(3, 5)]);
    let exact = ExactEdges::new(&model, &clean, &corrupted).unwrap();
    let all = exact.run(&EdgeSet::full(exact.graph()), &metric).unwrap();
    let study = ScreenedEdges::new(&model, &clean, &corrupted).unwrap();
    let (mut effects, mut errors) = (0, 0);
    const SEEDS: u64 = 200;
    for seed in 0..SEEDS {
        let (top, sample) = (5, 12);
        let verify = Verify { top, sample, seed };
        let found = study.run(Approximation::Eap, verify, &metric).unwrap();
        let bound = found.bound(0.9).unwrap();
        let agreement = found.approximate.agreement(&all).unwrap();
        let rest = agreement.within(&found.top.complement()).unwrap().edges;
        assert_eq!(rest.len(), bound.edges);
        let beyond = |size: &dyn Fn(&patchlens::circuits::EdgePair) -> f32, than: f32| {
            rest.iter().filter(|pair| size(pair).abs() > than).count() > bound.beyond
        };
        effects += u64::from(beyond(&|pair| pair.reference, bound.largest_effect));
        errors += u64::from(beyond(&|pair| pair.error(), bound.largest_error));
    }
    println!("of {SEEDS}, {effects} bounds of effects and {errors} of errors fail");
    // A tenth of them may; three standard deviations more are chance. Far fewer would be a bound
    // that says too little.
    for failed in [effects, errors] {
        assert!((1..=33).contains(&failed), "{failed}");
    }
}

#[test]
fn draws_depend_on_the_seed_alone() {
    let model = random_model(2, 2, 4, 0);
    let [clean, corrupted] = random_pairs(&[5]);
    let metric = logit_diffs(&[(3, 5)]);
    let study = ScreenedEdges::new(&model, &clean, &corrupted).unwrap();
    let drawn = |seed| {
        let (top, sample) = (4, 10);
        let found = study.run(METHOD, Verify { top, sample, seed }, &metric);
        found.unwrap().sample
    };
    assert_eq!(drawn(1), drawn(1));
    assert_ne!(drawn(1), drawn(2));
}

#[test]
fn all_or_none_of_a_group_will_do() {
    let model = random_model(2, 2, 4, 0);
    let [clean, corrupted] = random_pairs(&[5]);
    let metric = logit_diffs(&[(3, 5)]);
    let study = ScreenedEdges::new(&model, &clean, &corrupted).unwrap();
    let run = |top, sample| {
        let seed = 0;
        study.run(METHOD, Verify { top, sample, seed }, &metric)
    };
    let all = run(46, 0).unwrap();
    assert!(all.sample_agreement().is_err() && all.bound(0.95).is_err());
    assert_eq!(all.scores().unwrap(), all.exact.scores().unwrap());
    assert!(
        all.to_string()
            .ends_with("no sample that bounds what was missed")
    );
    let sampled = run(0, 46).unwrap();
    assert_eq!(sampled.bound(0.95).unwrap().beyond, 0);
    assert!(sampled.top_agreement().is_err());
    for confidence in [0.0, 1.0, f64::NAN] {
        assert!(sampled.bound(confidence).is_err());
    }
    let message = |top, sample| run(top, sample).unwrap_err().to_string();
    assert_eq!(
        message(40, 7),
        "edges to verify: found 40 and a sample of 7; expected 1 to 46, the model's"
    );
    assert!(message(0, 0).starts_with("edges to verify"));
    assert!(run(usize::MAX, 1).is_err());
}

#[test]
fn a_screen_ends_when_told() {
    let model = random_model(2, 2, 4, 0);
    let [clean, corrupted] = random_pairs(&[5, 4]);
    let metric = logit_diffs(&[(3, 5)]);
    let verify = Verify {
        top: 5,
        sample: 5,
        seed: 0,
    };
    let study = ScreenedEdges::new(&model, &clean, &corrupted).unwrap();
    let stopped = |unit: &'static str| {
        let study = study.clone().observe(move |progress| {
            if progress.unit == unit && progress.done < progress.total {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        study.run(METHOD, verify, &metric).unwrap()
    };
    let early = stopped("gradient runs");
    assert!(early.effect.about.partial && early.approximate.effect.about.partial);
    assert_eq!(
        early.exact.edges,
        EdgeSet::empty(Graph::new(model.config()))
    );
    assert!(early.scores().is_err() && early.bound(0.95).is_err());
    let late = stopped("edges");
    assert!(late.effect.about.partial && !late.approximate.effect.about.partial);
    assert_eq!(late.exact.edges.len(), 10);
    assert!(late.bound(0.95).is_err());
}
