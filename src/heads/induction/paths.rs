//! Paths from earlier heads into the keys of induction heads (Wang et al. 2022, appendix B: other
//! heads frozen, MLPs and LayerNorms computed anew).

use ndarray::{Array2, ArrayView2, Axis as Dim};

use super::Study;
use crate::ablation::heads::{EVERYWHERE, ablation_cells};
use crate::cache::{ActivationCache, Selection};
use crate::component::Head;
use crate::error::Result;
use crate::heads::scores::{AttentionPattern, PatternReader};
use crate::hook::Site;
use crate::in_context::repeated_loss::mean;
use crate::intervention::{Edit, Intervention, Interventions, Target, Values};
use crate::model::stage::{Frozen, base_reads};
use crate::model::{KeepLogits, Run};
use crate::sweep::{Cell, Recording, points_read};

/// Other heads stay as they were.
const FROZEN: Frozen = Frozen {
    attention: true,
    mlps: false,
};

/// The base run of a study, and its receivers.
pub(crate) struct KeyPaths<'s, 'm> {
    study: &'s Study<'m>,
    receivers: &'s [Head],
    base: Vec<ActivationCache>,
    keep: Selection,
    edits: Vec<Edit>,
}

/// What a sender's ablation makes of the residual streams that the receivers read, by prompt.
type Received = Vec<ActivationCache>;

impl<'s, 'm> KeyPaths<'s, 'm> {
    pub fn new(study: &'s Study<'m>, receivers: &'s [Head]) -> Result<Self> {
        let (model, prompts) = (study.model, study.sweep.prompts());
        let config = model.config();
        let read = receivers.iter().map(|to| Site::ResidPre.at(to.layer));
        let mut points = points_read(config, read.clone());
        let senders = (0..config.n_layers).map(|layer| Site::Z.at(layer));
        points.extend(senders.clone());
        points.extend(senders.flat_map(|at| base_reads(at, config.n_layers, FROZEN)));
        let run = Run {
            cache: Some(&points),
            logits: KeepLogits::None,
            ..Run::default()
        };
        Ok(KeyPaths {
            base: model.run(prompts, (), &run)?.caches,
            keep: Selection::points(read),
            edits: study.search.ablation.edits(model, prompts, Site::Z)?,
            study,
            receivers,
        })
    }

    /// The share of the gain that goes with the paths from each set of senders into the keys of
    /// each receiver, `[senders, receiver]` (NaN: no path), and into those of all receivers at
    /// once, the last column.
    pub fn shares(&self, senders: &[Vec<Head>], gain: f32) -> Result<Array2<f32>> {
        let shape = (senders.len(), self.receivers.len() + 1);
        let mut shares = Array2::from_elem(shape, f32::NAN);
        for (senders, mut row) in senders.iter().zip(shares.rows_mut()) {
            let is_later = |i: &usize| senders.iter().any(|h| h.layer < self.receivers[*i].layer);
            let later: Vec<usize> = (0..self.receivers.len()).filter(is_later).collect();
            if later.is_empty() {
                continue;
            }
            let received = self.received(senders)?;
            let edits = later
                .iter()
                .map(|i| self.edit(self.receivers[*i], &received));
            let edits: Cell = edits.collect::<Result<_>>()?;
            let mut cells: Vec<Cell> = edits.iter().map(|edit| vec![edit.clone()]).collect();
            cells.push(edits);
            let found = self.study.sweep.run(&cells, &self.study.metric)?;
            let columns = later.into_iter().chain([self.receivers.len()]);
            for (column, values) in columns.zip(found.values.outer_iter()) {
                row[column] = mean(&(&found.base - &values).to_vec()) / gain;
            }
        }
        Ok(shares)
    }

    /// Each receiver's attention to the induction pattern with the paths from senders cut.
    pub fn attention_without(&self, from: &[Head]) -> Result<Vec<f32>> {
        let received = self.received(from)?;
        let receivers = self.receivers.iter();
        receivers
            .map(|to| self.attention_with(*to, self.edit(*to, &received)?))
            .collect()
    }

    /// A head's attention to the induction pattern under an intervention.
    fn attention_with(&self, head: Head, edit: Intervention) -> Result<f32> {
        let prompts = self.study.sweep.prompts();
        let mut scores = Vec::new();
        let reader = PatternReader(
            |[layer, index]: [usize; 2], i: usize, attention: ArrayView2<'_, f32>| {
                if Head::new(layer, index) == head {
                    scores
                        .push(AttentionPattern::Induction.mean_over(attention, &prompts[i].tokens));
                }
            },
        );
        let run = Run {
            stop_at_layer: Some(head.layer + 1),
            logits: KeepLogits::None,
            ..Run::default()
        };
        let hooks = (Interventions::new(vec![edit]), reader);
        self.study.model.run(prompts, hooks, &run)?;
        Ok(mean(&scores))
    }

    /// The senders ablated, every other head as it was.
    fn received(&self, senders: &[Head]) -> Result<Received> {
        let cell = ablation_cells(senders, &self.edits, &EVERYWHERE).concat();
        let recording = Recording {
            model: self.study.model,
            base: &self.base,
            frozen: FROZEN,
            keep: &self.keep,
            memory_limit: self.study.search.memory_limit,
        };
        // Runs that change nothing are not told: they are the base.
        let mut received = self.base.clone();
        recording.run(&[cell], |_, prompt, cache| received[prompt] = cache)?;
        Ok(received)
    }

    /// Sets what a head's keys read, `[pos, 1, d_model]` of every prompt.
    fn edit(&self, to: Head, received: &Received) -> Result<Intervention> {
        let point = Site::ResidPre.at(to.layer);
        let one = |cache: &ActivationCache| Ok(cache.get(point)?.insert_axis(Dim(1)).to_owned());
        let values = received.iter().map(one).collect::<Result<_>>()?;
        let target = Target::new(Site::KInput.at(to.layer)).at_heads(to.head);
        Ok(Intervention::new(target, Edit::Set(Values::arrays(values))))
    }
}
