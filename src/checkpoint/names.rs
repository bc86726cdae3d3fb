//! The names of a checkpoint's tensors.

use crate::config::Config;

/// What stands before all names but `lm_head`'s in checkpoints of the full language model.
pub(super) const PREFIX: &str = "transformer.";

/// The name without its prefix. `lm_head` lies outside the prefix, so that
/// `transformer.lm_head.weight` is no known name and stays as it is.
pub(super) fn canonical(name: &str) -> &str {
    match name.strip_prefix(PREFIX) {
        Some(rest) if !rest.starts_with("lm_head.") => rest,
        _ => name,
    }
}

/// The name as `GPT2LMHeadModel.save_pretrained` writes it.
pub(super) fn prefixed(canonical: &str) -> String {
    if canonical.starts_with("lm_head.") {
        canonical.to_string()
    } else {
        format!("{PREFIX}{canonical}")
    }
}

/// Whether this is one of the buffers with the causal mask, which hold no weights.
pub(super) fn is_mask(canonical: &str, n_layers: usize) -> bool {
    let Some((layer, rest)) = canonical
        .strip_prefix("h.")
        .and_then(|rest| rest.split_once('.'))
    else {
        return false;
    };
    let known = layer
        .parse()
        .is_ok_and(|l: usize| l < n_layers && l.to_string() == layer);
    known && matches!(rest, "attn.bias" | "attn.masked_bias")
}

/// Name and shape of every tensor that a model of this shape must have, in the order of
/// [`Parameters::tensors`](crate::Parameters::tensors). Lazy, so that an absurd number of layers
/// costs nothing until they are asked for.
pub(super) fn expected(config: &Config) -> impl Iterator<Item = (String, Vec<usize>)> {
    let d = config.d_model;
    let (mlp, ctx, vocab) = (config.d_mlp, config.n_ctx, config.d_vocab);
    let named = |(name, shape): (&str, Vec<usize>)| (name.to_string(), shape);
    let first = [("wte.weight", vec![vocab, d]), ("wpe.weight", vec![ctx, d])];
    let last = [("ln_f.weight", vec![d]), ("ln_f.bias", vec![d])];
    let own_head = (!config.tie_word_embeddings).then(|| ("lm_head.weight", vec![vocab, d]));
    let blocks = (0..config.n_layers).flat_map(move |layer| {
        [
            ("ln_1.weight", vec![d]),
            ("ln_1.bias", vec![d]),
            ("attn.c_attn.weight", vec![d, 3 * d]),
            ("attn.c_attn.bias", vec![3 * d]),
            ("attn.c_proj.weight", vec![d, d]),
            ("attn.c_proj.bias", vec![d]),
            ("ln_2.weight", vec![d]),
            ("ln_2.bias", vec![d]),
            ("mlp.c_fc.weight", vec![d, mlp]),
            ("mlp.c_fc.bias", vec![mlp]),
            ("mlp.c_proj.weight", vec![mlp, d]),
            ("mlp.c_proj.bias", vec![d]),
        ]
        .map(|(name, shape)| (format!("h.{layer}.{name}"), shape))
    });
    first
        .into_iter()
        .map(named)
        .chain(blocks)
        .chain(last.into_iter().chain(own_head).map(named))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parameters::Parameters;

    #[test]
    fn expected_is_the_table_of_parameters() {
        for tie_word_embeddings in [true, false] {
            let config = Config {
                n_layers: 2,
                n_heads: 2,
                d_model: 6,
                d_mlp: 7,
                n_ctx: 5,
                d_vocab: 11,
                tie_word_embeddings,
                ..Config::gpt2()
            };
            let parameters = Parameters::zeros(&config);
            let table: Vec<_> = parameters
                .tensors()
                .into_iter()
                .map(|(name, tensor)| (name, tensor.shape().to_vec()))
                .collect();
            assert_eq!(expected(&config).collect::<Vec<_>>(), table);
        }
    }

    #[test]
    fn masks_are_told_from_biases() {
        for (name, mask) in [
            ("h.0.attn.bias", true),
            ("h.11.attn.masked_bias", true),
            ("h.12.attn.bias", false),
            ("h.01.attn.bias", false),
            ("h.0.attn.c_attn.bias", false),
            ("h.0.crossattn.bias", false),
            ("h.0.attn.c_proj.bias", false),
            ("attn.bias", false),
            ("h.x.attn.bias", false),
        ] {
            assert_eq!(is_mask(name, 12), mask, "{name}");
        }
    }

    #[test]
    fn prefixes() {
        assert_eq!(canonical("transformer.h.0.ln_1.bias"), "h.0.ln_1.bias");
        assert_eq!(canonical("wte.weight"), "wte.weight");
        let odd = "transformer.lm_head.weight";
        assert_eq!(canonical(odd), odd);
        assert_eq!(prefixed("wte.weight"), "transformer.wte.weight");
        assert_eq!(prefixed("lm_head.weight"), "lm_head.weight");
    }
}
