//! Heads knocked out one at a time.

use std::collections::{BTreeMap, BTreeSet};

use ndarray::{Array1, Array2, Array3, ArrayD, ArrayView2, ArrayViewD, Axis as Dim};

use super::knock_out::Found;
use super::replacement::mean_row;
use super::{Ablation, CircuitNode, KnockOut, Replacement};
use crate::cache::ActivationCache;
use crate::component::Head;
use crate::error::Result;
use crate::hook::Site;
use crate::intervention::{Edit, Intervention, Values};
use crate::metric::Metric;
use crate::model::stage::Frozen;
use crate::report::Axis;
use crate::sweep::{Cell, Plan, Sweep};

impl Ablation<'_> {
    pub(super) fn each_head(&self, class: Option<&str>, metric: &Metric) -> Result<KnockOut> {
        let node = |head: Head| CircuitNode {
            class: class.map(String::from),
            ..head.into()
        };
        let heads = Head::all(self.base.model().config());
        let sets: Vec<Vec<CircuitNode>> = heads.map(|head| vec![node(head)]).collect();
        let result = self.run_sets(&sets, metric)?;
        let what = format!(
            "One head at {} replaced by {}",
            class.unwrap_or("all positions"),
            self.replacement
        );
        let about = self.about("Heads knocked out one at a time", &what, metric);
        Found::from(result).label(self.by_head(), about, metric)
    }

    /// [`Each::HeadDirectly`](super::Each::HeadDirectly).
    pub(super) fn each_head_directly(&self, metric: &Metric) -> Result<KnockOut> {
        let config = self.base.model().config();
        self.base
            .check_heads_write_z("ablation of heads' direct effects")?;
        let last = Site::ResidPost.at(config.n_layers - 1);
        let points = (0..config.n_layers).map(|layer| Site::Z.at(layer));
        self.base.expect([last], Frozen::default());
        let caches = self.base.held_within(points.clone(), self.limits.room(0))?;
        let metric = &self.base.refer_within(metric, self.limits.room(0))?;
        let edits = match self.replacement {
            // Means are taken of outputs, below.
            Replacement::OverallMean => BTreeMap::new(),
            _ => self.edits(points)?,
        };
        let heads = config.n_layers * config.n_heads;
        let mut found = Found {
            values: Array2::from_elem((heads, caches.len()), f32::NAN),
            finished: Vec::with_capacity(heads),
            clean: Array1::default(0),
            plan: Plan::default(),
            multiply_adds: 0,
            partial: false,
            notes: BTreeSet::new(),
        };
        for layer in 0..config.n_layers {
            let taken = self.taken_out(layer, &caches, edits.get(&Site::Z.at(layer)))?;
            let cell = |arrays| vec![Intervention::new(last, Edit::Add(Values::arrays(arrays)))];
            let cells: Vec<Cell> = taken.into_iter().map(cell).collect();
            let sweep = Sweep::limited(&self.base, self.limits.quiet());
            found.add(sweep.run(&cells, metric)?);
            let done = found.finished.len();
            let answer = self.limits.report(done, heads, "heads");
            if answer.is_break() && done < heads {
                found.partial = true;
                break;
            }
        }
        found.finished.resize(heads, false);
        let what = format!(
            "One head's output in the last resid_post replaced by {}",
            self.replacement
        );
        let about = self.about("Direct effects of heads", &what, metric);
        found.label(self.by_head(), about, metric)
    }

    fn by_head(&self) -> Vec<Axis> {
        let config = self.base.model().config();
        vec![Axis::layers(config.n_layers), Axis::heads(config.n_heads)]
    }

    /// For each head of a layer and each prompt, what takes its output out of the residual stream
    /// where it is added, `[pos, d_model]`: minus its output, plus its replacement.
    fn taken_out(
        &self,
        layer: usize,
        caches: &[ActivationCache],
        edit: Option<&Edit>,
    ) -> Result<Vec<Vec<ArrayD<f32>>>> {
        let model = self.base.model();
        let results = |z: ArrayView2<'_, f32>| model.head_results(layer, z);
        let z = caches.iter().map(|cache| cache.flat(Site::Z.at(layer)));
        let own: Vec<Array3<f32>> = z.map(|z| Ok(results(z?))).collect::<Result<_>>()?;
        let mean = matches!(self.replacement, Replacement::OverallMean).then(|| mean_results(&own));
        let instead = |prompt: usize| match (&mean, edit.and_then(Edit::values)) {
            (Some(mean), _) => Some(mean.clone().into_dyn()),
            (None, Some(values)) => Some(results(joined(values.of(prompt)).view()).into_dyn()),
            (None, None) => None,
        };
        let mut taken = vec![Vec::with_capacity(caches.len()); model.config().n_heads];
        for (prompt, own) in own.iter().enumerate() {
            let instead = instead(prompt);
            for (head, taken) in taken.iter_mut().enumerate() {
                let output = own.index_axis(Dim(1), head).mapv(|v| -v).into_dyn();
                taken.push(match &instead {
                    Some(instead) => output + instead.index_axis(Dim(instead.ndim() - 2), head),
                    None => output,
                });
            }
        }
        Ok(taken)
    }
}

/// The mean over all positions of all prompts of `[pos, head, d_model]`, `[head, d_model]`.
fn mean_results(results: &[Array3<f32>]) -> Array2<f32> {
    let (_, heads, width) = results[0].dim();
    let rows = results.iter().map(|of| joined(of.view().into_dyn()));
    let rows: Vec<_> = rows.collect();
    let mean = mean_row(rows.iter().map(|rows| rows.view()));
    mean.into_shape_with_order((heads, width))
        .expect("heads side by side")
}

/// Heads side by side, `[pos, head * width]`.
fn joined(heads: ArrayViewD<'_, f32>) -> Array2<f32> {
    let shape = heads.shape();
    let (rows, columns): (usize, usize) = (shape[0], shape[1..].iter().product());
    let joined = heads.to_owned().into_shape_with_order((rows, columns));
    joined.expect("as many elements")
}
