//! The logit lens: what would the model say if it ended after each layer?
//!
//!     cargo run --release --example 09_logit_lens

use patchlens::lens::LogitLens;
use patchlens::{Tokenizer, Transformer};

fn main() -> anyhow::Result<()> {
    let (model, tokenizer) = (Transformer::mini(), Tokenizer::mini());
    let prompt = tokenizer.encode("When Mary and John went to the store, John gave a drink to")?;
    let mut lens = LogitLens::new(&model);
    lens.top_k = 3;
    let found = lens.run(&prompt)?;

    let last = prompt.len() - 1;
    println!(
        "likeliest at `{}`, read after each step",
        prompt.labels[last]
    );
    let points = &found.kl_to_final.axes()[0].labels;
    for (point, name) in points.iter().enumerate() {
        print!(
            "  {name:10} {:6.2} nats off ",
            found.kl_to_final.values()[[point, last]]
        );
        for k in 0..3 {
            let text = format!(
                "`{}`",
                tokenizer.token_text(found.top_tokens[[point, last, k]])
            );
            let share = found.top_probabilities.values()[[point, last, k]];
            print!("  {text:16}{:5.1} %", 100.0 * share);
        }
        println!();
    }
    Ok(())
}
