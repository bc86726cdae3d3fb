//! Forward pass, cached run and sweep on a small model, and the matrix product below them.

use std::hint::black_box;

use criterion::Criterion;
use ndarray::Array2;
use patchlens::patching::ActivationPatching;
use patchlens::{Config, Grid, Prompt, Run, Selection, Site, Transformer, logit_diff, ops};

fn model() -> Transformer {
    let config = Config {
        n_layers: 4,
        n_heads: 4,
        d_model: 128,
        d_mlp: 512,
        d_vocab: 1000,
        ..Config::gpt2()
    };
    Transformer::random(config, 0).expect("the config is valid")
}

/// `n` prompts of `len` tokens; `from` on they depend on the seed.
fn prompts(n: u32, len: u32, from: u32, seed: u32) -> Vec<Prompt> {
    let token = |i: u32, p: u32| (17 * i + 31 * p + if p < from { 0 } else { 1 + seed }) % 1000;
    let prompt = |i| Prompt::from((0..len).map(|p| token(i, p)).collect::<Vec<_>>());
    (0..n).map(prompt).collect()
}

fn forward(c: &mut Criterion) {
    let model = model();
    for (n, len) in [(8, 15), (1, 15), (1, 256)] {
        let prompts = prompts(n, len, 0, 0);
        c.bench_function(&format!("forward {n}x{len}"), |b| {
            b.iter(|| {
                model
                    .run(&prompts, (), &Run::default())
                    .expect("valid prompts")
            });
        });
    }
    let prompts = prompts(8, 15, 0, 0);
    let selection = Selection::standard(model.config());
    let run = Run {
        cache: Some(&selection),
        ..Run::default()
    };
    c.bench_function("run with cache 8x15", |b| {
        b.iter(|| model.run(&prompts, (), &run).expect("valid prompts"));
    });
}

fn sweep(c: &mut Criterion) {
    let model = model();
    let clean = prompts(8, 15, 10, 0);
    let metric = logit_diff(5, 6);
    for (kind, from) in [("from token 10 on", 10), ("everywhere", 0)] {
        let corrupted = prompts(8, 15, from, 1);
        let study = ActivationPatching::new(&model, &clean, &corrupted).expect("valid pairs");
        for grid in [Grid::Positions(Site::ResidPre), Grid::Heads(Site::Z)] {
            let name = format!("sweep {}, pairs differ {kind}", grid.sites()[0].name());
            c.bench_function(&name, |b| {
                b.iter(|| study.run(grid, &metric).expect("a valid grid"));
            });
        }
    }
}

fn product(c: &mut Criterion) {
    let w = Array2::from_elem((768, 3072), 0.5);
    for rows in [1, 15, 120, 256] {
        let x = Array2::from_elem((rows, 768), 0.5);
        c.bench_function(&format!("product {rows}x768x3072"), |b| {
            b.iter(|| black_box(ops::matmul(x.view(), w.view())));
        });
    }
}

fn main() {
    let mut criterion = Criterion::default().sample_size(20).configure_from_args();
    forward(&mut criterion);
    sweep(&mut criterion);
    product(&mut criterion);
    criterion.final_summary();
}
