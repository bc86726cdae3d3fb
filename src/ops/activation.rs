//! Activation functions of the MLP.

use ndarray::{ArrayView2, ArrayViewMut2};

use super::rows::{assert_shape, for_row_pairs, for_rows};
use super::simd::{exp, vectorized};
use super::softmax::{softmax_backward_row, softmax_row};
use crate::config::Activation;

/// sqrt(2 / pi)
const GELU_FACTOR: f32 = 0.797_884_6;
const GELU_CUBIC: f32 = 0.044_715;

/// Applies the activation function in place, `[rows, d_mlp]`.
///
/// `gelu_new` is computed as `x / (1 + exp(-2u))`, `u = sqrt(2/π)(x + 0.044715 x³)`, which equals
/// `0.5 x (1 + tanh u)`; the polynomial exponential makes its error at most 2.5e-6 of
/// `max(|gelu(x)|, 1e-6)`.
pub fn activate(activation: Activation, x: ArrayViewMut2<'_, f32>) {
    for_rows(x, |_, row| activate_row(activation, row));
}

/// [`activate`] on one row.
pub(crate) fn activate_row(activation: Activation, row: &mut [f32]) {
    match activation {
        Activation::GeluNew => vectorized(
            #[inline(always)]
            || row.iter_mut().for_each(|v| *v = gelu_new(*v)),
        ),
        Activation::Gelu => row.iter_mut().for_each(|v| *v = gelu(*v)),
        // Unlike `max`, the comparison lets NaN through.
        Activation::Relu => row
            .iter_mut()
            .for_each(|v| *v = if *v < 0.0 { 0.0 } else { *v }),
        Activation::Silu => vectorized(
            #[inline(always)]
            || row.iter_mut().for_each(|v| *v = silu(*v)),
        ),
        Activation::Solu => {
            let mut weights = row.to_vec();
            softmax_row(&mut weights);
            row.iter_mut().zip(weights).for_each(|(v, w)| *v *= w);
        }
    }
}

/// The backward of [`activate`]: turns the gradient at its output into that at its input `x`, in
/// place. The derivative of `relu` at 0 is 0.
///
/// # Shapes
/// Both `[rows, d_mlp]`.
///
/// # Panics
/// If the shapes differ.
pub fn activate_backward(
    activation: Activation,
    x: ArrayView2<'_, f32>,
    gradient: ArrayViewMut2<'_, f32>,
) {
    let what = "the gradient of `activate_backward`";
    assert_shape(what, gradient.shape(), x.shape());
    for_row_pairs(gradient, x, |_, gradient, x| match activation {
        Activation::GeluNew => vectorized(
            #[inline(always)]
            || scale_each(gradient, x, gelu_new_derivative),
        ),
        Activation::Gelu => scale_each(gradient, x, gelu_derivative),
        Activation::Relu => scale_each(gradient, x, |x| if x <= 0.0 { 0.0 } else { 1.0 }),
        Activation::Silu => vectorized(
            #[inline(always)]
            || scale_each(gradient, x, silu_derivative),
        ),
        Activation::Solu => solu_backward(x, gradient),
    });
}

/// `x · softmax(x)`: through the factor `x`, and through the softmax.
fn solu_backward(x: &[f32], gradient: &mut [f32]) {
    let mut weights = x.to_vec();
    softmax_row(&mut weights);
    let mut through: Vec<f32> = gradient.iter().zip(x).map(|(g, x)| g * x).collect();
    softmax_backward_row(&weights, &mut through);
    for ((g, w), t) in gradient.iter_mut().zip(weights).zip(through) {
        *g = g.mul_add(w, t);
    }
}

#[inline(always)]
fn scale_each(gradient: &mut [f32], x: &[f32], factor: impl Fn(f32) -> f32) {
    for (g, x) in gradient.iter_mut().zip(x) {
        *g *= factor(*x);
    }
}

#[inline(always)]
fn gelu_new_derivative(x: f32) -> f32 {
    let u = GELU_FACTOR * x * (GELU_CUBIC * x).mul_add(x, 1.0);
    let du = GELU_FACTOR * (3.0 * GELU_CUBIC * x).mul_add(x, 1.0);
    let sigmoid = 1.0 / (1.0 + exp(-2.0 * u));
    let slope = 2.0 * sigmoid * (1.0 - sigmoid);
    // Out here the function is 0 or x to the last bit, and `du` would overflow.
    if x.abs() > 12.0 {
        return if x < 0.0 { 0.0 } else { 1.0 };
    }
    (slope * x).mul_add(du, sigmoid)
}

fn gelu_derivative(x: f32) -> f32 {
    const DENSITY: f32 = 0.398_942_3; // 1 / sqrt(2 pi)
    let below = 0.5 * (1.0 + libm::erff(x * std::f32::consts::FRAC_1_SQRT_2));
    below + x * DENSITY * libm::expf(-0.5 * x * x)
}

#[inline(always)]
fn gelu_new(x: f32) -> f32 {
    let u = GELU_FACTOR * x * (GELU_CUBIC * x).mul_add(x, 1.0);
    x / (1.0 + exp(-2.0 * u))
}

#[inline(always)]
fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

#[inline(always)]
fn silu_derivative(x: f32) -> f32 {
    let sigmoid = 1.0 / (1.0 + exp(-x));
    // Out here the function is 0 or x to the last bit, and the product would be 0 · ∞.
    if x.abs() > 100.0 {
        return if x < 0.0 { 0.0 } else { 1.0 };
    }
    sigmoid * x.mul_add(1.0 - sigmoid, 1.0)
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
        assert!(worst < 2.5e-6, "worst error {worst:e}");
    }

    #[test]
    fn derivatives_are_those_of_the_functions() {
        for activation in [
            Activation::GeluNew,
            Activation::Gelu,
            Activation::Relu,
            Activation::Silu,
        ] {
            let at = |x: f32| {
                let mut y = ndarray::arr2(&[[x]]);
                activate(activation, y.view_mut());
                f64::from(y[[0, 0]])
            };
            for i in -60..60 {
                let x = i as f32 * 0.1 + 0.05;
                let slope = (at(x + 1e-2) - at(x - 1e-2)) / f64::from((x + 1e-2) - (x - 1e-2));
                let mut found = ndarray::arr2(&[[1.0]]);
                let input = ndarray::arr2(&[[x]]);
                activate_backward(activation, input.view(), found.view_mut());
                let error = (f64::from(found[[0, 0]]) - slope).abs();
                assert!(error < 2e-4, "{activation:?} at {x}: {error:e}");
            }
            let far = ndarray::arr2(&[[-1e20_f32, 1e20]]);
            let mut found = ndarray::arr2(&[[1.0_f32, 1.0]]);
            activate_backward(activation, far.view(), found.view_mut());
            assert_eq!(found, ndarray::arr2(&[[0.0, 1.0]]), "{activation:?}");
        }
    }
}
