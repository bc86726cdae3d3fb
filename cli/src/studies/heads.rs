//! What every attention head of a model does: pattern scores, copying, composition, and what its
//! ablation costs on a task.

use anyhow::Result;
use clap::Args;
use patchlens::ablation::{Ablation, Each, Replacement};
use patchlens::heads::{HeadLabel, HeadReport, HeadReporter, HeadTask};
use patchlens::report::Labelled;
use patchlens::tasks::{Corruption, Ioi, IoiPair, IoiPrompt, Split};
use patchlens::weights::Circuits;
use patchlens::{Head, Prompt, Prompts, Transformer};

use crate::interrupt;
use crate::numbers;
use crate::options::Common;
use crate::output::Output;
use crate::sequences::Sequences;
use crate::session::Session;
use crate::work::Kept;

/// Head atlas: what does every attention head do?
///
/// Scores of attention patterns on repeated random sequences, copying, composition, and what each
/// head's ablation costs on indirect object identification. --out makes one page with all heads'
/// patterns, head_atlas.html.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  patchlens heads --out atlas
  patchlens heads --model weights/gpt2 --prompts 64 --out atlas")]
pub struct Heads {
    #[command(flatten)]
    pub common: Common,
    #[command(flatten)]
    pub kept: Kept,
    #[command(flatten)]
    sequences: Sequences,
    /// IOI prompts for the ablation of heads [default: 256; with --model 32]
    #[arg(long, value_name = "N", help_heading = "Prompts",
        value_parser = numbers::prompts::<u32>())]
    prompts: Option<u32>,
    /// Ablate with zeros instead of the head's mean output
    #[arg(long)]
    zero: bool,
}

/// More prompts for the means of knocked out heads, some 16 for each of as many templates.
const MEANS: usize = 256;

impl Heads {
    /// Runs the study.
    ///
    /// # Errors
    /// If the tokenizer lacks the task's words; `EndedEarly` after Ctrl-C.
    pub fn run(&self, session: &Session) -> Result<()> {
        let (output, model, tokenizer) = (&session.output, &session.model, &session.tokenizer);
        let repeated = self.sequences.repeated(session)?;
        let prompts: Vec<Prompt> = repeated.iter().map(Prompt::from).collect();
        let [pairs, more] = self.pairs(session)?;
        let clean: Vec<IoiPrompt> = pairs.iter().map(|pair| pair.clean.clone()).collect();
        output.say(format_args!("model    {}\n", output.model()))?;
        let task = HeadTask::ioi(&clean);
        let shown = task.prompts[0].clone();
        let replacement = if self.zero {
            Replacement::Zero
        } else {
            Replacement::OverallMean
        };
        session.work.begin(model, &[])?;
        let reporter = HeadReporter::new(model, &prompts)?
            .memory_limit(session.memory)
            .journal(session.work.journal())
            .observe(|_| interrupt::go_on())
            .copy_tokens(names(&clean), Some(tokenizer.bos()?))
            .task(task)
            .replacement(replacement.clone());
        let step = session
            .progress
            .step("patterns, copying, composition and ablation of all heads");
        let report = reporter.run()?;
        drop(step);
        session.show_attention("the first repeated sequence", &prompts[0])?;
        output.say(format_args!(
            "IOI {} of the whole model: {:.3} (a difference of logits, as are all costs below)\n",
            report.metric.as_deref().unwrap_or("metric"),
            report.base.unwrap_or(f32::NAN)
        ))?;
        output.say(&report)?;
        show_evidence(&report, output)?;
        output.number("report", &report)?;
        output.file(
            "head_atlas.html",
            report.to_html("Head atlas", model, &shown)?,
        );
        let table = Circuits::new(model).composition_table()?;
        output.say(format_args!(
            "\nstrongest composition of heads\n{}",
            table.top(5)
        ))?;
        output.keep("composition", &table)?;
        interrupt::check()?;

        let step = session.progress.step("knocking heads out at END");
        // Those of the pairs too, so that every template has some.
        let others = pairs.iter().chain(&more).map(|p| p.corrupted.clone());
        let cost = cost_at_end(model, &clean, &others.collect::<Vec<_>>())?;
        drop(step);
        check_labels(&report, &replacement, &cost, output)?;
        output.number("knocked_out_at_end", &cost)?;
        let mut seeded = cost;
        seeded.about.seed.get_or_insert(self.sequences.seed);
        output.picture("knocked_out_at_end", &seeded);
        Ok(())
    }

    /// The pairs that heads are ablated on, and others for means: names that the shipped model
    /// never saw together.
    fn pairs(&self, session: &Session) -> Result<[Vec<IoiPair>; 2]> {
        let ioi = Ioi::new(&session.tokenizer)?.split(Split::HeldOut)?;
        // The shipped model is fast, and its effects are small.
        let default = if session.shipped { 256 } else { 32 };
        let n = self.prompts.unwrap_or(default) as usize;
        let seed = self.sequences.seed;
        Ok([
            ioi.pairs(n, Corruption::RandomNames, seed)?,
            ioi.pairs(MEANS, Corruption::RandomNames, seed.wrapping_add(1))?,
        ])
    }
}

/// The labels that each head has the evidence for.
fn show_evidence(report: &HeadReport, output: &Output) -> Result<()> {
    for card in &report.cards {
        for suggestion in &card.suggestions {
            output.say(format_args!(
                "{:5} {:20} {}",
                card.head.to_string(),
                suggestion.label,
                suggestion.evidence
            ))?;
        }
    }
    Ok(())
}

/// The tokens of the names, each once.
fn names(prompts: &[IoiPrompt]) -> Vec<u32> {
    let mut names: Vec<u32> = prompts.iter().flat_map(|p| [p.io, p.s]).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// The labels against experiments that they were not made from: which heads cost most when ablated
/// at END, and which of them are said to write for IO or against S.
fn check_labels(
    report: &HeadReport,
    replacement: &Replacement,
    knocked_out: &Labelled,
    output: &Output,
) -> Result<()> {
    let mut writers = Vec::new();
    for label in [HeadLabel::NameMover, HeadLabel::Suppression] {
        let found = report.with_label(label);
        output.say(format_args!(
            "heads with the evidence of {label}: {}",
            names_of(&found)
        ))?;
        writers.extend(found);
    }
    output.say(format_args!(
        "(suppression: the head writes against the wrong name S, which raises IO − S; a negative name \
         mover writes against IO, which lowers it)"
    ))?;
    let instead = &replacement.to_string();
    let at_end = |head: &Head| {
        let task = report.card(*head).and_then(|card| card.task.as_ref());
        task.and_then(|task| task.lost_at_end.value)
            .unwrap_or(f32::NAN)
    };
    show_costs(report, &writers, instead, at_end, output)?;
    let instead = "its mean at END over prompts of the same template with other names";
    let at_end = |head: &Head| knocked_out.values()[[head.layer, head.head]];
    show_costs(report, &writers, instead, at_end, output)
}

fn names_of(heads: &[Head]) -> String {
    let names: Vec<String> = heads.iter().map(ToString::to_string).collect();
    if names.is_empty() {
        "none".to_string()
    } else {
        names.join(", ")
    }
}

/// What each head costs at END, the costliest first, and how well that fits the labels.
fn show_costs(
    report: &HeadReport,
    writers: &[Head],
    instead: &str,
    cost: impl Fn(&Head) -> f32,
    output: &Output,
) -> Result<()> {
    let mut heads: Vec<Head> = report.cards.iter().map(|card| card.head).collect();
    heads.sort_by(|a, b| cost(b).total_cmp(&cost(a)));
    let base = report.base.unwrap_or(f32::NAN);
    let line = |head: &Head| {
        let label = report.card(*head).map(|card| card.label.to_string());
        format!(
            "  {:5} {:20} {:+.3} ({:+.1} %)",
            head.to_string(),
            label.unwrap_or_default(),
            cost(head),
            100.0 * cost(head) / base
        )
    };
    let shown = writers.len() + 2;
    let mut lines = vec![format!(
        "\nlost, in logits, with {instead} in place of what a head writes at END:"
    )];
    lines.extend(heads.iter().take(shown).map(line));
    let rest = heads.iter().skip(shown).filter(|h| writers.contains(h));
    let missing: Vec<String> = rest.map(line).collect();
    if !missing.is_empty() {
        lines.push("  further down, of those said to write for IO or against S:".to_string());
        lines.extend(missing);
    }
    let least = heads.iter().rev().filter(|head| cost(head) < 0.0);
    let least: Vec<String> = least.take(shown).map(line).collect();
    if !least.is_empty() {
        lines.push("  that raise the metric when left out, the strongest first:".to_string());
        lines.extend(least);
    }
    let costliest = &heads[..writers.len()];
    let agree = costliest.iter().filter(|h| writers.contains(h)).count();
    let next = heads.iter().find(|head| !writers.contains(head));
    let next = next.map(|next| format!("; the costliest other head costs {:+.3}", cost(next)));
    lines.push(if writers.is_empty() {
        "  no head is said to write for IO or against S".to_string()
    } else {
        format!(
            "  among the {0} costliest: {agree} of the {0} said to write for IO or against S{1}",
            writers.len(),
            next.unwrap_or_default()
        )
    });
    output.say(lines.join("\n"))
}

/// What IOI's logit difference loses when each head is knocked out at END: replaced by its mean
/// over prompts of the same template with other names (Wang et al. 2022), `[layer, head]`.
pub fn cost_at_end(
    model: &Transformer,
    clean: &[IoiPrompt],
    others: &[IoiPrompt],
) -> Result<Labelled> {
    let templates = |of: &[IoiPrompt]| of.iter().map(|p| p.template).collect();
    let replacement = Replacement::TemplateMean {
        templates: templates(clean),
        counterfactual: Prompts::new(others)?,
        counterfactual_templates: templates(others),
    };
    let task = HeadTask::ioi(clean);
    let ends = clean.iter().map(|p| vec![p.positions.end]).collect();
    let ablation = Ablation::new(model, clean, replacement)?.with_class("END", ends)?;
    Ok(ablation.run(Each::HeadAt("END"), &task.metric)?.lost()?)
}
