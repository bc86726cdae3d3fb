//! Fitted translators.

use ndarray::Array2;
use patchlens::lens::{LensFit, TunedLens};
use patchlens::{HookPoint, Selection, Site, Transformer, ops};

use super::{prompts, small};

/// Residuals of the fit on its own data: `[point, Σ‖final − prediction‖²]`, by hand.
fn squared_error(model: &Transformer, lens: &TunedLens, point: HookPoint) -> f64 {
    let last = Site::ResidPost.at(model.config().n_layers - 1);
    let mut sum = 0.0;
    for prompt in prompts(12) {
        let selection = Selection::points([point, last]);
        let (_, cache) = model.run_with_cache(&prompt, &selection).unwrap();
        let rows = |p| -> Array2<f32> {
            cache
                .get(p)
                .unwrap()
                .to_owned()
                .into_dimensionality()
                .unwrap()
        };
        let (weight, bias) = lens.get(point).unwrap();
        let (r, truth) = (rows(point), rows(last));
        let predicted = ops::linear(r.view(), weight.view(), Some(bias.view())) + &r;
        sum += (truth - predicted)
            .iter()
            .map(|v| f64::from(*v).powi(2))
            .sum::<f64>();
    }
    sum
}

#[test]
fn a_fitted_lens_is_the_least_squares_solution() {
    let model = small(5);
    let points = [Site::ResidPre.at(1), Site::ResidPost.at(1)];
    let fitted = LensFit::new(&model, &prompts(12))
        .unwrap()
        .points(&points)
        .run(0.0)
        .unwrap()
        .lens;
    let best = squared_error(&model, &fitted, points[0]);
    let identity = TunedLens::identity(model.config(), &points).unwrap();
    assert!(
        best < 0.5 * squared_error(&model, &identity, points[0]),
        "{best}"
    );
    // A minimum: every coordinate's step in either direction makes it worse.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lens.safetensors");
    fitted.save(&path).unwrap();
    assert_eq!(TunedLens::open(&path).unwrap(), fitted);
    let name = points[0].to_string();
    for index in 0..9 {
        for step in [-0.05_f32, 0.05] {
            let file = std::fs::read(&path).unwrap();
            let moved = moved_parameter(&file, &name, index, step);
            let other = dir.path().join("moved.safetensors");
            std::fs::write(&other, moved).unwrap();
            let moved = TunedLens::open(&other).unwrap();
            assert!(
                squared_error(&model, &moved, points[0]) > best,
                "{index} {step}"
            );
        }
    }
    // The final residual predicts itself.
    let (weight, bias) = fitted.get(points[1]).unwrap();
    assert!(weight.iter().chain(bias).all(|v| v.abs() < 1e-5));
}

/// The file with one number of a translator moved: of the bias for index 8, else of the weight.
fn moved_parameter(file: &[u8], point: &str, index: usize, step: f32) -> Vec<u8> {
    let tensors = safetensors::SafeTensors::deserialize(file).unwrap();
    let (name, at) = match index {
        8 => (format!("{point}.bias"), 2),
        _ => (format!("{point}.weight"), index * 7),
    };
    let tensor = tensors.tensor(&name).unwrap();
    let start = tensor.data().as_ptr() as usize - file.as_ptr() as usize + 4 * at;
    let mut moved = file.to_vec();
    let value = f32::from_le_bytes(moved[start..start + 4].try_into().unwrap()) + step;
    moved[start..start + 4].copy_from_slice(&value.to_le_bytes());
    moved
}

#[test]
fn ridge_draws_towards_the_logit_lens() {
    let model = small(5);
    let points = [Site::ResidPre.at(1)];
    let size = |ridge: f64| {
        let lens = LensFit::new(&model, &prompts(12))
            .unwrap()
            .points(&points)
            .run(ridge)
            .unwrap()
            .lens;
        lens.get(points[0])
            .unwrap()
            .0
            .iter()
            .map(|v| v * v)
            .sum::<f32>()
    };
    assert!(size(1e6) < 1e-8 && size(1.0) < size(0.01) && size(0.01) < size(0.0));
}
