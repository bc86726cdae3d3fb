//! Shared by the tests that compare with the goldens of `tests/golden/`.
#![allow(dead_code)] // Each test binary uses its own part.

use std::collections::BTreeMap;
use std::path::PathBuf;

use ndarray::{ArrayD, ArrayViewD};
use patchlens::{Config, Site, Transformer};
use safetensors::SafeTensors;

/// The golden models with full references.
pub const MODELS: [&str; 3] = ["tiny-gelu-new", "tiny-gelu", "tiny-relu"];

/// The sites of a GPT-2's block, in order of execution.
pub fn gpt2_sites() -> Vec<Site> {
    let config = Config::gpt2();
    let there = |site: &Site| site.at(0).check(&config).is_ok();
    Site::ALL.iter().copied().filter(there).collect()
}

/// The folder of a golden model.
pub fn dir(model: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(model)
}

/// A golden model.
pub fn open(model: &str) -> Transformer {
    Transformer::open(dir(model)).unwrap_or_else(|error| panic!("{model}: {error}"))
}

/// All F32 tensors of a golden file, by name.
pub fn tensors(model: &str, file: &str) -> BTreeMap<String, ArrayD<f32>> {
    let bytes = std::fs::read(dir(model).join(file)).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let array = |name: &str| {
        let tensor = file.tensor(name).unwrap();
        assert_eq!(tensor.dtype(), safetensors::Dtype::F32, "{name}");
        let values: Vec<f32> = tensor
            .data()
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect();
        ArrayD::from_shape_vec(tensor.shape(), values).unwrap()
    };
    file.names()
        .iter()
        .map(|name| (name.to_string(), array(name)))
        .collect()
}

/// `reference.json` of a golden model.
pub fn metadata(model: &str) -> serde_json::Value {
    let text = std::fs::read_to_string(dir(model).join("reference.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Token ids at a path of keys in the metadata.
pub fn tokens(value: &serde_json::Value) -> Vec<u32> {
    let list = value
        .as_array()
        .unwrap_or_else(|| panic!("no tokens in {value}"));
    list.iter().map(|t| t.as_u64().unwrap() as u32).collect()
}

/// The largest difference of two arrays in units of the expected one's largest value; infinite
/// values must be equal.
pub fn difference(found: ArrayViewD<'_, f32>, expected: ArrayViewD<'_, f32>) -> f32 {
    assert_eq!(found.shape(), expected.shape());
    let finite = expected.iter().filter(|v| v.is_finite());
    let scale = finite.fold(1e-3_f32, |a, v| a.max(v.abs()));
    let mut worst = 0.0_f32;
    for (a, b) in found.iter().zip(&expected) {
        if a.to_bits() != b.to_bits() {
            let delta = (a - b).abs() / scale;
            worst = if delta.is_nan() {
                f32::INFINITY
            } else {
                worst.max(delta)
            };
        }
    }
    worst
}

/// Collects differences, and fails at the end with every name over the bound.
pub struct Comparison {
    bound: f32,
    worst: (f32, String),
    failures: Vec<String>,
    count: usize,
}

impl Comparison {
    pub fn new(bound: f32) -> Self {
        Comparison {
            bound,
            worst: (0.0, String::new()),
            failures: Vec::new(),
            count: 0,
        }
    }

    pub fn add(&mut self, name: &str, found: ArrayViewD<'_, f32>, expected: ArrayViewD<'_, f32>) {
        self.count += 1;
        if found.shape() != expected.shape() {
            let (found, expected) = (found.shape(), expected.shape());
            self.failures
                .push(format!("{name}: shape {found:?}, expected {expected:?}"));
            return;
        }
        let delta = difference(found, expected);
        if delta > self.worst.0 {
            self.worst = (delta, name.to_string());
        }
        if delta > self.bound {
            self.failures.push(format!("{name}: {delta:e}"));
        }
    }

    pub fn finish(self, what: &str) {
        let (worst, name) = &self.worst;
        println!(
            "{what}: {} tensors, worst relative difference {worst:.2e} at {name}",
            self.count
        );
        assert!(self.count > 0, "{what}: nothing compared");
        assert!(
            self.failures.is_empty(),
            "{what}:\n{}",
            self.failures.join("\n")
        );
    }
}
