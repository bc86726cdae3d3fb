//! Options of the examples that take prompts of a task.

use std::path::{Path, PathBuf};

use anyhow::Result;
use patchlens::report::Labelled;
use patchlens::{Tokenizer, Transformer};

/// Options of most examples.
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
    /// Writes pictures and tables (SVG, PNG, HTML, CSV) to this folder
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

impl Common {
    /// The model and its tokenizer.
    pub fn open(&self) -> Result<(Transformer, Tokenizer)> {
        super::check_outputs(self.json.as_deref(), self.out.as_deref())?;
        super::open(self.model.as_deref())
    }

    /// Writes numbers to `--json`, if given.
    pub fn save_json(&self, values: &impl serde::Serialize) -> Result<()> {
        self.json
            .as_deref()
            .map_or(Ok(()), |path| super::save_json(values, path))
    }

    /// Saves results by name, as far as asked for.
    pub fn save(&self, results: &[(&str, &Labelled)]) -> Result<()> {
        let entry = |(name, of): &(&str, &Labelled)| -> Result<(String, serde_json::Value)> {
            let of = super::seeded(of, self.seed);
            Ok((name.to_string(), serde_json::to_value(of)?))
        };
        let all: serde_json::Map<_, _> = results.iter().map(entry).collect::<Result<_>>()?;
        self.save_json(&all)?;
        if let Some(dir) = &self.out {
            for (name, of) in results {
                self.save_result(of, dir, name)?;
            }
        }
        Ok(())
    }

    /// Saves one result, with the seed of its prompts.
    pub fn save_result(&self, of: &Labelled, dir: &Path, name: &str) -> Result<()> {
        super::save(&super::seeded(of, self.seed), dir, name)
    }
}
