//! Models whose weights are written by hand, so that what each head does is known.
//!
//! The residual stream has a one-hot place for the token, for the previous token, for the output
//! (which alone the unembedding reads) and for the position. A large constant keeps the LayerNorm
//! scale nearly the same everywhere.

use ndarray::Array2;
use patchlens::config::{Activation, MlpKind, Norm, Positions};
use patchlens::parameters::Parameters;
use patchlens::tasks::RepeatedPrompt;
use patchlens::{Config, Head, Prompt, Transformer};
use rand::seq::index::sample;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

pub const VOCAB: usize = 12;
pub const CONTEXT: usize = 26;
const D_HEAD: usize = 40;
const D_MODEL: usize = 2 * D_HEAD;

const TOKEN: usize = 0;
const PREVIOUS: usize = VOCAB;
const OUTPUT: usize = 2 * VOCAB;
const POSITION: usize = 3 * VOCAB;
const CONSTANT: usize = POSITION + CONTEXT;
const NOWHERE: usize = CONSTANT + 2;

/// Weight of queries and keys: scores of about 20 where both match.
const SHARP: f32 = 14.0;

pub struct Builder {
    config: Config,
    parameters: Parameters,
}

impl Builder {
    /// Heads that do nothing: uniform attention, zero output.
    pub fn new(n_layers: usize) -> Self {
        let config = Config {
            n_layers,
            n_heads: 2,
            d_model: D_MODEL,
            d_mlp: 2,
            n_ctx: CONTEXT,
            d_vocab: VOCAB,
            activation: Activation::Relu,
            tie_word_embeddings: false,
            ..Config::gpt2()
        };
        Self::of(config)
    }

    /// The same without MLPs and LayerNorms; positions are read by queries and keys alone.
    pub fn attention_only(n_layers: usize) -> Self {
        Self::of(Config {
            mlp: MlpKind::None,
            norm: Norm::None,
            positions: Positions::Shortformer,
            ..Self::new(n_layers).config
        })
    }

    fn of(config: Config) -> Self {
        let mut p = Parameters::zeros(&config).unwrap();
        let mut unembed = Array2::zeros((VOCAB, D_MODEL));
        for token in 0..VOCAB {
            p.wte[[token, TOKEN + token]] = 1.0;
            unembed[[token, OUTPUT + token]] = 8.0;
        }
        p.lm_head = Some(unembed);
        for position in 0..CONTEXT {
            p.wpe[[position, POSITION + position]] = 1.0;
            p.wpe[[position, CONSTANT]] = 8.0;
            p.wpe[[position, CONSTANT + 1]] = -8.0;
        }
        p.ln_f.weight.fill(1.0);
        for block in &mut p.h {
            block.ln_1.weight.fill(1.0);
            block.ln_2.weight.fill(1.0);
        }
        Builder {
            config,
            parameters: p,
        }
    }

    /// Writes one input weight: 0, 1 or 2 for queries, keys or values.
    fn input(&mut self, head: Head, kind: usize, from: usize, to: usize, value: f32) {
        let column = kind * D_MODEL + head.head * D_HEAD + to;
        self.parameters.h[head.layer].attn.c_attn.weight[[from, column]] = value;
    }

    fn queries(&mut self, head: Head, from: usize, to: usize) {
        self.input(head, 0, from, to, SHARP);
    }

    fn keys(&mut self, head: Head, from: usize, to: usize) {
        self.input(head, 1, from, to, SHARP);
    }

    /// The head writes the token that it attends to.
    fn moves_tokens(&mut self, head: Head, to: usize, factor: f32) {
        for token in 0..VOCAB {
            self.input(head, 2, TOKEN + token, token, 1.0);
            let row = head.head * D_HEAD + token;
            self.parameters.h[head.layer].attn.c_proj.weight[[row, to + token]] = factor;
        }
    }

    fn attends_back(&mut self, head: Head) {
        for position in 0..CONTEXT {
            self.keys(head, POSITION + position, position);
            if position > 0 {
                self.queries(head, POSITION + position, position - 1);
            }
        }
    }

    pub fn previous_token(mut self, head: Head) -> Self {
        self.attends_back(head);
        self.moves_tokens(head, PREVIOUS, 1.27);
        self
    }

    /// Attends to the previous token, but nobody reads what it writes.
    pub fn unread_previous_token(mut self, head: Head) -> Self {
        self.attends_back(head);
        self.moves_tokens(head, NOWHERE, 1.27);
        self
    }

    /// Attends to earlier copies of the token, and writes nothing.
    pub fn duplicate_token(mut self, head: Head) -> Self {
        for token in 0..VOCAB {
            self.queries(head, TOKEN + token, token);
            self.keys(head, TOKEN + token, token);
        }
        // The token itself matches too; its position takes that away again.
        for position in 0..CONTEXT {
            self.queries(head, POSITION + position, VOCAB + position);
            self.input(head, 1, POSITION + position, VOCAB + position, -SHARP);
        }
        self
    }

    /// Attends where the previous token is this one, and copies.
    pub fn induction(mut self, head: Head) -> Self {
        for token in 0..VOCAB {
            self.queries(head, TOKEN + token, token);
            self.keys(head, PREVIOUS + token, token);
        }
        self.moves_tokens(head, OUTPUT, 2.0);
        self
    }

    /// At the token `end`, attends to one position and copies its token, or suppresses it.
    pub fn mover(mut self, head: Head, end: u32, position: usize, factor: f32) -> Self {
        self.queries(head, TOKEN + end as usize, 0);
        self.keys(head, POSITION + position, 0);
        self.moves_tokens(head, OUTPUT, factor);
        self
    }

    /// At the token `end`, attends to one position and marks it: heads that look there by
    /// [`Builder::inhibited`] look away. Writes nothing that the unembedding reads.
    pub fn inhibitor(mut self, head: Head, end: u32, position: usize) -> Self {
        self.queries(head, TOKEN + end as usize, 0);
        self.keys(head, POSITION + position, 0);
        self.input(head, 2, POSITION + position, 0, 1.0);
        let row = head.head * D_HEAD;
        self.parameters.h[head.layer].attn.c_proj.weight[[row, NOWHERE]] = 1.0;
        self
    }

    /// The head would attend to `position` as it does to its own one, but less the more an
    /// inhibitor has marked it.
    pub fn inhibited(mut self, head: Head, end: u32, position: usize) -> Self {
        self.queries(head, TOKEN + end as usize, 0);
        self.keys(head, POSITION + position, 0);
        self.queries(head, NOWHERE, 1);
        self.input(head, 1, POSITION + position, 1, -SHARP);
        self
    }

    /// At the token `end`, attends to one position and says in place `to` of [`Builder::gate`]'s
    /// two whether this token stands there.
    pub fn flag(mut self, head: Head, end: u32, position: usize, token: u32, to: usize) -> Self {
        self.queries(head, TOKEN + end as usize, 0);
        self.keys(head, POSITION + position, 0);
        self.input(head, 2, TOKEN + token as usize, 0, 1.0);
        let row = head.head * D_HEAD;
        self.parameters.h[head.layer].attn.c_proj.weight[[row, NOWHERE + to]] = 1.27;
        self
    }

    /// A layer's MLP writes a token, to the size of 2, as a function of how many of two flags are
    /// set: that many less the first number, 0 if it is less, up to the difference of both.
    pub fn gate(mut self, layer: usize, [from, to]: [f32; 2], token: u32) -> Self {
        let mlp = &mut self.parameters.h[layer].mlp;
        for (unit, (start, sign)) in [(from, 1.0), (to, -1.0)].into_iter().enumerate() {
            // A flag is 0.78 after LayerNorm.
            mlp.c_fc.weight[[NOWHERE, unit]] = 1.27;
            mlp.c_fc.weight[[NOWHERE + 1, unit]] = 1.27;
            mlp.c_fc.bias[unit] = -start;
            mlp.c_proj.weight[[unit, OUTPUT + token as usize]] = sign * 2.0 / (to - from);
        }
        self
    }

    pub fn model(self) -> Transformer {
        Transformer::new(self.config, self.parameters).unwrap()
    }
}

/// Random sequences without BOS, each given twice.
pub fn repeated(n: usize, period: usize) -> Vec<RepeatedPrompt> {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let draw = |_| {
        let once: Vec<u32> = sample(&mut rng, VOCAB, period)
            .iter()
            .map(|t| t as u32)
            .collect();
        RepeatedPrompt {
            prompt: Prompt::from(once.repeat(2)),
            start: 0,
            period,
        }
    };
    (0..n).map(draw).collect()
}
