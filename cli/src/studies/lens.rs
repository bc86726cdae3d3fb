//! Logit lens and tuned lens: where in the model the answer becomes readable.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use ndarray::Array2;
use patchlens::lens::{LensFit, LensReadout, LogitLens, TunedLens};
use patchlens::report::{About, Axis, Labelled, Palette};
use patchlens::tasks::{Facts, Ioi, Split};
use patchlens::{HookPoint, Prompt, Prompts, Tokenizer, Transformer};

use crate::interrupt;
use crate::numbers::{self, MOST_PROMPTS};
use crate::options::Common;
use crate::output::{Output, check_file};
use crate::progress::Reporter;
use crate::session::Session;
use crate::usage::usage;

/// Logit lens and tuned lens: from which layer on can the answer be read?
///
/// Every layer of the residual stream is read as if the model ended there; the tuned lens puts an
/// affine map fitted on other prompts in between.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  patchlens lens --out study
  patchlens lens --clean \"Ada Brown plays the sport of\" --top-k 5
  patchlens lens --clean \"The Eiffel Tower is in\" --answer \" Paris\" --model weights/gpt2 --fit 0")]
pub struct Lens {
    #[command(flatten)]
    pub common: Common,
    /// Your own text to read, instead of an IOI prompt
    #[arg(long, value_name = "TEXT", visible_alias = "text")]
    clean: Option<String>,
    /// Its answer, one token [default: the model's own likeliest]
    #[arg(long, value_name = "TEXT", requires = "clean")]
    answer: Option<String>,
    /// Seed of the prompts
    #[arg(long, default_value_t = 0, value_parser = numbers::from_0::<u64>())]
    seed: u64,
    /// How many of the likeliest tokens to list
    #[arg(long, value_name = "K", default_value_t = 3, value_parser = numbers::from_1::<usize>())]
    top_k: usize,
    /// Prompts of each task, to tell where answers come on top
    #[arg(long, value_name = "N", default_value_t = 50,
        value_parser = numbers::whole::<u16>(1..=65_535))]
    prompts: u16,
    /// Prompts that the tuned lens is fitted on; 0 for no tuned lens
    #[arg(long, value_name = "N", default_value_t = 200,
        value_parser = numbers::whole::<usize>(0..=MOST_PROMPTS))]
    fit: usize,
    /// Translators of a tuned lens (safetensors) to use instead of fitting some
    #[arg(long, value_name = "FILE", conflicts_with_all = ["fit", "ridge"])]
    lens: Option<PathBuf>,
    /// Write the tuned lens's translators to this file (safetensors)
    #[arg(long, value_name = "FILE")]
    save_lens: Option<PathBuf>,
    /// Ridge of the fit, relative to the data [default: 0.001]
    #[arg(long, value_parser = numbers::size)]
    ridge: Option<f64>,
}

impl Lens {
    /// Runs the study.
    ///
    /// # Errors
    /// For texts that the tokenizer cannot tell; `EndedEarly` after Ctrl-C.
    pub fn run(&self, session: &Session) -> Result<()> {
        let (output, model, tokenizer) = (&session.output, &session.model, &session.tokenizer);
        self.check()?;
        let (text, prompt, answer) = self.question(model, tokenizer)?;
        output.say(format_args!(
            "model    {}\n{text}\nanswer: `{}`\n",
            output.model(),
            tokenizer.token_text(answer)
        ))?;
        let label = tokenizer.token_label(answer);
        let read = |mut lens: LogitLens<'_>| -> Result<LensReadout> {
            (lens.top_k, lens.tokens) = (self.top_k, vec![answer]);
            lens.token_labels = Some(vec![label.clone()]);
            Ok(lens.run(&prompt)?)
        };
        let plain = read(LogitLens::new(model))?;
        show(&plain, tokenizer, output)?;
        let mut sentence = describe(&plain, &prompt, "the logit lens")?;
        self.keep("logit_lens", &plain, session)?;
        interrupt::check()?;

        if let Some(tuned) = self.translators(session)? {
            let found = read(LogitLens::tuned(model, &tuned)?)?;
            output.table(&found.kl_to_final)?;
            sentence += &describe(&found, &prompt, "the tuned lens")?;
            self.keep("tuned_lens", &found, session)?;
            interrupt::check()?;
            let point = LogitLens::tuned(model, &tuned)?.points[middle(&found)];
            let held_out = self.ioi_prompts(tokenizer)?;
            let means = [LogitLens::new(model), LogitLens::tuned(model, &tuned)?]
                .map(|lens| mean_kl(lens, point, &held_out, &session.progress));
            let [of_plain, of_tuned] = means;
            sentence += &compare([&plain, &found], [of_plain?, of_tuned?], held_out.len());
        }
        output.say(sentence.trim_end())?;
        interrupt::check()?;
        if self.clean.is_none() {
            let shares = on_top(model, &self.tasks(session)?, &session.progress)?;
            output.table(&shares)?;
            output.say(when_on_top(&shares, self.prompts.into()))?;
            output.keep("logit_lens_on_top", &self.seeded(&shares))?;
        }
        Ok(())
    }

    fn check(&self) -> Result<()> {
        let no_fit = self.lens.is_none() && self.fit == 0;
        for (option, given) in [
            ("--save-lens", self.save_lens.is_some()),
            ("--ridge", self.ridge.is_some()),
        ] {
            if no_fit && given {
                let why = format!("{option} needs a tuned lens, and --fit 0 makes none");
                return Err(usage(why));
            }
        }
        if let Some(path) = &self.save_lens {
            check_file("--save-lens", path)?;
            if path.extension().is_none_or(|found| found != "safetensors") {
                return Err(usage(format!(
                    "--save-lens: found {}; expected a name that ends with .safetensors",
                    path.display()
                )));
            }
        }
        Ok(())
    }

    /// The text to read, its tokens, and the answer to look for.
    fn question(
        &self,
        model: &Transformer,
        tokenizer: &Tokenizer,
    ) -> Result<(String, Prompt, u32)> {
        let Some(text) = &self.clean else {
            let ioi = Ioi::new(tokenizer)?.split(Split::HeldOut)?;
            let one = ioi.prompts(1, self.seed)?.swap_remove(0);
            return Ok((one.text, one.prompt, one.io));
        };
        let prompt = tokenizer.encode(text)?;
        let answer = match &self.answer {
            Some(answer) => tokenizer.token(answer).context("--answer")?,
            None => own_answer(&LogitLens::new(model).run(&prompt)?),
        };
        Ok((text.clone(), prompt, answer))
    }

    fn seeded(&self, table: &Labelled) -> Labelled {
        let mut table = table.clone();
        table.about.seed.get_or_insert(self.seed);
        table
    }

    /// Keeps the three tables of a readout.
    fn keep(&self, lens: &str, found: &LensReadout, session: &Session) -> Result<()> {
        let likeliest = found.likeliest(&session.tokenizer)?;
        let rank = found.rank.as_ref().context("a token was followed")?;
        for (what, table) in [
            ("likeliest", &likeliest),
            ("kl", &found.kl_to_final),
            ("rank", rank),
        ] {
            session
                .output
                .keep(&format!("{lens}_{what}"), &self.seeded(table))?;
        }
        Ok(())
    }

    /// The tuned lens: from a file, else fitted on prompts unless those are none.
    fn translators(&self, session: &Session) -> Result<Option<TunedLens>> {
        let lens = match (&self.lens, self.fit) {
            (Some(path), _) => TunedLens::open(path)?,
            (None, 0) => return Ok(None),
            (None, n) => {
                let drawn = Ioi::new(&session.tokenizer)?.split(Split::Train)?;
                let drawn = Prompts::new(&drawn.prompts(n, self.seed)?)?;
                let points = LogitLens::new(&session.model).points;
                let fit = LensFit::new(&session.model, drawn)?.points(&points);
                let fit = fit.observe(session.progress.observer("fitting the tuned lens"));
                let fitted = fit.run(self.ridge.unwrap_or(1e-3))?;
                if fitted.partial {
                    session.output.note(format_args!(
                        "interrupted: the tuned lens is fitted on {} of {n} prompts",
                        fitted.prompts
                    ));
                }
                fitted.lens
            }
        };
        if let Some(path) = &self.save_lens {
            lens.save(path)?;
            session
                .output
                .note(format_args!("saved {}", path.display()));
        }
        Ok(Some(lens))
    }

    /// Held-out IOI prompts and their answers.
    fn ioi_prompts(&self, tokenizer: &Tokenizer) -> Result<Vec<(Prompt, u32)>> {
        let ioi = Ioi::new(tokenizer)?.split(Split::HeldOut)?;
        let drawn = ioi.prompts(self.prompts.into(), self.seed)?;
        Ok(drawn.into_iter().map(|p| (p.prompt, p.io)).collect())
    }

    /// Prompts with answers that the model should know: facts only of the shipped model.
    fn tasks(&self, session: &Session) -> Result<Vec<Task>> {
        let tokenizer = &session.tokenizer;
        let mut tasks = vec![("names (IOI)", self.ioi_prompts(tokenizer)?)];
        if session.shipped {
            let facts = Facts::new(tokenizer)?.split(Split::Train);
            let facts = facts.prompts(self.prompts.into(), self.seed)?.into_iter();
            tasks.push(("facts", facts.map(|f| (f.prompt, f.attribute)).collect()));
        }
        Ok(tasks)
    }
}

/// The model's likeliest next token.
fn own_answer(found: &LensReadout) -> u32 {
    let (points, n, _) = found.top_tokens.dim();
    found.top_tokens[[points - 1, n - 1, 0]]
}

/// The likeliest tokens at the last position, and the distance to the final distribution.
fn show(found: &LensReadout, tokenizer: &Tokenizer, output: &Output) -> Result<()> {
    let (_, n, k) = found.top_tokens.dim();
    let names = &found.kl_to_final.axes()[0].labels;
    for (point, name) in names.iter().enumerate() {
        let token = |k: usize| -> Result<String> {
            let text = tokenizer.token_text(found.top_tokens[[point, n - 1, k]]);
            let p = found.top_probabilities.values()[[point, n - 1, k]];
            Ok(format!("`{text}` {:.1} %", 100.0 * p))
        };
        let tokens: Vec<String> = (0..k).map(token).collect::<Result<_>>()?;
        output.say(format_args!("{name:>12}  {}", tokens.join("   ")))?;
    }
    output.say("")?;
    output.table(&found.likeliest(tokenizer)?)?;
    output.table(&found.kl_to_final)
}

/// From which point on the answer stays on top at the last position, and how far the middle of
/// the model is from the end.
fn describe(found: &LensReadout, prompt: &Prompt, lens: &str) -> Result<String> {
    let names = &found.kl_to_final.axes()[0].labels;
    let last = prompt.len() - 1;
    let middle = middle(found);
    let kl = found.kl_to_final.values()[[middle, last]];
    let becomes = match found.on_top_from(0, last)? {
        Some(point) => format!("is the likeliest from `{}` on", names[point]),
        None => "is not the likeliest at the end".to_string(),
    };
    Ok(format!(
        "By {lens}, the answer {becomes}; at `{}` the last position's distribution is {kl:.2} \
         nats from the final one.\n",
        names[middle]
    ))
}

/// The index of the point in the middle of the model.
fn middle(found: &LensReadout) -> usize {
    found.kl_to_final.axes()[0].labels.len() / 2
}

/// The mean KL divergence at a point over all positions of all prompts, in nats.
fn mean_kl(
    mut lens: LogitLens<'_>,
    point: HookPoint,
    prompts: &[(Prompt, u32)],
    progress: &Reporter,
) -> Result<f32> {
    let _step = progress.step("lens on held-out prompts");
    (lens.top_k, lens.points) = (1, vec![point]);
    let (mut sum, mut count) = (0.0, 0);
    for (prompt, _) in prompts {
        interrupt::check()?;
        sum += lens.run(prompt)?.kl_to_final.values().sum();
        count += prompt.len();
    }
    Ok(sum / count as f32)
}

/// Both lenses' mean divergence over all positions of held-out prompts, as one position of one
/// prompt tells little.
fn compare(found: [&LensReadout; 2], means: [f32; 2], prompts: usize) -> String {
    // A lens from a file may have other points than the logit lens.
    let name = &found[1].kl_to_final.axes()[0].labels[middle(found[1])];
    let at_end = found.map(|found| {
        let (values, axes) = (found.kl_to_final.values(), found.kl_to_final.axes());
        let point = axes[0].labels.iter().position(|label| label == name)?;
        Some(values[[point, values.shape()[1] - 1]])
    });
    let further = matches!(at_end, [Some(plain), Some(tuned)] if tuned > plain);
    let why = if further {
        " At the last position here the tuned lens is further off: it is fitted by squared \
             error over all positions, which need not bring each one's distribution closer."
    } else {
        ""
    };
    format!(
        "Mean over all positions of {prompts} held-out IOI prompts at `{name}`: the logit lens is \
         {:.2} nats from the final distribution, the tuned lens {:.2}.{why}\n",
        means[0], means[1]
    )
}

/// A task's name, its prompts, and their answers.
type Task = (&'static str, Vec<(Prompt, u32)>);

/// The share of each task's prompts whose answer is the likeliest token from a point on,
/// `[task, point]`.
fn on_top(model: &Transformer, tasks: &[Task], progress: &Reporter) -> Result<Labelled> {
    let mut lens = LogitLens::new(model);
    lens.top_k = 1;
    let _step = progress.step("lens on the tasks' prompts");
    let mut shares = Array2::zeros((tasks.len(), lens.points.len()));
    let mut points = Vec::new();
    for ((_, prompts), mut row) in tasks.iter().zip(shares.rows_mut()) {
        for (prompt, answer) in prompts {
            interrupt::check()?;
            lens.tokens = vec![*answer];
            let found = lens.run(prompt)?;
            if let Some(first) = found.on_top_from(0, prompt.len() - 1)? {
                row.iter_mut().skip(first).for_each(|count| *count += 1.0);
            }
            points.clone_from(&found.kl_to_final.axes()[0].labels);
        }
        row /= prompts.len() as f32;
    }
    let axes = vec![
        Axis::new("task", tasks.iter().map(|(name, _)| *name)),
        Axis::new("point", points),
    ];
    let about = About {
        title: "Logit lens: answers on top".to_string(),
        caption: "Share of prompts whose right answer is the likeliest token, at the last \
                  position, at this point and all later ones."
            .to_string(),
        unit: "share of prompts".to_string(),
        palette: Palette::Sequential,
        ..About::default()
    };
    Ok(Labelled::new(shares, axes, about)?)
}

/// Where answers come on top, in words: one sentence per task.
fn when_on_top(shares: &Labelled, prompts: usize) -> String {
    let [tasks, points] = [0, 1].map(|axis| &shares.axes()[axis].labels);
    let sentence = |(task, row): (&String, ndarray::ArrayViewD<'_, f32>)| {
        let last = row[points.len() - 1];
        let from = |part: f32| {
            let reached = row.iter().position(|share| *share >= part * last - 1e-6);
            points[reached.unwrap_or(points.len() - 1)].as_str()
        };
        let known = (last * prompts as f32).round();
        match known {
            0.0 => format!("{task}: no answer of {prompts} is on top at the end."),
            _ => format!(
                "{task}: {known} of {prompts} answers are on top at the end; half of these from \
                 `{}` on, nine tenths from `{}`, all from `{}`.",
                from(0.5),
                from(0.9),
                from(1.0)
            ),
        }
    };
    let rows = shares.values();
    let sentences = tasks.iter().zip(rows.outer_iter());
    let sentences: Vec<String> = sentences.map(sentence).collect();
    sentences.join("\n")
}
