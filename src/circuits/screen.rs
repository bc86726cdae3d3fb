//! Screen, then verify: all edges ranked by an estimate, the best and a sample of the others
//! computed exactly.

use std::fmt;

use ndarray::{ArrayD, Axis as Dim, stack};
use rand::SeedableRng;
use rand::seq::index;
use rand_chacha::ChaCha8Rng;

use super::agreement::Agreement;
use super::attribution::{Approximation, EdgeAttribution};
use super::edge::Edge;
use super::effects::EdgeEffects;
use super::exact::ExactEdges;
use super::pairs::edge_study_methods;
use super::scores::{EdgeScores, Ranking};
use super::set::EdgeSet;
use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::metric::Metric;
use crate::pairs::Pairs;
use crate::report::{About, Axis, Labelled};

/// Effects of edges where there are too many to compute all exactly: an [`Approximation`] ranks
/// them, and [exact](ExactEdges) runs of the best, and of a random sample of the others, say how far
/// it is to be trusted.
///
/// The sample bounds what was missed, see [`Screened::bound`]: without it, an edge that the
/// approximation takes for nothing would never be looked at.
///
/// ```
/// use patchlens::circuits::{Approximation, ScreenedEdges, Steps, Verify};
/// use patchlens::{Config, Prompt, Transformer, logit_diff};
/// let config = Config { n_layers: 2, n_heads: 2, d_model: 8, d_mlp: 16, d_vocab: 11,
/// ..Config::gpt2() };
/// let model = Transformer::random(config, 0)?;
/// let (clean, corrupted) = (Prompt::from([1, 2, 3]), Prompt::from([1, 4, 3]));
/// let study = ScreenedEdges::new(&model, &clean, &corrupted)?;
/// let method = Approximation::ReceiverExactIg(Steps::Left(5));
/// let verify = Verify { top: 10, sample: 12, seed: 0 };
/// let found = study.run(method, verify, &logit_diff(2, 4))?;
/// assert_eq!(found.effect.axes()[0].labels, ["approximate", "exact"]); // [.., source, receiver]
/// assert_eq!(found.exact.edges.len(), 22);
/// let bound = found.bound(0.95)?;
/// assert_eq!((bound.edges, bound.sampled, bound.beyond), (36, 12, 6));
/// println!("{found}"); // errors of both groups, and what they say of the others
/// # Ok::<(), patchlens::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct ScreenedEdges<'m> {
    pairs: Pairs<'m>,
    limits: Limits<'m>,
}

/// Which edges are computed exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Verify {
    /// How many of those with the largest approximate effects, whatever the sign.
    pub top: usize,
    /// How many of the others, drawn without replacement, each as likely as any other.
    pub sample: usize,
    /// The seed of the draw.
    pub seed: u64,
}

/// Approximate effects of all edges, and exact ones of some.
#[derive(Clone, Debug)]
pub struct Screened {
    /// The mean change over the pairs, `[effect, source, receiver]`, where `effect` is `approximate`
    /// or `exact`, with standard errors where there are several pairs; no exact value where an
    /// edge was not verified.
    pub effect: Labelled,
    /// The approximate effects of all edges.
    pub approximate: EdgeEffects,
    /// The exact effects of those that were verified.
    pub exact: EdgeEffects,
    /// The edges with the largest approximate effects; none if an observer ended the study before
    /// there were any.
    pub top: EdgeSet,
    /// The sample of the others.
    pub sample: EdgeSet,
}

/// What a sample says of all edges that it is drawn from.
///
/// Of these `edges`, at most `beyond` have a larger exact effect than `largest_effect`; and at most
/// `beyond` an approximate one that is further from the exact one than `largest_error`. Each of
/// the two statements fails with a probability of at most `1 − confidence` over the draw of the
/// sample, whatever the effects are. Nothing is said of how large those beyond are, nor of other
/// prompts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SampleBound {
    /// How many edges are not among the top.
    pub edges: usize,
    /// How many of them were drawn.
    pub sampled: usize,
    /// The largest exact effect in the sample, without its sign, in the metric's unit.
    pub largest_effect: f32,
    /// The largest difference between approximate and exact effect in the sample.
    pub largest_error: f32,
    /// How many may lie beyond.
    pub beyond: usize,
    /// The probability with which a statement holds, at least.
    pub confidence: f64,
}

impl<'m> ScreenedEdges<'m> {
    edge_study_methods!('m);

    /// The approximate effects of all edges, and the exact ones of those to verify. If an observer
    /// ends the study, both have what was reached.
    ///
    /// # Errors
    /// [`Error::Invalid`] for more edges to verify than there are, and for none; else same as
    /// [`EdgeAttribution::run`] and [`ExactEdges::run`].
    pub fn run(&self, method: Approximation, verify: Verify, metric: &Metric) -> Result<Screened> {
        let n_edges = self.graph().n_edges();
        if !(1..=n_edges).contains(&verify.top.saturating_add(verify.sample)) {
            let found = format!("{} and a sample of {}", verify.top, verify.sample);
            let expected = format!("1 to {n_edges}, the model's");
            return Err(Error::invalid("edges to verify", found, expected));
        }
        let (clean, corrupted) = (&self.pairs.clean, &self.pairs.corrupted);
        let approximate = EdgeAttribution::over(clean, corrupted)?
            .direction(self.pairs.direction)
            .memory_limit(self.limits.memory)
            .observe(|p| self.limits.report(p.done, p.total, p.unit))
            .run(method, metric)?;
        let [top, sample] = if approximate.effect.about.partial {
            [0, 1].map(|_| EdgeSet::empty(self.graph()))
        } else {
            verify.choose(&approximate.scores()?)?
        };
        let exact = ExactEdges::over(clean, corrupted)?
            .direction(self.pairs.direction)
            .memory_limit(self.limits.memory)
            .observe(|p| self.limits.report(p.done, p.total, p.unit))
            .run(&top.union(&sample)?, metric)?;
        let about = self.about(verify, metric, [&approximate, &exact]);
        Ok(Screened {
            effect: table([&approximate, &exact], about)?,
            approximate,
            exact,
            top,
            sample,
        })
    }

    fn about(&self, verify: Verify, metric: &Metric, both: [&EdgeEffects; 2]) -> About {
        let [approximate, exact] = both.map(|effects| &effects.effect.about);
        let mut counts = exact.counts.clone();
        let (top, sample) = (verify.top as u64, verify.sample as u64);
        counts.extend([("largest".into(), top), ("sampled".into(), sample)]);
        counts.extend(approximate.counts.clone());
        About {
            title: self.pairs.title("Screened effects of edges", metric),
            caption: format!(
                "Approximate: {} Exact: the {top} largest of these, and {sample} of the others, \
                 drawn with seed {}.",
                approximate.caption, verify.seed
            ),
            partial: approximate.partial || exact.partial,
            counts,
            ..approximate.clone()
        }
    }
}

impl Verify {
    /// The top and the sample.
    fn choose(self, scores: &EdgeScores) -> Result<[EdgeSet; 2]> {
        let top = scores.top_n(self.top, Ranking::Absolute)?;
        let others: Vec<Edge> = top.complement().edges().collect();
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        let drawn = index::sample(&mut rng, others.len(), self.sample).into_iter();
        let sample = EdgeSet::new(scores.graph(), drawn.map(|i| others[i]))?;
        Ok([top, sample])
    }
}

/// `[effect, source, receiver]`
fn table(both: [&EdgeEffects; 2], about: About) -> Result<Labelled> {
    let tables = both.map(|effects| &effects.effect);
    let one_shape = "effects of one model's edges have one shape";
    let values = stack(Dim(0), &tables.map(Labelled::values)).expect(one_shape);
    let absent = stack(Dim(0), &tables.map(Labelled::absent)).expect(one_shape);
    let axes = tables[0].axes().to_vec();
    let kinds = Axis::new("effect", ["approximate", "exact"]);
    let axes = [kinds].into_iter().chain(axes).collect();
    let table = Labelled::new(values, axes, about)?.with_absent(absent)?;
    match tables.map(Labelled::std_error) {
        [Some(a), Some(b)] => {
            let errors: ArrayD<f32> = stack(Dim(0), &[a, b]).expect(one_shape);
            table.with_std_error(errors)
        }
        _ => Ok(table),
    }
}

impl Screened {
    /// How well the approximate effects agree with the exact ones, over the edges with the largest
    /// approximate effects.
    ///
    /// # Errors
    /// [`Error::Invalid`] if none of them was verified; else same as [`EdgeEffects::agreement`].
    pub fn top_agreement(&self) -> Result<Agreement> {
        self.approximate.agreement(&self.exact)?.within(&self.top)
    }

    /// The same over the sample of the others.
    ///
    /// # Errors
    /// Same as [`Screened::top_agreement`].
    pub fn sample_agreement(&self) -> Result<Agreement> {
        self.approximate
            .agreement(&self.exact)?
            .within(&self.sample)
    }

    /// What the sample says of all edges that are not among the top, with this confidence.
    ///
    /// If more than `m` of `N` edges were larger than the largest of `n` drawn ones, then none of
    /// the `m + 1` largest was drawn, which has the probability `C(N−m−1, n) / C(N, n)`; the bound
    /// is the least `m` for which this is at most `1 − confidence`.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a confidence that is not between 0 and 1, for a study without sample,
    /// and for one that an observer ended early.
    pub fn bound(&self, confidence: f64) -> Result<SampleBound> {
        if !(confidence > 0.0 && confidence < 1.0) {
            let expected = "a number between 0 and 1";
            return Err(Error::invalid("confidence", confidence, expected));
        }
        if self.effect.about.partial {
            let expected = "one in which all of the sample was reached";
            return Err(Error::invalid("study", "one that ended early", expected));
        }
        let sample = self.sample_agreement()?;
        let largest = |of: fn(&super::EdgePair) -> f32| {
            let sizes = sample.edges.iter().map(|pair| of(pair).abs());
            sizes.fold(0.0, f32::max)
        };
        let (edges, sampled) = (self.top.complement().len(), self.sample.len());
        Ok(SampleBound {
            edges,
            sampled,
            largest_effect: largest(|pair| pair.reference),
            largest_error: largest(super::EdgePair::error),
            beyond: beyond(edges, sampled, 1.0 - confidence),
            confidence,
        })
    }

    /// Scores of all edges: the exact effects of those that were verified, the approximate ones of
    /// the others.
    ///
    /// # Errors
    /// [`Error::Invalid`] if an observer ended the study early.
    pub fn scores(&self) -> Result<EdgeScores> {
        let approximate = self.approximate.scores()?;
        let mut values = approximate.values().to_vec();
        let graph = approximate.graph();
        for (edge, exact) in self.exact.reached() {
            values[graph.index(edge)?] = exact;
        }
        EdgeScores::new(graph, values, approximate.orientation())
    }
}

/// The least `m` such that `n` of `edges`, drawn without replacement, lack each of `m + 1` given ones
/// with a probability of at most `risk`.
fn beyond(edges: usize, n: usize, risk: f64) -> usize {
    let lacks_all = |given: usize| -> f64 {
        let others = (0..n).map(|i| (edges - given).saturating_sub(i) as f64 / (edges - i) as f64);
        others.product()
    };
    let enough = (0..edges).find(|m| lacks_all(m + 1) <= risk);
    enough.unwrap_or(edges)
}

/// The errors of both groups, and what the sample says of the others.
impl fmt::Display for Screened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let groups = [
            ("largest approximate effects", self.top_agreement()),
            ("sample of the others", self.sample_agreement()),
        ];
        for (name, agreement) in groups {
            let Ok(found) = agreement else { continue };
            let worst = found.worst(1)[0];
            write!(f, "{}, {name}: ", found.edges.len())?;
            if let Some(error) = found.relative_error {
                write!(f, "errors {:.0} % of the exact effects, ", 100.0 * error)?;
            }
            writeln!(
                f,
                "at most {:.3} ({}: {:+.3} for {:+.3})",
                worst.error().abs(),
                worst.edge,
                worst.found,
                worst.reference
            )?;
        }
        match self.bound(0.95) {
            Ok(bound) => bound.fmt(f),
            Err(_) => f.write_str("no sample that bounds what was missed"),
        }
    }
}

impl fmt::Display for SampleBound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "of all {} others, at most {} have an exact effect larger than {:.3}, and at most {} an \
             error larger than {:.3} (each with {} % confidence over the draw of {})",
            self.edges,
            self.beyond,
            self.largest_effect,
            self.beyond,
            self.largest_error,
            100.0 * self.confidence,
            self.sampled
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_is_that_of_the_hypergeometric_distribution() {
        // One of 10 drawn: with 90 % it is not a given one.
        assert_eq!(beyond(10, 1, 0.9), 0);
        assert_eq!(beyond(10, 1, 0.2), 7);
        assert_eq!(beyond(10, 1, 0.05), 9);
        // C(8, 2) / C(10, 2) = 28 / 45, C(7, 2) / C(10, 2) = 21 / 45.
        assert_eq!(beyond(10, 2, 0.6), 2);
        assert_eq!(beyond(10, 2, 0.63), 1);
        assert_eq!(beyond(10, 10, 0.05), 0);
        assert_eq!(beyond(0, 0, 0.05), 0);
        // For large numbers, ln 20 of each share that was drawn.
        let found = beyond(30_000, 1_000, 0.05) as f64;
        assert!((found / 30_000.0 - (1.0 - 0.05_f64.powf(1e-3))).abs() < 1e-4);
    }
}
