//! Hugging Face's `config.json` of GPT-2: nothing in it is silently ignored.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use super::{Activation, AssumedField, Config};
use crate::error::{Error, Result};
use crate::files::{UniqueKeys, parse_error, read_text};

/// Real ones have about 1 kB.
const MAX_BYTES: u64 = 16 << 20;

/// GPT-2's `<|endoftext|>`, which begins and ends texts.
const END_OF_TEXT: usize = 50256;

/// Fields that don't change what the forward pass computes: training, generation, task heads,
/// bookkeeping, and the precision of attention (`reorder_and_upcast_attn`; here always f32).
const HARMLESS: &str = "\
    _attn_implementation_autoset _commit_hash _name_or_path _num_labels architectures \
    attn_implementation attn_pdrop begin_suppress_tokens bos_token_id chunk_size_feed_forward \
    decoder_start_token_id diversity_penalty do_sample dtype early_stopping embd_pdrop \
    eos_token_id exponential_decay_length_penalty finetuning_task forced_bos_token_id \
    forced_eos_token_id gradient_checkpointing id2label initializer_range is_decoder label2id \
    length_penalty max_length min_length n_special no_repeat_ngram_size num_beam_groups \
    num_beams num_labels num_return_sequences output_attentions output_hidden_states output_past \
    output_scores pad_token_id predict_special_tokens prefix problem_type \
    reorder_and_upcast_attn repetition_penalty resid_pdrop return_dict return_dict_in_generate \
    sep_token_id summary_activation summary_first_dropout summary_proj_to_labels summary_type \
    summary_use_proj suppress_tokens task_specific_params temperature tokenizer_class top_k \
    top_p torch_dtype torchscript transformers_version typical_p use_bfloat16 use_cache";

impl Config {
    /// Reads `config.json` in the folder `dir`, or `cfg.json` where that is absent; see
    /// [`Config::from_json`].
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read, else as [`Config::from_json`].
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        Ok(ConfigFile::open(dir.as_ref())?.config)
    }

    /// Reads the text of Hugging Face's `config.json` of a GPT-2, or of TransformerLens's
    /// `HookedTransformerConfig` as JSON, which has `n_layers` and `d_model`; `path` is for error
    /// messages.
    ///
    /// From Hugging Face:
    /// The sizes `n_layer`, `n_head`, `n_embd`, `n_positions` and `vocab_size` must be there, by
    /// these names or as `num_hidden_layers`, `num_attention_heads`, `hidden_size`,
    /// `max_position_embeddings` (or `n_ctx`, which does not matter where it differs from
    /// `n_positions`: transformers does not read it). Other absent fields have the defaults of
    /// Hugging Face's `GPT2Config`. From TransformerLens: `n_layers`, `d_model`, `n_ctx`, `d_head`
    /// and `d_vocab` must be there, `d_mlp` and `act_fn` too unless it is `attn_only`.
    ///
    /// ```
    /// use patchlens::Config;
    /// let text = r#"{"model_type": "gpt2", "n_layer": 6, "n_head": 12, "n_embd": 768,
    ///     "n_positions": 1024, "vocab_size": 50257}"#;
    /// assert_eq!(Config::from_json(text, "config.json".as_ref())?.n_layers, 6);
    ///
    /// let text = text.replace("gpt2", "llama");
    /// let error = Config::from_json(&text, "config.json".as_ref()).unwrap_err();
    /// assert!(error.to_string().contains("`model_type`: found \"llama\"; expected \"gpt2\""));
    /// # Ok::<(), patchlens::Error>(())
    /// ```
    ///
    /// # Errors
    /// - [`Error::Format`] if the text is not a JSON object, or has a key twice.
    /// - [`Error::Config`] for a value that is not supported, and for a field that is not known:
    ///   it might change what the model computes.
    pub fn from_json(text: &str, path: &Path) -> Result<Self> {
        Ok(ConfigFile::from_json(text, path)?.config)
    }

    /// The text of a `config.json` that [`Config::from_json`] reads back as this config, and
    /// Hugging Face's transformers too where it is a GPT-2's. What GPT-2 cannot be has
    /// TransformerLens's fields.
    pub fn to_json(&self) -> String {
        if !self.is_gpt2() {
            return self.to_transformer_lens_json();
        }
        // An absent id means GPT-2's, of which transformers warns where the vocabulary is smaller.
        let end_of_text = (self.d_vocab > END_OF_TEXT).then_some(END_OF_TEXT);
        let fields = FileFields {
            activation_function: self.activation.name(),
            architectures: ["GPT2LMHeadModel"],
            bos_token_id: end_of_text,
            dtype: "float32",
            eos_token_id: end_of_text,
            layer_norm_epsilon: self.layer_norm_eps,
            model_type: "gpt2",
            n_ctx: self.n_ctx,
            n_embd: self.d_model,
            n_head: self.n_heads,
            n_inner: (self.d_mlp != 4 * self.d_model).then_some(self.d_mlp),
            n_layer: self.n_layers,
            n_positions: self.n_ctx,
            scale_attn_by_inverse_layer_idx: self.scale_attn_by_inverse_layer_idx,
            scale_attn_weights: self.scale_attn_weights,
            tie_word_embeddings: self.tie_word_embeddings,
            vocab_size: self.d_vocab,
        };
        let text = serde_json::to_string_pretty(&fields);
        text.expect("plain numbers, strings and bools always have a JSON form") + "\n"
    }
}

/// A program that writes checkpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Program {
    /// Hugging Face's transformers, or what has its fields and names.
    #[default]
    HuggingFace,
    /// TransformerLens.
    TransformerLens,
}

/// A `config.json` that has been read.
#[derive(Debug)]
pub(crate) struct ConfigFile {
    pub config: Config,
    /// Whose fields it has, and thereby whose names the tensors have.
    pub by: Program,
    pub assumed: Vec<AssumedField>,
}

impl ConfigFile {
    /// See [`Config::open`].
    pub fn open(dir: &Path) -> Result<Self> {
        let [path, other] = ["config.json", "cfg.json"].map(|name| dir.join(name));
        let lens = !path.exists() && other.exists();
        let path = if lens { other } else { path };
        Self::from_json(&read_text(&path, MAX_BYTES)?, &path)
    }

    /// See [`Config::from_json`].
    pub fn from_json(text: &str, path: &Path) -> Result<Self> {
        let parsed: UniqueKeys<Value> = serde_json::from_str(text)
            .map_err(|error| parse_error(path, error, "a JSON object of fields"))?;
        let fields = Fields {
            rest: parsed.0,
            assumed: Vec::new(),
        };
        let by = fields.written_by();
        let config = match by {
            Program::HuggingFace => fields.read(),
            Program::TransformerLens => fields.read_transformer_lens(),
        };
        config.map_err(|error| match error {
            Error::Config {
                field,
                found,
                expected,
                ..
            } => Error::Config {
                path: Some(path.to_path_buf()),
                field,
                found,
                expected,
            },
            other => other,
        })
    }
}

/// What [`Config::to_json`] writes.
#[derive(Serialize)]
struct FileFields {
    activation_function: &'static str,
    architectures: [&'static str; 1],
    bos_token_id: Option<usize>,
    dtype: &'static str,
    eos_token_id: Option<usize>,
    // As f32: its shortest decimal form is 1e-5; that of the nearest f64 is not.
    layer_norm_epsilon: f32,
    model_type: &'static str,
    n_ctx: usize,
    n_embd: usize,
    n_head: usize,
    n_inner: Option<usize>,
    n_layer: usize,
    n_positions: usize,
    scale_attn_by_inverse_layer_idx: bool,
    scale_attn_weights: bool,
    tie_word_embeddings: bool,
    vocab_size: usize,
}

/// The fields that no one has asked for yet, and what was assumed for those that are not there.
pub(super) struct Fields {
    pub(super) rest: BTreeMap<String, Value>,
    pub(super) assumed: Vec<AssumedField>,
}

impl Fields {
    /// TransformerLens writes `n_layers`, transformers `n_layer` or `num_hidden_layers`.
    fn written_by(&self) -> Program {
        let has = |field: &str| self.rest.contains_key(field);
        if has("n_layers") && has("d_model") && !has("model_type") {
            Program::TransformerLens
        } else {
            Program::HuggingFace
        }
    }

    fn read(mut self) -> Result<ConfigFile> {
        let model_type = self.take(&["model_type"])?;
        if let Some((field, value)) = model_type.filter(|(_, value)| value != "gpt2") {
            return Err(bad(field, &value, "\"gpt2\""));
        }
        let base = Config::gpt2();
        let d_model = self.size(&["n_embd", "hidden_size"])?;
        let config = Config {
            n_layers: self.size(&["n_layer", "num_hidden_layers"])?,
            n_heads: self.size(&["n_head", "num_attention_heads"])?,
            d_model,
            d_mlp: self.d_mlp(d_model)?,
            n_ctx: self.n_ctx()?,
            d_vocab: self.size(&["vocab_size"])?,
            activation: self.activation()?,
            layer_norm_eps: self.epsilon(base.layer_norm_eps)?,
            scale_attn_weights: self.flag("scale_attn_weights", base.scale_attn_weights)?,
            scale_attn_by_inverse_layer_idx: self.flag(
                "scale_attn_by_inverse_layer_idx",
                base.scale_attn_by_inverse_layer_idx,
            )?,
            tie_word_embeddings: self.flag("tie_word_embeddings", base.tie_word_embeddings)?,
            ..base
        };
        self.check_rest(HARMLESS)?;
        config.check()?;
        Ok(ConfigFile {
            config,
            by: Program::HuggingFace,
            assumed: self.assumed,
        })
    }

    /// Takes a field that has several names: the first name present, and its value.
    pub(super) fn take(&mut self, names: &[&'static str]) -> Result<Option<(&'static str, Value)>> {
        let mut taken: Option<(&'static str, Value)> = None;
        for &name in names {
            let Some(value) = self.rest.remove(name) else {
                continue;
            };
            match &taken {
                Some((first, other)) if *other != value => {
                    return Err(bad(name, &value, &format!("{other}, as `{first}` says")));
                }
                Some(_) => {}
                None => taken = Some((name, value)),
            }
        }
        Ok(taken)
    }

    /// A size, without which no model can be told from another.
    pub(super) fn size(&mut self, names: &[&'static str]) -> Result<usize> {
        match self.take(names)? {
            Some((field, value)) => whole_number(field, &value),
            None => Err(super::bad(names[0], "nothing", "a whole number")),
        }
    }

    /// The number of positions. Transformers does not read `n_ctx`, which may say anything.
    fn n_ctx(&mut self) -> Result<usize> {
        let read = self.take(&["n_positions", "max_position_embeddings"])?;
        match (read, self.take(&["n_ctx"])?) {
            (Some((by, value)), n_ctx) => {
                if let Some((field, other)) = n_ctx.filter(|(_, other)| *other != value) {
                    let value = other.to_string();
                    self.assumed
                        .push(AssumedField::Overruled { field, value, by });
                }
                whole_number(by, &value)
            }
            (None, Some((field, value))) => whole_number(field, &value),
            (None, None) => Err(super::bad("n_positions", "nothing", "a whole number")),
        }
    }

    fn d_mlp(&mut self, d_model: usize) -> Result<usize> {
        match self.take(&["n_inner"])? {
            Some((field, value)) if !value.is_null() => whole_number(field, &value),
            // Saturating: `Config::check` rejects a size like that.
            _ => Ok(d_model.saturating_mul(4)),
        }
    }

    pub(super) fn flag(&mut self, name: &'static str, default: bool) -> Result<bool> {
        match self.take(&[name])? {
            Some((field, value)) => value
                .as_bool()
                .ok_or_else(|| bad(field, &value, "true or false")),
            None => Ok(self.assume(name, default)),
        }
    }

    fn activation(&mut self) -> Result<Activation> {
        let name = "activation_function";
        match self.take(&[name])? {
            Some((field, value)) => value
                .as_str()
                .and_then(Activation::from_name)
                .ok_or_else(|| bad(field, &value, Activation::SUPPORTED)),
            None => {
                self.assume(name, Activation::GeluNew.name());
                Ok(Activation::GeluNew)
            }
        }
    }

    fn epsilon(&mut self, default: f32) -> Result<f32> {
        self.number("layer_norm_epsilon", default)
    }

    pub(super) fn number(&mut self, name: &'static str, default: f32) -> Result<f32> {
        match self.take(&[name])? {
            Some((field, value)) => value
                .as_f64()
                .map(|number| number as f32)
                .filter(|number| number.is_finite())
                .ok_or_else(|| bad(field, &value, "a number")),
            None => Ok(self.assume(name, default)),
        }
    }

    /// The default of a field that is absent, noted down.
    pub(super) fn assume<T: Serialize>(&mut self, field: &'static str, default: T) -> T {
        let value = serde_json::to_string(&default);
        let value = value.expect("plain numbers, strings and bools always have a JSON form");
        self.assumed.push(AssumedField::Absent { field, value });
        default
    }

    /// Rejects what is left, unless it is harmless or switched off.
    pub(super) fn check_rest(&self, harmless: &str) -> Result<()> {
        let expected = "no such field, or null or false: it is not supported. \
                        If it does not change what the model computes, delete it";
        let mut rest = self.rest.iter().filter(|(_, value)| !is_off(value));
        match rest.find(|(field, _)| !harmless.split(' ').any(|harmless| harmless == *field)) {
            Some((field, value)) => Err(bad(field, value, expected)),
            None => Ok(()),
        }
    }
}

fn is_off(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

pub(super) fn whole_number(field: &str, value: &Value) -> Result<usize> {
    value
        .as_u64()
        .and_then(|number| usize::try_from(number).ok())
        .ok_or_else(|| bad(field, value, "a whole number"))
}

/// Same as [`super::bad`], with at most 60 characters of the value.
pub(super) fn bad(field: &str, value: &Value, expected: &str) -> Error {
    let text = value.to_string();
    let found = match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    };
    super::bad(field, found, expected)
}

#[cfg(test)]
mod tests;
