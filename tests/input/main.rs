//! What comes from outside: checkpoints, tokenizers, mistakes, downloads.

#[path = "../checkpoint_files/mod.rs"]
mod checkpoint_files;
#[path = "../common/mod.rs"]
mod common;
#[path = "../small_tokenizer/mod.rs"]
mod small_tokenizer;

#[cfg(unix)]
mod attack;
mod bad_files;
mod bad_input;
mod cases;
mod checkpoint;
mod errors;
mod frictions;
mod fuzz_corpus;
mod pair_files;
mod tokenizer;
#[cfg(unix)]
mod weights_fetch;
