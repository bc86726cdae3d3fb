//! Matrices of low rank, kept as the product of two thin ones.

use nalgebra::{Complex, DMatrix, Schur};
use ndarray::{Array1, Array2, ArrayView2};

use crate::error::{Error, Result};
use crate::ops::matmul;

/// `a · b`, `[rows, inner] · [inner, columns]`, which is never multiplied out unless
/// [`FactoredMatrix::dense`] asks for it (TransformerLens's `FactoredMatrix`).
///
/// ```
/// use ndarray::array;
/// use patchlens::weights::FactoredMatrix;
/// let m = FactoredMatrix::new(array![[1.0], [2.0]], array![[3.0, 4.0]])?;
/// assert_eq!(m.dense(), array![[3.0, 4.0], [6.0, 8.0]]);
/// assert!((m.svd()?.singular_values[0] - 125_f64.sqrt()).abs() < 1e-6);
/// assert!((m.eigenvalues()?[0].re - 11.0).abs() < 1e-6);
/// # Ok::<(), patchlens::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct FactoredMatrix {
    a: Array2<f32>,
    b: Array2<f32>,
}

/// A thin singular value decomposition, `u · diag(singular_values) · vᵀ`.
#[derive(Clone, Debug, PartialEq)]
pub struct Svd {
    /// Left singular vectors as columns, `[rows, rank]`.
    pub u: Array2<f32>,
    /// Falling, `[rank]`.
    pub singular_values: Array1<f64>,
    /// Right singular vectors as columns, `[columns, rank]`.
    pub v: Array2<f32>,
}

impl FactoredMatrix {
    /// The product of two factors, `[rows, inner]` and `[inner, columns]`.
    ///
    /// # Errors
    /// [`Error::Shape`] if the inner dimensions differ or a dimension is 0.
    pub fn new(a: Array2<f32>, b: Array2<f32>) -> Result<Self> {
        if a.ncols() != b.nrows() || a.is_empty() || b.is_empty() {
            return Err(Error::Shape {
                at: "second factor".to_string(),
                found: b.shape().to_vec(),
                expected: format!("[{}, columns], none of them 0", a.ncols()),
            });
        }
        Ok(FactoredMatrix { a, b })
    }

    /// Same as [`FactoredMatrix::new`], of factors that fit by construction.
    pub(crate) fn of(a: Array2<f32>, b: Array2<f32>) -> Self {
        FactoredMatrix { a, b }
    }

    /// The first factor, `[rows, inner]`.
    pub fn a(&self) -> ArrayView2<'_, f32> {
        self.a.view()
    }

    /// The second factor, `[inner, columns]`.
    pub fn b(&self) -> ArrayView2<'_, f32> {
        self.b.view()
    }

    /// Rows and columns.
    pub fn dim(&self) -> (usize, usize) {
        (self.a.nrows(), self.b.ncols())
    }

    /// The matrix multiplied out, `[rows, columns]`.
    pub fn dense(&self) -> Array2<f32> {
        matmul(self.a.view(), self.b.view())
    }

    /// The transpose.
    pub fn transposed(&self) -> Self {
        FactoredMatrix::of(self.b.t().to_owned(), self.a.t().to_owned())
    }

    /// The product with another one, with the smaller inner dimension of the two.
    ///
    /// # Errors
    /// [`Error::Shape`] if the dimensions do not fit.
    pub fn times(&self, other: &FactoredMatrix) -> Result<Self> {
        self.check(other.dim().0, other.a.shape())?;
        let middle = matmul(self.b.view(), other.a.view());
        Ok(if middle.nrows() <= middle.ncols() {
            FactoredMatrix::of(self.a.clone(), matmul(middle.view(), other.b.view()))
        } else {
            FactoredMatrix::of(matmul(self.a.view(), middle.view()), other.b.clone())
        })
    }

    /// The product with a matrix `[columns, n]` from the right.
    ///
    /// # Errors
    /// [`Error::Shape`] if the dimensions do not fit.
    pub fn times_dense(&self, right: ArrayView2<'_, f32>) -> Result<Self> {
        self.check(right.nrows(), right.shape())?;
        Ok(FactoredMatrix::of(
            self.a.clone(),
            matmul(self.b.view(), right),
        ))
    }

    fn check(&self, rows: usize, shape: &[usize]) -> Result<()> {
        if rows == self.dim().1 {
            return Ok(());
        }
        Err(Error::Shape {
            at: "right side of a product".to_string(),
            found: shape.to_vec(),
            expected: format!("{} rows", self.dim().1),
        })
    }

    /// One row, `[columns]`: for a full OV circuit, what attending to that token does to every
    /// logit.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] if there is no such row.
    pub fn row(&self, row: usize) -> Result<Array1<f32>> {
        let rows = self.dim().0;
        if row >= rows {
            return Err(Error::OutOfRange {
                at: "factored matrix".to_string(),
                axis: "row",
                found: row,
                expected: format!("0..{rows}"),
            });
        }
        Ok(self.a.row(row).dot(&self.b))
    }

    /// The Frobenius norm, from the factors' Gram matrices.
    pub fn norm(&self) -> f64 {
        let rows = gram(self.a.t());
        let columns = gram(self.b.view());
        // tr(AᵀA · BBᵀ); both are symmetric.
        (&rows * &columns).sum().max(0.0).sqrt()
    }

    /// The thin decomposition, of rank `min(rows, inner, columns)`: QR of both factors, then the
    /// decomposition of the small product of their triangles.
    ///
    /// # Errors
    /// [`Error::Invalid`] for factors that are not finite.
    pub fn svd(&self) -> Result<Svd> {
        self.check_finite("singular value decomposition")?;
        let left = to_nalgebra(self.a.view()).qr();
        let right = to_nalgebra(self.b.t()).qr();
        let small = (left.r() * right.r().transpose()).svd(true, true);
        let factor =
            |side: Option<DMatrix<f64>>| side.expect("the decomposition was asked for both");
        let u = left.q() * factor(small.u);
        let v = right.q() * factor(small.v_t).transpose();
        Ok(Svd {
            u: from_nalgebra(&u),
            singular_values: Array1::from_iter(small.singular_values.iter().copied()),
            v: from_nalgebra(&v),
        })
    }

    /// The singular values alone, falling, `[min(rows, inner, columns)]`.
    ///
    /// # Errors
    /// [`Error::Invalid`] for factors that are not finite.
    pub fn singular_values(&self) -> Result<Array1<f64>> {
        self.check_finite("singular values")?;
        let left = to_nalgebra(self.a.view()).qr().r();
        let right = to_nalgebra(self.b.t()).qr().r();
        let values = (left * right.transpose()).singular_values();
        Ok(Array1::from_iter(values.iter().copied()))
    }

    fn check_finite(&self, what: &str) -> Result<()> {
        let mut values = self.a.iter().chain(&self.b);
        match values.find(|v| !v.is_finite()) {
            Some(value) => Err(Error::invalid(what, value, "factors of finite numbers")),
            None => Ok(()),
        }
    }

    /// The eigenvalues that can differ from 0, those of `b · a`, `[inner]`: by falling real part,
    /// then by falling imaginary part.
    ///
    /// # Errors
    /// [`Error::Shape`] if the matrix is not square, [`Error::Invalid`] for values that are not
    /// finite, or if the iteration does not converge.
    pub fn eigenvalues(&self) -> Result<Vec<Complex<f64>>> {
        let (rows, columns) = self.dim();
        if rows != columns {
            return Err(Error::Shape {
                at: "eigenvalues".to_string(),
                found: vec![rows, columns],
                expected: "a square matrix".to_string(),
            });
        }
        let [a, b] = [&self.a, &self.b].map(|m| m.mapv(f64::from));
        eigenvalues(b.dot(&a).view())
    }

    /// `Σ Re λ / Σ |λ|` over the eigenvalues: 1 for a circuit that copies, −1 for one that
    /// suppresses what it reads (Elhage et al. 2021, "Detecting copying behavior").
    ///
    /// # Errors
    /// Same as [`FactoredMatrix::eigenvalues`].
    pub fn copying_score(&self) -> Result<f32> {
        Ok(copying_score(&self.eigenvalues()?))
    }
}

/// `Σ Re λ / Σ |λ|`.
pub(crate) fn copying_score(eigenvalues: &[Complex<f64>]) -> f32 {
    let real: f64 = eigenvalues.iter().map(|v| v.re).sum();
    let absolute: f64 = eigenvalues.iter().map(|v| v.norm()).sum();
    (real / absolute) as f32
}

/// Eigenvalues of a square matrix, by falling real part, then by falling imaginary part.
pub(crate) fn eigenvalues(matrix: ArrayView2<'_, f64>) -> Result<Vec<Complex<f64>>> {
    let expected = "a matrix of finite numbers";
    if let Some(value) = matrix.iter().find(|v| !v.is_finite()) {
        return Err(Error::invalid("eigenvalues", value, expected));
    }
    let (n, _) = matrix.dim();
    let converted = DMatrix::from_fn(n, n, |i, j| matrix[[i, j]]);
    let schur = Schur::try_new(converted, f64::EPSILON, 1000 * n)
        .ok_or_else(|| Error::invalid("eigenvalues", "no convergence", expected))?;
    let mut values: Vec<_> = schur.complex_eigenvalues().iter().copied().collect();
    values.sort_by(|x, y| y.re.total_cmp(&x.re).then(y.im.total_cmp(&x.im)));
    Ok(values)
}

/// `m · mᵀ` in f64, for a wide matrix `[n, many]`.
pub(crate) fn gram(m: ArrayView2<'_, f32>) -> Array2<f64> {
    let m = m.mapv(f64::from);
    m.dot(&m.t())
}

fn to_nalgebra(m: ArrayView2<'_, f32>) -> DMatrix<f64> {
    DMatrix::from_fn(m.nrows(), m.ncols(), |i, j| f64::from(m[[i, j]]))
}

fn from_nalgebra(m: &DMatrix<f64>) -> Array2<f32> {
    Array2::from_shape_fn(m.shape(), |(i, j)| m[(i, j)] as f32)
}
