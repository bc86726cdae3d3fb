//! `config.json`.

use super::*;

#[test]
fn bad_configs() {
    check(&[
        (
            "no config",
            |d| fs::remove_file(d.join("config.json")).unwrap(),
            &["config.json: ", "No such file"],
        ),
        (
            "not JSON",
            |d| fs::write(d.join("config.json"), "n_layer: 2").unwrap(),
            &["config.json: ", "line 1", "expected a JSON object"],
        ),
        (
            "a list",
            |d| fs::write(d.join("config.json"), "[]").unwrap(),
            &["config.json: ", "expected an object"],
        ),
        (
            "a key twice",
            |d| fs::write(d.join("config.json"), r#"{"n_layer":2,"n_layer":3}"#).unwrap(),
            &["config.json: ", "`n_layer` occurs twice"],
        ),
        (
            "not UTF-8",
            |d| fs::write(d.join("config.json"), b"{\"a\":\"\xff\"}").unwrap(),
            &["config.json: ", "UTF-8"],
        ),
        (
            "another model",
            |d| set(d, "model_type", json!("llama")),
            &["config.json: config field `model_type`: found \"llama\"; expected \"gpt2\""],
        ),
        (
            "cross attention",
            |d| set(d, "add_cross_attention", json!(true)),
            &[
                "config.json: config field `add_cross_attention`: found true; expected no such field",
            ],
        ),
        (
            "an activation",
            |d| set(d, "activation_function", json!("silu")),
            &[
                "config field `activation_function`: found \"silu\"; expected `gelu_new`",
                "`relu`",
            ],
        ),
        (
            "an activation of a wrong type",
            |d| set(d, "activation_function", json!(3)),
            &["config field `activation_function`: found 3; expected `gelu_new`"],
        ),
        (
            "a flag as text",
            |d| set(d, "scale_attn_weights", json!("true")),
            &["config field `scale_attn_weights`: found \"true\"; expected true or false"],
        ),
        (
            "a flag as number",
            |d| set(d, "scale_attn_by_inverse_layer_idx", json!(0)),
            &["config field `scale_attn_by_inverse_layer_idx`: found 0; expected true or false"],
        ),
        (
            "a null flag",
            |d| set(d, "tie_word_embeddings", json!(null)),
            &["config field `tie_word_embeddings`: found null; expected true or false"],
        ),
        (
            "heads",
            |d| set(d, "n_head", json!(4)),
            &["config field `n_embd`: found 6; expected a multiple of n_head = 4"],
        ),
        (
            "no heads",
            |d| set(d, "n_head", json!(0)),
            &["config field `n_head`: found 0; expected at least 1"],
        ),
        (
            "a negative size",
            |d| set(d, "n_layer", json!(-2)),
            &["config field `n_layer`: found -2; expected a whole number"],
        ),
        (
            "a fraction",
            |d| set(d, "vocab_size", json!(11.5)),
            &["config field `vocab_size`: found 11.5; expected a whole number"],
        ),
        (
            "a size beyond all memory",
            |d| set(d, "n_inner", json!(1_000_000_000_000_u64)),
            &["config field `n_inner`: found 1000000000000; expected at most"],
        ),
        (
            "10^12 layers",
            |d| set(d, "n_layer", json!(1_000_000_000_000_u64)),
            &["config field `n_layer`: found 1000000000000; expected at most"],
        ),
        (
            "two names for n_positions",
            |d| set(d, "max_position_embeddings", json!(7)),
            &["config field `max_position_embeddings`: found 7; expected 5, as `n_positions` says"],
        ),
        (
            "epsilon of a wrong type",
            |d| set(d, "layer_norm_epsilon", json!("1e-5")),
            &["config field `layer_norm_epsilon`: found \"1e-5\"; expected a number"],
        ),
        (
            "a negative epsilon",
            |d| set(d, "layer_norm_epsilon", json!(-1e-5)),
            &["config field `layer_norm_epsilon`: found -0.00001; expected a finite number"],
        ),
        (
            "an infinite epsilon",
            |d| set(d, "layer_norm_epsilon", json!(1e300)),
            &["config field `layer_norm_epsilon`: found 1e+300; expected a number"],
        ),
        (
            "an unknown field",
            |d| set(d, "rotary_dim", json!(64)),
            &[
                "config.json: config field `rotary_dim`: found 64; expected no such field",
                "delete it",
            ],
        ),
        (
            "a quantized model",
            |d| set(d, "quantization_config", json!({"bits": 4})),
            &["config field `quantization_config`: found {\"bits\":4}; expected no such field"],
        ),
    ]);
}
