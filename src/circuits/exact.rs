//! The exact effect of edges: path patching of one edge each, with everything downstream computed.

mod groups;

use std::ops::ControlFlow;

use ndarray::{Array2, Array3, ArrayView2, Axis as Dim};

use super::edge::{Edge, Receiver};
use super::effects::{EdgeEffects, Found, PositionEffects};
use super::pairs::edge_study_methods;
use super::set::EdgeSet;
use crate::effects::Zeros;
use crate::error::Result;
use crate::intervention::{Edit, Intervention, Target, Values};
use crate::limits::Limits;
use crate::metric::Metric;
use crate::pairs::Pairs;
use crate::report::About;
use crate::sweep::{Cell, Plan};

/// The exact effect of edges: how the metric changes if one receiver reads what one source wrote in
/// the other run of a pair, and everything downstream is computed anew (Wang et al. 2022's path
/// patching without frozen heads; "edge activation patching" in the circuit track of MIB).
///
/// With noising, the default, an edge of the clean run carries what the source wrote in the
/// corrupted run: the receiver reads `x + (ã − a)`, and the effect is
/// `metric(that run) − metric(clean run)`. With denoising the two are exchanged.
///
/// Each effect has the bits that one full run would give with the sum set at the receiver's input
/// (`hook_q_input` and the like, `hook_mlp_in`, or the last `hook_resid_post`), see
/// [`ExactEdges::cell`]. Queries, keys and values of all heads of a layer are one product for all
/// sources; from there on each edge is a lane that holds only the rows which it changes.
///
/// ```
/// use patchlens::circuits::{EdgeSet, ExactEdges};
/// use patchlens::{Config, Prompt, Transformer, logit_diff};
/// let config = Config { n_layers: 2, n_heads: 2, d_model: 8, d_mlp: 16, d_vocab: 11,
/// ..Config::gpt2() };
/// let model = Transformer::random(config, 0)?;
/// let (clean, corrupted) = (Prompt::from([1, 2, 3]), Prompt::from([1, 4, 3]));
/// let study = ExactEdges::new(&model, &clean, &corrupted)?;
/// let found = study.run(&EdgeSet::full(study.graph()), &logit_diff(2, 4))?;
/// assert_eq!(found.per_prompt.dim(), (46, 1)); // [edge, pair]
/// println!("{}", found.of("a0.h1->a1.h0<q>".parse()?)?);
/// # Ok::<(), patchlens::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct ExactEdges<'m> {
    pairs: Pairs<'m>,
    limits: Limits<'m>,
}

impl<'m> ExactEdges<'m> {
    edge_study_methods!('m);

    /// What will be done for some edges. Finding out which lanes change nothing takes a few
    /// thousandths of the study's own work.
    ///
    /// # Errors
    /// Same as [`ExactEdges::run`].
    pub fn plan(&self, edges: &EdgeSet, metric: &Metric) -> Result<Plan> {
        let edges: Vec<Edge> = self.checked(edges)?.edges().collect();
        let metric = self.pairs.clean.refer_within(metric, self.limits.room(0))?;
        let mut whole = Plan::default();
        self.each_group(&edges, &metric, |group| {
            let mut own = group.sweep.plan().clone();
            own.multiply_adds += group.multiply_adds;
            whole.add(&own);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(whole)
    }

    /// The effects of some edges, or of [all](EdgeSet::full). Edges into late receivers come
    /// first, since they take least.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) for a set of another model's edges; else same as
    /// [`Sweep::prepare`](crate::Sweep::prepare).
    pub fn run(&self, edges: &EdgeSet, metric: &Metric) -> Result<EdgeEffects> {
        let metric = self.pairs.clean.refer_within(metric, self.limits.room(0))?;
        let list: Vec<Edge> = self.checked(edges)?.edges().collect();
        let mut per_prompt = Array2::from_elem((list.len(), self.pairs.len()), f32::NAN);
        let mut reached = vec![false; list.len()];
        let mut work = Work::default();
        self.each_group(&list, &metric, |group| {
            work.run(group, |edge, changes| {
                per_prompt.row_mut(edge).assign(&changes);
                reached[edge] = true;
            })
        })?;
        let [base, donor] = self.pairs.names();
        let found = Found {
            title: "Exact effects of edges",
            caption: format!(
                "One edge of the {base} run carries what its source wrote in the {donor} run"
            ),
            edges: edges.clone(),
            per_prompt,
            zeros: Zeros::Measured,
            counts: vec![
                (About::MULTIPLY_ADDS, work.multiply_adds),
                (About::FULL_PASSES, work.naive),
            ],
            reached,
        };
        found.label(&self.pairs, &metric, &self.limits)
    }

    /// The effects of some edges at each position by itself: elsewhere the edge carries what it
    /// carries in the base.
    ///
    /// # Errors
    /// Same as [`ExactEdges::run`]; [`Error::Prompt`](crate::Error::Prompt) if the pairs differ in
    /// length.
    pub fn run_by_position(&self, edges: &EdgeSet, metric: &Metric) -> Result<PositionEffects> {
        let metric = self.pairs.clean.refer_within(metric, self.limits.room(0))?;
        let n = self.pairs.common_len()?;
        let list: Vec<Edge> = self.checked(edges)?.edges().collect();
        let places = list
            .iter()
            .enumerate()
            .flat_map(|(i, _)| (0..n).map(move |position| (i, Some(position))));
        let mut per_prompt = Array3::from_elem((list.len(), n, self.pairs.len()), f32::NAN);
        let mut work = Work::default();
        let mut flat = per_prompt
            .view_mut()
            .into_shape_with_order((list.len() * n, self.pairs.len()))
            .expect("the array is contiguous");
        self.each_group_at(&list, places.collect(), &metric, |group| {
            work.run(group, |place, changes| {
                flat.row_mut(place).assign(&changes);
            })
        })?;
        Ok(PositionEffects {
            partial: work.finished < list.len() * n,
            edges: list,
            per_prompt,
        })
    }

    /// The interventions by which a plain run has an edge's effect: the difference of what the
    /// source wrote in the two runs of each pair, added to what the receiver reads.
    ///
    /// # Errors
    /// For an edge that the model lacks, see [`Graph::index`](crate::circuits::Graph::index).
    pub fn cell(&self, edge: Edge) -> Result<Cell> {
        self.graph().index(edge)?;
        let n_layers = self.graph().n_layers();
        let target = Target::new(edge.to.point(n_layers));
        let differences = self.pairs.differences(edge.from)?.into_iter();
        let (target, values) = match edge.to {
            Receiver::Head(head, _) => {
                let for_heads = differences.map(|rows| rows.insert_axis(Dim(1)).into_dyn());
                (target.at_heads(head.head), for_heads.collect())
            }
            Receiver::Mlp(_) | Receiver::Logits => {
                (target, differences.map(Array2::into_dyn).collect())
            }
        };
        let edit = Edit::Add(Values::arrays(values));
        Ok(vec![Intervention::new(target, edit)])
    }

    fn checked<'e>(&self, edges: &'e EdgeSet) -> Result<&'e EdgeSet> {
        self.graph().expect_same(edges.graph())?;
        self.pairs.check_sources()?;
        // Lanes depart at queries, keys and values, which are computed from the stream here.
        let [base, _] = self.pairs.base_and_donor();
        let n_layers = self.graph().n_layers();
        let mut read = edges.edges().map(|edge| edge.to.point(n_layers));
        read.try_for_each(|point| base.check_departs_at(&Target::new(point)))?;
        Ok(edges)
    }
}

/// What the groups so far have taken.
#[derive(Default)]
struct Work {
    multiply_adds: u64,
    naive: u64,
    /// Cells that were reached on every pair.
    finished: usize,
}

impl Work {
    /// Runs a group, and hands each cell that was reached and its changes `[pair]` to `each`.
    fn run(
        &mut self,
        group: groups::Ready<'_>,
        mut each: impl FnMut(usize, ndarray::Array1<f32>),
    ) -> Result<ControlFlow<()>> {
        let result = group.sweep.run()?;
        self.multiply_adds += result.multiply_adds + group.multiply_adds;
        self.naive = self.naive.saturating_add(result.plan.naive_multiply_adds);
        let values: ArrayView2<'_, f32> = result.values.view();
        for (i, place) in group.places.iter().enumerate() {
            if result.finished[i] {
                self.finished += 1;
                each(*place, &values.row(i) - &result.base);
            }
        }
        Ok(if group.limits.ended() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        })
    }
}
