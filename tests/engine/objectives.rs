//! f1: metrics as objectives of gradients.

use ndarray::{Array2, ArrayView2};
use patchlens::gradient::{Backward, Gradients, Objective};
use patchlens::metric::{
    Reduce, answer_log_probability, kl_divergence, log_probability, logit, logit_diff_sets,
    logit_diffs, logit_sums, rank,
};
use patchlens::ops::log_softmax_row;
use patchlens::{
    Edit, HookPoint, Intervention, Metric, Prompts, Result, Selection, Site, Sweep, Transformer,
    logit_diff,
};

use crate::hooks_cases::{TOKENS, bits, model};
/// What a backward pass found, as bits: values, gradients at some points, those of all parameters.
pub fn backward(model: &Transformer, objective: impl Objective) -> Result<Vec<Vec<u32>>> {
    let points = Selection::points([HookPoint::Embed, Site::Z.at(0), Site::ResidPost.at(1)]);
    let want = Backward {
        gradients: Some(&points),
        parameters: true,
        ..Backward::default()
    };
    let prompts = Prompts::new([TOKENS.to_vec(), vec![9, 8, 7]]).unwrap();
    let found: Gradients = model.gradients(&prompts, (), objective, &want)?;
    let values = found.values.iter().map(|v| (*v as f32).to_bits()).collect();
    let caches = found.gradients.iter().flat_map(|cache| {
        let points = points.iter();
        points.map(|point| bits(cache.get(point).unwrap()))
    });
    let parameters = found.parameters.unwrap();
    let parameters = parameters.tensors().into_iter();
    let parameters = parameters.map(|(_, tensor)| bits(tensor.into_dyn()));
    Ok([values]
        .into_iter()
        .chain(caches)
        .chain(parameters)
        .collect())
}

/// A closure of the logits at the last position: the value there, and its gradient.
pub fn at_the_last(
    f: impl Fn(usize, &[f32], &mut [f32]) -> f32 + Sync,
) -> impl Fn(usize, ArrayView2<'_, f32>) -> (f64, Array2<f32>) + Sync {
    move |prompt, logits| {
        let mut gradient = Array2::zeros(logits.dim());
        let last = logits.nrows() - 1;
        let row = logits.row(last).to_vec();
        let to = gradient.row_mut(last).into_slice().unwrap();
        (f64::from(f(prompt, &row, to)), gradient)
    }
}

/// f1: a metric is an objective, with the bits of the closure that one would write by hand.
#[test]
fn f1_a_metric_is_an_objective() {
    let model = model();
    let difference = at_the_last(|_, logits, to| {
        (to[3], to[5]) = (1.0, -1.0);
        logits[3] - logits[5]
    });
    let by_hand = backward(&model, difference).unwrap();
    let metric = logit_diff(3, 5);
    assert_eq!(backward(&model, &metric).unwrap(), by_hand);
    assert_eq!(backward(&model, metric).unwrap(), by_hand);
    let weights = [vec![(3, 1.0), (5, -1.0)]];
    assert_eq!(backward(&model, logit_sums(&weights)).unwrap(), by_hand);

    // One target per prompt.
    let tokens = [6_u32, 2];
    let one = at_the_last(|prompt, logits, to| {
        let token = tokens[prompt] as usize;
        to[token] = 1.0;
        logits[token]
    });
    let by_hand = backward(&model, one).unwrap();
    assert_eq!(backward(&model, logit(&tokens)).unwrap(), by_hand);
    let pairs = at_the_last(|prompt, logits, to| {
        let token = tokens[prompt] as usize;
        (to[token], to[4]) = (1.0, -1.0);
        logits[token] - logits[4]
    });
    let by_hand = backward(&model, pairs).unwrap();
    assert_eq!(
        backward(&model, logit_diffs(&[(6, 4), (2, 4)])).unwrap(),
        by_hand
    );

    let log_p = at_the_last(|prompt, logits, to| {
        let token = tokens[prompt] as usize;
        to.copy_from_slice(logits);
        log_softmax_row(to);
        let value = to[token];
        to.iter_mut().for_each(|v| *v = -v.exp());
        to[token] += 1.0;
        value
    });
    let by_hand = backward(&model, log_p).unwrap();
    assert_eq!(backward(&model, log_probability(&tokens)).unwrap(), by_hand);
}

/// f1: what has no gradient, or does not fit the prompts, is named before anything runs.
#[test]
fn f1_a_metric_without_a_gradient_is_an_error() {
    let model = model();
    let sum = Metric::from_fn("sum of all logits", |_, logits| logits.sum());
    let without = "expected one with a gradient";
    for (metric, expected) in [
        (sum, ["sum of all logits", without]),
        (rank(&[3]), ["rank", without]),
        (kl_divergence(), ["no reference", "with_reference"]),
        (logit(&[1, 2, 3]), ["number of targets: found 3", "1 or 2"]),
        (logit(&[900]), ["logit of prompt 0", "token 900"]),
        (logit_diff(3, 5).at_position(5), ["prompt 1", "pos 5"]),
        (logit_sums(&[vec![]]), ["found none", "at least one"]),
        (
            logit_sums(&[vec![(1, f32::NAN)]]),
            ["weight NaN of token 1", "finite"],
        ),
    ] {
        let error = backward(&model, &metric).unwrap_err().to_string();
        for part in expected {
            assert!(error.contains(part), "{metric:?}: {error}");
        }
    }
    let sum = Metric::from_fn("sum of all logits", |_, logits| logits.sum());
    let error = Objective::at(&sum, 0, Array2::zeros((3, 53)).view()).unwrap_err();
    assert!(error.to_string().contains(without), "{error}");
}

/// Of a logit read by a sweep, the plan knows that few columns are needed.
#[test]
fn f1_single_logits_are_metrics_of_their_own() {
    let logits = ndarray::arr2(&[[9.0, 9.0, 9.0], [0.5, -2.0, 4.0]]);
    let read = |metric: Metric| metric.evaluate(0, logits.view()).unwrap();
    assert_eq!(read(logit(&[1])), -2.0);
    assert_eq!(read(logit(&[2]).at_position(0)), 9.0);
    assert_eq!(read(logit_sums(&[vec![(2, 0.25), (1, -1.5)]])), 4.0);
    let mean = logit_diff_sets(&[(vec![2], vec![0, 1])], Reduce::Mean);
    let weights = [vec![(2, 1.0), (0, -0.5), (1, -0.5)]];
    assert_eq!(read(logit_sums(&weights)), read(mean));
    let model = model();
    let cost = |metric: &Metric| {
        let cells = [vec![Intervention::new(Site::MlpOut.at(1), Edit::Zero)]];
        let sweep = Sweep::new(&model, Prompts::new([TOKENS]).unwrap()).unwrap();
        sweep.run(&cells, metric).unwrap().plan.multiply_adds
    };
    assert!(cost(&logit(&[4])) < cost(&logit_diff(4, 5)));
    assert!(cost(&logit_diff(4, 5)) < cost(&log_probability(&[4])));
}

/// f1: an answer of several tokens has a gradient on prompts that hold it, and on no others.
#[test]
fn f1_prompts_hold_the_answers_that_are_objectives() {
    let model = model();
    let run = |prompts: Prompts| {
        let answer = answer_log_probability(&[vec![7, 3]]);
        model.gradients(&prompts, (), answer, &Backward::default())
    };
    let forced = Prompts::new([vec![1, 2, 7], vec![4, 7]]).unwrap();
    assert!(run(forced).is_ok());
    let error = run(Prompts::new([vec![1, 2, 7], vec![4, 5]]).unwrap()).unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("prompt 1, from position 1: tokens [5]; expected [7]"),
        "{error}"
    );
}
