//! What every attention head of a model does: pattern scores, copying, composition, and what its
//! ablation costs on indirect object identification.
//!
//!     cargo run --release --example head_atlas -- --out atlas

mod support;

use anyhow::{Context, Result};
use clap::Parser;
use patchlens::tasks::{Corruption, Ioi};
use patchlens::{HeadReporter, HeadTask, Prompt, Replacement, Role, Tokenizer, logit_diffs};
use support::heads::Sequences;
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

/// IOI with its roles, and the tokens of its names.
fn ioi(tokenizer: &Tokenizer, n: usize, seed: u64) -> Result<(HeadTask, Vec<u32>)> {
    let pairs = Ioi::new(tokenizer)?.pairs(n, Corruption::Abc, seed)?;
    let clean: Vec<_> = pairs.into_iter().map(|pair| pair.clean).collect();
    let answers: Vec<(u32, u32)> = clean.iter().map(|p| (p.io, p.s)).collect();
    let mut names: Vec<u32> = answers.iter().flat_map(|(io, s)| [*io, *s]).collect();
    names.sort_unstable();
    names.dedup();
    let task = HeadTask {
        metric: logit_diffs(&answers),
        end: Role::new("END", clean.iter().map(|p| p.positions.end)),
        roles: vec![
            Role::new("IO", clean.iter().map(|p| p.positions.io)),
            Role::new("S1", clean.iter().map(|p| p.positions.s1)),
            Role::new("S2", clean.iter().map(|p| p.positions.s2)),
        ],
        answer: Some("IO".to_string()),
        prompts: clean.iter().map(Prompt::from).collect(),
    };
    Ok((task, names))
}

fn main() -> Result<()> {
    let args = Args::parse();
    let (model, tokenizer) = args.common.open()?;
    let repeated = args
        .sequences
        .repeated(&model, &tokenizer, args.common.seed)?;
    let prompts: Vec<Prompt> = repeated.iter().map(Prompt::from).collect();
    let (task, names) = ioi(&tokenizer, args.prompts, args.common.seed)?;
    let shown = task.prompts[0].clone();
    let mut reporter = HeadReporter::new(&prompts);
    reporter.task = Some(task);
    reporter.copy_tokens = names;
    reporter.bos = Some(tokenizer.bos()?);
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
    args.common.save_json(&report)?;
    if let Some(dir) = &args.common.out {
        std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
        let page = dir.join("head_atlas.html");
        std::fs::write(&page, report.to_html("Head atlas", &model, &shown)?)
            .with_context(|| page.display().to_string())?;
        println!("saved {}", page.display());
    }
    Ok(())
}
