//! Memory of matrices that goes on from one to the next.
//!
//! A pass makes some ten matrices a layer and drops them again. Memory fresh from the system costs
//! a page fault each 4 KiB, about as much as filling it; so dropped matrices are kept, up to
//! [`MOST`] bytes in all, for the next ones of about their size.

use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ndarray::{Array2, ArrayViewMut1};

use super::rows::for_rows;

/// Most bytes that are kept.
const MOST: u64 = 128 << 20;
/// Smaller matrices are left to the allocator, which keeps such memory itself.
const LEAST_ELEMENTS: usize = 1 << 14;

/// Dropped memory, oldest first.
static KEPT: Mutex<VecDeque<Vec<f32>>> = Mutex::new(VecDeque::new());
/// Runs under way that must not keep any.
static THRIFTY: AtomicUsize = AtomicUsize::new(0);

fn kept() -> MutexGuard<'static, VecDeque<Vec<f32>>> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Gives the memory back to the system that earlier runs have left for later ones: at most
/// 128 MiB.
pub fn release_memory() {
    // Freed after the lock is.
    let _released = std::mem::take(&mut *kept());
}

/// How a run with a memory limit treats dropped matrices: while it lives, they are freed at once
/// if the limit is tight.
pub(crate) struct Thrift {
    tight: bool,
}

impl Thrift {
    /// Under a limit of so many bytes.
    pub fn new(limit: u64) -> Self {
        let tight = Self::kept_bytes(limit) == 0;
        if tight {
            THRIFTY.fetch_add(1, Ordering::SeqCst);
            release_memory();
        }
        Thrift { tight }
    }

    /// Bytes that may be kept, to be counted as used.
    pub fn kept_bytes(limit: u64) -> u64 {
        if limit < 8 * MOST { 0 } else { MOST }
    }
}

impl Drop for Thrift {
    fn drop(&mut self) {
        if self.tight {
            THRIFTY.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// A matrix of any contents, row-major: to be overwritten in whole.
pub(crate) fn matrix(dim: (usize, usize)) -> Array2<f32> {
    let len = dim.0 * dim.1;
    // Memory for more costs nothing before it is touched.
    let mut memory = take(len).unwrap_or_else(|| vec![0.0; roomy(len)]);
    memory.resize(len, 0.0);
    // So that a value which nobody has written shows.
    if cfg!(debug_assertions) {
        memory.fill(f32::NAN);
    }
    Array2::from_shape_vec(dim, memory)
        .unwrap_or_else(|_| unreachable!("{len} elements are {dim:?}"))
}

/// Sizes to ask the system for, four to each power of two: so that a matrix of a few rows more
/// finds memory too.
fn roomy(len: usize) -> usize {
    if len < LEAST_ELEMENTS {
        return len;
    }
    len.next_multiple_of(len.next_power_of_two() / 8)
}

/// The smallest memory at hand for so many elements, unless much of it would lie idle.
fn take(len: usize) -> Option<Vec<f32>> {
    if len < LEAST_ELEMENTS {
        return None;
    }
    let mut kept = kept();
    let fitting = kept.iter().map(Vec::capacity).enumerate();
    let fitting = fitting.filter(|(_, capacity)| (len..=len + len / 2).contains(capacity));
    // Of equal ones the latest, whose contents may still lie in a cache.
    let (best, _) = fitting.rev().min_by_key(|(_, capacity)| *capacity)?;
    kept.remove(best)
}

fn keep(memory: Vec<f32>) {
    let bytes = |memory: &Vec<f32>| 4 * memory.capacity() as u64;
    let large = memory.capacity() >= LEAST_ELEMENTS && bytes(&memory) <= MOST;
    if !large || THRIFTY.load(Ordering::SeqCst) > 0 {
        return;
    }
    let mut evicted = Vec::new();
    let mut kept = kept();
    kept.push_back(memory);
    let mut used: u64 = kept.iter().map(bytes).sum();
    while used > MOST {
        let oldest = kept.pop_front();
        used -= oldest.as_ref().map_or(used, bytes);
        evicted.extend(oldest);
    }
    drop(kept);
}

/// A matrix whose memory goes on to the next ones.
#[derive(Debug, Default)]
pub(crate) struct Matrix(Array2<f32>);

impl Matrix {
    pub fn into_inner(mut self) -> Array2<f32> {
        std::mem::take(&mut self.0)
    }
}

impl From<Array2<f32>> for Matrix {
    fn from(x: Array2<f32>) -> Self {
        Matrix(x)
    }
}

impl Deref for Matrix {
    type Target = Array2<f32>;

    fn deref(&self) -> &Array2<f32> {
        &self.0
    }
}

impl DerefMut for Matrix {
    fn deref_mut(&mut self) -> &mut Array2<f32> {
        &mut self.0
    }
}

impl Clone for Matrix {
    /// A copy made by all threads.
    fn clone(&self) -> Self {
        let mut copy = matrix(self.dim());
        for_rows(copy.view_mut(), |i, row| {
            ArrayViewMut1::from(row).assign(&self.row(i));
        });
        Matrix(copy)
    }
}

/// Changes each row of a shared matrix by `f(index, row)`: in place if nobody else holds it, or
/// else in a copy. Over threads, where that pays.
pub(crate) fn map_rows(x: Arc<Matrix>, f: impl Fn(usize, &mut [f32]) + Sync) -> Matrix {
    match Arc::try_unwrap(x) {
        Ok(mut own) => {
            for_rows(own.view_mut(), f);
            own
        }
        Err(x) => {
            let mut copy = matrix(x.dim());
            for_rows(copy.view_mut(), |i, row| {
                ArrayViewMut1::from(&mut *row).assign(&x.row(i));
                f(i, row);
            });
            Matrix(copy)
        }
    }
}

impl Drop for Matrix {
    fn drop(&mut self) {
        keep(std::mem::take(&mut self.0).into_raw_vec_and_offset().0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_goes_on_and_has_a_bound() {
        let dim = (64, 1027);
        let first = Matrix::from(matrix(dim));
        let address = first.as_ptr();
        drop(first);
        let second = Matrix::from(matrix((64, 1024)));
        assert_eq!(
            second.as_ptr(),
            address,
            "another matrix of about this size"
        );
        let tight = Thrift::new(MOST);
        drop(second);
        assert!(kept().is_empty(), "kept in spite of a tight run");
        drop(tight);
        for _ in 0..40 {
            keep(vec![0.0; 1 << 20]);
        }
        let used: usize = kept().iter().map(Vec::capacity).sum();
        assert_eq!(4 * used as u64, MOST);
        release_memory();
        assert!(kept().is_empty());
    }
}
