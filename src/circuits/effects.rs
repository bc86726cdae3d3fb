//! What a study of edges found.

use std::collections::BTreeMap;

use ndarray::{Array1, Array2, Array3, ArrayView1};

use super::edge::Edge;
use super::scores::{EdgeScores, Orientation};
use super::set::EdgeSet;
use super::table::{spread, tabulate};
use crate::effects::Zeros;
use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::metric::Metric;
use crate::pairs::{Pairs, averaged};
use crate::report::{About, Absent, Labelled, Normalization};
use crate::statistics::{self, Estimate};

/// The effects of edges on a metric, exact or approximated: how the metric changes when an edge
/// carries what it carried in the other run of its pair. 0 where nothing changes.
#[derive(Clone, Debug)]
pub struct EdgeEffects {
    /// The mean change over the pairs, `[source, receiver]`, with standard errors where there are
    /// several pairs; no value where there is no edge, and where none was asked for.
    pub effect: Labelled,
    /// The edges that were asked for.
    pub edges: EdgeSet,
    /// The change of each pair, `[edge, pair]`, edges in graph order; NaN for what was not
    /// reached before an observer ended the study.
    pub per_prompt: Array2<f32>,
    /// What the sign of a change means.
    pub orientation: Orientation,
    /// The metric of each clean run, `[pair]`.
    pub clean: Array1<f32>,
    /// The metric of each corrupted run, `[pair]`.
    pub corrupted: Array1<f32>,
    /// `[edge]`: whether it was run on every pair.
    reached: Vec<bool>,
}

/// The effects of edges at single positions.
#[derive(Clone, Debug)]
pub struct PositionEffects {
    /// The edges, in graph order.
    pub edges: Vec<Edge>,
    /// How the metric changes if the edge carries the other run's values at one position alone,
    /// `[edge, pos, pair]`; NaN for what was not reached before an
    /// observer ended the study.
    pub per_prompt: Array3<f32>,
    /// Whether an observer ended the study early.
    pub partial: bool,
}

impl EdgeEffects {
    /// The mean change of each edge, from which circuits are selected.
    ///
    /// # Errors
    /// [`Error::Invalid`] unless every edge of the model has a value.
    pub fn scores(&self) -> Result<EdgeScores> {
        let graph = self.edges.graph();
        if self.edges.len() < graph.n_edges() || self.effect.about.partial {
            let reached = self.reached.iter().filter(|reached| **reached);
            let expected = format!("all {}", graph.n_edges());
            return Err(Error::invalid("scored edges", reached.count(), expected));
        }
        EdgeScores::new(graph, self.means().collect(), self.orientation)
    }

    /// The change by one edge.
    ///
    /// # Errors
    /// For an edge that the graph lacks, see [`Graph::index`](super::Graph::index);
    /// [`Error::Invalid`] for one that was not asked for, or not run on every pair.
    pub fn of(&self, edge: Edge) -> Result<Estimate> {
        if !self.edges.contains(edge)? {
            let expected = format!("one of the {} scored edges", self.edges.len());
            return Err(Error::invalid("edge", format!("`{edge}`"), expected));
        }
        let row = self.edges.edges().position(|other| other == edge);
        let row = row.expect("the set contains it");
        if !self.reached[row] {
            let expected = "one that was run on every pair before the study was ended";
            return Err(Error::invalid("edge", format!("`{edge}`"), expected));
        }
        Ok(estimate(self.per_prompt.row(row)))
    }

    /// The mean changes of the edges that were reached on every pair.
    pub(super) fn reached(&self) -> BTreeMap<Edge, f32> {
        let edges = self.edges.edges().zip(self.means()).zip(&self.reached);
        let reached = edges.filter(|(_, reached)| **reached);
        reached.map(|(edge, _)| edge).collect()
    }

    fn means(&self) -> impl Iterator<Item = f32> {
        means(&self.per_prompt)
    }
}

/// Of one edge; not a number unless it is one on every pair.
fn estimate(changes: ArrayView1<'_, f32>) -> Estimate {
    if changes.iter().any(|change| change.is_nan()) {
        return Estimate {
            mean: f32::NAN,
            std_error: f32::NAN,
            n: changes.len(),
        };
    }
    Estimate::of(changes.iter().copied())
}

/// Over the pairs, in order.
pub(super) fn means(per_prompt: &Array2<f32>) -> impl Iterator<Item = f32> {
    let rows = per_prompt.rows().into_iter();
    rows.map(|row| statistics::mean(row.iter().copied()))
}

/// A study's result before it is labelled.
pub(super) struct Found {
    /// Name of the method.
    pub title: &'static str,
    /// What was done to an edge, in a sentence without its end.
    pub caption: String,
    pub edges: EdgeSet,
    /// `[edge, pair]`: changes; NaN for what was not reached.
    pub per_prompt: Array2<f32>,
    /// What changes of 0 are.
    pub zeros: Zeros,
    /// Multiply-adds and the like.
    pub counts: Vec<(&'static str, u64)>,
    /// `[edge]`: whether it was run on every pair.
    pub reached: Vec<bool>,
}

impl Found {
    /// The result of a study of these pairs.
    pub fn label(
        self,
        pairs: &Pairs<'_>,
        metric: &Metric,
        limits: &Limits<'_>,
    ) -> Result<EdgeEffects> {
        let [clean, corrupted] = pairs.metrics_within(metric, limits)?;
        let mean = |values: &Array1<f32>| statistics::mean(values.iter().copied());
        let baselines = [("clean", mean(&clean)), ("corrupted", mean(&corrupted))];
        let name = metric.name();
        let n_pairs = clean.len();
        let counts = [("edges", self.edges.len()), ("prompt pairs", n_pairs)];
        let counts = counts.map(|(name, n)| (name, n as u64));
        let counts = counts.into_iter().chain(self.counts.iter().copied());
        let counts: BTreeMap<String, u64> = counts.map(|(name, n)| (name.into(), n)).collect();
        let mut about = About {
            title: pairs.title(self.title, metric),
            caption: format!(
                "{}; change of the {name}, {}.",
                self.caption,
                averaged(n_pairs, "prompt pair")
            ),
            unit: name.to_string(),
            normalization: Normalization::Change,
            direction: Some(pairs.direction),
            notes: pairs.notes(metric, &clean, &corrupted),
            partial: self.reached.contains(&false),
            baselines: baselines.map(|(name, v)| (name.to_string(), v)).into(),
            counts,
            ..About::default()
        };
        let changes = self.per_prompt.rows().into_iter().zip(self.absent());
        let changes = changes.flat_map(|(row, absent)| row.into_iter().map(move |v| (*v, absent)));
        about.caption += self.zeros.note(changes).unwrap_or_default();
        Ok(EdgeEffects {
            effect: self.table(about)?,
            edges: self.edges,
            reached: self.reached,
            per_prompt: self.per_prompt,
            orientation: pairs.orientation(metric),
            clean,
            corrupted,
        })
    }

    /// `[source, receiver]`, with errors where there are several pairs.
    fn table(&self, about: About) -> Result<Labelled> {
        let means = means(&self.per_prompt);
        let table = tabulate(&self.edges, means.zip(self.absent()), about)?;
        if self.per_prompt.ncols() < 2 {
            return Ok(table);
        }
        let errors = self.per_prompt.rows().into_iter();
        let errors = errors.map(|row| estimate(row).std_error);
        table.with_std_error(spread(&self.edges, f32::NAN, errors))
    }

    fn absent(&self) -> impl Iterator<Item = Option<Absent>> {
        Absent::not_run(&self.reached)
    }
}
