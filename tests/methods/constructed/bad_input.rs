//! What the methods on heads reject, and what they say then.

use ndarray::{Array2, array};
use patchlens::ablation::{Ablation, Each, Replacement};
use patchlens::heads::{
    Attention, AttentionPattern, CopyScores, HeadReporter, InductionSearch, Role, pattern_scores,
};
use patchlens::in_context::{
    FunctionVectors, TokenPair, in_context_score, in_context_score_by_head, repeated_loss,
};
use patchlens::weights::{Circuits, Embedding, FactoredMatrix};
use patchlens::{Head, Prompt, Qkv, Result, logit_diff};

use super::builder::{Builder, VOCAB, repeated};
use crate::head_goldens::attended;

/// What was asked for, and parts of the message that it must give.
fn rejected<T>(what: &str, result: Result<T>, parts: &[&str]) {
    let Err(error) = result else {
        panic!("{what}: no error");
    };
    let message = error.to_string();
    for part in parts {
        assert!(message.contains(part), "{what}: {message:?} lacks {part:?}");
    }
}

#[test]
fn heads_and_shapes() {
    let model = Builder::new(2).model();
    let circuits = Circuits::new(&model);
    let (layer, head) = (Head::new(2, 0), Head::new(0, 2));
    rejected(
        "layer",
        circuits.ov(layer),
        &["head 2.0", "layer 2", "0..2"],
    );
    rejected("head", circuits.qk(head), &["head 0.2", "head 2", "0..2"]);
    rejected("full OV", circuits.full_ov(head), &["0.2"]);
    let tokens = Embedding::Tokens;
    rejected("full QK", circuits.full_qk(head, tokens, tokens), &["0.2"]);
    rejected(
        "directions",
        circuits.singular_directions(head, 1, 1),
        &["0.2"],
    );
    let short = array![1.0, 2.0];
    rejected(
        "direction",
        circuits.top_tokens(short.view(), 1),
        &["[2]", "d_model"],
    );
    let (a, b) = (Array2::zeros((2, 3)), Array2::zeros((2, 3)));
    rejected(
        "factors",
        FactoredMatrix::new(a, b),
        &["[2, 3]", "[3, columns]"],
    );
    let wide = FactoredMatrix::new(Array2::ones((2, 1)), Array2::ones((1, 3))).unwrap();
    rejected("eigenvalues", wide.eigenvalues(), &["[2, 3]", "square"]);
    rejected("copying", wide.copying_score(), &["square"]);
    rejected("row", wide.row(2), &["row 2", "0..2"]);
    rejected("product", wide.times(&wide), &["[2, 1]", "3 rows"]);
    let broken = FactoredMatrix::new(array![[f32::NAN]], array![[1.0]]).unwrap();
    rejected("NaN", broken.eigenvalues(), &["NaN", "finite"]);
    rejected("NaN", broken.svd(), &["NaN", "finite"]);
    rejected("NaN", broken.singular_values(), &["NaN", "finite"]);
    let square = Array2::zeros((2, 2));
    let score = AttentionPattern::Induction.score(square.view(), &[1, 2, 3]);
    rejected("attention", score, &["[2, 2]", "[3, 3] for 3 tokens"]);
    assert!(circuits.composition_scores(Qkv::K).is_ok());
}

#[test]
fn prompts_and_positions() {
    let model = Builder::new(2).model();
    let prompt = Prompt::from([1, 2, 3]);
    let unknown = Prompt::from([1, VOCAB as u32]);
    let patterns = AttentionPattern::STANDARD;
    let nothing: [Prompt; 0] = [];
    rejected(
        "none",
        pattern_scores(&model, &nothing, &patterns),
        &["prompt"],
    );
    rejected(
        "token",
        pattern_scores(&model, &unknown, &patterns),
        &["12"],
    );
    rejected(
        "entropy",
        attended(&model, &unknown, Attention::Entropy),
        &["12"],
    );
    rejected(
        "distance",
        attended(&model, &nothing, Attention::ByDistance(3)),
        &["prompt"],
    );
    rejected(
        "distance",
        attended(&model, &prompt, Attention::ByDistance(usize::MAX)),
        &["distance", "n_positions"],
    );
    rejected("report", HeadReporter::new(&model, &nothing), &["prompt"]);
    let two = Role::new("IO", [1, 1]);
    let one = Role::new("END", [2]);
    let roles = attended(
        &model,
        &prompt,
        Attention::ToRoles {
            dest: &one,
            src: &[two],
        },
    );
    rejected("roles", roles, &["IO", "found 2", "1, one per prompt"]);
    rejected(
        "copies",
        CopyScores::of_tokens(&model, &[], None),
        &["at least one"],
    );
    rejected(
        "copies",
        CopyScores::of_tokens(&model, &[99], None).and_then(|study| study.run()),
        &["99"],
    );
    rejected(
        "vectors",
        FunctionVectors::new(&model, &nothing),
        &["prompt"],
    );
    for (early, late) in [(0, 2), (2, 2), (2, 1)] {
        let pair = TokenPair { late, early };
        let parts = [&*format!("early {early}, late {late}"), "1 ≤ early < late"];
        rejected("pair", in_context_score(&model, &prompt, pair), &parts);
        let ablation = Ablation::new(&model, &prompt, Replacement::Zero).unwrap();
        let by_head = in_context_score_by_head(&ablation, pair);
        rejected("pair by head", by_head, &parts);
    }
}

#[test]
fn metrics_and_sequences() {
    let model = Builder::new(2).model();
    let (prompt, metric) = (Prompt::from([1, 2, 3]), logit_diff(1, VOCAB as u32));
    let ablation = Ablation::new(&model, &prompt, Replacement::OverallMean).unwrap();
    rejected("ablation", ablation.run(Each::Head, &metric), &["12"]);
    rejected(
        "direct effect",
        ablation.run(Each::HeadDirectly, &metric),
        &["12"],
    );
    let vectors = FunctionVectors::new(&model, &prompt).unwrap();
    let answers = vectors.indirect_effects(&prompt, &[1, 2]);
    rejected("answers", answers, &["2", "1"]);
    let mut once = repeated(1, 8);
    once[0].prompt = Prompt::from(&once[0].prompt.tokens[..8]);
    rejected(
        "one repeat",
        repeated_loss(&model, &once),
        &["8 tokens", "two repeats"],
    );
    let search = InductionSearch::new(&model, &once);
    rejected("search", search, &["two repeats"]);
    rejected("no sequences", repeated_loss(&model, &[]), &["prompt"]);
}
