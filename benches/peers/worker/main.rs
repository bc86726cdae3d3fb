//! Does the crate's side of the comparison with other libraries: reads requests as JSON lines,
//! answers each with the seconds that it took and values to check. `compare.py` drives it.

mod edges;
mod setup;
mod tracing;
mod work;

use std::io::{BufRead, Write};
use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use setup::{About, Request};
use work::{Answer, Worker};

/// Does a work by its name.
type Answering<'w> = dyn FnMut(&str) -> Result<Answer> + 'w;

fn main() -> Result<()> {
    // `cargo bench` and `cargo test --benches` start every bench; this one has nothing to do
    // unless it is driven.
    if !std::env::args().any(|a| a == "--serve") {
        return Ok(());
    }
    let mut lines = std::io::stdin().lock().lines();
    let setup = lines.next().context("no setup line")??;
    let request: Request = serde_json::from_str(&setup)?;
    let start = Instant::now();
    let model = patchlens::Transformer::open(&request.checkpoint)?;
    let load_seconds = start.elapsed().as_secs_f64();
    let mut run: Box<Answering<'_>> = match request.about {
        About::Fact(fact) => Box::new({
            let model = &model;
            move |work| tracing::run(model, &fact, work)
        }),
        About::Prompts(setup) => {
            let mut worker = Worker::new(&model, setup)?;
            Box::new(move |work| worker.run(work))
        }
    };
    let threads = rayon::current_num_threads();
    answer(&json!({
        "version": format!("patchlens {}", env!("CARGO_PKG_VERSION")),
        "threads": threads,
        "load_seconds": load_seconds,
        "peak_bytes": peak_bytes(),
    }))?;
    for line in lines {
        let request: Value = serde_json::from_str(&line?)?;
        let work = request["work"].as_str().context("no work named")?;
        let mut answered = run(work)?;
        answered.peak_bytes = peak_bytes();
        answer(&answered)?;
    }
    Ok(())
}

fn answer(value: &impl serde::Serialize) -> Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, value)?;
    out.write_all(b"\n")?;
    Ok(out.flush()?)
}

/// The most memory that this process held so far, where Linux tells.
fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(1024 * kibibytes)
}
