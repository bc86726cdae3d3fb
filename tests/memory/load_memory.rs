//! Memory while loading, measured by a counting allocator: alone in its process, one test after
//! another.

use std::borrow::Cow;
use std::fs;
use std::path::Path;
use std::time::Instant;

use crate::checkpoint_files::{RawTensor, edit_tensors, join, shard, split, tiny_checkpoint};
use crate::{ALLOCATOR, alone};
use patchlens::parameters::Parameters;
use patchlens::{Config, Transformer};
use safetensors::tensor::{Dtype, View, serialize_to_file};
use serde_json::{Value, json};

/// The bytes that `work` held at once, beyond those held before.
fn peak_of<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();
    let result = work();
    (result, ALLOCATOR.peak_usage() - before)
}

#[test]
fn memory_while_loading() {
    let _alone = alone();
    a_file_of_gpt2_smalls_layout();
    saved_and_opened(&Config {
        n_layers: 2,
        d_vocab: 5000,
        ..Config::gpt2_xl()
    });
    hostile_sizes();
}

/// `cargo test --release --test memory gpt2_xl -- --ignored --nocapture`, with 7 GB of memory and
/// of room for temporary files.
#[test]
#[ignore = "takes 7 GB of memory and of the disk, and some minutes"]
fn gpt2_xl_opens_in_little_more_than_its_size() {
    let _alone = alone();
    saved_and_opened(&Config::gpt2_xl());
}

/// A checkpoint that the crate saved from random weights: saving it copies little, and opening it
/// takes little more than the weights.
fn saved_and_opened(config: &Config) {
    let dir = tempfile::tempdir().unwrap();
    let model = Transformer::random(config.clone(), 5).unwrap();
    let size = 4 * model.parameters().count();
    let ((), beside) = peak_of(|| model.save(dir.path()).unwrap());
    drop(model);
    let start = Instant::now();
    let (opened, peak) = peak_of(|| Transformer::open(dir.path()).unwrap());
    let seconds = start.elapsed().as_secs_f64();
    let ratio = peak as f64 / size as f64;
    println!("{size} bytes opened in {seconds:.2} s, peak {ratio:.4} x; {beside} beside to save");
    assert_eq!(opened.config(), config);
    assert!((1.0..1.05).contains(&ratio), "peak {ratio} x the f32 size");
    assert!(beside < size / 20, "{beside} bytes beside {size} to save");
}

/// A tensor for the safetensors crate's writer.
struct Raw(Vec<usize>, Vec<u8>);

impl View for Raw {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }
    fn shape(&self) -> &[usize] {
        &self.0
    }
    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.1)
    }
    fn data_len(&self) -> usize {
        self.1.len()
    }
}

/// The layout of `openai-community/gpt2` on the Hugging Face hub, 548,105,171 bytes: no prefix,
/// and a mask buffer in each layer.
fn write_hub_layout(dir: &Path, config: &Config, parameters: &Parameters) {
    let weights = parameters.tensors().into_iter().map(|(name, tensor)| {
        let bytes = tensor.iter().flat_map(|v| v.to_le_bytes()).collect();
        (name, Raw(tensor.shape().to_vec(), bytes))
    });
    let masks = (0..config.n_layers).map(|layer| {
        let shape = vec![1, 1, config.n_ctx, config.n_ctx];
        let bytes = vec![0; 4 * config.n_ctx * config.n_ctx];
        (format!("h.{layer}.attn.bias"), Raw(shape, bytes))
    });
    let path = dir.join("model.safetensors");
    serialize_to_file(weights.chain(masks), None, &path)
        .expect("this test needs 0.6 GB on the disk of temporary files");
    fs::write(dir.join("config.json"), config.to_json()).unwrap();
}

fn a_file_of_gpt2_smalls_layout() {
    let config = Config::gpt2();
    let dir = tempfile::tempdir().unwrap();
    write_hub_layout(
        dir.path(),
        &config,
        &Parameters::random(&config, 5).unwrap(),
    );
    let size = fs::metadata(dir.path().join("model.safetensors"))
        .unwrap()
        .len();
    assert!((548_000_000..548_200_000).contains(&size), "{size} bytes");

    let start = Instant::now();
    let (loaded, peak) = peak_of(|| Parameters::load(&dir).unwrap());
    let seconds = start.elapsed().as_secs_f64();
    let ratio = peak as f64 / (4 * loaded.1.count()) as f64;
    println!("loaded {size} bytes in {seconds:.2} s, peak {ratio:.4} x the f32 size");
    assert_eq!(loaded.0, config);
    assert_eq!(loaded.1.count(), 124_439_808);
    assert!(loaded.1 == Parameters::random(&config, 5).unwrap());
    assert!((1.0..1.3).contains(&ratio), "peak {ratio} x the f32 size");
}

/// A name, and what is done to a good checkpoint.
type Case = (&'static str, fn(&Path));

/// Files that claim to be huge: an error, for little memory.
fn hostile_sizes() {
    let cases: [Case; 5] = [
        ("10^9 layers", |dir| {
            shard(dir);
            set(dir, "n_layer", 1_000_000_000);
        }),
        ("a vocabulary of 2^31 - 1", |dir| {
            set(dir, "vocab_size", 2_147_483_647);
        }),
        ("a header of 2^63 bytes", |dir| {
            let path = dir.join("model.safetensors");
            let mut bytes = fs::read(&path).unwrap();
            bytes[..8].copy_from_slice(&(1_u64 << 63).to_le_bytes());
            fs::write(path, bytes).unwrap();
        }),
        ("a tensor of 2^40 bytes", |dir| {
            let path = dir.join("model.safetensors");
            let (mut header, data) = split(&path);
            header["transformer.wte.weight"]["shape"] = json!([1_u64 << 38]);
            header["transformer.wte.weight"]["data_offsets"][1] = json!(1_u64 << 41);
            join(&path, &Value::Object(header).to_string(), &data);
        }),
        ("2^60 values in no bytes", |dir| {
            edit_tensors(dir, |tensors| {
                tensors.push(RawTensor::zeros("x", &[1 << 60, 0]));
            });
        }),
    ];
    for (name, damage) in cases {
        let dir = tiny_checkpoint();
        damage(dir.path());
        let (result, peak) = peak_of(|| Parameters::load(&dir));
        assert!(result.is_err(), "{name}");
        assert!(peak < 1 << 20, "{name}: {peak} bytes");
    }
}

fn set(dir: &Path, field: &str, value: u64) {
    let path = dir.join("config.json");
    let mut config: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    config[field] = json!(value);
    fs::write(path, config.to_string()).unwrap();
}
