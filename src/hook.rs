//! The vocabulary of places: [`Site`]s within a block, [`HookPoint`]s of a model, and what axes
//! each has. One table drives printing, parsing, shape checks and the documentation.

mod parse;

use std::fmt;

pub(crate) use parse::parse_index;

use crate::config::{Config, Element};
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
            Axes::Vocab => vec![n, config.d_logits()],
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
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $axes:ident $(, $element:ident)*;)*) => {
        /// A place within a block, in order of execution (so `<` means "runs earlier").
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Site { $($(#[$doc])* $variant,)* }

        impl Site {
            /// All sites of a block, in order of execution; no model has all of them, see
            /// [`HookPoint::of`].
            pub const ALL: &'static [Site] = &[$(Site::$variant,)*];

            /// The name below `blocks.{i}.`, TransformerLens's.
            pub fn name(self) -> &'static str {
                match self { $(Site::$variant => $name,)* }
            }

            /// The meaning of the activation's dimensions.
            pub fn axes(self) -> Axes {
                match self { $(Site::$variant => Axes::$axes,)* }
            }

            /// What a model must have to have it.
            fn needs(self) -> &'static [Element] {
                match self { $(Site::$variant => &[$(Element::$element),*],)* }
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
    Ln1Scale = "ln1.hook_scale", Scale, Norm;
    /// The first LayerNorm's output before its weight and bias, `[pos, d_model]`.
    Ln1Normalized = "ln1.hook_normalized", Model, Norm;
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
    ResidMid = "hook_resid_mid", Model, Mlp;
    /// The residual before `ln2`, as read by the MLP only, `[pos, d_model]`.
    MlpIn = "hook_mlp_in", Model, Mlp;
    /// The divisor of the second LayerNorm, `[pos, 1]`.
    Ln2Scale = "ln2.hook_scale", Scale, Mlp, Norm;
    /// The second LayerNorm's output before its weight and bias, `[pos, d_model]`.
    Ln2Normalized = "ln2.hook_normalized", Model, Mlp, Norm;
    /// The MLP's hidden layer before the activation function, `[pos, d_mlp]`.
    MlpPre = "mlp.hook_pre", Mlp, Mlp;
    /// The same after the activation function, where a LayerNorm follows in the MLP (SoLU),
    /// `[pos, d_mlp]`.
    MlpMid = "mlp.hook_mid", Mlp, InnerNorm;
    /// The divisor of that LayerNorm, `[pos, 1]`.
    MlpNormScale = "mlp.ln.hook_scale", Scale, InnerNorm;
    /// Its output before its weight and bias, `[pos, d_mlp]`.
    MlpNormNormalized = "mlp.ln.hook_normalized", Mlp, InnerNorm;
    /// The MLP's hidden layer after the activation function (and the LayerNorm that may follow),
    /// `[pos, d_mlp]`.
    MlpPost = "mlp.hook_post", Mlp, Mlp;
    /// The MLP's output, `[pos, d_model]`.
    MlpOut = "hook_mlp_out", Model, Mlp;
    /// The residual stream that leaves the block, `[pos, d_model]`.
    ResidPost = "hook_resid_post", Model;
}

impl Site {
    /// The sites of a GPT-2's block, in order of execution.
    fn gpt2() -> impl Iterator<Item = Site> {
        let inner = |site: &Site| site.needs().contains(&Element::InnerNorm);
        Site::ALL.iter().copied().filter(move |site| !inner(site))
    }

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
    /// Every hook point that a model has, in order of execution.
    pub fn of(config: &Config) -> impl Iterator<Item = HookPoint> + '_ {
        let blocks =
            (0..config.n_layers).flat_map(|layer| Site::ALL.iter().map(move |site| site.at(layer)));
        let [embed, pos_embed, last @ ..] = GLOBALS;
        let all = [embed, pos_embed].into_iter().chain(blocks).chain(last);
        all.filter(|point| point.lacking(config).is_none())
    }

    /// Every hook point of a GPT-2 with `n_layers` layers, in order of execution; see
    /// [`HookPoint::of`] for models that lack some.
    pub fn all(n_layers: usize) -> impl Iterator<Item = HookPoint> {
        let blocks = (0..n_layers).flat_map(|layer| Site::gpt2().map(move |site| site.at(layer)));
        [HookPoint::Embed, HookPoint::PosEmbed]
            .into_iter()
            .chain(blocks)
            .chain([
                HookPoint::LnFinalScale,
                HookPoint::LnFinalNormalized,
                HookPoint::Logits,
            ])
    }

    /// The residual stream along the model: `resid_pre` and `resid_mid` (where there is one) of
    /// every block, then the last block's `resid_post` (TransformerLens's
    /// `accumulated_resid(incl_mid=True)`).
    pub(crate) fn residual(config: &Config) -> Vec<HookPoint> {
        let both = |layer| [Site::ResidPre.at(layer), Site::ResidMid.at(layer)];
        let blocks = (0..config.n_layers).flat_map(both);
        let points = blocks.chain([Site::ResidPost.at(config.n_layers - 1)]);
        points
            .filter(|point| point.lacking(config).is_none())
            .collect()
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

    /// What a model would have to have to have the point, in its layers.
    pub(crate) fn lacking(self, config: &Config) -> Option<Element> {
        let needs = match self {
            HookPoint::Embed | HookPoint::Logits => &[],
            HookPoint::PosEmbed => &[Element::Positions][..],
            HookPoint::Block(_, site) => site.needs(),
            HookPoint::LnFinalScale | HookPoint::LnFinalNormalized => &[Element::Norm],
        };
        needs.iter().copied().find(|element| !config.has(*element))
    }

    /// Checks that a model of this shape has the point.
    ///
    /// # Errors
    /// [`Error::Lacks`] where models of its kind have none, [`Error::OutOfRange`] with the nearest
    /// layer where it has fewer.
    pub fn check(self, config: &Config) -> Result<()> {
        if let Some(element) = self.lacking(config) {
            return Err(Error::Lacks {
                at: self.to_string(),
                reason: element.absence().to_string(),
            });
        }
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
