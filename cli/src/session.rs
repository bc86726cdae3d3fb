//! What a study runs in: the model, its tokenizer, progress and output.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::CommandFactory as _;
use ndarray::Axis;
use patchlens::checkpoint::OpenOptions;
use patchlens::{Head, Metric, Prompt, Selection, Site, Tokenizer, Transformer};

use crate::Cli;
use crate::options::{Common, MetricName};
use crate::output::Output;
use crate::progress::Reporter;
use crate::questions::Questions;
use crate::work::Work;

/// Most numbers of all patterns that a page shows.
const LARGEST_ATTENTION: usize = 1 << 20;

/// A model and its tokenizer.
#[derive(Clone)]
pub struct Opened {
    pub model: Arc<Transformer>,
    pub tokenizer: Arc<Tokenizer>,
    /// What opening them reports.
    pub notes: Vec<String>,
}

impl Opened {
    /// Opens the model that the options name, or the shipped one.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn open(common: &Common) -> Result<Self> {
        threads(common.threads)?;
        match &common.model {
            Some(dir) => open(dir, &common.skip),
            None => Ok(Opened {
                model: Arc::new(Transformer::mini()),
                tokenizer: Arc::new(Tokenizer::mini()),
                notes: Vec::new(),
            }),
        }
    }
}

/// Opened by the program, handed to a study.
pub struct Session {
    pub model: Arc<Transformer>,
    pub tokenizer: Arc<Tokenizer>,
    pub progress: Reporter,
    pub output: Output,
    /// Bound of a step's working memory, in bytes.
    pub memory: u64,
    /// Whether it is the model that the library ships.
    pub shipped: bool,
    /// Its journal, and the part of the work that it does.
    pub work: Work,
}

impl Session {
    /// A session with a model; checks that the results can be written.
    ///
    /// # Errors
    /// If the output cannot be written.
    pub fn new(study: &'static str, common: &Common, opened: Opened, work: Work) -> Result<Self> {
        let dir = common.model.as_deref();
        let mut output = output(study, common)?;
        output.mute(work.is_part());
        opened.notes.iter().for_each(|note| output.note(note));
        Ok(Session {
            model: opened.model,
            tokenizer: opened.tokenizer,
            progress: Reporter::new(common.quiet || work.is_quiet()),
            output,
            memory: common.memory,
            shipped: dir.is_none(),
            work,
        })
    }

    /// Begins the work on some questions, and returns those that it is about, with what is measured
    /// of them: a part of them, if only a part of the work is done. `by_position` where a prompt's
    /// runs grow in number with its tokens.
    ///
    /// # Errors
    /// For a metric that the answers do not allow, and those of opening the journal.
    pub fn begin(
        &self,
        questions: Questions,
        by_position: bool,
        asked: Option<MetricName>,
    ) -> Result<(Questions, Metric)> {
        let measure = questions.measure(asked)?;
        let costs = costs(questions.clean.lengths(), by_position);
        let questions = questions.some(self.work.begin(&self.model, &costs)?)?;
        let metric = questions.measured(measure);
        Ok((questions, metric))
    }
}

/// What prompts of these lengths cost in comparison with each other.
pub fn costs(lengths: impl IntoIterator<Item = usize>, by_position: bool) -> Vec<u64> {
    let runs = |n: usize| if by_position { n } else { 1 };
    // A cost of many units can be divided into many parts.
    let cost = |n: usize| (n * runs(n)) as u64 * 1_000_000;
    lengths.into_iter().map(cost).collect()
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

/// Opens someone's model.
fn open(dir: &Path, skip: &[String]) -> Result<Opened> {
    let options = skip.iter().fold(OpenOptions::new(), OpenOptions::skip);
    let model = Transformer::open_with(dir, &options).context("opening the model")?;
    let mut notes: Vec<String> = model
        .open_report()
        .iter()
        .map(ToString::to_string)
        .collect();
    let tokenizer = Tokenizer::open(dir).context("opening the tokenizer")?;
    let (rows, tokens) = (model.config().d_vocab, tokenizer.vocab_size());
    if rows > tokens {
        notes.push(format!(
            "found    {rows} rows for {tokens} tokens; the others are shown by number, as #{}",
            rows - 1
        ));
    } else if rows < tokens {
        notes.push(format!(
            "found    {rows} rows for {tokens} tokens; the model has no token {rows} and above"
        ));
    }
    Ok(Opened {
        model: Arc::new(model),
        tokenizer: Arc::new(tokenizer),
        notes,
    })
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
