//! Models of kinds that GPT-2 is not, against TransformerLens: `tests/golden/toys.py` makes them.

use std::collections::BTreeMap;

use ndarray::{ArrayD, ArrayViewD};
use patchlens::checkpoint::{OpenOptions, SkipReason};
use patchlens::config::Program;
use patchlens::gradient::{Backward, cross_entropy};
use patchlens::patching::{Grid, activation_patching};
use patchlens::{HookPoint, Prompt, Selection, Site, Transformer, logit_diff};

use crate::common::{Comparison, tensors};

const TOYS: [&str; 11] = [
    "attn-only-shortformer",
    "attn-only-ln",
    "ln-pre-gelu",
    "relu-no-ln",
    "shortformer-ln",
    "solu",
    "solu-pre-shortformer",
    "solu-plain-no-ln",
    "silu",
    "bidirectional-ln",
    "bidirectional-tracr",
];

/// f32 against f32 computed in another order: relative to each tensor's largest value.
const BOUND: f32 = 1e-5;

/// Those of `toys.py`.
const PROMPTS: [&[u32]; 2] = [&[3, 1, 6, 1, 4], &[5, 0, 2]];
const CORRUPTED: [u32; 5] = [3, 6, 0, 1, 5];

fn open(toy: &str) -> Transformer {
    crate::common::open(&format!("toys/{toy}"))
}

fn reference(toy: &str) -> BTreeMap<String, ArrayD<f32>> {
    tensors(&format!("toys/{toy}"), "reference.safetensors")
}

/// Compares what a run has at each point of a model with the tensors under a prefix, of which none
/// may be left over.
fn compare<'v>(
    comparison: &mut Comparison,
    model: &Transformer,
    (prefix, reference): (&str, &BTreeMap<String, ArrayD<f32>>),
    found: impl Fn(HookPoint) -> ArrayViewD<'v, f32>,
) {
    let other = ["logits", "grad/", "param_grad/"];
    let ours = |key: &&String| {
        let rest = key.strip_prefix(prefix);
        rest.is_some_and(|rest| !other.iter().any(|other| rest.starts_with(other)))
    };
    let mut missing: Vec<&String> = reference.keys().filter(ours).collect();
    for point in HookPoint::of(model.config()).filter(|point| *point != HookPoint::Logits) {
        let key = format!("{prefix}{point}");
        let expected = reference.get(&key);
        let expected = expected.unwrap_or_else(|| panic!("no golden {key}"));
        comparison.add(&key, found(point), expected.view());
        missing.retain(|known| **known != key);
    }
    // Where TransformerLens has hooks that we have not: the same value twice.
    let twice = ["unembed.hook_in", "unembed.hook_out"];
    missing.retain(|key| !twice.iter().any(|name| key.ends_with(name)));
    assert!(missing.is_empty(), "not compared: {missing:?}");
}

#[test]
fn every_hook_point_equals_transformer_lens() {
    for toy in TOYS {
        let (model, reference) = (open(toy), reference(toy));
        let mut comparison = Comparison::new(BOUND);
        for (i, tokens) in PROMPTS.into_iter().enumerate() {
            let everything = Selection::everything(model.config());
            let (logits, cache) = model.run_with_cache(tokens, &everything).unwrap();
            let prefix = format!("p{i}/");
            compare(&mut comparison, &model, (&prefix, &reference), |point| {
                cache.get(point).unwrap()
            });
            let key = format!("p{i}/logits");
            comparison.add(&key, logits.view().into_dyn(), reference[&key].view());
        }
        comparison.finish(toy);
    }
}

#[test]
fn every_gradient_equals_torchs() {
    for toy in TOYS {
        let (model, reference) = (open(toy), reference(toy));
        let mut comparison = Comparison::new(BOUND);
        for (i, tokens) in PROMPTS.into_iter().enumerate() {
            let everything = Selection::everything(model.config());
            let want = Backward {
                gradients: Some(&everything),
                ..Backward::default()
            };
            let prompt = Prompt::from(tokens);
            let result = model.gradients(&prompt, (), logit_diff(2, 5), &want);
            let gradients = &result.unwrap().gradients[0];
            let prefix = format!("p{i}/grad/");
            compare(&mut comparison, &model, (&prefix, &reference), |point| {
                gradients.get(point).unwrap()
            });
        }
        comparison.finish(toy);
    }
}

fn largest(values: &ArrayD<f32>) -> f32 {
    values.iter().fold(0.0, |most, v| most.max(v.abs()))
}

#[test]
fn every_parameters_gradient_equals_torchs() {
    for toy in TOYS {
        let (model, reference) = (open(toy), reference(toy));
        let mut comparison = Comparison::new(BOUND);
        for (i, tokens) in PROMPTS.into_iter().enumerate() {
            let prompt = Prompt::from(tokens);
            let n = prompt.len() - 1;
            let weights = [vec![1.0 / n as f32; n]];
            let loss = cross_entropy(&prompt, &weights).unwrap();
            let want = Backward {
                parameters: true,
                ..Backward::default()
            };
            let result = model.gradients(&prompt, (), loss, &want).unwrap();
            // Saved, they have TransformerLens's names and shapes.
            let dir = tempfile::tempdir().unwrap();
            let gradient = result.parameters.unwrap();
            gradient.save(&dir, model.config()).unwrap();
            let found = tensors(dir.path().to_str().unwrap(), "model.safetensors");
            let prefix = format!("p{i}/param_grad/");
            let goldens = reference.keys().filter(|key| key.starts_with(&prefix));
            assert_eq!(goldens.count(), found.len(), "{toy}");
            for (name, values) in &found {
                let key = format!("{prefix}{name}");
                if let Some(block) = name.strip_suffix("b_K") {
                    // It moves all scores of a row alike, so that its gradient is nothing but
                    // rounding: measured by that of the weights beside it.
                    let scale = largest(&found[&format!("{block}W_K")]);
                    assert!(largest(values) < BOUND * scale, "{toy}: {key}");
                    assert!(largest(&reference[&key]) < BOUND * scale, "{toy}: {key}");
                    continue;
                }
                comparison.add(&key, values.view(), reference[&key].view());
            }
        }
        comparison.finish(toy);
    }
}

#[test]
fn patching_equals_transformer_lens() {
    for toy in TOYS {
        let (model, reference) = (open(toy), reference(toy));
        let mut comparison = Comparison::new(BOUND);
        let clean = Prompt::from(PROMPTS[0]);
        let corrupted = Prompt::from(CORRUPTED);
        let grids = [
            ("resid_pre", Grid::Positions(Site::ResidPre)),
            ("z", Grid::Heads(Site::Z)),
        ];
        for (name, grid) in grids {
            let metric = logit_diff(2, 5);
            let found = activation_patching(&model, &clean, &corrupted, grid, &metric).unwrap();
            let key = format!("patching/{name}");
            comparison.add(&key, found.raw().values(), reference[&key].view());
        }
        comparison.finish(toy);
    }
}

#[test]
fn what_was_found_is_reported_and_saving_keeps_it() {
    for toy in TOYS {
        let model = open(toy);
        let report = model.open_report().unwrap();
        assert_eq!(report.by, Program::TransformerLens);
        let text = report.to_string();
        assert!(text.contains("found    names of TransformerLens"), "{text}");
        let masks = report.skipped.iter();
        let masks = masks.filter(|skipped| skipped.reason == SkipReason::Mask);
        let expected = if toy == "attn-only-ln" { 4 } else { 0 };
        assert_eq!(masks.count(), expected, "{text}");

        let dir = tempfile::tempdir().unwrap();
        model.save(&dir).unwrap();
        let again = Transformer::open(&dir).unwrap();
        assert_eq!(again.config(), model.config());
        assert_eq!(again.fingerprint(), model.fingerprint());
    }
}

/// Replaces a text that is there in a config, and returns the message.
fn with(from: &str, to: &str) -> String {
    let dir = crate::common::dir("toys/silu");
    let config = std::fs::read_to_string(dir.join("cfg.json")).unwrap();
    assert!(config.contains(from), "{from} in {config}");
    let weights = std::fs::read(dir.join("model.safetensors")).unwrap();
    let opened = OpenOptions::new().load_bytes(&config.replace(from, to), &weights);
    opened.unwrap_err().to_string()
}

#[test]
fn what_is_not_supported_is_named() {
    for (from, to, parts) in [
        (
            "\"positional_embedding_type\": \"standard\"",
            "\"positional_embedding_type\": \"rotary\"",
            [
                "`positional_embedding_type`: found \"rotary\"",
                "shortformer",
            ],
        ),
        (
            "\"parallel_attn_mlp\": false",
            "\"parallel_attn_mlp\": true",
            ["`parallel_attn_mlp`: found true", "not supported"],
        ),
        (
            "\"gated_mlp\": false",
            "\"gated_mlp\": true",
            ["`gated_mlp`: found true", "not supported"],
        ),
        (
            "\"normalization_type\": \"LN\"",
            "\"normalization_type\": \"RMS\"",
            ["`normalization_type`: found \"RMS\"", "\"LNPre\", or null"],
        ),
        (
            "\"attention_dir\": \"causal\"",
            "\"attention_dir\": \"backward\"",
            [
                "`attention_dir`: found \"backward\"",
                "\"causal\", or \"bidirectional\"",
            ],
        ),
        (
            "\"n_key_value_heads\": null",
            "\"n_key_value_heads\": 1",
            ["`n_key_value_heads`: found 1", "grouped"],
        ),
        (
            "\"act_fn\": \"silu\"",
            "\"act_fn\": \"xielu\"",
            ["`act_fn`: found \"xielu\"", "solu_ln"],
        ),
        (
            "\"attn_scale\": 2.0",
            "\"attn_scale\": 3.0",
            ["`attn_scale`: found 3.0", "square root of d_head"],
        ),
        (
            "\"output_logits_soft_cap\": -1.0",
            "\"output_logits_soft_cap\": 30.0",
            ["`output_logits_soft_cap`: found 30.0", "soft caps"],
        ),
        (
            "\"d_mlp\": 10",
            "\"d_mlp\": 11",
            ["`blocks.0.mlp.W_in`: found shape [8, 10]", "[8, 11]"],
        ),
        (
            "\"n_layers\": 2",
            "\"n_layers\": 3",
            ["`blocks.2.ln1.w`: found nothing", "shape [8]"],
        ),
        (
            "\"n_layers\": 2",
            "\"n_layers\": 1",
            ["`blocks.1.", "unknown tensor"],
        ),
    ] {
        let message = with(from, to);
        for part in parts {
            assert!(message.contains(part), "{message}");
        }
    }
}

#[test]
fn points_that_a_model_lacks_say_why() {
    let cases = [
        (
            "attn-only-shortformer",
            Site::MlpOut.at(0),
            "this model has no MLPs",
        ),
        (
            "attn-only-ln",
            Site::ResidMid.at(1),
            "this model has no MLPs",
        ),
        (
            "relu-no-ln",
            Site::Ln1Scale.at(0),
            "this model has no LayerNorms",
        ),
        (
            "relu-no-ln",
            HookPoint::LnFinalScale,
            "this model has no LayerNorms",
        ),
        (
            "silu",
            Site::MlpMid.at(0),
            "this model has no LayerNorm inside its MLPs",
        ),
    ];
    for (toy, point, reason) in cases {
        let model = open(toy);
        let selection = Selection::points([point]);
        let error = model.run_with_cache(PROMPTS[0], &selection).unwrap_err();
        assert_eq!(error.to_string(), format!("{point}: {reason}"));
        let hook = patchlens::hook_fn(point, |_, _| ());
        assert!(model.run_with_hooks(PROMPTS[0], hook).is_err());
    }
}
