//! Ops: what exactly does the forward pass compute, and can I use it on my own arrays?
//!
//! Free functions on arrays, each with its formula, its shapes and its backward beside it:
//! products ([`linear`](fn@linear), [`matmul`]), LayerNorm ([`layer_norm`], [`affine`]; Ba et al.
//! 2016, section 3), softmax ([`softmax_row`]) and GELU ([`activate`]; Hendrycks and Gimpel 2016).
//!
//! ```
//! use ndarray::array;
//! use patchlens::ops::{matmul, softmax_row};
//! let (x, w) = (array![[1.0, 2.0], [0.0, 1.0]], array![[1.0, 0.0], [1.0, 3.0]]);
//! let mut y = matmul(x.view(), w.view()); // [row, out]
//! softmax_row(y.row_mut(0).as_slice_mut().expect("rows of a new array are contiguous"));
//! println!("{y:.3}");
//! ```
//!
//! **What a number means.** The very bits that the model has: its forward pass calls these
//! functions.
//!
//! **What it does not mean.** The bits of another library: sums run in another order there, and
//! agree to about 1e-6.
//!
//! Every function gives a row of its output the same bits whatever other rows are computed with
//! it, in whatever number, by whatever number of threads: sums run in an order which depends on
//! the row alone.

mod activation;
mod attention;
mod kernel;
mod largest;
mod linear;
mod memory;
mod norm;
mod part;
mod rows;
mod simd;
mod softmax;

pub(crate) use activation::activate_row;
pub use activation::{activate, activate_backward};
pub(crate) use attention::{
    AttnScratch, HeadGradients, HeadViews, attend, attend_backward, scores, weighted_values,
};
pub(crate) use largest::largest;
pub(crate) use linear::{kept_for_products, linear_parts, product_bytes, rows_of_products};
pub use linear::{linear, matmul, matmul_into};
pub use memory::release_memory;
pub(crate) use memory::{Matrix, Thrift, map_rows, matrix};
pub use norm::{
    Normalized, affine, affine_backward, layer_norm, layer_norm_affine, layer_norm_backward,
    layer_norm_scale_backward,
};
pub(crate) use part::{part, part_mut};
pub use rows::sum_rows;
pub(crate) use rows::{for_rows, on_pool, sorted};
pub(crate) use simd::vector_unit;
pub(crate) use softmax::{attention_softmax_row, kl_row, softmax_and_loss};
pub use softmax::{log_softmax_row, softmax_backward_row, softmax_row};
