//! Approximate effects of edges: goldens, identities, and models where they are exact.

use std::ops::ControlFlow;

use ndarray::{Array2, ArrayView2, Axis};
use patchlens::circuits::{
    Approximation, EdgeAttribution, EdgeEffects, EdgeSet, ExactEdges, Orientation, Receiver,
    Source, Steps,
};
use patchlens::config::Activation;
use patchlens::gradient::Backward;
use patchlens::metric::{kl_divergence, logit_diffs, rank};
use patchlens::parameters::Parameters;
use patchlens::report::Direction;
use patchlens::{
    Base, Config, Edit, Error, HookPoint, Intervention, Metric, Prompts, Selection, Site,
    Transformer,
};
use proptest::prelude::*;

use super::{Golden, MODELS, random_model, random_pairs};

mod identities;
mod receivers;

const ALL: [Approximation; 9] = [
    Approximation::Eap,
    Approximation::EapIg(Steps::Left(3)),
    Approximation::EapIg(Steps::Right(2)),
    Approximation::EapIg(Steps::Midpoint(1)),
    Approximation::CleanCorrupted,
    Approximation::ActivationsAsPublished(2),
    Approximation::ActivationsAsImplemented(2),
    Approximation::ReceiverExact,
    Approximation::ReceiverExactIg(Steps::Left(3)),
];

fn study(golden: &Golden) -> EdgeAttribution<'_> {
    EdgeAttribution::new(&golden.model, &golden.clean, &golden.corrupted).unwrap()
}

#[test]
fn scores_are_those_of_the_reference() {
    let eap = Approximation::Eap;
    let ig = Approximation::EapIg;
    let noising = [
        ("eap/noising", eap),
        ("clean_corrupted", Approximation::CleanCorrupted),
        ("eap_ig/left", ig(Steps::Left(5))),
        ("eap_ig/right", ig(Steps::Right(5))),
        ("eap_ig/midpoint", ig(Steps::Midpoint(5))),
        (
            "activations/published",
            Approximation::ActivationsAsPublished(5),
        ),
        (
            "activations/implemented",
            Approximation::ActivationsAsImplemented(5),
        ),
    ];
    for (model, n_edges) in MODELS {
        let golden = Golden::open(model);
        assert_eq!(golden.metadata["steps"], 5);
        let expect = |direction, key: &str, method, metric: &Metric| {
            let study = study(&golden).direction(direction);
            let found = study.run(method, metric).unwrap();
            assert_eq!(found.per_prompt.dim(), (n_edges, 4));
            golden.expect(found.per_prompt.view(), golden.by_pair(key), key);
        };
        for (key, method) in noising {
            expect(Direction::Noising, key, method, &golden.metric);
        }
        let (denoising, kl) = (Direction::Denoising, kl_divergence());
        expect(denoising, "eap/denoising", eap, &golden.metric);
        expect(denoising, "kl/eap/denoising", eap, &kl);
        let left = ig(Steps::Left(5));
        expect(Direction::Noising, "kl/eap_ig/left", left, &kl);
    }
}

#[test]
fn scores_by_position_are_those_of_the_reference() {
    for model in ["tiny-relu", "tiny-gelu"] {
        let golden = Golden::open(model);
        let study = study(&golden);
        let found = study.run_by_position(Approximation::Eap, &golden.metric);
        let found = found.unwrap();
        assert!(!found.partial);
        let key = "eap/noising/by_pos"; // of pair 0
        let expected = golden.tensors[key].view().into_dimensionality().unwrap();
        golden.expect(found.per_prompt.index_axis(Axis(2), 0), expected, key);
        let whole = study.run(Approximation::Eap, &golden.metric).unwrap();
        let sum = found.per_prompt.sum_axis(Axis(1));
        golden.expect(sum.view(), whole.per_prompt.view(), "sums over positions");
    }
}

/// Edges into the receivers, and none but these, leave a source.
fn sums_over_receivers(found: &EdgeEffects, source: Source) -> Vec<f32> {
    let edges = found.edges.edges().enumerate();
    let own: Vec<usize> = edges
        .filter_map(|(i, edge)| (edge.from == source).then_some(i))
        .collect();
    let sums = found.per_prompt.select(Axis(0), &own).sum_axis(Axis(0));
    sums.to_vec()
}

/// The difference of what a source writes in both runs times the gradient there, by pair.
fn node_attribution(golden: &Golden, source: Source) -> Vec<f32> {
    let (point, head) = match source {
        Source::Input => (HookPoint::Embed, None),
        Source::Head(head) => (Site::Result.at(head.layer), Some(head.head)),
        Source::Mlp(layer) => (Site::MlpOut.at(layer), None),
    };
    let point = Selection::points([point]);
    let at = point.iter().next().unwrap();
    let want = Backward {
        gradients: Some(&point),
        activations: Some(&point),
        ..Backward::default()
    };
    let run = |prompts: &Prompts| {
        let found = golden.model.gradients(prompts, (), &golden.metric, &want);
        found.unwrap()
    };
    let (clean, corrupted) = (run(&golden.clean), run(&golden.corrupted));
    let of_pair = |pair: usize| {
        let terms = |difference: ArrayView2<'_, f32>, gradient: ArrayView2<'_, f32>| {
            let terms = difference.iter().zip(&gradient);
            terms.map(|(a, b)| f64::from(a * b)).sum::<f64>() as f32
        };
        let difference = &corrupted.activations[pair].get(at).unwrap()
            - &clean.activations[pair].get(at).unwrap();
        let gradient = clean.gradients[pair].get(at).unwrap();
        let part = |all: ndarray::ArrayViewD<'_, f32>| -> Array2<f32> {
            let own = match head {
                Some(head) => all.index_axis_move(Axis(1), head),
                None => all,
            };
            own.to_owned().into_dimensionality().unwrap()
        };
        terms(part(difference.view()).view(), part(gradient).view())
    };
    (0..golden.clean.len()).map(of_pair).collect()
}

#[test]
fn edges_out_of_a_source_add_up_to_its_attribution() {
    for model in ["tiny-gelu", "mini"] {
        let golden = Golden::open(model);
        let found = study(&golden).run(Approximation::Eap, &golden.metric);
        let found = found.unwrap();
        for source in golden.graph.sources() {
            let sums = sums_over_receivers(&found, source);
            let expected = node_attribution(&golden, source);
            for (sum, expected) in sums.iter().zip(&expected) {
                let bound = 2e-5 * expected.abs().max(1.0);
                assert!(
                    (sum - expected).abs() < bound,
                    "{source}: {sum}, {expected}"
                );
            }
        }
    }
}

#[test]
fn with_many_steps_the_input_accounts_for_the_whole_change() {
    let golden = Golden::open("mini");
    let error = |steps| {
        let found = study(&golden).run(Approximation::EapIg(steps), &golden.metric);
        let found = found.unwrap();
        let sums = sums_over_receivers(&found, Source::Input).into_iter();
        let change = &found.corrupted - &found.clean;
        let errors = sums.zip(&change).map(|(sum, change)| (sum - change).abs());
        errors.sum::<f32>() / change.mapv(f32::abs).sum()
    };
    let few = error(Steps::Midpoint(5));
    let many = error(Steps::Midpoint(60));
    println!("5 midpoints miss {few}, 60 miss {many}");
    assert!(many < 2e-3 && many < few, "{few}, {many}");
    for steps in [Steps::Left(60), Steps::Right(60)] {
        assert!(error(steps) < 5e-2);
    }
}

#[test]
fn equal_prompts_score_nothing() {
    let model = random_model(2, 2, 4, 0);
    let [prompts, _] = random_pairs(&[5, 3]);
    let study = EdgeAttribution::new(&model, &prompts, &prompts).unwrap();
    for method in ALL {
        let found = study.run(method, &logit_diffs(&[(3, 5)])).unwrap();
        assert!(found.per_prompt.iter().all(|v| *v == 0.0));
    }
}

#[test]
fn the_result_says_what_its_numbers_are() {
    let model = random_model(2, 2, 4, 0);
    let [clean, corrupted] = random_pairs(&[5, 3]);
    let study = EdgeAttribution::new(&model, &clean, &corrupted).unwrap();
    let metric = logit_diffs(&[(3, 5)]);
    let method = Approximation::EapIg(Steps::Left(4));
    let found = study.run(method, &metric).unwrap();
    assert_eq!(found.orientation, Orientation::UsefulIsNegative);
    assert_eq!(found.scores().unwrap().orientation(), found.orientation);
    let about = &found.effect.about;
    assert_eq!(
        about.title,
        "EAP-IG (inputs): change of the logit difference against the clean run"
    );
    assert_eq!(
        about.caption,
        "One edge of the clean run carries what its source wrote in the corrupted run, to first \
         order, by the mean gradient at 4 left ends on the way between both embeddings; \
         change of the logit difference, mean over 2 prompt pairs."
    );
    assert_eq!(about.counts["gradient runs"], 8);
    let denoised = study.clone().direction(Direction::Denoising);
    let denoised = denoised.run(method, &metric).unwrap();
    assert_eq!(denoised.orientation, Orientation::UsefulIsPositive);
    let kl = study.run(method, &kl_divergence()).unwrap();
    assert_eq!(kl.orientation, Orientation::UsefulIsPositive);
}

#[test]
fn a_study_ends_when_told() {
    let model = random_model(2, 2, 4, 0);
    let [clean, corrupted] = random_pairs(&[5, 5, 5]);
    let metric = logit_diffs(&[(3, 5)]);
    let method = Approximation::EapIg(Steps::Left(2));
    let study = EdgeAttribution::new(&model, &clean, &corrupted).unwrap();
    let whole = study.run(method, &metric).unwrap();
    let one_pair = match study
        .clone()
        .memory_limit(1)
        .run(method, &metric)
        .unwrap_err()
    {
        Error::MemoryLimit { least, .. } => least,
        error => panic!("{error}"),
    };
    for (stop, reached) in [(1, 0), (2, 1), (3, 1), (4, 2), (6, 3)] {
        let mut seen = Vec::new();
        let stopped = study.clone().memory_limit(one_pair).observe(|progress| {
            seen.push((progress.done, progress.total));
            if progress.done == stop {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        let part = stopped.run(method, &metric).unwrap();
        drop(stopped);
        let expected: Vec<_> = (1..=stop).map(|done| (done, 6)).collect();
        assert_eq!(seen, expected);
        assert_eq!(part.effect.about.partial, stop < 6);
        assert_eq!(part.scores().is_err(), stop < 6);
        for (pair, column) in part.per_prompt.columns().into_iter().enumerate() {
            if pair < reached {
                assert_eq!(column, whole.per_prompt.column(pair));
            } else {
                assert!(column.iter().all(|v| v.is_nan()));
            }
        }
    }
}

#[test]
fn what_has_no_gradient_is_an_error() {
    let model = random_model(2, 2, 4, 0);
    let [clean, corrupted] = random_pairs(&[5]);
    let study = EdgeAttribution::new(&model, &clean, &corrupted).unwrap();
    let message = |method, metric: &Metric| study.run(method, metric).unwrap_err().to_string();
    let expected = "metric whose gradient at the clean runs is taken: found KL divergence to the clean run (nats), which is 0 in the \
                    clean runs, and so is its gradient there; expected EAP-IG, clean-corrupted \
                    attribution or the other direction, which take gradients of other runs; or \
                    another metric";
    assert_eq!(message(Approximation::Eap, &kl_divergence()), expected);
    // The same with the reference given by hand.
    let logits = model
        .run(&clean, (), &patchlens::Run::default())
        .unwrap()
        .logits;
    let by_hand = kl_divergence().with_reference(&[logits.get(0)]).unwrap();
    assert_eq!(message(Approximation::Eap, &by_hand), expected);
    for method in [
        Approximation::CleanCorrupted,
        Approximation::EapIg(Steps::Left(2)),
    ] {
        study.run(method, &kl_divergence()).unwrap();
    }
    let denoising = study.clone().direction(Direction::Denoising);
    denoising.run(Approximation::Eap, &kl_divergence()).unwrap();

    assert_eq!(
        message(
            Approximation::EapIg(Steps::Left(0)),
            &logit_diffs(&[(3, 5)])
        ),
        "steps of EAP-IG: found 0; expected at least 1"
    );
    assert!(message(Approximation::Eap, &rank(&[3])).starts_with("metric whose gradient is taken"));
    let [two, other] = random_pairs(&[5, 4]);
    let uneven = EdgeAttribution::new(&model, &two, &other).unwrap();
    let metric = logit_diffs(&[(3, 5)]);
    let error = uneven
        .run_by_position(Approximation::Eap, &metric)
        .unwrap_err();
    assert!(matches!(error, Error::Prompt { .. }), "{error}");

    let base = Base::new(&model, &clean).unwrap();
    let zeroed = vec![Intervention::new(Site::MlpOut.at(0), Edit::Zero)];
    let zeroed = Base::over(&base, &corrupted, zeroed).unwrap();
    let study = EdgeAttribution::over(&base, &zeroed).unwrap();
    study.run(Approximation::Eap, &metric).unwrap(); // no gradient of the zeroed run
    let error = study
        .run(Approximation::CleanCorrupted, &metric)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "runs whose gradients are taken: found runs under an intervention at \
         `blocks.0.hook_mlp_out`; expected plain ones"
    );
}
