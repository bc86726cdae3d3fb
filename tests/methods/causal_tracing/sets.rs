//! Averages over sets of facts.

use std::ops::ControlFlow;

use patchlens::tracing::{
    CausalTracing, PositionClass, Restore, SetTrace, SubjectCorruption, TracedFact,
};
use patchlens::{Error, Prompt};

use super::{known, small_model};

/// States, and windows of two MLPs.
fn both(tracing: &CausalTracing<'_>, facts: &[TracedFact]) -> [SetTrace; 2] {
    let restores = [Restore::states(), Restore::mlp(2)];
    let sets = tracing.trace_set(facts, &restores).unwrap();
    sets.try_into().unwrap()
}

#[test]
fn averages_align_roles_and_tell_what_was_dropped() {
    let model = small_model();
    let mut facts = vec![
        known(&model, Prompt::from([3, 9, 14, 2, 9, 20, 6]), 1..4),
        known(&model, Prompt::from([5, 1, 8, 17, 4]), 0..1),
        known(&model, Prompt::from([2, 2, 7, 1, 15, 21, 12]), 0..4),
    ];
    let answer = facts[1].attribute.clone().unwrap();
    facts.insert(1, facts[1].clone().with_attribute((answer[0] + 1) % 23));
    let tracing = CausalTracing::new(&model, SubjectCorruption::noise(0.6));
    let [set, mlps] = both(&tracing, &facts);
    assert_eq!(
        mlps.average.about.title,
        "Causal tracing: hook_mlp_out, average"
    );
    let alone = tracing.trace_set(&facts, &[Restore::mlp(2)]).unwrap();
    assert_eq!(
        alone[0].average, mlps.average,
        "restorations share runs, not results"
    );
    let kept: Vec<usize> = set.kept.iter().map(|(i, _)| *i).collect();
    assert_eq!(kept, [0, 2, 3]);
    let [dropped] = &set.dropped[..] else {
        panic!("{:?}", set.dropped)
    };
    assert_eq!((dropped.index, &dropped.answer), (1, &answer));
    assert_eq!(set.average.about.counts["facts kept"], 3);
    assert_eq!(
        set.average.about.counts["facts dropped (clean model wrong)"],
        1
    );
    // By hand: which tokens of which kept fact belong to a class.
    let roles: [&[(usize, usize)]; 6] = [
        &[(0, 1), (1, 0), (2, 0)],
        &[(0, 2), (2, 1), (2, 2)],
        &[(0, 3), (1, 0), (2, 3)],
        &[(0, 4), (1, 1), (2, 4)],
        &[(0, 5), (1, 2), (1, 3), (2, 5)],
        &[(0, 6), (1, 4), (2, 6)],
    ];
    for (class, tokens) in roles.into_iter().enumerate() {
        assert_eq!(
            set.average.about.counts[&format!("tokens, {}", PositionClass::ALL[class])],
            tokens.len() as u64
        );
        for layer in 0..4 {
            let effect = |(f, t): &(usize, usize)| {
                f64::from(set.kept[*f].1.indirect_effect.values()[[*t, layer]])
            };
            let values: Vec<f64> = tokens.iter().map(effect).collect();
            let n = values.len() as f64;
            let mean = values.iter().sum::<f64>() / n;
            let found = f64::from(set.average.values()[[class, layer]]);
            assert!(
                (found - mean).abs() < 1e-7,
                "{class} {layer}: {found} {mean}"
            );
            let error = f64::from(set.average.std_error().unwrap()[[class, layer]]);
            if [0, 2, 3, 5].contains(&class) {
                // One token a fact: the usual standard error.
                let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 2.0;
                let expected = (variance / 3.0).sqrt();
                assert!(
                    (error - expected).abs() < 1e-7,
                    "{class} {layer}: {error} {expected}"
                );
            }
        }
    }
    let mean = set.kept.iter().map(|(_, t)| t.total_effect).sum::<f32>() / 3.0;
    assert!((set.total_effect.mean - mean).abs() < 1e-6);
}

#[test]
fn a_cancelled_set_says_so() {
    let model = small_model();
    let facts = vec![known(&model, Prompt::from([3, 9, 14, 2, 9]), 1..3); 3];
    let tracing = CausalTracing::new(&model, SubjectCorruption::noise(0.6));
    let states = [Restore::states()];
    let mut last = 0;
    let observed = tracing.clone().observe(|progress| {
        last = progress.done;
        assert_eq!((progress.total, progress.unit), (3, "facts"));
        if progress.done == 2 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    let set = observed.trace_set(&facts, &states).unwrap().remove(0);
    drop(observed);
    assert_eq!(
        (last, set.kept.len()),
        (2, 3),
        "a break after a fact's last chunk loses nothing"
    );
    assert!(!set.partial);
    // Before it, the facts until then are what there is.
    for (done, kept) in [(0, 1), (1, 2)] {
        let ended = tracing.clone().observe(|progress| match progress.done {
            n if n >= done => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        });
        let set = ended.trace_set(&facts, &states).unwrap().remove(0);
        assert_eq!((set.kept.len(), set.partial), (kept, true));
        assert!(set.average.values().iter().any(|v| v.is_finite()));
    }

    let mut limit = 1;
    let all = loop {
        let small = tracing.clone().memory_limit(limit);
        match small.trace_set(&facts, &states) {
            Ok(mut all) => break all.remove(0),
            // About one lane per chunk.
            Err(Error::MemoryLimit { least, .. }) => {
                assert!(least > limit);
                limit = least;
            }
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(all.average, set.average);
    let small = tracing.memory_limit(limit).observe(|p| match p.done {
        0 => ControlFlow::Continue(()),
        _ => ControlFlow::Break(()),
    });
    let cancelled = small.trace_set(&facts, &states).unwrap().remove(0);
    assert!(cancelled.partial && cancelled.average.about.partial);
    assert_eq!(cancelled.kept.len(), 1, "the second fact was not finished");
}
