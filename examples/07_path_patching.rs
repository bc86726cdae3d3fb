//! Path patching: which heads write the answer to the logits, by no way round?
//!
//!     cargo run --release --example 07_path_patching

use patchlens::metric::logit_diffs;
use patchlens::paths::{PathPatching, PathReceiver, Senders};
use patchlens::tasks::{Corruption, Ioi};
use patchlens::{Prompts, Select, Tokenizer, Transformer};

fn main() -> anyhow::Result<()> {
    let (model, tokenizer) = (Transformer::mini(), Tokenizer::mini());
    // The other prompt of a pair has three other names, so that it says nothing on who is asked.
    let pairs = Ioi::new(&tokenizer)?.pairs(16, Corruption::RandomNames, 0)?;
    let original = Prompts::new(pairs.iter().map(|pair| &pair.clean))?;
    let new = Prompts::new(pairs.iter().map(|pair| &pair.corrupted))?;
    let names: Vec<(u32, u32)> = pairs.iter().map(|p| (p.clean.io, p.clean.s)).collect();

    // One head's output of the other run, sent to the end of the residual stream and nowhere else.
    let study = PathPatching::new(&model, &original, &new)?;
    let end = [PathReceiver::final_residual().at_positions(Select::Last)];
    let found = study.run(Senders::Components, &end, &logit_diffs(&names))?;
    let change = found.relative()?; // -0.1: the logit difference falls by a tenth
    println!("{change}\n{}", change.top(6));
    Ok(())
}
