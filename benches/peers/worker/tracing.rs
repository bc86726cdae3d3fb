//! Causal tracing of one fact: states, windows of MLPs and of attention.

use std::time::Instant;

use anyhow::{Result, bail};
use ndarray::{Array2, Axis};
use patchlens::report::About;
use patchlens::tracing::{CausalTracing, DEFAULT_WINDOW, Restore, SubjectCorruption, TracedFact};
use patchlens::{Prompt, Transformer};

use super::setup::Fact;
use super::work::Answer;

/// Traces the fact; values are the answer's probability, mean over the samples, `[token, layer]`.
pub fn run(model: &Transformer, of: &Fact, work: &str) -> Result<Answer> {
    let restore = match work {
        "trace_states" => Restore::states(),
        "trace_mlp" => Restore::mlp(DEFAULT_WINDOW),
        "trace_attention" => Restore::attention(DEFAULT_WINDOW),
        _ => bail!("no work on a fact is called `{work}`"),
    };
    let (start, end) = of.subject;
    let fact = TracedFact::new(Prompt::from(&of.fact[..]), start..end)?;
    let d_model = model.config().d_model;
    let noise = of.noise.iter().map(|sample| {
        let values = sample.concat();
        Array2::from_shape_vec((sample.len(), d_model), values)
    });
    let noise = SubjectCorruption::GivenNoise(noise.collect::<Result<_, _>>()?);
    let tracing = CausalTracing::new(model, noise);
    let start = Instant::now();
    let found = tracing.trace(&fact, restore)?;
    let seconds = start.elapsed().as_secs_f64();
    let counts = &found.indirect_effect.about.counts;
    let mean = found.restored.mean_axis(Axis(2)).unwrap_or_default();
    Ok(Answer {
        seconds,
        values: mean.into_iter().collect(),
        multiply_adds: counts[About::MULTIPLY_ADDS],
        naive_multiply_adds: counts[About::FULL_PASSES],
        ..Answer::default()
    })
}
