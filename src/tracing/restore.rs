//! What a cell of a causal trace puts back.

use crate::effects::layer_window;
use crate::error::{Error, Result};
use crate::hook::{Axes, Site};
use crate::intervention::{Edit, Intervention, Target};
use crate::sweep::Cell;

/// Layers of the paper's windows of MLP or attention outputs.
pub const DEFAULT_WINDOW: usize = 10;

/// What a cell puts back from the clean run, at one token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Restore {
    /// A site with the axes `[pos, d_model]`: `resid_post`, `mlp_out`, `attn_out`.
    pub site: Site,
    /// Number of layers, at least 1. Those of the cell at layer `l` are `l - window / 2` to
    /// `l + ceil(window / 2) - 1`, as far as the model has them: a window that is wider than the
    /// model restores all layers in every cell.
    pub window: usize,
    /// What is cut off meanwhile.
    pub severed: Option<Severed>,
}

impl Restore {
    /// Single hidden states: `resid_post` of one layer.
    pub fn states() -> Self {
        Self::window(Site::ResidPost, 1)
    }

    /// MLP outputs of a window of layers.
    pub fn mlp(window: usize) -> Self {
        Self::window(Site::MlpOut, window)
    }

    /// Attention outputs of a window of layers.
    pub fn attention(window: usize) -> Self {
        Self::window(Site::AttnOut, window)
    }

    /// A site with the axes `[pos, d_model]` in a window of layers.
    pub fn window(site: Site, window: usize) -> Self {
        Restore {
            site,
            window,
            severed: None,
        }
    }

    /// The same with MLPs or attention cut off from what is restored.
    #[must_use]
    pub fn severing(mut self, severed: Severed) -> Self {
        self.severed = Some(severed);
        self
    }

    /// The sites at which its cells act.
    pub(super) fn sites(&self) -> impl Iterator<Item = Site> + use<> {
        [Some(self.site), self.severed.map(Severed::site)]
            .into_iter()
            .flatten()
    }

    /// The layers that the cell at `layer` restores.
    pub(super) fn layers(&self, layer: usize, n_layers: usize) -> std::ops::Range<usize> {
        layer_window(layer, self.window, n_layers)
    }

    /// One cell per token and layer, in row-major order. `restore` has the values that are put back,
    /// `frozen` those of what is severed, by layer.
    pub(crate) fn cells(&self, tokens: usize, restore: &[Edit], frozen: &[Edit]) -> Vec<Cell> {
        let n_layers = restore.len();
        let mut cells = Vec::with_capacity(tokens * n_layers);
        for token in 0..tokens {
            let at = |site: Site, layer: usize| Target::new(site.at(layer)).at_positions(token);
            for layer in 0..n_layers {
                let window = self.layers(layer, n_layers);
                let mut cell: Cell = window
                    .clone()
                    .map(|l| Intervention::new(at(self.site, l), restore[l].clone()))
                    .collect();
                if let Some(site) = self.severed.map(Severed::site) {
                    // What is restored stays restored; before it nothing differs anyway.
                    let both = |l: &usize| site == self.site && window.contains(l);
                    let later = (window.start..n_layers).filter(|l| !both(l));
                    cell.extend(later.map(|l| Intervention::new(at(site, l), frozen[l].clone())));
                }
                cells.push(cell);
            }
        }
        cells
    }

    pub(crate) fn check(&self) -> Result<()> {
        let axes = self.site.axes();
        axes.expect(Axes::Model, "restored site", &self.site.name())?;
        if self.window == 0 {
            return Err(Error::invalid("restored window", 0, "at least 1 layer"));
        }
        Ok(())
    }

    pub(super) fn describe(&self) -> String {
        match self.window {
            1 => format!("{} of the layer", self.site.name()),
            n => format!("{} of {n} layers around it", self.site.name()),
        }
    }
}

/// Which module is cut off from what is restored: its outputs at the restored token keep their
/// values of the corrupted run wherever they come after the first restored activation. (Those
/// which are restored themselves stay restored.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Severed {
    /// `mlp_out`.
    Mlp,
    /// `attn_out`.
    Attention,
}

impl Severed {
    pub(super) fn site(self) -> Site {
        match self {
            Severed::Mlp => Site::MlpOut,
            Severed::Attention => Site::AttnOut,
        }
    }
}
