//! The terms of an estimate: differences of activations times gradients, and exact changes of
//! attention patterns.

use std::collections::BTreeMap;

use ndarray::{Array1, Array3, ArrayD, ArrayView2, ArrayViewD, Axis as Dim, CowArray, Ix3, Zip};

use crate::cache::{ActivationCache, Selection};
use crate::config::AttentionDirection;
use crate::error::Result;
use crate::hook::{HookPoint, Site};
use crate::intervention::{Subspace, Target};
use crate::pairs::Pairs;
use crate::schedule::kept_bytes;
use crate::select::Select;

/// Where estimates are taken, and of what.
pub(super) struct Terms<'t> {
    pub pairs: &'t Pairs<'t>,
    /// Whether queries and keys have the exact change of the pattern.
    pub qk_fix: bool,
    /// In what the differences stay.
    pub subspace: Option<&'t Subspace>,
    pub points: Vec<HookPoint>,
}

/// One head's attention over the positions of a pair.
struct Head<'h> {
    /// Queries and keys `[pos, d_head]` of the run that is changed and of the donor.
    q: [ArrayView2<'h, f32>; 2],
    k: [ArrayView2<'h, f32>; 2],
    /// The gradient at the pattern, `[dest, src]`.
    slope: ArrayView2<'h, f32>,
    scale: f64,
    direction: AttentionDirection,
}

/// A share of a row of attention that is as good as all of it: the others' sum has lost its digits.
const ALONE: f64 = 1.0 - 1e-6;
/// A change of a score that is no longer safe to raise e to.
const LARGE: f64 = 500.0;

impl Terms<'_> {
    /// The layer of a point whose terms are changes of the pattern.
    fn fixed(&self, at: HookPoint) -> Option<usize> {
        match at {
            HookPoint::Block(layer, Site::Q | Site::K) if self.qk_fix => Some(layer),
            _ => None,
        }
    }

    /// Where gradients are taken.
    pub fn gradients(&self) -> Selection {
        let slope = |at: &HookPoint| self.fixed(*at).map_or(*at, |layer| Site::Pattern.at(layer));
        Selection::points(self.points.iter().map(slope))
    }

    /// What is read of both runs.
    pub fn activations(&self) -> Selection {
        let read = |at: &HookPoint| match self.fixed(*at) {
            Some(layer) => vec![Site::Q.at(layer), Site::K.at(layer)],
            None => vec![*at],
        };
        Selection::points(self.points.iter().flat_map(read))
    }

    /// Memory for a pair of so many tokens: the gradients, the terms, and what one sum copies.
    pub fn bytes(&self, n: usize) -> u64 {
        let config = self.pairs.model().config();
        let of = |points: Selection| kept_bytes(config, &points, n);
        let largest = self.points.iter().map(|at| of(Selection::points([*at])));
        2 * of(self.gradients()) + 4 * largest.max().unwrap_or(0)
    }

    /// The terms at each point, `[pos, ..]` as the activation there; with the QK fix, `[pos, head,
    /// 1]`.
    pub fn of(
        &self,
        pair: usize,
        gradients: &ActivationCache,
    ) -> Result<BTreeMap<HookPoint, ArrayD<f32>>> {
        let terms = self.points.iter().map(|at| {
            let terms = match self.fixed(*at) {
                Some(layer) => self.of_pattern(pair, *at, layer, gradients)?,
                None => self.products(pair, *at, gradients.get(*at)?)?,
            };
            Ok((*at, terms))
        });
        terms.collect()
    }

    /// `(ã − a) · ∂m/∂a`, not yet summed.
    fn products(
        &self,
        pair: usize,
        at: HookPoint,
        gradient: ArrayViewD<'_, f32>,
    ) -> Result<ArrayD<f32>> {
        let [base, donor] = self.pairs.base_and_donor();
        let (base, donor) = (base.held([at])?, donor.held([at])?);
        let mut terms = donor[pair].get(at)?.to_owned();
        if let Some(subspace) = self.subspace {
            let last = Dim(terms.ndim() - 1);
            let rows = base[pair].get(at)?;
            for (before, mut row) in rows.lanes(last).into_iter().zip(terms.lanes_mut(last)) {
                let mut patched = row.to_vec();
                subspace.limit(&before.to_vec(), &mut patched);
                row.assign(&Array1::from(patched));
            }
        }
        Zip::from(&mut terms)
            .and(base[pair].get(at)?)
            .and(gradient)
            .for_each(|to, base, slope| {
                // Masked scores are the same infinity in both runs.
                let difference = if *to == *base { 0.0 } else { *to - base };
                *to = difference * slope;
            });
        Ok(terms)
    }

    /// The change of a layer's patterns by one query or key, times the gradient at the pattern,
    /// `[pos, head, 1]`.
    fn of_pattern(
        &self,
        pair: usize,
        at: HookPoint,
        layer: usize,
        gradients: &ActivationCache,
    ) -> Result<ArrayD<f32>> {
        let points = [Site::Q, Site::K].map(|site| site.at(layer));
        let [base, donor] = self.pairs.base_and_donor();
        let (base, donor) = (base.held(points)?, donor.held(points)?);
        let config = self.pairs.model().config();
        let slopes = gradients.get(Site::Pattern.at(layer))?;
        let n = slopes.len_of(Dim(1));
        let mut terms = Array3::zeros((n, config.n_heads, 1));
        for head in 0..config.n_heads {
            let rows = |at: HookPoint| -> Result<[ArrayView2<'_, f32>; 2]> {
                let (base, donor) = (base[pair].get(at)?, donor[pair].get(at)?);
                Ok([base, donor].map(|all| of_head(all, Dim(1), head)))
            };
            let own = Head {
                q: rows(points[0])?,
                k: rows(points[1])?,
                slope: of_head(slopes.view(), Dim(0), head),
                scale: f64::from(config.attn_scale(layer)),
                direction: config.attention,
            };
            let changes = if at == points[0] {
                own.by_query()
            } else {
                own.by_key()
            };
            for (position, change) in changes.into_iter().enumerate() {
                terms[[position, head, 0]] = change as f32;
            }
        }
        Ok(terms.into_dyn())
    }
}

impl Head<'_> {
    /// A row of the pattern, from the query of one run and the keys of the run that is changed,
    /// but for one key.
    fn row(&self, query: ArrayView2<'_, f32>, i: usize, changed: Option<usize>) -> Vec<f64> {
        let key = |j: usize| self.k[usize::from(changed == Some(j))];
        let last = self.direction.last_source(i, self.slope.ncols());
        let scores = (0..=last).map(|j| self.scale * dot(query, i, key(j), j));
        let scores: Vec<f64> = scores.collect();
        let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let shares: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
        let sum: f64 = shares.iter().sum();
        shares.into_iter().map(|share| share / sum).collect()
    }

    fn slope(&self, i: usize, j: usize) -> f64 {
        f64::from(self.slope[[i, j]])
    }

    /// The change of a row of the pattern, times the gradient there.
    fn along(&self, i: usize, old: &[f64], new: &[f64]) -> f64 {
        let changes = new.iter().zip(old).enumerate();
        let terms = changes.map(|(j, (new, old))| (new - old) * self.slope(i, j));
        terms.sum()
    }

    /// The pattern of the run that is changed, by row.
    fn pattern(&self) -> Vec<Vec<f64>> {
        let rows = 0..self.slope.nrows();
        rows.map(|i| self.row(self.q[0], i, None)).collect()
    }

    /// By position: one query changes one row.
    fn by_query(&self) -> Vec<f64> {
        let rows = self.pattern().into_iter().enumerate();
        rows.map(|(i, old)| self.along(i, &old, &self.row(self.q[1], i, None)))
            .collect()
    }

    /// By position: one key changes one score of each row that reads it. There its share `p` becomes
    /// `p e^Δ / (1 − p + p e^Δ)`, and the others keep their proportions.
    fn by_key(&self) -> Vec<f64> {
        let (query, n) = (self.q[0], self.slope.nrows());
        let mut changes = vec![0.0; n];
        for (i, old) in self.pattern().into_iter().enumerate() {
            let terms = old.iter().enumerate().map(|(j, p)| p * self.slope(i, j));
            let mean: f64 = terms.sum();
            for (t, &p) in old.iter().enumerate() {
                let [before, after] = self.k.map(|k| self.scale * dot(query, i, k, t));
                let raise = after - before;
                changes[t] += if p > ALONE || raise > LARGE {
                    self.along(i, &old, &self.row(query, i, Some(t)))
                } else {
                    let raised = p * raise.exp();
                    let new = raised / (1.0 - p + raised);
                    let others = (mean - p * self.slope(i, t)) / (1.0 - p);
                    (new - p) * (self.slope(i, t) - others)
                };
            }
        }
        changes
    }
}

fn dot(q: ArrayView2<'_, f32>, i: usize, k: ArrayView2<'_, f32>, j: usize) -> f64 {
    let terms = q.row(i).into_iter().zip(k.row(j));
    terms.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// One head's part of an activation whose heads lie along an axis.
fn of_head(all: ArrayViewD<'_, f32>, heads: Dim, head: usize) -> ArrayView2<'_, f32> {
    let all = all.into_dimensionality::<Ix3>();
    let all = all.expect("an activation by head has three axes");
    all.index_axis_move(heads, head)
}

/// The sum of what a target has of a pair's terms.
pub(super) fn sum_at(target: &Target, pair: usize, terms: ArrayViewD<'_, f32>) -> f64 {
    let axes = target.point.axes();
    let mut own = CowArray::from(terms);
    // From the last axis on: few columns of many leave little to copy.
    for (axis, name) in axes.names().iter().enumerate().rev() {
        let select = match *name {
            "head" => &target.heads,
            "src" => &target.src,
            _ if axis == axes.pos_axis() => &target.positions,
            _ => &target.columns,
        };
        if *select != Select::All {
            let chosen = select.resolve(pair, own.len_of(Dim(axis)));
            own = own.select(Dim(axis), &chosen).into();
        }
    }
    own.iter().map(|v| f64::from(*v)).sum()
}
