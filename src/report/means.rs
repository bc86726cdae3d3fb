//! Labelled means over prompts, with their standard errors.

use ndarray::{ArrayD, ArrayViewD, Axis as Dim};

use super::{About, Axis, Labelled};
use crate::error::Result;
use crate::statistics::over_last;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::shaped;

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
