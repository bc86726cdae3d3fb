//! The property attack: random models, prompts and interventions, on which every way to compute a
//! number must have the same bits.
//!
//! `PATCHLENS_SEEDS=20000` runs that many seeds, `PATCHLENS_SEEDS=317..318` that one alone.

mod cell;
mod draw;
mod others;
mod seen;
mod ways;

use std::panic::{AssertUnwindSafe, catch_unwind};

/// As many as take a few seconds.
const SEEDS: u64 = 200;

/// The seeds to run.
fn seeds() -> std::ops::Range<u64> {
    let Ok(text) = std::env::var("PATCHLENS_SEEDS") else {
        return 0..SEEDS;
    };
    let number = |text: &str| -> u64 {
        let seeds = text.trim().parse();
        seeds.unwrap_or_else(|_| panic!("PATCHLENS_SEEDS: {text:?}; expected `1000` or `7..9`"))
    };
    match text.split_once("..") {
        Some((first, end)) => number(first)..number(end),
        None => 0..number(&text),
    }
}

#[test]
fn random_models_prompts_and_interventions() {
    let (mut failed, mut seen) = (Vec::new(), seen::Seen::default());
    for seed in seeds() {
        match catch_unwind(AssertUnwindSafe(|| ways::compare(seed))) {
            Ok(more) => seen += more,
            Err(panic) => {
                let message = panic.downcast_ref::<String>().cloned().unwrap_or_default();
                failed.push(format!("seed {seed}: {message}"));
            }
        }
    }
    println!("{seen:?}");
    assert!(failed.is_empty(), "{} seeds: {failed:#?}", failed.len());
    if seeds().end - seeds().start >= SEEDS {
        seen.check();
    }
}
