//! Information flow routes: how much of what a receiver reads is a source's.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use ndarray::{Array2, ArrayView2};

use super::edge::Source;
use super::effects::means;
use super::graph::Graph;
use super::pairs::matrix;
use super::scores::{EdgeScores, Orientation};
use super::set::EdgeSet;
use super::table::tabulate;
use crate::base::Base;
use crate::error::Result;
use crate::hook::HookPoint;
use crate::limits::{Limits, observe_method};
use crate::model::Transformer;
use crate::pairs::averaged;
use crate::prompt::IntoPrompts;
use crate::report::{About, Absent, Labelled, Palette};

/// Information flow routes (Ferrando and Voita 2024, arXiv 2403.00824): the importance of edges
/// without a metric, a second prompt or a gradient, from how near each source's output comes to
/// what a receiver reads.
///
/// With `a_u` what source `u` writes and `x_v` the residual stream that receiver `v` reads,
///
/// ```text
/// near(u→v) = max(0, |x_v|₁ − |x_v − a_u|₁)
/// score(u→v) = mean over positions of near(u→v) / Σ_w near(w→v)
/// ```
///
/// 0/0 is 0. So scores are between 0 and 1, and those of a receiver's edges add up to at most 1,
/// where the position embedding and biases, which belong to no edge, have no share. The queries,
/// keys and values of all heads of a layer read the same stream, hence have the same scores: the
/// method says what is there to be read, not what is read, nor whether it matters to the answer.
///
/// ```
/// use patchlens::circuits::{InformationFlow, Ranking};
/// use patchlens::{Config, Prompt, Transformer};
/// let config = Config { n_layers: 2, n_heads: 2, d_model: 8, d_mlp: 16, d_vocab: 11,
/// ..Config::gpt2() };
/// let model = Transformer::random(config, 0)?;
/// let found = InformationFlow::new(&model, &Prompt::from([1, 2, 3]))?.run()?;
/// assert_eq!(found.per_prompt.dim(), (46, 1)); // [edge, prompt]
/// let circuit = found.scores()?.greedy(10, Ranking::Signed)?;
/// assert_eq!(circuit.len(), 10);
/// # Ok::<(), patchlens::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct InformationFlow<'m> {
    base: Base<'m>,
    limits: Limits<'m>,
}

/// The scores of information flow routes.
#[derive(Clone, Debug)]
pub struct FlowScores {
    /// The mean score over the prompts, `[source, receiver]`; no value where there is no edge.
    pub effect: Labelled,
    /// The score in each prompt, `[edge, prompt]`, edges in graph order; NaN for prompts that were
    /// not reached before an observer ended the study.
    pub per_prompt: Array2<f32>,
    graph: Graph,
}

impl FlowScores {
    /// The mean score of each edge, from which circuits are selected.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) if not every prompt was reached.
    pub fn scores(&self) -> Result<EdgeScores> {
        let means = means(&self.per_prompt).collect();
        EdgeScores::new(self.graph, means, Orientation::UsefulIsPositive)
    }
}

impl<'m> InformationFlow<'m> {
    /// A study of prompts.
    ///
    /// # Errors
    /// Same as [`Base::new`].
    pub fn new(model: &'m Transformer, prompts: impl IntoPrompts) -> Result<Self> {
        Ok(Self::over(&Base::new(model, prompts)?))
    }

    /// A study of base runs, which other studies may share.
    pub fn over(base: &Base<'m>) -> Self {
        InformationFlow {
            base: base.clone(),
            limits: Limits::default(),
        }
    }

    observe_method!('m);

    /// The scores of all edges.
    ///
    /// # Errors
    /// [`Error::NotCached`](crate::Error::NotCached) if given caches lack what sources write or
    /// receivers read.
    pub fn run(&self) -> Result<FlowScores> {
        self.base.check_heads_write_z("information flow")?;
        let (graph, prompts) = (Graph::new(self.base.model().config()), self.base.prompts());
        let written = graph.sources().map(Source::point);
        let read = graph.receivers().map(|to| to.stream(graph.n_layers()));
        let caches = self.base.held(written.chain(read))?;
        let mut per_prompt = Array2::from_elem((graph.n_edges(), prompts.len()), f32::NAN);
        let mut partial = false;
        for (i, cache) in caches.iter().enumerate() {
            let written = graph.sources().map(|u| u.output(self.base.model(), cache));
            let written: Vec<Array2<f32>> = written.collect::<Result<_>>()?;
            let mut shares: BTreeMap<HookPoint, Vec<f32>> = BTreeMap::new();
            for to in graph.receivers() {
                let (edges, at) = (graph.edges_into(to)?, to.stream(graph.n_layers()));
                if let Entry::Vacant(entry) = shares.entry(at) {
                    entry.insert(of_sources(matrix(cache, at)?, &written[..edges.len()]));
                }
                for (edge, share) in edges.zip(&shares[&at]) {
                    per_prompt[[edge, i]] = *share;
                }
            }
            let flow = self.limits.report(i + 1, prompts.len(), "prompts");
            if flow.is_break() && i + 1 < prompts.len() {
                partial = true;
                break;
            }
        }
        let about = About {
            title: "Information flow routes".to_string(),
            caption: format!(
                "Share of what the receiver reads that is the source's; {}.",
                averaged(prompts.len(), "prompt")
            ),
            unit: "share".to_string(),
            palette: Palette::Sequential,
            counts: [("prompts".to_string(), prompts.len() as u64)].into(),
            partial,
            ..About::default()
        };
        let absent = partial.then_some(Absent::NotRun);
        let values = means(&per_prompt).map(|mean| (mean, absent));
        Ok(FlowScores {
            effect: tabulate(&EdgeSet::full(graph), values, about)?,
            per_prompt,
            graph,
        })
    }
}

/// The share that each of some sources has of a stream, mean over the positions.
fn of_sources(stream: ArrayView2<'_, f32>, written: &[Array2<f32>]) -> Vec<f32> {
    let mut shares = vec![0.0; written.len()];
    for (position, row) in stream.rows().into_iter().enumerate() {
        let size = |values: &mut dyn Iterator<Item = f64>| values.map(f64::abs).sum::<f64>();
        let whole = size(&mut row.iter().map(|x| f64::from(*x)));
        let near = written.iter().map(|rows| {
            let pairs = row.iter().zip(rows.row(position));
            let rest = size(&mut pairs.map(|(x, a)| f64::from(*x) - f64::from(*a)));
            (whole - rest).max(0.0)
        });
        let near: Vec<f64> = near.collect();
        let sum: f64 = near.iter().sum();
        if sum > 0.0 {
            let each = shares.iter_mut().zip(near);
            each.for_each(|(to, near)| *to += near / sum);
        }
    }
    let positions = stream.nrows() as f64;
    shares
        .into_iter()
        .map(|share| (share / positions) as f32)
        .collect()
}
