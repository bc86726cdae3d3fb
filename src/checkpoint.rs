//! Checkpoints on the disk: which files and layouts open, and what opening one reports.
//!
//! A checkpoint is a folder in Hugging Face's layout: `config.json` with `model.safetensors`, or
//! with shards and `model.safetensors.index.json`. [`Transformer::open`](crate::Transformer::open)
//! reads it, [`Transformer::save`](crate::Transformer::save) writes it; what has more tensors than
//! a GPT-2 opens with [`OpenOptions`]. A folder may also hold TransformerLens's state dict as
//! `model.safetensors` (`blocks.0.attn.W_Q`, `[head, d_model, d_head]`, ...) beside a `cfg.json` or
//! `config.json` with the fields of its `HookedTransformerConfig`: attention-only models, models
//! without LayerNorm and others that GPT-2's layout has no words for. Nothing is dropped or filled in silently: the model's
//! [`OpenReport`] lists it.
//!
//! Python's pickles (`pytorch_model.bin`, `ckpt.pt`) and weights of `nn.Linear` layers, stored
//! `[out, in]`, are converted by `weights-convert.py`, a script in the repository.

mod decode;
mod find;
mod load;
mod names;
mod open;
mod options;
mod places;
mod report;
mod save;
mod shards;
mod source;
mod tensors;
mod transformer_lens;

pub use options::{OpenOptions, Opened};
pub use report::{Assumed, OpenReport, SkipReason, Skipped};
pub(crate) use tensors::{NamedArrays, read_arrays, write_arrays};
