//! What people do with hooks: lists of hooks, closures over many points, looking without touching,
//! and going on after a failure.

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};

use ndarray::{Array2, ArrayView2, ArrayViewD, ArrayViewMutD};
use patchlens::{
    ActivationCache, Edit, HookPoint, Hooks, Intervention, Interventions, Metric, Prompt, Prompts,
    Run, RunOutput, Selection, Site, Sweep, Target, Transformer, Visit, hook_fn, logit_diff,
};

use crate::objectives::backward;

mod failures;

pub const TOKENS: [u32; 7] = [1, 2, 3, 4, 5, 6, 7];

pub fn model() -> Transformer {
    crate::common::open("tiny-gelu-new")
}

pub fn bits<'a>(values: impl Into<ArrayViewD<'a, f32>>) -> Vec<u32> {
    values.into().iter().map(|v| v.to_bits()).collect()
}

/// A run of two prompts of unequal lengths.
fn run(model: &Transformer, hooks: impl Hooks) -> RunOutput {
    let prompts = Prompts::new([TOKENS.to_vec(), vec![9, 8, 7]]).unwrap();
    model.run(&prompts, hooks, &Run::default()).unwrap()
}

fn logit_bits(output: &RunOutput) -> Vec<Vec<u32>> {
    output.logits.iter().map(|l| bits(l.into_dyn())).collect()
}

fn scale(site: Site, position: usize, head: usize, factor: f32) -> Intervention {
    let target = Target::new(site.at(1)).at_positions(position);
    let target = if site.axes().has_heads() {
        target.at_heads(head)
    } else {
        target
    };
    Intervention::new(target, Edit::Scale(factor))
}

/// f14: a list of hooks, of one type or of several, is what the same hooks are as nested pairs:
/// bits, order, cost, and what each reports.
#[test]
fn f14_a_list_of_hooks_is_a_pair_of_any_length() {
    let model = model();
    let one = |list: &[&Intervention]| {
        Interventions::new(list.iter().map(|i| (*i).clone()).collect::<Vec<_>>())
    };
    let (a, b, c) = (
        scale(Site::Result, 0, 0, 2.0),
        scale(Site::Result, 2, 1, -1.0),
        scale(Site::MlpOut, 1, 0, 3.0),
    );
    let nested = run(&model, (one(&[&a]), (one(&[&b]), one(&[&c]))));
    assert_ne!(logit_bits(&nested), logit_bits(&run(&model, ())));

    let mut list = vec![one(&[&a]), one(&[&b]), one(&[&c])];
    let listed = run(&model, &mut list);
    let (mut first, mut second) = (one(&[&a]), one(&[&b, &c]));
    let boxed: Vec<Box<dyn Hooks + '_>> =
        vec![Box::new(&mut first), Box::new(()), Box::new(&mut second)];
    let boxed = run(&model, boxed);
    let mut whole = one(&[&a, &b, &c]);
    let together = run(&model, &mut whole);
    for (what, found) in [
        ("list", &listed),
        ("boxed", &boxed),
        ("one hook", &together),
    ] {
        assert_eq!(logit_bits(found), logit_bits(&nested), "{what}");
        assert_eq!(found.multiply_adds, nested.multiply_adds, "{what}");
    }
    let fired = |hooks: &[&Interventions<'_>]| -> Vec<_> {
        hooks.iter().flat_map(|h| h.receipt().fired).collect()
    };
    let expected = fired(&[&whole]);
    assert_eq!(fired(&list.iter().collect::<Vec<_>>()), expected);
    assert_eq!(fired(&[&first, &second]), expected);
    assert!(expected.iter().all(|f| f.times == 2 && f.changed_rows == 2));
    // The empty list is the plain run, at its price.
    let (none, plain) = (run(&model, Vec::<()>::new()), run(&model, ()));
    assert_eq!(logit_bits(&none), logit_bits(&plain));
    assert_eq!(none.multiply_adds, plain.multiply_adds);
}

#[test]
fn f14_hooks_of_a_list_run_in_its_order() {
    let model = model();
    let at = Site::ResidMid.at(0);
    let mut seen = Vec::new();
    let hooks: Vec<Box<dyn Hooks + '_>> = vec![
        Box::new(hook_fn(at, |_, mut x| x.fill(1.0))),
        Box::new(hook_fn(at, |_, x| seen.push(x.iter().all(|v| *v == 1.0)))),
        Box::new(hook_fn(at, |_, mut x| x.fill(2.0))),
    ];
    let last = run(&model, hooks);
    assert_eq!(seen, [true, true]);
    let set = run(&model, hook_fn(at, |_, mut x| x.fill(2.0)));
    assert_eq!(logit_bits(&last), logit_bits(&set));
}

/// f14: one closure over many points is a loop over layers; what cannot fire is named before the
/// run, wherever in the list it stands.
#[test]
fn f14_a_closure_may_take_many_points() {
    let model = model();
    let layers = 0..model.config().n_layers;
    let points: Vec<HookPoint> = layers
        .flat_map(|layer| [Site::ResidPost.at(layer), Site::Z.at(layer)])
        .chain([HookPoint::Logits, HookPoint::Logits])
        .collect();
    let expected: Vec<HookPoint> = Selection::points(points.clone()).iter().collect();
    let mut seen = Vec::new();
    let look = hook_fn(
        points.clone(),
        |at: &Visit<'_>, x: ArrayViewMutD<'_, f32>| {
            assert_eq!(x.shape(), at.shape);
            seen.push((at.point, at.sequence));
        },
    );
    run(&model, look);
    for sequence in [0, 1] {
        let each = seen.iter().filter(|(_, s)| *s == sequence);
        let each: Vec<HookPoint> = each.map(|(point, _)| *point).collect();
        assert_eq!(each, expected, "sequence {sequence}");
    }
    // Written by hand, a hook for each point: the same bits.
    let halve = |_: &Visit<'_>, mut x: ArrayViewMutD<'_, f32>| x.mapv_inplace(|v| v * 0.5);
    let many = run(&model, hook_fn(points.clone(), halve));
    let list: Vec<_> = expected.iter().map(|p| hook_fn(*p, halve)).collect();
    assert_eq!(logit_bits(&many), logit_bits(&run(&model, list)));

    let far = hook_fn([Site::Z.at(0), Site::Z.at(9)], |_, _| {});
    let mut fired = 0;
    let hooks: Vec<Box<dyn Hooks + '_>> = vec![
        Box::new(hook_fn(Site::Z.at(0), |_, _| fired += 1)),
        Box::new(far),
    ];
    let error = model.run(&Prompt::from(TOKENS), hooks, &Run::default());
    let error = error.unwrap_err().to_string();
    assert!(
        error.starts_with("blocks.9.attn.hook_z: layer 9"),
        "{error}"
    );
    assert_eq!(fired, 0);
}

/// What is made only when somebody looks: the inputs split by head, per-head results, the MLP's
/// input.
const ON_DEMAND: [Site; 6] = [
    Site::AttnIn,
    Site::QInput,
    Site::KInput,
    Site::VInput,
    Site::Result,
    Site::MlpIn,
];

fn on_demand(model: &Transformer) -> Vec<HookPoint> {
    let layers = 0..model.config().n_layers;
    layers
        .flat_map(|layer| ON_DEMAND.map(|site| site.at(layer)))
        .collect()
}

/// Everything that a run computes, as bits.
fn all_bits(model: &Transformer, hooks: impl Hooks) -> Vec<Vec<u32>> {
    let selection = Selection::everything(model.config());
    let run = Run {
        cache: Some(&selection),
        ..Run::default()
    };
    let prompts = Prompts::new([TOKENS.to_vec(), vec![9, 8, 7]]).unwrap();
    let output = model.run(&prompts, hooks, &run).unwrap();
    let of = |cache: &ActivationCache| -> Vec<Vec<u32>> {
        let points = cache.points();
        points.map(|p| bits(cache.get(p).unwrap())).collect()
    };
    let mut all: Vec<_> = output.caches.iter().flat_map(of).collect();
    all.extend(logit_bits(&output));
    all
}

/// b20: looking at what is made on demand changes no bit, nor does multiplying it by 1, which the
/// receipt says; alone, all at once, and beside an edit that does change something.
#[test]
fn b20_observing_split_inputs_changes_nothing() {
    for name in crate::common::MODELS {
        let model = crate::common::open(name);
        let points = on_demand(&model);
        let plain = all_bits(&model, ());
        let logits = logit_bits(&run(&model, ()));
        let sets = points.iter().map(|p| vec![*p]).chain([points.clone()]);
        for set in sets {
            let what = format!("{name}: {set:?}");
            let mut seen = 0;
            let look = hook_fn(set.clone(), |_, _| seen += 1);
            assert_eq!(logit_bits(&run(&model, look)), logits, "{what}");
            assert_eq!(seen, 2 * set.len(), "{what}");
            let look = hook_fn(set.clone(), |_, _| {});
            assert_eq!(all_bits(&model, look), plain, "{what}");

            let ones = set.iter().map(|p| Intervention::new(*p, Edit::Scale(1.0)));
            let ones: Vec<Intervention> = ones.collect();
            let mut hooks = Interventions::new(ones.clone());
            assert_eq!(logit_bits(&run(&model, &mut hooks)), logits, "{what}");
            let receipt = hooks.receipt();
            assert!(receipt.fired.iter().all(|f| f.times == 2 && f.rows > 0));
            assert_eq!(receipt.without_effect().count(), set.len(), "{receipt}");
            assert_eq!(
                receipt.to_string().matches("CHANGED NOTHING").count(),
                set.len()
            );
            assert_eq!(all_bits(&model, &mut hooks), plain, "{what}");

            // A sweep sees that there is nothing to run.
            let sweep = Sweep::new(&model, Prompts::new([TOKENS]).unwrap()).unwrap();
            let found = sweep.run(&[ones], &logit_diff(3, 5)).unwrap();
            assert_eq!(
                (found.plan.unchanged, found.multiply_adds),
                (1, 0),
                "{what}"
            );
            assert_eq!(found.changes().sum(), 0.0, "{what}");
        }
        let edit =
            || Interventions::new(vec![scale(Site::Q, 2, 1, -3.0), scale(Site::V, 1, 0, 2.0)]);
        let edited = all_bits(&model, edit());
        assert_ne!(edited, plain);
        let looks = hook_fn(points, |_, _| {});
        assert_eq!(all_bits(&model, (edit(), looks)), edited, "{name}");
    }
}

/// b22: what has another name has the values of what it is a copy of, in a plain run and in one
/// whose stream is edited: `mlp_in` of `resid_mid`, each head's inputs of `resid_pre`.
#[test]
fn b22_split_inputs_are_copies_of_the_stream() {
    for name in crate::common::MODELS {
        let model = crate::common::open(name);
        let stream = [Site::ResidPre, Site::ResidMid].map(|site| {
            let target = Target::new(site.at(1)).at_positions(2);
            Intervention::new(target, Edit::Scale(-1.5))
        });
        for list in [Vec::new(), stream.to_vec()] {
            let selection = Selection::everything(model.config());
            let run = Run {
                cache: Some(&selection),
                ..Run::default()
            };
            let hooks = Interventions::new(list);
            let prompt = Prompt::from(TOKENS);
            let cache = model.run(&prompt, hooks, &run).unwrap().caches.remove(0);
            for layer in 0..model.config().n_layers {
                let get = |site: Site| cache.get(site.at(layer)).unwrap();
                assert_eq!(bits(get(Site::MlpIn)), bits(get(Site::ResidMid)));
                for site in [Site::AttnIn, Site::QInput, Site::KInput, Site::VInput] {
                    let heads = get(site);
                    assert_eq!(heads.shape()[1], model.config().n_heads);
                    for head in heads.axis_iter(ndarray::Axis(1)) {
                        assert_eq!(bits(head), bits(get(Site::ResidPre)), "{name}: {site:?}");
                    }
                }
            }
        }
    }
}

/// f5: the one TransformerLens point without a counterpart is named as such, with what to do: no
/// point has its values, which are those of the nearest one after weight and bias.
#[test]
fn f5_the_unembeddings_input_names_the_nearest_point() {
    let error = "unembed.hook_in"
        .parse::<HookPoint>()
        .unwrap_err()
        .to_string();
    let nearest = HookPoint::LnFinalNormalized;
    assert!(
        error.contains(&format!("did you mean `{nearest}`?")),
        "{error}"
    );
    assert!(error.contains("before weight and bias"), "{error}");
    let other = "unembed.hook_ou"
        .parse::<HookPoint>()
        .unwrap_err()
        .to_string();
    assert!(
        other.ends_with("did you mean `unembed.hook_out`?"),
        "{other}"
    );

    let model = model();
    let (logits, cache) = model
        .run_with_cache(TOKENS, &Selection::everything(model.config()))
        .unwrap();
    let norm = &model.parameters().ln_f;
    let normalized = cache.get(nearest).unwrap();
    let input = &normalized * &norm.weight + &norm.bias;
    for point in cache.points() {
        assert_ne!(
            bits(cache.get(point).unwrap()),
            bits(input.view()),
            "{point}"
        );
    }
    let input: Array2<f32> = input.into_dimensionality().unwrap();
    let found = input.dot(&model.parameters().w_u());
    let difference = crate::common::difference(found.view().into_dyn(), logits.view().into_dyn());
    assert!(difference < 1e-5, "{difference}");
}
