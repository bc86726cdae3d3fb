//! What people do with hooks: lists of them, closures over many points, looking without touching,
//! and going on after a failure.

use ndarray::{ArrayViewD, ArrayViewMutD};
use patchlens::{
    Edit, HookPoint, Hooks, Intervention, Interventions, Prompt, Prompts, Run, RunOutput,
    Selection, Site, Target, Transformer, Visit, hook_fn,
};

const TOKENS: [u32; 7] = [1, 2, 3, 4, 5, 6, 7];

fn model() -> Transformer {
    crate::common::open("tiny-gelu-new")
}

fn bits<'a>(values: impl Into<ArrayViewD<'a, f32>>) -> Vec<u32> {
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
    let one = |list: &[Intervention]| Interventions::new(list.to_vec());
    let (a, b, c) = (
        scale(Site::Result, 0, 0, 2.0),
        scale(Site::Result, 2, 1, -1.0),
        scale(Site::MlpOut, 1, 0, 3.0),
    );
    let nested = run(
        &model,
        (one(&[a.clone()]), (one(&[b.clone()]), one(&[c.clone()]))),
    );
    assert_ne!(logit_bits(&nested), logit_bits(&run(&model, ())));

    let mut list = vec![one(&[a.clone()]), one(&[b.clone()]), one(&[c.clone()])];
    let listed = run(&model, &mut list);
    let (mut first, mut second) = (one(&[a.clone()]), one(&[b.clone(), c.clone()]));
    let boxed: Vec<Box<dyn Hooks + '_>> =
        vec![Box::new(&mut first), Box::new(()), Box::new(&mut second)];
    let boxed = run(&model, boxed);
    let mut whole = one(&[a, b, c]);
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
