//! Logit lens and tuned lens: from which layer on can the answer be read?
//!
//! The residual stream *r* after each step, as if the model ended there:
//!
//! ```text
//! logit lens: unembed(LayerNorm(r))         tuned lens: unembed(LayerNorm(r + r·W + b))
//! ```
//!
//! (nostalgebraist 2020; Belrose et al. 2023, where *W* and *b* are fitted for each point, here by
//! least squares.)
//!
//! ```
//! use patchlens::prelude::*;
//! let (model, tokenizer) = (Transformer::mini(), Tokenizer::mini());
//! let clean = tokenizer.encode("When Mary and John went to the store, John gave a drink to")?;
//! let read = LogitLens::new(&model).run(&clean)?;
//! let (points, last) = (read.kl_to_final.values().shape()[0], clean.len() - 1);
//! assert_eq!(read.kl_to_final.values()[[points - 1, last]], 0.0); // the end is the model
//! # Ok::<(), patchlens::Error>(())
//! ```
//!
//! **What a number means.** KL(final ‖ lens) in nats: how far the reading is from what the model
//! says in the end. The last point has the model's own bits.
//!
//! **What it does not mean.** What can be read need not be used. Early streams are not in the basis
//! of the end, so nonsense there means little. The point after layer *i* is Hugging Face's
//! `hidden_states[i + 1]`, but for the last one, which there is behind the final LayerNorm. More in
//! [the guide](crate::guide::lenses).

mod tuned;

use ndarray::{Array2, Array3, ArrayView2, Axis as Dim};

pub use tuned::{FittedLens, LensFit, TunedLens};

use crate::cache::{ActivationCache, RunKind, Selection};
use crate::error::{Error, Result};
use crate::hook::{Axes, HookPoint};
use crate::metric::rank_in;
use crate::model::Transformer;
use crate::ops::{self, log_softmax_row};
use crate::prompt::Prompt;
use crate::report::{About, Axis, Labelled, Palette};
use crate::tokenizer::Tokenizer;

/// A lens on some points of a model: the final LayerNorm, recomputed on what is there, then the
/// unembedding with its bias; before it the tuned lens's translator, if there is one.
///
/// Coming from Hugging Face's `output_hidden_states`: `hidden_states[i]` is `hook_resid_pre` of
/// layer `i` for each layer; `hidden_states[n_layers]` is not the last `hook_resid_post`, but that
/// after the final LayerNorm with its weight and bias (`ln_final.hook_normalized` times the weight
/// plus the bias), so that putting it through the norm again would be wrong. Here the last
/// `hook_resid_post` has the model's own bits and a KL of exactly 0.
///
/// ```
/// use patchlens::{Config, Prompt, Transformer};
/// use patchlens::lens::LogitLens;
/// let config = Config { n_layers: 2, n_heads: 2, d_model: 8, d_mlp: 16, d_vocab: 11,
/// ..Config::gpt2() };
/// let model = Transformer::random(config, 0)?;
/// let mut lens = LogitLens::new(&model);
/// lens.tokens = vec![3, 5];
/// lens.token_labels = Some(vec![" Mary".into(), " John".into()]);
/// let found = lens.run(&Prompt::from([1, 2, 3]))?;
/// assert_eq!(found.rank.unwrap().values().shape(), [2, 5, 3]); // [token, point, pos]
/// assert_eq!(found.kl_to_final.axes()[0].labels, ["0_pre", "0_mid", "1_pre", "1_mid", "final_post"]);
/// # Ok::<(), patchlens::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct LogitLens<'m> {
    model: &'m Transformer,
    tuned: Option<&'m TunedLens>,
    /// Where to look: any points with the axes `[pos, d_model]`. `hook_attn_out` and
    /// `hook_mlp_out` are read alone, as if they were the whole residual stream.
    pub points: Vec<HookPoint>,
    /// How many of the likeliest tokens to name: 5 by default, or as many as there are.
    pub top_k: usize,
    /// Tokens whose rank and log-probability to follow.
    pub tokens: Vec<u32>,
    /// Their names in the results, one per token; by default the ids.
    pub token_labels: Option<Vec<String>>,
}

/// What a lens shows of one prompt. Points are TransformerLens's rows of `accumulated_resid`.
#[derive(Clone, Debug)]
pub struct LensReadout {
    /// The likeliest tokens' ids, `[point, pos, k]`, likeliest first; ties by id.
    pub top_tokens: Array3<u32>,
    /// Their probabilities, `[point, position, k]`.
    pub top_probabilities: Labelled,
    /// The chosen tokens' natural log-probabilities, `[token, point, position]`; `None` without.
    pub log_probability: Option<Labelled>,
    /// The chosen tokens' ranks, 0 is the likeliest, equals count half, `[token, point,
    /// position]`; `None` without.
    pub rank: Option<Labelled>,
    /// KL(the model's own distribution ‖ the lens's) in nats, `[point, position]`.
    pub kl_to_final: Labelled,
}

impl LensReadout {
    /// The likeliest token at each point and position, the usual picture of a lens: its
    /// probability `[point, position]`, its text in each cell.
    ///
    /// A token that the tokenizer lacks is `#396`.
    ///
    /// # Errors
    /// Same as [`Labelled::with_texts`].
    pub fn likeliest(&self, tokenizer: &Tokenizer) -> Result<Labelled> {
        let first = self.top_tokens.index_axis(Dim(2), 0);
        let texts = first.iter().map(|token| tokenizer.token_label(*token));
        let texts = Array2::from_shape_vec(first.dim(), texts.collect())
            .expect("there is one text per token");
        let probabilities = self.top_probabilities.values();
        let mut about = self.top_probabilities.about.clone();
        about.title += " of the likeliest token";
        let axes = self.top_probabilities.axes()[..2].to_vec();
        let values = probabilities.index_axis(Dim(2), 0).to_owned();
        Labelled::new(values, axes, about)?.with_texts(texts)
    }

    /// The index of the first point from which a chosen token is the likeliest at a position, and
    /// stays so up to the last point; `None` if it is not the likeliest there. `token` counts as
    /// in [`LogitLens::tokens`].
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for a token that was not followed or a position that the prompt lacks.
    pub fn on_top_from(&self, token: usize, position: usize) -> Result<Option<usize>> {
        let points = self.kl_to_final.values().shape()[0];
        let positions = self.kl_to_final.values().shape()[1];
        let tokens = self.rank.as_ref().map_or(0, |r| r.values().shape()[0]);
        for (axis, found, n) in [("token", token, tokens), ("pos", position, positions)] {
            if found >= n {
                return Err(Error::OutOfRange {
                    at: "logit lens".to_string(),
                    axis,
                    found,
                    expected: format!("0..{n}"),
                });
            }
        }
        let Some(rank) = &self.rank else {
            return Ok(None);
        };
        let on_top = |point: &usize| rank.values()[[token, *point, position]] == 0.0;
        Ok((0..points).rev().take_while(on_top).last())
    }
}

/// One point's part of a readout, row by row as the arrays go.
#[derive(Default)]
struct Numbers {
    top_tokens: Vec<u32>,
    top_probabilities: Vec<f32>,
    log_probability: Vec<Vec<f32>>,
    rank: Vec<Vec<f32>>,
    kl: Vec<f32>,
}

impl<'m> LogitLens<'m> {
    /// The logit lens at the residual stream before and within every block, and at the end.
    pub fn new(model: &'m Transformer) -> Self {
        LogitLens {
            model,
            tuned: None,
            points: HookPoint::residual(model.config()),
            top_k: model.config().d_logits().min(5),
            tokens: Vec::new(),
            token_labels: None,
        }
    }

    /// The tuned lens, at the points that it has translators for.
    ///
    /// # Errors
    /// [`Error::Shape`] or [`Error::OutOfRange`] if it was made for a model of another shape,
    /// [`Error::Provenance`] for another model, see [`TunedLens::of_other_model`].
    pub fn tuned(model: &'m Transformer, lens: &'m TunedLens) -> Result<Self> {
        lens.check(model)?;
        Ok(LogitLens {
            tuned: Some(lens),
            points: lens.points().collect(),
            ..Self::new(model)
        })
    }

    /// Runs a prompt and looks.
    ///
    /// # Errors
    /// Same as [`Transformer::run`]; [`Error::Invalid`] without points, for a point with other axes, or
    /// one that the tuned lens has no translator for, for `top_k` outside `1..=d_vocab`, and for
    /// another number of labels than tokens; [`Error::OutOfRange`] for a token that the vocabulary
    /// lacks.
    pub fn run(&self, prompt: &Prompt) -> Result<LensReadout> {
        self.check()?;
        let selection = Selection::points(self.points.iter().copied());
        let (logits, cache) = self.model.run_with_cache(prompt, &selection)?;
        let truth = log_probabilities(logits);
        let mut numbers = Numbers {
            log_probability: vec![Vec::new(); self.tokens.len()],
            rank: vec![Vec::new(); self.tokens.len()],
            ..Numbers::default()
        };
        for point in &self.points {
            let logits = self.logits(&cache, *point)?;
            self.read(logits, truth.view(), &mut numbers);
        }
        self.readout(prompt, numbers)
    }

    /// The lens's logits at one point of a cached run, with or without hooks, `[pos, d_vocab]`.
    /// Those at the last
    /// block's `hook_resid_post` have the bits of the model's own (without tuned lens).
    ///
    /// # Errors
    /// [`Error::NotCached`]; [`Error::Invalid`] for a point with other axes or one that the tuned
    /// lens has no translator for; [`Error::Provenance`] for the cache of another model.
    pub fn logits(&self, cache: &ActivationCache, point: HookPoint) -> Result<Array2<f32>> {
        check_axes(point)?;
        let kinds = [RunKind::Plain, RunKind::UnderHooks];
        self.model.check_cache("cache of a lens", cache, &kinds)?;
        let residual = cache.flat(point)?;
        let translated;
        let residual = match self.tuned {
            Some(lens) => {
                translated = lens.translate(point, residual)?;
                translated.view()
            }
            None => residual,
        };
        let (config, parameters) = (self.model.config(), self.model.parameters());
        let normed = parameters.ln_f.apply(config, residual.to_owned());
        let bias = parameters.lm_head_bias.as_ref().map(|b| b.view());
        Ok(ops::linear(normed.view(), parameters.w_u(), bias))
    }

    fn read(&self, logits: Array2<f32>, truth: ArrayView2<'_, f32>, to: &mut Numbers) {
        let ranks = self.tokens.iter().zip(&mut to.rank);
        for (token, ranks) in ranks {
            ranks.extend(
                logits
                    .rows()
                    .into_iter()
                    .map(|row| rank_in(row, *token as usize)),
            );
        }
        let found = log_probabilities(logits);
        for (row, truth) in found.rows().into_iter().zip(truth.rows()) {
            let best = ops::largest(row.len(), self.top_k, |i| f64::from(row[i]));
            to.top_probabilities
                .extend(best.iter().map(|token| row[*token].exp()));
            to.top_tokens.extend(best.iter().map(|token| *token as u32));
            for (token, values) in self.tokens.iter().zip(&mut to.log_probability) {
                values.push(row[*token as usize]);
            }
            to.kl.push(ops::kl_row(truth, row));
        }
    }

    fn readout(&self, prompt: &Prompt, numbers: Numbers) -> Result<LensReadout> {
        let (points, n) = (self.points.len(), prompt.len());
        let n_layers = self.model.config().n_layers;
        let names = self
            .points
            .iter()
            .map(|point| point.residual_name(n_layers));
        let axes = vec![
            Axis::new("point", names),
            Axis::tokens("position", &prompt.labels),
        ];
        let k = Axis::new("k", (1..=self.top_k).map(|i| format!("#{i}")));
        let ids = || self.tokens.iter().map(u32::to_string).collect();
        let tokens = Axis::new("token", self.token_labels.clone().unwrap_or_else(ids));
        let (with_k, with_tokens) = ([&axes[..], &[k]].concat(), [&[tokens][..], &axes].concat());
        let of_tokens = |values: Vec<Vec<f32>>, unit: &str| {
            let labelled = || self.labelled(values.concat(), with_tokens.clone(), unit);
            (!self.tokens.is_empty()).then(labelled).transpose()
        };
        let top_tokens = Array3::from_shape_vec((points, n, self.top_k), numbers.top_tokens);
        Ok(LensReadout {
            top_tokens: top_tokens.expect("k tokens per point and position"),
            top_probabilities: self.labelled(numbers.top_probabilities, with_k, "probability")?,
            log_probability: of_tokens(numbers.log_probability, "log-probability (nats)")?,
            rank: of_tokens(numbers.rank, "rank (0 is the likeliest)")?,
            kl_to_final: self.labelled(numbers.kl, axes, "KL(final ‖ lens) (nats)")?,
        })
    }

    fn labelled(&self, values: Vec<f32>, axes: Vec<Axis>, unit: &str) -> Result<Labelled> {
        let kind = match self.tuned {
            Some(_) => "Tuned lens",
            None => "Logit lens",
        };
        let before = match self.tuned {
            Some(_) => "the point's translator, ",
            None => "",
        };
        let about = About {
            title: format!("{kind}: {unit}"),
            caption: format!(
                "The residual stream at each point, put through {before}the final LayerNorm \
                 (recomputed) and W_U."
            ),
            unit: unit.to_string(),
            // None of these numbers has a sign whose change would mean something.
            palette: Palette::Sequential,
            ..About::default()
        };
        let shape: Vec<usize> = axes.iter().map(|axis| axis.labels.len()).collect();
        let values = ndarray::ArrayD::from_shape_vec(shape, values).expect("one value per label");
        Labelled::new(values, axes, about)
    }

    fn check(&self) -> Result<()> {
        if self.points.is_empty() {
            return Err(Error::invalid("points of a lens", 0, "at least one"));
        }
        self.points
            .iter()
            .try_for_each(|point| check_axes(*point))?;
        if let Some(lens) = self.tuned {
            self.points
                .iter()
                .try_for_each(|point| lens.get(*point).map(|_| ()))?;
        }
        let d_vocab = self.model.config().d_logits();
        if !(1..=d_vocab).contains(&self.top_k) {
            let expected = format!("1 to {d_vocab}, the vocabulary");
            return Err(Error::invalid("top_k", self.top_k, expected));
        }
        let labels = self.token_labels.as_ref().map(Vec::len);
        if let Some(found) = labels.filter(|n| *n != self.tokens.len()) {
            let expected = format!("{}, one per token", self.tokens.len());
            return Err(Error::invalid("token labels of a lens", found, expected));
        }
        match self.tokens.iter().find(|token| **token as usize >= d_vocab) {
            Some(&token) => Err(Error::OutOfRange {
                at: "logit lens".to_string(),
                axis: "token",
                found: token as usize,
                expected: format!("0..{d_vocab}"),
            }),
            None => Ok(()),
        }
    }
}

fn check_axes(point: HookPoint) -> Result<()> {
    point.axes().expect(Axes::Model, "point of a lens", &point)
}

fn log_probabilities(mut logits: Array2<f32>) -> Array2<f32> {
    ops::for_rows(logits.view_mut(), |_, row| log_softmax_row(row));
    logits
}
