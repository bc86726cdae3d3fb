//! Learning from the context: the in-context-learning score and the heads that it depends on, an
//! in-context mapping patched between prompts, and function vectors.

mod functions;
mod words;

use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;
use ndarray::{Array2, Axis as Dim};
use patchlens::ablation::{Ablation, Replacement};
use patchlens::in_context::{TokenPair, in_context_score, in_context_score_by_head};
use patchlens::metric::logit_diffs;
use patchlens::patching::Patching;
use patchlens::report::{Axis, Labelled};
use patchlens::tasks::{KeyValuePair, Repeated, RepeatedPrompt};
use patchlens::{Grid, Prompt, Site, activation_patching, read_text};
use serde_json::json;

use crate::interrupt;
use crate::numbers;
use crate::options::Common;
use crate::questions::key_value_pairs;
use crate::sequences::Sequences;
use crate::session::Session;

/// Learning from the context: how much, by which heads, and by which function vectors?
///
/// The score is the loss at a late token minus that at an early one (Olsson et al. 2022). Then a
/// mapping that changes from prompt to prompt is patched between prompts, and what heads write
/// when they see examples of a function is added where none are given (Todd et al. 2024).
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  patchlens in-context --out study
  patchlens in-context --text book.txt --model weights/gpt2
  patchlens in-context --pairs antonyms.json --shots 5 --model weights/gpt2")]
pub struct InContext {
    #[command(flatten)]
    pub common: Common,
    #[command(flatten)]
    sequences: Sequences,
    /// Text for the score, cut into pieces of the late token's length; repeated random sequences
    /// if left out
    #[arg(long, value_name = "FILE", help_heading = "Prompts")]
    text: Option<PathBuf>,
    /// The late token's position, counted from 0 [default: 499, or the context's last]
    #[arg(long, value_name = "N", value_parser = numbers::from_0::<usize>())]
    late: Option<usize>,
    /// The early token's position [default: 49, or a tenth of the late one]
    #[arg(long, value_name = "N", value_parser = numbers::from_0::<usize>())]
    early: Option<usize>,
    /// Examples in a few-shot prompt
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = numbers::from_1::<usize>())]
    shots: usize,
    /// Words and their counterparts, for function vectors: a JSON list of {"input", "output"}, or
    /// lines of two words; each word one token [default: antonyms]
    #[arg(long, value_name = "FILE", help_heading = "Prompts")]
    pairs: Option<PathBuf>,
    /// Heads in a function vector
    #[arg(long, value_name = "N", default_value = "10")]
    heads: NonZeroUsize,
}

/// Most bytes of a file of text or words.
const LARGEST_TEXT: u64 = 1 << 28;

impl InContext {
    /// Runs the study.
    ///
    /// # Errors
    /// For sequences that do not fit the context, and files without usable words; `EndedEarly`
    /// after Ctrl-C.
    pub fn run(&self, session: &Session) -> Result<()> {
        // First, so that a file that cannot be used is reported before the work.
        let (tokens, prompts) = self.texts(session)?;
        let words = self.words(session)?;
        self.score(session, tokens, &prompts)?;
        interrupt::check()?;
        self.mapping(session)?;
        interrupt::check()?;
        match &words {
            Some(words) => self.function_vectors(session, words),
            None => self.relation_vectors(session),
        }
    }

    /// Keeps a picture, with the seed of its prompts.
    fn picture(&self, session: &Session, name: &str, result: &Labelled) {
        let mut result = result.clone();
        result.about.seed.get_or_insert(self.sequences.seed);
        session.output.picture(name, &result);
    }

    /// The tokens compared, and prompts that are long enough.
    fn texts(&self, session: &Session) -> Result<(TokenPair, Vec<Prompt>)> {
        let tokenizer = &session.tokenizer;
        let n_ctx = session.model.config().n_ctx;
        let late = self.late.unwrap_or(500.min(n_ctx) - 1);
        // Tokens of a prompt that ends with the late one.
        let length = late.saturating_add(1);
        let early = self.early.unwrap_or((length / 10).max(2) - 1);
        let last = n_ctx - 1;
        ensure!(
            (2..=last).contains(&late),
            "--late: found {late}; expected 2 to {last}, the context's last position"
        );
        ensure!(
            (1..late).contains(&early),
            "--early: found {early}; expected at least 1, which is the first position with a \
             prediction, and less than the late token's {late}"
        );
        let prompts = match &self.text {
            Some(path) => {
                let text = read_text(path, LARGEST_TEXT)?;
                let tokens = tokenizer.encode(&text)?.tokens;
                let pieces = tokens.chunks_exact(length).take(self.sequences.sequences);
                pieces
                    .map(|piece| tokenizer.prompt(piece.to_vec()))
                    .collect()
            }
            None => {
                let period = self.sequences.period.unwrap_or((length / 3).clamp(2, 50));
                ensure!(
                    (1..length).contains(&period),
                    "--period: found {period}; expected 1 to {late}, so that the late token (at \
                     position {late}) is in a later repeat"
                );
                let (n, repeats) = (self.sequences.sequences, length.div_ceil(period));
                let task = Repeated::new(tokenizer)?;
                let drawn = task.prompts(n, period, repeats, self.sequences.seed)?;
                let cut = |r: &RepeatedPrompt| tokenizer.prompt(r.prompt.tokens[..length].to_vec());
                drawn.iter().map(cut).collect()
            }
        };
        Ok((TokenPair { late, early }, prompts))
    }

    fn score(&self, session: &Session, tokens: TokenPair, prompts: &[Prompt]) -> Result<()> {
        let (output, model) = (&session.output, &session.model);
        let step = session
            .progress
            .step("in-context-learning score, whole and by head");
        let whole = in_context_score(model, prompts, tokens)?;
        let ablation =
            Ablation::new(model, prompts, Replacement::OverallMean)?.memory_limit(session.memory);
        let change = in_context_score_by_head(&ablation, tokens)?.effect;
        drop(step);
        output.say(format_args!("model    {}\n", output.model()))?;
        output.say(format_args!(
            "loss at position {:4}: {}",
            tokens.late, whole.late_loss
        ))?;
        output.say(format_args!(
            "loss at position {:4}: {}",
            tokens.early, whole.early_loss
        ))?;
        output.say(format_args!(
            "in-context-learning score: {} nats\n",
            whole.score
        ))?;
        output.table(&change)?;
        output.say(change.top(5))?;
        self.picture(session, "in_context_score_by_head", &change);
        output.number(
            "score",
            json!({ "score": whole.score, "late": tokens.late, "early": tokens.early,
                    "by_head": change }),
        )
    }

    /// A mapping from names to objects that changes from prompt to prompt.
    fn mapping(&self, session: &Session) -> Result<()> {
        let (output, model, tokenizer) = (&session.output, &session.model, &session.tokenizer);
        let (n, seed) = (self.sequences.sequences, self.sequences.seed);
        let pairs = key_value_pairs(tokenizer, n, self.shots, seed, false)?;
        let clean: Vec<Prompt> = pairs.iter().map(|p| p.clean.clone()).collect();
        let corrupted: Vec<Prompt> = pairs.iter().map(|p| p.corrupted.clone()).collect();
        let answers: Vec<(u32, u32)> = pairs.iter().map(|p| (p.answer, p.other)).collect();
        let metric = logit_diffs(&answers);
        let step = session.progress.step("patching the mapping");
        let found = activation_patching(model, &clean, &corrupted, Grid::Heads(Site::Z), &metric)?;
        let grid = Grid::Positions(Site::ResidPre);
        let stream = activation_patching(model, &clean, &corrupted, grid, &metric)?;
        let stream = by_role(&stream, &pairs)?.normalized()?;
        drop(step);
        let right = found.clean.iter().filter(|v| **v > 0.0).count();
        output.say(format_args!(
            "\nkey → value, `{}`\nthe right value beats the other one in {right} of {} prompts",
            tokenizer.decode(&clean[0].tokens)?,
            clean.len()
        ))?;
        let effect = found.raw().normalized()?;
        output.table(&effect)?;
        output.table(&stream)?;
        let strongest = |of: &Labelled| of.top(1).cells.into_iter().next();
        if let (Some(head), Some(place)) = (strongest(&effect), strongest(&stream)) {
            output.say(format_args!(
                "of the logit difference between the mappings, one head's patch restores most at \
                 {}.{} ({:+.2}), one of the residual stream before layer {} at the {} ({:+.2})",
                head.index[0],
                head.index[1],
                head.value,
                place.index[0],
                stream.axes()[1].labels[place.index[1]],
                place.value
            ))?;
        }
        self.picture(session, "mapping_by_head", &effect);
        self.picture(session, "mapping_resid_pre", &stream);
        output.number(
            "mapping",
            json!({ "right": right, "prompts": clean.len(), "heads": effect,
                    "resid_pre": stream }),
        )
    }
}

/// The effect of patching one position, averaged over the prompts' positions with the same role,
/// `[layer, role]`: which example is queried differs from prompt to prompt.
fn by_role(found: &Patching, pairs: &[KeyValuePair]) -> Result<Labelled> {
    let mut roles: Vec<_> = pairs.iter().flat_map(|p| &p.roles).collect();
    roles.sort_unstable();
    roles.dedup();
    let layers = found.values.shape()[0];
    let mut values = Array2::zeros((layers, roles.len()));
    for (role, mut column) in roles.iter().zip(values.columns_mut()) {
        let mut positions = 0.0;
        for (i, pair) in pairs.iter().enumerate() {
            let of_pair = found.values.index_axis(Dim(2), i);
            let same = pair.roles.iter().enumerate().filter(|(_, r)| r == role);
            for (position, _) in same {
                column += &of_pair.index_axis(Dim(1), position);
                positions += 1.0;
            }
        }
        column /= positions;
    }
    let mut about = found.raw().about.clone();
    about.title = "Key → value: resid_pre patched, by role of the position".to_string();
    about.caption = format!(
        "{} One position at a time; columns are what a position is in its prompt (asked: in the \
         example whose key is the query), of several with the same role the mean.",
        about.caption
    );
    let axes = vec![
        found.raw().axes()[0].clone(),
        Axis::new("role", roles.iter().map(ToString::to_string)),
    ];
    Ok(Labelled::new(values, axes, about)?)
}
