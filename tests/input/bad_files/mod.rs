//! A table of bad checkpoints: each is a good one with one change, and its error must name the
//! file, the tensor or field, what was found and what was expected. And random damage: never a panic.

mod configs;
mod headers;
mod indexes;
mod random_damage;
mod tensors;

use std::fs;
use std::path::Path;

use crate::checkpoint_files::*;
use patchlens::parameters::Parameters;
use serde_json::{Map, Value, json};

/// What is done to a good checkpoint, and what the error's message must contain.
type Case = (&'static str, fn(&Path), &'static [&'static str]);

const FILE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const WTE: &str = "transformer.wte.weight";

fn check(cases: &[Case]) {
    for (name, damage, fragments) in cases {
        let dir = tiny_checkpoint();
        Parameters::load(&dir).expect("the checkpoint is good before the change");
        damage(dir.path());
        let message = match Parameters::load(&dir) {
            Ok(_) => panic!("{name}: loaded"),
            Err(error) => error.to_string(),
        };
        for fragment in *fragments {
            assert!(
                message.contains(fragment),
                "{name}: no {fragment:?} in {message:?}"
            );
        }
    }
}

fn set(dir: &Path, field: &str, value: Value) {
    let path = dir.join("config.json");
    let mut config: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    config[field] = value;
    fs::write(path, config.to_string()).unwrap();
}

/// Changes the header and leaves the data.
fn edit_header(dir: &Path, edit: impl FnOnce(&mut Map<String, Value>)) {
    let (mut header, data) = split(&dir.join(FILE));
    edit(&mut header);
    join(&dir.join(FILE), &Value::Object(header).to_string(), &data);
}

fn edit_tensor(dir: &Path, name: &str, edit: impl FnOnce(&mut RawTensor)) {
    edit_tensors(dir, |tensors| {
        edit(tensors.iter_mut().find(|t| t.name == name).unwrap());
    });
}

fn edit_bytes(path: &Path, edit: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    edit(&mut bytes);
    fs::write(path, bytes).unwrap();
}

fn edit_index(dir: &Path, edit: impl FnOnce(&mut Map<String, Value>)) {
    shard(dir);
    let path = dir.join(INDEX);
    let mut index: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    edit(index["weight_map"].as_object_mut().unwrap());
    fs::write(path, index.to_string()).unwrap();
}
