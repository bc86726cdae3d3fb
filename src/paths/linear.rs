//! The linearised effect: the metric's gradient at the receivers' inputs on the original run.

use ndarray::Axis as Dim;

use super::PathPatching;
use super::ends::Ends;
use crate::cache::{ActivationCache, Selection};
use crate::error::Result;
use crate::gradient::Backward;
use crate::hook::Axes;
use crate::metric::Metric;

/// Gradients of the metric at the receivers' inputs, one cache per prompt.
pub(super) struct Slopes(Vec<ActivationCache>);

impl Slopes {
    pub fn new(study: &PathPatching<'_>, ends: &Ends, metric: &Metric) -> Result<Self> {
        let points = Selection::points(ends.targets.iter().map(|t| t.point));
        let want = Backward {
            gradients: Some(&points),
            ..Backward::default()
        };
        let output = study
            .model()
            .gradients(study.original.prompts(), (), metric, &want)?;
        Ok(Slopes(output.gradients))
    }

    /// The change of the metric, to first order, when the receivers' inputs change from those of
    /// the original run to those saved.
    pub fn change(
        &self,
        ends: &Ends,
        prompt: usize,
        saved: &[ActivationCache],
        original: &[ActivationCache],
    ) -> Result<f64> {
        let mut sum = 0.0;
        for (target, reads) in ends.targets.iter().zip(&ends.reads) {
            let gradient = self.0[prompt].get(target.point)?;
            let after = saved[prompt].get(*reads)?;
            let before = original[prompt].get(*reads)?;
            let heads = match target.point.axes() {
                Axes::HeadModel => target.heads.resolve(prompt, gradient.len_of(Dim(1))),
                _ => vec![0],
            };
            let n = before.len_of(Dim(0));
            for position in target.positions.resolve(prompt, n) {
                let rows = gradient.index_axis(Dim(0), position);
                for &head in &heads {
                    let slope = match rows.ndim() {
                        2 => rows.index_axis(Dim(0), head),
                        _ => rows.view(),
                    };
                    let after = after.index_axis(Dim(0), position);
                    let before = before.index_axis(Dim(0), position);
                    let terms = slope.iter().zip(after.iter().zip(before));
                    sum += terms
                        .map(|(g, (a, b))| f64::from(*g) * (f64::from(*a) - f64::from(*b)))
                        .sum::<f64>();
                }
            }
        }
        Ok(sum)
    }
}
