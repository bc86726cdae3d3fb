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
    let layers = attribute(Decomposition::Layers)?;
    let components = attribute(Decomposition::Components)?;
    let writers = attribute(Decomposition::Writers)?;
    println!("{}", layers.colored(use_color()));
    println!("{}", components.colored(use_color()));
    println!("Heads, neurons and biases:\n{}", writers.top(12));

    let one = DirectLogitAttribution::new(&model, &prompts[0], directions[0].clone())?;
    let last = prompts[0].len() - 1;
    let by_position = one.decompose(Decomposition::Components)?;
    let (sources, accumulated) = (one.head_sources(last)?, one.accumulated()?);
    let neurons = one.neurons(last, args.neurons)?;
    println!("Prompt 1, heads by source position:\n{}", sources.top(8));
    println!("Prompt 1, neurons:\n{}", neurons.top(args.neurons));
    println!("{}", findings(&writers, &sources));
    args.common.save(&[
        ("dla_layers", &layers),
        ("dla_components", &components),
        ("dla_writers", &writers),
        ("dla_by_position", &by_position),
        ("dla_head_sources", &sources),
        ("dla_accumulated", &accumulated),
        ("dla_neurons", &neurons),
    ])
}

/// What the tables say, in words.
fn findings(writers: &Labelled, sources: &Labelled) -> String {
    let truth = writers.about.baselines.values().next().copied();
    let (truth, sum) = (truth.unwrap_or(f32::NAN), writers.values().sum());
    let cells = writers.top(usize::MAX).cells;
    let is_head = |c: &&RankedCell| c.labels[0].starts_with('L') && c.labels[0].contains('H');
    // What could be chance is not called a finding.
    let clear = |c: &&RankedCell| c.value.abs() > 2.0 * c.std_error.unwrap_or(0.0);
    let list = |sign: f32| {
        let heads = cells.iter().filter(is_head).filter(clear);
        let heads = heads.filter(|c| c.value * sign > 0.0);
        let named = heads.map(|c| match c.std_error {
            Some(error) => format!("{} ({:+.2} ± {error:.2})", c.labels[0], c.value),
            None => format!("{} ({:+.2})", c.labels[0], c.value),
        });
        let named: Vec<String> = named.collect();
        match named.is_empty() {
            true => "none by more than two standard errors".to_string(),
            false => named.join(", "),
        }
    };
    let total: f32 = cells.iter().filter(is_head).map(|c| c.value).sum();
    let bias = |c: &&RankedCell| {
        let name = c.labels[0].as_str();
        name.contains("b_O") || name.contains("b_out") || name.contains("bias") || name == "b_U"
    };
    let biases: f32 = cells.iter().filter(bias).map(|c| c.value).sum();
    let source = match sources.top(1).cells.first() {
        Some(c) => format!(
            "{} reading `{}` ({:+.2})",
            c.labels[0], c.labels[1], c.value
        ),
        None => "nothing".to_string(),
    };
    format!(
        "The mean logit difference is {truth:.3}; the parts sum to {sum:.3}: heads {total:+.2}, \
         biases {biases:+.2}, neurons and embeddings {:+.2}.\n\
         Heads that write the name: {}.\n\
         Heads that write against it: {}.\n\
         In the first prompt the largest single contribution of a head is {source}.",
        sum - total - biases,
        list(1.0),
        list(-1.0),
    )
}
