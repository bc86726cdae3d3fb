//! Indirect object identification: which layers, positions and heads carry the name?
//!
//! Generates IOI prompts ("When Mary and John went to the store, John gave a drink to"), corrupts
//! the subject's second mention, patches clean activations into the corrupted runs, and prints
//! the effect of each on the logit difference.

mod support;

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use patchlens::report::{Labelled, legible, use_color};
use patchlens::tasks::{Corruption, Ioi, IoiPair, Split};
use patchlens::{ActivationPatching, Grid, Patching, Prompts, Site, Transformer, logit_diffs};

/// Which layers, positions and heads carry indirect object identification (IOI)?
///
/// Clean prompts end in the indirect object ("When Mary and John went to the store, John gave a
/// drink to" -> Mary); in corrupted ones the other person gives. Clean activations are patched
/// into the corrupted runs: 0 means no effect, 1 restores the clean logit difference.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Folder of a GPT-2-style checkpoint with its tokenizer.json; the shipped small model if left out
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Number of prompt pairs
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..))]
    prompts: u16,
    /// Seed of the prompts
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Activations to patch; may be given several times [default: resid_pre attn_out mlp_out z]
    #[arg(long, value_enum, value_name = "SITE")]
    sweep: Vec<Sweep>,
    /// Writes all results as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Saves each heat map as SVG, PNG, HTML and CSV into this folder
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Sweep {
    #[value(name = "resid_pre")]
    ResidPre,
    #[value(name = "attn_out")]
    AttnOut,
    #[value(name = "mlp_out")]
    MlpOut,
    Z,
    Q,
    K,
    V,
    Pattern,
}

const DEFAULT: [Sweep; 4] = [Sweep::ResidPre, Sweep::AttnOut, Sweep::MlpOut, Sweep::Z];

impl Sweep {
    fn grid(self) -> Grid {
        match self {
            Sweep::ResidPre => Grid::Positions(Site::ResidPre),
            Sweep::AttnOut => Grid::Positions(Site::AttnOut),
            Sweep::MlpOut => Grid::Positions(Site::MlpOut),
            Sweep::Z => Grid::Heads(Site::Z),
            Sweep::Q => Grid::Heads(Site::Q),
            Sweep::K => Grid::Heads(Site::K),
            Sweep::V => Grid::Heads(Site::V),
            Sweep::Pattern => Grid::Heads(Site::Pattern),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Sweep::ResidPre => "resid_pre",
            Sweep::AttnOut => "attn_out",
            Sweep::MlpOut => "mlp_out",
            Sweep::Z => "z",
            Sweep::Q => "q",
            Sweep::K => "k",
            Sweep::V => "v",
            Sweep::Pattern => "pattern",
        }
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    support::check_outputs(arguments.json.as_deref(), arguments.out.as_deref())?;
    let (model, tokenizer) = support::open(arguments.model.as_deref())?;
    // Pairs of names that the shipped model never saw together, in one template, so that
    // positions correspond.
    let generator = Ioi::new(&tokenizer)?.split(Split::HeldOut)?.template(0)?;
    let pairs = generator.pairs(arguments.prompts.into(), Corruption::Aba, arguments.seed)?;
    let metric = logit_diffs(
        &pairs
            .iter()
            .map(|p| (p.clean.io, p.clean.s))
            .collect::<Vec<_>>(),
    );
    println!("model    {}", support::name(arguments.model.as_deref()));
    println!(
        "prompts  {} pairs, seed {}; the first:",
        pairs.len(),
        arguments.seed
    );
    println!("  clean      {:?}", pairs[0].clean.text);
    println!("  corrupted  {:?}\n", pairs[0].corrupted.text);

    let study = study(&model, &pairs)?;
    let sweeps = if arguments.sweep.is_empty() {
        &DEFAULT[..]
    } else {
        &arguments.sweep
    };
    let mut found: Vec<(Sweep, Labelled)> = Vec::new();
    for sweep in sweeps {
        let bar = support::Bar::new(sweep.name());
        let observed = study.clone().observe(|p| bar.observe(p));
        let patching = observed.run(sweep.grid(), &metric)?;
        drop(observed);
        drop(bar);
        if found.is_empty() {
            print_task(&patching);
        }
        let effect = support::seeded(&patching.normalized()?, arguments.seed);
        println!("{}", effect.colored(use_color()));
        println!("{}\n", effect.top(5));
        if let Some(out) = &arguments.out {
            support::save(&effect, out, &format!("ioi_{}", sweep.name()))?;
        }
        found.push((*sweep, effect));
    }
    println!("{}", conclusion(&found));
    if let Some(path) = &arguments.json {
        let results: BTreeMap<&str, &Labelled> =
            found.iter().map(|(s, effect)| (s.name(), effect)).collect();
        support::save_json(&results, path)?;
    }
    Ok(())
}

fn study<'m>(model: &'m Transformer, pairs: &[IoiPair]) -> Result<ActivationPatching<'m>> {
    let clean = Prompts::new(pairs.iter().map(|p| &p.clean))?;
    let corrupted = Prompts::new(pairs.iter().map(|p| &p.corrupted))?;
    let study = ActivationPatching::new(model, &clean, &corrupted)?;
    let mut labels = clean[0].labels.clone();
    for (position, label) in labels.iter_mut().enumerate() {
        if clean
            .iter()
            .any(|p| p.labels[position] != clean[0].labels[position])
        {
            *label = "*".to_string();
        }
    }
    let roles = pairs[0].clean.positions;
    let first = roles.io.min(roles.s1);
    // Both orders of the names occur, so the first two roles are named by place.
    labels[first] = "name1".to_string();
    labels[roles.io.max(roles.s1)] = "name2".to_string();
    labels[roles.s2] = "S2".to_string();
    labels[roles.end] = format!("END:{}", labels[roles.end].trim_start());
    Ok(study.position_labels(labels))
}

fn print_task(patching: &Patching) {
    let accuracy = |values: &ndarray::Array1<f32>, sign: f32| {
        let right = values.iter().filter(|v| **v * sign > 0.0).count();
        format!("{right}/{}", values.len())
    };
    let mean = |values: &ndarray::Array1<f32>| values.mean().unwrap_or(f32::NAN);
    println!("task         logit difference IO - S   right name on top");
    println!(
        "  clean      {:>+24.4}   {:>17}",
        mean(&patching.clean),
        accuracy(&patching.clean, 1.0)
    );
    println!(
        "  corrupted  {:>+24.4}   {:>17}  (there the other name is right)\n",
        mean(&patching.corrupted),
        accuracy(&patching.corrupted, -1.0)
    );
}

/// One sentence on the strongest cells, put together from what was found.
fn conclusion(found: &[(Sweep, Labelled)]) -> String {
    let mut parts = Vec::new();
    for (sweep, effect) in found {
        let top = effect.top(3);
        let strong: Vec<String> = top
            .cells
            .iter()
            .filter(|cell| cell.value.abs() >= 0.1)
            .map(|cell| format!("{} ({:+.2})", legible(&cell.labels.join(", ")), cell.value))
            .collect();
        parts.push(match strong.is_empty() {
            true => format!("no {} cell moves the answer by a tenth", sweep.name()),
            false => format!("{} most at {}", sweep.name(), strong.join(", ")),
        });
    }
    format!(
        "Share of the clean logit difference restored by one patch: {}.",
        parts.join("; ")
    )
}
