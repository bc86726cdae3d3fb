//! Logit lens and tuned lens: where in the model the answer of an IOI prompt becomes readable.

mod support;

use anyhow::{Context, Result};
use clap::Parser;
use patchlens::report::{Labelled, use_color};
use patchlens::tasks::{Ioi, Split};
use patchlens::{LensReadout, LogitLens, Prompt, Prompts, Tokenizer, TunedLens};
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
    /// Prompts that the tuned lens is fitted on; 0 for none
    #[arg(long, value_name = "N", default_value_t = 200)]
    fit: usize,
    /// Ridge of the fit, relative to the data
    #[arg(long, default_value_t = 1e-3)]
    ridge: f64,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let (model, tokenizer) = args.common.open()?;
    let (prompt, answer) = match &args.text {
        Some(text) => (tokenizer.encode(text)?, None),
        None => {
            let ioi = Ioi::new(&tokenizer)?.split(Split::HeldOut)?;
            let drawn = ioi.prompts(1, args.common.seed)?;
            (drawn[0].prompt.clone(), Some(drawn[0].io))
        }
    };
    let answer = match answer {
        Some(answer) => answer,
        None => own_answer(&LogitLens::new(&model).run(&prompt)?),
    };
    println!(
        "{}\nanswer: `{}`\n",
        prompt.labels.concat(),
        tokenizer.token_text(answer)?
    );

    let mut lens = LogitLens::new(&model);
    (lens.top_k, lens.tokens) = (args.top_k, vec![answer]);
    let plain = lens.run(&prompt)?;
    show(&plain, &tokenizer)?;
    let mut sentence = describe(&plain, &prompt, "the logit lens")?;

    let tuned = match args.fit {
        0 => None,
        n => {
            let drawn = Ioi::new(&tokenizer)?.split(Split::Train)?;
            let drawn = Prompts::new(&drawn.prompts(n, args.common.seed)?)?;
            Some(TunedLens::fit(&model, &drawn, &lens.points, args.ridge)?)
        }
    };
    let mut results = vec![("logit_lens_kl", plain.kl_to_final.clone())];
    results.push(("logit_lens_rank", ranks(&plain)?.clone()));
    if let Some(tuned) = &tuned {
        let mut lens = LogitLens::tuned(&model, tuned)?;
        (lens.top_k, lens.tokens) = (args.top_k, vec![answer]);
        let found = lens.run(&prompt)?;
        println!("{}", found.kl_to_final.colored(use_color()));
        sentence += &describe(&found, &prompt, "the tuned lens")?;
        results.push(("tuned_lens_kl", found.kl_to_final.clone()));
        results.push(("tuned_lens_rank", ranks(&found)?.clone()));
    }
    println!("{}", sentence.trim_end());
    let results: Vec<(&str, &Labelled)> = results.iter().map(|(n, r)| (*n, r)).collect();
    args.common.save(&results)
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
    let ranks = ranks(found)?.values();
    let names = &found.kl_to_final.axes()[0].labels;
    let last = prompt.len() - 1;
    let on_top = |point: &usize| ranks[[0, *point, last]] == 0.0;
    let stays = (0..names.len()).rev().take_while(on_top).last();
    let middle = names.len() / 2;
    let kl = found.kl_to_final.values()[[middle, last]];
    let becomes = match stays {
        Some(point) => format!("is the likeliest from `{}` on", names[point]),
        None => "is not the likeliest at the end".to_string(),
    };
    Ok(format!(
        "By {lens}, the answer {becomes}; at `{}` the distribution is {kl:.2} nats from the final \
         one. ",
        names[middle]
    ))
}
