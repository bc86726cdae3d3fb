//! Ablation: what does the model lose without a head? Each head's output is set to zero in turn.
//!
//!     cargo run --release --example 12_ablation

use patchlens::ablation::{Ablation, CircuitNode, Each, Replacement};
use patchlens::metric::logit_diffs;
use patchlens::tasks::Ioi;
use patchlens::{Prompts, Tokenizer, Transformer};

fn main() -> anyhow::Result<()> {
    let (model, tokenizer) = (Transformer::mini(), Tokenizer::mini());
    let drawn = Ioi::new(&tokenizer)?.prompts(32, 0)?;
    let prompts = Prompts::new(&drawn)?;
    let names: Vec<(u32, u32)> = drawn.iter().map(|p| (p.io, p.s)).collect();

    let study = || Ablation::new(&model, &prompts, Replacement::Zero);

    // Every head alone.
    let alone = study()?.run(Each::Head, &logit_diffs(&names))?;
    println!("{}\n{}", alone.effect, alone.effect.top(6));

    // Two heads, each alone and both together: more than the sum, if one stands in for the other.
    let heads = [CircuitNode::head(3, 0), CircuitNode::head(3, 2)];
    let sets = [heads[..1].to_vec(), heads[1..].to_vec(), heads.to_vec()];
    let together = study()?.run(Each::Set(&sets), &logit_diffs(&names))?;
    println!("{}", together.effect);
    Ok(())
}
