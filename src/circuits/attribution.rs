//! Approximate effects of edges: differences of activations times gradients.

mod runs;

use ndarray::{Array2, ArrayView2, Axis as Dim};

use super::effects::{EdgeEffects, Found};
use super::graph::Graph;
use super::pairs::{Pairs, matrix};
use super::set::EdgeSet;
use crate::base::Base;
use crate::cache::ActivationCache;
use crate::component::{Head, Qkv};
use crate::error::{Error, Result};
use crate::limits::{Limits, limits_methods};
use crate::metric::Metric;
use crate::model::Transformer;
use crate::ops;
use crate::prompt::IntoPrompts;
use crate::report::Direction;

use super::edge::Receiver;
use runs::{Runs, Slopes};

/// Points on the way between two runs at which gradients are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Steps {
    /// `k/n` for `k` from 0 to `n − 1`: the donor's end is among them. What EAP-IG's program has
    /// done since February 2025, and MIB's numbers; 5 is their default.
    Left(usize),
    /// `k/n` for `k` from 1 to `n`: the changed run's end is among them, as in Hanna et al. (2024).
    Right(usize),
    /// `(k + ½)/n` for `k` from 0 to `n − 1`, the most exact rule.
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
}

/// How effects of edges are approximated. In all of them the score of an edge is the difference of
/// what its source writes in both runs, times the metric's gradient `g` at what its receiver
/// reads, summed over positions; they differ in the runs that `g` is a mean over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Approximation {
    /// Edge attribution patching (Syed et al. 2023): `g` of the run that is changed.
    Eap,
    /// EAP-IG on inputs (Hanna et al. 2024): `g` of runs with the token embeddings on the way from
    /// the donor's to their own, everything downstream computed.
    EapIg(Steps),
    /// `g` of the clean and of the corrupted run.
    CleanCorrupted,
    /// EAP-IG on activations as it is described: `g` of runs in which the edge's own source alone
    /// writes what lies on the way from the donor's output to its own, at `k/n` for `k` from 1 to
    /// `n`. Takes `n` gradients per source.
    ActivationsAsPublished(usize),
    /// EAP-IG on activations as EAP-IG's program has it, and MIB's numbers: for every edge, the
    /// mean of `g` over runs in which in turn the embedding, all heads of a layer, or an MLP write
    /// what lies on that way, as constants through which no gradient flows.
    ActivationsAsImplemented(usize),
}

impl Approximation {
    fn name(self) -> &'static str {
        match self {
            Approximation::Eap => "EAP",
            Approximation::EapIg(_) => "EAP-IG (inputs)",
            Approximation::CleanCorrupted => "Clean-corrupted attribution",
            Approximation::ActivationsAsPublished(_) => "EAP-IG (activations, as published)",
            Approximation::ActivationsAsImplemented(_) => "EAP-IG (activations, as implemented)",
        }
    }

    fn check(self, pairs: &Pairs<'_>, metric: &Metric) -> Result<()> {
        let steps = match self {
            Approximation::Eap | Approximation::CleanCorrupted => 1,
            Approximation::EapIg(steps) => steps.count(),
            Approximation::ActivationsAsPublished(n)
            | Approximation::ActivationsAsImplemented(n) => n,
        };
        if steps == 0 {
            return Err(Error::invalid("steps of EAP-IG", 0, "at least 1"));
        }
        let at_clean = self == Approximation::Eap && pairs.direction == Direction::Noising;
        if at_clean && metric.lacks_reference() {
            return Err(Error::invalid(
                "metric of EAP at the clean run",
                metric.name(),
                "one whose gradient there is not zero; or EAP-IG, or denoising, for gradients of \
                 other runs",
            ));
        }
        Ok(())
    }
}

/// Approximate effects of all edges by gradients, in the place of [`ExactEdges`].
///
/// Signs are those of exact effects: the change of the metric of the base run (the clean one with
/// noising, the default) if an edge carries the donor's values. With gradients of another run than
/// the base, too, since the difference has its sign.
///
/// ```
/// use patchlens::circuits::{Approximation, EdgeAttribution, Ranking, Steps};
/// use patchlens::{Config, Prompt, Transformer, logit_diff};
/// let config = Config { n_layers: 2, n_heads: 2, d_model: 8, d_mlp: 16, d_vocab: 11, ..Config::gpt2() };
/// let model = Transformer::random(config, 0)?;
/// let (clean, corrupted) = (Prompt::from([1, 2, 3]), Prompt::from([1, 4, 3]));
/// let study = EdgeAttribution::new(&model, &clean, &corrupted)?;
/// let found = study.run(Approximation::EapIg(Steps::Left(5)), &logit_diff(2, 4))?;
/// let circuit = found.scores()?.top_n(10, Ranking::Absolute)?.pruned();
/// assert!(circuit.len() <= 10);
/// # Ok::<(), patchlens::Error>(())
/// ```
///
/// [`ExactEdges`]: super::ExactEdges
#[derive(Clone, Debug)]
pub struct EdgeAttribution<'m> {
    pairs: Pairs<'m>,
    limits: Limits<'m>,
}

impl<'m> EdgeAttribution<'m> {
    /// A study of prompt pairs.
    ///
    /// # Errors
    /// [`Error::Prompt`] or [`Error::OutOfRange`] if a prompt cannot run, [`Error::Invalid`] for
    /// another number of corrupted prompts, [`Error::Prompt`] if the two of a pair differ in
    /// length.
    pub fn new(
        model: &'m Transformer,
        clean: impl IntoPrompts,
        corrupted: impl IntoPrompts,
    ) -> Result<Self> {
        Ok(Self::of(Pairs::new(model, clean, corrupted)?))
    }

    /// A study of base runs, which other studies may share.
    ///
    /// # Errors
    /// [`Error::Invalid`] for another number of corrupted prompts, [`Error::Prompt`] if the two
    /// of a pair differ in length.
    pub fn over(clean: &Base<'m>, corrupted: &Base<'m>) -> Result<Self> {
        Ok(Self::of(Pairs::over(clean, corrupted)?))
    }

    fn of(pairs: Pairs<'m>) -> Self {
        EdgeAttribution {
            pairs,
            limits: Limits::default(),
        }
    }

    /// Which run is changed: the clean one ([`Direction::Noising`], the default) or the corrupted
    /// one.
    #[must_use]
    pub fn direction(mut self, direction: Direction) -> Self {
        self.pairs.direction = direction;
        self
    }

    limits_methods!('m);

    /// The graph whose edges the model has.
    pub fn graph(&self) -> Graph {
        self.pairs.graph()
    }

    /// The approximate effects of all edges.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a metric without a gradient, for a KL divergence to the clean run
    /// with [`Approximation::Eap`] at that run, where its gradient is zero, and for no steps;
    /// [`Error::MemoryLimit`] if not even one pair fits the memory limit; else same as
    /// [`Base::metric`].
    pub fn run(&self, method: Approximation, metric: &Metric) -> Result<EdgeEffects> {
        method.check(&self.pairs, metric)?;
        let metric = self.pairs.clean.refer(metric)?;
        let graph = self.graph();
        let mut per_prompt = Array2::from_elem((graph.n_edges(), self.pairs.len()), f32::NAN);
        let mut runs = Runs::new(&self.pairs, method, &metric, &self.limits)?;
        while let Some(batch) = runs.next_batch()? {
            for (pair, scores) in batch {
                per_prompt.column_mut(pair).assign(&ndarray::arr1(&scores));
            }
        }
        let [base, donor] = self.pairs.names();
        let found = Found {
            title: method.name(),
            caption: format!(
                "One edge of the {base} run carries what its source wrote in the {donor} run, by \
                 gradients"
            ),
            edges: EdgeSet::full(graph),
            per_prompt,
            counts: vec![("gradient runs", runs.done() as u64)],
            partial: runs.done() < runs.total(),
        };
        found.label(&self.pairs, &metric)
    }
}

/// What sources write, by source, each row all positions of one pair, `[source, pos × d_model]`.
pub(super) struct Written(pub Array2<f32>);

impl Written {
    /// The differences of both runs of a pair.
    pub fn differences(pairs: &Pairs<'_>, pair: usize) -> Result<Self> {
        let graph = pairs.graph();
        let n = pairs.clean.prompts()[pair].len();
        let mut all = ops::matrix((graph.n_sources(), n * graph.d_model()));
        for (source, mut row) in graph.sources().zip(all.rows_mut()) {
            let of_one = pairs.differences(source, pair..pair + 1)?;
            let flat = of_one[0].flatten();
            row.assign(&flat);
        }
        Ok(Written(all))
    }

    /// Scores of all edges in graph order: the products with the gradients at what receivers read.
    pub fn scores(&self, graph: Graph, slopes: &Slopes) -> Result<Vec<f32>> {
        let mut scores = vec![0.0; graph.n_edges()];
        for (readers, gradient) in slopes.by_readers(graph)? {
            let edges = readers.iter().map(|to| graph.edges_into(*to));
            let edges = edges.collect::<Result<Vec<_>>>()?;
            let before = ops::part(self.0.view(), 0, 0..edges[0].len());
            let products = ops::on_pool(|| ops::matmul(before, gradient.t()));
            for (edges, column) in edges.into_iter().zip(products.columns()) {
                let to = &mut scores[edges];
                to.iter_mut().zip(column).for_each(|(to, v)| *to = *v);
            }
        }
        Ok(scores)
    }

    /// The same for the edges of one source alone; the others stay as they are.
    pub fn scores_of(&self, graph: Graph, source: usize, slopes: &Slopes, to: &mut [f32]) -> Result<()> {
        let own = self.0.select(Dim(0), &[source]);
        for (readers, gradient) in slopes.by_readers(graph)? {
            let products = ops::matmul(own.view(), gradient.t());
            for (receiver, value) in readers.iter().zip(&products) {
                let edges = graph.edges_into(*receiver)?;
                if source < edges.len() {
                    to[edges.start + source] = *value;
                }
            }
        }
        Ok(())
    }
}

/// The receivers that read at one place, and what one pair's cache has there for each of them,
/// `[receiver, pos × d_model]`.
pub(super) fn read_by(
    graph: Graph,
    to: Receiver,
    cache: &ActivationCache,
) -> Result<(Vec<Receiver>, Array2<f32>)> {
    let at = to.point(graph.n_layers());
    let Receiver::Head(Head { layer, .. }, read) = to else {
        let rows = matrix(cache, at)?;
        return Ok((vec![to], flat(rows)));
    };
    let all = cache.get(at)?;
    let n = all.len_of(Dim(0));
    let by_head = all.permuted_axes(vec![1, 0, 2]);
    let by_head = by_head.as_standard_layout().into_owned();
    let flat = by_head
        .into_shape_with_order((graph.n_heads(), n * graph.d_model()))
        .expect("the array is contiguous");
    let readers = (0..graph.n_heads()).map(|head| Receiver::Head(Head::new(layer, head), read));
    Ok((readers.collect(), flat))
}

fn flat(rows: ArrayView2<'_, f32>) -> Array2<f32> {
    let (n, width) = rows.dim();
    let owned = rows.as_standard_layout().into_owned();
    owned
        .into_shape_with_order((1, n * width))
        .expect("the array is contiguous")
}

/// One receiver for each place at which receivers read.
pub(super) fn places(graph: Graph) -> impl Iterator<Item = Receiver> {
    let of_layer = |layer| {
        let heads = Qkv::ALL.map(|read| Receiver::Head(Head::new(layer, 0), read));
        heads.into_iter().chain([Receiver::Mlp(layer)])
    };
    (0..graph.n_layers())
        .flat_map(of_layer)
        .chain([Receiver::Logits])
}
