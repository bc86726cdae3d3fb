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
    let last = samples.ndim() - 1;
    let several = samples.len_of(Dim(last)) > 1;
    let mut first = samples;
    // `over_first` wants the prompts in front, all else in its order.
    (0..last)
        .rev()
        .for_each(|axis| first.swap_axes(axis, axis + 1));
    let (mean, error) = over_first(first);
    let labelled = Labelled::new(mean, axes, about)?;
    if several {
        labelled.with_std_error(error)
    } else {
        Ok(labelled)
    }
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
