//! The prompts that a study is about, with right and wrong answers: of a built-in task, of a file,
//! or given as options.

mod answers;
mod tasks;

use std::collections::BTreeMap;
use std::ops::Range;

use anyhow::{Context, Result, ensure};
use patchlens::metric::{
    Reduce, accuracy, js_divergence, kl_divergence, log_probability, logit_diff_sets,
    probability_diff,
};
use patchlens::report::Labelled;
use patchlens::tasks::{Corruption, PairFile, PromptPair};
use patchlens::{Metric, Prompt, Prompts, Tokenizer};

pub use tasks::key_value_pairs;

use crate::options::{MetricName, PromptArgs, TaskName};
use crate::output::Output;
use crate::usage::usage;

/// What a study takes.
#[derive(Clone, Copy, Debug)]
pub struct Takes {
    /// Built-in tasks, the first by default.
    pub tasks: &'static [TaskName],
    /// How many prompts of a task by default.
    pub prompts: u32,
    /// How IOI prompts are corrupted.
    pub corruption: Corruption,
    /// The one IOI template to use, so that positions have one meaning.
    pub template: Option<usize>,
    /// Whether it needs corrupted prompts.
    pub corrupted: bool,
    /// Whether it needs wrong answers.
    pub wrong: bool,
    /// Whether the two prompts of a pair may differ in length.
    pub unequal: bool,
}

impl Takes {
    /// Prompts with answers, whatever the task, and no corrupted ones.
    pub const ANSWERS: Takes = Takes {
        tasks: &[
            TaskName::Ioi,
            TaskName::GreaterThan,
            TaskName::KeyValue,
            TaskName::Facts,
        ],
        prompts: 50,
        corruption: Corruption::Aba,
        template: None,
        corrupted: false,
        wrong: false,
        unequal: false,
    };
}

/// Prompts and their answers; all lists have one entry per prompt.
#[derive(Clone, Debug)]
pub struct Questions {
    /// Where they are from, as a line says it.
    pub source: String,
    pub clean: Prompts,
    /// Empty if the study needs none.
    pub corrupted: Vec<Prompt>,
    /// Right and wrong tokens; none beside `whole`.
    pub answers: Vec<(Vec<u32>, Vec<u32>)>,
    /// Names of positions that all prompts share.
    pub labels: Option<Vec<String>>,
    /// What is measured unless an option says otherwise; by default what the answers allow.
    metric: Option<MetricName>,
    /// The answers, measured as a whole, if one of them has several tokens.
    whole: Option<Vec<Vec<u32>>>,
    /// Where chance took part.
    pub seed: Option<u64>,
}

impl Questions {
    /// Collects what the options ask for.
    ///
    /// # Errors
    /// For options that this study does not take, texts that the tokenizer cannot tell, and files
    /// that are no pairs.
    pub fn new(
        args: &PromptArgs,
        takes: Takes,
        tokenizer: &Tokenizer,
        output: &Output,
    ) -> Result<Self> {
        let questions = match (&args.clean, &args.pairs) {
            (Some(_), _) => Questions::own(args, takes, tokenizer)?,
            (None, Some(_)) => Questions::file(args, takes, tokenizer, output)?,
            (None, None) => Questions::task(args, takes, tokenizer)?,
        };
        output.number("prompts", questions.source.clone())?;
        Ok(questions)
    }

    /// The one pair of the options.
    fn own(args: &PromptArgs, takes: Takes, tokenizer: &Tokenizer) -> Result<Self> {
        let clean = args.clean.as_deref().unwrap_or_default();
        for (needed, option, given) in [
            (takes.corrupted, "--corrupted", args.corrupted.is_some()),
            (takes.wrong, "--wrong", !args.wrong.is_empty()),
        ] {
            if needed && !given {
                return Err(usage(format!("--clean needs {option} here")));
            }
        }
        if !takes.corrupted && args.corrupted.is_some() {
            return Err(usage(
                "--corrupted is not used here: only the clean prompt is",
            ));
        }
        let pair = answers::pair(args, clean, tokenizer)?;
        if let Some(twice) = answers::twice(&pair, tokenizer) {
            return Err(usage(format!("--answer, --wrong: {twice}")));
        }
        let unequal = pair.corrupted.as_ref();
        let unequal = unequal.filter(|_| !takes.unequal && !pair.is_equal_length());
        if let Some(corrupted) = unequal {
            anyhow::bail!(
                "--corrupted: found {} tokens {:?}; expected {} as --clean has, so that positions \
                 correspond: {:?}",
                corrupted.len(),
                corrupted.labels,
                pair.clean.len(),
                pair.clean.labels
            );
        }
        Questions::of_pairs("--clean".to_string(), vec![pair], None)
    }

    /// The pairs of a file, those left out told on stderr.
    fn file(
        args: &PromptArgs,
        takes: Takes,
        tokenizer: &Tokenizer,
        output: &Output,
    ) -> Result<Self> {
        let path = args.pairs.as_deref().context("--pairs was given")?;
        let mut file = PairFile::open(path, tokenizer, args.bos)?;
        let name = path.display().to_string();
        let mut left_out: Vec<String> = file.skipped.iter().map(ToString::to_string).collect();
        file.pairs.retain(|pair| {
            let twice = answers::twice(pair, tokenizer);
            let told = |twice| format!("pair {}: {twice}", pair.index);
            left_out.extend(twice.clone().map(told));
            twice.is_none()
        });
        if takes.corrupted {
            if !takes.unequal {
                let unequal = file.unequal().into_iter();
                left_out.extend(unequal.map(|pair| format!("{pair}; expected as many")));
            }
            file.pairs.retain(|pair| {
                if pair.corrupted.is_none() {
                    left_out.push(format!("pair {}: no corrupted prompt", pair.index));
                }
                pair.corrupted.is_some() && (takes.unequal || pair.is_equal_length())
            });
        }
        if takes.wrong {
            file.pairs.retain(|pair| {
                if pair.wrong_answers.is_empty() {
                    left_out.push(format!("pair {}: no wrong answer", pair.index));
                }
                !pair.wrong_answers.is_empty()
            });
        }
        tell_left_out(&name, &left_out, &file.ignored, output)?;
        ensure!(
            !file.pairs.is_empty(),
            "{name}: found no usable pair among {}: {}",
            left_out.len(),
            left_out.first().map_or("none at all", String::as_str)
        );
        if let Some(n) = args.prompts {
            file.pairs.truncate(n as usize);
        }
        let labels = file.labels.take();
        Questions::of_pairs(name, file.pairs, labels)
    }

    fn of_pairs(
        source: String,
        pairs: Vec<PromptPair>,
        labels: Option<Vec<String>>,
    ) -> Result<Self> {
        let whole = answers::whole(&pairs);
        let (mut clean, mut corrupted, mut answers) = (Vec::new(), Vec::new(), Vec::new());
        for pair in pairs {
            clean.push(pair.clean);
            corrupted.extend(pair.corrupted);
            answers.push((pair.answers, pair.wrong_answers));
        }
        let clean = Prompts::new(clean)?;
        let labels = labels.filter(|labels| clean.common_len() == Some(labels.len()));
        Ok(Questions {
            source,
            clean,
            corrupted,
            answers,
            labels,
            metric: None,
            whole,
            seed: None,
        })
    }
}

impl Questions {
    /// Some of the questions.
    ///
    /// # Errors
    /// For none.
    pub fn some(self, which: Range<usize>) -> Result<Self> {
        if which == (0..self.clean.len()) {
            return Ok(self);
        }
        let corrupted = self.corrupted.get(which.clone()).map(<[_]>::to_vec);
        Ok(Questions {
            clean: Prompts::new(&self.clean.as_slice()[which.clone()])?,
            corrupted: corrupted.unwrap_or_default(),
            answers: self.answers[which.clone()].to_vec(),
            whole: self.whole.map(|answers| answers[which].to_vec()),
            ..self
        })
    }

    /// The right answer of each prompt, where there is one.
    fn only_right(&self) -> Vec<u32> {
        self.answers.iter().map(|(right, _)| right[0]).collect()
    }

    /// What is measured.
    ///
    /// # Errors
    /// For a metric that the answers do not allow.
    pub fn metric(&self, asked: Option<MetricName>) -> Result<Metric> {
        Ok(self.measured(self.measure(asked)?))
    }

    /// Which metric is measured. It depends on the answers of all prompts: of a part of the work,
    /// it is chosen before the others are left out.
    ///
    /// # Errors
    /// For a metric that the answers do not allow.
    pub fn measure(&self, asked: Option<MetricName>) -> Result<MetricName> {
        if self.whole.is_some() {
            return answers::measure(asked);
        }
        let wrong = self.answers.iter().all(|(_, wrong)| !wrong.is_empty());
        let one = self.answers.iter().all(|(right, _)| right.len() == 1);
        let by_answers = match (wrong, one) {
            (true, _) => MetricName::LogitDiff,
            (false, true) => MetricName::LogProb,
            (false, false) => MetricName::Prob,
        };
        let metric = asked.or(self.metric).unwrap_or(by_answers);
        match metric {
            MetricName::LogitDiff | MetricName::LogitDiffMax | MetricName::LogOdds if !wrong => {
                Err(usage(
                    "--metric: a difference of logits needs wrong answers (--wrong)",
                ))
            }
            MetricName::Accuracy if !one => Err(usage(
                "--metric accuracy: found several right answers; expected one, or --metric prob",
            )),
            MetricName::LogProb if !one => Err(usage(
                "--metric log-prob: found several right answers; expected one, or --metric prob",
            )),
            allowed => Ok(allowed),
        }
    }

    /// The metric of a name that [`Questions::measure`] gave.
    pub fn measured(&self, metric: MetricName) -> Metric {
        if let Some(answers) = &self.whole {
            return answers::metric(answers, metric);
        }
        match metric {
            MetricName::LogitDiff => logit_diff_sets(&self.answers, Reduce::Mean),
            MetricName::LogitDiffMax => logit_diff_sets(&self.answers, Reduce::Max),
            MetricName::LogOdds => logit_diff_sets(&self.answers, Reduce::LogSumExp),
            MetricName::Prob => probability_diff(&self.answers),
            MetricName::Kl => kl_divergence(),
            MetricName::Js => js_divergence(),
            MetricName::Accuracy => accuracy(&self.only_right()),
            MetricName::LogProb => log_probability(&self.only_right()),
        }
    }

    /// Checks that answers are single tokens, for studies that cannot measure longer ones.
    ///
    /// # Errors
    /// For an answer of several tokens.
    pub fn single_tokens(&self) -> Result<()> {
        let longest = self
            .whole
            .iter()
            .flatten()
            .max_by_key(|answer| answer.len());
        match longest {
            None => Ok(()),
            Some(answer) => Err(usage(format!(
                "an answer: found {} tokens; expected one here, or --first-token with --clean",
                answer.len()
            ))),
        }
    }

    /// A result that tells the seed of its prompts.
    pub fn seeded(&self, result: &Labelled) -> Labelled {
        let mut result = result.clone();
        result.about.seed = result.about.seed.or(self.seed);
        result
    }

    /// `14 tokens (pairs 0, 2), 15 tokens (pair 1)`: how long which prompts are.
    pub fn lengths(&self) -> String {
        let mut lengths: BTreeMap<usize, Vec<String>> = BTreeMap::new();
        for (i, prompt) in self.clean.iter().enumerate() {
            lengths.entry(prompt.len()).or_default().push(i.to_string());
        }
        let one = |(length, pairs): (&usize, &Vec<String>)| {
            format!("{length} tokens (pairs {})", pairs.join(", "))
        };
        lengths.iter().map(one).collect::<Vec<_>>().join(", ")
    }

    /// The right answer of a prompt, and its first wrong one, as texts.
    pub fn answer_texts(&self, prompt: usize, tokenizer: &Tokenizer) -> [String; 2] {
        let texts = |tokens: &[u32]| {
            let text = |token: &u32| format!("`{}`", tokenizer.token_text(*token));
            let shown: Vec<String> = tokens.iter().take(3).map(text).collect();
            let more = tokens.len().saturating_sub(shown.len());
            match (shown.is_empty(), more) {
                (true, _) => "none".to_string(),
                (false, 0) => shown.join(", "),
                (false, _) => format!("{} and {more} more", shown.join(", ")),
            }
        };
        if let Some(answers) = &self.whole {
            let text = answers[prompt]
                .iter()
                .map(|token| tokenizer.token_text(*token));
            return [format!("`{}`", text.collect::<String>()), texts(&[])];
        }
        let (right, wrong) = &self.answers[prompt];
        [texts(right), texts(wrong)]
    }
}

/// How many of a file's entries are told one by one.
const TOLD: usize = 10;

/// Says which entries of a file are left out, and why.
fn tell_left_out(
    name: &str,
    left_out: &[String],
    ignored: &[String],
    output: &Output,
) -> Result<()> {
    for entry in left_out.iter().take(TOLD) {
        output.note(format_args!("{name}, {entry}: left out"));
    }
    if left_out.len() > TOLD {
        let more = left_out.len() - TOLD;
        output.note(format_args!("{name}: {more} more left out, see --json"));
    }
    if !ignored.is_empty() {
        output.note(format_args!("{name}: not read: {}", ignored.join(", ")));
    }
    output.number("left_out", left_out)
}
