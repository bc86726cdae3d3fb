//! The runs whose gradients approximate effects, some pairs at a time.

use std::ops::{ControlFlow, Range};

use ndarray::{Array2, ArrayD};

use super::{Approximation, Written, places, read_by};
use crate::cache::{ActivationCache, Selection};
use crate::circuits::edge::{Receiver, Source};
use crate::circuits::graph::Graph;
use crate::circuits::pairs::Pairs;
use crate::component::Head;
use crate::error::{Error, Result};
use crate::gradient::Backward;
use crate::hook::{HookPoint, Site};
use crate::intervention::{Edit, Intervention, Interventions, Target, Values};
use crate::limits::Limits;
use crate::metric::Metric;
use crate::report::Direction;

/// Gradients at what receivers read, of one pair.
pub(in crate::circuits) struct Slopes(Vec<(HookPoint, ArrayD<f32>)>);

/// The gradient runs of a study.
pub(super) struct Runs<'r> {
    pairs: &'r Pairs<'r>,
    method: Approximation,
    metric: &'r Metric,
    limits: &'r Limits<'r>,
    batches: Vec<Range<usize>>,
    done: usize,
}

/// One run of a batch of pairs, which counts as much as the others.
struct Variant {
    /// Whether the donor's prompts run.
    donor: bool,
    /// What writes something on the way from the donor's output to the base's: a hook point, a
    /// head if only one does, and how far along the way.
    moved: Option<(HookPoint, Option<usize>, f32)>,
    /// What counts as a constant.
    constant: Option<HookPoint>,
}

impl Variant {
    const BASE: Variant = Variant {
        donor: false,
        moved: None,
        constant: None,
    };

    fn moved(at: HookPoint, head: Option<usize>, alpha: f32) -> Self {
        Variant {
            moved: Some((at, head, alpha)),
            ..Variant::BASE
        }
    }
}

impl<'r> Runs<'r> {
    /// # Errors
    /// [`Error::MemoryLimit`] if a pair does not fit the memory limit.
    pub fn new(
        pairs: &'r Pairs<'r>,
        method: Approximation,
        metric: &'r Metric,
        limits: &'r Limits<'r>,
    ) -> Result<Self> {
        let graph = pairs.graph();
        // The gradients of one run, their sum and another copy; the differences.
        let arrays = 3 * graph.n_receivers() + graph.n_sources();
        let bytes = |n: usize| (4 * arrays * n * graph.d_model()) as u64;
        let lengths = pairs.clean.prompts().lengths();
        let least = lengths.iter().map(|n| bytes(*n)).max().unwrap_or(0);
        if least > limits.memory {
            return Err(Error::MemoryLimit {
                limit: limits.memory,
                least,
            });
        }
        let mut batches: Vec<Range<usize>> = Vec::new();
        let mut used = 0;
        for (pair, n) in lengths.iter().enumerate() {
            match batches.last_mut() {
                Some(batch) if used + bytes(*n) <= limits.memory => batch.end += 1,
                _ => {
                    batches.push(pair..pair + 1);
                    used = 0;
                }
            }
            used += bytes(*n);
        }
        pairs.expect([]);
        batches.reverse();
        Ok(Runs {
            pairs,
            method,
            metric,
            limits,
            batches,
            done: 0,
        })
    }

    /// Gradient runs of one pair so far, over all pairs.
    pub fn done(&self) -> usize {
        self.done
    }

    /// All gradient runs.
    pub fn total(&self) -> usize {
        let per_pair = match self.method {
            Approximation::ActivationsAsPublished(n) => n * self.pairs.graph().n_sources(),
            _ => self.variants().len(),
        };
        per_pair * self.pairs.len()
    }

    /// The scores of the next pairs; `None` after the last one, or if the observer ended the work.
    pub fn next_batch(&mut self) -> Result<Option<Vec<(usize, Vec<f32>)>>> {
        let Some(batch) = self.batches.pop() else {
            return Ok(None);
        };
        let graph = self.pairs.graph();
        let written = batch.clone().map(|pair| Written::differences(self.pairs, pair));
        let written = written.collect::<Result<Vec<_>>>()?;
        let scores = if let Approximation::ActivationsAsPublished(n) = self.method {
            self.published(n, &batch, &written)?
        } else {
            let slopes = self.mean(&batch, &self.variants())?;
            slopes
                .map(|slopes| {
                    let each = written.iter().zip(&slopes);
                    each.map(|(written, slopes)| written.scores(graph, slopes)).collect()
                })
                .transpose()?
        };
        Ok(scores.map(|scores: Vec<Vec<f32>>| batch.zip(scores).collect()))
    }

    /// The runs that all edges share.
    fn variants(&self) -> Vec<Variant> {
        let n_layers = self.pairs.graph().n_layers();
        match self.method {
            Approximation::Eap => vec![Variant::BASE],
            Approximation::CleanCorrupted => vec![
                Variant::BASE,
                Variant {
                    donor: true,
                    ..Variant::BASE
                },
            ],
            Approximation::EapIg(steps) => {
                let alphas = steps.alphas();
                alphas.map(|alpha| Variant::moved(HookPoint::Embed, None, alpha)).collect()
            }
            Approximation::ActivationsAsPublished(n)
            | Approximation::ActivationsAsImplemented(n) => {
                let of_layer = |layer: usize| {
                    [(Site::Z, Site::AttnOut), (Site::MlpOut, Site::MlpOut)]
                        .map(|(moved, cut)| (moved.at(layer), Some(cut.at(layer))))
                };
                let places = [(HookPoint::Embed, None)].into_iter();
                let places: Vec<_> = places.chain((0..n_layers).flat_map(of_layer)).collect();
                let each = places.into_iter().flat_map(|(moved, constant)| {
                    super::Steps::Right(n).alphas().map(move |alpha| Variant {
                        constant,
                        ..Variant::moved(moved, None, alpha)
                    })
                });
                each.collect()
            }
        }
    }

    /// Scores with runs of its own for each source.
    fn published(
        &mut self,
        n: usize,
        batch: &Range<usize>,
        written: &[Written],
    ) -> Result<Option<Vec<Vec<f32>>>> {
        let graph = self.pairs.graph();
        let mut scores = vec![vec![0.0; graph.n_edges()]; batch.len()];
        for (index, source) in graph.sources().enumerate() {
            let head = match source {
                Source::Head(Head { head, .. }) => Some(head),
                Source::Input | Source::Mlp(_) => None,
            };
            let alphas = super::Steps::Right(n).alphas();
            let variants = alphas.map(|alpha| Variant::moved(source.point(), head, alpha));
            let Some(slopes) = self.mean(batch, &variants.collect::<Vec<_>>())? else {
                return Ok(None);
            };
            for ((to, written), slopes) in scores.iter_mut().zip(written).zip(&slopes) {
                written.scores_of(graph, index, slopes, to)?;
            }
        }
        Ok(Some(scores))
    }

    /// The mean gradients of some runs at what receivers read, by pair of a batch; `None` if the
    /// observer ended the work before.
    fn mean(&mut self, batch: &Range<usize>, variants: &[Variant]) -> Result<Option<Vec<Slopes>>> {
        let graph = self.pairs.graph();
        let points = places(graph).map(|to| to.point(graph.n_layers()));
        let points = Selection::points(points);
        let mut sums: Vec<Slopes> = Vec::new();
        for (i, variant) in variants.iter().enumerate() {
            let gradients = self.gradients(batch, variant, &points)?;
            if i == 0 {
                let each = gradients.iter().map(Slopes::of);
                sums = each.collect::<Result<_>>()?;
            } else {
                let each = sums.iter_mut().zip(&gradients);
                each.map(|(sum, more)| sum.add(more)).collect::<Result<()>>()?;
            }
            self.done += batch.len();
            let (done, total) = (self.done, self.total());
            let flow = self.limits.report(done, total, "gradient runs");
            if flow.is_break() && done < total {
                self.batches.clear();
                if i + 1 < variants.len() {
                    return Ok(None);
                }
            }
        }
        for sum in &mut sums {
            sum.divide(variants.len() as f32);
        }
        Ok(Some(sums))
    }

    fn gradients(
        &self,
        batch: &Range<usize>,
        variant: &Variant,
        points: &Selection,
    ) -> Result<Vec<ActivationCache>> {
        let [base, donor] = self.pairs.base_and_donor();
        let runs = if variant.donor { donor } else { base };
        let mut hooks = Vec::new();
        if let Some((at, head, alpha)) = variant.moved {
            let values = self.on_the_way(batch, at, alpha)?;
            let mut target = Target::new(at);
            if let Some(head) = head {
                target = target.at_heads(head);
            }
            hooks.push(Intervention::new(target, Edit::Set(Values::arrays(values))));
        }
        let constant: Vec<HookPoint> = variant.constant.into_iter().collect();
        let want = Backward {
            gradients: Some(points),
            constant: &constant,
            ..Backward::default()
        };
        let prompts = &runs.prompts().as_slice()[batch.clone()];
        let objective = self.metric.objective(batch.start)?;
        let hooks = Interventions::new(hooks);
        let found = self.pairs.model().gradients(prompts, hooks, objective, &want)?;
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
        let (base, donor) = (base.caches([at])?, donor.caches([at])?);
        let pairs = base[batch.clone()].iter().zip(&donor[batch.clone()]);
        pairs
            .map(|(base, donor)| {
                let mut on_the_way = donor.get(at)?.to_owned();
                on_the_way.zip_mut_with(&base.get(at)?, |to, base| *to += alpha * (base - *to));
                Ok(on_the_way)
            })
            .collect()
    }
}

impl Slopes {
    fn of(gradients: &ActivationCache) -> Result<Self> {
        let owned = |point| Ok((point, gradients.get(point)?.to_owned()));
        Ok(Slopes(gradients.points().map(owned).collect::<Result<_>>()?))
    }

    fn add(&mut self, gradients: &ActivationCache) -> Result<()> {
        for (point, sum) in &mut self.0 {
            *sum += &gradients.get(*point)?;
        }
        Ok(())
    }

    fn divide(&mut self, by: f32) {
        for (_, sum) in &mut self.0 {
            *sum /= by;
        }
    }
}
