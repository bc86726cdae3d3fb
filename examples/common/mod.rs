//! What the examples share: options, the model, and saved results.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use patchlens::report::Labelled;
use patchlens::{Tokenizer, Transformer};

/// Options of every example.
#[derive(clap::Args)]
pub struct Common {
    /// Folder with config.json, model.safetensors and tokenizer.json [default: the shipped model]
    #[arg(long, value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// Seed of the prompts
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Writes all results to this file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Writes pictures (SVG, PNG, HTML) to this folder
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

impl Common {
    /// The model and its tokenizer.
    pub fn open(&self) -> Result<(Transformer, Tokenizer)> {
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/mini");
        let dir = self.model.as_deref().unwrap_or(&shipped);
        Ok((Transformer::open(dir)?, Tokenizer::open(dir)?))
    }

    /// Saves results by name, as far as asked for; those over a number become line plots.
    pub fn save(&self, results: &[(&str, &Labelled)]) -> Result<()> {
        if let Some(path) = &self.json {
            let entry = |(name, of): &(&str, &Labelled)| -> Result<(String, serde_json::Value)> {
                Ok((name.to_string(), serde_json::to_value(of)?))
            };
            let all: serde_json::Map<_, _> = results.iter().map(entry).collect::<Result<_>>()?;
            let file = File::create(path).with_context(|| path.display().to_string())?;
            serde_json::to_writer_pretty(file, &all)?;
        }
        let Some(dir) = &self.out else {
            return Ok(());
        };
        std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
        for (name, of) in results {
            for extension in ["svg", "png"] {
                let path = dir.join(format!("{name}.{extension}"));
                match of.curves() {
                    Ok(curves) => curves.save(path)?,
                    Err(_) => of.save(path)?,
                }
            }
            of.save(dir.join(format!("{name}.html")))?;
        }
        Ok(())
    }
}
