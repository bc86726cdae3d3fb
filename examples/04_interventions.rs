//! Interventions as data: a place, what happens there, and a receipt of what did.
//!
//!     cargo run --release --example 04_interventions

use patchlens::{Edit, Intervention, Interventions, Select, Site, Target, Tokenizer, Transformer};

fn main() -> anyhow::Result<()> {
    let (model, tokenizer) = (Transformer::mini(), Tokenizer::mini());
    let prompt = tokenizer.encode("When Mary and John went to the store, John gave a drink to")?;
    let (last, mary) = (prompt.len() - 1, tokenizer.token(" Mary")? as usize);
    let plain = model.forward(&prompt)?;
    println!("logit of ` Mary`, plain run: {:.2}\n", plain[[last, mary]]);

    // Heads 3.0 and 3.2 write nothing at the last position; the stream before layer 1 is halved.
    let heads = Target::new(Site::Z.at(3))
        .at_heads([0, 2])
        .at_positions(Select::Last);
    let stream = Target::new(Site::ResidPre.at(1)).at_positions(Select::Last);
    let list = [
        Intervention::new(heads, Edit::Zero),
        Intervention::new(stream, Edit::Scale(0.5)),
    ];
    let mut hooks = Interventions::new(&list[..]);
    let changed = model.run_with_hooks(&prompt, &mut hooks)?;
    println!(
        "logit of ` Mary`, changed: {:.2}\n{}",
        changed[[last, mary]],
        hooks.receipt()
    );

    // What cannot fire is an error before anything runs: the model has layers 0 to 3.
    let beyond = [Intervention::new(Target::new(Site::Z.at(7)), Edit::Zero)];
    if let Err(error) = model.run_with_hooks(&prompt, Interventions::new(&beyond[..])) {
        println!("\na mistake: {error}");
    }
    Ok(())
}
