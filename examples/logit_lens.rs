//! Logit lens and tuned lens: where in the model the answer of an IOI prompt becomes readable.

mod support;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use ndarray::Array2;
use patchlens::report::{About, Axis, Labelled, Palette, use_color};
use patchlens::tasks::{Facts, Ioi, Split};
use patchlens::{
    HookPoint, LensReadout, LogitLens, Prompt, Prompts, Tokenizer, Transformer, TunedLens,
};
use support::options::Common;

/// Reads every layer of the residual stream as if the model ended there.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    common: Common,
    /// A text to read instead of an IOI prompt (the answer is then the model's own)
    #[arg(long)]
    text: Option<String>,
    /// How many of the likeliest tokens to list
    #[arg(long, default_value_t = 3)]
    top_k: usize,
    /// Prompts of each task, to tell where answers come on top
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..))]
    prompts: u16,
    /// Prompts that the tuned lens is fitted on; 0 for no tuned lens
    #[arg(long, value_name = "N", default_value_t = 200)]
    fit: usize,
    /// Translators of a tuned lens (safetensors) to use instead of fitting some
    #[arg(long, value_name = "FILE", conflicts_with_all = ["fit", "ridge"])]
    lens: Option<PathBuf>,
    /// Writes the tuned lens's translators to this file (safetensors)
    #[arg(long, value_name = "FILE")]
    save_lens: Option<PathBuf>,
    /// Ridge of the fit, relative to the data [default: 0.001]
    #[arg(long)]
    ridge: Option<f64>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let (model, tokenizer) = args.common.open()?;
    let no_fit = args.lens.is_none() && args.fit == 0;
    let unused = [
        ("--save-lens", args.save_lens.is_some()),
        ("--ridge", args.ridge.is_some()),
    ];
    for (option, given) in unused {
        ensure!(
            !(no_fit && given),
            "{option} needs a tuned lens, and --fit 0 makes none"
        );
    }
    let (text, prompt, answer) = match &args.text {
        Some(text) => (text.clone(), tokenizer.encode(text)?, None),
        None => {
            let ioi = Ioi::new(&tokenizer)?.split(Split::HeldOut)?;
            let one = ioi.prompts(1, args.common.seed)?.swap_remove(0);
            (one.text, one.prompt, Some(one.io))
        }
    };
    let answer = match answer {
        Some(answer) => answer,
        None => own_answer(&LogitLens::new(&model).run(&prompt)?),
    };
    println!("{text}\nanswer: `{}`\n", tokenizer.token_text(answer)?);

    let mut lens = LogitLens::new(&model);
    (lens.top_k, lens.tokens) = (args.top_k, vec![answer]);
    lens.token_labels = Some(vec![tokenizer.token_label(answer)?]);
    let names = lens.token_labels.clone();
    let plain = lens.run(&prompt)?;
    show(&plain, &tokenizer)?;
    let mut sentence = describe(&plain, &prompt, "the logit lens")?;

    let tuned = translators(&args, &model, &tokenizer, &lens.points)?;
    let mut results = vec![("logit_lens_likeliest", plain.likeliest(&tokenizer)?)];
    results.push(("logit_lens_kl", plain.kl_to_final.clone()));
    results.push(("logit_lens_rank", ranks(&plain)?.clone()));
    if let Some(tuned) = &tuned {
        let mut lens = LogitLens::tuned(&model, tuned)?;
        (lens.top_k, lens.tokens) = (args.top_k, vec![answer]);
        lens.token_labels = names;
        let found = lens.run(&prompt)?;
        println!("{}", found.kl_to_final.colored(use_color()));
        sentence += &describe(&found, &prompt, "the tuned lens")?;
        let point = lens.points[middle(&found)];
        let held_out = ioi_prompts(&args, &tokenizer)?;
        let means = [LogitLens::new(&model), LogitLens::tuned(&model, tuned)?]
            .map(|lens| mean_kl(lens, point, &held_out));
        let [of_plain, of_tuned] = means;
        sentence += &compare([&plain, &found], [of_plain?, of_tuned?], held_out.len());
        results.push(("tuned_lens_likeliest", found.likeliest(&tokenizer)?));
        results.push(("tuned_lens_kl", found.kl_to_final.clone()));
        results.push(("tuned_lens_rank", ranks(&found)?.clone()));
    }
    let shares = on_top(&model, &tasks(&args, &tokenizer)?)?;
    println!("{}", shares.colored(use_color()));
    println!("{}", sentence.trim_end());
    println!("{}", when_on_top(&shares, args.prompts.into()));
    results.push(("logit_lens_on_top", shares));
    let results: Vec<(&str, &Labelled)> = results.iter().map(|(n, r)| (*n, r)).collect();
    args.common.save(&results)
}

/// The tuned lens: from a file, else fitted on prompts unless those are none.
fn translators(
    args: &Args,
    model: &Transformer,
    tokenizer: &Tokenizer,
    points: &[HookPoint],
) -> Result<Option<TunedLens>> {
    let lens = match (&args.lens, args.fit) {
        (Some(path), _) => TunedLens::open(path)?,
        (None, 0) => return Ok(None),
        (None, n) => {
            let drawn = Ioi::new(tokenizer)?.split(Split::Train)?;
            let drawn = Prompts::new(&drawn.prompts(n, args.common.seed)?)?;
            let _stage = support::heads::stage("fitting the tuned lens");
            TunedLens::fit(model, &drawn, points, args.ridge.unwrap_or(1e-3))?
        }
    };
    if let Some(path) = &args.save_lens {
        lens.save(path)?;
        println!("saved {}\n", path.display());
    }
    Ok(Some(lens))
}

/// The model's likeliest next token.
fn own_answer(found: &LensReadout) -> u32 {
    let (points, n, _) = found.top_tokens.dim();
    found.top_tokens[[points - 1, n - 1, 0]]
}

fn ranks(found: &LensReadout) -> Result<&Labelled> {
    found.rank.as_ref().context("a token was followed")
}

/// The likeliest tokens at the last position, and the distance to the final distribution.
fn show(found: &LensReadout, tokenizer: &Tokenizer) -> Result<()> {
    let (_, n, k) = found.top_tokens.dim();
    let names = &found.kl_to_final.axes()[0].labels;
    for (point, name) in names.iter().enumerate() {
        let token = |k: usize| -> Result<String> {
            let text = tokenizer.token_text(found.top_tokens[[point, n - 1, k]])?;
            let p = found.top_probabilities.values()[[point, n - 1, k]];
            Ok(format!("`{text}` {:.1} %", 100.0 * p))
        };
        let tokens: Vec<String> = (0..k).map(token).collect::<Result<_>>()?;
        println!("{name:>12}  {}", tokens.join("   "));
    }
    println!("\n{}", found.kl_to_final.colored(use_color()));
    Ok(())
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

/// Held-out IOI prompts and their answers.
fn ioi_prompts(args: &Args, tokenizer: &Tokenizer) -> Result<Vec<(Prompt, u32)>> {
    let ioi = Ioi::new(tokenizer)?.split(Split::HeldOut)?;
    let drawn = ioi.prompts(args.prompts.into(), args.common.seed)?;
    Ok(drawn.into_iter().map(|p| (p.prompt, p.io)).collect())
}

/// The mean KL divergence at a point over all positions of all prompts, in nats.
fn mean_kl(mut lens: LogitLens<'_>, point: HookPoint, prompts: &[(Prompt, u32)]) -> Result<f32> {
    let _stage = support::heads::stage("lens on held-out prompts");
    (lens.top_k, lens.points) = (1, vec![point]);
    let (mut sum, mut count) = (0.0, 0);
    for (prompt, _) in prompts {
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
    let why = match further {
        true => {
            " At the last position here the tuned lens is further off: it is fitted by squared \
             error over all positions, which need not bring each one's distribution closer."
        }
        false => "",
    };
    format!(
        "Mean over all positions of {prompts} held-out IOI prompts at `{name}`: the logit lens is \
         {:.2} nats from the final distribution, the tuned lens {:.2}.{why}\n",
        means[0], means[1]
    )
}

/// A task's name, its prompts, and their answers.
type Task = (&'static str, Vec<(Prompt, u32)>);

/// Prompts with answers that the model should know: facts only of the shipped model.
fn tasks(args: &Args, tokenizer: &Tokenizer) -> Result<Vec<Task>> {
    let (n, seed) = (usize::from(args.prompts), args.common.seed);
    let mut tasks = vec![("names (IOI)", ioi_prompts(args, tokenizer)?)];
    if args.common.model.is_none() {
        let facts = Facts::new(tokenizer)?.split(Split::Train);
        let facts = facts.prompts(n, seed)?.into_iter();
        tasks.push(("facts", facts.map(|f| (f.prompt, f.attribute)).collect()));
    }
    Ok(tasks)
}

/// The share of each task's prompts whose answer is the likeliest token from a point on,
/// `[task, point]`.
fn on_top(model: &Transformer, tasks: &[Task]) -> Result<Labelled> {
    let mut lens = LogitLens::new(model);
    lens.top_k = 1;
    let _stage = support::heads::stage("lens on the tasks' prompts");
    let mut shares = Array2::zeros((tasks.len(), lens.points.len()));
    let mut points = Vec::new();
    for ((_, prompts), mut row) in tasks.iter().zip(shares.rows_mut()) {
        for (prompt, answer) in prompts {
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

/// Where answers come on top, in words: one sentence a task.
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
