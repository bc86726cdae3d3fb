//! Attention with nothing left to attend to, and edges cut in three ways, against TransformerLens.

use std::collections::BTreeMap;

use ndarray::{ArrayD, Axis, Ix3};
use patchlens::gradient::Backward;
use patchlens::intervention::Values;
use patchlens::model::{BlockedRow, BlockedRows};
use patchlens::patching::{ActivationPatching, Grid};
use patchlens::processing::Processing;
use patchlens::report::Direction;
use patchlens::{
    ActivationCache, Base, Edit, Hooks, Intervention, Interventions, Prompt, Run, RunOutput,
    Selection, Site, Sweep, Target, Transformer, hook_fn, logit_diff,
};

use crate::common;

const MODEL: &str = "tiny-gelu";
const LAYER: usize = 1;

fn prompt() -> Prompt {
    Prompt::from(&common::tokens(&common::metadata(MODEL)["prompts"][0])[..])
}

fn set(target: Target, value: f32) -> Intervention {
    Intervention::new(target, Edit::Set(Values::scalar(value)))
}

fn scores() -> Target {
    Target::new(Site::AttnScores.at(LAYER))
}

fn edge(site: Site) -> Target {
    let target = Target::new(site.at(LAYER));
    target.at_heads(1).at_positions(4).at_src(2)
}

/// The cases of `blocked.py` that one intervention makes, with the destinations that each leaves
/// without a source, in every head.
fn cases() -> Vec<(&'static str, Intervention, Vec<usize>)> {
    let none = f32::NEG_INFINITY;
    vec![
        ("first_source", set(scores().at_src(0), none), vec![0]),
        ("last_row", set(scores().at_positions(-1), none), vec![6]),
        // The mask's −∞ times 0 is no number; the last row has no mask.
        (
            "times_zero",
            Intervention::new(scores(), Edit::Scale(0.0)),
            (0..6).collect(),
        ),
        ("edge_blocked", set(edge(Site::AttnScores), none), vec![]),
        ("edge_without_weight", set(edge(Site::Pattern), 0.0), vec![]),
        ("edge_score_zero", set(edge(Site::AttnScores), 0.0), vec![]),
    ]
}

fn run(model: &Transformer, hooks: impl Hooks) -> RunOutput {
    let kept = Selection::points([Site::Pattern, Site::Z].map(|site| site.at(LAYER)));
    let run = Run {
        cache: Some(&kept),
        ..Run::default()
    };
    model.run(&prompt(), hooks, &run).unwrap()
}

fn pattern(cache: &ActivationCache) -> ndarray::Array3<f32> {
    let pattern = cache.get(Site::Pattern.at(LAYER)).unwrap();
    pattern.into_dimensionality::<Ix3>().unwrap().to_owned()
}

fn expected_rows(heads: usize, dests: &[usize]) -> BlockedRows {
    let first = dests.first().map(|dest| BlockedRow {
        prompt: 0,
        layer: LAYER,
        head: 0,
        dest: *dest,
    });
    BlockedRows {
        rows: heads * dests.len(),
        first,
    }
}

fn compare(
    case: &str,
    output: &RunOutput,
    golden: &BTreeMap<String, ArrayD<f32>>,
    into: &mut common::Comparison,
) {
    let cache = &output.caches[0];
    for (name, site) in [("pattern", Site::Pattern), ("z", Site::Z)] {
        let key = format!("{case}/{name}");
        into.add(
            &key,
            cache.get(site.at(LAYER)).unwrap(),
            golden[&key].view(),
        );
    }
    let key = format!("{case}/logits");
    into.add(&key, output.logits.get(0).into_dyn(), golden[&key].view());
}

/// b17: such a row's pattern and z are zero, as in TransformerLens; the receipt, the run and the
/// sweep count them and name the first.
#[test]
fn b17_a_row_without_sources_is_zero_and_counted() {
    let (model, golden) = (
        common::open(MODEL),
        common::tensors(MODEL, "blocked.safetensors"),
    );
    let n_heads = model.config().n_heads;
    let mut comparison = common::Comparison::new(1e-5);
    for (case, intervention, dests) in cases() {
        let list = [intervention];
        let mut hook = Interventions::new(&list[..]);
        let output = run(&model, &mut hook);
        compare(case, &output, &golden, &mut comparison);
        let expected = expected_rows(n_heads, &dests);
        assert_eq!(output.blocked, expected, "{case}");
        assert_eq!(hook.receipt().blocked, expected, "{case}");
        let rows = pattern(&output.caches[0]);
        for dest in &dests {
            assert!(
                rows.index_axis(Axis(1), *dest).iter().all(|v| *v == 0.0),
                "{case}"
            );
        }
        let printed = hook.receipt().to_string();
        assert_eq!(
            printed.contains("blocked whole"),
            !dests.is_empty(),
            "{printed}"
        );

        let metric = logit_diff(12, 29);
        let base = Base::new(&model, &prompt()).unwrap();
        let sweep = Sweep::over(&base)
            .run(&[vec![], list.to_vec()], &metric)
            .unwrap();
        let of_cells: Vec<(usize, BlockedRows)> = sweep.blocked.into_iter().collect();
        let rows = (!dests.is_empty()).then_some((1, expected));
        assert_eq!(of_cells, Vec::from_iter(rows), "{case}");
        let last = output.logits.get(0);
        let last = last.row(last.nrows() - 1);
        assert_eq!(
            sweep.values[[1, 0]].to_bits(),
            (last[12] - last[29]).to_bits(),
            "{case}"
        );
    }
    comparison.finish("blocked attention");
}

/// b17: a very low number instead of −∞ blocks nothing if all sources get it: the row is uniform.
#[test]
fn b17_very_low_scores_make_a_uniform_row() {
    let (model, golden) = (
        common::open(MODEL),
        common::tensors(MODEL, "blocked.safetensors"),
    );
    let low = hook_fn(Site::AttnScores.at(LAYER), |_, mut scores| {
        for ((_, dest, src), score) in scores
            .view_mut()
            .into_dimensionality::<Ix3>()
            .unwrap()
            .indexed_iter_mut()
        {
            if src <= dest {
                *score = -1e9;
            }
        }
    });
    let output = run(&model, low);
    assert_eq!(output.blocked, BlockedRows::default());
    let rows = pattern(&output.caches[0]);
    for ((_, dest, src), value) in rows.indexed_iter() {
        let expected = if src <= dest {
            1.0 / (dest + 1) as f32
        } else {
            0.0
        };
        assert!((value - expected).abs() < 1e-6);
    }
    let mut comparison = common::Comparison::new(1e-5);
    compare("all_very_low", &output, &golden, &mut comparison);
    comparison.finish("very low scores");
}

/// b17: the rows that keep a source are the softmax over those that are left.
#[test]
fn b17_other_rows_are_the_softmax_over_the_rest() {
    let model = common::open(MODEL);
    let plain = pattern(&run(&model, ()).caches[0]);
    let blocked = Interventions::new(vec![set(scores().at_src(0), f32::NEG_INFINITY)]);
    let found = pattern(&run(&model, blocked).caches[0]);
    for ((head, dest, src), value) in found.indexed_iter().filter(|((_, dest, _), _)| *dest > 0) {
        let rest: f32 = (1..=dest).map(|src| plain[[head, dest, src]]).sum();
        let expected = if src == 0 {
            0.0
        } else {
            plain[[head, dest, src]] / rest
        };
        assert!((value - expected).abs() < 1e-6, "{head} {dest} {src}");
    }
}

/// b18: a blocked edge, an edge of weight zero and a score of zero are three things: the row sums
/// to 1, to 1 − a, to 1; folding value biases into b_O leaves the first as it is, and changes the
/// second by the lost share of b_V · W_O.
#[test]
fn b18_a_zero_in_the_pattern_is_not_a_blocked_edge() {
    let model = common::open(MODEL);
    let folded = model.processed(&[Processing::FoldValueBiases]).unwrap();
    let at = [1, 4, 2];
    let plain = pattern(&run(&model, ()).caches[0])[at];
    assert!(plain > 0.01 && plain < 0.99);
    let sum = |output: &RunOutput| -> f32 {
        let pattern = pattern(&output.caches[0]);
        pattern.index_axis(Axis(0), 1).row(4).sum()
    };
    let cut = |model: &Transformer, site, value| {
        let hook = Interventions::new(vec![set(edge(site), value)]);
        let kept = Selection::points([Site::Pattern, Site::AttnOut].map(|s| s.at(LAYER)));
        let run = Run {
            cache: Some(&kept),
            ..Run::default()
        };
        model.run(&prompt(), hook, &run).unwrap()
    };
    let ways = [
        (Site::AttnScores, f32::NEG_INFINITY, 1.0),
        (Site::Pattern, 0.0, 1.0 - plain),
        (Site::AttnScores, 0.0, 1.0),
    ];
    let out = |output: &RunOutput| {
        let out = output.caches[0].get(Site::AttnOut.at(LAYER)).unwrap();
        out.index_axis(Axis(0), 4).to_owned()
    };
    let found = ways.map(|(site, value, expected)| {
        let output = cut(&model, site, value);
        assert!((sum(&output) - expected).abs() < 1e-6);
        let change = out(&cut(&folded, site, value)) - out(&output);
        (out(&output), change)
    });
    assert!(found[0].0 != found[1].0 && found[1].0 != found[2].0 && found[0].0 != found[2].0);

    let layer = &model.parameters().h[LAYER].attn;
    let (d, d_head) = (model.config().d_model, model.config().d_head());
    let share: Vec<f32> = (0..d)
        .map(|column| {
            let weight = |i: usize| {
                layer.c_attn.bias[2 * d + d_head + i] * layer.c_proj.weight[[d_head + i, column]]
            };
            plain * (0..d_head).map(weight).sum::<f32>()
        })
        .collect();
    for (column, share) in share.iter().enumerate() {
        assert!(found[0].1[column].abs() < 1e-5);
        assert!(
            (found[1].1[column] - share).abs() < 1e-5,
            "{} {share}",
            found[1].1[column]
        );
        assert!(found[2].1[column].abs() < 1e-5);
    }
    assert!(share.iter().any(|v| v.abs() > 1e-3));
}

/// Scores that are no numbers for another reason: the same bits and the same count, whether the
/// attention is shown or not.
#[test]
fn b17_shown_or_not() {
    let model = common::open(MODEL);
    let infinite = |_: &patchlens::Visit<'_>, mut q: ndarray::ArrayViewMutD<'_, f32>| {
        q.index_axis_mut(Axis(0), 3).fill(f32::INFINITY);
    };
    let look = hook_fn(Site::Pattern.at(LAYER), |_, _| ());
    let hidden = model
        .run(
            &prompt(),
            hook_fn(Site::Q.at(LAYER), infinite),
            &Run::default(),
        )
        .unwrap();
    let shown = model
        .run(
            &prompt(),
            (hook_fn(Site::Q.at(LAYER), infinite), look),
            &Run::default(),
        )
        .unwrap();
    let bits = |output: &RunOutput| -> Vec<u32> {
        output.logits.get(0).iter().map(|v| v.to_bits()).collect()
    };
    assert_eq!(bits(&hidden), bits(&shown));
    assert_eq!(hidden.blocked, shown.blocked);
    assert_eq!(
        hidden.blocked.first.map(|row| (row.layer, row.dest)),
        Some((LAYER, 3))
    );
    assert!(hidden.logits.get(0).iter().all(|v| v.is_finite()));
}

/// b17: what a base leaves without a source is counted there, and said of studies over it.
#[test]
fn b17_a_base_counts_its_rows_and_studies_say_so() {
    let model = common::open(MODEL);
    let plain = Base::new(&model, &prompt()).unwrap();
    let none = set(scores().at_src(0), f32::NEG_INFINITY);
    let blocked = Base::over(&plain, &prompt(), vec![none]).unwrap();
    let metric = logit_diff(12, 29);
    let cell = vec![Intervention::new(Site::Z.at(LAYER + 1), Edit::Zero)];
    let sweep = Sweep::over(&blocked).run(&[cell], &metric).unwrap();
    let expected = expected_rows(model.config().n_heads, &[0]);
    assert_eq!(
        (blocked.blocked(), sweep.base_blocked),
        (expected, expected)
    );
    assert_eq!(plain.blocked(), BlockedRows::default());
    let study = ActivationPatching::over(&plain, &blocked).unwrap();
    let study = study.direction(Direction::Noising);
    let found = study
        .run(Grid::Positions(Site::ResidPost), &metric)
        .unwrap();
    let notes = found.effect.about.notes.join("\n");
    let said = format!("corrupted run: {expected}");
    assert!(notes.contains(&said), "{notes}");
}

/// b17: a query that is no number leaves finite logits, but no gradient; that is told.
#[test]
fn b17_gradients_of_rows_that_are_no_numbers_are_errors() {
    let model = common::open(MODEL);
    let points = Selection::points([Site::ResidPre.at(LAYER)]);
    let want = Backward {
        gradients: Some(&points),
        ..Backward::default()
    };
    let run = |value: f32| {
        let hook = hook_fn(Site::Q.at(LAYER), move |_, mut q| q.fill(value));
        model.gradients(&prompt(), hook, logit_diff(12, 29), &want)
    };
    assert!(run(0.0).is_ok());
    let error = run(f32::NAN).unwrap_err().to_string();
    assert!(
        error.contains("found NaN; ") && error.contains("blocked whole"),
        "{error}"
    );
}
