//! What a study runs in: the model, its tokenizer, progress and output.

use anyhow::{Context, Result};
use patchlens::{Tokenizer, Transformer};

use crate::options::Common;
use crate::output::Output;
use crate::progress::Reporter;

/// Opened by the program, handed to a study.
pub struct Session {
    pub model: Transformer,
    pub tokenizer: Tokenizer,
    pub progress: Reporter,
    pub output: Output,
    /// Bound of a step's working memory, in bytes.
    pub memory: u64,
    /// Whether it is the model that the library ships.
    pub shipped: bool,
}

impl Session {
    /// Opens the model; checks before that the results can be written.
    ///
    /// # Errors
    /// If a file cannot be read, or the output not be written.
    pub fn open(study: &'static str, common: &Common) -> Result<Self> {
        threads(common.threads)?;
        let dir = common.model.as_deref();
        let name = dir.map_or_else(
            || "shipped small model".to_string(),
            |dir| dir.display().to_string(),
        );
        let output = Output::new(study, common, name)?;
        let (model, tokenizer) = match dir {
            Some(dir) => (
                Transformer::open(dir).context("opening the model")?,
                Tokenizer::open(dir).context("opening the tokenizer")?,
            ),
            None => (Transformer::mini(), Tokenizer::mini()),
        };
        Ok(Session {
            model,
            tokenizer,
            progress: Reporter::new(common.quiet),
            output,
            memory: common.memory,
            shipped: dir.is_none(),
        })
    }
}

/// Bounds the threads of the whole program.
///
/// # Errors
/// If the pool cannot be made.
pub fn threads(n: Option<u16>) -> Result<()> {
    let Some(n) = n else {
        return Ok(());
    };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(n.into());
    pool.build_global()
        .with_context(|| format!("--threads {n}: starting threads"))
}
