//! What every attention head of a model does: pattern scores, copying, composition, and what its
//! ablation costs on indirect object identification.
//!
//!     cargo run --release --example head_atlas -- --out atlas

mod support;

use std::num::NonZeroUsize;

use anyhow::{Context, Result};
use clap::Parser;
use patchlens::report::Labelled;
use patchlens::tasks::{Corruption, Ioi, IoiPrompt, Split};
use patchlens::{
    Circuits, Head, HeadLabel, HeadReport, HeadReporter, HeadTask, Prompt, Replacement,
};
use serde_json::json;
use support::heads::{Sequences, cost_at_end, stage};
use support::options::Common;

/// Reports on all attention heads; --out makes one page, head_atlas.html, with their patterns
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    sequences: Sequences,
    /// IOI prompts for the ablation of heads [default: 256; with --model 32]
    #[arg(long)]
    prompts: Option<NonZeroUsize>,
    /// Ablate with zeros instead of the head's mean output
    #[arg(long)]
    zero: bool,
}

/// More prompts for the means of knocked out heads, some 16 for each of as many templates.
const MEANS: usize = 256;

fn main() -> Result<()> {
    let args = Args::parse();
    let (model, tokenizer) = args.common.open()?;
    let repeated = args
        .sequences
        .repeated(&model, &tokenizer, args.common.seed)?;
    let prompts: Vec<Prompt> = repeated.iter().map(Prompt::from).collect();
    // As the other examples: pairs of names that the shipped model never saw together.
    let ioi = Ioi::new(&tokenizer)?.split(Split::HeldOut)?;
    let pairs = |n, seed| ioi.pairs(n, Corruption::RandomNames, seed);
    let seed = args.common.seed;
    let (pairs, more) = (
        pairs(prompts_of(&args), seed)?,
        pairs(MEANS, seed.wrapping_add(1))?,
    );
    let clean: Vec<IoiPrompt> = pairs.iter().map(|pair| pair.clean.clone()).collect();
    let task = HeadTask::ioi(&clean);
    let shown = task.prompts[0].clone();
    let mut reporter = HeadReporter::new(&model, &prompts)?;
    reporter.copy_tokens = names(&clean);
    reporter.bos = Some(tokenizer.bos()?);
    reporter.task = Some(task);
    if args.zero {
        reporter.replacement = Replacement::Zero;
    }
    let working = stage("patterns, copying, composition and ablation of all heads");
    let report = reporter.run()?;
    drop(working);
    let (metric, base) = (report.metric.as_deref().unwrap_or("metric"), report.base);
    println!(
        "IOI {metric} of the whole model: {:.3} (a difference of logits, as are all costs below)\n",
        base.unwrap_or(f32::NAN)
    );
    println!("{report}");
    show_evidence(&report);
    let table = Circuits::new(&model).composition_table()?;
    println!("\nstrongest composition of heads\n{}", table.top(5));
    let working = stage("knocking heads out at END");
    // Those of the pairs too, so that every template has some.
    let others = pairs.iter().chain(&more).map(|p| p.corrupted.clone());
    let cost = cost_at_end(&model, &clean, &others.collect::<Vec<_>>())?;
    drop(working);
    check_labels(&report, &reporter.replacement, &cost);
    args.common.save_json(
        &json!({ "report": report, "knocked_out_at_end": cost, "composition": table }),
    )?;
    if let Some(dir) = &args.common.out {
        std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
        let page = dir.join("head_atlas.html");
        std::fs::write(&page, report.to_html("Head atlas", &model, &shown)?)
            .with_context(|| page.display().to_string())?;
        println!("saved {}", page.display());
        args.common.save_result(&cost, dir, "knocked_out_at_end")?;
        support::save(&table, dir, "composition")?;
    }
    Ok(())
}

/// The labels that each head has the evidence for.
fn show_evidence(report: &HeadReport) {
    for card in &report.cards {
        for suggestion in &card.suggestions {
            println!(
                "{:5} {:20} {}",
                card.head.to_string(),
                suggestion.label,
                suggestion.evidence
            );
        }
    }
}

/// How many prompts to ablate heads on: the shipped model is fast, and its effects are small.
fn prompts_of(args: &Args) -> usize {
    let default = if args.common.model.is_some() { 32 } else { 256 };
    args.prompts.map_or(default, NonZeroUsize::get)
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
fn check_labels(report: &HeadReport, replacement: &Replacement, knocked_out: &Labelled) {
    let mut writers = Vec::new();
    for label in [HeadLabel::NameMover, HeadLabel::Suppression] {
        let found = report.with_label(label);
        println!("heads with the evidence of {label}: {}", names_of(&found));
        writers.extend(found);
    }
    println!(
        "(suppression: the head writes against the wrong name S, which raises IO − S; a negative name \
         mover writes against IO, which lowers it)"
    );
    let at_end = |head: &Head| {
        let task = report.card(*head).and_then(|card| card.task.as_ref());
        task.and_then(|task| task.lost_at_end.value)
            .unwrap_or(f32::NAN)
    };
    show_costs(report, &writers, &replacement.to_string(), at_end);
    let instead = "its mean at END over prompts of the same template with other names";
    let at_end = |head: &Head| knocked_out.values()[[head.layer, head.head]];
    show_costs(report, &writers, instead, at_end);
}

fn names_of(heads: &[Head]) -> String {
    let names: Vec<String> = heads.iter().map(ToString::to_string).collect();
    if names.is_empty() {
        return "none".to_string();
    }
    names.join(", ")
}

/// What each head costs at END, the costliest first, and how well that fits the labels.
fn show_costs(report: &HeadReport, writers: &[Head], instead: &str, cost: impl Fn(&Head) -> f32) {
    let mut heads: Vec<Head> = report.cards.iter().map(|card| card.head).collect();
    heads.sort_by(|a, b| cost(b).total_cmp(&cost(a)));
    println!("\nlost, in logits, with {instead} in place of what a head gives END:");
    let base = report.base.unwrap_or(f32::NAN);
    let line = |head: &Head| {
        let label = report.card(*head).map(|card| card.label.to_string());
        println!(
            "  {:5} {:20} {:+.3} ({:+.1} %)",
            head.to_string(),
            label.unwrap_or_default(),
            cost(head),
            100.0 * cost(head) / base
        );
    };
    let shown = writers.len() + 2;
    heads.iter().take(shown).for_each(line);
    let rest: Vec<&Head> = heads.iter().skip(shown).collect();
    let missing: Vec<&Head> = rest.into_iter().filter(|h| writers.contains(h)).collect();
    if !missing.is_empty() {
        println!("  further down, of those said to write for IO or against S:");
        missing.into_iter().for_each(line);
    }
    let least = heads.iter().rev().filter(|head| cost(head) < 0.0);
    let least: Vec<&Head> = least.take(shown).collect();
    if !least.is_empty() {
        println!("  that raise the metric when left out, the strongest first:");
        least.into_iter().for_each(line);
    }
    if writers.is_empty() {
        println!("  no head is said to write for IO or against S");
        return;
    }
    let costliest = &heads[..writers.len()];
    let agree = costliest.iter().filter(|h| writers.contains(h)).count();
    let next = heads.iter().find(|head| !writers.contains(head));
    println!(
        "  among the {} costliest: {agree} of the {0} said to write for IO or against S{}",
        writers.len(),
        next.map_or(String::new(), |next| format!(
            "; the costliest other head costs {:+.3}",
            cost(next)
        ))
    );
}
