//! TransformerLens's `HookedTransformerConfig` as JSON: nothing in it is silently ignored.

use serde_json::{Value, json};

use super::json::{ConfigFile, Fields, Program, bad, whole_number};
use super::{Activation, AttentionDirection, Config, MlpKind, Norm, Positions};
use crate::error::Result;

/// Fields that don't change what the forward pass computes (training, devices, tokenizers, which
/// hooks run), or do so only beside others that are errors: rotary embeddings, local attention,
/// mixtures of experts.
const HARMLESS: &str = "\
    NTK_by_parts_factor NTK_by_parts_high_freq_factor NTK_by_parts_low_freq_factor \
    NTK_original_ctx_len attn_types checkpoint_index checkpoint_label_type checkpoint_value default_prepend_bos \
    decoder_start_token_id device dtype experts_per_token from_checkpoint init_mode init_weights \
    initializer_range layer_norm_folding model_name n_devices n_params norm_topk_prob \
    original_architecture relative_attention_max_distance relative_attention_num_buckets \
    rotary_adjacent_pairs rotary_base rotary_base_local rotary_dim rotary_scaling_factor seed \
    tokenizer_name tokenizer_prepends_bos train_seq_length trust_remote_code \
    ungroup_grouped_query_attention use_attn_in use_attn_result use_hook_mlp_in use_hook_tokens \
    use_split_qkv_input window_size yarn_attention_factor yarn_beta_fast yarn_beta_slow \
    yarn_factor yarn_original_max_position_embeddings yarn_truncate";

/// How far a stated scale may be from the square root of `d_head`, of which it is a rounding.
const SAME_SCALE: f64 = 1e-6;

impl Fields {
    /// The config of a model that TransformerLens has.
    pub(super) fn read_transformer_lens(mut self) -> Result<ConfigFile> {
        let d_model = self.size(&["d_model"])?;
        let d_head = self.size(&["d_head"])?;
        let n_heads = match self.present("n_heads")? {
            Some(n_heads) => n_heads,
            None => d_model.checked_div(d_head).unwrap_or(0),
        };
        let d_vocab = self.size(&["d_vocab"])?;
        let attn_only = self.flag("attn_only", false)?;
        let (mlp, d_mlp, activation) = if attn_only {
            // They say what the MLPs would be.
            for field in ["d_mlp", "act_fn"] {
                self.rest.remove(field);
            }
            let Config {
                d_mlp, activation, ..
            } = Config::gpt2();
            (MlpKind::None, d_mlp, activation)
        } else {
            let (mlp, activation) = self.act_fn()?;
            (mlp, self.size(&["d_mlp"])?, activation)
        };
        let config = Config {
            n_layers: self.size(&["n_layers"])?,
            n_heads,
            d_model,
            d_mlp,
            n_ctx: self.size(&["n_ctx"])?,
            d_vocab,
            activation,
            layer_norm_eps: self.number("eps", 1e-5)?,
            scale_attn_weights: self.scaled(d_head)?,
            scale_attn_by_inverse_layer_idx: self.flag("scale_attn_by_inverse_layer_idx", false)?,
            tie_word_embeddings: self.flag("tie_word_embeddings", false)?,
            norm: self.norm()?,
            positions: self.positions()?,
            attention: self.attention()?,
            mlp,
            head_width: (n_heads.checked_mul(d_head) != Some(d_model)).then_some(d_head),
            d_vocab_out: self.present("d_vocab_out")?.filter(|out| *out != d_vocab),
            ..Config::gpt2()
        };
        self.check_others(n_heads)?;
        self.check_rest(HARMLESS)?;
        config.check()?;
        Ok(ConfigFile {
            config,
            by: Program::TransformerLens,
            assumed: self.assumed,
        })
    }

    /// A size that may be absent, null or -1, which stand for a default.
    fn present(&mut self, name: &'static str) -> Result<Option<usize>> {
        match self.take(&[name])? {
            Some((_, value)) if value.is_null() || value == -1 => Ok(None),
            Some((field, value)) => whole_number(field, &value).map(Some),
            None => Ok(None),
        }
    }

    /// A name, or the default where the field is absent.
    fn named<T: Copy>(
        &mut self,
        name: &'static str,
        default: &'static str,
        known: &[(Option<&str>, T)],
    ) -> Result<T> {
        let value = match self.take(&[name])? {
            Some((_, value)) => value,
            None => Value::from(self.assume(name, default)),
        };
        let same = |text: &Option<&str>| match text {
            Some(text) => value == *text,
            None => value.is_null(),
        };
        let found = known.iter().find(|(text, _)| same(text));
        found.map(|(_, one)| *one).ok_or_else(|| {
            let names = known.iter().map(|(text, _)| match text {
                Some(text) => format!("\"{text}\""),
                None => "null".to_string(),
            });
            let names: Vec<String> = names.collect();
            bad(name, &value, &names.join(", or "))
        })
    }

    fn norm(&mut self) -> Result<Norm> {
        let known = [
            (Some("LN"), Norm::Layer),
            (Some("LNPre"), Norm::LayerPre),
            (None, Norm::None),
        ];
        self.named("normalization_type", "LN", &known)
    }

    fn positions(&mut self) -> Result<Positions> {
        let known = [
            (Some("standard"), Positions::Learned),
            (Some("shortformer"), Positions::Shortformer),
            (Some("none"), Positions::None),
        ];
        self.named("positional_embedding_type", "standard", &known)
    }

    fn attention(&mut self) -> Result<AttentionDirection> {
        let known = [
            (Some("causal"), AttentionDirection::Causal),
            (Some("bidirectional"), AttentionDirection::Bidirectional),
        ];
        self.named("attention_dir", "causal", &known)
    }

    fn act_fn(&mut self) -> Result<(MlpKind, Activation)> {
        let plain = |activation| (MlpKind::Plain, activation);
        let known = [
            (Some("relu"), plain(Activation::Relu)),
            (Some("gelu"), plain(Activation::Gelu)),
            (Some("gelu_new"), plain(Activation::GeluNew)),
            (Some("gelu_fast"), plain(Activation::GeluNew)),
            (Some("gelu_pytorch_tanh"), plain(Activation::GeluNew)),
            (Some("silu"), plain(Activation::Silu)),
            (Some("solu"), plain(Activation::Solu)),
            (Some("solu_ln"), (MlpKind::Normed, Activation::Solu)),
        ];
        self.named("act_fn", "relu", &known)
    }

    /// Whether scores are divided by the square root of `d_head`.
    fn scaled(&mut self, d_head: usize) -> Result<bool> {
        let scaled = self.flag("use_attn_scale", true)?;
        let Some((field, value)) = self.take(&["attn_scale"])? else {
            return Ok(scaled);
        };
        let root = (d_head as f64).sqrt();
        let same = |scale: f64| scale == -1.0 || (scale - root).abs() <= SAME_SCALE * root;
        if scaled && !value.as_f64().is_some_and(same) {
            let expected = format!("{root}, the square root of d_head: no other is supported");
            return Err(bad(field, &value, &expected));
        }
        Ok(scaled)
    }

    /// What has one supported value besides null and false.
    fn check_others(&mut self, n_heads: usize) -> Result<()> {
        if let Some((field, value)) = self.take(&["n_key_value_heads"])?
            && !value.is_null()
            && value != n_heads
        {
            let expected = format!("{n_heads}, as many as n_heads: grouped ones are not supported");
            return Err(bad(field, &value, &expected));
        }
        for cap in ["attn_scores_soft_cap", "output_logits_soft_cap"] {
            let Some((field, value)) = self.take(&[cap])? else {
                continue;
            };
            if value.as_f64().is_some_and(|cap| cap > 0.0) {
                return Err(bad(field, &value, "-1: soft caps are not supported"));
            }
        }
        Ok(())
    }
}

impl Config {
    /// See [`Config::to_json`].
    pub(super) fn to_transformer_lens_json(&self) -> String {
        let attn_only = self.mlp == MlpKind::None;
        let fields = json!({
            "act_fn": if attn_only { Value::Null } else { self.act_fn().into() },
            "attention_dir": match self.attention {
                AttentionDirection::Causal => "causal",
                AttentionDirection::Bidirectional => "bidirectional",
            },
            "attn_only": attn_only,
            "d_head": self.d_head(),
            "d_mlp": if attn_only { Value::Null } else { self.d_mlp.into() },
            "d_model": self.d_model,
            "d_vocab": self.d_vocab,
            "d_vocab_out": self.d_logits(),
            "eps": f64::from(self.layer_norm_eps),
            "n_ctx": self.n_ctx,
            "n_heads": self.n_heads,
            "n_layers": self.n_layers,
            "normalization_type": match self.norm {
                Norm::None => None,
                Norm::LayerPre => Some("LNPre"),
                Norm::Layer => Some("LN"),
            },
            "positional_embedding_type": match self.positions {
                Positions::None => "none",
                Positions::Learned => "standard",
                Positions::Shortformer => "shortformer",
            },
            "scale_attn_by_inverse_layer_idx": self.scale_attn_by_inverse_layer_idx,
            "tie_word_embeddings": self.tie_word_embeddings,
            "use_attn_scale": self.scale_attn_weights,
        });
        let text = serde_json::to_string_pretty(&fields);
        text.expect("plain numbers, strings and bools always have a JSON form") + "\n"
    }

    /// The name of what stands between an MLP's two maps; TransformerLens has no other LayerNorm
    /// there than that after SoLU.
    fn act_fn(&self) -> String {
        let name = self.activation.name();
        if self.mlp == MlpKind::Normed {
            format!("{name}_ln")
        } else {
            name.to_string()
        }
    }
}
