//! Heads by what they attend to: previous token, first token, the token after an earlier copy.
//!
//!     cargo run --release --example 11_induction_heads

use patchlens::heads::{AttentionPattern, pattern_scores};
use patchlens::in_context::repeated_loss;
use patchlens::tasks::Repeated;
use patchlens::{Prompts, Tokenizer, Transformer};

fn main() -> anyhow::Result<()> {
    let (model, tokenizer) = (Transformer::mini(), Tokenizer::mini());
    // Random tokens, then the same again: only who looks back can predict the second half.
    let drawn = Repeated::new(&tokenizer)?
        .with_bos()?
        .prompts(8, 24, 2, 0)?;
    let loss = repeated_loss(&model, &drawn)?;
    println!("loss in the first repeat   {} nats", loss.first_loss);
    println!("loss in the second repeat  {} nats\n", loss.second_loss);

    let prompts = Prompts::new(drawn.iter().map(|sequence| sequence.prompt.clone()))?;
    let scores = pattern_scores(&model, &prompts, &AttentionPattern::STANDARD)?;
    println!("{scores}\n{}", scores.top(8)); // [pattern, layer, head]
    Ok(())
}
