//! Indirect object identification: which layers, positions and heads carry the name?
//!
//!     cargo run --release --example ioi_patching
//! The program `patchlens patch` does the same on your own prompts (`cli/`).

use std::path::PathBuf;

use clap::Parser;
use patchlens::metric::logit_diffs;
use patchlens::patching::ActivationPatching;
use patchlens::report::use_color;
use patchlens::tasks::{Corruption, Ioi, Split};
use patchlens::{Grid, Prompts, Site, Tokenizer, Transformer};

/// Patches clean activations into corrupted runs of indirect object identification
#[derive(Parser)]
struct Arguments {
    /// Folder of a GPT-2-style checkpoint [default: the shipped small model]
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Saves all four heat maps as SVG, PNG and HTML into this folder
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let (model, tokenizer) = match &arguments.model {
        Some(dir) => (Transformer::open(dir)?, Tokenizer::open(dir)?),
        None => (Transformer::mini(), Tokenizer::mini()),
    };
    let ioi = Ioi::new(&tokenizer)?.split(Split::HeldOut)?.template(0)?;
    let pairs = ioi.pairs(8, Corruption::Aba, 0)?;
    let clean = Prompts::new(pairs.iter().map(|pair| &pair.clean))?;
    let corrupted = Prompts::new(pairs.iter().map(|pair| &pair.corrupted))?;
    let names: Vec<(u32, u32)> = pairs.iter().map(|p| (p.clean.io, p.clean.s)).collect();
    let (one, other) = (&pairs[0].clean.text, &pairs[0].corrupted.text);
    println!("8 prompt pairs; the first:\n  {one}\n  {other}\n");

    let study = ActivationPatching::new(&model, &clean, &corrupted)?;
    for (name, grid, whole) in [
        ("resid_pre", Grid::Positions(Site::ResidPre), true),
        ("attn_out", Grid::Positions(Site::AttnOut), false),
        ("mlp_out", Grid::Positions(Site::MlpOut), false),
        ("z", Grid::Heads(Site::Z), true),
    ] {
        // By how much each patch changes the corrupted run's logit difference.
        let effect = study.run(grid, &logit_diffs(&names))?.effect;
        let map = effect.colored(use_color()).to_string();
        println!("{}", if whole { &map } else { &effect.about.title });
        println!("{}", effect.top(3));
        if let Some(out) = &arguments.out {
            std::fs::create_dir_all(out)?;
            for extension in ["svg", "png", "html"] {
                effect.save(out.join(format!("{name}.{extension}")))?;
            }
        }
    }
    Ok(())
}
