//! b25: what a failed run leaves behind: nothing.

use super::*;

/// The sweep of [`b25_nothing_is_left_over_after_a_failure`]: patches of one run into another.
fn cells(model: &Transformer) -> Vec<Vec<Intervention>> {
    let selection = Selection::everything(model.config());
    let donor = model.run_with_cache([9, 2, 3, 4, 5, 6, 1], &selection);
    let donor = [donor.unwrap().1];
    let sites = [Site::ResidPre, Site::Z, Site::Pattern, Site::MlpOut];
    let layers = 0..model.config().n_layers;
    let points = layers.flat_map(|layer| sites.map(|site| site.at(layer)));
    let patch = |point| {
        vec![Intervention::new(
            point,
            Edit::patch(&donor, point).unwrap(),
        )]
    };
    points.map(patch).collect()
}

/// Values and counts of a plain run, of a backward pass and of a sweep.
fn everything(model: &Transformer, sweep: &Sweep<'_>) -> (Vec<Vec<u32>>, Vec<u64>) {
    let plain = run(model, ());
    let found = sweep.run(&cells(model), &logit_diff(3, 5)).unwrap();
    assert!(!found.partial && found.finished.iter().all(|f| *f));
    let mut values = all_bits(model, ());
    values.extend(logit_bits(&plain));
    values.extend(backward(model, logit_diff(3, 5)).unwrap());
    values.push(bits(found.values.view().into_dyn()));
    values.push(bits(found.base.view().into_dyn()));
    let plan = &found.plan;
    let counts = vec![
        plain.multiply_adds,
        found.multiply_adds,
        found.rows,
        plan.multiply_adds,
        plan.lanes as u64,
        plan.chunks as u64,
        plan.unchanged as u64,
    ];
    (values, counts)
}

/// b25: after an edit that panics, an observer that breaks off, and an error midway, plain runs
/// and sweeps have the bits and the counts of a fresh model.
#[test]
fn b25_nothing_is_left_over_after_a_failure() {
    let fresh = {
        let model = model();
        let sweep = Sweep::new(&model, Prompts::new([TOKENS]).unwrap()).unwrap();
        everything(&model, &sweep)
    };
    let model = model();
    let sweep = Sweep::new(&model, Prompts::new([TOKENS]).unwrap()).unwrap();
    let same = |what: &str| assert!(everything(&model, &sweep) == fresh, "after {what}");

    // Edits that panic, halfway through what they write: in a run, in a backward pass' forward,
    // and in a sweep, where the same is tried on the base's activations first.
    let panics = |site: Site| {
        let edit = Edit::map(|row, values: &mut [f32]| {
            values.fill(7.0);
            assert!(row.position < 3, "an edit that panics");
        });
        vec![Intervention::new(site.at(1), edit)]
    };
    let points = HookPoint::all(2).filter(|p| p.layer() == Some(1));
    let sites: Vec<Site> = points
        .filter_map(|point| match point {
            HookPoint::Block(_, site) => Some(site),
            _ => None,
        })
        .collect();
    assert_eq!(sites, crate::common::gpt2_sites());
    for site in sites {
        let mut hooks = Interventions::new(panics(site));
        let failed = catch_unwind(AssertUnwindSafe(|| run(&model, &mut hooks)));
        assert!(failed.is_err(), "{site:?}");
        let cells = [cells(&model), vec![panics(site)]].concat();
        let swept = || sweep.run(&cells, &logit_diff(3, 5));
        let failed = catch_unwind(AssertUnwindSafe(swept));
        assert!(failed.is_err(), "{site:?}");
        let again = Interventions::new(vec![scale(Site::MlpOut, 1, 0, 1.0)]);
        let logits = logit_bits(&run(&model, again));
        assert_eq!(logits, logit_bits(&run(&model, ())), "{site:?}");
    }
    same("edits that panic");
    let late = hook_fn(HookPoint::Logits, |_, _| panic!("a hook that panics"));
    assert!(catch_unwind(AssertUnwindSafe(|| run(&model, late))).is_err());
    let objective = |_: usize, _: ArrayView2<'_, f32>| panic!("an objective that panics");
    assert!(catch_unwind(AssertUnwindSafe(|| backward(&model, objective))).is_err());
    let metric = Metric::from_fn("panics", |_, _| panic!("a metric that panics"));
    let swept = || sweep.run(&cells(&model), &metric);
    assert!(catch_unwind(AssertUnwindSafe(swept)).is_err());
    same("hooks, objectives and metrics that panic");

    // An observer that breaks off after the first of several chunks, and one that panics.
    let Err(patchlens::Error::MemoryLimit { least, .. }) = sweep
        .clone()
        .memory_limit(1)
        .run(&cells(&model), &logit_diff(3, 5))
    else {
        panic!("one byte is not enough")
    };
    let small = sweep.clone().memory_limit(least);
    let broken = small.clone().observe(|_| ControlFlow::Break(()));
    let broken = broken.run(&cells(&model), &logit_diff(3, 5)).unwrap();
    assert!(broken.partial && broken.plan.chunks > 1);
    same("an observer that breaks off");
    let observed = small.observe(|_| panic!("an observer that panics"));
    let swept = || observed.run(&cells(&model), &logit_diff(3, 5));
    assert!(catch_unwind(AssertUnwindSafe(swept)).is_err());
    same("an observer that panics");

    // Errors: before a run, and after its forward pass.
    let mut hooks = Interventions::new(vec![
        scale(Site::MlpOut, 1, 0, 2.0),
        scale(Site::MlpOut, 99, 0, 2.0),
    ]);
    let prompt = Prompt::from(TOKENS);
    assert!(model.run(&prompt, &mut hooks, &Run::default()).is_err());
    assert!(hooks.receipt().fired.iter().all(|f| f.times == 0));
    let cells = [cells(&model), vec![vec![scale(Site::Z, 99, 0, 2.0)]]].concat();
    assert!(sweep.run(&cells, &logit_diff(3, 5)).is_err());
    let nan = |_: usize, logits: ArrayView2<'_, f32>| (f64::NAN, logits.to_owned());
    assert!(backward(&model, nan).is_err());
    same("an error midway");
}
