//! Effects of edges, exact and by gradients.

use std::time::Instant;

use anyhow::{Context, Result};
use ndarray::Axis;
use patchlens::circuits::{Acdc, Approximation, EdgeAttribution, EdgeSet, ExactEdges};
use patchlens::metric::kl_divergence;
use patchlens::{Prompt, Transformer};

use super::setup::{Setup, prompts};
use super::work::Answer;

/// The exact effects of all edges on the first pair, `[edge]`; its multiply-adds are checked
/// against the plan.
pub fn exact(model: &Transformer, setup: &Setup, corrupted: &[Vec<u32>]) -> Result<Answer> {
    let [clean, corrupted] = [&setup.clean, corrupted].map(|all| Prompt::from(&all[0][..]));
    let metric = setup.metric();
    let start = Instant::now();
    let study = ExactEdges::new(model, &clean, &corrupted)?;
    let all = EdgeSet::full(study.graph());
    let found = study.run(&all, &metric)?;
    let seconds = start.elapsed().as_secs_f64();
    let plan = study.plan(&all, &metric)?;
    let counts = &found.effect.about.counts;
    anyhow::ensure!(
        counts["multiply-adds"] == plan.multiply_adds,
        "counted {}, planned {}",
        counts["multiply-adds"],
        plan.multiply_adds
    );
    Ok(Answer {
        seconds,
        values: found.per_prompt.column(0).to_vec(),
        multiply_adds: plan.multiply_adds,
        naive_multiply_adds: plan.naive_multiply_adds,
        ..Answer::default()
    })
}

/// Approximate effects of all edges on all pairs, base runs included; mean over the pairs, `[edge]`.
pub fn estimate(
    model: &Transformer,
    setup: &Setup,
    corrupted: &[Vec<u32>],
    method: Approximation,
) -> Result<Answer> {
    let start = Instant::now();
    let study = EdgeAttribution::new(model, &prompts(&setup.clean), &prompts(corrupted))?;
    let found = study.run(method, &setup.metric())?;
    let seconds = start.elapsed().as_secs_f64();
    let means = found.per_prompt.mean_axis(Axis(1));
    Ok(Answer {
        seconds,
        values: means.expect("there are pairs").to_vec(),
        ..Answer::default()
    })
}

/// ACDC on the shipped model, base runs included: how many edges it keeps.
pub fn acdc(setup: &Setup, tau: f32) -> Result<Answer> {
    let shipped = setup
        .shipped
        .as_ref()
        .context("no pairs of the shipped model")?;
    let model = Transformer::open(&shipped.checkpoint)?;
    let [clean, corrupted] = [&shipped.clean, &shipped.corrupted].map(|all| prompts(all));
    let start = Instant::now();
    let found = Acdc::new(&model, &clean, &corrupted)?.run(&[tau], &kl_divergence())?;
    Ok(Answer {
        seconds: start.elapsed().as_secs_f64(),
        values: vec![found.searches[0].circuit.len() as f32],
        ..Answer::default()
    })
}
