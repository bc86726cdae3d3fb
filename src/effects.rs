//! What studies return whose cells change runs: by how much each moves a metric.

mod interchanged;

use std::ops::Range;

use ndarray::{Array1, Array2, ArrayD, Axis as Dim};

pub use interchanged::Interchanged;

use crate::error::Result;
use crate::hook::Site;
use crate::report::{About, Absent, Axis, Labelled, Normalization, with_errors};
use crate::statistics::{mean, shaped};

/// The metric of changed runs, and of the runs that they depart from.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    /// `[cell, prompt]`, cells in row-major order of the axes.
    pub values: Array2<f32>,
    /// `[prompt]`
    pub base: Array1<f32>,
    /// The axes of the cells.
    pub axes: Vec<Axis>,
    /// Why cells have no value, `[cell]`.
    pub absent: Vec<Option<Absent>>,
}

/// The same, as results hold it.
#[derive(Clone, Debug)]
pub(crate) struct Effects {
    /// The change of the metric, mean over the prompts, with standard errors where there are
    /// several.
    pub effect: Labelled,
    /// The change for each prompt; the last axis is the prompt.
    pub per_prompt: ArrayD<f32>,
    /// The metric of each changed run; the last axis is the prompt.
    pub values: ArrayD<f32>,
    /// The metric of the changed runs, mean over the prompts, as `effect`.
    pub raw: Labelled,
}

/// What changes that are all 0 are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Zeros {
    /// Those of runs.
    Measured,
    /// Estimates.
    Estimated,
}

impl Zeros {
    /// What a caption says if some changes are there, and all of them are 0.
    pub fn note(
        self,
        changes: impl IntoIterator<Item = (f32, Option<Absent>)>,
    ) -> Option<&'static str> {
        let mut there = changes.into_iter().filter(|(_, absent)| absent.is_none());
        let mut there = there.by_ref().peekable();
        let zero = there.peek().is_some() && there.all(|(change, _)| change == 0.0);
        zero.then_some(match self {
            Zeros::Measured => " Nothing changed: in every run, the metric is the same to the bit.",
            Zeros::Estimated => " Every estimate is 0; effects need not be.",
        })
    }
}

impl Effects {
    /// The same, which says so if all changes are 0; those of `lacking`, `[cell, prompt]`, are none.
    fn noting_zeros(mut self, lacking: Option<&Array2<bool>>, zeros: Zeros) -> Self {
        let absent = self.effect.absent();
        let prompts = self.per_prompt.len() / absent.len().max(1);
        let lacks = |i: usize| {
            let lacking = lacking.is_some_and(|lacking| lacking[[i / prompts, i % prompts]]);
            lacking.then_some(Absent::NoSamples)
        };
        let absent = absent.iter();
        let absent = absent.flat_map(|absent| std::iter::repeat_n(*absent, prompts));
        let changes = self.per_prompt.iter().zip(absent).enumerate();
        let changes = changes.map(|(i, (change, absent))| (*change, absent.or_else(|| lacks(i))));
        let note = zeros.note(changes);
        self.effect.about.caption += note.unwrap_or_default();
        self
    }
}

impl Measured {
    /// Labels the metric and its change; titles name what the runs are changes `against`:
    /// `corrupted run`.
    pub fn label(self, about: About, against: &str) -> Result<Effects> {
        let changes = &self.values - &self.base;
        // A mean over prompts some of which have no value has none.
        let means = [&self.values, &changes].map(row_means);
        let found = self.labelled(means, changes, about, against)?;
        Ok(found.noting_zeros(None, Zeros::Measured))
    }

    /// Same as [`Measured::label`] for estimates of the changes.
    pub fn label_estimates(self, about: About, against: &str) -> Result<Effects> {
        let changes = &self.values - &self.base;
        let means = [&self.values, &changes].map(row_means);
        let found = self.labelled(means, changes, about, against)?;
        Ok(found.noting_zeros(None, Zeros::Estimated))
    }

    /// Same as [`Measured::label`] where some prompts lack what a cell is about, `[cell, prompt]`:
    /// means and errors are those of the others.
    pub fn label_without(
        mut self,
        lacking: &Array2<bool>,
        about: About,
        against: &str,
    ) -> Result<Effects> {
        let mut changes = &self.values - &self.base;
        for values in [&mut self.values, &mut changes] {
            values.zip_mut_with(lacking, |v, lacking| {
                if *lacking {
                    *v = f32::NAN;
                }
            });
        }
        let cells = self.absent.iter_mut().zip(lacking.rows());
        for (absent, _) in cells.filter(|(_, prompts)| prompts.iter().all(|lacking| *lacking)) {
            *absent = absent.or(Some(Absent::NoSamples));
        }
        let means = [&self.values, &changes].map(|of| {
            let rows = of.rows().into_iter().zip(lacking.rows());
            rows.map(|(row, lacking)| {
                let there = row.iter().zip(lacking).filter(|(_, lacking)| !**lacking);
                mean(there.map(|(v, _)| *v).collect::<Vec<_>>().into_iter())
            })
            .collect()
        });
        let found = self.labelled(means, changes, about, against)?;
        Ok(found.noting_zeros(Some(lacking), Zeros::Measured))
    }

    /// Why the prompts of each cell have no value, in the shape of the values by prompt; those of
    /// `lacking`, `[cell, prompt]`, have nothing that the cell is about.
    pub fn absent_by_prompt(&self, lacking: Option<&Array2<bool>>) -> ArrayD<Option<Absent>> {
        let reason = |(cell, prompt): (usize, usize)| {
            if lacking.is_some_and(|lacking| lacking[[cell, prompt]]) {
                return Some(Absent::NoSamples);
            }
            // Of a cell that was not run on every prompt, some prompts may have their value.
            let lacks = self.values[[cell, prompt]].is_nan();
            lacks.then_some(self.absent[cell].unwrap_or(Absent::NotANumber))
        };
        self.by_prompt(Array2::from_shape_fn(self.values.dim(), reason))
    }

    /// The result of means over prompts of the values and of their changes, `[cell]`, and of the
    /// changes themselves, `[cell, prompt]`.
    fn labelled(
        self,
        [means, effects]: [Array1<f32>; 2],
        changes: Array2<f32>,
        about: About,
        against: &str,
    ) -> Result<Effects> {
        let (title, unit) = (&about.title, &about.unit);
        let changed = About {
            title: format!("{title}: change of the {unit} against the {against}"),
            normalization: Normalization::Change,
            ..about.clone()
        };
        let raw = About {
            title: format!("{title}: raw {unit}"),
            ..about
        };
        let effect = self.with_errors(effects, &changes, changed)?;
        Ok(Effects {
            raw: self.with_errors(means, &self.values, raw)?,
            effect,
            per_prompt: self.by_prompt(changes),
            values: self.by_prompt(self.values.clone()),
        })
    }

    /// Means over prompts with the errors that the samples `[cell, prompt]` have.
    fn with_errors(
        &self,
        means: Array1<f32>,
        samples: &Array2<f32>,
        about: About,
    ) -> Result<Labelled> {
        let means = Labelled::new(shaped(&self.shape(), means), self.axes.clone(), about)?;
        let absent = shaped(&self.shape(), self.absent.iter().copied());
        with_errors(
            means.with_absent(absent)?,
            self.by_prompt(samples.clone()).view(),
        )
    }

    fn shape(&self) -> Vec<usize> {
        self.axes.iter().map(|axis| axis.labels.len()).collect()
    }

    /// `[cell, prompt]` with the cells' own axes.
    pub fn by_prompt<T>(&self, values: Array2<T>) -> ArrayD<T> {
        let shape = [&self.shape()[..], &[values.ncols()]].concat();
        shaped(&shape, values)
    }
}

/// The mean of each row, summed in f64.
fn row_means(of: &Array2<f32>) -> Array1<f32> {
    of.map_axis(Dim(1), |row| mean(row.iter().copied()))
}

/// The axis of the layers of a site; for the residual stream its name says on which side of the
/// layer the site lies.
pub(crate) fn layer_axis(site: Site, n_layers: usize) -> Axis {
    let layers = Axis::layers(n_layers);
    match site {
        Site::ResidPre => layers.named("before layer"),
        Site::ResidMid => layers.named("within layer"),
        Site::ResidPost => layers.named("after layer"),
        _ => layers,
    }
}

/// The layers of a window of `width` around one, as in ROME's code: `layer - width / 2` to
/// `layer + ceil(width / 2) - 1`, cut off at the ends of the model.
pub(crate) fn layer_window(layer: usize, width: usize, n_layers: usize) -> Range<usize> {
    let half = width / 2;
    let end = layer.saturating_add(width - half);
    layer.saturating_sub(half)..n_layers.min(end)
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    fn measured(values: Array2<f32>) -> Measured {
        Measured {
            absent: vec![None; values.nrows()],
            axes: vec![Axis::heads(values.nrows())],
            values,
            base: array![1.0, 2.0],
        }
    }

    fn about() -> About {
        About {
            title: "Test".to_string(),
            unit: "metric".to_string(),
            ..About::default()
        }
    }

    #[test]
    fn the_effect_is_the_change_of_each_prompt() {
        let found = measured(array![[1.0, 2.0], [2.0, 5.0]]);
        let found = found.label(about(), "base run").unwrap();
        assert_eq!(found.per_prompt, array![[0.0, 0.0], [1.0, 3.0]].into_dyn());
        assert_eq!(found.effect.values(), array![0.0, 2.0].into_dyn());
        assert_eq!(
            found.effect.std_error().unwrap(),
            array![0.0, 1.0].into_dyn()
        );
        assert_eq!(found.raw.values(), array![1.5, 3.5].into_dyn());
        assert_eq!(
            found.effect.about.title,
            "Test: change of the metric against the base run"
        );
        assert_eq!(found.raw.about.title, "Test: raw metric");
        assert!(found.effect.about.caption.is_empty());
    }

    #[test]
    fn a_value_that_is_not_a_number_is_not_left_out_of_a_mean() {
        let found = measured(array![[f32::NAN, 2.0], [2.0, 5.0]]);
        let found = found.label(about(), "base run").unwrap();
        for table in [&found.effect, &found.raw] {
            let reasons: Vec<_> = table.absent().iter().copied().collect();
            assert_eq!(reasons, [Some(Absent::NotANumber), None]);
            assert!(table.std_error().unwrap()[0].is_nan());
        }
    }

    #[test]
    fn b23_all_zero_says_that_nothing_changed() {
        let found = measured(array![[1.0, 2.0], [1.0, 2.0]]);
        let found = found.label(about(), "base run").unwrap();
        let caption = &found.effect.about.caption;
        assert!(caption.contains("Nothing changed"), "{caption}");
    }
}
