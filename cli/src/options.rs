//! Options that all studies share.

use std::path::PathBuf;

use clap::{Arg, Args, ValueEnum};

use crate::{bytes, numbers};

/// The model, and where results go.
#[derive(Args, Clone, Debug)]
pub struct Common {
    /// Folder with config.json, model.safetensors and tokenizer.json (or vocab.json and merges.txt)
    /// [default: the shipped small model]
    #[arg(long, value_name = "DIR", help_heading = "Model and machine")]
    pub model: Option<PathBuf>,
    /// Leave out tensors that a GPT-2 does not have, such as v_head; may be given several times
    #[arg(
        long,
        value_name = "NAME",
        help_heading = "Model and machine",
        requires = "model"
    )]
    pub skip: Vec<String>,
    /// Threads [default: one per core]
    #[arg(long, value_name = "N", help_heading = "Model and machine",
        value_parser = numbers::threads())]
    pub threads: Option<u16>,
    /// Working memory of a step, such as 512M or 2G
    #[arg(long, value_name = "SIZE", help_heading = "Model and machine", default_value = "1G",
        value_parser = bytes::parse)]
    pub memory: u64,
    /// Save report.html and, for each result, SVG, PNG, CSV and npy files into this folder
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    pub out: Option<PathBuf>,
    /// Write all numbers as JSON to a file; without FILE to stdout, in place of the tables
    #[arg(long, value_name = "FILE", help_heading = "Output", num_args = 0..=1,
        default_missing_value = "-")]
    pub json: Option<PathBuf>,
    /// Neither progress nor messages on stderr; errors stay
    #[arg(long, short, help_heading = "Output")]
    pub quiet: bool,
}

/// Options by which a study is about other prompts than one's own. What belongs to `--clean`
/// conflicts with them by itself: the parser forgets that it needs `--clean`, once that conflicts
/// with something given.
const OTHER_PROMPTS: [&str; 3] = ["task", "prompts", "pairs"];

/// Which prompts a study is about: those of a built-in task, or anyone's.
#[derive(Args, Clone, Debug)]
pub struct PromptArgs {
    /// A built-in task that draws the prompts [default: ioi]
    #[arg(long, value_enum, value_name = "NAME", help_heading = "Prompts",
        conflicts_with_all = ["clean", "pairs"])]
    pub task: Option<TaskName>,
    /// How many prompts of the task or of the file
    #[arg(long, value_name = "N", help_heading = "Prompts", conflicts_with = "clean",
        value_parser = numbers::prompts::<u32>())]
    pub prompts: Option<u32>,
    /// Seed of whatever is drawn
    #[arg(long, help_heading = "Prompts", default_value_t = 0,
        value_parser = numbers::from_0::<u64>())]
    pub seed: u64,
    /// Your own prompt, up to where the answer begins
    #[arg(
        long,
        value_name = "TEXT",
        help_heading = "Prompts",
        requires = "answer"
    )]
    pub clean: Option<String>,
    /// The same with what matters changed: as many tokens, unless a study aligns them
    #[arg(long, value_name = "TEXT", help_heading = "Prompts", requires = "clean",
        conflicts_with_all = OTHER_PROMPTS)]
    pub corrupted: Option<String>,
    /// The right answer, usually with its space: " Mary"; may be given several times. Of several
    /// tokens, the probability of all of them is measured
    #[arg(long, value_name = "TEXT", help_heading = "Prompts", requires = "clean",
        conflicts_with_all = OTHER_PROMPTS)]
    pub answer: Vec<String>,
    /// A wrong answer, the corrupted prompt's: " John"; may be given several times
    #[arg(long, value_name = "TEXT", help_heading = "Prompts", requires = "clean",
        conflicts_with_all = OTHER_PROMPTS)]
    pub wrong: Vec<String>,
    /// Take only the first token of answers of several tokens
    #[arg(long, help_heading = "Prompts", requires = "clean", conflicts_with_all = OTHER_PROMPTS)]
    pub first_token: bool,
    /// A file of prompt pairs: JSON, JSON lines or CSV (see `patchlens --help`)
    #[arg(
        long,
        value_name = "FILE",
        help_heading = "Prompts",
        conflicts_with = "clean"
    )]
    pub pairs: Option<PathBuf>,
    /// Begin every prompt with the begin-of-text token
    #[arg(long, help_heading = "Prompts")]
    pub bos: bool,
    /// What is measured at the last position [default: logit-diff; without wrong answers log-prob]
    #[arg(long, value_enum, value_name = "NAME", help_heading = "Prompts")]
    pub metric: Option<MetricName>,
}

/// Says in a study's help how many prompts there are by default: so many of a task.
pub fn prompts_by_default(n: u32) -> impl FnOnce(Arg) -> Arg {
    move |prompts| {
        prompts.help(format!(
            "How many prompts of the task or of the file [default: {n} of a task, all of a file]"
        ))
    }
}

/// The built-in tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TaskName {
    /// Indirect object identification: "When Mary and John went to the store, John gave a drink
    /// to" -> Mary
    Ioi,
    /// "The war lasted from the year 1732 to the year 17" -> above 32
    GreaterThan,
    /// Which thing goes with a name, read from the prompt itself
    KeyValue,
    /// "Ada Brown plays the sport of" -> tennis (invented facts, for the shipped model)
    Facts,
}

/// What a study measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MetricName {
    /// Mean logit of the right answers minus mean logit of the wrong ones
    LogitDiff,
    /// Largest logit of a right answer minus largest logit of a wrong one
    LogitDiffMax,
    /// Log-odds of the right answers against the wrong ones, in nats
    LogOdds,
    /// Log-probability of the right answer, in nats
    LogProb,
    /// Total probability of the right answers minus that of the wrong ones
    Prob,
    /// KL divergence from the clean run's distribution, in nats
    Kl,
    /// Jensen-Shannon divergence from the clean run's distribution, in nats
    Js,
    /// Whether the right answer is the likeliest: 1 or 0
    Accuracy,
}
