//! Against PyTorch: the files that `tests/golden/paths.py` writes.

use std::collections::BTreeMap;

use ndarray::{Array1, ArrayD, ArrayViewD, Axis as Dim};
use patchlens::paths::{PathPatching, PathReceiver, PathSender, Senders};
use patchlens::{Component, Head, Metric, Prompt, Qkv, logit_diff};

use super::{heads, senders};
use crate::common::Comparison;

/// f32 against f64 rounded to f32: relative to the largest value.
const BOUND: f32 = 1e-5;

/// The receivers of a key of the goldens, such as `q1.2+mlp1@5`.
fn receivers(key: &str) -> Vec<PathReceiver> {
    let (names, position) = match key.split_once('@') {
        Some((names, position)) => (names, Some(position.parse::<usize>().unwrap())),
        None => (key, None),
    };
    let one = |name: &str| {
        let place = |s: &str| {
            let (layer, head) = s.split_once('.').unwrap();
            (layer.parse().unwrap(), head.parse().unwrap())
        };
        let receiver = match name.strip_prefix("mlp") {
            Some(layer) => PathReceiver::mlp(layer.parse().unwrap()),
            None if name == "final" => PathReceiver::final_residual(),
            None => {
                let (layer, head) = place(&name[1..]);
                match &name[..1] {
                    "q" => PathReceiver::head(Head::new(layer, head), Qkv::Q),
                    "k" => PathReceiver::head(Head::new(layer, head), Qkv::K),
                    _ => PathReceiver::head(Head::new(layer, head), Qkv::V),
                }
            }
        };
        match position {
            Some(position) => receiver.at_positions(position),
            None => receiver,
        }
    };
    names.split('+').map(one).collect()
}

/// The effects where there is a path; NaN elsewhere, exactly as the goldens say.
fn where_path(found: &ArrayD<f32>, path: &ArrayD<f32>, expected: &ArrayD<f32>) -> [ArrayD<f32>; 2] {
    assert_eq!(found.shape(), expected.shape());
    let cells = found.iter().zip(path).zip(expected);
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for ((found, path), expected) in cells {
        assert_eq!(found.is_nan(), *path == 0.0, "{found} where path is {path}");
        if *path == 1.0 {
            a.push(*found);
            b.push(*expected);
        }
    }
    [a, b].map(|v| Array1::from_vec(v).into_dyn())
}

/// What the goldens of one pair are compared on: effects, on the scale of the unpatched runs.
struct Golden<'g> {
    reference: &'g BTreeMap<String, ArrayD<f32>>,
    comparison: &'g mut Comparison,
    pair: usize,
}

impl Golden<'_> {
    fn baseline(&self, run: &str) -> f32 {
        let value = &self.reference[&format!("pair{}/{run}", self.pair)];
        value.iter().copied().next().unwrap()
    }

    fn compare(&mut self, key: &str, found: ArrayViewD<'_, f32>, path: Option<&ArrayD<f32>>) {
        let expected = &self.reference[key];
        let everywhere = ArrayD::ones(expected.raw_dim());
        let path = path.unwrap_or(&everywhere);
        let scale = ["original", "new"].map(|run| self.baseline(run));
        let scale = Array1::from_vec(scale.to_vec()).into_dyn();
        let [a, b] = where_path(&found.to_owned(), path, expected)
            .map(|v| ndarray::concatenate(Dim(0), &[v.view(), scale.view()]).unwrap());
        self.comparison.add(key, a.view(), b.view());
    }

    /// One set of receivers; gives the largest change relative to the original run.
    fn compare_set(&mut self, study: &PathPatching<'_>, stem: &str, metric: &Metric) -> f32 {
        let config = study.model().config();
        let set = stem.rsplit('/').next().unwrap();
        let to = receivers(set);
        let result = study.run_sets(&senders(config), &to, metric).unwrap();
        let path = &self.reference[&format!("path/{set}")];
        let linear = result.linear.as_ref().unwrap();
        for (suffix, found) in [("exact", result.raw()), ("linear", linear.raw())] {
            self.compare(&format!("{stem}/{suffix}"), found.values(), Some(path));
        }
        if set != "q0.1" {
            let all = [vec![PathSender::new(Component::Embedding)], heads(config)].concat();
            let sets = [all, heads(config)];
            let together = study.run_sets(&sets, &to, metric).unwrap();
            self.compare(&format!("{stem}/sets"), together.raw().values(), None);
        }
        let new = result.new.as_ref().unwrap();
        for (run, found) in [("original", &result.original), ("new", new)] {
            let expected = Array1::from_elem(1, self.baseline(run)).into_dyn();
            let found = found.view().into_dyn();
            self.comparison.add(run, found, expected.view());
        }
        let key = format!("{stem}/exact_by_pos");
        if let Some(expected) = self.reference.get(&key) {
            let own = set
                .split_once('@')
                .map(|(_, p)| p.parse::<usize>().unwrap());
            let mask = ArrayD::from_shape_fn(expected.raw_dim(), |index| {
                let sent = own.is_none_or(|own| own == index[0]);
                if sent { path[index[1]] } else { 0.0 }
            });
            let found = by_position(study, &to, metric);
            self.compare(&key, found.view(), Some(&mask));
        }
        let relative = result.relative().unwrap();
        let finite = relative
            .values()
            .iter()
            .filter(|v| !v.is_nan())
            .copied()
            .collect::<Vec<_>>();
        finite.into_iter().fold(0.0, |a, v| a.max(v.abs()))
    }
}

/// The effects of the embedding and of all components, by position `[pos, sender]`.
fn by_position(study: &PathPatching<'_>, to: &[PathReceiver], metric: &Metric) -> ArrayD<f32> {
    let embedding = study.run(Senders::EmbeddingPositions, to, metric).unwrap();
    let rest = study.run(Senders::ComponentPositions, to, metric).unwrap();
    let embedding = embedding.raw().values().insert_axis(Dim(1)).to_owned();
    let rest = rest.raw().values().permuted_axes(vec![1, 0, 2]).to_owned();
    let n = rest.len_of(Dim(0));
    let rest = rest.as_standard_layout().into_owned();
    let count = rest.len() / n;
    let rest = rest.into_shape_with_order(vec![n, count]).unwrap();
    ndarray::concatenate(Dim(1), &[embedding.view(), rest.view()]).unwrap()
}

#[test]
fn goldens() {
    for name in ["tiny-gelu-new", "tiny-gelu"] {
        let model = crate::common::open(name);
        let reference = crate::common::tensors(name, "paths.safetensors");
        let metadata = crate::common::metadata(name);
        let tokens = crate::common::tokens(&metadata["metric_tokens"]);
        let metric = logit_diff(tokens[0], tokens[1]);
        let mut comparison = Comparison::new(BOUND);
        let mut largest = 0.0_f32;
        for pair in 0..2 {
            let prompt =
                |key: &str| Prompt::from(crate::common::tokens(&metadata["pairs"][pair][key]));
            let (original, new) = (prompt("clean"), prompt("corrupted"));
            let study = PathPatching::new(&model, &original, &new).unwrap();
            let study = study.linearised(true);
            let mut golden = Golden {
                reference: &reference,
                comparison: &mut comparison,
                pair,
            };
            let stems = reference
                .keys()
                .filter_map(|key| key.strip_suffix("/exact"));
            for stem in stems.filter(|s| s.starts_with(&format!("pair{pair}/"))) {
                let study = study.clone().freeze_mlps(stem.contains("/frozen/"));
                largest = largest.max(golden.compare_set(&study, stem, &metric));
            }
        }
        // Effects too small to see would make the comparison empty.
        assert!(largest > 0.1, "{name}: {largest}");
        comparison.finish(name);
    }
}
