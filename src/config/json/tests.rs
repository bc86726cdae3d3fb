use super::*;

fn parse(text: &str) -> Result<Config> {
    Config::from_json(text, Path::new("config.json"))
}

#[test]
fn harmless_fields_may_have_any_value() {
    let text = r#"{"n_layer": 12, "n_head": 12, "n_embd": 768, "n_positions": 1024,
        "vocab_size": 50257, "_attn_implementation_autoset": true, "initializer_range": 0.5,
        "reorder_and_upcast_attn": true, "torch_dtype": "float16", "use_cache": true}"#;
    assert_eq!(parse(text).unwrap(), Config::gpt2());
}

#[test]
fn round_trip_of_every_field() {
    let config = Config {
        n_layers: 3,
        n_heads: 5,
        d_model: 35,
        d_mlp: 17,
        n_ctx: 9,
        d_vocab: 77,
        activation: Activation::Gelu,
        layer_norm_eps: 1.5e-7,
        scale_attn_weights: false,
        scale_attn_by_inverse_layer_idx: true,
        tie_word_embeddings: false,
        ..Config::gpt2()
    };
    for activation in [Activation::GeluNew, Activation::Gelu, Activation::Relu] {
        let config = Config {
            activation,
            ..config.clone()
        };
        assert_eq!(parse(&config.to_json()).unwrap(), config);
    }
    for preset in [
        Config::gpt2(),
        Config::gpt2_medium(),
        Config::gpt2_large(),
        Config::gpt2_xl(),
    ] {
        assert_eq!(parse(&preset.to_json()).unwrap(), preset);
    }
    assert!(config.to_json().contains("\"eos_token_id\": null"));
    assert!(Config::gpt2().to_json().contains("\"eos_token_id\": 50256"));
    assert!(config.to_json().contains("\"layer_norm_epsilon\": 1.5e-7"));
    assert!(Config::gpt2().to_json().contains("\"n_inner\": null"));
}

#[test]
fn other_names_of_the_same_fields() {
    let text = r#"{"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 4,
        "max_position_embeddings": 6, "n_ctx": 6, "n_positions": 6, "vocab_size": 9,
        "activation_function": "gelu_pytorch_tanh", "pruned_heads": {}, "new": null}"#;
    let config = parse(text).unwrap();
    assert_eq!((config.d_model, config.d_mlp), (8, 32));
    assert_eq!((config.n_layers, config.n_heads, config.n_ctx), (2, 4, 6));
    assert_eq!(config.activation, Activation::GeluNew);
}

#[test]
fn a_size_that_no_memory_holds_is_an_error() {
    let huge = Config {
        d_model: i32::MAX as usize,
        n_heads: 1,
        d_vocab: i32::MAX as usize,
        ..Config::gpt2()
    };
    let message = huge.check().unwrap_err().to_string();
    assert!(message.contains("fits in memory"), "{message}");
}
