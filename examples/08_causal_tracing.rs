//! Causal tracing: where does the model look a fact up?
//!
//!     cargo run --release --example 08_causal_tracing

use patchlens::tasks::FactPrompt;
use patchlens::tracing::subject_noise_std;
use patchlens::tracing::{CausalTracing, Restore, SubjectCorruption, TracedFact};
use patchlens::{Tokenizer, Transformer};

fn main() -> anyhow::Result<()> {
    let (model, tokenizer) = (Transformer::mini(), Tokenizer::mini());
    let text = "Ada Brown plays the sport of";
    let fact = FactPrompt::new(&tokenizer, text, "Ada Brown", " boxing", "sport")?;
    let fact = TracedFact::from(&fact);

    // The subject's embeddings are blurred; then one clean state at a time is put back.
    let noise = SubjectCorruption::noise(subject_noise_std(&model, std::slice::from_ref(&fact))?);
    let trace = CausalTracing::new(&model, noise).trace(&fact, Restore::states())?;
    println!("`{text}` -> `{}`", tokenizer.token_text(trace.answer[0]));
    println!("  probability, clean run           {:.3}", trace.clean);
    println!(
        "  probability, subject corrupted   {:.3}\n",
        trace.corrupted
    );
    println!("{}", trace.indirect_effect);
    println!("{}", trace.indirect_effect.top(4));
    Ok(())
}
