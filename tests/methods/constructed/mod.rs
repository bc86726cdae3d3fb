//! Methods on models with known answers: they must find exactly what was built in.

mod acdc;
mod bad_input;
mod builder;
mod circuits;
mod movers;
mod toys;

use builder::{Builder, VOCAB, repeated};
use patchlens::ablation::{Ablation, Replacement};
use patchlens::heads::{
    Attention, AttentionPattern, HeadLabel, HeadReport, HeadReporter, InductionSearch,
    pattern_scores,
};
use patchlens::in_context::{TokenPair, in_context_score, in_context_score_by_head, repeated_loss};
use patchlens::report::Absent;
use patchlens::{Head, Prompt, Transformer};

use crate::head_goldens::attended;

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

/// The prompts of repeated sequences.
pub fn prompts(n: usize, period: usize) -> Vec<Prompt> {
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
    let offsets = attended(&model, &prompts(3, 12), Attention::ByDistance(12)).unwrap();
    let at = |distance: usize, head: Head| offsets.values()[[distance, head.layer, head.head]];
    assert!(at(12, DUPLICATE) > 0.9 && at(11, INDUCTION) > 0.8 && at(1, PREVIOUS) > 0.9);
    assert!(at(11, DUPLICATE) < 0.2 && at(12, INDUCTION) < 0.2 && at(0, PREVIOUS) < 0.2);
}

#[test]
fn uniform_attention_has_a_known_entropy() {
    let model = Builder::new(1).model();
    let entropy = attended(&model, &Prompt::from([1, 2, 3, 4]), Attention::Entropy).unwrap();
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
    let report = HeadReporter::new(&model, &prompts(4, 12)).unwrap();
    let report = report.run().unwrap();
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
    let rows = table.lines().take_while(|line| !line.is_empty());
    assert_eq!(rows.count(), 1 + 6, "{table}");
    assert!(
        table.contains("mean attention, 0 to 1"),
        "no legend: {table}"
    );
}

#[test]
fn the_repetition_is_predicted_by_copying() {
    let found = repeated_loss(&induction_model(), &repeated(6, 12)).unwrap();
    assert!(found.second_loss.mean < 0.1, "{found:?}");
    // Position 0 can only attend to itself, so that its token seems to follow itself: where it
    // comes again, at 12, two continuations tie, and a tie is not a hit.
    let accuracy = found.accuracy.values();
    assert!(accuracy.iter().take(11).all(|v| *v == 0.0), "{accuracy}");
    assert!(accuracy.iter().skip(13).all(|v| *v == 1.0), "{accuracy}");
    assert!(found.second_accuracy.mean > 0.9, "{found:?}");
    assert!(
        found.first_loss.mean > (VOCAB as f32).ln() - 0.1,
        "{found:?}"
    );
    let loss = found.loss.values();
    assert!(loss.iter().take(11).all(|v| *v > 1.0) && loss.iter().skip(13).all(|v| *v < 0.1));
    let gain = found.first_loss.mean - found.second_loss.mean;
    assert!((found.gain.mean - gain).abs() < 1e-5);
}

#[test]
fn the_circuit_search_finds_exactly_the_pair() {
    let model = induction_model();
    for ablation in [Replacement::OverallMean, Replacement::Zero] {
        let search = InductionSearch::new(&model, &repeated(6, 12)).unwrap();
        let search = search.replacement(ablation.clone());
        let found = search.run().unwrap();
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
        assert_eq!(paths.absent()[[0, 2, 0]], Some(Absent::NoPath));
        assert_eq!(paths.absent()[[0, 1, 0]], None);
    }
}

/// Where there is no path and where the search was ended are two things.
#[test]
fn f15_cut_paths_of_an_ended_search_are_not_run() {
    let model = induction_model();
    let search = InductionSearch::new(&model, &repeated(6, 12)).unwrap();
    let found = search
        .observe(|_| std::ops::ControlFlow::Break(()))
        .run()
        .unwrap();
    assert!(found.partial);
    let paths = found.key_paths.unwrap();
    let reasons: Vec<_> = paths.absent().iter().copied().collect();
    assert!(reasons.contains(&Some(Absent::NoPath)), "{reasons:?}");
    assert!(reasons.contains(&Some(Absent::NotRun)), "{reasons:?}");
    assert!(!reasons.contains(&Some(Absent::NotANumber)), "{reasons:?}");
}

/// Where two heads do the same, cutting one shows nothing; what it keeps without the other does.
#[test]
fn the_circuit_search_finds_senders_that_stand_in_for_each_other() {
    let second = UNREAD;
    let model = Builder::new(3)
        .previous_token(PREVIOUS)
        .previous_token(second)
        .duplicate_token(DUPLICATE)
        .induction(INDUCTION)
        .model();
    let search = InductionSearch::new(&model, &repeated(6, 12)).unwrap();
    let found = search.run().unwrap();
    assert_eq!(found.previous_token_heads, [PREVIOUS, second]);
    assert_eq!(found.senders(), [PREVIOUS, second], "{:?}", found.edges);
    assert!(found.previous_token_removed.unwrap() > 0.5);
    for edge in &found.edges {
        assert!(
            edge.share_removed_from_all < found.thresholds.share,
            "{edge:?}"
        );
        assert!(edge.share_kept_alone > 0.5, "{edge:?}");
        let ([whole, cut], [none, alone]) = (edge.attention, edge.attention_alone);
        assert!(whole - cut < 0.05 && alone - none > 0.5, "{edge:?}");
    }
    // Of a head that does it alone, the two are the same; one that nobody reads keeps nothing.
    let model = induction_model();
    let found = InductionSearch::new(&model, &repeated(6, 12)).unwrap();
    let found = found.run().unwrap();
    assert_eq!(found.previous_token_heads, [PREVIOUS, UNREAD]);
    let edge = &found.edges[0];
    let difference = edge.share_removed_from_all - edge.share_kept_alone;
    assert!(difference.abs() < 0.01, "{edge:?}");
    assert!((edge.attention_alone[1] - edge.attention[0]).abs() < 0.01);
}

#[test]
fn a_model_without_induction_is_an_error() {
    let idle = Builder::new(2).model();
    let search = InductionSearch::new(&idle, &repeated(2, 12)).unwrap();
    assert!(
        search
            .run()
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
    let (prompts, tokens) = (prompts(6, 12), TokenPair { late: 19, early: 5 });
    let whole = in_context_score(&model, &prompts, tokens).unwrap();
    assert!(whole.score.mean < -2.0, "{whole:?}");
    // By hand: the loss of the token at position 19 is read at position 18.
    let logits = model.forward(&prompts[0]).unwrap();
    let (_, losses) =
        patchlens::metric::next_token_loss(logits.view(), &prompts[0].tokens).unwrap();
    assert!((losses[18] - losses[4] - whole.per_prompt[0]).abs() < 1e-4);
    let ablation = Ablation::new(&model, &prompts, Replacement::OverallMean).unwrap();
    let change = in_context_score_by_head(&ablation, tokens).unwrap();
    for head in Head::all(model.config()) {
        let value = change.effect.values()[[head.layer, head.head]];
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
