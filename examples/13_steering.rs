//! Steering: a direction, added while the model writes, that makes it name someone else.
//!
//!     cargo run --release --example 13_steering

use patchlens::generate::Generation;
use patchlens::steering::Steering;
use patchlens::tasks::Ioi;
use patchlens::{Interventions, Prompts, Select, Site, Tokenizer, Transformer};

fn main() -> anyhow::Result<()> {
    let (model, tokenizer) = (Transformer::mini(), Tokenizer::mini());
    // The direction: prompts answered by Ryan minus the others, at the last position.
    let drawn = Ioi::new(&tokenizer)?.prompts(400, 0)?;
    let ryan = tokenizer.token(" Ryan")?;
    let (yes, no): (Vec<_>, Vec<_>) = drawn.iter().partition(|prompt| prompt.io == ryan);
    println!(
        "{} prompts answered by ` Ryan`, {} by others\n",
        yes.len(),
        no.len()
    );
    let (yes, no, point) = (Prompts::new(yes)?, Prompts::new(no)?, Site::ResidPost.at(3));
    let steering = Steering::difference_of_means(&model, &yes, &no, &[point], Select::Last)?;
    let steering = steering.at_positions(Select::Last);

    let text = "When Mary and John went to the store, John gave a drink to";
    println!("{text} ...");
    for scale in [0.0, 0.5, 1.0, 2.0] {
        let hooks = Interventions::new(steering.interventions(scale)?);
        let prompt = tokenizer.encode(text)?;
        let generated = model.generate(&prompt, hooks, &Generation::greedy(2))?;
        println!(
            "  scale {scale:3.1}  {}",
            tokenizer.decode(generated[0].new_tokens())?
        );
    }
    Ok(())
}
