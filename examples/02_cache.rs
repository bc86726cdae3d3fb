//! What the model holds inside: every activation of a run, by TransformerLens's names.
//!
//!     cargo run --release --example 02_cache

use patchlens::{Selection, Site, Tokenizer, Transformer};

fn main() -> anyhow::Result<()> {
    let (model, tokenizer) = (Transformer::mini(), Tokenizer::mini());
    let prompt = tokenizer.encode("When Mary and John went to the store, John gave a drink to")?;
    let keep = Selection::standard(model.config());
    let (_, cache) = model.run_with_cache(&prompt, &keep)?;
    println!(
        "{} hook points are cached; some of them:",
        cache.points().count()
    );
    for name in [
        "blocks.0.hook_resid_pre",
        "blocks.3.attn.hook_z",
        "blocks.3.attn.hook_pattern",
    ] {
        println!("  {name:28} {:?}", cache.get_named(name)?.shape());
    }

    // The same place as a value: where does head 3.2 look from the last token?
    let pattern = cache.get(Site::Pattern.at(3))?; // [head, dest, src]
    let last = prompt.len() - 1;
    println!("\nhead 3.2 attends from `{}` to", prompt.labels[last]);
    for (source, label) in prompt.labels.iter().enumerate() {
        let weight = pattern[[2, last, source]];
        println!(
            "  {source:2} {label:8} {weight:.2} {}",
            "#".repeat((40.0 * weight) as usize)
        );
    }
    Ok(())
}
