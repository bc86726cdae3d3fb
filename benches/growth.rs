//! How cost grows with prompts, tokens, cells and layers, on GPT-2 small's shape with random
//! weights: prints the numbers and draws them into `benches/growth/`.
//!
//! `cargo bench --bench growth`

use std::time::Instant;

use anyhow::Result;
use ndarray::Array1;
use patchlens::report::{About, Axis, Labelled};
use patchlens::sweep::Cell;
use patchlens::{
    ActivationCache, Base, Config, Edit, Intervention, Prompt, Run, Selection, Site, Sweep, Target,
    Transformer, logit_diff,
};

const ROUNDS: usize = 3;
const LENGTH: usize = 15;

fn main() -> Result<()> {
    // `cargo test --benches` starts benches without this argument.
    if !std::env::args().any(|a| a == "--bench") {
        return Ok(());
    }
    let model = Transformer::random(Config::gpt2(), 0)?;
    let forward = |prompts: &[Prompt]| {
        seconds(|| {
            model
                .run(prompts, (), &Run::default())
                .map(|_| ())
                .map_err(Into::into)
        })
    };
    let study = Study::new(&model, 16)?;

    draw(
        "tokens",
        "tokens",
        "one forward pass",
        &[8, 16, 32, 64, 128, 256, 512, 1024],
        |n| forward(&[prompt(n, 0)]),
    )?;
    draw(
        "prompts",
        "prompts of 15 tokens",
        "one forward pass",
        &[1, 2, 4, 8, 16, 32],
        |n| forward(&prompts(n, 0)),
    )?;
    draw(
        "pairs",
        "prompt pairs",
        "resid_pre sweep, 180 cells",
        &[1, 2, 4, 8, 16],
        |n| study.seconds(n, 180),
    )?;
    draw(
        "cells",
        "cells",
        "resid_pre sweep, 8 pairs",
        &[15, 30, 60, 90, 120, 150, 180],
        |n| study.seconds(8, n),
    )?;
    draw(
        "layers",
        "layers",
        "forward pass, 8 prompts of 15 tokens",
        &[1, 2, 4, 8, 12, 24],
        |n| {
            let config = Config {
                n_layers: n,
                ..Config::gpt2()
            };
            let model = Transformer::random(config, 0)?;
            seconds(|| {
                model
                    .run(&prompts(8, 0), (), &Run::default())
                    .map(|_| ())
                    .map_err(Into::into)
            })
        },
    )
}

/// Measures at some sizes and draws the curve.
fn draw(
    file: &str,
    axis: &str,
    what: &str,
    sizes: &[usize],
    measure: impl Fn(usize) -> Result<f64>,
) -> Result<()> {
    let numbers: Vec<f32> = sizes.iter().map(|n| *n as f32).collect();
    let times = sizes
        .iter()
        .map(|n| measure(*n))
        .collect::<Result<Vec<f64>>>()?;
    let milliseconds: Array1<f32> = times.iter().map(|s| 1e3 * *s as f32).collect();
    let threads = rayon::current_num_threads();
    let about = About {
        title: format!("{what}: time by {axis}"),
        caption: format!("GPT-2 small's shape, {threads} threads, median of {ROUNDS} runs."),
        unit: "ms".to_string(),
        ..About::default()
    };
    let curve = Labelled::new(milliseconds, vec![Axis::numbers(axis, &numbers)], about)?;
    println!("{}", curve.curves()?);
    for (n, seconds) in sizes.iter().zip(times) {
        println!("{n:>6} {axis}: {:9.1} ms", 1e3 * seconds);
    }
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/growth");
    std::fs::create_dir_all(folder)?;
    Ok(curve.curves()?.save(format!("{folder}/{file}.svg"))?)
}

/// The median over some runs, after one that is not counted.
fn seconds(mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    work()?;
    let mut times = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let start = Instant::now();
        work()?;
        times.push(start.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    Ok(times[ROUNDS / 2])
}

fn prompt(n: usize, seed: usize) -> Prompt {
    let tokens = (0..n).map(|p| ((7919 * p + 104_729 * seed) % 50_257) as u32);
    Prompt::from(tokens.collect::<Vec<u32>>())
}

fn prompts(n: usize, first: usize) -> Vec<Prompt> {
    (0..n).map(|i| prompt(LENGTH, first + i)).collect()
}

/// A resid_pre sweep over pairs that differ everywhere, caches given.
struct Study<'m> {
    model: &'m Transformer,
    clean: Vec<ActivationCache>,
    corrupted: (Vec<Prompt>, Vec<ActivationCache>),
}

impl<'m> Study<'m> {
    fn new(model: &'m Transformer, pairs: usize) -> Result<Self> {
        let selection = Selection::standard(model.config());
        let run = Run {
            cache: Some(&selection),
            ..Run::default()
        };
        let corrupted = prompts(pairs, 1000);
        Ok(Study {
            model,
            clean: model.run(&prompts(pairs, 0), (), &run)?.caches,
            corrupted: (corrupted.clone(), model.run(&corrupted, (), &run)?.caches),
        })
    }

    fn seconds(&self, pairs: usize, n_cells: usize) -> Result<f64> {
        let cell = |i: usize| -> Result<Cell> {
            // Spread over the grid, whatever their number.
            let at = i * 12 * LENGTH / n_cells;
            let point = Site::ResidPre.at(at / LENGTH);
            let edit = Edit::patch(&self.clean[..pairs], point)?;
            let target = Target::new(point).at_positions(at % LENGTH);
            Ok(vec![Intervention::new(target, edit)])
        };
        let cells = (0..n_cells).map(cell).collect::<Result<Vec<Cell>>>()?;
        let (prompts, caches) = &self.corrupted;
        let base = Base::given(self.model, &prompts[..pairs], &caches[..pairs])?;
        let sweep = Sweep::over(&base);
        seconds(|| {
            sweep
                .run(&cells, &logit_diff(5, 6))
                .map(|_| ())
                .map_err(Into::into)
        })
    }
}
