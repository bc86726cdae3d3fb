//! Places and what is done there, drawn at random.

use ndarray::{ArrayD, IxDyn};
use patchlens::hook::Axes;
use patchlens::intervention::Values;
use patchlens::{ActivationCache, Config, Edit, HookPoint, Site};

use super::cell::{Deed, Drawn, Numbers, Pick, picked};
use super::source::{Kinds, Source};

/// What places depend on.
pub struct Place<'s> {
    pub source: &'s mut Source,
    pub config: &'s Config,
    pub lengths: &'s [usize],
    pub donors: &'s [ActivationCache],
    pub growing: bool,
}

impl Place<'_> {
    pub fn cell(&mut self) -> Vec<Drawn> {
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
