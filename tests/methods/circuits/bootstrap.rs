//! Resampled prompts: intervals of faithfulness, and how stable a found circuit is.

use ndarray::Axis;
use patchlens::circuits::{
    Bootstrap, CircuitEvaluation, EdgeEffects, EdgeSet, EvaluatedCircuits, ExactEdges, Ranking,
};

use super::Golden;
use super::evaluation::{circuits, study};

fn effects(golden: &Golden) -> EdgeEffects {
    let study = ExactEdges::new(&golden.model, &golden.clean, &golden.corrupted).unwrap();
    study
        .run(&EdgeSet::full(golden.graph), &golden.metric)
        .unwrap()
}

fn evaluated(golden: &Golden) -> EvaluatedCircuits {
    study(golden)
        .run(&circuits(golden), &golden.metric)
        .unwrap()
}

/// With two pairs there are three distinct draws, whose shares are known.
fn of_two(found: &EvaluatedCircuits) -> EvaluatedCircuits {
    EvaluatedCircuits {
        values: found.values.select(Axis(1), &[0, 1]),
        clean: found.clean.select(Axis(0), &[0, 1]),
        corrupted: found.corrupted.select(Axis(0), &[0, 1]),
        ..found.clone()
    }
}

#[test]
fn faithfulness_has_the_interval_of_its_resamples() {
    let golden = Golden::open("mini");
    let found = evaluated(&golden);
    let bootstrap = Bootstrap::new(1);
    let intervals = bootstrap.faithfulness(&found, 0.95).unwrap();
    assert_eq!(intervals, bootstrap.faithfulness(&found, 0.95).unwrap());
    assert_ne!(
        intervals,
        Bootstrap::new(2).faithfulness(&found, 0.95).unwrap()
    );
    let wide = bootstrap.faithfulness(&found, 0.99).unwrap();
    let shares = found.faithfulness().unwrap();
    for ((interval, wide), share) in intervals.iter().zip(&wide).zip(shares.values()) {
        assert!((interval.value - f64::from(*share)).abs() < 1e-5);
        assert!(wide.low <= interval.low && interval.low <= interval.high);
        assert!(interval.high <= wide.high);
    }
    let ranges = intervals.iter().filter(|of| of.low < of.high).count();
    assert!(ranges > 10, "{ranges} circuits depend on the pairs");
    // Both pairs once, or one of them twice: ratios of means, not means of ratios.
    let two = of_two(&found);
    let share = |pairs: [usize; 2]| {
        let mean = |of: &dyn Fn(usize) -> f32| pairs.map(|p| f64::from(of(p))).iter().sum::<f64>();
        let none = mean(&|p| two.corrupted[p]);
        (mean(&|p| two.values[[9, p]]) - none) / (mean(&|p| two.clean[p]) - none)
    };
    let all = bootstrap.faithfulness(&two, 0.999).unwrap()[9];
    let ends = [share([0, 0]), share([1, 1])];
    assert!((all.value - share([0, 1])).abs() < 1e-6);
    assert!((all.low - ends[0].min(ends[1])).abs() < 1e-6);
    assert!((all.high - ends[0].max(ends[1])).abs() < 1e-6);
}

#[test]
fn stability_is_the_mean_overlap_with_resampled_circuits() {
    let golden = Golden::open("mini");
    let effects = effects(&golden);
    let bootstrap = Bootstrap {
        resamples: 200,
        seed: 5,
    };
    let best = |n: usize| {
        let found = bootstrap.stability(&effects, |scores| scores.top_n(n, Ranking::Absolute));
        found.unwrap()
    };
    let found = best(48);
    assert_eq!(found, best(48));
    let scores = effects.scores().unwrap();
    assert_eq!(found.circuit, scores.top_n(48, Ranking::Absolute).unwrap());
    assert!(
        found.jaccard > 0.3 && found.jaccard < 1.0,
        "{}",
        found.jaccard
    );
    let mean = found.per_resample.iter().sum::<f64>() / 200.0;
    assert!((found.jaccard - mean).abs() < 1e-12 && found.per_resample.len() == 200);
    // Every resample selects as many edges.
    let total: f32 = found.frequencies.iter().sum();
    assert!((total - 48.0).abs() < 1e-3, "{total}");
    assert_eq!(best(479).jaccard, 1.0);
    println!("the 48 best of 479 edges: Jaccard {:.3}", found.jaccard);
    // Pairs that are all alike leave nothing to chance.
    let mut alike = effects.clone();
    let first = alike.per_prompt.column(0).to_owned();
    alike
        .per_prompt
        .columns_mut()
        .into_iter()
        .for_each(|mut column| column.assign(&first));
    let found = bootstrap.stability(&alike, |scores| scores.top_n(48, Ranking::Absolute));
    assert_eq!(found.unwrap().jaccard, 1.0);
}

#[test]
fn what_cannot_be_resampled_is_an_error() {
    let golden = Golden::open("tiny-relu");
    let found = evaluated(&golden);
    let bootstrap = Bootstrap::new(0);
    let message = |bootstrap: Bootstrap, found: &EvaluatedCircuits, level: f64| {
        let result = bootstrap.faithfulness(found, level);
        result.unwrap_err().to_string()
    };
    let expected = "level: found 1; expected a number between 0 and 1";
    assert_eq!(message(bootstrap, &found, 1.0), expected);
    let none = Bootstrap {
        resamples: 0,
        seed: 0,
    };
    assert_eq!(
        message(none, &found, 0.9),
        "resamples: found 0; expected at least one"
    );
    let (clean, corrupted) = (&golden.clean[0], &golden.corrupted[0]);
    let one = CircuitEvaluation::new(&golden.model, clean, corrupted).unwrap();
    let metric = patchlens::logit_diff(12, 29);
    let one = one.run(&circuits(&golden), &metric).unwrap();
    let expected = "prompt pairs: found 1; expected at least two, to draw from";
    assert_eq!(message(bootstrap, &one, 0.9), expected);
    let mut same = found.clone();
    same.clean = same.corrupted.clone();
    assert!(message(bootstrap, &same, 0.9).starts_with("mean of the corrupted runs: found "));
    let mut partial = found;
    partial.effect.about.partial = true;
    let expected = "circuit runs: found some; expected all of the study";
    assert_eq!(message(bootstrap, &partial, 0.9), expected);
}
