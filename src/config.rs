//! The shape of a model: [`Config`], with GPT-2's presets and the fields of `config.json`.

mod assumed;
mod json;
mod parts;
mod transformer_lens;

pub use assumed::AssumedField;
pub(crate) use json::ConfigFile;
pub use json::Program;
pub(crate) use parts::Element;
pub use parts::{AttentionDirection, MlpKind, Norm, Positions, Residual};

use crate::error::{Error, Result};

/// The activation function of the MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// The tanh form, `gelu_new` (GPT-2): `x/2 · (1 + tanh(√(2/π) (x + 0.044715 x³)))`. It differs
    /// from the erf form by at most 4.73e-4, at x = −2.70.
    GeluNew,
    /// The erf form, `gelu`: `x/2 · (1 + erf(x / √2))`.
    Gelu,
    /// `relu`: the larger of `x` and 0.
    Relu,
    /// `silu`: `x / (1 + exp(−x))`.
    Silu,
    /// `solu`: `x · softmax(x)`, over the whole hidden layer (Elhage et al. 2022); with
    /// [`MlpKind::Normed`] TransformerLens's `solu_ln`.
    Solu,
}

impl Activation {
    /// The name in `config.json`.
    pub fn name(self) -> &'static str {
        match self {
            Activation::GeluNew => "gelu_new",
            Activation::Gelu => "gelu",
            Activation::Relu => "relu",
            Activation::Silu => "silu",
            Activation::Solu => "solu",
        }
    }

    /// The activation function of a name in `config.json`, if it is one of [`Self::SUPPORTED`].
    fn from_name(name: &str) -> Option<Self> {
        match name {
            // Three implementations of one formula in Hugging Face's transformers.
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Some(Activation::GeluNew),
            "gelu" => Some(Activation::Gelu),
            "relu" => Some(Activation::Relu),
            _ => None,
        }
    }

    /// The names that [`Config::from_json`] understands, for error messages.
    const SUPPORTED: &'static str =
        "`gelu_new` (or `gelu_pytorch_tanh`, `gelu_fast`), `gelu` or `relu`";
}

/// The shape and the constants of a transformer: a GPT-2, or one that differs from it in what its
/// blocks are made of.
///
/// The last fields, from [`Config::norm`] on, say that, with GPT-2's as [`Config::gpt2`] has them. A model of two
/// attention-only layers without LayerNorm, whose position embeddings only queries and keys read:
///
/// ```
/// use patchlens::config::{MlpKind, Norm, Positions};
/// use patchlens::{Config, Site, Transformer};
/// let config = Config { n_layers: 2, n_heads: 2, d_model: 8, n_ctx: 16, d_vocab: 11,
/// mlp: MlpKind::None, norm: Norm::None, positions: Positions::Shortformer, ..Config::gpt2() };
/// let model = Transformer::random(config, 0)?;
/// assert_eq!(model.forward([1, 2, 3])?.dim(), (3, 11));
/// let error = Site::MlpOut.at(0).check(model.config()).unwrap_err();
/// assert_eq!(error.to_string(), "blocks.0.hook_mlp_out: this model has no MLPs");
/// # Ok::<(), patchlens::Error>(())
/// ```
///
/// | | here | not yet |
/// |---|---|---|
/// | `norm` | [`Norm`]: LayerNorm, LayerNorm without weights, none | RMSNorm |
/// | `positions` | [`Positions`]: learned, shortformer, none | rotary, ALiBi |
/// | `attention` | [`AttentionDirection`]: causal, bidirectional; as many keys as queries, heads of any width, scaled or not | grouped keys, windows, softcaps |
/// | `mlp` | [`MlpKind`]: plain, with a LayerNorm inside, none | gated |
/// | `residual` | [`Residual`]: sequential | parallel |
/// | unembedding | tied or its own, with or without bias | softcaps |
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Number of blocks (`n_layer`).
    pub n_layers: usize,
    /// Attention heads per block (`n_head`).
    pub n_heads: usize,
    /// Width of the residual stream (`n_embd`).
    pub d_model: usize,
    /// Width of the MLP's hidden layer (`n_inner`, or `4 * d_model`).
    pub d_mlp: usize,
    /// Longest sequence (`n_positions`).
    pub n_ctx: usize,
    /// Number of tokens (`vocab_size`).
    pub d_vocab: usize,
    /// Activation function (`activation_function`).
    pub activation: Activation,
    /// Epsilon of all LayerNorms (`layer_norm_epsilon`).
    pub layer_norm_eps: f32,
    /// Whether scores are divided by `sqrt(d_head)` (`scale_attn_weights`).
    pub scale_attn_weights: bool,
    /// Whether scores are divided by `layer + 1` too (`scale_attn_by_inverse_layer_idx`).
    pub scale_attn_by_inverse_layer_idx: bool,
    /// Whether the unembedding is the transposed token embedding (`tie_word_embeddings`).
    pub tie_word_embeddings: bool,
    /// What normalises the stream before each half of a block and before the unembedding.
    pub norm: Norm,
    /// How positions enter.
    pub positions: Positions,
    /// Which positions attention reads.
    pub attention: AttentionDirection,
    /// What follows attention in a block; without MLPs, `d_mlp` and `activation` do not count.
    pub mlp: MlpKind,
    /// What the halves of a block read.
    pub residual: Residual,
    /// Width of one head where it is not `d_model / n_heads`.
    pub head_width: Option<usize>,
    /// Number of tokens that there are logits of, where they are not those of the input; the
    /// unembedding is its own matrix then.
    pub d_vocab_out: Option<usize>,
}

impl Config {
    /// GPT-2 small: 12 layers, 12 heads, d_model 768 (124 million parameters).
    pub fn gpt2() -> Self {
        Config {
            n_layers: 12,
            n_heads: 12,
            d_model: 768,
            d_mlp: 4 * 768,
            n_ctx: 1024,
            d_vocab: 50257,
            activation: Activation::GeluNew,
            layer_norm_eps: 1e-5,
            scale_attn_weights: true,
            scale_attn_by_inverse_layer_idx: false,
            tie_word_embeddings: true,
            norm: Norm::Layer,
            positions: Positions::Learned,
            attention: AttentionDirection::Causal,
            mlp: MlpKind::Plain,
            residual: Residual::Sequential,
            head_width: None,
            d_vocab_out: None,
        }
    }

    /// GPT-2 medium: 24 layers, 16 heads, d_model 1024.
    pub fn gpt2_medium() -> Self {
        Self::gpt2_sized(24, 16, 1024)
    }

    /// GPT-2 large: 36 layers, 20 heads, d_model 1280.
    pub fn gpt2_large() -> Self {
        Self::gpt2_sized(36, 20, 1280)
    }

    /// GPT-2 XL: 48 layers, 25 heads, d_model 1600.
    pub fn gpt2_xl() -> Self {
        Self::gpt2_sized(48, 25, 1600)
    }

    fn gpt2_sized(n_layers: usize, n_heads: usize, d_model: usize) -> Self {
        Config {
            n_layers,
            n_heads,
            d_model,
            d_mlp: 4 * d_model,
            ..Self::gpt2()
        }
    }

    /// Width of one head, `d_model / n_heads` unless [`Config::head_width`] says otherwise.
    pub fn d_head(&self) -> usize {
        self.head_width.unwrap_or(self.d_model / self.n_heads)
    }

    /// Width of all heads side by side: `d_model` in GPT-2.
    pub fn d_heads(&self) -> usize {
        self.n_heads * self.d_head()
    }

    /// Number of logits: `d_vocab` in GPT-2.
    pub fn d_logits(&self) -> usize {
        self.d_vocab_out.unwrap_or(self.d_vocab)
    }

    /// Whether this is a GPT-2: what its blocks are made of, whatever its sizes.
    pub(crate) fn is_gpt2(&self) -> bool {
        let gpt2 = Self::gpt2();
        let parts = |c: &Self| (c.norm, c.positions, c.attention, c.mlp, c.residual);
        let gelu_or_relu = !matches!(self.activation, Activation::Silu | Activation::Solu);
        gelu_or_relu
            && parts(self) == parts(&gpt2)
            && self.d_heads() == self.d_model
            && self.d_logits() == self.d_vocab
    }

    /// The factor on the attention scores of one layer.
    pub fn attn_scale(&self, layer: usize) -> f32 {
        let mut divisor = 1.0;
        if self.scale_attn_weights {
            divisor *= (self.d_head() as f32).sqrt();
        }
        if self.scale_attn_by_inverse_layer_idx {
            divisor *= (layer + 1) as f32;
        }
        1.0 / divisor
    }

    /// Checks that the numbers make a model, and one whose size in bytes can be counted.
    ///
    /// # Errors
    /// [`Error::Config`] naming the first field that does not.
    pub fn check(&self) -> Result<()> {
        let mlp = self.has(Element::Mlp).then_some(("n_inner", self.d_mlp));
        let head = self.head_width.map(|width| ("head_width", width));
        let out = self.d_vocab_out.map(|out| ("d_vocab_out", out));
        let sizes = [
            ("n_layer", self.n_layers),
            ("n_head", self.n_heads),
            ("n_embd", self.d_model),
            ("n_positions", self.n_ctx),
            ("vocab_size", self.d_vocab),
        ];
        for (field, size) in sizes.into_iter().chain(mlp).chain(head).chain(out) {
            if size == 0 {
                return Err(bad(field, size, "at least 1"));
            }
            if size > MAX_SIZE {
                return Err(bad(field, size, &format!("at most {MAX_SIZE}")));
            }
        }
        if self.head_width.is_none() && !self.d_model.is_multiple_of(self.n_heads) {
            let expected = format!("a multiple of n_head = {}", self.n_heads);
            return Err(bad("n_embd", self.d_model, &expected));
        }
        if self.tie_word_embeddings && self.d_logits() != self.d_vocab {
            let expected = format!("{}, as embedding and unembedding are tied", self.d_vocab);
            return Err(bad("d_vocab_out", self.d_logits(), &expected));
        }
        if !(self.layer_norm_eps.is_finite() && self.layer_norm_eps >= 0.0) {
            let expected = "a finite number that is not negative";
            return Err(bad("layer_norm_epsilon", self.layer_norm_eps, expected));
        }
        if self.bytes() > isize::MAX as u128 {
            return Err(self.too_large());
        }
        Ok(())
    }

    /// Checks that the system has the memory for the parameters of this config, which has been
    /// checked, and for `more` bytes: to allocate more than there is would abort the process.
    pub(crate) fn check_memory(&self, more: usize) -> Result<()> {
        let bytes = (self.bytes() as usize).saturating_add(more);
        let mut probe = Vec::<u8>::new();
        let reserved = probe.try_reserve_exact(bytes);
        // Memory that nobody looks at need not be asked for at all.
        std::hint::black_box(&mut probe);
        reserved.map_err(|_| self.too_large())
    }

    fn too_large(&self) -> Error {
        let found = format!("{} with a model of {} bytes", self.d_model, self.bytes());
        bad("n_embd", found, "a model that fits in memory")
    }

    /// The f32 size of all parameters; cannot overflow once no size exceeds [`MAX_SIZE`].
    fn bytes(&self) -> u128 {
        let [layers, d, heads, width, ctx, vocab, out] = [
            self.n_layers,
            self.d_model,
            self.n_heads,
            self.d_head(),
            self.n_ctx,
            self.d_vocab,
            self.d_logits(),
        ]
        .map(|size| size as u128);
        let inner = heads * width;
        let mlp = if self.has(Element::Mlp) {
            let mlp = self.d_mlp as u128;
            (d + 1) * mlp + (mlp + 1) * d + 2 * mlp
        } else {
            0
        };
        let block = 4 * d + (d + 1) * 3 * inner + (inner + 1) * d + mlp;
        let unembed = u128::from(!self.tie_word_embeddings) * out * d;
        4 * ((vocab + ctx) * d + layers * block + 2 * d + unembed)
    }
}

/// The largest size of any kind: far above every model, and small enough that products of sizes
/// do not overflow.
const MAX_SIZE: usize = i32::MAX as usize;

fn bad(field: &str, found: impl std::fmt::Display, expected: &str) -> Error {
    Error::Config {
        path: None,
        field: field.to_string(),
        found: found.to_string(),
        expected: expected.to_string(),
    }
}
