//! Pairs of different length and answers of several tokens, against TransformerLens
//! (`tests/golden/aligned.py`).

use std::fs;

use ndarray::{ArrayD, Axis as Dim};
use patchlens::metric::{answer_log_probability, answer_probability};
use patchlens::patching::{ActivationPatching, Alignment};
use patchlens::report::{Absent, Direction};
use patchlens::tracing::{CausalTracing, Restore, SubjectCorruption, TracedFact};
use patchlens::{
    Base, Edit, Grid, Intervention, Metric, Prompt, Prompts, Run, Select, Site, Sweep, Target,
    activation_patching, logit_diff,
};
use serde_json::Value;

use crate::common::{self, Comparison};

const MODEL: &str = "tiny-gelu";

fn metadata() -> Value {
    let file = common::dir(MODEL).join("aligned.json");
    serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap()
}

fn lists(value: &Value) -> Vec<Vec<u32>> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(common::tokens)
        .collect()
}

fn prompts(value: &Value) -> Prompts {
    Prompts::new(lists(value)).unwrap()
}

/// The positions of a role on one side, one list per pair; empty where the pair lacks it.
fn side(role: &Value, side: usize) -> Select {
    let pairs = role.as_array().unwrap().iter();
    Select::each(pairs.map(|pair| -> Vec<usize> {
        let list = pair.get(side).map(common::tokens).unwrap_or_default();
        list.into_iter().map(|p| p as usize).collect()
    }))
}

fn alignment(metadata: &Value) -> Alignment {
    let roles = ["name", "middle", "end"].map(|name| {
        let role = &metadata["roles"][name];
        (name, side(role, 0), side(role, 1))
    });
    Alignment::roles(roles)
}

fn metric(metadata: &Value) -> Metric {
    let tokens = common::tokens(&metadata["tokens"]);
    logit_diff(tokens[0], tokens[1])
}

#[test]
fn patching_by_role_equals_transformer_lens() {
    let (model, of) = (common::open(MODEL), metadata());
    let golden = common::tensors(MODEL, "aligned.safetensors");
    let mut comparison = Comparison::new(1e-5);
    for (name, direction) in [
        ("denoising", Direction::Denoising),
        ("noising", Direction::Noising),
    ] {
        let [clean, corrupted] = ["clean", "corrupted"].map(|run| prompts(&of[run]));
        let study = ActivationPatching::aligned(&model, &clean, &corrupted, alignment(&of))
            .unwrap()
            .direction(direction);
        for (key, grid) in [
            ("resid_pre", Grid::Positions(Site::ResidPre)),
            ("z", Grid::Heads(Site::Z)),
        ] {
            let found = study.run(grid, &metric(&of)).unwrap();
            // The reference has the plain run's metric where a pair lacks a role.
            let base = &golden[&format!("base/{name}")];
            let mut values = found.values.clone();
            for (mut lane, absent) in values
                .lanes_mut(Dim(2))
                .into_iter()
                .zip(found.per_prompt_absent.lanes(Dim(2)))
            {
                for (i, value) in lane.iter_mut().enumerate() {
                    assert_eq!(value.is_nan(), absent[i] == Some(Absent::NoSamples));
                    if value.is_nan() {
                        *value = base[[i]];
                    }
                }
            }
            comparison.add(key, values.view(), golden[&format!("{key}/{name}")].view());
            let lacking = found
                .per_prompt_absent
                .iter()
                .filter(|a| a.is_some())
                .count();
            assert_eq!(
                lacking,
                if key == "z" {
                    0
                } else {
                    model.config().n_layers
                }
            );
        }
    }
    comparison.finish("aligned patching");
}

#[test]
fn means_are_those_of_the_pairs_that_have_the_role() {
    let (model, of) = (common::open(MODEL), metadata());
    let [clean, corrupted] = ["clean", "corrupted"].map(|run| prompts(&of[run]));
    let study = ActivationPatching::aligned(&model, &clean, &corrupted, alignment(&of)).unwrap();
    let found = study
        .run(Grid::Positions(Site::ResidPre), &metric(&of))
        .unwrap();
    assert_eq!(found.effect.axes()[1].labels, ["name", "middle", "end"]);
    let at = |pair: usize| found.per_prompt[[0, 1, pair]];
    assert!(at(1).is_nan());
    let mean = ((f64::from(at(0)) + f64::from(at(2))) / 2.0) as f32;
    assert_eq!(found.effect.values()[[0, 1]], mean);
    let error = (at(0) - at(2)).abs() / 2.0;
    assert!((found.effect.std_error().unwrap()[[0, 1]] - error).abs() < 1e-6);
}

#[test]
fn prompts_of_one_length_have_the_bits_of_ordinary_patching() {
    let model = common::open(MODEL);
    let (clean, corrupted) = (
        Prompt::from([7, 31, 2, 45, 18]),
        Prompt::from([7, 3, 2, 40, 18]),
    );
    let metric = logit_diff(3, 5);
    let map = Alignment::common_ends(&clean, &corrupted).unwrap();
    let study = ActivationPatching::aligned(&model, &clean, &corrupted, map).unwrap();
    for grid in [
        Grid::Positions(Site::ResidPre),
        Grid::HeadPositions(Site::Z),
        Grid::Heads(Site::Q),
        Grid::EveryBlock,
    ] {
        let ordinary = activation_patching(&model, &clean, &corrupted, grid, &metric).unwrap();
        let aligned = study.run(grid, &metric).unwrap();
        assert_eq!(aligned.values, ordinary.values, "{grid:?}");
        assert_eq!(aligned.effect.values(), ordinary.effect.values());
        assert_eq!(aligned.effect.axes(), ordinary.effect.axes());
    }
}

#[test]
fn what_has_no_partner_has_no_value() {
    let model = common::open(MODEL);
    let (clean, corrupted) = (Prompt::from([7, 31, 2, 45, 18]), Prompt::from([7, 3, 18]));
    let metric = logit_diff(3, 5);
    let map = Alignment::common_ends(&clean, &corrupted).unwrap();
    assert_eq!(map, Alignment::map([vec![(0, 0), (4, 2)]]));
    let study = ActivationPatching::aligned(&model, &clean, &corrupted, map).unwrap();
    let found = study.run(Grid::Positions(Site::ResidMid), &metric).unwrap();
    let absent: Vec<bool> = found.effect.absent().iter().map(Option::is_some).collect();
    assert_eq!(absent[..5], [false, true, true, true, false]);
    assert!(
        found
            .effect
            .absent()
            .iter()
            .flatten()
            .all(|a| *a == Absent::NoSamples)
    );
}

#[test]
fn alignments_that_cannot_be_are_errors() {
    let model = common::open(MODEL);
    let (clean, corrupted) = (Prompt::from([7, 31, 2, 45, 18]), Prompt::from([7, 3, 18]));
    let study = |alignment| ActivationPatching::aligned(&model, &clean, &corrupted, alignment);
    let text = |alignment| study(alignment).unwrap_err().to_string();
    let role = |a: Select, b: Select| Alignment::roles([("end", a, b)]);
    let nothing = || Select::from(Vec::<usize>::new());
    for (alignment, expected) in [
        (Alignment::map([vec![(0, 3)]]), "second prompt"),
        (Alignment::map([vec![(0, usize::MAX)]]), "second prompt"),
        (Alignment::map([vec![(usize::MAX, 0)]]), "first prompt"),
        (
            Alignment::map([vec![(1, 1), (1, 2)]]),
            "position 1 of the first prompt twice",
        ),
        (
            Alignment::map([vec![(1, 1), (2, 1)]]),
            "position 1 of the second prompt twice",
        ),
        (
            Alignment::map([vec![], vec![]]),
            "found 2; expected 1, one per pair",
        ),
        (
            Alignment::map([vec![]]),
            "at least one position with a partner",
        ),
        (
            role(Select::from(5), Select::Last),
            "role end of the first prompts",
        ),
        (
            role(Select::Last, Select::from(-4)),
            "role end of the second prompts",
        ),
        (role(Select::each([1, 2]), Select::Last), "one per prompt"),
        (
            role(nothing(), Select::Last),
            "at least one position with a partner",
        ),
    ] {
        let message = text(alignment);
        assert!(message.contains(expected), "{message}\nlacks: {expected}");
    }
    let study = study(role(Select::Last, Select::Last)).unwrap();
    for grid in [
        Grid::PatternDest,
        Grid::EveryHead,
        Grid::Heads(Site::Pattern),
    ] {
        let message = study.run(grid, &logit_diff(1, 2)).unwrap_err().to_string();
        assert!(message.contains("without a source axis"), "{message}");
    }
}

#[test]
fn b33_answers_of_several_tokens_equal_transformer_lens() {
    let (model, of) = (common::open(MODEL), metadata());
    let golden = common::tensors(MODEL, "aligned.safetensors");
    let answers = lists(&of["answers"]);
    let forced = lists(&of["clean"]).into_iter().zip(&answers);
    let forced = forced
        .map(|(prompt, answer)| Prompt::from(prompt).teacher_forced(&Prompt::from(&answer[..])));
    let forced = Prompts::new(forced).unwrap();
    let metric = answer_log_probability(&answers);
    let base = Base::new(&model, &forced).unwrap();
    let found = base.metric(&metric).unwrap();
    let mut comparison = Comparison::new(1e-5);
    comparison.add("answers", found.view().into_dyn(), golden["answers"].view());
    // The same sum from a forward pass, in f64 over its logits.
    for (i, prompt) in forced.iter().enumerate() {
        let logits = model.forward(&prompt.tokens).unwrap();
        assert_eq!(found[i], metric.evaluate(i, logits.view()).unwrap());
    }
    // In a sweep: resid_pre set to zero, one position and layer at a time.
    let first = Base::new(&model, &forced[0]).unwrap();
    let n_layers = model.config().n_layers;
    let cells: Vec<_> = (0..n_layers)
        .flat_map(|layer| (0..forced[0].len()).map(move |pos| (layer, pos)))
        .map(|(layer, pos)| {
            let target = Target::new(Site::ResidPre.at(layer)).at_positions(pos);
            vec![Intervention::new(target, Edit::Zero)]
        })
        .collect();
    let metric = answer_log_probability(&answers[..1]);
    let result = Sweep::over(&first).run(&cells, &metric).unwrap();
    let expected = &golden["answers/resid_pre"];
    let values = ArrayD::from_shape_vec(expected.shape(), result.values.into_iter().collect());
    comparison.add("resid_pre", values.unwrap().view(), expected.view());
    comparison.finish("answers of several tokens");
}

#[test]
fn b33_a_fact_with_an_answer_of_several_tokens_is_traced() {
    let model = common::open(MODEL);
    let answer = Prompt::from([9, 4, 30]);
    let fact = TracedFact::new(Prompt::from([7, 31, 2, 45, 18]), 1..3).unwrap();
    let fact = fact.with_answer(&answer);
    assert_eq!(fact.prompt.tokens, [7, 31, 2, 45, 18, 9, 4]);
    let tracing = CausalTracing::new(&model, SubjectCorruption::noise(0.3));
    let trace = tracing.trace(&fact, Restore::states()).unwrap();
    assert_eq!(trace.answer, answer.tokens);
    let metric = answer_probability(std::slice::from_ref(&answer.tokens));
    let logits = model.forward(&fact.prompt.tokens).unwrap();
    assert_eq!(trace.clean, metric.evaluate(0, logits.view()).unwrap());
    // One token by this name is the likeliest token's ordinary trace.
    let plain = TracedFact::new(Prompt::from([7, 31, 2, 45, 18]), 1..3).unwrap();
    let ordinary = tracing.trace(&plain, Restore::states()).unwrap();
    let one = plain.with_answer(&Prompt::from(&ordinary.answer[..]));
    let one = tracing.trace(&one, Restore::states()).unwrap();
    assert_eq!(one.restored, ordinary.restored);
    // A model that says something else does not know it.
    let set = tracing.trace_set(&[fact], &[Restore::states()]);
    let message = set.unwrap_err().to_string();
    assert!(message.contains("0 of 1"), "{message}");
}

#[test]
fn b33_prompts_without_the_tokens_of_their_answer_are_errors() {
    let model = common::open(MODEL);
    let metric = answer_log_probability(&[vec![9, 4, 30]]);
    let of = |prompt: &[u32]| {
        let base = Base::new(&model, &Prompt::from(prompt)).unwrap();
        base.metric(&metric).unwrap_err().to_string()
    };
    let message = of(&[7, 31, 2, 45, 18]);
    assert!(
        message.contains("expected [9, 4], the answer's tokens but the last"),
        "{message}"
    );
    let message = of(&[9, 4]);
    assert!(message.contains("2 tokens for an answer of 3"), "{message}");
    let wide = answer_log_probability(&[vec![9, 4, 999]]);
    let forced = Prompt::from([7]).teacher_forced(&Prompt::from([9, 4, 999]));
    let message = model
        .run(&forced, (), &Run::default())
        .map(|_| ())
        .and_then(|()| Base::new(&model, &forced)?.metric(&wide).map(|_| ()));
    assert!(message.unwrap_err().to_string().contains("999"));
}
