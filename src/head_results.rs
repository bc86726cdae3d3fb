//! What heads write, from their `z`.

use ndarray::{Array3, ArrayView2, Axis as Dim};

use crate::model::Transformer;
use crate::ops::{linear, part};

/// Each head's output `z · W_O`, without `b_O`, `[row, head, d_model]`: with the bits of
/// [`Site::Result`](crate::Site::Result).
///
/// # Shapes
/// `z` `[row, d_model]`, heads side by side.
pub(crate) fn head_results(
    model: &Transformer,
    layer: usize,
    z: ArrayView2<'_, f32>,
) -> Array3<f32> {
    let config = model.config();
    let d_head = config.d_head();
    let mut results = Array3::zeros((z.nrows(), config.n_heads, config.d_model));
    for (head, mut to) in results.axis_iter_mut(Dim(1)).enumerate() {
        let z = part(z, 1, head * d_head..(head + 1) * d_head);
        to.assign(&linear(z, model.w_o(layer, head), None));
    }
    results
}
