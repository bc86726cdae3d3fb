//! Name movers, found from the logits back (Wang et al. 2022, section 3.1): which heads act on the
//! logits directly, then which heads act on their queries.
//!
//! Every head's output on a prompt that names three other people (p_ABC) is sent along the direct
//! paths into the run on the original prompt; the logit difference between the indirect object and
//! the subject tells what the paths carry.

mod support;

use std::fs::File;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use patchlens::report::{Labelled, RankedCell, use_color};
use patchlens::tasks::{Corruption, Ioi, Split};
use patchlens::{
    Metric, PathEffects, PathPatching, PathReceiver, Prompts, Select, Senders, Tokenizer,
    Transformer, logit_diffs,
};

/// Path patching on indirect object identification: heads -> logits, then heads -> the queries of
/// the heads found.
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
    /// How many heads that move the name are followed back to their queries
    #[arg(long, value_name = "K", default_value_t = 3)]
    movers: usize,
    /// Freezes MLPs too: only the direct path through the residual stream is left
    #[arg(long)]
    freeze_mlps: bool,
    /// Writes both tables, exact and linearised, to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Saves each heat map as SVG, PNG, HTML and CSV into this folder
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// A head by its indices.
type Head = (usize, usize);

fn main() -> Result<()> {
    let args = Args::parse();
    let (model, tokenizer) = support::open(args.model.as_deref())?;
    println!("model     {}", support::name(args.model.as_deref()));
    let (study, metric) = study(&args, &model, &tokenizer)?;

    let end = |receiver: PathReceiver| receiver.at_positions(Select::Last);
    let to_logits = observed(
        &study,
        &[end(PathReceiver::final_residual())],
        &metric,
        "logits",
    )?;
    let table = show(&to_logits, "Heads and MLPs -> logits")?;
    let movers = movers(&table, model.config().n_heads, args.movers);
    ensure!(
        !movers.is_empty(),
        "no head's direct path to the logits raises the {}: nothing to follow back",
        metric.name()
    );
    let queries: Vec<PathReceiver> = movers
        .iter()
        .filter(|(_, (layer, _))| *layer > 0)
        .map(|(_, (layer, head))| end(PathReceiver::query(*layer, *head)))
        .collect();
    ensure!(
        !queries.is_empty(),
        "every head that moves the name is in layer 0, before which there is no head"
    );
    let to_queries = observed(&study, &queries, &metric, "queries")?;
    let queries = show(
        &to_queries,
        "Heads and MLPs -> queries of the heads that move the name",
    )?;
    println!(
        "{}",
        findings(&to_logits, &movers, &queries, model.config().n_heads)
    );

    let results = [("to_logits", &to_logits), ("to_queries", &to_queries)];
    if let Some(path) = &args.json {
        save_json(path, &results)?;
    }
    if let Some(dir) = &args.out {
        for (name, effects) in results {
            support::save(&effects.relative()?, dir, &format!("path_patching_{name}"))?;
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
    let mut study = PathPatching::new(model, &original, &new)?;
    study.linearised = true;
    study.freeze_mlps = args.freeze_mlps;
    Ok((study, logit_diffs(&answers)))
}

/// Runs all senders for one set of receivers, with a progress bar.
fn observed(
    study: &PathPatching<'_>,
    receivers: &[PathReceiver],
    metric: &Metric,
    what: &str,
) -> Result<PathEffects> {
    let style = ProgressStyle::with_template("{msg:10} {bar:40} {pos}/{len} senders, {eta} left")?;
    let bar = ProgressBar::new(0).with_style(style);
    bar.set_message(format!("-> {what}"));
    let effects = study.run_observed(Senders::Components, receivers, metric, |done, all| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
        ControlFlow::Continue(())
    })?;
    bar.finish_and_clear();
    Ok(effects)
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
    let head =
        |cell: &RankedCell| (cell.index[1] < n_heads).then(|| (cell.index[0], cell.index[1]));
    let lowers = cells.filter(|cell| cell.value < 0.0);
    lowers
        .filter_map(|cell| Some((cell.value, head(&cell)?)))
        .take(count)
        .collect()
}

fn name((layer, head): Head) -> String {
    format!("{layer}.{head}")
}

/// What the two tables say, in words.
fn findings(
    to_logits: &PathEffects,
    movers: &[(f32, Head)],
    queries: &Labelled,
    n_heads: usize,
) -> String {
    let (change, first) = movers[0];
    let all: Vec<String> = movers.iter().map(|(_, head)| name(*head)).collect();
    let base = to_logits.original.mean().unwrap_or(f32::NAN);
    let mut text = format!(
        "The logit difference is {base:.2}. Head {} moves the name most: with its output from the \
         other prompt on the way to the logits it changes by {:+.0} %. Of what sets the queries of \
         {}, ",
        name(first),
        100.0 * change,
        all.join(", "),
    );
    let cells = queries.top(usize::MAX).cells;
    text += &match cells.iter().find(|c| c.index[1] < n_heads) {
        Some(cell) => {
            // What could be chance is not called a finding.
            let error = cell.std_error.unwrap_or(f32::INFINITY);
            let doubt = match cell.value.abs() > 2.0 * error {
                true => "",
                false => ", which is within two standard errors of nothing",
            };
            format!(
                "head {} matters most: {:+.1} % along this path alone{doubt}.",
                name((cell.index[0], cell.index[1])),
                100.0 * cell.value
            )
        }
        None => "no head comes before them.".to_string(),
    };
    if let Some(error) = to_logits.linear_error() {
        let worst = error.top(1).cells.first().map_or(0.0, |c| c.value.abs());
        text += &format!(
            " The linearised effects on the logits are off by at most {worst:.2} in units of the \
             logit difference."
        );
    }
    text
}

fn save_json(path: &Path, results: &[(&str, &PathEffects)]) -> Result<()> {
    let entry = |(name, effects): &(&str, &PathEffects)| {
        let tables = serde_json::json!({ "exact": effects.effect, "linear": effects.linear });
        (name.to_string(), tables)
    };
    let all: serde_json::Map<_, _> = results.iter().map(entry).collect();
    let file = File::create(path).with_context(|| path.display().to_string())?;
    Ok(serde_json::to_writer_pretty(file, &all)?)
}
