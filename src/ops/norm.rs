//! LayerNorm.

use ndarray::{Array2, ArrayView1, ArrayView2, ArrayViewMut1, ArrayViewMut2, Zip};

use super::memory::matrix;
use super::rows::{PARALLEL_FROM, assert_shape, for_row_pairs, for_rows};
use super::simd::{dot, sum, vectorized};

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
///
/// # Panics
/// If `edit` leaves scales of another shape.
pub fn layer_norm(
    x: ArrayView2<'_, f32>,
    eps: f32,
    edit: impl FnOnce(&mut Array2<f32>),
) -> Normalized {
    let width = x.ncols();
    let mut normalized = matrix((x.nrows(), width));
    normalized.assign(&x);
    let mut scale = Array2::zeros((x.nrows(), 1));
    let centre_row = |row: ArrayViewMut1<'_, f32>, mut scale: ArrayViewMut1<'_, f32>| {
        let row = row.into_slice().expect("a new matrix is row-major");
        let found = vectorized(
            #[inline(always)]
            || centre(row, eps),
        );
        scale.fill(found);
    };
    let rows = Zip::from(normalized.rows_mut()).and(scale.rows_mut());
    if x.len() < PARALLEL_FROM {
        rows.for_each(centre_row);
    } else {
        rows.par_for_each(centre_row);
    }
    edit(&mut scale);
    assert_shape("LayerNorm's scales", scale.shape(), &[x.nrows(), 1]);
    for_rows(normalized.view_mut(), |i, row| {
        let scale = scale[[i, 0]];
        vectorized(
            #[inline(always)]
            || row.iter_mut().for_each(|v| *v /= scale),
        );
    });
    Normalized { scale, normalized }
}

/// `normalized * weight + bias`, row by row.
///
/// # Shapes
/// `normalized` `[rows, d_model]`, `weight` and `bias` `[d_model]`; returns `[rows, d_model]`.
///
/// # Panics
/// If the shapes do not fit.
pub fn affine(
    normalized: ArrayView2<'_, f32>,
    weight: ArrayView1<'_, f32>,
    bias: ArrayView1<'_, f32>,
) -> Array2<f32> {
    assert_shape(
        "the weight of `affine`",
        weight.shape(),
        &normalized.shape()[1..],
    );
    assert_shape(
        "the bias of `affine`",
        bias.shape(),
        &normalized.shape()[1..],
    );
    let mut out = matrix(normalized.dim());
    let (weight, bias) = (weight.to_vec(), bias.to_vec());
    for_rows(out.view_mut(), |i, row| {
        ArrayViewMut1::from(&mut *row).assign(&normalized.row(i));
        vectorized(
            #[inline(always)]
            || scale_and_shift(row, &weight, &bias),
        );
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
/// `x` `[rows, d_model]`, `weight` and `bias` `[d_model]`; returns `[rows, d_model]`.
///
/// # Panics
/// If the shapes do not fit.
pub fn layer_norm_affine(
    x: ArrayView2<'_, f32>,
    weight: ArrayView1<'_, f32>,
    bias: ArrayView1<'_, f32>,
    eps: f32,
) -> Array2<f32> {
    assert_shape(
        "the weight of `layer_norm_affine`",
        weight.shape(),
        &x.shape()[1..],
    );
    assert_shape(
        "the bias of `layer_norm_affine`",
        bias.shape(),
        &x.shape()[1..],
    );
    let mut out = matrix(x.dim());
    let (weight, bias) = (weight.to_vec(), bias.to_vec());
    for_rows(out.view_mut(), |i, row| {
        ArrayViewMut1::from(&mut *row).assign(&x.row(i));
        vectorized(
            #[inline(always)]
            || {
                let scale = centre(row, eps);
                row.iter_mut().for_each(|v| *v /= scale);
                scale_and_shift(row, &weight, &bias);
            },
        );
    });
    out
}

/// The backward of [`layer_norm`]: the gradient at its input `x` from that at its output.
/// `scale` is what divided, after any edit; an edit counts as an added constant.
///
/// # Shapes
/// `x` and `gradient` `[rows, d_model]`, `scale` `[rows, 1]`; returns `[rows, d_model]`.
///
/// # Panics
/// If the shapes do not fit.
pub fn layer_norm_backward(
    x: ArrayView2<'_, f32>,
    scale: ArrayView2<'_, f32>,
    eps: f32,
    gradient: ArrayView2<'_, f32>,
) -> Array2<f32> {
    assert_shape(
        "the gradient of `layer_norm_backward`",
        gradient.shape(),
        x.shape(),
    );
    assert_shape(
        "the scale of `layer_norm_backward`",
        scale.shape(),
        &[x.nrows(), 1],
    );
    let mut out = gradient.as_standard_layout().into_owned();
    for_row_pairs(out.view_mut(), x, |i, gradient, x| {
        let mut centred = x.to_vec();
        let divisor = scale[[i, 0]];
        vectorized(
            #[inline(always)]
            || {
                let own_scale = centre(&mut centred, eps);
                let at_scale = scale_gradient(&centred, gradient, divisor);
                let along = at_scale / (own_scale * centred.len() as f32);
                for (g, c) in gradient.iter_mut().zip(&centred) {
                    *g = c.mul_add(along, *g / divisor);
                }
                let mean = mean(gradient);
                gradient.iter_mut().for_each(|g| *g -= mean);
            },
        );
    });
    out
}

/// The gradient at the scale of [`layer_norm`] from that at its output, `[rows, 1]`; shapes as in
/// [`layer_norm_backward`].
///
/// # Panics
/// If the shapes do not fit.
pub fn layer_norm_scale_backward(
    x: ArrayView2<'_, f32>,
    scale: ArrayView2<'_, f32>,
    gradient: ArrayView2<'_, f32>,
) -> Array2<f32> {
    assert_shape(
        "the gradient of `layer_norm_scale_backward`",
        gradient.shape(),
        x.shape(),
    );
    assert_shape(
        "the scale of `layer_norm_scale_backward`",
        scale.shape(),
        &[x.nrows(), 1],
    );
    let mut out = Array2::zeros(scale.dim());
    let gradient = gradient.as_standard_layout();
    for_row_pairs(out.view_mut(), x, |i, out, x| {
        let mut centred = x.to_vec();
        let gradient = gradient.row(i);
        if let Some(gradient) = gradient.as_slice() {
            vectorized(
                #[inline(always)]
                || {
                    centre(&mut centred, 0.0);
                    out[0] = scale_gradient(&centred, gradient, scale[[i, 0]]);
                },
            );
        }
    });
    out
}

#[inline(always)]
fn scale_gradient(centred: &[f32], gradient: &[f32], scale: f32) -> f32 {
    -dot(centred, gradient) / (scale * scale)
}

/// The backward of [`affine`] for its input: `gradient * weight`, in place.
///
/// # Shapes
/// `gradient` `[rows, d_model]`, `weight` `[d_model]`.
///
/// # Panics
/// If the shapes do not fit.
pub fn affine_backward(gradient: ArrayViewMut2<'_, f32>, weight: ArrayView1<'_, f32>) {
    assert_shape(
        "the weight of `affine_backward`",
        weight.shape(),
        &gradient.shape()[1..],
    );
    let weight = weight.to_vec();
    for_rows(gradient, |_, row| {
        vectorized(
            #[inline(always)]
            || row.iter_mut().zip(&weight).for_each(|(g, w)| *g *= w),
        );
    });
}
