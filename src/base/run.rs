//! A base at work: what it has to keep, the run that keeps it, what a metric reads of it, and the
//! runs that depart from it.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use ndarray::{Array2, ArrayView2};

use super::{Base, Origin};
use crate::cache::{ActivationCache, Selection};
use crate::error::{Error, Result};
use crate::hook::{HookPoint, Site};
use crate::intervention::{Intervention, Target};
use crate::metric::Needs;
use crate::model::cost::Hidden;
use crate::model::stage::{Frozen, Kind, computes_again};
use crate::prompt::{Prompt, Prompts};
use crate::schedule::{Cell, End, Job, Schedule, entry_bytes, most_kept_bytes, reads, token_reads};

/// Runs that depart from a base.
pub(crate) struct Departure<'d> {
    pub cells: Cow<'d, [Cell]>,
    pub frozen: Frozen,
    pub end: End,
    /// Bytes that are held besides the base.
    pub held: u64,
    pub memory_limit: u64,
}

/// What was asked of a base, and what it took.
pub(crate) struct Made<T> {
    pub value: T,
    pub multiply_adds: u64,
    /// The most memory taken at any one time, what the base keeps among it, in bytes.
    pub peak: u64,
}

/// The memory that a base may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    /// Bytes held besides, which the base's own are not among.
    pub held: u64,
    /// The bound, in bytes.
    pub limit: u64,
}

impl Room {
    /// As much as it takes.
    pub const FREE: Room = Room {
        held: 0,
        limit: u64::MAX,
    };
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

    /// Hands `each` the logits of these runs that are needed, `[position, token]`, by prompt.
    /// Returns the multiply-adds.
    pub(crate) fn read(
        &self,
        needs: &[Needs],
        room: Room,
        mut each: impl FnMut(usize, ArrayView2<'_, f32>),
    ) -> Result<u64> {
        let last = Site::ResidPost.at(self.model().config().n_layers - 1);
        let held = self.hold_in(&Selection::points([last]), room)?;
        let job = Job {
            base: held.value,
            end: End::Logits(needs.to_vec()),
            held: room.held + self.held_bytes(),
            memory_limit: room.limit,
            ..Job::full(self.model().config(), self.prompts(), Selection::default())
        };
        let counted = Schedule::readout(job)?.run(self.model(), |chunk| {
            for (lane, planned) in chunk.planned.iter().enumerate() {
                each(planned.prompt, chunk.logits(lane));
            }
            ControlFlow::Continue(())
        });
        self.kept().multiply_adds += counted.multiply_adds;
        Ok(held.multiply_adds + counted.multiply_adds)
    }

    /// The logits of these runs that are needed, `[position, token]` per prompt.
    pub(crate) fn readout(&self, needs: &[Needs]) -> Result<Vec<Array2<f32>>> {
        self.readout_within(needs, Room::FREE)
    }

    /// The same within some room.
    pub(super) fn readout_within(&self, needs: &[Needs], room: Room) -> Result<Vec<Array2<f32>>> {
        let mut logits = vec![Array2::default((0, 0)); needs.len()];
        self.read(needs, room, |prompt, read| {
            logits[prompt] = read.to_owned();
        })?;
        Ok(logits)
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
        let tokens_only = |p: &Prompt| ActivationCache::new(&p.tokens, Vec::new(), None);
        let mut job = Job {
            config,
            prompts: prompts.clone(),
            base: self.prompts().iter().map(tokens_only).collect(),
            hidden: Hidden::of(runs.cells.iter().flatten().map(|i| i.target.point)),
            cells: runs.cells,
            inherited,
            frozen: runs.frozen,
            end: runs.end,
            held: runs.held + self.bytes_with(&points),
            memory_limit: runs.memory_limit,
        };
        // An error before there is a base to plan with names what will do for everything.
        let room = Room {
            held: runs.held,
            limit: runs.memory_limit,
        };
        let held = self.hold_in(&points, room).map_err(|error| match error {
            Error::MemoryLimit { limit, least } => Error::MemoryLimit {
                limit,
                least: least.max(job.enough_bytes()),
            },
            other => other,
        })?;
        job.base = held.value;
        job.held = runs.held + self.held_bytes();
        let schedule = Schedule::new(job)?;
        Ok(Made {
            peak: held.peak.max(schedule.peak),
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
        let mut targets = cells.iter().flatten().map(|i| &i.target);
        targets.try_for_each(|target| self.check_departs_at(target))?;
        let embedded = |i: &&Intervention| i.target.point <= HookPoint::PosEmbed;
        let inherited = self.interventions().iter().filter(embedded);
        Ok(inherited.cloned().collect())
    }

    /// Checks that what a run computes from a change on is behind the base's own interventions.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is not.
    pub(crate) fn check_departs_at(&self, target: &Target) -> Result<()> {
        let (kind, place) = (Kind::of(self.model().config()), target.point);
        let again = |at: HookPoint| place <= at || computes_again(kind, place, at);
        let later = |at: &HookPoint| *at > HookPoint::PosEmbed;
        let mut own = self.interventions().iter().map(|i| i.target.point);
        if own.any(|at| later(&at) && again(at)) {
            return Err(Error::invalid(
                "intervention over a base that runs under others",
                target,
                "a point after the base's own interventions, which would have to act again",
            ));
        }
        Ok(())
    }

    /// Bytes that these runs keep, and those that they are lanes over: none for [`Base::given`]
    /// caches, which are the caller's.
    pub(crate) fn held_bytes(&self) -> u64 {
        let others = match &self.0.origin {
            Origin::Given | Origin::Full => 0,
            Origin::Over(other, _) => other.held_bytes(),
        };
        others + self.kept_alone()
    }

    /// What these runs keep besides a base: either may be lanes over the other, or both the same.
    pub(crate) fn held_beside(&self, base: &Base<'_>) -> u64 {
        match (&self.0.origin, &base.0.origin) {
            _ if self.is(base) => 0,
            (_, Origin::Over(other, _)) if self.is(other) => 0,
            (Origin::Over(other, _), _) if other.is(base) => self.kept_alone(),
            _ => self.held_bytes(),
        }
    }

    fn is(&self, other: &Base<'_>) -> bool {
        Arc::as_ptr(&self.0).cast::<()>() == Arc::as_ptr(&other.0).cast()
    }

    /// The same without those of other runs.
    fn kept_alone(&self) -> u64 {
        if matches!(self.0.origin, Origin::Given) {
            return 0;
        }
        // Caches of one batch share their memory.
        let kept = self.kept();
        let entries = kept.caches.iter().flat_map(|cache| cache.entries.values());
        let arrays: HashMap<_, usize> = entries
            .clone()
            .map(|entry| (Arc::as_ptr(&entry.data), entry.data.len()))
            .collect();
        let values: u64 = arrays.into_values().map(entry_bytes).sum();
        values + entry_bytes(0) * entries.count() as u64
    }

    /// The bytes that these runs will keep at most once they hold some points.
    fn bytes_with(&self, points: &Selection) -> u64 {
        let others = match &self.0.origin {
            Origin::Given => return 0,
            Origin::Full => 0,
            Origin::Over(other, interventions) => {
                let places = interventions.iter().map(|i| i.target.point);
                let mut reads = reads(self.model().config(), places, Frozen::default());
                reads.extend(other.token_reads(self.prompts()));
                reads.extend(self.wanted(points).iter());
                other.bytes_with(&reads).saturating_sub(other.held_bytes())
            }
        };
        let wanted = self.wanted(points);
        let config = self.model().config();
        let prompt = |prompt: &Prompt| most_kept_bytes(config, &wanted, prompt.len());
        self.held_bytes() + others + self.prompts().iter().map(prompt).sum::<u64>()
    }

    /// The bytes that these runs will keep at most once they hold what is expected.
    pub(crate) fn bytes_expected(&self) -> u64 {
        self.bytes_with(&Selection::default())
    }

    /// What a run for the sake of some points keeps: what is missing of them, and of what is
    /// expected.
    fn wanted(&self, points: &Selection) -> Selection {
        let kept = self.kept();
        let wanted = points.iter().chain(kept.expected.iter());
        Selection::points(wanted.filter(|point| kept.lacks(*point)))
    }

    /// The caches, with these points at least, within some room.
    pub(super) fn hold_in(
        &self,
        points: &Selection,
        room: Room,
    ) -> Result<Made<Arc<[ActivationCache]>>> {
        let missing = {
            let kept = self.kept();
            points.iter().find(|point| kept.lacks(*point))
        };
        // Not under the lock: a pass may take up other work, which may ask for the same base.
        let made = match missing {
            Some(missing) => self.keep(missing, &self.wanted(points), room)?,
            None => Made {
                value: (),
                multiply_adds: 0,
                peak: room.held + self.held_bytes(),
            },
        };
        Ok(Made {
            value: Arc::clone(&self.kept().caches),
            multiply_adds: made.multiply_adds,
            peak: made.peak,
        })
    }

    /// Runs the prompts, once more if they have run, and adds what is `wanted` to what is kept.
    fn keep(&self, missing: HookPoint, wanted: &Selection, room: Room) -> Result<Made<()>> {
        let held = room.held + self.kept_alone();
        let (schedule, before) = match &self.0.origin {
            Origin::Given => {
                let caches = Arc::clone(&self.kept().caches);
                let mut caches = caches.iter();
                caches.try_for_each(|c| c.get(missing).map(|_| ()))?;
                return Ok(Made {
                    value: (),
                    multiply_adds: 0,
                    peak: 0,
                });
            }
            Origin::Full => {
                let schedule = Schedule::new(Job {
                    held,
                    memory_limit: room.limit,
                    ..Job::full(self.model().config(), self.prompts(), wanted.clone())
                })?;
                (schedule, 0)
            }
            Origin::Over(other, interventions) => {
                let made = other.depart_as(
                    self.prompts(),
                    Departure {
                        cells: vec![interventions.clone()].into(),
                        frozen: Frozen::default(),
                        end: End::Cache(wanted.clone()),
                        held,
                        memory_limit: room.limit,
                    },
                )?;
                (made.value, made.multiply_adds)
            }
        };
        let peak = schedule.peak;
        let mut found = vec![None; self.prompts().len()];
        let run = schedule.record(self.model(), |_, prompt, cache| found[prompt] = Some(cache));
        // Runs that differ from the others in no bit are not made.
        let others = schedule.job.base;
        let same = |i: usize| match &others[..] {
            [one] => one.narrowed(wanted, 0),
            all => all[i].narrowed(wanted, i),
        };
        let mut kept = self.kept();
        kept.multiply_adds += run.multiply_adds;
        // Another run for other points may end earlier, and have had fewer of them.
        let blocked = run.blocked.get(&0).copied().unwrap_or_default();
        if blocked.rows > kept.blocked.rows {
            kept.blocked = blocked;
        }
        let with_before = |(i, found): (usize, Option<ActivationCache>)| {
            let mut cache = found.unwrap_or_else(|| same(i));
            if let Some(before) = kept.caches.get(i) {
                cache.absorb(before);
            }
            cache
        };
        kept.caches = found.into_iter().enumerate().map(with_before).collect();
        Ok(Made {
            value: (),
            multiply_adds: before + run.multiply_adds,
            peak,
        })
    }
}
