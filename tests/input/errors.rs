//! What a program can learn from an error without reading its message.

use std::error::Error as _;

use crate::checkpoint_files::tiny_checkpoint;
use crate::small_tokenizer::word_level_json;
use patchlens::parameters::Parameters;
use patchlens::{Error, Tokenizer};

#[test]
fn other_libraries_errors_are_kept_as_sources() {
    let dir = tiny_checkpoint();
    let missing = Parameters::load(dir.path().join("none")).unwrap_err();
    let source = missing.source().unwrap().downcast_ref::<std::io::Error>();
    assert_eq!(source.unwrap().kind(), std::io::ErrorKind::NotFound);

    std::fs::write(dir.path().join("config.json"), "{").unwrap();
    let broken = Parameters::load(&dir).unwrap_err();
    let source = broken.source().unwrap().downcast_ref::<serde_json::Error>();
    assert!(source.unwrap().is_eof(), "{broken}");
    let Error::Format { found, .. } = &broken else {
        panic!("{broken}");
    };
    assert_eq!(*found, source.unwrap().to_string());

    let broken = Tokenizer::from_bytes(b"{").unwrap_err();
    assert!(broken.source().is_some(), "{broken}");
    let json = word_level_json(&["[UNK]", "a"]);
    let tokenizer = Tokenizer::from_bytes(json.to_string().as_bytes()).unwrap();
    // What this crate itself finds has no other error behind it.
    assert!(tokenizer.encode("b").unwrap_err().source().is_none());
}
