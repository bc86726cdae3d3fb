//! Where the design promises the same bits, bits are compared.

use ndarray::{Array2, ArrayViewD, Axis};
use patchlens::intervention::Values;
use patchlens::{
    ActivationCache, Config, Edit, HookPoint, Intervention, Interventions, Metric, Prompt, Prompts,
    Run, Select, Selection, Site, Sweep, Target, Transformer, hook_fn, logit_diff,
};
use proptest::prelude::*;

fn bits(values: ArrayViewD<'_, f32>) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

fn everything(model: &Transformer) -> Selection {
    Selection::everything(model.config())
}

fn ragged(model: &str) -> Prompts {
    let metadata = crate::common::metadata(model);
    let mut prompts: Vec<Vec<u32>> = metadata["prompts"]
        .as_array()
        .unwrap()
        .iter()
        .map(crate::common::tokens)
        .collect();
    prompts.push(vec![3]);
    prompts.push(vec![9, 8, 7, 6, 5, 4, 3, 2, 1]);
    Prompts::new(prompts).unwrap()
}

fn assert_same_caches(a: &ActivationCache, b: &ActivationCache, what: &str) {
    let points: Vec<HookPoint> = a.points().collect();
    assert_eq!(points, b.points().collect::<Vec<_>>());
    for point in points {
        assert_eq!(
            bits(a.get(point).unwrap()),
            bits(b.get(point).unwrap()),
            "{what}: {point}"
        );
    }
}

#[test]
fn a_ragged_batch_equals_each_prompt_alone_with_any_number_of_threads() {
    for name in crate::common::MODELS {
        let model = crate::common::open(name);
        let prompts = ragged(name);
        let selection = everything(&model);
        let run = Run {
            cache: Some(&selection),
            ..Run::default()
        };
        let alone: Vec<_> = prompts
            .iter()
            .map(|p| model.run_with_cache(p, &selection).unwrap())
            .collect();
        for threads in [1, 2, 4] {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            let batch = pool.install(|| model.run(&prompts, (), &run).unwrap());
            for (i, (logits, cache)) in alone.iter().enumerate() {
                let what = format!("{name}, prompt {i}, {threads} threads");
                assert_eq!(
                    bits(batch.logits.get(i).into_dyn()),
                    bits(logits.view().into_dyn()),
                    "{what}"
                );
                assert_same_caches(&batch.caches[i], cache, &what);
            }
        }
    }
}

/// GPT-2's widths: where products are split over threads and cut into blocks.
#[test]
fn real_widths_give_the_same_bits_in_any_company() {
    let config = Config {
        n_layers: 2,
        d_vocab: 3000,
        n_ctx: 512,
        ..Config::gpt2()
    };
    let model = Transformer::random(config, 4).unwrap();
    let tokens = |n: usize, salt: usize| {
        (0..n)
            .map(|i| ((i * 37 + salt * 101) % 3000) as u32)
            .collect::<Vec<_>>()
    };
    let lengths = [1, 15, 300, 64, 2];
    let prompts = Prompts::new(lengths.iter().enumerate().map(|(i, n)| tokens(*n, i))).unwrap();
    let alone: Vec<Array2<f32>> = prompts.iter().map(|p| model.forward(p).unwrap()).collect();
    for threads in [1, 2, 3] {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        let batch = pool.install(|| model.run(&prompts, (), &Run::default()).unwrap());
        for (i, logits) in alone.iter().enumerate() {
            let same = bits(batch.logits.get(i).into_dyn()) == bits(logits.view().into_dyn());
            assert!(same, "prompt {i}, {threads} threads");
        }
    }
}

#[test]
fn observing_and_patching_from_itself_change_nothing() {
    for name in crate::common::MODELS {
        let model = crate::common::open(name);
        let prompts = ragged(name);
        let selection = everything(&model);
        let run = Run {
            cache: Some(&selection),
            ..Run::default()
        };
        let plain = model.run(&prompts, (), &Run::default()).unwrap();
        let cached = model.run(&prompts, (), &run).unwrap();
        for (a, b) in plain.logits.iter().zip(cached.logits.iter()) {
            assert_eq!(bits(a.into_dyn()), bits(b.into_dyn()), "{name}: caching");
        }
        for point in HookPoint::all(model.config().n_layers) {
            let mut seen = 0;
            let hook = hook_fn(point, |_, _| seen += 1);
            let hooked = model.run(&prompts, hook, &Run::default()).unwrap();
            assert_eq!(seen, prompts.len(), "{point} fires once a prompt");
            let edit = Edit::patch(&cached.caches, point).unwrap();
            let list = [Intervention::new(point, edit)];
            let mut interventions = Interventions::new(&list[..]);
            let patched = model
                .run(&prompts, &mut interventions, &Run::default())
                .unwrap();
            let receipt = interventions.receipt();
            assert_eq!(receipt.fired[0].times, prompts.len());
            assert_eq!(receipt.without_effect().count(), 1, "{point}: {receipt}");
            for (i, expected) in plain.logits.iter().enumerate() {
                let expected = bits(expected.into_dyn());
                assert_eq!(
                    bits(hooked.logits.get(i).into_dyn()),
                    expected,
                    "{name}: hook at {point}"
                );
                assert_eq!(
                    bits(patched.logits.get(i).into_dyn()),
                    expected,
                    "{name}: patch at {point}"
                );
            }
        }
    }
}

/// An edit behind the mask lets a row that is read see later keys and values.
#[test]
fn edits_that_look_ahead_equal_full_passes() {
    let model = crate::common::open("tiny-gelu-new");
    let prompt = Prompt::from([1, 2, 3, 4, 5, 6, 7]);
    for (ahead, changed) in [
        (Site::Pattern.at(1), Site::V.at(1)),
        (Site::AttnScores.at(1), Site::ResidPre.at(0)),
    ] {
        let target = Target::new(ahead).at_positions(2).at_src(5);
        let cell = vec![
            Intervention::new(target, Edit::Set(Values::scalar(1.0))),
            Intervention::new(
                Target::new(changed).at_positions(5),
                Edit::Add(Values::scalar(2.0)),
            ),
        ];
        let metric = logit_diff(3, 5).at_position(2);
        let sweep = Sweep::new(&model, &prompt).unwrap();
        let cells = [cell];
        let result = sweep.run(&cells, &metric).unwrap();
        assert_eq!(result.values, sweep.run_naive(&cells, &metric).unwrap());
        assert_eq!(result.multiply_adds, result.plan.multiply_adds);
        assert_ne!(result.values[[0, 0]], result.base[0]);
    }
}

/// Split inputs that no hook changes leave edits at `ln1` as they are, and the last head is one.
#[test]
fn what_changes_nothing_is_not_recomputed() {
    let model = crate::common::open("tiny-gelu-new");
    let tokens = [1, 2, 3, 4];
    let half = || Intervention::new(Site::Ln1Normalized.at(1), Edit::Scale(0.5));
    let run = |list: Vec<Intervention>| {
        let hooks = Interventions::new(list);
        model.run_with_hooks(tokens, hooks).unwrap()
    };
    let alone = run(vec![half()]);
    let same = Intervention::new(Site::QInput.at(1), Edit::Scale(1.0));
    assert_eq!(run(vec![half(), same]), alone);
    let look = hook_fn(Site::QInput.at(1), |_, _| {});
    let hooks = (Interventions::new(vec![half()]), look);
    assert_eq!(model.run_with_hooks(tokens, hooks).unwrap(), alone);
    let zero = |heads: Select| {
        let target = Target::new(Site::Z.at(1)).at_heads(heads);
        run(vec![Intervention::new(target, Edit::Zero)])
    };
    assert_eq!(zero(Select::Last), zero(Select::from(2)));
    assert_ne!(zero(Select::Last), model.forward(tokens).unwrap());
}

#[test]
fn saving_and_opening_keeps_the_logits() {
    let dir = tempfile::tempdir().unwrap();
    for name in crate::common::MODELS {
        let model = crate::common::open(name);
        model.save(dir.path()).unwrap();
        let again = Transformer::open(dir.path()).unwrap();
        let (a, b) = (
            model.forward([1, 2, 3]).unwrap(),
            again.forward([1, 2, 3]).unwrap(),
        );
        assert_eq!(bits(a.view().into_dyn()), bits(b.view().into_dyn()));
    }
}

#[test]
fn the_cache_holds_what_downstream_computation_saw_and_owns_it() {
    let model = crate::common::open("tiny-gelu-new");
    let selection = everything(&model);
    let target = Target::new(Site::ResidPre.at(1)).at_positions(2);
    let list = [Intervention::new(target, Edit::Zero)];
    let run = Run {
        cache: Some(&selection),
        ..Run::default()
    };
    let prompt = Prompt::from([5, 6, 7, 8]);
    let output = model
        .run(&prompt, Interventions::new(&list[..]), &run)
        .unwrap();
    let cache = &output.caches[0];
    let after = cache.get(Site::ResidPre.at(1)).unwrap();
    let before = cache.get(Site::ResidPost.at(0)).unwrap();
    // Both are the same tensor in the model; the edit must show at its own point only.
    assert!(after.index_axis(Axis(0), 2).iter().all(|v| *v == 0.0));
    assert!(before.index_axis(Axis(0), 2).iter().any(|v| *v != 0.0));
    assert_eq!(
        bits(after.index_axis(Axis(0), 1)),
        bits(before.index_axis(Axis(0), 1))
    );
}

#[test]
fn a_stopped_run_gives_the_residual_stream() {
    let model = crate::common::open("tiny-gelu");
    let selection = Selection::points([Site::ResidPre.at(2), Site::ResidPost.at(1)]);
    let (_, cache) = model.run_with_cache([1, 2, 3], &selection).unwrap();
    let early = Run {
        stop_at_layer: Some(2),
        ..Run::default()
    };
    let output = model.run(&Prompt::from([1, 2, 3]), (), &early).unwrap();
    assert!(output.logits.is_empty());
    let expected = bits(cache.get(Site::ResidPre.at(2)).unwrap());
    assert_eq!(bits(output.residual[0].view().into_dyn()), expected);
}

#[test]
fn positions_can_be_chosen() {
    let model = crate::common::open("tiny-gelu-new");
    let all = everything(&model);
    let some = everything(&model).at_positions([3, 1]);
    let (_, whole) = model.run_with_cache([4, 5, 6, 7, 8], &all).unwrap();
    let (_, part) = model.run_with_cache([4, 5, 6, 7, 8], &some).unwrap();
    assert_eq!(part.positions(), [1, 3]);
    for point in HookPoint::all(model.config().n_layers) {
        let axis = Axis(point.axes().pos_axis());
        let expected = whole.get(point).unwrap().select(axis, &[1, 3]);
        assert_eq!(part.get(point).unwrap(), expected, "{point}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn hook_names_round_trip(layer in 0_usize..200, site in 0..Site::ALL.len()) {
        let point = Site::ALL[site].at(layer);
        prop_assert_eq!(point.to_string().parse::<HookPoint>().unwrap(), point);
    }

    #[test]
    fn an_edit_at_a_position_changes_nothing_before_it(
        tokens in prop::collection::vec(0_u32..50, 2..9),
        place in 0_usize..1000,
        position in 1_usize..8,
    ) {
        let model = crate::common::open("tiny-gelu");
        let position = position % tokens.len();
        let points: Vec<HookPoint> = HookPoint::all(3).collect();
        let point = points[place % points.len()];
        let target = Target::new(point).at_positions(position);
        let list = [Intervention::new(target, Edit::Add(Values::scalar(3.0)))];
        let clean = model.forward(&tokens).unwrap();
        let edited = model.run_with_hooks(&tokens, Interventions::new(&list[..])).unwrap();
        for p in 0..position {
            prop_assert_eq!(bits(clean.row(p).into_dyn()), bits(edited.row(p).into_dyn()), "{} at {}", point, p);
        }
        let last = Target::new(point).at_positions(Select::Last);
        prop_assert_eq!(last.to_string(), format!("{point}[{} last]", point.axes().names()[point.axes().pos_axis()]));
    }

    #[test]
    fn later_tokens_change_nothing_before_them(
        tokens in prop::collection::vec(0_u32..50, 2..9),
        other in 0_u32..50,
    ) {
        let model = crate::common::open("tiny-relu");
        let tokens: Vec<u32> = tokens.iter().map(|t| t % 50).collect();
        let mut changed = tokens.clone();
        *changed.last_mut().unwrap() = other;
        let (a, b) = (model.forward(&tokens).unwrap(), model.forward(&changed).unwrap());
        for p in 0..tokens.len() - 1 {
            prop_assert_eq!(bits(a.row(p).into_dyn()), bits(b.row(p).into_dyn()));
        }
    }

    #[test]
    fn activations_have_the_shapes_of_their_axes(tokens in prop::collection::vec(0_u32..50, 1..10)) {
        let model = crate::common::open("tiny-gelu");
        let (logits, cache) = model.run_with_cache(&tokens, &everything(&model)).unwrap();
        prop_assert_eq!(logits.shape(), [tokens.len(), 50]);
        for point in HookPoint::all(3) {
            let expected = point.axes().shape(model.config(), tokens.len());
            let found = cache.get(point).unwrap();
            prop_assert_eq!(found.shape(), &expected[..]);
        }
    }
}

/// Interventions are plain data that threads can share.
#[test]
fn interventions_are_data() {
    fn plain<T: Clone + Send + Sync + 'static>() {}
    plain::<Intervention>();
    plain::<Edit>();
    plain::<Target>();
    plain::<Metric>();
    plain::<Transformer>();
}
