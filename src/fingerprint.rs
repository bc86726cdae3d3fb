//! Which model something belongs to: a hash of the model's config and weights.

use std::fmt;
use std::sync::{Arc, OnceLock};

use ndarray::ArrayViewD;
use rayon::prelude::*;
use twox_hash::XxHash3_128;

use crate::config::{AttentionDirection, Config, Element};
use crate::parameters::Parameters;

/// How many weights are hashed at once. Fixed, so that the hash does not depend on the threads;
/// another number would make the fingerprints in files worthless.
const PIECE: usize = 1 << 18;

/// A hash (XXH3, 128 bits) of a model's config and weights, bit by bit: the same on every machine
/// and in every process. It tells models apart that were mixed up, not those that somebody made to
/// look alike.
///
/// ```
/// use patchlens::{Config, Transformer};
/// let config = Config { n_layers: 2, n_heads: 2, d_model: 8, d_mlp: 16, d_vocab: 11,
/// ..Config::gpt2() };
/// let [a, again, b] = [0, 0, 1].map(|seed| Transformer::random(config.clone(), seed).unwrap());
/// assert_eq!(a.fingerprint(), again.fingerprint());
/// assert_ne!(a.fingerprint(), b.fingerprint());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(u128);

impl Fingerprint {
    pub(crate) fn of(config: &Config, parameters: &Parameters) -> Self {
        // Named one by one, so that none is forgotten.
        let Config {
            n_layers,
            n_heads,
            d_model,
            d_mlp,
            n_ctx,
            d_vocab,
            activation,
            layer_norm_eps,
            scale_attn_weights,
            scale_attn_by_inverse_layer_idx,
            tie_word_embeddings,
            norm,
            positions,
            attention,
            mlp,
            residual,
            // As what they come to.
            head_width: _,
            d_vocab_out: _,
        } = config;
        // Without MLPs they do not count.
        let (d_mlp, activation) = if config.has(Element::Mlp) {
            (d_mlp, activation.name())
        } else {
            (&0, "")
        };
        let sizes = [n_layers, n_heads, d_model, d_mlp, n_ctx, d_vocab];
        let flags = [
            scale_attn_weights,
            scale_attn_by_inverse_layer_idx,
            tie_word_embeddings,
        ];
        let mut text = format!("{sizes:?} {flags:?} {:08x}", layer_norm_eps.to_bits());
        text += activation;
        // Not of a GPT-2, whose fingerprints stand in files that are older than other models.
        if !config.is_gpt2() {
            text += &format!(" {norm:?} {positions:?} {mlp:?} {residual:?}");
            text += &format!(" {} {}", config.d_head(), config.d_logits());
        }
        // Others' fingerprints are older than models that look ahead.
        if *attention != AttentionDirection::Causal {
            text += &format!(" {attention:?}");
        }
        for (name, tensor) in parameters.tensors() {
            text += &format!("\n{name} {:?}", tensor.shape());
            for piece in hash_pieces(&tensor) {
                text += &format!(" {piece:032x}");
            }
        }
        Fingerprint(XxHash3_128::oneshot(text.as_bytes()))
    }

    /// As four numbers of 32 bits, for files.
    pub(crate) fn to_parts(self) -> [u32; 4] {
        [96, 64, 32, 0].map(|shift| (self.0 >> shift) as u32)
    }

    pub(crate) fn from_parts(parts: [u32; 4]) -> Self {
        let join = |hash: u128, part: u32| hash << 32 | u128::from(part);
        Fingerprint(parts.into_iter().fold(0, join))
    }
}

/// As 32 hexadecimal digits.
impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The hashes of a tensor's values in row-major order, piece by piece.
fn hash_pieces(tensor: &ArrayViewD<'_, f32>) -> Vec<u128> {
    let tensor = tensor.as_standard_layout();
    let values = tensor.as_slice().expect("it is in standard layout");
    let hash = |piece: &[f32]| {
        let bytes: Vec<u8> = piece.iter().flat_map(|v| v.to_le_bytes()).collect();
        XxHash3_128::oneshot(&bytes)
    };
    values.par_chunks(PIECE).map(hash).collect()
}

/// Which model something belongs to; clones share it, so that the fingerprint is computed once, if
/// at all.
#[derive(Clone, Debug, Default)]
pub(crate) struct Identity(Arc<OnceLock<Fingerprint>>);

impl Identity {
    /// The fingerprint, if it has been computed.
    pub fn known(&self) -> Option<Fingerprint> {
        self.0.get().copied()
    }

    pub fn known_or(&self, compute: impl FnOnce() -> Fingerprint) -> Fingerprint {
        *self.0.get_or_init(compute)
    }

    /// Whether both belong to one model in memory, or to models of one known fingerprint.
    pub fn is(&self, other: &Identity) -> bool {
        let known = || self.known().is_some() && self.known() == other.known();
        Arc::ptr_eq(&self.0, &other.0) || known()
    }
}

impl From<Fingerprint> for Identity {
    fn from(fingerprint: Fingerprint) -> Self {
        Identity(Arc::new(fingerprint.into()))
    }
}
