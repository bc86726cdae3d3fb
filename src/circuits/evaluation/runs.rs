//! Circuits' runs as lanes: planned, cut into chunks, run.

mod found;
mod ledger;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::ControlFlow;
use std::sync::Arc;

use ndarray::{Array1, Array2};

use ledger::Ledger;

pub(in crate::circuits) use found::Found;

use super::ablation::Ends;
use super::flow::PairRows;
use super::hooks::{CircuitHooks, LaneRun};
use super::plan::{OfPair, Planned, departures, largest};
use super::route::{Form, Manner, Route};
use super::tables::{Needed, Tables};
use crate::base::Base;
use crate::cache::{ActivationCache, Selection};
use crate::circuits::edge::Source;
use crate::circuits::graph::Graph;
use crate::circuits::set::EdgeSet;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::hook::{HookPoint, Site};
use crate::limits::Limits;
use crate::metric::{Metric, Needs};
use crate::model::Transformer;
use crate::model::lane::Lane;
use crate::model::pass::Pass;
use crate::ops::{self, Thrift};
use crate::pairs::fixed_bytes;
use crate::schedule::reads;
use crate::sweep::{Plan, full_passes};

/// As much as lanes that run at a time take, whatever the memory limit allows.
const CHUNK_BYTES: u64 = 128 << 20;

/// The runs of some circuits on every pair.
pub(super) struct Runs<'r, 'm> {
    ends: &'r Ends<'m>,
    metric: &'r Metric,
    routes: Vec<Route>,
    needed: Needed,
    needs: Vec<Needs>,
    full: Arc<[ActivationCache]>,
    empty: Arc<[ActivationCache]>,
    /// What runs that change nothing leave of the metric, `[pair]`, by form.
    same: [Array1<f32>; 2],
    manner: Manner,
    memory: Memory,
}

/// How the runs are made.
#[derive(Clone, Copy)]
pub(super) struct Setting {
    /// Bound of the memory, in bytes.
    pub limit: u64,
    /// Whether nodes all of whose edges are kept are taken from the run that has all edges.
    pub known_nodes: bool,
}

/// The memory of circuits' runs, in bytes.
#[derive(Clone, Copy)]
struct Memory {
    limit: u64,
    /// Whatever runs at a time.
    fixed: u64,
    /// For what runs at a time.
    room: u64,
}

/// Lanes that run at a time.
struct Chunk {
    /// By pair, then by circuit.
    lanes: Vec<Planned>,
    bytes: u64,
    /// How many runs are done when these are, those that need no lane among them.
    done: usize,
}

impl<'r, 'm> Runs<'r, 'm> {
    /// Runs the ends, unless they have run.
    ///
    /// # Errors
    /// [`Error::MemoryLimit`] if not every run would fit; [`Error::NotCached`] if given caches lack
    /// an activation; else same as [`Base::metric`].
    pub fn new(
        ends: &'r Ends<'m>,
        circuits: &[EdgeSet],
        metric: &'r Metric,
        Setting { limit, known_nodes }: Setting,
    ) -> Result<Self> {
        let graph = Graph::new(ends.full.model().config());
        let manner = Manner {
            consistent: ends.carried.is_none(),
            known_nodes,
        };
        let routes = circuits.iter().map(|circuit| Route::new(circuit, manner));
        let routes: Vec<Route> = routes.collect();
        let [full, empty] = held(ends, graph, &routes)?;
        let mut runs = Runs {
            needed: Needed::by(graph, &routes, ends.carried.is_some()),
            needs: ends.full.needs(metric)?,
            same: [ends.empty.metric(metric)?, ends.full.metric(metric)?],
            manner,
            memory: Memory {
                limit,
                fixed: 0,
                room: 0,
            },
            ends,
            metric,
            routes,
            full,
            empty,
        };
        runs.memory = runs.memory()?;
        Ok(runs)
    }

    fn model(&self) -> &'m Transformer {
        self.ends.full.model()
    }

    fn config(&self) -> &'m Config {
        self.model().config()
    }

    /// Number of circuits and of pairs.
    fn dim(&self) -> (usize, usize) {
        (self.routes.len(), self.needs.len())
    }

    fn base(&self, pair: usize, form: Form) -> &ActivationCache {
        match form {
            Form::Kept => &self.empty[pair],
            Form::Removed => &self.full[pair],
        }
    }

    fn of(&self, pair: usize, form: Form) -> OfPair<'_> {
        let base = self.base(pair, form);
        OfPair {
            config: self.config(),
            tokens: base.tokens(),
            base,
            needs: &self.needs[pair],
        }
    }

    /// Memory that a pair's tables of so many sources take, and what is made on the way.
    fn table_bytes(&self, pair: usize, tables: usize) -> u64 {
        let n = self.full[pair].tokens().len();
        (5 * (tables + 3) * n * self.config().d_model) as u64
    }

    fn table_macs(&self, pair: usize) -> u64 {
        let n = self.full[pair].tokens().len();
        self.needed.macs(self.config(), n)
    }

    /// # Errors
    /// [`Error::MemoryLimit`] if a run in which everything is computed would not fit.
    fn memory(&self) -> Result<Memory> {
        let limit = self.memory.limit;
        let fixed = fixed_bytes(self.config(), limit);
        let largest = (0..self.needs.len()).map(|pair| {
            let forms = [Form::Kept, Form::Removed].into_iter();
            let lanes = forms.map(|form| largest(&self.of(pair, form), form));
            let tables = 3 * Graph::new(self.config()).n_sources();
            self.roomy(lanes.max().unwrap_or(0)) + self.table_bytes(pair, tables)
        });
        let least = largest.max().unwrap_or(0);
        if fixed + least > limit {
            let least = fixed + least;
            return Err(Error::MemoryLimit { limit, least });
        }
        Ok(Memory {
            limit,
            fixed,
            room: (limit - fixed).min(CHUNK_BYTES.max(least)),
        })
    }

    fn roomy(&self, bytes: u64) -> u64 {
        Thrift::roomy_bytes(bytes, self.memory.limit)
    }

    /// Plans the lanes and hands them to `each` in chunks, which may end the work.
    fn each_chunk(&self, mut each: impl FnMut(Chunk) -> Result<ControlFlow<()>>) -> Result<()> {
        let (cells, pairs) = self.dim();
        let empty = || Chunk {
            lanes: Vec::new(),
            bytes: 0,
            done: 0,
        };
        let mut chunk = empty();
        let tables = self.needed.tables();
        for pair in 0..pairs {
            let rows = PairRows::new(self.ends, pair)?;
            for (circuit, route) in self.routes.iter().enumerate() {
                let of = self.of(pair, route.form);
                let Some((changes, shown, cost)) = route.plan(&of, &rows) else {
                    continue;
                };
                let table = self.table_bytes(pair, tables);
                let own = self.roomy(cost.bytes);
                let more = |chunk: &Chunk| match chunk.lanes.last() {
                    Some(last) if last.pair == pair => own,
                    _ => own + table,
                };
                if !chunk.lanes.is_empty() && chunk.bytes + more(&chunk) > self.memory.room {
                    chunk.done = pair * cells + circuit;
                    if each(std::mem::replace(&mut chunk, empty()))?.is_break() {
                        return Ok(());
                    }
                }
                chunk.bytes += more(&chunk);
                chunk.lanes.push(Planned {
                    circuit,
                    pair,
                    changes,
                    shown,
                    cost,
                });
            }
        }
        chunk.done = cells * pairs;
        each(chunk).map(|_| ())
    }

    /// What will be done.
    pub fn plan(&self) -> Result<Plan> {
        let (cells, pairs) = self.dim();
        let naive = full_passes(self.config(), self.ends.full.prompts());
        let mut plan = Plan {
            cells,
            prompts: pairs,
            naive_multiply_adds: naive.saturating_mul(cells as u64),
            ..Plan::default()
        };
        let mut last = None;
        self.each_chunk(|chunk| {
            plan.chunks += usize::from(!chunk.lanes.is_empty());
            plan.peak_bytes = plan.peak_bytes.max(self.memory.fixed + chunk.bytes);
            for lane in &chunk.lanes {
                plan.lanes += 1;
                plan.rows += lane.cost.mlp_rows;
                plan.multiply_adds += lane.cost.macs;
                if last.replace(lane.pair) != Some(lane.pair) {
                    plan.multiply_adds += self.table_macs(lane.pair);
                }
            }
            Ok(ControlFlow::Continue(()))
        })?;
        plan.unchanged = cells * pairs - plan.lanes;
        Ok(plan)
    }

    /// Runs the lanes; the observer hears how many runs are done, and may end the work.
    pub fn run(&self, limits: &Limits<'_>) -> Result<Found> {
        let _thrift = Thrift::new(self.memory.limit);
        let (cells, pairs) = self.dim();
        let same = |(circuit, pair): (usize, usize)| {
            let removed = self.routes[circuit].form == Form::Removed;
            self.same[usize::from(removed)][pair]
        };
        let mut found = Found {
            values: Array2::from_shape_fn((cells, pairs), same),
            multiply_adds: 0,
            done: cells * pairs,
        };
        let mut tables: BTreeMap<usize, Tables> = BTreeMap::new();
        limits.undivided("circuits' runs")?;
        let journal = limits.journal.as_ref();
        let mut ledger = journal
            .map(|journal| Ledger::new(self, journal))
            .transpose()?;
        let mut last = None;
        self.each_chunk(|chunk| {
            for lane in &chunk.lanes {
                if last.replace(lane.pair) != Some(lane.pair) {
                    found.multiply_adds += self.table_macs(lane.pair);
                }
            }
            let lanes = match &mut ledger {
                None => chunk.lanes,
                Some(ledger) => ledger.take_known(chunk.lanes, &mut found)?,
            };
            self.run_chunk(&lanes, &mut tables, &mut found)?;
            if let Some(ledger) = &mut ledger {
                ledger.write(&lanes, &found)?;
            }
            let (done, total) = (chunk.done, cells * pairs);
            let flow = limits.report(done, total, "circuit runs");
            if flow.is_break() && done < total {
                found.done = done;
                let late = |(circuit, pair): (usize, usize)| pair * cells + circuit >= done;
                let values = found.values.indexed_iter_mut();
                let late = values.filter(|(at, _)| late(*at));
                late.for_each(|(_, value)| *value = f32::NAN);
            }
            Ok(flow)
        })?;
        Ok(found)
    }

    fn run_chunk(
        &self,
        planned: &[Planned],
        tables: &mut BTreeMap<usize, Tables>,
        found: &mut Found,
    ) -> Result<()> {
        let Some(first) = planned.first() else {
            return Ok(());
        };
        // Pairs come in order: what belongs to earlier ones is not needed any more.
        tables.retain(|pair, _| *pair >= first.pair);
        for lane in planned {
            let pair = lane.pair;
            if let Entry::Vacant(entry) = tables.entry(pair) {
                let caches = [&self.full[pair], &self.empty[pair]];
                entry.insert(Tables::new(self.ends, &self.needed, caches, pair)?);
            }
        }
        let form = |lane: &Planned| self.routes[lane.circuit].form;
        let lane = |lane: &Planned| {
            self.of(lane.pair, form(lane))
                .lane(form(lane), lane.changes.clone())
        };
        let lanes: Vec<Lane<'_>> = planned.iter().map(lane).collect();
        let runs = planned.iter().map(|lane| {
            let base = self.base(lane.pair, form(lane));
            LaneRun::new(&self.routes[lane.circuit], lane, &tables[&lane.pair], base)
        });
        let mut hooks = CircuitHooks::new(self.model(), runs.collect());
        let pass = Pass::new(self.model(), &lanes, &mut hooks, None);
        let output = ops::on_pool(|| pass.run(None));
        found.multiply_adds += output.macs + hooks.macs;
        for (i, lane) in planned.iter().enumerate() {
            let value = self.metric.read(lane.pair, output.logits.lane(i));
            found.values[[lane.circuit, lane.pair]] = value;
        }
        Ok(())
    }
}

/// The caches of both ends, with all that the lanes of some circuits and their hooks read.
fn held(ends: &Ends<'_>, graph: Graph, routes: &[Route]) -> Result<[Arc<[ActivationCache]>; 2]> {
    let config = ends.full.model().config();
    let n_layers = graph.n_layers();
    let last = Site::ResidPost.at(n_layers - 1);
    let written = || graph.sources().map(Source::point);
    let departed = |form: Form| {
        let mut points = Selection::points([last]);
        if routes.iter().any(|route| route.form == form) {
            points = reads(config, departures(graph), form.frozen());
            points.extend(graph.receivers().map(|to| to.stream(n_layers)));
            points.extend(written());
        }
        points
    };
    let mut full = departed(Form::Removed);
    full.extend([HookPoint::Embed]);
    let known = |route: &Route| route.known.iter().skip(1).any(|known| *known);
    if routes.iter().any(known) {
        full.extend(written());
    }
    let mut empty = departed(Form::Kept);
    if ends.carried.is_none() {
        empty.extend(written());
    }
    let hold = |runs: &Base<'_>, points: &Selection| runs.held(points.iter());
    Ok([hold(&ends.full, &full)?, hold(&ends.empty, &empty)?])
}
