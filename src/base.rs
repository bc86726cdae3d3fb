//! The run that others depart from: checked prompts, the activations that were kept of their run,
//! and what a metric reads of it.

mod content;
mod run;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ndarray::{Array1, Array2};

pub(crate) use run::{Departure, Room};

use crate::cache::{ActivationCache, RunKind, Selection};
use crate::error::{Error, Result};
use crate::hook::{HookPoint, Site};
use crate::intervention::Intervention;
use crate::metric::{Metric, Needs};
use crate::model::stage::Frozen;
use crate::model::{BlockedRows, RunShape, Transformer};
use crate::ops::largest;
use crate::prompt::{IntoPrompts, Prompts};

/// The base runs of some prompts, from which the runs of a study depart.
///
/// It runs when something is asked of it, and keeps what was asked for, so that studies that share
/// it (a clone shares it, too) run it once. What a study needs of it, the study finds out.
///
/// ```
/// use patchlens::{Base, Config, Grid, Intervention, Edit, Prompt, Site, Sweep, Target};
/// use patchlens::{Transformer, logit_diff};
/// let config = Config { n_layers: 2, n_heads: 2, d_model: 8, d_mlp: 16, d_vocab: 11,
/// ..Config::gpt2() };
/// let model = Transformer::random(config, 0)?;
/// let base = Base::new(&model, &Prompt::from([1, 2, 3]))?;
/// let metric = logit_diff(5, 6);
/// let cell = vec![Intervention::new(Site::MlpOut.at(1), Edit::Zero)];
/// let found = Sweep::over(&base).run(&[cell], &metric)?;
/// assert_eq!(found.base, base.metric(&metric)?); // [prompt]
///
/// // The run of another prompt: only rows from its first other token on are computed.
/// let other = Base::over(&base, &Prompt::from([1, 4, 3]), Vec::new())?;
/// other.metric(&metric)?;
/// assert!(other.multiply_adds() < base.multiply_adds());
/// # Ok::<(), patchlens::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Base<'m>(Arc<Inner<'m>>);

#[derive(Debug)]
struct Inner<'m> {
    model: &'m Transformer,
    prompts: Prompts,
    origin: Origin<'m>,
    kept: Mutex<Kept>,
}

/// How the runs come about.
#[derive(Debug)]
enum Origin<'m> {
    /// As full runs.
    Full,
    /// As lanes over other runs, under interventions.
    Over(Base<'m>, Vec<Intervention>),
    /// By somebody else.
    Given,
}

/// What the runs so far have left.
#[derive(Debug, Default)]
struct Kept {
    /// One cache per prompt; none before the first run.
    caches: Arc<[ActivationCache]>,
    /// What the next run is to keep besides what it is made for.
    expected: Selection,
    multiply_adds: u64,
    blocked: BlockedRows,
}

impl Kept {
    fn lacks(&self, point: HookPoint) -> bool {
        self.caches.is_empty() || self.caches.iter().any(|cache| cache.get(point).is_err())
    }
}

impl<'m> Base<'m> {
    /// The plain runs of some prompts.
    ///
    /// # Errors
    /// [`Error::Prompt`] or [`Error::OutOfRange`] for a prompt that the model cannot run.
    pub fn new(model: &'m Transformer, prompts: impl IntoPrompts) -> Result<Self> {
        Self::checked(model, prompts.into_prompts()?, Origin::Full)
    }

    /// The runs of some prompts under interventions, computed as lanes over other runs: rows that
    /// nothing changes are taken from them. The other runs are one per prompt and of its length,
    /// or one for all.
    ///
    /// # Errors
    /// Same as [`Base::new`] and, for each intervention, [`Intervention::check`]; [`Error::Invalid`]
    /// for another number of prompts, for an intervention after the blocks, and if the other runs
    /// are under interventions themselves; [`Error::Prompt`] if two lengths differ.
    pub fn over(
        other: &Base<'m>,
        prompts: impl IntoPrompts,
        interventions: Vec<Intervention>,
    ) -> Result<Self> {
        let prompts = prompts.into_prompts()?;
        other.check_carries(&prompts)?;
        if !other.interventions().is_empty() {
            return Err(Error::invalid(
                "base of a base",
                "runs under interventions",
                "plain ones",
            ));
        }
        let late =
            |i: &&Intervention| i.target.point > HookPoint::Block(usize::MAX, Site::ResidPost);
        if let Some(intervention) = interventions.iter().find(late) {
            return Err(Error::invalid(
                "intervention of a base",
                &intervention.target,
                "a point before the final LayerNorm",
            ));
        }
        let origin = Origin::Over(other.clone(), interventions);
        let base = Self::checked(other.model(), prompts, origin)?;
        base.check_all(base.interventions())?;
        let places = base.interventions().iter().map(|i| i.target.point);
        other.expect(places, Frozen::default());
        other.expect_points(&Selection::points(other.token_reads(base.prompts())));
        Ok(base)
    }

    /// The runs that some caches are of, one per prompt: plain runs of this model. Those that hooks
    /// changed would lose the hooks wherever a run departs; [`Base::over`] makes such bases.
    ///
    /// # Errors
    /// Same as [`Base::new`]; [`Error::Prompt`] if they are not whole caches of these prompts,
    /// [`Error::Provenance`] if they are not of plain runs of this model. Whoever reads an activation
    /// that they lack gets [`Error::NotCached`].
    pub fn given(
        model: &'m Transformer,
        prompts: impl IntoPrompts,
        caches: &[ActivationCache],
    ) -> Result<Self> {
        let base = Self::checked(model, prompts.into_prompts()?, Origin::Given)?;
        base.check_caches(caches)?;
        base.kept().caches = caches.into();
        Ok(base)
    }

    fn checked(model: &'m Transformer, prompts: Prompts, origin: Origin<'m>) -> Result<Self> {
        model.check_prompts(prompts.as_slice())?;
        Ok(Base(Arc::new(Inner {
            model,
            prompts,
            origin,
            kept: Mutex::default(),
        })))
    }

    /// Checks caches that are given for the prompts.
    fn check_caches(&self, caches: &[ActivationCache]) -> Result<()> {
        let prompts = self.prompts();
        if caches.len() != prompts.len() {
            let expected = format!("{}, one per prompt", prompts.len());
            return Err(Error::invalid("caches", caches.len(), expected));
        }
        for (i, (cache, prompt)) in caches.iter().zip(prompts).enumerate() {
            if cache.tokens() != prompt.tokens {
                return Err(Error::Prompt {
                    at: format!("base cache {i}"),
                    found: format!("tokens {:?}", cache.tokens()),
                    expected: format!("the prompt's, {:?}", prompt.tokens),
                });
            }
            let at = format!("base cache {i}");
            self.model().check_cache(&at, cache, &[RunKind::Plain])?;
            if !cache.is_whole() {
                return Err(Error::Prompt {
                    at: format!("base cache {i}"),
                    found: format!("{} positions", cache.positions().len()),
                    expected: format!("all of the prompt's {}", prompt.len()),
                });
            }
        }
        Ok(())
    }

    /// Checks that runs of these prompts can depart from these.
    fn check_carries(&self, prompts: &Prompts) -> Result<()> {
        let own = self.prompts();
        if own.len() != 1 && own.len() != prompts.len() {
            let expected = format!("{}, one per prompt of the base", own.len());
            return Err(Error::invalid("prompts", prompts.len(), expected));
        }
        let lengths = prompts.iter().zip(own.iter().cycle()).enumerate();
        match lengths.clone().find(|(_, (a, b))| a.len() != b.len()) {
            None => Ok(()),
            Some((i, (prompt, base))) => Err(Error::Prompt {
                at: format!("prompt {i}"),
                found: format!("{} tokens", prompt.len()),
                expected: format!("{} as its base", base.len()),
            }),
        }
    }

    /// The model.
    pub fn model(&self) -> &'m Transformer {
        self.0.model
    }

    /// The prompts.
    pub fn prompts(&self) -> &Prompts {
        &self.0.prompts
    }

    /// Multiply-adds of these runs so far. What [`Base::given`] caches took, and the runs that
    /// these are lanes over, are not among them.
    pub fn multiply_adds(&self) -> u64 {
        self.kept().multiply_adds
    }

    /// The rows of attention that these runs left nothing to attend to, of those computed so far.
    /// What [`Base::given`] caches are of is not known.
    pub fn blocked(&self) -> BlockedRows {
        self.kept().blocked
    }

    /// The metric of these runs, `[prompt]`.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] or [`Error::Invalid`] for a metric that does not fit the prompts,
    /// [`Error::NotCached`] if given caches lack the last residual stream.
    pub fn metric(&self, metric: &Metric) -> Result<Array1<f32>> {
        self.metric_within(metric, Room::FREE)
    }

    /// The same within some room.
    pub(crate) fn metric_within(&self, metric: &Metric, room: Room) -> Result<Array1<f32>> {
        let needs = self.needs(metric)?;
        let mut values = Array1::zeros(needs.len());
        self.read(&needs, room, |prompt, logits| {
            values[prompt] = metric.read(prompt, logits);
        })?;
        Ok(values)
    }

    /// The likeliest next token of each prompt; the first of equals.
    ///
    /// # Errors
    /// [`Error::NotCached`] if given caches lack the last residual stream.
    pub fn likeliest(&self) -> Result<Vec<u32>> {
        let lengths = self.prompts().lengths().into_iter();
        let last = lengths.map(|n| Needs {
            positions: vec![n - 1],
            tokens: None,
        });
        let rows = self.readout(&last.collect::<Vec<_>>())?.into_iter();
        let best = |row: Array2<f32>| {
            let row: Vec<f32> = row.into_iter().collect();
            largest(row.len(), 1, |i| f64::from(row[i]))[0] as u32
        };
        Ok(rows.map(best).collect())
    }

    /// The activations of these runs, one cache per prompt, which may hold more than asked for.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for a point that the model lacks, [`Error::NotCached`] if given
    /// caches lack one.
    pub fn caches(
        &self,
        points: impl IntoIterator<Item = HookPoint>,
    ) -> Result<Arc<[ActivationCache]>> {
        // The caches leave, and may outlive the model.
        self.model().fingerprint();
        self.held(points)
    }

    /// Same as [`Base::caches`], for use within the crate: the model's fingerprint is not computed.
    pub(crate) fn held(
        &self,
        points: impl IntoIterator<Item = HookPoint>,
    ) -> Result<Arc<[ActivationCache]>> {
        self.held_within(points, Room::FREE)
    }

    /// The same within some room.
    pub(crate) fn held_within(
        &self,
        points: impl IntoIterator<Item = HookPoint>,
        room: Room,
    ) -> Result<Arc<[ActivationCache]>> {
        let points = Selection::points(points);
        let config = self.model().config();
        points.iter().try_for_each(|point| point.check(config))?;
        Ok(self.hold_in(&points, room)?.value)
    }

    /// The metric, with these runs as what a KL divergence that lacks a reference is measured to.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] if a prompt lacks the position that the metric reads.
    pub fn refer(&self, metric: &Metric) -> Result<Metric> {
        self.refer_within(metric, Room::FREE)
    }

    /// The same within some room.
    pub(crate) fn refer_within(&self, metric: &Metric, room: Room) -> Result<Metric> {
        if !metric.lacks_reference() {
            self.needs(metric)?;
            return Ok(metric.clone());
        }
        let lengths = self.prompts().lengths().into_iter().enumerate();
        let needs = lengths.map(|(prompt, n)| {
            metric.check_position(prompt, n)?;
            Ok(metric.needs(prompt, n))
        });
        let needs: Vec<Needs> = needs.collect::<Result<_>>()?;
        let logits = self.readout_within(&needs, room)?.into_iter();
        let rows = logits.map(|row| row.into_iter().collect()).collect();
        Ok(metric.clone().with_reference_rows(rows))
    }

    /// What a metric reads of each prompt.
    pub(crate) fn needs(&self, metric: &Metric) -> Result<Vec<Needs>> {
        metric.needs_of(self.prompts(), self.model().config())
    }

    /// The interventions under which these runs are made.
    pub(crate) fn interventions(&self) -> &[Intervention] {
        match &self.0.origin {
            Origin::Over(_, interventions) => interventions,
            Origin::Full | Origin::Given => &[],
        }
    }

    /// Checks that no intervention acts at such points.
    ///
    /// # Errors
    /// [`Error::Invalid`] that names the first.
    pub(crate) fn check_none_at(
        &self,
        what: &str,
        refused: impl Fn(HookPoint) -> bool,
        expected: &str,
    ) -> Result<()> {
        let mut points = self.interventions().iter().map(|i| &i.target);
        match points.find(|target| refused(target.point)) {
            None => Ok(()),
            Some(target) => {
                let found = format!("one at `{target}`");
                let what = format!("interventions of the runs in {what}");
                Err(Error::invalid(what, found, expected))
            }
        }
    }

    /// Checks that what heads write is the product of their z, by which some methods have it.
    ///
    /// # Errors
    /// [`Error::Invalid`] for interventions at [`Site::Result`].
    pub(crate) fn check_heads_write_z(&self, what: &str) -> Result<()> {
        let result = |point| matches!(point, HookPoint::Block(_, Site::Result));
        let expected = "one at the heads' `attn.hook_z`, from which their output is computed";
        self.check_none_at(what, result, expected)
    }

    /// Checks that interventions can fire in runs of the prompts.
    pub(crate) fn check_all<'i>(
        &self,
        interventions: impl IntoIterator<Item = &'i Intervention>,
    ) -> Result<()> {
        let shape = RunShape::whole(self.model(), self.prompts().lengths());
        interventions.into_iter().try_for_each(|i| i.check(&shape))
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
