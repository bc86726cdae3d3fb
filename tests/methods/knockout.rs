//! Attention knock-out against TransformerLens's hooks (`tests/golden/knockout.py`), full runs, and
//! what cannot be cut.

use std::fs;

use ndarray::Ix3;
use patchlens::ablation::KnockOut;
use patchlens::knockout::{AttentionKnockout, Cut, cuts_of_facts};
use patchlens::metric::probability;
use patchlens::tasks::FactPrompt;
use patchlens::tracing::TracedFact;
use patchlens::{
    Base, Edit, Intervention, Interventions, Metric, Prompt, Prompts, Run, Select, Site, Target,
    Tokenizer, Transformer,
};
use serde_json::Value;

use crate::common;

const MODELS: [&str; 2] = ["tiny-gelu", "mini"];

fn model(name: &str) -> Transformer {
    match name {
        "mini" => Transformer::mini(),
        name => common::open(name),
    }
}

fn metadata(name: &str) -> Value {
    let file = common::dir(name).join("knockout.json");
    serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap()
}

fn prompts(metadata: &Value) -> Prompts {
    let prompts = metadata["prompts"].as_array().unwrap();
    Prompts::new(prompts.iter().map(common::tokens)).unwrap()
}

/// One list of positions per prompt.
fn places(value: &Value) -> Select {
    let list = |v: &Value| -> Vec<usize> {
        let tokens = common::tokens(v).into_iter();
        tokens.map(|t| t as usize).collect()
    };
    Select::each(value.as_array().unwrap().iter().map(list))
}

fn cuts(metadata: &Value) -> Vec<Cut> {
    let cuts = metadata["cuts"].as_object().unwrap().iter();
    let cut = |(name, cut): (&String, &Value)| {
        let whole = Cut::new(name, places(&cut["src"])).read_by(places(&cut["dest"]));
        match cut["heads"].as_array() {
            None => whole,
            Some(heads) => {
                let heads = heads.iter().map(|h| h.as_u64().unwrap() as usize);
                whole.in_heads(heads.collect::<Vec<_>>())
            }
        }
    };
    cuts.map(cut).collect()
}

fn run(study: &AttentionKnockout<'_>, cuts: &[Cut]) -> KnockOut {
    let metric = probability(&study.base().likeliest().unwrap());
    study.run(cuts, &metric).unwrap()
}

#[test]
fn knockouts_are_those_of_transformer_lens() {
    for name in MODELS {
        let (model, metadata) = (model(name), metadata(name));
        let golden = common::tensors(name, "knockout.safetensors");
        let prompts = prompts(&metadata);
        let base = Base::new(&model, &prompts).unwrap();
        let tokens: Vec<f32> = base
            .likeliest()
            .unwrap()
            .iter()
            .map(|t| *t as f32)
            .collect();
        assert_eq!(tokens, golden["tokens"].iter().copied().collect::<Vec<_>>());
        let mut comparison = common::Comparison::new(1e-5);
        let cuts = cuts(&metadata);
        for window in common::tokens(&metadata["windows"]) {
            let study = AttentionKnockout::over(&base).window(window as usize);
            let found = run(&study, &cuts);
            comparison.add(
                "clean",
                found.clean.view().into_dyn(),
                golden["clean"].view(),
            );
            for (cut, values) in cuts.iter().zip(found.values.outer_iter()) {
                let key = format!("{}/window{window}", cut.name);
                comparison.add(&key, values, golden[&key].view());
            }
            // To keep the rest is to cut these.
            let kept = Cut::all_but("rest", Select::each([vec![0, 3, 4, 5, 6], vec![1, 2, 3]]));
            let rest = run(&study, &[kept]);
            let sources = cuts.iter().position(|cut| cut.name == "sources").unwrap();
            assert_eq!(
                rest.values.index_axis(ndarray::Axis(0), 0),
                found.values.index_axis(ndarray::Axis(0), sources)
            );
        }
        comparison.finish(&format!("knock-outs of {name}"));
    }
}

#[test]
fn knockouts_have_the_bits_of_full_runs() {
    let (model, metadata) = (Transformer::mini(), metadata("mini"));
    let (prompts, cuts) = (prompts(&metadata), cuts(&metadata));
    let study = AttentionKnockout::new(&model, &prompts).unwrap().window(2);
    let metric = probability(&study.base().likeliest().unwrap());
    let found = study.run(&cuts, &metric).unwrap();
    let values = found.values.view().into_dimensionality::<Ix3>().unwrap();
    for ((c, layer, i), value) in values.indexed_iter() {
        let cut = &cuts[c];
        let edit = |layer: usize| {
            let dests = cut.dest.resolve(i, prompts[i].len());
            let target = Target::new(Site::AttnScores.at(layer)).at_positions(dests);
            let target = target.at_heads(cut.heads.clone());
            let sources = cut.src.resolve(i, prompts[i].len());
            let blocked = patchlens::intervention::Values::scalar(f32::NEG_INFINITY);
            Intervention::new(target.at_src(sources), Edit::Set(blocked))
        };
        let edits: Vec<Intervention> = (layer.max(1) - 1..=layer).map(edit).collect();
        let mut hooks = Interventions::new(&edits[..]);
        let output = model.run(&prompts[i], &mut hooks, &Run::default()).unwrap();
        // The only prompt of this run.
        let token = study.base().likeliest().unwrap()[i];
        let full = probability(&[token])
            .evaluate(0, output.logits.get(0))
            .unwrap();
        assert_eq!(value.to_bits(), full.to_bits(), "{} {layer} {i}", cut.name);
    }
}

#[test]
fn facts_have_three_cuts_and_the_effect_is_a_percentage() {
    let (model, tokenizer) = (Transformer::mini(), Tokenizer::mini());
    let text = "Ada Brown plays the sport of";
    let fact = FactPrompt::new(&tokenizer, text, "Ada Brown", " boxing", "sport").unwrap();
    let fact = TracedFact::from(&fact);
    let cuts = cuts_of_facts(std::slice::from_ref(&fact)).unwrap();
    let sources = |cut: &Cut| cut.src.resolve(0, 6);
    let found: Vec<(&str, Vec<usize>)> = cuts
        .iter()
        .map(|cut| (&cut.name[..], sources(cut)))
        .collect();
    let expected = [
        ("subject", vec![0, 1]),
        ("other tokens", vec![2, 3, 4]),
        ("last token", vec![5]),
    ];
    assert_eq!(found, expected);
    let study = AttentionKnockout::new(&model, &fact.prompt).unwrap();
    assert_eq!(
        tokenizer.token_text(study.base().likeliest().unwrap()[0]),
        " boxing"
    );
    let found = run(&study, &cuts);
    // Nothing but the subject says which sport.
    assert!(found.relative().unwrap().values()[[0, 0]] < -90.0);
    let percent = 100.0 * (found.values[[2, 3, 0]] - found.clean[0]) / found.clean[0];
    assert_eq!(found.relative().unwrap().values()[[2, 3]], percent);
    let at_end = TracedFact::new(fact.prompt.clone(), 4..6).unwrap();
    let error = cuts_of_facts(&[at_end]).unwrap_err().to_string();
    assert!(error.contains("a subject before the last token"), "{error}");
}

#[test]
fn cuts_that_cannot_be_made_are_errors() {
    let model = Transformer::mini();
    let prompt = Prompt::from(vec![1, 2, 3, 4]);
    let study = AttentionKnockout::new(&model, &prompt).unwrap();
    let metric = probability(&[5]);
    let message = |study: &AttentionKnockout<'_>, cuts: &[Cut], metric: &Metric| {
        study.run(cuts, metric).unwrap_err().to_string()
    };
    for (cut, expected) in [
        (Cut::new("all", 0..4), "all sources of destination 3"),
        (
            Cut::all_but("none", Vec::<usize>::new()),
            "no src is selected",
        ),
        (
            Cut::new("later", 3).read_by(1),
            "destinations [1] read none",
        ),
        (Cut::new("beyond", 9), "9"),
        (Cut::new("heads", 0).in_heads(7), "head"),
    ] {
        let found = message(&study, std::slice::from_ref(&cut), &metric);
        assert!(found.contains(expected), "{cut:?}: {found}");
    }
    assert!(message(&study, &[], &metric).contains("at least one"));
    let none = study.clone().window(0);
    assert!(message(&none, &[Cut::new("one", 0)], &metric).contains("at least 1 layer"));
}
