//! The fuzz targets' committed inputs: `good…` files are accepted, `bad…` ones refused, and no
//! target's promise is broken.

#[path = "../fuzz/targets.rs"]
mod targets;

use std::fs;
use std::path::Path;

fn check(target: fn(&[u8]) -> bool, name: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
    let (mut good, mut bad) = (0, 0);
    for entry in fs::read_dir(folder.join(name)).unwrap() {
        let path = entry.unwrap().path();
        let expected = path
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .starts_with("good");
        let accepted = target(&fs::read(&path).unwrap());
        assert_eq!(accepted, expected, "{}", path.display());
        if expected { good += 1 } else { bad += 1 }
    }
    assert!(good > 0 && bad > 1, "{name}: {good} good, {bad} bad");
}

/// Makes a test of each target and its folder.
macro_rules! targets {
    ($($name:ident)*) => { $(#[test] fn $name() { check(targets::$name, stringify!($name)); })* };
}

targets! { header index config tokenizer cache lens result facts pairs circuit journal hook_names }
