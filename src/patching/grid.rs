//! The cells of a patching study.

use ndarray::{ArrayD, Dimension, IxDyn};

use crate::config::Config;
use crate::effects::layer_axis;
use crate::error::{Error, Result};
use crate::hook::{Axes, HookPoint, Site};
use crate::intervention::Target;
use crate::report::Axis;

/// The cells of a patching study: what is patched, one activation at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Grid {
    /// `[layer, pos]`, a site without a head axis.
    Positions(Site),
    /// `[layer, pos, head]`, a site with positions and heads: z, q, k, v, result.
    HeadPositions(Site),
    /// `[layer, head]`, all positions at once: z, q, k, v, the pattern.
    Heads(Site),
    /// `[layer, head, dest]`: one row of an attention pattern.
    PatternDest,
    /// `[layer, head, dest, src]`: one entry of an attention pattern.
    PatternEntries,
    /// `[3, layer, pos]`: resid_pre, attn_out, mlp_out.
    EveryBlock,
    /// `[5, layer, head]`: z, q, k, v and the pattern, all positions at once.
    EveryHead,
    /// `[5, layer, pos, head]`: z, q, k, v and the pattern, by position (destination).
    EveryHeadPosition,
    /// `[column]`, or `[head, column]` for a site with a head axis: the columns of the last axis at
    /// one layer, all positions at once: `Columns(Site::MlpPost, 3)` for the neurons of layer 3.
    Columns(Site, usize),
}

/// What the axis of positions is called.
pub(super) const POSITION: &str = "position";

const BLOCK_SITES: [Site; 3] = [Site::ResidPre, Site::AttnOut, Site::MlpOut];
const HEAD_SITES: [Site; 5] = [Site::Z, Site::Q, Site::K, Site::V, Site::Pattern];

impl Grid {
    /// The sites that are patched.
    pub fn sites(&self) -> Vec<Site> {
        match *self {
            Grid::Positions(site)
            | Grid::HeadPositions(site)
            | Grid::Heads(site)
            | Grid::Columns(site, _) => vec![site],
            Grid::PatternDest | Grid::PatternEntries => vec![Site::Pattern],
            Grid::EveryBlock => BLOCK_SITES.to_vec(),
            Grid::EveryHead | Grid::EveryHeadPosition => HEAD_SITES.to_vec(),
        }
    }

    /// Where the activations are that are patched.
    pub(super) fn points(&self, config: &Config) -> Vec<HookPoint> {
        if let Grid::Columns(site, layer) = self {
            return vec![site.at(*layer)];
        }
        let layers = |site: Site| (0..config.n_layers).map(move |layer| site.at(layer));
        self.sites().into_iter().flat_map(layers).collect()
    }

    pub(crate) fn by_position(&self) -> bool {
        !matches!(self, Grid::Heads(_) | Grid::EveryHead | Grid::Columns(..))
    }

    pub(crate) fn check(&self, config: &Config) -> Result<()> {
        let (fits, expected): (fn(Axes) -> bool, _) = match self {
            Grid::Positions(_) => (|a| !a.has_heads(), "a site without a head axis"),
            Grid::HeadPositions(_) => (Axes::has_heads, "a site with a head axis"),
            Grid::Heads(_) => (Axes::has_heads, "a site with a head axis"),
            Grid::Columns(site, layer) => {
                site.at(*layer).check(config)?;
                (|a| a != Axes::Attention, "a site without sources")
            }
            _ => return Ok(()),
        };
        match self.sites().into_iter().find(|s| !fits(s.axes())) {
            Some(site) => {
                let names = site.axes().names().join(", ");
                let found = format!("{} with axes [{names}]", site.name());
                Err(Error::invalid(format!("grid {self:?}"), found, expected))
            }
            None => Ok(()),
        }
    }

    /// The axes, in the order of the result's dimensions. `tokens` label positions.
    pub(super) fn axes(&self, config: &Config, tokens: &[String]) -> Vec<Axis> {
        let layers = || Axis::layers(config.n_layers);
        let heads = || Axis::heads(config.n_heads);
        let positions = |name: &str| Axis::tokens(name, tokens);
        let sites = || Axis::new("site", self.sites().iter().map(|s| s.name()));
        match self {
            Grid::Positions(site) => {
                vec![layer_axis(*site, config.n_layers), positions(POSITION)]
            }
            Grid::HeadPositions(_) => vec![layers(), positions(POSITION), heads()],
            Grid::Heads(_) => vec![layers(), heads()],
            Grid::PatternDest => vec![layers(), heads(), positions("dest")],
            Grid::PatternEntries => vec![layers(), heads(), positions("dest"), positions("src")],
            Grid::EveryBlock => vec![sites(), layers(), positions(POSITION)],
            Grid::EveryHead => vec![sites(), layers(), heads()],
            Grid::EveryHeadPosition => vec![sites(), layers(), positions(POSITION), heads()],
            Grid::Columns(site, _) => {
                let heads = site.axes().has_heads().then(heads);
                heads.into_iter().chain([columns(*site, config)]).collect()
            }
        }
    }

    /// The place of each cell, in row-major order of the result, for prompts of `n` tokens: to
    /// build sweeps with other edits than a patch.
    pub fn targets(&self, config: &Config, n: usize) -> Vec<Target> {
        let positions = vec![String::new(); n];
        let axes = self.axes(config, &positions);
        let shape: Vec<usize> = axes.iter().map(|a| a.labels.len()).collect();
        targets(*self, &shape)
    }

    /// The target of the cell at an index of the result.
    fn target(&self, index: &[usize]) -> Target {
        let at = |site: Site, layer: usize| Target::new(site.at(layer));
        match *self {
            Grid::Positions(site) => at(site, index[0]).at_positions(index[1]),
            Grid::HeadPositions(site) => {
                at(site, index[0]).at_positions(index[1]).at_heads(index[2])
            }
            Grid::Heads(site) => at(site, index[0]).at_heads(index[1]),
            Grid::PatternDest => at(Site::Pattern, index[0])
                .at_heads(index[1])
                .at_positions(index[2]),
            Grid::PatternEntries => at(Site::Pattern, index[0])
                .at_heads(index[1])
                .at_positions(index[2])
                .at_src(index[3]),
            Grid::EveryBlock => Grid::Positions(BLOCK_SITES[index[0]]).target(&index[1..]),
            Grid::EveryHead => Grid::Heads(HEAD_SITES[index[0]]).target(&index[1..]),
            Grid::EveryHeadPosition => {
                Grid::HeadPositions(HEAD_SITES[index[0]]).target(&index[1..])
            }
            Grid::Columns(site, layer) => match *index {
                [head, column] => at(site, layer).at_heads(head).at_columns(column),
                _ => at(site, layer).at_columns(index[0]),
            },
        }
    }
}

/// The columns of a site, by number.
fn columns(site: Site, config: &Config) -> Axis {
    let axes = site.axes();
    let name = if axes == Axes::Mlp {
        "neuron"
    } else {
        "dimension"
    };
    let width = axes.shape(config, 1).last().copied().unwrap_or(0);
    Axis::new(name, (0..width).map(|column| column.to_string()))
}

/// The targets of a result's cells, in row-major order.
pub(super) fn targets(grid: Grid, shape: &[usize]) -> Vec<Target> {
    let cells = ArrayD::from_elem(IxDyn(shape), ());
    let indices = cells.indexed_iter().map(|(index, ())| index);
    indices
        .map(|index| grid.target(index.as_array_view().as_slice().unwrap_or(&[])))
        .collect()
}
