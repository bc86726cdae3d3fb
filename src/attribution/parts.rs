//! What the residual stream is taken apart into.

use std::fmt;

use ndarray::{Array1, ArrayView1};

use super::DirectLogitAttribution;
use crate::component::{Component, Head};
use crate::config::{Config, Element, Positions};
use crate::error::Result;
use crate::hook::{HookPoint, Site};
use crate::ops::part;

/// Which parts the residual stream is taken apart into. `Components`, `Heads` and `Full` have
/// TransformerLens's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Decomposition {
    /// `embed`, `pos_embed`, `L0`, `L1`, ...: attention and MLP of a layer together.
    Layers,
    /// `embed`, `pos_embed`, `attn0`, `mlp0`, `attn1`, ... (`decompose_resid`).
    Components,
    /// `0.0`, `0.1`, ..., and `remainder`: all the rest (`stack_head_results`).
    Heads,
    /// Heads, `mlp0`, `mlp1`, ..., `embed`, `pos_embed`, and `b_O`, the sum of all layers'
    /// (`get_full_resid_decomposition`).
    Full,
    /// Everything that writes into the stream, each bias by itself, in order of execution:
    /// `embed`, `pos_embed`, and for each layer `0.0`, `0.1`, ..., `b_O0`, `neurons0` (the MLP's
    /// output without its bias) and `b_out0`.
    Writers,
}

/// A row of a decomposition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// One component.
    One(Component),
    /// Attention and MLP of a layer together: `L3`.
    Layer(usize),
    /// The attention biases of all layers: `b_O`.
    AttentionBiases,
    /// What the heads leave of the residual stream: `remainder`.
    Remainder,
}

impl Part {
    /// The head, if it is one.
    pub fn head(self) -> Option<Head> {
        match self {
            Part::One(component) => component.head(),
            _ => None,
        }
    }

    /// Whether it adds the same whatever the model reads.
    pub fn is_bias(self) -> bool {
        match self {
            Part::One(component) => component.is_bias(),
            Part::AttentionBiases => true,
            Part::Layer(_) | Part::Remainder => false,
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Part::One(component) => component.fmt(f),
            Part::Layer(layer) => write!(f, "L{layer}"),
            Part::AttentionBiases => f.write_str("b_O"),
            Part::Remainder => f.write_str("remainder"),
        }
    }
}

impl Decomposition {
    /// The parts in the order of the rows: those of the residual stream, then `ln_final.bias` and
    /// `b_U`, which are added whatever it is. Those that a model lacks have no row, nor have position
    /// embeddings that are no part of the stream.
    pub fn parts(self, config: &Config) -> Vec<Part> {
        use Component as C;
        let heads = |layer| (0..config.n_heads).map(move |head| Head::new(layer, head).into());
        let layers = 0..config.n_layers;
        let embeddings = [C::Embedding, C::PositionEmbedding].map(Part::One);
        let mut parts = Vec::new();
        match self {
            Decomposition::Layers => {
                parts.extend(embeddings);
                parts.extend(layers.map(Part::Layer));
            }
            Decomposition::Components => {
                parts.extend(embeddings);
                let both = |layer| [C::Attention(layer), C::Mlp(layer)].map(Part::One);
                parts.extend(layers.flat_map(both));
            }
            Decomposition::Heads => {
                parts.extend(layers.flat_map(heads).map(Part::One));
                parts.push(Part::Remainder);
            }
            Decomposition::Full => {
                parts.extend(layers.clone().flat_map(heads).map(Part::One));
                parts.extend(layers.map(C::Mlp).map(Part::One));
                parts.extend(embeddings);
                parts.push(Part::AttentionBiases);
            }
            Decomposition::Writers => {
                parts.extend(embeddings);
                for layer in layers {
                    let rest = [C::AttentionBias, C::Neurons, C::MlpBias].map(|of| of(layer));
                    parts.extend(heads(layer).chain(rest).map(Part::One));
                }
            }
        }
        parts.extend([C::FinalNormBias, C::UnembeddingBias].map(Part::One));
        let there = |part: &Part| match *part {
            Part::One(C::PositionEmbedding) => config.positions == Positions::Learned,
            Part::One(C::FinalNormBias) => config.has_norm_weights(),
            Part::One(C::Mlp(_) | C::Neurons(_) | C::MlpBias(_)) => config.has(Element::Mlp),
            _ => true,
        };
        parts.retain(there);
        parts
    }

    /// As titles and captions have it.
    pub(super) fn describe(self) -> &'static str {
        match self {
            Decomposition::Layers => "The residual stream by layer",
            Decomposition::Components => "The residual stream by attention and MLP",
            Decomposition::Heads => "The residual stream by head",
            Decomposition::Full => "The residual stream by head and MLP",
            Decomposition::Writers => "The residual stream by head, neurons and bias",
        }
    }
}

impl DirectLogitAttribution<'_> {
    /// The contributions of some parts at each position, in their order.
    pub(super) fn contributions(&self, parts: &[Part]) -> Result<Vec<Array1<f64>>> {
        let layers = 0..self.model.config().n_layers;
        let mut rows = Vec::with_capacity(parts.len());
        for part in parts {
            rows.push(match *part {
                Part::One(component) => self.component(component)?,
                Part::Layer(layer) => {
                    let attention = self.at(Site::AttnOut.at(layer))?;
                    if self.model.config().has(Element::Mlp) {
                        attention + self.at(Site::MlpOut.at(layer))?
                    } else {
                        attention
                    }
                }
                Part::AttentionBiases => {
                    let none = Array1::zeros(self.scale.len());
                    let biases = layers.clone().map(|layer| self.bias(self.b_o(layer)));
                    biases.fold(none, |sum, bias| sum + bias)
                }
                Part::Remainder => {
                    let all = self.at(Site::ResidPost.at(layers.end - 1))?;
                    rows.iter().fold(all, |rest, row| rest - row)
                }
            });
        }
        Ok(rows)
    }

    /// The contribution of one component at each position.
    pub(super) fn component(&self, component: Component) -> Result<Array1<f64>> {
        let constant = |value: f64| Array1::from_elem(self.scale.len(), value);
        match component {
            Component::Embedding => self.at(HookPoint::Embed),
            Component::PositionEmbedding => self.at(HookPoint::PosEmbed),
            Component::Head(head) => {
                let d_head = self.model.config().d_head();
                let z = self.cache.flat(Site::Z.at(head.layer))?;
                let z = part(z, 1, head.head * d_head..(head.head + 1) * d_head);
                Ok(z.mapv(f64::from).dot(&self.read_by(head)) / &self.scale)
            }
            Component::Attention(layer) => self.at(Site::AttnOut.at(layer)),
            Component::AttentionBias(layer) => Ok(self.bias(self.b_o(layer))),
            Component::Mlp(layer) => self.at(Site::MlpOut.at(layer)),
            Component::Neurons(layer) => {
                Ok(self.at(Site::MlpOut.at(layer))? - self.bias(self.b_out(layer)))
            }
            Component::Neuron(layer, neuron) => {
                let post = self.cache.flat(Site::MlpPost.at(layer))?;
                let out = &self.model.parameters().h[layer].mlp.c_proj;
                let read = self.neuron_read(out.weight.row(neuron));
                Ok(post.column(neuron).mapv(f64::from) * read / &self.scale)
            }
            Component::MlpBias(layer) => Ok(self.bias(self.b_out(layer))),
            Component::FinalNormBias => Ok(constant(self.constants[0])),
            Component::UnembeddingBias => Ok(constant(self.constants[1])),
        }
    }

    /// `W_O` of a head through the reader, `[d_head]`: what a `z` counts.
    pub(super) fn read_by(&self, head: Head) -> Array1<f64> {
        let w_o = self.model.output_map(head);
        w_o.mapv(f64::from).dot(&self.reader)
    }

    /// A neuron's row of `W_out` through the reader: what its activation counts.
    pub(super) fn neuron_read(&self, row: ArrayView1<'_, f32>) -> f64 {
        let products = row.iter().zip(&self.reader);
        products.map(|(w, r)| f64::from(*w) * r).sum()
    }

    fn b_o(&self, layer: usize) -> ArrayView1<'_, f32> {
        self.model.parameters().h[layer].attn.c_proj.bias.view()
    }

    fn b_out(&self, layer: usize) -> ArrayView1<'_, f32> {
        self.model.parameters().h[layer].mlp.c_proj.bias.view()
    }

    /// A bias `[d_model]` at each position.
    fn bias(&self, bias: ArrayView1<'_, f32>) -> Array1<f64> {
        bias.mapv(f64::from).dot(&self.reader) / &self.scale
    }

    /// The contribution of a cached point.
    pub(super) fn at(&self, point: HookPoint) -> Result<Array1<f64>> {
        self.contribution(self.cache.flat(point)?)
    }
}
