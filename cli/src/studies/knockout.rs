//! Attention knock-out: what the last token must read to recall a fact, and in which layers.

use anyhow::Result;
use clap::Args;
use patchlens::Prompts;
use patchlens::knockout::{AttentionKnockout, DEFAULT_WINDOW, cuts_of_facts};
use patchlens::metric::probability;
use patchlens::report::{Labelled, RankedCell};
use patchlens::tracing::TracedFact;

use crate::facts::{FactArgs, window};
use crate::interrupt;
use crate::missing::not_run;
use crate::numbers;
use crate::options::Common;
use crate::session::{Session, costs};
use crate::usage::usage;
use crate::work::Divided;

/// Attention knock-out: what must the last token read, and in which layers?
///
/// In a window of layers around each, the last token's attention to the subject, to the other
/// tokens, or to itself is cut in all heads (Geva et al. 2023). What is shown is the change of the
/// probability of the model's own answer, in percent.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  patchlens knockout --out study
  patchlens knockout --clean \"Ada Brown plays the sport of\" --subject \"Ada Brown\" --answer \" boxing\"
  patchlens knockout --facts known_1000.json --model weights/gpt2")]
pub struct Knockout {
    #[command(flatten)]
    pub common: Common,
    #[command(flatten)]
    pub divided: Divided,
    #[command(flatten)]
    facts: FactArgs,
    /// Layers that are cut at once, cut off at the model's ends [default: 9, or a quarter of fewer
    /// than 36 layers]
    #[arg(long, value_name = "N", value_parser = numbers::from_1::<usize>())]
    window: Option<usize>,
}

impl Knockout {
    /// Runs the study.
    ///
    /// # Errors
    /// For facts that cannot run; `EndedEarly` after Ctrl-C.
    pub fn run(&self, session: &Session) -> Result<()> {
        let (output, model) = (&session.output, &session.model);
        output.say(format_args!("Model: {}", output.model()))?;
        let (facts, _) = self
            .facts
            .read(&session.tokenizer, session.shipped, &session.output)?;
        let facts: Vec<TracedFact> = facts.into_iter().map(|fact| fact.traced).collect();
        single_tokens(&facts)?;
        let window = window(self.window, DEFAULT_WINDOW, model.config().n_layers);
        let costs = costs(facts.iter().map(|fact| fact.prompt.len()), false);
        let facts = &facts[session.work.begin(model, &costs)?];
        let prompts = Prompts::new(facts.iter().map(|fact| &fact.prompt))?;
        let study = AttentionKnockout::new(model, &prompts)?
            .window(window)
            .memory_limit(session.memory)
            .journal(session.work.journal())
            .observe(session.progress.observer("cutting attention"));
        let answers = study.base().likeliest()?;
        let right = facts.iter().zip(&answers);
        let right = right.filter(|(fact, answer)| fact.attribute.as_deref() == Some(&[**answer]));
        output.say(format_args!(
            "The model's own answer is measured; it is the right one for {} of {}.",
            right.count(),
            facts.len()
        ))?;
        let found = study.run(&cuts_of_facts(facts)?, &probability(&answers))?;
        session.work.last_step()?;
        let relative = found.relative()?;
        output.table(&relative)?;
        output.keep("relative", &relative)?;
        output.number("effect", &found.effect)?;
        output.number("raw", found.raw())?;
        output.say(conclusion(&relative))?;
        interrupt::check()
    }
}

/// Checks that the facts' answers are single tokens: the model's likeliest next one is measured.
fn single_tokens(facts: &[TracedFact]) -> Result<()> {
    let answers = facts.iter().filter_map(|fact| fact.attribute.as_ref());
    match answers.map(Vec::len).find(|n| *n > 1) {
        None => Ok(()),
        Some(n) => Err(usage(format!(
            "--answer: found {n} tokens; expected one, since the model's likeliest next token is \
             measured"
        ))),
    }
}

/// The layer in which each cut costs most.
fn conclusion(relative: &Labelled) -> String {
    let cuts = relative.axes()[0].labels.iter().enumerate();
    let line = |(i, cut): (usize, &String)| {
        let layers = 0..relative.values().shape()[1];
        let cells = layers.map(|layer| relative.cell(&[i, layer]));
        let cells: Vec<RankedCell> = cells.collect();
        let all = cells.iter().all(|cell| cell.absent.is_none());
        let cell = cells.iter().min_by(|a, b| a.value.total_cmp(&b.value))?;
        Some(if cell.value < -2.0 * cell.std_error.unwrap_or(0.0) {
            format!("  {cut}: around {}, {cell:+.0} %", cell.labels[1])
        } else if all {
            format!("  {cut}: in no layer, beyond two standard errors")
        } else {
            format!("  {cut}: not known")
        })
    };
    let mut lines = vec!["What the last token must read:".to_string()];
    lines.extend(cuts.filter_map(line));
    lines.extend(not_run(relative).map(|missing| format!("  {missing}")));
    lines.join("\n")
}
