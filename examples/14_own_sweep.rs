//! A sweep of one's own: hundreds of changed runs in one pass, with the bits of as many full ones.
//!
//!     cargo run --release --example 14_own_sweep

use patchlens::sweep::Cell;
use patchlens::{Edit, Intervention, Site, Sweep, Target, Tokenizer, Transformer, logit_diff};

fn main() -> anyhow::Result<()> {
    let (model, tokenizer) = (Transformer::mini(), Tokenizer::mini());
    let prompt = tokenizer.encode("When Mary and John went to the store, John gave a drink to")?;
    let metric = logit_diff(tokenizer.token(" Mary")?, tokenizer.token(" John")?);

    // One cell per layer and position: what the MLP writes there is left out.
    let places: Vec<(usize, usize)> = (0..4)
        .flat_map(|layer| (0..prompt.len()).map(move |pos| (layer, pos)))
        .collect();
    let cell = |&(layer, pos): &(usize, usize)| -> Cell {
        let place = Target::new(Site::MlpOut.at(layer)).at_positions(pos);
        vec![Intervention::new(place, Edit::Zero)]
    };
    let cells: Vec<Cell> = places.iter().map(cell).collect();
    let found = Sweep::new(&model, &prompt)?.run(&cells, &metric)?; // values: [cell, prompt]

    let base = found.base[0];
    println!("logit difference ` Mary` - ` John`: {base:.2}; without the MLP's output");
    let mut order: Vec<usize> = (0..cells.len()).collect();
    order.sort_by(|a, b| found.values[[*a, 0]].total_cmp(&found.values[[*b, 0]]));
    for i in order.into_iter().take(5) {
        let ((layer, pos), value) = (places[i], found.values[[i, 0]]);
        println!(
            "  of layer {layer} at {pos:2} {:8} {value:7.2} ({:+.2})",
            prompt.labels[pos],
            value - base
        );
    }
    println!("\n{}", found.plan);
    Ok(())
}
