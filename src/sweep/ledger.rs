//! A sweep's lanes and a journal: which are known, which are somebody else's, which have to run.

use crate::base::Base;
use crate::content::{Content, Key};
use crate::error::{Error, Result};
use crate::journal::{Journal, Noted};
use crate::limits::Limits;
use crate::metric::Metric;
use crate::model::BlockedRows;
use crate::schedule::{Cell, Planned, Schedule};

/// The lanes of a sweep that a journal has to do with.
#[derive(Debug)]
pub(super) struct Ledger {
    journal: Journal,
    /// The keys of the lanes that run, in their order.
    pub keys: Vec<Key>,
    pub known: Vec<(Planned, Noted)>,
    /// Lanes that are left to others.
    pub left: Vec<Planned>,
}

/// What keys are made for.
pub(super) struct Asked<'a> {
    pub base: &'a Base<'a>,
    pub cells: &'a [Cell],
    pub metric: &'a Metric,
}

impl Ledger {
    /// Takes the lanes that need not run out of a schedule.
    ///
    /// # Errors
    /// [`Error::Format`] for a journal of another study, [`Error::Invalid`] for a closure and for
    /// a journal of a part with another number of prompts.
    pub fn new(
        limits: &Limits<'_>,
        asked: &Asked<'_>,
        schedule: &mut Schedule<'_>,
    ) -> Result<Option<Self>> {
        let Some(journal) = &limits.journal else {
            return Ok(None);
        };
        let mine = divide(limits, journal, asked, &schedule.lanes)?;
        let keys = asked.keys(&schedule.lanes)?;
        let known_of = journal.known(&keys, |lane| mine[lane])?;
        let (mut lanes, mut own) = (Vec::new(), Vec::new());
        let (mut known, mut left) = (Vec::new(), Vec::new());
        let all = std::mem::take(&mut schedule.lanes).into_iter();
        for (((lane, key), noted), mine) in all.zip(keys).zip(known_of).zip(mine) {
            match noted {
                Some(noted) => known.push((lane, noted)),
                None if !mine || journal.lacks_shards() => left.push(lane),
                None => {
                    lanes.push(lane);
                    own.push(key);
                }
            }
        }
        journal.leave(left.len());
        schedule.keep(lanes);
        Ok(Some(Ledger {
            journal: journal.clone(),
            keys: own,
            known,
            left,
        }))
    }

    /// Writes what a chunk of lanes found: of those from `first` on.
    pub fn write(
        &self,
        first: usize,
        values: &[f32],
        blocked: impl Fn(usize) -> Option<BlockedRows>,
    ) -> Result<()> {
        let noted = values.iter().enumerate().map(|(i, value)| {
            let noted = Noted {
                blocked: blocked(i).map(Box::new),
                ..Noted::of(*value)
            };
            (self.keys[first + i], noted)
        });
        self.journal.add(noted.collect())
    }
}

impl Asked<'_> {
    /// The keys of some lanes.
    fn keys(&self, lanes: &[Planned]) -> Result<Vec<Key>> {
        let prompts = self.base.prompts();
        let mut content = Content::default();
        let contexts: Vec<Key> = (0..prompts.len())
            .map(|prompt| {
                content.text("sweep");
                self.base.content(&mut content, prompt)?;
                self.metric
                    .content(&mut content, prompt, prompts[prompt].len())?;
                Ok(content.take_key())
            })
            .collect::<Result<_>>()?;
        let key = |lane: &Planned| {
            content.key(contexts[lane.prompt]);
            let (of, n) = ([lane.prompt, prompts.len()], prompts[lane.prompt].len());
            for intervention in &self.cells[lane.cell] {
                intervention.content(&mut content, of, n)?;
            }
            Ok(content.take_key())
        };
        lanes.iter().map(key).collect()
    }
}

/// Which lanes belong to the part of the work that is done here. Within a prompt they count in the
/// order of the cells, by their planned multiply-adds.
fn divide(
    limits: &Limits<'_>,
    journal: &Journal,
    asked: &Asked<'_>,
    lanes: &[Planned],
) -> Result<Vec<bool>> {
    let mut takes = vec![true; lanes.len()];
    let Some(part) = journal.divided() else {
        return Ok(takes);
    };
    let (slots, prompts) = (part.slots(), asked.base.prompts().len());
    if limits.slot.is_none() && slots.len() != prompts {
        let what = format!("prompts of a study in shard {}", part.shard());
        return Err(Error::invalid(what, prompts, format!("{}", slots.len())));
    }
    let slot = |prompt: usize| limits.slot.unwrap_or(prompt);
    let mut order: Vec<usize> = (0..lanes.len()).collect();
    order.sort_by_key(|i| (lanes[*i].cell, lanes[*i].prompt));
    let mut total = vec![0_u64; slots.len()];
    for lane in lanes {
        total[slot(lane.prompt)] += lane.cost.macs;
    }
    let mut before = vec![0_u64; slots.len()];
    for i in order {
        let slot = slot(lanes[i].prompt);
        takes[i] = slots[slot].takes(before[slot], total[slot]);
        before[slot] += lanes[i].cost.macs;
    }
    Ok(takes)
}
