//! A table of bad checkpoints: each is a good one with one change, and its error must name the
//! file, the tensor or field, what was found and what was expected.

mod checkpoint_files;

use std::fs;
use std::path::Path;

use checkpoint_files::*;
use patchlens::Parameters;
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
        edit(tensors.iter_mut().find(|t| t.name == name).unwrap())
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

#[test]
fn bad_configs() {
    check(&[
        (
            "no config",
            |d| fs::remove_file(d.join("config.json")).unwrap(),
            &["config.json: ", "No such file"],
        ),
        (
            "not JSON",
            |d| fs::write(d.join("config.json"), "n_layer: 2").unwrap(),
            &["config.json: ", "line 1", "expected a JSON object"],
        ),
        (
            "a list",
            |d| fs::write(d.join("config.json"), "[]").unwrap(),
            &["config.json: ", "expected an object"],
        ),
        (
            "a key twice",
            |d| fs::write(d.join("config.json"), r#"{"n_layer":2,"n_layer":3}"#).unwrap(),
            &["config.json: ", "`n_layer` occurs twice"],
        ),
        (
            "not UTF-8",
            |d| fs::write(d.join("config.json"), b"{\"a\":\"\xff\"}").unwrap(),
            &["config.json: ", "UTF-8"],
        ),
        (
            "another model",
            |d| set(d, "model_type", json!("llama")),
            &["config.json: config field `model_type`: found \"llama\"; expected \"gpt2\""],
        ),
        (
            "cross attention",
            |d| set(d, "add_cross_attention", json!(true)),
            &[
                "config.json: config field `add_cross_attention`: found true; expected no such field",
            ],
        ),
        (
            "an activation",
            |d| set(d, "activation_function", json!("silu")),
            &[
                "config field `activation_function`: found \"silu\"; expected `gelu_new`",
                "`relu`",
            ],
        ),
        (
            "an activation of a wrong type",
            |d| set(d, "activation_function", json!(3)),
            &["config field `activation_function`: found 3; expected `gelu_new`"],
        ),
        (
            "a flag as text",
            |d| set(d, "scale_attn_weights", json!("true")),
            &["config field `scale_attn_weights`: found \"true\"; expected true or false"],
        ),
        (
            "a flag as number",
            |d| set(d, "scale_attn_by_inverse_layer_idx", json!(0)),
            &["config field `scale_attn_by_inverse_layer_idx`: found 0; expected true or false"],
        ),
        (
            "a null flag",
            |d| set(d, "tie_word_embeddings", json!(null)),
            &["config field `tie_word_embeddings`: found null; expected true or false"],
        ),
        (
            "heads",
            |d| set(d, "n_head", json!(4)),
            &["config field `n_embd`: found 6; expected a multiple of n_head = 4"],
        ),
        (
            "no heads",
            |d| set(d, "n_head", json!(0)),
            &["config field `n_head`: found 0; expected at least 1"],
        ),
        (
            "a negative size",
            |d| set(d, "n_layer", json!(-2)),
            &["config field `n_layer`: found -2; expected a whole number"],
        ),
        (
            "a fraction",
            |d| set(d, "vocab_size", json!(11.5)),
            &["config field `vocab_size`: found 11.5; expected a whole number"],
        ),
        (
            "a size beyond all memory",
            |d| set(d, "n_inner", json!(1_000_000_000_000_u64)),
            &["config field `n_inner`: found 1000000000000; expected at most"],
        ),
        (
            "10^12 layers",
            |d| set(d, "n_layer", json!(1_000_000_000_000_u64)),
            &["config field `n_layer`: found 1000000000000; expected at most"],
        ),
        (
            "n_ctx unlike n_positions",
            |d| set(d, "n_ctx", json!(7)),
            &["config field `n_ctx`: found 7; expected 5, as `n_positions` says"],
        ),
        (
            "epsilon of a wrong type",
            |d| set(d, "layer_norm_epsilon", json!("1e-5")),
            &["config field `layer_norm_epsilon`: found \"1e-5\"; expected a number"],
        ),
        (
            "a negative epsilon",
            |d| set(d, "layer_norm_epsilon", json!(-1e-5)),
            &["config field `layer_norm_epsilon`: found -0.00001; expected a finite number"],
        ),
        (
            "an infinite epsilon",
            |d| set(d, "layer_norm_epsilon", json!(1e300)),
            &["config field `layer_norm_epsilon`: found 1e+300; expected a number"],
        ),
        (
            "an unknown field",
            |d| set(d, "rotary_dim", json!(64)),
            &[
                "config.json: config field `rotary_dim`: found 64; expected no such field",
                "delete it",
            ],
        ),
        (
            "a quantized model",
            |d| set(d, "quantization_config", json!({"bits": 4})),
            &["config field `quantization_config`: found {\"bits\":4}; expected no such field"],
        ),
    ]);
}

#[test]
fn bad_headers() {
    check(&[
        (
            "no weights",
            |d| fs::remove_file(d.join(FILE)).unwrap(),
            &["model.safetensors: ", "No such file"],
        ),
        (
            "a folder",
            |d| {
                fs::remove_file(d.join(FILE)).unwrap();
                fs::create_dir(d.join(FILE)).unwrap();
            },
            &["model.safetensors: not a regular file; expected a regular file"],
        ),
        (
            "empty",
            |d| fs::write(d.join(FILE), "").unwrap(),
            &["model.safetensors: a file of 0 bytes; expected a safetensors file"],
        ),
        (
            "a git LFS pointer",
            |d| fs::write(d.join(FILE), "version https://git-lfs.github.com/spec/v1").unwrap(),
            &[
                "model.safetensors: a header length of",
                "in a file of 42 bytes; expected a header within the file",
            ],
        ),
        (
            "an absurd header length",
            |d| edit_bytes(&d.join(FILE), |b| b[7] = 0xff),
            &[
                "model.safetensors: a header length of 18",
                "expected a header within the file",
            ],
        ),
        (
            "a header length cut short",
            |d| {
                edit_bytes(&d.join(FILE), |b| {
                    let length = u64::from_le_bytes(b[..8].try_into().unwrap()) - 9;
                    b[..8].copy_from_slice(&length.to_le_bytes());
                })
            },
            &[
                "model.safetensors: header with ",
                "EOF while parsing",
                "expected a JSON object of tensors",
            ],
        ),
        (
            "a header of 16 MB",
            |d| {
                fs::write(
                    d.join(FILE),
                    [&(17_u64 << 20).to_le_bytes()[..], &vec![b' '; 17 << 20]].concat(),
                )
                .unwrap()
            },
            &[
                "model.safetensors: a header length of 17825792",
                "at most 16777216",
            ],
        ),
        (
            "no JSON",
            |d| join(&d.join(FILE), "weights", &[]),
            &[
                "model.safetensors: header with expected value",
                "expected a JSON object",
            ],
        ),
        (
            "no UTF-8",
            |d| edit_bytes(&d.join(FILE), |b| b[10] = 0xff),
            &["model.safetensors: header with ", "expected a JSON object"],
        ),
        (
            "deep nesting",
            |d| join(&d.join(FILE), &"[".repeat(100_000), &[]),
            &["model.safetensors: header with ", "expected a JSON object"],
        ),
        (
            "a truncated file",
            |d| edit_bytes(&d.join(FILE), |b| b.truncate(b.len() - 1)),
            &[
                "model.safetensors: tensor `transformer.wte.weight`: found data at bytes 4944..5208; \
               expected to end within the 5207 bytes",
                "truncated",
            ],
        ),
        (
            "bytes left over",
            |d| edit_bytes(&d.join(FILE), |b| b.push(0)),
            &["model.safetensors: 5209 bytes of data; expected 5208 bytes, as the header says"],
        ),
        (
            "an offset beyond the file",
            |d| edit_header(d, |h| h[WTE]["data_offsets"][1] = json!(1_u64 << 40)),
            &[
                "model.safetensors: tensor `transformer.wte.weight`: found data at bytes 4944..1099511627776; \
               expected to end within",
            ],
        ),
        (
            "a negative offset",
            |d| edit_header(d, |h| h[WTE]["data_offsets"][0] = json!(-4)),
            &[
                "model.safetensors: header with `transformer.wte.weight`: ",
                "-4",
            ],
        ),
        (
            "a range backwards",
            |d| edit_header(d, |h| h[WTE]["data_offsets"] = json!([4944, 100])),
            &[
                "model.safetensors: tensor `transformer.wte.weight`: found data at bytes 4944..100; \
               expected 264 bytes for F32 of shape [11, 6]",
            ],
        ),
        (
            "overlapping tensors",
            |d| {
                edit_header(d, |h| {
                    h["transformer.wpe.weight"]["data_offsets"] = json!([4820, 4940]);
                })
            },
            &[
                "model.safetensors: tensor `transformer.wpe.weight`: found data at bytes 4820..4940; \
               expected to start at byte 4824",
            ],
        ),
        (
            "a hole",
            |d| edit_header(d, |h| h[WTE]["data_offsets"][0] = json!(4948)),
            &[
                "model.safetensors: tensor `transformer.wte.weight`: found data at bytes 4948..5208; \
               expected to start at byte 4944",
            ],
        ),
        (
            "two names for one range",
            |d| {
                edit_header(d, |h| {
                    h[WTE] = h["transformer.wpe.weight"].clone();
                })
            },
            &[
                "model.safetensors: tensor `transformer.wte.weight`: found data at bytes 4824..4944; \
               expected to start at byte 4944",
            ],
        ),
        (
            "a shape unlike its bytes",
            |d| edit_header(d, |h| h[WTE]["shape"] = json!([11, 7])),
            &[
                "model.safetensors: tensor `transformer.wte.weight`: found data at bytes 4944..5208; \
               expected 308 bytes for F32 of shape [11, 7]",
            ],
        ),
        (
            "a dtype unlike its bytes",
            |d| edit_header(d, |h| h[WTE]["dtype"] = json!("F16")),
            &[
                "tensor `transformer.wte.weight`: found data",
                "expected 132 bytes for F16",
            ],
        ),
        (
            "a shape that overflows",
            |d| edit_header(d, |h| h[WTE]["shape"] = json!([1_u64 << 62, 64])),
            &[
                "tensor `transformer.wte.weight`: found data",
                "that fits in memory for F32 of shape [4611686018427387904, 64]",
            ],
        ),
        (
            "a negative size",
            |d| edit_header(d, |h| h[WTE]["shape"] = json!([-11, 6])),
            &[
                "model.safetensors: header with `transformer.wte.weight`: ",
                "-11",
            ],
        ),
        (
            "an unknown dtype",
            |d| edit_header(d, |h| h[WTE]["dtype"] = json!("Q4_K")),
            &[
                "model.safetensors: header with `transformer.wte.weight`: unknown variant `Q4_K`",
                "`BF16`",
            ],
        ),
        (
            "no offsets",
            |d| {
                edit_header(d, |h| {
                    h[WTE].as_object_mut().unwrap().remove("data_offsets");
                })
            },
            &[
                "model.safetensors: header with `transformer.wte.weight`: missing field `data_offsets`",
            ],
        ),
        (
            "a name twice",
            |d| {
                let (header, data) = split(&d.join(FILE));
                let text = Value::Object(header.clone()).to_string();
                let again = format!("{{\"{WTE}\":{},{}", header[WTE], &text[1..]);
                join(&d.join(FILE), &again, &data);
            },
            &["model.safetensors: header with `transformer.wte.weight` occurs twice"],
        ),
    ]);
}

#[test]
fn bad_tensors() {
    check(&[
        (
            "a missing tensor",
            |d| {
                edit_tensors(d, |t| {
                    t.retain(|t| t.name != "transformer.h.1.mlp.c_fc.bias")
                })
            },
            &[
                "model.safetensors: tensor `h.1.mlp.c_fc.bias`: found nothing; \
               expected a tensor of shape [10] (config.json: n_layer 2",
            ],
        ),
        (
            "a bias mistaken for a mask",
            |d| {
                edit_tensors(d, |t| {
                    t.retain(|t| t.name != "transformer.h.0.attn.c_attn.bias")
                })
            },
            &["tensor `h.0.attn.c_attn.bias`: found nothing; expected a tensor of shape [18]"],
        ),
        (
            "more layers in the config",
            |d| set(d, "n_layer", json!(3)),
            &["tensor `h.2.ln_1.weight`: found nothing", "n_layer 3"],
        ),
        (
            "10^9 layers",
            |d| set(d, "n_layer", json!(1_000_000_000)),
            &[
                "tensor `h.2.ln_1.weight`: found nothing",
                "n_layer 1000000000",
            ],
        ),
        (
            "fewer layers in the config",
            |d| set(d, "n_layer", json!(1)),
            &[
                "model.safetensors: tensor `transformer.h.1.",
                "found an unknown tensor of shape",
                "expected only tensors of a GPT-2 (config.json: n_layer 1,",
            ],
        ),
        (
            "another vocabulary in the config",
            |d| set(d, "vocab_size", json!(12)),
            &[
                "model.safetensors: tensor `transformer.wte.weight`: found shape [11, 6]; expected shape [12, 6]",
            ],
        ),
        (
            "a transposed weight",
            |d| edit_tensor(d, "transformer.h.0.mlp.c_fc.weight", |t| t.shape.reverse()),
            &[
                "tensor `transformer.h.0.mlp.c_fc.weight`: found shape [10, 6]; expected shape [6, 10]",
            ],
        ),
        (
            "an axis too many",
            |d| edit_tensor(d, "transformer.ln_f.bias", |t| t.shape.insert(0, 1)),
            &["tensor `transformer.ln_f.bias`: found shape [1, 6]; expected shape [6]"],
        ),
        (
            "an unknown tensor",
            |d| edit_tensors(d, |t| t.push(RawTensor::zeros("score.weight", &[2, 6]))),
            &[
                "model.safetensors: tensor `score.weight`: found an unknown tensor of shape [2, 6]; expected only",
            ],
        ),
        (
            "a mask of a layer that isn't there",
            |d| edit_tensors(d, |t| t.push(RawTensor::zeros("h.2.attn.bias", &[5, 5]))),
            &["tensor `h.2.attn.bias`: found an unknown tensor of shape [5, 5]"],
        ),
        (
            "a prefixed head",
            |d| {
                edit_tensors(d, |t| {
                    t.push(RawTensor::zeros("transformer.lm_head.weight", &[11, 6]))
                })
            },
            &["tensor `transformer.lm_head.weight`: found an unknown tensor"],
        ),
        (
            "with and without prefix",
            |d| edit_tensors(d, |t| t.push(RawTensor::zeros("wte.weight", &[11, 6]))),
            &[
                "model.safetensors: tensor `wte.weight`: found the tensor a second time, \
               after `transformer.wte.weight` in ",
                "expected each tensor once",
            ],
        ),
        (
            "integers",
            |d| edit_tensor(d, "transformer.ln_f.bias", |t| t.dtype = "I32".to_string()),
            &["tensor `transformer.ln_f.bias`: found dtype I32; expected dtype F32, F16 or BF16"],
        ),
        (
            "NaN",
            |d| {
                edit_tensor(d, "transformer.h.1.mlp.c_proj.weight", |t| {
                    t.bytes[4 * 13..4 * 14].copy_from_slice(&f32::NAN.to_le_bytes());
                })
            },
            &[
                "model.safetensors: tensor `transformer.h.1.mlp.c_proj.weight`: found NaN at [2, 1]; expected finite numbers",
            ],
        ),
        (
            "infinity in F16",
            |d| {
                edit_tensor(d, "transformer.ln_f.weight", |t| {
                    t.dtype = "F16".to_string();
                    t.bytes = vec![0, 0x3c, 0, 0x3c, 0, 0x3c, 0, 0x3c, 0, 0x3c, 0, 0x7c];
                })
            },
            &["tensor `transformer.ln_f.weight`: found inf at [5]; expected finite numbers"],
        ),
        (
            "a head unlike the embedding",
            |d| edit_tensors(d, |t| t.push(RawTensor::zeros("lm_head.weight", &[11, 6]))),
            &[
                "model.safetensors: tensor `lm_head.weight`: found values unlike `wte.weight`'s, first at [0, 0]; \
               expected equal bits",
                "tie_word_embeddings",
            ],
        ),
        (
            "a head of another shape",
            |d| edit_tensors(d, |t| t.push(RawTensor::zeros("lm_head.weight", &[12, 6]))),
            &["tensor `lm_head.weight`: found shape [12, 6]; expected shape [11, 6]"],
        ),
        (
            "a head's bias of another shape",
            |d| edit_tensors(d, |t| t.push(RawTensor::zeros("lm_head.bias", &[6]))),
            &["tensor `lm_head.bias`: found shape [6]; expected shape [11]"],
        ),
        (
            "no head of its own",
            |d| set(d, "tie_word_embeddings", json!(false)),
            &[
                "tensor `lm_head.weight`: found nothing",
                "tie_word_embeddings false",
            ],
        ),
    ]);
}

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
                    map[WTE] = json!("model-00001-of-00002.safetensors")
                })
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
                })
            },
            &["index.json: tensor `x`: found nothing; expected it in the shard"],
        ),
        (
            "a tensor not listed",
            |d| {
                edit_index(d, |map| {
                    map.remove(WTE);
                })
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
                })
            },
            &[
                "model-00002-of-00002.safetensors: tensor `transformer.wte.weight`: found the tensor a second time, \
               after `wte.weight` in ",
                "model-00001",
            ],
        ),
        (
            "a shard cut short",
            |d| {
                shard(d);
                edit_bytes(&d.join("model-00002-of-00002.safetensors"), |b| {
                    b.truncate(b.len() - 4)
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
