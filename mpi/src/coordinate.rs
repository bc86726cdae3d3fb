//! What the first rank does: it gives out units of work, does some itself, and gathers results.

use std::collections::VecDeque;
use std::sync::Arc;

use anyhow::{Result, ensure};
use mpi::topology::SimpleCommunicator;
use mpi::traits::*;
use patchlens::journal::{Journal, Shard};
use patchlens_cli::parts::{Model, Study};

use crate::send::{Tag, receive, send, to_all};

/// Units of work per rank: enough that ranks end at about the same time.
const PER_RANK: usize = 8;

/// Units that a rank has at a time, so that it does not wait while this one works itself.
const AHEAD: usize = 2;

/// Has the work of a study done, and shows what it found.
pub fn run(world: &SimpleCommunicator, study: &Study, model: Model) -> Result<()> {
    let journal = study.journal(&model)?;
    for _ in 0..study.steps() {
        let step = Step {
            world,
            study,
            model: &model,
            journal: &journal,
            known: journal.all_lines().into(),
            of: PER_RANK * usize::try_from(world.size())?,
        };
        step.run()?;
    }
    if Study::is_to_end() {
        return study.ended(&journal);
    }
    study.finish(model, journal)
}

struct Step<'s> {
    world: &'s SimpleCommunicator,
    study: &'s Study,
    model: &'s Model,
    journal: &'s Journal,
    /// The lines of what was known before.
    known: Arc<str>,
    /// Units of work.
    of: usize,
}

impl Step<'_> {
    fn run(&self) -> Result<()> {
        to_all(self.world, &mut self.known.as_bytes().to_vec());
        self.world
            .process_at_rank(0)
            .broadcast_into(&mut [self.of as u64]);
        let mut open: VecDeque<usize> = (0..self.of).collect();
        let mut away = 0;
        for _ in 0..AHEAD {
            for rank in 1..self.world.size() {
                away += usize::from(self.give(rank, &mut open));
            }
        }
        loop {
            while let Some(status) = self.world.any_process().immediate_probe() {
                away -= 1;
                away += usize::from(self.take(status.source_rank(), &mut open)?);
            }
            match open.pop_front() {
                Some(index) => {
                    let shard = Shard::new(index, self.of)?;
                    let found = self.study.run_part(self.model, shard, &self.known)?;
                    self.journal.add_lines(&found.lines)?;
                }
                None if away == 0 => break,
                None => {
                    let status = self.world.any_process().probe();
                    away -= 1;
                    away += usize::from(self.take(status.source_rank(), &mut open)?);
                }
            }
            if Study::is_to_end() {
                open.clear();
            }
        }
        for rank in 1..self.world.size() {
            send(&self.world.process_at_rank(rank), Tag::Stop, &[]);
        }
        Ok(())
    }

    /// Gives a unit to a rank, if there is one.
    fn give(&self, rank: i32, open: &mut VecDeque<usize>) -> bool {
        let Some(index) = open.pop_front() else {
            return false;
        };
        let index = (index as u64).to_le_bytes();
        send(&self.world.process_at_rank(rank), Tag::Unit, &index);
        true
    }

    /// Takes what a rank has found, and gives it more to do, if there is more.
    fn take(&self, rank: i32, open: &mut VecDeque<usize>) -> Result<bool> {
        let (tag, bytes) = receive(&self.world.process_at_rank(rank))?;
        ensure!(
            tag == Tag::Done,
            "found {tag:?} from rank {rank}; expected results"
        );
        let (ended, lines) = bytes
            .split_first()
            .map_or((false, &[][..]), |(e, l)| (*e != 0, l));
        self.journal.add_lines(std::str::from_utf8(lines)?)?;
        // A rank that was told to end will not compute any more.
        if ended {
            open.clear();
        }
        Ok(self.give(rank, open))
    }
}
