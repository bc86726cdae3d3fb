//! Whose gradients approximate effects.

use super::{products, receivers};
use crate::base::Base;
use crate::cache::Selection;
use crate::circuits::edge::Source;
use crate::circuits::graph::Graph;
use crate::config::Config;
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
        let moved = |alpha| Variant::Moved(Box::new(at.clone()), alpha);
        self.alphas().map(moved).collect()
    }
}

/// How effects of edges are approximated. In all but the last two, an edge's score is what its
/// source writes in the donor run minus what it writes in the changed run, times the metric's
/// gradient at what its receiver reads, summed over positions; they differ in the runs whose mean
/// gradient this is. The last two compute the receiver anew, and take the gradient of what it
/// writes.
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
    /// What the receiver's own component makes of the edge, exactly: for a head, LayerNorm, its
    /// queries, keys or values, softmax and the sum of values; for an MLP, LayerNorm and the
    /// activation function. Linear from there on, by the gradient of the run that is changed:
    ///
    /// ```text
    /// score(u→v) = Σ_pos (out_v(x_v + ã_u − a_u) − out_v(x_v)) · ∂m/∂out_v
    /// ```
    ///
    /// Edges into the logits have their exact effects. So receivers may saturate, as a softmax
    /// does, which gradients at their inputs miss: AtP*'s QK fix (Kramár et al. 2024, arXiv
    /// 2403.00745, section 3.1), taken to edges and to every kind of receiver.
    ReceiverExact,
    /// The same by the mean gradient of the runs of [`Approximation::EapIg`]: the nearest to exact
    /// effects of all these, in the shipped model.
    ReceiverExactIg(Steps),
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
            Approximation::ReceiverExact => "Receiver-exact scores",
            Approximation::ReceiverExactIg(_) => "Receiver-exact scores (IG)",
        }
    }

    /// Whether what a receiver makes of an edge is computed, and not only its slope.
    pub(super) fn computes_receivers(self) -> bool {
        matches!(
            self,
            Approximation::ReceiverExact | Approximation::ReceiverExactIg(_)
        )
    }

    /// Whether all gradients are those of the run that is changed.
    fn only_base(self) -> bool {
        matches!(self, Approximation::Eap | Approximation::ReceiverExact)
    }

    /// Where gradients are taken.
    pub(super) fn points(self, graph: Graph) -> Selection {
        if self.computes_receivers() {
            Selection::points(receivers::outputs(graph))
        } else {
            Selection::points(products::inputs(graph))
        }
    }

    /// What is read of the runs that are changed, besides what sources write.
    pub(super) fn reads(self, graph: Graph) -> Vec<HookPoint> {
        if self.computes_receivers() {
            receivers::reads(graph).collect()
        } else {
            Vec::new()
        }
    }

    /// Memory that the scores of a pair of so many tokens take.
    pub(super) fn bytes(self, config: &Config, metric: &Metric, n: usize) -> u64 {
        if self.computes_receivers() {
            receivers::bytes(config, metric, n)
        } else {
            products::bytes(Graph::new(config), n)
        }
    }

    /// How far scores are exact, and by which gradients they are linear, for a caption.
    pub(super) fn describe(self, base: &str) -> String {
        let how = if self.computes_receivers() {
            "exactly up to what its receiver writes, and to first order from there"
        } else {
            "to first order"
        };
        format!("{how}, by the {}", self.gradient(base))
    }

    fn gradient(self, base: &str) -> String {
        let steps = |n: usize, which: &str| {
            format!("mean gradient at {n} {which} on the way between both embeddings")
        };
        match self {
            Approximation::Eap | Approximation::ReceiverExact => {
                format!("gradient of the {base} run")
            }
            Approximation::EapIg(way) | Approximation::ReceiverExactIg(way) => match way {
                Steps::Left(n) => steps(n, "left ends"),
                Steps::Right(n) => steps(n, "right ends"),
                Steps::Midpoint(n) => steps(n, "midpoints"),
            },
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
            Approximation::Eap | Approximation::ReceiverExact => vec![Variant::Base],
            Approximation::CleanCorrupted => vec![Variant::Base, Variant::Donor],
            Approximation::EapIg(steps) | Approximation::ReceiverExactIg(steps) => {
                steps.moves(&embeddings)
            }
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
            Approximation::Eap | Approximation::CleanCorrupted | Approximation::ReceiverExact => {
                None
            }
            Approximation::EapIg(steps) | Approximation::ReceiverExactIg(steps) => {
                Some(steps.count())
            }
            Approximation::ActivationsAsPublished(n)
            | Approximation::ActivationsAsImplemented(n) => Some(n),
        }
    }

    /// Checks that there are such gradients, before anything runs.
    pub(super) fn check(self, pairs: &Pairs<'_>, metric: &Metric) -> Result<()> {
        pairs.check_gradients(metric, self.only_base())?;
        if self.steps() == Some(0) {
            return Err(Error::invalid("steps of EAP-IG", 0, "at least 1"));
        }
        if !self.only_base() {
            return Ok(());
        }
        pairs.check_slope(
            metric,
            "EAP-IG, clean-corrupted attribution or the other direction, which take gradients of \
             other runs; or another metric",
        )
    }

    /// Checks that a metric, which fits the runs, is read at one position of each prompt where the
    /// logits are computed anew.
    pub(super) fn check_positions(self, runs: &Base<'_>, metric: &Metric) -> Result<()> {
        if !self.computes_receivers() {
            return Ok(());
        }
        let needs = runs.needs(metric)?;
        match needs
            .iter()
            .map(|needs| needs.positions.len())
            .find(|n| *n != 1)
        {
            None => Ok(()),
            Some(n) => Err(Error::invalid(
                "metric of receiver-exact scores",
                format!("{}, read at {n} positions", metric.name()),
                "one that is read at one position of each prompt",
            )),
        }
    }
}
