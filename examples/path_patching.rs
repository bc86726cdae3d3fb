//! Heads that raise the logit difference, found from the logits back (Wang et al. 2022, section
//! 3.1): which heads act on the logits directly, then which act on their queries and values.
//!
//! Every head's output on a prompt that names three other people (p_ABC) is sent along the direct
//! paths into the run on the original prompt; the logit difference between the indirect object and
//! the subject tells what the paths carry.

mod support;

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use clap::Parser;
use patchlens::report::{Labelled, RankedCell, use_color};
use patchlens::tasks::{Corruption, Ioi, Split};
use patchlens::{
    Head, Metric, PathEffects, PathPatching, PathReceiver, Prompts, Qkv, Select, Senders,
    Tokenizer, Transformer, logit_diffs,
};

/// Path patching on indirect object identification: heads -> logits, then heads -> the queries
/// and the values of the heads found.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Folder of a GPT-2-style checkpoint with its tokenizer.json; the shipped small model if left out
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Number of prompt pairs
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..))]
    prompts: u16,
    /// Seed of the prompts
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How many of the heads that raise IO − S most are followed back to their queries and values
    #[arg(long, value_name = "K", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    movers: u16,
    /// Freezes MLPs too: only the direct path through the residual stream is left
    #[arg(long)]
    freeze_mlps: bool,
    /// Writes all tables, exact and linearised, to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Saves each heat map as SVG, PNG, HTML and CSV into this folder
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// A head by its indices.

fn main() -> Result<()> {
    let args = Args::parse();
    support::check_outputs(args.json.as_deref(), args.out.as_deref())?;
    let (model, tokenizer) = support::open(args.model.as_deref())?;
    println!("model     {}", support::name(args.model.as_deref()));
    let (study, metric) = study(&args, &model, &tokenizer)?;

    let end = |receiver: PathReceiver| receiver.at_positions(Select::Last);
    let logits = [end(PathReceiver::final_residual())];
    let to_logits = observed(&study, &logits, &metric, "logits")?;
    let table = show(&to_logits, "Heads and MLPs -> logits")?;
    let movers = movers(&table, model.config().n_heads, args.movers.into());
    ensure!(
        !movers.is_empty(),
        "no head's direct path to the logits raises the {}: nothing to follow back",
        metric.name()
    );
    let after_others = movers.iter().filter(|(_, head)| head.layer > 0);
    let after_others: Vec<Head> = after_others.map(|(_, head)| *head).collect();
    ensure!(
        !after_others.is_empty(),
        "every head found to raise the {} is in layer 0, before which there is no head",
        metric.name()
    );
    let (n_heads, base) = (model.config().n_heads, to_logits.original.mean());
    let mut sentences = vec![told_logits(&table, n_heads, base.unwrap_or(f32::NAN))];
    sentences.extend(told_linear(&to_logits, "the logits"));
    let mut results = vec![("to_logits", to_logits)];
    for (what, key) in [("queries", "to_queries"), ("values", "to_values")] {
        let receiver = |head: &Head| match what {
            "queries" => end(PathReceiver::head(*head, Qkv::Q)),
            _ => PathReceiver::head(*head, Qkv::V),
        };
        let to: Vec<PathReceiver> = after_others.iter().map(receiver).collect();
        let effects = observed(&study, &to, &metric, what)?;
        let title = format!(
            "Heads and MLPs -> {what} of {}",
            listed(&after_others.iter().map(Head::to_string).collect::<Vec<_>>())
        );
        let table = show(&effects, &title)?;
        sentences.push(told_inputs(&table, n_heads, what, &after_others));
        sentences.extend(told_linear(&effects, &format!("the {what}")));
        results.push((key, effects));
    }
    println!("{}", sentences.join("\n"));

    if let Some(path) = &args.json {
        save_json(path, &results, args.seed)?;
    }
    if let Some(dir) = &args.out {
        for (name, effects) in &results {
            let relative = support::seeded(&effects.relative()?, args.seed);
            support::save(&relative, dir, &format!("path_patching_{name}"))?;
        }
    }
    Ok(())
}

fn study<'m>(
    args: &Args,
    model: &'m Transformer,
    tokenizer: &Tokenizer,
) -> Result<(PathPatching<'m>, Metric)> {
    let ioi = Ioi::new(tokenizer)?.split(Split::HeldOut)?;
    let pairs = ioi.pairs(args.prompts.into(), Corruption::RandomNames, args.seed)?;
    let original = Prompts::new(pairs.iter().map(|pair| &pair.clean))?;
    let new = Prompts::new(pairs.iter().map(|pair| &pair.corrupted))?;
    let answers: Vec<(u32, u32)> = pairs.iter().map(|p| (p.clean.io, p.clean.s)).collect();
    println!("original  {}", pairs[0].clean.text);
    println!("new       {}", pairs[0].corrupted.text);
    println!("... and {} more pairs\n", pairs.len() - 1);
    let study = PathPatching::new(model, &original, &new)?;
    let study = study.linearised(true).freeze_mlps(args.freeze_mlps);
    Ok((study, logit_diffs(&answers)))
}

/// Runs all senders for one set of receivers, with a progress bar.
fn observed(
    study: &PathPatching<'_>,
    receivers: &[PathReceiver],
    metric: &Metric,
    what: &str,
) -> Result<PathEffects> {
    let bar = support::Bar::new(&format!("-> {what}"));
    let study = study.clone().observe(|p| bar.observe(p));
    Ok(study.run(Senders::Components, receivers, metric)?)
}

/// Prints the relative changes as heat map and list; gives them.
fn show(effects: &PathEffects, title: &str) -> Result<Labelled> {
    let relative = effects.relative()?;
    println!("{title}\n{}", relative.colored(use_color()));
    println!("{}", relative.top(8));
    Ok(relative)
}

/// The heads whose loss lowers the metric most, strongest first, with their relative change.
fn movers(table: &Labelled, n_heads: usize, count: usize) -> Vec<(f32, Head)> {
    let cells = table.top(usize::MAX).cells.into_iter();
    let head = |cell: &RankedCell| {
        (cell.index[1] < n_heads).then(|| Head::new(cell.index[0], cell.index[1]))
    };
    let lowers = cells.filter(|cell| cell.value < 0.0);
    lowers
        .filter_map(|cell| Some((cell.value, head(&cell)?)))
        .take(count)
        .collect()
}

/// Heads with a change of this sign, strongest first, with what lies beyond two standard errors:
/// what could be chance is not called a finding.
fn clear_heads(table: &Labelled, n_heads: usize, sign: f32) -> Vec<String> {
    let cells = table.top(usize::MAX).cells.into_iter();
    let heads = cells.filter(|c| c.index[1] < n_heads && c.value * sign > 0.0);
    let clear = heads.filter(|c| c.value.abs() > 2.0 * c.std_error.unwrap_or(0.0));
    let told = clear.map(|c| {
        let head = Head::new(c.index[0], c.index[1]);
        let digits = if c.value.abs() < 1e-3 { 3 } else { 1 };
        let error = c
            .std_error
            .map_or(String::new(), |e| format!(" ± {:.digits$}", 100.0 * e));
        format!("{head} ({:+.digits$}{error} %)", 100.0 * c.value)
    });
    told.collect()
}

/// A list in words.
fn listed(names: &[String]) -> String {
    match names.is_empty() {
        true => "none beyond two standard errors".to_string(),
        false => names.join(", "),
    }
}

/// Which heads raise the logit difference, and which lower it. Which of its two logits a head acts
/// on, the difference does not tell.
fn told_logits(table: &Labelled, n_heads: usize, base: f32) -> String {
    format!(
        "The logit difference IO − S is {base:.2}. Its change when a head's output on the way to \
         the logits is that of the other prompt:\n  heads that raise the logit difference (it \
         falls without them): {}\n  heads that lower it (inhibitory): {}",
        listed(&clear_heads(table, n_heads, -1.0)),
        listed(&clear_heads(table, n_heads, 1.0)),
    )
}

/// Most heads in a sentence on inputs.
const SHOWN: usize = 8;

/// Which heads act through the inputs of those found.
fn told_inputs(table: &Labelled, n_heads: usize, what: &str, movers: &[Head]) -> String {
    let movers: Vec<String> = movers.iter().map(Head::to_string).collect();
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
fn sender(cell: &RankedCell) -> String {
    let layer = cell.labels[0].trim_start_matches('L');
    match cell.labels[1].strip_prefix('H') {
        Some(head) => format!("{layer}.{head}"),
        None => format!("the {} of layer {layer}", cell.labels[1]),
    }
}

/// How far the linearised effects are from the exact ones.
fn told_linear(effects: &PathEffects, to: &str) -> Option<String> {
    let error = effects.linear_error()?;
    let worst = error.top(1).cells.into_iter().next()?;
    let change = effects.change();
    let largest = change.top(1).cells.into_iter().next()?;
    Some(format!(
        "  linearised, a change through {to} is off by at most {:.3} logits (that of {}); the \
         largest exact change is {:.3} logits (that of {})",
        worst.value.abs(),
        sender(&worst),
        largest.value.abs(),
        sender(&largest),
    ))
}

fn save_json(path: &Path, results: &[(&str, PathEffects)], seed: u64) -> Result<()> {
    let seeded = |table: &Labelled| support::seeded(table, seed);
    let entry = |(name, effects): &(&str, PathEffects)| {
        let tables = serde_json::json!({
            "exact": seeded(&effects.effect),
            "linear": effects.linear.as_ref().map(seeded),
            "linear_error": effects.linear_error().as_ref().map(seeded),
        });
        (name.to_string(), tables)
    };
    let all: serde_json::Map<_, _> = results.iter().map(entry).collect();
    support::save_json(&all, path)
}
