//! Checkpoints in Hugging Face's layout: `config.json` with `model.safetensors`, or with shards
//! and `model.safetensors.index.json`. Files of other arrays.

mod decode;
mod load;
mod names;
mod save;
mod source;
mod tensors;

pub(crate) use tensors::{NamedArrays, read_arrays, write_arrays};
