//! Siblings of what fell: the same kinds of faults elsewhere.

use std::fs::{self, File};
use std::thread;

use patchlens::metric::{logit_diff_sets, probability};

use super::*;

/// t1: replacements that multiply would fill the memory, which no guard against panics catches.
#[test]
fn t1_replacements_that_multiply_are_rejected() {
    let replace = json!({
        "type": "Replace", "pattern": { "Regex": "." }, "content": "a".repeat(95)
    });
    let many = |n: usize| json!({ "type": "Sequence", "normalizers": vec![&replace; n] });
    let open = |n| {
        let json = serde_json::to_vec(&tokenizer("normalizer", many(n))).unwrap();
        Tokenizer::from_bytes(&json)
    };
    assert!(open(1).is_ok());
    let found = message(open(4));
    assert!(found.contains("more than 4096 bytes of one"), "{found}");
}

/// t6: names are looked at before what may be large is read.
#[test]
fn t6_a_large_tensor_of_another_file_is_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("large.safetensors");
    let size: u64 = 1 << 40;
    let header = format!(
        r#"{{"nonsense":{{"dtype":"F32","shape":[{}],"data_offsets":[0,{size}]}}}}"#,
        size / 4
    );
    let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
    fs::write(&path, &bytes).unwrap();
    let file = File::options().write(true).open(&path).unwrap();
    // Sparse, where the file system knows such files; else it has no room, and this no point.
    if file.set_len(bytes.len() as u64 + size).is_err() {
        return;
    }
    let start = Instant::now();
    let found = message(TunedLens::open(&path));
    assert!(
        found.contains("no tuned lens, but tensor `nonsense`"),
        "{found}"
    );
    assert!(message(ActivationCache::open(&path)).contains("nonsense"));
    assert!(start.elapsed().as_secs() < 10);
}

/// t6: a file that the system calls empty, as it does some without end.
#[test]
#[cfg(target_os = "linux")]
fn t6_a_file_longer_than_it_says_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    symlink("/proc/version", dir.path().join("config.json")).unwrap();
    fs::write(dir.path().join("model.safetensors"), [0; 8]).unwrap();
    let found = message(Parameters::load(&dir));
    assert!(found.contains("more than the 0 bytes"), "{found}");
}

/// t9: a token counts once.
#[test]
fn t9_repeated_tokens_are_rejected() {
    let logits = arr2(&[[1.0, 2.0, 0.0]]);
    for metric in [
        probability_diff(&[(vec![1, 1], vec![2])]),
        logit_diff_sets(&[(vec![0], vec![2, 1, 2])], Default::default()),
    ] {
        let found = message(metric.evaluate(0, logits.view()));
        assert!(found.contains("twice; expected each token once"), "{found}");
    }
    assert!(probability(&[1]).evaluate(0, logits.view()).is_ok());
}

/// t10: two that save at once, and one that reads meanwhile.
#[test]
#[cfg(unix)]
fn t10_saves_at_once_leave_no_mixed_pair() {
    let dir = tempfile::tempdir().unwrap();
    let save = |activation, mark: f32, times: usize| {
        let config = Config {
            activation,
            ..tiny_config()
        };
        let mut parameters = distinct_parameters(&config);
        parameters.wte[[0, 0]] = mark;
        for _ in 0..times {
            parameters.save(dir.path(), &config).unwrap();
        }
    };
    let check = || {
        let (config, parameters) = Parameters::load(dir.path()).unwrap();
        let gelu = config.activation == Activation::Gelu;
        assert_eq!(parameters.wte[[0, 0]] == 1.0, gelu);
    };
    save(Activation::Gelu, 1.0, 1);
    thread::scope(|scope| {
        scope.spawn(|| save(Activation::Gelu, 1.0, 60));
        scope.spawn(|| save(Activation::Relu, 2.0, 60));
        for _ in 0..200 {
            check();
        }
    });
    check();
}
