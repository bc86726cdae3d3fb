//! How the gradients at attention's inputs hang together; and bad input.

use ndarray::{Array2, ArrayView2};
use patchlens::config::Activation;
use patchlens::gradient::{Backward, Gradients, cross_entropy};
use patchlens::{Error, Prompt, Prompts, Selection, Site, hook_fn};

use super::{everything, random, smooth};
use crate::common::difference;

#[test]
fn attention_inputs_sum_over_readers() {
    let model = random(Activation::GeluNew, true);
    let all = everything(&model, &Prompts::new([[5, 17, 3, 30]]).unwrap());
    let at = |site: Site| all.gradients[0].get(site.at(1)).unwrap().to_owned();
    let sum = at(Site::QInput) + at(Site::KInput) + at(Site::VInput);
    assert!(difference(at(Site::AttnIn).view(), sum.view()) < 1e-6);
    // The residual's gradient is that of the copies and of the stream that goes on.
    let through = at(Site::AttnIn).sum_axis(ndarray::Axis(1)) + at(Site::ResidMid);
    assert!(difference(at(Site::ResidPre).view(), through.view()) < 1e-5);
    let scores = at(Site::AttnScores);
    let masked = scores.indexed_iter().filter(|(i, _)| i[2] > i[1]);
    assert!(masked.map(|(_, v)| *v).all(|v| v == 0.0));
}

#[test]
fn nothing_flows_through_a_constant() {
    let model = random(Activation::GeluNew, true);
    let prompt = Prompt::from([5, 17, 3, 30]);
    let sites = [
        Site::ResidPre,
        Site::Z,
        Site::AttnOut,
        Site::ResidMid,
        Site::ResidPost,
    ];
    let all = Selection::points(sites.map(|site| site.at(1)));
    let gradients = |constant: &[patchlens::HookPoint]| {
        let want = Backward {
            gradients: Some(&all),
            constant,
            ..Backward::default()
        };
        let found = model.gradients(&prompt, (), smooth, &want).unwrap();
        found.gradients.into_iter().next().unwrap()
    };
    let both = gradients(&[Site::AttnOut.at(1), Site::MlpOut.at(1)]);
    let post = both.get(Site::ResidPost.at(1)).unwrap();
    for site in [Site::ResidMid, Site::ResidPre, Site::AttnOut] {
        assert_eq!(both.get(site.at(1)).unwrap(), post);
    }
    assert!(both.get(Site::Z.at(1)).unwrap().iter().all(|g| *g == 0.0));
    let mlp = gradients(&[Site::MlpOut.at(1)]);
    assert_eq!(mlp.get(Site::ResidMid.at(1)).unwrap(), post);
    assert_ne!(mlp.get(Site::ResidPre.at(1)).unwrap(), post);
    let none = gradients(&[]);
    assert_ne!(none.get(Site::ResidMid.at(1)).unwrap(), post);
}

#[test]
fn bad_input_is_named() {
    let model = random(Activation::Relu, true);
    let prompts = Prompts::new([vec![1, 2, 3], vec![4, 5]]).unwrap();
    let all = Selection::points([Site::Z.at(0)]);
    let want = Backward {
        gradients: Some(&all),
        parameters: true,
        ..Backward::default()
    };
    type Objective = fn(usize, ArrayView2<'_, f32>) -> (f64, Array2<f32>);
    let objectives: [(Objective, &str); 3] = [
        (
            |i, l| (1.0, Array2::zeros((l.nrows() - i, 31))),
            "gradient at the logits of prompt 1: found shape [1, 31]; expected [2, 31], the logits' shape",
        ),
        (
            |_, l| (f64::NAN, l.to_owned()),
            "objective of prompt 0: found NaN; expected a finite number",
        ),
        (
            |_, l| (0.0, l.mapv(|_| f32::INFINITY)),
            "gradient at the logits of prompt 0: found inf; expected finite numbers",
        ),
    ];
    let message = |result: Result<Gradients, Error>| result.unwrap_err().to_string();
    for (objective, expected) in objectives {
        let found = message(model.gradients(&prompts, (), objective, &want));
        assert_eq!(found, expected);
    }
    let no_layer = Selection::points([Site::Z.at(2)]);
    let far = Selection::points([Site::Z.at(1)]).at_positions([2]);
    for (selection, expected) in [
        (
            &no_layer,
            "blocks.2.attn.hook_z: layer 2 is out of range; expected 0..2, nearest `blocks.1.attn.hook_z`",
        ),
        (
            &far,
            "cached positions in prompt 1: pos 2 is out of range; expected 0..2",
        ),
    ] {
        let want = Backward {
            gradients: Some(selection),
            ..want
        };
        assert_eq!(
            message(model.gradients(&prompts, (), smooth, &want)),
            expected
        );
    }
    let hook = hook_fn(Site::KInput.at(1), |_, _| ());
    assert_eq!(
        message(model.gradients(&prompts, hook, smooth, &want)),
        "hooks of a run with gradients of the parameters: found a hook at `blocks.1.hook_k_input`; expected hooks at other points than the inputs split by head"
    );
    let constant = [Site::Z.at(0)];
    let want = Backward {
        constant: &constant,
        ..want
    };
    assert_eq!(
        message(model.gradients(&prompts, (), smooth, &want)),
        "constant point: found `blocks.0.attn.hook_z`; expected `hook_attn_out` or `hook_mlp_out` of a layer"
    );
    let empty: [Prompt; 0] = [];
    let found = message(model.gradients(&empty, (), smooth, &want));
    assert_eq!(found, "prompts: none; expected at least one");
}

#[test]
fn bad_weights_are_named() {
    let prompts = Prompts::new([vec![1, 2, 3], vec![4, 5]]).unwrap();
    let message =
        |weights: &[Vec<f32>]| cross_entropy(&prompts, weights).err().unwrap().to_string();
    assert_eq!(
        message(&[vec![1.0; 2]]),
        "weights of the loss: found shape [1]; expected [2], the number of prompts"
    );
    assert_eq!(
        message(&[vec![1.0; 2], vec![1.0; 2]]),
        "weights of the loss of prompt 1: found shape [2]; expected [1], one less than tokens"
    );
    assert_eq!(
        message(&[vec![1.0, f32::NAN], vec![1.0]]),
        "weights of the loss of prompt 0: found NaN; expected finite numbers"
    );
    // A loss made for other prompts than those that run.
    let weights = [vec![1.0; 2], vec![1.0]];
    let model = random(Activation::Relu, true);
    for others in [vec![vec![1, 2]], vec![vec![1, 2, 3]; 3]] {
        let loss = cross_entropy(&prompts, &weights).unwrap();
        let others = Prompts::new(others).unwrap();
        let error = model.gradients(&others, (), loss, &Backward::default());
        let found = error.unwrap_err().to_string();
        assert!(
            found.ends_with("found NaN; expected a finite number"),
            "{found}"
        );
    }
}
