//! Memory of matrices that goes on from one to the next.
//!
//! A pass makes some ten matrices per layer and drops them again. Memory fresh from the system costs
//! a page fault per 4 KiB, about as much as filling it; so dropped matrices are kept, up to
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

/// What all runs share.
static POOL: Pool = Pool::new();

struct Pool {
    /// Dropped memory, oldest first.
    kept: Mutex<VecDeque<Vec<f32>>>,
    /// Runs under way that must not keep any.
    thrifty: AtomicUsize,
}

impl Pool {
    const fn new() -> Self {
        Pool {
            kept: Mutex::new(VecDeque::new()),
            thrifty: AtomicUsize::new(0),
        }
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<Vec<f32>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn release(&self) {
        // Freed after the lock is.
        let _released = std::mem::take(&mut *self.kept());
    }

    /// The smallest memory at hand for so many elements, unless much of it would lie idle.
    fn take(&self, len: usize) -> Option<Vec<f32>> {
        if len < LEAST_ELEMENTS {
            return None;
        }
        let mut kept = self.kept();
        let fitting = kept.iter().map(Vec::capacity).enumerate();
        let fitting = fitting.filter(|(_, capacity)| (len..=len + len / 2).contains(capacity));
        // Of equal ones the latest, whose contents may still lie in a cache.
        let (best, _) = fitting.rev().min_by_key(|(_, capacity)| *capacity)?;
        kept.remove(best)
    }

    fn keep(&self, memory: Vec<f32>) {
        let bytes = |memory: &Vec<f32>| 4 * memory.capacity() as u64;
        let large = memory.capacity() >= LEAST_ELEMENTS && bytes(&memory) <= MOST;
        if !large || self.thrifty.load(Ordering::SeqCst) > 0 {
            return;
        }
        let mut evicted = Vec::new();
        let mut kept = self.kept();
        kept.push_back(memory);
        let mut used: u64 = kept.iter().map(bytes).sum();
        while used > MOST {
            let oldest = kept.pop_front();
            used -= oldest.as_ref().map_or(used, bytes);
            evicted.extend(oldest);
        }
        drop(kept);
    }
}

/// Gives the memory back to the system that earlier runs have left for later ones: at most
/// 128 MiB. Some MiB per thread, into which matrix products pack, stay.
pub fn release_memory() {
    POOL.release();
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
            POOL.thrifty.fetch_add(1, Ordering::SeqCst);
            POOL.release();
        }
        Thrift { tight }
    }

    /// What matrices of so many bytes may take: memory that earlier runs have left may be for half
    /// more, fresh memory for a quarter, which these have already.
    pub fn roomy_bytes(bytes: u64, limit: u64) -> u64 {
        if Self::kept_bytes(limit) == 0 {
            bytes
        } else {
            bytes + bytes / 5
        }
    }

    /// Bytes that may be kept, to be counted as used: a quarter of the limit at most.
    pub fn kept_bytes(limit: u64) -> u64 {
        if limit < 4 * MOST { 0 } else { MOST }
    }
}

impl Drop for Thrift {
    fn drop(&mut self) {
        if self.tight {
            POOL.thrifty.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// A matrix of any contents, row-major: to be overwritten in whole.
pub(crate) fn matrix(dim: (usize, usize)) -> Array2<f32> {
    let len = dim.0 * dim.1;
    // Memory for more costs nothing before it is touched.
    let mut memory = POOL.take(len).unwrap_or_else(|| vec![0.0; roomy(len)]);
    memory.resize(len, 0.0);
    // So that a value which nobody has written shows.
    if cfg!(debug_assertions) {
        memory.fill(f32::NAN);
    }
    Array2::from_shape_vec(dim, memory).expect("`len` is the product of `dim`")
}

/// Sizes to ask the system for, four to each power of two: so that a matrix of a few rows more
/// finds memory too.
fn roomy(len: usize) -> usize {
    if len < LEAST_ELEMENTS {
        return len;
    }
    len.next_multiple_of(len.next_power_of_two() / 8)
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
        POOL.keep(std::mem::take(&mut self.0).into_raw_vec_and_offset().0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_goes_on_and_has_a_bound() {
        let pool = Pool::new();
        let first = vec![0.0; 64 * 1027];
        let address = first.as_ptr();
        pool.keep(first);
        assert!(pool.take(32 * 1024).is_none(), "half of it would lie idle");
        assert!(pool.take(64 * 1028).is_none(), "it is too small");
        let second = pool.take(64 * 1024).unwrap();
        assert_eq!(second.as_ptr(), address);
        pool.thrifty.store(1, Ordering::SeqCst);
        pool.keep(second);
        assert!(pool.kept().is_empty(), "kept in spite of a thrifty run");
        pool.thrifty.store(0, Ordering::SeqCst);
        for _ in 0..40 {
            pool.keep(vec![0.0; 1 << 20]);
        }
        let used: usize = pool.kept().iter().map(Vec::capacity).sum();
        assert_eq!(4 * used as u64, MOST);
        pool.release();
        assert!(pool.kept().is_empty());
    }

    #[test]
    fn a_thrifty_run_keeps_nothing_and_a_generous_one_counts_what_it_keeps() {
        assert_eq!(Thrift::kept_bytes(MOST), 0);
        assert_eq!(Thrift::kept_bytes(8 * MOST), MOST);
        let before = POOL.thrifty.load(Ordering::SeqCst);
        let run = Thrift::new(MOST);
        assert_eq!(POOL.thrifty.load(Ordering::SeqCst), before + 1);
        drop(run);
        drop(Thrift::new(8 * MOST));
        assert_eq!(POOL.thrifty.load(Ordering::SeqCst), before);
    }
}
