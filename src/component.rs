//! The parts of a model by name: heads, their three inputs, and everything that writes into the
//! residual stream. Each prints as one text and parses from it, and JSON has that text.

use std::fmt;
use std::str::FromStr;

use crate::config::{Config, Element};
use crate::error::{Error, Result};
use crate::hook::{HookPoint, Site, parse_index};

/// One attention head: `9.6` is head 6 of layer 9.
///
/// ```
/// use patchlens::Head;
/// let head: Head = "9.6".parse()?;
/// assert_eq!(head, Head::new(9, 6));
/// assert_eq!(head.to_string(), "9.6");
/// let error = "L9H6".parse::<Head>().unwrap_err();
/// assert_eq!(error.to_string(), "head: found `L9H6`; expected layer and head, as in `9.6`");
/// # Ok::<(), patchlens::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Head {
    /// The layer.
    pub layer: usize,
    /// The head within the layer.
    pub head: usize,
}

impl Head {
    /// Head `head` of layer `layer`.
    pub fn new(layer: usize, head: usize) -> Self {
        Head { layer, head }
    }

    /// All heads of a model, layer by layer.
    pub fn all(config: &Config) -> impl Iterator<Item = Head> + use<> {
        let heads = config.n_heads;
        (0..config.n_layers)
            .flat_map(move |layer| (0..heads).map(move |head| Head::new(layer, head)))
    }

    /// # Errors
    /// [`Error::OutOfRange`] for a head that a model of this shape lacks.
    pub(crate) fn check(self, config: &Config) -> Result<()> {
        Component::Head(self).check(config)
    }
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}.{}", self.layer, self.head))
    }
}

impl FromStr for Head {
    type Err = Error;

    /// # Errors
    /// [`Error::Invalid`] for anything but layer and head with a point between them.
    fn from_str(text: &str) -> Result<Self> {
        pair(text)
            .map(|(layer, head)| Head { layer, head })
            .ok_or_else(|| invalid("head", text, "layer and head, as in `9.6`"))
    }
}

/// One of the three things that a head reads the residual stream for: queries `q`, keys `k` or
/// values `v`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Qkv {
    /// Queries.
    Q,
    /// Keys.
    K,
    /// Values.
    V,
}

impl Qkv {
    /// All three, in the order in which a checkpoint stores their weights.
    pub const ALL: [Qkv; 3] = [Qkv::Q, Qkv::K, Qkv::V];

    /// What is made of the residual stream: `attn.hook_q` and so on, `[pos, head, d_head]`.
    pub fn site(self) -> Site {
        [Site::Q, Site::K, Site::V][self as usize]
    }

    /// The residual stream as it is read: `hook_q_input` and so on, `[pos, head, d_model]`.
    pub fn input_site(self) -> Site {
        [Site::QInput, Site::KInput, Site::VInput][self as usize]
    }

    /// In words: `queries`, `keys`, `values`.
    pub fn describe(self) -> &'static str {
        ["queries", "keys", "values"][self as usize]
    }
}

impl fmt::Display for Qkv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(["q", "k", "v"][*self as usize])
    }
}

impl FromStr for Qkv {
    type Err = Error;

    /// # Errors
    /// [`Error::Invalid`] for anything but `q`, `k` and `v`.
    fn from_str(text: &str) -> Result<Self> {
        let named = Qkv::ALL.into_iter().find(|one| one.to_string() == text);
        named.ok_or_else(|| invalid("input of a head", text, "`q`, `k` or `v`"))
    }
}

/// A part of the model that writes into the residual stream, or a bias that adds to the logits.
///
/// ```
/// use patchlens::{Component, Head};
/// assert_eq!("mlp3".parse::<Component>()?, Component::Mlp(3));
/// assert_eq!(Component::from(Head::new(9, 6)).to_string(), "9.6");
/// # Ok::<(), patchlens::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Component {
    /// `embed`: the token embedding.
    Embedding,
    /// `pos_embed`: the position embedding.
    PositionEmbedding,
    /// `9.6`: a head's output, without `b_O`.
    Head(Head),
    /// `attn9`: the attention layer, all its heads and `b_O`.
    Attention(usize),
    /// `b_O9`: the attention layer's output bias.
    AttentionBias(usize),
    /// `mlp9`: the MLP, all its neurons and `b_out`.
    Mlp(usize),
    /// `neurons9`: all neurons of a layer, without `b_out`.
    Neurons(usize),
    /// `mlp9.17`: neuron 17 of layer 9.
    Neuron(usize, usize),
    /// `b_out9`: the MLP's output bias.
    MlpBias(usize),
    /// `ln_final.bias`: the bias of the final LayerNorm.
    FinalNormBias,
    /// `b_U`: the bias of the unembedding.
    UnembeddingBias,
}

/// The components of which a model has one.
const SINGLE: [(&str, Component); 4] = [
    ("embed", Component::Embedding),
    ("pos_embed", Component::PositionEmbedding),
    ("ln_final.bias", Component::FinalNormBias),
    ("b_U", Component::UnembeddingBias),
];

/// What stands before a layer's number, and the component of that layer.
type OfLayer = (&'static str, fn(usize) -> Component);

/// The components of which a layer has one.
const OF_LAYER: [OfLayer; 5] = [
    ("attn", Component::Attention),
    ("b_O", Component::AttentionBias),
    ("mlp", Component::Mlp),
    ("neurons", Component::Neurons),
    ("b_out", Component::MlpBias),
];

impl Component {
    /// Where its output can be read and changed, as a whole or, for a head, as the head's part of
    /// [`Site::Z`]; for neurons, [`Site::MlpPost`]. `None` for biases.
    pub fn point(self) -> Option<HookPoint> {
        Some(match self {
            Component::Embedding => HookPoint::Embed,
            Component::PositionEmbedding => HookPoint::PosEmbed,
            Component::Head(head) => Site::Z.at(head.layer),
            Component::Attention(layer) => Site::AttnOut.at(layer),
            Component::Mlp(layer) => Site::MlpOut.at(layer),
            Component::Neurons(layer) | Component::Neuron(layer, _) => Site::MlpPost.at(layer),
            Component::AttentionBias(_)
            | Component::MlpBias(_)
            | Component::FinalNormBias
            | Component::UnembeddingBias => return None,
        })
    }

    /// The layer that it belongs to, if any.
    pub fn layer(self) -> Option<usize> {
        match self {
            Component::Head(head) => Some(head.layer),
            Component::Attention(layer)
            | Component::AttentionBias(layer)
            | Component::Mlp(layer)
            | Component::Neurons(layer)
            | Component::Neuron(layer, _)
            | Component::MlpBias(layer) => Some(layer),
            _ => None,
        }
    }

    /// The head, if it is one.
    pub fn head(self) -> Option<Head> {
        match self {
            Component::Head(head) => Some(head),
            _ => None,
        }
    }

    /// Whether it adds the same whatever the model reads.
    pub fn is_bias(self) -> bool {
        self.point().is_none()
    }

    /// # Errors
    /// [`Error::OutOfRange`] for a component that a model of this shape lacks.
    pub(crate) fn check(self, config: &Config) -> Result<()> {
        let layer = self.layer().map(|found| ("layer", found, config.n_layers));
        let within = match self {
            Component::Head(head) => Some(("head", head.head, config.n_heads)),
            Component::Neuron(_, neuron) => Some(("neuron", neuron, config.d_mlp)),
            _ => None,
        };
        let of_mlp = matches!(
            self,
            Component::Mlp(_)
                | Component::Neurons(_)
                | Component::Neuron(..)
                | Component::MlpBias(_)
        );
        if of_mlp && !config.has(Element::Mlp) {
            return Err(Error::Lacks {
                at: self.to_string(),
                reason: Element::Mlp.absence().to_string(),
            });
        }
        let mut axes = layer.into_iter().chain(within);
        let Some((axis, found, end)) = axes.find(|(_, found, end)| found >= end) else {
            return Ok(());
        };
        let at = match self {
            Component::Head(head) => format!("head {head}"),
            other => other.to_string(),
        };
        Err(Error::OutOfRange {
            at,
            axis,
            found,
            expected: format!("0..{end}"),
        })
    }
}

impl From<Head> for Component {
    fn from(head: Head) -> Self {
        Component::Head(head)
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((name, _)) = SINGLE.iter().find(|(_, one)| one == self) {
            return f.pad(name);
        }
        match *self {
            Component::Head(head) => head.fmt(f),
            Component::Neuron(layer, neuron) => {
                f.pad(&format!("{}.{neuron}", Component::Mlp(layer)))
            }
            _ => {
                let layer = self.layer().expect("all others belong to a layer");
                let (name, _) = OF_LAYER
                    .iter()
                    .find(|(_, of)| of(layer) == *self)
                    .expect("all others are one per layer");
                f.pad(&format!("{name}{layer}"))
            }
        }
    }
}

impl FromStr for Component {
    type Err = Error;

    /// # Errors
    /// [`Error::Invalid`] for a name that no component has.
    fn from_str(text: &str) -> Result<Self> {
        let single = SINGLE.iter().find(|(name, _)| *name == text);
        let head = || pair(text).map(|(layer, head)| Component::Head(Head { layer, head }));
        let neuron = || {
            let (layer, neuron) = pair(text.strip_prefix("mlp")?)?;
            Some(Component::Neuron(layer, neuron))
        };
        let of_layer = || {
            OF_LAYER
                .iter()
                .find_map(|(name, of)| Some(of(parse_index(text.strip_prefix(name)?)?)))
        };
        let component = single.map(|(_, one)| *one);
        let component = component.or_else(head).or_else(neuron).or_else(of_layer);
        component.ok_or_else(|| {
            let expected = "a head as in `9.6`, or `embed`, `pos_embed`, `attn9`, `b_O9`, `mlp9`, \
                            `neurons9`, `mlp9.17`, `b_out9`, `ln_final.bias`, `b_U`";
            invalid("component", text, expected)
        })
    }
}

/// Two indices with a point between them.
fn pair(text: &str) -> Option<(usize, usize)> {
    let (first, second) = text.split_once('.')?;
    Some((parse_index(first)?, parse_index(second)?))
}

fn invalid(what: &str, text: &str, expected: &str) -> Error {
    Error::invalid(what, format!("`{text}`"), expected)
}

/// Makes JSON of a type as the text that it prints and parses as.
macro_rules! serde_as_text {
    ($($name:ident)*) => {$(
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <String as serde::Deserialize>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

pub(crate) use serde_as_text;

serde_as_text!(Head Qkv Component);

#[cfg(test)]
mod tests;
