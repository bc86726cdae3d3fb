//! Direct logit attribution on indirect object identification: which parts of the model write
//! the difference of the two names' logits.

mod support;

use anyhow::Result;
use clap::Parser;
use patchlens::report::{Labelled, RankedCell, legible, use_color};
use patchlens::tasks::{Ioi, Split};
use patchlens::{
    Decomposition, DirectLogitAttribution, LogitDirection, Part, Prompts, direct_logit_attribution,
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
    println!("{}", drawn[0].text);
    println!("... and {} more prompts\n", drawn.len() - 1);

    let attribute = |by| {
        let _stage = support::heads::stage("direct logit attribution");
        direct_logit_attribution(&model, &prompts, &directions, by)
    };
    let layers = attribute(Decomposition::Layers)?;
    let components = attribute(Decomposition::Components)?;
    let writers = attribute(Decomposition::Writers)?;
    println!("{}", layers.colored(use_color()));
    println!("{}", components.colored(use_color()));
    println!("Heads, neurons and biases:\n{}", writers.top(12));

    let one = DirectLogitAttribution::new(&model, &prompts[0], directions[0].clone())?;
    let last = prompts[0].len() - 1;
    let [io, s] = [drawn[0].io, drawn[0].s].map(|token| tokenizer.token_text(token));
    let about = format!("Prompt 1 alone: answer `{}`, rival `{}`.", io?, s?);
    let of_one = |table| of_prompt_1(table, &about);
    let mut by_position = of_one(one.decompose(Decomposition::Components)?);
    by_position.about.title += ", by position";
    let sources = of_one(one.head_sources(last)?);
    let accumulated = of_one(one.accumulated()?);
    let neurons = of_one(one.neurons(last, args.neurons)?);
    let parts = Decomposition::Writers.parts(model.config());
    println!("{about}\nIts heads by source position:\n{}", sources.top(8));
    println!("Its neurons:\n{}", neurons.top(args.neurons));
    println!("{}", findings(&writers, &parts, &sources));
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

/// A result of the first prompt that says so, as a picture of it is seen without this output.
fn of_prompt_1(mut table: Labelled, about: &str) -> Labelled {
    table.about.title += ", prompt 1";
    table.about.caption = format!("{about} {}", table.about.caption);
    table
}

/// What the tables say, in words; `parts` are the rows of the first.
fn findings(writers: &Labelled, parts: &[Part], sources: &Labelled) -> String {
    let truth = writers.about.baselines.values().next().copied();
    let (truth, sum) = (truth.unwrap_or(f32::NAN), writers.values().sum());
    let cells = writers.top(usize::MAX).cells;
    let is_head = |c: &&RankedCell| parts[c.index[0]].head().is_some();
    let is_bias = |c: &&RankedCell| parts[c.index[0]].is_bias();
    // What could be chance is not called a finding.
    let clear = |c: &&RankedCell| c.value.abs() > 2.0 * c.std_error.unwrap_or(0.0);
    let list = |sign: f32| {
        let heads = cells.iter().filter(is_head).filter(clear);
        let heads = heads.filter(|c| c.value * sign > 0.0);
        let named = heads.map(|c| format!("{} ({c:+.2})", c.labels[0]));
        let named: Vec<String> = named.collect();
        if named.is_empty() {
            "none by more than two standard errors".to_string()
        } else {
            named.join(", ")
        }
    };
    let total: f32 = cells.iter().filter(is_head).map(|c| c.value).sum();
    let biases: f32 = cells.iter().filter(is_bias).map(|c| c.value).sum();
    let source = match sources.top(1).cells.first() {
        Some(c) => format!(
            "{} reading `{}` ({c:+.2})",
            c.labels[0],
            legible(&c.labels[1])
        ),
        None => "nothing".to_string(),
    };
    format!(
        "The mean logit difference is {truth:.3}; the parts sum to {sum:.3}: heads {total:+.2}, \
         biases {biases:+.2}, neurons and embeddings {:+.2}.\n\
         Heads that raise the logit difference IO − S: {}.\n\
         Heads that lower it (inhibitory): {}.\n\
         In the first prompt the largest single contribution of a head is {source}.",
        sum - total - biases,
        list(1.0),
        list(-1.0),
    )
}
