//! LayerNorm.

use ndarray::{Array2, ArrayView1, ArrayView2};

use super::rows::for_rows;
use super::simd::{sum, vectorized};

/// The parts of a LayerNorm that hooks can see.
pub struct Normalized {
    /// `sqrt(mean((x - mean)²) + eps)`, `[rows, 1]`.
    pub scale: Array2<f32>,
    /// `(x - mean) / scale`, before weight and bias, `[rows, d_model]`.
    pub normalized: Array2<f32>,
}

#[inline(always)]
fn mean(x: &[f32]) -> f32 {
    sum(x) / x.len() as f32
}

/// Centres a row in place and returns its LayerNorm scale.
#[inline(always)]
fn centre(x: &mut [f32], eps: f32) -> f32 {
    let mean = mean(x);
    let mut lanes = [0.0_f32; super::simd::LANES];
    for v in x.iter_mut() {
        *v -= mean;
    }
    let (chunks, tail) = x.as_chunks::<{ super::simd::LANES }>();
    for chunk in chunks {
        for (lane, v) in lanes.iter_mut().zip(chunk) {
            *lane = v.mul_add(*v, *lane);
        }
    }
    for (lane, v) in lanes.iter_mut().zip(tail) {
        *lane = v.mul_add(*v, *lane);
    }
    (sum(&lanes) / x.len() as f32 + eps).sqrt()
}

/// LayerNorm without weight and bias. `edit` may change the scales before they divide.
///
/// # Shapes
/// `x` `[rows, d_model]`.
pub fn layer_norm(
    x: ArrayView2<'_, f32>,
    eps: f32,
    edit: impl FnOnce(&mut Array2<f32>),
) -> Normalized {
    let width = x.ncols();
    let mut normalized = Array2::zeros((x.nrows(), width));
    normalized.assign(&x);
    let mut scale = Array2::zeros((x.nrows(), 1));
    for (mut row, scale) in normalized.rows_mut().into_iter().zip(scale.iter_mut()) {
        if let Some(row) = row.as_slice_mut() {
            *scale = vectorized!(centre(row, eps));
        }
    }
    edit(&mut scale);
    for_rows(normalized.view_mut(), |i, row| {
        let scale = scale[[i, 0]];
        vectorized!(row.iter_mut().for_each(|v| *v /= scale));
    });
    Normalized { scale, normalized }
}

/// `normalized * weight + bias`, row by row.
pub fn affine(
    normalized: ArrayView2<'_, f32>,
    weight: ArrayView1<'_, f32>,
    bias: ArrayView1<'_, f32>,
) -> Array2<f32> {
    let mut out = normalized.to_owned();
    let (weight, bias) = (weight.to_vec(), bias.to_vec());
    for_rows(out.view_mut(), |_, row| {
        vectorized!(scale_and_shift(row, &weight, &bias));
    });
    out
}

#[inline(always)]
fn scale_and_shift(row: &mut [f32], weight: &[f32], bias: &[f32]) {
    for ((v, w), b) in row.iter_mut().zip(weight).zip(bias) {
        *v = v.mul_add(*w, *b);
    }
}

/// LayerNorm with weight and bias in one go: the bits of [`layer_norm`] and [`affine`].
///
/// # Shapes
/// `x` `[rows, d_model]`, `weight` and `bias` `[d_model]`.
pub fn layer_norm_affine(
    x: ArrayView2<'_, f32>,
    weight: ArrayView1<'_, f32>,
    bias: ArrayView1<'_, f32>,
    eps: f32,
) -> Array2<f32> {
    let mut out = Array2::zeros(x.dim());
    let (weight, bias) = (weight.to_vec(), bias.to_vec());
    for_rows(out.view_mut(), |i, row| {
        row.iter_mut()
            .zip(x.row(i))
            .for_each(|(to, from)| *to = *from);
        vectorized!({
            let scale = centre(row, eps);
            row.iter_mut().for_each(|v| *v /= scale);
            scale_and_shift(row, &weight, &bias);
        });
    });
    out
}
