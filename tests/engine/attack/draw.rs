//! Random models, prompts and cells, all from one seed.

use rand::Rng;

use super::cell::Drawn;
use super::place::Place;
use super::source::{Kinds, Source};
use patchlens::config::{Activation, AttentionDirection, MlpKind, Norm, Positions};
use patchlens::intervention::Values;
use patchlens::{
    ActivationCache, Config, Edit, Intervention, Interventions, Prompts, Run, Selection, Site,
    Transformer,
};

/// Tokens that generation adds to each prompt.
pub const NEW_TOKENS: usize = 4;

/// What a seed draws.
pub struct Case {
    pub model: Transformer,
    pub prompts: Prompts,
    /// As many prompts, of the same lengths.
    pub others: Prompts,
    pub cells: Vec<Vec<Drawn>>,
    /// Cells for generation.
    pub growing: Vec<Vec<Drawn>>,
}

impl Source {
    pub fn case(&mut self) -> Case {
        let model = self.model();
        let config = model.config();
        let lengths: Vec<usize> = (0..self.within(1..=4))
            .map(|_| self.within(1..=8))
            .collect();
        let [prompts, others] = [(); 2].map(|()| self.prompts(&lengths, config.d_vocab));
        let caches = self.donors(&model, &others);
        let mut place = Place {
            source: self,
            config,
            lengths: &lengths,
            donors: &caches,
            growing: false,
        };
        let mut cells: Vec<Vec<Drawn>> = (0..place.source.within(1..=6))
            .map(|_| place.cell())
            .collect();
        place.growing = true;
        let mut growing: Vec<Vec<Drawn>> = (0..2).map(|_| place.cell()).collect();
        place.swap();
        growing.push(place.narrow_cell());
        place.growing = false;
        cells.extend((0..2).map(|_| place.narrow_cell()));
        place.swap();
        Case {
            prompts,
            others,
            cells,
            growing,
            model,
        }
    }

    fn model(&mut self) -> Transformer {
        let n_heads = self.within(1..=4);
        let config = Config {
            n_layers: self.within(1..=3),
            n_heads,
            d_model: n_heads * self.within(1..=7),
            d_mlp: self.within(1..=27),
            n_ctx: 8 + NEW_TOKENS,
            d_vocab: self.within(6..=37),
            activation: self.pick(&[Activation::GeluNew, Activation::Gelu, Activation::Relu]),
            layer_norm_eps: self.pick(&[1e-5, 1e-3]),
            scale_attn_weights: self.chance(70),
            scale_attn_by_inverse_layer_idx: self.chance(30),
            tie_word_embeddings: self.chance(50),
            ..Config::gpt2()
        };
        let config = match self.kinds {
            Kinds::Gpt2 => config,
            Kinds::Others => self.other_kind(config),
        };
        let model = Transformer::random(config, self.random.random()).unwrap();
        let (config, mut parameters) = model.into_parts();
        // GPT-2's initialisation is so small that edits hardly matter: enlarge it.
        let factor = self.pick(&[1.0, 12.0, 25.0]);
        for (name, mut tensor) in parameters.tensors_mut() {
            if name.ends_with("bias") || name.contains("ln_") {
                tensor.mapv_inplace(|v| v + 0.1 * self.small());
            } else {
                tensor.mapv_inplace(|v| v * factor);
            }
        }
        Transformer::new(config, parameters).unwrap()
    }

    /// The same sizes with blocks of another kind.
    fn other_kind(&mut self, config: Config) -> Config {
        let d_vocab_out = self.chance(30).then(|| self.within(6..=37));
        Config {
            d_vocab_out,
            tie_word_embeddings: config.tie_word_embeddings && d_vocab_out.is_none(),
            norm: self.pick(&[Norm::None, Norm::LayerPre, Norm::Layer]),
            positions: self.pick(&[
                Positions::None,
                Positions::Learned,
                Positions::Shortformer,
                Positions::Shortformer,
            ]),
            mlp: self.pick(&[MlpKind::None, MlpKind::Plain, MlpKind::Normed]),
            activation: self.pick(&[
                Activation::GeluNew,
                Activation::Relu,
                Activation::Silu,
                Activation::Solu,
            ]),
            head_width: self.chance(40).then(|| self.within(1..=7)),
            attention: self.pick(&[
                AttentionDirection::Causal,
                AttentionDirection::Bidirectional,
            ]),
            ..config
        }
    }

    fn prompts(&mut self, lengths: &[usize], d_vocab: usize) -> Prompts {
        let tokens = |n: &usize| -> Vec<u32> {
            let token = |_| self.below(d_vocab) as u32;
            (0..*n).map(token).collect()
        };
        Prompts::new(lengths.iter().map(tokens)).unwrap()
    }

    /// Caches of everything to patch from; some are of runs under an edit.
    fn donors(&mut self, model: &Transformer, prompts: &Prompts) -> Vec<ActivationCache> {
        let everything = Selection::everything(model.config());
        let run = Run {
            cache: Some(&everything),
            ..Run::default()
        };
        let edit = Edit::Add(Values::scalar(self.number()));
        let layer = self.below(model.config().n_layers);
        let out = Site::MlpOut.at(layer);
        let there = out.check(model.config()).is_ok();
        let out = if there { out } else { Site::AttnOut.at(layer) };
        let list = vec![Intervention::new(out, edit)];
        let list = if self.chance(20) { list } else { Vec::new() };
        let output = model.run(prompts, Interventions::new(list), &run);
        output.unwrap().caches
    }
}
