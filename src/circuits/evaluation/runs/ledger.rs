//! Circuits' runs and a journal.

use super::{Found, Planned, Runs};
use crate::circuits::evaluation::ablation::Ends;
use crate::content::{Content, Key};
use crate::error::Result;
use crate::journal::{Journal, Noted};

/// What a journal knows of circuits' runs.
pub(super) struct Ledger<'l> {
    runs: &'l Runs<'l, 'l>,
    journal: &'l Journal,
    /// By pair, the key of what all its runs share.
    contexts: Vec<Key>,
    /// The keys of the runs that were not known last time.
    open: Vec<Key>,
}

impl<'l> Ledger<'l> {
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) for a metric or an edit that is a closure.
    pub fn new(runs: &'l Runs<'l, 'l>, journal: &'l Journal) -> Result<Self> {
        let mut content = Content::default();
        let context = |pair: usize| {
            content.text("circuit");
            runs.ends.content(&mut content, pair)?;
            let n = runs.full[pair].tokens().len();
            runs.metric.content(&mut content, pair, n)?;
            content.number(usize::from(runs.manner.consistent));
            Ok(content.take_key())
        };
        Ok(Ledger {
            contexts: (0..runs.needs.len()).map(context).collect::<Result<_>>()?,
            runs,
            journal,
            open: Vec::new(),
        })
    }

    /// Takes what is known, and returns the lanes that have to run.
    ///
    /// # Errors
    /// Those of [`Journal::known`].
    pub fn take_known(&mut self, lanes: Vec<Planned>, found: &mut Found) -> Result<Vec<Planned>> {
        let mut content = Content::default();
        let keys: Vec<Key> = lanes
            .iter()
            .map(|lane| self.key(&mut content, lane))
            .collect();
        self.open.clear();
        let mut open = Vec::new();
        for ((lane, key), known) in lanes
            .into_iter()
            .zip(&keys)
            .zip(self.journal.known(&keys, |_| true)?)
        {
            let Some(noted) = known else {
                self.open.push(*key);
                open.push(lane);
                continue;
            };
            found.values[[lane.circuit, lane.pair]] = noted.value;
            found.multiply_adds += lane.cost.macs;
        }
        Ok(open)
    }

    /// Writes what the lanes that had to run have found.
    ///
    /// # Errors
    /// Those of writing it.
    pub fn write(&mut self, lanes: &[Planned], found: &Found) -> Result<()> {
        let noted = lanes.iter().zip(&self.open).map(|(lane, key)| {
            let value = found.values[[lane.circuit, lane.pair]];
            (*key, Noted::of(value))
        });
        self.journal.add(noted.collect())
    }

    fn key(&self, content: &mut Content<'_>, lane: &Planned) -> Key {
        let route = &self.runs.routes[lane.circuit];
        content.key(self.contexts[lane.pair]);
        content.text(&format!("{:?}", route.form));
        for sources in &route.into {
            content.numbers(sources.iter().copied());
        }
        let known = route.known.iter().enumerate().filter(|(_, known)| **known);
        content.numbers(known.map(|(source, _)| source));
        content.take_key()
    }
}

impl Ends<'_> {
    /// Adds what the runs between which circuits lie depend on.
    fn content<'a>(&'a self, to: &mut Content<'a>, pair: usize) -> Result<()> {
        self.full.content(to, pair)?;
        self.empty.content(to, pair)?;
        if let Some(carried) = &self.carried {
            for written in carried[pair].iter() {
                to.array(written.view().into_dyn());
            }
        }
        Ok(())
    }
}
