//! Below components: heads by source position, and neurons.

use ndarray::{Array1, Array2};

use super::{DirectLogitAttribution, check_sum};
use crate::component::{Component, Head};
use crate::config::Positions;
use crate::error::Result;
use crate::hook::{HookPoint, Site};
use crate::ops::{largest, part};
use crate::report::{Axis, Labelled};

impl DirectLogitAttribution<'_> {
    /// Each head's contribution at one position by the source position that it read,
    /// `[head, src]`, heads `0.0`, `0.1`, ... A row sums to the head's contribution.
    ///
    /// # Errors
    /// [`OutOfRange`](crate::Error::OutOfRange) for a position that the prompt lacks;
    /// [`NotCached`](crate::Error::NotCached);
    /// [`Invalid`](crate::Error::Invalid) if a row does not sum to its head's contribution.
    pub fn head_sources(&self, position: usize) -> Result<Labelled> {
        self.check_position(position)?;
        let config = self.model.config();
        let (d_head, n) = (config.d_head(), self.scale.len());
        let mut values = Array2::<f64>::zeros((config.n_layers * config.n_heads, n));
        for (of, mut row) in Head::all(config).zip(values.rows_mut()) {
            let Head { layer, head } = of;
            let read = self.read_by(of);
            let columns = head * d_head..(head + 1) * d_head;
            let v = part(self.cache.flat(Site::V.at(layer))?, 1, columns.clone());
            let pattern = self.cache.flat(Site::Pattern.at(layer))?;
            let weights = pattern.row(head * n + position).mapv(f64::from);
            row.assign(&(v.mapv(f64::from).dot(&read) * weights / self.scale[position]));
            let z = part(self.cache.flat(Site::Z.at(layer))?, 1, columns);
            let whole = z.row(position).mapv(f64::from).dot(&read) / self.scale[position];
            let magnitude = row.mapv(f64::abs).sum();
            check_sum(&format!("sources of {of}"), row.sum(), whole, magnitude)?;
        }
        let mut about = self.about("Heads by source position");
        about.caption = format!("{} At position {position}.", about.caption);
        let axes = vec![
            Axis::new("head", Head::all(config).map(|head| head.to_string())),
            Axis::tokens("src", &self.labels),
        ];
        Labelled::new(values.mapv(|v| v as f32), axes, about)
    }

    /// The `k` neurons with the largest contributions (by magnitude) at one position,
    /// `[neuron]`, `mlp0.5` and so on; then `other neurons`, `b_out` (all layers), and
    /// `attention and embeddings`, `ln_final.bias`, `b_U`, so that all sum to the truth.
    ///
    /// # Errors
    /// [`OutOfRange`](crate::Error::OutOfRange) for a position that the prompt lacks;
    /// [`Lacks`](crate::Error::Lacks) for a model without MLPs;
    /// [`NotCached`](crate::Error::NotCached);
    /// [`Invalid`](crate::Error::Invalid) if the rows do not sum to the truth.
    pub fn neurons(&self, position: usize, k: usize) -> Result<Labelled> {
        self.check_position(position)?;
        Component::Neurons(0).check(self.model.config())?;
        let scale = self.scale[position];
        let mut each: Vec<f64> = Vec::new();
        let mut b_out = 0.0;
        for (layer, block) in self.model.parameters().h.iter().enumerate() {
            let out = &block.mlp.c_proj;
            b_out += out.bias.mapv(f64::from).dot(&self.reader) / scale;
            let post = self.cache.flat(Site::MlpPost.at(layer))?;
            for (neuron, row) in out.weight.rows().into_iter().enumerate() {
                each.push(f64::from(post[[position, neuron]]) * self.neuron_read(row) / scale);
            }
        }
        let best = largest(each.len(), k, |i| each[i].abs());
        let d_mlp = self.model.config().d_mlp;
        let name = |i: &usize| Component::Neuron(i / d_mlp, i % d_mlp).to_string();
        let mut names: Vec<String> = best.iter().map(name).collect();
        let mut values: Vec<f64> = best.iter().map(|i| each[*i]).collect();
        let others = each.iter().sum::<f64>() - values.iter().sum::<f64>();
        let rest = self.without_mlps(position)?;
        names.extend(["other neurons", "b_out", "attention and embeddings"].map(String::from));
        let constants = [Component::FinalNormBias, Component::UnembeddingBias];
        names.extend(constants.map(|bias| bias.to_string()));
        values.extend([others, b_out, rest, self.constants[0], self.constants[1]]);
        let magnitude = values.iter().map(|v| v.abs()).sum();
        check_sum(
            "neurons",
            values.iter().sum(),
            self.truth[position],
            magnitude,
        )?;
        let values = Array1::from_iter(values.iter().map(|v| *v as f32));
        let mut about = self.about("Neurons");
        about.caption = format!("{} At position {position}.", about.caption);
        Labelled::new(values, vec![Axis::new("neuron", names)], about)
    }

    /// What embeddings and attention add at a position.
    fn without_mlps(&self, position: usize) -> Result<f64> {
        let layers = 0..self.model.config().n_layers;
        let attention = layers.map(|l| Site::AttnOut.at(l));
        let added = self.model.config().positions == Positions::Learned;
        let positions = added.then_some(HookPoint::PosEmbed);
        let embeddings = [HookPoint::Embed].into_iter().chain(positions);
        let points = embeddings.chain(attention);
        let one = |point| Ok(self.at(point)?[position]);
        points.map(one).sum()
    }
}
