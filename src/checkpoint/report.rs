//! What opening a checkpoint has to say.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use crate::config::{AssumedField, Program};

/// What was found in a checkpoint, what was skipped, and what was assumed; printed, one line each.
///
/// ```
/// use patchlens::{Config, Transformer};
/// # let config = Config { n_layers: 1, n_heads: 2, d_model: 4, d_mlp: 8, n_ctx: 3, d_vocab: 5,
/// #     ..Config::gpt2() };
/// # let dir = tempfile::tempdir().unwrap();
/// Transformer::random(config, 0)?.save(&dir)?;
/// let model = Transformer::open(&dir)?;
/// let report = model.open_report().expect("this model was opened");
/// assert_eq!(report.tensors["F32"], 16);
/// assert!(report.skipped.is_empty() && report.assumed.is_empty());
/// assert!(report.to_string().starts_with("found    16 F32 tensors in "));
/// # Ok::<(), patchlens::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct OpenReport {
    /// Whose names the tensors have.
    pub by: Program,
    /// The files of weights.
    pub files: Vec<PathBuf>,
    /// What the names of all tensors begin with, beside the usual `transformer.`: `_orig_mod.`
    /// of compiled models, `module.` of parallel ones, and so on. Mostly empty.
    pub wrapper: String,
    /// How many tensors were read, by their type (`F32`, `F16`, `BF16`).
    pub tensors: BTreeMap<String, usize>,
    /// Tensors that were not read.
    pub skipped: Vec<Skipped>,
    /// What the files do not say.
    pub assumed: Vec<Assumed>,
}

/// A tensor that was not read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Skipped {
    /// Its name in the file.
    pub tensor: String,
    /// Why.
    pub reason: SkipReason,
}

/// Why a tensor was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SkipReason {
    /// It holds the causal mask.
    Mask,
    /// [`OpenOptions::skip`](super::OpenOptions::skip) names it.
    Asked,
    /// It is the `lm_head.weight` of a tied model and equals `wte.weight` to the bit.
    Copy,
}

/// Something that the files do not say.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Assumed {
    /// There are no biases at all (nanoGPT's `bias=False`): each is zero.
    ZeroBiases,
    /// The model is tied and has one of the two embeddings under the other one's name,
    /// `lm_head.weight`.
    EmbeddingFromHead,
    /// A field of `config.json`.
    Field(AssumedField),
}

impl fmt::Display for OpenReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = self.tensors.iter().map(|(dtype, n)| format!("{n} {dtype}"));
        let files = self.files.iter().map(|file| file.display().to_string());
        let (counts, files) = (join(counts), join(files));
        write!(f, "found    {counts} tensors in {files}")?;
        if self.by == Program::TransformerLens {
            f.write_str("\nfound    names of TransformerLens")?;
        }
        if !self.wrapper.is_empty() {
            write!(f, "\nfound    names that begin with `{}`", self.wrapper)?;
        }
        for (reason, why) in [
            (SkipReason::Mask, "causal masks"),
            (SkipReason::Asked, "as asked"),
            (SkipReason::Copy, "the tied embedding once more"),
        ] {
            let skipped = self.skipped.iter().filter(|s| s.reason == reason);
            let names: Vec<&str> = skipped.map(|s| s.tensor.as_str()).collect();
            match names[..] {
                [] => {}
                [first] => write!(f, "\nskipped  {first} ({why})")?,
                [first, ..] => write!(f, "\nskipped  {} tensors: {first}, … ({why})", names.len())?,
            }
        }
        for assumed in &self.assumed {
            write!(f, "\nassumed  {assumed}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Assumed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Assumed::ZeroBiases => f.write_str("zeros for all biases, as there are none"),
            Assumed::EmbeddingFromHead => {
                f.write_str("lm_head.weight as wte.weight too, as the model is tied")
            }
            Assumed::Field(field) => write!(f, "config.json: {field}"),
        }
    }
}

fn join(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(", ")
}
