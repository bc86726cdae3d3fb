//! Direct logit attribution against TransformerLens, and its sums.

use crate::common::Comparison;
use ndarray::{Array2, Array3, Axis};
use patchlens::attribution::{
    Decomposition, DirectLogitAttribution, LogitAttribution, Part, direct_logit_attribution,
};
use patchlens::intervention::Values;
use patchlens::metric::{Reduce, log_probability, logit, logit_diff_sets, logit_diffs, logit_sums};
use patchlens::{
    Component, Edit, Head, HookPoint, Intervention, Interventions, Labelled, Metric, Prompt, Run,
    Selection, Site, Target, Transformer, logit_diff,
};

mod studies;

const BOUND: f32 = 1e-5;

/// The two tokens of a golden model's metric.
fn answer_tokens(name: &str) -> (u32, u32) {
    let metadata = crate::common::metadata(name);
    let tokens = crate::common::tokens(&metadata["metric_tokens"]);
    (tokens[0], tokens[1])
}

/// A golden model with its first prompt and metric.
fn open(name: &str) -> (Transformer, Prompt, Metric) {
    let metadata = crate::common::metadata(name);
    let tokens = answer_tokens(name);
    let prompt = Prompt::from(crate::common::tokens(&metadata["prompts"][0]));
    (
        crate::common::open(name),
        prompt,
        logit_diff(tokens.0, tokens.1),
    )
}

/// TransformerLens's label of a row.
fn peer_label(part: Part) -> String {
    match part {
        Part::One(Component::Head(Head { layer, head })) => format!("L{layer}H{head}"),
        Part::One(Component::Attention(layer)) => format!("{layer}_attn_out"),
        Part::One(Component::AttentionBias(layer)) => format!("{layer}_b_O"),
        Part::One(Component::Mlp(layer)) => format!("{layer}_mlp_out"),
        Part::One(Component::Neurons(layer)) => format!("{layer}_neurons"),
        Part::One(Component::MlpBias(layer)) => format!("{layer}_b_out"),
        Part::AttentionBiases => "bias".to_string(),
        same => same.to_string(),
    }
}

fn row_sums(of: &Labelled) -> Vec<f32> {
    of.values().sum_axis(Axis(0)).iter().copied().collect()
}

#[test]
fn decompositions_equal_transformer_lens() {
    for name in crate::common::MODELS {
        let metadata = crate::common::metadata(name);
        let golden = crate::common::tensors(name, "analysis.safetensors");
        let labels = &metadata["analysis"]["labels"];
        let (model, _, metric) = open(name);
        let token = logit(&[answer_tokens(name).0]);
        let mut comparison = Comparison::new(BOUND);
        for i in 0..2 {
            let prompt = Prompt::from(crate::common::tokens(&metadata["prompts"][i]));
            let cases = [
                (
                    Decomposition::Components,
                    "components",
                    "dla_components",
                    &metric,
                ),
                (Decomposition::Heads, "heads", "dla_heads", &metric),
                (Decomposition::Full, "full", "dla_full", &metric),
                (Decomposition::Layers, "layers", "dla_layers", &metric),
                (Decomposition::Writers, "writers", "dla_writers", &metric),
                (Decomposition::Components, "token", "dla_components", &token),
            ];
            for (by, key, label, metric) in cases {
                let attribution = DirectLogitAttribution::new(&model, &prompt, metric).unwrap();
                let found = attribution.decompose(by).unwrap();
                let names = labels[label].as_array().unwrap();
                let parts = names.len();
                let rows = by.parts(model.config());
                let peer: Vec<String> = rows[..parts].iter().map(|p| peer_label(*p)).collect();
                assert_eq!(&peer, names);
                let own: Vec<String> = rows.iter().map(ToString::to_string).collect();
                assert_eq!(found.axes()[0].labels, own);
                assert_eq!(found.axes()[0].labels[parts..], ["ln_final.bias", "b_U"]);
                let key = format!("p{i}/dla/{key}");
                let rows: Vec<usize> = (0..parts).collect();
                let values = found.values().select(Axis(0), &rows);
                comparison.add(&key, values.view(), golden[&key].view());
                if key.ends_with("/token") {
                    continue;
                }
                let constants = found.values().select(Axis(0), &[parts, parts + 1]);
                let constant = constants.sum_axis(Axis(0))[0];
                let expected = golden["dla/constant"].iter().next().unwrap();
                assert!(
                    (constant - expected).abs() < 1e-5,
                    "{constant}, expected {expected}"
                );
            }
        }
        comparison.finish(name);
    }
}

#[test]
fn every_decomposition_sums_to_the_true_logit_difference() {
    for name in crate::common::MODELS {
        let (model, prompt, metric) = open(name);
        let logits = model.forward(&prompt).unwrap();
        let (a, b) = answer_tokens(name);
        let attribution = DirectLogitAttribution::new(&model, &prompt, &metric).unwrap();
        let truth: Vec<f32> = logits
            .rows()
            .into_iter()
            .map(|r| r[a as usize] - r[b as usize])
            .collect();
        assert_eq!(attribution.truth().to_vec(), truth);
        for by in [
            Decomposition::Layers,
            Decomposition::Components,
            Decomposition::Heads,
            Decomposition::Full,
            Decomposition::Writers,
        ] {
            let sums = row_sums(&attribution.decompose(by).unwrap());
            for (sum, truth) in sums.iter().zip(&truth) {
                assert!(
                    (sum - truth).abs() < 1e-5,
                    "{name} {by:?}: {sum}, truth {truth}"
                );
            }
        }
        for (position, truth) in truth.iter().enumerate() {
            for k in [0, 3, 10_000] {
                let sum = attribution.neurons(position, k).unwrap().values().sum();
                assert!(
                    (sum - truth).abs() < 1e-5,
                    "{name}, {k} neurons: {sum}, truth {truth}"
                );
            }
        }
    }
}

#[test]
fn sources_sum_to_their_heads_and_lie_before_the_position() {
    for name in crate::common::MODELS {
        let (model, prompt, metric) = open(name);
        let attribution = DirectLogitAttribution::new(&model, &prompt, &metric).unwrap();
        let heads = attribution.decompose(Decomposition::Heads).unwrap();
        for position in 0..prompt.len() {
            let sources = attribution.head_sources(position).unwrap();
            for (head, row) in sources.values().outer_iter().enumerate() {
                let expected = heads.values()[[head, position]];
                assert!((row.sum() - expected).abs() < 1e-6);
                assert!(row.iter().skip(position + 1).all(|v| *v == 0.0));
            }
        }
        // One entry by hand: the pattern's entry times the value's path to the logits.
        let everything = Selection::everything(model.config());
        let (_, cache) = model.run_with_cache(&prompt, &everything).unwrap();
        let (layer, head, dest, src) = (1, 1, 3, 2);
        let v = cache.get(Site::V.at(layer)).unwrap();
        let v = v
            .index_axis(Axis(0), src)
            .index_axis_move(Axis(0), head)
            .to_owned();
        let v = v
            .into_shape_with_order((1, model.config().d_head()))
            .unwrap();
        let weight = cache.get(Site::Pattern.at(layer)).unwrap()[[head, dest, src]];
        let out = v.dot(&model.w_o(Head::new(layer, head)).unwrap()) * weight;
        let mut vectors = Array3::zeros((1, prompt.len(), model.config().d_model));
        vectors
            .index_axis_mut(Axis(0), 0)
            .row_mut(dest)
            .assign(&out.row(0));
        let by_hand = attribution
            .attribute(&["entry".to_string()], vectors.view())
            .unwrap();
        let found = attribution.head_sources(dest).unwrap();
        let found = found.values()[[layer * model.config().n_heads + head, src]];
        assert!((found - by_hand.values()[[0, dest]]).abs() < 1e-6 && found != 0.0);
    }
}

#[test]
fn the_best_neurons_are_those_of_the_full_list() {
    let (model, prompt, metric) = open("tiny-gelu");
    let attribution = DirectLogitAttribution::new(&model, &prompt, &metric).unwrap();
    let (_, cache) = model
        .run_with_cache(&prompt, &Selection::everything(model.config()))
        .unwrap();
    let position = 4;
    let mut all = Vec::new();
    for layer in 0..model.config().n_layers {
        let post = cache.get(Site::MlpPost.at(layer)).unwrap();
        let out = &model.parameters().h[layer].mlp.c_proj.weight;
        let mut vectors = Array3::zeros((out.nrows(), prompt.len(), out.ncols()));
        for (neuron, mut vector) in vectors.outer_iter_mut().enumerate() {
            vector
                .row_mut(position)
                .assign(&(&out.row(neuron) * post[[position, neuron]]));
        }
        let names: Vec<String> = (0..out.nrows())
            .map(|n| format!("mlp{layer}.{n}"))
            .collect();
        let found = attribution.attribute(&names, vectors.view()).unwrap();
        all.extend(
            names
                .into_iter()
                .zip(found.values().outer_iter().map(|r| r[position])),
        );
    }
    all.sort_by(|(_, a), (_, b)| b.abs().total_cmp(&a.abs()));
    let found = attribution.neurons(position, 5).unwrap();
    for (i, (name, value)) in all.iter().take(5).enumerate() {
        assert_eq!(&found.axes()[0].labels[i], name);
        assert!((found.values()[i] - value).abs() < 1e-6);
    }
    let others: f32 = all.iter().skip(5).map(|(_, v)| v).sum();
    assert!((found.values()[5] - others).abs() < 1e-5);
}

#[test]
fn the_accumulated_stream_grows_by_its_components() {
    let (model, prompt, metric) = open("tiny-relu");
    let attribution = DirectLogitAttribution::new(&model, &prompt, &metric).unwrap();
    let accumulated = attribution.accumulated().unwrap();
    let names = ["0_pre", "0_mid", "1_pre", "1_mid", "final_post"];
    assert_eq!(accumulated.axes()[0].labels, names);
    let parts = attribution.decompose(Decomposition::Components).unwrap();
    for position in 0..prompt.len() {
        let part = |i: usize| parts.values()[[i, position]];
        let mut sum = part(0) + part(1);
        for row in 0..5 {
            assert!((accumulated.values()[[row, position]] - sum).abs() < 1e-5);
            sum += part(row + 2);
        }
    }
}

#[test]
fn interventions_on_parts_keep_the_sum_and_those_on_the_sum_are_told() {
    let (model, prompt, metric) = open("tiny-gelu-new");
    let selection = DirectLogitAttribution::selection(&model);
    let attribute = |intervention: Intervention| {
        let run = Run {
            cache: Some(&selection),
            ..Run::default()
        };
        let output = model
            .run(&prompt, Interventions::new(vec![intervention]), &run)
            .unwrap();
        let cache = output.caches[0].clone();
        let labels = prompt.labels.clone();
        DirectLogitAttribution::from_cache(&model, cache, labels, &metric).unwrap()
    };
    let zero_head = Target::new(Site::Z.at(1)).at_heads(2);
    let ablated = attribute(Intervention::new(zero_head, Edit::Zero));
    let full = ablated.decompose(Decomposition::Full).unwrap();
    let rows = Decomposition::Full.parts(model.config());
    let cut = |part: &Part| part.head() == Some(Head::new(1, 2));
    let row = rows.iter().position(cut).unwrap();
    assert!(
        full.values()
            .index_axis(Axis(0), row)
            .iter()
            .all(|v| *v == 0.0)
    );

    let sum = ndarray::Array1::range(0.0, 24.0, 1.0);
    let edits = [
        (Site::ResidPre.at(1), Edit::Add(Values::array(sum))),
        (HookPoint::LnFinalNormalized, Edit::Scale(2.0)),
        (HookPoint::Logits, Edit::Scale(2.0)),
    ];
    for (point, edit) in edits {
        let steered = attribute(Intervention::new(point, edit));
        let message = steered
            .decompose(Decomposition::Components)
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("sum of components at position 0"),
            "{point}: {message}"
        );
        let message = steered.neurons(3, 2).unwrap_err().to_string();
        assert!(message.contains("sum of neurons"), "{point}: {message}");
    }
    // The pattern as shown is not what made z.
    let patched = attribute(Intervention::new(Site::Z.at(0), Edit::Scale(3.0)));
    assert!(patched.decompose(Decomposition::Heads).is_ok());
    let message = patched.head_sources(2).unwrap_err().to_string();
    assert!(message.contains("sources of 0.0"), "{message}");
}

#[test]
fn averages_over_prompts_are_those_of_the_prompts() {
    let (model, _, _) = open("tiny-gelu");
    let metadata = crate::common::metadata("tiny-gelu");
    let prompts: Vec<Prompt> = (0..2)
        .map(|i| crate::common::tokens(&metadata["prompts"][i]).into())
        .collect();
    let pairs = [answer_tokens("tiny-gelu"), (5, 6)];
    let by = Decomposition::Full;
    let mean = direct_logit_attribution(&model, &prompts, by, &logit_diffs(&pairs)).unwrap();
    let each: Vec<Array2<f32>> = prompts
        .iter()
        .zip(pairs)
        .map(|(prompt, (a, b))| {
            let one = DirectLogitAttribution::new(&model, prompt, &logit_diff(a, b)).unwrap();
            one.decompose(by)
                .unwrap()
                .values()
                .to_owned()
                .into_dimensionality()
                .unwrap()
        })
        .collect();
    for (i, value) in mean.values().iter().enumerate() {
        let [a, b] = [0, 1].map(|p| each[p][[i, prompts[p].len() - 1]]);
        assert!((value - (a + b) / 2.0).abs() < 1e-6);
        let error = mean.std_error().unwrap()[i];
        assert!((error - (a - b).abs() / 2.0).abs() < 1e-6);
    }
    let truth = mean.about.baselines["logit difference at the last position"];
    assert!((mean.values().sum() - truth).abs() < 1e-5);
}
