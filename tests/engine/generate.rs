//! Generation over a cache of keys and values, and steering during it.

use crate::common::MODELS;
use ndarray::Array1;
use patchlens::generate::{Generation, Sampling};
use patchlens::intervention::Values;
use patchlens::steering::{DoseResponse, Steering};
use patchlens::{
    Edit, Intervention, Interventions, Prompt, Select, Site, Target, Transformer, logit_diff,
};

fn prompts(model: &str) -> Vec<Prompt> {
    let metadata = crate::common::metadata(model);
    let tokens = |i: usize| crate::common::tokens(&metadata["prompts"][i]);
    vec![
        tokens(1).into(),
        vec![3].into(),
        tokens(1)[1..].to_vec().into(),
    ]
}

/// Interventions of several kinds, on all positions or some, heads and patterns.
fn interventions(model: &Transformer) -> Vec<Intervention> {
    let d = model.config().d_model;
    let direction = Array1::from_shape_fn(d, |i| ((i * 7 % 5) as f32 - 2.0) * 0.3);
    vec![
        Intervention::new(Site::ResidPre.at(1), Edit::Add(Values::array(direction))),
        Intervention::new(Target::new(Site::Z.at(0)).at_heads(1), Edit::Zero),
        Intervention::new(
            Target::new(Site::Pattern.at(1)).at_heads(0),
            Edit::Scale(0.5),
        ),
        Intervention::new(Site::KInput.at(1), Edit::Noise { std: 0.1, seed: 5 }),
        Intervention::new(
            Target::new(Site::MlpPost.at(0)).at_positions(0),
            Edit::Scale(2.0),
        ),
        Intervention::new(
            Target::new(Site::Result.at(0)).at_heads(0),
            Edit::Scale(1.5),
        ),
    ]
}

#[test]
fn logits_have_the_bits_of_a_full_pass_with_and_without_interventions() {
    for name in MODELS {
        let model = crate::common::open(name);
        let sampling = Sampling::Random {
            temperature: 1.5,
            top_k: None,
            seed: 7,
        };
        for list in [Vec::new(), interventions(&model)] {
            for sampling in [Sampling::Greedy, sampling] {
                let generation = Generation {
                    sampling,
                    ..Generation::greedy(6)
                };
                let mut hooks = Interventions::new(&list[..]);
                let found = model
                    .generate(&prompts(name), &mut hooks, &generation)
                    .unwrap();
                for (sequence, prompt) in found.iter().zip(prompts(name)) {
                    let n = prompt.len();
                    assert_eq!(sequence.tokens[..n], prompt.tokens);
                    assert_eq!(sequence.new_tokens().len(), 6);
                    let run = &sequence.tokens[..n + 5];
                    let full = model
                        .run_with_hooks(run, Interventions::new(&list[..]))
                        .unwrap();
                    for (step, logits) in sequence.logits.rows().into_iter().enumerate() {
                        let expected = full.row(n - 1 + step);
                        let same = logits
                            .iter()
                            .zip(expected)
                            .all(|(a, b)| a.to_bits() == b.to_bits());
                        assert!(
                            same,
                            "{name}: step {step} of {n} tokens, {} edits",
                            list.len()
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn receipts_count_every_step_and_every_new_position() {
    let model = crate::common::open("tiny-gelu");
    let list = interventions(&model);
    let mut hooks = Interventions::new(&list[..]);
    let prompt = Prompt::from([1, 2, 3, 4]);
    let generation = Generation::greedy(5);
    model.generate(&prompt, &mut hooks, &generation).unwrap();
    let fired = hooks.receipt().fired;
    // One prefill and four steps: 4 + 4 rows; all heads see the split input.
    assert_eq!(
        (fired[0].times, fired[0].rows, fired[0].changed_rows),
        (5, 8, 8)
    );
    assert_eq!((fired[1].times, fired[1].rows), (5, 8));
    assert_eq!((fired[3].times, fired[3].rows), (5, 8 * 4));
    assert_eq!(fired[4].rows, 1, "position 0 is run once");
    let plain = model.generate(&prompt, (), &generation).unwrap();
    let steered = model.generate(&prompt, &mut hooks, &generation).unwrap();
    assert_ne!(plain[0].logits, steered[0].logits);
}

#[test]
fn greedy_takes_the_likeliest_and_a_batch_is_each_alone() {
    let name = "tiny-relu";
    let model = crate::common::open(name);
    let generation = Generation::greedy(5);
    let together = model.generate(&prompts(name), (), &generation).unwrap();
    for (prompt, found) in prompts(name).iter().zip(&together) {
        for (logits, token) in found.logits.rows().into_iter().zip(found.new_tokens()) {
            let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(logits[*token as usize], best);
        }
        assert_eq!(&model.generate(prompt, (), &generation).unwrap()[0], found);
    }
}

#[test]
fn a_stopped_sequence_leaves_the_others_and_their_hooks_alone() {
    let name = "tiny-gelu-new";
    let model = crate::common::open(name);
    let direction = Array1::from_elem(model.config().d_model, 1.0).mapv(|v: f32| v * 0.7);
    let target = Target::new(Site::MlpOut.at(0)).at_sequences(2);
    let list = [Intervention::new(
        target,
        Edit::Mean(Values::array(direction)),
    )];
    let run = |stop_at| {
        let generation = Generation {
            stop_at,
            ..Generation::greedy(6)
        };
        model
            .generate(&prompts(name), Interventions::new(&list[..]), &generation)
            .unwrap()
    };
    let whole = run(None);
    let stop = whole[0].new_tokens()[1];
    let stopped = run(Some(stop));
    for (whole, stopped) in whole.iter().zip(&stopped) {
        let at = whole.new_tokens().iter().position(|t| *t == stop);
        let length = at.map_or(6, |at| at + 1);
        assert_eq!(stopped.new_tokens(), &whole.new_tokens()[..length]);
        assert_eq!(stopped.logits.nrows(), length);
        assert_eq!(stopped.logits.row(length - 1), whole.logits.row(length - 1));
    }
    assert!(stopped[0].new_tokens().len() <= 2);
    assert!(
        stopped.iter().any(|s| s.new_tokens().len() == 6),
        "one goes on"
    );
}

#[test]
fn random_tokens_follow_the_distribution() {
    let model = crate::common::open("tiny-gelu-new");
    let prompt = Prompt::from([7, 31]);
    let logits = model.forward(&prompt).unwrap();
    let weights: Vec<f64> = logits
        .row(1)
        .iter()
        .map(|v| (f64::from(*v) / 0.8).exp())
        .collect();
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by(|a, b| weights[*b].total_cmp(&weights[*a]));
    let total: f64 = order[..4].iter().map(|t| weights[*t]).sum();
    let many = vec![prompt; 4000];
    let sampling = |seed| Sampling::Random {
        temperature: 0.8,
        top_k: Some(4),
        seed,
    };
    let draw = |seed| {
        let generation = Generation {
            sampling: sampling(seed),
            ..Generation::greedy(1)
        };
        let found = model.generate(&many, (), &generation).unwrap();
        found
            .iter()
            .map(|s| s.new_tokens()[0])
            .collect::<Vec<u32>>()
    };
    let drawn = draw(1);
    assert_eq!(drawn, draw(1));
    assert_ne!(drawn, draw(2));
    for token in &order[..4] {
        let p = weights[*token] / total;
        let share = drawn.iter().filter(|t| **t as usize == *token).count() as f64 / 4000.0;
        let error = (p * (1.0 - p) / 4000.0).sqrt();
        assert!(
            (share - p).abs() < 5.0 * error,
            "token {token}: {share}, expected {p} ± {error}"
        );
    }
    assert!(drawn.iter().all(|t| order[..4].contains(&(*t as usize))));
}

#[test]
fn bad_input_is_an_error_before_anything_runs() {
    let model = crate::common::open("tiny-relu"); // 10 positions
    let message = |prompt: &[u32], list: Vec<Intervention>, generation: Generation| {
        let hooks = Interventions::new(list);
        let result = model.generate(&Prompt::from(prompt), hooks, &generation);
        result.unwrap_err().to_string()
    };
    let long = message(&[1; 8], vec![], Generation::greedy(4));
    assert!(
        long.contains("8 tokens and 4 to generate") && long.contains("11"),
        "{long}"
    );
    let prompt = Prompt::from([1; 8]);
    assert!(
        model.generate(&prompt, (), &Generation::greedy(3)).is_ok(),
        "the last is not run"
    );
    assert!(message(&[1], vec![], Generation::greedy(0)).contains("max_new_tokens"));
    assert!(message(&[], vec![], Generation::greedy(1)).contains("0 tokens"));
    let stop = Generation {
        stop_at: Some(model.config().d_vocab as u32),
        ..Generation::greedy(1)
    };
    let stop = message(&[1], vec![], stop);
    let token = format!("stop_at: token {} is out", model.config().d_vocab);
    assert!(stop.contains(&token), "{stop}");
    let random = |temperature, top_k| Generation {
        sampling: Sampling::Random {
            temperature,
            top_k,
            seed: 0,
        },
        ..Generation::greedy(2)
    };
    for temperature in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        assert!(message(&[1], vec![], random(temperature, None)).contains("temperature"));
    }
    assert!(message(&[1], vec![], random(1.0, Some(0))).contains("top_k"));
    let set = |n: usize| {
        let values = ndarray::Array2::zeros((n, model.config().d_model));
        vec![Intervention::new(
            Site::MlpOut.at(0),
            Edit::Set(Values::array(values)),
        )]
    };
    // Values by position: for the prompt, for the whole text, for one more.
    for n in [3, 6, 7] {
        assert!(
            message(&[1, 2, 3], set(n), Generation::greedy(4)).contains("shape"),
            "{n}"
        );
    }
    let at = |position: usize| {
        let target = Target::new(Site::MlpOut.at(0)).at_positions(position);
        vec![Intervention::new(target, Edit::Zero)]
    };
    assert!(message(&[1, 2, 3], at(6), Generation::greedy(4)).contains("pos 6"));
    let mut hooks = Interventions::new(at(5));
    model
        .generate(&Prompt::from([1, 2, 3]), &mut hooks, &Generation::greedy(4))
        .unwrap();
    assert_eq!(
        hooks.receipt().fired[0].rows,
        1,
        "a position that is generated"
    );
    let infinite = Edit::map(|_, row| row.fill(f32::NAN));
    let infinite = vec![Intervention::new(Site::MlpOut.at(0), infinite)];
    assert!(message(&[1], infinite, Generation::greedy(1)).contains("logit"));
}

#[test]
fn dose_and_response_are_those_of_full_runs() {
    let name = "tiny-gelu-new";
    let model = crate::common::open(name);
    let metadata = crate::common::metadata(name);
    let pairs: Vec<Prompt> = (0..2)
        .map(|i| crate::common::tokens(&metadata["prompts"][i]).into())
        .collect();
    let points = [Site::ResidPost.at(0), Site::AttnOut.at(1)];
    let (yes, no) = (&pairs[..1], &pairs[1..]);
    let steering = Steering::difference_of_means(&model, yes, no, &points, Select::Last).unwrap();
    let metric = logit_diff(12, 29);
    let scales = [-2.0, 0.0, 1.0];
    let value = |list: Vec<Intervention>, prompt: &Prompt| {
        let logits = model
            .run_with_hooks(prompt, Interventions::new(list))
            .unwrap();
        metric.evaluate(0, logits.view()).unwrap()
    };
    let mean = |list: &dyn Fn() -> Vec<Intervention>| {
        let values: Vec<f32> = pairs.iter().map(|prompt| value(list(), prompt)).collect();
        (
            (values[0] + values[1]) / 2.0,
            (values[0] - values[1]).abs() / 2.0,
        )
    };
    let study = DoseResponse::new(&model, &pairs[..], &steering).unwrap();
    let found = study.run(&scales, &metric).unwrap();
    let curve = found.raw();
    let by_point = study.clone().by_point(true).run(&scales, &metric).unwrap();
    let by_point = by_point.raw();
    assert_eq!(by_point.axes()[1].labels, ["-2", "0", "1"]);
    for (i, scale) in scales.into_iter().enumerate() {
        let (expected, error) = mean(&|| steering.interventions(scale).unwrap());
        assert!((curve.values()[i] - expected).abs() < 1e-6);
        assert!((curve.std_error().unwrap()[i] - error).abs() < 1e-6);
        for (point, (at, direction)) in steering.directions.iter().enumerate() {
            let edit = || Edit::Add(Values::array(direction * scale));
            let (expected, _) = mean(&|| vec![Intervention::new(*at, edit())]);
            assert!((by_point.values()[[point, i]] - expected).abs() < 1e-6);
        }
    }
    let unsteered = curve.about.baselines["unsteered"];
    assert!((curve.values()[1] - unsteered).abs() < 1e-6 && curve.values()[0] != unsteered);
    assert!(curve.curves().is_ok());
    // The ordinary result is the change: none at scale 0.
    assert!(found.effect.values()[1].abs() < 1e-6);
    for ((index, change), value) in found.per_prompt.indexed_iter().zip(&found.values) {
        assert_eq!(*change, value - found.unsteered[index[1]]);
    }
    assert!(
        found
            .effect
            .about
            .title
            .ends_with("against the unsteered run")
    );
    assert!(
        curve
            .about
            .caption
            .contains("added to the activation at all positions")
    );
    let at_last = steering.clone().at_positions(Select::Last);
    let at_last = DoseResponse::new(&model, &pairs[..], &at_last).unwrap();
    let found = at_last.run(&scales, &metric).unwrap();
    let caption = &found.effect.about.caption;
    assert!(caption.contains("at pos last"), "{caption}");
    let none = study.run(&[], &metric).unwrap_err();
    assert!(
        none.to_string().contains("steering scales: found 0"),
        "{none}"
    );
}

#[test]
fn a_difference_of_means_moves_one_mean_onto_the_other() {
    let model = crate::common::open("tiny-gelu");
    let (yes, no) = (Prompt::from([4, 5, 6]), Prompt::from([9, 2]));
    let point = Site::MlpOut.at(1);
    let selection = patchlens::Selection::points([point]);
    let steering =
        Steering::difference_of_means(&model, &yes, &no, &[point], Select::Last).unwrap();
    let last = |prompt: &Prompt, row: usize| {
        let (_, cache) = model.run_with_cache(prompt, &selection).unwrap();
        cache
            .get(point)
            .unwrap()
            .index_axis(ndarray::Axis(0), row)
            .to_owned()
    };
    let expected = last(&yes, 2) - last(&no, 1);
    let (_, direction) = &steering.directions[0];
    assert!(
        direction
            .iter()
            .zip(&expected)
            .all(|(a, b)| (a - b).abs() < 1e-6)
    );
    let all = Steering::difference_of_means(&model, &yes, &no, &[point], Select::All).unwrap();
    assert_ne!(all.directions, steering.directions);

    let message = |r: patchlens::Result<Steering>| r.unwrap_err().to_string();
    let means = |points: &[patchlens::HookPoint], read| {
        message(Steering::difference_of_means(
            &model, &yes, &no, points, read,
        ))
    };
    assert!(means(&[Site::Z.at(0)], Select::Last).contains("[pos, head, d_head]"));
    assert!(means(&[point], Select::from(2)).contains("pos 2 is out of range"));
    assert!(means(&[], Select::Last).contains("at least one"));
    assert!(means(&[Site::MlpOut.at(3)], Select::Last).contains("layer 3"));
    let same = Steering::difference_of_means(&model, &yes, &yes, &[point], Select::Last);
    assert!(message(same).contains("length"));
    let message = steering.interventions(f32::NAN).unwrap_err().to_string();
    assert!(message.contains("steering scale: found NaN"), "{message}");
}
