//! Activation patching against TransformerLens's `patching.py`, every sweep of it.

mod subspace;

use crate::common::Comparison;
use ndarray::{ArrayD, Axis};
use patchlens::metric::{kl_divergence, log_probability, probability, rank};
use patchlens::patching::ActivationPatching;
use patchlens::report::Direction;
use patchlens::{
    Grid, Labelled, Metric, Prompt, Prompts, Site, Tokenizer, Transformer, activation_patching,
    logit_diff,
};

/// TransformerLens's function, our grid, and the axis of positions that TL orders differently.
const SWEEPS: [(&str, Grid); 18] = [
    ("get_act_patch_resid_pre", Grid::Positions(Site::ResidPre)),
    ("get_act_patch_resid_mid", Grid::Positions(Site::ResidMid)),
    ("get_act_patch_attn_out", Grid::Positions(Site::AttnOut)),
    ("get_act_patch_mlp_out", Grid::Positions(Site::MlpOut)),
    (
        "get_act_patch_attn_head_out_by_pos",
        Grid::HeadPositions(Site::Z),
    ),
    (
        "get_act_patch_attn_head_q_by_pos",
        Grid::HeadPositions(Site::Q),
    ),
    (
        "get_act_patch_attn_head_k_by_pos",
        Grid::HeadPositions(Site::K),
    ),
    (
        "get_act_patch_attn_head_v_by_pos",
        Grid::HeadPositions(Site::V),
    ),
    ("get_act_patch_attn_head_pattern_by_pos", Grid::PatternDest),
    (
        "get_act_patch_attn_head_pattern_dest_src_pos",
        Grid::PatternEntries,
    ),
    ("get_act_patch_attn_head_out_all_pos", Grid::Heads(Site::Z)),
    ("get_act_patch_attn_head_q_all_pos", Grid::Heads(Site::Q)),
    ("get_act_patch_attn_head_k_all_pos", Grid::Heads(Site::K)),
    ("get_act_patch_attn_head_v_all_pos", Grid::Heads(Site::V)),
    (
        "get_act_patch_attn_head_pattern_all_pos",
        Grid::Heads(Site::Pattern),
    ),
    ("get_act_patch_block_every", Grid::EveryBlock),
    ("get_act_patch_attn_head_all_pos_every", Grid::EveryHead),
    (
        "get_act_patch_attn_head_by_pos_every",
        Grid::EveryHeadPosition,
    ),
];

struct Case {
    clean: Prompts,
    corrupted: Prompts,
    metric: Metric,
}

fn case(name: &str) -> Case {
    let metadata = crate::common::metadata(name);
    let prompts = |key: &str| {
        let pairs = metadata["pairs"].as_array().unwrap();
        Prompts::new(pairs.iter().map(|pair| crate::common::tokens(&pair[key]))).unwrap()
    };
    let tokens = crate::common::tokens(&metadata["metric_tokens"]);
    Case {
        clean: prompts("clean"),
        corrupted: prompts("corrupted"),
        metric: logit_diff(tokens[0], tokens[1]),
    }
}

#[test]
fn every_sweep_equals_transformer_lens() {
    for name in crate::common::MODELS {
        let model = crate::common::open(name);
        let reference = crate::common::tensors(name, "reference.safetensors");
        let case = case(name);
        let mut comparison = Comparison::new(1e-5);
        for (direction, key) in [
            (Direction::Denoising, "patching"),
            (Direction::Noising, "noising"),
        ] {
            let study = ActivationPatching::new(&model, &case.clean, &case.corrupted).unwrap();
            let study = study.direction(direction);
            for (function, grid) in SWEEPS {
                let found = study.run(grid, &case.metric).unwrap();
                for pair in 0..2 {
                    let key = format!("pair{pair}/{key}/{function}");
                    let dims = found.values.ndim();
                    let values = found.values.index_axis(Axis(dims - 1), pair);
                    comparison.add(&key, values, reference[&key].view());
                }
                let key = format!("mean/{key}/{function}");
                comparison.add(&key, found.raw().values(), reference[&key].view());
                let baseline = |values: &ndarray::Array1<f32>| values.to_owned().into_dyn();
                let golden = |run: &str| {
                    let of = |i: usize| reference[&format!("pair{i}/{run}_metric")].sum();
                    ndarray::arr1(&[of(0), of(1)]).into_dyn()
                };
                comparison.add(
                    "clean",
                    baseline(&found.clean).view(),
                    golden("clean").view(),
                );
                comparison.add(
                    "corrupted",
                    baseline(&found.corrupted).view(),
                    golden("corrupted").view(),
                );
            }
        }
        comparison.finish(name);
    }
}

/// Every function of TL's module is compared: none is left out.
#[test]
fn the_table_names_every_function() {
    let metadata = crate::common::metadata("tiny-gelu-new");
    let mut golden: Vec<&str> = metadata["patching_functions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|f| f.as_str().unwrap())
        .collect();
    let mut ours: Vec<&str> = SWEEPS.iter().map(|(name, _)| *name).collect();
    golden.sort_unstable();
    ours.sort_unstable();
    assert_eq!(ours, golden);
}

#[test]
fn normalising_is_explicit_and_maps_the_baselines_to_0_and_1() {
    let model = crate::common::open("tiny-gelu-new");
    let case = case("tiny-gelu-new");
    let study = ActivationPatching::new(&model, &case.clean, &case.corrupted).unwrap();
    for direction in [Direction::Denoising, Direction::Noising] {
        let study = study.clone().direction(direction);
        let found = study
            .run(Grid::Positions(Site::ResidPre), &case.metric)
            .unwrap();
        let (clean, corrupted) = (found.clean.mean().unwrap(), found.corrupted.mean().unwrap());
        let base = match direction {
            Direction::Denoising => corrupted,
            Direction::Noising => clean,
        };
        let raw = found.raw().values();
        let expected: ArrayD<f32> = raw.mapv(|m| (m - base) / (clean - corrupted));
        // Of the raw values, to the bit.
        assert_eq!(found.raw().normalized().unwrap().values(), expected);
        let normalized = found.normalized().unwrap();
        assert!(crate::common::difference(normalized.values(), expected.view()) < 1e-6);
        assert!(expected.iter().any(|v| v.abs() > 0.5));
    }
}

/// The ordinary result is the change from the run that is patched, in values, ranking and files.
#[test]
fn f12_what_is_ranked_is_the_change_from_the_base() {
    let model = crate::common::open("tiny-gelu-new");
    let case = case("tiny-gelu-new");
    let study = ActivationPatching::new(&model, &case.clean, &case.corrupted).unwrap();
    for (direction, name) in [
        (Direction::Denoising, "corrupted run"),
        (Direction::Noising, "clean run"),
    ] {
        let study = study.clone().direction(direction);
        let found = study.run(Grid::Heads(Site::Z), &case.metric).unwrap();
        let base = match direction {
            Direction::Denoising => &found.corrupted,
            Direction::Noising => &found.clean,
        };
        for (cell, effect) in found.effect.values().indexed_iter() {
            let index: Vec<usize> = (0..2).map(|axis| cell[axis]).collect();
            let of = |array: &ArrayD<f32>| [0, 1].map(|pair| array[[index[0], index[1], pair]]);
            let (values, changes) = (of(&found.values), of(&found.per_prompt));
            // Raw bits: the change and the base are the patched run's metric.
            let by_hand = [values[0] - base[0], values[1] - base[1]];
            assert_eq!(changes, by_hand);
            let (mean, half) = (
                (changes[0] + changes[1]) / 2.0,
                (changes[0] - changes[1]) / 2.0,
            );
            assert!((effect - mean).abs() <= 1e-6 * mean.abs());
            let error = found.effect.std_error().unwrap()[cell.clone()];
            assert!((error - half.abs()).abs() <= 1e-6);
            let raw = found.raw().values()[cell];
            assert_eq!(raw, (values[0] + values[1]) / 2.0);
        }
        let about = &found.effect.about;
        assert!(
            about.title.ends_with(&format!("against the {name}")),
            "{}",
            about.title
        );
        let top = found.effect.top(1);
        assert_eq!(top.unit, "change of the logit difference");
        let largest = found
            .effect
            .values()
            .iter()
            .fold(0.0_f32, |a, v| a.max(v.abs()));
        assert_eq!(top.cells[0].value.abs(), largest);
        // What ranks raw values says so.
        assert_eq!(found.raw().top(1).unit, "logit difference");
        assert!(found.raw().about.title.ends_with("raw logit difference"));
        let csv = found.effect.to_csv().unwrap();
        assert!(
            csv.contains(&format!("{}", found.effect.values()[[0, 0]])),
            "{csv}"
        );
    }
    // A run patched with itself: zeros, not the baseline, and a word on it.
    let same = activation_patching(
        &model,
        &case.clean,
        &case.clean,
        Grid::Heads(Site::Z),
        &case.metric,
    );
    let same = same.unwrap();
    assert!(same.effect.values().iter().all(|v| *v == 0.0));
    assert!(same.effect.about.caption.contains("Nothing changed"));
    assert_eq!(same.plan.lanes, 0);
}

#[test]
fn every_metric_runs_and_agrees_with_its_definition() {
    let model = crate::common::open("tiny-gelu");
    let case = case("tiny-gelu");
    let run = |prompts: &Prompts| -> Vec<Vec<f64>> {
        let softmax = |prompt: &Prompt| {
            let logits = model.forward(prompt).unwrap();
            let last = logits.row(logits.nrows() - 1).mapv(f64::from);
            let total: f64 = last.iter().map(|v| v.exp()).sum();
            last.iter().map(|v| v.exp() / total).collect()
        };
        prompts.iter().map(softmax).collect()
    };
    let (clean, corrupted) = (run(&case.clean), run(&case.corrupted));
    let kl = |p: &[f64], q: &[f64]| p.iter().zip(q).map(|(p, q)| p * (p / q).ln()).sum::<f64>();
    let above = |p: &[f64], t: usize| p.iter().filter(|v| **v > p[t]).count() as f64;
    let expected = [
        (
            probability(&[7]),
            corrupted.iter().map(|p| p[7]).collect::<Vec<_>>(),
        ),
        (
            log_probability(&[7]),
            corrupted.iter().map(|p| p[7].ln()).collect(),
        ),
        (rank(&[7]), corrupted.iter().map(|p| above(p, 7)).collect()),
        (
            kl_divergence(),
            clean
                .iter()
                .zip(&corrupted)
                .map(|(p, q)| kl(p, q))
                .collect(),
        ),
    ];
    for (metric, expected) in expected {
        let grid = Grid::Heads(Site::Z);
        let found =
            activation_patching(&model, &case.clean, &case.corrupted, grid, &metric).unwrap();
        for (found, expected) in found.corrupted.iter().zip(expected) {
            let close = (f64::from(*found) - expected).abs() <= 1e-5 * expected.abs().max(0.1);
            assert!(close, "{}: {found} and {expected}", metric.name());
        }
    }
}

/// On the shipped model logit differences are about ±17: a probability hardly moves whatever head
/// is patched, and the result says why; so do baselines that are as good as the same.
#[test]
fn n12_a_result_without_room_says_so() {
    let (model, tokenizer) = (Transformer::mini(), Tokenizer::mini());
    let prompt = |giver: &str| {
        let text = format!("When Mary and John went to the store, {giver} gave a drink to");
        tokenizer.encode(&text).unwrap()
    };
    let (clean, corrupted) = (prompt("John"), prompt("Mary"));
    let [mary, john] = [" Mary", " John"].map(|name| tokenizer.token(name).unwrap());
    let heads = Grid::Heads(Site::Z);
    let run = |corrupted: &Prompt, metric: &Metric| {
        activation_patching(&model, &clean, corrupted, heads, metric).unwrap()
    };

    let found = run(&corrupted, &probability(&[mary]));
    let largest = found
        .effect
        .values()
        .fold(0.0_f32, |max, v| max.max(v.abs()));
    assert!(largest < 1e-4, "{largest}");
    let note = "the probability of the corrupted run lies within 0.0001 of an end of its scale, \
                where changes of the logits hardly show; a logit difference or a log-probability \
                shows them";
    for of in [&found.effect, found.raw(), &found.normalized().unwrap()] {
        assert_eq!(of.about.notes, [note]);
        let words: Vec<String> = [of.to_string(), format!("note: {note}")]
            .map(|text| text.split_whitespace().collect::<Vec<_>>().join(" "))
            .into();
        assert!(words[0].contains(&words[1]), "{}", words[0]);
        let again: Labelled = serde_json::from_str(&of.to_json().unwrap()).unwrap();
        assert_eq!(again.about, of.about);
    }

    for metric in [logit_diff(mary, john), log_probability(&[mary])] {
        assert!(run(&corrupted, &metric).effect.about.notes.is_empty());
        let same = run(&clean, &metric).effect.about.notes;
        assert!(same[0].contains("leaves no room for an effect"), "{same:?}");
    }
}
