//! Attribution patching of hook points, beside the circuits' goldens, which hold it.

use std::ops::ControlFlow;

use ndarray::{ArrayD, Axis};
use patchlens::metric::{kl_divergence, logit_diffs, probability, rank};
use patchlens::patching::{ActivationPatching, Corrections, EstimatedPatching};
use patchlens::report::{Absent, Direction};
use patchlens::{Base, Edit, Error, Grid, HookPoint, Intervention, Metric, Site, Transformer};

use super::{Golden, MODELS, random_model, random_pairs};
use crate::common::Comparison;

const BLOCK_SITES: [(&str, Grid); 13] = [
    ("hook_resid_pre", Grid::Positions(Site::ResidPre)),
    ("hook_q_input", Grid::HeadPositions(Site::QInput)),
    ("attn.hook_q", Grid::HeadPositions(Site::Q)),
    ("attn.hook_k", Grid::HeadPositions(Site::K)),
    ("attn.hook_v", Grid::HeadPositions(Site::V)),
    ("attn.hook_pattern", Grid::PatternDest),
    ("attn.hook_z", Grid::HeadPositions(Site::Z)),
    ("attn.hook_result", Grid::HeadPositions(Site::Result)),
    ("hook_attn_out", Grid::Positions(Site::AttnOut)),
    ("hook_resid_mid", Grid::Positions(Site::ResidMid)),
    ("mlp.hook_post", Grid::Positions(Site::MlpPost)),
    ("hook_mlp_out", Grid::Positions(Site::MlpOut)),
    ("hook_resid_post", Grid::Positions(Site::ResidPost)),
];

/// `[layer, .., pair]` as the golden has it: `[pair, layer, pos, (head)]`.
fn as_golden(site: &str, found: &EstimatedPatching) -> ArrayD<f32> {
    let values = found.per_prompt.view();
    let order = match (site, values.ndim()) {
        ("attn.hook_pattern", _) => vec![3, 0, 2, 1],
        (_, 4) => vec![3, 0, 1, 2],
        _ => vec![2, 0, 1],
    };
    values
        .permuted_axes(order)
        .as_standard_layout()
        .into_owned()
}

#[test]
fn estimates_are_those_of_the_reference() {
    for (model, _) in MODELS {
        let golden = Golden::open(model);
        let study = ActivationPatching::new(&golden.model, &golden.clean, &golden.corrupted);
        let study = study.unwrap();
        let mut comparison = Comparison::new(1e-5);
        for (name, direction) in [
            ("noising", Direction::Noising),
            ("denoising", Direction::Denoising),
        ] {
            let study = study.clone().direction(direction);
            for (site, grid) in BLOCK_SITES {
                let found = study.estimate(grid, &golden.metric).unwrap();
                let key = format!("atp/{name}/{site}");
                let expected = golden.tensors[&key].view();
                comparison.add(&key, as_golden(site, &found).view(), expected);
            }
            // The position embedding is the same in both runs.
            let first = study.estimate(Grid::Positions(Site::ResidPre), &golden.metric);
            let first = first.unwrap().per_prompt.index_axis_move(Axis(0), 0);
            let key = format!("atp/{name}/hook_embed");
            comparison.add(&key, first.t(), golden.tensors[&key].view());
        }
        comparison.finish(model);
    }
}

#[test]
fn cells_of_larger_grids_are_sums() {
    let golden = Golden::open("tiny-gelu");
    let study = ActivationPatching::new(&golden.model, &golden.clean, &golden.corrupted);
    let study = study.unwrap();
    let estimate = |grid| study.estimate(grid, &golden.metric).unwrap().per_prompt;
    let mut comparison = Comparison::new(1e-6);
    let entries = estimate(Grid::PatternEntries); // [layer, head, dest, src, pair]
    let rows = estimate(Grid::PatternDest);
    comparison.add("rows", entries.sum_axis(Axis(3)).view(), rows.view());
    let patterns = estimate(Grid::Heads(Site::Pattern));
    comparison.add("patterns", rows.sum_axis(Axis(2)).view(), patterns.view());
    let by_position = estimate(Grid::HeadPositions(Site::Z));
    let heads = estimate(Grid::Heads(Site::Z));
    comparison.add("heads", by_position.sum_axis(Axis(1)).view(), heads.view());
    let every = estimate(Grid::EveryHead); // [site, layer, head, pair], z first
    comparison.add("every", every.index_axis(Axis(0), 0), heads.view());
    comparison.finish("sums");
}

#[test]
fn estimates_of_small_changes_are_exact_to_first_order() {
    let model = Golden::open("tiny-gelu").model;
    let [prompts, _] = random_pairs(&[6]);
    let metric = probability(&[3]);
    let clean = Base::new(&model, &prompts).unwrap();
    let changed = Intervention::new(HookPoint::Embed, Edit::Scale(1.01));
    let changed = Base::over(&clean, &prompts, vec![changed]).unwrap();
    let study = ActivationPatching::over(&clean, &changed).unwrap();
    let study = study.direction(Direction::Noising);
    for grid in [
        Grid::Positions(Site::ResidMid),
        Grid::HeadPositions(Site::Q),
        Grid::Heads(Site::VInput),
        Grid::Heads(Site::AttnScores),
        Grid::Positions(Site::Ln2Normalized),
    ] {
        let exact = study.run(grid, &metric).unwrap().effect;
        let found = study.estimate(grid, &metric).unwrap().effect;
        assert_eq!(found.axes(), exact.axes());
        let sum = |values: ArrayD<f32>| values.iter().map(|v| v.abs()).sum::<f32>();
        let error = sum(&found.values() - &exact.values());
        let whole = sum(exact.values().to_owned());
        assert!(error < 0.05 * whole, "{grid:?}: {error} of {whole}");
    }
}

#[test]
fn the_result_says_what_its_numbers_are() {
    let model = random_model(2, 2, 4, 0);
    let [clean, corrupted] = random_pairs(&[5, 5]);
    let study = ActivationPatching::new(&model, &clean, &corrupted).unwrap();
    let metric = logit_diffs(&[(3, 5)]);
    let found = study.estimate(Grid::Heads(Site::Z), &metric).unwrap();
    let about = &found.effect.about;
    assert_eq!(
        about.title,
        "Attribution patching of attn.hook_z: change of the logit difference against the corrupted \
         run"
    );
    assert_eq!(
        about.caption,
        "One activation of the clean run patched into the corrupted run, to first order, by the \
         gradient of the corrupted run; mean over 2 prompt pairs."
    );
    assert_eq!(about.counts["gradient runs"], 2);
    let exact = study.run(Grid::Heads(Site::Z), &metric).unwrap();
    assert_eq!(found.effect.axes(), exact.effect.axes());
    assert_eq!(
        (found.clean, found.corrupted),
        (exact.clean, exact.corrupted)
    );
    assert_eq!(about.direction, exact.effect.about.direction);
    assert_eq!(about.baselines, exact.effect.about.baselines);
    // Within the memory of one pair at a time, and ended by an observer after the first.
    let least = match study
        .clone()
        .memory_limit(1)
        .estimate(Grid::Heads(Site::Z), &metric)
    {
        Err(Error::MemoryLimit { least, .. }) => least,
        other => panic!("{other:?}"),
    };
    let tight = study.clone().memory_limit(least);
    let alone = tight.estimate(Grid::Heads(Site::Z), &metric).unwrap();
    assert_eq!(alone.per_prompt, found.per_prompt);
    let stopped = tight.observe(|_| ControlFlow::Break(()));
    let part = stopped.estimate(Grid::Heads(Site::Z), &metric).unwrap();
    assert!(part.effect.about.partial);
    assert!(
        part.effect
            .absent()
            .iter()
            .all(|a| *a == Some(Absent::NotRun))
    );
    let last = part.per_prompt.ndim() - 1;
    let of_pair = |of: &ArrayD<f32>, pair| of.index_axis(Axis(last), pair).to_owned();
    assert_eq!(of_pair(&part.per_prompt, 0), of_pair(&found.per_prompt, 0));
    assert!(of_pair(&part.per_prompt, 1).iter().all(|v| v.is_nan()));
}

#[test]
fn what_has_no_gradient_is_an_error() {
    let model = random_model(2, 2, 4, 0);
    let [clean, corrupted] = random_pairs(&[5]);
    let study = ActivationPatching::new(&model, &clean, &corrupted).unwrap();
    let noising = study.clone().direction(Direction::Noising);
    let grid = Grid::Heads(Site::Z);
    let message = |study: &ActivationPatching<'_>, metric: &Metric| {
        study.estimate(grid, metric).unwrap_err().to_string()
    };
    assert!(message(&study, &rank(&[3])).starts_with("metric whose gradient is taken"));
    study.estimate(grid, &kl_divergence()).unwrap();
    assert_eq!(
        message(&noising, &kl_divergence()),
        "metric whose gradient at the clean runs is taken: found KL divergence to the clean run \
         (nats), which is 0 in the clean runs, and so is its gradient there; expected the other \
         direction, which takes gradients of other runs, or another metric"
    );
    let base = Base::new(&model, &clean).unwrap();
    let zeroed = vec![Intervention::new(Site::MlpOut.at(0), Edit::Zero)];
    let zeroed = Base::over(&base, &corrupted, zeroed).unwrap();
    let study = ActivationPatching::over(&base, &zeroed).unwrap();
    let error = message(&study, &logit_diffs(&[(3, 5)]));
    assert!(
        error.starts_with("runs whose gradients are taken: found runs under"),
        "{error}"
    );
    let noising = study.direction(Direction::Noising);
    noising.estimate(grid, &logit_diffs(&[(3, 5)])).unwrap();
}

#[test]
fn corrected_estimates_are_those_of_the_reference() {
    let qk_fix = Corrections {
        qk_fix: true,
        ..Corrections::default()
    };
    for (model, _) in MODELS {
        let golden = Golden::open(model);
        let study = ActivationPatching::new(&golden.model, &golden.clean, &golden.corrupted);
        let study = study.unwrap().direction(Direction::Noising);
        let mut comparison = Comparison::new(1e-5);
        let mut compared = 0;
        for (site, grid) in BLOCK_SITES {
            let estimate = |corrections| {
                let found = study.estimate_with(corrections, grid, &golden.metric);
                found.unwrap()
            };
            let key = format!("atp_star/qk_fix/{site}");
            if let Some(expected) = golden.tensors.get(&key) {
                let found = as_golden(site, &estimate(qk_fix));
                comparison.add(&key, found.view(), expected.view());
                compared += 1;
            }
            let key = format!("atp_star/star/{site}");
            if let Some(expected) = golden.tensors.get(&key) {
                let found = estimate(Corrections::STAR).effect;
                comparison.add(&key, found.values(), expected.view());
                compared += 1;
            }
        }
        assert_eq!(compared, 7);
        comparison.finish(model);
    }
}

/// Attention that is saturated at the wrong place: a head whose query points with all its weight at
/// one key in the clean run, and at another in the corrupted one.
#[test]
fn the_qk_fix_finds_what_a_saturated_pattern_hides() {
    let golden = Golden::open("tiny-gelu");
    let (config, mut weights) = golden.model.clone().into_parts();
    let d = config.d_model;
    for block in &mut weights.h {
        // Queries and keys as large as saturation needs.
        for mut row in block.attn.c_attn.weight.rows_mut() {
            row.iter_mut().take(2 * d).for_each(|v| *v *= 6.0);
        }
    }
    let model = Transformer::new(config, weights).unwrap();
    let study = ActivationPatching::new(&model, &golden.clean, &golden.corrupted).unwrap();
    let study = study.direction(Direction::Noising);
    let qk_fix = Corrections {
        qk_fix: true,
        ..Corrections::default()
    };
    for site in [Site::Q, Site::K] {
        let grid = Grid::HeadPositions(site);
        let exact = study.run(grid, &golden.metric).unwrap().per_prompt;
        let error = |corrections| {
            let found = study.estimate_with(corrections, grid, &golden.metric);
            let errors = &found.unwrap().per_prompt - &exact;
            errors.iter().map(|v| v.abs()).sum::<f32>()
        };
        let (plain, fixed) = (error(Corrections::default()), error(qk_fix));
        let whole = exact.iter().map(|v| v.abs()).sum::<f32>();
        println!("{site:?}: {plain} without, {fixed} with the fix, of {whole}");
        assert!(fixed < 0.7 * plain, "{site:?}: {fixed}, {plain} of {whole}");
    }
}

#[test]
fn corrections_say_what_they_are() {
    let model = random_model(2, 2, 4, 0);
    let [clean, corrupted] = random_pairs(&[5, 5]);
    let metric = logit_diffs(&[(3, 5)]);
    let study = ActivationPatching::new(&model, &clean, &corrupted).unwrap();
    let grid = Grid::HeadPositions(Site::K);
    let star = study
        .estimate_with(Corrections::STAR, grid, &metric)
        .unwrap();
    let about = &star.effect.about;
    assert!(
        about
            .title
            .starts_with("Attribution patching (AtP*) of attn.hook_k")
    );
    assert!(
        about.caption.contains(
            "as the mean absolute value over gradients that leave out one layer each, with exact \
             changes of the attention patterns"
        ),
        "{}",
        about.caption
    );
    assert_eq!(about.counts["gradient runs"], 4);
    // Without heads' queries and keys, the fix has nothing to fix.
    let qk_fix = Corrections {
        qk_fix: true,
        ..Corrections::default()
    };
    let grid = Grid::HeadPositions(Site::V);
    let fixed = study.estimate_with(qk_fix, grid, &metric).unwrap();
    let plain = study.estimate(grid, &metric).unwrap();
    assert_eq!(fixed.per_prompt, plain.per_prompt);
    let flat = random_model(1, 2, 4, 0);
    let study = ActivationPatching::new(&flat, &clean, &corrupted).unwrap();
    let error = study
        .estimate_with(Corrections::STAR, grid, &metric)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "layers for GradDrop: found 1; expected at least 2"
    );
}
