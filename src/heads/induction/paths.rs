//! Paths from earlier heads into the keys of induction heads (Wang et al. 2022, appendix B: other
//! heads frozen, MLPs and LayerNorms computed anew).

use std::ops::ControlFlow;

use ndarray::{Array2, Axis as Dim, Ix2};

use super::Study;
use crate::base::Base;
use crate::component::{Head, Qkv};
use crate::error::Result;
use crate::heads::patterns::AttentionPattern;
use crate::hook::Site;
use crate::intervention::Intervention;
use crate::model::stage::Frozen;
use crate::paths::{PathPatching, PathReceiver, PathSender};
use crate::statistics::{Estimate, mean};
use crate::sweep::{Cell, Sweep};

/// The paths of a study, and its receivers.
pub(crate) struct KeyPaths<'s, 'm> {
    study: &'s Study<'s, 'm>,
    receivers: &'s [Head],
    paths: PathPatching<'m>,
}

impl<'s, 'm> KeyPaths<'s, 'm> {
    pub fn new(study: &'s Study<'s, 'm>, receivers: &'s [Head]) -> Result<Self> {
        let base = study.base();
        let layers = 0..base.model().config().n_layers;
        let edits = study
            .ablation
            .edits(layers.map(|layer| Site::Z.at(layer)))?;
        let read = |to: &Head| [Site::KInput, Site::Pattern].map(|site| site.at(to.layer));
        base.expect(receivers.iter().flat_map(read), Frozen::default());
        let limit = study.search.limits.memory;
        Ok(KeyPaths {
            paths: PathPatching::ablating(base, edits)?.memory_limit(limit),
            study,
            receivers,
        })
    }

    /// The share of the gain that goes with the paths from each set of senders into the keys of
    /// each receiver, `[senders, receiver]` (NaN: no path), and into those of all receivers at
    /// once, the last column. `each` hears how many sets are done, and may end it there.
    pub fn shares(
        &self,
        senders: &[Vec<Head>],
        gain: f32,
        each: impl Fn(usize) -> ControlFlow<()>,
    ) -> Result<Array2<f32>> {
        let shape = (senders.len(), self.receivers.len() + 1);
        let mut shares = Array2::from_elem(shape, f32::NAN);
        let sweep = Sweep::limited(self.study.base(), self.study.search.limits.quiet());
        for (done, (senders, mut row)) in senders.iter().zip(shares.rows_mut()).enumerate() {
            if each(done).is_break() {
                break;
            }
            let is_later = |i: &usize| senders.iter().any(|h| h.layer < self.receivers[*i].layer);
            let later: Vec<usize> = (0..self.receivers.len()).filter(is_later).collect();
            if later.is_empty() {
                continue;
            }
            let all = self.received(senders, later.iter().map(|i| self.receivers[*i]))?;
            let mut cells: Vec<Cell> = all.iter().map(|one| vec![one.clone()]).collect();
            cells.push(all);
            let found = sweep.run(&cells, &self.study.metric)?;
            let columns = later.into_iter().chain([self.receivers.len()]);
            for (column, values) in columns.zip(found.values.outer_iter()) {
                row[column] = mean((&found.base - &values).into_iter()) / gain;
            }
        }
        Ok(shares)
    }

    /// Each receiver's attention to the induction pattern with the paths from senders cut.
    pub fn attention_without(&self, from: &[Head]) -> Result<Vec<f32>> {
        let received = self.received(from, self.receivers.iter().copied())?;
        let receivers = self.receivers.iter().zip(received);
        receivers
            .map(|(to, received)| self.attention_with(*to, received))
            .collect()
    }

    /// A head's attention to the induction pattern under an intervention in its layer.
    fn attention_with(&self, head: Head, received: Intervention) -> Result<f32> {
        let base = self.study.base();
        let point = Site::Pattern.at(head.layer);
        let caches = Base::over(base, base.prompts(), vec![received])?.held([point])?;
        let mut scores = Vec::with_capacity(caches.len());
        for cache in caches.iter() {
            let attention = cache.get(point)?.index_axis_move(Dim(0), head.head);
            let attention = attention.into_dimensionality::<Ix2>().expect("[dest, src]");
            scores.push(AttentionPattern::Induction.mean_over(attention, cache.tokens()));
        }
        // A sequence where nothing recurs has no score.
        Ok(Estimate::of(scores).mean)
    }

    /// What the keys of some heads read when the senders are ablated and every other head is as it
    /// was, one intervention per head.
    fn received(&self, from: &[Head], to: impl Iterator<Item = Head>) -> Result<Cell> {
        let senders: Vec<PathSender> = from.iter().map(|head| (*head).into()).collect();
        let receivers = to.map(|to| PathReceiver::head(to, Qkv::K));
        self.paths
            .received(&senders, &receivers.collect::<Vec<_>>())
    }
}
