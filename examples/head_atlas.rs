//! What every attention head of a model does: pattern scores, copying, composition, and what its
//! ablation costs on indirect object identification.
//!
//!     cargo run --release --example head_atlas -- --out atlas

mod support;

use std::num::NonZeroUsize;

use anyhow::{Context, Result};
use clap::Parser;
use patchlens::report::Labelled;
use patchlens::tasks::{Corruption, Ioi, IoiPrompt};
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
    /// IOI prompts for the ablation of heads
    #[arg(long, default_value = "64")]
    prompts: NonZeroUsize,
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
    let ioi = Ioi::new(&tokenizer)?;
    let pairs = |n, seed| ioi.pairs(n, Corruption::RandomNames, seed);
    let seed = args.common.seed;
    let (pairs, more) = (
        pairs(args.prompts.get(), seed)?,
        pairs(MEANS, seed.wrapping_add(1))?,
    );
    let clean: Vec<IoiPrompt> = pairs.iter().map(|pair| pair.clean.clone()).collect();
    let task = HeadTask::ioi(&clean);
    let shown = task.prompts[0].clone();
    let mut reporter = HeadReporter::new(&prompts);
    reporter.copy_tokens = names(&clean);
    reporter.bos = Some(tokenizer.bos()?);
    reporter.task = Some(task);
    if args.zero {
        reporter.ablation = Replacement::Zero;
    }
    let working = stage("patterns, copying, composition and ablation of all heads");
    let report = reporter.run(&model)?;
    drop(working);
    let (metric, base) = (report.metric.as_deref().unwrap_or("metric"), report.base);
    println!(
        "IOI {metric} of the whole model: {:.3} (a difference of logits, as are all costs below)\n",
        base.unwrap_or(f32::NAN)
    );
    println!("{report}");
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
    let table = Circuits::new(&model).composition_table()?;
    println!("\nstrongest composition of heads\n{}", table.top(5));
    let working = stage("knocking heads out at END");
    // Those of the pairs too, so that every template has some.
    let others = pairs.iter().chain(&more).map(|p| p.corrupted.clone());
    let cost = cost_at_end(&model, &clean, &others.collect::<Vec<_>>())?;
    drop(working);
    check_labels(&report, &cost);
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

/// The tokens of the names, each once.
fn names(prompts: &[IoiPrompt]) -> Vec<u32> {
    let mut names: Vec<u32> = prompts.iter().flat_map(|p| [p.io, p.s]).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// The labels against an experiment that they were not made from: which heads cost most when
/// knocked out at END, and which of them are said to write for IO or against S.
fn check_labels(report: &HeadReport, cost: &Labelled) {
    let at_end = |head: &Head| cost.values()[[head.layer, head.head]];
    let mut heads: Vec<Head> = report.cards.iter().map(|card| card.head).collect();
    heads.sort_by(|a, b| at_end(b).total_cmp(&at_end(a)));
    let mut writers = Vec::new();
    for label in [HeadLabel::NameMover, HeadLabel::Suppression] {
        let found = report.with_label(label);
        let names: Vec<String> = found.iter().map(ToString::to_string).collect();
        let names = if names.is_empty() {
            "none".to_string()
        } else {
            names.join(", ")
        };
        println!("heads with the evidence of {label}: {names}");
        writers.extend(found);
    }
    println!(
        "(suppression: the head writes against the wrong name S, which raises IO − S; a negative name \
         mover writes against IO, which lowers it)"
    );
    println!(
        "\nwhat knocking a head out at END costs, in logits: its output there is replaced by the mean \
         over prompts\nof the same template with other names (\"at end\" in the table: by its mean over \
         all positions); the costliest:"
    );
    let shown = writers.len() + 2;
    let line = |head: &Head| show_cost(report, *head, at_end(head));
    heads.iter().take(shown).for_each(line);
    let raise: Vec<&Head> = heads.iter().rev().filter(|h| at_end(h) < 0.0).collect();
    println!(
        "{} of {} heads raise the metric when knocked out at END{}",
        raise.len(),
        heads.len(),
        if raise.is_empty() {
            ""
        } else {
            ", the strongest:"
        }
    );
    raise.into_iter().take(shown).for_each(line);
    if let Some((first, last)) = heads.get(writers.len()).zip(heads.last()) {
        println!(
            "all but the {} costliest are between {:+.3} and {:+.3}",
            writers.len(),
            at_end(last),
            at_end(first)
        );
    }
    if writers.is_empty() {
        println!("no head is said to write for IO or against S\n");
        return;
    }
    let costliest = &heads[..writers.len()];
    let agree = costliest.iter().filter(|h| writers.contains(h)).count();
    println!(
        "of the {} heads said to write for IO or against S, {agree} are among the {0} that cost most\n",
        writers.len()
    );
}

/// What a head's knock-out at END costs, beside what its ablation everywhere does.
fn show_cost(report: &HeadReport, head: Head, cost: f32) {
    let card = report.card(head);
    let task = card.and_then(|card| card.task.as_ref());
    let share = 100.0 * cost / report.base.unwrap_or(f32::NAN);
    println!(
        "  {:5} {:20} {cost:+.3} ({share:+.1} %), ablated everywhere {:+.3}",
        head.to_string(),
        card.map_or(String::new(), |card| card.label.to_string()),
        task.and_then(|task| task.lost.value).unwrap_or(f32::NAN)
    );
}
