//! The head report and the circuit search on the shipped model: their figures are those of full
//! runs, and labels have the evidence that they claim.
#![cfg(feature = "mini")]

use patchlens::tasks::{Corruption, Ioi, Repeated, Split};
use patchlens::{
    Edit, Head, HeadLabel, HeadReport, HeadReporter, HeadTask, InductionSearch, Intervention,
    Prompt, Replacement, Role, Site, Sweep, Target, Tokenizer, Transformer, induction_circuit,
    logit_diffs, repeated_loss,
};

fn report(model: &Transformer, tokenizer: &Tokenizer) -> (HeadReport, HeadTask) {
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
    reporter.ablation = Replacement::Zero;
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
    let report = reporter.run(model).unwrap();
    (report, reporter.task.unwrap())
}

#[test]
fn what_a_card_says_a_head_costs_is_what_full_runs_cost() {
    let (model, tokenizer) = (Transformer::mini(), Tokenizer::mini());
    let (report, task) = report(&model, &tokenizer);
    println!("base {:?}\n{report}", report.base);
    for suggestion in report.cards.iter().flat_map(|c| &c.suggestions) {
        println!("{}: {}", suggestion.label, suggestion.evidence);
    }
    let sweep = Sweep::new(&model, &task.prompts).unwrap();
    let zero = |head: &Head| {
        let target = Target::new(Site::Z.at(head.layer)).at_heads(head.head);
        vec![Intervention::new(target, Edit::Zero)]
    };
    let heads: Vec<Head> = Head::all(model.config()).collect();
    let cells: Vec<_> = heads.iter().map(zero).collect();
    let ablated = sweep.run_naive(&cells, &task.metric).unwrap();
    let base = sweep.run_naive(&[Vec::new()], &task.metric).unwrap();
    for (head, row) in heads.iter().zip(ablated.rows()) {
        let expected = (&base.row(0) - &row).mean().unwrap();
        let found = report.card(*head).unwrap().task.as_ref().unwrap();
        let lost = found.lost.value.unwrap();
        assert!(
            (lost - expected).abs() < 1e-4,
            "{head}: {lost}, by full runs {expected}"
        );
    }
    // A mover's label needs what it claims: attention to the answer, copying, and a cost.
    for head in report.with_label(HeadLabel::NameMover) {
        let card = report.card(head).unwrap();
        let task = card.task.as_ref().unwrap();
        assert!(task.roles[0].value.unwrap() >= report.thresholds.role);
        assert!(card.copy.as_ref().unwrap().value.unwrap() >= report.thresholds.copy);
        assert!(task.share_lost.unwrap() >= report.thresholds.effect);
    }
}

#[test]
fn the_circuit_is_made_of_heads_that_pass_its_own_thresholds() {
    let (model, tokenizer) = (Transformer::mini(), Tokenizer::mini());
    let repeated = Repeated::new(&tokenizer).unwrap().with_bos().unwrap();
    let sequences = repeated.prompts(8, 20, 2, 3).unwrap();
    let loss = repeated_loss(&model, &sequences).unwrap();
    let search = InductionSearch::default();
    let found = induction_circuit(&model, &sequences, search).unwrap();
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
    for head in Head::all(model.config()) {
        let attention = found.patterns.values()[[2, head.layer, head.head]];
        let removed = found.removed.values()[[head.layer, head.head]];
        let passes = attention >= search.min_attention && removed >= search.min_share;
        assert_eq!(found.induction_heads.contains(&head), passes, "{head}");
    }
    for edge in &found.edges {
        assert!(edge.from.layer < edge.to.layer && edge.share_removed >= search.min_share);
    }
    assert_eq!(
        found.induction_removed.is_none(),
        found.induction_heads.is_empty()
    );
}
