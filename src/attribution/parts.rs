//! What the residual stream is taken apart into.

use ndarray::{Array1, ArrayView1};

use super::DirectLogitAttribution;
use crate::error::Result;
use crate::hook::{HookPoint, Site};
use crate::model::Transformer;
use crate::ops::part;

/// Which parts the residual stream is taken apart into. `Components`, `Heads` and `Full` have
/// TransformerLens's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Decomposition {
    /// `embed`, `pos_embed`, `L0`, `L1`, ...: attention and MLP of a layer together.
    Layers,
    /// `embed`, `pos_embed`, `0_attn_out`, `0_mlp_out`, ... (`decompose_resid`).
    Components,
    /// `L0H0`, `L0H1`, ..., and `remainder`: all the rest (`stack_head_results`).
    Heads,
    /// Heads, `0_mlp_out`, ..., `embed`, `pos_embed`, and `bias`, the sum of all `b_O`
    /// (`get_full_resid_decomposition`).
    Full,
    /// Everything that writes into the stream, each bias by itself, in order of execution:
    /// `embed`, `pos_embed`, and for each layer `L0H0`, `L0H1`, ..., `0_b_O`, `0_neurons` (the
    /// MLP's output without its bias) and `0_b_out`.
    Writers,
}

impl Decomposition {
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

/// A part's name and its contribution at each position.
type Part = (String, Array1<f64>);

impl DirectLogitAttribution<'_> {
    /// The parts of a decomposition, without the constants.
    pub(super) fn parts(&self, by: Decomposition) -> Result<Vec<Part>> {
        let layers = 0..self.model.config().n_layers;
        let mut parts = Vec::new();
        match by {
            Decomposition::Layers => {
                parts.extend(self.embeddings()?);
                for layer in layers {
                    let attention = self.at(Site::AttnOut.at(layer))?;
                    let both = attention + self.at(Site::MlpOut.at(layer))?;
                    parts.push((format!("L{layer}"), both));
                }
            }
            Decomposition::Components => {
                parts.extend(self.embeddings()?);
                for layer in layers {
                    let attention = self.at(Site::AttnOut.at(layer))?;
                    parts.push((format!("{layer}_attn_out"), attention));
                    parts.push(self.mlp(layer)?);
                }
            }
            Decomposition::Heads => {
                let mut rest = self.at(Site::ResidPost.at(layers.end - 1))?;
                for layer in layers {
                    parts.extend(self.heads(layer)?);
                }
                parts.iter().for_each(|(_, row)| rest -= row);
                parts.push(("remainder".to_string(), rest));
            }
            Decomposition::Full => {
                for layer in layers.clone() {
                    parts.extend(self.heads(layer)?);
                }
                for layer in layers.clone() {
                    parts.push(self.mlp(layer)?);
                }
                parts.extend(self.embeddings()?);
                let biases = layers.map(|layer| self.bias(self.b_o(layer)));
                let none = Array1::zeros(self.scale.len());
                parts.push(("bias".to_string(), biases.fold(none, |sum, b| sum + b)));
            }
            Decomposition::Writers => {
                parts.extend(self.embeddings()?);
                for layer in layers {
                    parts.extend(self.heads(layer)?);
                    parts.extend(self.biases_and_neurons(layer)?);
                }
            }
        }
        Ok(parts)
    }

    /// What a layer writes besides its heads.
    fn biases_and_neurons(&self, layer: usize) -> Result<[Part; 3]> {
        let out = &self.model.parameters().h[layer].mlp.c_proj;
        let b_out = self.bias(out.bias.view());
        let neurons = self.at(Site::MlpOut.at(layer))? - &b_out;
        Ok([
            (format!("{layer}_b_O"), self.bias(self.b_o(layer))),
            (format!("{layer}_neurons"), neurons),
            (format!("{layer}_b_out"), b_out),
        ])
    }

    fn embeddings(&self) -> Result<[Part; 2]> {
        Ok([
            ("embed".to_string(), self.at(HookPoint::Embed)?),
            ("pos_embed".to_string(), self.at(HookPoint::PosEmbed)?),
        ])
    }

    fn mlp(&self, layer: usize) -> Result<Part> {
        Ok((format!("{layer}_mlp_out"), self.at(Site::MlpOut.at(layer))?))
    }

    /// The heads of a layer: `z·W_O`, without `b_O`.
    fn heads(&self, layer: usize) -> Result<Vec<Part>> {
        let d_head = self.model.config().d_head();
        let z = self.cache.flat(Site::Z.at(layer))?;
        let one = |head: usize| {
            let z = part(z, 1, head * d_head..(head + 1) * d_head);
            let row = z.mapv(f64::from).dot(&self.read_by(layer, head)) / &self.scale;
            (head_name(layer, head), row)
        };
        Ok((0..self.model.config().n_heads).map(one).collect())
    }

    /// `W_O` of a head through the reader, `[d_head]`: what a `z` counts.
    pub(super) fn read_by(&self, layer: usize, head: usize) -> Array1<f64> {
        let w_o = self.model.w_o(layer, head);
        w_o.mapv(f64::from).dot(&self.reader)
    }

    fn b_o(&self, layer: usize) -> ArrayView1<'_, f32> {
        self.model.parameters().h[layer].attn.c_proj.bias.view()
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

fn head_name(layer: usize, head: usize) -> String {
    format!("L{layer}H{head}")
}

/// `L0H0`, `L0H1`, ...
pub(super) fn head_names(model: &Transformer) -> Vec<String> {
    let config = model.config();
    let of_layer = |layer| (0..config.n_heads).map(move |head| head_name(layer, head));
    (0..config.n_layers).flat_map(of_layer).collect()
}
