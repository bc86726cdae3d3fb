//! Direct logit attribution on indirect object identification: which parts of the model write
//! the name into the logits.

mod support;

use anyhow::Result;
use clap::Parser;
use patchlens::report::{Labelled, RankedCell, use_color};
use patchlens::tasks::{Ioi, Split};
use patchlens::{
    Decomposition, DirectLogitAttribution, LogitDirection, Prompts, direct_logit_attribution,
};
use support::options::Common;

/// Takes the logit difference between the indirect object and the subject apart.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    common: Common,
    /// Number of prompts to average over
    #[arg(long, value_name = "N", default_value_t = 50)]
    prompts: usize,
    /// Number of neurons to list
    #[arg(long, value_name = "K", default_value_t = 8)]
    neurons: usize,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let (model, tokenizer) = args.common.open()?;
    let ioi = Ioi::new(&tokenizer)?.split(Split::HeldOut)?;
    let drawn = ioi.prompts(args.prompts, args.common.seed)?;
    let prompts = Prompts::new(&drawn)?;
    let difference = |p: &patchlens::tasks::IoiPrompt| LogitDirection::difference(p.io, p.s);
    let directions: Vec<LogitDirection> = drawn.iter().map(difference).collect();
    println!(
        "{}\n... and {} more prompts\n",
        drawn[0].text,
        drawn.len() - 1
    );

    let attribute = |by| direct_logit_attribution(&model, &prompts, &directions, by);
    let components = attribute(Decomposition::Components)?;
    let full = attribute(Decomposition::Full)?;
    println!("{}", components.colored(use_color()));
    println!("{}", full.top(12));

    let one = DirectLogitAttribution::new(&model, &prompts[0], directions[0].clone())?;
    let last = prompts[0].len() - 1;
    let by_position = one.decompose(Decomposition::Components)?;
    let (sources, accumulated) = (one.head_sources(last)?, one.accumulated()?);
    let neurons = one.neurons(last, args.neurons)?;
    println!("Prompt 1, heads by source position:\n{}", sources.top(8));
    println!("Prompt 1, neurons:\n{}", neurons.top(args.neurons));
    println!("{}", findings(&full, &sources));
    args.common.save(&[
        ("dla_components", &components),
        ("dla_full", &full),
        ("dla_by_position", &by_position),
        ("dla_head_sources", &sources),
        ("dla_accumulated", &accumulated),
        ("dla_neurons", &neurons),
    ])
}

/// What the tables say, in words.
fn findings(full: &Labelled, sources: &Labelled) -> String {
    let truth = full
        .about
        .baselines
        .values()
        .next()
        .copied()
        .unwrap_or(f32::NAN);
    let sum = full.values().sum();
    let cells = full.top(usize::MAX).cells;
    let is_head = |c: &&RankedCell| c.labels[0].starts_with('L') && c.labels[0].contains('H');
    let describe = |cell: Option<&RankedCell>| match cell {
        Some(c) => format!("{} ({:+.2})", c.labels[0], c.value),
        None => "no head".to_string(),
    };
    let most = cells.iter().filter(is_head).find(|c| c.value > 0.0);
    let least = cells.iter().filter(is_head).find(|c| c.value < 0.0);
    let total: f32 = cells.iter().filter(is_head).map(|c| c.value).sum();
    let source = match sources.top(1).cells.first() {
        Some(c) => format!(
            "{} reading `{}` ({:+.2})",
            c.labels[0], c.labels[1], c.value
        ),
        None => "nothing".to_string(),
    };
    format!(
        "The mean logit difference is {truth:.3}; the parts sum to {sum:.3}. Heads write \
         {total:+.2} of it: the most by {}, the most against it by {}. In the first prompt the \
         largest single contribution of a head is {source}.",
        describe(most),
        describe(least),
    )
}
