//! The sweep engine against full forward passes, bit by bit.

use std::ops::ControlFlow;

use ndarray::Array2;
use patchlens::hook::Axes;
use patchlens::intervention::Values;
use patchlens::metric::{log_probability, probability};
use patchlens::prompt::IntoPrompts;
use patchlens::sweep::Cell;
use patchlens::{
    ActivationCache, Base, Config, Edit, Error, HookPoint, Intervention, Metric, Prompt, Prompts,
    Run, Selection, Sweep, Target, Transformer, logit_diff,
};
use proptest::prelude::*;

mod random;

fn bits(values: &Array2<f32>) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

pub fn config(layers: usize, heads: usize, d_head: usize) -> Config {
    Config {
        n_layers: layers,
        n_heads: heads,
        d_model: heads * d_head,
        d_mlp: 3 * heads * d_head + 1,
        n_ctx: 24,
        d_vocab: 23,
        ..Config::gpt2()
    }
}

pub fn model(config: Config, seed: u64) -> Transformer {
    let (config, mut parameters) = Transformer::random(config, seed).unwrap().into_parts();
    // GPT-2's initialisation is so small that edits hardly matter: enlarge it.
    for (name, mut tensor) in parameters.tensors_mut() {
        if name.ends_with("weight") && !name.contains("ln_") {
            tensor.mapv_inplace(|v| v * 12.0);
        }
    }
    Transformer::new(config, parameters).unwrap()
}

fn caches(model: &Transformer, prompts: &Prompts) -> Vec<ActivationCache> {
    let selection = Selection::everything(model.config());
    let run = Run {
        cache: Some(&selection),
        ..Run::default()
    };
    model.run(prompts, (), &run).unwrap().caches
}

/// Every kind of edit at a point.
fn edits(model: &Transformer, donors: &[ActivationCache], point: HookPoint) -> Vec<Edit> {
    let width = *point.axes().shape(model.config(), 1).last().unwrap();
    let mut edits = vec![
        Edit::patch(donors, point).unwrap(),
        Edit::Set(Values::scalar(0.25)),
        Edit::Zero,
        Edit::Scale(1.5),
        Edit::Noise { std: 0.7, seed: 5 },
        Edit::map(|row, values| {
            let shift = row.position as f32 * 0.1;
            values.iter_mut().for_each(|v| *v = shift - *v);
        }),
    ];
    if point.axes() != Axes::Attention {
        let ramp = ndarray::Array1::linspace(-0.5, 0.5, width);
        edits.push(Edit::Add(Values::array(ramp)));
    }
    edits
}

pub fn assert_same(sweep: &Sweep<'_>, cells: &[Cell], metric: &Metric, what: &str) {
    let naive = sweep.run_naive(cells, metric).unwrap();
    let result = sweep.run(cells, metric).unwrap();
    for (cell, (a, b)) in result
        .values
        .rows()
        .into_iter()
        .zip(naive.rows())
        .enumerate()
    {
        let (a, b): (Vec<u32>, Vec<u32>) = (
            a.iter().map(|v| v.to_bits()).collect(),
            b.iter().map(|v| v.to_bits()).collect(),
        );
        assert_eq!(
            a,
            b,
            "{what}: cell {cell}: {:?}: {} and {}",
            cells[cell],
            result.values.row(cell),
            naive.row(cell)
        );
    }
    assert_eq!(
        result.multiply_adds, result.plan.multiply_adds,
        "{what}: multiply-adds"
    );
    assert_eq!(result.rows, result.plan.rows, "{what}: rows");
}

pub fn ragged() -> (Prompts, Prompts) {
    let clean = Prompts::new([
        vec![1, 2, 3, 4, 5, 6, 7],
        vec![8, 9, 10],
        vec![11, 12, 13, 14, 15],
    ]);
    let corrupted = Prompts::new([
        vec![1, 2, 3, 9, 5, 6, 7],
        vec![3, 2, 1],
        vec![11, 12, 13, 14, 2],
    ]);
    (clean.unwrap(), corrupted.unwrap())
}

#[test]
fn every_point_and_edit_equals_full_passes() {
    let model = model(config(3, 2, 4), 7);
    let (clean, corrupted) = ragged();
    let donors = caches(&model, &clean);
    let metric = logit_diff(3, 5);
    for point in HookPoint::all(3) {
        let mut cells: Vec<Cell> = Vec::new();
        for edit in edits(&model, &donors, point) {
            let target = Target::new(point);
            cells.push(vec![Intervention::new(target.clone(), edit.clone())]);
            cells.push(vec![Intervention::new(
                target.clone().at_positions(1),
                edit.clone(),
            )]);
            cells.push(vec![Intervention::new(
                target.clone().at_positions(patchlens::Select::Last),
                edit.clone(),
            )]);
            if point.axes().has_heads() {
                cells.push(vec![Intervention::new(
                    target.clone().at_heads(1),
                    edit.clone(),
                )]);
                cells.push(vec![Intervention::new(
                    target.clone().at_heads(0).at_positions([0, 2]),
                    edit.clone(),
                )]);
            }
            if point.axes() == Axes::Attention {
                cells.push(vec![Intervention::new(
                    target.at_heads(1).at_positions(2).at_src(0),
                    edit,
                )]);
            }
        }
        let sweep = Sweep::new(&model, &corrupted).unwrap();
        assert_same(&sweep, &cells, &metric, &point.to_string());
    }
}

#[test]
fn metrics_over_the_vocabulary_and_closures_equal_full_passes() {
    let model = model(config(2, 3, 5), 1);
    let (clean, corrupted) = ragged();
    let donors = caches(&model, &clean);
    let cells: Vec<Cell> = HookPoint::all(2)
        .map(|point| {
            let edit = Edit::patch(&donors, point).unwrap();
            vec![Intervention::new(Target::new(point).at_positions(1), edit)]
        })
        .collect();
    let sum = Metric::from_fn("sum", |prompt, logits| logits.sum() * (prompt + 1) as f32);
    for metric in [
        probability(&[3, 4, 5]),
        log_probability(&[2]),
        logit_diff(1, 2).at_position(1),
        sum,
    ] {
        let sweep = Sweep::new(&model, &corrupted).unwrap();
        assert_same(&sweep, &cells, &metric, metric.name());
    }
}

#[test]
fn a_given_base_and_a_base_over_another_run_change_nothing() {
    let model = model(config(3, 2, 4), 3);
    let (clean, corrupted) = ragged();
    let donors = caches(&model, &clean);
    let cells: Vec<Cell> = HookPoint::all(3)
        .map(|point| {
            vec![Intervention::new(
                point,
                Edit::patch(&donors, point).unwrap(),
            )]
        })
        .collect();
    let metric = logit_diff(3, 5);
    let plain = Sweep::new(&model, &corrupted).unwrap();
    let expected = plain.run(&cells, &metric).unwrap();
    let given = Base::given(&model, &corrupted, &caches(&model, &corrupted)).unwrap();
    let clean = Base::given(&model, &clean, &donors).unwrap();
    let over = Base::over(&clean, &corrupted, Vec::new()).unwrap();
    for base in [given, over] {
        let result = Sweep::over(&base).run(&cells, &metric).unwrap();
        assert_eq!(bits(&result.values), bits(&expected.values));
        assert_eq!(result.base, expected.base);
        assert!(result.base_multiply_adds < expected.base_multiply_adds);
    }
}

#[test]
fn patching_what_is_there_already_runs_nothing() {
    let model = model(config(2, 2, 4), 3);
    let (_, corrupted) = ragged();
    let own = caches(&model, &corrupted);
    let cells: Vec<Cell> = HookPoint::all(2)
        .map(|point| vec![Intervention::new(point, Edit::patch(&own, point).unwrap())])
        .collect();
    let sweep = Sweep::new(&model, &corrupted).unwrap();
    let result = sweep.run(&cells, &logit_diff(3, 5)).unwrap();
    assert_eq!((result.plan.lanes, result.multiply_adds), (0, 0));
    assert!(
        result
            .values
            .rows()
            .into_iter()
            .all(|row| row == result.base)
    );
}

/// The lowest memory limit, which the error of a lower one names.
fn least_limit(
    model: &Transformer,
    prompts: impl IntoPrompts,
    cells: &[Cell],
    metric: &Metric,
) -> u64 {
    let sweep = Sweep::new(model, prompts).unwrap().memory_limit(1);
    match sweep.prepare(cells, metric).err().unwrap() {
        Error::MemoryLimit { limit: 1, least } => least,
        other => panic!("{other}"),
    }
}

#[test]
fn chunks_and_threads_do_not_show() {
    let model = model(config(3, 2, 4), 9);
    let (clean, corrupted) = ragged();
    let donors = caches(&model, &clean);
    let mut cells: Vec<Cell> = Vec::new();
    for point in HookPoint::all(3) {
        for position in 0..3 {
            for edit in [
                Edit::patch(&donors, point).unwrap(),
                Edit::Zero,
                Edit::Scale(1.5),
            ] {
                let target = Target::new(point).at_positions(position);
                cells.push(vec![Intervention::new(target, edit)]);
            }
        }
    }
    let metric = logit_diff(3, 5);
    let expected = Sweep::new(&model, &corrupted)
        .unwrap()
        .run(&cells, &metric)
        .unwrap();
    let mut chunk_counts = std::collections::BTreeSet::new();
    for threads in [1, 2, 4] {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        let most = expected.plan.peak_bytes;
        let least = pool.install(|| least_limit(&model, &corrupted, &cells, &metric));
        for limit in [most * 4, least + 40_000, least + 15_000, least] {
            pool.install(|| {
                let sweep = Sweep::new(&model, &corrupted).unwrap().memory_limit(limit);
                let result = sweep.run(&cells, &metric).unwrap();
                assert_eq!(
                    bits(&result.values),
                    bits(&expected.values),
                    "{threads} threads, limit {limit}"
                );
                assert!(result.plan.peak_bytes <= limit);
                chunk_counts.insert(result.plan.chunks);
            });
        }
    }
    assert!(
        chunk_counts.contains(&1) && chunk_counts.iter().any(|c| *c > 8),
        "{chunk_counts:?}"
    );
}

#[test]
fn a_cancelled_sweep_gives_what_it_has() {
    let model = model(config(3, 2, 4), 9);
    let prompt = Prompt::from([1, 2, 3, 4]);
    let cell = |layer: usize| {
        vec![Intervention::new(
            patchlens::Site::ResidPre.at(layer),
            Edit::Zero,
        )]
    };
    let cells: Vec<Cell> = (0..3).map(cell).collect();
    let metric = logit_diff(3, 5);
    let whole = Sweep::new(&model, &prompt)
        .unwrap()
        .run(&cells, &metric)
        .unwrap();
    let least = least_limit(&model, &prompt, &cells, &metric);
    let mut calls = 0;
    let sweep = Sweep::new(&model, &prompt).unwrap().memory_limit(least);
    let sweep = sweep.observe(|progress| {
        calls += 1;
        assert_eq!((progress.done, progress.total), (1, 3));
        ControlFlow::Break(())
    });
    let prepared = sweep.prepare(&cells, &metric).unwrap();
    assert!(prepared.plan().chunks > 1, "{:?}", prepared.plan());
    let result = prepared.run().unwrap();
    drop(sweep);
    assert!(result.partial && calls == 1);
    assert_eq!(result.values[[0, 0]], whole.values[[0, 0]]);
    assert!(result.values[[2, 0]].is_nan());
}

/// Every grid, both directions and every kind of edit, on the shipped model's own task.
#[cfg(feature = "mini")]
#[test]
fn every_grid_edit_and_direction_equals_full_passes_on_the_shipped_model() {
    use patchlens::metric::logit_diffs;
    use patchlens::tasks::{Corruption, Ioi};
    use patchlens::{Grid, Site, Tokenizer};
    let (model, tokenizer) = (Transformer::mini(), Tokenizer::mini());
    let pairs = Ioi::new(&tokenizer).unwrap().template(0).unwrap();
    let pairs = pairs.pairs(2, Corruption::Aba, 3).unwrap();
    let clean = Prompts::new(pairs.iter().map(|p| &p.clean)).unwrap();
    let corrupted = Prompts::new(pairs.iter().map(|p| &p.corrupted)).unwrap();
    let answers: Vec<_> = pairs.iter().map(|p| (p.clean.io, p.clean.s)).collect();
    let grids = [
        Grid::Positions(Site::ResidPre),
        Grid::HeadPositions(Site::Z),
        Grid::Heads(Site::Q),
        Grid::PatternDest,
        Grid::PatternEntries,
        Grid::EveryBlock,
        Grid::EveryHead,
        Grid::EveryHeadPosition,
    ];
    for (donor, base) in [(&clean, &corrupted), (&corrupted, &clean)] {
        let donors = caches(&model, donor);
        let sweep = Sweep::new(&model, base).unwrap();
        for grid in grids {
            let targets = grid.targets(model.config(), clean[0].len());
            // Full passes are slow: every seventh cell of the large grids, each with the next edit.
            let step = if targets.len() > 300 { 37 } else { 3 };
            let cells: Vec<Cell> = targets
                .into_iter()
                .step_by(step)
                .enumerate()
                .map(|(i, target)| {
                    let all = edits(&model, &donors, target.point);
                    let edit = all[i % all.len()].clone();
                    vec![Intervention::new(target, edit)]
                })
                .collect();
            assert_same(&sweep, &cells, &logit_diffs(&answers), &format!("{grid:?}"));
        }
    }
}
