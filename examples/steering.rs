//! Steering: a direction that makes the model answer with one name, found as a difference of
//! means, its dose-response curve by layer, and its effect on generated text.

mod support;

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use clap::Parser;
use patchlens::report::Labelled;
use patchlens::tasks::{Ioi, IoiPrompt, Split};
use patchlens::{
    Generation, HookPoint, Interventions, Prompts, Select, Site, Steering, Tokenizer, Transformer,
    log_probability,
};
use support::options::Common;

/// Steers indirect object identification towards one name.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    common: Common,
    /// Number of prompts that the direction is found on
    #[arg(long, value_name = "N", default_value_t = 400)]
    prompts: usize,
    /// Number of other prompts that it is tried on
    #[arg(long, value_name = "N", default_value_t = 40)]
    tries: usize,
    /// Scales of the direction, separated by commas; 1 moves the mean of other prompts onto that
    /// of the name's
    #[arg(
        long,
        value_name = "S,S,...",
        value_delimiter = ',',
        allow_hyphen_values = true,
        default_value = "-2,-1,0,0.5,1,1.5,2,3,4"
    )]
    scales: Vec<f32>,
    /// Tokens to generate
    #[arg(long, value_name = "N", default_value_t = 4)]
    tokens: usize,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let (model, tokenizer) = args.common.open()?;
    let ioi = Ioi::new(&tokenizer)?;
    let drawn = ioi
        .clone()
        .split(Split::Train)?
        .prompts(args.prompts, args.common.seed)?;
    let name = most_frequent(&drawn)?;
    let text = tokenizer.token_text(name)?;
    let (yes, no): (Vec<_>, Vec<_>) = drawn.iter().partition(|p| p.io == name);
    let direction = format!(
        "The direction is the mean residual stream at the last position of {} prompts answered by \
         `{text}` minus that of {} answered by other names.",
        yes.len(),
        no.len()
    );
    println!("{direction}");

    let points: Vec<HookPoint> = (0..model.config().n_layers)
        .map(|l| Site::ResidPost.at(l))
        .collect();
    let (yes, no) = (Prompts::new(yes)?, Prompts::new(no)?);
    let steering = Steering::difference_of_means(&model, &yes, &no, &points, Select::Last)?;
    let steering = steering.at_positions(Select::Last);
    let held_out = ioi
        .split(Split::HeldOut)?
        .prompts(args.tries, args.common.seed)?;
    let others: Vec<_> = held_out.iter().filter(|p| p.io != name).collect();
    let left_out = held_out.len() - others.len();
    let tries = Prompts::new(others)?;
    let dropped = match left_out {
        0 => String::new(),
        n => format!(
            " of {}; left out: {n} answered by `{text}` anyway",
            held_out.len()
        ),
    };
    println!(
        "Held-out prompts it is tried on: {}{dropped}.\n",
        tries.len()
    );
    let metric = log_probability(&[name]);
    let stage = support::heads::stage("dose and response");
    let mut curve = steering.dose_response_by_point(&model, &tries, &metric, &args.scales)?;
    drop(stage);
    curve.about.title = format!("Steering towards `{text}`, one layer at a time");
    curve.about.caption = format!("{direction} {}", curve.about.caption);
    println!("{}", curve.curves()?);

    let (point, scale, best) = best(&curve, &points, &args.scales)?;
    let (_, direction) = &steering.directions[point];
    let one = Steering::new(vec![(points[point], direction.clone())])?;
    let one = one.at_positions(Select::Last);
    generate(&model, &tokenizer, &tries, &one, scale, args.tokens)?;
    let before = curve.about.baselines["unsteered"];
    println!(
        "Adding {scale} × the direction at {} takes the mean log-probability of `{text}` on {} \
         other prompts from {before:.2} to {best:.2} nats.\n{}",
        points[point],
        tries.len(),
        why(best)
    );
    args.common.save(&[("steering_by_layer", &curve)])
}

/// The most frequent answer; among equals the lowest id.
fn most_frequent(drawn: &[IoiPrompt]) -> Result<u32> {
    let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
    drawn
        .iter()
        .for_each(|prompt| *counts.entry(prompt.io).or_default() += 1);
    let most = counts
        .iter()
        .max_by_key(|(name, count)| (**count, std::cmp::Reverse(**name)));
    Ok(*most.context("no prompts")?.0)
}

/// Index of the point, scale and value where the smallest scale makes the name likelier than all
/// other tokens together, the likeliest such point; where none does, those with the highest mean.
fn best(curve: &Labelled, points: &[HookPoint], scales: &[f32]) -> Result<(usize, f32, f32)> {
    let values = curve.values();
    let cells = (0..points.len()).flat_map(|p| (0..scales.len()).map(move |s| (p, s)));
    let cells: Vec<(usize, f32, f32)> =
        cells.map(|(p, s)| (p, scales[s], values[[p, s]])).collect();
    let likely = cells.iter().filter(|cell| cell.2 > 0.5_f32.ln());
    let order = |a: &&(usize, f32, f32), b: &&(usize, f32, f32)| {
        let scales = a.1.abs().total_cmp(&b.1.abs());
        scales.then(b.2.total_cmp(&a.2))
    };
    let smallest = likely.min_by(order);
    let highest = || cells.iter().max_by(|a, b| a.2.total_cmp(&b.2));
    smallest.or_else(highest).copied().context("no cells")
}

/// Why [`best`] chose the scale and the point, given the value there.
fn why(best: f32) -> &'static str {
    match best > 0.5_f32.ln() {
        true => {
            "It is the smallest scale tried with which the name is, by this mean, likelier than \
             all other tokens together (above -0.69 nats), at the layer where it is likeliest."
        }
        false => {
            "With no scale tried is the name, by this mean, likelier than all other tokens \
             together (above -0.69 nats); this one comes closest."
        }
    }
}

/// Prints the continuation of a prompt without and with steering.
fn generate(
    model: &Transformer,
    tokenizer: &Tokenizer,
    prompts: &Prompts,
    steering: &Steering,
    scale: f32,
    tokens: usize,
) -> Result<()> {
    let prompt = &prompts[0];
    let room = model.config().n_ctx + 1 - prompt.len();
    let generation = Generation::greedy(tokens.min(room));
    let mut hooks = Interventions::new(steering.interventions(scale)?);
    let plain = model.generate(prompt, (), &generation)?;
    let steered = model.generate(prompt, &mut hooks, &generation)?;
    println!("{}", tokenizer.decode(&prompt.tokens)?);
    println!("  unsteered:{}", tokenizer.decode(plain[0].new_tokens())?);
    println!("  steered:  {}", tokenizer.decode(steered[0].new_tokens())?);
    println!("  {}", hooks.receipt());
    Ok(())
}
