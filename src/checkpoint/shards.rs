//! Several files of weights under one index.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::source::{Source, tensor_error};
use crate::error::Result;
use crate::files::{UniqueKeys, parse_error, read_text};

/// Real ones have some 100 bytes per tensor.
const MAX_INDEX: u64 = 16 << 20;

#[derive(Deserialize)]
struct Index {
    /// Tensor to file.
    weight_map: UniqueKeys<String>,
}

/// Opens the shards of an index, and checks that they hold what it says.
pub(super) fn open_shards(path: &Path) -> Result<Vec<Source<'static>>> {
    let dir = path.parent().unwrap_or(Path::new(""));
    let text = read_text(path, MAX_INDEX)?;
    let index: Index = serde_json::from_str(&text).map_err(|error| {
        let expected = "a JSON object with `weight_map`, from tensors to files";
        parse_error(path, error, expected)
    })?;
    let map = index.weight_map.0;
    let mut shards: BTreeMap<&str, Source<'static>> = BTreeMap::new();
    for (tensor, file) in &map {
        if file.is_empty() || file.contains(['/', '\\', ':']) || file == ".." {
            let found = format!("the shard `{file}`");
            let expected = "a file in the folder of the index, without path";
            return Err(tensor_error(path, tensor, found, expected));
        }
        if !shards.contains_key(file.as_str()) {
            shards.insert(file, Source::open(&dir.join(file))?);
        }
        if !shards[file.as_str()].tensors.contains_key(tensor) {
            let expected = format!("it in the shard `{file}`, as the index says");
            return Err(tensor_error(path, tensor, "nothing".to_string(), expected));
        }
    }
    for (file, shard) in &shards {
        let unlisted = |name: &&String| map.get(*name).is_none_or(|listed| listed != file);
        if let Some(name) = shard.tensors.keys().find(unlisted) {
            let found = "a tensor that the index does not list for this file".to_string();
            return Err(shard.error(name, found, "exactly the tensors of the index"));
        }
    }
    Ok(shards.into_values().collect())
}
