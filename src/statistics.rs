//! Means with their standard errors.

use std::fmt;

use ndarray::{ArrayD, ArrayViewD, Axis as Dim, IxDyn, Zip};
use serde::{Deserialize, Serialize};

/// A mean with its standard error.
///
/// ```
/// use patchlens::Estimate;
/// let found = Estimate::of([1.0, 3.0, f32::NAN]);
/// assert_eq!((found.mean, found.std_error, found.n), (2.0, 1.0, 2));
/// assert_eq!(found.to_string(), "2.000 ± 1.000");
/// assert_eq!(format!("{found:+.2}"), "+2.00 ± 1.00");
/// assert_eq!(Estimate::of([2.0]).to_string(), "2.000"); // one value has no error
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The mean; NaN of no values.
    #[serde(with = "crate::number::any")]
    pub mean: f32,
    /// The standard error of the mean; NaN of fewer than two values.
    #[serde(with = "crate::number::any")]
    pub std_error: f32,
    /// How many values there are.
    pub n: usize,
}

impl Estimate {
    /// Mean and standard error (`sd / √n`, with `n − 1` in the variance), summed in f64. A NaN is
    /// a value that is missing: it does not count.
    pub fn of(values: impl IntoIterator<Item = f32>) -> Self {
        let values = values.into_iter().filter(|v| !v.is_nan()).map(f64::from);
        let values: Vec<f64> = values.collect();
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
        // Of no values, and of one, this is 0 / 0.
        let std_error = (squares / (n - 1.0) / n).sqrt();
        Estimate {
            mean: mean as f32,
            std_error: std_error as f32,
            n: values.len(),
        }
    }
}

impl fmt::Display for Estimate {
    /// As many decimals as asked for, by default three; with a sign where asked for.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_with_error(f, self.mean, Some(self.std_error))
    }
}

/// Writes `+1.23 ± 0.04`: with a sign and as many decimals as the formatter asks for, by default
/// three; without an error that is not there or NaN; `n/a` for a value that is NaN.
pub(crate) fn write_with_error(
    f: &mut fmt::Formatter<'_>,
    value: f32,
    std_error: Option<f32>,
) -> fmt::Result {
    let digits = f.precision().unwrap_or(3);
    if value.is_nan() {
        return f.write_str("n/a");
    }
    if f.sign_plus() {
        write!(f, "{value:+.digits$}")?;
    } else {
        write!(f, "{value:.digits$}")?;
    }
    match std_error.filter(|error| !error.is_nan()) {
        Some(error) => write!(f, " ± {error:.digits$}"),
        None => Ok(()),
    }
}

/// The mean, summed in f64 and rounded once; NaN of nothing.
pub(crate) fn mean(values: impl ExactSizeIterator<Item = f32>) -> f32 {
    exact_mean(values) as f32
}

/// The same before it is rounded.
pub(crate) fn exact_mean(values: impl ExactSizeIterator<Item = f32>) -> f64 {
    let n = values.len() as f64;
    values.map(f64::from).sum::<f64>() / n
}

/// Pearson's correlation of two lists of one length; `None` where one of them is constant.
pub(crate) fn pearson(a: &[f64], b: &[f64]) -> Option<f64> {
    let constant = |of: &[f64]| of.iter().all(|v| *v == of[0]);
    if constant(a) || constant(b) {
        return None;
    }
    let centred = |of: &[f64]| -> Vec<f64> {
        let mean = of.iter().sum::<f64>() / of.len() as f64;
        of.iter().map(|v| v - mean).collect()
    };
    let (a, b) = (centred(a), centred(b));
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    Some(dot(&a, &b) / (dot(&a, &a) * dot(&b, &b)).sqrt())
}

/// The rank of each value, from 1; equals share their mean rank.
pub(crate) fn ranks(of: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..of.len()).collect();
    order.sort_by(|a, b| of[*a].total_cmp(&of[*b]));
    let mut ranks = vec![0.0; of.len()];
    let mut before = 0;
    for equals in order.chunk_by(|a, b| of[*a] == of[*b]) {
        let shared = before as f64 + (equals.len() + 1) as f64 / 2.0;
        equals.iter().for_each(|i| ranks[*i] = shared);
        before += equals.len();
    }
    ranks
}

/// Means and standard errors over the first axis.
pub(crate) fn over_first(samples: ArrayViewD<'_, f32>) -> (ArrayD<f32>, ArrayD<f32>) {
    let mut mean = ArrayD::zeros(&samples.shape()[1..]);
    let mut error = mean.clone();
    Zip::from(&mut mean)
        .and(&mut error)
        .and(samples.lanes(Dim(0)))
        .for_each(|mean, error, lane| {
            let found = Estimate::of(lane.iter().copied());
            (*mean, *error) = (found.mean, found.std_error);
        });
    (mean, error)
}

/// Values in row-major order as an array, of a shape that has as many places.
pub(crate) fn shaped<T>(shape: &[usize], values: impl IntoIterator<Item = T>) -> ArrayD<T> {
    ArrayD::from_shape_vec(IxDyn(shape), values.into_iter().collect()).expect("one value per place")
}

/// Means and standard errors over the last axis.
pub(crate) fn over_last(mut samples: ArrayViewD<'_, f32>) -> (ArrayD<f32>, ArrayD<f32>) {
    // `over_first` wants it in front, all else in its order.
    let last = samples.ndim() - 1;
    (0..last)
        .rev()
        .for_each(|axis| samples.swap_axes(axis, axis + 1));
    over_first(samples)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equals_share_their_rank() {
        let found = ranks(&[3.0, -1.0, 3.0, 0.0, -0.0, 3.0]);
        assert_eq!(found, [5.0, 1.0, 5.0, 2.5, 2.5, 5.0]);
        assert_eq!(pearson(&[1.0, 2.0, 3.0], &[-2.0, -4.0, -6.0]), Some(-1.0));
        assert_eq!(pearson(&[1.0, 1.0], &[1.0, 2.0]), None);
        assert_eq!(pearson(&[], &[]), None);
    }

    #[test]
    fn missing_values_do_not_count() {
        assert_eq!(
            Estimate::of([1.0, f32::NAN, 3.0]),
            Estimate {
                mean: 2.0,
                std_error: 1.0,
                n: 2
            }
        );
        let one = Estimate::of([5.0]);
        assert!(one.mean == 5.0 && one.std_error.is_nan() && one.n == 1);
        let none = Estimate::of([]);
        assert!(none.mean.is_nan() && none.std_error.is_nan() && none.n == 0);
        assert_eq!(none.to_string(), "n/a");
    }

    #[test]
    fn what_is_missing_is_null_in_json() {
        let json = serde_json::to_string(&Estimate::of([5.0])).unwrap();
        assert_eq!(json, r#"{"mean":5.0,"std_error":null,"n":1}"#);
        let back: Estimate = serde_json::from_str(&json).unwrap();
        assert!(back.mean == 5.0 && back.std_error.is_nan() && back.n == 1);
    }
}
