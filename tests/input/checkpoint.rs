//! Good checkpoints of every kind load to the bit.

use std::fs;
use std::path::{Path, PathBuf};

use crate::checkpoint_files::*;
use half::{bf16, f16};
use patchlens::Config;
use patchlens::config::Activation;
use patchlens::parameters::Parameters;
use safetensors::{Dtype, SafeTensors};

mod golden;

/// Every option of a config away from its default, one at a time.
fn configs() -> Vec<Config> {
    let base = tiny_config();
    let changes: [fn(&mut Config); 10] = [
        |_| {},
        |c| c.activation = Activation::Gelu,
        |c| c.activation = Activation::Relu,
        |c| c.layer_norm_eps = 3.3e-4,
        |c| c.scale_attn_weights = false,
        |c| c.scale_attn_by_inverse_layer_idx = true,
        |c| c.tie_word_embeddings = false,
        |c| c.d_mlp = 4 * c.d_model,
        |c| c.n_layers = 12,
        |c| c.n_heads = 3,
    ];
    let changed = |change: &fn(&mut Config)| {
        let mut config = base.clone();
        change(&mut config);
        config
    };
    changes.iter().map(changed).collect()
}

fn assert_same_bits(found: &Parameters, expected: &Parameters) {
    let bits = |parameters: &Parameters| -> Vec<(String, Vec<usize>, Vec<u32>)> {
        let tensors = parameters.tensors().into_iter();
        tensors
            .map(|(name, t)| {
                (
                    name,
                    t.shape().to_vec(),
                    t.iter().map(|v| v.to_bits()).collect(),
                )
            })
            .collect()
    };
    assert_eq!(bits(found), bits(expected));
}

/// Changes the files of a tiny checkpoint and expects the same parameters.
fn loads_the_same_after(change: impl FnOnce(&Path)) {
    let dir = tiny_checkpoint();
    change(dir.path());
    let (config, parameters) = Parameters::load(&dir).unwrap();
    assert_eq!(config, tiny_config());
    assert_same_bits(&parameters, &distinct_parameters(&config));
}

#[test]
fn every_config_round_trips() {
    for config in configs() {
        for bias in [false, true] {
            let mut parameters = distinct_parameters(&config);
            parameters.wte[[0, 0]] = -0.0;
            parameters.wte[[0, 1]] = f32::from_bits(1);
            parameters.lm_head_bias = bias.then(|| parameters.wte.column(1).to_owned());
            let dir = tempfile::tempdir().unwrap();
            parameters
                .save(dir.path().join("new/folder"), &config)
                .unwrap();
            let (found, loaded) = Parameters::load(dir.path().join("new/folder")).unwrap();
            assert_eq!(found, config);
            assert_same_bits(&loaded, &parameters);
        }
    }
}

#[test]
fn saving_replaces_older_files_and_leaves_no_others() {
    let dir = tiny_checkpoint();
    let config = tiny_config();
    let other = Parameters::random(&config, 99).unwrap();
    other.save(&dir, &config).unwrap();
    assert_same_bits(&Parameters::load(&dir).unwrap().1, &other);
    let mut names: Vec<_> = fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["config.json", "model.safetensors"]);
}

#[test]
fn saving_turns_down_what_could_not_be_loaded() {
    let config = tiny_config();
    let dir = tempfile::tempdir().unwrap();
    let message = |parameters: Parameters, config: &Config| {
        parameters.save(&dir, config).unwrap_err().to_string()
    };
    let good = || distinct_parameters(&config);

    let mut bad = good();
    bad.h[1].attn.c_proj.weight[[2, 3]] = f32::NEG_INFINITY;
    let text = message(bad, &config);
    assert!(
        text.contains("`h.1.attn.c_proj.weight`: found -inf at [2, 3]"),
        "{text}"
    );

    let mut bad = good();
    bad.ln_f.bias = bad.wte.column(0).to_owned();
    let text = message(bad, &config);
    assert!(
        text.contains("`ln_f.bias`: found shape [11]; expected [6]"),
        "{text}"
    );

    let mut bad = good();
    bad.h.truncate(1);
    let text = message(bad, &config);
    assert!(
        text.contains("`h.1.ln_1.weight`: found shape []; expected [6]"),
        "{text}"
    );

    let mut bad = good();
    bad.lm_head = Some(bad.wte.clone());
    let text = message(bad, &config);
    assert!(
        text.contains("`lm_head.weight`: found shape [11, 6]; expected no such"),
        "{text}"
    );

    let mut bad = good();
    bad.lm_head_bias = Some(bad.ln_f.bias.clone());
    let text = message(bad, &config);
    assert!(
        text.contains("`lm_head.bias`: found shape [6]; expected [11]"),
        "{text}"
    );

    let untied = Config {
        tie_word_embeddings: false,
        ..config.clone()
    };
    let text = message(good(), &untied);
    assert!(
        text.contains("`lm_head.weight`: found shape []; expected [11, 6]"),
        "{text}"
    );
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
}

#[test]
fn arrays_in_any_memory_layout_are_saved_right() {
    let config = tiny_config();
    let parameters = distinct_parameters(&config);
    let mut transposed = parameters.clone();
    transposed.wte = transposed
        .wte
        .t()
        .as_standard_layout()
        .into_owned()
        .reversed_axes();
    assert!(!transposed.wte.is_standard_layout());
    let dir = tempfile::tempdir().unwrap();
    transposed.save(&dir, &config).unwrap();
    assert_same_bits(&Parameters::load(&dir).unwrap().1, &parameters);
}

#[test]
fn the_saved_file_has_hugging_faces_layout() {
    let dir = tiny_checkpoint();
    let bytes = fs::read(dir.path().join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");
    assert_eq!(file.len(), 2 + 2 * 12 + 2);
    let tensor = file.tensor("transformer.h.1.attn.c_attn.weight").unwrap();
    assert_eq!((tensor.dtype(), tensor.shape()), (Dtype::F32, &[6, 18][..]));
    let expected = &distinct_parameters(&tiny_config()).h[1].attn.c_attn.weight;
    let first = f32::from_le_bytes(tensor.data()[..4].try_into().unwrap());
    assert_eq!(first, expected[[0, 0]]);
    let last = f32::from_le_bytes(tensor.data()[tensor.data().len() - 4..].try_into().unwrap());
    assert_eq!(last, expected[[5, 17]]);
}

#[test]
fn the_data_are_aligned_whatever_the_header() {
    // One digit more or less in the sizes makes headers of different lengths.
    for d_vocab in [9, 99, 999, 9_999, 99_999, 999_999] {
        let config = Config {
            d_vocab,
            d_model: 2,
            ..tiny_config()
        };
        let dir = tempfile::tempdir().unwrap();
        Parameters::zeros(&config)
            .unwrap()
            .save(&dir, &config)
            .unwrap();
        let bytes = fs::read(dir.path().join("model.safetensors")).unwrap();
        let (header, _) = SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(header % 8, 0, "d_vocab {d_vocab}");
    }
}

#[test]
fn names_without_prefix() {
    loads_the_same_after(|dir| {
        edit_tensors(dir, |tensors| {
            for tensor in tensors {
                tensor.name = tensor.name.replace("transformer.", "");
            }
        });
    });
}

#[test]
fn shards() {
    loads_the_same_after(shard);
}

#[test]
fn mask_buffers_are_skipped() {
    loads_the_same_after(|dir| {
        edit_tensors(dir, |tensors| {
            for (i, layer) in [0, 1].into_iter().enumerate() {
                let mut mask = RawTensor::zeros(&format!("h.{layer}.attn.bias"), &[1, 1, 5, 5]);
                // Whatever their type, and wherever they stand.
                mask.dtype = "BOOL".to_string();
                mask.bytes.truncate(25);
                tensors.insert(i, mask);
                let mut scalar =
                    RawTensor::zeros(&format!("transformer.h.{layer}.attn.masked_bias"), &[]);
                scalar.bytes = f32::NEG_INFINITY.to_le_bytes().to_vec();
                tensors.push(scalar);
            }
        });
    });
}

#[test]
fn a_tied_model_may_hold_an_equal_head() {
    loads_the_same_after(|dir| {
        edit_tensors(dir, |tensors| {
            let wte = tensors.iter().find(|t| t.name.ends_with("wte.weight"));
            let head = RawTensor {
                name: "lm_head.weight".to_string(),
                ..wte.unwrap().clone()
            };
            tensors.insert(0, head);
        });
    });
}

#[test]
fn half_precision() {
    type Encode = fn(f32) -> [u8; 2];
    type Round = fn(f32) -> f32;
    let types: [(&str, Encode, Round); 2] = [
        (
            "F16",
            |v| f16::from_f32(v).to_le_bytes(),
            |v| f16::from_f32(v).to_f32(),
        ),
        (
            "BF16",
            |v| bf16::from_f32(v).to_le_bytes(),
            |v| bf16::from_f32(v).to_f32(),
        ),
    ];
    for (dtype, encode, round) in types {
        let dir = tiny_checkpoint();
        edit_tensors(dir.path(), |tensors| {
            for tensor in tensors {
                let (values, _) = tensor.bytes.as_chunks();
                let halves = values.iter().flat_map(|v| encode(f32::from_le_bytes(*v)));
                tensor.bytes = halves.collect();
                tensor.dtype = dtype.to_string();
            }
        });
        let mut expected = distinct_parameters(&tiny_config());
        for (_, mut tensor) in expected.tensors_mut() {
            tensor.map_inplace(|v| *v = round(*v));
        }
        assert_same_bits(&Parameters::load(&dir).unwrap().1, &expected);
    }
}

#[test]
fn tensors_larger_than_the_read_buffer() {
    let config = Config {
        d_vocab: 100_003,
        d_model: 6,
        tie_word_embeddings: false,
        ..tiny_config()
    };
    let parameters = distinct_parameters(&config);
    let dir = tempfile::tempdir().unwrap();
    parameters.save(&dir, &config).unwrap();
    assert_same_bits(&Parameters::load(&dir).unwrap().1, &parameters);

    // An index beyond the first piece that is read.
    let (path, nan) = (dir.path().join("model.safetensors"), f32::NAN.to_le_bytes());
    let good = fs::read(&path).unwrap();
    let spoilt = [&good[..good.len() - 4], &nan].concat();
    fs::write(&path, spoilt).unwrap();
    let message = Parameters::load(&dir).unwrap_err().to_string();
    assert!(
        message.contains("`transformer.wte.weight`: found NaN at [100002, 5]"),
        "{message}"
    );
    fs::write(&path, good).unwrap();

    // The same file as a tied model's: the last value of the head differs from `wte`'s.
    let tied = Config {
        tie_word_embeddings: true,
        ..config
    };
    fs::write(dir.path().join("config.json"), tied.to_json()).unwrap();
    edit_tensors(dir.path(), |tensors| {
        let find = |name| {
            tensors
                .iter()
                .position(|t: &RawTensor| t.name.ends_with(name))
        };
        let (wte, head) = (find("wte.weight").unwrap(), find("lm_head.weight").unwrap());
        tensors[head].bytes = tensors[wte].bytes.clone();
        *tensors[head].bytes.last_mut().unwrap() ^= 1;
    });
    let message = Parameters::load(&dir).unwrap_err().to_string();
    assert!(message.contains("first at [100002, 5]"), "{message}");
}

#[test]
fn bytes_in_memory_load_as_files_do() {
    let dir = tiny_checkpoint();
    let config = fs::read_to_string(dir.path().join("config.json")).unwrap();
    let bytes = fs::read(dir.path().join("model.safetensors")).unwrap();
    let (config, parameters) = Parameters::from_bytes(&config, &bytes).unwrap();
    assert_eq!(config, tiny_config());
    assert_same_bits(&parameters, &distinct_parameters(&config));
    let message = Parameters::from_bytes(&config.to_json(), &bytes[..9])
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("model.safetensors: a header length of"),
        "{message}"
    );
}
