//! Path patching: which heads act on the answer directly, then which act through their inputs.

use anyhow::{Result, ensure};
use clap::Args;
use patchlens::paths::{PathEffects, PathPatching, PathReceiver, Senders};
use patchlens::report::{Labelled, RankedCell};
use patchlens::tasks::Corruption;
use patchlens::{Head, Metric, Prompts, Qkv, Select};
use serde_json::json;

use crate::interrupt;
use crate::missing::not_run;
use crate::numbers;
use crate::options::{Common, PromptArgs, TaskName, prompts_by_default};
use crate::output::Output;
use crate::questions::{Questions, Takes};
use crate::session::{Session, costs};
use crate::work::{Divided, PartDone};

/// Path patching: which heads raise the metric, found from the logits back
///
/// Every head's and MLP's output on the corrupted prompt is sent along the direct paths into the
/// run on the clean one (Wang et al. 2022, section 3.1): first to the logits, then to the queries
/// and values of the heads that raise the metric most.
#[derive(Args, Clone, Debug)]
#[command(mut_arg("prompts", prompts_by_default(TAKES.prompts)))]
#[command(after_help = "\
Examples:
  patchlens paths --out study
  patchlens paths --movers 2 --freeze-mlps
  patchlens paths --clean \"When Mary and John went to the store, John gave a drink to\" \\
      --corrupted \"When Tom and Ruth went to the store, Paul gave a drink to\" \\
      --answer \" Mary\" --wrong \" John\"")]
pub struct Paths {
    #[command(flatten)]
    pub common: Common,
    #[command(flatten)]
    pub divided: Divided,
    #[command(flatten)]
    prompts: PromptArgs,
    /// How many of the heads that raise the metric most are followed back to their queries and
    /// values
    #[arg(long, value_name = "K", default_value_t = 3,
        value_parser = numbers::whole::<u16>(1..=65_535))]
    movers: u16,
    /// Freeze MLPs too: only the direct path through the residual stream is left
    #[arg(long)]
    freeze_mlps: bool,
}

const TAKES: Takes = Takes {
    tasks: &[TaskName::Ioi, TaskName::GreaterThan, TaskName::KeyValue],
    prompts: 32,
    corruption: Corruption::RandomNames,
    template: None,
    corrupted: true,
    wrong: false,
    unequal: false,
};

impl Paths {
    /// Runs the study.
    ///
    /// # Errors
    /// For prompts that cannot be patched, or where there is nothing to follow back;
    /// `EndedEarly` after Ctrl-C.
    pub fn run(&self, session: &Session) -> Result<()> {
        let (output, model) = (&session.output, &session.model);
        let questions = Questions::new(&self.prompts, TAKES, &session.tokenizer, output)?;
        let metric = questions.metric(self.prompts.metric)?;
        // Whom a step follows back depends on all prompts, whatever part of the work is done here.
        let costs = costs(questions.clean.lengths(), false);
        session.work.begin_together(model, &costs)?;
        session.introduce(&questions)?;
        let corrupted = Prompts::new(&questions.corrupted)?;
        let study = PathPatching::new(model, &questions.clean, &corrupted)?
            .linearised(true)
            .freeze_mlps(self.freeze_mlps)
            .memory_limit(session.memory)
            .journal(session.work.journal());
        let run = Run {
            session,
            questions: &questions,
            study,
            metric: &metric,
        };

        let mut sentences = Vec::new();
        let followed = run.follow_back(self.movers.into(), &mut sentences);
        // What is known, also where the rest could not be run.
        if !sentences.is_empty() {
            output.say(sentences.join("\n"))?;
        }
        followed
    }
}

/// What every step of the study shares.
struct Run<'s> {
    session: &'s Session,
    questions: &'s Questions,
    study: PathPatching<'s>,
    metric: &'s Metric,
}

impl Run<'_> {
    /// Runs all steps, and says in sentences what they find: from the logits back to this many
    /// heads, and from there to what these read.
    fn follow_back(&self, movers: usize, sentences: &mut Vec<String>) -> Result<()> {
        let end = |receiver: PathReceiver| receiver.at_positions(Select::Last);
        let (metric, n_heads) = (self.metric.name(), self.session.model.config().n_heads);
        let logits = [end(PathReceiver::final_residual())];
        let (to_logits, table) = self.to("logits", &logits, "Heads and MLPs -> logits")?;
        let base = to_logits.original.mean().unwrap_or(f32::NAN);
        sentences.push(told_logits(&table, n_heads, metric, base));
        sentences.extend(told_linear(&to_logits, "the logits", n_heads));
        let movers = self::movers(&table, n_heads, movers);
        ensure!(
            !movers.is_empty(),
            "no head's direct path to the logits raises the {metric}: nothing to follow back"
        );
        let after_others: Vec<Head> = movers.into_iter().filter(|h| h.layer > 0).collect();
        ensure!(
            !after_others.is_empty(),
            "every head found to raise the {metric} is in layer 0, before which there is no head"
        );
        let names: Vec<String> = after_others.iter().map(Head::to_string).collect();
        for what in ["queries", "values"] {
            let receiver = |head: &Head| match what {
                "queries" => end(PathReceiver::head(*head, Qkv::Q)),
                _ => PathReceiver::head(*head, Qkv::V),
            };
            let to: Vec<PathReceiver> = after_others.iter().map(receiver).collect();
            let title = format!("Heads and MLPs -> {what} of {}", names.join(", "));
            let (effects, table) = self.to(what, &to, &title)?;
            sentences.push(told_inputs(&table, n_heads, what, &names));
            sentences.extend(told_linear(&effects, &format!("the {what}"), n_heads));
        }
        Ok(())
    }

    /// Runs all senders for one set of receivers, shows and keeps the relative changes.
    ///
    /// # Errors
    /// Those of the study; `PartDone` if senders were not run, as whom the next step follows back
    /// depends on all of them.
    fn to(
        &self,
        what: &str,
        receivers: &[PathReceiver],
        title: &str,
    ) -> Result<(PathEffects, Labelled)> {
        interrupt::check()?;
        let output = &self.session.output;
        let observer = self.session.progress.observer(&format!("-> {what}"));
        let study = self.study.clone().observe(observer);
        let effects = study.run(Senders::Components, receivers, self.metric)?;
        self.session.work.step()?;
        let relative = self.questions.seeded(&effects.relative()?);
        output.say(title)?;
        output.table(&relative)?;
        output.say(relative.top(8))?;
        output.picture(&format!("path_patching_to_{what}"), &relative);
        self.keep(&format!("to_{what}"), &effects, output)?;
        interrupt::check()?;
        if let Some(missing) = not_run(&relative) {
            output.say(format_args!(
                "{missing}: whom to follow back depends on all of them."
            ))?;
            return Err(PartDone.into());
        }
        Ok((effects, relative))
    }

    fn keep(&self, name: &str, effects: &PathEffects, output: &Output) -> Result<()> {
        let seeded = |table: &Labelled| self.questions.seeded(table);
        output.number(
            name,
            json!({
                "effect": seeded(&effects.effect),
                "raw": seeded(effects.raw()),
                "linear": effects.linear.as_ref().map(|linear| seeded(&linear.effect)),
                "linear_raw": effects.linear.as_ref().map(|linear| seeded(linear.raw())),
                "linear_error": effects.linear.as_ref().map(|linear| seeded(&linear.error)),
            }),
        )
    }
}

/// The heads whose loss lowers the metric most, strongest first.
fn movers(table: &Labelled, n_heads: usize, count: usize) -> Vec<Head> {
    let cells = table.top(usize::MAX).cells.into_iter();
    let lowers = cells.filter(|cell| cell.value < 0.0 && cell.index[1] < n_heads);
    lowers.map(|cell| head(&cell)).take(count).collect()
}

/// The head of a cell `[layer, component]`.
fn head(cell: &RankedCell) -> Head {
    Head::new(cell.index[0], cell.index[1])
}

/// Heads with a change of this sign, strongest first, with what lies beyond two standard errors:
/// what could be chance is not called a finding.
fn clear_heads(table: &Labelled, n_heads: usize, sign: f32) -> Vec<String> {
    let cells = table.top(usize::MAX).cells.into_iter();
    let heads = cells.filter(|c| c.index[1] < n_heads && c.value * sign > 0.0);
    let clear = heads.filter(|c| c.value.abs() > 2.0 * c.std_error.unwrap_or(0.0));
    let told = clear.map(|c| {
        let digits = if c.value.abs() < 1e-3 { 3 } else { 1 };
        let error = c
            .std_error
            .map_or(String::new(), |e| format!(" ± {:.digits$}", 100.0 * e));
        format!("{} ({:+.digits$}{error} %)", head(&c), 100.0 * c.value)
    });
    told.collect()
}

/// A list in words.
fn listed(names: &[String]) -> String {
    if names.is_empty() {
        "none beyond two standard errors".to_string()
    } else {
        names.join(", ")
    }
}

/// Which heads raise the metric, and which lower it.
fn told_logits(table: &Labelled, n_heads: usize, metric: &str, base: f32) -> String {
    format!(
        "The {metric} is {base:.2}. Its change when a head's output on the way to the logits is \
         that of the other prompt:\n  heads that raise the {metric} (it falls without them): {}\n  \
         heads that lower it (inhibitory): {}",
        listed(&clear_heads(table, n_heads, -1.0)),
        listed(&clear_heads(table, n_heads, 1.0)),
    )
}

/// Most heads in a sentence on inputs.
const SHOWN: usize = 8;

/// Which heads act through the inputs of those found.
fn told_inputs(table: &Labelled, n_heads: usize, what: &str, movers: &[String]) -> String {
    let both = [-1.0, 1.0].map(|sign| clear_heads(table, n_heads, sign));
    let few = |heads: Vec<String>| match heads.split_at_checked(SHOWN) {
        Some((first, rest)) if !rest.is_empty() => {
            format!("{} and {} weaker ones", listed(first), rest.len())
        }
        _ => listed(&heads),
    };
    let [raise, lower] = both.map(few);
    format!(
        "Through the {what} of {} alone:\n  heads that raise it: {raise}\n  heads that lower it \
         (inhibitory): {lower}",
        movers.join(", ")
    )
}

/// A sender as sentences name it: `3.1`, or `the MLP of layer 2`.
fn sender(cell: &RankedCell, n_heads: usize) -> String {
    if cell.index[1] < n_heads {
        head(cell).to_string()
    } else {
        format!("the MLP of layer {}", cell.index[0])
    }
}

/// How far the linearised effects are from the exact ones.
fn told_linear(effects: &PathEffects, to: &str, n_heads: usize) -> Option<String> {
    let error = &effects.linear.as_ref()?.error;
    let worst = error.top(1).cells.into_iter().next()?;
    let largest = effects.effect.top(1).cells.into_iter().next()?;
    Some(format!(
        "  linearised, a change through {to} is off by at most {:.3} (that of {}); the largest \
         exact change is {:.3} (that of {})",
        worst.value.abs(),
        sender(&worst, n_heads),
        largest.value.abs(),
        sender(&largest, n_heads),
    ))
}
