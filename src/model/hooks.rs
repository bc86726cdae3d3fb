//! The trait through which a pass shows its activations.

use std::collections::BTreeSet;

use ndarray::ArrayViewMutD;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::hook::HookPoint;
use crate::model::{BlockedRows, KeepLogits, Transformer};
use crate::ops::sorted;

/// What a run will be, known before its first multiplication, for [`Hooks::begin`].
#[derive(Clone, Debug)]
pub struct RunShape<'a> {
    /// The model; none where only its shape is known, as in a [`Forecast`](crate::forecast::Forecast).
    pub model: Option<&'a Transformer>,
    /// The model's shape.
    pub config: &'a Config,
    /// The number of tokens of each sequence.
    pub lengths: Vec<usize>,
    /// The run ends before this layer, if given: its blocks and the logits are not reached.
    pub stop_at_layer: Option<usize>,
    /// The positions at which what follows the blocks is computed.
    pub logits: KeepLogits,
    /// Whether the sequences grow to these lengths, one token at a time: values must then fit
    /// sequences of any length, and no row may read a later one.
    pub growing: bool,
}

impl<'a> RunShape<'a> {
    /// A run of the whole model with all logits.
    pub fn whole(model: &'a Transformer, lengths: Vec<usize>) -> Self {
        RunShape {
            model: Some(model),
            ..RunShape::forecast(model.config(), lengths)
        }
    }

    /// The same of any model of this shape.
    pub(crate) fn forecast(config: &'a Config, lengths: Vec<usize>) -> Self {
        RunShape {
            model: None,
            config,
            lengths,
            stop_at_layer: None,
            logits: KeepLogits::All,
            growing: false,
        }
    }

    /// Checks that the model has the point and that the run reaches it.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for a layer that the model lacks, [`Error::NeverFires`] for a point
    /// behind an early stop.
    pub fn check_point(&self, at: HookPoint) -> Result<()> {
        at.check(self.config)?;
        let Some(stop) = self.stop_at_layer else {
            return Ok(());
        };
        let reached = match at {
            HookPoint::Embed | HookPoint::PosEmbed => true,
            HookPoint::Block(layer, _) => layer < stop,
            _ => false,
        };
        if reached {
            return Ok(());
        }
        Err(Error::NeverFires {
            at: at.to_string(),
            reason: format!("the run stops before layer {stop}"),
        })
    }

    /// Whether a point is computed at a position of a sequence of `n` tokens: after the blocks,
    /// some runs compute each sequence's last position only.
    pub(crate) fn computes(&self, at: HookPoint, position: usize, n: usize) -> bool {
        let after = at > HookPoint::PosEmbed && at.layer().is_none();
        !after || self.logits != KeepLogits::Last || position + 1 == n
    }

    /// The error for a point at positions that are not computed.
    pub(crate) fn only_last(&self, at: HookPoint) -> Error {
        Error::NeverFires {
            at: at.to_string(),
            reason: "the run computes it at each prompt's last position only".to_string(),
        }
    }
}

/// Where a [`Hooks::visit`] takes place.
#[derive(Clone, Debug)]
pub struct Visit<'a> {
    /// The hook point.
    pub point: HookPoint,
    /// The index of the sequence in the batch.
    pub sequence: usize,
    /// The number of tokens of the sequence.
    pub length: usize,
    /// The positions of the activation's rows (its `dest` rows for attention), ascending.
    /// All of `0..length` unless the run leaves out unaffected rows.
    pub positions: &'a [usize],
    /// The shape of the whole activation, of which these positions and heads are shown.
    pub shape: Vec<usize>,
    /// The heads that are shown, ascending, where the activation has a head axis.
    pub heads: &'a [usize],
}

/// One sequence of a batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sequence {
    pub index: usize,
    /// Its number of tokens.
    pub length: usize,
}

impl<'a> Visit<'a> {
    /// A visit of some positions of one sequence; `heads` are left out where the activation has no
    /// head axis.
    pub(crate) fn new(
        config: &Config,
        point: HookPoint,
        of: Sequence,
        positions: &'a [usize],
        heads: &'a [usize],
    ) -> Self {
        let (axes, length) = (point.axes(), of.length);
        Visit {
            point,
            sequence: of.index,
            length,
            positions,
            shape: axes.shape(config, length),
            heads: if axes.has_heads() { heads } else { &[] },
        }
    }
}

/// The part of an activation that a hook may change.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Footprint {
    /// Positions, ascending; `None` for all.
    pub positions: Option<Vec<usize>>,
    /// Heads, ascending; `None` for all.
    pub heads: Option<Vec<usize>>,
}

impl Footprint {
    /// What either of two hooks may change.
    #[must_use]
    pub fn union(self, other: Footprint) -> Footprint {
        let both = |a: Option<Vec<usize>>, b: Option<Vec<usize>>| Some(sorted([a?, b?].concat()));
        Footprint {
            positions: both(self.positions, other.positions),
            heads: both(self.heads, other.heads),
        }
    }
}

/// Code that reads and changes activations during a run. `()` is the empty hook, which costs
/// nothing; a pair or a `Vec` of hooks runs them in turn, of different types as
/// `Vec<Box<dyn Hooks>>`. Passed as `&mut`, a hook can be read after the run. `Send`, since a pass
/// runs on the thread pool.
pub trait Hooks: Send {
    /// Whether [`Hooks::visit`] is to be called at this point of this sequence. Activations that
    /// the model does not need itself (per-head results, split inputs) are made only if so.
    fn wants(&self, at: HookPoint, sequence: usize) -> bool;

    /// Shows an activation, to be read or changed in place; its axes are those of
    /// [`HookPoint::axes`], its rows those of [`Visit::positions`].
    fn visit(&mut self, at: &Visit<'_>, activation: ArrayViewMutD<'_, f32>);

    /// Called once before the run: checks that everything can fire.
    ///
    /// # Errors
    /// Says which hook could not fire, and why.
    fn begin(&mut self, run: &RunShape<'_>) -> Result<()>;

    /// Called after the run (generation: after each step): the rows of attention that were left
    /// nothing to attend to.
    fn blocked(&mut self, _rows: &BlockedRows) {}

    /// Which part of the activation [`Hooks::visit`] may change; by default, all of it.
    fn footprint(&self, _at: HookPoint, _sequence: usize) -> Footprint {
        Footprint::default()
    }
}

impl Hooks for () {
    #[inline(always)]
    fn wants(&self, _at: HookPoint, _sequence: usize) -> bool {
        false
    }

    fn visit(&mut self, _at: &Visit<'_>, _activation: ArrayViewMutD<'_, f32>) {}

    fn begin(&mut self, _run: &RunShape<'_>) -> Result<()> {
        Ok(())
    }
}

impl<H: Hooks> Hooks for Vec<H> {
    fn wants(&self, at: HookPoint, sequence: usize) -> bool {
        self.iter().any(|hook| hook.wants(at, sequence))
    }

    fn visit(&mut self, at: &Visit<'_>, mut activation: ArrayViewMutD<'_, f32>) {
        self.iter_mut()
            .for_each(|hook| show(hook, at, activation.view_mut()));
    }

    fn begin(&mut self, run: &RunShape<'_>) -> Result<()> {
        self.iter_mut().try_for_each(|hook| hook.begin(run))
    }

    fn blocked(&mut self, rows: &BlockedRows) {
        self.iter_mut().for_each(|hook| hook.blocked(rows));
    }

    fn footprint(&self, at: HookPoint, sequence: usize) -> Footprint {
        let hooks = self.iter().map(|hook| hook as &dyn Hooks);
        union_of(hooks, at, sequence)
    }
}

impl<A: Hooks, B: Hooks> Hooks for (A, B) {
    fn wants(&self, at: HookPoint, sequence: usize) -> bool {
        self.0.wants(at, sequence) || self.1.wants(at, sequence)
    }

    fn visit(&mut self, at: &Visit<'_>, mut activation: ArrayViewMutD<'_, f32>) {
        show(&mut self.0, at, activation.view_mut());
        show(&mut self.1, at, activation);
    }

    fn begin(&mut self, run: &RunShape<'_>) -> Result<()> {
        self.0.begin(run)?;
        self.1.begin(run)
    }

    fn blocked(&mut self, rows: &BlockedRows) {
        self.0.blocked(rows);
        self.1.blocked(rows);
    }

    fn footprint(&self, at: HookPoint, sequence: usize) -> Footprint {
        let hooks: [&dyn Hooks; 2] = [&self.0, &self.1];
        union_of(hooks, at, sequence)
    }
}

/// Shows an activation to one of several hooks, if it wants it.
fn show(hook: &mut impl Hooks, at: &Visit<'_>, activation: ArrayViewMutD<'_, f32>) {
    if hook.wants(at.point, at.sequence) {
        hook.visit(at, activation);
    }
}

/// What those of several hooks may change that want an activation.
fn union_of<'h>(
    hooks: impl IntoIterator<Item = &'h dyn Hooks>,
    at: HookPoint,
    sequence: usize,
) -> Footprint {
    let wanting = hooks.into_iter().filter(|hook| hook.wants(at, sequence));
    wanting
        .map(|hook| hook.footprint(at, sequence))
        .reduce(Footprint::union)
        .unwrap_or_default()
}

/// Passes everything on to the hook that a pointer leads to.
macro_rules! hooks_through {
    ($($pointer:ty),*) => {$(
        impl<H: Hooks + ?Sized> Hooks for $pointer {
            fn wants(&self, at: HookPoint, sequence: usize) -> bool {
                (**self).wants(at, sequence)
            }

            fn visit(&mut self, at: &Visit<'_>, activation: ArrayViewMutD<'_, f32>) {
                (**self).visit(at, activation);
            }

            fn begin(&mut self, run: &RunShape<'_>) -> Result<()> {
                (**self).begin(run)
            }

            fn blocked(&mut self, rows: &BlockedRows) {
                (**self).blocked(rows);
            }

            fn footprint(&self, at: HookPoint, sequence: usize) -> Footprint {
                (**self).footprint(at, sequence)
            }
        }
    )*};
}

hooks_through!(&mut H, Box<H>);

/// The points at which [`hook_fn`] runs a closure: one, or any number of them, each of which
/// counts once.
#[derive(Clone, Debug)]
pub struct HookPoints(BTreeSet<HookPoint>);

impl From<HookPoint> for HookPoints {
    fn from(point: HookPoint) -> Self {
        HookPoints([point].into())
    }
}

impl<I: IntoIterator<Item = HookPoint>> From<I> for HookPoints {
    fn from(points: I) -> Self {
        HookPoints(points.into_iter().collect())
    }
}

/// A closure as a hook, made by [`hook_fn`].
#[derive(Clone, Debug)]
pub struct HookFn<F> {
    points: HookPoints,
    f: F,
}

/// Runs `f` at one hook point, or at each of several, of every sequence of a run;
/// [`Visit::point`] says at which. The view has the axes of [`HookPoint::axes`], e.g.
/// `[pos, head, d_head]`.
///
/// ```
/// use patchlens::{Config, Prompt, Run, Site, Transformer, hook_fn};
/// let config = Config { n_layers: 2, n_heads: 2, d_model: 8, d_mlp: 16, d_vocab: 11,
/// ..Config::gpt2() };
/// let model = Transformer::random(config, 0)?;
/// let mut norms = Vec::new();
/// let outputs = (0..2).map(|layer| Site::MlpOut.at(layer)); // or one, such as Site::MlpOut.at(1)
/// let hook = hook_fn(outputs, |at, activation| {
///     norms.push((at.point, activation.iter().map(|v| v * v).sum::<f32>()));
/// });
/// model.run(&Prompt::from([1, 2, 3]), hook, &Run::default())?;
/// assert_eq!(norms[1].0, Site::MlpOut.at(1));
/// assert!(norms[1].1 > 0.0);
/// # Ok::<(), patchlens::Error>(())
/// ```
pub fn hook_fn<F>(points: impl Into<HookPoints>, f: F) -> HookFn<F>
where
    F: FnMut(&Visit<'_>, ArrayViewMutD<'_, f32>) + Send,
{
    let points = points.into();
    HookFn { points, f }
}

impl<F> Hooks for HookFn<F>
where
    F: FnMut(&Visit<'_>, ArrayViewMutD<'_, f32>) + Send,
{
    fn wants(&self, at: HookPoint, _sequence: usize) -> bool {
        self.points.0.contains(&at)
    }

    fn visit(&mut self, at: &Visit<'_>, activation: ArrayViewMutD<'_, f32>) {
        (self.f)(at, activation);
    }

    fn begin(&mut self, run: &RunShape<'_>) -> Result<()> {
        let mut points = self.points.0.iter();
        points.try_for_each(|point| run.check_point(*point))
    }
}
