//! The four runs of path patching: A and B as bases, C as lanes with frozen halves over B, D as a
//! sweep over B.

use std::borrow::Cow;
use std::collections::BTreeMap;

use ndarray::{Array1, Array2};

use super::ends::Ends;
use super::ledger::{Fate, Ledger, to_run};
use super::nodes::{PathReceiver, PathSender};
use super::{PathPatching, Sent, linear};
use crate::base::Departure;
use crate::cache::{ActivationCache, Selection};
use crate::content::Key;
use crate::error::Result;
use crate::hook::HookPoint;
use crate::intervention::{Edit, Intervention};
use crate::journal::Noted;
use crate::metric::Metric;
use crate::model::stage::Frozen;
use crate::report::Absent;
use crate::schedule::{End, kept_bytes};
use crate::sweep::{Cell, Plan, Sweep, full_passes};

/// Cells whose runs C are kept at once, at most.
const GROUP: usize = 64;

/// Runs C of some cells.
struct RunsC {
    /// What they saved at the points that receivers read, `[cell][prompt]`.
    saved: Vec<Vec<ActivationCache>>,
    plan: Plan,
    /// The multiply-adds of each lane, with its cell and prompt.
    work: Vec<([usize; 2], u64)>,
    multiply_adds: u64,
}

impl PathPatching<'_> {
    /// Bytes that the runs A keep.
    fn held(&self) -> u64 {
        match &self.sent {
            Sent::Run(new) => new.held_beside(&self.original),
            Sent::Edits(_) => 0,
        }
    }

    fn frozen(&self) -> Frozen {
        Frozen {
            attention: true,
            mlps: self.freeze_mlps,
        }
    }

    /// Announces the runs to the bases.
    fn expect<'s>(&self, senders: impl Iterator<Item = &'s PathSender>, ends: &Ends) -> Result<()> {
        let sent = senders.map(|sender| Ok(sender.target()?.point));
        let sent: Vec<HookPoint> = sent.collect::<Result<_>>()?;
        if let Sent::Run(new) = &self.sent {
            new.expect(sent.iter().copied(), Frozen::default());
        }
        let received = ends.targets.iter().map(|t| t.point);
        self.original.expect(received, Frozen::default());
        let between = sent.into_iter().chain(ends.reads.iter().copied());
        self.original.expect(between, self.frozen());
        Ok(())
    }

    /// The cells of the runs C, one per set of senders.
    fn send<'s>(&self, sets: impl IntoIterator<Item = &'s [PathSender]>) -> Result<Vec<Cell>> {
        let mut edits = BTreeMap::new();
        let mut intervention = |sender: &PathSender| {
            let target = sender.target()?;
            let edit = match edits.get(&target.point) {
                Some(edit) => Edit::clone(edit),
                None => self.edit(target.point)?,
            };
            edits.insert(target.point, edit.clone());
            Ok(Intervention::new(target, edit))
        };
        let sets = sets.into_iter();
        sets.map(|set| set.iter().map(&mut intervention).collect())
            .collect()
    }

    /// What a sender's output becomes.
    fn edit(&self, point: HookPoint) -> Result<Edit> {
        match &self.sent {
            Sent::Run(new) => Edit::patch(&new.held([point])?, point),
            Sent::Edits(edits) => Ok(edits[&point].clone()),
        }
    }

    /// Runs C of all cells, beside so many bytes.
    fn save(&self, cells: &[Cell], ends: &Ends, held: u64) -> Result<RunsC> {
        let keep = Selection::points(ends.reads.iter().copied());
        let original = self.original.held(keep.iter())?;
        let schedule = self.original.depart(Departure {
            cells: Cow::Borrowed(cells),
            frozen: self.frozen(),
            end: End::Cache(keep),
            held,
            memory_limit: self.limits.memory,
        })?;
        // Runs that change nothing are not made: they are the original ones.
        let mut saved = vec![original.to_vec(); cells.len()];
        let made = schedule.value;
        let counted = made.record(self.original.model(), |cell, prompt, cache| {
            saved[cell][prompt] = cache;
        });
        Ok(RunsC {
            saved,
            plan: Plan::of(&made),
            work: made
                .lanes
                .iter()
                .map(|lane| ([lane.cell, lane.prompt], lane.cost.macs))
                .collect(),
            multiply_adds: counted.multiply_adds,
        })
    }

    /// The cell of run D for one set of senders.
    pub(super) fn receive(&self, senders: &[PathSender], ends: &Ends) -> Result<Cell> {
        self.expect(senders.iter(), ends)?;
        let cells = self.send([senders])?;
        let made = self.save(&cells, ends, self.held())?;
        ends.receive(&made.saved[0])
    }
}

/// What the runs found, before it is labelled.
pub(super) struct Raw {
    /// The metric of the runs D, `[cell, prompt]`.
    pub values: Array2<f32>,
    /// The linearised metric, `[cell, prompt]`.
    pub linear: Option<Array2<f32>>,
    pub original: Array1<f32>,
    /// None where senders are ablated.
    pub new: Option<Array1<f32>>,
    /// Of the runs C and D that were made.
    pub plan: Plan,
    /// Of the runs C and D, those whose results are a journal's among them.
    pub multiply_adds: u64,
    /// Of as many full passes.
    pub naive: u64,
    /// The multiply-adds of each cell's runs, `[cell, prompt]`.
    work: Array2<u64>,
    /// Why cells have no value, `[cell]`.
    pub absent: Vec<Option<Absent>>,
    pub partial: bool,
}

impl Raw {
    /// Puts what a journal knows of some cells in its place, and takes out what is somebody else's.
    /// Returns the results that are new.
    fn settle(&mut self, group: &[usize], fates: &Array2<Fate>) -> Vec<(Key, Noted)> {
        let mut new = Vec::new();
        for (cell, fates) in group.iter().zip(fates.rows()) {
            let ran = fates.iter().any(|fate| matches!(fate, Fate::Run(_)));
            let finished = !ran || self.absent[*cell].is_none();
            let whole = finished && !fates.iter().any(|fate| matches!(fate, Fate::Left));
            self.absent[*cell] = (!whole).then_some(Absent::NotRun);
            self.partial |= !whole;
            for (prompt, fate) in fates.iter().enumerate() {
                let at = [*cell, prompt];
                let (value, second) = match fate {
                    Fate::Run(key) if finished => {
                        let second = self.linear.as_ref().map(|linear| linear[at]);
                        let noted = Noted {
                            second,
                            work: Some(self.work[at]),
                            ..Noted::of(self.values[at])
                        };
                        new.push((*key, noted));
                        continue;
                    }
                    Fate::Run(_) | Fate::Left => (f32::NAN, f32::NAN),
                    Fate::Known(noted) => {
                        self.multiply_adds += noted.work.unwrap_or(0);
                        (noted.value, noted.second.unwrap_or(f32::NAN))
                    }
                };
                self.values[at] = value;
                if let Some(linear) = &mut self.linear {
                    linear[at] = second;
                }
            }
        }
        new
    }

    /// Cells that have not run.
    fn open(&self) -> usize {
        let open = |reason: &&Option<Absent>| **reason == Some(Absent::NotRun);
        self.absent.iter().filter(open).count()
    }
}

/// What is the same for all cells.
pub(super) struct Runs<'p, 'm> {
    study: &'p PathPatching<'m>,
    senders: &'p [Vec<PathSender>],
    ends: Ends,
    metric: &'p Metric,
    slopes: Option<linear::Slopes>,
    /// The metric of the runs B, `[prompt]`.
    original: Array1<f32>,
    /// That of the runs A; none where senders are ablated.
    new: Option<Array1<f32>>,
}

impl<'p, 'm> Runs<'p, 'm> {
    /// The runs of checked senders and receivers.
    pub fn new(
        study: &'p PathPatching<'m>,
        senders: &'p [Vec<PathSender>],
        receivers: &[PathReceiver],
        metric: &'p Metric,
    ) -> Result<Self> {
        let ends = Ends::new(receivers, study.model().config());
        study.expect(senders.iter().flatten(), &ends)?;
        // Both bases run here, and keep what the runs C and D will read.
        let kept = kept_bytes_of(study, &ends);
        let later = match &study.sent {
            Sent::Run(new) => kept + new.bytes_expected(),
            Sent::Edits(_) => kept,
        };
        let original = study
            .original
            .metric_within(metric, study.limits.room(later))?;
        let new = match &study.sent {
            Sent::Run(new) => {
                let held = kept + study.original.held_beside(new);
                Some(new.metric_within(metric, study.limits.room(held))?)
            }
            Sent::Edits(_) => None,
        };
        let slopes = if study.linearised {
            Some(linear::Slopes::new(study, &ends, metric)?)
        } else {
            None
        };
        Ok(Runs {
            study,
            senders,
            ends,
            metric,
            slopes,
            original,
            new,
        })
    }

    /// Runs C and D for all cells to which a path leads; the others are NaN.
    pub fn run(&self, connected: &[bool]) -> Result<Raw> {
        let study = self.study;
        let shape = (self.senders.len(), study.original.prompts().len());
        let none = || Array2::from_elem(shape, f32::NAN);
        let mut raw = Raw {
            values: none(),
            linear: self.slopes.is_some().then(none),
            original: self.original.clone(),
            new: self.new.clone(),
            plan: Plan::default(),
            multiply_adds: 0,
            naive: 0,
            work: Array2::zeros(shape),
            absent: vec![Some(Absent::NoPath); shape.0],
            partial: false,
        };
        let run: Vec<usize> = (0..shape.0).filter(|cell| connected[*cell]).collect();
        run.iter()
            .for_each(|cell| raw.absent[*cell] = Some(Absent::NotRun));
        let kept = kept_bytes_of(study, &self.ends);
        let group = (study.limits.memory / 4 / kept.max(1)).clamp(1, GROUP as u64);
        for group in run.chunks(group as usize) {
            let kept = kept * group.len() as u64;
            self.run_group(group, kept, connected, &mut raw)?;
            let done = shape.0 - raw.open();
            let ended = study.limits.report(done, shape.0, "senders").is_break();
            if done < shape.0 && (ended || study.limits.ended()) {
                raw.partial = true;
                break;
            }
        }
        Ok(raw)
    }

    /// Takes what a journal knows of some cells, and runs C and D of the others; what runs C save
    /// takes `kept` bytes.
    fn run_group(
        &self,
        group: &[usize],
        kept: u64,
        connected: &[bool],
        raw: &mut Raw,
    ) -> Result<()> {
        let study = self.study;
        let sent = study.send(group.iter().map(|cell| &self.senders[*cell][..]))?;
        let full = full_passes(study.model().config(), study.original.prompts());
        raw.naive += 2 * group.len() as u64 * full;
        let Some(journal) = &study.limits.journal else {
            return self.run_cells(group, sent, kept, raw);
        };
        let ledger = Ledger {
            journal,
            study,
            ends: &self.ends,
            metric: self.metric,
            connected,
        };
        let fates = ledger.fates(group, &sent)?;
        let (places, cells) = to_run(sent, &fates);
        let run: Vec<usize> = places.iter().map(|place| group[*place]).collect();
        if !run.is_empty() {
            self.run_cells(&run, cells, kept, raw)?;
        }
        journal.add(raw.settle(group, &fates))
    }

    /// Runs C and D of some cells.
    fn run_cells(&self, group: &[usize], sent: Vec<Cell>, kept: u64, raw: &mut Raw) -> Result<()> {
        let study = self.study;
        let held = kept + study.held();
        let made = study.save(&sent, &self.ends, held)?;
        let received = made.saved.iter().map(|caches| self.ends.receive(caches));
        let received = received.collect::<Result<Vec<Cell>>>()?;
        let cells = raw.absent.len();
        let mut limits = study.limits.part(cells - raw.open(), cells, "senders");
        // Their results are this study's, which notes them itself.
        limits.journal = None;
        let sweep = Sweep::limited(&study.original, limits).beside(held);
        let prepared = sweep.prepare(&received, self.metric)?;
        for ([cell, prompt], macs) in made.work.into_iter().chain(prepared.work()) {
            raw.work[[group[cell], prompt]] += macs;
        }
        let result = prepared.run()?;
        raw.plan.add(&made.plan);
        raw.plan.add(&result.plan);
        raw.multiply_adds += made.multiply_adds + result.multiply_adds;
        raw.partial |= result.partial;
        for ((cell, row), finished) in group.iter().zip(result.values.rows()).zip(result.finished) {
            raw.values.row_mut(*cell).assign(&row);
            if finished {
                raw.absent[*cell] = None;
            }
        }
        if let (Some(slopes), Some(linear)) = (&self.slopes, &mut raw.linear) {
            let original = study.original.held(self.ends.reads.iter().copied())?;
            let finished = |(cell, _): &(&usize, _)| raw.absent[**cell].is_none();
            for (cell, saved) in group.iter().zip(&made.saved).filter(finished) {
                for (prompt, base) in raw.original.iter().enumerate() {
                    let change = slopes.change(&self.ends, prompt, saved, &original)?;
                    linear[[*cell, prompt]] = (f64::from(*base) + change) as f32;
                }
            }
        }
        Ok(())
    }
}

/// Bytes of what one cell's run C saves.
fn kept_bytes_of(study: &PathPatching<'_>, ends: &Ends) -> u64 {
    let config = study.model().config();
    let keep = Selection::points(ends.reads.iter().copied());
    let lengths = study.original.prompts().lengths().into_iter();
    lengths.map(|n| kept_bytes(config, &keep, n)).sum()
}
