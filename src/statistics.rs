//! Means with their standard errors.

use ndarray::{ArrayD, ArrayViewD, Axis as Dim, IxDyn, Zip};

use crate::error::Result;
use crate::report::{About, Axis, Labelled};

/// The mean, summed in f64.
pub(crate) fn mean(values: impl ExactSizeIterator<Item = f32>) -> f32 {
    let n = values.len() as f64;
    (values.map(f64::from).sum::<f64>() / n) as f32
}

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

/// Values in row-major order as an array, of a shape that has as many places.
pub(crate) fn shaped(shape: &[usize], values: impl IntoIterator<Item = f32>) -> ArrayD<f32> {
    ArrayD::from_shape_vec(IxDyn(shape), values.into_iter().collect())
        .unwrap_or_else(|_| unreachable!("one value a place of {shape:?}"))
}

/// Means over the last axis, that of the prompts, labelled; with standard errors where there are
/// several prompts.
pub(crate) fn labelled_means(
    samples: ArrayViewD<'_, f32>,
    axes: Vec<Axis>,
    about: About,
) -> Result<Labelled> {
    let (mean, error) = over_last(samples.view());
    let labelled = Labelled::new(mean, axes, about)?;
    with_some(labelled, error, samples)
}

/// Means that are known, with standard errors over the last axis of what they are means of, where
/// that has several entries. A mean that is NaN has none.
pub(crate) fn with_errors(means: Labelled, samples: ArrayViewD<'_, f32>) -> Result<Labelled> {
    let (_, mut error) = over_last(samples.view());
    error.zip_mut_with(&means.values(), |error, mean| {
        if mean.is_nan() {
            *error = f32::NAN;
        }
    });
    with_some(means, error, samples)
}

fn with_some(
    means: Labelled,
    error: ArrayD<f32>,
    samples: ArrayViewD<'_, f32>,
) -> Result<Labelled> {
    let last = samples.ndim() - 1;
    if samples.len_of(Dim(last)) > 1 {
        means.with_std_error(error)
    } else {
        Ok(means)
    }
}

/// Means and standard errors over the last axis.
fn over_last(mut samples: ArrayViewD<'_, f32>) -> (ArrayD<f32>, ArrayD<f32>) {
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
    fn missing_values_do_not_count() {
        let (mean, error) = mean_and_error([1.0, f32::NAN, 3.0]);
        assert_eq!((mean, error), (2.0, 1.0));
        let (mean, error) = mean_and_error([5.0]);
        assert!(mean == 5.0 && error.is_nan());
        assert!(mean_and_error([]).0.is_nan());
    }

    #[test]
    fn means_over_prompts_keep_the_order_of_the_other_axes() {
        let about = About::default;
        let axes = || vec![Axis::layers(2), Axis::heads(3)];
        let samples = shaped(&[2, 3, 2], (0..12).map(|i| i as f32));
        let found = labelled_means(samples.view(), axes(), about()).unwrap();
        let expected = shaped(&[2, 3], (0..6).map(|i| 2.0 * i as f32 + 0.5));
        assert_eq!(found.values(), expected);
        assert_eq!(found.std_error().unwrap(), shaped(&[2, 3], [0.5; 6]));
        let one = shaped(&[2, 3, 1], [1.0; 6]);
        let found = labelled_means(one.view(), axes(), about()).unwrap();
        assert!(found.std_error().is_none());
    }
}
