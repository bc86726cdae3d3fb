//! What fell when the crate was attacked, by case.

use crate::checkpoint_files::*;
use crate::small_tokenizer::message;
use ndarray::arr2;
use patchlens::{Config, Parameters, Transformer, probability_diff};

#[test]
fn t9_weights_that_are_not_finite_are_rejected() {
    let config = tiny_config();
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut parameters = distinct_parameters(&config);
        parameters.h[1].mlp.c_fc.weight[[2, 7]] = value;
        let expected = format!(
            "parameter `h.1.mlp.c_fc.weight`: found {value} at [2, 7]; expected finite numbers"
        );
        assert_eq!(message(parameters.check(&config)), expected);
        let model = Transformer::new(config.clone(), parameters);
        assert_eq!(message(model), expected);
    }
    // Whatever the layout of the array.
    let mut parameters = distinct_parameters(&config);
    let mut transposed = parameters.h[0].attn.c_proj.weight.clone().reversed_axes();
    transposed[[1, 4]] = f32::NAN;
    parameters.h[0].attn.c_proj.weight = transposed;
    let found = message(Transformer::new(config, parameters));
    assert!(found.contains("found NaN at [1, 4]"), "{found}");
}

#[test]
fn t9_a_model_beyond_all_memory_is_an_error() {
    // More than any address space, whatever the system promises.
    let wide = Config {
        d_model: 1 << 24,
        d_mlp: 1 << 26,
        n_layers: 4,
        n_heads: 1,
        ..Config::gpt2()
    };
    // Small matrices, but too many.
    let deep = Config {
        d_model: 128,
        d_mlp: 512,
        n_layers: i32::MAX as usize,
        n_heads: 1,
        d_vocab: 1,
        n_ctx: 1,
        ..Config::gpt2()
    };
    for config in [wide, deep] {
        for result in [
            Transformer::random(config.clone(), 0).map(|_| ()),
            Parameters::zeros(&config).map(|_| ()),
        ] {
            let found = message(result);
            assert!(found.contains("a model that fits in memory"), "{found}");
        }
    }
}

#[test]
fn t9_a_difference_of_nothing_is_an_error() {
    let logits = arr2(&[[0.0, 1.0, 2.0]]);
    let metric = |sets: (Vec<u32>, Vec<u32>)| probability_diff(&[sets]).evaluate(0, logits.view());
    assert_eq!(
        message(metric((vec![], vec![]))),
        "probability difference: tokens of prompt 0: found none; expected at least one"
    );
    assert!(metric((vec![1], vec![])).unwrap() > 0.0);
    assert!(metric((vec![], vec![1])).unwrap() < 0.0);
}
