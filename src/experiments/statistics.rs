//! Means with their standard errors.

use ndarray::{ArrayD, ArrayViewD, Axis as Dim, Zip};

/// Mean and standard error (`sd / √n`, with `n − 1` in the variance) of the values that are
/// there; NaN where there are too few of them.
pub(crate) fn mean_and_error(samples: impl IntoIterator<Item = f32>) -> (f32, f32) {
    let samples: Vec<f64> = samples
        .into_iter()
        .filter(|v| !v.is_nan())
        .map(f64::from)
        .collect();
    let n = samples.len() as f64;
    if samples.is_empty() {
        return (f32::NAN, f32::NAN);
    }
    let mean = samples.iter().sum::<f64>() / n;
    let squares: f64 = samples.iter().map(|v| (v - mean).powi(2)).sum();
    let error = match samples.len() {
        1 => f64::NAN,
        _ => (squares / (n - 1.0) / n).sqrt(),
    };
    (mean as f32, error as f32)
}

/// Means and standard errors over the first axis.
pub(crate) fn over_first(samples: ArrayViewD<'_, f32>) -> (ArrayD<f32>, ArrayD<f32>) {
    let mut mean = ArrayD::zeros(&samples.shape()[1..]);
    let mut error = mean.clone();
    Zip::from(&mut mean)
        .and(&mut error)
        .and(samples.lanes(Dim(0)))
        .for_each(|mean, error, lane| (*mean, *error) = mean_and_error(lane.iter().copied()));
    (mean, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_values_do_not_count() {
        let (mean, error) = mean_and_error([1.0, f32::NAN, 3.0]);
        assert_eq!((mean, error), (2.0, 1.0));
        let (mean, error) = mean_and_error([5.0]);
        assert!(mean == 5.0 && error.is_nan());
        assert!(mean_and_error([]).0.is_nan());
    }
}
