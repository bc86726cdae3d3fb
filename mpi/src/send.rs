//! What ranks send each other: the model from rank 0 to all, texts, units of work.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use mpi::topology::{Process, SimpleCommunicator};
use mpi::traits::*;
use patchlens::parameters::Parameters;
use patchlens::{Config, Transformer};
use patchlens_cli::parts::{Model, Study};
use serde::{Deserialize, Serialize};

/// Numbers in one message, at most: MPI counts them as 32-bit integers.
const AT_ONCE: usize = 1 << 26;

/// The files by which a tokenizer is opened.
const TOKENIZER: [&str; 5] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
];

/// What goes ahead of a model's weights.
#[derive(Serialize, Deserialize)]
struct Header {
    config: String,
    /// The tokenizer's files, by name.
    tokenizer: Vec<(String, Vec<u8>)>,
}

/// The study's model: read by rank 0, received by the others.
pub fn model(world: &SimpleCommunicator, study: &Study) -> Result<Model> {
    let Some(dir) = study.model_dir() else {
        // It is part of the program.
        return study.open();
    };
    if world.rank() == 0 {
        let model = study.open()?;
        let header = Header {
            config: model.transformer().config().to_json(),
            tokenizer: tokenizer_files(dir)?,
        };
        to_all(world, &mut serde_json::to_vec(&header)?);
        for (_, tensor) in model.transformer().parameters().tensors() {
            let mut values: Vec<f32> = tensor.iter().copied().collect();
            for piece in values.chunks_mut(AT_ONCE) {
                world.process_at_rank(0).broadcast_into(piece);
            }
        }
        return Ok(model);
    }
    let mut bytes = Vec::new();
    to_all(world, &mut bytes);
    let header: Header = serde_json::from_slice(&bytes)?;
    let config = Config::from_json(&header.config, Path::new("config from rank 0"))?;
    let mut parameters = Parameters::zeros(&config)?;
    for (_, mut tensor) in parameters.tensors_mut() {
        let mut values = vec![0.0_f32; tensor.len()];
        for piece in values.chunks_mut(AT_ONCE) {
            world.process_at_rank(0).broadcast_into(piece);
        }
        tensor
            .iter_mut()
            .zip(values)
            .for_each(|(to, value)| *to = value);
    }
    let folder = tempfile::tempdir()?;
    for (name, bytes) in &header.tokenizer {
        fs::write(folder.path().join(name), bytes)?;
    }
    Model::given(Transformer::new(config, parameters)?, folder.path())
}

fn tokenizer_files(dir: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let there = TOKENIZER.iter().filter(|name| dir.join(name).is_file());
    let read = |name: &&str| {
        let path = dir.join(name);
        let bytes = fs::read(&path).with_context(|| path.display().to_string())?;
        Ok(((*name).to_string(), bytes))
    };
    there.map(read).collect()
}

/// Hands rank 0's bytes to all.
pub fn to_all(world: &SimpleCommunicator, bytes: &mut Vec<u8>) {
    let root = world.process_at_rank(0);
    let mut length = bytes.len() as u64;
    root.broadcast_into(&mut length);
    bytes.resize(usize::try_from(length).unwrap_or(usize::MAX), 0);
    for piece in bytes.chunks_mut(AT_ONCE) {
        root.broadcast_into(piece);
    }
}

/// What a message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tag {
    /// Rank 0 gives out a shard, by its index.
    Unit,
    /// A rank has computed one: what [`patchlens_cli::parts::Found`] holds.
    Done,
    /// Rank 0 has nothing more to give out.
    Stop,
}

impl Tag {
    pub fn number(self) -> i32 {
        match self {
            Tag::Unit => 1,
            Tag::Done => 2,
            Tag::Stop => 3,
        }
    }

    pub fn of(number: i32) -> Result<Self> {
        let all = [Tag::Unit, Tag::Done, Tag::Stop];
        match all.into_iter().find(|tag| tag.number() == number) {
            Some(tag) => Ok(tag),
            None => bail!("found a message of kind {number}; expected 1 to 3"),
        }
    }
}

/// Sends bytes to a process: how many there are, then those.
pub fn send(to: &Process<'_>, tag: Tag, bytes: &[u8]) {
    to.send_with_tag(&(bytes.len() as u64), tag.number());
    for piece in bytes.chunks(AT_ONCE) {
        to.send_with_tag(piece, tag.number());
    }
}

/// Waits for what a process sends.
pub fn receive(from: &Process<'_>) -> Result<(Tag, Vec<u8>)> {
    let (length, status) = from.receive::<u64>();
    let mut bytes = vec![0; usize::try_from(length)?];
    for piece in bytes.chunks_mut(AT_ONCE) {
        from.receive_into_with_tag(piece, status.tag());
    }
    Ok((Tag::of(status.tag())?, bytes))
}
