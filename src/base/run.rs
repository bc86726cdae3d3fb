//! A base at work: what it has to keep, the run that keeps it, what a metric reads of it, and the
//! runs that depart from it.

use std::borrow::Cow;
use std::ops::ControlFlow;
use std::sync::Arc;

use ndarray::Array2;

use super::{Base, Origin};
use crate::cache::{ActivationCache, Selection};
use crate::error::{Error, Result};
use crate::hook::{HookPoint, Site};
use crate::intervention::Intervention;
use crate::metric::Needs;
use crate::model::stage::{Frozen, computes_again};
use crate::prompt::Prompts;
use crate::schedule::{Cell, End, Job, Schedule, reads, token_reads};

/// Runs that depart from a base.
pub(crate) struct Departure<'d> {
    pub cells: Cow<'d, [Cell]>,
    pub frozen: Frozen,
    pub end: End,
    pub memory_limit: u64,
}

/// What was asked of a base, and the multiply-adds that it took.
pub(crate) struct Made<T> {
    pub value: T,
    pub multiply_adds: u64,
}

impl<'m> Base<'m> {
    /// Announces runs with interventions at these places, so that the next run of the base keeps
    /// what they will read, these activations among it.
    pub(crate) fn expect(&self, places: impl IntoIterator<Item = HookPoint>, frozen: Frozen) {
        self.expect_points(&reads(self.model().config(), places, frozen));
    }

    pub(super) fn expect_points(&self, points: &Selection) {
        if let Origin::Over(other, _) = &self.0.origin {
            other.expect_points(points);
        }
        self.kept().expected.extend(points.iter());
    }

    /// The logits of these runs that are needed, `[position, token]` per prompt.
    pub(crate) fn readout(&self, needs: &[Needs]) -> Result<Made<Vec<Array2<f32>>>> {
        let last = Site::ResidPost.at(self.model().config().n_layers - 1);
        let held = self.hold(&Selection::points([last]))?;
        let job = Job {
            base: held.value,
            end: End::Logits(needs.to_vec()),
            ..Job::full(self.model(), self.prompts(), Selection::default())
        };
        let mut logits = vec![Array2::default((0, 0)); needs.len()];
        let counted = Schedule::readout(job)?.run(|chunk| {
            for (lane, planned) in chunk.planned.iter().enumerate() {
                logits[planned.prompt] = chunk.logits(lane);
            }
            ControlFlow::Continue(())
        });
        self.kept().multiply_adds += counted.multiply_adds;
        Ok(Made {
            value: logits,
            multiply_adds: held.multiply_adds + counted.multiply_adds,
        })
    }

    /// Plans runs of these prompts that depart from these runs.
    ///
    /// # Errors
    /// Same as [`Intervention::check`]; [`Error::Invalid`] for a change after which an
    /// intervention of the base's would have to act again; [`Error::MemoryLimit`] if not even one
    /// lane fits;
    /// [`Error::NotCached`] if given caches lack an activation.
    pub(crate) fn depart<'d>(&self, runs: Departure<'d>) -> Result<Made<Schedule<'d>>>
    where
        'm: 'd,
    {
        self.check_all(runs.cells.iter().flatten())?;
        self.depart_as(self.prompts(), runs)
    }

    /// Same as [`Base::depart`], with prompts of their own.
    fn depart_as<'d>(&self, prompts: &Prompts, runs: Departure<'d>) -> Result<Made<Schedule<'d>>>
    where
        'm: 'd,
    {
        let config = self.model().config();
        let places = runs.cells.iter().flatten().map(|i| i.target.point);
        let mut points = reads(config, places, runs.frozen);
        points.extend(self.token_reads(prompts));
        if let End::Cache(keep) = &runs.end {
            points.extend(keep.iter());
        }
        let inherited = self.inherited(&runs.cells)?;
        let held = self.hold(&points)?;
        let schedule = Schedule::new(Job {
            model: self.model(),
            prompts: prompts.clone(),
            base: held.value,
            cells: runs.cells,
            inherited,
            frozen: runs.frozen,
            end: runs.end,
            memory_limit: runs.memory_limit,
        })?;
        Ok(Made {
            value: schedule,
            multiply_adds: held.multiply_adds,
        })
    }

    /// What runs of these prompts read for the sake of other tokens.
    pub(super) fn token_reads(&self, prompts: &Prompts) -> Vec<HookPoint> {
        let mut pairs = prompts.iter().zip(self.prompts().iter().cycle());
        if pairs.any(|(own, base)| own.tokens != base.tokens) {
            token_reads(self.model().config())
        } else {
            Vec::new()
        }
    }

    /// The interventions of the base's that act again in runs that depart from it: those at the
    /// embeddings, which are looked up anew. Later ones must be behind the cells' changes.
    fn inherited(&self, cells: &[Cell]) -> Result<Vec<Intervention>> {
        let embedded = |i: &&Intervention| i.target.point <= HookPoint::PosEmbed;
        let (inherited, later): (Vec<_>, Vec<_>) = self.interventions().iter().partition(embedded);
        let early = |i: &&Intervention| {
            let place = i.target.point;
            let again = |at: HookPoint| place <= at || computes_again(place, at);
            later.iter().any(|own| again(own.target.point))
        };
        match cells.iter().flatten().find(early) {
            None => Ok(inherited.into_iter().cloned().collect()),
            Some(i) => Err(Error::invalid(
                "intervention over a base that runs under others",
                &i.target,
                "a point after the base's own interventions, which would have to act again",
            )),
        }
    }

    /// The caches, with these points at least.
    pub(super) fn hold(&self, points: &Selection) -> Result<Made<Arc<[ActivationCache]>>> {
        let (missing, wanted) = {
            let kept = self.kept();
            let missing = points.iter().find(|point| kept.lacks(*point));
            let wanted = points.iter().chain(kept.expected.iter());
            let wanted = Selection::points(wanted.filter(|point| kept.lacks(*point)));
            (missing, wanted)
        };
        // Not under the lock: a pass may take up other work, which may ask for the same base.
        let multiply_adds = match missing {
            Some(missing) => self.keep(missing, &wanted)?,
            None => 0,
        };
        Ok(Made {
            value: Arc::clone(&self.kept().caches),
            multiply_adds,
        })
    }

    /// Runs the prompts, once more if they have run, and adds what is `wanted` to what is kept;
    /// returns the multiply-adds.
    fn keep(&self, missing: HookPoint, wanted: &Selection) -> Result<u64> {
        let (schedule, before) = match &self.0.origin {
            Origin::Given => {
                let caches = Arc::clone(&self.kept().caches);
                let mut caches = caches.iter();
                return caches
                    .try_for_each(|c| c.get(missing).map(|_| ()))
                    .map(|()| 0);
            }
            Origin::Full => {
                let job = Job::full(self.model(), self.prompts(), wanted.clone());
                (Schedule::new(job)?, 0)
            }
            Origin::Over(other, interventions) => {
                let made = other.depart_as(
                    self.prompts(),
                    Departure {
                        cells: vec![interventions.clone()].into(),
                        frozen: Frozen::default(),
                        end: End::Cache(wanted.clone()),
                        memory_limit: u64::MAX,
                    },
                )?;
                (made.value, made.multiply_adds)
            }
        };
        let mut found = vec![None; self.prompts().len()];
        let own = schedule.record(|_, prompt, cache| found[prompt] = Some(cache));
        // Runs that differ from the others in no bit are not made.
        let others = schedule.job.base;
        let same = |i: usize| match &others[..] {
            [one] => one.narrowed(wanted, 0),
            all => all[i].narrowed(wanted, i),
        };
        let mut kept = self.kept();
        kept.multiply_adds += own;
        let with_before = |(i, found): (usize, Option<ActivationCache>)| {
            let mut cache = found.unwrap_or_else(|| same(i));
            if let Some(before) = kept.caches.get(i) {
                cache.absorb(before);
            }
            cache
        };
        kept.caches = found.into_iter().enumerate().map(with_before).collect();
        Ok(before + own)
    }
}
