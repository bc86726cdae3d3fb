//! Path patching against PyTorch, against full passes, and against what must hold exactly.

mod common;

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use common::Comparison;
use ndarray::{Array1, ArrayD, ArrayViewD, Axis as Dim};
use patchlens::{
    ActivationCache, Config, Edit, Intervention, Interventions, KeepLogits, Metric, PathEffects,
    PathPatching, PathReceiver, PathSender, Prompt, Prompts, Run, Select, Selection, Senders, Site,
    Sweep, Target, Transformer, Values, kl_divergence, log_probability, logit_diff, probability,
    rank,
};

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
                    "q" => PathReceiver::query(layer, head),
                    "k" => PathReceiver::key(layer, head),
                    _ => PathReceiver::value(layer, head),
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

/// The goldens' order of senders: the embedding, then each layer's heads and MLP.
fn senders(config: &Config) -> Vec<Vec<PathSender>> {
    let layer = |l: usize| {
        let heads = (0..config.n_heads).map(move |h| vec![PathSender::head(l, h)]);
        heads.chain([vec![PathSender::mlp(l)]])
    };
    let layers = (0..config.n_layers).flat_map(layer);
    [vec![PathSender::embedding()]]
        .into_iter()
        .chain(layers)
        .collect()
}

fn heads(config: &Config) -> Vec<PathSender> {
    let all = senders(config).into_iter().flatten();
    all.filter(|s| s.to_string().starts_with("head")).collect()
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
        for (suffix, found) in [("exact", &result.effect), ("linear", linear)] {
            self.compare(&format!("{stem}/{suffix}"), found.values(), Some(path));
        }
        if set != "q0.1" {
            let all = [vec![PathSender::embedding()], heads(config)].concat();
            let sets = [all, heads(config)];
            let together = study.run_sets(&sets, &to, metric).unwrap();
            self.compare(&format!("{stem}/sets"), together.effect.values(), None);
        }
        for (run, found) in [("original", &result.original), ("new", &result.new)] {
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
    let embedding = embedding.effect.values().insert_axis(Dim(1)).to_owned();
    let rest = rest.effect.values().permuted_axes(vec![1, 0, 2]).to_owned();
    let n = rest.len_of(Dim(0));
    let rest = rest.as_standard_layout().into_owned();
    let count = rest.len() / n;
    let rest = rest.into_shape_with_order(vec![n, count]).unwrap();
    ndarray::concatenate(Dim(1), &[embedding.view(), rest.view()]).unwrap()
}

#[test]
fn goldens() {
    for name in ["tiny-gelu-new", "tiny-gelu"] {
        let model = common::open(name);
        let reference = common::tensors(name, "paths.safetensors");
        let metadata = common::metadata(name);
        let tokens = common::tokens(&metadata["metric_tokens"]);
        let metric = logit_diff(tokens[0], tokens[1]);
        let mut comparison = Comparison::new(BOUND);
        let mut largest = 0.0_f32;
        for pair in 0..2 {
            let prompt = |key: &str| Prompt::from(common::tokens(&metadata["pairs"][pair][key]));
            let (original, new) = (prompt("clean"), prompt("corrupted"));
            let mut study = PathPatching::new(&model, &original, &new).unwrap();
            study.linearised = true;
            let mut golden = Golden {
                reference: &reference,
                comparison: &mut comparison,
                pair,
            };
            let stems = reference
                .keys()
                .filter_map(|key| key.strip_suffix("/exact"));
            for stem in stems.filter(|s| s.starts_with(&format!("pair{pair}/"))) {
                study.freeze_mlps = stem.contains("/frozen/");
                largest = largest.max(golden.compare_set(&study, stem, &metric));
            }
        }
        // Effects too small to see would make the comparison empty.
        assert!(largest > 0.1, "{name}: {largest}");
        comparison.finish(name);
    }
}

fn model(seed: u64) -> Transformer {
    let config = Config {
        n_layers: 3,
        n_heads: 2,
        d_model: 8,
        d_mlp: 19,
        n_ctx: 12,
        d_vocab: 23,
        ..Config::gpt2()
    };
    let (config, mut parameters) = Transformer::random(config, seed).unwrap().into_parts();
    // GPT-2's initialisation is so small that edits hardly matter: enlarge it.
    for (name, mut tensor) in parameters.tensors_mut() {
        if name.ends_with("weight") && !name.contains("ln_") {
            tensor.mapv_inplace(|v| v * 12.0);
        }
    }
    Transformer::new(config, parameters).unwrap()
}

fn pairs() -> (Prompts, Prompts) {
    let original = [vec![1, 2, 3, 4, 5, 6], vec![8, 9, 10], vec![11, 12, 13, 14]];
    let new = [vec![1, 2, 9, 4, 5, 7], vec![3, 2, 1], vec![11, 12, 13, 14]];
    (Prompts::new(original).unwrap(), Prompts::new(new).unwrap())
}

fn caches(model: &Transformer, prompts: &Prompts, hooks: &[Intervention]) -> Vec<ActivationCache> {
    let selection = Selection::everything(model.config());
    let run = Run {
        cache: Some(&selection),
        logits: KeepLogits::All,
        ..Run::default()
    };
    let hooks = Interventions::new(hooks.to_vec());
    model.run(prompts, hooks, &run).unwrap().caches
}

fn bits(values: impl IntoIterator<Item = f32>) -> Vec<u32> {
    values.into_iter().map(f32::to_bits).collect()
}

/// Runs C and D by full passes with every head (and MLP) patched by hand, `[prompt]`.
fn by_full_passes(
    model: &Transformer,
    (layer, head): (usize, usize),
    receiver: (Site, usize, Option<usize>),
    freeze_mlps: bool,
) -> Vec<u32> {
    let (original, new) = pairs();
    let (a, b) = (caches(model, &new, &[]), caches(model, &original, &[]));
    let patch = |caches: &[ActivationCache], target: Target| {
        let edit = Edit::patch(caches, target.point).unwrap();
        Intervention::new(target, edit)
    };
    let mut c = Vec::new();
    for l in 0..3 {
        c.push(patch(&b, Target::new(Site::Z.at(l))));
        if freeze_mlps {
            c.push(patch(&b, Target::new(Site::MlpOut.at(l))));
        }
    }
    c.push(patch(&a, Target::new(Site::Z.at(layer)).at_heads(head)));
    let saved = caches(model, &original, &c);
    let (site, layer, head) = receiver;
    let at = site.at(layer);
    let target = match head {
        Some(head) => Target::new(at).at_heads(head),
        None => Target::new(at),
    };
    let values = Values::from_caches(&saved, at).unwrap();
    let d = vec![vec![Intervention::new(target, Edit::Patch(values))]];
    let sweep = Sweep::new(model, &original).unwrap();
    bits(sweep.run_naive(&d, &logit_diff(3, 5)).unwrap())
}

fn of_cell(result: &PathEffects, index: [usize; 2]) -> Vec<u32> {
    let cell = result.per_prompt.view().index_axis_move(Dim(0), index[0]);
    bits(cell.index_axis(Dim(0), index[1]).iter().copied())
}

#[test]
fn bits_of_full_passes_with_every_head_patched_by_hand() {
    let model = model(3);
    let (original, new) = pairs();
    let metric = logit_diff(3, 5);
    let ends = [
        (PathReceiver::query(2, 1), (Site::QInput, 2, Some(1))),
        (PathReceiver::key(1, 0), (Site::KInput, 1, Some(0))),
        (PathReceiver::value(2, 0), (Site::VInput, 2, Some(0))),
        (PathReceiver::mlp(1), (Site::MlpIn, 1, None)),
        (PathReceiver::final_residual(), (Site::ResidPost, 2, None)),
    ];
    for freeze_mlps in [false, true] {
        let mut study = PathPatching::new(&model, &original, &new).unwrap();
        study.freeze_mlps = freeze_mlps;
        for (receiver, place) in &ends {
            let result = study
                .run(Senders::Heads, &[receiver.clone()], &metric)
                .unwrap();
            let mut changed = 0;
            for (layer, head) in (0..3).flat_map(|l| [(l, 0), (l, 1)]) {
                let found = of_cell(&result, [layer, head]);
                if result.effect.values()[[layer, head]].is_nan() {
                    continue;
                }
                let expected = by_full_passes(&model, (layer, head), *place, freeze_mlps);
                assert_eq!(found, expected, "{layer}.{head} to {receiver}");
                changed += usize::from(found != bits(result.original.iter().copied()));
            }
            assert!(changed > 0, "{receiver}: nothing changes");
        }
    }
}

#[test]
fn all_nodes_along_all_paths_give_the_new_run() {
    let model = model(4);
    let config = model.config();
    let (original, new) = pairs();
    let metric = logit_diff(3, 5);
    let study = PathPatching::new(&model, &original, &new).unwrap();
    let everything = [vec![PathSender::embedding()], heads(config)].concat();
    let to = [PathReceiver::final_residual()];
    let found = study.run_sets(&[everything], &to, &metric).unwrap();

    // Activation patching of the same nodes.
    let donors = caches(&model, &new, &[]);
    let points = (0..3)
        .map(|l| Site::Z.at(l))
        .chain([patchlens::HookPoint::Embed]);
    let cell = points.map(|p| Intervention::new(p, Edit::patch(&donors, p).unwrap()));
    let sweep = Sweep::new(&model, &original).unwrap();
    let patched = sweep.run(&[cell.collect()], &metric).unwrap();
    assert_eq!(bits(found.per_prompt.clone()), bits(patched.values));
    assert_eq!(bits(found.per_prompt), bits(found.new.clone()));
    assert_ne!(found.new, found.original);
}

#[test]
fn equal_prompts_change_no_bit() {
    let model = model(5);
    let (original, _) = pairs();
    let mut study = PathPatching::new(&model, &original, &original).unwrap();
    study.linearised = true;
    let to = [PathReceiver::query(2, 0), PathReceiver::final_residual()];
    let found = study
        .run(Senders::Components, &to, &probability(&[4]))
        .unwrap();
    let mean = found.original.mean().unwrap();
    assert!(
        found
            .effect
            .values()
            .iter()
            .all(|v| v.to_bits() == mean.to_bits())
    );
    assert_eq!(
        found.effect.values(),
        found.linear.as_ref().unwrap().values()
    );
    assert!(found.relative().unwrap().values().iter().all(|v| *v == 0.0));
}

#[test]
fn no_path_is_not_zero() {
    let model = model(6);
    let (original, new) = pairs();
    let mut study = PathPatching::new(&model, &original, &new).unwrap();
    study.linearised = true;
    let metric = log_probability(&[4]);
    let nan_layers = |to: &[PathReceiver]| -> Vec<[bool; 3]> {
        let found = study.run(Senders::Components, to, &metric).unwrap();
        let tables = [
            found.effect.clone(),
            found.linear.clone().unwrap(),
            found.change().unwrap(),
            found.relative().unwrap(),
            found.linear_error().unwrap(),
        ];
        let nan: Vec<bool> = tables[0].values().iter().map(|v| v.is_nan()).collect();
        for table in &tables {
            let same = table
                .values()
                .iter()
                .map(|v| v.is_nan())
                .eq(nan.iter().copied());
            assert!(same, "{}", table.about.title);
        }
        nan.chunks(3).map(|l| [l[0], l[1], l[2]]).collect()
    };
    let (yes, no) = ([false; 3], [true; 3]);
    assert_eq!(
        nan_layers(&[PathReceiver::final_residual()]),
        [yes, yes, yes]
    );
    assert_eq!(nan_layers(&[PathReceiver::query(2, 0)]), [yes, yes, no]);
    assert_eq!(nan_layers(&[PathReceiver::value(1, 1)]), [yes, no, no]);
    // Heads of the MLP's own layer come before it, the MLP itself does not.
    let own = [false, false, true];
    assert_eq!(nan_layers(&[PathReceiver::mlp(1)]), [yes, own, no]);
    let both = [PathReceiver::mlp(1), PathReceiver::key(1, 0)];
    assert_eq!(nan_layers(&both), [yes, own, no]);

    // Positions that do not meet have no path either.
    let sets = [1, 2].map(|p| vec![PathSender::head(0, 1).at_positions(p)]);
    let to = [PathReceiver::final_residual().at_positions(2)];
    let found = study.run_sets(&sets, &to, &metric).unwrap();
    let nan: Vec<bool> = found.effect.values().iter().map(|v| v.is_nan()).collect();
    assert_eq!(nan, [true, false]);
}

#[test]
fn memory_limit_and_observer() {
    let model = model(7);
    let (original, new) = pairs();
    let mut study = PathPatching::new(&model, &original, &new).unwrap();
    let to = [PathReceiver::key(2, 1), PathReceiver::mlp(2)];
    let metric = kl_divergence();
    let free = study.run(Senders::Components, &to, &metric).unwrap();
    // Packing buffers of the matrix products count with 4 MiB a thread.
    study.memory_limit = (4 << 20) * rayon_threads() + 40_000;
    let mut told = Vec::new();
    let tight = study
        .run_observed(Senders::Components, &to, &metric, |done, all| {
            told.push((done, all));
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(bits(free.per_prompt), bits(tight.per_prompt));
    assert_eq!(told.last(), Some(&(9, 9)));

    study.memory_limit = 1000;
    let error = study.run(Senders::Components, &to, &metric).unwrap_err();
    assert!(error.to_string().contains("memory limit"), "{error}");
}

fn rayon_threads() -> u64 {
    std::thread::available_parallelism().map_or(1, |n| n.get() as u64)
}

#[test]
fn errors_name_what_is_wrong() {
    let model = model(8);
    let (original, new) = pairs();
    let study = PathPatching::new(&model, &original, &new).unwrap();
    let metric = logit_diff(3, 5);
    let run = |to: &[PathReceiver]| {
        let result = study.run(Senders::Heads, to, &metric);
        result.unwrap_err().to_string()
    };
    let last = PathReceiver::final_residual();
    let table = [
        (run(&[]), "receivers: found 0"),
        (
            run(&[PathReceiver::query(1, 2)]),
            "blocks.1.hook_q_input: head 2",
        ),
        (
            run(&[PathReceiver::mlp(3)]),
            "blocks.3.hook_mlp_in: layer 3",
        ),
        (
            run(&[last.clone().at_positions(3)]),
            "blocks.2.hook_resid_post: pos 3",
        ),
        (
            run(&[PathReceiver::value(0, 1)]),
            "`values of 0.1`, to which no path",
        ),
        (
            run(&[last.clone(), PathReceiver::key(0, 1)]),
            "`keys of 0.1`, to which no path",
        ),
        (
            run(&[last.clone(), last.clone().at_positions(1)]),
            "`final residual at pos 1`; expected each input once",
        ),
    ];
    for (found, expected) in table {
        assert!(found.contains(expected), "{found:?} lacks {expected:?}");
    }
    let sets = |sets: &[Vec<PathSender>]| {
        let result = study.run_sets(sets, &[PathReceiver::final_residual()], &metric);
        result.unwrap_err().to_string()
    };
    let table = [
        (sets(&[]), "senders: found 0"),
        (sets(&[vec![]]), "set of senders 0: found no sender"),
        (
            sets(&[vec![PathSender::head(5, 0)]]),
            "blocks.5.attn.hook_z: layer 5",
        ),
        (
            sets(&[vec![PathSender::head(1, 9)]]),
            "blocks.1.attn.hook_z: head 9",
        ),
    ];
    for (found, expected) in table {
        assert!(found.contains(expected), "{found:?} lacks {expected:?}");
    }
    let shorter = Prompts::new([vec![1, 2, 3, 4, 5, 6], vec![8, 9], vec![1, 2, 3, 4]]).unwrap();
    let error = PathPatching::new(&model, &original, &shorter)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("new prompt 1: 2 tokens; expected 3 as the original"),
        "{error}"
    );
    let error = study
        .run(
            Senders::HeadPositions,
            &[PathReceiver::final_residual()],
            &metric,
        )
        .unwrap_err()
        .to_string();
    assert!(error.contains("original prompt 1: 3 tokens"), "{error}");
    let mut study = study.clone();
    study.linearised = true;
    let end = [PathReceiver::final_residual().at_positions(Select::Last)];
    let error = study.run(Senders::Heads, &end, &rank(&[4])).unwrap_err();
    assert!(error.to_string().contains("rank"), "{error}");
}

/// The linearised effect is the slope of the exact one: for a small step both agree.
#[test]
fn small_steps_are_linear() {
    let (config, mut parameters) = model(9).into_parts();
    // Two tokens that differ a little.
    let mut near = parameters.wte.row(1).to_owned();
    near.iter_mut()
        .enumerate()
        .for_each(|(i, v)| *v += 2e-3 * (i as f32 - 3.5));
    parameters.wte.row_mut(2).assign(&near);
    let model = Transformer::new(config, parameters).unwrap();
    let (original, new) = (Prompt::from([4, 1, 7, 9]), Prompt::from([4, 2, 7, 9]));
    let mut study = PathPatching::new(&model, &original, &new).unwrap();
    study.linearised = true;
    let reference = model.forward([5, 6, 7, 8]).unwrap();
    let metrics = [
        logit_diff(3, 5),
        probability(&[4]),
        patchlens::probability_diff(&[(vec![1, 2], vec![3, 6])]),
        log_probability(&[4]),
        kl_divergence().with_reference(&[reference.view()]),
    ];
    let sets = [vec![PathSender::embedding()], vec![PathSender::head(0, 1)]];
    for metric in metrics {
        let found = study
            .run_sets(&sets, &[PathReceiver::value(1, 0)], &metric)
            .unwrap();
        let change = found.change().unwrap();
        let error = found.linear_error().unwrap();
        for (change, error) in change.values().iter().zip(error.values()) {
            assert!(change.abs() > 1e-5, "{metric:?}: {change}");
            assert!(
                error.abs() < 0.1 * change.abs(),
                "{metric:?}: {error} of {change}"
            );
        }
    }
}
