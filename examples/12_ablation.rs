//! Ablation: what does the model lose without a head? Each head's output is set to zero in turn.
//!
//!     cargo run --release --example 12_ablation

use patchlens::ablation::{Ablation, CircuitNode, Each, Replacement};
use patchlens::metric::logit_diffs;
use patchlens::tasks::Ioi;
use patchlens::{Head, Prompts, Tokenizer, Transformer};

fn main() -> anyhow::Result<()> {
    let (model, tokenizer) = (Transformer::mini(), Tokenizer::mini());
    let drawn = Ioi::new(&tokenizer)?.prompts(32, 0)?;
    let prompts = Prompts::new(&drawn)?;
    let names: Vec<(u32, u32)> = drawn.iter().map(|p| (p.io, p.s)).collect();

    // Sets of nodes: every head alone, and two together.
    let mut sets: Vec<Vec<CircuitNode>> = Head::all(model.config())
        .map(|head| vec![CircuitNode::head(head.layer, head.head)])
        .collect();
    sets.push(vec![CircuitNode::head(3, 0), CircuitNode::head(3, 2)]);
    let found = Ablation::new(&model, &prompts, Replacement::Zero)?
        .run(Each::Set(&sets), &logit_diffs(&names))?;

    let whole = found.clean.mean().unwrap_or(f32::NAN);
    println!("logit difference of the whole model {whole:.2}; its change");
    println!("{}", found.effect.top(6));
    Ok(())
}
