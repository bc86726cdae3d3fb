//! Knock-outs and circuit scores against goldens, and the identities that must hold to the bit.

use crate::common::Comparison;
use ndarray::{Array1, Array3, arr1};
use patchlens::ablation::{Ablation, Circuit, CircuitNode, Each, Replacement};
use patchlens::{Component, Metric, Prompt, Prompts, Run, Transformer, logit_diff};
use serde_json::Value;

const MODELS: [&str; 2] = ["tiny-gelu-new", "tiny-gelu"];
const BOUND: f32 = 1e-5;

fn described(model: &str) -> Value {
    let text = std::fs::read_to_string(crate::common::dir(model).join("tracing.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn prompts(list: &Value) -> Vec<Prompt> {
    let list = list.as_array().unwrap().iter();
    list.map(|tokens| Prompt::from(crate::common::tokens(tokens)))
        .collect()
}

fn numbers(list: &Value) -> Vec<usize> {
    crate::common::tokens(list)
        .into_iter()
        .map(|n| n as usize)
        .collect()
}

fn nodes(list: &Value) -> Vec<CircuitNode> {
    let node = |node: &Value| {
        let layer = node[0].as_u64().unwrap() as usize;
        let own = match node[1].as_u64() {
            Some(head) => CircuitNode::head(layer, head as usize),
            None => CircuitNode::mlp(layer),
        };
        match node[2].as_str() {
            Some(class) => own.at(class),
            None => own,
        }
    };
    list.as_array().unwrap().iter().map(node).collect()
}

fn metric(described: &Value) -> Metric {
    let tokens = crate::common::tokens(&described["metric_tokens"]);
    logit_diff(tokens[0], tokens[1])
}

/// The goldens' study by a method.
fn study<'m>(model: &'m Transformer, method: &str, described: &Value) -> Ablation<'m> {
    let study = &described["knock_out"];
    let (own, other) = (
        prompts(&study["prompts"]),
        prompts(&study["counterfactual"]),
    );
    let replacement = match method {
        "zero" => Replacement::Zero,
        "mean" => Replacement::TemplateMean {
            templates: numbers(&study["templates"]),
            counterfactual: Prompts::new(&other).unwrap(),
            counterfactual_templates: numbers(&study["counterfactual_templates"]),
        },
        _ => {
            let from = numbers(&study["resampled_from"]);
            let donors: Vec<Prompt> = from.into_iter().map(|i| other[i].clone()).collect();
            Replacement::resample(&donors).unwrap()
        }
    };
    let mut ablation = Ablation::new(model, &own, replacement).unwrap();
    for (name, lists) in study["classes"].as_object().unwrap() {
        let positions = lists.as_array().unwrap().iter().map(numbers).collect();
        ablation = ablation.with_class(name, positions).unwrap();
    }
    ablation
}

#[test]
fn knock_outs_equal_the_goldens() {
    for name in MODELS {
        let (model, described) = (crate::common::open(name), described(name));
        let golden = crate::common::tensors(name, "tracing.safetensors");
        let sets: Vec<_> = described["sets"]
            .as_array()
            .unwrap()
            .iter()
            .map(nodes)
            .collect();
        let mut comparison = Comparison::new(BOUND);
        for method in ["zero", "mean", "resample"] {
            let ablation = study(&model, method, &described);
            let found = ablation.run(Each::Set(&sets), &metric(&described)).unwrap();
            let expected = &golden[&format!("knock_out/{method}")];
            comparison.add(method, found.values.view(), expected.view());
            let means = expected.mean_axis(ndarray::Axis(1)).unwrap();
            comparison.add(method, found.raw().values(), means.view());
            assert_eq!(found.effect.axes()[0].labels[1], "1.0@end");
        }
        comparison.finish(name);
    }
}

#[test]
fn circuit_scores_equal_the_goldens() {
    for name in MODELS {
        let (model, described) = (crate::common::open(name), described(name));
        let golden = crate::common::tensors(name, "tracing.safetensors");
        let metric = metric(&described);
        let circuit = Circuit::new(nodes(&described["circuit"])).unwrap();
        let subsets: Vec<_> = described["subsets"]
            .as_array()
            .unwrap()
            .iter()
            .map(numbers)
            .collect();
        let ablation = study(&model, "mean", &described);
        let mut comparison = Comparison::new(BOUND);
        let mut add = |key: &str, found: Vec<f32>, expected: f32| {
            comparison.add(
                key,
                arr1(&found).view().into_dyn(),
                arr1(&[expected]).view().into_dyn(),
            );
        };
        let mean = |key: &str| golden[key].mean().unwrap();
        let scores = ablation.faithfulness(&circuit, &metric).unwrap();
        add("mean", vec![scores.circuit.mean], mean("circuit/mean"));
        add("empty", vec![scores.empty.mean], mean("circuit/empty"));
        let with_mlps = ablation.clone().with_mlps();
        let scores = with_mlps.faithfulness(&circuit, &metric).unwrap();
        add(
            "mlps",
            vec![scores.circuit.mean],
            mean("circuit/mean_with_mlps"),
        );
        assert_eq!(scores.gap(), (scores.full.mean - scores.circuit.mean).abs());

        let found = ablation.completeness(&circuit, &subsets, &metric).unwrap();
        let array = |values: &[f32]| Array1::from(values.to_vec()).into_dyn();
        for (key, values) in [
            ("full_without", &found.full),
            ("circuit_without", &found.circuit),
        ] {
            comparison.add(
                key,
                array(values).view(),
                golden[&format!("circuit/{key}")].view(),
            );
        }
        // K = C leaves nothing of the circuit.
        assert_eq!(
            found.circuit[3].to_bits(),
            ablation
                .faithfulness(&circuit, &metric)
                .unwrap()
                .empty
                .mean
                .to_bits()
        );

        let expected = golden["circuit/minimality"].clone();
        let expected: Array3<f32> = expected.into_dimensionality().unwrap();
        let found = ablation.minimality(&circuit, &subsets, &metric).unwrap();
        assert_eq!(found.nodes.len(), circuit.nodes().len());
        for (v, node) in found.nodes.iter().enumerate() {
            let pairs = expected.index_axis(ndarray::Axis(0), v);
            let score = |k: usize| (pairs[[k, 0]] - pairs[[k, 1]]).abs();
            let best = (0..pairs.nrows()).map(score).fold(0.0, f32::max);
            assert!(
                (node.score() - best).abs() < 1e-5,
                "node {v}: {} {best}",
                node.score()
            );
            assert!(!node.subset.contains(&v));
        }
        comparison.finish(name);
    }
}

#[test]
fn the_whole_model_as_circuit_is_the_clean_run() {
    let (model, described) = (crate::common::open("tiny-gelu"), described("tiny-gelu"));
    let metric = metric(&described);
    for method in ["zero", "mean", "resample"] {
        for mlps in [false, true] {
            let mut ablation = study(&model, method, &described);
            if mlps {
                ablation = ablation.with_mlps();
            }
            let full = Circuit::full(model.config(), mlps).unwrap();
            let scores = ablation.faithfulness(&full, &metric).unwrap();
            assert_eq!(scores.circuit.mean.to_bits(), scores.full.mean.to_bits());
            assert_eq!((scores.change.mean, scores.change.std_error), (0.0, 0.0));
            assert_eq!(
                (scores.ratio(), scores.gap(), scores.recovered()),
                (1.0, 0.0, 1.0)
            );
            assert_ne!(scores.empty.mean, scores.full.mean);
            let all: Vec<usize> = (0..full.nodes().len()).collect();
            let found = ablation
                .completeness(&full, &[vec![], all], &metric)
                .unwrap();
            assert_eq!(found.incompleteness(), [0.0, 0.0]);
            assert_eq!(found.mean_incompleteness(), 0.0);
            assert_eq!(found.full[1].to_bits(), scores.empty.mean.to_bits());
        }
    }
    let own = prompts(&described["knock_out"]["prompts"]);
    let run = model.run(&own, (), &Run::default()).unwrap();
    let ablation = study(&model, "zero", &described);
    let found = ablation.run(Each::Set(&[vec![]]), &metric).unwrap();
    for (i, logits) in run.logits.iter().enumerate() {
        let expected = metric.evaluate(i, logits).unwrap();
        assert_eq!(found.values[[0, i]].to_bits(), expected.to_bits());
        assert_eq!(found.clean[i].to_bits(), expected.to_bits());
    }
}

#[test]
fn resampling_from_itself_changes_nothing() {
    let (model, described) = (crate::common::open("tiny-gelu"), described("tiny-gelu"));
    let own = prompts(&described["knock_out"]["prompts"]);
    let same = Replacement::resample(&own).unwrap();
    let ablation = Ablation::new(&model, &own, same).unwrap();
    let sets = [vec![CircuitNode::head(0, 1), CircuitNode::mlp(2)]];
    let found = ablation.run(Each::Set(&sets), &metric(&described)).unwrap();
    for (own, clean) in found.values.iter().zip(&found.clean) {
        assert_eq!(own.to_bits(), clean.to_bits());
    }
}

#[test]
fn subsets_are_drawn_by_the_seed() {
    let model = crate::common::open("tiny-gelu");
    let circuit = Circuit::full(model.config(), true).unwrap();
    assert_eq!(circuit.nodes().len(), 3 * 5);
    let subsets = circuit.random_subsets(200, 1);
    assert_eq!(subsets, circuit.random_subsets(200, 1));
    assert_ne!(subsets, circuit.random_subsets(200, 2));
    let mean = subsets.iter().map(Vec::len).sum::<usize>() as f64 / 200.0;
    // 15 nodes, each with probability 1/2; four standard errors.
    assert!(
        (mean - 7.5).abs() < 4.0 * (15.0_f64 / 4.0 / 200.0).sqrt(),
        "{mean}"
    );
}

#[test]
fn bad_input_is_named() {
    let (model, described) = (crate::common::open("tiny-gelu"), described("tiny-gelu"));
    let metric = metric(&described);
    let ablation = study(&model, "mean", &described);
    let expect = |found: patchlens::Error, parts: &[&str]| {
        let found = found.to_string();
        assert!(
            parts.iter().all(|part| found.contains(part)),
            "{found}: {parts:?}"
        );
    };
    expect(Circuit::new(vec![]).unwrap_err(), &["circuit", "no nodes"]);
    let twice = vec![CircuitNode::head(0, 1).at("end"); 2];
    expect(Circuit::new(twice).unwrap_err(), &["0.1@end twice"]);
    let knock = |node: CircuitNode| ablation.run(Each::Set(&[vec![node]]), &metric).unwrap_err();
    expect(knock(CircuitNode::head(0, 4)), &["0.4", "head 4", "0..4"]);
    expect(knock(CircuitNode::mlp(3)), &["mlp3", "layer 3", "0..3"]);
    expect(
        knock(CircuitNode::head(0, 1).at("ende")),
        &["`ende`", "early, end"],
    );
    let circuit = Circuit::new(vec![CircuitNode::mlp(1)]).unwrap();
    expect(
        ablation.faithfulness(&circuit, &metric).unwrap_err(),
        &["mlp1", "with_mlps"],
    );
    let circuit = Circuit::new(vec![CircuitNode::head(1, 1)]).unwrap();
    let beyond = ablation
        .completeness(&circuit, &[vec![1]], &metric)
        .unwrap_err();
    expect(beyond, &["node 1", "0..1"]);
    let class = |lists: Vec<Vec<usize>>| ablation.clone().with_class("x", lists).unwrap_err();
    expect(class(vec![vec![0]]), &["`x`", "1", "3, a list"]);
    expect(
        class(vec![vec![0], vec![5], vec![0]]),
        &["prompt 1", "pos 5", "0..5"],
    );

    let own = Prompts::new([vec![1, 2, 3], vec![4, 5, 6]]).unwrap();
    let short = Prompts::new([vec![1, 2, 3], vec![4, 5]]).unwrap();
    let one = Prompts::new([vec![1, 2, 3]]).unwrap();
    let new = |own: &Prompts, by: Replacement| Ablation::new(&model, own, by).unwrap_err();
    let mean = |other: &Prompts| Replacement::CounterfactualMean(other.clone());
    expect(new(&own, mean(&short)), &["prompt 1", "2", "3"]);
    expect(new(&short, mean(&own)), &["prompt 1", "2", "3"]);
    let resample = |other: &Prompts| Replacement::Resample(other.clone());
    expect(new(&own, resample(&one)), &["1", "2, one per prompt"]);
    expect(new(&own, resample(&short)), &["prompt 1", "3 tokens"]);
    let templates = |templates: &[usize]| Replacement::TemplateMean {
        templates: templates.to_vec(),
        counterfactual: own.clone(),
        counterfactual_templates: vec![0, 0],
    };
    expect(new(&own, templates(&[0, 1])), &["template 1", "0"]);
    expect(new(&own, templates(&[0])), &["templates", "1", "2"]);
    let unfit = CircuitNode {
        node: Component::Embedding,
        class: None,
    };
    expect(knock(unfit), &["embed", "a head or an MLP"]);
}

/// Every replacement's direct effect is that of the last residual stream with the head's output in
/// `z`'s place replaced, and a replacement by itself has none.
#[test]
fn direct_effects_take_every_replacement() {
    let (model, described) = (crate::common::open("tiny-gelu"), described("tiny-gelu"));
    let own = prompts(&described["knock_out"]["prompts"]);
    let metric = metric(&described);
    let direct = |by: Replacement| {
        let ablation = Ablation::new(&model, &own, by).unwrap();
        let found = ablation.run(Each::HeadDirectly, &metric).unwrap();
        found.lost().unwrap()
    };
    let same = direct(Replacement::resample(&own).unwrap());
    assert!(same.values().iter().all(|lost| lost.abs() < 1e-5), "{same}");
    // The mean over one prompt is the prompt's own.
    let one = Prompts::new(&own[..1]).unwrap();
    let ablation = Ablation::new(&model, &one, Replacement::CounterfactualMean(one.clone()));
    let lost = ablation
        .unwrap()
        .run(Each::HeadDirectly, &metric)
        .unwrap()
        .lost()
        .unwrap();
    assert!(lost.values().iter().all(|lost| lost.abs() < 1e-5), "{lost}");
    let study = &described["knock_out"];
    let by_template = direct(Replacement::TemplateMean {
        templates: numbers(&study["templates"]),
        counterfactual: Prompts::new(prompts(&study["counterfactual"])).unwrap(),
        counterfactual_templates: numbers(&study["counterfactual_templates"]),
    });
    let zero = direct(Replacement::Zero);
    assert!(by_template.values().iter().all(|lost| lost.is_finite()));
    assert_ne!(by_template.values(), zero.values());
}
