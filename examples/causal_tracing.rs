//! Causal tracing (Meng et al. 2022): at which layer and token a model recalls facts.
//!
//! ```sh
//! cargo run --release --example causal_tracing
//! cargo run --release --example causal_tracing -- --model weights/gpt2 --facts known_1000.json
//! ```
//!
//! Prints the paper's figure: the average indirect effect by token class and layer, for hidden
//! states, MLP outputs and attention outputs.

mod support;

use std::ops::ControlFlow;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use patchlens::report::use_color;
use patchlens::tasks::{FactPrompt, Facts, KnownFacts, Split};
use patchlens::{
    CausalTracing, DEFAULT_WINDOW, Labelled, PositionClass, Restore, SetTrace, Severed,
    SubjectCorruption, Tokenizer, TracedFact, Transformer, mean_subject_embedding,
    subject_noise_std,
};

/// Where are facts recalled? Causal tracing of a model's facts.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Folder with config.json, model.safetensors and tokenizer.json [default: the shipped model]
    #[arg(long, value_name = "DIR", requires = "facts")]
    model: Option<PathBuf>,
    /// JSON list of {prompt, subject, attribute} [default: facts that the shipped model learnt]
    #[arg(long, value_name = "FILE")]
    facts: Option<PathBuf>,
    /// How many facts, spread evenly over all
    #[arg(long, default_value_t = 60)]
    limit: usize,
    /// Begin every prompt with the begin-of-text token
    #[arg(long)]
    bos: bool,
    /// What happens to the subject
    #[arg(long, value_enum, default_value_t = Kind::Noise)]
    corruption: Kind,
    /// Standard deviation of the noise [default: 3 times that of the subjects' embeddings]
    #[arg(long, value_name = "STD")]
    noise: Option<f32>,
    /// Noise samples (or other subjects) a fact
    #[arg(long, default_value_t = 10)]
    samples: usize,
    /// Seed of the noise
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Layers of an MLP or attention window [default: 10, or a quarter of fewer than 40 layers]
    #[arg(long)]
    window: Option<usize>,
    /// Also restore states with MLPs, and with attention, severed at the restored token
    #[arg(long)]
    severed: bool,
    /// Write the tables to this JSON file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Save each table as SVG, PNG, HTML and CSV into this folder
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    /// Gaussian noise on the token embeddings, the paper's
    Noise,
    /// The mean embedding of all subjects' tokens
    Mean,
    /// Tokens of other subjects of the same length
    Subjects,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let (model, tokenizer) = support::open(arguments.model.as_deref())?;
    println!("Model: {}", support::name(arguments.model.as_deref()));
    let facts = facts(&arguments, &tokenizer)?;
    let traced: Vec<TracedFact> = facts.iter().map(TracedFact::from).collect();
    let tracing = CausalTracing::new(&model, corruption(&arguments, &model, &traced)?);

    let n_layers = model.config().n_layers;
    let window = arguments
        .window
        .unwrap_or(DEFAULT_WINDOW.min((n_layers / 4).max(1)));
    let mut studies = vec![
        ("states", tracing.clone()),
        ("mlp", tracing.clone().restoring(Restore::mlp(window))),
        (
            "attention",
            tracing.clone().restoring(Restore::attention(window)),
        ),
    ];
    if arguments.severed {
        studies.push(("states_mlp_severed", tracing.clone().severing(Severed::Mlp)));
        studies.push((
            "states_attention_severed",
            tracing.severing(Severed::Attention),
        ));
    }
    let mut sets = Vec::with_capacity(studies.len());
    for (name, study) in studies {
        let set = run(&study, &traced, name)?;
        println!("{}", set.average.colored(use_color()));
        sets.push((name, set));
    }
    tell_counts(&sets[0].1, &facts, &tokenizer)?;
    println!("{}", conclusion(&sets));
    save(&arguments, &sets)
}

fn facts(arguments: &Arguments, tokenizer: &Tokenizer) -> Result<Vec<FactPrompt>> {
    let all = match &arguments.facts {
        Some(path) => {
            let known = KnownFacts::open(path, tokenizer, arguments.bos)?;
            for skipped in &known.skipped {
                eprintln!("fact {} skipped: {}", skipped.index, skipped.reason);
            }
            known.facts
        }
        None => {
            let facts = Facts::new(tokenizer)?.split(Split::Train);
            if arguments.bos {
                facts.with_bos()?
            } else {
                facts
            }
            .all()?
        }
    };
    ensure!(arguments.limit > 0, "--limit: found 0; expected at least 1");
    let n = arguments.limit.min(all.len());
    Ok((0..n).map(|i| all[i * all.len() / n].clone()).collect())
}

fn corruption(
    arguments: &Arguments,
    model: &Transformer,
    facts: &[TracedFact],
) -> Result<SubjectCorruption> {
    Ok(match arguments.corruption {
        Kind::Noise => SubjectCorruption::Noise {
            std: arguments
                .noise
                .map_or_else(|| subject_noise_std(model, facts), Ok)?,
            seed: arguments.seed,
            samples: arguments.samples,
        },
        Kind::Mean => SubjectCorruption::Embedding(mean_subject_embedding(model, facts)?),
        Kind::Subjects => {
            let mut subjects: Vec<Vec<u32>> =
                facts.iter().map(|f| f.subject_tokens().to_vec()).collect();
            subjects.sort();
            subjects.dedup();
            if subjects.len() < 2 {
                bail!("--corruption subjects: found one subject; expected at least two");
            }
            // One more than asked for, as a fact's own subject is no sample.
            let n = subjects.len().min(arguments.samples + 1);
            let spread = (0..n).map(|i| subjects[i * subjects.len() / n].clone());
            SubjectCorruption::Subjects(spread.collect())
        }
    })
}

/// Traces a set with a progress bar (on a terminal only).
fn run(study: &CausalTracing<'_>, facts: &[TracedFact], name: &str) -> Result<SetTrace> {
    let bar = ProgressBar::new(facts.len() as u64);
    bar.set_style(ProgressStyle::with_template(
        "{msg} {bar:40} {pos}/{len} facts, {eta}",
    )?);
    bar.set_message(name.to_string());
    let set = study.trace_set_observed(facts, |progress| {
        bar.set_position(progress.facts_done as u64);
        ControlFlow::Continue(())
    })?;
    bar.finish_and_clear();
    Ok(set)
}

fn tell_counts(set: &SetTrace, facts: &[FactPrompt], tokenizer: &Tokenizer) -> Result<()> {
    println!(
        "{} of {} facts kept; on {} the clean model is wrong.",
        set.kept.len(),
        facts.len(),
        set.dropped.len()
    );
    for dropped in set.dropped.iter().take(5) {
        println!(
            "  `{}`: found `{}`, expected `{}`",
            facts[dropped.index].text,
            tokenizer.token_text(dropped.answer)?,
            tokenizer.token_text(dropped.attribute)?
        );
    }
    println!(
        "Total effect of the corruption: {:.3} ± {:.3} (standard error) of the answer's \
         probability.",
        set.total_effect, set.total_effect_std_error
    );
    Ok(())
}

/// The largest average indirect effect of a table: layer, effect, standard error.
fn strongest(average: &Labelled, class: PositionClass) -> (usize, f32, f32) {
    let row = PositionClass::ALL
        .iter()
        .position(|c| *c == class)
        .unwrap_or(0);
    let layers = 0..average.values().shape()[1];
    let best = layers
        .filter(|layer| average.values()[[row, *layer]].is_finite())
        .max_by(|a, b| f32::total_cmp(&average.values()[[row, *a]], &average.values()[[row, *b]]));
    let at = |values: Option<ndarray::ArrayViewD<'_, f32>>| {
        best.and_then(|layer| values.map(|v| v[[row, layer]]))
            .unwrap_or(f32::NAN)
    };
    (
        best.unwrap_or(0),
        at(Some(average.values())),
        at(average.std_error()),
    )
}

/// One sentence on where facts are recalled.
fn conclusion(sets: &[(&str, SetTrace)]) -> String {
    let best = |set: &SetTrace, classes: &[PositionClass]| {
        let scored = classes
            .iter()
            .map(|class| (*class, strongest(&set.average, *class)));
        scored
            .filter(|(_, (_, effect, _))| effect.is_finite())
            .max_by(|a, b| f32::total_cmp(&a.1.1, &b.1.1))
    };
    let tell = |(name, set): &(&str, SetTrace)| {
        let (class, (layer, effect, error)) = best(set, &PositionClass::ALL)?;
        let share = 100.0 * effect / set.total_effect;
        Some(format!(
            "{name} at the {class} in L{layer} ({effect:.3} ± {error:.3}, {share:.0} % of the \
             total effect)"
        ))
    };
    let subject = &PositionClass::ALL[..3];
    let site = best(&sets[1].1, subject).map_or_else(String::new, |(class, (layer, effect, _))| {
        format!(
            " Within the subject, MLPs matter most at the {class}, around L{layer} ({effect:.3})."
        )
    });
    let told: Vec<String> = sets.iter().filter_map(tell).collect();
    format!(
        "Facts are recalled where restoring helps most: {}.{site}",
        told.join("; ")
    )
}

fn save(arguments: &Arguments, sets: &[(&str, SetTrace)]) -> Result<()> {
    if let Some(path) = &arguments.json {
        let tables: serde_json::Map<String, serde_json::Value> = sets
            .iter()
            .map(|(name, set)| Ok((name.to_string(), serde_json::to_value(&set.average)?)))
            .collect::<Result<_>>()?;
        let text = serde_json::to_string_pretty(&tables)?;
        std::fs::write(path, text).with_context(|| path.display().to_string())?;
    }
    if let Some(dir) = &arguments.out {
        for (name, set) in sets {
            support::save(&set.average, dir, name)?;
        }
    }
    Ok(())
}
