//! How much a result depends on the prompts that happened to be in it.

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::effects::EdgeEffects;
use super::evaluation::EvaluatedCircuits;
use super::scores::EdgeScores;
use super::set::EdgeSet;
use crate::error::{Error, Result};
use crate::statistics;

/// A seeded bootstrap over prompt pairs (Efron 1979): as many pairs are drawn, with replacement,
/// and the result is made of them anew, so many times.
///
/// ```
/// use patchlens::circuits::{Bootstrap, CircuitEvaluation, EdgeSet, ExactEdges, Ranking};
/// use patchlens::{Config, Prompts, Transformer, logit_diff};
/// let config = Config { n_layers: 2, n_heads: 2, d_model: 8, d_mlp: 16, d_vocab: 11,
/// ..Config::gpt2() };
/// let model = Transformer::random(config, 0)?;
/// let clean = Prompts::new([[1, 2, 3], [5, 2, 3], [6, 2, 7]])?;
/// let corrupted = Prompts::new([[1, 4, 3], [5, 8, 3], [6, 9, 7]])?;
/// let metric = logit_diff(2, 4);
/// let study = ExactEdges::new(&model, &clean, &corrupted)?;
/// let effects = study.run(&EdgeSet::full(study.graph()), &metric)?;
/// let bootstrap = Bootstrap::new(0);
///
/// let stability = bootstrap.stability(&effects, |scores| scores.top_n(10, Ranking::Signed))?;
/// println!("mean Jaccard {:.2}", stability.jaccard);
///
/// let study = CircuitEvaluation::new(&model, &clean, &corrupted)?;
/// let found = study.run(&[stability.circuit], &metric)?;
/// let interval = bootstrap.faithfulness(&found, 0.95)?[0]; // one per circuit
/// assert!(interval.low <= interval.high);
/// # Ok::<(), patchlens::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bootstrap {
    /// How often pairs are drawn; 1000 by default.
    pub resamples: usize,
    /// Seed of the draws.
    pub seed: u64,
}

/// A number and where it lies in most resamples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// The number, of all pairs.
    pub value: f64,
    /// A share `(1 − level) / 2` of the resamples is below.
    pub low: f64,
    /// As many are above.
    pub high: f64,
}

/// How much a circuit depends on the pairs that it was found with.
#[derive(Clone, Debug, PartialEq)]
pub struct Stability {
    /// The circuit found with all pairs.
    pub circuit: EdgeSet,
    /// The mean [Jaccard index](EdgeSet::jaccard) of that circuit and those found with resampled
    /// pairs: 1 if it is always the same.
    pub jaccard: f64,
    /// The index of each resample.
    pub per_resample: Vec<f64>,
    /// The share of the resamples whose circuits have each edge, `[edge]` in graph order.
    pub frequencies: Vec<f32>,
}

impl Bootstrap {
    /// 1000 resamples.
    pub fn new(seed: u64) -> Self {
        Bootstrap {
            resamples: 1000,
            seed,
        }
    }

    /// The pairs of each resample.
    fn draws(&self, pairs: usize) -> Result<impl Iterator<Item = Vec<usize>> + use<>> {
        if self.resamples == 0 {
            return Err(Error::invalid("resamples", 0, "at least one"));
        }
        if pairs < 2 {
            let expected = "at least two, to draw from";
            return Err(Error::invalid("prompt pairs", pairs, expected));
        }
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        let draw = move |_| (0..pairs).map(|_| rng.random_range(0..pairs)).collect();
        Ok((0..self.resamples).map(draw))
    }

    /// The faithfulness of each circuit, a ratio of means over the pairs as in
    /// [`EvaluatedCircuits::faithfulness`], with the interval that holds the share `level` of the
    /// resamples' (percentile method): both baselines are drawn along with the circuits' values.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a level that is not between 0 and 1, for fewer than two pairs, for a
    /// study that was ended early, and if the baselines of some resample are equal or not finite.
    pub fn faithfulness(&self, found: &EvaluatedCircuits, level: f64) -> Result<Vec<Interval>> {
        if !(level > 0.0 && level < 1.0) {
            return Err(Error::invalid("level", level, "a number between 0 and 1"));
        }
        if found.effect.about.partial {
            return Err(Error::invalid("circuit runs", "some", "all of the study"));
        }
        let all: Vec<usize> = (0..found.clean.len()).collect();
        let draws = self.draws(all.len())?;
        let whole = shares(found, &all)?;
        let mut resampled = vec![Vec::with_capacity(self.resamples); whole.len()];
        for pairs in draws {
            for (of, share) in resampled.iter_mut().zip(shares(found, &pairs)?) {
                of.push(share);
            }
        }
        let interval = |(value, mut of): (f64, Vec<f64>)| {
            of.sort_by(f64::total_cmp);
            Interval {
                value,
                low: quantile(&of, (1.0 - level) / 2.0),
                high: quantile(&of, (1.0 + level) / 2.0),
            }
        };
        Ok(whole.into_iter().zip(resampled).map(interval).collect())
    }

    /// The circuit that `select` makes of the mean scores, and how often it makes the same of
    /// resampled pairs' (Méloux et al. 2025).
    ///
    /// # Errors
    /// Same as [`EdgeEffects::scores`], and those of `select`; [`Error::Invalid`] for fewer than two
    /// pairs.
    pub fn stability(
        &self,
        effects: &EdgeEffects,
        select: impl Fn(&EdgeScores) -> Result<EdgeSet>,
    ) -> Result<Stability> {
        let scores = effects.scores()?;
        let circuit = select(&scores)?;
        let mut per_resample = Vec::with_capacity(self.resamples);
        let mut counts = vec![0_usize; scores.values().len()];
        for pairs in self.draws(effects.per_prompt.ncols())? {
            let mean = |row: ndarray::ArrayView1<'_, f32>| mean(row, &pairs) as f32;
            let means = effects.per_prompt.rows().into_iter().map(mean);
            let scores = EdgeScores::new(scores.graph(), means.collect(), effects.orientation)?;
            let other = select(&scores)?;
            per_resample.push(circuit.jaccard(&other)?);
            let inside = counts.iter_mut().zip(other.mask());
            inside.for_each(|(count, inside)| *count += usize::from(*inside));
        }
        let n = self.resamples as f32;
        Ok(Stability {
            jaccard: per_resample.iter().sum::<f64>() / per_resample.len() as f64,
            frequencies: counts.into_iter().map(|count| count as f32 / n).collect(),
            per_resample,
            circuit,
        })
    }
}

/// The faithfulness of each circuit on some pairs.
fn shares(found: &EvaluatedCircuits, pairs: &[usize]) -> Result<Vec<f64>> {
    let [clean, none] = [&found.clean, &found.corrupted].map(|of| mean(of.view(), pairs));
    let whole = clean - none;
    if whole == 0.0 || !whole.is_finite() {
        let expected = "another mean of the clean runs in every resample";
        return Err(Error::invalid("mean of the corrupted runs", none, expected));
    }
    let rows = found.values.rows().into_iter();
    Ok(rows.map(|row| (mean(row, pairs) - none) / whole).collect())
}

fn mean(values: ndarray::ArrayView1<'_, f32>, pairs: &[usize]) -> f64 {
    statistics::exact_mean(pairs.iter().map(|pair| values[*pair]))
}

/// Between the two nearest of sorted values, as NumPy has it.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let place = share * (sorted.len() - 1) as f64;
    let below = place.floor() as usize;
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + (place - below as f64) * (sorted[above] - sorted[below])
}
