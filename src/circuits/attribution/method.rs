//! Whose gradients approximate effects.

use crate::circuits::edge::Source;
use crate::circuits::graph::Graph;
use crate::error::{Error, Result};
use crate::hook::{HookPoint, Site};
use crate::intervention::Target;
use crate::metric::Metric;
use crate::pairs::{Pairs, Variant};

/// Points on the way from the donor's token embeddings to those of the run that is changed, at
/// which gradients are taken: `donor + α · (own − donor)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Steps {
    /// `α = k/n` for `k` from 0 to `n − 1`, with the donor's end among them: what EAP-IG's program
    /// has done since February 2025, hence MIB's numbers, with 5 steps.
    Left(usize),
    /// `α = k/n` for `k` from 1 to `n`, with the end of the changed run among them, as in Hanna et
    /// al. (2024).
    Right(usize),
    /// `α = (k + ½)/n` for `k` from 0 to `n − 1`: of the three, the nearest to the integral where
    /// the metric is smooth.
    Midpoint(usize),
}

impl Steps {
    /// How many there are.
    pub fn count(self) -> usize {
        match self {
            Steps::Left(n) | Steps::Right(n) | Steps::Midpoint(n) => n,
        }
    }

    /// How far along the way they lie, in `0..=1`.
    fn alphas(self) -> impl Iterator<Item = f32> {
        let (n, shift) = match self {
            Steps::Left(n) => (n, 0.0),
            Steps::Right(n) => (n, 1.0),
            Steps::Midpoint(n) => (n, 0.5),
        };
        (0..n).map(move |k| (k as f32 + shift) / n as f32)
    }

    /// The runs with this activation on the way.
    fn moves(self, at: &Target) -> Vec<Variant> {
        let moved = |alpha| Variant::Moved(at.clone(), alpha);
        self.alphas().map(moved).collect()
    }
}

/// How effects of edges are approximated. In all of them, an edge's score is what its source
/// writes in the donor run minus what it writes in the changed run, times the metric's gradient at
/// what its receiver reads, summed over positions; they differ in the runs whose mean gradient
/// this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Approximation {
    /// Edge attribution patching (Syed et al. 2023): the gradient of the run that is changed. Exact
    /// to first order, so it misses what saturates.
    Eap,
    /// EAP-IG on inputs (Hanna et al. 2024): the mean gradient of runs with the token embeddings on
    /// the way from the donor's to their own, everything downstream computed. With many steps, the
    /// scores of the edges out of `input` add up to the metric of the donor run minus that of the
    /// changed run.
    EapIg(Steps),
    /// The mean of the gradients of the clean and the corrupted run.
    CleanCorrupted,
    /// EAP-IG on activations as Hanna et al. (2024) describe it: for the edges out of a source, the
    /// mean gradient of runs in which this source alone writes what lies on the way from the
    /// donor's output to its own, at `k/n` for `k` from 1 to `n`. Takes `n` gradient runs per
    /// source.
    ActivationsAsPublished(usize),
    /// EAP-IG on activations as its program does it, hence MIB's numbers: for every edge, whatever
    /// its source, the mean gradient of runs in which, in turn, the embedding, all heads of a layer
    /// or an MLP write what lies on that way, as constants through which no gradient flows. What
    /// is cut is missing in the mean, so that scores are too small even in a linear model. Takes `n`
    /// gradient runs for each of the `1 + 2L` places.
    ActivationsAsImplemented(usize),
}

/// Runs of one pair that count alike, and whose edges have their mean gradient.
pub(super) struct Group {
    /// The edges out of this source; all, if there is none.
    pub source: Option<Source>,
    pub variants: Vec<Variant>,
}

impl Approximation {
    pub(super) fn name(self) -> &'static str {
        match self {
            Approximation::Eap => "EAP",
            Approximation::EapIg(_) => "EAP-IG (inputs)",
            Approximation::CleanCorrupted => "Clean-corrupted attribution",
            Approximation::ActivationsAsPublished(_) => "EAP-IG (activations, as published)",
            Approximation::ActivationsAsImplemented(_) => "EAP-IG (activations, as implemented)",
        }
    }

    /// The gradients, for a caption.
    pub(super) fn describe(self, base: &str) -> String {
        let steps = |n: usize, which: &str| {
            format!("mean gradient at {n} {which} on the way between both embeddings")
        };
        match self {
            Approximation::Eap => format!("gradient of the {base} run"),
            Approximation::EapIg(Steps::Left(n)) => steps(n, "left ends"),
            Approximation::EapIg(Steps::Right(n)) => steps(n, "right ends"),
            Approximation::EapIg(Steps::Midpoint(n)) => steps(n, "midpoints"),
            Approximation::CleanCorrupted => "mean gradient of both runs".to_string(),
            Approximation::ActivationsAsPublished(n) => {
                format!("mean gradient at {n} steps on the way between both outputs of its source")
            }
            Approximation::ActivationsAsImplemented(n) => format!(
                "mean gradient at {n} steps on the way between both outputs of each layer's heads \
                 and MLP, and between both embeddings"
            ),
        }
    }

    /// The runs of each pair.
    pub(super) fn groups(self, graph: Graph) -> Vec<Group> {
        let embeddings = Target::new(HookPoint::Embed);
        let variants = match self {
            Approximation::Eap => vec![Variant::Base],
            Approximation::CleanCorrupted => vec![Variant::Base, Variant::Donor],
            Approximation::EapIg(steps) => steps.moves(&embeddings),
            Approximation::ActivationsAsImplemented(n) => {
                let sites: &[Site] = if graph.has_mlps() {
                    &[Site::Z, Site::MlpOut]
                } else {
                    &[Site::Z]
                };
                let layers = 0..graph.n_layers();
                let points = layers.flat_map(|layer| sites.iter().map(move |site| site.at(layer)));
                let places = [embeddings].into_iter().chain(points.map(Target::new));
                places
                    .flat_map(|place| Steps::Right(n).moves(&place))
                    .collect()
            }
            Approximation::ActivationsAsPublished(n) => {
                let group = |source: Source| Group {
                    source: Some(source),
                    variants: Steps::Right(n).moves(&source.target()),
                };
                return graph.sources().map(group).collect();
            }
        };
        let source = None;
        vec![Group { source, variants }]
    }

    /// Through what no gradient flows in a run.
    pub(super) fn constant(self, variant: &Variant) -> Vec<HookPoint> {
        let Variant::Moved(target, _) = variant else {
            return Vec::new();
        };
        match (self, target.point) {
            (Approximation::ActivationsAsImplemented(_), HookPoint::Block(layer, site)) => {
                let written = if site == Site::Z { Site::AttnOut } else { site };
                vec![written.at(layer)]
            }
            _ => Vec::new(),
        }
    }

    /// How often the way between two values is divided.
    fn steps(self) -> Option<usize> {
        match self {
            Approximation::Eap | Approximation::CleanCorrupted => None,
            Approximation::EapIg(steps) => Some(steps.count()),
            Approximation::ActivationsAsPublished(n)
            | Approximation::ActivationsAsImplemented(n) => Some(n),
        }
    }

    /// Checks that there are such gradients, before anything runs.
    pub(super) fn check(self, pairs: &Pairs<'_>, metric: &Metric) -> Result<()> {
        pairs.check_gradients(metric, self == Approximation::Eap)?;
        if self.steps() == Some(0) {
            return Err(Error::invalid("steps of EAP-IG", 0, "at least 1"));
        }
        if self != Approximation::Eap {
            return Ok(());
        }
        pairs.check_slope(
            metric,
            "EAP-IG, clean-corrupted attribution or the other direction, which take gradients of \
             other runs; or another metric",
        )
    }
}
