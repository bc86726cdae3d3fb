//! An attention-only model of two layers without LayerNorm, whose queries and keys alone read
//! positions: an induction pair that several methods must find, and every method once.

use patchlens::ablation::{Ablation, Each, Replacement};
use patchlens::attribution::{Decomposition, DirectLogitAttribution};
use patchlens::circuits::{
    Approximation, CircuitEvaluation, EdgeAttribution, EdgeSet, ExactEdges, Graph, InformationFlow,
    Ranking, Steps,
};
use patchlens::generate::Generation;
use patchlens::heads::{AttentionPattern, CopyScores, InductionSearch, pattern_scores};
use patchlens::in_context::{FunctionVectors, repeated_loss};
use patchlens::knockout::{AttentionKnockout, Cut};
use patchlens::lens::{LensFit, LogitLens};
use patchlens::patching::{ActivationPatching, Corrections, Grid};
use patchlens::paths::{PathPatching, PathReceiver, Senders};
use patchlens::processing::Processing;
use patchlens::steering::{DoseResponse, Steering};
use patchlens::tracing::{CausalTracing, Restore, SubjectCorruption, TracedFact};
use patchlens::weights::{Circuits, Embedding};
use patchlens::{
    Component, Error, Head, HookPoint, Metric, Prompt, Qkv, Result, Select, Selection, Site,
    Transformer, logit_diff,
};

use super::builder::{Builder, repeated};

const PREVIOUS: Head = Head { layer: 0, head: 1 };
const INDUCTION: Head = Head { layer: 1, head: 0 };

/// A sequence whose last token came before, where 7 followed it; in the other one 4 did.
const CLEAN: [u32; 6] = [2, 5, 7, 1, 3, 5];
const CORRUPTED: [u32; 6] = [2, 5, 4, 1, 3, 5];

fn model() -> Transformer {
    Builder::attention_only(2)
        .previous_token(PREVIOUS)
        .induction(INDUCTION)
        .model()
}

fn pair() -> [Prompt; 2] {
    [CLEAN, CORRUPTED].map(Prompt::from)
}

fn metric() -> Metric {
    logit_diff(7, 4)
}

#[test]
fn the_search_finds_the_induction_pair() {
    let model = model();
    let prompts: Vec<Prompt> = repeated(4, 12).iter().map(Prompt::from).collect();
    let patterns = [AttentionPattern::PreviousToken, AttentionPattern::Induction];
    let scores = pattern_scores(&model, &prompts, &patterns).unwrap();
    for (i, built) in [PREVIOUS, INDUCTION].into_iter().enumerate() {
        for head in Head::all(model.config()) {
            let score = scores.values()[[i, head.layer, head.head]];
            assert_eq!(score > 0.9, head == built, "{i} {head}: {score}");
        }
    }
    let found = InductionSearch::new(&model, &repeated(6, 12)).unwrap();
    let found = found.run().unwrap();
    assert_eq!(found.induction_heads, [INDUCTION]);
    assert_eq!(found.senders(), [PREVIOUS]);
    let edge = &found.edges[0];
    assert_eq!((edge.from, edge.to), (PREVIOUS, INDUCTION));
    assert!(edge.share_removed > 0.5, "{edge:?}");
}

#[test]
fn patching_finds_the_induction_pair() {
    let (model, [clean, corrupted]) = (model(), pair());
    let study = ActivationPatching::new(&model, &clean, &corrupted).unwrap();
    let found = study.run(Grid::Heads(Site::Z), &metric()).unwrap();
    let whole = found.clean[0] - found.corrupted[0];
    assert!(whole > 20.0, "{whole}");
    let effect = found.effect.values();
    // The induction head brings all of it; 7 and 4 stand where they are read from.
    for head in Head::all(model.config()) {
        let share = effect[[head.layer, head.head]] / whole;
        let expected = f32::from(u8::from(head == INDUCTION));
        assert!((share - expected).abs() < 0.05, "{head}: {share}");
    }
    // The queries and keys of the pair, by prompts in which another token recurs.
    let other = Prompt::from([2, 3, 7, 1, 3, 5]);
    let study = ActivationPatching::new(&model, &clean, &other).unwrap();
    let found = study.run(Grid::Heads(Site::Z), &metric()).unwrap();
    let effect = found.effect.values();
    let whole = found.clean[0] - found.corrupted[0];
    for head in [PREVIOUS, INDUCTION] {
        let share = effect[[head.layer, head.head]] / whole;
        assert!(share > 0.9, "{head}: {share}");
    }
}

#[test]
fn path_patching_finds_the_induction_pair() {
    let (model, [clean, _]) = (model(), pair());
    // Another token comes before 7, so that the previous-token head writes something else there.
    let other = Prompt::from([2, 3, 7, 1, 3, 5]);
    let study = PathPatching::new(&model, &clean, &other).unwrap();
    let keys = PathReceiver::head(INDUCTION, Qkv::K);
    let found = study.run(Senders::Heads, &[keys], &metric()).unwrap();
    let effect = found.effect.values();
    assert!(effect[[0, 1]] < -10.0, "{effect}");
    assert_eq!(effect[[0, 0]], 0.0);
    for input in [Qkv::Q, Qkv::V] {
        let receiver = PathReceiver::head(INDUCTION, input);
        let found = study.run(Senders::Heads, &[receiver], &metric()).unwrap();
        assert!(found.effect.values()[[0, 1]].abs() < 0.1, "{input}");
    }
    let end = [PathReceiver::final_residual().at_positions(Select::Last)];
    let direct = study.run(Senders::Heads, &end, &metric()).unwrap();
    assert!(direct.effect.values()[[1, 0]] < -10.0);
}

#[test]
fn circuits_have_no_mlps() {
    let (model, [clean, corrupted]) = (model(), pair());
    let graph = Graph::new(model.config());
    // 3HL + 3H²L(L−1)/2 + 1 + LH, two layers of two heads.
    assert_eq!(graph.n_edges(), 12 + 12 + 1 + 4);
    let exact = ExactEdges::new(&model, &clean, &corrupted).unwrap();
    let all = EdgeSet::full(graph);
    let effects = exact.run(&all, &metric()).unwrap();
    // Each edge's effect is that of its own cell in a plain sweep, to the bit.
    let sweep = patchlens::Sweep::new(&model, &clean).unwrap();
    for edge in graph.edges() {
        let cell = exact.cell(edge).unwrap();
        let found = sweep.run(&[cell], &metric()).unwrap();
        let change = found.values[[0, 0]] - found.base[0];
        let effect = effects.of(edge).unwrap().mean;
        assert!((effect - change).abs() < 1e-4, "{edge}: {effect} {change}");
    }
    let value = effects.of("input->a1.h0<v>".parse().unwrap()).unwrap();
    let output = effects.of("a1.h0->logits".parse().unwrap()).unwrap();
    assert!(value.mean < -20.0 && output.mean < -20.0);

    let study = EdgeAttribution::new(&model, &clean, &corrupted).unwrap();
    for method in [
        Approximation::Eap,
        Approximation::EapIg(Steps::Left(3)),
        Approximation::ActivationsAsImplemented(2),
        Approximation::ActivationsAsPublished(2),
    ] {
        let scores = study.run(method, &metric()).unwrap().scores().unwrap();
        let best = scores.top_n(2, Ranking::Signed).unwrap();
        let names: Vec<String> = best.edges().map(|edge| edge.to_string()).collect();
        assert_eq!(names, ["input->a1.h0<v>", "a1.h0->logits"], "{method:?}");
    }
    let evaluation = CircuitEvaluation::new(&model, &clean, &corrupted).unwrap();
    let found = evaluation.run(&[EdgeSet::empty(graph), all], &metric());
    let found = found.unwrap();
    assert_eq!(found.values[[0, 0]], found.corrupted[0]);
    assert_eq!(found.values[[1, 0]], found.clean[0]);
    assert!(InformationFlow::new(&model, &clean).unwrap().run().is_ok());
    assert!(
        evaluation
            .run(
                &[EdgeSet::empty(Graph::new(&patchlens::Config::gpt2()))],
                &metric()
            )
            .is_err()
    );
}

/// That a result is an error which says what the model lacks.
fn lacks<T>(result: Result<T>, at: &str, reason: &str) {
    match result {
        Ok(_) => panic!("{at}: no error"),
        Err(error) => {
            assert!(matches!(error, Error::Lacks { .. }), "{at}: {error}");
            assert_eq!(error.to_string(), format!("{at}: {reason}"));
        }
    }
}

const NO_MLPS: &str = "this model has no MLPs";
const NO_NORMS: &str = "this model has no LayerNorms";

#[test]
fn every_method_runs_or_says_why_not() {
    let (model, [clean, corrupted]) = (model(), pair());
    let (config, metric) = (model.config(), metric());
    let patching = ActivationPatching::new(&model, &clean, &corrupted).unwrap();
    for grid in [
        Grid::Positions(Site::ResidPre),
        Grid::Positions(Site::AttnOut),
        Grid::HeadPositions(Site::Q),
        Grid::Heads(Site::Result),
        Grid::PatternEntries,
        Grid::EveryHead,
    ] {
        patching.run(grid, &metric).unwrap();
        patching.estimate(grid, &metric).unwrap();
    }
    let star = patching.estimate_with(Corrections::STAR, Grid::HeadPositions(Site::Q), &metric);
    star.unwrap();
    lacks(
        patching.run(Grid::EveryBlock, &metric),
        "blocks.0.hook_mlp_out",
        NO_MLPS,
    );
    lacks(
        patching.run(Grid::Positions(Site::MlpOut), &metric),
        "blocks.0.hook_mlp_out",
        NO_MLPS,
    );
    lacks(
        patching.estimate(Grid::Positions(Site::ResidMid), &metric),
        "blocks.0.hook_resid_mid",
        NO_MLPS,
    );

    let paths = PathPatching::new(&model, &clean, &corrupted).unwrap();
    let end = [PathReceiver::final_residual()];
    for freeze in [true, false] {
        let paths = PathPatching::new(&model, &clean, &corrupted).unwrap();
        paths
            .freeze_mlps(freeze)
            .run(Senders::Heads, &end, &metric)
            .unwrap();
    }
    paths
        .run(Senders::EmbeddingPositions, &end, &metric)
        .unwrap();
    lacks(
        paths.run(Senders::Components, &end, &metric),
        "blocks.0.hook_mlp_out",
        NO_MLPS,
    );
    lacks(
        paths.run(Senders::Heads, &[PathReceiver::mlp(1)], &metric),
        "blocks.1.hook_mlp_in",
        NO_MLPS,
    );

    let fact = TracedFact::new(clean.clone(), 1..3).unwrap();
    let tracing = CausalTracing::new(&model, SubjectCorruption::noise(0.5));
    tracing.trace(&fact, Restore::states()).unwrap();
    tracing.trace(&fact, Restore::attention(1)).unwrap();
    lacks(
        tracing.trace(&fact, Restore::mlp(1)),
        "blocks.0.hook_mlp_out",
        NO_MLPS,
    );

    let ablation = Ablation::new(&model, &clean, Replacement::Zero).unwrap();
    ablation.run(Each::Head, &metric).unwrap();
    ablation.run(Each::HeadDirectly, &metric).unwrap();
    let mlp = [vec![patchlens::ablation::CircuitNode::mlp(0)]];
    let with_mlps = Ablation::new(&model, &clean, Replacement::Zero)
        .unwrap()
        .with_mlps();
    with_mlps.run(Each::Head, &metric).unwrap();
    lacks(with_mlps.run(Each::Set(&mlp), &metric), "mlp0", NO_MLPS);

    for by in [
        Decomposition::Layers,
        Decomposition::Components,
        Decomposition::Heads,
        Decomposition::Full,
        Decomposition::Writers,
    ] {
        let attribution = DirectLogitAttribution::new(&model, &clean, &metric).unwrap();
        let rows = attribution.decompose(by).unwrap();
        let sum: f32 = rows.values().index_axis(ndarray::Axis(1), 5).sum();
        assert!((sum - attribution.truth()[5]).abs() < 1e-3, "{by:?}");
        attribution.accumulated().unwrap();
        attribution.head_sources(5).unwrap();
        lacks(attribution.neurons(5, 3), "neurons0", NO_MLPS);
    }

    let lens = LogitLens::new(&model).run(&clean).unwrap();
    let labels = &lens.kl_to_final.axes()[0].labels;
    assert_eq!(labels, &["0_pre", "1_pre", "final_post"]);
    assert_eq!(lens.kl_to_final.values()[[2, 5]], 0.0);
    let fit = LensFit::new(&model, &clean).unwrap();
    fit.points(&[Site::ResidPre.at(1)]).run(1e-3).unwrap();
    let fit = LensFit::new(&model, &clean).unwrap();
    lacks(
        fit.points(&[Site::ResidMid.at(1)]).run(1e-3),
        "blocks.1.hook_resid_mid",
        NO_MLPS,
    );

    let circuits = Circuits::new(&model);
    circuits.full_ov(INDUCTION).unwrap();
    circuits.copying_scores().unwrap();
    circuits.composition_scores(Qkv::K).unwrap();
    let positions = Embedding::Positions;
    circuits.full_qk(PREVIOUS, positions, positions).unwrap();

    repeated_loss(&model, &repeated(3, 8)).unwrap();
    CopyScores::new(&model, &clean, &[vec![1, 2]])
        .unwrap()
        .top(3)
        .run()
        .unwrap();
    let vectors = FunctionVectors::new(&model, &clean).unwrap();
    let vector = vectors.vector(&[INDUCTION]).unwrap();
    vectors.effects(&vector, &Prompt::from([5]), &[6]).unwrap();

    let study = AttentionKnockout::new(&model, &clean).unwrap().window(1);
    let cut = study
        .run(&[Cut::new("source of the answer", 2..3)], &metric)
        .unwrap();
    assert!(cut.effect.values()[[0, 1]] < -10.0);

    let points = [Site::ResidPost.at(0)];
    let steering =
        Steering::difference_of_means(&model, &clean, &corrupted, &points, Select::Last).unwrap();
    let doses = DoseResponse::new(&model, &clean, &steering).unwrap();
    doses.run(&[0.0, 1.0], &metric).unwrap();

    let generated = model.generate(&clean, (), &Generation::greedy(3)).unwrap();
    assert_eq!(generated[0].tokens[6], 7);

    lacks(
        model.processed(&[Processing::FoldLayerNorm]),
        "step `fold_ln`",
        "this model has no LayerNorms, which would take the means that it takes",
    );
    model
        .processed(&[Processing::FoldValueBiases, Processing::CenterUnembed])
        .unwrap();

    let last = Selection::points([HookPoint::LnFinalScale]);
    let cached = model.run_with_cache(CLEAN, &last);
    lacks(cached, "ln_final.hook_scale", NO_NORMS);
    assert!(Component::Mlp(0).to_string() == "mlp0" && config.d_mlp > 0);
}
