//! What knock-outs found.

use std::collections::BTreeSet;

use ndarray::{Array1, Array2, ArrayD, Axis as Dim, Zip};

use crate::effects::Measured;
use crate::error::{Error, Result};
use crate::metric::{Baseline, Metric};
use crate::report::{About, Absent, Axis, Labelled, with_errors};
use crate::statistics::mean;
use crate::sweep::{Plan, SweepResult};

/// What knock-outs found.
#[derive(Clone, Debug)]
pub struct KnockOut {
    /// By how much each knock-out changes the whole model's metric: mean over prompts, `[set]` or
    /// `[layer, head]`, with standard errors where there are several prompts. Negative where the
    /// nodes help. The baseline `clean` is the whole model's metric.
    pub effect: Labelled,
    /// The change for each prompt; the last axis is the prompt.
    pub per_prompt: ArrayD<f32>,
    /// The metric of each knock-out on each prompt; the last axis is the prompt.
    pub values: ArrayD<f32>,
    raw: Labelled,
    about: About,
    /// The metric of the whole model, `[prompt]`.
    pub clean: Array1<f32>,
    /// What was run.
    pub plan: Plan,
}

/// The whole model's runs.
const WHOLE: &str = "clean";

/// A metric with each of some cells knocked out.
pub(crate) struct Found {
    /// `[cell, prompt]`.
    pub values: Array2<f32>,
    /// Whether each cell was reached, `[cell]`.
    pub finished: Vec<bool>,
    /// The metric of the whole model, `[prompt]`.
    pub clean: Array1<f32>,
    pub plan: Plan,
    pub multiply_adds: u64,
    pub partial: bool,
    /// What a reader must know of the runs.
    pub notes: BTreeSet<String>,
}

impl From<SweepResult> for Found {
    fn from(result: SweepResult) -> Self {
        Found {
            notes: result.notes(WHOLE).collect(),
            values: result.values,
            finished: result.finished,
            clean: result.base,
            plan: result.plan,
            multiply_adds: result.multiply_adds,
            partial: result.partial,
        }
    }
}

impl Found {
    /// Adds the cells that come next.
    pub fn add(&mut self, part: SweepResult) {
        self.notes.extend(part.notes(WHOLE));
        for (row, finished) in part.values.outer_iter().zip(part.finished) {
            self.values.row_mut(self.finished.len()).assign(&row);
            self.finished.push(finished);
        }
        self.clean = part.base;
        self.partial |= part.partial;
        self.plan.add(&part.plan);
        self.multiply_adds += part.multiply_adds;
    }

    /// The result, with one cell per place of the axes.
    pub fn label(self, axes: Vec<Axis>, mut about: About, metric: &Metric) -> Result<KnockOut> {
        let whole = mean(self.clean.iter().copied());
        let clean = Baseline {
            name: WHOLE,
            values: &self.clean,
        };
        about.notes = metric.notes(clean, None);
        about.notes.extend(self.notes);
        about.baselines.insert("clean".to_string(), whole);
        let work = [
            (About::MULTIPLY_ADDS, self.multiply_adds),
            (About::FULL_PASSES, self.plan.naive_multiply_adds),
        ];
        let work = work.map(|(name, n)| (name.to_string(), n));
        about.counts.extend(work);
        about.partial = self.partial;
        let measured = Measured {
            absent: Absent::not_run(&self.finished).collect(),
            values: self.values,
            base: self.clean,
            axes,
        };
        KnockOut::new(measured, about, self.plan)
    }
}

impl KnockOut {
    /// Labels what was measured.
    fn new(measured: Measured, about: About, plan: Plan) -> Result<Self> {
        let clean = measured.base.clone();
        let found = measured.label(about.clone(), "whole model")?;
        Ok(KnockOut {
            effect: found.effect,
            per_prompt: found.per_prompt,
            values: found.values,
            raw: found.raw,
            about,
            clean,
            plan,
        })
    }

    /// The metric of the knock-outs itself, mean over prompts, with standard errors where there
    /// are several.
    pub fn raw(&self) -> &Labelled {
        &self.raw
    }

    /// What the metric loses: the effect with its sign turned. Positive where the nodes help.
    ///
    /// # Errors
    /// Same as [`Labelled::new`].
    pub fn lost(&self) -> Result<Labelled> {
        let mut about = self.about.clone();
        about.title += ": what is lost";
        about.caption = format!(
            "The whole model's metric minus this one's. {}",
            about.caption
        );
        self.lost_as(1.0, about)
    }

    /// The same of this metric minus another one, which the same nodes were knocked out for.
    pub(crate) fn minus(&self, other: &KnockOut, about: About) -> Result<Self> {
        let (clean, values) = (&self.clean - &other.clean, &self.values - &other.values);
        let whole = mean(clean.iter().copied());
        let mut about = About {
            baselines: [("clean".to_string(), whole)].into(),
            counts: self.about.counts.clone(),
            partial: self.about.partial || other.about.partial,
            ..about
        };
        for work in [About::MULTIPLY_ADDS, About::FULL_PASSES] {
            let count = about.counts.entry(work.to_string()).or_default();
            *count += other.about.counts.get(work).copied().unwrap_or_default();
        }
        let mut plan = self.plan.clone();
        plan.add(&other.plan);
        let shape = (values.len() / clean.len(), clean.len());
        let absent = self.effect.absent().into_iter().zip(other.effect.absent());
        let measured = Measured {
            absent: absent.map(|(own, others)| own.or(*others)).collect(),
            values: values
                .into_shape_with_order(shape)
                .expect("prompts come last"),
            base: clean,
            axes: self.effect.axes().to_vec(),
        };
        Self::new(measured, about, plan)
    }

    /// The change in percent of the whole model's metric, mean over prompts: what attention
    /// knock-out reports of a probability (Geva et al. 2023, section 4).
    ///
    /// # Errors
    /// [`Error::Invalid`] where the whole model's metric is 0.
    pub fn relative(&self) -> Result<Labelled> {
        if let Some(prompt) = self.clean.iter().position(|clean| *clean == 0.0) {
            return Err(Error::invalid(
                format!("whole model's metric on prompt {prompt}"),
                0,
                "another number, to be a percentage of",
            ));
        }
        let mut about = self.about.clone();
        about.unit = format!("% of the {}", about.unit);
        about.title += ": relative change";
        self.by_prompt(about, |value, clean| 100.0 * (value - clean) / clean)
    }

    /// What the metric loses in units of a number.
    pub(crate) fn lost_as(&self, unit: f32, about: About) -> Result<Labelled> {
        self.by_prompt(about, |value, clean| (clean - value) / unit)
    }

    /// A function of each prompt's metric, and of that of the whole model, mean over prompts.
    fn by_prompt(&self, about: About, of: impl Fn(f32, f32) -> f32) -> Result<Labelled> {
        let prompts = Dim(self.effect.axes().len());
        let mut found = self.values.clone();
        for of_cell in found.lanes_mut(prompts) {
            let apply = |value: &mut f32, clean: &f32| *value = of(*value, *clean);
            Zip::from(of_cell).and(&self.clean).for_each(apply);
        }
        let means = found.map_axis(prompts, |of_cell| mean(of_cell.iter().copied()));
        let means = Labelled::new(means, self.effect.axes().to_vec(), about)?;
        let absent = self.effect.absent().to_owned();
        with_errors(means.with_absent(absent)?, found.view())
    }
}
