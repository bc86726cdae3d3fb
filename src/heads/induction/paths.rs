//! Paths from earlier heads into the keys of induction heads (Wang et al. 2022, appendix B: other
//! heads frozen, MLPs and LayerNorms computed anew).

use ndarray::{Array2, ArrayView2};

use super::Study;
use crate::component::{Head, Qkv};
use crate::error::Result;
use crate::heads::patterns::AttentionPattern;
use crate::heads::scores::PatternReader;
use crate::hook::Site;
use crate::in_context::repeated_loss::mean;
use crate::intervention::{Intervention, Interventions};
use crate::model::{KeepLogits, Run};
use crate::paths::{PathPatching, PathReceiver, PathSender};
use crate::sweep::Cell;

/// The paths into the keys of a study's receivers, whose senders are ablated.
pub(crate) struct KeyPaths<'s, 'm> {
    study: &'s Study<'m>,
    receivers: &'s [Head],
    paths: PathPatching<'m>,
}

impl<'s, 'm> KeyPaths<'s, 'm> {
    pub fn new(study: &'s Study<'m>, receivers: &'s [Head]) -> Result<Self> {
        let (search, base) = (study.search, study.sweep.base());
        let prompts = base.prompts().as_slice();
        let edits = search.ablation.edits(study.model, prompts, Site::Z)?;
        let edits = edits.into_iter().enumerate();
        let edits = edits.map(|(layer, edit)| (Site::Z.at(layer), edit));
        Ok(KeyPaths {
            paths: PathPatching::ablating(base, edits).memory_limit(search.memory_limit),
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
            let later_heads: Vec<Head> = later.iter().map(|i| self.receivers[*i]).collect();
            let edits = self.keys_without(senders, &later_heads)?;
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
        let edits = self.keys_without(from, self.receivers)?;
        let receivers = self.receivers.iter().zip(edits);
        receivers
            .map(|(to, edit)| self.attention_with(*to, edit))
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

    /// What sets each receiver's keys to what they are with the senders ablated and every other
    /// head as it was.
    fn keys_without(&self, senders: &[Head], receivers: &[Head]) -> Result<Cell> {
        let senders: Vec<PathSender> = senders.iter().map(|head| (*head).into()).collect();
        let key = |head: &Head| PathReceiver::head(*head, Qkv::K);
        let receivers: Vec<PathReceiver> = receivers.iter().map(key).collect();
        self.paths.received(&senders, &receivers)
    }
}
