//! Direct logit attribution: who wrote the answer? The shares sum to the logit difference itself.
//!
//!     cargo run --release --example 10_logit_attribution

use patchlens::attribution::{Decomposition, direct_logit_attribution};
use patchlens::metric::logit_diffs;
use patchlens::tasks::Ioi;
use patchlens::{Prompts, Tokenizer, Transformer};

fn main() -> anyhow::Result<()> {
    let (model, tokenizer) = (Transformer::mini(), Tokenizer::mini());
    let drawn = Ioi::new(&tokenizer)?.prompts(20, 0)?;
    let prompts = Prompts::new(&drawn)?;
    let names: Vec<(u32, u32)> = drawn.iter().map(|p| (p.io, p.s)).collect();

    let by = Decomposition::Heads; // or Layers, Components, Writers (heads, neurons, biases)
    let shares = direct_logit_attribution(&model, &prompts, by, &logit_diffs(&names))?;
    println!("{}", shares.top(6));
    for (name, value) in &shares.about.baselines {
        println!(
            "{name}: {value:.3}; all shares together: {:.3}",
            shares.values().sum()
        );
    }
    Ok(())
}
