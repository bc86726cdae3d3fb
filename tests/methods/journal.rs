//! Studies with a journal end with the bits of studies without one: however often they were
//! interrupted, and over however many shards.

mod files;
mod studies;

use std::fs;
use std::path::{Path, PathBuf};

use patchlens::journal::{Journal, Part, Shard};
use patchlens::{Config, Prompt, Result, Transformer};

/// What the journals here are called.
const STUDY: &str = "test";

fn model() -> Transformer {
    let config = Config {
        n_layers: 2,
        n_heads: 2,
        d_model: 8,
        d_mlp: 16,
        d_vocab: 11,
        ..Config::gpt2()
    };
    Transformer::random(config, 3).unwrap()
}

/// Pairs of clean and corrupted prompts, of three lengths.
fn pairs() -> [Vec<Prompt>; 2] {
    let clean = [
        &[1, 2, 3, 4][..],
        &[5, 6, 7, 8, 9],
        &[2, 4, 6, 8],
        &[9, 1, 9],
    ];
    let corrupted = [
        &[1, 7, 3, 4][..],
        &[4, 6, 7, 2, 9],
        &[3, 4, 6, 8],
        &[9, 5, 9],
    ];
    [clean, corrupted].map(|prompts| prompts.map(|tokens| Prompt::from(tokens.to_vec())).to_vec())
}

/// A study: it runs on some of its prompts, with or without a journal, and returns all its numbers.
type Run<'r> = dyn Fn(&[usize], Option<&Journal>) -> Result<Vec<f32>> + 'r;

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

fn open(path: &Path) -> Journal {
    Journal::open(path, &model(), STUDY).unwrap()
}

/// The prompts' costs: their tokens.
fn costs(prompts: &[usize]) -> Vec<u64> {
    let [clean, _] = pairs();
    prompts
        .iter()
        .map(|i| 1000 * clean[*i].len() as u64)
        .collect()
}

/// Runs the shards of a study, each on its own prompts or all on all of them; returns their
/// journals.
fn run_shards(folder: &Path, of: usize, study: &Run<'_>, alone: bool) -> Vec<PathBuf> {
    let all: Vec<usize> = (0..pairs()[0].len()).collect();
    let paths = (0..of).map(|index| {
        let shard = Shard::new(index, of).unwrap();
        let part: Part = shard.part(&costs(&all));
        let (part, prompts) = if alone {
            let prompts = part.prompts();
            (part.of_these(), all[prompts].to_vec())
        } else {
            (part, all.clone())
        };
        let path = folder.join(format!("{index}-of-{of}"));
        let journal = Journal::open_shard(&path, &model(), STUDY, shard, None).unwrap();
        let journal = journal.part(part);
        study(&prompts, Some(&journal)).unwrap();
        journal.finish().unwrap();
        path
    });
    paths.collect()
}

/// The places after which a journal's lines end.
fn line_ends(path: &Path) -> Vec<usize> {
    let bytes = fs::read(path).unwrap();
    let ends = bytes.iter().enumerate().filter(|(_, b)| **b == b'\n');
    ends.map(|(i, _)| i + 1).collect()
}
