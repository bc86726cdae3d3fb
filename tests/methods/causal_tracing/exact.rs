//! What must hold to the bit.

use patchlens::metric::probability;
use patchlens::tracing::{CausalTracing, Restore, Severed, SubjectCorruption, TracedFact};
use patchlens::{Edit, Intervention, Interventions, Prompt, Run, Selection, Site, Target};

use super::{noise_at_embed, small_fact, small_model, small_noise};

#[test]
fn every_cell_has_the_bits_of_a_full_run() {
    let (model, fact) = (small_model(), small_fact());
    let everything = Selection::everything(model.config());
    let (_, clean) = model.run_with_cache(&fact.prompt, &everything).unwrap();
    let noise = small_noise(2);
    let tracing = CausalTracing::new(&model, SubjectCorruption::GivenNoise(noise.clone()));
    let restore = Restore::attention(2).severing(Severed::Mlp);
    let trace = tracing.trace(&fact, restore).unwrap();
    let answer = probability(&trace.answer);
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
    let trace = tracing.trace(&small_fact(), Restore::states()).unwrap();
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
    let trace = tracing.trace(&fact, Restore::states()).unwrap();
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
    let whole = plain.trace(&fact, Restore::states()).unwrap();
    for severed in [Severed::Mlp, Severed::Attention] {
        let cut = Restore::states().severing(severed);
        let cut = plain.trace(&fact, cut).unwrap();
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
        let tracing = CausalTracing::new(&model, corruption);
        tracing.trace(&fact, Restore::states()).unwrap()
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
        .trace(&fact, Restore::states())
        .unwrap();
    assert_eq!(none.total_effect, 0.0);
    assert!(none.indirect_effect.values().iter().all(|v| *v == 0.0));
}
