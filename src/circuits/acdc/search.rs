//! Searches under way, which run ahead together.

use std::collections::HashMap;

use super::agenda::{Agenda, State};
use super::{AcdcSearch, Decision};
use crate::circuits::set::EdgeSet;

/// How many circuits are evaluated ahead at first.
pub(super) const AHEAD: usize = 8;
/// The most that are evaluated ahead.
pub(super) const MOST_AHEAD: usize = 1024;

/// One threshold's search under way.
pub(super) struct Search {
    pub tau: f32,
    /// By which the metric is multiplied to be minimised.
    pub sign: f64,
    /// How many circuits it asks for at a time.
    pub ahead: usize,
    /// The metric of what is kept.
    pub metric: f64,
    pub state: State,
    pub decisions: Vec<Decision>,
}

/// All searches under way.
pub(super) struct Work {
    pub agenda: Agenda,
    pub searches: Vec<Search>,
    pub runs: usize,
    pub multiply_adds: u64,
}

/// The circuits that searches ask for at one time.
pub(super) struct Round {
    /// Each once.
    pub circuits: Vec<EdgeSet>,
    /// By search, where its own are among them, in order.
    asked: Vec<Vec<usize>>,
}

impl Work {
    pub fn round(&self, most: usize) -> Round {
        let mut known: HashMap<EdgeSet, usize> = HashMap::new();
        let mut circuits = Vec::new();
        let mut asked = Vec::new();
        for search in &self.searches {
            let own = search.state.prefixes(&self.agenda, search.ahead.min(most));
            let place = |circuit: EdgeSet| {
                *known.entry(circuit).or_insert_with_key(|circuit| {
                    circuits.push(circuit.clone());
                    circuits.len() - 1
                })
            };
            asked.push(own.into_iter().map(place).collect());
        }
        Round { circuits, asked }
    }

    /// Takes the steps that a round has made possible, given the metric of each circuit.
    pub fn consume(&mut self, round: &Round, means: &[f64]) {
        for (search, asked) in self.searches.iter_mut().zip(&round.asked) {
            let found = asked.iter().map(|circuit| means[*circuit]);
            search.consume(&self.agenda, found);
        }
    }

    /// How many edges are decided, over all searches.
    pub fn decided(&self) -> usize {
        let decided = |search: &Search| self.agenda.edges_before(search.state.next);
        self.searches.iter().map(decided).sum()
    }

    pub fn finished(&self) -> Vec<AcdcSearch> {
        let finished = |search: &Search| {
            let mut state = search.state.clone();
            AcdcSearch {
                tau: search.tau,
                partial: state.attempt(&self.agenda).is_some(),
                circuit: state.circuit(),
                metric: search.metric,
                decisions: search.decisions.clone(),
            }
        };
        self.searches.iter().map(finished).collect()
    }
}

impl Search {
    /// Takes steps, given the metric without the first one's edges, without the first two's, and so
    /// on, until one shows that its edges have to stay.
    fn consume(&mut self, agenda: &Agenda, found: impl Iterator<Item = f64>) {
        let mut right = true;
        for metric in found {
            let attempt = self.state.attempt(agenda).expect("it asked for this run");
            let rise = self.sign * (metric - self.metric);
            let removed = rise < f64::from(self.tau);
            self.decisions.push(Decision {
                tried: attempt.tried,
                metric,
                removed,
            });
            self.state.decide(agenda, removed);
            if !removed {
                right = false;
                break;
            }
            self.metric = metric;
        }
        // What is left goes without a run.
        self.state.attempt(agenda);
        self.ahead = if right {
            (2 * self.ahead).min(MOST_AHEAD)
        } else {
            self.ahead.div_ceil(2)
        };
    }
}
