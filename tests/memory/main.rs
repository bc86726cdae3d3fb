//! Memory, measured by an allocator that counts every allocation of the process: one test at a time.

#[path = "../checkpoint_files/mod.rs"]
mod checkpoint_files;

mod circuit_memory;
mod head_memory;
mod load_memory;
mod phases;
mod studies;
mod sweep_memory;
mod toy_memory;

use std::sync::{Mutex, MutexGuard, PoisonError};

use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// Holds off the other tests of this process.
fn alone() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(PoisonError::into_inner)
}
