//! Answers: one token each, the first of several, or one answer of several tokens as a whole.

use anyhow::{Result, ensure};
use patchlens::metric::{answer_log_probability, answer_probability, js_divergence, kl_divergence};
use patchlens::tasks::PromptPair;
use patchlens::{Metric, Prompt, Tokenizer};

use crate::options::{MetricName, PromptArgs};
use crate::prompts::encode;
use crate::usage::usage;

/// The pair of the options.
///
/// # Errors
/// For texts that the tokenizer cannot tell, answers of several tokens beside others, and a token
/// that is right and wrong.
pub fn pair(args: &PromptArgs, clean: &str, tokenizer: &Tokenizer) -> Result<PromptPair> {
    let corrupted = args.corrupted.as_deref();
    let single = || {
        PromptPair::new(
            tokenizer,
            clean,
            corrupted,
            &args.answer,
            &args.wrong,
            args.bos,
        )
    };
    let tokens = |answers: &[String]| -> patchlens::Result<Vec<Prompt>> {
        answers.iter().map(|text| tokenizer.encode(text)).collect()
    };
    // What cannot be encoded, the reader of single tokens says best.
    let (Ok(right), Ok(wrong)) = (tokens(&args.answer), tokens(&args.wrong)) else {
        return Ok(single()?);
    };
    let Some(long) = right.iter().chain(&wrong).find(|answer| answer.len() > 1) else {
        return Ok(single()?);
    };
    if args.first_token {
        let prompt = |text: &str| encode(tokenizer, text, args.bos);
        let first = |answers: &[Prompt]| answers.iter().map(|a| a.tokens[0]).collect::<Vec<_>>();
        return first_tokens(PromptPair {
            index: 0,
            text: clean.to_string(),
            clean: prompt(clean)?,
            corrupted: corrupted.map(prompt).transpose()?,
            answers: first(&right),
            wrong_answers: first(&wrong),
            long_answer: None,
        });
    }
    if right.len() + wrong.len() > 1 {
        return Err(usage(format!(
            "an answer of {} tokens {:?} beside others; expected one --answer alone, which is \
             measured as a whole, or --first-token",
            long.len(),
            long.labels
        )));
    }
    Ok(single()?)
}

/// Checks that the first tokens of right and wrong answers differ.
fn first_tokens(pair: PromptPair) -> Result<PromptPair> {
    let wrong = &pair.wrong_answers;
    ensure!(
        !pair.answers.iter().any(|token| wrong.contains(token)),
        "--first-token: found the same first token in right and wrong answers; expected others"
    );
    Ok(pair)
}

/// What is wrong with answers one of which is given twice: it would count double.
pub fn twice(pair: &PromptPair, tokenizer: &Tokenizer) -> Option<String> {
    for (which, answers) in [("right", &pair.answers), ("wrong", &pair.wrong_answers)] {
        let again = |(i, token): (usize, &u32)| answers[..i].contains(token).then_some(*token);
        if let Some(token) = answers.iter().enumerate().find_map(again) {
            let text = tokenizer.token_text(token);
            return Some(format!(
                "found `{text}` twice among the {which} answers; expected each once"
            ));
        }
    }
    None
}

/// The answers of all pairs, if one of them has several tokens: then each has one.
pub fn whole(pairs: &[PromptPair]) -> Option<Vec<Vec<u32>>> {
    let is_long = |pair: &PromptPair| pair.long_answer.is_some();
    let answers = || pairs.iter().map(|pair| pair.answer().map(<[u32]>::to_vec));
    pairs.iter().any(is_long).then(|| answers().collect())?
}

/// Which metric of answers as a whole is measured.
///
/// # Errors
/// For one that compares single tokens.
pub fn measure(asked: Option<MetricName>) -> Result<MetricName> {
    use MetricName::{Js, Kl, LogProb, Prob};
    match asked.unwrap_or(LogProb) {
        metric @ (LogProb | Prob | Kl | Js) => Ok(metric),
        _ => Err(usage(
            "--metric: an answer of several tokens has no such; expected log-prob, prob, kl or js, \
             or --first-token with --clean",
        )),
    }
}

/// The metric of a name that [`measure`] gave.
pub fn metric(answers: &[Vec<u32>], metric: MetricName) -> Metric {
    match metric {
        MetricName::Prob => answer_probability(answers),
        MetricName::Kl => kl_divergence(),
        MetricName::Js => js_divergence(),
        _ => answer_log_probability(answers),
    }
}
