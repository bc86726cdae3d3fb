//! Random models, prompts and cells, all from one seed.

use ndarray::{ArrayD, IxDyn};
use patchlens::config::{Activation, MlpKind, Norm, Positions};
use patchlens::hook::Axes;
use patchlens::intervention::Values;
use patchlens::{
    ActivationCache, Config, Edit, HookPoint, Intervention, Interventions, Prompts, Run, Selection,
    Site, Transformer,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::cell::{Deed, Drawn, Numbers, Pick, picked};

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

/// What a model's blocks are made of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kinds {
    Gpt2,
    /// Any of those that a config can say.
    Others,
}

pub struct Source {
    pub random: ChaCha8Rng,
    /// What columns and subspaces are drawn from: all else of a seed stays as it was without them.
    pub narrow: ChaCha8Rng,
    kinds: Kinds,
    /// Whether values may be infinite or huge.
    wild: bool,
}

impl Source {
    pub fn new(seed: u64, kinds: Kinds) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let wild = random.random_bool(0.5);
        let mut narrow = ChaCha8Rng::seed_from_u64(seed);
        narrow.set_stream(1);
        Source {
            random,
            narrow,
            kinds,
            wild,
        }
    }

    pub fn below(&mut self, n: usize) -> usize {
        self.random.random_range(0..n)
    }

    pub fn within(&mut self, range: std::ops::RangeInclusive<usize>) -> usize {
        self.random.random_range(range)
    }

    pub fn chance(&mut self, percent: u32) -> bool {
        self.random.random_ratio(percent, 100)
    }

    pub fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }

    /// A number of ordinary size.
    pub fn small(&mut self) -> f32 {
        (self.random.random::<f32>() - 0.5) * 4.0
    }

    fn number(&mut self) -> f32 {
        const WILD: [f32; 7] = [
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::NEG_INFINITY,
            f32::MAX,
            -1e30,
            -0.0,
            1e-40,
        ];
        if self.wild && self.chance(20) {
            self.pick(&WILD)
        } else {
            self.small()
        }
    }

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

/// What places depend on.
pub struct Place<'s> {
    pub source: &'s mut Source,
    pub config: &'s Config,
    pub lengths: &'s [usize],
    donors: &'s [ActivationCache],
    growing: bool,
}

impl Place<'_> {
    fn cell(&mut self) -> Vec<Drawn> {
        let n = self.source.within(1..=3);
        (0..n).map(|_| self.drawn()).collect()
    }

    fn point(&mut self) -> HookPoint {
        let n_layers = self.config.n_layers;
        let layer = self.source.below(n_layers);
        match self.source.below(100) {
            0 => Site::Z.at(n_layers), // There is no such layer.
            1..25 => self
                .source
                .pick(&[Site::AttnScores, Site::Pattern])
                .at(layer),
            _ => {
                // Now and then one that models of this kind lack.
                let there = self.source.kinds == Kinds::Others && self.source.chance(97);
                let all: Vec<HookPoint> = if there {
                    HookPoint::of(self.config).collect()
                } else {
                    HookPoint::all(n_layers).collect()
                };
                self.source.pick(&all)
            }
        }
    }

    pub fn drawn(&mut self) -> Drawn {
        let point = self.point();
        let axes = point.axes();
        let lengths = self.lengths.to_vec();
        let prompts = lengths.len();
        let heads = vec![self.config.n_heads; prompts];
        let mut drawn = Drawn {
            point,
            positions: self.some(&lengths, !self.growing),
            heads: Pick::All,
            src: Pick::All,
            columns: Pick::All,
            subspace: None,
            sequences: Pick::All,
            deed: Deed::Plain(Edit::Zero),
        };
        // Now and then where there is no such axis.
        if self.source.chance(if axes.has_heads() { 60 } else { 1 }) {
            drawn.heads = self.some(&heads, true);
        }
        if self
            .source
            .chance(if axes == Axes::Attention { 60 } else { 1 })
        {
            drawn.src = self.some(&lengths, !self.growing);
        }
        if prompts > 1 && self.source.chance(25) {
            drawn.sequences = match self.some(&[prompts], true) {
                Pick::Each(mut lists) => Pick::At(lists.swap_remove(0)),
                other => other,
            };
        }
        self.deed(&mut drawn);
        drawn
    }

    /// Some of the indices of an axis that has this length in each prompt, also from its end.
    pub fn some(&mut self, lengths: &[usize], from_end: bool) -> Pick {
        let shortest = *lengths.iter().min().unwrap();
        match self.source.below(100) {
            0 => Pick::At(vec![shortest as isize + 5]), // Now and then an error.
            1..35 => Pick::All,
            35..45 if from_end => Pick::Last,
            35..75 => Pick::At(self.list(shortest, from_end)),
            _ => Pick::Each(lengths.iter().map(|n| self.list(*n, from_end)).collect()),
        }
    }

    fn list(&mut self, n: usize, from_end: bool) -> Vec<isize> {
        let count = self.source.within(1..=n.min(3));
        let mut list: Vec<isize> = (0..count).map(|_| self.source.below(n) as isize).collect();
        if self.source.chance(80) {
            list.sort_unstable();
            list.dedup();
        }
        if from_end && self.source.chance(30) {
            list.iter_mut().for_each(|i| *i -= n as isize);
        }
        list
    }

    pub fn deed(&mut self, drawn: &mut Drawn) {
        let scores = matches!(drawn.point, HookPoint::Block(_, Site::AttnScores));
        drawn.deed = match self.source.below(10) {
            0 => Deed::Plain(Edit::Zero),
            1 => Deed::Plain(Edit::Scale(self.factor())),
            2 => Deed::Plain(Edit::Noise {
                std: self.source.small().abs(),
                seed: self.source.below(9) as u64,
            }),
            3 => Deed::Plain(Edit::map(|row, values| {
                let shift = row.position as f32 * 0.1;
                values.iter_mut().for_each(|v| *v = shift - *v);
            })),
            4 if scores => {
                let none = Values::scalar(f32::NEG_INFINITY);
                Deed::With(Edit::Set, Numbers::Shared(none))
            }
            4 | 5 if !self.growing && self.donors[0].get(drawn.point).is_ok() => {
                Deed::With(Edit::Patch, Numbers::Caches(self.donors.to_vec()))
            }
            6 if !self.growing => self.mean(drawn),
            7 => Deed::With(Edit::Add, self.numbers(drawn)),
            _ => Deed::With(Edit::Set, self.numbers(drawn)),
        };
    }

    fn factor(&mut self) -> f32 {
        match self.source.below(40) {
            0 => f32::INFINITY, // An error.
            1..5 => 0.0,
            5..8 => 1.0,
            8..11 => -1.0,
            11..13 => 1e30,
            _ => self.source.small(),
        }
    }

    /// The mean of one prompt's run and another run of its length, there.
    fn mean(&mut self, drawn: &mut Drawn) -> Deed {
        let prompts = self.lengths.len();
        let prompt = self.source.below(prompts);
        drawn.sequences = Pick::At(vec![prompt as isize]);
        let same = |i: &usize| self.lengths[*i] == self.lengths[prompt];
        let runs: Vec<usize> = (0..prompts).filter(same).collect();
        match Values::mean(&picked(self.donors, &runs), drawn.point) {
            Ok(mean) => Deed::With(Edit::Mean, Numbers::Shared(mean)),
            Err(_) => Deed::Plain(Edit::Zero), // A point of a layer that there is not.
        }
    }

    fn numbers(&mut self, drawn: &Drawn) -> Numbers {
        let axes = drawn.point.axes();
        let shape = |n: usize| axes.shape(self.config, n);
        let part = |prompt: usize, n: usize| {
            let mut shape = shape(n);
            shape[axes.pos_axis()] = drawn.positions.places(prompt, n).len();
            if axes.has_heads() {
                let heads = drawn.heads.places(prompt, self.config.n_heads);
                shape[1 - axes.pos_axis()] = heads.len();
            }
            let last = shape.len() - 1;
            let along = if axes == Axes::Attention {
                &drawn.src
            } else {
                &drawn.columns
            };
            shape[last] = along.places(prompt, shape[last]).len();
            shape
        };
        let lengths = || self.lengths.iter().enumerate();
        let shapes: Vec<Vec<usize>> = match self.source.below(5) {
            0 if !self.growing => lengths().map(|(_, n)| shape(*n)).collect(),
            1 if !self.growing => lengths().map(|(i, n)| part(i, *n)).collect(),
            2 => lengths().map(|_| vec![]).collect(),
            3 if axes != Axes::Attention => vec![vec![*shape(1).last().unwrap()]],
            _ => vec![vec![]],
        };
        let mut arrays: Vec<ArrayD<f32>> = shapes.iter().map(|shape| self.array(shape)).collect();
        if arrays.len() == 1 {
            Numbers::Shared(Values::array(arrays.swap_remove(0)))
        } else {
            Numbers::Each(arrays)
        }
    }

    fn array(&mut self, shape: &[usize]) -> ArrayD<f32> {
        let mut array = ArrayD::from_shape_simple_fn(IxDyn(shape), || self.source.number());
        if self.source.chance(1) {
            array.fill(f32::NAN); // An error.
        }
        array
    }
}
