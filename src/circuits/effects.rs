//! What a study of edges found.

use std::collections::BTreeMap;

use ndarray::{Array1, Array2, Array3};

use super::edge::Edge;
use super::scores::{EdgeScores, Orientation};
use super::set::EdgeSet;
use super::table::{spread, tabulate};
use crate::error::{Error, Result};
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
            let reached = self.per_prompt.rows().into_iter();
            let reached = reached.filter(|row| !row.iter().any(|v| v.is_nan()));
            let expected = format!("all {}", graph.n_edges());
            return Err(Error::invalid("scored edges", reached.count(), expected));
        }
        EdgeScores::new(graph, self.means().collect(), self.orientation)
    }

    /// The change by one edge.
    ///
    /// # Errors
    /// For an edge that the graph lacks, see [`Graph::index`](super::Graph::index);
    /// [`Error::Invalid`] for one that was
    /// not asked for.
    pub fn of(&self, edge: Edge) -> Result<Estimate> {
        if !self.edges.contains(edge)? {
            let expected = format!("one of the {} scored edges", self.edges.len());
            return Err(Error::invalid("edge", format!("`{edge}`"), expected));
        }
        let row = self.edges.edges().position(|other| other == edge);
        let row = row.expect("the set contains it");
        Ok(Estimate::of(self.per_prompt.row(row).iter().copied()))
    }

    /// The mean changes of the edges that were reached on every pair.
    pub(super) fn reached(&self) -> BTreeMap<Edge, f32> {
        let edges = self.edges.edges().zip(self.means());
        let partial = self.effect.about.partial;
        edges
            .filter(|(_, mean)| !(partial && mean.is_nan()))
            .collect()
    }

    fn means(&self) -> impl Iterator<Item = f32> {
        means(&self.per_prompt)
    }
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
    /// Multiply-adds and the like.
    pub counts: Vec<(&'static str, u64)>,
    pub partial: bool,
}

impl Found {
    /// The result of a study of these pairs.
    pub fn label(self, pairs: &Pairs<'_>, metric: &Metric) -> Result<EdgeEffects> {
        let clean = pairs.clean.metric(metric)?;
        let corrupted = pairs.corrupted.metric(metric)?;
        let mean = |values: &Array1<f32>| statistics::mean(values.iter().copied());
        let baselines = [("clean", mean(&clean)), ("corrupted", mean(&corrupted))];
        let name = metric.name();
        let n_pairs = clean.len();
        let counts = [("edges", self.edges.len()), ("prompt pairs", n_pairs)];
        let counts = counts.map(|(name, n)| (name, n as u64));
        let counts = counts.into_iter().chain(self.counts.iter().copied());
        let counts: BTreeMap<String, u64> = counts.map(|(name, n)| (name.into(), n)).collect();
        let about = About {
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
            partial: self.partial,
            baselines: baselines.map(|(name, v)| (name.to_string(), v)).into(),
            counts,
            ..About::default()
        };
        Ok(EdgeEffects {
            effect: self.table(about)?,
            edges: self.edges,
            per_prompt: self.per_prompt,
            orientation: pairs.orientation(metric),
            clean,
            corrupted,
        })
    }

    /// `[source, receiver]`, with errors where there are several pairs.
    fn table(&self, about: About) -> Result<Labelled> {
        let reached = |row: ndarray::ArrayView1<'_, f32>| !row.iter().any(|v| v.is_nan());
        let rows = || self.per_prompt.rows().into_iter();
        let absent = rows().map(|row| (self.partial && !reached(row)).then_some(Absent::NotRun));
        let means = means(&self.per_prompt);
        let table = tabulate(&self.edges, means.zip(absent), about)?;
        if self.per_prompt.ncols() < 2 {
            return Ok(table);
        }
        let error = |row| {
            if reached(row) {
                Estimate::of(row.iter().copied()).std_error
            } else {
                f32::NAN
            }
        };
        table.with_std_error(spread(&self.edges, f32::NAN, rows().map(error)))
    }
}
