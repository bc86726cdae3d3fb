//! A model, a text, and what it says next.
//!
//!     cargo run --release --example 01_forward

use patchlens::{Tokenizer, Transformer, ops};

fn main() -> anyhow::Result<()> {
    // A small trained model is built in; `Transformer::open("weights/gpt2")` reads a checkpoint.
    let (model, tokenizer) = (Transformer::mini(), Tokenizer::mini());
    let prompt = tokenizer.encode("When Mary and John went to the store, John gave a drink to")?;
    let logits = model.forward(&prompt)?; // [pos, d_vocab]
    println!(
        "{} tokens, logits {:?} [pos, d_vocab]",
        prompt.len(),
        logits.shape()
    );

    // What follows the last token is predicted at its position.
    let mut probabilities = logits.row(prompt.len() - 1).to_vec();
    ops::softmax_row(&mut probabilities);
    let mut tokens: Vec<u32> = (0..).take(probabilities.len()).collect();
    tokens.sort_by(|a, b| probabilities[*b as usize].total_cmp(&probabilities[*a as usize]));
    println!("\nlikeliest next tokens");
    for token in &tokens[..5] {
        let text = format!("`{}`", tokenizer.token_text(*token));
        println!(
            "  {text:12} {:7.3} %",
            100.0 * probabilities[*token as usize]
        );
    }
    Ok(())
}
