//! What every attention head of a model does: pattern scores, copying, composition, and what its
//! ablation costs on indirect object identification.
//!
//!     cargo run --release --example head_atlas -- --out atlas

mod support;

use anyhow::{Context, Result};
use clap::Parser;
use patchlens::report::Labelled;
use patchlens::tasks::{Corruption, Ioi, IoiPrompt};
use patchlens::{Head, HeadLabel, HeadReport, HeadReporter, HeadTask, Prompt, Replacement};
use serde_json::json;
use support::heads::{Sequences, cost_at_end};
use support::options::Common;

/// Reports on all attention heads; --out makes one page, head_atlas.html, with their patterns
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    sequences: Sequences,
    /// IOI prompts for the ablation of heads
    #[arg(long, default_value_t = 24)]
    prompts: usize,
    /// Ablate with zeros instead of the head's mean output
    #[arg(long)]
    zero: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let (model, tokenizer) = args.common.open()?;
    let repeated = args
        .sequences
        .repeated(&model, &tokenizer, args.common.seed)?;
    let prompts: Vec<Prompt> = repeated.iter().map(Prompt::from).collect();
    let pairs =
        Ioi::new(&tokenizer)?.pairs(args.prompts, Corruption::RandomNames, args.common.seed)?;
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
    let report = reporter.run(&model)?;
    let (metric, base) = (report.metric.as_deref().unwrap_or("metric"), report.base);
    println!(
        "IOI {metric} of the whole model: {:.3}\n",
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
    let cost = cost_at_end(&model, &pairs)?;
    check_labels(&report, &cost);
    args.common
        .save_json(&json!({ "report": report, "knocked_out_at_end": cost }))?;
    if let Some(dir) = &args.common.out {
        std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
        let page = dir.join("head_atlas.html");
        std::fs::write(&page, report.to_html("Head atlas", &model, &shown)?)
            .with_context(|| page.display().to_string())?;
        println!("saved {}", page.display());
        support::save(&cost, dir, "knocked_out_at_end")?;
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
/// knocked out at END, and which of them are labelled as name movers.
fn check_labels(report: &HeadReport, cost: &Labelled) {
    let movers = report.with_label(HeadLabel::NameMover);
    let mut heads: Vec<(Head, f32)> = report
        .cards
        .iter()
        .map(|card| card.head)
        .map(|head| (head, cost.values()[[head.layer, head.head]]))
        .collect();
    heads.sort_by(|a, b| b.1.total_cmp(&a.1));
    println!("\nlogit difference lost by knocking a head out at END (means over other names):");
    for (head, lost) in heads.iter().take(movers.len().max(3) + 2) {
        let label = report.card(*head).map(|card| card.label.to_string());
        let total = report.card(*head).and_then(|card| card.task.as_ref());
        println!(
            "  {:5} {lost:+.3}  {:20} ablated everywhere {:+.3}",
            head.to_string(),
            label.unwrap_or_default(),
            total.and_then(|task| task.lost.value).unwrap_or(f32::NAN)
        );
    }
    let costliest = heads.iter().take(movers.len());
    let agree = costliest.filter(|(head, _)| movers.contains(head)).count();
    println!(
        "{agree} of the {} heads labelled as name movers are among the {0} that cost most\n",
        movers.len()
    );
}
