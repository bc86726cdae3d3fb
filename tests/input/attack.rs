//! What fell when the crate was attacked, by case.

mod siblings;

use std::os::unix::fs::{FileTypeExt as _, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::checkpoint_files::*;
use crate::small_tokenizer::{message, mini, word_level_json};
use ndarray::{arr1, arr2};
use patchlens::config::Activation;
use patchlens::generate::Generation;
use patchlens::lens::TunedLens;
use patchlens::metric::probability_diff;
use patchlens::parameters::Parameters;
use patchlens::report::Axis;
use patchlens::tasks::{KnownFacts, PairFile};
use patchlens::{
    ActivationCache, Config, Edit, Error, HookPoint, Intervention, Interventions, KeepLogits,
    Labelled, Prompt, Run, Select, Site, Target, Tokenizer, Transformer,
};
use serde_json::{Value, json};

#[test]
fn t9_weights_that_are_not_finite_are_rejected() {
    let config = tiny_config();
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut parameters = distinct_parameters(&config);
        parameters.h[1].mlp.c_fc.weight[[2, 7]] = value;
        let expected = format!(
            "parameter `h.1.mlp.c_fc.weight`: found {value} at [2, 7]; expected finite numbers"
        );
        assert_eq!(message(parameters.check(&config)), expected);
        let model = Transformer::new(config.clone(), parameters);
        assert_eq!(message(model), expected);
    }
    // Whatever the layout of the array.
    let mut parameters = distinct_parameters(&config);
    let mut transposed = parameters.h[0].attn.c_proj.weight.clone().reversed_axes();
    transposed[[1, 4]] = f32::NAN;
    parameters.h[0].attn.c_proj.weight = transposed;
    let found = message(Transformer::new(config, parameters));
    assert!(found.contains("found NaN at [1, 4]"), "{found}");
}

#[test]
fn t9_a_model_beyond_all_memory_is_an_error() {
    // More than any address space, whatever the system promises.
    let wide = Config {
        d_model: 1 << 24,
        d_mlp: 1 << 26,
        n_layers: 4,
        n_heads: 1,
        ..Config::gpt2()
    };
    // Small matrices, but too many.
    let deep = Config {
        d_model: 128,
        d_mlp: 512,
        n_layers: i32::MAX as usize,
        n_heads: 1,
        d_vocab: 1,
        n_ctx: 1,
        ..Config::gpt2()
    };
    for config in [wide, deep] {
        for result in [
            Transformer::random(config.clone(), 0).map(|_| ()),
            Parameters::zeros(&config).map(|_| ()),
        ] {
            let found = message(result);
            assert!(found.contains("a model that fits in memory"), "{found}");
        }
    }
}

#[test]
fn t9_a_difference_of_nothing_is_an_error() {
    let logits = arr2(&[[0.0, 1.0, 2.0]]);
    let metric = |sets: (Vec<u32>, Vec<u32>)| probability_diff(&[sets]).evaluate(0, logits.view());
    assert_eq!(
        message(metric((vec![], vec![]))),
        "probability difference: tokens of prompt 0: found none; expected at least one"
    );
    assert!(metric((vec![1], vec![])).unwrap() > 0.0);
    assert!(metric((vec![], vec![1])).unwrap() < 0.0);
}

#[test]
fn t9_a_hook_fires_only_where_it_has_rows() {
    let model = Transformer::random(tiny_config(), 0).unwrap();
    let target = Target::new(Site::Z.at(0)).at_positions(1);
    let list = [Intervention::new(target, Edit::Zero)];
    let mut hooks = Interventions::new(&list[..]);
    let prompt = Prompt::from([1, 2]);
    model
        .generate(&prompt, &mut hooks, &Generation::greedy(3))
        .unwrap();
    let fired = &hooks.receipt().fired[0];
    // The prompt has the position; the two steps after it have not.
    assert_eq!((fired.times, fired.rows), (1, 2));
}

#[test]
fn t9_positions_that_a_run_leaves_out_are_an_error() {
    let model = Transformer::random(tiny_config(), 0).unwrap();
    let run = |positions: Select| {
        let target = Target::new(HookPoint::LnFinalNormalized).at_positions(positions);
        let list = [Intervention::new(target, Edit::Zero)];
        let last = Run {
            logits: KeepLogits::Last,
            ..Run::default()
        };
        model.run(
            &Prompt::from([1, 2, 3, 4]),
            Interventions::new(&list[..]),
            &last,
        )
    };
    let found = message(run([0, 3].into()).map(|_| ()));
    assert!(
        found.contains("at each prompt's last position only"),
        "{found}"
    );
    assert!(run(3.into()).is_ok());
}

#[test]
fn t9_an_infinite_factor_says_why_not() {
    let model = Transformer::random(tiny_config(), 0).unwrap();
    let edit = Edit::Scale(f32::INFINITY);
    let list = [Intervention::new(Site::Z.at(0), edit)];
    let found = message(model.run_with_hooks([1, 2], Interventions::new(&list[..])));
    assert!(
        found.contains("found inf; expected a finite factor: with any other"),
        "{found}"
    );
}

/// A good tokenizer with one part replaced.
fn tokenizer(part: &str, value: Value) -> Value {
    let mut json = word_level_json(&["[UNK]", "a", " b"]);
    json[part] = value;
    json
}

#[test]
fn t1_panics_of_the_tokenizer_library_are_errors_that_name_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokenizer.json");
    let charsmap = json!({"type": "Precompiled", "precompiled_charsmap": "AAAA"});
    let prefix = json!({
        "type": "BPE", "continuing_subword_prefix": "xxxx",
        "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]
    });
    for json in [
        tokenizer("normalizer", charsmap),
        tokenizer("model", prefix),
    ] {
        std::fs::write(&path, json.to_string()).unwrap();
        let run = || {
            let tokenizer = Tokenizer::open(&dir)?;
            let prompt = tokenizer.encode("a b")?;
            tokenizer.decode(&prompt.tokens)
        };
        let found = message(run());
        assert!(found.starts_with(&path.display().to_string()), "{found}");
        assert!(found.contains("panic of the tokenizer library"), "{found}");
    }
}

#[test]
fn t1_what_is_ignored_is_not_parsed() {
    for part in ["post_processor", "padding", "truncation"] {
        let json = tokenizer(part, json!({"type": "of another day", "max": [1, 2]}));
        let tokenizer = Tokenizer::from_bytes(json.to_string().as_bytes()).unwrap();
        assert_eq!(tokenizer.encode("a b").unwrap().tokens, [1, 2]);
    }
}

/// Everything that is read from a path, in a folder where `name` stands for the file.
fn readers(dir: &Path, name: &str) -> Vec<(&'static str, patchlens::Result<()>)> {
    let path = dir.join(name);
    let as_file = |file: &str| {
        let to = tempfile::tempdir().unwrap();
        symlink(&path, to.path().join(file)).unwrap();
        to
    };
    let model = tiny_checkpoint();
    std::fs::remove_file(model.path().join("model.safetensors")).unwrap();
    symlink(&path, model.path().join("model.safetensors")).unwrap();
    vec![
        (
            "tokenizer",
            Tokenizer::open(as_file("tokenizer.json")).map(|_| ()),
        ),
        ("config", Config::open(as_file("config.json")).map(|_| ())),
        ("weights", Parameters::load(&model).map(|_| ())),
        ("result", Labelled::open_json(&path).map(|_| ())),
        ("cache", ActivationCache::open(&path).map(|_| ())),
        ("lens", TunedLens::open(&path).map(|_| ())),
        ("facts", KnownFacts::open(&path, &mini(), false).map(|_| ())),
        ("pairs", PairFile::open(&path, &mini(), false).map(|_| ())),
    ]
}

#[test]
fn t6_what_is_no_regular_file_or_absurdly_long_is_an_error_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe");
    assert!(
        Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    let zeros = std::fs::File::create(dir.path().join("zeros")).unwrap();
    zeros.set_len(3 << 30).unwrap();
    let start = Instant::now();
    for (name, expected) in [
        ("pipe", "a device, pipe or socket; expected a regular file"),
        (
            "/dev/zero",
            "a device, pipe or socket; expected a regular file",
        ),
        (".", "a folder; expected a regular file"),
        ("zeros", "zeros"),
    ] {
        for (what, result) in readers(dir.path(), name) {
            let found = message(result);
            let linked = ["tokenizer", "config", "weights"].contains(&what);
            assert!(
                found.contains(expected) || (linked && name == "zeros"),
                "{what}: {found}"
            );
        }
    }
    assert!(
        start.elapsed() < Duration::from_secs(20),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn t6_devices_and_pipes_are_not_replaced_and_symlinks_lead_to_their_targets() {
    let dir = tempfile::tempdir().unwrap();
    let result = Labelled::new(
        arr1(&[1.0, 2.0]),
        vec![Axis::new("layer", ["L0", "L1"])],
        Default::default(),
    )
    .unwrap();
    let pipe = dir.path().join("pipe.json");
    assert!(
        Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    let device = dir.path().join("device.json");
    symlink("/dev/null", &device).unwrap();
    let folder = dir.path().join("folder.json");
    std::fs::create_dir(&folder).unwrap();
    for (path, what) in [
        (&pipe, "a device, pipe or socket"),
        (&device, "/dev/null: a device"),
        (&folder, "a folder"),
    ] {
        let found = message(result.save(path));
        assert!(found.contains(what), "{found}");
    }
    assert!(std::fs::metadata(&pipe).unwrap().file_type().is_fifo());
    assert!(
        std::fs::metadata("/dev/null")
            .unwrap()
            .file_type()
            .is_char_device()
    );

    // An old file and a name that is still free, both behind two links.
    let other = tempfile::tempdir().unwrap();
    std::fs::write(other.path().join("old.json"), "old").unwrap();
    for name in ["old.json", "new.json"] {
        symlink(
            other.path().join(name),
            other.path().join(format!("to-{name}")),
        )
        .unwrap();
        let link = dir.path().join(name);
        symlink(other.path().join(format!("to-{name}")), &link).unwrap();
        result.save(&link).unwrap();
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        assert!(other.path().join(name).is_file());
        assert_eq!(
            Labelled::open_json(&link).unwrap().values(),
            result.values()
        );
    }
    let circle = dir.path().join("circle.json");
    symlink(&circle, &circle).unwrap();
    assert!(message(result.save(&circle)).contains("symlinks in a circle"));
}

/// Not a test by itself: what [`t10_a_killed_save_leaves_no_mixed_pair`] starts and kills. Saves two
/// models of equal shapes in turn; one number of the weights says which config they go with.
#[test]
fn t10_child() {
    let Some(dir) = std::env::var_os("PATCHLENS_T10") else {
        return;
    };
    loop {
        for (activation, mark) in [(Activation::Gelu, 1.0), (Activation::Relu, 2.0)] {
            let config = Config {
                activation,
                ..tiny_config()
            };
            let mut parameters = distinct_parameters(&config);
            parameters.wte[[0, 0]] = mark;
            parameters.save(&dir, &config).unwrap();
        }
    }
}

#[test]
fn t10_a_killed_save_leaves_no_mixed_pair() {
    let dir = tempfile::tempdir().unwrap();
    let mut whole = 0;
    for round in 0..25 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "attack::t10_child", "--nocapture"])
            .env("PATCHLENS_T10", dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // On a busy machine, the first save may take its time.
        let start = Instant::now();
        while !dir.path().join("config.json").exists() && start.elapsed().as_secs() < 60 {
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(Duration::from_millis(60 + 7 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        match Parameters::load(&dir) {
            Ok((config, parameters)) => {
                whole += 1;
                let mark = if config.activation == Activation::Gelu {
                    1.0
                } else {
                    2.0
                };
                assert_eq!(parameters.wte[[0, 0]], mark);
            }
            Err(Error::Io { path, .. }) => assert!(path.starts_with(dir.path()), "{path:?}"),
            Err(other) => panic!("{other}"),
        }
    }
    assert!(whole > 0, "no save was ever finished");
}
