//! The index of a sharded checkpoint.

use super::*;

#[test]
fn bad_indexes() {
    check(&[
        (
            "a shard outside the folder",
            |d| edit_index(d, |map| map[WTE] = json!("../x.safetensors")),
            &[
                "index.json: tensor `transformer.wte.weight`: found the shard `../x.safetensors`; \
               expected a file in the folder of the index",
            ],
        ),
        (
            "an absolute path",
            |d| edit_index(d, |map| map[WTE] = json!("/etc/passwd")),
            &[
                "index.json: tensor `transformer.wte.weight`: found the shard `/etc/passwd`; expected",
            ],
        ),
        (
            "the folder above",
            |d| edit_index(d, |map| map[WTE] = json!("..")),
            &["index.json: tensor `transformer.wte.weight`: found the shard `..`; expected"],
        ),
        (
            "a missing shard",
            |d| edit_index(d, |map| map[WTE] = json!("model-3.safetensors")),
            &["model-3.safetensors: ", "No such file"],
        ),
        (
            "the wrong shard",
            |d| {
                edit_index(d, |map| {
                    map[WTE] = json!("model-00001-of-00002.safetensors");
                });
            },
            &[
                "index.json: tensor `transformer.wte.weight`: found nothing; \
               expected it in the shard `model-00001-of-00002.safetensors`",
            ],
        ),
        (
            "a tensor that no shard has",
            |d| {
                edit_index(d, |map| {
                    map.insert("x".to_string(), json!("model-00001-of-00002.safetensors"));
                });
            },
            &["index.json: tensor `x`: found nothing; expected it in the shard"],
        ),
        (
            "a tensor not listed",
            |d| {
                edit_index(d, |map| {
                    map.remove(WTE);
                });
            },
            &[
                "model-00002-of-00002.safetensors: tensor `transformer.wte.weight`: found a tensor that the index does not list",
            ],
        ),
        (
            "a tensor in two shards",
            |d| {
                shard(d);
                let shards = [1, 2].map(|i| d.join(format!("model-0000{i}-of-00002.safetensors")));
                let wte = read_tensors(&shards[1]).pop().unwrap();
                write_tensors(&shards[0], &[read_tensors(&shards[0]), vec![wte]].concat());
            },
            &[
                "model-00001-of-00002.safetensors: tensor `transformer.wte.weight`: found a tensor that the index does not list",
            ],
        ),
        (
            "with and without prefix in two shards",
            |d| {
                edit_index(d, |map| {
                    let file = "model-00001-of-00002.safetensors";
                    let mut tensors = read_tensors(&d.join(file));
                    tensors.push(RawTensor::zeros("wte.weight", &[11, 6]));
                    write_tensors(&d.join(file), &tensors);
                    map.insert("wte.weight".to_string(), json!(file));
                });
            },
            &[
                "model-00002-of-00002.safetensors: tensor `transformer.wte.weight`: found the tensor twice: \
               it is `wte.weight` in ",
                "model-00001",
            ],
        ),
        (
            "a shard cut short",
            |d| {
                shard(d);
                edit_bytes(&d.join("model-00002-of-00002.safetensors"), |b| {
                    b.truncate(b.len() - 4);
                });
            },
            &[
                "model-00002-of-00002.safetensors: tensor `transformer.wte.weight`: found data",
                "truncated",
            ],
        ),
        (
            "an index without map",
            |d| {
                shard(d);
                fs::write(d.join(INDEX), "{}").unwrap();
            },
            &[
                "index.json: missing field `weight_map`",
                "expected a JSON object with `weight_map`",
            ],
        ),
        (
            "an empty map",
            |d| edit_index(d, Map::clear),
            &["index.json: tensor `wte.weight`: found nothing; expected a tensor of shape [11, 6]"],
        ),
        (
            "a name twice in the map",
            |d| {
                shard(d);
                fs::write(d.join(INDEX), r#"{"weight_map":{"a":"x","a":"y"}}"#).unwrap();
            },
            &["index.json: `a` occurs twice"],
        ),
    ]);
}
