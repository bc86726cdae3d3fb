//! What can be knocked out.

use std::fmt;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::hook::{HookPoint, Site};

/// A part of the model that can be knocked out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AblationNode {
    /// An attention head: its `z`, so that `b_O` stays.
    Head(usize, usize),
    /// The MLP of a layer: its `mlp_out`.
    Mlp(usize),
}

impl AblationNode {
    /// All heads of a model, and its MLPs where asked for.
    pub(super) fn all(config: &Config, mlps: bool) -> Vec<Self> {
        let mlp = |layer| mlps.then_some(AblationNode::Mlp(layer));
        (0..config.n_layers)
            .flat_map(|layer| {
                let heads = (0..config.n_heads).map(move |head| AblationNode::Head(layer, head));
                heads.chain(mlp(layer))
            })
            .collect()
    }

    pub(super) fn point(self) -> HookPoint {
        match self {
            AblationNode::Head(layer, _) => Site::Z.at(layer),
            AblationNode::Mlp(layer) => Site::MlpOut.at(layer),
        }
    }

    pub(super) fn check(self, config: &Config) -> Result<()> {
        let out_of_range = |axis, found, n| {
            Err(Error::OutOfRange {
                at: format!("node {self}"),
                axis,
                found,
                expected: format!("0..{n}"),
            })
        };
        match self {
            AblationNode::Head(layer, _) | AblationNode::Mlp(layer) if layer >= config.n_layers => {
                out_of_range("layer", layer, config.n_layers)
            }
            AblationNode::Head(_, head) if head >= config.n_heads => {
                out_of_range("head", head, config.n_heads)
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for AblationNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AblationNode::Head(layer, head) => write!(f, "{layer}.{head}"),
            AblationNode::Mlp(layer) => write!(f, "mlp{layer}"),
        }
    }
}
