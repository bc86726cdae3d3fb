//! Name by name against torch's autograd.

use ndarray::{Array2, ArrayView2};
use patchlens::gradient::{Backward, cross_entropy};
use patchlens::{HookPoint, Prompts, Selection};

use crate::common::Comparison;

/// Largest difference from the reference, relative to the largest value of the tensor.
const BOUND: f32 = 1e-5;

/// The goldens' metric, of these two tokens at the last position.
fn logit_difference(
    a: usize,
    b: usize,
) -> impl Fn(usize, ArrayView2<'_, f32>) -> (f64, Array2<f32>) {
    move |_prompt, logits| {
        let last = logits.nrows() - 1;
        let mut gradient = Array2::zeros(logits.dim());
        gradient[[last, a]] = 1.0;
        gradient[[last, b]] = -1.0;
        let value = f64::from(logits[[last, a]]) - f64::from(logits[[last, b]]);
        (value, gradient)
    }
}

fn prompts(metadata: &serde_json::Value) -> Prompts {
    let prompts = metadata["prompts"].as_array().unwrap().iter();
    Prompts::new(prompts.map(crate::common::tokens)).unwrap()
}

#[test]
fn every_hook_point_agrees_with_torch() {
    for name in crate::common::MODELS {
        let model = crate::common::open(name);
        let metadata = crate::common::metadata(name);
        let reference = crate::common::tensors(name, "reference.safetensors");
        let tokens = crate::common::tokens(&metadata["metric_tokens"]);
        let metric = logit_difference(tokens[0] as usize, tokens[1] as usize);
        let all = Selection::everything(model.config());
        let want = Backward {
            gradients: Some(&all),
            ..Backward::default()
        };
        let result = model
            .gradients(&prompts(&metadata), (), metric, &want)
            .unwrap();
        let mut comparison = Comparison::new(BOUND);
        for (i, gradients) in result.gradients.iter().enumerate() {
            let metric = f64::from(reference[&format!("p{i}/metric")].sum());
            assert!((result.values[i] - metric).abs() < 1e-5 * metric.abs().max(1.0));
            for point in HookPoint::all(model.config().n_layers) {
                let key = format!("p{i}/grad/{point}");
                comparison.add(&key, gradients.get(point).unwrap(), reference[&key].view());
            }
        }
        comparison.finish(name);
    }
}

#[test]
fn every_parameter_agrees_with_torch() {
    for name in crate::common::MODELS {
        let model = crate::common::open(name);
        let reference = crate::common::tensors(name, "reference.safetensors");
        let mut comparison = Comparison::new(BOUND);
        for (i, prompt) in prompts(&crate::common::metadata(name)).iter().enumerate() {
            let n = prompt.len() - 1;
            let weights = [vec![1.0 / n as f32; n]];
            let loss = cross_entropy(prompt, &weights).unwrap();
            let want = Backward {
                parameters: true,
                ..Backward::default()
            };
            let result = model.gradients(prompt, (), loss, &want).unwrap();
            let expected = f64::from(reference[&format!("p{i}/loss")].sum());
            assert!((result.values[0] - expected).abs() < 1e-5 * expected);
            let parameters = result.parameters.unwrap();
            let tensors = parameters.tensors();
            let prefix = format!("p{i}/param_grad/");
            let goldens = reference.keys().filter(|key| key.starts_with(&prefix));
            assert_eq!(goldens.count(), tensors.len());
            for (tensor, found) in tensors {
                let keys = ["", "transformer."].map(|p| format!("{prefix}{p}{tensor}"));
                let expected = keys.iter().find_map(|key| reference.get(key));
                let expected = expected.unwrap_or_else(|| panic!("no golden {}", keys[0]));
                comparison.add(&keys[0], found, expected.view());
            }
        }
        comparison.finish(name);
    }
}
