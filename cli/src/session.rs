//! What a study runs in: the model, its tokenizer, progress and output.

use std::path::Path;

use anyhow::{Context, Result};
use clap::CommandFactory as _;
use ndarray::Axis;
use patchlens::checkpoint::OpenOptions;
use patchlens::{Head, Prompt, Selection, Site, Tokenizer, Transformer};

use crate::Cli;
use crate::options::Common;
use crate::output::Output;
use crate::progress::Reporter;
use crate::questions::Questions;

/// Most numbers of all patterns that a page shows.
const LARGEST_ATTENTION: usize = 1 << 20;

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
        let output = output(study, common)?;
        let (model, tokenizer) = match dir {
            Some(dir) => open(dir, &common.skip, &output)?,
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
        let (clean, [right, wrong]) =
            (&questions.clean, questions.answer_texts(0, &self.tokenizer));
        let text = |prompt: &Prompt| self.tokenizer.readable(&prompt.tokens);
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
        self.output.say(lines.join("\n"))?;
        self.show_attention("the first clean prompt", &clean[0])
    }

    /// Puts all heads' patterns over a prompt on the page, unless they would make it too large.
    ///
    /// # Errors
    /// Those of the run.
    pub fn show_attention(&self, of: &str, prompt: &Prompt) -> Result<()> {
        let config = self.model.config();
        let heads: Vec<Head> = Head::all(config).collect();
        let values = heads.len() * prompt.len() * prompt.len();
        if !self.output.has_page() || values > LARGEST_ATTENTION {
            return Ok(());
        }
        let layers = 0..config.n_layers;
        let patterns = Selection::points(layers.map(|layer| Site::Pattern.at(layer)));
        let (_, cache) = self.model.run_with_cache(prompt, &patterns)?;
        let patterns = heads
            .into_iter()
            .map(|head| {
                let pattern = cache.get(Site::Pattern.at(head.layer))?;
                let pattern = pattern.index_axis(Axis(0), head.head);
                let pattern = pattern.to_owned().into_dimensionality()?;
                Ok((head.to_string(), pattern))
            })
            .collect::<Result<Vec<_>>>()?;
        let heading = format!("Attention of all heads over {of}");
        let tokens = prompt.labels.clone();
        self.output.attention(heading, patterns, tokens);
        Ok(())
    }
}

/// Where the results of a study go.
///
/// # Errors
/// If they cannot be written.
pub fn output(study: &'static str, common: &Common) -> Result<Output> {
    let name = common.model.as_deref().map_or_else(
        || "shipped small model".to_string(),
        |dir| dir.display().to_string(),
    );
    Output::new(study, title(study), common, name)
}

/// Opens someone's model, and notes what opening it reports.
fn open(dir: &Path, skip: &[String], output: &Output) -> Result<(Transformer, Tokenizer)> {
    let options = skip.iter().fold(OpenOptions::new(), OpenOptions::skip);
    let model = Transformer::open_with(dir, &options).context("opening the model")?;
    if let Some(report) = model.open_report() {
        output.note(report);
    }
    let tokenizer = Tokenizer::open(dir).context("opening the tokenizer")?;
    let (rows, tokens) = (model.config().d_vocab, tokenizer.vocab_size());
    if rows > tokens {
        output.note(format_args!(
            "found    {rows} rows for {tokens} tokens; the others are shown by number, as #{}",
            rows - 1
        ));
    } else if rows < tokens {
        output.note(format_args!(
            "found    {rows} rows for {tokens} tokens; the model has no token {rows} and above"
        ));
    }
    Ok((model, tokenizer))
}

/// The question that a study answers, as `--help` says it.
fn title(study: &str) -> String {
    let program = Cli::command();
    let command = program
        .find_subcommand(study)
        .expect("a study is a subcommand");
    command.get_about().expect("each has one").to_string()
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
