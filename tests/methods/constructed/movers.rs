//! Heads of a task: movers, suppression, inhibition, and function vectors, on a model whose heads do
//! just that.

use ndarray::{Array1, Axis};
use patchlens::ablation::{Ablation, Each, Replacement};
use patchlens::heads::{Attention, CopyScores, HeadLabel, HeadReporter, HeadTask, Role};
use patchlens::in_context::FunctionVectors;
use patchlens::metric::logit_diffs;
use patchlens::weights::Circuits;
use patchlens::{Head, Prompt, Selection, Site, Transformer};

use super::builder::{Builder, VOCAB};
use super::prompts;
use crate::head_goldens::attended;

const END: u32 = 11;
const MOVER: Head = Head { layer: 1, head: 1 };
const NEGATIVE: Head = Head { layer: 1, head: 0 };
const READS_SUBJECT: Head = Head { layer: 0, head: 0 };
const INHIBITOR: Head = Head { layer: 0, head: 1 };

/// `x IO S S END`: one head copies IO, but would look at S as well if another one did not keep it
/// from that; one suppresses IO a little, one suppresses S.
fn mover_model() -> Transformer {
    Builder::new(2)
        .mover(MOVER, END, 1, 2.0)
        .inhibitor(INHIBITOR, END, 3)
        .inhibited(MOVER, END, 3)
        .mover(NEGATIVE, END, 1, -0.7)
        .mover(READS_SUBJECT, END, 3, -1.0)
        .model()
}

fn mover_task() -> HeadTask {
    let names = [[2, 3], [4, 5], [6, 7], [8, 9], [3, 8]];
    let prompts = names
        .map(|[io, s]| Prompt::from([0, io, s, s, END]))
        .to_vec();
    let role = |name: &str, position| Role::new(name, vec![position; names.len()]);
    HeadTask {
        prompts,
        metric: logit_diffs(&names.map(|[io, s]| (io, s))),
        end: role("END", 4),
        roles: vec![role("IO", 1), role("S1", 2), role("S2", 3)],
        answer: Some("IO".to_string()),
        rival: Some("S1".to_string()),
    }
}

fn mover_reporter(model: &Transformer) -> HeadReporter<'_> {
    HeadReporter::new(model, &prompts(2, 11))
        .unwrap()
        .task(mover_task())
        .copy_tokens((0..VOCAB as u32).collect(), None)
        .replacement(Replacement::Zero)
}

#[test]
fn movers_are_told_apart_by_what_they_read_and_by_their_effects() {
    let model = mover_model();
    let report = mover_reporter(&model).run().unwrap();
    for (label, head) in [
        (HeadLabel::NameMover, MOVER),
        (HeadLabel::NegativeNameMover, NEGATIVE),
        (HeadLabel::Suppression, READS_SUBJECT),
        (HeadLabel::SInhibition, INHIBITOR),
    ] {
        assert_eq!(report.with_label(label), [head], "{label}\n{report}");
        assert_eq!(report.card(head).unwrap().label, label);
    }
    let task = |head: Head| report.card(head).unwrap().task.clone().unwrap();
    let inhibitor = task(INHIBITOR);
    // It writes where nothing but the mover's queries reads.
    assert!(inhibitor.direct.value.unwrap().abs() < 0.05, "{inhibitor}");
    assert!(inhibitor.lost_at_end.value.unwrap() > 1.0, "{inhibitor}");
    assert_eq!(task(MOVER).reads.unwrap().role, "IO");
    let evidence = &report.card(MOVER).unwrap().suggestions[0].evidence;
    for part in [
        "attends most to IO",
        "the answer 100 %",
        "direct effect",
        "%)",
    ] {
        assert!(evidence.contains(part), "{evidence}");
    }
}

#[test]
fn effects_on_a_card_are_those_of_the_methods() {
    let (model, task) = (mover_model(), mover_task());
    let report = mover_reporter(&model).run().unwrap();
    let (prompts, metric) = (&task.prompts, &task.metric);
    let ablation = Ablation::new(&model, prompts, Replacement::Zero).unwrap();
    let total = ablation.run(Each::Head, metric).unwrap().lost().unwrap();
    let direct = ablation
        .run(Each::HeadDirectly, metric)
        .unwrap()
        .lost()
        .unwrap();
    for card in &report.cards {
        let (found, index) = (
            card.task.as_ref().unwrap(),
            [card.head.layer, card.head.head],
        );
        assert_eq!(found.lost.value, Some(total.values()[index]));
        assert_eq!(found.direct.value, Some(direct.values()[index]));
        // Attention-only, last layer: nothing comes after it but the final LayerNorm.
        if card.head.layer == 1 {
            let (all, alone) = (found.lost.value.unwrap(), found.direct.value.unwrap());
            assert!((all - alone).abs() < 1e-4, "{}: {all} {alone}", card.head);
        }
    }
}

#[test]
fn roles_that_do_not_exist_are_errors() {
    let model = mover_model();
    let with = |change: fn(&mut HeadTask)| {
        let reporter = mover_reporter(&model);
        let mut task = mover_task();
        change(&mut task);
        reporter.task(task).run().unwrap_err().to_string()
    };
    let error = with(|task| task.answer = Some("XX".to_string()));
    assert!(error.contains("answer") && error.contains("XX"), "{error}");
    assert!(error.contains("IO, S1, S2"), "{error}");
    let error = with(|task| task.rival = Some("YY".to_string()));
    assert!(error.contains("rival") && error.contains("YY"), "{error}");
    let error = with(|task| task.end = Role::new("END", [9; 5]));
    assert!(error.contains("END") && error.contains("0..5"), "{error}");
    let error = with(|task| task.prompts = Vec::new());
    assert!(error.contains("prompt"), "{error}");
}

#[test]
fn copying_is_seen_in_logits_and_in_eigenvalues() {
    let model = mover_model();
    let tokens: Vec<u32> = (0..VOCAB as u32).collect();
    let study = CopyScores::of_tokens(&model, &tokens, None).unwrap();
    let scores = study.top(1).run().unwrap().score;
    let eigenvalues = Circuits::new(&model).copying_scores().unwrap();
    for (head, sign) in [(MOVER, 1.0), (NEGATIVE, -1.0), (READS_SUBJECT, -1.0)] {
        let score = |i: usize| scores.values()[[i, head.layer, head.head]];
        let (right, wrong) = if sign > 0.0 { (0, 1) } else { (1, 0) };
        assert!(score(right) == 1.0 && score(wrong) < 0.2, "{head}");
        let eigenvalue = eigenvalues.values()[[head.layer, head.head]];
        assert!((eigenvalue - sign).abs() < 1e-5, "{head}: {eigenvalue}");
    }
    let direction = &Circuits::new(&model)
        .singular_directions(MOVER, 2, 1)
        .unwrap()[0];
    assert_eq!(direction.reads[0].0, direction.writes[0].0);
    let missing = CopyScores::new(&model, &Prompt::from([1, 2]), &[vec![2]]).unwrap_err();
    assert!(
        missing.to_string().contains("pos 2 is out of range"),
        "{missing}"
    );
    let study = CopyScores::new(&model, &Prompt::from([1, 2]), &[vec![1]]).unwrap();
    assert!(study.top(0).run().is_err());
}

#[test]
fn roles_are_read_at_their_positions() {
    let (model, task) = (mover_model(), mover_task());
    let found = attended(
        &model,
        &task.prompts,
        Attention::ToRoles {
            dest: &task.end,
            src: &task.roles,
        },
    )
    .unwrap();
    let at = |role: usize, head: Head| found.values()[[role, head.layer, head.head]];
    assert!(at(0, MOVER) > 0.9 && at(2, READS_SUBJECT) > 0.9);
    assert!(at(2, MOVER) < 0.1 && at(0, READS_SUBJECT) < 0.1);
    let outside = Role::new("S9", vec![9; 5]);
    let error = attended(
        &model,
        &task.prompts,
        Attention::ToRoles {
            dest: &task.end,
            src: &[outside],
        },
    )
    .unwrap_err();
    assert!(error.to_string().contains("S9"), "{error}");
}

#[test]
fn function_vectors_are_mean_outputs_and_carry_the_answer() {
    let model = mover_model();
    let answer = 5;
    let clean = [[0, answer, 2, 3, END], [1, answer, 4, 6, END]].map(Prompt::from);
    let shuffled = [[0, 7, 2, 3, END], [1, 8, 4, 6, END]].map(Prompt::from);
    let vectors = FunctionVectors::new(&model, &clean).unwrap();
    let effects = vectors.indirect_effects(&shuffled, &[answer]).unwrap();
    let best = effects.top_heads(1);
    assert_eq!(best, [MOVER], "{}", effects.effect);
    let vector = vectors.vector(&best).unwrap();
    let outputs = clean.each_ref().map(|prompt| {
        let point = Site::Result.at(MOVER.layer);
        let (_, cache) = model
            .run_with_cache(prompt, &Selection::points([point]))
            .unwrap();
        let last = cache
            .get(point)
            .unwrap()
            .index_axis_move(Axis(0), 4)
            .to_owned();
        last.index_axis_move(Axis(0), MOVER.head)
    });
    let mean = (&outputs[0] + &outputs[1]) / 2.0;
    let off = (&vector - &mean)
        .iter()
        .fold(0.0_f32, |a, v| a.max(v.abs()));
    assert!(off < 1e-5, "{off}");
    let zero_shot = [Prompt::from([0]), Prompt::from([1])];
    let effects = vectors.effects(&vector, &zero_shot, &[answer]).unwrap();
    assert!(effects.per_prompt.iter().all(|v| *v > 0.5), "{effects:?}");
    assert!(
        vectors
            .effects(&Array1::zeros(3), &zero_shot, &[answer])
            .is_err()
    );
    assert!(vectors.vector(&[Head::new(0, 7)]).is_err());
}
