//! Against finite differences.

use patchlens::config::Activation;
use patchlens::gradient::{Backward, cross_entropy};
use patchlens::{HookPoint, Prompt, Prompts, Run, Selection, Site, Transformer, hook_fn};

use super::{random, smooth};

const MODELS: [(Activation, bool); 4] = [
    (Activation::GeluNew, true),
    (Activation::Gelu, false),
    (Activation::Relu, false),
    (Activation::Relu, true),
];

/// Compares the slope of a function with a gradient's length. A long step suffers from curvature
/// (and `relu`'s kinks), a short one from rounding; a wrong gradient fails with both.
fn check_slope(name: &str, moved: impl Fn(f64) -> f64, length: f64) {
    let slopes = [4e-3, 1e-3].map(|step| (moved(step) - moved(-step)) / (2.0 * step));
    let close = |slope: &f64| (slope - length).abs() < 5e-3 * length.max(0.05);
    assert!(
        slopes.iter().any(close),
        "{name}: slopes {slopes:?}, length {length}"
    );
}

/// Moves an activation along its gradient through a hook, for each hook point: the objective's
/// slope must be the gradient's length. `also` is another hook that is there in all runs.
fn check_slopes<H: patchlens::Hooks + Clone>(model: &Transformer, also: &H, skip: &[Site]) {
    let prompt = Prompt::from([5, 17, 3, 30, 17]);
    let points = HookPoint::all(model.config().n_layers)
        .filter(|p| !matches!(p, HookPoint::Block(_, site) if skip.contains(site)));
    let all = Selection::points(points);
    let want = Backward {
        gradients: Some(&all),
        ..Backward::default()
    };
    let result = model
        .gradients(&prompt, also.clone(), smooth, &want)
        .unwrap();
    for point in all.iter() {
        let gradient = result.gradients[0].get(point).unwrap();
        let length = gradient.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>();
        let length = length.sqrt();
        assert!(length > 1e-3, "{point}: length {length:e}");
        let moved = |step: f64| {
            let hook = hook_fn(point, |_, mut x| {
                let along = |(x, g): (&mut f32, &f32)| *x += (step * f64::from(*g) / length) as f32;
                x.iter_mut().zip(gradient.iter()).for_each(along);
            });
            let run = model.run(&prompt, (also.clone(), hook), &Run::default());
            smooth(0, run.unwrap().logits.get(0)).0
        };
        check_slope(&point.to_string(), moved, length);
    }
}

#[test]
fn slopes_at_hook_points_are_the_gradients() {
    for (activation, tied) in MODELS {
        check_slopes(&random(activation, tied), &(), &[]);
    }
}

/// Adds to the first numbers of an activation, so many; as a hook it does not change what the
/// slope upstream is made of.
#[derive(Clone)]
struct Shift(Vec<HookPoint>, usize);

impl patchlens::Hooks for Shift {
    fn wants(&self, at: HookPoint, _sequence: usize) -> bool {
        self.0.contains(&at)
    }

    fn visit(&mut self, _at: &patchlens::Visit<'_>, mut x: ndarray::ArrayViewMutD<'_, f32>) {
        let each = x.iter_mut().enumerate().take(self.1);
        each.for_each(|(i, v)| *v += 0.2 * ((i % 7) as f32 - 2.5));
    }

    fn begin(&mut self, _run: &patchlens::model::RunShape<'_>) -> patchlens::Result<()> {
        Ok(())
    }
}

#[test]
fn what_hooks_change_counts_as_an_added_constant() {
    let split = [Site::AttnIn, Site::QInput, Site::KInput, Site::VInput];
    let model = random(Activation::GeluNew, true);
    let sites = crate::common::gpt2_sites();
    for site in sites.iter().filter(|site| !split.contains(site)) {
        check_slopes(&model, &Shift(vec![site.at(0)], usize::MAX), &split);
    }
    let globals = HookPoint::all(2).filter(|p| p.layer().is_none());
    check_slopes(&model, &Shift(globals.collect(), usize::MAX), &split);
}

#[test]
fn hooks_at_split_inputs_have_a_layer_norm_of_their_own() {
    let model = random(Activation::GeluNew, true);
    let shared = [Site::Ln1Scale, Site::Ln1Normalized];
    for site in [Site::AttnIn, Site::QInput, Site::KInput, Site::VInput] {
        check_slopes(&model, &Shift(vec![site.at(0)], usize::MAX), &shared);
        check_slopes(&model, &Shift(vec![site.at(1)], usize::MAX), &shared);
        // All heads of the first position, and one of the second.
        check_slopes(&model, &Shift(vec![site.at(0)], 4 * 12), &[]);
    }
}

#[test]
fn slopes_of_parameters_are_the_gradients() {
    let prompts = Prompts::new([vec![5, 17, 3, 30, 17], vec![2, 5]]).unwrap();
    let weights = [vec![0.3, 0.0, 1.0, 0.5], vec![0.7]];
    for (activation, tied) in MODELS {
        let model = random(activation, tied);
        let loss = |model: &Transformer, parameters| {
            let want = Backward {
                parameters,
                ..Backward::default()
            };
            let loss = cross_entropy(&prompts, &weights).unwrap();
            model.gradients(&prompts, (), loss, &want).unwrap()
        };
        let gradient = loss(&model, true).parameters.unwrap();
        for (k, (name, tensor)) in gradient.tensors().into_iter().enumerate() {
            let length = tensor.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>();
            let length = length.sqrt();
            assert!(length > 1e-3, "{name}: length {length:e}");
            let moved = |step: f64| {
                let (config, mut parameters) = model.clone().into_parts();
                let (_, mut to) = parameters.tensors_mut().swap_remove(k);
                to.zip_mut_with(&tensor, |v, g| *v += (step * f64::from(*g) / length) as f32);
                let values = loss(&Transformer::new(config, parameters).unwrap(), false).values;
                values.iter().sum::<f64>()
            };
            check_slope(&name, moved, length);
        }
    }
}
