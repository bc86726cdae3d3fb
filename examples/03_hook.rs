//! A closure that looks at an activation while the model runs, and one that changes it.
//!
//!     cargo run --release --example 03_hook

use patchlens::{Site, Tokenizer, Transformer, hook_fn};

fn main() -> anyhow::Result<()> {
    let (model, tokenizer) = (Transformer::mini(), Tokenizer::mini());
    let prompt = tokenizer.encode("When Mary and John went to the store, John gave a drink to")?;
    let last = prompt.len() - 1;
    let [mary, john] = [tokenizer.token(" Mary")?, tokenizer.token(" John")?];

    // Looking: how large is the residual stream at the end of layer 2?
    let mut length = 0.0;
    let look = hook_fn(Site::ResidPost.at(2), |_, stream| {
        let row = stream.index_axis(ndarray::Axis(0), last); // of [pos, d_model]
        length = row.iter().map(|v| v * v).sum::<f32>().sqrt();
    });
    let plain = model.run_with_hooks(&prompt, look)?;
    println!("length of the last token's residual stream after layer 2: {length:.2}");

    // Changing: layer 3 writes nothing.
    let silence = hook_fn(Site::AttnOut.at(3), |_, mut output| output.fill(0.0));
    let changed = model.run_with_hooks(&prompt, silence)?;
    println!("\nlogit difference ` Mary` - ` John`");
    for (what, logits) in [
        ("plain run", plain),
        ("attention of layer 3 silenced", changed),
    ] {
        let difference = logits[[last, mary as usize]] - logits[[last, john as usize]];
        println!("  {what:30} {difference:+7.2}");
    }
    Ok(())
}
