//! Prompts that the built-in tasks draw.

use anyhow::Result;
use clap::ValueEnum as _;
use patchlens::tasks::{
    Facts, GreaterThan, GreaterThanPrompt, Ioi, IoiPrompt, KeyValue, KeyValuePair, Split,
};
use patchlens::{Prompt, Prompts, Tokenizer};

use super::{Questions, Takes};
use crate::options::{MetricName, PromptArgs, TaskName};
use crate::usage::usage;

impl Questions {
    /// Prompts that a built-in task draws.
    pub(super) fn task(args: &PromptArgs, takes: Takes, tokenizer: &Tokenizer) -> Result<Self> {
        let task = args.task.unwrap_or(takes.tasks[0]);
        if !takes.tasks.contains(&task) {
            let names: Vec<String> = takes.tasks.iter().map(|task| name(*task)).collect();
            let (found, expected) = (name(task), names.join(" or "));
            return Err(usage(format!(
                "--task: found {found}; expected {expected} here"
            )));
        }
        let n = args.prompts.unwrap_or(takes.prompts) as usize;
        let mut questions = match task {
            TaskName::Ioi => ioi(args, takes, tokenizer, n)?,
            TaskName::GreaterThan => greater_than(args, tokenizer, n)?,
            TaskName::KeyValue => key_value(args, tokenizer, n)?,
            TaskName::Facts => facts(args, tokenizer, n)?,
        };
        questions.seed = Some(args.seed);
        questions.source = format!("{}, seed {}", name(task), args.seed);
        Ok(questions)
    }
}

/// The name of a task as an option has it.
fn name(task: TaskName) -> String {
    let value = task.to_possible_value().expect("no task is hidden");
    value.get_name().to_string()
}

fn ioi(args: &PromptArgs, takes: Takes, tokenizer: &Tokenizer, n: usize) -> Result<Questions> {
    // Pairs of names that the shipped model never saw together.
    let mut ioi = Ioi::new(tokenizer)?.split(Split::HeldOut)?;
    if args.bos {
        ioi = ioi.with_bos()?;
    }
    if let Some(template) = takes.template {
        ioi = ioi.template(template)?;
    }
    let (clean, corrupted): (Vec<IoiPrompt>, Vec<IoiPrompt>) = if takes.corrupted {
        let pairs = ioi.pairs(n, takes.corruption, args.seed)?;
        pairs.into_iter().map(|p| (p.clean, p.corrupted)).unzip()
    } else {
        (ioi.prompts(n, args.seed)?, Vec::new())
    };
    let answers: Vec<_> = clean.iter().map(|p| (vec![p.io], vec![p.s])).collect();
    let mut questions = Questions::drawn(&clean, &corrupted, answers)?;
    if takes.template.is_some() {
        questions.labels = Some(ioi_labels(&clean));
    }
    Ok(questions)
}

/// Names of the positions of IOI prompts of one template.
fn ioi_labels(clean: &[IoiPrompt]) -> Vec<String> {
    let first = &clean[0];
    let mut labels = first.prompt.labels.clone();
    for (position, label) in labels.iter_mut().enumerate() {
        let same = |p: &IoiPrompt| p.prompt.labels[position] == first.prompt.labels[position];
        if !clean.iter().all(same) {
            label.push('…');
        }
    }
    let roles = first.positions;
    // Both orders of the names occur, so the first two roles are named by place.
    labels[roles.io.min(roles.s1)] = "name1".to_string();
    labels[roles.io.max(roles.s1)] = "name2".to_string();
    labels[roles.s2] = "S2".to_string();
    labels[roles.end] = format!("END:{}", labels[roles.end].trim_start());
    labels
}

fn greater_than(args: &PromptArgs, tokenizer: &Tokenizer, n: usize) -> Result<Questions> {
    let mut task = GreaterThan::new(tokenizer)?.split(Split::HeldOut)?;
    if args.bos {
        task = task.with_bos()?;
    }
    let (clean, corrupted): (Vec<_>, Vec<_>) = task
        .pairs(n, args.seed)?
        .into_iter()
        .map(|[clean, corrupted]| (clean, corrupted))
        .unzip();
    let sets = |p: &GreaterThanPrompt| (p.later().to_vec(), p.not_later().to_vec());
    let answers = clean.iter().map(sets).collect();
    let mut questions = Questions::drawn(&clean, &corrupted, answers)?;
    questions.metric = Some(MetricName::Prob);
    Ok(questions)
}

/// Names and things of the key-value task.
const KEYS: &str = "Mary John Tom James Dan Amy Alice David Sarah Robert";
const VALUES: &str = "ring bone computer necklace drink snack bag ball book";
/// Examples in one of its prompts.
const SHOTS: usize = 4;

/// Pairs of prompts with a mapping of names to things, of which each prompt has its own.
///
/// # Errors
/// If the vocabulary lacks the words, or for too few or too many examples.
pub fn key_value_pairs(
    tokenizer: &Tokenizer,
    n: usize,
    shots: usize,
    seed: u64,
    bos: bool,
) -> Result<Vec<KeyValuePair>> {
    let tokens = |words: &str| -> Vec<u32> {
        let token = |word| tokenizer.token(&format!(" {word}")).ok();
        words.split(' ').filter_map(token).collect()
    };
    let end = tokenizer.encode(".")?.tokens;
    let mut task = KeyValue::new(tokens(KEYS), tokens(VALUES), Vec::new(), end)?;
    if bos {
        task = task.with_bos(tokenizer.bos()?);
    }
    Ok(task.labelled_by(tokenizer).pairs(n, shots, seed)?)
}

fn key_value(args: &PromptArgs, tokenizer: &Tokenizer, n: usize) -> Result<Questions> {
    let pairs = key_value_pairs(tokenizer, n, SHOTS, args.seed, args.bos)?;
    let answers = pairs.iter().map(|p| (vec![p.answer], vec![p.other]));
    let clean: Vec<Prompt> = pairs.iter().map(|p| p.clean.clone()).collect();
    let corrupted: Vec<Prompt> = pairs.iter().map(|p| p.corrupted.clone()).collect();
    Questions::drawn(&clean, &corrupted, answers.collect())
}

fn facts(args: &PromptArgs, tokenizer: &Tokenizer, n: usize) -> Result<Questions> {
    let mut facts = Facts::new(tokenizer)?.split(Split::Train);
    if args.bos {
        facts = facts.with_bos()?;
    }
    let clean = facts.prompts(n, args.seed)?;
    let answers = clean.iter().map(|fact| (vec![fact.attribute], Vec::new()));
    let answers = answers.collect();
    Questions::drawn(&clean, &[], answers)
}

impl Questions {
    fn drawn<'p, P>(
        clean: &'p [P],
        corrupted: &'p [P],
        answers: Vec<(Vec<u32>, Vec<u32>)>,
    ) -> Result<Self>
    where
        Prompt: From<&'p P>,
    {
        Ok(Questions {
            source: String::new(),
            clean: Prompts::new(clean)?,
            corrupted: corrupted.iter().map(Prompt::from).collect(),
            answers,
            labels: None,
            metric: None,
            whole: None,
            seed: None,
        })
    }
}
