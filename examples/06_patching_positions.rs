//! Activation patching by position, over several prompt pairs, saved as a picture.
//!
//!     cargo run --release --example 06_patching_positions

use patchlens::metric::logit_diffs;
use patchlens::tasks::{Corruption, Ioi};
use patchlens::{Grid, Prompts, Site, Tokenizer, Transformer, activation_patching};

fn main() -> anyhow::Result<()> {
    let (model, tokenizer) = (Transformer::mini(), Tokenizer::mini());
    // Eight pairs of one template, so that positions correspond; S2 is the corrupted word.
    let pairs = Ioi::new(&tokenizer)?
        .template(0)?
        .pairs(8, Corruption::Aba, 0)?;
    let clean = Prompts::new(pairs.iter().map(|pair| &pair.clean))?;
    let corrupted = Prompts::new(pairs.iter().map(|pair| &pair.corrupted))?;
    let names: Vec<(u32, u32)> = pairs.iter().map(|p| (p.clean.io, p.clean.s)).collect();
    println!(
        "the first of {}:\n  {}\n  {}",
        pairs.len(),
        pairs[0].clean.text,
        pairs[0].corrupted.text
    );

    // Where does the residual stream carry who is to be named, before each layer?
    let grid = Grid::Positions(Site::ResidPre);
    let found = activation_patching(&model, &clean, &corrupted, grid, &logit_diffs(&names))?;
    println!("\n{}\n{}", found.effect, found.effect.top(4));
    let picture = std::env::temp_dir().join("resid_pre.svg"); // .png, .html, .csv, .npy, .json too
    found.save(&picture)?;
    println!("saved {}", picture.display());
    Ok(())
}
