//! Checkpoints as people have them, by case: each opens, or its error says what to do. Values come
//! from `tests/golden/checkpoints.py`.

mod others;

use std::fs;
use std::path::{Path, PathBuf};

use crate::checkpoint_files::*;
use crate::common::{self, difference};
use crate::small_tokenizer::{message, word_level};
use ndarray::{Array1, Array2, ArrayD};
use patchlens::checkpoint::{Assumed, OpenOptions, SkipReason};
use patchlens::config::Activation;
use patchlens::generate::Generation;
use patchlens::lens::LogitLens;
use patchlens::metric::{kl_divergence, rank};
use patchlens::parameters::Parameters;
use patchlens::{Config, Prompt, Selection, Site, Tokenizer, Transformer, ops};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The golden model that most cases change.
const MODEL: &str = "tiny-gelu-new";

fn golden(name: &str) -> PathBuf {
    common::dir("checkpoints").join(name)
}

fn reference() -> Value {
    serde_json::from_str(&fs::read_to_string(golden("cases.json")).unwrap()).unwrap()
}

fn prompt() -> Prompt {
    Prompt::from(common::tokens(&reference()["prompt"]))
}

fn expected(name: &str) -> ArrayD<f32> {
    common::tensors("checkpoints", "cases.safetensors")
        .remove(name)
        .unwrap()
}

/// A copy of the golden checkpoint, which has the prefix `transformer.` and masks.
fn copy() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(common::dir(MODEL).join(file), dir.path().join(file)).unwrap();
    }
    dir
}

fn set(dir: &Path, field: &str, value: Value) {
    let path = dir.join("config.json");
    let mut config: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    config[field] = value;
    fs::write(path, config.to_string()).unwrap();
}

fn named<'t>(tensors: &'t mut [RawTensor], end: &str) -> &'t mut RawTensor {
    tensors.iter_mut().find(|t| t.name.ends_with(end)).unwrap()
}

fn bits(logits: &Array2<f32>) -> Vec<u32> {
    logits.iter().map(|v| v.to_bits()).collect()
}

fn logits(model: &Transformer) -> Array2<f32> {
    model.forward(prompt()).unwrap()
}

fn open(dir: &TempDir) -> Transformer {
    Transformer::open(dir).unwrap_or_else(|error| panic!("{error}"))
}

/// Expects the bits of the ordinary file.
fn has_the_same_bits(model: &Transformer) {
    assert_eq!(bits(&logits(model)), bits(&logits(&common::open(MODEL))));
}

fn fails(dir: &TempDir, fragments: &[&str]) {
    let message = match Transformer::open(dir) {
        Ok(_) => panic!("opened; expected {fragments:?}"),
        Err(error) => error.to_string(),
    };
    for fragment in fragments {
        assert!(message.contains(fragment), "no {fragment:?} in {message:?}");
    }
}

#[test]
fn b01_a_tied_model_stored_under_one_name() {
    for metadata in [
        None,
        Some(json!({"transformer.wte.weight": "lm_head.weight"})),
    ] {
        let dir = copy();
        edit_tensors(dir.path(), |tensors| {
            named(tensors, "wte.weight").name = "lm_head.weight".to_string();
        });
        if let Some(metadata) = metadata {
            let path = dir.path().join("model.safetensors");
            let (mut header, data) = split(&path);
            header.insert("__metadata__".to_string(), metadata);
            join(&path, &Value::Object(header).to_string(), &data);
        }
        let model = open(&dir);
        has_the_same_bits(&model);
        let report = model.open_report().unwrap();
        assert!(report.assumed.contains(&Assumed::EmbeddingFromHead));
        assert!(
            report
                .to_string()
                .contains("lm_head.weight as wte.weight too")
        );
        set(dir.path(), "tie_word_embeddings", json!(false));
        fails(
            &dir,
            &[
                "`transformer.wte.weight`: found nothing",
                "tie_word_embeddings false",
            ],
        );
    }
}

#[test]
fn b02_wrapper_prefixes() {
    let wrappers = [
        "_orig_mod.",
        "module.",
        "_orig_mod.module.",
        "module._orig_mod.",
        "model.",
        "gpt.",
        "_module.",
        "base_model.model.",
    ];
    for wrapper in wrappers {
        for plain in [false, true] {
            let dir = copy();
            edit_tensors(dir.path(), |tensors| {
                for tensor in tensors {
                    if plain {
                        tensor.name = tensor.name.replace("transformer.", "");
                    }
                    tensor.name.insert_str(0, wrapper);
                }
            });
            let model = open(&dir);
            has_the_same_bits(&model);
            let report = model.open_report().unwrap();
            assert_eq!(report.wrapper, wrapper);
            assert!(
                report
                    .to_string()
                    .contains(&format!("begin with `{wrapper}`"))
            );
            edit_tensors(dir.path(), |tensors| {
                tensors.retain(|tensor| !tensor.name.ends_with("h.1.ln_2.weight"));
            });
            let prefix = if plain { "" } else { "transformer." };
            fails(
                &dir,
                &[&format!(
                    "`{wrapper}{prefix}h.1.ln_2.weight`: found nothing"
                )],
            );
        }
    }
    // One alone under it, and one alone without it.
    for one in ["wpe.weight", "h.1.attn.c_attn.bias", "ln_f.bias"] {
        let dir = copy();
        edit_tensors(dir.path(), |tensors| {
            named(tensors, one).name.insert_str(0, "_orig_mod.");
        });
        let name = format!("`_orig_mod.transformer.{one}`");
        fails(
            &dir,
            &[
                &name,
                "whose name begins with `_orig_mod.`, unlike the others'",
            ],
        );
        edit_tensors(dir.path(), |tensors| {
            for tensor in tensors {
                match tensor.name.strip_prefix("_orig_mod.") {
                    Some(rest) => tensor.name = rest.to_string(),
                    None => tensor.name.insert_str(0, "_orig_mod."),
                }
            }
        });
        let name = format!("`transformer.{one}`");
        fails(
            &dir,
            &[&name, "does not begin with `_orig_mod.`, as the others' do"],
        );
    }
    // Two that are one without it.
    let dir = copy();
    edit_tensors(dir.path(), |tensors| {
        let mut again = named(tensors, "wpe.weight").clone();
        again.name.insert_str(0, "module.");
        tensors.push(again);
    });
    fails(
        &dir,
        &[
            "`module.transformer.wpe.weight`: found the tensor twice",
            "`transformer.wpe.weight`",
        ],
    );
}

#[test]
fn b03_n_positions_counts_and_n_ctx_does_not() {
    let dir = copy();
    edit_tensors(dir.path(), |tensors| {
        let wpe = named(tensors, "wpe.weight");
        wpe.shape[0] = 6;
        wpe.bytes.truncate(4 * 6 * wpe.shape[1]);
        for mask in tensors
            .iter_mut()
            .filter(|t| t.name.ends_with(".attn.bias"))
        {
            *mask = RawTensor::zeros(&mask.name, &[1, 1, 5, 5]);
        }
    });
    set(dir.path(), "n_positions", json!(6));
    set(dir.path(), "n_ctx", json!(6));
    let agreeing = logits(&open(&dir));
    set(dir.path(), "n_ctx", json!(5));
    let model = open(&dir);
    assert_eq!(model.config().n_ctx, 6);
    assert_eq!(bits(&logits(&model)), bits(&agreeing));
    assert!(difference(agreeing.view().into_dyn(), expected("n-positions").view()) < 1e-5);
    let report = model.open_report().unwrap().to_string();
    assert!(
        report.contains("n_ctx = 5 does not count, n_positions does"),
        "{report}"
    );
}

#[test]
fn b04_extra_heads() {
    let extras = [
        ("v_head.summary.weight", "v_head"),
        ("multiple_choice_head.summary.bias", "multiple_choice_head"),
        ("score.weight", "score"),
        ("frozen_head.h.0.ln_1.weight", "frozen_head"),
        ("transformer.adapter.weight", "transformer.adapter"),
    ];
    for (name, skip) in extras {
        let dir = copy();
        edit_tensors(dir.path(), |tensors| {
            let mut extra = RawTensor::zeros(name, &[24]);
            extra.bytes.fill(1);
            tensors.insert(0, extra);
        });
        let how = format!("OpenOptions::new().skip(\"{skip}\"), or --skip {skip}");
        fails(&dir, &[&format!("tensor `{name}`: found"), &how]);
        let options = OpenOptions::new().skip(skip);
        let model = Transformer::open_with(&dir, &options).unwrap();
        has_the_same_bits(&model);
        let report = model.open_report().unwrap();
        let skipped = |reason| report.skipped.iter().filter(move |s| s.reason == reason);
        let names: Vec<&str> = skipped(SkipReason::Asked)
            .map(|s| s.tensor.as_str())
            .collect();
        assert_eq!(names, [name]);
        assert_eq!(skipped(SkipReason::Mask).count(), 4);
    }
    let with = |skip: &str| {
        message(Transformer::open_with(
            copy(),
            &OpenOptions::new().skip(skip),
        ))
    };
    assert!(with("v_haed").contains("`v_haed`, which no tensor's name begins with"));
    for needed in [
        "transformer.h.0.ln_1.bias",
        "transformer.h.1",
        "transformer",
    ] {
        assert!(
            with(needed).contains(", which is a tensor of the model"),
            "{needed}"
        );
    }
    // A value head beside a wrapped model, as trl saves it.
    let dir = copy();
    edit_tensors(dir.path(), |tensors| {
        for tensor in tensors.iter_mut() {
            tensor.name.insert_str(0, "pretrained_model.");
        }
        tensors.push(RawTensor::zeros("v_head.summary.weight", &[1, 24]));
    });
    fails(
        &dir,
        &[
            "`v_head.summary.weight`",
            "begin with `pretrained_model.`",
            "--skip v_head",
        ],
    );
    has_the_same_bits(&Transformer::open_with(&dir, &OpenOptions::new().skip("v_head")).unwrap());
}

#[test]
fn b05_more_rows_than_tokens() {
    let model = common::open(MODEL);
    let reference = &reference()["more-rows"];
    let generated = common::tokens(&reference["generated"]);
    let first = generated[0];
    // Up to the token that the model generates.
    let words: Vec<String> = (0..first).map(|i| format!(" w{i}")).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let tokenizer = word_level(&words);
    assert_eq!(tokenizer.vocab_size(), first as usize);

    let found = model
        .generate(&prompt(), (), &Generation::greedy(6))
        .unwrap();
    assert_eq!(found[0].new_tokens(), generated);
    let name = format!("#{first}");
    let says = message(tokenizer.decode(found[0].new_tokens()));
    assert!(
        says.contains(&format!("token {first} is out of range")),
        "{says}"
    );
    assert_eq!(tokenizer.readable(&generated).unwrap(), name.repeat(6));
    assert_eq!(tokenizer.prompt(generated).labels, vec![name.clone(); 6]);

    let lens = LogitLens::new(&model).run(&prompt()).unwrap();
    let likeliest = lens.likeliest(&tokenizer).unwrap();
    let texts = likeliest.texts().unwrap();
    assert_eq!(texts.last(), Some(&name));

    let token = reference["token"].as_u64().unwrap() as u32;
    assert_eq!(token as usize, model.config().d_vocab - 1);
    let all = logits(&model);
    let found = rank(&[token]).evaluate(0, all.view()).unwrap();
    assert_eq!(found as u64, reference["rank"].as_u64().unwrap());
    let mut reversed = prompt().tokens;
    reversed.reverse();
    let other = model.forward(&reversed).unwrap();
    let kl = kl_divergence().with_reference(&[all.view()]).unwrap();
    let found = f64::from(kl.evaluate(0, other.view()).unwrap());
    let expected = reference["kl"].as_f64().unwrap();
    assert!((found - expected).abs() < 1e-5, "{found}, {expected}");
}
