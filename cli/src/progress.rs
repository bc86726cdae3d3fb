//! How far the work has come, on stderr: a bar with the time left on a terminal, else a line now
//! and then.

use std::ops::ControlFlow;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressStyle};
use patchlens::Progress;

use crate::interrupt;

/// From one line to the next, where no bar is drawn.
const BETWEEN: Duration = Duration::from_secs(5);

/// Shows the steps of a study.
#[derive(Clone, Copy, Debug)]
pub struct Reporter {
    quiet: bool,
}

impl Reporter {
    pub fn new(quiet: bool) -> Self {
        Reporter { quiet }
    }

    /// A step that can tell how far it has come.
    pub fn steps(&self, what: &str) -> Steps {
        let style =
            ProgressStyle::with_template("{msg} {wide_bar} {percent} % {prefix}, {eta} left");
        Steps {
            bar: self.bar(ProgressBar::no_length(), what, style),
            what: what.to_string(),
            quiet: self.quiet,
            begun: Instant::now(),
            told: Mutex::new(Instant::now()),
        }
    }

    /// The observer of a study that can tell how far it has come.
    pub fn observer(&self, what: &str) -> impl FnMut(&Progress) -> ControlFlow<()> + Send + use<> {
        let steps = self.steps(what);
        move |progress| steps.observe(progress.done as u64, progress.total as u64, progress.unit)
    }

    /// A step that cannot: a spinner with the time gone.
    pub fn step(&self, what: &str) -> Step {
        let style = ProgressStyle::with_template("{spinner} {msg}, {elapsed}");
        let bar = self.bar(ProgressBar::new_spinner(), what, style);
        bar.enable_steady_tick(Duration::from_millis(100));
        Step(bar)
    }

    fn bar(
        &self,
        bar: ProgressBar,
        what: &str,
        style: Result<ProgressStyle, indicatif::style::TemplateError>,
    ) -> ProgressBar {
        if self.quiet {
            return ProgressBar::hidden();
        }
        let style = style.expect("the templates above are valid");
        bar.with_style(style).with_message(what.to_string())
    }
}

/// A spinner, gone when dropped.
#[must_use]
pub struct Step(ProgressBar);

impl Drop for Step {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// A bar, gone at the end or when dropped.
pub struct Steps {
    bar: ProgressBar,
    what: String,
    quiet: bool,
    begun: Instant,
    told: Mutex<Instant>,
}

impl Steps {
    /// Shows how far the step has come, in units such as `facts`, with what else there is to say,
    /// and asks it to end after Ctrl-C.
    pub fn observe(&self, done: u64, total: u64, unit: &str) -> ControlFlow<()> {
        let answer = interrupt::go_on();
        if done >= total || answer.is_break() {
            self.bar.finish_and_clear();
            return answer;
        }
        self.bar.set_length(total);
        self.bar.set_position(done);
        self.bar.set_prefix(format!("of {unit}"));
        if self.bar.is_hidden() && !self.quiet {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            if told.elapsed() > BETWEEN {
                eprintln!("{}", self.line(done, total, unit));
                *told = Instant::now();
            }
        }
        answer
    }

    fn line(&self, done: u64, total: u64, unit: &str) -> String {
        let share = done as f64 / total.max(1) as f64;
        let gone = self.begun.elapsed();
        let left = if done > 0 {
            let left = gone.mul_f64((1.0 - share) / share);
            format!("about {} left", HumanDuration(left))
        } else {
            format!("{} gone", HumanDuration(gone))
        };
        format!("{}: {:.0} % of {unit}, {left}", self.what, 100.0 * share)
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
