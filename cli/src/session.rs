//! What a study runs in: the model, its tokenizer, progress and output.

use anyhow::{Context, Result};
use patchlens::{Prompt, Tokenizer, Transformer};

use crate::options::Common;
use crate::output::Output;
use crate::progress::Reporter;
use crate::questions::Questions;

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

impl Session {
    /// Says which model and which prompts the study is about.
    ///
    /// # Errors
    /// If stdout is closed.
    pub fn introduce(&self, questions: &Questions) -> Result<()> {
        let (clean, [right, wrong]) = (
            &questions.clean,
            questions.answer_texts(0, &self.tokenizer)?,
        );
        let text = |prompt: &Prompt| self.tokenizer.decode(&prompt.tokens);
        let mut lines = vec![
            format!("model    {}", self.output.model()),
            format!(
                "prompts  {} from {}; the first:",
                clean.len(),
                questions.source
            ),
            format!("  clean      {:?}", text(&clean[0])?),
        ];
        if let Some(corrupted) = questions.corrupted.first() {
            lines.push(format!("  corrupted  {:?}", text(corrupted)?));
        }
        lines.push(format!("  right {right}, wrong {wrong}\n"));
        self.output.say(lines.join("\n"))
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
