//! Learning from the context: the in-context-learning score and the heads that it hangs on, an
//! in-context mapping patched between prompts, and function vectors.
//!
//!     cargo run --release --example in_context_learning

mod support;

use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use ndarray::{Array2, Axis as Dim};
use patchlens::report::{Axis, Labelled};
use patchlens::tasks::{FactPrompt, Facts, KeyValue, KeyValuePair, Repeated};
use patchlens::{
    FunctionVectors, Grid, Patching, Prompt, Replacement, Site, TokenPair, Tokenizer, Transformer,
    activation_patching, in_context_score, in_context_score_by_head, logit_diffs,
};
use serde_json::{Value, json};
use support::heads::{Sequences, WordPairs, stage};
use support::options::Common;

/// Measures in-context learning
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    sequences: Sequences,
    /// Texts for the score, cut into pieces of the late token's length; repeated random sequences
    /// if left out
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// The late token, counted from 1; 500, or what fits the context
    #[arg(long)]
    late: Option<usize>,
    /// The early token; 50, or a tenth of the late one
    #[arg(long)]
    early: Option<usize>,
    /// Examples in a few-shot prompt
    #[arg(long, default_value_t = 4)]
    shots: usize,
    /// Lines of two words with a space between, for function vectors; antonyms if left out. Each
    /// word has to be one token
    #[arg(long, value_name = "FILE")]
    pairs: Option<PathBuf>,
    /// Heads in a function vector
    #[arg(long, default_value = "10")]
    heads: NonZeroUsize,
}

const KEYS: &str = "Mary John Tom James Dan Amy Alice David Sarah Robert";
const VALUES: &str = "ring bone computer necklace drink snack bag ball book";
const ANTONYMS: &str = "hot cold\nbig small\nup down\nleft right\nopen closed\nfast slow\n\
    good bad\nrich poor\nyoung old\nhappy sad\nhigh low\nlight dark\nhard soft\nearly late\n\
    strong weak\nlong short\nblack white\nday night\ntrue false\nfull empty";

fn main() -> Result<()> {
    let args = Args::parse();
    let (model, tokenizer) = args.common.open()?;
    // First, so that a file that will not do is told before the work.
    let pairs = word_pairs(&args, &tokenizer)?;
    let score = score(&args, &model, &tokenizer)?;
    let mapping = mapping(&args, &model, &tokenizer)?;
    let vectors = match &pairs {
        Some(pairs) => function_vectors(&args, &model, &tokenizer, pairs)?,
        None => relation_vectors(&args, &model, &tokenizer)?,
    };
    let found = [score, mapping, vectors];
    let numbers: serde_json::Map<_, _> = found
        .iter()
        .map(|f| (f.name.into(), f.json.clone()))
        .collect();
    args.common.save_json(&numbers)?;
    if let Some(dir) = &args.common.out {
        for (name, result) in found.iter().flat_map(|f| &f.pictures) {
            args.common.save_result(result, dir, name)?;
        }
    }
    Ok(())
}

/// What one part of the example found.
struct Found {
    name: &'static str,
    json: Value,
    pictures: Vec<(String, Labelled)>,
}

/// The tokens compared, and prompts that are long enough.
fn texts(
    args: &Args,
    model: &Transformer,
    tokenizer: &Tokenizer,
) -> Result<(TokenPair, Vec<Prompt>)> {
    let n_ctx = model.config().n_ctx;
    let late = args.late.unwrap_or(500.min(n_ctx));
    let early = args.early.unwrap_or((late / 10).max(2));
    let prompts = match &args.text {
        Some(path) => {
            let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
            let tokens = tokenizer.encode(&text)?.tokens;
            let pieces = tokens.chunks_exact(late).take(args.sequences.sequences);
            pieces
                .map(|piece| tokenizer.prompt(piece.to_vec()))
                .collect::<patchlens::Result<_>>()?
        }
        None => {
            let period = args.sequences.period.unwrap_or((late / 3).clamp(2, 50));
            ensure!(
                (1..late).contains(&period),
                "--period: found {period}; expected 1 to {}, so that the late token ({late}) is in a \
                 later repeat",
                late - 1
            );
            let repeats = late.div_ceil(period);
            let drawn = Repeated::new(tokenizer)?.prompts(
                args.sequences.sequences,
                period,
                repeats,
                args.common.seed,
            )?;
            let cut = |r: &patchlens::tasks::RepeatedPrompt| {
                tokenizer.prompt(r.prompt.tokens[..late].to_vec())
            };
            drawn
                .iter()
                .map(cut)
                .collect::<patchlens::Result<Vec<_>>>()?
        }
    };
    Ok((TokenPair { late, early }, prompts))
}

fn score(args: &Args, model: &Transformer, tokenizer: &Tokenizer) -> Result<Found> {
    let (tokens, prompts) = texts(args, model, tokenizer)?;
    let working = stage("in-context-learning score, whole and by head");
    let whole = in_context_score(model, &prompts, tokens)?;
    let change = in_context_score_by_head(model, &prompts, tokens, Replacement::Mean)?;
    drop(working);
    println!("loss at token {:4}: {}", tokens.late, whole.late_loss);
    println!("loss at token {:4}: {}", tokens.early, whole.early_loss);
    println!(
        "in-context-learning score: {} nats\n\n{change}",
        whole.score
    );
    println!("{}", change.top(5));
    Ok(Found {
        name: "score",
        json: json!({ "score": whole.score, "late": tokens.late, "early": tokens.early, "by_head": change }),
        pictures: vec![("in_context_score_by_head".to_string(), change)],
    })
}

/// A mapping from names to objects that changes from prompt to prompt.
fn mapping(args: &Args, model: &Transformer, tokenizer: &Tokenizer) -> Result<Found> {
    let tokens = |words: &str| -> Vec<u32> {
        let ids = words
            .split(' ')
            .filter_map(|w| tokenizer.token(&format!(" {w}")).ok());
        ids.collect()
    };
    let end = tokenizer.encode(".")?.tokens;
    let task = KeyValue::new(tokens(KEYS), tokens(VALUES), Vec::new(), end)?;
    let pairs = task.labelled_by(tokenizer).pairs(
        args.sequences.sequences,
        args.shots,
        args.common.seed,
    )?;
    let clean: Vec<Prompt> = pairs.iter().map(|p| p.clean.clone()).collect();
    let corrupted: Vec<Prompt> = pairs.iter().map(|p| p.corrupted.clone()).collect();
    let answers: Vec<(u32, u32)> = pairs.iter().map(|p| (p.answer, p.other)).collect();
    let metric = logit_diffs(&answers);
    let working = stage("patching the mapping");
    let found = activation_patching(model, &clean, &corrupted, Grid::Heads(Site::Z), &metric)?;
    let grid = Grid::Positions(Site::ResidPre);
    let stream = activation_patching(model, &clean, &corrupted, grid, &metric)?;
    let stream = by_role(&stream, &pairs)?.normalized()?;
    drop(working);
    let right = found.clean.iter().filter(|v| **v > 0.0).count();
    println!("\nkey → value, `{}`", tokenizer.decode(&clean[0].tokens)?);
    println!(
        "the right value beats the other one in {right} of {} prompts",
        clean.len()
    );
    let effect = found.normalized()?;
    println!("{effect}");
    println!("{stream}");
    let strongest = |of: &Labelled| of.top(1).cells.into_iter().next();
    if let (Some(head), Some(place)) = (strongest(&effect), strongest(&stream)) {
        println!(
            "of the logit difference between the mappings, one head's patch restores most at {}.{} \
             ({:+.2}), one of the residual stream before layer {} at the {} ({:+.2})",
            head.index[0],
            head.index[1],
            head.value,
            place.index[0],
            stream.axes()[1].labels[place.index[1]],
            place.value
        );
    }
    Ok(Found {
        name: "mapping",
        json: json!({ "right": right, "prompts": clean.len(), "heads": effect, "resid_pre": stream }),
        pictures: vec![
            ("mapping_by_head".to_string(), effect),
            ("mapping_resid_pre".to_string(), stream),
        ],
    })
}

/// The effect of patching one position, averaged over the prompts' positions with the same role,
/// `[layer, role]`: which example is queried differs from prompt to prompt.
fn by_role(found: &Patching, pairs: &[KeyValuePair]) -> Result<Labelled> {
    let mut roles: Vec<_> = pairs.iter().flat_map(|p| &p.roles).collect();
    roles.sort_unstable();
    roles.dedup();
    let layers = found.per_prompt.shape()[0];
    let mut values = Array2::zeros((layers, roles.len()));
    for (role, mut column) in roles.iter().zip(values.columns_mut()) {
        let mut positions = 0.0;
        for (i, pair) in pairs.iter().enumerate() {
            let of_pair = found.per_prompt.index_axis(Dim(2), i);
            let same = pair.roles.iter().enumerate().filter(|(_, r)| r == role);
            for (position, _) in same {
                column += &of_pair.index_axis(Dim(1), position);
                positions += 1.0;
            }
        }
        column /= positions;
    }
    let mut about = found.effect.about.clone();
    about.title = "Key → value: resid_pre patched, by role of the position".to_string();
    about.caption = format!(
        "{} One position at a time; columns are what a position is in its prompt (asked: in the \
         example whose key is the query), of several with the same role the mean.",
        about.caption
    );
    let axes = vec![
        Axis::layers(layers),
        Axis::new("role", roles.iter().map(ToString::to_string)),
    ];
    Ok(Labelled::new(values, axes, about)?)
}

/// The words for function vectors, if the vocabulary has enough of them; too few of a file that
/// was asked for are an error.
fn word_pairs(args: &Args, tokenizer: &Tokenizer) -> Result<Option<WordPairs>> {
    let text = match &args.pairs {
        Some(path) => std::fs::read_to_string(path).with_context(|| path.display().to_string())?,
        None => ANTONYMS.to_string(),
    };
    let pairs = WordPairs::read(&text, tokenizer);
    let needed = args.shots + 1;
    let Some(path) = &args.pairs else {
        let enough = pairs.keys.len() >= needed;
        if !enough {
            println!(
                "function vectors from examples: left out, the vocabulary has {} of the {} antonyms as \
                 single tokens, {needed} are needed for {} shots\n",
                pairs.keys.len(),
                pairs.lines,
                args.shots
            );
        }
        return Ok(enough.then_some(pairs));
    };
    pairs.tell(path);
    ensure!(
        pairs.keys.len() >= needed,
        "{}: found {} usable pairs in {} lines; expected at least {needed}, one more than --shots",
        path.display(),
        pairs.keys.len(),
        pairs.lines
    );
    Ok(Some(pairs))
}

/// What stands between the words of a pair and after it: `hot: cold` and a new line or, where the
/// vocabulary lacks them, `hot cold.`
fn template(tokenizer: &Tokenizer) -> Result<(Vec<u32>, Vec<u32>)> {
    match (tokenizer.encode(":"), tokenizer.encode("\n")) {
        (Ok(arrow), Ok(end)) => Ok((arrow.tokens, end.tokens)),
        _ => {
            let end = tokenizer.encode(".");
            let end = end.context("the vocabulary has neither `:` and a new line nor `.`")?;
            Ok((Vec::new(), end.tokens))
        }
    }
}

fn function_vectors(
    args: &Args,
    model: &Transformer,
    tokenizer: &Tokenizer,
    pairs: &WordPairs,
) -> Result<Found> {
    let (arrow, end) = template(tokenizer)?;
    let (keys, values) = (pairs.keys.clone(), pairs.values.clone());
    let task = KeyValue::new(keys, values, arrow, end)?.labelled_by(tokenizer);
    let prompts = task.function_prompts(args.sequences.sequences, args.shots, args.common.seed)?;
    println!(
        "\nfunction vectors from examples, `{}`",
        tokenizer.decode(&prompts.clean[0].tokens)?.escape_debug()
    );
    let working = stage("function vectors");
    let vectors = FunctionVectors::new(model, &prompts.clean)?;
    let mut effects = vectors.indirect_effects(&prompts.shuffled, &prompts.answers)?;
    effects.about.caption = "Head output at the last position of prompts whose examples are \
                             shuffled, set to its mean over prompts with the right examples."
        .to_string();
    let heads = FunctionVectors::top_heads(&effects, args.heads.get());
    let vector = vectors.vector(&heads)?;
    let added = vectors.effects(&vector, &prompts.zero_shot, &prompts.answers)?;
    drop(working);
    println!("{effects}\n{added}");
    Ok(Found {
        name: "function_vectors",
        json: json!({ "indirect_effects": effects, "heads": heads, "added": added }),
        pictures: vec![
            ("indirect_effects".to_string(), effects),
            ("function_vector_added".to_string(), added),
        ],
    })
}

/// Function vectors where no examples can be given: a relation's function is what heads write at
/// the end of statements of that relation (`Ada Brown plays the sport of`), and the prompts that
/// lack it have the subject alone (`Ada Brown is`). The figures hang on that ending: of six tried
/// on the shipped model (`of`, `the`, `is`, `always`, `had a lot of`, `and went to the`), ` is` is
/// best for sport, but city has more after `had a lot of`, and instrument after `the`.
fn relation_vectors(args: &Args, model: &Transformer, tokenizer: &Tokenizer) -> Result<Found> {
    let Ok(facts) = Facts::new(tokenizer).and_then(|facts| facts.all()) else {
        println!(
            "function vectors of relations: left out, the vocabulary lacks the invented facts"
        );
        return Ok(Found {
            name: "function_vectors",
            json: json!({ "left_out": "no pairs and no facts in this vocabulary" }),
            pictures: Vec::new(),
        });
    };
    let begins = |f: &&FactPrompt| f.text.starts_with(&f.subject_text);
    let facts: Vec<&FactPrompt> = facts.iter().filter(begins).collect();
    let mut relations: Vec<&str> = facts.iter().map(|f| f.relation.as_str()).collect();
    relations.dedup();
    println!("function vectors of relations, on `(subject) is`:");
    let (mut found, mut pictures) = (serde_json::Map::new(), Vec::new());
    for relation in relations {
        let of: Vec<_> = facts.iter().filter(|f| f.relation == relation).collect();
        let clean: Vec<Prompt> = of.iter().map(|f| f.prompt.clone()).collect();
        let bare = of
            .iter()
            .map(|f| tokenizer.encode(&format!("{} is", f.subject_text)));
        let bare: Vec<Prompt> = bare.collect::<patchlens::Result<_>>()?;
        let answers: Vec<u32> = of.iter().map(|f| f.attribute).collect();
        let working = stage(&format!("function vectors of {relation}"));
        let vectors = FunctionVectors::new(model, &clean)?;
        let mut effects = vectors.indirect_effects(&bare, &answers)?;
        effects.about.title = format!("Indirect effect of heads on {relation}");
        effects.about.caption = format!(
            "Head output at the last position of `(subject) is` set to its mean over statements about \
             the subject's {relation}; the change is the mean over those subjects."
        );
        let heads = FunctionVectors::top_heads(&effects, args.heads.get());
        let mut added = vectors.effects(&vectors.vector(&heads)?, &bare, &answers)?;
        drop(working);
        added.about.title = format!("Effect of the function vector of {relation}");
        added.about.caption =
            "Added to resid_post at the last position of `(subject) is`.".to_string();
        let best = heads[0];
        let names: Vec<String> = heads.iter().map(ToString::to_string).collect();
        let strongest = added.values().iter().copied().fold(f32::MIN, f32::max);
        println!(
            "  {relation:10} head {best} set to its mean over {} statements: {:+.3} of the answer's \
             probability; the vector of heads {} added: at most {strongest:+.3}",
            clean.len(),
            effects.values()[[best.layer, best.head]],
            names.join(", ")
        );
        found.insert(
            relation.to_string(),
            json!({ "indirect_effects": effects, "heads": heads, "added": added }),
        );
        pictures.push((format!("relation_{relation}"), effects));
        pictures.push((format!("relation_{relation}_added"), added));
    }
    Ok(Found {
        name: "function_vectors",
        json: found.into(),
        pictures,
    })
}
