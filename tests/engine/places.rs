//! f13, f2: places that move from prompt to prompt, count from the end or have a role, and values
//! that are shaped like the target.

use ndarray::{Array, Array2, ArrayD, arr1, arr2};
use patchlens::gradient::Backward;
use patchlens::intervention::Values;
use patchlens::metric::{kl_divergence, probability};
use patchlens::paths::{PathPatching, PathReceiver, PathSender};
use patchlens::steering::Steering;
use patchlens::sweep::{Cell, Plan};
use patchlens::{
    Base, Edit, Head, HookPoint, Intervention, Interventions, KeepLogits, Metric, Prompts, Qkv,
    Result, Run, Select, Selection, Site, Sweep, Target, Transformer, logit_diff,
};

use crate::sweep::{assert_same, config, model};

mod columns;
mod subspaces;
mod values;

fn small() -> Transformer {
    model(config(2, 2, 4), 1)
}

/// Of different shapes; S2 say, at 2, 4 and 1.
fn ragged() -> Prompts {
    let prompts = [vec![1, 2, 3, 4], vec![5, 6, 7, 8, 9, 10], vec![11, 12, 13]];
    Prompts::new(prompts).unwrap()
}

const S2: [usize; 3] = [2, 4, 1];

fn message<T>(result: Result<T>) -> String {
    result.err().expect("an error").to_string()
}

fn bits<'v>(values: impl IntoIterator<Item = &'v f32>) -> Vec<u32> {
    values.into_iter().map(|v| v.to_bits()).collect()
}

/// The places of each prompt as one intervention, and as one per prompt.
fn both(place: &Target, positions: &[Vec<usize>], edit: &Edit) -> [Cell; 2] {
    let each = Select::each(positions.iter().cloned());
    let one = place.clone().at_positions(each);
    let alone = |(i, positions): (usize, &Vec<usize>)| {
        let target = place.clone().at_positions(positions.clone());
        Intervention::new(target.at_sequences(i), edit.clone())
    };
    [
        vec![Intervention::new(one, edit.clone())],
        positions.iter().enumerate().map(alone).collect(),
    ]
}

/// A plan without its memory, of which the base's is a part, and that grows from sweep to sweep.
fn work(plan: Plan) -> Plan {
    Plan {
        peak_bytes: 0,
        ..plan
    }
}

#[test]
fn f13_one_intervention_has_the_bits_and_the_cost_of_one_per_prompt() {
    let (model, prompts) = (small(), ragged());
    let sweep = Sweep::new(&model, &prompts).unwrap();
    let choices = [
        S2.map(|p| vec![p]).to_vec(),
        vec![vec![0, 3], vec![5], vec![0, 1, 2]],
    ];
    let metric = logit_diff(3, 5);
    for point in HookPoint::all(2) {
        for positions in &choices {
            for edit in [
                Edit::Zero,
                Edit::Scale(1.5),
                Edit::Noise { std: 0.3, seed: 2 },
            ] {
                let [one, alone] = both(&Target::new(point), positions, &edit);
                let [found, expected] =
                    [&one, &alone].map(|cell| sweep.run(std::slice::from_ref(cell), &metric));
                let (found, expected) = (found.unwrap(), expected.unwrap());
                assert_eq!(bits(&found.values), bits(&expected.values), "{point}");
                assert_eq!(work(found.plan), work(expected.plan), "{point}");
                assert_eq!(found.multiply_adds, expected.multiply_adds, "{point}");
                assert_same(&sweep, &[one], &metric, &point.to_string());
            }
        }
    }
}

#[test]
fn f13_ordinary_runs_and_their_receipts() {
    let (model, prompts) = (small(), ragged());
    let positions = [vec![2], vec![4, 5], vec![0]];
    let run = |list: &Cell| {
        let mut hooks = Interventions::new(&list[..]);
        let output = model.run(&prompts, &mut hooks, &Run::default()).unwrap();
        let logits: Vec<u32> = output.logits.iter().flat_map(bits).collect();
        (logits, hooks.receipt())
    };
    let place = Target::new(Site::Z.at(0)).at_heads(-1);
    let [one, alone] = both(&place, &positions, &Edit::Zero);
    let ((found, receipt), (expected, parts)) = (run(&one), run(&alone));
    assert_eq!(found, expected);
    let fired = &receipt.fired[0];
    assert_eq!((fired.times, fired.rows, fired.changed_rows), (3, 4, 4));
    assert_eq!(parts.fired.iter().map(|f| f.rows).sum::<usize>(), 4);
    assert_eq!(
        fired.target,
        "blocks.0.attn.hook_z[pos 2; 4,5; 0, head last]"
    );
}

#[test]
fn f13_positions_from_the_end() {
    let (model, prompts) = (small(), ragged());
    let sweep = Sweep::new(&model, &prompts).unwrap();
    let metric = logit_diff(3, 5);
    let run = |positions: Select| {
        let target = Target::new(Site::MlpOut.at(0)).at_positions(positions);
        let cell = vec![Intervention::new(target, Edit::Zero)];
        let result = sweep.run(&[cell], &metric).unwrap();
        (bits(&result.values), work(result.plan))
    };
    let same = |a: Select, b: Select| assert_eq!(run(a), run(b));
    same((-1).into(), Select::Last);
    same((-2).into(), Select::each([2, 4, 1]));
    same([0, -1].into(), Select::each([[0, 3], [0, 5], [0, 2]]));
    same((-2..0).into(), Select::each([2..4, 4..6, 1..3]));
    same(Select::each([-1, 0, -3]), Select::each([3, 0, 0]));
    assert_ne!(run((-2).into()), run(Select::Last));
    assert_eq!(Select::from(-1), Select::Last);
}

#[test]
fn f13_a_metric_reads_its_position_of_each_prompt() {
    let (model, prompts) = (small(), ragged());
    let logits = model.run(&prompts, (), &Run::default()).unwrap().logits;
    let base = Base::new(&model, &prompts).unwrap();
    for metric in [logit_diff(3, 5), probability(&[4])] {
        let by_role = metric.clone().at_position(Select::role("S2", S2));
        let found = base.metric(&by_role).unwrap();
        for (i, position) in S2.into_iter().enumerate() {
            let of_one = metric.clone().at_position(position);
            let expected = of_one.evaluate(i, logits.get(i)).unwrap();
            assert_eq!(found[i].to_bits(), expected.to_bits());
        }
        let before_last = base.metric(&metric.clone().at_position(-2)).unwrap();
        assert_eq!(before_last, found);
        let cell = vec![Intervention::new(Site::MlpOut.at(0), Edit::Scale(2.0))];
        let sweep = Sweep::over(&base);
        assert_same(&sweep, &[cell], &by_role, "by role");
    }
    let kl = kl_divergence().at_position(Select::each(S2));
    let kl = base.refer(&kl).unwrap();
    assert_eq!(base.metric(&kl).unwrap(), arr1(&[0.0; 3]));
}

#[test]
fn f13_a_cache_keeps_its_positions_of_each_prompt() {
    let (model, prompts) = (small(), ragged());
    let run = |selection: &Selection, logits| {
        let run = Run {
            cache: Some(selection),
            logits,
            ..Run::default()
        };
        model.run(&prompts, (), &run)
    };
    let everything = Selection::everything(model.config());
    let whole = run(&everything, KeepLogits::All).unwrap().caches;
    for (positions, kept) in [
        (Select::each(S2), [vec![2], vec![4], vec![1]]),
        ([-1, 0].into(), [vec![0, 3], vec![0, 5], vec![0, 2]]),
        (
            Select::each([vec![3, 1], vec![0], vec![-1, 1]]),
            [vec![1, 3], vec![0], vec![1, 2]],
        ),
    ] {
        let selection = everything.clone().at_positions(positions);
        let some = run(&selection, KeepLogits::All).unwrap().caches;
        for (i, cache) in some.iter().enumerate() {
            assert_eq!(cache.positions(), kept[i]);
            for point in cache.points() {
                let axis = ndarray::Axis(point.axes().pos_axis());
                let expected = whole[i].get(point).unwrap().select(axis, &kept[i]);
                let found = cache.get(point).unwrap();
                assert_eq!(found.shape(), expected.shape(), "{point}");
                assert_eq!(bits(&found), bits(&expected), "{point}");
            }
        }
    }
    // Gradients, too.
    let slope = |_: usize, logits: ndarray::ArrayView2<'_, f32>| {
        let sum = logits.iter().map(|v| f64::from(*v)).sum();
        (sum, Array2::ones(logits.dim()))
    };
    let at = |positions: Select| {
        let points = Selection::points([Site::MlpOut.at(0)]).at_positions(positions);
        let want = Backward {
            gradients: Some(&points),
            activations: Some(&points),
            ..Backward::default()
        };
        model.gradients(&prompts, (), slope, &want).unwrap()
    };
    let (whole, some) = (at(Select::All), at(Select::each(S2)));
    for (i, position) in S2.into_iter().enumerate() {
        let of = |caches: &[patchlens::ActivationCache]| -> ArrayD<f32> {
            caches[i].get(Site::MlpOut.at(0)).unwrap().to_owned()
        };
        let row = |all: ArrayD<f32>| bits(&all.index_axis_move(ndarray::Axis(0), position));
        assert_eq!(bits(&of(&some.gradients)), row(of(&whole.gradients)));
        assert_eq!(bits(&of(&some.activations)), row(of(&whole.activations)));
    }
    // After the blocks, a run that computes the last logits alone has the last positions only.
    let last = Selection::points([HookPoint::Logits]);
    let last_of_each = last.clone().at_positions(Select::each([3, 5, 2]));
    assert!(run(&last_of_each, KeepLogits::Last).is_ok());
    assert!(run(&last.clone().at_positions(-1), KeepLogits::Last).is_ok());
    let others = last.at_positions(Select::each([3, 4, 2]));
    assert!(message(run(&others, KeepLogits::Last)).contains("last position only"));
}

#[test]
fn f13_paths_and_steering_take_them_too() {
    let (model, original) = (small(), ragged());
    let shifted = original.iter().map(|p| -> Vec<u32> {
        let tokens = p.tokens.iter();
        tokens.map(|t| (t + 3) % 23).collect()
    });
    let new = Prompts::new(shifted).unwrap();
    let metric = logit_diff(3, 5);
    let sender = PathSender::new(Head::new(0, 1));
    let receiver = PathReceiver::head(Head::new(1, 0), Qkv::K);
    let effect = |original: &Prompts, new: &Prompts, positions: Select| {
        let study = PathPatching::new(&model, original, new).unwrap();
        let senders = [sender.clone().at_positions(positions.clone())];
        let receivers = [receiver.clone().at_positions(positions)];
        study.run_sets(&[senders.to_vec()], &receivers, &metric)
    };
    let together = effect(&original, &new, Select::role("S2", S2)).unwrap();
    for (i, position) in S2.into_iter().enumerate() {
        let one = |prompts: &Prompts| Prompts::new([&prompts[i]]).unwrap();
        let alone = effect(&one(&original), &one(&new), position.into()).unwrap();
        let found = together.per_prompt.index_axis(ndarray::Axis(1), i);
        assert_eq!(bits(&found), bits(&alone.per_prompt));
    }

    let points = [Site::ResidPost.at(0)];
    let means = |read: Select| {
        let found = Steering::difference_of_means(&model, &original, &new, &points, read);
        found.unwrap().interventions(1.0).unwrap()
    };
    let add = |list: Vec<Intervention>| {
        let hooks = Interventions::new(list);
        bits(&model.run_with_hooks([1, 2, 3], hooks).unwrap())
    };
    assert_eq!(add(means(Select::each(S2))), add(means((-2).into())));
}

/// A position outside of one of several prompts: the error names the prompt.
#[test]
fn f13_b23_a_position_outside_of_one_of_several_prompts() {
    let (model, prompts) = (small(), ragged());
    let sweep = Sweep::new(&model, &prompts).unwrap();
    let metric = logit_diff(3, 5);
    let place = |positions: Select| {
        let target = Target::new(Site::Z.at(1)).at_positions(positions);
        let cell = vec![Intervention::new(target, Edit::Zero)];
        message(sweep.run(&[cell], &metric).map(|_| ()))
    };
    let at = "blocks.1.attn.hook_z";
    for (positions, expected) in [
        (
            Select::from(3),
            format!("{at} in prompt 2: pos 3 is out of range; expected 0..3"),
        ),
        (
            Select::each([1, 6, 2]),
            format!("{at} in prompt 1: pos 6 is out of range; expected 0..6"),
        ),
        (
            Select::from(-4),
            format!("{at} in prompt 2: pos: found -4; expected -3..3"),
        ),
        (
            Select::each([1, 2]),
            format!("{at}: pos chosen by prompt: found 2; expected 3, one per prompt"),
        ),
        (
            Select::each([vec![1], vec![], vec![0]]),
            format!("`{at} in prompt 1` would never fire: no pos is selected"),
        ),
        (
            Select::from(usize::MAX),
            format!(
                "{at} in prompt 0: pos {} is out of range; expected 0..4",
                isize::MAX
            ),
        ),
    ] {
        assert_eq!(place(positions), expected);
    }
    let kept = |positions: Select| {
        let selection = Selection::points([Site::Z.at(1)]).at_positions(positions);
        let run = Run {
            cache: Some(&selection),
            ..Run::default()
        };
        message(model.run(&prompts, (), &run))
    };
    assert_eq!(
        kept(Select::each([1, 1, 3])),
        "cached positions in prompt 2: pos 3 is out of range; expected 0..3"
    );
    assert!(kept(Select::each([0])).contains("found 1; expected 3, one per prompt"));
    let read = |metric: Metric| message(sweep.run(&[], &metric));
    for (positions, expected) in [
        (
            Select::from(3),
            "logit difference of prompt 2: pos 3 is out of range; expected 0..3",
        ),
        (
            Select::from([1, 2]),
            "logit difference of prompt 0: positions: found 1,2; expected exactly one",
        ),
        (
            Select::All,
            "logit difference of prompt 0: positions: found all; expected exactly one",
        ),
        (
            Select::each([0, 1]),
            "logit difference: pos chosen by prompt: found 2; expected 3, one per prompt",
        ),
    ] {
        assert_eq!(read(metric.clone().at_position(positions)), expected);
    }
    let by_sequence = Target::new(Site::Z.at(1)).at_sequences(Select::each([0, 1, 2]));
    let cell = vec![Intervention::new(by_sequence, Edit::Zero)];
    assert!(message(sweep.run(&[cell], &metric)).contains("sequence by sequence"));
    // Prompts that are not meant need no position.
    let target = Target::new(Site::Z.at(1)).at_positions(Select::each([1, 2, 9]));
    let cell = vec![Intervention::new(target.at_sequences([0, 1]), Edit::Zero)];
    assert!(sweep.run(&[cell], &metric).is_ok());
    // A range may be as long as its type allows.
    let cell = vec![Intervention::new(
        Target::new(Site::Z.at(1)).at_positions(3..usize::MAX),
        Edit::Zero,
    )];
    assert!(message(sweep.run(&[cell], &metric)).contains("pos "));
    // A misspelt point, before anything runs.
    let misspelt = message("blocks.1.atn.hook_z".parse::<HookPoint>());
    assert!(misspelt.contains("did you mean `blocks.1.attn.hook_z`?"));
}
