//! A metric's gradients at the runs of pairs, some pairs at a time.

use std::ops::Range;

use ndarray::{Array2, ArrayD, ArrayView2};

use super::Pairs;
use crate::cache::{ActivationCache, Selection};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::gradient::{Backward, Objective};
use crate::hook::HookPoint;
use crate::intervention::{Edit, Intervention, Interventions, Target, Values};
use crate::limits::Limits;
use crate::metric::Metric;
use crate::ops::{self, Thrift};
use crate::report::Direction;

/// Tokens of pairs that run at a time, whatever the memory limit allows: products of more rows gain
/// nothing.
const BATCH_TOKENS: usize = 128;

/// A run whose gradients are taken.
#[derive(Clone, Debug)]
pub(crate) enum Variant {
    /// The run that is changed.
    Base,
    /// The run that the changes come from.
    Donor,
    /// The run that is changed, with the activation at a place so far along the way from the
    /// donor's to its own.
    Moved(Box<Target>, f32),
}

/// The gradient runs of a study.
pub(crate) struct GradientRuns<'r> {
    pairs: &'r Pairs<'r>,
    metric: &'r Metric,
    limits: &'r Limits<'r>,
    /// Where gradients are taken.
    points: Selection,
    /// How many runs there are in all, each of one pair.
    total: usize,
    done: usize,
    ended: bool,
    _thrift: Thrift,
}

/// A metric of all pairs, read off some of them.
struct OfPairs<'m> {
    metric: &'m Metric,
    first: usize,
}

impl Objective for OfPairs<'_> {
    fn at(&self, prompt: usize, logits: ArrayView2<'_, f32>) -> Result<(f64, Array2<f32>)> {
        Objective::at(self.metric, self.first + prompt, logits)
    }
}

impl<'r> GradientRuns<'r> {
    /// `per_pair` runs of each pair, of gradients at these points. The metric has a
    /// [gradient](Metric::check_gradient) and fits the pairs.
    pub fn new(
        pairs: &'r Pairs<'r>,
        metric: &'r Metric,
        limits: &'r Limits<'r>,
        points: Selection,
        per_pair: usize,
    ) -> Self {
        GradientRuns {
            pairs,
            metric,
            limits,
            points,
            total: per_pair * pairs.len(),
            done: 0,
            ended: false,
            _thrift: Thrift::new(limits.memory),
        }
    }

    /// How many were made, each of one pair.
    pub fn done(&self) -> usize {
        self.done
    }

    /// Whether the observer ended the study before all were made.
    pub fn partial(&self) -> bool {
        self.done < self.total
    }

    /// Whether the observer has ended the study.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// Pairs that run at a time. `kept` is what the method holds of a pair of so many tokens, in
    /// bytes.
    ///
    /// # Errors
    /// [`Error::MemoryLimit`] if a pair does not fit the memory limit.
    pub fn batches(&self, kept: impl Fn(usize) -> u64) -> Result<Vec<Range<usize>>> {
        let config = self.pairs.model().config();
        let lengths = self.pairs.clean.prompts().lengths();
        let of_pair = |n: &usize| run_bytes(config, *n) + kept(*n);
        let bytes: Vec<u64> = lengths.iter().map(of_pair).collect();
        let limit = self.limits.memory;
        let fixed = fixed_bytes(config, limit);
        let least = fixed + bytes.iter().copied().max().unwrap_or(0);
        if least > limit {
            return Err(Error::MemoryLimit { limit, least });
        }
        let room = limit - fixed;
        let mut batches: Vec<Range<usize>> = Vec::new();
        let (mut used, mut tokens) = (0, 0);
        for (pair, (bytes, n)) in bytes.into_iter().zip(lengths).enumerate() {
            match batches.last_mut() {
                Some(batch) if used + bytes <= room && tokens + n <= BATCH_TOKENS => batch.end += 1,
                _ => {
                    batches.push(pair..pair + 1);
                    (used, tokens) = (0, 0);
                }
            }
            used += bytes;
            tokens += n;
        }
        Ok(batches)
    }

    /// The gradients of one run of a batch, one cache per pair; nothing flows through `constant`
    /// points.
    pub fn run(
        &mut self,
        batch: &Range<usize>,
        variant: &Variant,
        constant: &[HookPoint],
    ) -> Result<Vec<ActivationCache>> {
        let [base, donor] = self.pairs.base_and_donor();
        let (runs, hooks) = match variant {
            Variant::Base => (base, Vec::new()),
            Variant::Donor => (donor, Vec::new()),
            Variant::Moved(target, alpha) => {
                let values = Values::arrays(self.on_the_way(batch, target.point, *alpha)?);
                let set = Intervention::new(Target::clone(target), Edit::Set(values));
                (base, vec![set])
            }
        };
        let want = Backward {
            gradients: Some(&self.points),
            constant,
            ..Backward::default()
        };
        let objective = OfPairs {
            metric: self.metric,
            first: batch.start,
        };
        let prompts = &runs.prompts().as_slice()[batch.clone()];
        let model = self.pairs.model();
        let found = model.gradients(prompts, Interventions::new(hooks), objective, &want)?;
        self.done += batch.len();
        let flow = self.limits.report(self.done, self.total, "gradient runs");
        self.ended |= flow.is_break();
        Ok(found.gradients)
    }

    /// `donor + alpha · (base − donor)` at a point, by pair of a batch.
    fn on_the_way(
        &self,
        batch: &Range<usize>,
        at: HookPoint,
        alpha: f32,
    ) -> Result<Vec<ArrayD<f32>>> {
        let [base, donor] = self.pairs.base_and_donor();
        let (base, donor) = (base.held([at])?, donor.held([at])?);
        let pairs = base[batch.clone()].iter().zip(&donor[batch.clone()]);
        let mix = |(base, donor): (&ActivationCache, &ActivationCache)| {
            let mut values = donor.get(at)?.to_owned();
            values.zip_mut_with(&base.get(at)?, |to, own| *to += alpha * (own - *to));
            Ok(values)
        };
        pairs.map(mix).collect()
    }
}

impl Pairs<'_> {
    /// Has both runs keep these activations, so that each runs once.
    pub fn keep(&self, points: &Selection) -> Result<()> {
        let runs = [&self.clean, &self.corrupted];
        runs.into_iter()
            .try_for_each(|runs| runs.held(points.iter()).map(|_| ()))
    }

    /// Checks that gradients of a metric can be taken at these runs, or `only_base`, at those that
    /// are changed: gradient runs make them anew from their prompts.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a metric without gradient, and for runs under interventions.
    pub fn check_gradients(&self, metric: &Metric, only_base: bool) -> Result<()> {
        metric.check_gradient()?;
        let [base, donor] = self.base_and_donor();
        let runs = if only_base {
            vec![base]
        } else {
            vec![base, donor]
        };
        let mut interventions = runs.iter().flat_map(|runs| runs.interventions());
        match interventions.next() {
            None => Ok(()),
            Some(first) => Err(Error::invalid(
                "runs whose gradients are taken",
                format!("runs under an intervention at `{}`", first.target),
                "plain ones",
            )),
        }
    }

    /// Checks that the gradient of the changed runs is not zero for being taken where a divergence
    /// is 0, hence least. `others` says what else there is.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a KL divergence to the very runs that are changed; else same as
    /// [`Base::metric`](crate::Base::metric).
    pub fn check_slope(&self, metric: &Metric, others: &str) -> Result<()> {
        let [base, _] = self.base_and_donor();
        let at_its_reference = if metric.lacks_reference() {
            self.direction == Direction::Noising
        } else {
            metric.smaller_is_better() && base.metric(metric)?.iter().all(|value| *value == 0.0)
        };
        if !at_its_reference {
            return Ok(());
        }
        let ([base, _], name) = (self.names(), metric.name());
        let found = format!("{name}, which is 0 in the {base} runs, and so is its gradient there");
        let what = format!("metric whose gradient at the {base} runs is taken");
        Err(Error::invalid(what, found, others))
    }
}

/// Memory that runs take whatever their number: what products pack on each thread, and what passes
/// leave for each other.
pub(crate) fn fixed_bytes(config: &Config, limit: u64) -> u64 {
    let packing = ops::product_bytes(config.widest());
    packing * rayon::current_num_threads() as u64 + Thrift::kept_bytes(limit)
}

/// A bound of the memory that a gradient run of a prompt of so many tokens takes, without its
/// gradients.
fn run_bytes(config: &Config, n: usize) -> u64 {
    let (d, heads) = (config.d_model.max(config.d_heads()), config.n_heads);
    // What the backward pass reads of each layer, and the layer that is being computed. Matrices
    // may have a quarter more memory than they need.
    let tape = config.n_layers * (6 * d + config.hidden_width() + 2 + heads * n);
    let working = 10 * d + 4 * config.hidden_width() + 4 * heads * n + 4 * config.d_logits();
    (5 * n * (tape + working)) as u64
}
