//! How well a model does on prompts held out of its training.

use std::fmt;

use anyhow::Result;
use patchlens::tasks::{Facts, GreaterThan, Ioi, Repeated, Split};
use patchlens::{KeepLogits, Prompts, Run, Tokenizer, Transformer, ops};

/// Prompts that run at once.
const BATCH: usize = 64;
/// Lengths of one repeat of the random sequences.
const PERIODS: [usize; 6] = [5, 10, 15, 20, 25, 30];

/// One figure.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    pub what: &'static str,
    pub value: f64,
    /// What the shipped model has to reach.
    pub bound: Option<f64>,
    /// How much it was measured on.
    pub on: String,
}

/// All figures of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation(pub Vec<Figure>);

impl Evaluation {
    /// Measures a model on `n` prompts of each task, and on all facts.
    pub fn of(model: &Transformer, tokenizer: &Tokenizer, n: usize) -> Result<Self> {
        let mut figures = ioi(model, tokenizer, n)?;
        figures.push(facts(model, tokenizer)?);
        figures.push(induction(model, tokenizer, n)?);
        figures.push(greater_than(model, tokenizer, n)?);
        Ok(Evaluation(figures))
    }

    /// The bounds that are missed, in words.
    pub fn missed(&self) -> Vec<String> {
        let missed = self.0.iter().filter_map(|figure| {
            let bound = figure
                .bound
                .filter(|bound| figure.value.is_nan() || figure.value < *bound)?;
            Some(format!(
                "{}: found {:.3}; expected at least {bound}",
                figure.what, figure.value
            ))
        });
        missed.collect()
    }
}

impl fmt::Display for Evaluation {
    /// A table in Markdown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| Held out of training | Result | Bound | Measured on |")?;
        writeln!(f, "|---|---|---|---|")?;
        for figure in &self.0 {
            let bound = figure.bound.map_or_else(String::new, |b| format!("≥ {b}"));
            let Figure {
                what, value, on, ..
            } = figure;
            writeln!(f, "| {what} | {value:.3} | {bound} | {on} |")?;
        }
        Ok(())
    }
}

fn ioi(model: &Transformer, tokenizer: &Tokenizer, n: usize) -> Result<Vec<Figure>> {
    let ioi = Ioi::new(tokenizer)?.split(Split::HeldOut)?;
    let prompts = ioi.prompts(n, 1)?;
    let logits = last_logits(model, &Prompts::new(&prompts)?)?;
    let pairs = || prompts.iter().zip(&logits);
    let difference = pairs().map(|(p, l)| f64::from(l[p.io as usize]) - f64::from(l[p.s as usize]));
    let on = format!(
        "{} prompts, {} pairs of names",
        prompts.len(),
        ioi.name_pairs()
    );
    let figure = |what, value, bound| Figure {
        what,
        value,
        bound,
        on: on.clone(),
    };
    let right = mean(difference.clone().map(|d| f64::from(u8::from(d > 0.0))));
    let top = mean(pairs().map(|(p, l)| hit(l, p.io)));
    Ok(vec![
        figure("IOI: share with IO above S", right, Some(0.99)),
        figure("IOI: share with IO as top token", top, None),
        figure(
            "IOI: mean logit difference IO - S",
            mean(difference),
            Some(3.0),
        ),
    ])
}

fn facts(model: &Transformer, tokenizer: &Tokenizer) -> Result<Figure> {
    let facts = Facts::new(tokenizer)?.split(Split::HeldOut).all()?;
    let logits = last_logits(model, &Prompts::new(&facts)?)?;
    Ok(Figure {
        what: "Facts: share with the attribute as top token",
        value: mean(facts.iter().zip(&logits).map(|(f, l)| hit(l, f.attribute))),
        bound: Some(0.95),
        on: format!("{} facts in a phrasing not trained", facts.len()),
    })
}

fn induction(model: &Transformer, tokenizer: &Tokenizer, n: usize) -> Result<Figure> {
    let repeated = Repeated::new(tokenizer)?;
    let mut hits = Vec::new();
    let mut sequences = 0;
    for period in PERIODS {
        let drawn = repeated.prompts(n.div_ceil(PERIODS.len()), period, 2, 2)?;
        sequences += drawn.len();
        let prompts = Prompts::new(drawn.iter().map(|s| s.prompt.clone()))?;
        let output = model.run(&prompts, (), &Run::default())?;
        for (sequence, logits) in drawn.iter().zip(output.logits.iter()) {
            hits.extend(sequence.predictable().map(|position| {
                let next = sequence.prompt.tokens[position + 1];
                hit(&logits.row(position).to_vec(), next)
            }));
        }
    }
    Ok(Figure {
        what: "Induction: share with the right token as top token",
        value: mean(hits.iter().copied()),
        bound: Some(0.9),
        on: format!(
            "{} tokens in {sequences} repeated random sequences",
            hits.len()
        ),
    })
}

fn greater_than(model: &Transformer, tokenizer: &Tokenizer, n: usize) -> Result<Figure> {
    let generator = GreaterThan::new(tokenizer)?.split(Split::HeldOut)?;
    let prompts = generator.prompts(n, 3)?;
    let logits = last_logits(model, &Prompts::new(&prompts)?)?;
    let difference = prompts.iter().zip(logits).map(|(prompt, mut p)| {
        ops::softmax_row(&mut p);
        let mass = |tokens: &[u32]| {
            tokens
                .iter()
                .map(|t| f64::from(p[*t as usize]))
                .sum::<f64>()
        };
        mass(prompt.later()) - mass(prompt.not_later())
    });
    Ok(Figure {
        what: "Greater-than: mean probability difference",
        value: mean(difference),
        bound: Some(0.8),
        on: format!(
            "{} prompts, {} pairs of noun and year",
            prompts.len(),
            generator.cases()
        ),
    })
}

/// The logits of each prompt's last position.
fn last_logits(model: &Transformer, prompts: &Prompts) -> Result<Vec<Vec<f32>>> {
    let run = Run {
        logits: KeepLogits::Last,
        ..Run::default()
    };
    let mut all = Vec::new();
    for batch in prompts.as_slice().chunks(BATCH) {
        let output = model.run(batch, (), &run)?;
        all.extend(output.logits.iter().map(|l| l.iter().copied().collect()));
    }
    Ok(all)
}

/// 1 if no other token has as high a logit.
fn hit(logits: &[f32], token: u32) -> f64 {
    let own = logits[token as usize];
    let mut others = logits.iter().enumerate();
    let alone = others.all(|(i, v)| i == token as usize || *v < own);
    f64::from(u8::from(alone))
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, n) = values.fold((0.0, 0), |(sum, n), v| (sum + v, n + 1));
    sum / f64::from(n)
}
