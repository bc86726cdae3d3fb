//! The head report on the shipped model: labels agree with what ablation costs.
#![cfg(feature = "mini")]

use patchlens::tasks::{Corruption, Ioi, Repeated, Split};
use patchlens::{
    Head, HeadLabel, HeadReport, HeadReporter, HeadTask, InductionSearch, Prompt, Replacement,
    Role, Tokenizer, Transformer, induction_circuit, logit_diffs, repeated_loss,
};

fn report(model: &Transformer, tokenizer: &Tokenizer) -> HeadReport {
    let ioi = Ioi::new(tokenizer).unwrap().split(Split::HeldOut).unwrap();
    let pairs = ioi.pairs(32, Corruption::Abc, 0).unwrap();
    let clean: Vec<_> = pairs.into_iter().map(|pair| pair.clean).collect();
    let answers: Vec<(u32, u32)> = clean.iter().map(|p| (p.io, p.s)).collect();
    let repeated = Repeated::new(tokenizer).unwrap().with_bos().unwrap();
    let prompts = repeated.prompts(8, 20, 2, 0).unwrap();
    let prompts: Vec<Prompt> = prompts.iter().map(Prompt::from).collect();
    let mut reporter = HeadReporter::new(&prompts);
    reporter.copy_tokens = answers.iter().map(|(io, _)| *io).collect();
    reporter.bos = Some(tokenizer.bos().unwrap());
    reporter.ablation = Replacement::Mean;
    reporter.task = Some(HeadTask {
        metric: logit_diffs(&answers),
        end: Role::new("END", clean.iter().map(|p| p.positions.end)),
        roles: vec![
            Role::new("IO", clean.iter().map(|p| p.positions.io)),
            Role::new("S1", clean.iter().map(|p| p.positions.s1)),
            Role::new("S2", clean.iter().map(|p| p.positions.s2)),
        ],
        answer: Some("IO".to_string()),
        prompts: clean.iter().map(Prompt::from).collect(),
    });
    reporter.run(model).unwrap()
}

#[test]
fn name_movers_are_heads_whose_ablation_costs_most() {
    let (model, tokenizer) = (Transformer::mini(), Tokenizer::mini());
    let report = report(&model, &tokenizer);
    println!("base {:?}\n{report}", report.base);
    for card in report.cards.iter().flat_map(|c| &c.suggestions) {
        println!("{}: {}", card.label, card.evidence);
    }
    let movers = report.with_label(HeadLabel::NameMover);
    assert!(!movers.is_empty(), "{report}");
    let lost = |head: &Head| {
        report
            .card(*head)
            .unwrap()
            .task
            .as_ref()
            .unwrap()
            .lost
            .value
            .unwrap()
    };
    let last = movers.iter().map(|h| h.layer).min().unwrap();
    // Heads that come before the movers feed them; among those beside and after, movers cost most.
    let others = Head::all(model.config()).filter(|h| h.layer >= last && !movers.contains(h));
    let least = movers.iter().map(lost).fold(f32::INFINITY, f32::min);
    for other in others {
        assert!(
            lost(&other) < least,
            "{other} costs more than a name mover: {report}"
        );
    }
}

#[test]
fn the_induction_circuit_carries_the_gain() {
    let (model, tokenizer) = (Transformer::mini(), Tokenizer::mini());
    let repeated = Repeated::new(&tokenizer).unwrap().with_bos().unwrap();
    let sequences = repeated.prompts(8, 20, 2, 3).unwrap();
    let loss = repeated_loss(&model, &sequences).unwrap();
    let found = induction_circuit(&model, &sequences, InductionSearch::default()).unwrap();
    println!(
        "{:?} {:?} {:?}",
        loss.first_loss, loss.second_loss, loss.second_accuracy
    );
    println!(
        "{}\n{:?}\n{:#?}",
        found.removed, found.induction_heads, found.edges
    );
    println!("{:?} {:?}", found.senders_removed, found.induction_removed);
    assert!((found.gain.0 - loss.gain.0).abs() < 1e-4);
    assert!(!found.edges.is_empty());
    assert!(found.senders_removed.unwrap() > 0.3 && found.induction_removed.unwrap() > 0.3);
    for edge in &found.edges {
        assert!(edge.attention[1] < edge.attention[0], "{edge:?}");
    }
}
