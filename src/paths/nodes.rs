//! Where paths start and end.

use std::fmt;

use crate::config::Config;
use crate::hook::{HookPoint, Site};
use crate::intervention::{Select, Target};
use crate::model::stage::{Frozen, leads_to};
use crate::report::Axis;

/// What is sent along the paths: one node's output, taken from the run on the new prompt.
///
/// ```
/// use patchlens::PathSender;
/// assert_eq!(PathSender::head(9, 6).at_positions(4).to_string(), "head 9.6 at pos 4");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PathSender {
    point: HookPoint,
    head: Option<usize>,
    positions: Select,
}

impl PathSender {
    fn new(point: HookPoint, head: Option<usize>) -> Self {
        PathSender {
            point,
            head,
            positions: Select::All,
        }
    }

    /// A head's output.
    pub fn head(layer: usize, head: usize) -> Self {
        Self::new(Site::Z.at(layer), Some(head))
    }

    /// An MLP's output.
    pub fn mlp(layer: usize) -> Self {
        Self::new(Site::MlpOut.at(layer), None)
    }

    /// The token embedding.
    pub fn embedding() -> Self {
        Self::new(HookPoint::Embed, None)
    }

    /// Only these positions; by default, all.
    pub fn at_positions(mut self, positions: impl Into<Select>) -> Self {
        self.positions = positions.into();
        self
    }

    pub(super) fn target(&self) -> Target {
        target(self.point, self.head, &self.positions)
    }

    /// Whether the graph has a path to a receiver, where halves of the blocks are frozen: to what
    /// it reads, and at a position that is sent, since no path leads through another head's
    /// attention.
    pub(super) fn leads_to(
        &self,
        receiver: &PathReceiver,
        config: &Config,
        lengths: &[usize],
        frozen: Frozen,
    ) -> bool {
        leads_to(self.point, receiver.reads(config), frozen)
            && meet(&self.positions, &receiver.positions, lengths)
    }
}

impl fmt::Display for PathSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.point, self.head) {
            (HookPoint::Block(layer, _), Some(head)) => write!(f, "head {layer}.{head}")?,
            (HookPoint::Block(layer, _), None) => write!(f, "MLP {layer}")?,
            _ => f.write_str("embedding")?,
        }
        at_positions(f, &self.positions)
    }
}

/// Where paths end: the input of one node.
///
/// ```
/// use patchlens::{PathReceiver, Select};
/// let receiver = PathReceiver::query(9, 6).at_positions(Select::Last);
/// assert_eq!(receiver.to_string(), "queries of 9.6 at pos last");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PathReceiver {
    input: Input,
    positions: Select,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Input {
    Head(Site, usize, usize),
    Mlp(usize),
    Final,
}

impl PathReceiver {
    fn new(input: Input) -> Self {
        PathReceiver {
            input,
            positions: Select::All,
        }
    }

    /// What a head's queries are made of (`hook_q_input`).
    pub fn query(layer: usize, head: usize) -> Self {
        Self::new(Input::Head(Site::QInput, layer, head))
    }

    /// What a head's keys are made of (`hook_k_input`).
    pub fn key(layer: usize, head: usize) -> Self {
        Self::new(Input::Head(Site::KInput, layer, head))
    }

    /// What a head's values are made of (`hook_v_input`).
    pub fn value(layer: usize, head: usize) -> Self {
        Self::new(Input::Head(Site::VInput, layer, head))
    }

    /// What an MLP reads (`hook_mlp_in`).
    pub fn mlp(layer: usize) -> Self {
        Self::new(Input::Mlp(layer))
    }

    /// The residual stream after the last block, which the logits are made of.
    pub fn final_residual() -> Self {
        Self::new(Input::Final)
    }

    /// Only these positions; by default, all.
    pub fn at_positions(mut self, positions: impl Into<Select>) -> Self {
        self.positions = positions.into();
        self
    }

    pub(super) fn target(&self, config: &Config) -> Target {
        let last = config.n_layers.saturating_sub(1);
        let (point, head) = match self.input {
            Input::Head(site, layer, head) => (site.at(layer), Some(head)),
            Input::Mlp(layer) => (Site::MlpIn.at(layer), None),
            Input::Final => (Site::ResidPost.at(last), None),
        };
        target(point, head, &self.positions)
    }

    /// Whether both receive one input at one position.
    pub(super) fn overlaps(&self, other: &PathReceiver, lengths: &[usize]) -> bool {
        self.input == other.input && meet(&self.positions, &other.positions, lengths)
    }

    /// The residual stream which it reads.
    pub(super) fn reads(&self, config: &Config) -> HookPoint {
        match self.input {
            Input::Head(_, 0, _) => Site::ResidPre.at(0),
            Input::Head(_, layer, _) => Site::ResidPost.at(layer - 1),
            Input::Mlp(layer) => Site::ResidMid.at(layer),
            Input::Final => Site::ResidPost.at(config.n_layers.saturating_sub(1)),
        }
    }
}

impl fmt::Display for PathReceiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.input {
            Input::Head(site, layer, head) => {
                let part = match site {
                    Site::QInput => "queries",
                    Site::KInput => "keys",
                    _ => "values",
                };
                write!(f, "{part} of {layer}.{head}")?;
            }
            Input::Mlp(layer) => write!(f, "MLP {layer}")?,
            Input::Final => f.write_str("final residual")?,
        }
        at_positions(f, &self.positions)
    }
}

/// Whether two selections share a position in a prompt.
fn meet(a: &Select, b: &Select, lengths: &[usize]) -> bool {
    let both = |n: &usize| (0..*n).any(|p| a.contains(p, *n) && b.contains(p, *n));
    lengths.iter().any(both)
}

fn target(point: HookPoint, head: Option<usize>, positions: &Select) -> Target {
    let target = Target::new(point).at_positions(positions.clone());
    match head {
        Some(head) => target.at_heads(head),
        None => target,
    }
}

fn at_positions(f: &mut fmt::Formatter<'_>, positions: &Select) -> fmt::Result {
    match positions {
        Select::All => Ok(()),
        positions => write!(f, " at pos {positions}"),
    }
}

/// A sweep over senders: the axes of the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Senders {
    /// `[layer, head]`: each head's output at all positions.
    Heads,
    /// `[layer, pos, head]`: each head's output at one position.
    HeadPositions,
    /// `[layer, component]`: each head's and each MLP's output at all positions.
    Components,
    /// `[layer, pos, component]`: each head's and each MLP's output at one position.
    ComponentPositions,
    /// `[pos]`: the token embedding of one position.
    EmbeddingPositions,
}

impl Senders {
    pub(super) fn by_position(self) -> bool {
        !matches!(self, Senders::Heads | Senders::Components)
    }

    /// The axes; `tokens` label positions.
    pub(super) fn axes(self, config: &Config, tokens: &[String]) -> Vec<Axis> {
        let layers = Axis::layers(config.n_layers);
        let positions = Axis::tokens("position", tokens);
        let heads = Axis::heads(config.n_heads);
        let mut components = Axis::new("component", heads.labels.clone());
        components.labels.push("MLP".to_string());
        match self {
            Senders::Heads => vec![layers, heads],
            Senders::HeadPositions => vec![layers, positions, heads],
            Senders::Components => vec![layers, components],
            Senders::ComponentPositions => vec![layers, positions, components],
            Senders::EmbeddingPositions => vec![positions],
        }
    }

    /// The sender at an index of the result.
    pub(super) fn at(self, index: &[usize], config: &Config) -> PathSender {
        let component = |layer: usize, i: usize| match i < config.n_heads {
            true => PathSender::head(layer, i),
            false => PathSender::mlp(layer),
        };
        match self {
            Senders::Heads | Senders::Components => component(index[0], index[1]),
            Senders::HeadPositions | Senders::ComponentPositions => {
                component(index[0], index[2]).at_positions(index[1])
            }
            Senders::EmbeddingPositions => PathSender::embedding().at_positions(index[0]),
        }
    }

    pub(super) fn describe(self) -> &'static str {
        match self {
            Senders::Heads => "One head's output",
            Senders::HeadPositions => "One head's output at one position",
            Senders::Components => "One head's or MLP's output",
            Senders::ComponentPositions => "One head's or MLP's output at one position",
            Senders::EmbeddingPositions => "The token embedding of one position",
        }
    }
}
