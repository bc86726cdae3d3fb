//! Attribution as a study: bad input, limits, metrics.

use super::*;

#[test]
fn bad_input_is_an_error() {
    let (model, prompt, metric) = open("tiny-gelu-new");
    let message = |metric: Metric| {
        DirectLogitAttribution::new(&model, &prompt, &metric)
            .unwrap_err()
            .to_string()
    };
    assert!(message(logit_diff(0, 53)).contains("token 53 is out of range"));
    assert!(message(logit_sums(&[vec![]])).contains("at least one"));
    assert!(message(logit_sums(&[vec![(1, f32::NAN)]])).contains("finite"));
    assert!(message(log_probability(&[1])).contains("expected a sum of logits"));
    let largest = logit_diff_sets(&[(vec![1], vec![2, 3])], Reduce::Max);
    assert!(message(largest).contains("expected a sum of logits"));
    assert!(message(logit_diff(0, 1).at_position(2)).contains("at_position(2)"));

    let (_, cache) = model
        .run_with_cache(&prompt, &Selection::points([HookPoint::Logits]))
        .unwrap();
    let labels = prompt.labels.clone();
    let lacking = DirectLogitAttribution::from_cache(&model, cache, labels.clone(), &metric);
    assert!(
        lacking
            .unwrap_err()
            .to_string()
            .contains("ln_final.hook_scale")
    );
    let selection = DirectLogitAttribution::selection(&model).at_positions([2]);
    let (_, cache) = model.run_with_cache(&prompt, &selection).unwrap();
    let partial = DirectLogitAttribution::from_cache(&model, cache, labels, &metric);
    assert!(partial.unwrap_err().to_string().contains("7 each"));

    let attribution = DirectLogitAttribution::new(&model, &prompt, &metric).unwrap();
    assert!(
        attribution
            .head_sources(7)
            .unwrap_err()
            .to_string()
            .contains("pos 7")
    );
    let message = attribution.neurons(7, 1).unwrap_err().to_string();
    assert!(message.contains("pos 7"), "{message}");
    let vectors = Array3::zeros((1, 7, 23));
    let wrong = attribution.attribute(&["x".to_string()], vectors.view());
    assert!(wrong.unwrap_err().to_string().contains("[1, 7, 23]"));
    let none: &[Prompt] = &[];
    let by = Decomposition::Heads;
    let message = direct_logit_attribution(&model, none, by, &metric).unwrap_err();
    assert!(
        message.to_string().contains("prompts: an empty set"),
        "{message}"
    );
    let two = logit_diffs(&[(0, 1), (2, 3)]);
    let message = direct_logit_attribution(&model, &prompt, by, &two).unwrap_err();
    let expected = "logit difference: number of targets: found 2; expected 1";
    assert!(message.to_string().contains(expected), "{message}");
}

/// The shape of all studies: each prompt's values, memory, and an observer who may end it.
#[test]
fn a_study_of_prompts_can_be_bounded_and_ended() {
    let (model, _, metric) = open("tiny-gelu");
    let prompts = [[3, 1, 4], [1, 5, 9], [2, 6, 5]].map(Prompt::from);
    let study = LogitAttribution::new(&model, &prompts[..]).unwrap();
    let whole = study.run(Decomposition::Heads, &metric).unwrap();
    assert_eq!(whole.per_prompt.ncols(), 3);
    for (column, truth) in whole.per_prompt.columns().into_iter().zip(&whole.truth) {
        assert!((column.sum() - truth).abs() < 1e-4);
    }
    assert!(!whole.effect.about.partial);

    let ended = study.clone().observe(|progress| {
        assert_eq!((progress.total, progress.unit), (3, "prompts"));
        if progress.done == 2 {
            std::ops::ControlFlow::Break(())
        } else {
            std::ops::ControlFlow::Continue(())
        }
    });
    let found = ended.run(Decomposition::Heads, &metric).unwrap();
    assert!(found.effect.about.partial);
    assert_eq!(found.effect.about.counts["prompts"], 2);
    let first_two = whole.per_prompt.slice_axis(Axis(1), (0..2).into());
    assert_eq!(found.per_prompt, first_two);

    let small = study
        .clone()
        .memory_limit(1)
        .run(Decomposition::Heads, &metric);
    let Err(patchlens::Error::MemoryLimit { limit: 1, least }) = small else {
        panic!("{small:?}");
    };
    let enough = study
        .memory_limit(least)
        .run(Decomposition::Heads, &metric)
        .unwrap();
    assert_eq!(enough.per_prompt, whole.per_prompt);
}

/// A sum of logits has one spelling, that of metrics: a difference, the same as weights, and means
/// over sets of tokens are attributed alike.
#[test]
fn f7_metrics_are_what_is_attributed() {
    let (model, prompt, metric) = open("tiny-gelu");
    let (a, b) = answer_tokens("tiny-gelu");
    let of = |metric: &Metric| {
        let one = DirectLogitAttribution::new(&model, &prompt, metric).unwrap();
        one.decompose(Decomposition::Writers).unwrap()
    };
    let difference = of(&metric);
    assert_eq!(difference.about.unit, "logit difference");
    let weights = logit_sums(&[vec![(a, 1.0), (b, -1.0)]]);
    assert_eq!(of(&weights).values(), difference.values());
    let single = |token: u32| of(&logit(&[token])).values().to_owned();
    let sum = single(a) - single(b);
    for (sum, difference) in sum.iter().zip(difference.values()) {
        assert!((sum - difference).abs() < 1e-5);
    }
    let sets = logit_diff_sets(&[(vec![a], vec![b, 7])], Reduce::Mean);
    let weights = logit_sums(&[vec![(a, 1.0), (b, -0.5), (7, -0.5)]]);
    assert_eq!(of(&sets).values(), of(&weights).values());
    // What the parts sum to is what the metric reads.
    let read = metric.evaluate(0, model.forward(&prompt).unwrap().view());
    let truth = DirectLogitAttribution::new(&model, &prompt, &metric)
        .unwrap()
        .truth();
    assert_eq!(truth[prompt.len() - 1], read.unwrap());
}
