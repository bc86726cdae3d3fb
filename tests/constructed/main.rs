//! Methods on models with known answers: they must find exactly what was built in.

mod bad_input;
mod builder;

use builder::{Builder, VOCAB, repeated};
use ndarray::{Array1, Axis};
use patchlens::{
    AttentionPattern, Circuits, FunctionVectors, Head, HeadLabel, HeadReport, HeadReporter,
    HeadTask, InductionSearch, Prompt, Replacement, Role, Selection, Site, TokenPair, Transformer,
    attention_by_distance, attention_entropy, attention_to_roles, copy_scores,
    copy_scores_of_tokens, head_ablation, head_direct_effect, in_context_score,
    in_context_score_by_head, induction_circuit, logit_diffs, pattern_scores, repeated_loss,
};

const PREVIOUS: Head = Head { layer: 0, head: 1 };
const UNREAD: Head = Head { layer: 1, head: 1 };
const DUPLICATE: Head = Head { layer: 1, head: 0 };
const INDUCTION: Head = Head { layer: 2, head: 1 };

/// An induction pair, a duplicate-token head, and a previous-token head that nobody reads.
fn induction_model() -> Transformer {
    Builder::new(3)
        .previous_token(PREVIOUS)
        .unread_previous_token(UNREAD)
        .duplicate_token(DUPLICATE)
        .induction(INDUCTION)
        .model()
}

fn prompts(n: usize, period: usize) -> Vec<Prompt> {
    repeated(n, period).iter().map(Prompt::from).collect()
}

#[test]
fn pattern_scores_find_the_heads() {
    let model = induction_model();
    let patterns = AttentionPattern::STANDARD;
    let scores = pattern_scores(&model, &prompts(4, 12), &patterns).unwrap();
    for (i, pattern) in patterns.iter().enumerate() {
        let built: &[Head] = match pattern {
            AttentionPattern::PreviousToken => &[PREVIOUS, UNREAD],
            AttentionPattern::DuplicateToken => &[DUPLICATE],
            AttentionPattern::Induction => &[INDUCTION],
            _ => &[],
        };
        for head in Head::all(model.config()) {
            let score = scores.values()[[i, head.layer, head.head]];
            assert_eq!(
                score > 0.9,
                built.contains(&head),
                "{pattern} {head}: {score}"
            );
            assert!(!(0.4..=0.9).contains(&score), "{pattern} {head}: {score}");
        }
    }
    assert!(scores.std_error().unwrap().iter().all(|e| *e < 0.01));
}

#[test]
fn stripes_of_a_repeated_sequence_are_the_token_patterns() {
    let model = induction_model();
    let offsets = attention_by_distance(&model, &prompts(3, 12), 12).unwrap();
    let at = |distance: usize, head: Head| offsets.values()[[distance, head.layer, head.head]];
    assert!(at(12, DUPLICATE) > 0.9 && at(11, INDUCTION) > 0.8 && at(1, PREVIOUS) > 0.9);
    assert!(at(11, DUPLICATE) < 0.2 && at(12, INDUCTION) < 0.2 && at(0, PREVIOUS) < 0.2);
}

#[test]
fn uniform_attention_has_a_known_entropy() {
    let model = Builder::new(1).model();
    let entropy = attention_entropy(&model, &Prompt::from([1, 2, 3, 4])).unwrap();
    let expected = (2_f32.ln() + 3_f32.ln() + 4_f32.ln()) / 4.0;
    assert!(entropy.values().iter().all(|e| (e - expected).abs() < 1e-6));
    // Nothing occurs twice: there is nothing to measure, which is not a score of 0.
    let patterns = [AttentionPattern::Induction];
    let scores = pattern_scores(&model, &Prompt::from([1, 2, 3]), &patterns).unwrap();
    assert!(scores.values().iter().all(|v| v.is_nan()));
}

#[test]
fn labels_are_those_built_in() {
    let model = induction_model();
    let report = HeadReporter::new(&prompts(4, 12)).run(&model).unwrap();
    for card in &report.cards {
        let expected = match card.head {
            PREVIOUS | UNREAD => HeadLabel::PreviousToken,
            DUPLICATE => HeadLabel::DuplicateToken,
            INDUCTION => HeadLabel::Induction,
            _ => HeadLabel::Unlabelled,
        };
        assert_eq!(
            card.label, expected,
            "{}: {:?}",
            card.head, card.suggestions
        );
    }
    // The strongest partner of the induction head is the one whose output its keys read.
    let partners = &report.card(INDUCTION).unwrap().partners;
    assert_eq!(partners[0].head, PREVIOUS, "{partners:?}");
    let json = serde_json::to_string(&report).unwrap();
    assert_eq!(serde_json::from_str::<HeadReport>(&json).unwrap(), report);
    let page = report
        .to_html("Atlas", &model, &Prompt::from([1, 2, 3]))
        .unwrap();
    assert!(page.contains("Atlas") && page.contains("induction"));
    let table = report.to_string();
    assert_eq!(table.lines().count(), 1 + 6, "{table}");
}

#[test]
fn the_repetition_is_predicted_by_copying() {
    let found = repeated_loss(&induction_model(), &repeated(6, 12)).unwrap();
    assert!(found.second_loss.0 < 0.1, "{found:?}");
    // Position 0 can only attend to itself, so that its token seems to follow itself: where it
    // comes again, at 12, two continuations tie, and a tie is not a hit.
    let accuracy = found.accuracy.values();
    assert!(accuracy.iter().take(11).all(|v| *v == 0.0), "{accuracy}");
    assert!(accuracy.iter().skip(13).all(|v| *v == 1.0), "{accuracy}");
    assert!(found.second_accuracy.0 > 0.9, "{found:?}");
    assert!(found.first_loss.0 > (VOCAB as f32).ln() - 0.1, "{found:?}");
    let loss = found.loss.values();
    assert!(loss.iter().take(11).all(|v| *v > 1.0) && loss.iter().skip(13).all(|v| *v < 0.1));
    let gain = found.first_loss.0 - found.second_loss.0;
    assert!((found.gain.0 - gain).abs() < 1e-5);
}

#[test]
fn the_circuit_search_finds_exactly_the_pair() {
    for ablation in [Replacement::Mean, Replacement::Zero] {
        let search = InductionSearch {
            ablation,
            ..InductionSearch::default()
        };
        let found = induction_circuit(&induction_model(), &repeated(6, 12), search).unwrap();
        assert_eq!(found.induction_heads, [INDUCTION], "{ablation:?}");
        assert_eq!(
            found.senders(),
            [PREVIOUS],
            "{ablation:?}: {:?}",
            found.edges
        );
        let edge = &found.edges[0];
        // Uniform attention to the first repeat is left, which is better than wrong copies.
        assert!(edge.share_removed > 0.5, "{edge:?}");
        assert!(
            edge.attention[0] > 0.9 && edge.attention[1] < 0.3,
            "{edge:?}"
        );
        assert!(
            edge.previous_token > 0.9 && edge.k_composition > 0.2,
            "{edge:?}"
        );
        assert!(found.senders_removed.unwrap() > 0.5 && found.induction_removed.unwrap() > 0.9);
        for head in Head::all(&induction_model().config().clone()) {
            let share = found.removed.values()[[head.layer, head.head]];
            let built = [PREVIOUS, INDUCTION].contains(&head);
            assert!(
                if built {
                    share > 0.5
                } else {
                    share.abs() < 0.05
                },
                "{head}: {share}"
            );
        }
        // No path from the induction head's own layer or later ones.
        let paths = found.key_paths.unwrap();
        assert!(paths.values()[[0, 2, 0]].is_nan() && !paths.values()[[0, 1, 0]].is_nan());
    }
}

#[test]
fn a_model_without_induction_is_an_error() {
    let idle = Builder::new(2).model();
    let error = induction_circuit(&idle, &repeated(2, 12), InductionSearch::default());
    assert!(
        error
            .unwrap_err()
            .to_string()
            .contains("does not use the repetition")
    );
    let mut uneven = repeated(2, 8);
    uneven.extend(repeated(1, 9));
    assert!(
        repeated_loss(&idle, &uneven)
            .unwrap_err()
            .to_string()
            .contains("sequence 2")
    );
}

#[test]
fn in_context_score_is_negative_and_lost_with_the_circuit() {
    let model = induction_model();
    let (prompts, tokens) = (prompts(6, 12), TokenPair { late: 20, early: 6 });
    let whole = in_context_score(&model, &prompts, tokens).unwrap();
    assert!(whole.score.0 < -2.0, "{whole:?}");
    // By hand: the loss of the 20th token is read at position 18.
    let logits = model.forward(&prompts[0]).unwrap();
    let (_, losses) = patchlens::next_token_loss(logits.view(), &prompts[0].tokens).unwrap();
    assert!((losses[18] - losses[4] - whole.per_prompt[0]).abs() < 1e-4);
    let change = in_context_score_by_head(&model, &prompts, tokens, Replacement::Mean).unwrap();
    for head in Head::all(model.config()) {
        let value = change.values()[[head.layer, head.head]];
        let built = [PREVIOUS, INDUCTION].contains(&head);
        assert!(
            if built {
                value > 2.0
            } else {
                value.abs() < 0.1
            },
            "{head}: {value}"
        );
    }
    let short = in_context_score(&model, &prompts, TokenPair::default()).unwrap_err();
    assert!(short.to_string().contains("at least 500"), "{short}");
}

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

fn mover_reporter() -> HeadReporter {
    let mut reporter = HeadReporter::new(&prompts(2, 11));
    reporter.task = Some(mover_task());
    reporter.copy_tokens = (0..VOCAB as u32).collect();
    reporter.ablation = Replacement::Zero;
    reporter
}

#[test]
fn movers_are_told_apart_by_what_they_read_and_by_their_effects() {
    let report = mover_reporter().run(&mover_model()).unwrap();
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
    let report = mover_reporter().run(&model).unwrap();
    let (prompts, metric) = (&task.prompts, &task.metric);
    let total = head_ablation(&model, prompts, metric, Replacement::Zero).unwrap();
    let direct = head_direct_effect(&model, prompts, metric, Replacement::Zero).unwrap();
    for card in &report.cards {
        let (found, index) = (
            card.task.as_ref().unwrap(),
            [card.head.layer, card.head.head],
        );
        assert_eq!(found.lost.value, Some(total.lost.values()[index]));
        assert_eq!(found.direct.value, Some(direct.lost.values()[index]));
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
        let mut reporter = mover_reporter();
        change(reporter.task.as_mut().unwrap());
        reporter.run(&model).unwrap_err().to_string()
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
    let scores = copy_scores_of_tokens(&model, &tokens, None, 1).unwrap();
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
    let missing = copy_scores(&model, &Prompt::from([1, 2]), &[vec![2]], 5).unwrap_err();
    assert!(
        missing.to_string().contains("pos 2 is out of range"),
        "{missing}"
    );
    assert!(copy_scores(&model, &Prompt::from([1, 2]), &[vec![1]], 0).is_err());
}

#[test]
fn roles_are_read_at_their_positions() {
    let (model, task) = (mover_model(), mover_task());
    let found = attention_to_roles(&model, &task.prompts, &task.end, &task.roles).unwrap();
    let at = |role: usize, head: Head| found.values()[[role, head.layer, head.head]];
    assert!(at(0, MOVER) > 0.9 && at(2, READS_SUBJECT) > 0.9);
    assert!(at(2, MOVER) < 0.1 && at(0, READS_SUBJECT) < 0.1);
    let outside = Role::new("S9", vec![9; 5]);
    let error = attention_to_roles(&model, &task.prompts, &task.end, &[outside]).unwrap_err();
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
    let best = FunctionVectors::top_heads(&effects, 1);
    assert_eq!(best, [MOVER], "{effects}");
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
    assert!(effects.values().iter().all(|v| *v > 0.5), "{effects}");
    assert!(
        vectors
            .effects(&Array1::zeros(3), &zero_shot, &[answer])
            .is_err()
    );
    assert!(vectors.vector(&[Head::new(0, 7)]).is_err());
}
