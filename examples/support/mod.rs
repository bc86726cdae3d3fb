//! What the examples share: options, opening a model, progress, saving results.
#![allow(dead_code)] // Each example uses its own part.

pub mod heads;
pub mod options;

use std::ops::ControlFlow;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use patchlens::report::Labelled;
use patchlens::{Progress, Tokenizer, Transformer};

/// Ends the program without a word when nobody reads its output any more, as in `... | head`: the
/// standard library's `println!` panics then.
pub fn end_with_reader() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let message = panic.payload().downcast_ref::<String>();
        if message.is_some_and(|m| m.starts_with("failed printing to stdout")) {
            std::process::exit(0);
        }
        usual(panic);
    }));
}

/// A checkpoint folder's model and tokenizer, or the shipped ones.
pub fn open(dir: Option<&Path>) -> Result<(Transformer, Tokenizer)> {
    end_with_reader();
    match dir {
        Some(dir) => {
            let model = Transformer::open(dir).context("opening the model")?;
            let tokenizer = Tokenizer::open(dir).context("opening the tokenizer")?;
            Ok((model, tokenizer))
        }
        None => Ok((Transformer::mini(), Tokenizer::mini())),
    }
}

/// Checks before the work starts that its results can be written at its end.
pub fn check_outputs(json: Option<&Path>, out: Option<&Path>) -> Result<()> {
    if let Some(path) = json {
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        ensure!(
            folder.is_dir() && !path.is_dir(),
            "--json {}: found {}; expected a file in a folder that exists",
            path.display(),
            if path.is_dir() {
                "a folder"
            } else {
                "no such folder"
            },
        );
    }
    if let Some(dir) = out {
        std::fs::create_dir_all(dir).with_context(|| format!("making --out {}", dir.display()))?;
    }
    Ok(())
}

/// What to call the model.
pub fn name(dir: Option<&Path>) -> String {
    match dir {
        Some(dir) => dir.display().to_string(),
        None => "shipped small model (assets/mini)".to_string(),
    }
}

/// A progress bar on stderr, hidden where stderr is not a terminal.
pub struct Bar(ProgressBar);

impl Bar {
    pub fn new(what: &str) -> Self {
        let style = ProgressStyle::with_template("{msg:10} {wide_bar} {pos}/{len}, {eta} left")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::no_length().with_style(style);
        bar.set_message(what.to_string());
        Bar(bar)
    }

    /// An observer for a study.
    pub fn observe(&self, progress: &Progress) -> ControlFlow<()> {
        self.0.set_length(progress.total as u64);
        self.0.set_position(progress.done as u64);
        ControlFlow::Continue(())
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// A result that tells the seed of its prompts.
pub fn seeded(result: &Labelled, seed: u64) -> Labelled {
    let mut result = result.clone();
    result.about.seed.get_or_insert(seed);
    result
}

/// Saves a result under a name in several formats, and says where; results over a number become
/// line plots.
pub fn save(result: &Labelled, out: &Path, name: &str) -> Result<()> {
    std::fs::create_dir_all(out).with_context(|| format!("making {}", out.display()))?;
    let path = |extension: &str| out.join(format!("{name}.{extension}"));
    for extension in ["svg", "png"] {
        match result.curves() {
            Ok(curves) => curves.save(path(extension))?,
            Err(_) => result.save(path(extension))?,
        }
    }
    for extension in ["html", "csv"] {
        result.save(path(extension))?;
    }
    println!("saved {} (and .png, .html, .csv)", path("svg").display());
    Ok(())
}

/// Writes any numbers as JSON, and says where.
pub fn save_json(values: &impl serde::Serialize, path: &Path) -> Result<()> {
    let text = serde_json::to_string_pretty(values)?;
    std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
    println!("saved {}", path.display());
    Ok(())
}
