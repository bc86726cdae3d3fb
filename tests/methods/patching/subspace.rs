//! Patching of what lies in a subspace.

use ndarray::{Array2, ArrayD, ArrayViewMutD, Ix2};
use patchlens::intervention::Subspace;
use patchlens::metric::log_probability;
use patchlens::patching::{ActivationPatching, Corrections};
use patchlens::{Config, Grid, Prompts, Run, Selection, Site, Transformer, Visit, hook_fn};

fn model() -> Transformer {
    let config = Config {
        n_layers: 2,
        n_heads: 2,
        d_model: 8,
        d_mlp: 16,
        n_ctx: 8,
        d_vocab: 11,
        ..Config::gpt2()
    };
    // Weights as large as those of a trained model.
    let (config, mut weights) = Transformer::random(config, 5).unwrap().into_parts();
    for (name, mut tensor) in weights.tensors_mut() {
        let is_matrix = tensor.ndim() == 2;
        let factor = if is_matrix && name != "wpe.weight" {
            15.0
        } else {
            1.0
        };
        tensor.mapv_inplace(|v| factor * v);
    }
    Transformer::new(config, weights).unwrap()
}

fn pairs() -> [Prompts; 2] {
    let prompts = |list: [[u32; 4]; 2]| Prompts::new(list).unwrap();
    [
        prompts([[1, 2, 3, 4], [5, 6, 7, 8]]),
        prompts([[1, 9, 3, 4], [10, 6, 2, 8]]),
    ]
}

fn subspace(d: usize) -> Subspace {
    let vectors = Array2::from_shape_fn((d, 2), |(i, j)| ((i * i + 3 * j + i * j) as f32).sin());
    Subspace::spanned_by(&vectors).unwrap()
}

/// `h' = h + (h_clean − h)·B·Bᵀ` at one position of one layer, by a closure in f64.
#[test]
fn a_cell_is_the_run_with_that_part_of_the_row_exchanged() {
    let (model, [clean, corrupted]) = (model(), pairs());
    let within = subspace(8);
    let basis = within.basis().mapv(f64::from);
    let projection = basis.dot(&basis.t());
    let metric = log_probability(&[4]);
    let study = ActivationPatching::new(&model, &clean, &corrupted).unwrap();
    let study = study.in_subspace(within);
    let found = study.run(Grid::Positions(Site::ResidPre), &metric).unwrap();
    let points = Selection::points((0..2).map(|layer| Site::ResidPre.at(layer)));
    for pair in 0..2 {
        let (_, donor) = model.run_with_cache(&clean[pair], &points).unwrap();
        for layer in 0..2 {
            let at = Site::ResidPre.at(layer);
            let source: Array2<f32> = donor
                .get(at)
                .unwrap()
                .to_owned()
                .into_dimensionality()
                .unwrap();
            for position in 0..4 {
                let by_hand = |_: &Visit<'_>, row: ArrayViewMutD<'_, f32>| {
                    let mut h = row.into_dimensionality::<Ix2>().unwrap();
                    let own = h.row(position).mapv(f64::from);
                    let change = (&source.row(position).mapv(f64::from) - &own).dot(&projection);
                    h.row_mut(position)
                        .assign(&(own + change).mapv(|v| v as f32));
                };
                let prompt = &corrupted[pair];
                let output = model
                    .run(prompt, hook_fn(at, by_hand), &Run::default())
                    .unwrap();
                let expected = metric.evaluate(0, output.logits.get(0)).unwrap();
                let value = found.values[[layer, position, pair]];
                assert!((value - expected).abs() < 1e-5, "{value} {expected}");
            }
        }
    }
    let values = found.effect.values();
    let changes = values.iter().filter(|v| v.abs() > 1e-3).count();
    assert!(changes > 4, "{}", found.effect);
}

/// To first order, what lies in a subspace and what lies outside of it make the whole.
#[test]
fn estimates_inside_and_outside_make_the_whole() {
    let (model, [clean, corrupted]) = (model(), pairs());
    let metric = log_probability(&[4]);
    for (grid, d) in [
        (Grid::Positions(Site::ResidMid), 8),
        (Grid::HeadPositions(Site::Z), 4),
        (Grid::Heads(Site::K), 4),
    ] {
        let study = ActivationPatching::new(&model, &clean, &corrupted).unwrap();
        let values = |study: &ActivationPatching<'_>| -> ArrayD<f32> {
            study.estimate(grid, &metric).unwrap().per_prompt
        };
        let whole = values(&study);
        let inside = values(&study.clone().in_subspace(subspace(d)));
        let outside = values(&study.in_subspace(subspace(d).complement()));
        for ((whole, inside), outside) in whole.iter().zip(&inside).zip(&outside) {
            assert!((whole - (inside + outside)).abs() < 1e-5 * whole.abs().max(1.0));
        }
        assert!(inside.iter().any(|v| v.abs() > 1e-3));
        assert!(outside.iter().any(|v| v.abs() > 1e-3));
    }
}

#[test]
fn a_subspace_that_does_not_fit_is_an_error() {
    let (model, [clean, corrupted]) = (model(), pairs());
    let metric = log_probability(&[4]);
    let study = |d| {
        let study = ActivationPatching::new(&model, &clean, &corrupted).unwrap();
        study.in_subspace(subspace(d))
    };
    let message = |d, grid| study(d).run(grid, &metric).unwrap_err().to_string();
    assert_eq!(
        message(8, Grid::Heads(Site::Z)),
        "basis of a subspace at blocks.0.attn.hook_z: found shape [8, 2]; expected [4, k], the \
         first axis being d_head"
    );
    assert!(message(4, Grid::Heads(Site::Pattern)).contains("would never fire"));
    assert!(message(8, Grid::Columns(Site::ResidPre, 0)).contains("columns are selected"));
    let estimate = study(8).estimate(Grid::Heads(Site::Z), &metric);
    assert!(
        estimate
            .unwrap_err()
            .to_string()
            .contains("expected [4, k]")
    );
    let fix = Corrections {
        qk_fix: true,
        ..Corrections::default()
    };
    let fixed = study(4).estimate_with(fix, Grid::Heads(Site::Q), &metric);
    assert_eq!(
        fixed.unwrap_err().to_string(),
        "grid for the QK fix: found attn.hook_q in 2 of 4 dimensions; expected whole queries and keys, or no \
         QK fix"
    );
}
