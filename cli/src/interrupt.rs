//! Ctrl-C: the first one asks the work to end where it can, the second one ends the program.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};

static REQUESTS: AtomicUsize = AtomicUsize::new(0);

/// Status of a program that a second Ctrl-C ended: 128 and the signal's number.
const ENDED: i32 = 130;

/// Listens to Ctrl-C, and to what schedulers send before they end a program.
pub fn listen() -> Result<()> {
    let on_signal = || {
        if REQUESTS.fetch_add(1, Ordering::SeqCst) > 0 {
            std::process::exit(ENDED);
        }
        eprintln!("\nending after this step, with what is done so far; Ctrl-C again ends at once");
    };
    ctrlc::set_handler(on_signal).context("listening to Ctrl-C")
}

/// Whether the work should end.
pub fn requested() -> bool {
    REQUESTS.load(Ordering::SeqCst) > 0
}

/// What an observer of a study answers.
pub fn go_on() -> ControlFlow<()> {
    if requested() {
        ControlFlow::Break(())
    } else {
        ControlFlow::Continue(())
    }
}

/// The work ended early on request; what has been found is kept.
#[derive(Debug)]
pub struct EndedEarly;

impl fmt::Display for EndedEarly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ended early: the results are partial")
    }
}

impl std::error::Error for EndedEarly {}

/// Goes on, or ends with what has been found.
///
/// # Errors
/// [`EndedEarly`] after Ctrl-C.
pub fn check() -> Result<()> {
    if requested() {
        Err(EndedEarly.into())
    } else {
        Ok(())
    }
}
