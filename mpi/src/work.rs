//! What all ranks but the first do: units of work, as they are given out.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use mpi::topology::SimpleCommunicator;
use mpi::traits::*;
use patchlens::journal::Shard;
use patchlens_cli::parts::{Model, Study};

use crate::send::{Tag, receive, send, to_all};

/// Works until there is nothing more to do.
pub fn run(world: &SimpleCommunicator, study: &Study, model: &Model) -> Result<()> {
    let first = world.process_at_rank(0);
    for _ in 0..study.steps() {
        let mut known = Vec::new();
        to_all(world, &mut known);
        let known: Arc<str> = String::from_utf8(known)?.into();
        let mut of = [0_u64];
        first.broadcast_into(&mut of);
        loop {
            let (tag, bytes) = receive(&first)?;
            match tag {
                Tag::Unit => {
                    let index: [u8; 8] = bytes.try_into().ok().context("a unit's number")?;
                    let index = usize::try_from(u64::from_le_bytes(index))?;
                    let shard = Shard::new(index, usize::try_from(of[0])?)?;
                    let found = study.run_part(model, shard, &known)?;
                    let mut bytes = vec![u8::from(found.ended)];
                    bytes.extend(found.lines.as_bytes());
                    send(&first, Tag::Done, &bytes);
                }
                Tag::Stop => break,
                Tag::Done => bail!("found results from rank 0; expected work"),
            }
        }
    }
    Ok(())
}

/// Whether a study was ended by a signal, and can go on.
pub fn is_early_end(error: &anyhow::Error) -> bool {
    patchlens_cli::parts::is_early_end(error)
}
