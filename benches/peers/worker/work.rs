//! The works, by the names that all peers share.

use std::hint::black_box;
use std::time::Instant;

use anyhow::{Result, bail};
use ndarray::{Array2, ArrayView2, Axis};
use patchlens::circuits::{Approximation, Steps};
use patchlens::patching::ActivationPatching;
use patchlens::sweep::{Cell, Plan};
use patchlens::{
    ActivationCache, Base, Edit, Grid, Intervention, Prompt, Run, Selection, Site, Sweep, Target,
    Transformer, ops,
};

use super::edges;
use super::setup::{Setup, prompts};

/// What a work gave.
#[derive(Default, serde::Serialize)]
pub struct Answer {
    pub seconds: f64,
    /// To compare with the other peers: logits, or the mean metric of each cell.
    pub values: Vec<f32>,
    pub multiply_adds: u64,
    /// Of one full forward pass per cell and prompt.
    pub naive_multiply_adds: u64,
    /// The most memory that the process held so far.
    pub peak_bytes: Option<u64>,
}

pub struct Worker<'m> {
    model: &'m Transformer,
    setup: Setup,
    clean: Base<'m>,
    /// The clean runs' caches.
    caches: Vec<ActivationCache>,
    late: Base<'m>,
    everywhere: Base<'m>,
}

impl<'m> Worker<'m> {
    pub fn new(model: &'m Transformer, setup: Setup) -> Result<Self> {
        let selection = Selection::standard(model.config());
        let run = Run {
            cache: Some(&selection),
            ..Run::default()
        };
        let cached = |tokens: &[Vec<u32>]| {
            let prompts = prompts(tokens);
            let caches = model.run(&prompts, (), &run)?.caches;
            Base::given(model, &prompts, &caches).map(|base| (base, caches))
        };
        let (clean, caches) = cached(&setup.clean)?;
        Ok(Worker {
            clean,
            caches,
            late: cached(&setup.late)?.0,
            everywhere: cached(&setup.everywhere)?.0,
            model,
            setup,
        })
    }

    pub fn run(&mut self, work: &str) -> Result<Answer> {
        let clean = self.clean.prompts().as_slice();
        let one = &clean[..1];
        let resid_pre = Grid::Positions(Site::ResidPre);
        match work {
            "forward_8x15" => self.forward(clean),
            "forward_1x15" => self.forward(one),
            "forward_1x256" => self.forward(&self.setup.pieces(256)[..1]),
            "forward_16x16" => self.forward(&self.setup.pieces(16)[..16]),
            "forward_1x1024" => self.forward(&self.setup.pieces(1024)[..1]),
            "cached_8x15" => self.cached(clean),
            "cached_1x1024" => self.cached(&self.setup.pieces(1024)[..1]),
            "resid_pre_late_given" => self.sweep(resid_pre, &self.late),
            "resid_pre_late_counted" => self.study(resid_pre, &self.late),
            "resid_pre_everywhere" => self.sweep(resid_pre, &self.everywhere),
            "z_late" => self.sweep(Grid::Heads(Site::Z), &self.late),
            "z_everywhere" => self.sweep(Grid::Heads(Site::Z), &self.everywhere),
            "z_by_position_late" => self.sweep(Grid::HeadPositions(Site::Z), &self.late),
            "products_15" => Ok(self.bare_products(15)),
            "products_120" => Ok(self.bare_products(120)),
            "products_256" => Ok(self.bare_products(256)),
            "gemm" => Ok(gemm_rate()),
            "edges_late" => edges::exact(self.model, &self.setup, &self.setup.late),
            "edges_everywhere" => edges::exact(self.model, &self.setup, &self.setup.everywhere),
            "eap" => self.estimate(Approximation::Eap),
            "eap_ig_5" => self.estimate(Approximation::EapIg(Steps::Left(5))),
            "receiver_exact" => self.estimate(Approximation::ReceiverExact),
            "receiver_exact_ig_5" => self.estimate(Approximation::ReceiverExactIg(Steps::Left(5))),
            "acdc_fine" => edges::acdc(&self.setup, 0.02),
            "acdc_coarse" => edges::acdc(&self.setup, 0.2),
            _ => bail!("no work is called `{work}`"),
        }
    }

    fn estimate(&self, method: Approximation) -> Result<Answer> {
        edges::estimate(self.model, &self.setup, &self.setup.everywhere, method)
    }

    fn forward(&self, prompts: &[Prompt]) -> Result<Answer> {
        self.timed(prompts, &Run::default())
    }

    /// With everything kept that TransformerLens keeps by default.
    fn cached(&self, prompts: &[Prompt]) -> Result<Answer> {
        let selection = Selection::standard(self.model.config());
        let run = Run {
            cache: Some(&selection),
            ..Run::default()
        };
        self.timed(prompts, &run)
    }

    fn timed(&self, prompts: &[Prompt], run: &Run<'_>) -> Result<Answer> {
        let start = Instant::now();
        let output = self.model.run(prompts, (), run)?;
        let seconds = start.elapsed().as_secs_f64();
        Ok(Answer {
            seconds,
            values: last_row(&output.logits),
            multiply_adds: output.multiply_adds,
            naive_multiply_adds: output.multiply_adds,
            ..Answer::default()
        })
    }

    /// Patches clean activations into corrupted runs whose caches are given, as those of the
    /// clean runs are.
    fn sweep(&self, grid: Grid, corrupted: &Base<'_>) -> Result<Answer> {
        let metric = self.setup.metric();
        let start = Instant::now();
        let cells = self.cells(grid)?;
        let result = Sweep::over(corrupted).run(&cells, &metric)?;
        let seconds = start.elapsed().as_secs_f64();
        let mean = result.values.mean_axis(Axis(1)).unwrap_or_default();
        let counted = result.multiply_adds + result.base_multiply_adds;
        Ok(answer(seconds, mean.to_vec(), counted, &result.plan))
    }

    /// The same from the prompts alone: the clean runs are cached, the corrupted ones are lanes
    /// over them.
    fn study(&self, grid: Grid, corrupted: &Base<'_>) -> Result<Answer> {
        let metric = self.setup.metric();
        let start = Instant::now();
        let clean = Base::new(self.model, self.clean.prompts())?;
        let corrupted = Base::over(&clean, corrupted.prompts(), Vec::new())?;
        let found = ActivationPatching::over(&clean, &corrupted)?.run(grid, &metric)?;
        let seconds = start.elapsed().as_secs_f64();
        let bases = clean.multiply_adds() + corrupted.multiply_adds();
        let counted = bases + found.plan.multiply_adds;
        // As of a sweep: what builds make of them in their tables is another matter.
        let prompts = Axis(found.values.ndim() - 1);
        let mean = found.values.mean_axis(prompts).unwrap_or_default();
        let values = mean.iter().copied().collect();
        Ok(answer(seconds, values, counted, &found.plan))
    }

    fn cells(&self, grid: Grid) -> Result<Vec<Cell>> {
        let config = self.model.config();
        let (positions, heads) = (0..self.setup.clean[0].len(), 0..config.n_heads);
        let mut cells = Vec::new();
        for layer in 0..config.n_layers {
            let point = grid.sites()[0].at(layer);
            let edit = Edit::patch(&self.caches, point)?;
            let at = || Target::new(point);
            let targets: Vec<Target> = match grid {
                Grid::Positions(_) => positions.clone().map(|p| at().at_positions(p)).collect(),
                Grid::Heads(_) => heads.clone().map(|h| at().at_heads(h)).collect(),
                Grid::HeadPositions(_) => positions
                    .clone()
                    .flat_map(|p| heads.clone().map(move |h| (p, h)))
                    .map(|(p, h)| at().at_positions(p).at_heads(h))
                    .collect(),
                _ => bail!("no work uses {grid:?}"),
            };
            let cell = |target| vec![Intervention::new(target, edit.clone())];
            cells.extend(targets.into_iter().map(cell));
        }
        Ok(cells)
    }

    /// The matrix products of a forward pass over this many rows and nothing else; those inside
    /// attention heads are left out.
    fn bare_products(&self, rows: usize) -> Answer {
        let parameters = self.model.parameters();
        let config = self.model.config();
        let (d, m) = (config.d_model, config.d_mlp);
        let narrow = Array2::from_shape_fn((rows, d), |(i, j)| small(i, j));
        let wide = Array2::from_shape_fn((rows, m), |(i, j)| small(i, j));
        let start = Instant::now();
        let mut multiply_adds = 0;
        let mut product = |x: &Array2<f32>, w: ArrayView2<'_, f32>| {
            multiply_adds += (x.nrows() * w.len()) as u64;
            black_box(ops::linear(x.view(), w, None));
        };
        for block in &parameters.h {
            product(&narrow, block.attn.c_attn.weight.view());
            product(&narrow, block.attn.c_proj.weight.view());
            product(&narrow, block.mlp.c_fc.weight.view());
            product(&wide, block.mlp.c_proj.weight.view());
        }
        product(&narrow, parameters.w_u());
        Answer {
            seconds: start.elapsed().as_secs_f64(),
            multiply_adds,
            ..Answer::default()
        }
    }
}

fn answer(seconds: f64, values: Vec<f32>, multiply_adds: u64, plan: &Plan) -> Answer {
    Answer {
        seconds,
        values,
        multiply_adds,
        naive_multiply_adds: plan.naive_multiply_adds,
        ..Answer::default()
    }
}

/// The first logits of the last position of each prompt.
fn last_row(logits: &patchlens::Logits) -> Vec<f32> {
    let rows = logits.iter().flat_map(|prompt| {
        let last = prompt.nrows() - 1;
        prompt
            .row(last)
            .iter()
            .take(1000)
            .copied()
            .collect::<Vec<_>>()
    });
    rows.collect()
}

fn small(i: usize, j: usize) -> f32 {
    ((i * 31 + j * 17) % 64) as f32 / 64.0 - 0.5
}

/// The machine's rate: one large product, well inside the caches of a block.
fn gemm_rate() -> Answer {
    let (rows, inner, columns) = (1024, 768, 3072);
    let x = Array2::from_shape_fn((rows, inner), |(i, j)| small(i, j));
    let w = Array2::from_shape_fn((inner, columns), |(i, j)| small(j, i));
    black_box(ops::matmul(x.view(), w.view()));
    let start = Instant::now();
    let repeats = 4;
    for _ in 0..repeats {
        black_box(ops::matmul(x.view(), w.view()));
    }
    Answer {
        seconds: start.elapsed().as_secs_f64(),
        multiply_adds: (repeats * rows * inner * columns) as u64,
        ..Answer::default()
    }
}
