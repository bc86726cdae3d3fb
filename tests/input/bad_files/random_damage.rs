//! Random truncations and changes of bytes never panic.

use std::fs;
use std::sync::LazyLock;

use patchlens::parameters::Parameters;
use proptest::prelude::*;

use crate::checkpoint_files::tiny_checkpoint;

/// `config.json` and `model.safetensors` of a good tiny checkpoint, made once.
static GOOD: LazyLock<(String, Vec<u8>)> = LazyLock::new(|| {
    let dir = tiny_checkpoint();
    let config = fs::read_to_string(dir.path().join("config.json")).unwrap();
    let bytes = fs::read(dir.path().join("model.safetensors")).unwrap();
    (config, bytes)
});

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(cases(2000))]

    #[test]
    fn a_truncated_file_is_an_error(cut in 0.0..1.0) {
        let (config, bytes) = GOOD.clone();
        let cut = (cut * bytes.len() as f64) as usize;
        prop_assert!(Parameters::from_bytes(&config, &bytes[..cut]).is_err());
    }

    #[test]
    fn flipped_bytes_never_panic_nor_load_what_is_not_finite(
        flips in prop::collection::vec((0.0..1.0, any::<bool>(), 1u8..), 1..4),
    ) {
        let (config, mut bytes) = GOOD.clone();
        let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        for (at, in_header, flip) in flips {
            let range = if in_header { header } else { bytes.len() };
            bytes[(at * range as f64) as usize] ^= flip;
        }
        if let Ok((config, parameters)) = Parameters::from_bytes(&config, &bytes) {
            prop_assert!(parameters.check(&config).is_ok());
            prop_assert!(parameters.tensors().iter().all(|(_, t)| t.iter().all(|v| v.is_finite())));
        }
    }

    #[test]
    fn a_damaged_config_never_panics(at in 0.0..1.0, cut in any::<bool>(), to in any::<char>()) {
        let (config, bytes) = GOOD.clone();
        let mut text: Vec<char> = config.chars().collect();
        let at = (at * text.len() as f64) as usize;
        text[at] = to;
        if cut {
            text.truncate(at);
        }
        let text: String = text.into_iter().collect();
        if let Ok((config, parameters)) = Parameters::from_bytes(&text, &bytes) {
            prop_assert!(parameters.check(&config).is_ok());
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let loaded = Parameters::from_bytes("{}", &bytes);
        prop_assert!(loaded.is_err());
    }
}
