//! What others' tracing got wrong, by the names of the cases.

use std::ops::Range;

use patchlens::metric::probability;
use patchlens::report::Absent;
use patchlens::tasks::FactPrompt;
use patchlens::tracing::{CausalTracing, Restore, SubjectCorruption, TracedFact};
use patchlens::{Config, Edit, Intervention, Interventions, Prompt, Site, Target, Transformer};

use super::{noise_at_embed, small_fact, small_model, small_noise};
use crate::small_tokenizer::bytes;

/// As the small model, with 12 layers.
fn deep_model() -> Transformer {
    let config = Config {
        n_layers: 12,
        n_heads: 2,
        d_model: 16,
        d_mlp: 24,
        n_ctx: 16,
        d_vocab: 23,
        ..Config::gpt2()
    };
    let (config, mut parameters) = Transformer::random(config, 5).unwrap().into_parts();
    for (name, mut tensor) in parameters.tensors_mut() {
        if name.ends_with("weight") && !name.contains("ln_") {
            tensor.mapv_inplace(|v| v * 8.0);
        }
    }
    Transformer::new(config, parameters).unwrap()
}

/// The bits of the answer's probability with the MLPs of some layers restored at a token, by a
/// full run.
fn with_layers(model: &Transformer, answer: u32, token: usize, layers: Range<usize>) -> u32 {
    let fact = small_fact();
    let points = layers.map(|layer| Site::MlpOut.at(layer));
    let selection = patchlens::Selection::points(points.clone());
    let (_, clean) = model.run_with_cache(&fact.prompt, &selection).unwrap();
    let restore = points.map(|point| {
        let edit = Edit::patch(std::slice::from_ref(&clean), point).unwrap();
        Intervention::new(Target::new(point).at_positions(token), edit)
    });
    let noise = noise_at_embed(&small_noise(1)[0]);
    let all: Vec<Intervention> = [noise].into_iter().chain(restore).collect();
    let logits = model.run_with_hooks(&fact.prompt, Interventions::new(all));
    let metric = probability(&[answer]);
    metric
        .evaluate(0, logits.unwrap().view())
        .unwrap()
        .to_bits()
}

#[test]
fn b32_windows_of_ten_in_twelve_layers_are_those_of_the_paper() {
    let model = deep_model();
    let noise = SubjectCorruption::GivenNoise(small_noise(1));
    let tracing = CausalTracing::new(&model, noise);
    let trace = tracing.trace(&small_fact(), Restore::mlp(10)).unwrap();
    // At the last token every layer tells.
    let token = 6;
    for (cell, layers) in [(0, 0..5), (5, 0..10), (11, 6..12)] {
        let of = |layers| with_layers(&model, trace.answer[0], token, layers);
        let found = trace.restored[[token, cell, 0]].to_bits();
        assert_eq!(found, of(layers.clone()), "cell {cell}");
        assert_ne!(found, of(layers.start..layers.end - 1), "cell {cell}");
        assert_ne!(found, of(layers.start + 1..layers.end), "cell {cell}");
    }
}

#[test]
fn f3_a_window_wider_than_the_model_is_cut_at_its_ends() {
    let model = small_model();
    let tracing = CausalTracing::new(&model, SubjectCorruption::GivenNoise(small_noise(1)));
    // Four layers, ten of them: every cell restores what lies within five layers of it.
    let trace = tracing.trace(&small_fact(), Restore::mlp(10)).unwrap();
    for layer in 0..4 {
        let all = with_layers(&model, trace.answer[0], 2, 0..4);
        assert_eq!(trace.restored[[2, layer, 0]].to_bits(), all);
    }
    for window in [1 << 40, usize::MAX] {
        let wide = tracing.trace(&small_fact(), Restore::mlp(window)).unwrap();
        assert_eq!(wide.restored, trace.restored);
    }
}

#[test]
fn b32_the_clean_run_does_not_depend_on_the_samples() {
    let (model, fact) = (small_model(), small_fact());
    let trace = |samples| {
        let corruption = SubjectCorruption::Noise {
            std: 0.5,
            seed: 7,
            samples,
        };
        let tracing = CausalTracing::new(&model, corruption);
        tracing.trace(&fact, Restore::states()).unwrap()
    };
    let (one, ten) = (trace(1), trace(10));
    assert_eq!(one.clean.to_bits(), ten.clean.to_bits());
    assert_eq!(one.answer, ten.answer);
    // The first sample of ten is the sample of one, in every cell.
    let first = ten.restored.index_axis(ndarray::Axis(2), 0);
    assert_eq!(one.restored.index_axis(ndarray::Axis(2), 0), first);
    assert_eq!(one.corrupted_samples[0], ten.corrupted_samples[0]);
    // Only several samples have errors.
    assert!(one.indirect_effect.std_error().is_none());
    let errors = ten.indirect_effect.std_error().unwrap();
    assert!(errors.iter().all(|e| e.is_finite()) && errors[[1, 0]] > 0.0);
    for ((index, effect), raw) in
        (ten.indirect_effect.values().indexed_iter()).zip(ten.raw().values())
    {
        assert_eq!(*effect, raw - ten.corrupted, "{index:?}");
    }
}

#[test]
fn b32_subjects_at_either_end_and_of_one_token() {
    let model = small_model();
    let tracing = CausalTracing::new(&model, SubjectCorruption::noise(0.5));
    let prompt = || Prompt::from([3, 9, 14, 2, 20]);
    for subject in [0..1, 0..3, 4..5, 2..5, 1..2, 0..5] {
        let fact = TracedFact::new(prompt(), subject.clone()).unwrap();
        let trace = tracing.trace(&fact, Restore::states()).unwrap();
        assert!(trace.total_effect != 0.0, "{subject:?}");
        let effects = trace.indirect_effect.values();
        // Positions before the subject are as they were in the clean run.
        for token in 0..subject.start {
            assert!((0..4).all(|layer| effects[[token, layer]] == 0.0));
        }
        // The last token's last state is all that the answer is read from.
        assert_eq!(effects[[4, 3]], trace.total_effect);
        let labels = &trace.indirect_effect.axes()[0].labels;
        let marked = (0..5).filter(|t| labels[*t].contains('*'));
        assert!(marked.eq(subject));
    }
}

#[test]
fn b32_a_subject_inside_a_longer_word_is_an_error() {
    // Every byte is a token, so that any part of a word is whole tokens.
    let tokenizer = bytes();
    for (text, subject, at) in [
        ("Parisian cafes are in", "Paris", "bytes 0 to 5"),
        ("The Nepal2 road is in", "Nepal", "bytes 4 to 9"),
        ("MacArthur was a", "Arthur", "bytes 3 to 9"),
    ] {
        let error = FactPrompt::new(&tokenizer, text, subject, "a", "").unwrap_err();
        let message = error.to_string();
        for part in ["inside a longer word", at, subject, "`TracedFact::new`"] {
            assert!(message.contains(part), "{message}");
        }
    }
    let whole = FactPrompt::new(&tokenizer, "Is Paris's river", "Paris", "a", "").unwrap();
    assert_eq!(whole.subject, 2..8);
}

#[test]
fn f15_cells_of_a_cancelled_trace_are_not_run() {
    let model = small_model();
    let study = CausalTracing::new(&model, SubjectCorruption::noise(0.5));
    let mut limit = 1;
    while let Err(patchlens::Error::MemoryLimit { least, .. }) = study
        .clone()
        .memory_limit(limit)
        .trace(&small_fact(), Restore::states())
    {
        limit = least;
    }
    let cancelled = study.memory_limit(limit).observe(|progress| {
        if progress.done > 9 {
            std::ops::ControlFlow::Break(())
        } else {
            std::ops::ControlFlow::Continue(())
        }
    });
    let trace = cancelled.trace(&small_fact(), Restore::states()).unwrap();
    for table in [&trace.indirect_effect, &trace.raw()] {
        let reasons = table.absent();
        let not_run = reasons.iter().filter(|r| **r == Some(Absent::NotRun));
        let (not_run, absent) = (not_run.count(), reasons.iter().flatten().count());
        assert!(not_run == absent && (1..28).contains(&not_run), "{not_run}");
        assert!(table.about.partial);
    }
}
