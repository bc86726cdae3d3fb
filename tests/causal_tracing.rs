//! Causal tracing against goldens, and against full runs bit by bit.

mod common;
mod small_tokenizer;

use std::ops::ControlFlow;

use common::Comparison;
use ndarray::{Array2, ArrayD, Axis, Ix1, Ix2};
use patchlens::tasks::{FactPrompt, KnownFacts};
use patchlens::{
    CausalTracing, Config, Edit, Error, HookPoint, Intervention, Interventions, PositionClass,
    Prompt, Restore, Run, Selection, Severed, Site, SubjectCorruption, Target, TracedFact,
    Transformer, Values, mean_subject_embedding, probability, subject_noise_std,
};
use serde_json::Value;
use small_tokenizer::mini;

const MODELS: [&str; 2] = ["tiny-gelu-new", "tiny-gelu"];
const BOUND: f32 = 1e-5;

fn described(model: &str) -> Value {
    let text = std::fs::read_to_string(common::dir(model).join("tracing.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn facts(described: &Value) -> Vec<TracedFact> {
    let fact = |fact: &Value| {
        let subject = common::tokens(&fact["subject"]);
        let prompt = Prompt::from(common::tokens(&fact["prompt"]));
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
fn study<'m>(
    model: &'m Transformer,
    corruption: &SubjectCorruption,
    table: &Value,
) -> CausalTracing<'m> {
    let window = table[1].as_u64().unwrap() as usize;
    let restore = match table[0].as_str().unwrap() {
        "state" => Restore::states(),
        "mlp" => Restore::mlp(window),
        "attn" => Restore::attention(window),
        other => panic!("{other}"),
    };
    let tracing = CausalTracing::new(model, corruption.clone()).restoring(restore);
    match table[2].as_str() {
        None => tracing,
        Some("mlp") => tracing.severing(Severed::Mlp),
        Some("attn") => tracing.severing(Severed::Attention),
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
        let (model, described) = (common::open(name), described(name));
        let golden = common::tensors(name, "tracing.safetensors");
        let mut comparison = Comparison::new(BOUND);
        for (i, fact) in facts(&described).iter().enumerate() {
            let expected = |key: &str| golden[&format!("fact{i}/{key}")].view();
            let noise = samples(&golden[&format!("fact{i}/noise")]);
            for (table, what) in described["tables"].as_object().unwrap() {
                let trace = study(&model, &noise, what).trace(fact).unwrap();
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
        let (model, described) = (common::open(name), described(name));
        let golden = common::tensors(name, "tracing.safetensors");
        let facts = facts(&described);
        let mut comparison = Comparison::new(BOUND);
        for (i, fact) in facts.iter().enumerate() {
            let mut check = |key: String, corruption: SubjectCorruption| {
                let trace = CausalTracing::new(&model, corruption).trace(fact).unwrap();
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

fn small_model() -> Transformer {
    let config = Config {
        n_layers: 4,
        n_heads: 2,
        d_model: 16,
        d_mlp: 40,
        n_ctx: 16,
        d_vocab: 23,
        ..Config::gpt2()
    };
    let (config, mut parameters) = Transformer::random(config, 3).unwrap().into_parts();
    // GPT-2's initialisation is so small that nothing would matter: enlarge it.
    for (name, mut tensor) in parameters.tensors_mut() {
        if name.ends_with("weight") && !name.contains("ln_") {
            tensor.mapv_inplace(|v| v * 12.0);
        }
    }
    Transformer::new(config, parameters).unwrap()
}

fn small_fact() -> TracedFact {
    TracedFact::from_tokens(Prompt::from([3, 9, 14, 2, 9, 20, 6]), &[9, 14]).unwrap()
}

/// Noise as data, so that a test can apply it by itself.
fn small_noise(samples: usize) -> Vec<Array2<f32>> {
    let number = |sample: usize, i: usize, j: usize| ((7 * sample + 5 * i + 3 * j) % 11) as f32;
    let noise = |s| Array2::from_shape_fn((2, 16), move |(i, j)| number(s, i, j) / 4.0 - 1.25);
    (0..samples).map(noise).collect()
}

/// The noise at the subject `1..3` of a prompt of 7 tokens.
fn noise_at_embed(noise: &Array2<f32>) -> Intervention {
    let mut all = Array2::zeros((7, 16));
    for (row, values) in noise.rows().into_iter().enumerate() {
        all.row_mut(row + 1).assign(&values);
    }
    let target = Target::new(HookPoint::Embed).at_positions([1, 2]);
    Intervention::new(target, Edit::Add(Values::array(all)))
}

#[test]
fn every_cell_has_the_bits_of_a_full_run() {
    let (model, fact) = (small_model(), small_fact());
    let everything = Selection::everything(model.config());
    let (_, clean) = model.run_with_cache(&fact.prompt, &everything).unwrap();
    let noise = small_noise(2);
    let tracing = CausalTracing::new(&model, SubjectCorruption::GivenNoise(noise.clone()))
        .restoring(Restore::attention(2))
        .severing(Severed::Mlp);
    let trace = tracing.trace(&fact).unwrap();
    let answer = probability(&[trace.answer]);
    for (sample, noise) in noise.iter().enumerate() {
        let corrupt = [noise_at_embed(noise)];
        let run = Run {
            cache: Some(&everything),
            ..Run::default()
        };
        let hooks = Interventions::new(&corrupt[..]);
        let output = model.run(&fact.prompt, hooks, &run).unwrap();
        let corrupted = answer.evaluate(0, output.logits.get(0)).unwrap();
        assert_eq!(
            trace.corrupted_samples[sample].to_bits(),
            corrupted.to_bits()
        );
        for token in 0..7 {
            for layer in 0..4_usize {
                let (first, end) = (layer.saturating_sub(1), layer + 1);
                let mut cell = corrupt.to_vec();
                let mut patch = |site: Site, layer: usize, cache| {
                    let edit = Edit::patch(std::slice::from_ref(cache), site.at(layer)).unwrap();
                    let target = Target::new(site.at(layer)).at_positions(token);
                    cell.push(Intervention::new(target, edit));
                };
                (first..end).for_each(|l| patch(Site::AttnOut, l, &clean));
                (first + 1..4).for_each(|l| patch(Site::MlpOut, l, &output.caches[0]));
                // The MLP of the first restored layer comes after its attention.
                patch(Site::MlpOut, first, &output.caches[0]);
                let hooks = Interventions::new(&cell[..]);
                let full = model.run(&fact.prompt, hooks, &Run::default()).unwrap();
                let expected = answer.evaluate(0, full.logits.get(0)).unwrap();
                let found = trace.restored[[token, layer, sample]];
                assert_eq!(
                    found.to_bits(),
                    expected.to_bits(),
                    "{token} {layer} {sample}"
                );
            }
        }
    }
}

#[test]
fn restoring_all_gives_clean_bits_and_nothing_corrupted_bits() {
    let model = small_model();
    let tracing = CausalTracing::new(&model, SubjectCorruption::noise(0.5));
    let trace = tracing.trace(&small_fact()).unwrap();
    assert_eq!(trace.corrupted_samples.len(), 10);
    assert!(trace.total_effect.abs() > 1e-3, "{}", trace.total_effect);
    for sample in 0..10 {
        let first = trace.corrupted_samples[sample].to_bits();
        for layer in 0..4 {
            // The first token comes before the subject: no cell changes it, and all have the
            // same noise.
            assert_eq!(trace.restored[[0, layer, sample]].to_bits(), first);
        }
        let last = trace.restored[[6, 3, sample]];
        assert_eq!(
            last.to_bits(),
            trace.clean.to_bits(),
            "the last token's last state is all"
        );
    }
    // A subject at the end has no later token to carry the noise.
    let fact = TracedFact::new(Prompt::from([3, 9, 14, 2]), 3..4).unwrap();
    let trace = tracing.trace(&fact).unwrap();
    for layer in 0..4 {
        let effect = trace.indirect_effect.values()[[3, layer]];
        assert_eq!(effect.to_bits(), trace.total_effect.to_bits());
    }
}

#[test]
fn severing_freezes_what_reads_the_restored_state() {
    // With both frozen nothing else could change; one at a time they must matter.
    let (model, fact) = (small_model(), small_fact());
    let noise = SubjectCorruption::GivenNoise(small_noise(1));
    let plain = CausalTracing::new(&model, noise);
    let whole = plain.trace(&fact).unwrap();
    for severed in [Severed::Mlp, Severed::Attention] {
        let cut = plain.clone().severing(severed).trace(&fact).unwrap();
        assert_ne!(cut.restored[[2, 0, 0]], whole.restored[[2, 0, 0]]);
        // After the last layer nothing is left to freeze.
        assert_eq!(
            cut.restored[[2, 3, 0]].to_bits(),
            whole.restored[[2, 3, 0]].to_bits()
        );
    }
}

#[test]
fn noise_depends_on_the_seed_alone() {
    let (model, fact) = (small_model(), small_fact());
    let run = |seed| {
        let (std, samples) = (0.5, 4);
        let corruption = SubjectCorruption::Noise { std, seed, samples };
        CausalTracing::new(&model, corruption).trace(&fact).unwrap()
    };
    let (a, b, c) = (run(1), run(1), run(2));
    assert_eq!(a.restored, b.restored);
    assert_eq!(a.indirect_effect.about.seed, Some(1));
    for (i, own) in a.corrupted_samples.iter().enumerate() {
        let others = a
            .corrupted_samples
            .iter()
            .skip(i + 1)
            .chain(&c.corrupted_samples);
        assert!(
            others.into_iter().all(|other| other != own),
            "shared sample {i}"
        );
    }
    let none = CausalTracing::new(&model, SubjectCorruption::noise(0.0))
        .trace(&fact)
        .unwrap();
    assert_eq!(none.total_effect, 0.0);
    assert!(none.indirect_effect.values().iter().all(|v| *v == 0.0));
}

fn known(model: &Transformer, prompt: Prompt, subject: std::ops::Range<usize>) -> TracedFact {
    let logits = model.forward(&prompt).unwrap();
    let last = logits.row(logits.nrows() - 1);
    let best = (0..last.len())
        .max_by(|a, b| last[*a].total_cmp(&last[*b]))
        .unwrap();
    TracedFact::new(prompt, subject)
        .unwrap()
        .with_attribute(best as u32)
}

#[test]
fn averages_align_roles_and_tell_what_was_dropped() {
    let model = small_model();
    let mut facts = vec![
        known(&model, Prompt::from([3, 9, 14, 2, 9, 20, 6]), 1..4),
        known(&model, Prompt::from([5, 1, 8, 17, 4]), 0..1),
        known(&model, Prompt::from([2, 2, 7, 1, 15, 21, 12]), 0..4),
    ];
    let answer = facts[1].attribute.unwrap();
    facts.insert(1, facts[1].clone().with_attribute((answer + 1) % 23));
    let tracing = CausalTracing::new(&model, SubjectCorruption::noise(0.6));
    let set = tracing.trace_set(&facts).unwrap();
    let kept: Vec<usize> = set.kept.iter().map(|(i, _)| *i).collect();
    assert_eq!(kept, [0, 2, 3]);
    let [dropped] = &set.dropped[..] else {
        panic!("{:?}", set.dropped)
    };
    assert_eq!((dropped.index, dropped.answer), (1, answer));
    assert_eq!(set.average.about.counts["facts kept"], 3);
    assert_eq!(
        set.average.about.counts["facts dropped (clean model wrong)"],
        1
    );
    // By hand: which tokens of which kept fact belong to a class.
    let roles: [&[(usize, usize)]; 6] = [
        &[(0, 1), (1, 0), (2, 0)],
        &[(0, 2), (2, 1), (2, 2)],
        &[(0, 3), (1, 0), (2, 3)],
        &[(0, 4), (1, 1), (2, 4)],
        &[(0, 5), (1, 2), (1, 3), (2, 5)],
        &[(0, 6), (1, 4), (2, 6)],
    ];
    for (class, tokens) in roles.into_iter().enumerate() {
        assert_eq!(
            set.average.about.counts[&format!("tokens, {}", PositionClass::ALL[class])],
            tokens.len() as u64
        );
        for layer in 0..4 {
            let effect = |(f, t): &(usize, usize)| {
                f64::from(set.kept[*f].1.indirect_effect.values()[[*t, layer]])
            };
            let values: Vec<f64> = tokens.iter().map(effect).collect();
            let n = values.len() as f64;
            let mean = values.iter().sum::<f64>() / n;
            let found = f64::from(set.average.values()[[class, layer]]);
            assert!(
                (found - mean).abs() < 1e-7,
                "{class} {layer}: {found} {mean}"
            );
            let error = f64::from(set.average.std_error().unwrap()[[class, layer]]);
            if [0, 2, 3, 5].contains(&class) {
                // One token a fact: the usual standard error.
                let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 2.0;
                let expected = (variance / 3.0).sqrt();
                assert!(
                    (error - expected).abs() < 1e-7,
                    "{class} {layer}: {error} {expected}"
                );
            }
        }
    }
    let mean = set.kept.iter().map(|(_, t)| t.total_effect).sum::<f32>() / 3.0;
    assert!((set.total_effect - mean).abs() < 1e-6);
}

#[test]
fn a_cancelled_set_says_so() {
    let model = small_model();
    let facts = vec![known(&model, Prompt::from([3, 9, 14, 2, 9]), 1..3); 3];
    let tracing = CausalTracing::new(&model, SubjectCorruption::noise(0.6));
    let mut last = 0;
    let set = tracing.trace_set_observed(&facts, |progress| {
        last = progress.facts_done;
        assert_eq!(progress.facts, 3);
        if progress.facts_done == 2 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    let set = set.unwrap();
    assert_eq!(
        (last, set.kept.len()),
        (2, 3),
        "a break after a fact's last chunk loses nothing"
    );
    assert!(!set.partial);

    let mut small = tracing;
    small.memory_limit = 1;
    let all = loop {
        match small.trace_set(&facts) {
            Ok(all) => break all,
            // The error tells how much it takes: about one lane a chunk.
            Err(Error::Invalid { expected, .. }) => {
                let needed = expected.split(' ').next_back().unwrap().parse().unwrap();
                assert!(needed > small.memory_limit, "{expected}");
                small.memory_limit = needed;
            }
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(all.average, set.average);
    let cancelled = small.trace_set_observed(&facts, |progress| match progress.facts_done {
        0 => ControlFlow::Continue(()),
        _ => ControlFlow::Break(()),
    });
    let cancelled = cancelled.unwrap();
    assert!(cancelled.partial && cancelled.average.about.partial);
    assert_eq!(cancelled.kept.len(), 1, "the second fact was not finished");
}

#[test]
fn bad_input_is_named() {
    let (model, fact) = (small_model(), small_fact());
    let noise = || SubjectCorruption::noise(0.5);
    let tracing = |corruption| CausalTracing::new(&model, corruption);
    let error = |study: CausalTracing<'_>| study.trace(&fact).unwrap_err().to_string();
    let expect = |found: String, parts: &[&str]| {
        assert!(
            parts.iter().all(|part| found.contains(part)),
            "{found}: {parts:?}"
        );
    };
    expect(
        error(tracing(noise()).restoring(Restore::mlp(5))),
        &["window", "5", "1 to 4"],
    );
    expect(
        error(tracing(noise()).restoring(Restore::mlp(0))),
        &["window", "0"],
    );
    let heads = Restore {
        site: Site::Z,
        window: 1,
    };
    expect(
        error(tracing(noise()).restoring(heads)),
        &["hook_z", "d_model"],
    );
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
    let set = |facts: &[TracedFact]| tracing(noise()).trace_set(facts).unwrap_err().to_string();
    expect(
        set(std::slice::from_ref(&fact)),
        &["fact 0", "no attribute"],
    );
    let right = known(&model, fact.prompt.clone(), 1..3).attribute.unwrap();
    let wrong = fact.clone().with_attribute((right + 1) % 23);
    expect(set(&[wrong]), &["0 of 1"]);
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

#[test]
fn subjects_occur_once() {
    let tokenizer = mini();
    let fact =
        |text: &str, subject: &str| FactPrompt::new(&tokenizer, text, subject, " tennis", "");
    let found = fact("Ada Brown plays the sport of", "Ada Brown").unwrap();
    assert_eq!(found.subject, 0..2);
    for (text, subject, part) in [
        (
            "Ada Brown plays the sport of",
            "Leo Brown",
            "no such subject",
        ),
        (
            "Ada Brown plays the sport of Ada Brown",
            "Ada Brown",
            "twice",
        ),
        ("Ada Brown plays the sport of", "", "no such subject"),
    ] {
        let error = fact(text, subject).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn facts_come_from_a_file() {
    let tokenizer = mini();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("facts.json");
    let text = r#"[
        {"known_id": 0, "subject": "Ada Brown", "attribute": "tennis", "relation_id": "P1",
         "template": "{} plays the sport of", "prompt": "Ada Brown plays the sport of"},
        {"subject": "Ada", "attribute": "tennis", "prompt": "Ada likes Ada"},
        {"subject": "Leo White", "attribute": "ice tennis", "prompt": "Leo White likes"},
        {"subject": "Leo White", "attribute": " golf", "prompt": "The sport that Leo White plays is "}
    ]"#;
    std::fs::write(&path, text).unwrap();
    let known = KnownFacts::open(&path, &tokenizer, false).unwrap();
    let subjects: Vec<_> = known.facts.iter().map(|f| f.subject.clone()).collect();
    assert_eq!(subjects, [0..2, 3..5]);
    assert_eq!(known.facts[0].relation, "P1");
    assert_eq!(known.facts[1].attribute_text, " golf");
    let skipped: Vec<usize> = known.skipped.iter().map(|s| s.index).collect();
    assert_eq!(skipped, [1, 2]);
    assert!(
        known.skipped[0].reason.contains("twice"),
        "{}",
        known.skipped[0].reason
    );
    let with_bos = KnownFacts::open(&path, &tokenizer, true).unwrap();
    assert_eq!(with_bos.facts[0].subject, 1..3);
    for bad in [
        "[]",
        "{}",
        r#"[{"prompt": "Ada"}]"#,
        "[",
        &text.replace("Brown", "Zzz")[..60],
    ] {
        std::fs::write(&path, bad).unwrap();
        let error = KnownFacts::open(&path, &tokenizer, false)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("facts.json") && error.contains("expected"),
            "{error}"
        );
    }
}
