//! Activations kept from a run: owned values, borrowed views.

mod file;
mod provenance;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use ndarray::{Array2, ArrayD, ArrayView1, ArrayView2, ArrayViewD, Axis, Ix3, IxDyn};

pub(crate) use provenance::Provenance;
pub use provenance::RunKind;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::hook::{Axes, HookPoint, Site};
use crate::ops::{Matrix, part};
use crate::select::Select;

/// Which activations a run keeps.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    pub(crate) points: BTreeSet<HookPoint>,
    pub(crate) positions: Select,
}

impl Selection {
    /// The listed points.
    pub fn points(points: impl IntoIterator<Item = HookPoint>) -> Self {
        Selection {
            points: points.into_iter().collect(),
            positions: Select::All,
        }
    }

    /// Every point of a model that the predicate picks.
    pub fn matching(config: &Config, pick: impl Fn(HookPoint) -> bool) -> Self {
        Self::points(HookPoint::of(config).filter(|p| pick(*p)))
    }

    /// What TransformerLens's `run_with_cache` keeps by default: every point except those made on
    /// demand (per-head results, split inputs, `hook_mlp_in`).
    ///
    /// Scores and patterns are `[head, dest, src]`: of 1,024 tokens of GPT-2 small it keeps 1.9 GB, 1.2 GB
    /// of which are these, and such a run takes 1.7 times as long as one that keeps nothing
    /// (`benches/RESULTS.md`). [`Selection::matching`] leaves out what is not read.
    pub fn standard(config: &Config) -> Self {
        Self::matching(config, |p| !is_on_demand(p))
    }

    /// Every point, those made on demand included.
    pub fn everything(config: &Config) -> Self {
        Self::matching(config, |_| true)
    }

    /// Keeps only these positions (for attention: destinations), in ascending order: of each
    /// prompt the same, such as `[3, 4]` or `-1`, or its own, see [`Select::each`].
    pub fn at_positions(mut self, positions: impl Into<Select>) -> Self {
        self.positions = positions.into();
        self
    }

    /// The points, in order of execution.
    pub fn iter(&self) -> impl Iterator<Item = HookPoint> {
        self.points.iter().copied()
    }

    /// Adds points.
    pub fn extend(&mut self, points: impl IntoIterator<Item = HookPoint>) {
        self.points.extend(points);
    }
}

/// Whether TransformerLens makes a point only behind a flag.
fn is_on_demand(point: HookPoint) -> bool {
    use Site::{AttnIn, KInput, MlpIn, QInput, Result, VInput};
    matches!(
        point,
        HookPoint::Block(_, AttnIn | QInput | KInput | VInput | Result | MlpIn)
    )
}

/// One activation: rows of an array that it may share with the other sequences of its batch.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub data: Arc<Matrix>,
    pub rows: Range<usize>,
    pub shape: Vec<usize>,
}

impl Entry {
    pub fn owned(data: Array2<f32>, shape: Vec<usize>) -> Self {
        Entry {
            rows: 0..data.nrows(),
            data: Arc::new(data.into()),
            shape,
        }
    }

    /// One row per position; for attention, one per head and destination.
    pub fn from_array(axes: Axes, values: ArrayD<f32>) -> Self {
        let shape = values.shape().to_vec();
        let rows = match axes {
            Axes::Attention => shape[0] * shape[1],
            _ => shape[0],
        };
        let width = values.len().checked_div(rows).unwrap_or(0);
        // Selecting along an inner axis need not give row-major memory.
        let data = if values.is_standard_layout() {
            values
        } else {
            values.as_standard_layout().into_owned()
        };
        let data = data
            .into_shape_with_order((rows, width))
            .expect("rows times width is the number of values");
        Entry::owned(data, shape)
    }

    fn flat(&self) -> ArrayView2<'_, f32> {
        part(self.data.view(), 0, self.rows.clone())
    }

    fn view(&self) -> ArrayViewD<'_, f32> {
        // Rows of a row-major matrix are contiguous, and the shape was checked when it was made.
        self.flat()
            .into_shape_with_order(IxDyn(&self.shape))
            .expect("an entry has as many values as its shape says")
    }
}

/// The activations of one sequence, by hook point; values are those that downstream computation
/// saw, after all interventions. Nothing can change them: later runs and patches work on copies.
///
/// ```
/// use patchlens::{Config, Prompts, Run, Selection, Site, Transformer};
/// let config = Config { n_layers: 2, n_heads: 2, d_model: 8, d_mlp: 16, d_vocab: 11,
/// ..Config::gpt2() };
/// let model = Transformer::random(config, 0)?;
/// let (_, cache) = model.run_with_cache(&[1, 2, 3], &Selection::standard(model.config()))?;
/// assert_eq!(cache.get(Site::Z.at(1))?.shape(), [3, 2, 4]); // [pos, head, d_head]
/// assert_eq!(cache.get_named("blocks.0.attn.hook_pattern")?.shape(), [2, 3, 3]);
/// # Ok::<(), patchlens::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct ActivationCache {
    tokens: Vec<u32>,
    positions: Vec<usize>,
    /// Missing where a file does not say it.
    pub(crate) provenance: Option<Provenance>,
    pub(crate) entries: BTreeMap<HookPoint, Entry>,
}

impl ActivationCache {
    /// Of a prompt's run, at these of its positions, ascending.
    pub(crate) fn new(
        tokens: &[u32],
        positions: Vec<usize>,
        provenance: Option<Provenance>,
    ) -> Self {
        ActivationCache {
            tokens: tokens.to_vec(),
            positions,
            provenance,
            entries: BTreeMap::new(),
        }
    }

    /// The activation at a point; axes as in [`HookPoint::axes`].
    ///
    /// # Errors
    /// [`Error::NotCached`] if the run did not keep the point.
    pub fn get(&self, point: HookPoint) -> Result<ArrayViewD<'_, f32>> {
        match self.entries.get(&point) {
            Some(entry) => Ok(entry.view()),
            None => Err(self.not_cached(point)),
        }
    }

    /// Same as [`ActivationCache::get`], by the hook's name.
    ///
    /// # Errors
    /// [`Error::UnknownHook`] or [`Error::NotCached`].
    pub fn get_named(&self, name: &str) -> Result<ArrayViewD<'_, f32>> {
        self.get(name.parse()?)
    }

    /// One position's activation at a point without heads: `[d_model]`, `[d_mlp]`, `[d_vocab]`, or
    /// `[1]` for the scale of a LayerNorm. Positions are those of the prompt, whichever were kept.
    ///
    /// ```
    /// use patchlens::intervention::Values;
    /// use patchlens::{Config, Edit, Intervention, Selection, Site, Target, Transformer};
    /// let config = Config { n_layers: 2, n_heads: 2, d_model: 8, d_mlp: 16, d_vocab: 11,
    /// ..Config::gpt2() };
    /// let model = Transformer::random(config, 0)?;
    /// let point = Site::ResidPre.at(1);
    /// let (_, cache) = model.run_with_cache(&[1, 2, 3, 4, 5, 6], &Selection::points([point]))?;
    /// let row = cache.row(point, 5)?; // [d_model]
    /// // The same row, at another position of another prompt:
    /// let edit = Edit::Set(Values::array(row.to_owned()));
    /// let moved = Intervention::new(Target::new(point).at_positions(2), edit);
    /// # Ok::<(), patchlens::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::NotCached`] if the run did not keep the point, [`Error::OutOfRange`] if it did not
    /// keep the position; [`Error::Invalid`] for a point with heads, see
    /// [`ActivationCache::head_row`].
    pub fn row(&self, point: HookPoint, position: usize) -> Result<ArrayView1<'_, f32>> {
        let flat = self.flat(point)?;
        if point.axes().has_heads() {
            let axes = point.axes().names().join(", ");
            let expected = "a point without heads; `head_row` for those with heads";
            return Err(Error::invalid(
                format!("row of {point}"),
                format!("axes [{axes}]"),
                expected,
            ));
        }
        let row = self.kept_position(point, position)?;
        Ok(flat.index_axis_move(Axis(0), row))
    }

    /// One head's row of one position at a point with heads: `[d_head]`, `[d_model]` or, of
    /// attention scores and patterns, `[src]` at a destination.
    ///
    /// # Errors
    /// [`Error::NotCached`] if the run did not keep the point, [`Error::OutOfRange`] if it did not
    /// keep the position or for a head that is not there; [`Error::Invalid`] for a point without
    /// heads, see [`ActivationCache::row`].
    pub fn head_row(
        &self,
        point: HookPoint,
        position: usize,
        head: usize,
    ) -> Result<ArrayView1<'_, f32>> {
        let values = self.get(point)?;
        let axes = point.axes();
        let Ok(values) = values.into_dimensionality::<Ix3>() else {
            let axes = axes.names().join(", ");
            let expected = "a point with heads; `row` for those without";
            return Err(Error::invalid(
                format!("row of a head at {point}"),
                format!("axes [{axes}]"),
                expected,
            ));
        };
        let row = self.kept_position(point, position)?;
        let (of_pos, of_head) = (Axis(axes.pos_axis()), Axis(1 - axes.pos_axis()));
        let n_heads = values.len_of(of_head);
        if head >= n_heads {
            return Err(Error::OutOfRange {
                at: point.to_string(),
                axis: "head",
                found: head,
                expected: format!("0..{n_heads}"),
            });
        }
        let of_position = values.index_axis_move(of_pos, row);
        Ok(of_position.index_axis_move(Axis(0), head))
    }

    /// The row of a position among those that were kept.
    fn kept_position(&self, point: HookPoint, position: usize) -> Result<usize> {
        self.positions.binary_search(&position).map_err(|_| {
            let expected = if self.is_whole() {
                format!("0..{}", self.tokens.len())
            } else {
                format!("one of the positions that were kept, {:?}", self.positions)
            };
            let axes = point.axes();
            Error::OutOfRange {
                at: format!("cache of {point}"),
                axis: axes.names()[axes.pos_axis()],
                found: position,
                expected,
            }
        })
    }

    fn not_cached(&self, point: HookPoint) -> Error {
        let mut names = self.entries.keys().map(ToString::to_string);
        let first: Vec<String> = names.by_ref().take(4).collect();
        let holds = match (first.is_empty(), names.count()) {
            (true, _) => "nothing".to_string(),
            (false, 0) => first.join(", "),
            (false, more) => format!("{} and {more} more", first.join(", ")),
        };
        Error::NotCached {
            at: point.to_string(),
            holds,
        }
    }

    /// The points it holds, in order of execution.
    pub fn points(&self) -> impl Iterator<Item = HookPoint> {
        self.entries.keys().copied()
    }

    /// The tokens that ran.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The positions that were kept, ascending: the rows of every activation.
    pub fn positions(&self) -> &[usize] {
        &self.positions
    }

    /// Whether every position was kept.
    pub fn is_whole(&self) -> bool {
        self.positions.len() == self.tokens.len()
    }

    /// An activation as a matrix with one row per position (heads side by side); for attention
    /// `[head * dest, src]`.
    pub(crate) fn flat(&self, point: HookPoint) -> Result<ArrayView2<'_, f32>> {
        match self.entries.get(&point) {
            Some(entry) => Ok(entry.flat()),
            None => Err(self.not_cached(point)),
        }
    }

    /// The rows of all sequences of the batch that a run without base kept in whole, one below
    /// another.
    pub(crate) fn stacked(&self, point: HookPoint) -> ArrayView2<'_, f32> {
        let entry = self.entries.get(&point);
        entry
            .expect("the tape names all that the backward pass reads")
            .data
            .view()
    }

    /// What this prompt's run would hold if it had kept only the selection.
    pub(crate) fn narrowed(&self, selection: &Selection, prompt: usize) -> Self {
        let positions = selection.positions.resolve(prompt, self.tokens.len());
        let kept = |point: HookPoint, entry: &Entry| {
            if selection.positions == Select::All {
                return entry.clone();
            }
            let axis = Axis(point.axes().pos_axis());
            Entry::from_array(point.axes(), entry.view().select(axis, &positions))
        };
        let entries = self
            .entries
            .iter()
            .filter(|(p, _)| selection.points.contains(p));
        ActivationCache {
            entries: entries.map(|(p, e)| (*p, kept(*p, e))).collect(),
            ..ActivationCache::new(&self.tokens, positions, self.provenance.clone())
        }
    }

    /// Takes over what another cache of the same run holds.
    pub(crate) fn absorb(&mut self, other: &ActivationCache) {
        let more = other.entries.iter().map(|(p, e)| (*p, e.clone()));
        self.entries.extend(more);
        if let (Some(own), Some(of)) = (&mut self.provenance, &other.provenance) {
            own.kind = own.kind.max(of.kind);
        }
    }

    /// For the engine, which has planned that the base holds what it reads.
    pub(crate) fn planned(&self, point: HookPoint) -> ArrayView2<'_, f32> {
        self.flat(point)
            .expect("the plan has asked its base for all that it reads")
    }
}
