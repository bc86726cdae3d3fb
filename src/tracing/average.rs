//! Averages over a set of facts, aligned by the tokens' roles.

use std::fmt;
use std::ops::Range;

use ndarray::Array2;

use super::{CausalTracing, FactTrace, Restore, TracedFact};
use crate::effects::{Zeros, layer_axis};
use crate::error::{Error, Result};
use crate::metric::probability;
use crate::report::{About, Absent, Axis, Labelled};
use crate::statistics::{Estimate, mean};

/// The roles of tokens in the paper's averages. As in the authors' code, the only token of a
/// one-token subject is both its first and its last one, and a token after the subject that ends
/// the prompt is both the first later and the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PositionClass {
    /// The subject's first token.
    FirstSubject,
    /// Those between its first and its last one.
    MiddleSubject,
    /// The subject's last token.
    LastSubject,
    /// The token after the subject.
    FirstLater,
    /// Those after it, but for the prompt's last one.
    Further,
    /// The prompt's last token.
    Last,
}

impl PositionClass {
    /// All, in the order of the paper's figure.
    pub const ALL: [PositionClass; 6] = [
        PositionClass::FirstSubject,
        PositionClass::MiddleSubject,
        PositionClass::LastSubject,
        PositionClass::FirstLater,
        PositionClass::Further,
        PositionClass::Last,
    ];

    /// The label in tables.
    pub fn name(self) -> &'static str {
        match self {
            PositionClass::FirstSubject => "first subject token",
            PositionClass::MiddleSubject => "middle subject tokens",
            PositionClass::LastSubject => "last subject token",
            PositionClass::FirstLater => "first later token",
            PositionClass::Further => "further tokens",
            PositionClass::Last => "last token",
        }
    }

    /// The positions of a fact that belong here; none where the fact has no such token.
    pub fn positions(self, fact: &TracedFact) -> Range<usize> {
        let Range { start, end } = fact.subject;
        let last = fact.prompt.len().saturating_sub(1);
        match self {
            PositionClass::FirstSubject => start..start + 1,
            PositionClass::MiddleSubject => start + 1..end.saturating_sub(1),
            PositionClass::LastSubject => end.saturating_sub(1)..end,
            PositionClass::FirstLater => end..(end + 1).min(last + 1),
            PositionClass::Further => end + 1..last,
            PositionClass::Last => last..last + 1,
        }
    }
}

impl fmt::Display for PositionClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A fact that does not enter the averages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DroppedFact {
    /// Its index in the set.
    pub index: usize,
    /// What the model answers; of several tokens, each after the right ones before it.
    pub answer: Vec<u32>,
    /// The right answer.
    pub attribute: Vec<u32>,
}

/// What causal tracing found for a set of facts.
#[derive(Clone, Debug)]
pub struct SetTrace {
    /// Index in the set and trace of each fact that the clean model gets right.
    pub kept: Vec<(usize, FactTrace)>,
    /// The facts that it gets wrong.
    pub dropped: Vec<DroppedFact>,
    /// IE averaged over the tokens of a class, `[class, layer]`, with standard errors that count
    /// a fact's tokens as dependent (clustered by fact). NaN where no fact has such a token.
    pub average: Labelled,
    /// TE, mean over facts.
    pub total_effect: Estimate,
    /// Whether it was cancelled before every fact was traced.
    pub partial: bool,
}

/// The facts of a set so far.
#[derive(Default)]
struct Sorted {
    /// By fact that is kept, its index and one trace per restoration.
    kept: Vec<(usize, Vec<FactTrace>)>,
    dropped: Vec<DroppedFact>,
    partial: bool,
}

impl CausalTracing<'_> {
    /// Traces the facts that the clean model gets right, and averages over them: one result per
    /// restoration. The clean and corrupted runs of a fact are made once for all of them. An
    /// observer hears how many facts are done; after its break, the averages are over those.
    ///
    /// # Errors
    /// [`Error::Invalid`] without restorations, if a fact has no attribute, or if none is right;
    /// else same as [`CausalTracing::trace`].
    pub fn trace_set(&self, facts: &[TracedFact], restores: &[Restore]) -> Result<Vec<SetTrace>> {
        if restores.is_empty() {
            return Err(Error::invalid("restorations", 0, "at least one"));
        }
        restores.iter().try_for_each(Restore::check)?;
        if let Some(i) = facts.iter().position(|fact| fact.attribute.is_none()) {
            let expected = "the right answer, to tell whether the model knows it";
            let what = format!("fact {i}");
            return Err(Error::invalid(what, "no attribute", expected));
        }
        let sorted = self.sort(facts, restores)?;
        // A part of the work may have none of them, as may what was done before it was ended.
        if sorted.kept.is_empty() && !sorted.partial && !self.limits.divided() {
            return Err(Error::invalid(
                "facts traced that the clean model gets right",
                format!("0 of {}", facts.len()),
                "at least one to average over",
            ));
        }
        let averages = restores.iter().enumerate().map(|(i, restore)| {
            let kept = sorted.kept.iter();
            let kept = kept.map(|(fact, traces)| (*fact, traces[i].clone()));
            self.average(facts, *restore, kept.collect(), &sorted)
        });
        averages.collect()
    }

    /// Traces the facts that the clean model gets right.
    fn sort(&self, facts: &[TracedFact], restores: &[Restore]) -> Result<Sorted> {
        let mut sorted = Sorted::default();
        for (index, fact) in facts.iter().enumerate() {
            let clean = self.clean(fact, restores)?;
            if let Some(attribute) = &fact.attribute
                && *attribute != clean.likeliest
            {
                sorted.dropped.push(DroppedFact {
                    index,
                    answer: clean.likeliest,
                    attribute: attribute.clone(),
                });
                continue;
            }
            let mut limits = self.limits.part(index, facts.len(), "facts");
            limits.slot = Some(index);
            let traces = self.traces(fact, &clean, restores, limits.clone())?;
            let partial = traces.iter().any(|t| t.indirect_effect.about.partial);
            let ended = limits.ended();
            sorted.partial |= partial || (ended && index + 1 < facts.len());
            if !partial || self.limits.divided() {
                sorted.kept.push((index, traces));
            }
            if ended {
                break;
            }
        }
        Ok(sorted)
    }

    /// What an average is of: facts and tokens counted, costs added up, baselines averaged.
    fn averaged_about(
        &self,
        facts: &[TracedFact],
        restore: Restore,
        kept: &[(usize, FactTrace)],
        sorted: &Sorted,
    ) -> About {
        let mut about = self.about(restore, &probability(&[0]));
        about.title += ", average";
        about.partial = sorted.partial;
        let counts = [
            ("facts", facts.len()),
            ("facts kept", kept.len()),
            ("facts dropped (clean model wrong)", sorted.dropped.len()),
        ];
        let counts = counts.map(|(name, count)| (name.to_string(), count as u64));
        about.counts.extend(counts);
        for name in [About::MULTIPLY_ADDS, About::FULL_PASSES] {
            let of = |trace: &FactTrace| trace.indirect_effect.about.counts.get(name).copied();
            // Those of a part of the work do not say what they took.
            let sum: Option<u64> = kept.iter().map(|(_, trace)| of(trace)).sum();
            about.counts.extend(sum.map(|sum| (name.to_string(), sum)));
        }
        for class in PositionClass::ALL {
            let tokens: usize = kept
                .iter()
                .map(|(i, _)| class.positions(&facts[*i]).len())
                .sum();
            about
                .counts
                .insert(format!("tokens, {class}"), tokens as u64);
        }
        let of =
            |f: fn(&FactTrace) -> f32| -> Vec<f32> { kept.iter().map(|(_, t)| f(t)).collect() };
        for (name, values) in [
            ("clean", of(|t| t.clean)),
            ("corrupted", of(|t| t.corrupted)),
        ] {
            let mean = mean(values.into_iter());
            about.baselines.insert(name.to_string(), mean);
        }
        about
    }

    fn average(
        &self,
        facts: &[TracedFact],
        restore: Restore,
        kept: Vec<(usize, FactTrace)>,
        sorted: &Sorted,
    ) -> Result<SetTrace> {
        let (values, errors) = class_averages(facts, &kept, self.model().config().n_layers);
        let mut about = self.averaged_about(facts, restore, &kept, sorted);
        let of_fact = |(_, trace): &(usize, FactTrace)| {
            let effect = &trace.indirect_effect;
            let cells = effect.values().into_iter().zip(effect.absent());
            cells.map(|(v, absent)| (*v, *absent)).collect::<Vec<_>>()
        };
        let cells = kept.iter().flat_map(of_fact);
        about.caption += Zeros::Measured.note(cells).unwrap_or_default();
        let effects: Vec<Vec<f64>> = kept
            .iter()
            .map(|(_, trace)| vec![f64::from(trace.total_effect)])
            .collect();
        let (total_effect, std_error) = clustered(&effects);
        let classes = Axis::new("token", PositionClass::ALL.map(PositionClass::name));
        let axes = vec![classes, layer_axis(restore.site, values.ncols())];
        let none = match sorted.partial {
            true => Absent::NotRun,
            false => Absent::NoSamples,
        };
        let absent = Array2::from_shape_fn(values.dim(), |(class, layer)| {
            let of_fact = |(index, trace): &(usize, FactTrace)| {
                let positions = PositionClass::ALL[class].positions(&facts[*index]);
                let absent = trace.indirect_effect.absent();
                let cells = positions.map(|position| absent[[position, layer]]);
                cells.collect::<Vec<_>>()
            };
            let cells: Vec<Option<Absent>> = kept.iter().flat_map(of_fact).collect();
            match cells.is_empty() {
                true => Some(none),
                false => cells.into_iter().find_map(|absent| absent),
            }
        });
        Ok(SetTrace {
            average: Labelled::new(values, axes, about)?
                .with_std_error(errors)?
                .with_absent(absent)?,
            total_effect: Estimate {
                mean: total_effect,
                std_error,
                n: kept.len(),
            },
            kept,
            dropped: sorted.dropped.clone(),
            partial: sorted.partial,
        })
    }
}

/// Means and standard errors, `[class, layer]`.
fn class_averages(
    facts: &[TracedFact],
    kept: &[(usize, FactTrace)],
    n_layers: usize,
) -> (Array2<f32>, Array2<f32>) {
    let shape = (PositionClass::ALL.len(), n_layers);
    let mut values = Array2::from_elem(shape, f32::NAN);
    let mut errors = values.clone();
    for ((row, layer), value) in values.indexed_iter_mut() {
        let clusters: Vec<Vec<f64>> = kept
            .iter()
            .map(|(index, trace)| {
                let positions = PositionClass::ALL[row].positions(&facts[*index]);
                let effects = trace.indirect_effect.values();
                positions.map(|p| f64::from(effects[[p, layer]])).collect()
            })
            .collect();
        (*value, errors[[row, layer]]) = clustered(&clusters);
    }
    (values, errors)
}

/// The mean of all values and its standard error, where values of one cluster depend on each
/// other; with one value per cluster it is the usual standard error. NaN where too few are there.
fn clustered(clusters: &[Vec<f64>]) -> (f32, f32) {
    let n = clusters.iter().map(Vec::len).sum::<usize>() as f64;
    let mean = clusters.iter().flatten().sum::<f64>() / n;
    let residual = |cluster: &Vec<f64>| cluster.iter().map(|v| v - mean).sum::<f64>();
    let filled = clusters.iter().filter(|c| !c.is_empty());
    let squares: f64 = filled.clone().map(|c| residual(c).powi(2)).sum();
    let count = filled.count() as f64;
    let error = (squares * count / (count - 1.0)).sqrt() / n;
    let error = if count > 1.0 { error } else { f64::NAN };
    (mean as f32, error as f32)
}
