//! Means of what sources write and of the streams between them, over other prompts.

use ndarray::{Array2, Axis};

use super::{Ablated, positions, streams};
use crate::base::Base;
use crate::circuits::edge::Source;
use crate::circuits::graph::Graph;
use crate::error::{Error, Result};
use crate::limits::batches;
use crate::model::Transformer;
use crate::prompt::{Prompt, Prompts};

/// Means over those of some prompts that have `n` tokens, at each position.
pub(super) fn by_position(model: &Transformer, prompts: &Prompts, n: usize) -> Result<Ablated> {
    let same: Vec<Prompt> = prompts.iter().filter(|p| p.len() == n).cloned().collect();
    if same.is_empty() {
        let found = format!("prompts of {:?} tokens", prompts.lengths());
        let expected = format!("one of {n} tokens at least, as a pair has");
        return Err(Error::invalid("prompts to average over", found, expected));
    }
    let mut total = Total::default();
    total.add(model, &same, |position| position)?;
    Ok(total.over(model, n, |position| position))
}

/// Sums over prompts, `[pos, d_model]`, or of one row for all positions.
#[derive(Default)]
pub(super) struct Total {
    /// Without the position embeddings, which are no source's.
    streams: Vec<Array2<f64>>,
    written: Vec<Array2<f64>>,
    /// Of how many rows each row is the sum.
    rows: usize,
}

impl Total {
    /// Adds the runs of some prompts; `row` says where a position is summed.
    pub fn add(
        &mut self,
        model: &Transformer,
        prompts: &[Prompt],
        row: impl Fn(usize) -> usize,
    ) -> Result<()> {
        let graph = Graph::new(model.config());
        for some in batches(prompts) {
            let base = Base::new(model, some)?;
            let reads = graph.sources().map(Source::point).chain(streams(graph));
            for cache in base.held(reads)?.iter() {
                let n = cache.tokens().len();
                let embedded = positions(model, n);
                for (i, at) in streams(graph).enumerate() {
                    let stream = &cache.flat(at)? - &embedded;
                    add_rows(&mut self.streams, i, &stream, &row);
                }
                for (i, source) in graph.sources().enumerate() {
                    add_rows(&mut self.written, i, &source.output(model, cache)?, &row);
                }
                self.rows += if row(n - 1) == 0 { n } else { 1 };
            }
        }
        Ok(())
    }

    /// The means at the first `n` positions.
    pub fn over(&self, model: &Transformer, n: usize, row: impl Fn(usize) -> usize) -> Ablated {
        let graph = Graph::new(model.config());
        let embedded = positions(model, n);
        let mean = |sum: &Array2<f64>, with: Option<&Array2<f32>>| {
            Array2::from_shape_fn((n, graph.d_model()), |(p, i)| {
                let own = with.map_or(0.0, |with| f64::from(with[[p, i]]));
                (own + sum[[row(p), i]] / self.rows as f64) as f32
            })
        };
        let streams = streams(graph).zip(&self.streams);
        Ablated {
            streams: streams
                .map(|(at, sum)| (at, mean(sum, Some(&embedded))))
                .collect(),
            written: self.written.iter().map(|sum| mean(sum, None)).collect(),
        }
    }
}

/// Adds rows to the `i`th sum, which may be the first of a new one.
fn add_rows(
    sums: &mut Vec<Array2<f64>>,
    i: usize,
    rows: &Array2<f32>,
    row: impl Fn(usize) -> usize,
) {
    if i == sums.len() {
        sums.push(Array2::zeros((row(rows.nrows() - 1) + 1, rows.ncols())));
    }
    for (position, values) in rows.axis_iter(Axis(0)).enumerate() {
        let mut sum = sums[i].row_mut(row(position));
        sum.zip_mut_with(&values, |sum, v| *sum += f64::from(*v));
    }
}
