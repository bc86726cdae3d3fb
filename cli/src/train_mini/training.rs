//! The state of a training run: it goes on from a file to the same bits.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use patchlens::gradient::{Backward, cross_entropy};
use patchlens::parameters::{Attention, Parameters};
use patchlens::tasks::{Corpus, TrainingItem};
use patchlens::{Config, Head, Prompt, Transformer, read_bytes, write_atomically};
use rayon::prelude::*;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::{Deserialize, Serialize};

use super::adamw::AdamW;
use super::dropout::{Dropout, silence};

/// Parts of a step, each without heads of its own.
const PARTS: usize = 4;

/// Most bytes of a file to go on from; one has some 10 million.
const LARGEST: u64 = 1 << 30;

/// What decides the bits of the result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Of the parameters' initialisation and of the corpus.
    pub seed: u64,
    /// Sequences a step.
    pub batch: u64,
    /// By what the values of the last layer's heads are larger at first, if these heads begin by
    /// copying what they attend to.
    pub copying: Option<f32>,
    /// How likely each head below the last layer is to be left out of a part of a step.
    pub drop_heads: f64,
    pub optimizer: AdamW,
}

/// What a file holds besides tensors.
#[derive(Serialize, Deserialize)]
struct State {
    settings: Settings,
    step: u64,
}

/// Where a training run stands.
#[derive(Clone, Debug)]
pub struct Training {
    pub settings: Settings,
    /// Steps done.
    pub step: u64,
    pub model: Transformer,
    moments: [Parameters; 2],
}

impl Training {
    pub fn new(settings: Settings, config: Config) -> Result<Self> {
        let (config, mut parameters) = Transformer::random(config, settings.seed)?.into_parts();
        for ((position, i), v) in parameters.wpe.indexed_iter_mut() {
            *v = sinusoid(position, i, config.d_model);
        }
        if let (Some(factor), Some(last)) = (settings.copying, parameters.h.last_mut()) {
            begin_as_copying(&mut last.attn, factor);
        }
        let model = Transformer::new(config, parameters)?;
        let zeros = model.parameters().zeros_like();
        Ok(Training {
            settings,
            step: 0,
            moments: [zeros.clone(), zeros],
            model,
        })
    }

    /// One step; gives the weighted mean loss of its sequences.
    pub fn advance(self, corpus: &Corpus<'_>) -> Result<(Self, f64)> {
        let Training {
            settings,
            step,
            model,
            mut moments,
        } = self;
        let (prompts, weights) = batch(corpus, step, settings.batch)?;
        let mut dropout = Dropout::of_step(settings.drop_heads, settings.seed, step);
        let part = prompts.len().div_ceil(PARTS);
        let mut loss = 0.0;
        let mut gradient = model.parameters().zeros_like();
        for (prompts, weights) in prompts.chunks(part).zip(weights.chunks(part)) {
            let left_out = dropout.draw(model.config());
            let (value, part) = loss_without(&model, &left_out, prompts, weights)?;
            loss += value;
            let sums = gradient.tensors_mut().into_iter().zip(part.tensors());
            for ((_, mut sum), (_, part)) in sums {
                sum += &part;
            }
        }
        let (config, mut parameters) = model.into_parts();
        settings
            .optimizer
            .update(step, &mut parameters, &mut moments, &gradient);
        let training = Training {
            model: Transformer::new(config, parameters)?,
            settings,
            step: step + 1,
            moments,
        };
        Ok((training, loss))
    }

    /// Parameters and moments, with the prefixes of their names in a file.
    fn parts(&self) -> [(&'static str, &Parameters); 3] {
        let [first, second] = &self.moments;
        [
            ("", self.model.parameters()),
            ("first.", first),
            ("second.", second),
        ]
    }

    /// Writes everything that is needed to go on. An older file stays whole until the new one is.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut tensors = Vec::new();
        for (prefix, parameters) in self.parts() {
            for (name, tensor) in parameters.tensors() {
                let bytes: Vec<u8> = tensor.iter().flat_map(|v| v.to_le_bytes()).collect();
                tensors.push((format!("{prefix}{name}"), tensor.shape().to_vec(), bytes));
            }
        }
        let views = tensors
            .iter()
            .map(|(name, shape, bytes)| {
                Ok((name, TensorView::new(Dtype::F32, shape.clone(), bytes)?))
            })
            .collect::<Result<Vec<_>>>()?;
        let state = State {
            settings: self.settings.clone(),
            step: self.step,
        };
        // One entry only: the order of several would change from run to run.
        let metadata = HashMap::from([("state".to_string(), serde_json::to_string(&state)?)]);
        let bytes = safetensors::serialize(views, Some(metadata))?;
        Ok(write_atomically(path, |file| file.write_all(&bytes))?)
    }

    /// Goes on from a file of [`Training::save`], which must be of the same settings.
    pub fn resume(path: &Path, settings: Settings, config: Config) -> Result<Self> {
        let bytes = read_bytes(path, LARGEST);
        let bytes = bytes.with_context(|| format!("reading {}", path.display()))?;
        let (_, header) = SafeTensors::read_metadata(&bytes)?;
        let state = header.metadata().as_ref().and_then(|m| m.get("state"));
        let state = state.with_context(|| format!("{}: no training state", path.display()))?;
        let State {
            settings: found,
            step,
        } = serde_json::from_str(state)?;
        ensure!(
            found == settings,
            "{}: found a run with {found:?}; expected {settings:?}",
            path.display()
        );
        let mut training = Training::new(settings, config)?;
        training.step = step;
        let file = SafeTensors::deserialize(&bytes)?;
        let (config, mut parameters) = training.model.into_parts();
        let [first, second] = &mut training.moments;
        for (prefix, to) in [
            ("", &mut parameters),
            ("first.", first),
            ("second.", second),
        ] {
            read_into(&file, prefix, to)?;
        }
        training.model = Transformer::new(config, parameters)?;
        Ok(training)
    }
}

/// The sequences of a step, and the weights of their predictions, which sum to 1.
fn batch(corpus: &Corpus<'_>, step: u64, size: u64) -> Result<(Vec<Prompt>, Vec<Vec<f32>>)> {
    let items = (step * size..(step + 1) * size).into_par_iter();
    let items: Vec<TrainingItem> = items
        .map(|i| corpus.item(i))
        .collect::<patchlens::Result<_>>()?;
    let total: f64 = items
        .iter()
        .flat_map(|i| &i.weights)
        .map(|w| f64::from(*w))
        .sum();
    let share = |w: &f32| (f64::from(*w) / total) as f32;
    let weights = items.iter().map(|i| i.weights.iter().map(share).collect());
    let weights = weights.collect();
    let prompts = items.into_iter().map(|item| item.tokens.into()).collect();
    Ok((prompts, weights))
}

/// Loss of the model without some heads, and its gradient.
pub fn loss_without(
    model: &Transformer,
    heads: &[Head],
    prompts: &[Prompt],
    weights: &[Vec<f32>],
) -> Result<(f64, Parameters)> {
    let want = Backward {
        parameters: true,
        ..Backward::default()
    };
    let (config, mut parameters) = model.clone().into_parts();
    silence(&mut parameters, heads, &config);
    let model = Transformer::new(config, parameters)?;
    let loss = cross_entropy(prompts, weights)?;
    let result = model.gradients(prompts, (), loss, &want)?;
    let mut gradient = result.parameters.context("parameters were asked for")?;
    silence(&mut gradient, heads, model.config());
    Ok((result.values.iter().sum(), gradient))
}

/// Lets a layer's heads begin by copying: the output map is the transpose of the values, so that a
/// head raises the logits of what it attends to. `factor` is by what the values are larger than
/// other weights.
fn begin_as_copying(attention: &mut Attention, factor: f32) {
    let d_model = attention.c_proj.weight.nrows();
    for ((column, row), output) in attention.c_proj.weight.indexed_iter_mut() {
        let value = &mut attention.c_attn.weight[[row, 2 * d_model + column]];
        *value *= factor;
        *output = *value;
    }
}

/// Where position embeddings start from: sines and cosines of wavelengths from 2π to 64 times
/// that (Vaswani et al. 2017, section 3.5), from which a head learns to look a step back much
/// sooner than from noise. Without such heads there is no induction.
fn sinusoid(position: usize, i: usize, d_model: usize) -> f32 {
    const AMPLITUDE: f64 = 0.05;
    let frequency = 64.0_f64.powf(-((i / 2 * 2) as f64) / d_model as f64);
    let (sin, cos) = (position as f64 * frequency).sin_cos();
    (AMPLITUDE * if i.is_multiple_of(2) { sin } else { cos }) as f32
}

fn read_into(file: &SafeTensors<'_>, prefix: &str, to: &mut Parameters) -> Result<()> {
    for (name, mut to) in to.tensors_mut() {
        let tensor = file.tensor(&format!("{prefix}{name}"))?;
        ensure!(
            tensor.shape() == to.shape(),
            "`{prefix}{name}`: found shape {:?}; expected {:?}",
            tensor.shape(),
            to.shape()
        );
        let values = tensor.data().as_chunks::<4>().0;
        for (to, bytes) in to.iter_mut().zip(values) {
            *to = f32::from_le_bytes(*bytes);
        }
    }
    Ok(())
}
