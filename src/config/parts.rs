//! What a model's blocks are made of, in the order of the forward pass.

use std::borrow::Cow;

use super::Config;
use crate::error::{Error, Result};

/// What normalises the residual stream before each half of a block and before the unembedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Norm {
    /// Nothing does: there are no hook points `ln1`, `ln2` and `ln_final`.
    None,
    /// LayerNorm without weight and bias, TransformerLens's `LNPre`.
    LayerPre,
    /// LayerNorm with weight and bias (GPT-2).
    Layer,
}

/// How positions enter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Positions {
    /// They do not, but for the mask of attention where it is causal.
    None,
    /// Learned embeddings, added to those of the tokens (GPT-2).
    Learned,
    /// Learned embeddings, added in each layer to what queries and keys are made of, after
    /// LayerNorm; values and the residual stream have none (Press et al. 2021, section 4).
    Shortformer,
}

/// Which positions attention reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AttentionDirection {
    /// Each position reads itself and those before it (GPT-2).
    Causal,
    /// Each position reads all, those after it too: the default of models compiled by Tracr, and of
    /// InterpBench's. Such a model cannot generate text, since each new token changes all earlier
    /// rows.
    Bidirectional,
}

impl AttentionDirection {
    /// The last source that a destination reads, of `n` tokens.
    pub(crate) fn last_source(self, dest: usize, n: usize) -> usize {
        match self {
            AttentionDirection::Causal => dest,
            AttentionDirection::Bidirectional => n - 1,
        }
    }

    /// Same for several destinations.
    pub(crate) fn last_sources(self, dest: &[usize], n: usize) -> Cow<'_, [usize]> {
        match self {
            AttentionDirection::Causal => dest.into(),
            // Without destinations there may be no sources either.
            AttentionDirection::Bidirectional => dest.iter().map(|_| n - 1).collect(),
        }
    }

    /// The first destination that reads a source: so do all after it.
    pub(crate) fn first_reader(self, src: usize) -> usize {
        match self {
            AttentionDirection::Causal => src,
            AttentionDirection::Bidirectional => 0,
        }
    }
}

/// What follows attention in a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MlpKind {
    /// Nothing does: an attention-only model.
    None,
    /// Two linear maps with the activation function between them (GPT-2).
    Plain,
    /// The same with a LayerNorm after the activation function, `mlp.ln`; it has a weight and a
    /// bias where those of the stream have.
    Normed,
}

/// What the halves of a block read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Residual {
    /// The MLP reads what attention has added to (GPT-2).
    Sequential,
}

/// Something that GPT-2 or another model has, and some models lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Element {
    Positions,
    Norm,
    Mlp,
    InnerNorm,
}

impl Element {
    /// Why there is nothing at its hook points.
    pub fn absence(self) -> &'static str {
        match self {
            Element::Positions => "this model has no position embeddings",
            Element::Norm => "this model has no LayerNorms",
            Element::Mlp => "this model has no MLPs",
            Element::InnerNorm => "this model has no LayerNorm inside its MLPs",
        }
    }
}

impl Config {
    pub(crate) fn has(&self, element: Element) -> bool {
        match element {
            Element::Positions => self.positions != Positions::None,
            Element::Norm => self.norm != Norm::None,
            Element::Mlp => self.mlp != MlpKind::None,
            Element::InnerNorm => self.mlp == MlpKind::Normed,
        }
    }

    /// Checks that no position reads later ones, as something needs.
    pub(crate) fn check_causal(&self, what: &str) -> Result<()> {
        match self.attention {
            AttentionDirection::Causal => Ok(()),
            AttentionDirection::Bidirectional => Err(Error::Lacks {
                at: what.to_string(),
                reason: "in this model, positions attend to later ones".to_string(),
            }),
        }
    }

    /// Checks that the logits are of the tokens that the model reads, as something needs them to be.
    pub(crate) fn check_same_tokens(&self, what: &str) -> Result<()> {
        if self.d_logits() == self.d_vocab {
            return Ok(());
        }
        Err(Error::Lacks {
            at: what.to_string(),
            reason: "this model's logits are not of the tokens that it reads".to_string(),
        })
    }

    /// Checks that the next token of a prompt is what each position predicts without having read it,
    /// as the loss on prompts needs.
    pub(crate) fn check_predicts(&self, what: &str) -> Result<()> {
        self.check_same_tokens(what)?;
        self.check_causal(what)
    }

    /// Numbers of a row of an MLP's hidden layer that are in memory at most, for each step between
    /// its two maps.
    pub(crate) fn hidden_width(&self) -> usize {
        match self.mlp {
            MlpKind::None => 0,
            MlpKind::Plain => self.d_mlp,
            // Before LayerNorm, normalised, and after.
            MlpKind::Normed => 3 * self.d_mlp,
        }
    }

    /// The longest sum of a matrix product.
    pub(crate) fn widest(&self) -> usize {
        let hidden = if self.has(Element::Mlp) {
            self.d_mlp
        } else {
            0
        };
        self.d_model.max(self.d_heads()).max(hidden)
    }

    /// Whether LayerNorms have a weight and a bias.
    pub(crate) fn has_norm_weights(&self) -> bool {
        self.norm == Norm::Layer
    }
}
