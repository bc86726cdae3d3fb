//! Prompts, hooks, edits, grids and metrics that cannot work: each gives an error that says what
//! was found and what was expected, before anything is computed. (Files and configs: `bad_files`.)

mod experiments;

use ndarray::Array2;
use patchlens::generate::Generation;
use patchlens::intervention::Values;
use patchlens::metric::next_token_loss;
use patchlens::{
    Edit, Error, HookPoint, Intervention, Interventions, KeepLogits, Prompt, Prompts, Run, Select,
    Selection, Site, Target, Transformer, hook_fn,
};

/// 2 layers, 3 heads of 8, 53 tokens, context 16.
fn model() -> Transformer {
    crate::common::open("tiny-gelu-new")
}

fn prompt(tokens: &[u32]) -> Prompt {
    Prompt::from(tokens)
}

fn intervene(target: impl Into<Target>, edit: Edit) -> Result<(), Error> {
    let list = [Intervention::new(target, edit)];
    let hooks = Interventions::new(&list[..]);
    model().run_with_hooks([1, 2, 3], hooks).map(|_| ())
}

fn run(tokens: &[u32], run: &Run<'_>) -> Result<(), Error> {
    model().run(&prompt(tokens), (), run).map(|_| ())
}

fn hook(point: HookPoint, run: &Run<'_>) -> Result<(), Error> {
    model()
        .run(&prompt(&[1, 2]), hook_fn(point, |_, _| ()), run)
        .map(|_| ())
}

fn values(shape: (usize, usize)) -> Values {
    Values::array(Array2::zeros(shape))
}

fn parse(name: &str) -> Result<(), Error> {
    name.parse::<HookPoint>().map(|_| ())
}

type Case = (&'static str, Result<(), Error>, &'static [&'static str]);

fn prompts_and_runs() -> Vec<Case> {
    let cached = |selection: Selection, stop| {
        let run = Run {
            cache: Some(&selection),
            stop_at_layer: stop,
            ..Run::default()
        };
        model().run(&prompt(&[1, 2]), (), &run).map(|_| ())
    };
    let stop = |layer| Run {
        stop_at_layer: Some(layer),
        ..Run::default()
    };
    let no_logits = Run {
        logits: KeepLogits::None,
        ..Run::default()
    };
    vec![
        (
            "empty prompt",
            model().forward([]).map(|_| ()),
            &["prompt 0", "0 tokens", "1 to 16"],
        ),
        (
            "too long",
            model().forward(vec![1; 17]).map(|_| ()),
            &["17 tokens", "1 to 16", "n_positions"],
        ),
        (
            "token out of range",
            model().forward([1, 53]).map(|_| ()),
            &["token 53", "0..53"],
        ),
        (
            "no prompts",
            Prompts::new(Vec::<Prompt>::new()).map(|_| ()),
            &["empty set", "at least one"],
        ),
        (
            "no prompts to run",
            model().run(&[][..], (), &Run::default()).map(|_| ()),
            &["none", "at least one"],
        ),
        (
            "stop behind the model",
            run(&[1], &stop(3)),
            &["stop_at_layer", "layer 3", "0..=2"],
        ),
        (
            "hook behind the stop",
            hook(Site::ResidPre.at(1), &stop(1)),
            &["blocks.1.hook_resid_pre", "never fire", "before layer 1"],
        ),
        (
            "logits hook without logits",
            hook(HookPoint::Logits, &no_logits),
            &["unembed.hook_out", "never fire"],
        ),
        (
            "all logits kept of a run that computes the last",
            run(
                &[1, 2],
                &Run {
                    cache: Some(&Selection::points([HookPoint::Logits])),
                    logits: KeepLogits::Last,
                    ..Run::default()
                },
            ),
            &["unembed.hook_out", "last position only"],
        ),
        (
            "a prompt without labels",
            model()
                .run(
                    &Prompt {
                        tokens: vec![1, 2],
                        labels: Vec::new(),
                    },
                    (),
                    &Run::default(),
                )
                .map(|_| ()),
            &["prompt 0", "0 labels for 2 tokens"],
        ),
        (
            "more tokens than can be counted",
            model()
                .generate(&prompt(&[1, 2]), (), &Generation::greedy(usize::MAX))
                .map(|_| ()),
            &["2 tokens", "at most 17 together"],
        ),
        (
            "cache of a missing layer",
            cached(Selection::points([Site::Z.at(2)]), None),
            &[
                "blocks.2.attn.hook_z",
                "layer 2",
                "0..2",
                "nearest `blocks.1.attn.hook_z`",
            ],
        ),
        (
            "cache behind the stop",
            cached(Selection::points([Site::Z.at(1)]), Some(1)),
            &["blocks.1.attn.hook_z", "never fire"],
        ),
        (
            "cache of a missing position",
            cached(Selection::points([Site::Z.at(1)]).at_positions([2]), None),
            &["pos 2", "0..2"],
        ),
        (
            "activation not kept",
            not_kept(),
            &[
                "does not hold `blocks.1.attn.hook_z`",
                "blocks.0.hook_resid_pre",
            ],
        ),
        (
            "loss of one token",
            next_token_loss(Array2::zeros((1, 5)).view(), &[1]).map(|_| ()),
            &["1 tokens", "at least 2"],
        ),
    ]
}

fn not_kept() -> Result<(), Error> {
    let selection = Selection::points([Site::ResidPre.at(0)]);
    let (_, cache) = model().run_with_cache([1, 2], &selection)?;
    cache.get(Site::Z.at(1)).map(|_| ())
}

fn hook_names() -> Vec<Case> {
    vec![
        (
            "misspelt site",
            parse("blocks.0.attn.hook_patern"),
            &[
                "unknown hook `blocks.0.attn.hook_patern`",
                "`blocks.0.attn.hook_pattern`",
            ],
        ),
        (
            "no block",
            parse("attn.hook_z"),
            &["did you mean `blocks.0.attn.hook_z`?"],
        ),
        (
            "bare site",
            parse("hook_q"),
            &["did you mean `blocks.0.attn.hook_q`?"],
        ),
        (
            "leading zero",
            parse("blocks.07.hook_resid_pre"),
            &["did you mean `blocks.7.hook_resid_pre`?"],
        ),
        (
            "no layer",
            parse("blocks.x.hook_mlp_out"),
            &["did you mean `blocks.0.hook_mlp_out`?"],
        ),
        ("empty name", parse(""), &["unknown hook ``"]),
        (
            "misspelt global",
            parse("ln_final.hook_normalised"),
            &["`ln_final.hook_normalized`"],
        ),
    ]
}

fn interventions() -> Vec<Case> {
    let z = || Target::new(Site::Z.at(1));
    let short = {
        let all = Selection::everything(model().config());
        let cache = model().run_with_cache([1, 2], &all).unwrap().1;
        Edit::patch(&[cache], Site::Z.at(1)).unwrap()
    };
    vec![
        (
            "layer",
            intervene(Site::Z.at(5), Edit::Zero),
            &["blocks.5.attn.hook_z", "layer 5", "0..2"],
        ),
        (
            "head",
            intervene(z().at_heads(3), Edit::Zero),
            &["head 3", "0..3"],
        ),
        (
            "head where there is none",
            intervene(Target::new(Site::MlpOut.at(0)).at_heads(0), Edit::Zero),
            &["hook_mlp_out", "never fire", "[pos, d_model]"],
        ),
        (
            "source where there is none",
            intervene(z().at_src(0), Edit::Zero),
            &["never fire", "[pos, head, d_head]"],
        ),
        (
            "position",
            intervene(z().at_positions(3), Edit::Zero),
            &["pos 3", "0..3"],
        ),
        (
            "destination",
            intervene(Target::new(Site::Pattern.at(0)).at_positions(4), Edit::Zero),
            &["dest 4", "0..3"],
        ),
        (
            "source",
            intervene(Target::new(Site::Pattern.at(0)).at_src(9), Edit::Zero),
            &["src 9", "0..3"],
        ),
        (
            "sequence",
            intervene(z().at_sequences(1), Edit::Zero),
            &["sequence 1", "0..1"],
        ),
        (
            "nothing selected",
            intervene(z().at_heads(Vec::<usize>::new()), Edit::Zero),
            &["never fire", "no head is selected"],
        ),
        (
            "values of another shape",
            intervene(z(), Edit::Set(values((2, 5)))),
            &["set at blocks.1.attn.hook_z", "[2, 5]", "[3, 3, 8]"],
        ),
        (
            "patch of another length",
            intervene(z(), short),
            &["patch at", "[2, 3, 8]", "[3, 3, 8]"],
        ),
        (
            "NaN values",
            intervene(z(), Edit::Add(Values::scalar(f32::NAN))),
            &["add at", "NaN"],
        ),
        (
            "infinite factor",
            intervene(z(), Edit::Scale(f32::INFINITY)),
            &["scale at", "inf", "finite"],
        ),
        (
            "negative deviation",
            intervene(z(), Edit::Noise { std: -1.0, seed: 0 }),
            &["noise at", "-1", "not negative"],
        ),
        (
            "too many arrays",
            intervene(
                z(),
                Edit::Set(Values::arrays(vec![ndarray::arr0(0.0).into_dyn(); 2])),
            ),
            &["number of arrays", "found 2", "found 2; expected 1"],
        ),
        (
            "patch from nothing",
            Edit::patch(&[], Site::Z.at(0)).map(|_| ()),
            &["caches", "found 0"],
        ),
        (
            "patch from part of a run",
            from_part(),
            &["[1, 3, 8]", "all 3 positions"],
        ),
    ]
}

fn from_part() -> Result<(), Error> {
    let some = Selection::points([Site::Z.at(0)]).at_positions([1]);
    let (_, cache) = model().run_with_cache([1, 2, 3], &some)?;
    Edit::patch(&[cache], Site::Z.at(0)).map(|_| ())
}

#[test]
fn every_mistake_is_named() {
    let tables = [
        prompts_and_runs(),
        hook_names(),
        interventions(),
        experiments::cases(),
    ];
    let cases: Vec<Case> = tables.into_iter().flatten().collect();
    assert!(cases.len() >= 30);
    for (what, result, expected) in cases {
        let message = match result {
            Ok(()) => panic!("{what}: no error"),
            Err(error) => error.to_string(),
        };
        for part in expected {
            assert!(message.contains(part), "{what}: {message:?} lacks {part:?}");
        }
    }
}

/// The receipt tells what fired, how often, and what changed nothing.
#[test]
fn receipts_tell_what_happened() {
    let model = model();
    let scale = Intervention::new(Target::new(Site::Z.at(0)).at_heads(1), Edit::Scale(1.0));
    let zero = Intervention::new(
        Target::new(Site::Z.at(1)).at_positions(Select::Last),
        Edit::Zero,
    );
    let list = [scale, zero];
    let mut hooks = Interventions::new(&list[..]);
    let prompts = Prompts::new([vec![1, 2, 3], vec![4, 5]]).unwrap();
    model.run(&prompts, &mut hooks, &Run::default()).unwrap();
    let receipt = hooks.receipt();
    let counts: Vec<_> = receipt
        .fired
        .iter()
        .map(|f| (f.times, f.rows, f.changed_rows))
        .collect();
    assert_eq!(counts, [(2, 5, 0), (2, 6, 6)]);
    let silent: Vec<&str> = receipt
        .without_effect()
        .map(|f| f.target.as_str())
        .collect();
    assert_eq!(silent, ["blocks.0.attn.hook_z[head 1]"]);
    assert!(receipt.to_string().contains("CHANGED NOTHING"), "{receipt}");
}
