//! Generation: how does the text go on, as it is and under an intervention?
//!
//! ```text
//! next = argmax(logits)    or a sample of    softmax(logits / temperature), of the top_k likeliest
//! ```
//!
//! Token by token over a cache of keys and values, with the bits of full forward passes, also
//! under hooks. (Sampling: Radford et al. 2019, section 3; top-k: Fan et al. 2018, section 5.)
//!
//! ```
//! use patchlens::generate::Generation;
//! use patchlens::prelude::*;
//! let (model, tokenizer) = (Transformer::mini(), Tokenizer::mini());
//! let prompt = tokenizer.encode("Ada Brown plays the sport of")?;
//! let texts = model.generate(&prompt, (), &Generation::greedy(3))?;
//! println!("{}", tokenizer.decode(&texts[0].tokens)?);
//! # Ok::<(), patchlens::Error>(())
//! ```
//!
//! **What a text means.** With [`Sampling::Greedy`](Sampling) the model's likeliest next token, one
//! after the other; the same seed gives the same sample on every machine.
//!
//! **What it does not mean.** Greedy text is not the likeliest text, and one sample says little about
//! the distribution: compare logits or a [`metric`](crate::metric) where the next token is the
//! question.

mod mask;

use std::sync::Arc;

use ndarray::{Array2, ArrayView1};
use ndarray_rand::rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::cache::{ActivationCache, Selection};
use crate::error::{Error, Result};
use crate::hook::Site;
use crate::model::lane::Lane;
use crate::model::pass::Pass;
use crate::model::recorder::Recorder;
use crate::model::{Hooks, RunShape, Transformer};
use crate::ops::{largest, on_pool};
use crate::prompt::Prompt;
use mask::Watched;

/// How the next token is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Sampling {
    /// The likeliest token; among equals the one with the lowest id.
    #[default]
    Greedy,
    /// A random token, with probabilities `softmax(logits / temperature)`.
    Random {
        /// Above 0; 1 is the model's own distribution.
        temperature: f32,
        /// Only the `k` likeliest tokens (among equals those with the lowest ids), if given.
        top_k: Option<usize>,
        /// Each sequence of a batch has its own random numbers, from this seed and its index.
        seed: u64,
    },
}

/// How [`Transformer::generate`] goes on and ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Generation {
    /// Tokens to generate, at least 1.
    pub max_new_tokens: usize,
    /// How each is chosen.
    pub sampling: Sampling,
    /// A sequence ends after this token.
    pub stop_at: Option<u32>,
}

impl Generation {
    /// The likeliest token, `max_new_tokens` times.
    pub fn greedy(max_new_tokens: usize) -> Self {
        Generation {
            max_new_tokens,
            sampling: Sampling::Greedy,
            stop_at: None,
        }
    }
}

/// One generated sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct Generated {
    /// The prompt's tokens, then the new ones.
    pub tokens: Vec<u32>,
    /// How many of them are the prompt's.
    pub prompt_len: usize,
    /// The logits that each new token was chosen from, `[new token, d_vocab]`: those of the
    /// position before it.
    pub logits: Array2<f32>,
}

impl Generated {
    /// The new tokens.
    pub fn new_tokens(&self) -> &[u32] {
        &self.tokens[self.prompt_len..]
    }
}

/// A sequence under way.
struct Sequence {
    generated: Generated,
    /// The rows that have been run: keys and values.
    cache: Option<ActivationCache>,
    random: ChaCha8Rng,
    done: bool,
}

impl Transformer {
    /// Continues each prompt. Every token is run once: later ones read the keys and values of
    /// earlier ones from a cache. The logits have the bits of a full forward pass over the same
    /// tokens under the same hooks, and those that each prompt would give alone.
    ///
    /// Hooks act on the prompts' positions and on each new one as it is run, so that an
    /// intervention on all positions steers the whole text, and its receipt counts every step. After
    /// the blocks, of a prompt's positions only the last one is run.
    /// [`Select::Last`](crate::Select::Last) is the newest position at each step. Values of an
    /// intervention must fit any length: one row for all positions. The last new token is not run.
    ///
    /// ```
    /// use patchlens::{Config, Prompt, Transformer};
    /// use patchlens::generate::Generation;
    /// let config = Config { n_layers: 1, n_heads: 2, d_model: 8, d_mlp: 16, d_vocab: 11,
    /// ..Config::gpt2() };
    /// let model = Transformer::random(config, 0)?;
    /// let texts = model.generate(&Prompt::from([1, 2, 3]), (), &Generation::greedy(4))?;
    /// assert_eq!(texts[0].tokens[..3], [1, 2, 3]);
    /// assert_eq!(texts[0].logits.dim(), (4, 11)); // [new token, d_vocab]
    /// # Ok::<(), patchlens::Error>(())
    /// ```
    ///
    /// # Errors
    /// Before anything is computed: as [`Transformer::run`]; [`Error::Prompt`] if prompt and new
    /// tokens exceed the context; [`Error::Invalid`] for a temperature that is not a positive
    /// number, or `top_k` or `max_new_tokens` of 0; [`Error::OutOfRange`] for `stop_at` outside of
    /// the vocabulary; [`Error::Shape`] for values that depend on
    /// the position; [`Error::Invalid`] for an edit of attention that can let a position attend to
    /// later ones, for one at positions or sources counted from an end that moves, and, after the
    /// prompt has run, for a closure that has let a position attend to later ones; [`Error::Lacks`] for a model whose positions attend to later ones, or whose logits
    /// are of other tokens than it reads. [`Error::Invalid`] if logits to sample from are NaN or infinite.
    pub fn generate(
        &self,
        prompts: &(impl AsRef<[Prompt]> + ?Sized),
        mut hooks: impl Hooks,
        generation: &Generation,
    ) -> Result<Vec<Generated>> {
        let prompts = prompts.as_ref();
        self.check_generation(prompts, &mut hooks, generation)?;
        let mut sequences: Vec<Sequence> = prompts
            .iter()
            .enumerate()
            .map(|(i, prompt)| Sequence::new(prompt, self.config().d_vocab, i, generation))
            .collect();
        for _ in 0..generation.max_new_tokens {
            if sequences.iter().all(|s| s.done) {
                break;
            }
            self.generate_step(&mut sequences, &mut hooks, generation)?;
        }
        Ok(sequences.into_iter().map(|s| s.generated).collect())
    }

    /// Runs the rows not yet run of all sequences under way, and chooses a token for each.
    fn generate_step(
        &self,
        sequences: &mut [Sequence],
        hooks: &mut impl Hooks,
        generation: &Generation,
    ) -> Result<()> {
        let n_layers = self.config().n_layers;
        let kept = Selection::points((0..n_layers).flat_map(|l| [Site::K.at(l), Site::V.at(l)]));
        let lanes: Vec<Lane<'_>> = sequences.iter().map(Sequence::lane).collect();
        let mut recorder = Recorder::new(&kept, &lanes, self.identity());
        let mut watched = Watched::new(&mut *hooks);
        let pass = Pass::new(self, &lanes, &mut watched, Some(&mut recorder));
        let output = on_pool(|| pass.run(None));
        watched.check()?;
        hooks.blocked(&output.blocked());
        let caches = recorder.finish(&lanes);
        drop(lanes);
        for (i, (sequence, cache)) in sequences.iter_mut().zip(caches).enumerate() {
            if !sequence.done {
                sequence.cache = Some(cache);
                sequence.choose(output.logits.lane(i).row(0), generation)?;
            }
        }
        Ok(())
    }

    fn check_generation(
        &self,
        prompts: &[Prompt],
        hooks: &mut impl Hooks,
        generation: &Generation,
    ) -> Result<()> {
        generation.check(self.config().d_vocab)?;
        self.config().check_predicts("generation")?;
        self.check_prompts(prompts)?;
        let run = |prompt: &Prompt| prompt.len().saturating_add(generation.max_new_tokens - 1);
        let n_ctx = self.config().n_ctx;
        if let Some(i) = prompts.iter().position(|prompt| run(prompt) > n_ctx) {
            let (n, new) = (prompts[i].len(), generation.max_new_tokens);
            return Err(Error::Prompt {
                at: format!("prompt {i}"),
                found: format!("{n} tokens and {new} to generate"),
                expected: format!("at most {} together (n_positions + 1)", n_ctx + 1),
            });
        }
        hooks.begin(&RunShape {
            growing: true,
            ..RunShape::whole(self, prompts.iter().map(run).collect())
        })
    }
}

impl Generation {
    fn check(&self, d_vocab: usize) -> Result<()> {
        if self.max_new_tokens == 0 {
            return Err(Error::invalid("max_new_tokens", 0, "at least 1"));
        }
        if let Some(token) = self.stop_at.filter(|token| *token as usize >= d_vocab) {
            return Err(Error::OutOfRange {
                at: "stop_at".to_string(),
                axis: "token",
                found: token as usize,
                expected: format!("0..{d_vocab} (vocab_size)"),
            });
        }
        match self.sampling {
            Sampling::Random { temperature, .. }
                if !(temperature.is_finite() && temperature > 0.0) =>
            {
                let expected = "a finite number above 0 (or greedy sampling)";
                Err(Error::invalid("temperature", temperature, expected))
            }
            Sampling::Random { top_k: Some(0), .. } => {
                Err(Error::invalid("top_k", 0, "at least 1"))
            }
            _ => Ok(()),
        }
    }
}

impl Sequence {
    fn new(prompt: &Prompt, d_vocab: usize, index: usize, generation: &Generation) -> Self {
        let seed = match generation.sampling {
            Sampling::Greedy => 0,
            Sampling::Random { seed, .. } => seed,
        };
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(index as u64);
        Sequence {
            generated: Generated {
                tokens: prompt.tokens.clone(),
                prompt_len: prompt.len(),
                logits: Array2::zeros((0, d_vocab)),
            },
            cache: None,
            random,
            done: false,
        }
    }

    /// The rows after those in the cache; none for a sequence that is done, which stays in the
    /// batch so that hooks find every sequence at its index.
    fn lane(&self) -> Lane<'_> {
        let tokens = &self.generated.tokens[..];
        let known = self.cache.as_ref().map_or(0, |cache| cache.tokens().len());
        if self.done {
            let mut lane = Lane::full(&tokens[..known], Vec::new());
            lane.base = self.cache.as_ref();
            lane.fresh = Arc::default();
            return lane;
        }
        let mut lane = Lane::full(tokens, vec![tokens.len() - 1]);
        lane.base = self.cache.as_ref();
        lane.fresh = (known..tokens.len()).collect();
        lane
    }

    fn choose(&mut self, logits: ArrayView1<'_, f32>, generation: &Generation) -> Result<()> {
        let token = match generation.sampling {
            Sampling::Greedy => ranked(logits, 1)?[0],
            Sampling::Random {
                temperature, top_k, ..
            } => {
                let among = ranked(logits, top_k.unwrap_or(logits.len()))?;
                sample(logits, &among, temperature, &mut self.random)
            }
        };
        let generated = &mut self.generated;
        let pushed = generated.logits.push_row(logits);
        pushed.expect("a row of logits is [d_vocab]");
        generated.tokens.push(token as u32);
        self.done = generation.stop_at == Some(token as u32);
        Ok(())
    }
}

/// The `k` tokens of the largest logits, largest first, equal ones by rising id.
fn ranked(logits: ArrayView1<'_, f32>, k: usize) -> Result<Vec<usize>> {
    if let Some(token) = logits
        .iter()
        .position(|v| v.is_nan() || *v == f32::INFINITY)
    {
        let what = format!("logit of token {token} at generation");
        return Err(Error::invalid(what, logits[token], "a finite number or −∞"));
    }
    let best = largest(logits.len(), k, |i| f64::from(logits[i]));
    match best.first() {
        Some(&token) if logits[token].is_finite() => Ok(best),
        _ => Err(Error::invalid(
            "logits at generation",
            "−∞ everywhere",
            "a finite one",
        )),
    }
}

/// One of the tokens `among`, with probabilities `softmax(logits / temperature)` over them.
fn sample(
    logits: ArrayView1<'_, f32>,
    among: &[usize],
    temperature: f32,
    random: &mut ChaCha8Rng,
) -> usize {
    let largest = f64::from(logits[among[0]]);
    let weight =
        |token: &usize| ((f64::from(logits[*token]) - largest) / f64::from(temperature)).exp();
    let weights: Vec<f64> = among.iter().map(weight).collect();
    let mut left = random.random::<f64>() * weights.iter().sum::<f64>();
    for (token, weight) in among.iter().zip(&weights) {
        left -= weight;
        if left < 0.0 {
            return *token;
        }
    }
    among[0]
}
