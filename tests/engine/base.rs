//! Bases: what they keep, runs over others and under interventions, against full passes by `==`.

use patchlens::intervention::Values;
use patchlens::metric::{kl_divergence, probability};
use patchlens::sweep::Cell;
use patchlens::{
    Base, Edit, Error, HookPoint, Intervention, Metric, Prompts, Run, Selection, Site, Sweep,
    Target, Transformer, logit_diff,
};

use super::sweep::{assert_same, config, model, ragged};

/// Noise on the embeddings of some positions, other noise for each prompt.
fn noise(prompts: usize) -> Vec<Intervention> {
    let one = |i: usize| {
        let target = Target::new(HookPoint::Embed).at_positions([0, 1]);
        let edit = Edit::Noise {
            std: 0.5,
            seed: i as u64,
        };
        Intervention::new(target.at_sequences(i), edit)
    };
    (0..prompts).map(one).collect()
}

fn zero(point: HookPoint) -> Cell {
    vec![Intervention::new(point, Edit::Zero)]
}

/// The metric of each prompt by full passes.
fn full(
    model: &Transformer,
    prompts: &Prompts,
    hooks: &[Intervention],
    metric: &Metric,
) -> Vec<f32> {
    let hooks = patchlens::Interventions::new(hooks);
    let output = model.run(prompts, hooks, &Run::default()).unwrap();
    let logits = output.logits.iter().enumerate();
    logits
        .map(|(i, logits)| metric.evaluate(i, logits).unwrap())
        .collect()
}

#[test]
fn a_metric_of_the_base_has_the_bits_of_full_passes() {
    let model = model(config(3, 2, 4), 11);
    let (clean, corrupted) = ragged();
    let sum = Metric::from_fn("sum", |prompt, logits| logits.sum() * (prompt + 1) as f32);
    for metric in [logit_diff(3, 5), probability(&[4]).at_position(1), sum] {
        let base = Base::new(&model, &clean).unwrap();
        let over = Base::over(&base, &corrupted, noise(3)).unwrap();
        let expected = full(&model, &clean, &[], &metric);
        assert_eq!(
            base.metric(&metric).unwrap().to_vec(),
            expected,
            "{metric:?}"
        );
        let expected = full(&model, &corrupted, &noise(3), &metric);
        assert_eq!(
            over.metric(&metric).unwrap().to_vec(),
            expected,
            "{metric:?}"
        );
    }
    let base = Base::new(&model, &clean).unwrap();
    let kl = base.refer(&kl_divergence()).unwrap();
    assert!(base.metric(&kl).unwrap().iter().all(|v| *v == 0.0));
    assert!(
        base.metric(&kl_divergence()).is_err(),
        "a reference is never made up"
    );
}

#[test]
fn caches_have_the_bits_of_full_passes_and_are_kept() {
    let model = model(config(3, 2, 4), 12);
    let (clean, corrupted) = ragged();
    let base = Base::new(&model, &clean).unwrap();
    assert_eq!(
        base.multiply_adds(),
        0,
        "nothing runs before it is asked for"
    );
    let over = Base::over(&base, &corrupted, noise(3)).unwrap();
    let selection = Selection::everything(model.config());
    let run = Run {
        cache: Some(&selection),
        ..Run::default()
    };
    let hooks = patchlens::Interventions::new(noise(3));
    let full = model.run(&corrupted, hooks, &run).unwrap();
    for point in HookPoint::all(3) {
        let found = over.caches([point]).unwrap();
        for (found, full) in found.iter().zip(&full.caches) {
            assert_eq!(
                found.get(point).unwrap(),
                full.get(point).unwrap(),
                "{point}"
            );
        }
    }
    let spent = [base.multiply_adds(), over.multiply_adds()];
    assert_eq!(over.caches(HookPoint::all(3)).unwrap().len(), 3);
    assert_eq!(
        [base.multiply_adds(), over.multiply_adds()],
        spent,
        "all was kept"
    );
}

#[test]
fn sweeps_over_a_base_under_interventions_equal_full_passes() {
    let model = model(config(3, 2, 4), 13);
    let (clean, corrupted) = ragged();
    let base = Base::new(&model, &clean).unwrap();
    let ramp = || Edit::Add(Values::scalar(0.25));
    let cells: Vec<Cell> = HookPoint::all(3)
        .flat_map(|point| {
            let add = Target::new(point).at_positions(1);
            [vec![Intervention::new(add, ramp())], zero(point)]
        })
        .filter(|cell| cell[0].target.point.axes() != patchlens::hook::Axes::Attention)
        .collect();
    for prompts in [&clean, &corrupted] {
        let noisy = Base::over(&base, prompts, noise(3)).unwrap();
        assert_same(
            &Sweep::over(&noisy),
            &cells,
            &logit_diff(3, 5),
            "noise at the embeddings",
        );
    }
    // Interventions within a block do not act again, so that changes before them are refused.
    let late = Base::over(&base, &corrupted, zero(Site::MlpOut.at(1))).unwrap();
    let after = |cell: &&Cell| cell[0].target.point > Site::MlpOut.at(1);
    let cells: Vec<Cell> = cells.iter().filter(after).cloned().collect();
    assert!(cells.len() > 10);
    assert_same(
        &Sweep::over(&late),
        &cells,
        &logit_diff(3, 5),
        "an MLP without output",
    );
    let early = [zero(Site::MlpOut.at(1))];
    let error = Sweep::over(&late)
        .run(&early, &logit_diff(3, 5))
        .unwrap_err();
    assert!(
        error.to_string().contains("after the base's own"),
        "{error}"
    );
}

/// Found by the property attack (seeds 84, 123 and 187): these had lost what acts in the base.
#[test]
fn what_would_have_to_act_again_in_a_block_is_refused() {
    use Site::{
        AttnIn, AttnScores, KInput, Ln1Normalized, Ln1Scale, Ln2Normalized, Ln2Scale, MlpIn,
        Pattern, QInput, VInput,
    };
    let again: [(&[Site], &[Site]); 6] = [
        (&[AttnIn], &[QInput, KInput, VInput]),
        (
            &[AttnIn, QInput, KInput, VInput],
            &[Ln1Scale, Ln1Normalized],
        ),
        (&[Ln1Scale], &[Ln1Normalized]),
        (&[AttnScores], &[Pattern]),
        (&[MlpIn], &[Ln2Scale, Ln2Normalized]),
        (&[Ln2Scale], &[Ln2Normalized]),
    ];
    let model = model(config(3, 2, 4), 13);
    let (prompts, _) = ragged();
    let plain = Base::new(&model, &prompts).unwrap();
    let change = |site: Site, position: usize| -> Cell {
        let target = Target::new(site.at(1)).at_positions(position);
        vec![Intervention::new(target, Edit::Scale(1.5))]
    };
    let metric = logit_diff(3, 5);
    let all = crate::common::gpt2_sites();
    for own in &all {
        let base = Base::over(&plain, &prompts, change(*own, 1)).unwrap();
        let sweep = Sweep::over(&base);
        let lost = |site: &Site| {
            let here = |(of, by): &(&[Site], &[Site])| of.contains(own) && by.contains(site);
            *site <= *own || again.iter().any(here)
        };
        let (refused, cells): (Vec<Site>, Vec<Site>) = all.iter().partition(|s| lost(s));
        for site in refused {
            let error = sweep.run(&[change(site, 1)], &metric).unwrap_err();
            let message = error.to_string();
            assert!(message.contains("would have to act again"), "{message}");
        }
        let cells: Vec<Cell> = cells
            .into_iter()
            .flat_map(|site| [0, 1, 2].map(|position| change(site, position)))
            .collect();
        assert_same(
            &sweep,
            &cells,
            &metric,
            &format!("changes after {}", own.name()),
        );
    }
}

#[test]
fn one_run_serves_many_prompts_and_sweeps() {
    let model = model(config(3, 2, 4), 14);
    let one = Prompts::new([[1, 2, 3, 4, 5]]).unwrap();
    let base = Base::new(&model, &one).unwrap();
    let many = Prompts::new([[1, 2, 3, 4, 5], [1, 2, 9, 4, 5], [1, 2, 3, 4, 5]]).unwrap();
    let over = Base::over(&base, &many, noise(2)).unwrap();
    let metric = logit_diff(3, 5);
    let expected = full(&model, &many, &noise(2), &metric);
    assert_eq!(over.metric(&metric).unwrap().to_vec(), expected);
    // The last one has no bit of its own.
    assert_eq!(
        expected[2].to_bits(),
        base.metric(&metric).unwrap()[0].to_bits()
    );
    let cells: Vec<Cell> = (0..3).map(|l| zero(Site::Z.at(l))).collect();
    let first = Sweep::over(&over).run(&cells, &metric).unwrap();
    let spent = base.multiply_adds();
    let second = Sweep::over(&over).run(&cells, &metric).unwrap();
    assert_eq!(first.values, second.values);
    assert!(second.base_multiply_adds < first.base_multiply_adds);
    assert_eq!(base.multiply_adds(), spent);
}

#[test]
fn what_cannot_be_a_base_is_named() {
    let model = model(config(2, 2, 4), 15);
    let prompts = Prompts::new([[1, 2, 3], [4, 5, 6]]).unwrap();
    let base = Base::new(&model, &prompts).unwrap();
    let over = |prompts: &Prompts, list| Base::over(&base, prompts, list).map(|_| ());
    let noisy = Base::over(&base, &prompts, noise(2)).unwrap();
    let (_, cache) = model
        .run_with_cache([1, 2, 3], &Selection::points([Site::Z.at(0)]))
        .unwrap();
    let given = Base::given(&model, &prompts[0], &[cache]).unwrap();
    let shorter = Selection::everything(model.config()).at_positions([0]);
    let (_, part) = model.run_with_cache([1, 2, 3], &shorter).unwrap();
    let cases: [(Result<(), Error>, &[&str]); 8] = [
        (
            over(&Prompts::new([[1, 2, 3]]).unwrap(), Vec::new()),
            &["prompts", "found 1", "2, one per prompt of the base"],
        ),
        (
            over(
                &Prompts::new([vec![1, 2, 3], vec![4, 5]]).unwrap(),
                Vec::new(),
            ),
            &["prompt 1", "2 tokens", "3 as its base"],
        ),
        (
            over(&prompts, zero(HookPoint::Logits)),
            &["intervention of a base", "unembed.hook_out"],
        ),
        (over(&prompts, zero(Site::Z.at(2))), &["layer 2", "0..2"]),
        (
            Base::over(&noisy, &prompts, Vec::new()).map(|_| ()),
            &["base of a base", "plain"],
        ),
        (
            given.metric(&logit_diff(3, 5)).map(|_| ()),
            &["blocks.1.hook_resid_post", "hook_z"],
        ),
        (
            Base::given(&model, &prompts[0], &[part]).map(|_| ()),
            &["base cache 0", "1 positions", "all of the prompt's 3"],
        ),
        (
            base.caches([Site::Z.at(7)]).map(|_| ()),
            &["blocks.7.attn.hook_z", "layer 7", "0..2"],
        ),
    ];
    for (result, parts) in cases {
        let error = result.unwrap_err().to_string();
        assert!(
            parts.iter().all(|part| error.contains(part)),
            "{error}: {parts:?}"
        );
    }
}

/// Sweeps on all threads at once over one base: none waits for another for ever.
#[test]
fn many_threads_may_share_a_base() {
    use rayon::prelude::*;
    let model = model(config(3, 2, 4), 16);
    let (clean, _) = ragged();
    let base = Base::new(&model, &clean).unwrap();
    let metric = logit_diff(3, 5);
    let cells: Vec<Cell> = HookPoint::all(3).map(zero).collect();
    let alone = Sweep::over(&base).run(&cells, &metric).unwrap().values;
    let shared = Base::new(&model, &clean).unwrap();
    let found: Vec<f32> = (0..cells.len() * 8)
        .into_par_iter()
        .map(|i| {
            let cell = std::slice::from_ref(&cells[i % cells.len()]);
            Sweep::over(&shared).run(cell, &metric).unwrap().values[[0, 1]]
        })
        .collect();
    for (i, value) in found.iter().enumerate() {
        assert_eq!(value.to_bits(), alone[[i % cells.len(), 1]].to_bits());
    }
}
