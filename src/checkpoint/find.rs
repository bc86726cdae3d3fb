//! Which files of a folder hold the weights.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::files::format_error;

pub(super) const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Extensions of files that Python's pickle writes.
const PICKLES: [&str; 5] = ["bin", "ckpt", "pkl", "pt", "pth"];

/// The program that turns other checkpoints into ours.
pub(super) const CONVERTER: &str = "weights-convert.py";

/// The files of weights in a folder.
pub(super) enum WeightFiles {
    /// One file.
    Single(PathBuf),
    /// An index of shards.
    Index(PathBuf),
}

/// Finds the weights; what the folder lacks is only an error if it has weights in another format.
pub(super) fn find(dir: &Path) -> Result<WeightFiles> {
    let (single, index) = (dir.join(SINGLE), dir.join(INDEX));
    // A folder of this name, or a symlink that leads nowhere, is an error when it is opened.
    if single.exists() || single.is_symlink() {
        return Ok(WeightFiles::Single(single));
    }
    if index.exists() {
        return Ok(WeightFiles::Index(index));
    }
    if let Some(pickle) = first_pickle(dir) {
        let found = "weights as a Python pickle, which is a program";
        let expected = format!("{SINGLE}: `python {CONVERTER} {}` makes it", dir.display());
        return Err(format_error(&pickle, found, expected));
    }
    Ok(WeightFiles::Single(single))
}

/// The first file, by name, that looks like a pickle of weights. Others are `.pkl`, too: configs,
/// lists of edges.
fn first_pickle(dir: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(dir).ok()?;
    let paths = entries.flatten().map(|entry| entry.path());
    let is_pickle = |path: &PathBuf| {
        let extension = path.extension().and_then(|extension| extension.to_str());
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        let other = ["training_args", "optimizer", "scheduler", "rng_state"];
        extension.is_some_and(|extension| PICKLES.contains(&extension))
            && stem.is_some_and(|stem| !other.iter().any(|other| stem.starts_with(other)))
    };
    let is_vague = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "pkl");
    let named = paths.filter(is_pickle).map(|path| (is_vague(&path), path));
    named.min().map(|(_, path)| path)
}
