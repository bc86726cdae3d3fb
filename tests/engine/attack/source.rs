//! What a seed's numbers come from.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

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
    pub kinds: Kinds,
    /// Whether values may be infinite or huge.
    pub wild: bool,
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

    pub fn number(&mut self) -> f32 {
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
}
