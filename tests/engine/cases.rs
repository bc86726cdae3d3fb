//! Cases that people met, by their names: each once gave a wrong number or went unnoticed.

use std::sync::atomic::{AtomicUsize, Ordering};

use ndarray::{Array2, ArrayView2, ArrayViewMutD, Axis, Slice};
use patchlens::generate::Generation;
use patchlens::gradient::Backward;
use patchlens::intervention::Values;
use patchlens::model::RunShape;
use patchlens::{
    Edit, HookPoint, Hooks, Intervention, Interventions, Prompt, Result, Run, Select, Selection,
    Site, Target, Visit, hook_fn,
};

const TOKENS: [u32; 7] = [1, 2, 3, 4, 5, 6, 7];

/// A weight of exactly 0 times an infinite value is not a number, as long as the mask lets it
/// through; whether somebody looks at the attention or not.
#[test]
fn t5_infinite_values_have_the_same_bits_shown_or_not() {
    let model = crate::common::open("tiny-gelu-new");
    let (mut weightless, mut finite) = (0, 0);
    for position in 1..TOKENS.len() {
        let list = || {
            vec![
                Intervention::new(Site::Q.at(1), Edit::Scale(1e4)),
                Intervention::new(
                    Target::new(Site::V.at(1)).at_positions(position),
                    Edit::Set(Values::scalar(f32::INFINITY)),
                ),
            ]
        };
        let plain = model
            .run_with_hooks(TOKENS, Interventions::new(list()))
            .unwrap();
        for site in [Site::Pattern, Site::AttnScores] {
            let look = hook_fn(site.at(1), |_, _| {});
            let shown = model.run_with_hooks(TOKENS, (Interventions::new(list()), look));
            let bits = |v: &f32| v.to_bits();
            assert!(plain.iter().map(bits).eq(shown.unwrap().iter().map(bits)));
        }
        let pattern = Selection::points([Site::Pattern.at(1)]);
        let run = Run {
            cache: Some(&pattern),
            ..Run::default()
        };
        let prompt = Prompt::from(TOKENS);
        let output = model
            .run(&prompt, Interventions::new(list()), &run)
            .unwrap();
        let pattern = output.caches[0].get(Site::Pattern.at(1)).unwrap();
        let heads = 0..model.config().n_heads;
        weightless += heads
            .filter(|h| pattern[[*h, position, position]] == 0.0)
            .count();
        finite += plain
            .row(position - 1)
            .iter()
            .filter(|v| v.is_finite())
            .count();
    }
    assert!(weightless > 0, "no weight is exactly 0");
    assert!(finite > 0, "an infinite value reaches back behind the mask");
}

/// What a step of generation has run stays as it is, so an edit may not let it see later tokens.
#[test]
fn t7_generation_refuses_edits_that_look_ahead() {
    let model = crate::common::open("tiny-gelu-new");
    let run = |target: Target, edit: Edit| -> Result<_> {
        let hooks = Interventions::new(vec![Intervention::new(target, edit)]);
        model.generate(&Prompt::from([1, 2, 3]), hooks, &Generation::greedy(3))
    };
    let (scores, pattern) = (
        Target::new(Site::AttnScores.at(1)),
        Target::new(Site::Pattern.at(1)),
    );
    let set = |v: f32| Edit::Set(Values::scalar(v));
    for (target, edit) in [
        (scores.clone(), set(0.0)),
        (scores.clone(), Edit::Zero),
        (scores.clone(), Edit::Scale(0.0)),
        (scores.clone(), Edit::Scale(-1.0)),
        (scores.clone().at_src(2), set(1.0)),
        (scores.clone().at_src(Select::Last), set(1.0)),
        (scores.clone().at_src(-2), set(f32::NEG_INFINITY)),
        (Target::new(Site::Z.at(1)).at_positions(-2), Edit::Zero),
        (Target::new(Site::Z.at(1)).at_positions([-1, 0]), Edit::Zero),
        (pattern.clone(), set(0.5)),
        (pattern.clone(), Edit::Add(Values::scalar(0.1))),
        (pattern.clone(), Edit::Noise { std: 0.1, seed: 0 }),
        (
            pattern.clone().at_positions(1).at_src(2),
            Edit::map(|_, row| row.fill(0.5)),
        ),
    ] {
        let what = format!("{edit:?} at {target}");
        let error = run(target, edit).expect_err(&what).to_string();
        assert!(error.contains("later"), "{what}: {error}");
    }
    // The logits of what may run are those of full passes.
    for (target, edit) in [
        (scores.clone(), Edit::Scale(0.5)),
        (scores.clone(), Edit::Add(Values::scalar(0.5))),
        (scores.clone().at_src(0), set(2.0)),
        (scores.clone().at_positions(2).at_src([0, 2]), set(2.0)),
        (
            scores.clone().at_positions(Select::Last).at_src(0),
            set(f32::NEG_INFINITY),
        ),
        (pattern.clone(), Edit::Zero),
        (pattern.clone().at_positions(2).at_src(1), set(0.5)),
    ] {
        let what = format!("{edit:?} at {target}");
        let found = run(target.clone(), edit.clone()).expect(&what).remove(0);
        if target.positions == Select::Last {
            continue; // The newest position at each step, not that of one pass.
        }
        let hooks = Interventions::new(vec![Intervention::new(target, edit)]);
        let all = model.run_with_hooks(&found.tokens[..5], hooks).unwrap();
        assert_eq!(
            found.logits,
            all.slice_axis(Axis(0), Slice::from(2..)),
            "{what}"
        );
    }
}

/// Counts how often it is told of a run.
struct Begun<'a>(&'a AtomicUsize);

impl Hooks for Begun<'_> {
    fn wants(&self, _at: HookPoint, _sequence: usize) -> bool {
        false
    }

    fn visit(&mut self, _at: &Visit<'_>, _activation: ArrayViewMutD<'_, f32>) {}

    fn begin(&mut self, _run: &RunShape<'_>) -> Result<()> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

#[test]
fn hooks_begin_once_in_every_kind_of_run() {
    let model = crate::common::open("tiny-gelu-new");
    let begun = AtomicUsize::new(0);
    let prompt = Prompt::from(TOKENS);
    model.run(&prompt, Begun(&begun), &Run::default()).unwrap();
    assert_eq!(begun.swap(0, Ordering::Relaxed), 1);
    let want = Backward {
        parameters: true,
        ..Backward::default()
    };
    let sum = |_: usize, logits: ArrayView2<'_, f32>| {
        (f64::from(logits.sum()), Array2::ones(logits.raw_dim()))
    };
    let prompts = [prompt.clone()];
    model
        .gradients(&prompts, Begun(&begun), sum, &want)
        .unwrap();
    assert_eq!(begun.swap(0, Ordering::Relaxed), 1);
    model
        .generate(&prompt, Begun(&begun), &Generation::greedy(2))
        .unwrap();
    assert_eq!(begun.swap(0, Ordering::Relaxed), 1);
}

/// A pair of hooks costs what one list of both costs: only what either may change is made.
#[test]
fn a_pair_of_hooks_has_the_union_of_their_footprints() {
    let model = crate::common::open("tiny-gelu-new");
    let result = |position: usize, head: usize| {
        let target = Target::new(Site::Result.at(0));
        let target = target.at_positions(position).at_heads(head);
        Intervention::new(target, Edit::Scale(2.0))
    };
    let prompt = Prompt::from(TOKENS);
    let one = |list: Vec<Intervention>| {
        let output = model.run(&prompt, Interventions::new(list), &Run::default());
        output.unwrap()
    };
    let both = one(vec![result(0, 0), result(3, 1)]);
    let pair = (
        Interventions::new(vec![result(0, 0)]),
        Interventions::new(vec![result(3, 1)]),
    );
    let pair = model.run(&prompt, pair, &Run::default()).unwrap();
    assert_eq!(pair.logits.get(0), both.logits.get(0));
    assert_eq!(pair.multiply_adds, both.multiply_adds);
    let look = hook_fn(Site::Result.at(0), |_, _| {});
    let all = model
        .run(&prompt, look, &Run::default())
        .unwrap()
        .multiply_adds;
    assert!(pair.multiply_adds < all, "{} of {all}", pair.multiply_adds);
    assert!(one(vec![result(0, 0)]).multiply_adds < pair.multiply_adds);
}

/// t7: a closure that fills rows beyond the mask is told after the prompt has run.
#[test]
fn t7_generation_refuses_closures_that_look_ahead() {
    let model = crate::common::open("tiny-gelu-new");
    let run = |site: Site, fill: f32, prompt: &[u32]| {
        let hook = hook_fn(site.at(1), move |_, mut values| values.fill(fill));
        let prompt = Prompt::from(prompt);
        model.generate(&prompt, hook, &Generation::greedy(3))
    };
    for (site, fill) in [(Site::AttnScores, 0.0), (Site::Pattern, 0.1)] {
        let error = run(site, fill, &[1, 2, 3]).unwrap_err().to_string();
        assert!(error.contains("attention to a later position"), "{error}");
    }
    assert!(run(Site::Pattern, 0.0, &[1, 2, 3]).is_ok());
    assert!(run(Site::AttnScores, f32::NEG_INFINITY, &[1, 2, 3]).is_ok());
}

/// Behind the mask, a negative factor makes −0 of a weight of 0: in a full pass, of rows that
/// generation ran before that source was there. Both receipts count the rows that it changed.
#[test]
fn receipts_of_generation_are_those_of_a_full_pass() {
    let model = crate::common::open("tiny-gelu-new");
    let target = Target::new(Site::Pattern.at(1)).at_src(4);
    let flip = [Intervention::new(target, Edit::Scale(-0.5))];
    let mut stepwise = Interventions::new(&flip[..]);
    let prompt = Prompt::from([1, 2, 3]);
    let texts = model.generate(&prompt, &mut stepwise, &Generation::greedy(5));
    let tokens = &texts.unwrap()[0].tokens;
    let mut whole = Interventions::new(&flip[..]);
    let run = &tokens[..tokens.len() - 1];
    model.run_with_hooks(run, &mut whole).unwrap();
    let [stepwise, whole] = [stepwise, whole].map(|hooks| hooks.receipt().fired[0].clone());
    let heads = model.config().n_heads;
    assert_eq!(whole.changed_rows, heads * (run.len() - 4));
    assert_eq!(stepwise.changed_rows, whole.changed_rows);
}
