//! The backward pass against torch's autograd (golden files), against finite differences, and
//! against itself: alone and in a batch, on one thread and on several.

use std::path::{Path, PathBuf};

use ndarray::{Array2, ArrayD, ArrayView2, ArrayViewD, IxDyn};
use patchlens::{
    Activation, Backward, Config, Error, Gradients, HookPoint, Prompt, Prompts, Run, Selection,
    Site, Transformer, cross_entropy, hook_fn,
};
use safetensors::SafeTensors;

const GOLDEN: [&str; 3] = ["tiny-gelu-new", "tiny-gelu", "tiny-relu"];
const PROMPTS: [&[u32]; 2] = [&[7, 31, 2, 45, 18, 31, 9], &[40, 3, 22, 14]];
/// Largest difference from the reference, relative to the largest value of the tensor.
const TOLERANCE: f64 = 2e-5;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

/// logits[-1, 12] - logits[-1, 29]
fn logit_difference(_prompt: usize, logits: ArrayView2<'_, f32>) -> (f64, Array2<f32>) {
    let last = logits.nrows() - 1;
    let mut gradient = Array2::zeros(logits.dim());
    gradient[[last, 12]] = 1.0;
    gradient[[last, 29]] = -1.0;
    let value = f64::from(logits[[last, 12]]) - f64::from(logits[[last, 29]]);
    (value, gradient)
}

/// A scalar that every logit matters to.
fn smooth(prompt: usize, logits: ArrayView2<'_, f32>) -> (f64, Array2<f32>) {
    let weight = |i: usize| ((i * 37 + prompt * 11) % 17) as f64 / 17.0 - 0.4;
    let value = logits.iter().enumerate();
    let value = value.map(|(i, v)| weight(i) * f64::from(*v).sin()).sum();
    let mut gradient = logits.to_owned();
    let each = gradient.iter_mut().enumerate();
    each.for_each(|(i, v)| *v = (weight(i) * f64::from(*v).cos()) as f32);
    (value, gradient)
}

fn random(activation: Activation, tied: bool) -> Transformer {
    let config = Config {
        n_layers: 2,
        n_heads: 3,
        d_model: 12,
        d_mlp: 20,
        n_ctx: 9,
        d_vocab: 31,
        activation,
        layer_norm_eps: 1e-3,
        scale_attn_weights: true,
        scale_attn_by_inverse_layer_idx: true,
        tie_word_embeddings: tied,
    };
    let model = Transformer::random(config, 3).unwrap();
    // GPT-2's initialisation is so small that everything is almost linear.
    let (config, mut parameters) = model.into_parts();
    parameters.lm_head_bias = (!tied).then(|| ndarray::Array1::zeros(config.d_vocab));
    for (k, (_, mut tensor)) in parameters.tensors_mut().into_iter().enumerate() {
        for (i, v) in tensor.iter_mut().enumerate() {
            *v = *v * 15.0_f32.min(1.0 / v.abs().max(1e-3)) + ((i * 7 + k) % 5) as f32 * 0.05;
        }
    }
    Transformer::new(config, parameters).unwrap()
}

fn everything(model: &Transformer, prompts: &[Prompt]) -> Gradients {
    let all = Selection::everything(model.config());
    let want = Backward {
        gradients: Some(&all),
        parameters: true,
        ..Backward::default()
    };
    model.gradients(prompts, (), smooth, &want).unwrap()
}

/// Largest difference relative to the largest expected value.
fn difference(found: ArrayViewD<'_, f32>, expected: ArrayViewD<'_, f32>) -> f64 {
    assert_eq!(found.shape(), expected.shape());
    assert!(found.iter().all(|v| v.is_finite()));
    let scale = expected.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
    let worst = found
        .iter()
        .zip(expected)
        .fold(0.0_f32, |m, (a, b)| m.max((a - b).abs()));
    f64::from(worst) / f64::from(scale).max(1e-6)
}

struct Reference(Vec<u8>);

impl Reference {
    fn open(name: &str) -> Self {
        Reference(std::fs::read(golden(name).join("reference.safetensors")).unwrap())
    }

    fn tensor(&self, key: &str) -> ArrayD<f32> {
        let tensors = SafeTensors::deserialize(&self.0).unwrap();
        let tensor = tensors.tensor(key).unwrap();
        let bytes = tensor.data().as_chunks::<4>().0;
        let values = bytes.iter().map(|b| f32::from_le_bytes(*b)).collect();
        ArrayD::from_shape_vec(IxDyn(tensor.shape()), values).unwrap()
    }

    fn keys(&self, prefix: &str) -> Vec<String> {
        let tensors = SafeTensors::deserialize(&self.0).unwrap();
        let names = tensors.names().into_iter();
        let names = names.filter_map(|n| n.strip_prefix(prefix));
        names.map(str::to_string).collect()
    }
}

#[test]
fn every_hook_point_agrees_with_torch() {
    let mut worst = (0.0, String::new());
    for name in GOLDEN {
        let model = Transformer::open(golden(name)).unwrap();
        let reference = Reference::open(name);
        let prompts = Prompts::new(PROMPTS).unwrap();
        let all = Selection::everything(model.config());
        let want = Backward {
            gradients: Some(&all),
            ..Backward::default()
        };
        let result = model
            .gradients(&prompts, (), logit_difference, &want)
            .unwrap();
        for (i, gradients) in result.gradients.iter().enumerate() {
            let metric = f64::from(reference.tensor(&format!("p{i}/metric")).sum());
            assert!((result.values[i] - metric).abs() < 1e-4 * metric.abs().max(1.0));
            let keys = reference.keys(&format!("p{i}/grad/"));
            assert_eq!(keys.len(), HookPoint::all(model.config().n_layers).count());
            for hook in keys {
                let expected = reference.tensor(&format!("p{i}/grad/{hook}"));
                let found = gradients.get_named(&hook).unwrap();
                let off = difference(found, expected.view());
                if off > worst.0 {
                    worst = (off, format!("{name} p{i} {hook}"));
                }
            }
        }
    }
    println!("worst: {:.1e} at {}", worst.0, worst.1);
    assert!(worst.0 <= TOLERANCE, "{:.1e} at {}", worst.0, worst.1);
}

#[test]
fn every_parameter_agrees_with_torch() {
    let mut worst = (0.0, String::new());
    for name in GOLDEN {
        let model = Transformer::open(golden(name)).unwrap();
        let reference = Reference::open(name);
        for (i, tokens) in PROMPTS.into_iter().enumerate() {
            let prompt = Prompt::from(tokens);
            let weights = [vec![1.0 / (tokens.len() - 1) as f32; tokens.len() - 1]];
            let loss = cross_entropy(&prompt, &weights).unwrap();
            let want = Backward {
                parameters: true,
                ..Backward::default()
            };
            let result = model.gradients(&prompt, (), loss, &want).unwrap();
            let expected = f64::from(reference.tensor(&format!("p{i}/loss")).sum());
            assert!((result.values[0] - expected).abs() < 1e-5 * expected);

            let prefix = format!("p{i}/param_grad/");
            let keys = reference.keys(&prefix);
            let parameters = result.parameters.unwrap();
            let found = parameters.tensors();
            assert_eq!(keys.len(), found.len(), "{keys:?}");
            for (tensor, found) in found {
                let full = keys.iter().find(|key| {
                    **key == tensor || key.strip_prefix("transformer.") == Some(&tensor)
                });
                let expected = reference.tensor(&format!("{prefix}{}", full.unwrap()));
                let off = difference(found, expected.view());
                if off > worst.0 {
                    worst = (off, format!("{name} p{i} {tensor}"));
                }
            }
        }
    }
    println!("worst: {:.1e} at {}", worst.0, worst.1);
    assert!(worst.0 <= TOLERANCE, "{:.1e} at {}", worst.0, worst.1);
}

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

/// Adds to an activation; as a hook it does not change what the slope upstream is made of.
#[derive(Clone)]
struct Shift(Vec<HookPoint>);

impl patchlens::Hooks for Shift {
    fn wants(&self, at: HookPoint, _sequence: usize) -> bool {
        self.0.contains(&at)
    }

    fn visit(&mut self, _at: &patchlens::Visit<'_>, mut x: ndarray::ArrayViewMutD<'_, f32>) {
        let each = x.iter_mut().enumerate();
        each.for_each(|(i, v)| *v += 0.2 * ((i % 7) as f32 - 2.5));
    }

    fn check(&self, _run: &patchlens::RunShape<'_>) -> patchlens::Result<()> {
        Ok(())
    }
}

#[test]
fn what_hooks_change_counts_as_an_added_constant() {
    let split = [Site::AttnIn, Site::QInput, Site::KInput, Site::VInput];
    let model = random(Activation::GeluNew, true);
    for site in Site::ALL.iter().filter(|site| !split.contains(site)) {
        check_slopes(&model, &Shift(vec![site.at(0)]), &split);
    }
    let globals = HookPoint::all(2).filter(|p| p.layer().is_none());
    check_slopes(&model, &Shift(globals.collect()), &split);
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

fn on_threads<R: Send>(n: usize, f: impl FnOnce() -> R + Send) -> R {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(n).build();
    pool.unwrap().install(f)
}

fn bits(gradients: &Gradients, prompt: usize) -> Vec<(HookPoint, Vec<u32>)> {
    let cache = &gradients.gradients[prompt];
    let bits = |p| cache.get(p).unwrap().iter().map(|v| v.to_bits()).collect();
    cache.points().map(|p| (p, bits(p))).collect()
}

/// Large enough for products and row loops to be split over threads.
fn wide() -> (Transformer, Prompts) {
    let config = Config {
        n_layers: 2,
        n_heads: 4,
        d_model: 64,
        d_mlp: 256,
        n_ctx: 40,
        d_vocab: 300,
        ..Config::gpt2()
    };
    let lengths = [40, 1, 17, 33, 40, 29, 38, 40, 5, 40, 37, 40];
    let prompt = |(i, n): (usize, usize)| -> Vec<u32> {
        (0..n).map(|p| ((i * 97 + p * 31) % 300) as u32).collect()
    };
    let prompts = lengths.into_iter().enumerate().map(prompt);
    (
        Transformer::random(config, 1).unwrap(),
        Prompts::new(prompts).unwrap(),
    )
}

#[test]
fn a_batch_has_the_bits_of_each_prompt_alone() {
    let (model, prompts) = wide();
    // The objective depends on the prompt's index, so alone it has to be told.
    let together = everything(&model, &prompts);
    for (i, prompt) in prompts.iter().enumerate() {
        let all = Selection::everything(model.config());
        let want = Backward {
            gradients: Some(&all),
            ..Backward::default()
        };
        let objective = |_: usize, logits: ArrayView2<'_, f32>| smooth(i, logits);
        let alone = model.gradients(prompt, (), objective, &want).unwrap();
        assert_eq!(alone.values[0].to_bits(), together.values[i].to_bits());
        assert_eq!(bits(&alone, 0), bits(&together, i), "prompt {i}");
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let (model, prompts) = wide();
    let one = on_threads(1, || everything(&model, &prompts));
    for threads in [2, 4] {
        let more = on_threads(threads, || everything(&model, &prompts));
        assert_eq!(one.parameters, more.parameters);
        for i in 0..prompts.len() {
            assert_eq!(bits(&one, i), bits(&more, i), "{threads} threads");
        }
    }
}

#[test]
fn asking_for_less_gives_the_same_bits() {
    let model = random(Activation::GeluNew, false);
    let prompts = Prompts::new([vec![5, 17, 3, 30, 17], vec![2, 5, 9]]).unwrap();
    let all = everything(&model, &prompts);
    for point in HookPoint::all(2) {
        let selection = Selection::points([point]).at_positions([0, 2]);
        let activations = Selection::points([Site::Pattern.at(0), Site::Q.at(1)]);
        let want = Backward {
            gradients: Some(&selection),
            activations: Some(&activations),
            parameters: false,
        };
        let some = model.gradients(&prompts, (), smooth, &want).unwrap();
        assert!(some.parameters.is_none());
        for i in 0..2 {
            assert_eq!(some.gradients[i].points().collect::<Vec<_>>(), [point]);
            let axis = ndarray::Axis(point.axes().pos_axis());
            let expected = all.gradients[i].get(point).unwrap().select(axis, &[0, 2]);
            assert_eq!(some.gradients[i].get(point).unwrap(), expected, "{point}");
            let run = model.run_with_cache(&prompts[i], &activations).unwrap().1;
            for kept in activations.iter() {
                assert_eq!(
                    some.activations[i].get(kept).unwrap(),
                    run.get(kept).unwrap()
                );
            }
            assert_eq!(some.activations[i].points().count(), 2);
        }
    }
    let want = Backward {
        parameters: true,
        ..Backward::default()
    };
    let only = model.gradients(&prompts, (), smooth, &want).unwrap();
    assert_eq!(only.parameters, all.parameters);
    assert!(only.gradients.is_empty() && only.activations.is_empty());
    let nothing = model.gradients(&prompts, (), smooth, &Backward::default());
    assert_eq!(nothing.unwrap().values, all.values);
}

#[test]
fn attention_inputs_sum_over_readers() {
    let model = random(Activation::GeluNew, true);
    let all = everything(&model, &Prompts::new([[5, 17, 3, 30]]).unwrap());
    let at = |site: Site| all.gradients[0].get(site.at(1)).unwrap().to_owned();
    let sum = at(Site::QInput) + at(Site::KInput) + at(Site::VInput);
    assert!(difference(at(Site::AttnIn).view(), sum.view()) < 1e-6);
    // The residual's gradient is that of the copies and of the stream that goes on.
    let through = at(Site::AttnIn).sum_axis(ndarray::Axis(1)) + at(Site::ResidMid);
    assert!(difference(at(Site::ResidPre).view(), through.view()) < 1e-5);
    let scores = at(Site::AttnScores);
    let masked = scores.indexed_iter().filter(|(i, _)| i[2] > i[1]);
    assert!(masked.map(|(_, v)| *v).all(|v| v == 0.0));
}

#[test]
fn bad_input_is_named() {
    let model = random(Activation::Relu, true);
    let prompts = Prompts::new([vec![1, 2, 3], vec![4, 5]]).unwrap();
    let all = Selection::points([Site::Z.at(0)]);
    let want = Backward {
        gradients: Some(&all),
        parameters: true,
        ..Backward::default()
    };
    type Objective = fn(usize, ArrayView2<'_, f32>) -> (f64, Array2<f32>);
    let objectives: [(Objective, &str); 3] = [
        (
            |i, l| (1.0, Array2::zeros((l.nrows() - i, 31))),
            "gradient at the logits of prompt 1: found shape [1, 31]; expected [2, 31], the logits' shape",
        ),
        (
            |_, l| (f64::NAN, l.to_owned()),
            "objective of prompt 0: found NaN; expected a finite number",
        ),
        (
            |_, l| (0.0, l.mapv(|_| f32::INFINITY)),
            "gradient at the logits of prompt 0: found inf; expected finite numbers",
        ),
    ];
    let message = |result: Result<Gradients, Error>| result.unwrap_err().to_string();
    for (objective, expected) in objectives {
        let found = message(model.gradients(&prompts, (), objective, &want));
        assert_eq!(found, expected);
    }
    let no_layer = Selection::points([Site::Z.at(2)]);
    let far = Selection::points([Site::Z.at(1)]).at_positions([2]);
    for (selection, expected) in [
        (
            &no_layer,
            "blocks.2.attn.hook_z: layer 2 is out of range; expected 0..2, nearest `blocks.1.attn.hook_z`",
        ),
        (
            &far,
            "cached positions: pos 2 is out of range; expected 0..2, the shortest prompt's length",
        ),
    ] {
        let want = Backward {
            gradients: Some(selection),
            ..want
        };
        assert_eq!(
            message(model.gradients(&prompts, (), smooth, &want)),
            expected
        );
    }
    let hook = hook_fn(Site::KInput.at(1), |_, _| ());
    assert_eq!(
        message(model.gradients(&prompts, hook, smooth, &want)),
        "hooks of a run with gradients: found a hook at `blocks.1.hook_k_input`; expected hooks at other points than the inputs split by head"
    );
    let empty: [Prompt; 0] = [];
    let found = message(model.gradients(&empty, (), smooth, &want));
    assert_eq!(found, "prompts: none; expected at least one");
}

#[test]
fn bad_weights_are_named() {
    let prompts = Prompts::new([vec![1, 2, 3], vec![4, 5]]).unwrap();
    let message =
        |weights: &[Vec<f32>]| cross_entropy(&prompts, weights).err().unwrap().to_string();
    assert_eq!(
        message(&[vec![1.0; 2]]),
        "weights of the loss: found shape [1]; expected [2], the number of prompts"
    );
    assert_eq!(
        message(&[vec![1.0; 2], vec![1.0; 2]]),
        "weights of the loss of prompt 1: found shape [2]; expected [1], one less than tokens"
    );
    assert_eq!(
        message(&[vec![1.0, f32::NAN], vec![1.0]]),
        "weights of the loss of prompt 0: found NaN; expected finite numbers"
    );
    // A loss made for other prompts than those that run.
    let weights = [vec![1.0; 2], vec![1.0]];
    let model = random(Activation::Relu, true);
    for others in [vec![vec![1, 2]], vec![vec![1, 2, 3]; 3]] {
        let loss = cross_entropy(&prompts, &weights).unwrap();
        let others = Prompts::new(others).unwrap();
        let error = model.gradients(&others, (), loss, &Backward::default());
        let found = error.unwrap_err().to_string();
        assert!(
            found.ends_with("found NaN; expected a finite number"),
            "{found}"
        );
    }
}
