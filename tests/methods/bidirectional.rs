//! Models whose positions attend to later ones, too: what differs from causal ones by hand. Against
//! TransformerLens they are in `tests/engine/toys.rs`, bit by bit in its attack.

use ndarray::{Array2, ArrayViewMutD, Axis, Ix2};
use patchlens::config::{AttentionDirection, MlpKind, Norm};
use patchlens::generate::Generation;
use patchlens::gradient::Backward;
use patchlens::heads::{Attention, AttentionScores, Detection};
use patchlens::knockout::{AttentionKnockout, Cut};
use patchlens::metric::answer_log_probability;
use patchlens::patching::{ActivationPatching, Corrections};
use patchlens::{
    Base, Config, Grid, Prompt, Prompts, Run, Selection, Site, Transformer, Visit, hook_fn,
    logit_diff,
};

/// Attention is far from flat, and everything behind it is linear.
fn model(attention: AttentionDirection, n_layers: usize) -> Transformer {
    let config = Config {
        n_layers,
        n_heads: 2,
        d_model: 8,
        n_ctx: 6,
        d_vocab: 11,
        norm: Norm::None,
        mlp: MlpKind::None,
        attention,
        ..Config::gpt2()
    };
    let model = Transformer::random(config, 3).unwrap();
    let (config, mut weights) = model.into_parts();
    for (_, mut tensor) in weights.tensors_mut() {
        tensor.mapv_inplace(|v| 25.0 * v);
    }
    Transformer::new(config, weights).unwrap()
}

fn causal(n_layers: usize) -> Transformer {
    model(AttentionDirection::Causal, n_layers)
}

fn both_ways(n_layers: usize) -> Transformer {
    model(AttentionDirection::Bidirectional, n_layers)
}

fn pair() -> [Prompt; 2] {
    [Prompt::from([1, 2, 3, 4, 5]), Prompt::from([1, 7, 3, 9, 5])]
}

/// `pattern = softmax(q·k / √d_head)` over all sources, in f64.
#[test]
fn patterns_are_a_softmax_over_all_sources() {
    let [prompt, _] = pair();
    for (direction, visible) in [
        (AttentionDirection::Causal, [1, 2, 3, 4, 5]),
        (AttentionDirection::Bidirectional, [5; 5]),
    ] {
        let model = model(direction, 1);
        let points = [Site::Q, Site::K, Site::Pattern].map(|site| site.at(0));
        let (_, cache) = model
            .run_with_cache(&prompt, &Selection::points(points))
            .unwrap();
        let [q, k, pattern] = points.map(|at| cache.get(at).unwrap().mapv(f64::from));
        for head in 0..2 {
            for dest in 0..5 {
                let score = |src: usize| -> f64 {
                    (0..4)
                        .map(|d| q[[dest, head, d]] * k[[src, head, d]] / 2.0)
                        .sum()
                };
                let shares: Vec<f64> = (0..visible[dest]).map(|src| score(src).exp()).collect();
                let total: f64 = shares.iter().sum();
                for src in 0..5 {
                    let expected = shares.get(src).map_or(0.0, |share| share / total);
                    assert!((pattern[[head, dest, src]] - expected).abs() < 1e-5);
                }
            }
        }
    }
}

/// A change of the last position reaches the first one, by as many rows as the plan says.
#[test]
fn a_late_change_reaches_early_rows() {
    let (model, causal) = (both_ways(2), causal(2));
    let [clean, corrupted] = pair();
    let metric = logit_diff(2, 5).at_position(0);
    let effect = |model: &Transformer| {
        let study = ActivationPatching::new(model, &clean, &corrupted).unwrap();
        let found = study.run(Grid::Positions(Site::ResidPre), &metric).unwrap();
        assert_eq!(
            found.effect.about.counts["multiply-adds"],
            found.plan.multiply_adds
        );
        found.effect.values()[[0, 3]]
    };
    assert!(effect(&model).abs() > 1e-2);
    assert_eq!(effect(&causal), 0.0);
}

/// Later sources can be cut, and no destination is left without any.
#[test]
fn later_sources_can_be_cut() {
    let (model, [prompt, _]) = (both_ways(1), pair());
    let metric = logit_diff(2, 5).at_position(1);
    let prompts = Prompts::new([&prompt]).unwrap();
    let study = || AttentionKnockout::over(&Base::new(&model, &prompts).unwrap()).window(1);
    let cut = Cut::new("later", [3, 4]).read_by(1);
    let found = study().run(&[cut], &metric).unwrap();
    // By hand: scores of −∞ by a closure.
    let hook = hook_fn(
        Site::AttnScores.at(0),
        |_: &Visit<'_>, mut x: ArrayViewMutD<'_, f32>| {
            for src in [3, 4] {
                let mut column = x.index_axis_mut(Axis(2), src);
                column.index_axis_mut(Axis(1), 1).fill(f32::NEG_INFINITY);
            }
        },
    );
    let output = model.run(&prompt, hook, &Run::default()).unwrap();
    let expected = metric.evaluate(0, output.logits.get(0)).unwrap();
    assert_eq!(found.values[[0, 0, 0]], expected);
    assert!((found.effect.values()[[0, 0]]).abs() > 1e-3);
    let all = Cut::new("all", [0, 1, 2, 3, 4]).read_by(0);
    let message = study().run(&[all], &metric).unwrap_err().to_string();
    assert!(
        message.contains("all sources of destination 0"),
        "{message}"
    );
    let all_but_last = Cut::new("most", [0, 1, 2, 3]).read_by(0);
    study().run(&[all_but_last], &metric).unwrap();
}

/// The exact change of the pattern times a gradient is the effect where nothing behind is curved.
#[test]
fn the_qk_fix_counts_later_sources() {
    let (model, [clean, corrupted]) = (both_ways(1), pair());
    let metric = logit_diff(2, 5).at_position(1);
    let study = ActivationPatching::new(&model, &clean, &corrupted).unwrap();
    let fix = Corrections {
        qk_fix: true,
        ..Corrections::default()
    };
    for site in [Site::Q, Site::K] {
        let grid = Grid::HeadPositions(site);
        let exact = study.run(grid, &metric).unwrap();
        let found = study.estimate_with(fix, grid, &metric).unwrap();
        let largest = exact
            .effect
            .values()
            .iter()
            .fold(0.0_f32, |a, v| a.max(v.abs()));
        assert!(largest > 1e-2);
        for (found, exact) in found.effect.values().iter().zip(exact.effect.values()) {
            assert!(
                (found - exact).abs() < 1e-4 * largest,
                "{found} for {exact}"
            );
        }
    }
    // A later key counts for an earlier row.
    let keys = study.run(Grid::HeadPositions(Site::K), &metric).unwrap();
    let at_3 = keys.effect.values().index_axis(Axis(1), 3).to_owned();
    assert!(at_3.iter().any(|v| v.abs() > 1e-3), "{at_3}");
}

/// Patterns that are looked for may lie above the diagonal.
#[test]
fn heads_that_look_ahead_are_found() {
    let [prompt, _] = pair();
    let next = Array2::from_shape_fn((5, 5), |(dest, src)| f32::from(src == dest + 1));
    let score = |model: &Transformer| {
        let study = AttentionScores::new(model, &prompt).unwrap();
        let matrices = [next.clone()];
        study.run(Attention::Matrices(&matrices, Detection::default()))
    };
    let model = both_ways(1);
    let found = score(&model).unwrap();
    let points = Selection::points([Site::Pattern.at(0)]);
    let (_, cache) = model.run_with_cache(&prompt, &points).unwrap();
    let pattern = cache.get(Site::Pattern.at(0)).unwrap();
    for head in 0..2 {
        let pattern = pattern
            .index_axis(Axis(0), head)
            .into_dimensionality::<Ix2>()
            .unwrap();
        let on: f32 = (0..4).map(|dest| pattern[[dest, dest + 1]]).sum();
        let expected = on / pattern.sum();
        assert!((found.effect.values()[[0, head]] - expected).abs() < 1e-6);
    }
    let refused = score(&causal(1));
    assert!(
        refused
            .unwrap_err()
            .to_string()
            .contains("heads cannot look ahead")
    );
}

/// What such a model cannot do says why.
#[test]
fn text_and_longer_answers_need_causal_attention() {
    let (model, [prompt, _]) = (both_ways(1), pair());
    let error = model
        .generate(&prompt, (), &Generation::greedy(1))
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "generation: in this model, positions attend to later ones"
    );
    let base = Base::new(&model, &prompt).unwrap();
    let longer = answer_log_probability(&[vec![4, 5, 6]]);
    let expected = "log-probability of the answer (nats) of several tokens: in this model, positions \
                    attend to later ones";
    assert_eq!(base.metric(&longer).unwrap_err().to_string(), expected);
    let gradients = model.gradients(&prompt, (), &longer, &Backward::default());
    assert_eq!(gradients.unwrap_err().to_string(), expected);
    assert!(base.metric(&answer_log_probability(&[vec![6]])).is_ok());
}
