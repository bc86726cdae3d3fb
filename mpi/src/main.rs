//! The program `patchlens-mpi`: a study's work, divided among the ranks of an MPI job.
//!
//! ```text
//! mpirun -n 4 patchlens-mpi circuits --pairs pairs.json --model weights/gpt2 --journal a.journal
//! ```
//!
//! Rank 0 opens the model and hands it to the others, gives out the work as ranks ask for it, does
//! some itself, and gathers the results in its journal. It prints what `patchlens` would have
//! printed, to the bit. If a rank dies, all end; started again, the job goes on with the journal.

mod coordinate;
mod send;
mod work;

use std::process::ExitCode;

use anyhow::{Result, anyhow};
use mpi::topology::SimpleCommunicator;
use mpi::traits::*;
use patchlens_cli::parts::{Study, status};

const HELP: &str = "\
patchlens-mpi divides a study of `patchlens` among the ranks of an MPI job.

Usage: mpirun -n RANKS patchlens-mpi <STUDY> [OPTIONS]

STUDY is patch, paths, trace, knockout, ablate or circuits, with the options of `patchlens`; see
`patchlens <STUDY> --help`. --journal keeps results where rank 0 runs, --shard is not used.
Without --threads, the ranks of a machine share its cores. Files of prompts are read by each rank;
the model is read by rank 0.

Exit status: that of `patchlens`; 75 means that the same command goes on where it ended.
";

fn main() -> ExitCode {
    let Some(universe) = mpi::initialize() else {
        eprintln!("error: MPI was started already");
        return ExitCode::FAILURE;
    };
    let world = universe.world();
    let first = world.rank() == 0;
    if std::env::args()
        .nth(1)
        .is_none_or(|a| ["-h", "--help", "help"].contains(&&a[..]))
    {
        if first {
            print!("{HELP}");
        }
        return ExitCode::SUCCESS;
    }
    // All ranks have the same arguments, and come to the same end.
    match Study::parse(first) {
        Ok(study) => run(&world, &study),
        Err(status) => status,
    }
}

fn run(world: &SimpleCommunicator, study: &Study) -> ExitCode {
    let done = start(world, study);
    if let Err(error) = &done
        && !work::is_early_end(error)
    {
        // The others wait for this rank: they cannot go on, and are told so.
        let code = if world.size() > 1 {
            eprintln!("error in rank {}: {error:#}", world.rank());
            world.abort(1)
        } else {
            status(&done)
        };
        return code;
    }
    if world.rank() == 0 {
        status(&done)
    } else {
        ExitCode::SUCCESS
    }
}

fn start(world: &SimpleCommunicator, study: &Study) -> Result<()> {
    study.start_threads(threads(world)?)?;
    let model = send::model(world, study)?;
    if world.rank() == 0 {
        coordinate::run(world, study, model)
    } else {
        work::run(world, study, &model)
    }
}

/// The cores that each rank of this machine may take.
fn threads(world: &SimpleCommunicator) -> Result<u16> {
    let ranks = world.split_shared(world.rank()).size();
    let cores = std::thread::available_parallelism()?.get();
    let ranks = usize::try_from(ranks).map_err(|_| anyhow!("{ranks} ranks on this machine"))?;
    Ok(u16::try_from(cores / ranks.max(1))
        .unwrap_or(u16::MAX)
        .max(1))
}
