//! Where paths start and end.

use std::fmt;

use crate::component::{Component, Head, Qkv};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::hook::{HookPoint, Site};
use crate::intervention::{Select, Target};
use crate::model::stage::{Kind, leads_to};
use crate::report::{Axis, AxisKind};

/// What is sent along the paths: the output of a head, an attention layer, an MLP or an embedding.
///
/// ```
/// use patchlens::Head;
/// use patchlens::paths::PathSender;
/// let sender = PathSender::new(Head::new(9, 6)).at_positions(4);
/// assert_eq!(sender.to_string(), "9.6 at pos 4");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PathSender {
    component: Component,
    positions: Select,
}

impl PathSender {
    /// A component's output.
    pub fn new(component: impl Into<Component>) -> Self {
        PathSender {
            component: component.into(),
            positions: Select::All,
        }
    }

    /// Only these positions; by default, all.
    #[must_use]
    pub fn at_positions(mut self, positions: impl Into<Select>) -> Self {
        self.positions = positions.into();
        self
    }

    /// Where its output is.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a component whose output is no whole activation.
    pub(super) fn target(&self) -> Result<Target> {
        let part = matches!(self.component, Component::Neuron(..));
        let point = self.component.point().filter(|_| !part);
        let point = point.ok_or_else(|| {
            let expected = "a head, an attention layer, an MLP, all its neurons or an embedding";
            Error::invalid("sender", format!("`{self}`"), expected)
        })?;
        let head = self.component.head().map(|head| head.head);
        Ok(target(point, head, &self.positions))
    }
}

impl<C: Into<Component>> From<C> for PathSender {
    fn from(component: C) -> Self {
        PathSender::new(component)
    }
}

impl fmt::Display for PathSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.component.fmt(f)?;
        at_positions(f, &self.positions)
    }
}

/// Where paths end: the input of one node.
///
/// ```
/// use patchlens::{Head, Qkv, Select};
/// use patchlens::paths::PathReceiver;
/// let receiver = PathReceiver::head(Head::new(9, 6), Qkv::Q).at_positions(Select::Last);
/// assert_eq!(receiver.to_string(), "queries of 9.6 at pos last");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PathReceiver {
    node: Node,
    positions: Select,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Node {
    Head(Head, Qkv),
    Mlp(usize),
    Final,
}

impl PathReceiver {
    fn new(node: Node) -> Self {
        PathReceiver {
            node,
            positions: Select::All,
        }
    }

    /// What a head's queries, keys or values are made of (`hook_q_input` and so on).
    pub fn head(head: Head, input: Qkv) -> Self {
        Self::new(Node::Head(head, input))
    }

    /// What an MLP reads (`hook_mlp_in`).
    pub fn mlp(layer: usize) -> Self {
        Self::new(Node::Mlp(layer))
    }

    /// The residual stream after the last block, which the logits are made of.
    pub fn final_residual() -> Self {
        Self::new(Node::Final)
    }

    /// Only these positions; by default, all.
    #[must_use]
    pub fn at_positions(mut self, positions: impl Into<Select>) -> Self {
        self.positions = positions.into();
        self
    }

    pub(super) fn target(&self, config: &Config) -> Target {
        let (point, head) = match self.node {
            Node::Head(head, input) => (input.input_site().at(head.layer), Some(head.head)),
            Node::Mlp(layer) => (Site::MlpIn.at(layer), None),
            Node::Final => (self.reads(config), None),
        };
        target(point, head, &self.positions)
    }

    /// The residual stream which it reads.
    pub(super) fn reads(&self, config: &Config) -> HookPoint {
        match self.node {
            Node::Head(Head { layer: 0, .. }, _) => Site::ResidPre.at(0),
            Node::Head(head, _) => Site::ResidPost.at(head.layer - 1),
            Node::Mlp(layer) => Site::ResidMid.at(layer),
            Node::Final => Site::ResidPost.at(config.n_layers.saturating_sub(1)),
        }
    }

    /// Whether both receive one input at one position.
    pub(super) fn overlaps(&self, other: &PathReceiver, lengths: &[usize]) -> bool {
        self.node == other.node && meet(&self.positions, &other.positions, lengths)
    }
}

impl fmt::Display for PathReceiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.node {
            Node::Head(head, input) => write!(f, "{} of {head}", input.describe())?,
            Node::Mlp(layer) => Component::Mlp(layer).fmt(f)?,
            Node::Final => f.write_str("final residual")?,
        }
        at_positions(f, &self.positions)
    }
}

/// Whether the graph has a path from one target to another: the receiver reads after the sender
/// wrote, and at a position that is sent, since no path leads through another head's attention.
pub(super) fn leads(kind: Kind, sender: &Target, receiver: &Target, lengths: &[usize]) -> bool {
    leads_to(kind, sender.point, receiver.point)
        && meet(&sender.positions, &receiver.positions, lengths)
}

/// Whether two selections share a position in a prompt.
fn meet(a: &Select, b: &Select, lengths: &[usize]) -> bool {
    let both = |(i, n): (usize, &usize)| {
        let mut positions = a.resolve(i, *n).into_iter();
        positions.any(|p| b.contains(i, p, *n))
    };
    lengths.iter().enumerate().any(both)
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
        let mut components = heads.clone().named("component");
        components.labels.push("MLP".to_string());
        if let AxisKind::InLayer(names) = &mut components.kind {
            names.push("mlp{}".to_string());
        }
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
        let component = |layer: usize, i: usize| {
            PathSender::new(if i < config.n_heads {
                Component::Head(Head::new(layer, i))
            } else {
                Component::Mlp(layer)
            })
        };
        match self {
            Senders::Heads | Senders::Components => component(index[0], index[1]),
            Senders::HeadPositions | Senders::ComponentPositions => {
                component(index[0], index[2]).at_positions(index[1])
            }
            Senders::EmbeddingPositions => {
                PathSender::new(Component::Embedding).at_positions(index[0])
            }
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
