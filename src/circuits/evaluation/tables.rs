//! What edges carry whose sources are not computed, by source.

use ndarray::Array2;

use super::ablation::{Ends, Written};
use super::route::{Form, Route};
use crate::cache::ActivationCache;
use crate::circuits::edge::Source;
use crate::circuits::graph::Graph;
use crate::config::Config;
use crate::error::Result;

/// What sources write in the two runs that circuits lie between, minus what edges carry that are
/// not kept; where no circuit asks for it, none.
pub(super) struct Tables {
    /// What edges carry that are not kept.
    pub carried: Vec<Option<Array2<f32>>>,
    /// Of the run in which every edge is kept.
    pub full: Vec<Option<Array2<f32>>>,
    /// Of the run in which none is, if that differs.
    pub empty: Vec<Option<Array2<f32>>>,
}

/// Which of these some circuits need, by source.
pub(super) struct Needed {
    full: Vec<bool>,
    empty: Vec<bool>,
    /// Whether what edges carry is not what their sources write in the run in which none is kept.
    given: bool,
}

impl Needed {
    pub fn by(graph: Graph, routes: &[Route], given: bool) -> Self {
        let any = |of: &dyn Fn(&Route, usize) -> bool| {
            let asked = |u| routes.iter().any(|route| route.out[u] && of(route, u));
            (0..graph.n_sources()).map(asked).collect()
        };
        Needed {
            full: any(&|route, u| route.form == Form::Removed || route.known[u]),
            empty: any(&|route, u| route.form == Form::Kept && !route.known[u]),
            given,
        }
    }

    /// Which runs of a source are asked for: what edges carry, and both ends.
    fn of(&self, u: usize) -> [bool; 3] {
        let [full, empty] = [self.full[u], self.empty[u]];
        [full || empty, full, empty && self.given]
    }

    /// How many tables a pair has.
    pub fn tables(&self) -> usize {
        let made = |u: usize| self.of(u).into_iter().filter(|made| *made).count();
        (0..self.full.len()).map(made).sum()
    }

    /// Multiply-adds of a pair's tables.
    pub fn macs(&self, config: &Config, n: usize) -> u64 {
        let of = |(u, source): (usize, Source)| {
            let Source::Head(_) = source else { return 0 };
            let [carried, full, empty] = self.of(u);
            let runs = [carried && !self.given, full, empty];
            runs.into_iter().filter(|made| *made).count()
        };
        let made: usize = Graph::new(config).sources().enumerate().map(of).sum();
        (made * n * config.d_model * config.d_head()) as u64
    }
}

impl Tables {
    /// # Errors
    /// [`Error::NotCached`](crate::Error::NotCached) if given caches lack what sources write.
    pub fn new(
        ends: &Ends<'_>,
        needed: &Needed,
        [full, empty]: [&ActivationCache; 2],
        pair: usize,
    ) -> Result<Self> {
        let model = ends.full.model();
        let graph = Graph::new(model.config());
        let given: Option<&Written> = ends.carried.as_ref().map(|carried| &carried[pair]);
        let none = || vec![None; graph.n_sources()];
        let mut tables = Tables {
            carried: none(),
            full: none(),
            empty: none(),
        };
        for (u, source) in graph.sources().enumerate() {
            let [of_carried, of_full, of_empty] = needed.of(u);
            if !of_carried {
                continue;
            }
            let carried = match given {
                Some(written) => written[u].clone(),
                None => source.output(model, empty)?,
            };
            if of_full {
                tables.full[u] = Some(source.output(model, full)? - &carried);
            }
            if of_empty {
                tables.empty[u] = Some(source.output(model, empty)? - &carried);
            }
            tables.carried[u] = Some(carried);
        }
        Ok(tables)
    }
}
