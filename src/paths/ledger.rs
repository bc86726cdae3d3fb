//! Cells of path patching and a journal: which runs are known, which are somebody else's.

use ndarray::Array2;

use super::PathPatching;
use super::ends::Ends;
use crate::content::{Content, Key};
use crate::error::{Error, Result};
use crate::intervention::Select;
use crate::journal::{Journal, Noted};
use crate::metric::Metric;
use crate::sweep::Cell;

/// What becomes of a cell on a prompt.
#[derive(Clone, Debug)]
pub(super) enum Fate {
    Run(Key),
    Known(Noted),
    /// Somebody else runs it.
    Left,
}

/// What the runs of a study depend on besides its cells.
pub(super) struct Ledger<'l> {
    pub journal: &'l Journal,
    pub study: &'l PathPatching<'l>,
    pub ends: &'l Ends,
    pub metric: &'l Metric,
    /// Which cells have a path, `[cell]`.
    pub connected: &'l [bool],
}

impl Ledger<'_> {
    /// What becomes of some cells, whose runs C are these, `[cell, prompt]`.
    ///
    /// # Errors
    /// Those of [`Journal::known`]; [`Error::Invalid`] for a closure, and for a journal of a part
    /// with another number of prompts.
    pub fn fates(&self, group: &[usize], sent: &[Cell]) -> Result<Array2<Fate>> {
        let prompts = self.study.original.prompts().len();
        let mine = self.mine()?;
        let mut keys = Vec::new();
        let mut content = Content::default();
        let contexts = self.contexts(&mut content)?;
        for sent in sent {
            for (prompt, context) in contexts.iter().enumerate() {
                content.key(*context);
                let n = self.study.original.prompts()[prompt].len();
                for intervention in sent {
                    intervention.content(&mut content, [prompt, prompts], n)?;
                }
                keys.push(content.take_key());
            }
        }
        let is_mine = |i: usize| mine[[group[i / prompts], i % prompts]];
        let mut known = self.journal.known(&keys, is_mine)?.into_iter();
        let fates = Array2::from_shape_fn((group.len(), prompts), |(i, prompt)| {
            let place = i * prompts + prompt;
            match known.next().expect("one per run") {
                Some(noted) => Fate::Known(noted),
                None if !is_mine(place) || self.journal.lacks_shards() => Fate::Left,
                None => Fate::Run(keys[place]),
            }
        });
        let left = fates.iter().filter(|fate| matches!(fate, Fate::Left));
        self.journal.leave(left.count());
        Ok(fates)
    }

    /// By prompt, the key of what all cells share.
    fn contexts<'a>(&'a self, content: &mut Content<'a>) -> Result<Vec<Key>> {
        let PathPatching {
            original,
            freeze_mlps,
            linearised,
            ..
        } = self.study;
        let prompts = original.prompts();
        let context = |prompt: usize| {
            let n = prompts[prompt].len();
            content.text("paths");
            original.content(content, prompt)?;
            self.metric.content(content, prompt, n)?;
            content.number(usize::from(*freeze_mlps));
            content.number(usize::from(*linearised));
            content.number(self.ends.targets.len());
            for (target, reads) in self.ends.targets.iter().zip(&self.ends.reads) {
                target.content(content, prompt, n);
                content.text(&reads.to_string());
            }
            Ok(content.take_key())
        };
        (0..prompts.len()).map(context).collect()
    }

    /// Which runs belong to the part of the work that is done here, `[cell, prompt]`: within a
    /// prompt, cells count alike.
    fn mine(&self) -> Result<Array2<bool>> {
        let (cells, prompts) = (self.connected.len(), self.study.original.prompts().len());
        let Some(part) = self.journal.divided() else {
            return Ok(Array2::from_elem((cells, prompts), true));
        };
        let slots = part.slots();
        if slots.len() != prompts {
            let what = format!("prompts of a study in shard {}", part.shard());
            return Err(Error::invalid(what, prompts, format!("{}", slots.len())));
        }
        let all = self
            .connected
            .iter()
            .filter(|connected| **connected)
            .count() as u64;
        let mut before = 0;
        let places = self.connected.iter().map(|connected| {
            let place = before;
            before += u64::from(*connected);
            place
        });
        let places: Vec<u64> = places.collect();
        let takes = |(cell, prompt): (usize, usize)| slots[prompt].takes(places[cell], all);
        Ok(Array2::from_shape_fn((cells, prompts), takes))
    }
}

/// The cells whose runs have to be made, on those prompts alone; their places in the group.
pub(super) fn to_run(sent: Vec<Cell>, fates: &Array2<Fate>) -> (Vec<usize>, Vec<Cell>) {
    let mut places = Vec::new();
    let mut cells = Vec::new();
    for (i, (mut cell, fates)) in sent.into_iter().zip(fates.rows()).enumerate() {
        let run = fates.iter().enumerate();
        let run = run.filter(|(_, fate)| matches!(fate, Fate::Run(_)));
        let run: Vec<usize> = run.map(|(prompt, _)| prompt).collect();
        if run.is_empty() {
            continue;
        }
        if run.len() < fates.len() {
            for intervention in &mut cell {
                intervention.target.sequences = Select::from(run.clone());
            }
        }
        places.push(i);
        cells.push(cell);
    }
    (places, cells)
}
