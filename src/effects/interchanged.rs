//! What studies return that move states from one run into another.

use ndarray::{Array1, Array2, ArrayD};

use super::Measured;
use crate::error::Result;
use crate::metric::{Baseline, Metric};
use crate::report::{About, Absent, Axis, Labelled};
use crate::statistics::mean;
use crate::sweep::{Plan, SweepResult};

/// What states moved from one run into another do to a metric.
#[derive(Clone, Debug)]
pub struct Interchanged {
    /// By how much each changes the metric of the run that gets it: mean over the pairs, with
    /// standard errors where there are several. The baseline `base` is the metric without.
    pub effect: Labelled,
    /// The change for each pair; the last axis is the pair.
    pub per_prompt: ArrayD<f32>,
    /// Why a pair has no value; the last axis is the pair. [`Absent::NoSamples`] where its two
    /// prompts have nothing that corresponds.
    pub per_prompt_absent: ArrayD<Option<Absent>>,
    /// The metric of each run; the last axis is the pair.
    pub values: ArrayD<f32>,
    raw: Labelled,
    /// The metric of the runs without, `[pair]`.
    pub base: Array1<f32>,
    /// What was run.
    pub plan: Plan,
}

impl Interchanged {
    /// The metric itself, mean over the pairs, with standard errors where there are several.
    pub fn raw(&self) -> &Labelled {
        &self.raw
    }

    /// Labels what a sweep found; `lacking` are the pairs that a cell has no value for,
    /// `[cell, pair]`.
    pub(crate) fn of(
        result: SweepResult,
        lacking: Option<&Array2<bool>>,
        axes: Vec<Axis>,
        mut about: About,
        metric: &Metric,
    ) -> Result<Self> {
        let base = Baseline {
            name: "base",
            values: &result.base,
        };
        about.notes = metric.notes(base, None);
        about.notes.extend(result.notes(base.name));
        about.unit = metric.name().to_string();
        let whole = mean(result.base.iter().copied());
        about.baselines.insert("base".to_string(), whole);
        let counts = [
            ("prompt pairs", result.base.len() as u64),
            (About::MULTIPLY_ADDS, result.multiply_adds),
            (About::FULL_PASSES, result.plan.naive_multiply_adds),
        ];
        about.counts = counts.map(|(name, n)| (name.to_string(), n)).into();
        about.partial = result.partial;
        let measured = Measured {
            absent: Absent::not_run(&result.finished).collect(),
            values: result.values,
            base: result.base.clone(),
            axes,
        };
        let per_prompt_absent = measured.absent_by_prompt(lacking);
        let found = match lacking {
            None => measured.label(about, "base run")?,
            Some(lacking) => measured.label_without(lacking, about, "base run")?,
        };
        Ok(Interchanged {
            effect: found.effect,
            per_prompt: found.per_prompt,
            per_prompt_absent,
            values: found.values,
            raw: found.raw,
            base: result.base,
            plan: result.plan,
        })
    }
}
