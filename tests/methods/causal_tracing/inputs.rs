//! Bad input.

use ndarray::Array2;
use patchlens::tracing::{
    CausalTracing, Restore, SubjectCorruption, TracedFact, mean_subject_embedding,
    subject_noise_std,
};
use patchlens::{Prompt, Site};

use super::{known, small_fact, small_model};

#[test]
fn bad_input_is_named() {
    let (model, fact) = (small_model(), small_fact());
    let noise = || SubjectCorruption::noise(0.5);
    let tracing = |corruption| CausalTracing::new(&model, corruption);
    let states = Restore::states();
    let restoring = |study: CausalTracing<'_>, restore| {
        let error = study.trace(&fact, restore).unwrap_err();
        error.to_string()
    };
    let error = |study| restoring(study, states);
    let expect = |found: String, parts: &[&str]| {
        assert!(
            parts.iter().all(|part| found.contains(part)),
            "{found}: {parts:?}"
        );
    };
    expect(
        restoring(tracing(noise()), Restore::mlp(0)),
        &["window", "found 0", "at least 1 layer"],
    );
    let heads = Restore::window(Site::Z, 1);
    expect(restoring(tracing(noise()), heads), &["hook_z", "d_model"]);
    let std = f32::NAN;
    expect(
        error(tracing(SubjectCorruption::noise(std))),
        &["NaN", "standard deviation"],
    );
    let none = SubjectCorruption::Noise {
        std: 1.0,
        seed: 0,
        samples: 0,
    };
    expect(error(tracing(none)), &["samples", "0"]);
    let wrong = vec![Array2::zeros((3, 16))];
    expect(
        error(tracing(SubjectCorruption::GivenNoise(wrong))),
        &["[3, 16]", "[2, 16]"],
    );
    let others = vec![vec![9, 14], vec![1]];
    expect(
        error(tracing(SubjectCorruption::Subjects(others))),
        &["2 tokens", "among 2"],
    );
    let vector = ndarray::Array1::zeros(3);
    expect(
        error(tracing(SubjectCorruption::Embedding(vector))),
        &["[3]", "16"],
    );

    let prompt = || Prompt::from([3, 9, 14, 9, 14]);
    let tokens = |subject: &[u32]| TracedFact::from_tokens(prompt(), subject).unwrap_err();
    expect(tokens(&[9, 3]).to_string(), &["[9, 3]", "no such tokens"]);
    expect(tokens(&[9, 14]).to_string(), &["2 occurrences", "[1, 3]"]);
    expect(tokens(&[]).to_string(), &["no such tokens"]);
    let range = TracedFact::new(prompt(), 4..6).unwrap_err();
    expect(range.to_string(), &["4..6", "0..5"]);
    let set = |facts: &[TracedFact]| {
        let error = tracing(noise()).trace_set(facts, &[states]).unwrap_err();
        error.to_string()
    };
    expect(
        set(std::slice::from_ref(&fact)),
        &["fact 0", "no attribute"],
    );
    let right = known(&model, fact.prompt.clone(), 1..3).attribute.unwrap();
    let wrong = fact.clone().with_attribute((right[0] + 1) % 23);
    expect(set(&[wrong]), &["0 of 1"]);
    let none = tracing(noise()).trace_set(&[], &[]).unwrap_err();
    expect(none.to_string(), &["restorations", "found 0"]);
    expect(
        subject_noise_std(&model, &[]).unwrap_err().to_string(),
        &["facts", "0"],
    );
    let beyond = TracedFact::new(Prompt::from([3, 99]), 1..2).unwrap();
    expect(
        mean_subject_embedding(&model, &[beyond])
            .unwrap_err()
            .to_string(),
        &["99", "0..23"],
    );
}
