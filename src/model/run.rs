//! Runs as users start them: checked before the first multiplication.

use std::ops::Range;
use std::sync::Arc;

use ndarray::{Array2, ArrayView2};

use super::Transformer;
use super::blocked::BlockedRows;
use super::hooks::{Hooks, RunShape};
use super::lane::Lane;
use super::pass::{Pass, PassOutput};
use crate::cache::{ActivationCache, Selection};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::model::recorder::Recorder;
use crate::ops::{self, Matrix, part};
use crate::prompt::Prompt;
use crate::select::InPrompt;

/// Which logits a run computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeepLogits {
    /// Those of every position.
    #[default]
    All,
    /// Those of each sequence's last position.
    Last,
    /// None: the run ends with the last block. Hooks after it cannot fire.
    None,
}

/// What a run keeps and where it stops.
#[derive(Clone, Copy, Debug, Default)]
pub struct Run<'s> {
    /// Activations to keep, if any.
    pub cache: Option<&'s Selection>,
    /// Stops before this layer; `0` runs the embeddings only.
    pub stop_at_layer: Option<usize>,
    /// Logits to compute.
    pub logits: KeepLogits,
}

/// What a run returns.
#[derive(Clone, Debug)]
pub struct RunOutput {
    /// The logits asked for; empty after an early stop.
    pub logits: Logits,
    /// One cache per prompt, empty unless [`Run::cache`] asked for it.
    pub caches: Vec<ActivationCache>,
    /// The residual stream `[pos, d_model]` of each prompt where the run ended.
    pub residual: Vec<Array2<f32>>,
    /// Multiply-adds of all matrix products.
    pub multiply_adds: u64,
    /// Rows of attention that were left nothing to attend to.
    pub blocked: BlockedRows,
}

/// Logits of a batch, one matrix `[pos, d_vocab]` per prompt.
#[derive(Clone, Debug, Default)]
pub struct Logits {
    data: Arc<Matrix>,
    rows: Vec<Range<usize>>,
}

impl Logits {
    /// Number of prompts.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The logits of a prompt, `[pos, d_vocab]` ([`KeepLogits::Last`]: one row).
    ///
    /// # Panics
    /// If there is no such prompt.
    pub fn get(&self, prompt: usize) -> ArrayView2<'_, f32> {
        part(self.data.view(), 0, self.rows[prompt].clone())
    }

    /// All prompts in turn.
    pub fn iter(&self) -> impl Iterator<Item = ArrayView2<'_, f32>> {
        (0..self.len()).map(|i| self.get(i))
    }

    /// The first prompt's logits, without a copy where it is the only one.
    fn into_first(self) -> Array2<f32> {
        match self.rows.first() {
            Some(rows) if rows.len() < self.data.nrows() => {
                part(self.data.view(), 0, rows.clone()).to_owned()
            }
            _ => Arc::unwrap_or_clone(self.data).into_inner(),
        }
    }
}

impl Transformer {
    /// The logits of one prompt, `[pos, d_vocab]`.
    ///
    /// # Errors
    /// [`Error::Prompt`] if it is empty or longer than the context, [`Error::OutOfRange`] for a
    /// token that the vocabulary lacks.
    pub fn forward(&self, tokens: impl AsRef<[u32]>) -> Result<Array2<f32>> {
        let prompt = Prompt::from(tokens.as_ref());
        Ok(self.run(&prompt, (), &Run::default())?.logits.into_first())
    }

    /// The logits of one prompt, `[pos, d_vocab]`, and the activations selected.
    ///
    /// # Errors
    /// Same as [`Transformer::run`].
    pub fn run_with_cache(
        &self,
        tokens: impl AsRef<[u32]>,
        selection: &Selection,
    ) -> Result<(Array2<f32>, ActivationCache)> {
        let run = Run {
            cache: Some(selection),
            ..Run::default()
        };
        let output = self.run(&Prompt::from(tokens.as_ref()), (), &run)?;
        let mut caches = output.caches;
        Ok((output.logits.into_first(), caches.swap_remove(0)))
    }

    /// The logits of one prompt, `[pos, d_vocab]`, under hooks.
    ///
    /// # Errors
    /// Same as [`Transformer::run`].
    pub fn run_with_hooks(
        &self,
        tokens: impl AsRef<[u32]>,
        hooks: impl Hooks,
    ) -> Result<Array2<f32>> {
        let prompt = Prompt::from(tokens.as_ref());
        Ok(self
            .run(&prompt, hooks, &Run::default())?
            .logits
            .into_first())
    }

    /// Runs a batch of prompts of any lengths, with hooks, caching and an early stop in one pass.
    /// Each prompt's result has the bits that it would have alone.
    ///
    /// # Errors
    /// Before anything is computed: [`Error::Prompt`] or [`Error::OutOfRange`] for a prompt that
    /// cannot run, [`Error::OutOfRange`] or [`Error::NeverFires`] for a hook, a cached point or a
    /// position that this run does not reach.
    pub fn run<H: Hooks>(
        &self,
        prompts: &(impl AsRef<[Prompt]> + ?Sized),
        mut hooks: H,
        run: &Run<'_>,
    ) -> Result<RunOutput> {
        let prompts = prompts.as_ref();
        self.check_prompts(prompts)?;
        self.check_run(prompts, &mut hooks, run)?;
        if run.cache.is_some() {
            // The caches leave, and may outlive the model.
            self.fingerprint();
        }
        Ok(self.run_begun(prompts, &mut hooks, run))
    }

    /// Runs what has been checked, under hooks that have begun.
    pub(crate) fn run_begun<H: Hooks>(
        &self,
        prompts: &[Prompt],
        hooks: &mut H,
        run: &Run<'_>,
    ) -> RunOutput {
        let lanes: Vec<Lane<'_>> = prompts
            .iter()
            .map(|prompt| Lane::full(&prompt.tokens, outputs(run.logits, prompt.len())))
            .collect();
        let mut recorder = run
            .cache
            .map(|selection| Recorder::new(selection, &lanes, &self.identity));
        let stop = match run.logits {
            KeepLogits::None => Some(run.stop_at_layer.unwrap_or(self.config.n_layers)),
            _ => run.stop_at_layer,
        };
        let pass = Pass::new(self, &lanes, hooks, recorder.as_mut());
        let output = ops::on_pool(|| pass.run(stop));
        hooks.blocked(&output.blocked());
        finish(output, recorder.map_or_else(Vec::new, |r| r.finish(&lanes)))
    }

    /// Checks prompts against the model's context and vocabulary.
    pub(crate) fn check_prompts(&self, prompts: &[Prompt]) -> Result<()> {
        check_prompts(&self.config, prompts)
    }

    fn check_run(&self, prompts: &[Prompt], hooks: &mut impl Hooks, run: &Run<'_>) -> Result<()> {
        if let Some(stop) = run.stop_at_layer.filter(|s| *s > self.config.n_layers) {
            return Err(Error::OutOfRange {
                at: "stop_at_layer".to_string(),
                axis: "layer",
                found: stop,
                expected: format!("0..={}", self.config.n_layers),
            });
        }
        let whole = run.stop_at_layer.is_none() && run.logits != KeepLogits::None;
        let lengths = prompts.iter().map(Prompt::len).collect();
        let shape = RunShape {
            stop_at_layer: (!whole).then(|| run.stop_at_layer.unwrap_or(self.config.n_layers)),
            logits: run.logits,
            ..RunShape::whole(self, lengths)
        };
        hooks.begin(&shape)?;
        run.cache
            .map_or(Ok(()), |selection| check_selection(&shape, selection))
    }
}

/// Checks that a run reaches every point of a selection, and that every prompt has its positions.
pub(crate) fn check_selection(shape: &RunShape<'_>, selection: &Selection) -> Result<()> {
    let positions = &selection.positions;
    let (what, prompts) = (&"cached positions", shape.lengths.len());
    positions.check_prompts(what, "pos", prompts)?;
    for (prompt, n) in shape.lengths.iter().enumerate() {
        let at = InPrompt {
            what,
            prompt,
            prompts,
        };
        positions.check(&at, "pos", prompt, *n)?;
    }
    for point in selection.iter() {
        shape.check_point(point)?;
        let computed = |(prompt, n): (usize, &usize)| {
            let mut kept = positions.resolve(prompt, *n).into_iter();
            kept.all(|position| shape.computes(point, position, *n))
        };
        if !shape.lengths.iter().enumerate().all(computed) {
            return Err(shape.only_last(point));
        }
    }
    Ok(())
}

fn outputs(keep: KeepLogits, n: usize) -> Vec<usize> {
    match keep {
        KeepLogits::All => (0..n).collect(),
        KeepLogits::Last => vec![n - 1],
        KeepLogits::None => Vec::new(),
    }
}

/// Checks that a model of this shape can run some prompts.
///
/// # Errors
/// [`Error::Prompt`] or [`Error::OutOfRange`] for the first that it cannot run.
pub(crate) fn check_prompts(config: &Config, prompts: &[Prompt]) -> Result<()> {
    if prompts.is_empty() {
        return Err(Error::Prompt {
            at: "prompts".to_string(),
            found: "none".to_string(),
            expected: "at least one".to_string(),
        });
    }
    for (i, prompt) in prompts.iter().enumerate() {
        let at = format!("prompt {i}");
        let n = prompt.len();
        if n == 0 || n > config.n_ctx {
            return Err(Error::Prompt {
                at,
                found: format!("{n} tokens"),
                expected: format!("1 to {} tokens (n_positions)", config.n_ctx),
            });
        }
        let labels = prompt.labels.len();
        if labels != n {
            return Err(Error::Prompt {
                at,
                found: format!("{labels} labels for {n} tokens"),
                expected: "one label per token".to_string(),
            });
        }
        let unknown = prompt
            .tokens
            .iter()
            .find(|t| **t as usize >= config.d_vocab);
        if let Some(token) = unknown {
            return Err(Error::OutOfRange {
                at,
                axis: "token",
                found: *token as usize,
                expected: format!("0..{} (vocab_size)", config.d_vocab),
            });
        }
    }
    Ok(())
}

fn finish(output: PassOutput, caches: Vec<ActivationCache>) -> RunOutput {
    let blocked = output.blocked();
    let rows = output.logits.rows;
    let logits = match output.logits.groups.into_iter().next() {
        Some((_, data)) => Logits {
            data,
            rows: (0..rows.lanes()).map(|lane| rows.range(lane)).collect(),
        },
        None => Logits::default(),
    };
    let residual = &output.residual;
    RunOutput {
        logits,
        caches,
        residual: (0..residual.layout.lanes())
            .map(|lane| residual.lane(lane).to_owned())
            .collect(),
        multiply_adds: output.macs,
        blocked,
    }
}
