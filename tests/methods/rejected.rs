//! What methods would compute wrongly without a word, and therefore reject.

use patchlens::circuits::{
    Acdc, Approximation, CircuitEvaluation, EdgeAttribution, EdgeSet, ExactEdges, InformationFlow,
};
use patchlens::config::AttentionDirection;
use patchlens::in_context::{FunctionVectors, TokenPair, in_context_score, repeated_loss};
use patchlens::patching::{ActivationPatching, Alignment, Grid};
use patchlens::tasks::Repeated;
use patchlens::{
    Base, Config, Edit, HookPoint, Intervention, Prompt, Prompts, Result, Select, Site,
    Transformer, logit_diff,
};

fn config() -> Config {
    Config {
        n_layers: 2,
        n_heads: 2,
        d_model: 8,
        d_mlp: 16,
        d_vocab: 11,
        n_ctx: 16,
        ..Config::gpt2()
    }
}

fn message<T>(result: Result<T>) -> String {
    result.err().expect("it is rejected").to_string()
}

/// A run under an edit at a point.
fn under<'m>(plain: &Base<'m>, point: HookPoint) -> Base<'m> {
    let edit = vec![Intervention::new(point, Edit::Scale(0.5))];
    Base::over(plain, plain.prompts(), edit).unwrap()
}

#[test]
fn circuits_reject_edits_whose_effect_is_no_edges() {
    let model = Transformer::random(config(), 0).unwrap();
    let plain = Base::new(&model, &Prompt::from([1, 2, 3])).unwrap();
    let metric = logit_diff(2, 4);
    // What is added to the stream, between what the sources write.
    for point in [
        HookPoint::PosEmbed,
        Site::ResidPre.at(1),
        Site::AttnOut.at(0),
        Site::Result.at(0),
    ] {
        let changed = under(&plain, point);
        for error in [
            message(CircuitEvaluation::over(&plain, &changed)),
            message(Acdc::over(&plain, &changed)),
        ] {
            assert!(error.contains(&format!("one at `{point}`")), "{error}");
        }
    }
    for point in [
        HookPoint::Embed,
        Site::Z.at(0),
        Site::MlpOut.at(1),
        Site::Q.at(1),
    ] {
        assert!(CircuitEvaluation::over(&plain, &under(&plain, point)).is_ok());
    }
    // A head's output is computed from its z.
    let changed = under(&plain, Site::Result.at(0));
    let all = EdgeSet::full(ExactEdges::over(&plain, &plain).unwrap().graph());
    for error in [
        message(
            ExactEdges::over(&plain, &changed)
                .unwrap()
                .run(&all, &metric),
        ),
        message(
            EdgeAttribution::over(&plain, &changed)
                .unwrap()
                .run(Approximation::Eap, &metric),
        ),
        message(InformationFlow::over(&changed).run()),
    ] {
        assert!(
            error.contains("expected one at the heads' `attn.hook_z`"),
            "{error}"
        );
    }
}

#[test]
fn exact_edges_reject_edits_that_they_would_lose() {
    let model = Transformer::random(config(), 0).unwrap();
    let plain = Base::new(&model, &Prompt::from([1, 2, 3])).unwrap();
    for site in [Site::QInput, Site::Ln1Normalized] {
        let changed = under(&plain, site.at(1));
        let study = ExactEdges::over(&changed, &plain).unwrap();
        let edge = "a0.h0->a1.h0<q>".parse().unwrap();
        let edges = EdgeSet::new(study.graph(), [edge]).unwrap();
        let error = message(study.run(&edges, &logit_diff(2, 4)));
        assert!(error.contains("have to act again"), "{error}");
    }
}

#[test]
fn estimates_reject_aligned_prompts() {
    let model = Transformer::random(config(), 0).unwrap();
    let [clean, corrupted] = [[1, 5, 2, 3], [1, 4, 6, 3]].map(Prompt::from);
    let roles = [("name", Select::from(2), Select::from(1))];
    let study = ActivationPatching::aligned(&model, &clean, &corrupted, Alignment::roles(roles));
    let study = study.unwrap();
    let grid = Grid::Positions(Site::ResidPost);
    assert!(study.run(grid, &logit_diff(2, 4)).is_ok());
    let error = message(study.estimate(grid, &logit_diff(2, 4)));
    assert!(error.contains("aligned position by position"), "{error}");
}

#[test]
fn losses_need_models_that_predict_the_next_token() {
    let repeated = Repeated::from_tokens((1..9).collect()).unwrap();
    let repeated = repeated.with_bos_token(0).prompts(2, 4, 2, 0).unwrap();
    let prompts = Prompts::new([[1, 2, 3, 4]]).unwrap();
    let other = Config {
        d_vocab_out: Some(20),
        tie_word_embeddings: false,
        ..config()
    };
    let both = Config {
        attention: AttentionDirection::Bidirectional,
        ..config()
    };
    for (config, why) in [(other, "not of the tokens"), (both, "attend to later ones")] {
        let model = Transformer::random(config, 0).unwrap();
        let tokens = TokenPair { late: 3, early: 1 };
        for error in [
            message(repeated_loss(&model, &repeated)),
            message(in_context_score(&model, &prompts, tokens)),
        ] {
            assert!(error.contains(why), "{error}");
        }
    }
}

/// Not rejected: heads may be of any width.
#[test]
fn function_vectors_take_heads_of_any_width() {
    let narrow = Config {
        head_width: Some(3),
        ..config()
    };
    let model = Transformer::random(narrow, 0).unwrap();
    let vectors = FunctionVectors::new(&model, &Prompt::from([1, 2, 3])).unwrap();
    let vector = vectors.vector(&[patchlens::Head::new(0, 1)]).unwrap();
    assert_eq!(vector.len(), 8);
}
