//! Patchscopes, interchanges and single neurons against TransformerLens's hooks
//! (`tests/golden/states.py`), full runs, and what cannot be moved.

use std::collections::BTreeMap;
use std::fs;

use ndarray::{ArrayD, Axis};
use patchlens::generate::Generation;
use patchlens::interchange::{Interchange, Part};
use patchlens::intervention::Subspace;
use patchlens::metric::{accuracy, probability};
use patchlens::patching::{ActivationPatching, Alignment};
use patchlens::patchscopes::Patchscopes;
use patchlens::report::Absent;
use patchlens::{
    Base, Grid, Metric, Prompt, Prompts, Result, Select, Site, Tokenizer, Transformer, hook_fn,
    logit_diff,
};
use serde_json::Value;

use crate::common;

mod moved;

const MODELS: [&str; 2] = ["tiny-gelu", "mini"];

struct Golden {
    model: Transformer,
    tensors: BTreeMap<String, ArrayD<f32>>,
    metadata: Value,
}

impl Golden {
    fn new(name: &str) -> Self {
        let file = common::dir(name).join("states.json");
        Golden {
            model: match name {
                "mini" => Transformer::mini(),
                name => common::open(name),
            },
            tensors: common::tensors(name, "states.safetensors"),
            metadata: serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap(),
        }
    }

    fn prompts(&self, key: &str) -> Prompts {
        let prompts = self.metadata[key].as_array().unwrap();
        Prompts::new(prompts.iter().map(common::tokens)).unwrap()
    }

    fn positions(&self, key: &str) -> Select {
        let list = common::tokens(&self.metadata[key]);
        Select::each(list.into_iter().map(|p| p as usize))
    }

    fn metric(&self) -> Metric {
        let tokens = common::tokens(&self.metadata["metric_tokens"]);
        logit_diff(tokens[0], tokens[1])
    }

    /// By map, `(base, source)` positions of each pair.
    fn maps(&self) -> Vec<Vec<Vec<(usize, usize)>>> {
        let pair = |pair: &Value| {
            let pair = common::tokens(pair);
            (pair[1] as usize, pair[0] as usize)
        };
        let list = |pairs: &Value| pairs.as_array().unwrap().iter().map(pair).collect();
        let map = |map: &Value| map[1].as_array().unwrap().iter().map(list).collect();
        self.metadata["maps"]
            .as_array()
            .unwrap()
            .iter()
            .map(map)
            .collect()
    }

    fn part(&self, name: &str, site: &str) -> Part {
        let basis = self.tensors[&format!("basis/{site}")].clone();
        let subspace = Subspace::new(basis.into_dimensionality().unwrap()).unwrap();
        match name {
            "whole" => Part::Whole,
            "columns" => {
                let columns = common::tokens(&self.metadata["part_columns"]).into_iter();
                Part::Columns(columns.map(|c| c as usize).collect::<Vec<_>>().into())
            }
            "inside" => Part::Subspace(subspace),
            "outside" => Part::Subspace(subspace.complement()),
            "half" => Part::Subspace(subspace.strength(0.5).unwrap()),
            other => panic!("part {other}"),
        }
    }
}

fn texts(value: &Value) -> Vec<&str> {
    let list = value.as_array().unwrap().iter();
    list.map(|v| v.as_str().unwrap()).collect()
}

fn site(name: &str) -> Site {
    *Site::ALL.iter().find(|site| site.name() == name).unwrap()
}

/// A model whose first two blocks have changed places.
fn swapped(model: &Transformer) -> Transformer {
    let (config, mut parameters) = model.clone().into_parts();
    parameters.h.swap(0, 1);
    Transformer::new(config, parameters).unwrap()
}

#[test]
fn patchscopes_are_those_of_transformer_lens() {
    for name in MODELS {
        let golden = Golden::new(name);
        let other = swapped(&golden.model);
        let [bases, sources] = ["bases", "sources"].map(|key| golden.prompts(key));
        let target = Base::new(&golden.model, &bases).unwrap();
        let mut comparison = common::Comparison::new(1e-5);
        for (prefix, model) in [("patchscopes", &golden.model), ("across", &other)] {
            let source = Base::new(model, &sources).unwrap();
            let scope = Patchscopes::over(&source, &target).unwrap();
            let scope = scope
                .read_at(golden.positions("read"))
                .write_at(golden.positions("write"));
            for i in 0..bases.len() {
                let [next, new] =
                    ["next", "new"].map(|key| &golden.tensors[&format!("{prefix}/{i}/{key}")]);
                for (read, of_read) in next.outer_iter().enumerate() {
                    for (write, expected) in of_read.outer_iter().enumerate() {
                        let found = scope.next_tokens(read, write).unwrap();
                        assert!((found.row(i).sum() - 1.0).abs() < 1e-4);
                        let first: Vec<usize> = (0..expected.len()).collect();
                        let found = found.row(i).select(Axis(0), &first);
                        let key = format!("{prefix}/{i} {read} {write}");
                        comparison.add(&key, found.view().into_dyn(), expected);
                        let steps = new.shape()[2];
                        let texts = scope
                            .generate(read, write, &Generation::greedy(steps))
                            .unwrap();
                        let expected = (0..steps).map(|k| new[[read, write, k]] as u32);
                        let expected: Vec<u32> = expected.collect();
                        assert_eq!(texts[i].new_tokens(), expected, "{key}");
                    }
                }
            }
        }
        comparison.finish(&format!("patchscopes of {name}"));
    }
}

#[test]
fn interchanges_are_those_of_transformer_lens() {
    for name in MODELS {
        let golden = Golden::new(name);
        let [bases, sources] = ["bases", "sources"].map(|key| golden.prompts(key));
        let base = Base::new(&golden.model, &bases).unwrap();
        let source = Base::new(&golden.model, &sources).unwrap();
        let study = |alignment| Interchange::over(&base, &source, alignment).unwrap();
        // The first two maps, as roles.
        let roles = study(Alignment::roles([
            ("end", Select::Last, Select::Last),
            (
                "two",
                Select::each([[1, 4], [0, 2]]),
                Select::each([[0, 2], [1, 3]]),
            ),
        ]));
        let metric = golden.metric();
        let mut comparison = common::Comparison::new(1e-5);
        for of in texts(&golden.metadata["sites"]) {
            for part in texts(&golden.metadata["parts"]) {
                let key = format!("interchange/{of}/{part}");
                let run = |study: Interchange<'_>| {
                    let study = study.site(site(of)).part(golden.part(part, of));
                    let found = study.run(&metric).unwrap();
                    assert_eq!(found.per_prompt, &found.values - &found.base);
                    found.values
                };
                let roles = run(roles.clone());
                for (i, map) in golden.maps().into_iter().enumerate() {
                    let expected = golden.tensors[&key].index_axis(Axis(0), i);
                    let together = study(Alignment::map(map)).together().unwrap();
                    let found = run(together);
                    let found = found.index_axis(Axis(1), 0);
                    comparison.add(&format!("{key} {i}"), found.view(), expected);
                    if i < 2 {
                        assert_eq!(roles.index_axis(Axis(1), i), found);
                    }
                }
            }
        }
        comparison.finish(&format!("interchanges of {name}"));
    }
}

/// A pair that lacks a role has no value there, and is not among the mean.
#[test]
fn a_pair_without_the_role_has_no_value() {
    let golden = Golden::new("tiny-gelu");
    let [bases, sources] = ["bases", "sources"].map(|key| golden.prompts(key));
    let alignment = Alignment::roles([
        (
            "one",
            Select::each([vec![1], vec![]]),
            Select::each([vec![2], vec![]]),
        ),
        ("end", Select::Last, Select::Last),
    ]);
    let study = Interchange::new(&golden.model, &bases, &sources, alignment).unwrap();
    let found = study.run(&golden.metric()).unwrap();
    assert_eq!(found.effect.values().shape(), [3, 2]); // [layer, role]
    for layer in 0..3 {
        assert!(found.per_prompt[[layer, 0, 1]].is_nan());
        let reasons = [[0, 0], [0, 1], [1, 1]]
            .map(|[role, pair]| found.per_prompt_absent[[layer, role, pair]]);
        assert_eq!(reasons, [None, Some(Absent::NoSamples), None]);
        let (mean, only) = (
            found.effect.values()[[layer, 0]],
            found.per_prompt[[layer, 0, 0]],
        );
        assert_eq!(mean, only);
        assert!(found.per_prompt[[layer, 1, 1]].is_finite());
    }
}

/// What one neuron changes is small: differences are measured by the size of the logits.
#[test]
fn single_neurons_are_those_of_transformer_lens() {
    for name in MODELS {
        let golden = Golden::new(name);
        let pair = golden.prompts("neuron_pair");
        let study = ActivationPatching::new(&golden.model, &pair[0], &pair[1]).unwrap();
        let logits = golden.model.forward(&pair[1]).unwrap();
        let scale = logits.iter().fold(0.0_f32, |max, v| max.max(v.abs()));
        for of in ["mlp.hook_post", "attn.hook_z"] {
            let tables = golden.tensors[&format!("columns/{of}")].outer_iter();
            for (layer, expected) in tables.enumerate() {
                let grid = Grid::Columns(site(of), layer);
                let found = study.run(grid, &golden.metric()).unwrap();
                let last = Axis(expected.ndim());
                let found = found.values.index_axis_move(last, 0);
                assert_eq!(found.shape(), expected.shape());
                let differences = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
                let worst = differences.fold(0.0, f32::max) / scale;
                println!("{name}, {of} of layer {layer}: {worst:.1e} of the largest logit");
                assert!(worst <= 1e-6, "{name}, {of} of layer {layer}: {worst:e}");
            }
        }
    }
}
