//! Identities between effects, on random models.

use ndarray::{Array2, Axis};
use patchlens::circuits::{
    Approximation, EdgeAttribution, EdgeEffects, EdgeSet, ExactEdges, Receiver, Source, Steps,
};
use patchlens::config::{Activation, AttentionDirection, MlpKind, Norm, Positions};
use patchlens::metric::logit_diffs;
use patchlens::ops::{layer_norm_affine, linear};
use patchlens::patching::ActivationPatching;
use patchlens::report::Direction;
use patchlens::{Config, Grid, HookPoint, Prompts, Selection, Site, Transformer};
use proptest::prelude::*;

use super::{random_model, random_pairs};

const METRIC_TOKENS: (u32, u32) = (3, 5);

fn direction(denoise: bool) -> Direction {
    if denoise {
        Direction::Denoising
    } else {
        Direction::Noising
    }
}

/// `|a − b|` is at most a share of the largest of all.
fn expect_close(found: &[f32], expected: &[f32], share: f32) -> Result<(), TestCaseError> {
    let largest = expected.iter().fold(0.0_f32, |a, v| a.max(v.abs()));
    for (found, expected) in found.iter().zip(expected) {
        let error = (found - expected).abs();
        prop_assert!(
            error <= share * largest,
            "{found} for {expected}, of {largest}"
        );
    }
    Ok(())
}

/// What a source writes in both runs of a prompt pair: the donor's less the base's, `[pos,
/// d_model]`.
fn difference(
    model: &Transformer,
    source: Source,
    runs: [&Prompts; 2],
    pair: usize,
) -> Array2<f32> {
    let (point, head) = match source {
        Source::Input => (HookPoint::Embed, None),
        Source::Head(head) => (Site::Result.at(head.layer), Some(head.head)),
        Source::Mlp(layer) => (Site::MlpOut.at(layer), None),
    };
    let [base, donor] = runs.map(|prompts| {
        let keep = Selection::points([point]);
        let (_, cache) = model.run_with_cache(&prompts[pair].tokens, &keep).unwrap();
        let all = cache.get(point).unwrap();
        let own = match head {
            Some(head) => all.index_axis_move(Axis(1), head),
            None => all,
        };
        own.to_owned()
            .into_dimensionality::<ndarray::Ix2>()
            .unwrap()
    });
    donor - base
}

/// A model between whose receivers and logits nothing is curved, to f32's precision: LayerNorms
/// divide by a constant, every ReLU is open, and heads attend to all positions alike.
pub(super) fn without_curves(n_layers: usize, n_heads: usize, seed: u64) -> Transformer {
    let random = random_model(n_layers, n_heads, 4, seed);
    let mut config = random.config().clone();
    let mut weights = random.parameters().clone();
    config.layer_norm_eps = 1e8;
    config.activation = Activation::Relu;
    // Tokens are told apart, and effects are larger than rounding.
    weights.wte *= 10.0;
    weights.ln_f.weight.fill(1e4);
    for block in &mut weights.h {
        block.ln_1.weight.fill(1e4);
        block.ln_2.weight.fill(1e4);
        for linear in [
            &mut block.attn.c_proj,
            &mut block.mlp.c_fc,
            &mut block.mlp.c_proj,
        ] {
            linear.weight *= 10.0;
        }
        block.attn.c_attn.weight *= 10.0;
        for mut row in block.attn.c_attn.weight.rows_mut() {
            row.iter_mut()
                .take(2 * config.d_model)
                .for_each(|v| *v = 0.0);
        }
        block.mlp.c_fc.bias.fill(50.0);
    }
    Transformer::new(config, weights).unwrap()
}

/// Weights as large as those of a trained model, where nothing keeps activations small.
pub(super) fn enlarged(model: Transformer) -> Transformer {
    let (config, mut weights) = model.into_parts();
    weights.wte *= 30.0;
    for block in &mut weights.h {
        for linear in [
            &mut block.attn.c_attn,
            &mut block.attn.c_proj,
            &mut block.mlp.c_fc,
            &mut block.mlp.c_proj,
        ] {
            linear.weight *= 20.0;
        }
    }
    Transformer::new(config, weights).unwrap()
}

/// All edges of two random pairs: their exact effects, and receiver-exact ones.
fn exact_and_receiver_exact(model: &Transformer, denoise: bool) -> [EdgeEffects; 2] {
    let [clean, corrupted] = random_pairs(&[6, 4]);
    let metric = logit_diffs(&[METRIC_TOKENS]);
    let exact = ExactEdges::new(model, &clean, &corrupted).unwrap();
    let exact = exact.direction(direction(denoise));
    let exact = exact.run(&EdgeSet::full(exact.graph()), &metric).unwrap();
    let study = EdgeAttribution::new(model, &clean, &corrupted).unwrap();
    let study = study.direction(direction(denoise));
    [
        exact,
        study.run(Approximation::ReceiverExact, &metric).unwrap(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// I1
    #[test]
    fn eap_adds_up_to_attribution_patching(
        (layers, heads, d_head) in (1_usize..4, 1_usize..4, 1_usize..7),
        seed in 0_u64..1000,
        lengths in prop::collection::vec(1_usize..9, 1..4),
        denoise: bool,
    ) {
        let model = random_model(layers, heads, d_head, seed);
        let metric = logit_diffs(&[METRIC_TOKENS]);
        for n in lengths {
            let [clean, corrupted] = random_pairs(&[n]);
            let study = EdgeAttribution::new(&model, &clean, &corrupted).unwrap();
            let study = study.direction(direction(denoise));
            let found = study.run(Approximation::Eap, &metric).unwrap();
            let sum = |source: Source| -> f32 {
                let edges = found.edges.edges().zip(found.per_prompt.column(0));
                edges.filter(|(edge, _)| edge.from == source).map(|(_, v)| *v).sum()
            };
            let patching = ActivationPatching::new(&model, &clean, &corrupted).unwrap();
            let patching = patching.direction(direction(denoise));
            let by_site = |grid| patching.estimate(grid, &metric).unwrap().effect;
            let streams = by_site(Grid::Positions(Site::ResidPre));
            let mlps = by_site(Grid::Positions(Site::MlpOut));
            let heads = by_site(Grid::HeadPositions(Site::Result));
            let (mut sums, mut expected) = (Vec::new(), Vec::new());
            for source in study.graph().sources() {
                let at = |p: usize| match source {
                    // Position embeddings are the same in both.
                    Source::Input => streams.values()[[0, p]],
                    Source::Mlp(layer) => mlps.values()[[layer, p]],
                    Source::Head(head) => heads.values()[[head.layer, p, head.head]],
                };
                expected.push((0..n).map(at).sum::<f32>());
                sums.push(sum(source));
            }
            expect_close(&sums, &expected, 1e-4)?;
        }
    }

    /// I2
    #[test]
    fn with_many_steps_the_input_accounts_for_the_change(
        (layers, heads, d_head) in (1_usize..3, 1_usize..3, 2_usize..7),
        seed in 0_u64..1000,
        denoise: bool,
    ) {
        let model = random_model(layers, heads, d_head, seed);
        let [clean, corrupted] = random_pairs(&[6]);
        let study = EdgeAttribution::new(&model, &clean, &corrupted).unwrap();
        let study = study.direction(direction(denoise));
        let many = Approximation::EapIg(Steps::Midpoint(200));
        let found = study.run(many, &logit_diffs(&[METRIC_TOKENS])).unwrap();
        let edges = found.edges.edges().zip(found.per_prompt.column(0));
        let input = edges.filter(|(edge, _)| edge.from == Source::Input);
        let scores: Vec<f32> = input.map(|(_, v)| *v).collect();
        let mut change = found.corrupted[0] - found.clean[0];
        if denoise {
            change = -change;
        }
        // Small differences of large terms are as exact as these.
        let size: f32 = scores.iter().map(|v| v.abs()).sum();
        let error = (scores.iter().sum::<f32>() - change).abs();
        prop_assert!(error < 1e-2 * size.max(change.abs()), "{scores:?} for {change}");
    }

    /// I3
    #[test]
    fn without_curves_all_scores_are_exact(
        (layers, heads) in (1_usize..4, 1_usize..4),
        seed in 0_u64..1000,
        denoise: bool,
    ) {
        let model = without_curves(layers, heads, seed);
        let [clean, corrupted] = random_pairs(&[6, 4]);
        let metric = logit_diffs(&[METRIC_TOKENS]);
        let exact = ExactEdges::new(&model, &clean, &corrupted).unwrap();
        let exact = exact.direction(direction(denoise));
        let exact = exact.run(&EdgeSet::full(exact.graph()), &metric).unwrap();
        let study = EdgeAttribution::new(&model, &clean, &corrupted).unwrap();
        let study = study.direction(direction(denoise));
        for method in [
            Approximation::Eap,
            Approximation::EapIg(Steps::Left(2)),
            Approximation::ReceiverExact,
            Approximation::ReceiverExactIg(Steps::Right(2)),
        ] {
            let found = study.run(method, &metric).unwrap();
            let flat = |values: &Array2<f32>| values.iter().copied().collect::<Vec<f32>>();
            expect_close(&flat(&found.per_prompt), &flat(&exact.per_prompt), 2e-3)?;
        }
    }

    /// Receivers that compute themselves are exact where nothing is curved behind them: the last
    /// heads of models without LayerNorms and MLPs, and the logits.
    #[test]
    fn last_heads_of_attention_only_models_are_exact(
        (layers, heads) in (1_usize..4, 1_usize..4),
        seed in 0_u64..1000,
        positions in prop::sample::select(vec![
            Positions::None, Positions::Learned, Positions::Shortformer,
        ]),
        attention in prop::sample::select(vec![
            AttentionDirection::Causal, AttentionDirection::Bidirectional,
        ]),
        denoise: bool,
    ) {
        let config = Config {
            n_layers: layers,
            n_heads: heads,
            d_model: 4 * heads,
            d_vocab: 23,
            n_ctx: 16,
            norm: Norm::None,
            mlp: MlpKind::None,
            positions,
            attention,
            ..Config::gpt2()
        };
        let model = enlarged(Transformer::random(config, seed).unwrap());
        let [exact, found] = exact_and_receiver_exact(&model, denoise);
        let (mut scores, mut effects) = (Vec::new(), Vec::new());
        for (i, edge) in exact.edges.edges().enumerate() {
            let (score, effect) = (found.per_prompt.row(i), exact.per_prompt.row(i));
            match edge.to {
                Receiver::Head(head, _) if head.layer + 1 == layers => {
                    scores.extend(score);
                    effects.extend(effect);
                }
                Receiver::Logits => prop_assert_eq!(score, effect, "{}", edge),
                _ => {}
            }
        }
        expect_close(&scores, &effects, 1e-3)?;
    }

    /// The same for the last MLP, whatever is between its maps: SoLU with a LayerNorm, too.
    #[test]
    fn last_mlps_of_models_without_norms_are_exact(
        (layers, heads) in (1_usize..3, 1_usize..4),
        seed in 0_u64..1000,
        (mlp, activation) in prop::sample::select(vec![
            (MlpKind::Normed, Activation::Solu),
            (MlpKind::Normed, Activation::GeluNew),
            (MlpKind::Plain, Activation::Solu),
        ]),
        denoise: bool,
    ) {
        let config = Config {
            n_layers: layers,
            n_heads: heads,
            d_model: 4 * heads,
            d_mlp: 9,
            d_vocab: 23,
            n_ctx: 16,
            norm: Norm::None,
            mlp,
            activation,
            ..Config::gpt2()
        };
        let model = enlarged(Transformer::random(config, seed).unwrap());
        let [exact, found] = exact_and_receiver_exact(&model, denoise);
        let graph = exact.edges.graph();
        let into = graph.edges_into(Receiver::Mlp(layers - 1)).unwrap();
        let rows = |values: &Array2<f32>| -> Vec<f32> {
            into.clone().flat_map(|edge| values.row(edge).to_vec()).collect()
        };
        expect_close(&rows(&found.per_prompt), &rows(&exact.per_prompt), 1e-3)?;
    }

    /// I6
    #[test]
    fn an_edge_into_the_logits_is_the_metric_of_the_changed_stream(
        (layers, heads, d_head) in (1_usize..4, 1_usize..4, 1_usize..7),
        seed in 0_u64..1000,
        n in 1_usize..9,
        denoise: bool,
    ) {
        let model = random_model(layers, heads, d_head, seed);
        let [clean, corrupted] = random_pairs(&[n]);
        let metric = logit_diffs(&[METRIC_TOKENS]);
        let exact = ExactEdges::new(&model, &clean, &corrupted).unwrap();
        let exact = exact.direction(direction(denoise));
        let found = exact.run(&EdgeSet::full(exact.graph()), &metric).unwrap();
        let runs = if denoise { [&corrupted, &clean] } else { [&clean, &corrupted] };
        let last = Site::ResidPost.at(layers - 1);
        let keep = Selection::points([last]);
        let (_, cache) = model.run_with_cache(&runs[0][0].tokens, &keep).unwrap();
        let stream = cache.get(last).unwrap().into_dimensionality::<ndarray::Ix2>().unwrap();
        let weights = model.parameters();
        let read = |stream: &Array2<f32>| {
            let (ln, eps) = (&weights.ln_f, model.config().layer_norm_eps);
            let normed = layer_norm_affine(stream.view(), ln.weight.view(), ln.bias.view(), eps);
            let logits = linear(normed.view(), weights.w_u(), None);
            metric.evaluate(0, logits.view()).unwrap()
        };
        let plain = read(&stream.to_owned());
        let edges = exact.graph().edges_into(Receiver::Logits).unwrap();
        for (edge, source) in edges.zip(exact.graph().sources()) {
            let changed = &stream + &difference(&model, source, runs, 0);
            prop_assert_eq!(found.per_prompt[[edge, 0]], read(&changed) - plain);
        }
    }

    /// I7
    #[test]
    fn equal_prompts_have_no_effect_at_all(
        (layers, heads, d_head) in (1_usize..4, 1_usize..4, 1_usize..7),
        seed in 0_u64..1000,
        lengths in prop::collection::vec(1_usize..9, 1..4),
        denoise: bool,
    ) {
        let model = random_model(layers, heads, d_head, seed);
        let [prompts, _] = random_pairs(&lengths);
        let metric = logit_diffs(&[METRIC_TOKENS]);
        let exact = ExactEdges::new(&model, &prompts, &prompts).unwrap();
        let exact = exact.direction(direction(denoise));
        let exact = exact.run(&EdgeSet::full(exact.graph()), &metric).unwrap();
        prop_assert!(exact.per_prompt.iter().all(|v| *v == 0.0));
        let study = EdgeAttribution::new(&model, &prompts, &prompts).unwrap();
        let study = study.direction(direction(denoise));
        for method in [
            Approximation::Eap,
            Approximation::EapIg(Steps::Left(2)),
            Approximation::CleanCorrupted,
            Approximation::ActivationsAsImplemented(2),
            Approximation::ActivationsAsPublished(1),
            Approximation::ReceiverExact,
            Approximation::ReceiverExactIg(Steps::Midpoint(2)),
        ] {
            let found = study.run(method, &metric).unwrap();
            prop_assert!(found.per_prompt.iter().all(|v| *v == 0.0), "{method:?}");
        }
    }
}
