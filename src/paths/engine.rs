//! The four runs of path patching: A and B as caches, C as lanes with frozen halves over B, D as
//! a sweep over B.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use ndarray::{Array1, Array2, ArrayD, Axis as Dim};

use super::nodes::{PathReceiver, PathSender};
use super::{PathPatching, check, linear};
use crate::cache::{ActivationCache, Selection};
use crate::error::Result;
use crate::hook::{Axes, HookPoint};
use crate::intervention::{Edit, Intervention, Target, Values};
use crate::metric::Metric;
use crate::model::stage::base_reads;
use crate::model::{KeepLogits, Run};
use crate::prompt::Prompt;
use crate::sweep::{Cell, Recording, Sweep, points_read};

/// Cells whose runs C are kept at once, at most: so often an observer is told.
const GROUP: usize = 64;

/// Receivers with the model's names for them.
pub(super) struct Ends {
    pub targets: Vec<Target>,
    /// The residual stream that each of them reads.
    pub reads: Vec<HookPoint>,
}

/// What the runs give, before it is labelled.
pub(super) struct Raw {
    /// The metric of the runs D, `[cell, prompt]`.
    pub values: Array2<f32>,
    /// The linearised metric, `[cell, prompt]`.
    pub linear: Option<Array2<f32>>,
    pub original: Array1<f32>,
    pub new: Array1<f32>,
    pub multiply_adds: u64,
    pub partial: bool,
}

/// The runs A and B, and everything that is the same for all cells.
pub(super) struct Runs<'p, 'm> {
    study: &'p PathPatching<'m>,
    ends: Ends,
    /// For each set of senders, whether a path leads from it to a receiver.
    connected: Vec<bool>,
    new: Vec<ActivationCache>,
    original: Vec<ActivationCache>,
    keep: Selection,
}

impl<'p, 'm> Runs<'p, 'm> {
    /// Checks senders and receivers, and runs A and B.
    pub fn new(
        study: &'p PathPatching<'m>,
        senders: &[Vec<PathSender>],
        receivers: &[PathReceiver],
    ) -> Result<Self> {
        let config = study.model.config();
        let connected = check::check(study, senders, receivers)?;
        let ends = Ends {
            targets: receivers.iter().map(|r| r.target(config)).collect(),
            reads: receivers.iter().map(|r| r.reads(config)).collect(),
        };
        let sent = senders.iter().flatten().map(|s| s.target().point);
        let mut of_new = points_read(config, std::iter::empty());
        of_new.extend(sent.clone());
        let mut of_original = points_read(config, ends.targets.iter().map(|t| t.point));
        of_original.extend(of_new.iter());
        of_original.extend(ends.reads.iter().copied());
        let frozen = study.frozen();
        of_original.extend(sent.flat_map(|at| base_reads(at, config.n_layers, frozen)));
        let cache = |prompts: &[Prompt], selection: &Selection| {
            let run = Run {
                cache: Some(selection),
                logits: KeepLogits::None,
                ..Run::default()
            };
            study
                .model
                .run(prompts, (), &run)
                .map(|output| output.caches)
        };
        Ok(Runs {
            new: cache(&study.new, &of_new)?,
            original: cache(&study.original, &of_original)?,
            keep: Selection::points(ends.reads.iter().copied()),
            ends,
            connected,
            study,
        })
    }

    fn recording(&self, memory_limit: u64) -> Recording<'_> {
        Recording {
            model: self.study.model,
            base: &self.original,
            frozen: self.study.frozen(),
            keep: &self.keep,
            memory_limit,
        }
    }

    /// The metric of the runs B and A.
    fn baselines(&self, metric: &Metric) -> Result<[Array1<f32>; 2]> {
        let read = |prompts: &[Prompt], caches: &[ActivationCache]| {
            let sweep = Sweep::new(self.study.model, prompts)?.with_base(caches)?;
            Ok(sweep.run(&[], metric)?.base)
        };
        Ok([
            read(&self.study.original, &self.original)?,
            read(&self.study.new, &self.new)?,
        ])
    }

    /// Runs C and D for all cells, `None` where there is no path.
    pub fn run(
        &self,
        senders: &[Vec<PathSender>],
        metric: &Metric,
        mut observer: impl FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<Raw> {
        let slopes = match self.study.linearised {
            true => Some(linear::Slopes::new(self.study, &self.ends, metric)?),
            false => None,
        };
        let [original, new] = self.baselines(metric)?;
        let shape = (senders.len(), self.original.len());
        let none = || Array2::from_elem(shape, f32::NAN);
        let mut raw = Raw {
            values: none(),
            linear: slopes.is_some().then(none),
            original,
            new,
            multiply_adds: 0,
            partial: false,
        };
        let cells = self.cells(senders)?;
        let lengths = self.original.iter().map(|b| b.tokens().len());
        let unlimited = self.recording(u64::MAX);
        let kept: u64 = lengths.map(|n| unlimited.kept_bytes(n)).sum();
        let group = (self.study.memory_limit / 4 / kept.max(1)).clamp(1, GROUP as u64);
        let mut done = senders.len() - cells.len();
        for group in cells.chunks(group as usize) {
            let left = self
                .study
                .memory_limit
                .saturating_sub(kept * group.len() as u64);
            self.run_group(group, (metric, slopes.as_ref()), left, &mut raw)?;
            done += group.len();
            if observer(done, senders.len()).is_break() && done < senders.len() {
                raw.partial = true;
                break;
            }
        }
        Ok(raw)
    }

    /// The cells of the runs C where there is a path, with their indices.
    fn cells(&self, senders: &[Vec<PathSender>]) -> Result<Vec<(usize, Cell)>> {
        let mut edits = BTreeMap::new();
        let mut cells = Vec::new();
        for (i, set) in senders.iter().enumerate() {
            if !self.connected[i] {
                continue;
            }
            let mut cell = Cell::new();
            for target in set.iter().map(PathSender::target) {
                let edit = match edits.get(&target.point) {
                    Some(edit) => Edit::clone(edit),
                    None => Edit::patch(&self.new, target.point)?,
                };
                edits.insert(target.point, edit.clone());
                cell.push(Intervention::new(target, edit));
            }
            cells.push((i, cell));
        }
        Ok(cells)
    }

    fn run_group(
        &self,
        group: &[(usize, Cell)],
        (metric, slopes): (&Metric, Option<&linear::Slopes>),
        memory_limit: u64,
        raw: &mut Raw,
    ) -> Result<()> {
        let sent: Vec<Cell> = group.iter().map(|(_, cell)| cell.clone()).collect();
        let mut saved = vec![self.original.clone(); group.len()];
        raw.multiply_adds += self
            .recording(memory_limit)
            .run(&sent, |cell, prompt, cache| saved[cell][prompt] = cache)?;
        let received = saved.iter().map(|caches| self.receive(caches));
        let received = received.collect::<Result<Vec<Cell>>>()?;
        let sweep = Sweep::new(self.study.model, &self.study.original)?
            .with_base(&self.original)?
            .memory_limit(memory_limit);
        let result = sweep.run(&received, metric)?;
        raw.multiply_adds += result.multiply_adds;
        for ((i, _), row) in group.iter().zip(result.values.rows()) {
            raw.values.row_mut(*i).assign(&row);
        }
        if let (Some(slopes), Some(linear)) = (slopes, &mut raw.linear) {
            for ((i, _), caches) in group.iter().zip(&saved) {
                for prompt in 0..caches.len() {
                    let change = slopes.change(&self.ends, prompt, caches, &self.original)?;
                    linear[[*i, prompt]] = (f64::from(raw.original[prompt]) + change) as f32;
                }
            }
        }
        Ok(())
    }

    /// The cell of run D: the receivers' inputs set to what run C saved.
    fn receive(&self, saved: &[ActivationCache]) -> Result<Cell> {
        // Heads of a layer read one residual, each through a copy of its own.
        let mut for_heads = BTreeMap::new();
        let mut cell = Cell::new();
        for (target, reads) in self.ends.targets.iter().zip(&self.ends.reads) {
            let values = match target.point.axes() {
                Axes::HeadModel => match for_heads.get(reads) {
                    Some(values) => Values::clone(values),
                    None => {
                        let values = spread(saved, *reads)?;
                        for_heads.insert(*reads, values.clone());
                        values
                    }
                },
                _ => Values::from_caches(saved, *reads)?,
            };
            cell.push(Intervention::new(target.clone(), Edit::Patch(values)));
        }
        Ok(cell)
    }
}

/// A residual of each prompt, `[pos, 1, d_model]`: for every head.
fn spread(saved: &[ActivationCache], point: HookPoint) -> Result<Values> {
    let one = |cache: &ActivationCache| -> Result<ArrayD<f32>> {
        Ok(cache.get(point)?.insert_axis(Dim(1)).to_owned())
    };
    Ok(Values::arrays(
        saved.iter().map(one).collect::<Result<_>>()?,
    ))
}
