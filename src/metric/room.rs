//! Whether baselines leave a metric room for an effect.

use ndarray::Array1;

use super::{Kind, Metric, Scale, of};
use crate::statistics::mean;

/// A probability as near as this to an end of its scale hardly shows what happens to the logits:
/// its odds must grow tenfold to move it by a thousandth.
const END: f32 = 1e-4;
/// Baselines differ if they do by more than this share of the larger one.
const SHARE: f32 = 1e-3;

/// The metric of runs that a result is measured against.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Baseline<'a> {
    /// Which runs: `clean`.
    pub name: &'a str,
    /// `[prompt]`
    pub values: &'a Array1<f32>,
}

impl Metric {
    /// What a reader of effects on the `changed` runs must know of their size, in clauses: that
    /// the metric lies at an end of its scale in all of these runs; that it is as good as the same
    /// in the `other` ones, where there are such.
    pub(crate) fn notes(&self, changed: Baseline<'_>, other: Option<Baseline<'_>>) -> Vec<String> {
        let saturated = self.saturated(changed.values).then(|| {
            format!(
                "the {} of the {} run lies within {END} of an end of its scale, where changes of the \
                 logits hardly show; a logit difference or a log-probability shows them",
                self.name, changed.name
            )
        });
        let close = other.filter(|other| self.as_good_as_same(changed, *other));
        let close = close.map(|other| {
            format!(
                "the {} of the {} run is as good as that of the {} run, which leaves no room for \
                 an effect; a normalized one would be mostly noise",
                self.name, changed.name, other.name
            )
        });
        saturated.into_iter().chain(close).collect()
    }

    /// Whether it lies at an end of its scale in each of these runs, `[prompt]`.
    fn saturated(&self, values: &Array1<f32>) -> bool {
        let least = |prompt| match &self.kind {
            Kind::Probability(sets) if !of::<(Vec<_>, Vec<u32>)>(sets, prompt).1.is_empty() => -1.0,
            _ => 0.0,
        };
        let at_end = |(prompt, value): (usize, &f32)| {
            let least: f32 = least(prompt);
            *value - least <= END || 1.0 - *value <= END
        };
        self.is_probability() && values.iter().enumerate().all(at_end)
    }

    /// Whether its scale ends at 1.
    fn is_probability(&self) -> bool {
        matches!(
            self.kind,
            Kind::Probability(_) | Kind::Answer(_, Scale::Linear)
        )
    }

    /// Whether the means over the prompts hardly differ.
    fn as_good_as_same(&self, changed: Baseline<'_>, other: Baseline<'_>) -> bool {
        let [from, to] = [changed, other].map(|runs| mean(runs.values.iter().copied()));
        let share = SHARE * from.abs().max(to.abs());
        let least = if self.is_probability() {
            share.max(END)
        } else {
            share
        };
        (to - from).abs() <= least
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{Array1, arr1};

    use super::Baseline;
    use crate::metric::{Metric, logit_diff, probability, probability_diff, rank};

    /// Whether the first notes name an end of the scale, and baselines that are the same.
    fn notes(metric: &Metric, from: &Array1<f32>, to: &Array1<f32>) -> [bool; 2] {
        let [from, to] =
            [("corrupted", from), ("clean", to)].map(|(name, values)| Baseline { name, values });
        let notes = metric.notes(from, Some(to));
        ["an end of its scale", "no room"].map(|words| notes.iter().any(|n| n.contains(words)))
    }

    #[test]
    fn n12_baselines_that_leave_no_room() {
        let (low, high) = (arr1(&[1e-7, 3e-6]), arr1(&[0.999_99, 1.0]));
        let middle = arr1(&[0.4, 1e-7]);
        let chance = probability(&[1]);
        assert_eq!(notes(&chance, &low, &high), [true, false]);
        assert_eq!(notes(&chance, &high, &low), [true, false]);
        assert_eq!(notes(&chance, &low, &low.mapv(|p| 9.0 * p)), [true, true]);
        assert_eq!(notes(&chance, &middle, &high), [false, false]);
        let none = arr1(&[f32::NAN, f32::NAN]);
        assert_eq!(notes(&chance, &none, &high), [false, false]);
        // A difference of two probabilities that are small may have all the room there is.
        let difference = probability_diff(&[(vec![1], vec![2])]);
        assert_eq!(notes(&difference, &low, &high), [false, false]);
        assert_eq!(notes(&difference, &high.mapv(|p| -p), &low), [true, false]);
        let names = logit_diff(1, 2);
        assert_eq!(notes(&names, &low, &high), [false, false]);
        assert_eq!(
            notes(&names, &arr1(&[17.0]), &arr1(&[-17.0])),
            [false, false]
        );
        assert_eq!(
            notes(&names, &arr1(&[17.0]), &arr1(&[17.001])),
            [false, true]
        );
        assert_eq!(
            notes(&rank(&[1]), &arr1(&[0.0]), &arr1(&[0.0])),
            [false, true]
        );
        let alone = Baseline {
            name: "clean",
            values: &high,
        };
        assert_eq!(chance.notes(alone, None).len(), 1);
    }
}
