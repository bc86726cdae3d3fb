//! What misled people about heads, knock-outs and circuits, each by the name of its case.

use std::ops::ControlFlow;

use ndarray::{Array1, Axis, Ix3};
use patchlens::ablation::{Ablation, Circuit, CircuitNode, Each, Replacement};
use patchlens::heads::{CopyScores, InductionSearch};
use patchlens::in_context::{TokenPair, in_context_score, in_context_score_by_head, repeated_loss};
use patchlens::metric::{kl_divergence, next_token_loss};
use patchlens::report::Absent;
use patchlens::tasks::RepeatedPrompt;
use patchlens::weights::Circuits;
use patchlens::{Component, Config, Edit, Error, Intervention, Interventions, KeepLogits};
use patchlens::{Head, Metric, Prompt, Prompts, Qkv, Run, Site, Transformer, logit_diff};

fn tiny() -> Transformer {
    let config = Config {
        n_layers: 3,
        n_heads: 2,
        d_model: 8,
        d_mlp: 16,
        d_vocab: 11,
        n_ctx: 16,
        ..Config::gpt2()
    };
    Transformer::random(config, 3).unwrap()
}

/// Prompts of one length.
fn own() -> Prompts {
    Prompts::new([[1, 2, 3, 4], [5, 6, 7, 8], [9, 3, 1, 6]]).unwrap()
}

fn others() -> Prompts {
    Prompts::new([[2, 2, 5, 4], [6, 6, 9, 8], [10, 3, 2, 6]]).unwrap()
}

fn replacements(own: &Prompts) -> [Replacement; 5] {
    let templates = vec![0; own.len()];
    [
        Replacement::Zero,
        Replacement::OverallMean,
        Replacement::CounterfactualMean(others()),
        Replacement::TemplateMean {
            templates: templates.clone(),
            counterfactual: others(),
            counterfactual_templates: templates,
        },
        Replacement::Resample(others()),
    ]
}

fn mean(values: &Array1<f32>) -> f32 {
    let sum: f64 = values.iter().map(|v| f64::from(*v)).sum();
    (sum / values.len() as f64) as f32
}

#[test]
fn f9_positions_of_a_token_pair_count_from_0() {
    let (model, prompts) = (tiny(), own());
    let tokens = TokenPair { late: 3, early: 1 };
    let found = in_context_score(&model, &prompts, tokens).unwrap();
    for (i, prompt) in prompts.iter().enumerate() {
        let logits = model.forward(prompt).unwrap();
        let (_, losses) = next_token_loss(logits.view(), &prompt.tokens).unwrap();
        // The loss of the token at position 3 is read at position 2.
        assert!((found.per_prompt[i] - (losses[2] - losses[0])).abs() < 1e-5);
    }
    let beyond = TokenPair { late: 4, early: 1 };
    let error = in_context_score(&model, &prompts, beyond).unwrap_err();
    assert!(error.to_string().contains("at least 5"), "{error}");
    let first = TokenPair { late: 3, early: 0 };
    let error = in_context_score(&model, &prompts, first).unwrap_err();
    assert!(error.to_string().contains("1 ≤ early"), "{error}");
    assert_eq!(TokenPair::default().late, 499);
}

#[test]
fn f11_copy_scores_need_fewer_tokens_than_there_are() {
    let model = tiny();
    for top in [0, 11, usize::MAX] {
        let error = CopyScores::new(&model, &Prompt::from([1, 2]), &[vec![1]])
            .unwrap()
            .top(top)
            .run()
            .unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("top") && error.contains("11 tokens"),
            "{error}"
        );
    }
    let study = CopyScores::of_tokens(&model, &[1, 2, 3], None).unwrap();
    let all = study.clone().top(10).run().unwrap();
    assert!(all.per_token.iter().any(|copied| *copied == 0.0), "{all:?}");
    // The same within little memory; after a break, what was not reached has no value.
    let small = study.clone().top(10).memory_limit(5 << 20).run().unwrap();
    assert_eq!(small.per_token, all.per_token);
    let none = study.clone().memory_limit(1 << 16).run().unwrap_err();
    assert!(
        matches!(none, Error::MemoryLimit { limit: 65536, .. }),
        "{none}"
    );
    let broken = study
        .observe(|_| ControlFlow::Break(()))
        .run()
        .unwrap()
        .score;
    assert!(broken.about.partial);
    for ((_, layer, _), absent) in broken
        .absent()
        .into_dimensionality::<Ix3>()
        .unwrap()
        .indexed_iter()
    {
        assert_eq!(*absent, (layer > 0).then_some(Absent::NotRun), "{broken}");
    }
}

#[test]
fn f11_a_repeated_prompt_must_repeat() {
    let model = tiny();
    let by_hand = |tokens: &[u32], start| RepeatedPrompt {
        prompt: Prompt::from(tokens),
        start,
        period: 3,
    };
    repeated_loss(&model, &[by_hand(&[1, 2, 3, 1, 2, 3], 0)]).unwrap();
    let other = by_hand(&[1, 2, 3, 1, 5, 3], 0);
    let error = repeated_loss(&model, std::slice::from_ref(&other)).unwrap_err();
    let error = error.to_string();
    assert!(error.contains("position 4"), "{error}");
    assert!(
        error.contains("token 5; expected 2") && error.contains("expected 2"),
        "{error}"
    );
    assert!(InductionSearch::new(&model, &[other]).is_err());
    // A start far outside is an error, not an overflow.
    let outside = by_hand(&[1, 2, 3, 1, 2, 3], usize::MAX);
    assert!(repeated_loss(&model, &[outside]).is_err());
}

#[test]
fn f12_the_nodes_that_change_most_come_first() {
    let (model, metric) = (tiny(), logit_diff(5, 6));
    for replacement in replacements(&own()) {
        let ablation = Ablation::new(&model, own(), replacement).unwrap();
        let sets: Vec<_> = Head::all(model.config()).map(|h| vec![h.into()]).collect();
        let sets = [sets, vec![vec![CircuitNode::mlp(1)], vec![]]].concat();
        let found = ablation.run(Each::Set(&sets), &metric).unwrap();
        let clean = mean(&found.clean);
        let by_hand = found.raw().values().mapv(|raw| (raw - clean).abs());
        let most = by_hand.iter().copied().fold(0.0, f32::max);
        let top = &found.effect.top(5).cells;
        assert!((top[0].value.abs() - most).abs() < 1e-5, "{top:?}");
        assert!(
            top.iter().all(|cell| cell.index != [sets.len() - 1]),
            "nothing is knocked out"
        );
        for pair in top.windows(2) {
            assert!(pair[0].value.abs() >= pair[1].value.abs());
        }
        let title = &found.effect.about.title;
        assert!(title.contains("change of the logit difference"), "{title}");
        // The same of all heads, and with its sign turned.
        let heads = ablation.run(Each::Head, &metric).unwrap();
        let flat = found.effect.values();
        assert!(heads.effect.values().iter().eq(flat.iter().take(6)));
        let lost = heads.lost().unwrap();
        assert!(
            lost.values()
                .iter()
                .eq(heads.effect.values().mapv(|v| -v).iter())
        );
    }
}

#[test]
fn f12_the_score_in_context_and_function_vectors_show_changes_too() {
    let (model, prompts) = (tiny(), own());
    let tokens = TokenPair { late: 3, early: 1 };
    let ablation = Ablation::new(&model, &prompts, Replacement::Zero).unwrap();
    let change = in_context_score_by_head(&ablation, tokens).unwrap();
    let whole = in_context_score(&model, &prompts, tokens).unwrap();
    assert_eq!(change.clean, whole.per_prompt);
    let run = |head: Head| {
        let zero = Intervention::new(
            patchlens::Target::new(Site::Z.at(head.layer)).at_heads(head.head),
            Edit::Zero,
        );
        let hooks = Interventions::new(vec![zero]);
        let logits = model.run(&prompts, hooks, &Run::default()).unwrap().logits;
        let score = |(logits, prompt): (ndarray::ArrayView2<'_, f32>, &Prompt)| {
            let (_, losses) = next_token_loss(logits, &prompt.tokens).unwrap();
            losses[2] - losses[0]
        };
        logits.iter().zip(&prompts).map(score).collect::<Vec<f32>>()
    };
    for head in Head::all(model.config()) {
        for (prompt, score) in run(head).into_iter().enumerate() {
            let index = [head.layer, head.head, prompt];
            assert!((change.values[&index[..]] - score).abs() < 1e-5);
            let moved = score - whole.per_prompt[prompt];
            assert!((change.per_prompt[&index[..]] - moved).abs() < 1e-5);
        }
    }
    let about = &change.effect.about;
    assert!(about.counts["multiply-adds"] > 0 && change.effect.std_error().is_some());
}

#[test]
fn n3_means_say_over_what_they_are_taken() {
    let (overall, own) = (Replacement::OverallMean, own());
    let texts: Vec<String> = replacements(&own).iter().map(ToString::to_string).collect();
    assert!(
        overall
            .to_string()
            .contains("over all positions of all prompts")
    );
    for (i, text) in texts.iter().enumerate() {
        assert!(!texts[..i].contains(text), "{text} names two replacements");
    }
    let model = tiny();
    for replacement in replacements(&own) {
        let ablation = Ablation::new(&model, &own, replacement).unwrap();
        let found = ablation.run(Each::Head, &logit_diff(5, 6)).unwrap();
        let caption = &found.raw().about.caption;
        assert!(
            caption.contains(&ablation.replacement().to_string()),
            "{caption}"
        );
    }
}

#[test]
fn n9_a_knock_out_has_the_error_of_what_is_lost() {
    let model = tiny();
    let ablation = Ablation::new(&model, own(), Replacement::Zero).unwrap();
    let found = ablation.run(Each::Head, &logit_diff(5, 6)).unwrap();
    let errors = found.effect.std_error().unwrap();
    assert_eq!(found.lost().unwrap().std_error().unwrap(), errors);
    for (error, of_head) in errors.iter().zip(found.per_prompt.lanes(Axis(2))) {
        let n = of_head.len() as f32;
        let expected = of_head.std(1.0) / n.sqrt();
        assert!((error - expected).abs() < 1e-5, "{error} {expected}");
    }
}

#[test]
fn f19_lengths_that_differ_name_the_means_that_take_them() {
    let model = tiny();
    let ragged = Prompts::new([vec![1, 2, 3], vec![4, 5, 6, 7]]).unwrap();
    let by = Replacement::counterfactual_mean(&ragged).unwrap();
    let error = Ablation::new(&model, &ragged, by).unwrap_err().to_string();
    assert!(error.contains("Replacement::TemplateMean"), "{error}");
    assert!(error.contains("Replacement::OverallMean"), "{error}");
    // A circuit takes the mean over all positions, too.
    let ablation = Ablation::new(&model, &ragged, Replacement::OverallMean).unwrap();
    let circuit = Circuit::new(vec![CircuitNode::head(1, 1)]).unwrap();
    let found = ablation.faithfulness(&circuit, &logit_diff(5, 6)).unwrap();
    assert!(found.gap().is_finite() && found.circuit.mean != found.full.mean);
}

#[test]
fn f20_composition_without_a_path_has_no_value() {
    let model = tiny();
    let circuits = Circuits::new(&model);
    let scores = circuits.composition_scores(Qkv::K).unwrap();
    for (index, value) in scores.values().indexed_iter() {
        let later = index[2] > index[0];
        assert_eq!(value.is_nan(), !later);
        let reason = scores.absent()[index];
        assert_eq!(reason, (!later).then_some(Absent::NoPath));
    }
    let table = circuits.composition_table().unwrap();
    let json = serde_json::to_string(&table).unwrap();
    assert!(json.contains("no_path"), "{json}");
    let absent = table.absent();
    assert_eq!(absent.iter().filter(|a| a.is_some()).count(), 3 * (36 - 12));
    // The lowest score that there is, not a 0 that was never measured.
    assert!(table.values().iter().all(|v| v.is_nan() || *v > 0.0));
}

#[test]
fn b23_what_changes_nothing_says_so() {
    let (model, metric) = (tiny(), logit_diff(5, 6));
    let one = Prompts::new([[1, 2, 3, 4]]).unwrap();
    let copies = Prompts::new([[1, 2, 3, 4]; 3]).unwrap();
    let same = [
        Ablation::new(&model, own(), Replacement::Resample(own())),
        Ablation::new(&model, &one, Replacement::CounterfactualMean(copies)),
    ];
    for ablation in same {
        let found = ablation.unwrap().run(Each::Head, &metric).unwrap();
        assert!(found.per_prompt.iter().all(|change| *change == 0.0));
        let caption = &found.effect.about.caption;
        assert!(caption.contains("Nothing changed"), "{caption}");
    }
    let ablation = Ablation::new(&model, own(), Replacement::Zero).unwrap();
    let caption = ablation
        .run(Each::Head, &metric)
        .unwrap()
        .effect
        .about
        .caption;
    assert!(!caption.contains("Nothing changed"), "{caption}");
    // After an observer's break, what was not reached has no value: it is not a change of 0.
    let broken = ablation.clone().observe(|_| ControlFlow::Break(()));
    let found = broken.run(Each::HeadDirectly, &metric).unwrap();
    assert!(found.effect.about.partial);
    for (index, absent) in found.effect.absent().indexed_iter() {
        assert_eq!(*absent, (index[0] > 0).then_some(Absent::NotRun));
    }
    // Before any work: a node that does not exist, a class that a prompt lacks.
    let beyond = [vec![CircuitNode::head(3, 0)]];
    assert!(ablation.run(Each::Set(&beyond), &metric).is_err());
    assert!(ablation.run(Each::HeadAt("end"), &metric).is_err());
    assert!(
        ablation
            .with_class("end", vec![vec![3], vec![4], vec![3]])
            .is_err()
    );
}

/// The metric with all nodes replaced in one run, `[prompt]`.
fn all_replaced(model: &Transformer, mlps: bool, metric: &Metric) -> Array1<f32> {
    let layers = 0..model.config().n_layers;
    let sites = if mlps {
        &[Site::Z, Site::MlpOut][..]
    } else {
        &[Site::Z]
    };
    let points = layers.flat_map(|layer| sites.iter().map(move |site| site.at(layer)));
    let zeros = points.map(|point| Intervention::new(point, Edit::Zero));
    let hooks = Interventions::new(zeros.collect::<Vec<_>>());
    let run = Run {
        logits: KeepLogits::All,
        ..Run::default()
    };
    let logits = model.run(&own(), hooks, &run).unwrap().logits;
    let read = |(i, logits)| metric.evaluate(i, logits).unwrap();
    logits.iter().enumerate().map(read).collect()
}

#[test]
fn b28_the_whole_circuit_is_the_model_and_the_empty_one_is_one_run() {
    let (model, metric) = (tiny(), logit_diff(5, 6));
    let reversed = Prompts::new(own().iter().rev().cloned().collect::<Vec<_>>()).unwrap();
    for (prompts, mlps) in [(own(), false), (own(), true), (reversed, true)] {
        for replacement in replacements(&prompts) {
            let mut ablation = Ablation::new(&model, &prompts, replacement).unwrap();
            if mlps {
                ablation = ablation.with_mlps();
            }
            let full = Circuit::full(model.config(), mlps).unwrap();
            let scores = ablation.faithfulness(&full, &metric).unwrap();
            assert_eq!(scores.gap(), 0.0, "{}", ablation.replacement());
            assert_ne!(scores.empty.mean, scores.full.mean);
            let kl = ablation.faithfulness(&full, &kl_divergence()).unwrap();
            assert_eq!(
                (kl.full.mean, kl.circuit.mean),
                (0.0, 0.0),
                "{}",
                ablation.replacement()
            );
            assert!(kl.empty.mean > 0.0);
            // The empty circuit is one run in which all nodes are replaced.
            let everything = full.nodes().to_vec();
            let found = ablation.run(Each::Set(&[everything]), &metric).unwrap();
            let of_all = found
                .values
                .index_axis(Axis(0), 0)
                .iter()
                .copied()
                .collect();
            assert_eq!(mean(&of_all).to_bits(), scores.empty.mean.to_bits());
        }
    }
    for mlps in [false, true] {
        let mut ablation = Ablation::new(&model, own(), Replacement::Zero).unwrap();
        if mlps {
            ablation = ablation.with_mlps();
        }
        let circuit = Circuit::new(vec![CircuitNode::head(0, 0)]).unwrap();
        let found = ablation.faithfulness(&circuit, &metric).unwrap();
        let empty = found.empty.mean;
        let expected = mean(&all_replaced(&model, mlps, &metric));
        assert_eq!(empty.to_bits(), expected.to_bits());
    }
    assert_eq!(CircuitNode::mlp(1).node, Component::Mlp(1));
}
