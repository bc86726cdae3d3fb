//! Weight processing against TransformerLens, tensor by tensor and by logits.

use std::collections::BTreeMap;

use crate::common::Comparison;
use ndarray::{Array2, ArrayD};
use patchlens::processing::Processing;
use patchlens::{Transformer, ops};

const BOUND: f32 = 1e-5;

/// Every step with those before it.
fn steps() -> impl Iterator<Item = &'static [Processing]> {
    static ALL: [Processing; 4] = Processing::ALL;
    (1..=ALL.len()).map(|n| &ALL[..n])
}

fn log_probabilities(model: &Transformer, tokens: &[u32]) -> Array2<f32> {
    let mut logits = model.forward(tokens).unwrap();
    for mut row in logits.rows_mut() {
        ops::log_softmax_row(row.as_slice_mut().unwrap());
    }
    logits
}

#[test]
fn every_step_equals_transformer_lens() {
    for name in crate::common::MODELS {
        let model = crate::common::open(name);
        let golden = crate::common::tensors(name, "processing.safetensors");
        let metadata = crate::common::metadata(name);
        let mut comparison = Comparison::new(BOUND);
        let mut expected: BTreeMap<String, ArrayD<f32>> = BTreeMap::new();
        for applied in steps() {
            let step = applied.last().unwrap();
            let prefix = format!("{step}/weights/");
            let changed = golden.range(prefix.clone()..);
            let changed = changed.take_while(|(key, _)| key.starts_with(&prefix));
            expected.extend(changed.map(|(k, v)| (k[prefix.len()..].to_string(), v.clone())));
            let processed = model.processed(applied).unwrap();
            let tensors: BTreeMap<_, _> = processed.parameters().tensors().into_iter().collect();
            for (tensor, expected) in &expected {
                let found = tensors.get(tensor).unwrap_or_else(|| panic!("no {tensor}"));
                comparison.add(&format!("{step}: {tensor}"), found.view(), expected.view());
            }
            for (tensor, values) in tensors.iter().filter(|(name, _)| name.contains("ln_")) {
                let neutral = if tensor.ends_with("weight") { 1.0 } else { 0.0 };
                assert!(
                    values.iter().all(|v| *v == neutral),
                    "{name} {step} {tensor}"
                );
            }
            for i in 0..2 {
                let tokens = crate::common::tokens(&metadata["prompts"][i]);
                let key = format!("{step}/p{i}/logits");
                let logits = processed.forward(&tokens).unwrap();
                comparison.add(&key, logits.view().into_dyn(), golden[&key].view());
            }
        }
        comparison.finish(name);
    }
}

#[test]
fn each_step_alone_keeps_the_probabilities_and_the_original() {
    for name in crate::common::MODELS {
        let model = crate::common::open(name);
        let before = model.parameters().clone();
        let tokens = crate::common::tokens(&crate::common::metadata(name)["prompts"][0]);
        let expected = log_probabilities(&model, &tokens);
        for step in Processing::ALL {
            let processed = model.processed(&[step]).unwrap();
            assert_ne!(
                processed.parameters(),
                &before,
                "{name}: {step} did nothing"
            );
            let found = log_probabilities(&processed, &tokens);
            let worst = (found - &expected)
                .mapv(f32::abs)
                .iter()
                .copied()
                .fold(0.0, f32::max);
            assert!(
                worst < Processing::TOLERANCE,
                "{name}: {step} moves them by {worst}"
            );
        }
        assert_eq!(model.parameters(), &before);
    }
}

#[test]
fn a_processed_model_is_saved_and_opened_again() {
    let model = crate::common::open("tiny-gelu-new");
    let processed = model.processed(&Processing::ALL).unwrap();
    let dir = tempfile::tempdir().unwrap();
    processed.save(dir.path()).unwrap();
    let opened = Transformer::open(dir.path()).unwrap();
    assert_eq!(opened.parameters(), processed.parameters());
}
