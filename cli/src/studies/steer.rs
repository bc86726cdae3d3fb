//! Steering: a direction that makes the model answer with one word, its dose-response curve by
//! layer, and its effect on generated text.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use clap::Args;
use patchlens::generate::Generation;
use patchlens::metric::log_probability;
use patchlens::report::Labelled;
use patchlens::steering::{DoseResponse, Steering};
use patchlens::tasks::{Corruption, Ioi, IoiPrompt, Split};
use patchlens::{HookPoint, Interventions, Prompt, Prompts, Select, Site};

use crate::interrupt;
use crate::numbers;
use crate::options::{Common, PromptArgs, TaskName, prompts_by_default};
use crate::questions::{Questions, Takes};
use crate::session::Session;
use crate::usage::usage;
use crate::work::Kept;

/// Steering: add a direction that makes the model give one answer
///
/// The direction is a difference of means of the residual stream at the last position: prompts
/// with that answer minus others. It is added at one layer at a time, at several scales. On your
/// own prompts it points from the corrupted prompts to the clean ones, and is tried on the
/// corrupted ones.
#[derive(Args, Clone, Debug)]
#[command(mut_arg("prompts", prompts_by_default(TAKES.prompts)))]
#[command(after_help = "\
Examples:
  patchlens steer --out study
  patchlens steer --scales 0,1,2,4,8
  patchlens steer --pairs pairs.json --model weights/gpt2 --tokens 10")]
pub struct Steer {
    #[command(flatten)]
    pub common: Common,
    #[command(flatten)]
    pub kept: Kept,
    #[command(flatten)]
    prompts: PromptArgs,
    /// Prompts of the task that it is tried on [default: 40]
    #[arg(long, value_name = "N", conflicts_with_all = ["clean", "pairs"],
        value_parser = numbers::prompts::<u32>())]
    tries: Option<u32>,
    /// Scales of the direction, separated by commas; 1 moves the mean of other prompts onto that
    /// of the answer's
    #[arg(
        long,
        value_name = "S,S,...",
        value_delimiter = ',',
        allow_hyphen_values = true,
        value_parser = numbers::finite,
        default_value = "-2,-1,0,0.5,1,1.5,2,3,4"
    )]
    scales: Vec<f32>,
    /// Tokens to generate
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = numbers::from_1::<usize>())]
    tokens: usize,
}

const TAKES: Takes = Takes {
    tasks: &[TaskName::Ioi],
    prompts: 400,
    corruption: Corruption::Aba,
    template: None,
    corrupted: true,
    wrong: false,
    unequal: false,
};

/// What the direction is made from, and what it is tried on.
struct Sets {
    towards: Prompts,
    away: Prompts,
    tries: Prompts,
    /// The answer that it steers to.
    answer: u32,
    /// What the direction is, in words.
    direction: String,
}

impl Steer {
    /// Runs the study.
    ///
    /// # Errors
    /// For prompts that cannot run; `EndedEarly` after Ctrl-C.
    pub fn run(&self, session: &Session) -> Result<()> {
        let (output, model) = (&session.output, &session.model);
        if self.prompts.metric.is_some() {
            let why = "--metric is not used here: the answer's log-probability is measured";
            return Err(usage(why));
        }
        let own = self.prompts.clean.is_some() || self.prompts.pairs.is_some();
        let sets = if own {
            self.own(session)?
        } else {
            self.names(session)?
        };
        let answer = session.tokenizer.token_text(sets.answer);
        let points: Vec<HookPoint> = (0..model.config().n_layers)
            .map(|l| Site::ResidPost.at(l))
            .collect();
        let (towards, away) = (&sets.towards, &sets.away);
        let steering = Steering::difference_of_means(model, towards, away, &points, Select::Last)?;
        let steering = steering.at_positions(Select::Last);
        let metric = log_probability(&[sets.answer]);
        session.work.begin(model, &[])?;
        let doses = DoseResponse::new(model, &sets.tries, &steering)?
            .by_point(true)
            .memory_limit(session.memory)
            .journal(session.work.journal())
            .observe(session.progress.observer("dose and response"));
        let found = doses.run(&self.scales, &metric)?;
        drop(doses);
        let told = |table: &Labelled, what: &str| {
            let mut table = table.clone();
            table.about.title = format!("Steering towards `{answer}`, one layer at a time: {what}");
            table.about.caption = format!("{} {}", sets.direction, table.about.caption);
            table.about.seed.get_or_insert(self.prompts.seed);
            table
        };
        let curve = told(&found.effect, "change against the unsteered run");
        let raw = told(found.raw(), "raw log-probability");
        output.say(curve.curves()?)?;
        output.keep("steering_by_layer", &curve)?;
        output.number("steering_by_layer_raw", &raw)?;
        interrupt::check()?;

        let (point, scale, best) = best(&raw, &points, &self.scales)?;
        let (_, direction) = &steering.directions[point];
        let one = Steering::new(vec![(points[point], direction.clone())])?;
        self.generate(
            session,
            &sets.tries[0],
            &one.at_positions(Select::Last),
            scale,
        )?;
        let before = raw.about.baselines["unsteered"];
        output.say(format_args!(
            "Adding {scale} × the direction at {} takes the mean log-probability of `{answer}` on \
             {} other prompts from {before:.2} to {best:.2} nats.\n{}",
            points[point],
            sets.tries.len(),
            why(best)
        ))
    }

    /// IOI prompts answered by the most frequent name, and others.
    fn names(&self, session: &Session) -> Result<Sets> {
        let (output, tokenizer, seed) = (&session.output, &session.tokenizer, self.prompts.seed);
        let ioi = if self.prompts.bos {
            Ioi::new(tokenizer)?.with_bos()?
        } else {
            Ioi::new(tokenizer)?
        };
        let n = self.prompts.prompts.unwrap_or(TAKES.prompts) as usize;
        let drawn = ioi.clone().split(Split::Train)?.prompts(n, seed)?;
        let answer = most_frequent(&drawn)?;
        let text = tokenizer.token_text(answer);
        let (yes, no): (Vec<_>, Vec<_>) = drawn.iter().partition(|p| p.io == answer);
        let direction = format!(
            "The direction is the mean residual stream at the last position of {} prompts \
             answered by `{text}` minus that of {} answered by other names.",
            yes.len(),
            no.len()
        );
        let n = self.tries.unwrap_or(40) as usize;
        let held_out = ioi.split(Split::HeldOut)?.prompts(n, seed)?;
        let others: Vec<_> = held_out.iter().filter(|p| p.io != answer).collect();
        let dropped = match held_out.len() - others.len() {
            0 => String::new(),
            n => format!(
                " of {}; left out: {n} answered by `{text}` anyway",
                held_out.len()
            ),
        };
        output.say(&direction)?;
        output.say(format_args!(
            "Held-out prompts it is tried on: {}{dropped}.\n",
            others.len()
        ))?;
        output.number("prompts", format!("ioi, seed {seed}"))?;
        Ok(Sets {
            towards: Prompts::new(yes)?,
            away: Prompts::new(no)?,
            tries: Prompts::new(others)?,
            answer,
            direction,
        })
    }

    /// From the corrupted prompts to the clean ones, all of which have one answer.
    fn own(&self, session: &Session) -> Result<Sets> {
        let (output, tokenizer) = (&session.output, &session.tokenizer);
        let questions = Questions::new(&self.prompts, TAKES, tokenizer, output)?;
        questions.single_tokens()?;
        session.introduce(&questions)?;
        let answer = questions.answers[0].0[0];
        let same = |(right, _): &(Vec<u32>, Vec<u32>)| *right == [answer];
        if let Some(i) = questions.answers.iter().position(|answers| !same(answers)) {
            let [right, _] = questions.answer_texts(i, tokenizer);
            let [first, _] = questions.answer_texts(0, tokenizer);
            anyhow::bail!(
                "steering needs one right answer for all prompts: prompt 0 has {first}, prompt {i} \
                 {right}"
            );
        }
        Ok(Sets {
            direction: format!(
                "The direction is the mean residual stream at the last position of {0} clean \
                 prompts minus that of their {0} corrupted ones.",
                questions.clean.len()
            ),
            towards: questions.clean,
            away: Prompts::new(&questions.corrupted)?,
            tries: Prompts::new(&questions.corrupted)?,
            answer,
        })
    }

    /// Prints the continuation of a prompt without and with steering.
    fn generate(
        &self,
        session: &Session,
        prompt: &Prompt,
        steering: &Steering,
        scale: f32,
    ) -> Result<()> {
        let (output, model, tokenizer) = (&session.output, &session.model, &session.tokenizer);
        let room = model.config().n_ctx + 1 - prompt.len();
        let generation = Generation::greedy(self.tokens.min(room));
        let mut hooks = Interventions::new(steering.interventions(scale)?);
        let plain = model.generate(prompt, (), &generation)?;
        let steered = model.generate(prompt, &mut hooks, &generation)?;
        let text = |tokens: &[u32]| tokenizer.readable(tokens);
        output.say(text(&prompt.tokens)?)?;
        output.say(format_args!(
            "  unsteered:{}\n  steered:  {}",
            text(plain[0].new_tokens())?,
            text(steered[0].new_tokens())?
        ))?;
        output.say(format_args!("  {}", hooks.receipt()))
    }
}

/// The most frequent answer; among equals the lowest id.
fn most_frequent(drawn: &[IoiPrompt]) -> Result<u32> {
    let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
    drawn
        .iter()
        .for_each(|prompt| *counts.entry(prompt.io).or_default() += 1);
    let most = counts
        .iter()
        .max_by_key(|(name, count)| (**count, std::cmp::Reverse(**name)));
    Ok(*most.context("no prompts")?.0)
}

/// Index of the point, scale and value where the smallest scale makes the name likelier than all
/// other tokens together, the likeliest such point; where none does, those with the highest mean.
fn best(curve: &Labelled, points: &[HookPoint], scales: &[f32]) -> Result<(usize, f32, f32)> {
    let values = curve.values();
    let cells = (0..points.len()).flat_map(|p| (0..scales.len()).map(move |s| (p, s)));
    let cells: Vec<(usize, f32, f32)> =
        cells.map(|(p, s)| (p, scales[s], values[[p, s]])).collect();
    let likely = cells.iter().filter(|cell| cell.2 > 0.5_f32.ln());
    let order = |a: &&(usize, f32, f32), b: &&(usize, f32, f32)| {
        let scales = a.1.abs().total_cmp(&b.1.abs());
        scales.then(b.2.total_cmp(&a.2))
    };
    let smallest = likely.min_by(order);
    let highest = || cells.iter().max_by(|a, b| a.2.total_cmp(&b.2));
    smallest.or_else(highest).copied().context("no cells")
}

/// Why [`best`] chose the scale and the point, given the value there.
fn why(best: f32) -> &'static str {
    if best > 0.5_f32.ln() {
        "It is the smallest scale tried with which the name is, by this mean, likelier than \
             all other tokens together (above -0.69 nats), at the layer where it is likeliest."
    } else {
        "With no scale tried is the name, by this mean, likelier than all other tokens \
             together (above -0.69 nats); this one comes closest."
    }
}
