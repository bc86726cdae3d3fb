//! The golden checkpoints.

use super::*;

/// The golden checkpoints, written by other programs.
fn golden_folders() -> Vec<PathBuf> {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let folders = fs::read_dir(golden)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut folders: Vec<_> = folders
        .filter(|dir| dir.join("config.json").exists())
        .collect();
    folders.sort();
    folders
}

#[test]
fn golden_checkpoints_load_as_the_safetensors_crate_reads_them() {
    let folders = golden_folders();
    assert!(folders.len() >= 5, "{folders:?}");
    for dir in folders {
        let (_, parameters) = Parameters::load(&dir).unwrap();
        let mut expected = Vec::new();
        for path in fs::read_dir(&dir)
            .unwrap()
            .map(|entry| entry.unwrap().path())
        {
            let name = path.file_name().unwrap().to_str().unwrap();
            if name.starts_with("model") && name.ends_with(".safetensors") {
                expected.extend(all_values(&fs::read(&path).unwrap()));
            }
        }
        for (name, tensor) in parameters.tensors() {
            let found: Vec<f32> = tensor.iter().copied().collect();
            let (_, expected) = expected.iter().find(|(n, _)| *n == name).unwrap();
            assert_eq!(found, *expected, "{}: {name}", dir.display());
        }
    }
}

fn all_values(bytes: &[u8]) -> Vec<(String, Vec<f32>)> {
    let file = SafeTensors::deserialize(bytes).unwrap();
    let values = |dtype: Dtype, data: &[u8]| -> Vec<f32> {
        let pairs = || data.chunks(2).map(|b| [b[0], b[1]]);
        match dtype {
            Dtype::F16 => pairs().map(|b| f16::from_le_bytes(b).to_f32()).collect(),
            Dtype::BF16 => pairs().map(|b| bf16::from_le_bytes(b).to_f32()).collect(),
            _ => data
                .chunks(4)
                .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
                .collect(),
        }
    };
    let name = |name: &str| {
        name.strip_prefix("transformer.")
            .unwrap_or(name)
            .to_string()
    };
    file.iter()
        .map(|(n, tensor)| (name(n), values(tensor.dtype(), tensor.data())))
        .collect()
}
