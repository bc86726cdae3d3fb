//! Activation functions of the MLP.

use ndarray::ArrayViewMut2;

use super::rows::for_rows;
use super::simd::{exp, vectorized};
use crate::config::Activation;

/// sqrt(2 / pi)
const GELU_FACTOR: f32 = 0.797_884_6;
const GELU_CUBIC: f32 = 0.044_715;

/// Applies the activation function in place, `[rows, d_mlp]`.
///
/// `gelu_new` is computed as `x / (1 + exp(-2u))`, `u = sqrt(2/π)(x + 0.044715 x³)`, which equals
/// `0.5 x (1 + tanh u)`; the polynomial exponential makes its error at most 1e-6 of
/// `max(|gelu(x)|, 1e-6)`.
pub fn activate(activation: Activation, x: ArrayViewMut2<'_, f32>) {
    for_rows(x, |_, row| match activation {
        Activation::GeluNew => vectorized!(row.iter_mut().for_each(|v| *v = gelu_new(*v))),
        Activation::Gelu => row.iter_mut().for_each(|v| *v = gelu(*v)),
        // Unlike `max`, the comparison lets NaN through.
        Activation::Relu => row
            .iter_mut()
            .for_each(|v| *v = if *v < 0.0 { 0.0 } else { *v }),
    });
}

#[inline(always)]
fn gelu_new(x: f32) -> f32 {
    let u = GELU_FACTOR * x * (GELU_CUBIC * x).mul_add(x, 1.0);
    x / (1.0 + exp(-2.0 * u))
}

fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + libm::erff(x * std::f32::consts::FRAC_1_SQRT_2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gelu_new_stays_within_its_stated_error() {
        let mut worst = 0.0_f64;
        for i in -200_000..=200_000 {
            let x = i as f32 * 1e-4;
            let xd = f64::from(x);
            let u = (2.0 / std::f64::consts::PI).sqrt() * (xd + 0.044715 * xd.powi(3));
            let exact = xd / (1.0 + (-2.0 * u).exp());
            let error = (f64::from(gelu_new(x)) - exact).abs() / exact.abs().max(1e-6);
            worst = worst.max(error);
        }
        assert!(worst < 1e-6, "worst error {worst:e}");
    }
}
