//! The vocabulary of places: [`Site`]s within a block, [`HookPoint`]s of a model, and what axes
//! each has. One table drives printing, parsing, shape checks and the documentation.

use std::fmt;
use std::str::FromStr;

use strsim::levenshtein;

use crate::config::Config;
use crate::error::{Error, Result};

/// What the dimensions of an activation mean, and thereby its shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Axes {
    /// `[pos, d_model]`
    Model,
    /// `[pos, 1]`
    Scale,
    /// `[pos, head, d_head]`
    Head,
    /// `[pos, head, d_model]`
    HeadModel,
    /// `[head, dest, src]`
    Attention,
    /// `[pos, d_mlp]`
    Mlp,
    /// `[pos, d_vocab]`
    Vocab,
}

impl Axes {
    /// The axes' names in order, as error messages and labels print them.
    pub fn names(self) -> &'static [&'static str] {
        match self {
            Axes::Model => &["pos", "d_model"],
            Axes::Scale => &["pos", "1"],
            Axes::Head => &["pos", "head", "d_head"],
            Axes::HeadModel => &["pos", "head", "d_model"],
            Axes::Attention => &["head", "dest", "src"],
            Axes::Mlp => &["pos", "d_mlp"],
            Axes::Vocab => &["pos", "d_vocab"],
        }
    }

    /// The shape for a sequence of `n` tokens.
    pub fn shape(self, config: &Config, n: usize) -> Vec<usize> {
        match self {
            Axes::Model => vec![n, config.d_model],
            Axes::Scale => vec![n, 1],
            Axes::Head => vec![n, config.n_heads, config.d_head()],
            Axes::HeadModel => vec![n, config.n_heads, config.d_model],
            Axes::Attention => vec![config.n_heads, n, n],
            Axes::Mlp => vec![n, config.d_mlp],
            Axes::Vocab => vec![n, config.d_vocab],
        }
    }

    /// Checks that the axes of what is called `name` are those expected of a `what`.
    pub(crate) fn expect(self, expected: Axes, what: &str, name: &dyn fmt::Display) -> Result<()> {
        let list = |axes: Axes| format!("axes [{}]", axes.names().join(", "));
        if self == expected {
            return Ok(());
        }
        let found = format!("{name} with {}", list(self));
        Err(Error::invalid(what, found, list(expected)))
    }

    /// Whether there is a head axis.
    pub fn has_heads(self) -> bool {
        matches!(self, Axes::Head | Axes::HeadModel | Axes::Attention)
    }

    /// The index of the position axis (the destination axis of attention).
    pub fn pos_axis(self) -> usize {
        usize::from(self == Axes::Attention)
    }

    /// The index of the head axis, where there is one.
    pub(crate) fn head_axis(self) -> Option<usize> {
        self.has_heads().then_some(1 - self.pos_axis())
    }
}

/// Defines the enum of sites, their names and axes from one table.
macro_rules! sites {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $axes:ident;)*) => {
        /// A place within a block, in order of execution (so `<` means "runs earlier").
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Site { $($(#[$doc])* $variant,)* }

        impl Site {
            /// All sites of a block, in order of execution.
            pub const ALL: &'static [Site] = &[$(Site::$variant,)*];

            /// The name below `blocks.{i}.`, TransformerLens's.
            pub fn name(self) -> &'static str {
                match self { $(Site::$variant => $name,)* }
            }

            /// The meaning of the activation's dimensions.
            pub fn axes(self) -> Axes {
                match self { $(Site::$variant => Axes::$axes,)* }
            }
        }
    };
}

sites! {
    /// The residual stream that enters the block, `[pos, d_model]`.
    ResidPre = "hook_resid_pre", Model;
    /// The residual before `ln1`, one copy per head for q, k and v alike, `[pos, head, d_model]`.
    AttnIn = "hook_attn_in", HeadModel;
    /// The residual before `ln1`, one copy per head, read by q only, `[pos, head, d_model]`.
    QInput = "hook_q_input", HeadModel;
    /// The residual before `ln1`, one copy per head, read by k only, `[pos, head, d_model]`.
    KInput = "hook_k_input", HeadModel;
    /// The residual before `ln1`, one copy per head, read by v only, `[pos, head, d_model]`.
    VInput = "hook_v_input", HeadModel;
    /// The divisor of the first LayerNorm, `[pos, 1]`.
    Ln1Scale = "ln1.hook_scale", Scale;
    /// The first LayerNorm's output before its weight and bias, `[pos, d_model]`.
    Ln1Normalized = "ln1.hook_normalized", Model;
    /// Queries, `[pos, head, d_head]`.
    Q = "attn.hook_q", Head;
    /// Keys, `[pos, head, d_head]`.
    K = "attn.hook_k", Head;
    /// Values, `[pos, head, d_head]`.
    V = "attn.hook_v", Head;
    /// Scaled and masked attention scores, `[head, dest, src]`.
    AttnScores = "attn.hook_attn_scores", Attention;
    /// Attention probabilities, `[head, dest, src]`.
    Pattern = "attn.hook_pattern", Attention;
    /// Each head's weighted values, `[pos, head, d_head]`.
    Z = "attn.hook_z", Head;
    /// Each head's output, `z · W_O` without `b_O`, `[pos, head, d_model]`.
    Result = "attn.hook_result", HeadModel;
    /// The attention layer's output with `b_O`, `[pos, d_model]`.
    AttnOut = "hook_attn_out", Model;
    /// The residual stream between attention and MLP, `[pos, d_model]`.
    ResidMid = "hook_resid_mid", Model;
    /// The residual before `ln2`, as read by the MLP only, `[pos, d_model]`.
    MlpIn = "hook_mlp_in", Model;
    /// The divisor of the second LayerNorm, `[pos, 1]`.
    Ln2Scale = "ln2.hook_scale", Scale;
    /// The second LayerNorm's output before its weight and bias, `[pos, d_model]`.
    Ln2Normalized = "ln2.hook_normalized", Model;
    /// The MLP's hidden layer before the activation function, `[pos, d_mlp]`.
    MlpPre = "mlp.hook_pre", Mlp;
    /// The MLP's hidden layer after the activation function, `[pos, d_mlp]`.
    MlpPost = "mlp.hook_post", Mlp;
    /// The MLP's output, `[pos, d_model]`.
    MlpOut = "hook_mlp_out", Model;
    /// The residual stream that leaves the block, `[pos, d_model]`.
    ResidPost = "hook_resid_post", Model;
}

impl Site {
    /// This site in layer `layer`.
    pub fn at(self, layer: usize) -> HookPoint {
        HookPoint::Block(layer, self)
    }
}

/// A place in the model where activations can be read and changed; prints and parses as
/// TransformerLens's hook name.
///
/// ```
/// use patchlens::{HookPoint, Site};
/// let point: HookPoint = "blocks.9.attn.hook_z".parse()?;
/// assert_eq!(point, Site::Z.at(9));
/// assert_eq!(point.to_string(), "blocks.9.attn.hook_z");
/// let error = "blocks.9.attn.hook_zz".parse::<HookPoint>().unwrap_err();
/// assert!(error.to_string().contains("did you mean `blocks.9.attn.hook_z`?"));
/// # Ok::<(), patchlens::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HookPoint {
    /// Token embeddings, `[pos, d_model]`.
    Embed,
    /// Position embeddings, `[pos, d_model]`.
    PosEmbed,
    /// A site of one block.
    Block(usize, Site),
    /// The divisor of the final LayerNorm, `[pos, 1]`.
    LnFinalScale,
    /// The final LayerNorm's output before its weight and bias, `[pos, d_model]`.
    LnFinalNormalized,
    /// The logits, `[pos, d_vocab]`.
    Logits,
}

/// The hook points outside the blocks.
const GLOBALS: [HookPoint; 5] = [
    HookPoint::Embed,
    HookPoint::PosEmbed,
    HookPoint::LnFinalScale,
    HookPoint::LnFinalNormalized,
    HookPoint::Logits,
];

impl HookPoint {
    /// Every hook point of a model with `n_layers` layers, in order of execution.
    pub fn all(n_layers: usize) -> impl Iterator<Item = HookPoint> {
        let blocks =
            (0..n_layers).flat_map(|layer| Site::ALL.iter().map(move |site| site.at(layer)));
        [HookPoint::Embed, HookPoint::PosEmbed]
            .into_iter()
            .chain(blocks)
            .chain([
                HookPoint::LnFinalScale,
                HookPoint::LnFinalNormalized,
                HookPoint::Logits,
            ])
    }

    /// The residual stream along the model: `resid_pre` and `resid_mid` of every block, then the
    /// last block's `resid_post` (TransformerLens's `accumulated_resid(incl_mid=True)`).
    pub(crate) fn residual(n_layers: usize) -> Vec<HookPoint> {
        let both = |layer| [Site::ResidPre.at(layer), Site::ResidMid.at(layer)];
        let blocks = (0..n_layers).flat_map(both);
        blocks.chain([Site::ResidPost.at(n_layers - 1)]).collect()
    }

    /// TransformerLens's short name of a point of the residual stream, or of what is added to it:
    /// `0_pre`, `0_mid`, `0_attn_out`, ..., `final_post`.
    pub(crate) fn residual_name(self, n_layers: usize) -> String {
        match self {
            HookPoint::Block(layer, Site::ResidPost) if layer + 1 == n_layers => {
                "final_post".to_string()
            }
            HookPoint::Block(layer, Site::ResidPre) => format!("{layer}_pre"),
            HookPoint::Block(layer, Site::ResidMid) => format!("{layer}_mid"),
            HookPoint::Block(layer, Site::ResidPost) => format!("{layer}_post"),
            HookPoint::Block(layer, Site::AttnOut) => format!("{layer}_attn_out"),
            HookPoint::Block(layer, Site::MlpOut) => format!("{layer}_mlp_out"),
            other => other.to_string(),
        }
    }

    /// The meaning of the activation's dimensions.
    pub fn axes(self) -> Axes {
        match self {
            HookPoint::Embed | HookPoint::PosEmbed | HookPoint::LnFinalNormalized => Axes::Model,
            HookPoint::Block(_, site) => site.axes(),
            HookPoint::LnFinalScale => Axes::Scale,
            HookPoint::Logits => Axes::Vocab,
        }
    }

    /// The block's index, if the point lies in a block.
    pub fn layer(self) -> Option<usize> {
        match self {
            HookPoint::Block(layer, _) => Some(layer),
            _ => None,
        }
    }

    /// Checks that a model of this shape has the point.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] with the nearest layer where it does not.
    pub fn check(self, config: &Config) -> Result<()> {
        match self {
            HookPoint::Block(layer, site) if layer >= config.n_layers => Err(Error::OutOfRange {
                at: self.to_string(),
                axis: "layer",
                found: layer,
                expected: format!(
                    "0..{}, nearest `{}`",
                    config.n_layers,
                    site.at(config.n_layers.saturating_sub(1))
                ),
            }),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for HookPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            HookPoint::Block(layer, site) => return write!(f, "blocks.{layer}.{}", site.name()),
            HookPoint::Embed => "hook_embed",
            HookPoint::PosEmbed => "hook_pos_embed",
            HookPoint::LnFinalScale => "ln_final.hook_scale",
            HookPoint::LnFinalNormalized => "ln_final.hook_normalized",
            HookPoint::Logits => "unembed.hook_out",
        })
    }
}

impl FromStr for HookPoint {
    type Err = Error;

    /// # Errors
    /// [`Error::UnknownHook`] with the nearest valid name; also for TransformerLens's
    /// `unembed.hook_in`, at which there is no hook.
    fn from_str(name: &str) -> Result<Self> {
        let global = GLOBALS.into_iter().find(|point| point.to_string() == name);
        global
            .or_else(|| parse_block(name))
            .ok_or_else(|| unknown(name))
    }
}

fn unknown(name: &str) -> Error {
    // The one name of TransformerLens for GPT-2 without a counterpart.
    let (point, note) = if name == "unembed.hook_in" {
        let note = " That is the final LayerNorm's output before weight and bias, \
                    `parameters().ln_f`; what follows them is the input of the unembedding, at \
                    which there is no hook.";
        (HookPoint::LnFinalNormalized, note)
    } else {
        (nearest(name), "")
    };
    Error::UnknownHook {
        name: name.to_string(),
        suggestion: point.to_string(),
        note,
    }
}

fn parse_block(name: &str) -> Option<HookPoint> {
    let (layer, site) = name.strip_prefix("blocks.")?.split_once('.')?;
    let site = Site::ALL.iter().find(|s| s.name() == site)?;
    Some(site.at(parse_index(layer)?))
}

/// An index as it prints: `+3` and `03` parse as numbers, but would not print back as they were.
pub(crate) fn parse_index(text: &str) -> Option<usize> {
    let canonical =
        text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| canonical)
}

/// The valid name with the smallest edit distance, in the layer that the text seems to mean.
fn nearest(name: &str) -> HookPoint {
    let layer = name
        .split(|c: char| !c.is_ascii_digit())
        .find_map(|digits| digits.parse().ok())
        .unwrap_or(0);
    let blocks = Site::ALL.iter().map(|site| site.at(layer));
    GLOBALS
        .into_iter()
        .chain(blocks)
        .min_by_key(|point| {
            let full = point.to_string();
            // Users often give only the last part, as in `hook_z`.
            let last = full.rsplit('.').next().unwrap_or(&full).to_string();
            levenshtein(name, &full).min(1 + levenshtein(name, &last))
        })
        .expect("there are points to choose from")
}
