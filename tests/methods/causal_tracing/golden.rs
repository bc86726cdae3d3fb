//! Against the tables that `tests/golden/tracing.py` writes.

use ndarray::{ArrayD, Axis, Ix1, Ix2};
use patchlens::Prompt;
use patchlens::tracing::{
    CausalTracing, Restore, Severed, SubjectCorruption, TracedFact, subject_noise_std,
};
use serde_json::Value;

use crate::common::Comparison;

const MODELS: [&str; 2] = ["tiny-gelu-new", "tiny-gelu"];
const BOUND: f32 = 1e-5;

fn described(model: &str) -> Value {
    let text = std::fs::read_to_string(crate::common::dir(model).join("tracing.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn facts(described: &Value) -> Vec<TracedFact> {
    let fact = |fact: &Value| {
        let subject = crate::common::tokens(&fact["subject"]);
        let prompt = Prompt::from(crate::common::tokens(&fact["prompt"]));
        TracedFact::new(prompt, subject[0] as usize..subject[1] as usize).unwrap()
    };
    described["facts"]
        .as_array()
        .unwrap()
        .iter()
        .map(fact)
        .collect()
}

/// A table of the goldens: what is restored, over how many layers, what is severed.
fn restore(table: &Value) -> Restore {
    let window = table[1].as_u64().unwrap() as usize;
    let restore = match table[0].as_str().unwrap() {
        "state" => Restore::states(),
        "mlp" => Restore::mlp(window),
        "attn" => Restore::attention(window),
        other => panic!("{other}"),
    };
    match table[2].as_str() {
        None => restore,
        Some("mlp") => restore.severing(Severed::Mlp),
        Some("attn") => restore.severing(Severed::Attention),
        Some(other) => panic!("{other}"),
    }
}

fn samples(noise: &ArrayD<f32>) -> SubjectCorruption {
    let arrays = noise.axis_iter(Axis(0));
    let arrays = arrays.map(|n| n.to_owned().into_dimensionality::<Ix2>().unwrap());
    SubjectCorruption::GivenNoise(arrays.collect())
}

#[test]
fn tables_equal_the_papers_definition() {
    for name in MODELS {
        let (model, described) = (crate::common::open(name), described(name));
        let golden = crate::common::tensors(name, "tracing.safetensors");
        let mut comparison = Comparison::new(BOUND);
        for (i, fact) in facts(&described).iter().enumerate() {
            let expected = |key: &str| golden[&format!("fact{i}/{key}")].view();
            let noise = samples(&golden[&format!("fact{i}/noise")]);
            let tracing = CausalTracing::new(&model, noise);
            for (table, what) in described["tables"].as_object().unwrap() {
                let trace = tracing.trace(fact, restore(what)).unwrap();
                let mut add = |key: &str, found: ArrayD<f32>| {
                    comparison.add(&format!("fact{i}/{key}"), found.view(), expected(key));
                };
                add(table, trace.restored.clone().into_dyn());
                add("corrupted", trace.corrupted_samples.clone().into_dyn());
                add("clean", ndarray::arr0(trace.clean).into_dyn());
                let te = expected("clean").sum() - expected("corrupted").mean().unwrap();
                assert!((trace.total_effect - te).abs() < 1e-6, "TE of fact {i}");
                let ie = expected(table).mean_axis(Axis(2)).unwrap()
                    - expected("corrupted").mean().unwrap();
                let apart = (&ie - &trace.indirect_effect.values()).mapv(f32::abs);
                assert!(apart.iter().all(|v| *v < 1e-6), "IE of fact {i}, {table}");
            }
        }
        comparison.finish(name);
    }
}

#[test]
fn other_corruptions_equal_the_goldens() {
    for name in MODELS {
        let (model, described) = (crate::common::open(name), described(name));
        let golden = crate::common::tensors(name, "tracing.safetensors");
        let facts = facts(&described);
        let mut comparison = Comparison::new(BOUND);
        for (i, fact) in facts.iter().enumerate() {
            let mut check = |key: String, corruption: SubjectCorruption| {
                let tracing = CausalTracing::new(&model, corruption);
                let trace = tracing.trace(fact, Restore::states()).unwrap();
                comparison.add(&key, trace.restored.view().into_dyn(), golden[&key].view());
            };
            let vector = golden[&format!("fact{i}/embedding")].clone();
            let vector = vector.into_dimensionality::<Ix1>().unwrap();
            check(
                format!("fact{i}/embedding_state"),
                SubjectCorruption::Embedding(vector),
            );
            let shifted = |by: u32| {
                fact.subject_tokens()
                    .iter()
                    .map(|t| (t + by) % 40)
                    .collect()
            };
            // Neither the subject itself nor one of another length is a sample.
            let others = vec![
                shifted(1),
                fact.subject_tokens().to_vec(),
                vec![1; 5],
                shifted(2),
            ];
            check(
                format!("fact{i}/subjects_state"),
                SubjectCorruption::Subjects(others),
            );
        }
        let std = subject_noise_std(&model, &facts).unwrap();
        comparison.add(
            "std",
            ndarray::arr0(std).view().into_dyn(),
            golden["noise_std"].view(),
        );
        comparison.finish(name);
    }
}
