//! The names of a checkpoint's tensors.

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

#[cfg(test)]
mod tests {
    use super::*;

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
