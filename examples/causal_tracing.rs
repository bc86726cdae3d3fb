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

use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use clap::{Parser, ValueEnum};
use patchlens::report::use_color;
use patchlens::tasks::{FactPrompt, Facts, KnownFacts, SkippedFact, Split};
use patchlens::{
    CausalTracing, DEFAULT_WINDOW, Labelled, PositionClass, Restore, SetTrace, Severed,
    SubjectCorruption, Tokenizer, TracedFact, Transformer, mean_subject_embedding,
    subject_noise_std,
};

/// Where are facts recalled? Causal tracing of a model's facts.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Folder with config.json, model.safetensors and tokenizer.json, needs --facts [default: the
    /// shipped model]
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
    /// Standard deviation of the noise, for --corruption noise [default: 3 times that of the subjects' embeddings]
    #[arg(long, value_name = "STD")]
    noise: Option<f32>,
    /// Noise samples (or other subjects) a fact [default: 10]
    #[arg(long, value_name = "N")]
    samples: Option<usize>,
    /// Seed of the noise [default: 0]
    #[arg(long)]
    seed: Option<u64>,
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
    check(&arguments)?;
    support::check_outputs(arguments.json.as_deref(), arguments.out.as_deref())?;
    let (model, tokenizer) = support::open(arguments.model.as_deref())?;
    println!("Model: {}", support::name(arguments.model.as_deref()));
    let (facts, skipped) = facts(&arguments, &tokenizer)?;
    let traced: Vec<TracedFact> = facts.iter().map(TracedFact::from).collect();
    let tracing = CausalTracing::new(&model, corruption(&arguments, &model, &traced)?);

    let n_layers = model.config().n_layers;
    let window = arguments
        .window
        .unwrap_or(DEFAULT_WINDOW.min((n_layers / 4).max(1)));
    ensure!(
        (1..=n_layers).contains(&window),
        "--window: found {window}; expected 1 to {n_layers}, the model's layers"
    );
    let mut studies = vec![
        ("states", Restore::states()),
        ("mlp", Restore::mlp(window)),
        ("attention", Restore::attention(window)),
    ];
    if arguments.severed {
        let severed = |what| Restore::states().severing(what);
        studies.push(("states_mlp_severed", severed(Severed::Mlp)));
        studies.push(("states_attention_severed", severed(Severed::Attention)));
    }
    let (names, restores): (Vec<&str>, Vec<Restore>) = studies.into_iter().unzip();
    let bar = support::Bar::new("facts");
    let tracing = tracing.observe(|progress| bar.observe(progress));
    let sets = tracing.trace_set(&traced, &restores)?;
    drop(tracing);
    drop(bar);
    let sets: Vec<(&str, SetTrace)> = names.into_iter().zip(sets).collect();
    for (_, set) in &sets {
        println!("{}", set.average.colored(use_color()));
    }
    tell_counts(&sets[0].1, &facts, &tokenizer)?;
    println!("{}", conclusion(&sets));
    save(&arguments, &sets, &facts, &skipped)
}

/// Turns down options that the corruption would not use.
fn check(arguments: &Arguments) -> Result<()> {
    let noise = matches!(arguments.corruption, Kind::Noise);
    let mean = matches!(arguments.corruption, Kind::Mean);
    for (option, given, used, by) in [
        ("--noise", arguments.noise.is_some(), noise, "noise"),
        ("--seed", arguments.seed.is_some(), noise, "noise"),
        (
            "--samples",
            arguments.samples.is_some(),
            !mean,
            "noise or subjects",
        ),
    ] {
        ensure!(!given || used, "{option} is only for --corruption {by}");
    }
    Ok(())
}

/// The facts to trace, and those of a file that the tokenizer cannot tell.
fn facts(
    arguments: &Arguments,
    tokenizer: &Tokenizer,
) -> Result<(Vec<FactPrompt>, Vec<SkippedFact>)> {
    let (all, skipped) = match &arguments.facts {
        Some(path) => {
            let known = KnownFacts::open(path, tokenizer, arguments.bos)?;
            (known.facts, known.skipped)
        }
        None => {
            let facts = Facts::new(tokenizer)?.split(Split::Train);
            let facts = if arguments.bos {
                facts.with_bos()?
            } else {
                facts
            };
            (facts.all()?, Vec::new())
        }
    };
    ensure!(arguments.limit > 0, "--limit: found 0; expected at least 1");
    let n = arguments.limit.min(all.len());
    println!(
        "Facts: {} of {} can be told with this tokenizer; {n} of them are traced.",
        all.len(),
        all.len() + skipped.len()
    );
    for fact in skipped.iter().take(5) {
        println!("  fact {} left out: {}", fact.index, fact.reason);
    }
    if skipped.len() > 5 {
        println!("  ... and {} more, see --json", skipped.len() - 5);
    }
    let spread = (0..n).map(|i| all[i * all.len() / n].clone());
    Ok((spread.collect(), skipped))
}

fn corruption(
    arguments: &Arguments,
    model: &Transformer,
    facts: &[TracedFact],
) -> Result<SubjectCorruption> {
    let samples = arguments.samples.unwrap_or(10);
    Ok(match arguments.corruption {
        Kind::Noise => SubjectCorruption::Noise {
            std: arguments
                .noise
                .map_or_else(|| subject_noise_std(model, facts), Ok)?,
            seed: arguments.seed.unwrap_or(0),
            samples,
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
            let n = subjects.len().min(samples.saturating_add(1));
            let spread = (0..n).map(|i| subjects[i * subjects.len() / n].clone());
            SubjectCorruption::Subjects(spread.collect())
        }
    })
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
    let error = match (error(set.total_effect.std_error), set.kept.len()) {
        (Some(error), _) => format!("{error} (standard error)"),
        (None, 1) => " (one fact: no standard error)".to_string(),
        (None, _) => " (no standard error)".to_string(),
    };
    println!(
        "Total effect of the corruption: {:.3}{error} of the answer's probability.",
        set.total_effect.mean
    );
    Ok(())
}

/// A standard error as it follows its value, if there is one.
fn error(value: f32) -> Option<String> {
    value.is_finite().then(|| format!(" ± {value:.3}"))
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

/// Where facts are recalled, a line for each study.
fn conclusion(sets: &[(&str, SetTrace)]) -> String {
    let total = sets[0].1.total_effect.mean;
    // What is left of rounding is no effect.
    if total <= 1e-6 {
        return "The corruption costs nothing of the answer's probability: there is nothing to \
                restore, and nothing to trace."
            .to_string();
    }
    let subject = &PositionClass::ALL[..3];
    let mut lines = vec!["Facts are recalled where restoring helps most:".to_string()];
    for (name, set) in sets {
        // The last token's last states are all that the answer is read from.
        let classes = match name.starts_with("states") {
            true => subject,
            false => &PositionClass::ALL[..],
        };
        let scored = classes.iter().map(|c| (*c, strongest(&set.average, *c)));
        let best = scored
            .filter(|(_, (_, effect, _))| effect.is_finite())
            .max_by(|a, b| f32::total_cmp(&a.1.1, &b.1.1));
        let Some((class, (layer, effect, std_error))) = best else {
            continue;
        };
        let share = 100.0 * effect / set.total_effect.mean;
        let mut line = format!(
            "  {name}: at the {class} in L{layer}, {effect:.3}{}, {share:.0} % of the total effect",
            error(std_error).unwrap_or_default()
        );
        if let (true, Some(layer)) = (name.starts_with("states"), arrival(set)) {
            line += &format!("; the last token has nine tenths of it from L{layer} on");
        }
        lines.push(line);
    }
    lines.join("\n")
}

/// The first layer from which the last token's state restores nine tenths of the total effect.
fn arrival(set: &SetTrace) -> Option<usize> {
    let average = set.average.values();
    let row = average.index_axis(ndarray::Axis(0), PositionClass::ALL.len() - 1);
    let enough = |layer: &usize| row[*layer] >= 0.9 * set.total_effect.mean;
    (0..row.len()).rev().take_while(enough).last()
}

fn save(
    arguments: &Arguments,
    sets: &[(&str, SetTrace)],
    facts: &[FactPrompt],
    skipped: &[SkippedFact],
) -> Result<()> {
    if let Some(path) = &arguments.json {
        support::save_json(&numbers(sets, facts, skipped)?, path)?;
    }
    if let Some(dir) = &arguments.out {
        for (name, set) in sets {
            support::save(&set.average, dir, &format!("causal_tracing_{name}"))?;
        }
    }
    Ok(())
}

/// All tables, each kept fact's total effect, and why other facts were not kept.
fn numbers(
    sets: &[(&str, SetTrace)],
    facts: &[FactPrompt],
    skipped: &[SkippedFact],
) -> Result<serde_json::Value> {
    let mut all = serde_json::Map::new();
    for (name, set) in sets {
        all.insert(name.to_string(), serde_json::to_value(&set.average)?);
    }
    let (_, set) = &sets[0];
    let kept = set.kept.iter().map(|(i, trace)| {
        serde_json::json!({ "prompt": facts[*i].text, "total_effect": trace.total_effect })
    });
    let wrong = set.dropped.iter().map(|dropped| {
        let reason = "the clean model is wrong";
        serde_json::json!({ "prompt": facts[dropped.index].text, "reason": reason })
    });
    let unreadable = skipped
        .iter()
        .map(|s| serde_json::json!({ "prompt": s.text, "reason": s.reason }));
    all.insert("facts kept".to_string(), kept.collect());
    all.insert(
        "facts left out".to_string(),
        wrong.chain(unreadable).collect(),
    );
    Ok(all.into())
}
