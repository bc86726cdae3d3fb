//! The names of a checkpoint's tensors.

use std::collections::BTreeMap;

use crate::parameters::Tensor;

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

/// What stands before a name of a GPT-2's tensor, with or without [`PREFIX`]: `_orig_mod.` in
/// `_orig_mod.transformer.wte.weight`. `None` where no end of the name is one.
pub(super) fn wrapper(name: &str) -> Option<&str> {
    let starts = name.match_indices('.').map(|(dot, _)| dot + 1);
    let start = std::iter::once(0)
        .chain(starts)
        .find(|&start| is_gpt2(canonical(&name[start..])))?;
    Some(&name[..start])
}

/// The [`wrapper`] that most names have; of two that are as frequent, the shorter one.
pub(super) fn common_wrapper<'n>(names: impl Iterator<Item = &'n str>) -> &'n str {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for wrapper in names.filter_map(wrapper) {
        *counts.entry(wrapper).or_default() += 1;
    }
    let most = counts
        .into_iter()
        .max_by_key(|&(wrapper, count)| (count, std::cmp::Reverse(wrapper.len())));
    most.map_or("", |(wrapper, _)| wrapper)
}

/// Whether a GPT-2 of any number of layers has a tensor or mask of this name.
pub(super) fn is_gpt2(canonical: &str) -> bool {
    let Some((layer, rest)) = split_layer(canonical) else {
        return Tensor::outside_blocks().any(|name| name == canonical);
    };
    layer.bytes().all(|b| b.is_ascii_digit())
        && (is_mask_in_block(rest) || Tensor::in_block().any(|name| name == rest))
}

/// Whether this is the name of a bias (not of the unembedding, which has none in GPT-2).
pub(super) fn is_bias(canonical: &str) -> bool {
    let in_block = split_layer(canonical).is_some_and(|(_, rest)| !is_mask_in_block(rest));
    (in_block || canonical == "ln_f.bias") && canonical.ends_with(".bias") && is_gpt2(canonical)
}

/// The layer that a name belongs to, if it is one's and says so.
pub(super) fn layer(canonical: &str) -> Option<usize> {
    split_layer(canonical)?.0.parse().ok()
}

/// Whether this is one of the buffers with the causal mask, which hold no weights.
pub(super) fn is_mask(canonical: &str, n_layers: usize) -> bool {
    let Some((layer, rest)) = split_layer(canonical) else {
        return false;
    };
    let known = layer
        .parse()
        .is_ok_and(|l: usize| l < n_layers && l.to_string() == layer);
    known && is_mask_in_block(rest)
}

fn is_mask_in_block(name: &str) -> bool {
    matches!(name, "attn.bias" | "attn.masked_bias")
}

/// The layer's number and the rest of a name such as `h.3.ln_1.bias`.
fn split_layer(canonical: &str) -> Option<(&str, &str)> {
    canonical.strip_prefix("h.")?.split_once('.')
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

    #[test]
    fn wrappers() {
        for (name, expected) in [
            ("wte.weight", Some("")),
            ("transformer.wte.weight", Some("")),
            (
                "_orig_mod.transformer.h.3.attn.masked_bias",
                Some("_orig_mod."),
            ),
            ("module._orig_mod.lm_head.weight", Some("module._orig_mod.")),
            ("transformer.lm_head.weight", Some("transformer.")),
            ("frozen_head.h.0.ln_1.bias", Some("frozen_head.")),
            ("old_wte.weight", None),
            ("h.x.ln_1.bias", None),
            ("v_head.summary.weight", None),
        ] {
            assert_eq!(wrapper(name), expected, "{name}");
        }
        let names = [
            "b.wte.weight",
            "a.wpe.weight",
            "b.ln_f.bias",
            "score.weight",
        ];
        assert_eq!(common_wrapper(names.into_iter()), "b.");
        assert_eq!(common_wrapper(["score.weight"].into_iter()), "");
    }
}
