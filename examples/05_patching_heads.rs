//! Activation patching by head: whose output, taken from the clean run, brings the answer back?
//!
//!     cargo run --release --example 05_patching_heads

use patchlens::{Grid, Site, Tokenizer, Transformer, activation_patching, logit_diff};

fn main() -> anyhow::Result<()> {
    let (model, tokenizer) = (Transformer::mini(), Tokenizer::mini());
    // Two prompts that differ in one word, so that the answer differs: Mary, or John.
    let clean = tokenizer.encode("When Mary and John went to the store, John gave a drink to")?;
    let corrupted =
        tokenizer.encode("When Mary and John went to the store, Mary gave a drink to")?;
    let metric = logit_diff(tokenizer.token(" Mary")?, tokenizer.token(" John")?);

    let found = activation_patching(&model, &clean, &corrupted, Grid::Heads(Site::Z), &metric)?;
    println!("logit difference ` Mary` - ` John`");
    println!("  clean run     {:+7.2}", found.clean[0]);
    println!("  corrupted run {:+7.2}\n", found.corrupted[0]);

    // By how much each patch changes the corrupted run's difference: 0 is not at all.
    println!("{}\n{}", found.effect, found.effect.top(3));
    // The same as shares: 1 would bring the clean run's difference back.
    println!("{}\n{}", found.normalized()?.top(3), found.plan);
    Ok(())
}
