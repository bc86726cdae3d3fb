//! Checkpoints taken apart and put together again byte by byte, so that tests can make files
//! which no proper writer would.

use std::fs;
use std::path::Path;

use patchlens::Config;
use patchlens::parameters::Parameters;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

/// A config with all sizes different, so that no two axes can be mistaken for each other.
pub fn tiny_config() -> Config {
    Config {
        n_layers: 2,
        n_heads: 2,
        d_model: 6,
        d_mlp: 10,
        n_ctx: 5,
        d_vocab: 11,
        ..Config::gpt2()
    }
}

/// Random parameters in which biases and norms, too, differ from tensor to tensor.
pub fn distinct_parameters(config: &Config) -> Parameters {
    let mut parameters = Parameters::random(config, 3).unwrap();
    for (i, (_, mut tensor)) in parameters.tensors_mut().into_iter().enumerate() {
        let mut next = i as f32;
        tensor.map_inplace(|value| {
            next += 0.125;
            *value += next;
        });
    }
    parameters
}

/// A folder with a good checkpoint of [`tiny_config`].
pub fn tiny_checkpoint() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let config = tiny_config();
    distinct_parameters(&config).save(&dir, &config).unwrap();
    dir
}

/// A tensor as it stands in a file.
#[derive(Clone, Debug, PartialEq)]
pub struct RawTensor {
    pub name: String,
    pub dtype: String,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

impl RawTensor {
    /// A tensor of zeros, 4 bytes each.
    pub fn zeros(name: &str, shape: &[usize]) -> Self {
        RawTensor {
            name: name.to_string(),
            dtype: "F32".to_string(),
            shape: shape.to_vec(),
            bytes: vec![0; 4 * shape.iter().product::<usize>()],
        }
    }
}

/// Header and data of a safetensors file.
pub fn split(path: &Path) -> (Map<String, Value>, Vec<u8>) {
    let mut bytes = fs::read(path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let data = bytes.split_off(8 + length);
    (serde_json::from_slice(&bytes[8..]).unwrap(), data)
}

/// A safetensors file of any header text and data.
pub fn join(path: &Path, header: &str, data: &[u8]) {
    let length = (header.len() as u64).to_le_bytes();
    fs::write(path, [&length[..], header.as_bytes(), data].concat()).unwrap();
}

/// The tensors of a safetensors file, by offset.
pub fn read_tensors(path: &Path) -> Vec<RawTensor> {
    let (mut header, data) = split(path);
    header.remove("__metadata__");
    let mut tensors: Vec<(usize, RawTensor)> = header
        .into_iter()
        .map(|(name, info)| {
            let [start, end]: [usize; 2] =
                serde_json::from_value(info["data_offsets"].clone()).unwrap();
            let tensor = RawTensor {
                name,
                dtype: info["dtype"].as_str().unwrap().to_string(),
                shape: serde_json::from_value(info["shape"].clone()).unwrap(),
                bytes: data[start..end].to_vec(),
            };
            (start, tensor)
        })
        .collect();
    tensors.sort_by_key(|(start, _)| *start);
    tensors.into_iter().map(|(_, tensor)| tensor).collect()
}

/// Writes tensors one after another.
pub fn write_tensors(path: &Path, tensors: &[RawTensor]) {
    let mut header = Map::new();
    let mut data = Vec::new();
    for tensor in tensors {
        let start = data.len();
        data.extend(&tensor.bytes);
        let info = json!({
            "dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [start, data.len()],
        });
        header.insert(tensor.name.clone(), info);
    }
    join(path, &Value::Object(header).to_string(), &data);
}

/// Changes the tensors of the checkpoint in `dir`; the file stays consistent in itself.
pub fn edit_tensors(dir: &Path, edit: impl FnOnce(&mut Vec<RawTensor>)) {
    let path = dir.join("model.safetensors");
    let mut tensors = read_tensors(&path);
    edit(&mut tensors);
    write_tensors(&path, &tensors);
}

/// Splits the checkpoint in `dir` into two shards with an index.
pub fn shard(dir: &Path) {
    let single = dir.join("model.safetensors");
    let tensors = read_tensors(&single);
    fs::remove_file(single).unwrap();
    let (first, second) = tensors.split_at(tensors.len() / 2);
    let mut map = Map::new();
    for (i, part) in [first, second].into_iter().enumerate() {
        let file = format!("model-0000{}-of-00002.safetensors", i + 1);
        write_tensors(&dir.join(&file), part);
        map.extend(part.iter().map(|t| (t.name.clone(), json!(file))));
    }
    let index = json!({"metadata": {"total_size": 1}, "weight_map": map});
    fs::write(dir.join("model.safetensors.index.json"), index.to_string()).unwrap();
}
