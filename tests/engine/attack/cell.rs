//! Interventions as they are drawn, and what they mean, without asking the library: which places
//! one names, and what is left of a cell for one prompt alone.

use std::collections::BTreeSet;

use ndarray::ArrayD;
use patchlens::intervention::{Subspace, Values};
use patchlens::{ActivationCache, Edit, HookPoint, Intervention, Select, Target};

/// Indices along an axis.
#[derive(Clone, Debug)]
pub enum Pick {
    All,
    Last,
    At(Vec<isize>),
    Each(Vec<Vec<isize>>),
}

impl Pick {
    /// As some of the prompts have it.
    fn select(&self, prompts: &[usize]) -> Select {
        match self {
            Pick::All => Select::All,
            Pick::Last => Select::Last,
            Pick::At(list) => list.clone().into(),
            Pick::Each(lists) => Select::each(prompts.iter().map(|i| lists[*i].clone())),
        }
    }

    /// The places that it names of a prompt, on an axis of length `n`.
    pub fn places(&self, prompt: usize, n: usize) -> BTreeSet<usize> {
        let list = match self {
            Pick::All => return (0..n).collect(),
            Pick::Last => return [n - 1].into(),
            Pick::At(list) => list,
            Pick::Each(lists) => &lists[prompt],
        };
        let n = n as isize;
        let from_start = |i: &isize| if *i < 0 { n + i } else { *i };
        let there = list.iter().map(from_start).filter(|i| (0..n).contains(i));
        there.map(|i| i as usize).collect()
    }
}

/// Values of an edit.
#[derive(Clone, Debug)]
pub enum Numbers {
    /// The same for all prompts.
    Shared(Values),
    Each(Vec<ArrayD<f32>>),
    Caches(Vec<ActivationCache>),
}

#[derive(Clone, Debug)]
pub enum Deed {
    Plain(Edit),
    With(fn(Values) -> Edit, Numbers),
}

/// An intervention that can be made for all prompts, or for some.
#[derive(Clone, Debug)]
pub struct Drawn {
    pub point: HookPoint,
    pub positions: Pick,
    pub heads: Pick,
    pub src: Pick,
    pub columns: Pick,
    pub subspace: Option<Subspace>,
    pub sequences: Pick,
    pub deed: Deed,
}

impl Drawn {
    /// Whether it names columns or a subspace.
    pub fn is_narrow(&self) -> bool {
        self.subspace.is_some() || !matches!(self.columns, Pick::All)
    }

    /// For all prompts of the batch.
    pub fn for_all(&self, prompts: usize) -> Intervention {
        let all: Vec<usize> = (0..prompts).collect();
        let mut made = self.made(&all);
        made.target.sequences = self.sequences.select(&[]);
        made
    }

    /// For one of them alone; none if it does not act there.
    fn for_one(&self, prompt: usize, prompts: usize) -> Option<Intervention> {
        let acts = self.sequences.places(0, prompts).contains(&prompt);
        acts.then(|| self.made(&[prompt]))
    }

    fn made(&self, prompts: &[usize]) -> Intervention {
        let target = Target {
            point: self.point,
            sequences: Select::All,
            positions: self.positions.select(prompts),
            heads: self.heads.select(prompts),
            src: self.src.select(prompts),
            columns: self.columns.select(prompts),
            subspace: self.subspace.clone(),
        };
        let edit = match &self.deed {
            Deed::Plain(edit) => edit.clone(),
            Deed::With(edit, Numbers::Shared(values)) => edit(values.clone()),
            Deed::With(edit, Numbers::Each(arrays)) => {
                edit(Values::arrays(picked(arrays, prompts)))
            }
            Deed::With(edit, Numbers::Caches(caches)) => {
                let values = Values::from_caches(&picked(caches, prompts), self.point);
                edit(values.expect("whole caches of everything"))
            }
        };
        Intervention::new(target, edit)
    }
}

/// Some items of a list.
pub fn picked<T: Clone>(of: &[T], which: &[usize]) -> Vec<T> {
    which.iter().map(|i| of[*i].clone()).collect()
}

/// A cell as interventions in runs of the whole batch.
pub fn for_all(cell: &[Drawn], prompts: usize) -> Vec<Intervention> {
    cell.iter().map(|drawn| drawn.for_all(prompts)).collect()
}

/// A cell as interventions in a run of one prompt alone.
pub fn for_one(cell: &[Drawn], prompt: usize, prompts: usize) -> Vec<Intervention> {
    let one = |drawn: &Drawn| drawn.for_one(prompt, prompts);
    cell.iter().filter_map(one).collect()
}
