//! Subspaces of an activation's last axis.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::path::Path;
use std::sync::Arc;

use ndarray::{Array2, ArrayD, ArrayView2, Axis, Ix2};

use crate::checkpoint::read_arrays;
use crate::content::Content;
use crate::error::{Error, Result};
use crate::files::format_error;

/// How far `B·Bᵀ` of a basis of rows may be from the identity, in any entry: far more than rounding
/// to f32 leaves, far less than what a basis that was not made orthonormal misses.
pub const ORTHONORMAL_WITHIN: f64 = 1e-4;

/// A subspace of an activation's last axis: of `d_model` for the residual stream, of `d_head` for
/// a head's output, of `d_mlp` for neurons.
///
/// An [`Edit`](super::Edit) at a [`Target`](super::Target) [in a
/// subspace](super::Target::in_subspace) changes only what lies in it. With `B` its orthonormal
/// basis as columns `[d, k]`, `h` a row of the activation and `e` what the edit makes of it,
///
/// ```text
/// h' = h + s·(e − h)·B·Bᵀ
/// ```
///
/// so that a patch is an interchange of the subspace (Geiger et al. 2024, "Finding Alignments
/// Between Interpretable Causal Variables and Distributed Neural Representations"), and zero
/// removes it. The same edits at its [`complement`](Subspace::complement) (`I − B·Bᵀ` for `B·Bᵀ`)
/// leave only it as it is: zero keeps nothing else. Computed in f64, from the row's f32 values;
/// what the change is 0 of keeps its bits.
///
/// ```
/// use ndarray::arr2;
/// use patchlens::intervention::Subspace;
/// use patchlens::{Edit, Intervention, Site, Target};
/// // One direction of a residual stream of four dimensions, as a column.
/// let direction = Subspace::new(arr2(&[[0.6], [0.8], [0.0], [0.0]]))?;
/// let at = Target::new(Site::ResidPost.at(1)).at_positions(-1);
/// let remove = Intervention::new(at.clone().in_subspace(direction.clone()), Edit::Zero);
/// let keep_only = Intervention::new(at.in_subspace(direction.complement()), Edit::Zero);
/// assert_eq!(
///     remove.target.to_string(),
///     "blocks.1.hook_resid_post[pos last, in 1 of 4 dimensions]"
/// );
/// assert!(keep_only.target.to_string().ends_with("outside of 1 of 4 dimensions]"));
/// assert!(Subspace::new(arr2(&[[0.6], [0.6]])).is_err()); // not of length 1
/// # Ok::<(), patchlens::Error>(())
/// ```
#[derive(Clone)]
pub struct Subspace {
    /// The basis vectors as rows, `[k, d]`.
    rows: Arc<Array2<f32>>,
    outside: bool,
    strength: f32,
}

impl Subspace {
    /// The subspace with an orthonormal basis, whose vectors are the columns of `[d, k]`.
    ///
    /// # Errors
    /// [`Error::Shape`] without vectors or with more than there are dimensions;
    /// [`Error::Invalid`] for numbers that are not finite, and where `Bᵀ·B` is further from the
    /// identity than [`ORTHONORMAL_WITHIN`] in some entry.
    pub fn new(basis: Array2<f32>) -> Result<Self> {
        let rows = basis.reversed_axes().as_standard_layout().into_owned();
        check_shape(&rows)?;
        for (i, a) in rows.rows().into_iter().enumerate() {
            for (j, b) in rows.rows().into_iter().enumerate().take(i + 1) {
                let product = dot(a.iter().copied().map(f64::from), b.iter().copied());
                let expected = if i == j { 1.0 } else { 0.0 };
                if (product - expected).abs() > ORTHONORMAL_WITHIN {
                    return Err(Error::invalid(
                        format!("basis of a subspace: product of its vectors {j} and {i}"),
                        product,
                        format!("{expected} within {ORTHONORMAL_WITHIN}: an orthonormal basis"),
                    ));
                }
            }
        }
        Ok(Self::of_rows(rows))
    }

    /// Reads a subspace from a safetensors file with one F32 tensor, its orthonormal basis: vectors
    /// as rows `[k, d]` or as columns `[d, k]` (there are never more vectors than dimensions, so the
    /// longer axis is `d`), or a single one `[d]`.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Tensor`] for a tensor of another type; [`Error::Format`] for another
    /// file, and for a tensor that is no such basis, with what [`Subspace::new`] says of it.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let expected = "one F32 tensor, an orthonormal basis `[k, d]`, `[d, k]` or `[d]`";
        let arrays = read_arrays(path, |_| Ok(()))?;
        let named = arrays.floats.keys().chain(arrays.integers.keys());
        let names: Vec<&str> = named.map(String::as_str).collect();
        let [name] = names[..] else {
            let found = format!("{} tensors [{}]", names.len(), names.join(", "));
            return Err(format_error(path, found, expected));
        };
        let wrong = |found: String| format_error(path, format!("`{name}`: {found}"), expected);
        let array = arrays.floats.get(name);
        let array = array.ok_or_else(|| wrong("integers".to_string()))?;
        let shape = format!("shape {:?}", array.shape());
        let columns = as_columns(array.clone()).ok_or_else(|| wrong(shape))?;
        Self::new(columns).map_err(|error| wrong(error.to_string()))
    }

    /// The subspace that some vectors span, the columns of `[d, k]`, of any length and at any
    /// angles: a basis is made of them by the Gram-Schmidt process in f64, done twice.
    ///
    /// # Errors
    /// [`Error::Shape`] without vectors or with more than there are dimensions;
    /// [`Error::Invalid`] for numbers that are not finite and for a vector of which less than a
    /// millionth is outside of what those before it span.
    pub fn spanned_by(vectors: &Array2<f32>) -> Result<Self> {
        let given = vectors.t().as_standard_layout().into_owned();
        check_shape(&given)?;
        let mut basis: Vec<Vec<f64>> = Vec::new();
        for (i, vector) in given.rows().into_iter().enumerate() {
            let mut own: Vec<f64> = vector.iter().copied().map(f64::from).collect();
            let length = norm(&own);
            for known in basis.iter().chain(&basis) {
                let share = dot(own.iter().copied(), known.iter().copied());
                own.iter_mut().zip(known).for_each(|(v, k)| *v -= share * k);
            }
            let left = norm(&own);
            if left <= 1e-6 * length {
                return Err(Error::invalid(
                    format!("vector {i} of those that span a subspace"),
                    format!("length {left:e} outside of the span of those before it"),
                    format!("more than a millionth of its own, {length:e}"),
                ));
            }
            own.iter_mut().for_each(|v| *v /= left);
            basis.push(own);
        }
        let narrow = |(i, j): (usize, usize)| basis[i][j] as f32;
        Ok(Self::of_rows(Array2::from_shape_fn(given.dim(), narrow)))
    }

    /// Adds what it is, for a journal's keys.
    pub(super) fn content<'a>(&'a self, to: &mut Content<'a>) {
        to.text(if self.outside { "outside" } else { "inside" });
        to.float(self.strength);
        to.array(self.rows.view().into_dyn());
    }

    fn of_rows(rows: Array2<f32>) -> Self {
        Subspace {
            rows: Arc::new(rows),
            outside: false,
            strength: 1.0,
        }
    }

    /// Everything but it, that is everything orthogonal to it. Twice is itself.
    #[must_use]
    pub fn complement(mut self) -> Self {
        self.outside = !self.outside;
        self
    }

    /// Multiplies the change by a factor, `s` in the formula above: 1 unless said otherwise.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a factor that is not finite.
    pub fn strength(mut self, factor: f32) -> Result<Self> {
        if !factor.is_finite() {
            return Err(Error::invalid(
                "strength in a subspace",
                factor,
                "a finite factor",
            ));
        }
        self.strength = factor;
        Ok(self)
    }

    /// The basis vectors as columns, `[d, k]`; of a complement, those of what it leaves out.
    pub fn basis(&self) -> ArrayView2<'_, f32> {
        self.rows.t()
    }

    /// The number of dimensions of the space that it lies in, `d`.
    pub fn width(&self) -> usize {
        self.rows.ncols()
    }

    /// The number of basis vectors, `k`.
    pub(super) fn rank(&self) -> usize {
        self.rows.nrows()
    }

    /// Takes back what an edit changed of a row outside of the subspace.
    pub(crate) fn limit(&self, before: &[f32], edited: &mut [f32]) {
        let change = |(a, b): (&f32, &f32)| f64::from(*b) - f64::from(*a);
        let mut inside = vec![0.0_f64; before.len()];
        for vector in self.rows.axis_iter(Axis(0)) {
            let changes = before.iter().zip(&*edited).map(change);
            let share = dot(changes, vector.iter().copied());
            let vector = vector.iter().copied().map(f64::from);
            inside
                .iter_mut()
                .zip(vector)
                .for_each(|(to, v)| *to += share * v);
        }
        for ((old, new), inside) in before.iter().zip(edited).zip(inside) {
            let own = if self.outside {
                change((old, new)) - inside
            } else {
                inside
            };
            let own = f64::from(self.strength) * own;
            // The sum of -0 and 0 is 0.
            *new = if own == 0.0 {
                *old
            } else {
                (f64::from(*old) + own) as f32
            };
        }
    }

    fn bits(&self) -> impl Iterator<Item = u32> {
        self.rows.iter().map(|v| v.to_bits())
    }
}

/// Vectors as columns `[d, k]`, whichever axis they lie along.
fn as_columns(array: ArrayD<f32>) -> Option<Array2<f32>> {
    let array = if array.ndim() == 1 {
        array.insert_axis(Axis(1))
    } else {
        array
    };
    let array = array.into_dimensionality::<Ix2>().ok()?;
    Some(if array.nrows() < array.ncols() {
        array.reversed_axes()
    } else {
        array
    })
}

fn check_shape(rows: &Array2<f32>) -> Result<()> {
    let (k, d) = rows.dim();
    if k == 0 || k > d {
        return Err(Error::Shape {
            at: "basis of a subspace".to_string(),
            found: vec![d, k],
            expected: format!("[{d}, k], a vector per column, 1 to {d} of them"),
        });
    }
    match rows.iter().find(|v| !v.is_finite()) {
        None => Ok(()),
        Some(v) => Err(Error::invalid("basis of a subspace", v, "finite numbers")),
    }
}

fn dot<B: Into<f64>>(a: impl Iterator<Item = f64>, b: impl Iterator<Item = B>) -> f64 {
    a.zip(b).map(|(a, b)| a * b.into()).sum()
}

fn norm(vector: &[f64]) -> f64 {
    dot(vector.iter().copied(), vector.iter().copied()).sqrt()
}

impl PartialEq for Subspace {
    fn eq(&self, other: &Self) -> bool {
        self.outside == other.outside
            && self.strength.to_bits() == other.strength.to_bits()
            && self.rows.dim() == other.rows.dim()
            && (Arc::ptr_eq(&self.rows, &other.rows) || self.bits().eq(other.bits()))
    }
}

impl Eq for Subspace {}

impl Hash for Subspace {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.outside, self.strength.to_bits(), self.rows.dim()).hash(state);
        self.bits().for_each(|bits| bits.hash(state));
    }
}

impl fmt::Display for Subspace {
    /// `in 2 of 768 dimensions`, `outside of 2 of 768 dimensions`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = if self.outside { "outside of" } else { "in" };
        write!(f, "{side} {} of {} dimensions", self.rank(), self.width())?;
        if self.strength == 1.0 {
            return Ok(());
        }
        write!(f, ", strength {}", self.strength)
    }
}

impl fmt::Debug for Subspace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Subspace({self})")
    }
}
