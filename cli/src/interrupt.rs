//! Ctrl-C, and what schedulers send (SIGTERM, SIGHUP, SIGUSR1): the first one asks the work to end
//! where it can, a second one ends the program, unless it is SIGUSR1.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};

use anyhow::{Context, Result};

static REQUESTS: AtomicUsize = AtomicUsize::new(0);
static ANNOUNCED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

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
    ctrlc::set_handler(on_signal).context("listening to Ctrl-C")?;
    #[cfg(unix)]
    {
        // Slurm and others announce with it that SIGTERM will follow.
        let announced = Arc::clone(&ANNOUNCED);
        signal_hook::flag::register(signal_hook::consts::SIGUSR1, announced)
            .context("listening to SIGUSR1")?;
    }
    Ok(())
}

/// Whether the work should end.
pub fn requested() -> bool {
    REQUESTS.load(Ordering::SeqCst) > 0 || ANNOUNCED.load(Ordering::SeqCst)
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

/// The work ended early on request, and the same command goes on with it.
#[derive(Debug)]
pub struct Again(pub String);

impl fmt::Display for Again {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ended early: {}", self.0)
    }
}

impl std::error::Error for Again {}

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
