//! Edges in groups that share a sweep: those into the readers of one layer, from as many sources
//! as fit the memory.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use ndarray::{Array2, ArrayD, ArrayView2, Axis};

use super::ExactEdges;
use crate::circuits::edge::{Edge, Receiver, Source};
use crate::circuits::pairs::matrix;
use crate::component::Qkv;
use crate::error::{Error, Result};
use crate::hook::{HookPoint, Site};
use crate::intervention::{Edit, Intervention, Target, Values};
use crate::limits::Limits;
use crate::metric::Metric;
use crate::model::stage::Kind;
use crate::ops::{self, part};
use crate::sweep::{Cell, Prepared, Sweep};

/// A cell's edge, as its place in the list of edges, and the only position at which it acts, if
/// there is one.
type Place = (usize, Option<usize>);

/// A group that is ready to run.
pub(super) struct Ready<'g> {
    /// Which of all cells these are.
    pub places: &'g [usize],
    pub sweep: &'g Prepared<'g>,
    pub limits: &'g Limits<'g>,
    /// What its values took.
    pub multiply_adds: u64,
}

/// The cells of some sources, before they are planned.
struct Group<'g> {
    /// Which of all cells they are.
    places: Vec<usize>,
    cells: Vec<Cell>,
    limits: Limits<'g>,
    multiply_adds: u64,
    bytes: u64,
}

/// What edges carry into the readers of one layer.
struct Carried {
    /// By source and by reader's stage: what an intervention sets or adds.
    edits: BTreeMap<(Source, Option<Qkv>), Edit>,
    multiply_adds: u64,
}

/// What is the same for all groups.
struct Visit<'v, F> {
    edges: &'v [Edge],
    places: &'v [Place],
    metric: &'v Metric,
    done: usize,
    /// The memory that groups need which do not fit; once there is one, no more are run.
    lacking: Option<u64>,
    each: F,
}

impl ExactEdges<'_> {
    /// Hands groups of whole edges to `each`, which may end the work.
    pub(super) fn each_group(
        &self,
        edges: &[Edge],
        metric: &Metric,
        each: impl FnMut(Ready<'_>) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        let places = (0..edges.len()).map(|i| (i, None)).collect();
        self.each_group_at(edges, places, metric, each)
    }

    /// The same with one cell per place.
    pub(super) fn each_group_at(
        &self,
        edges: &[Edge],
        places: Vec<Place>,
        metric: &Metric,
        each: impl FnMut(Ready<'_>) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        let n_layers = self.graph().n_layers();
        let read = edges.iter().map(|edge| changed_site(edge.to, n_layers));
        self.pairs
            .expect(read.chain(edges.iter().map(|edge| edge.to.stream(n_layers))));
        self.pairs.begin(&self.limits)?;
        let mut visit = Visit {
            edges,
            places: &places,
            metric,
            done: 0,
            lacking: None,
            each,
        };
        let key = |cell: usize| {
            let Edge { from, to } = edges[places[cell].0];
            (std::cmp::Reverse(to.time()), from)
        };
        let mut cells: Vec<usize> = (0..places.len()).collect();
        cells.sort_by_key(|cell| key(*cell));
        // The largest of all, so that what cannot fit is rejected before the others have run.
        if let Some(largest) = cells.chunk_by(|a, b| key(*a) == key(*b)).next_back() {
            visit.lacking = self.lacking(largest, &visit)?;
        }
        for layer in cells.chunk_by(|a, b| key(*a).0 == key(*b).0) {
            let sources: Vec<&[usize]> = layer.chunk_by(|a, b| key(*a) == key(*b)).collect();
            let at_once =
                self.limits.memory / 4 / self.bytes_per_source(edges[places[layer[0]].0].to);
            let at_once = at_once.clamp(1, sources.len() as u64) as usize;
            for group in sources.chunks(at_once) {
                if self.visit(group, &mut visit)?.is_break() {
                    return Ok(());
                }
            }
        }
        match visit.lacking {
            None => Ok(()),
            Some(least) => Err(Error::MemoryLimit {
                limit: self.limits.memory,
                least,
            }),
        }
    }

    /// Memory of what one source sends to a layer's readers.
    fn bytes_per_source(&self, to: Receiver) -> u64 {
        let arrays = match to {
            // The difference, the sum and its norm; queries, keys and values and their copies.
            Receiver::Head(..) => 3 + 2 * Qkv::ALL.len(),
            Receiver::Mlp(_) | Receiver::Logits => 2,
        };
        let config = self.pairs.model().config();
        let width = config.d_model.max(config.d_heads());
        (4 * arrays * width * self.pairs.tokens()) as u64
    }

    /// The memory that one source's cells need, if they do not fit.
    fn lacking<F>(&self, source: &[usize], visit: &Visit<'_, F>) -> Result<Option<u64>> {
        let group = self.group(&[source], visit)?;
        let [base, _] = self.pairs.base_and_donor();
        let mut limits = group.limits.quiet();
        // What it knows is asked for in order, below.
        limits.journal = None;
        let sweep = Sweep::limited(base, limits).beside(self.beside(&group));
        match sweep.prepare(&group.cells, visit.metric) {
            Err(Error::MemoryLimit { least, .. }) => Ok(Some(least)),
            prepared => prepared.map(|_| None),
        }
    }

    /// Bytes that a group's sweep is beside: what its edges carry, and what the donor keeps.
    fn beside(&self, group: &Group<'_>) -> u64 {
        let [base, donor] = self.pairs.base_and_donor();
        group.bytes + donor.held_beside(base)
    }

    /// The cells of some sources.
    fn group<F>(&self, sources: &[&[usize]], visit: &Visit<'_, F>) -> Result<Group<'_>> {
        let places = sources.concat();
        let edge = |cell: &usize| visit.edges[visit.places[*cell].0];
        let carried = self.carried(&places.iter().map(edge).collect::<Vec<_>>())?;
        let n_layers = self.graph().n_layers();
        let cell = |cell: &usize| carried.cell(edge(cell), visit.places[*cell].1, n_layers);
        let bytes = self.bytes_per_source(edge(&places[0]).to) * sources.len() as u64;
        let unit = match visit.places[places[0]].1 {
            None => "edges",
            Some(_) => "edges at positions",
        };
        Ok(Group {
            cells: places.iter().map(cell).collect(),
            multiply_adds: carried.multiply_adds,
            places,
            limits: self.limits.after(visit.done, visit.places.len(), unit),
            bytes,
        })
    }

    /// Prepares the cells of some sources; of fewer at a time, if they do not fit the memory.
    fn visit(
        &self,
        sources: &[&[usize]],
        visit: &mut Visit<'_, impl FnMut(Ready<'_>) -> Result<ControlFlow<()>>>,
    ) -> Result<ControlFlow<()>> {
        let group = self.group(sources, visit)?;
        let [base, _] = self.pairs.base_and_donor();
        let sweep = Sweep::limited(base, group.limits.clone()).beside(self.beside(&group));
        let prepared = match sweep.prepare(&group.cells, visit.metric) {
            Err(Error::MemoryLimit { .. }) if sources.len() > 1 => {
                let (first, second) = sources.split_at(sources.len() / 2);
                drop(group);
                return match self.visit(first, visit)? {
                    ControlFlow::Continue(()) => self.visit(second, visit),
                    ControlFlow::Break(()) => Ok(ControlFlow::Break(())),
                };
            }
            Err(Error::MemoryLimit { least, .. }) => {
                visit.lacking = visit.lacking.max(Some(least));
                return Ok(ControlFlow::Continue(()));
            }
            _ if visit.lacking.is_some() => return Ok(ControlFlow::Continue(())),
            prepared => prepared?,
        };
        let flow = (visit.each)(Ready {
            places: &group.places,
            sweep: &prepared,
            limits: &group.limits,
            multiply_adds: group.multiply_adds,
        })?;
        visit.done += group.places.len();
        Ok(flow)
    }

    /// What these edges, all into the readers of one layer, carry.
    fn carried(&self, edges: &[Edge]) -> Result<Carried> {
        let mut sources: Vec<Source> = edges.iter().map(|edge| edge.from).collect();
        sources.dedup();
        let differences = sources.iter().map(|source| self.pairs.differences(*source));
        let differences: Vec<Vec<Array2<f32>>> = differences.collect::<Result<_>>()?;
        let macs = sources
            .iter()
            .map(|source| self.pairs.difference_macs(*source));
        let mut carried = Carried {
            edits: BTreeMap::new(),
            multiply_adds: macs.sum(),
        };
        let Receiver::Head(first, _) = edges[0].to else {
            for (source, by_pair) in sources.into_iter().zip(differences) {
                let values = by_pair.into_iter().map(Array2::into_dyn).collect();
                let edit = Edit::Add(Values::arrays(values));
                carried.edits.insert((source, None), edit);
            }
            return Ok(carried);
        };
        let normed = self.normed(first.layer, &differences)?;
        let placed = self.placed(&normed)?;
        for read in Qkv::ALL {
            if edges.iter().any(|edge| edge.to.reads() == Some(read)) {
                let input = if read == Qkv::V { &normed } else { &placed };
                let made = self.pairs.project(first.layer, read, input.view());
                carried.multiply_adds += (made.len() * input.ncols()) as u64;
                for (source, values) in sources.iter().zip(self.split(&made)) {
                    let edit = Edit::Patch(Values::arrays(values));
                    carried.edits.insert((*source, Some(read)), edit);
                }
            }
        }
        Ok(carried)
    }

    /// What a layer's attention reads with each of these differences added, after LayerNorm, by
    /// source and pair one below another, `[rows, d_model]`.
    fn normed(&self, layer: usize, differences: &[Vec<Array2<f32>>]) -> Result<Array2<f32>> {
        let [base, _] = self.pairs.base_and_donor();
        let at = Site::ResidPre.at(layer);
        let caches = base.held([at])?;
        let mut x = ops::matrix((
            differences.len() * self.pairs.tokens(),
            self.graph().d_model(),
        ));
        let mut first = 0;
        for by_pair in differences {
            for (difference, cache) in by_pair.iter().zip(caches.iter()) {
                let rows = first..first + difference.nrows();
                let mut to = ops::part_mut(x.view_mut(), 0, rows);
                to.assign(&matrix(cache, at)?);
                to += difference;
                first += difference.nrows();
            }
        }
        let model = self.pairs.model();
        let ln = &model.parameters().h[layer].ln_1;
        Ok(ops::on_pool(|| ln.apply(model.config(), x)))
    }

    /// What queries and keys are made of: [`Self::normed`], and in some models the position
    /// embeddings.
    fn placed(&self, normed: &Array2<f32>) -> Result<Array2<f32>> {
        let mut placed = normed.clone();
        if Kind::of(self.pairs.model().config()).reads_positions() {
            let [base, _] = self.pairs.base_and_donor();
            let caches = base.held([HookPoint::PosEmbed])?;
            let mut rows = placed.rows_mut().into_iter();
            while rows.len() > 0 {
                for cache in caches.iter() {
                    let positions = matrix(cache, HookPoint::PosEmbed)?;
                    let some = rows.by_ref().take(positions.nrows());
                    some.zip(positions.rows())
                        .for_each(|(mut to, position)| to += &position);
                }
            }
        }
        Ok(placed)
    }

    /// Rows by source and pair as activations `[pos, head, d_head]`, by source and pair.
    fn split(&self, rows: &Array2<f32>) -> Vec<Vec<ArrayD<f32>>> {
        let n_heads = self.graph().n_heads();
        let lengths = self.pairs.clean.prompts().lengths();
        let of_pair = |rows: ArrayView2<'_, f32>| {
            let (n, width) = rows.dim();
            let heads = rows.to_owned();
            let heads = heads.into_shape_with_order((n, n_heads, width / n_heads));
            heads.expect("the rows are contiguous").into_dyn()
        };
        let of_source = |rows: ArrayView2<'_, f32>| {
            let mut first = 0;
            let each = lengths.iter().map(|n| {
                first += n;
                of_pair(part(rows, 0, first - n..first))
            });
            each.collect()
        };
        let sources = rows.axis_chunks_iter(Axis(0), self.pairs.tokens());
        sources.map(of_source).collect()
    }
}

impl Carried {
    /// The cell of an edge, at one position or all.
    fn cell(&self, edge: Edge, position: Option<usize>, n_layers: usize) -> Cell {
        let mut target = Target::new(changed_site(edge.to, n_layers));
        if let Receiver::Head(head, _) = edge.to {
            target = target.at_heads(head.head);
        }
        if let Some(position) = position {
            target = target.at_positions(position);
        }
        let edit = self.edits[&(edge.from, edge.to.reads())].clone();
        vec![Intervention::new(target, edit)]
    }
}

impl Receiver {
    fn reads(self) -> Option<Qkv> {
        match self {
            Receiver::Head(_, read) => Some(read),
            Receiver::Mlp(_) | Receiver::Logits => None,
        }
    }
}

/// Where the lanes of edges into a reader join.
fn changed_site(to: Receiver, n_layers: usize) -> crate::hook::HookPoint {
    match to {
        Receiver::Head(head, read) => read.site().at(head.layer),
        Receiver::Mlp(_) | Receiver::Logits => to.point(n_layers),
    }
}
