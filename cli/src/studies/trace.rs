//! Causal tracing: at which layer and token a model recalls facts.

use std::collections::BTreeSet;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use ndarray::Array1;
use patchlens::forecast::Forecast;
use patchlens::report::Labelled;
use patchlens::tasks::SkippedFact;
use patchlens::tracing::{
    CausalTracing, DEFAULT_WINDOW, PositionClass, Restore, SetTrace, Severed, SubjectCorruption,
    TracedFact, mean_subject_embedding, subject_noise_std,
};
use patchlens::{Tokenizer, Transformer};
use serde_json::{Value, json};

use crate::facts::{Fact, FactArgs, window};
use crate::interrupt;
use crate::numbers;
use crate::options::Common;
use crate::outline::Outline;
use crate::output::Output;
use crate::session::{Session, costs};
use crate::usage::usage;
use crate::work::Divided;

/// Causal tracing: at which layer and token are facts recalled?
///
/// The subject is corrupted, which costs the answer its probability; then one clean state at a
/// time is restored (Meng et al. 2022). Prints the average indirect effect by token class and
/// layer, for hidden states, MLP outputs and attention outputs.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  patchlens trace --out study
  patchlens trace --clean \"Ada Brown plays the sport of\" --subject \"Ada Brown\" --answer \" boxing\"
  patchlens trace --facts known_1000.json --model weights/gpt2")]
pub struct Trace {
    #[command(flatten)]
    pub common: Common,
    /// Only say what the study will cost: multiply-adds, memory and time on this machine. Opens no
    /// weights
    #[arg(long, help_heading = "Model and machine",
        conflicts_with_all = ["journal", "shard", "known"])]
    pub plan: bool,
    #[command(flatten)]
    pub divided: Divided,
    #[command(flatten)]
    facts: FactArgs,
    /// What happens to the subject
    #[arg(long, value_enum, default_value_t = Kind::Noise)]
    corruption: Kind,
    /// Standard deviation of the noise, for --corruption noise [default: 3 times that of the
    /// subjects' embeddings]
    #[arg(long, value_name = "STD", value_parser = numbers::finite)]
    noise: Option<f32>,
    /// Noise samples (or other subjects) per fact [default: 10]
    #[arg(long, value_name = "N", value_parser = numbers::whole::<usize>(1..=100_000))]
    samples: Option<usize>,
    /// Seed of the noise [default: 0]
    #[arg(long, value_parser = numbers::from_0::<u64>())]
    seed: Option<u64>,
    /// Layers of an MLP or attention window, cut at the model's ends [default: 10, or a quarter of
    /// fewer than 40 layers]
    #[arg(long, value_name = "N", value_parser = numbers::from_1::<usize>())]
    window: Option<usize>,
    /// Also restore states with MLPs, and with attention, severed at the restored token
    #[arg(long)]
    severed: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    /// Gaussian noise on the token embeddings, that of the paper
    Noise,
    /// The mean embedding of all subjects' tokens
    Mean,
    /// Tokens of other subjects of the same length
    Subjects,
}

impl Trace {
    /// Runs the study.
    ///
    /// # Errors
    /// For facts that the tokenizer cannot tell; `EndedEarly` after Ctrl-C.
    pub fn run(&self, session: &Session) -> Result<()> {
        let (output, model, tokenizer) = (&session.output, &session.model, &session.tokenizer);
        self.check()?;
        output.say(format_args!("Model: {}", output.model()))?;
        let (facts, skipped) = self.facts.read(tokenizer, session.shipped, output)?;
        let traced: Vec<TracedFact> = facts.iter().map(|fact| fact.traced.clone()).collect();
        let corruption = self.corruption(model, &traced)?;
        let costs = costs(traced.iter().map(|fact| fact.prompt.len()), true);
        let traced = &traced[session.work.begin(model, &costs)?];
        let tracing = CausalTracing::new(model, corruption)
            .memory_limit(session.memory)
            .journal(session.work.journal())
            .observe(session.progress.observer("tracing"));
        let restores = self.restores(model.config().n_layers);
        let (names, restores): (Vec<&str>, Vec<Restore>) = restores.into_iter().unzip();
        let sets = tracing.trace_set(traced, &restores)?;
        session.work.last_step()?;
        drop(tracing);
        let sets: Vec<(&str, SetTrace)> = names.into_iter().zip(sets).collect();
        for (name, set) in &sets {
            output.table(&set.average)?;
            output.keep(name, &set.average)?;
        }
        let (_, first) = &sets[0];
        say_counts(first, &facts, tokenizer, output)?;
        let [kept, left_out] = of_facts(first, &facts, &skipped);
        output.number("facts kept", kept)?;
        output.number("facts left out", left_out)?;
        output.say(conclusion(&sets))?;
        interrupt::check()
    }

    /// Says what the study will cost.
    ///
    /// # Errors
    /// For facts that the tokenizer cannot tell.
    pub fn outline(&self, outline: Outline) -> Result<()> {
        let (config, output) = (&outline.config, &outline.output);
        self.check()?;
        let (facts, _) = self
            .facts
            .read(&outline.tokenizer, outline.shipped, output)?;
        let traced: Vec<TracedFact> = facts.into_iter().map(|fact| fact.traced).collect();
        // Of any size and direction: what it is does not change what it costs.
        let corruption = match self.corruption {
            Kind::Noise => SubjectCorruption::Noise {
                std: self.noise.unwrap_or(1.0),
                seed: self.seed.unwrap_or(0),
                samples: self.samples(),
            },
            Kind::Mean => SubjectCorruption::Embedding(Array1::zeros(config.d_model)),
            Kind::Subjects => self.other_subjects(&traced)?,
        };
        let restores = self.restores(config.n_layers);
        let restores: Vec<Restore> = restores.into_iter().map(|(_, restore)| restore).collect();
        let forecast = Forecast::tracing(config, &corruption, &traced, &restores)?;
        outline.tell(&forecast)
    }

    /// Rejects options that would not be used.
    fn check(&self) -> Result<()> {
        let noise = matches!(self.corruption, Kind::Noise);
        let mean = matches!(self.corruption, Kind::Mean);
        for (option, given, used, by) in [
            ("--noise", self.noise.is_some(), noise, "noise"),
            ("--seed", self.seed.is_some(), noise, "noise"),
            (
                "--samples",
                self.samples.is_some(),
                !mean,
                "noise or subjects",
            ),
        ] {
            if given && !used {
                return Err(usage(format!("{option} is only for --corruption {by}")));
            }
        }
        Ok(())
    }

    /// What is restored, by the name of its result.
    fn restores(&self, n_layers: usize) -> Vec<(&'static str, Restore)> {
        let window = window(self.window, DEFAULT_WINDOW, n_layers);
        let mut restores = vec![
            ("states", Restore::states()),
            ("mlp", Restore::mlp(window)),
            ("attention", Restore::attention(window)),
        ];
        if self.severed {
            let severed = |what| Restore::states().severing(what);
            restores.push(("states_mlp_severed", severed(Severed::Mlp)));
            restores.push(("states_attention_severed", severed(Severed::Attention)));
        }
        restores
    }

    fn corruption(&self, model: &Transformer, facts: &[TracedFact]) -> Result<SubjectCorruption> {
        Ok(match self.corruption {
            Kind::Noise => SubjectCorruption::Noise {
                std: self
                    .noise
                    .map_or_else(|| subject_noise_std(model, facts), Ok)?,
                seed: self.seed.unwrap_or(0),
                samples: self.samples(),
            },
            Kind::Mean => {
                several_subjects("mean", facts)?;
                SubjectCorruption::Embedding(mean_subject_embedding(model, facts)?)
            }
            Kind::Subjects => self.other_subjects(facts)?,
        })
    }

    fn samples(&self) -> usize {
        self.samples.unwrap_or(10)
    }

    fn other_subjects(&self, facts: &[TracedFact]) -> Result<SubjectCorruption> {
        let subjects = several_subjects("subjects", facts)?;
        // One more than asked for, as a fact's own subject is no sample.
        let n = subjects.len().min(self.samples().saturating_add(1));
        let spread = (0..n).map(|i| subjects[i * subjects.len() / n].clone());
        Ok(SubjectCorruption::Subjects(spread.collect()))
    }
}

/// The different subjects of the facts. One alone has no other to take its place, and is nearly
/// its own mean.
fn several_subjects(corruption: &str, facts: &[TracedFact]) -> Result<Vec<Vec<u32>>> {
    let subjects: BTreeSet<Vec<u32>> = facts.iter().map(|f| f.subject_tokens().to_vec()).collect();
    if subjects.len() < 2 {
        bail!(
            "--corruption {corruption}: found one subject; expected facts about at least two \
             (--facts), or --corruption noise"
        );
    }
    Ok(subjects.into_iter().collect())
}

/// How many facts are kept, and what the corruption costs.
fn say_counts(
    set: &SetTrace,
    facts: &[Fact],
    tokenizer: &Tokenizer,
    output: &Output,
) -> Result<()> {
    output.say(format_args!(
        "{} of {} facts kept; on {} the clean model is wrong.",
        set.kept.len(),
        facts.len(),
        set.dropped.len()
    ))?;
    let text = |tokens: &[u32]| -> String {
        let texts = tokens.iter().map(|token| tokenizer.token_text(*token));
        texts.collect()
    };
    for dropped in set.dropped.iter().take(5) {
        output.say(format_args!(
            "  `{}`: found `{}`, expected `{}`",
            facts[dropped.index].text,
            text(&dropped.answer),
            text(&dropped.attribute)
        ))?;
    }
    let missing = facts.len() - set.kept.len() - set.dropped.len();
    if missing > 0 {
        output.say(format_args!(
            "{missing} of {} facts were not run.",
            facts.len()
        ))?;
    }
    let error = match (error(set.total_effect.std_error), set.kept.len()) {
        (_, 0) => return Ok(()),
        (Some(error), _) => format!("{error} (standard error)"),
        (None, 1) => " (one fact: no standard error)".to_string(),
        (None, _) => " (no standard error)".to_string(),
    };
    output.say(format_args!(
        "Total effect of the corruption: {:.3}{error} of the answer's probability.",
        set.total_effect.mean
    ))
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

/// A total effect below this, in probability, is not worth a map: its shares are rounding.
const LEAST_TOTAL_EFFECT: f32 = 0.01;

/// Where facts are recalled, a line for each study.
fn conclusion(sets: &[(&str, SetTrace)]) -> String {
    let total = sets[0].1.total_effect.mean;
    if sets[0].1.kept.is_empty() {
        return "Where facts are recalled is not known: none was run to its end.".to_string();
    }
    if total < LEAST_TOTAL_EFFECT {
        return format!(
            "The corruption costs {total:.3} of the answer's probability, less than \
             {LEAST_TOTAL_EFFECT}: there is nothing to restore, and nothing to trace."
        );
    }
    let subject = &PositionClass::ALL[..3];
    let mut lines = vec!["Facts are recalled where restoring helps most:".to_string()];
    for (name, set) in sets {
        // The last token's last states are all that the answer is read from.
        let classes = if name.starts_with("states") {
            subject
        } else {
            &PositionClass::ALL[..]
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
            "  {name}: at the {class} {} {layer}, {effect:.3}{}, {share:.0} % of the total effect",
            if name.starts_with("states") {
                "after layer"
            } else {
                "in layer"
            },
            error(std_error).unwrap_or_default()
        );
        if let (true, Some(layer)) = (name.starts_with("states"), arrival(set)) {
            line += &format!("; the last token has nine tenths of it after layer {layer}");
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

/// Each kept fact's total effect, and why other facts were not kept.
fn of_facts(set: &SetTrace, facts: &[Fact], skipped: &[SkippedFact]) -> [Value; 2] {
    let kept = set
        .kept
        .iter()
        .map(|(i, trace)| json!({ "prompt": facts[*i].text, "total_effect": trace.total_effect }));
    let wrong = set.dropped.iter().map(|dropped| {
        let reason = "the clean model is wrong";
        json!({ "prompt": facts[dropped.index].text, "reason": reason })
    });
    let unreadable = skipped
        .iter()
        .map(|s| json!({ "prompt": s.text, "reason": s.reason }));
    [kept.collect(), wrong.chain(unreadable).collect()]
}
