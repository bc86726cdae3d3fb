//! Trains the small model that the crate ships, from nothing, to the same bits every time.

mod adamw;
mod card;
mod dropout;
mod evaluation;
mod training;

#[cfg(test)]
mod shipped;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Args;
use patchlens::tasks::{Corpus, mini_tokenizer_json};
use patchlens::{Config, Tokenizer, Transformer};

use crate::interrupt::EndedEarly;
use crate::numbers;
use crate::output::write_text;
use crate::progress::Reporter;
use crate::session::threads;
use crate::usage::usage;
use adamw::AdamW;
use evaluation::Evaluation;
use training::{Settings, Training};

/// Train the small transformer that patchlens ships, on generated text
///
/// The text mixes four tasks: indirect object identification, invented facts, greater-than years
/// and repeated random sequences. The same seed and steps give the same model to the bit, with
/// any number of threads, stopped and resumed or not.
///
/// Writes config.json, model.safetensors, tokenizer.json and README.md (the model card) into the
/// folder given, and checkpoint.safetensors while it is not done.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  patchlens train-mini --out mini
  patchlens train-mini --out mini --resume
  patchlens train-mini --out mini --evaluate-only")]
pub struct Arguments {
    /// Steps until the end of the learning-rate schedule
    #[arg(long, value_name = "N", default_value_t = 6000,
        value_parser = numbers::from_1::<u64>())]
    steps: u64,
    /// Seed of the initial weights and of the text
    #[arg(long, default_value_t = 0, value_parser = numbers::from_0::<u64>())]
    seed: u64,
    /// How many times larger the last layer's values are at first, where its heads begin by
    /// copying what they attend to; 0 lets them begin like all others. Without it, the model
    /// learns to write against the wrong name of IOI instead of moving the right one
    #[arg(long, value_name = "FACTOR", default_value_t = 3.0)]
    copying: f32,
    /// How likely each head below the last layer is to be left out of a quarter of a step.
    /// Without it, the model depends on single heads that find out which name is wrong
    #[arg(long, value_name = "PROBABILITY", default_value_t = 0.3)]
    drop_heads: f64,
    /// Folder to write to, made if needed
    #[arg(long, value_name = "DIR", default_value = "mini")]
    out: PathBuf,
    /// Threads [default: one per core]
    #[arg(long, value_name = "N", value_parser = numbers::threads())]
    threads: Option<u16>,
    /// Go on from checkpoint.safetensors in the folder
    #[arg(long)]
    resume: bool,
    /// Steps from one checkpoint to the next
    #[arg(long, value_name = "N", default_value_t = 200,
        value_parser = numbers::from_1::<u64>())]
    checkpoint_every: u64,
    /// Train nothing: measure the model in the folder on prompts held out of training
    #[arg(long)]
    evaluate_only: bool,
    /// No progress on stderr
    #[arg(long, short)]
    quiet: bool,
}

/// Sequences a step.
const BATCH: u64 = 64;
/// Prompts of each task that the result is measured on.
const EVALUATION_PROMPTS: usize = 1000;

impl Arguments {
    /// Trains, or measures a model.
    ///
    /// # Errors
    /// For settings out of range, and files that cannot be read or written; `EndedEarly` after
    /// Ctrl-C, with a checkpoint to go on from.
    pub fn run(&self) -> Result<()> {
        threads(self.threads)?;
        if !(0.0..=100.0).contains(&self.copying) {
            let found = self.copying;
            return Err(usage(format!(
                "--copying: found {found}; expected 0 to 100"
            )));
        }
        if !(0.0..1.0).contains(&self.drop_heads) {
            let found = self.drop_heads;
            return Err(usage(format!(
                "--drop-heads: found {found}; expected at least 0 and less than 1"
            )));
        }
        if self.evaluate_only {
            evaluate(&self.out)
        } else {
            train_and_save(self)
        }
    }
}

fn evaluate(dir: &Path) -> Result<()> {
    let model = Transformer::open(dir).context("opening the model")?;
    let tokenizer = Tokenizer::open(dir).context("opening the tokenizer")?;
    print!(
        "{}",
        Evaluation::of(&model, &tokenizer, EVALUATION_PROMPTS)?
    );
    Ok(())
}

fn train_and_save(arguments: &Arguments) -> Result<()> {
    let tokenizer_json = mini_tokenizer_json()?;
    let tokenizer = Tokenizer::from_bytes(tokenizer_json.as_bytes())?;
    let corpus = Corpus::new(&tokenizer, arguments.seed)?;
    std::fs::create_dir_all(&arguments.out)
        .with_context(|| format!("making {}", arguments.out.display()))?;
    let checkpoint = arguments.out.join("checkpoint.safetensors");
    let settings = Settings {
        seed: arguments.seed,
        batch: BATCH,
        copying: Some(arguments.copying).filter(|factor| *factor > 0.0),
        drop_heads: arguments.drop_heads,
        optimizer: AdamW::new(arguments.steps),
    };
    let config = config(tokenizer.vocab_size());
    let training = if arguments.resume {
        Training::resume(&checkpoint, settings, config)?
    } else {
        Training::new(settings, config)?
    };
    let begun = Instant::now();
    let training = train(training, &corpus, &checkpoint, arguments)?;
    let minutes = begun.elapsed().as_secs_f64() / 60.0;
    let evaluation = Evaluation::of(&training.model, &tokenizer, EVALUATION_PROMPTS)?;
    print!("{evaluation}");

    let model = &training.model;
    model.parameters().save(&arguments.out, model.config())?;
    write_text(&arguments.out.join("tokenizer.json"), &tokenizer_json)?;
    let card = card::text(&training, &tokenizer, &evaluation, minutes)?;
    write_text(&arguments.out.join("README.md"), &card)?;
    std::fs::remove_file(checkpoint).or_else(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    })?;
    for missed in evaluation.missed() {
        eprintln!("below the shipped model's bound: {missed}");
    }
    Ok(())
}

fn config(d_vocab: usize) -> Config {
    Config {
        n_layers: 4,
        n_heads: 4,
        d_model: 128,
        d_mlp: 512,
        n_ctx: 64,
        d_vocab,
        ..Config::gpt2()
    }
}

/// Trains to the end of the schedule.
fn train(
    mut training: Training,
    corpus: &Corpus<'_>,
    checkpoint: &Path,
    arguments: &Arguments,
) -> Result<Training> {
    let steps = training.settings.optimizer.steps;
    let reporter = Reporter::new(arguments.quiet);
    let shown = reporter.steps("training");
    let mut smoothed = None;
    while training.step < steps {
        let loss;
        (training, loss) = training.advance(corpus)?;
        let mean = smoothed.map_or(loss, |mean: f64| 0.98 * mean + 0.02 * loss);
        smoothed = Some(mean);
        let unit = format!("{steps} steps, loss {mean:.4}");
        let ended = shown.observe(training.step, steps, &unit).is_break();
        let every = arguments.checkpoint_every;
        if (ended || training.step.is_multiple_of(every)) && training.step < steps {
            training.save(checkpoint)?;
        }
        if ended && training.step < steps {
            eprintln!("{} is there to go on from: --resume", checkpoint.display());
            return Err(EndedEarly.into());
        }
    }
    Ok(training)
}
