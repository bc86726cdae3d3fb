//! Checkpoints in Hugging Face's layout: `config.json` with `model.safetensors`, or with shards
//! and `model.safetensors.index.json`.

mod decode;
mod load;
mod names;
mod save;
mod source;
