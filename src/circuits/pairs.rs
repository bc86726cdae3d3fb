//! Pairs of prompts, and what the edges of a circuit carry in the two runs of each.

use ndarray::{Array2, ArrayView2, Ix2};

use super::edge::{Receiver, Source};
use super::graph::Graph;
use super::scores::Orientation;
use crate::base::Base;
use crate::cache::ActivationCache;
use crate::component::Qkv;
use crate::error::{Error, Result};
use crate::hook::{HookPoint, Site};
use crate::intervention::Target;
use crate::limits::Limits;
use crate::metric::Metric;
use crate::model::Transformer;
use crate::model::stage::Frozen;
use crate::ops::{self, part};
use crate::pairs::Pairs;
use crate::report::Direction;

impl Pairs<'_> {
    pub fn graph(&self) -> Graph {
        Graph::new(self.model().config())
    }

    /// The number of tokens that all prompts have.
    ///
    /// # Errors
    /// [`Error::Prompt`] if the pairs differ in length.
    pub fn common_len(&self) -> Result<usize> {
        let lengths = self.clean.prompts().lengths();
        match lengths.iter().position(|n| *n != lengths[0]) {
            None => Ok(lengths[0]),
            Some(i) => Err(Error::Prompt {
                at: format!("clean prompt {i}"),
                found: format!("{} tokens", lengths[i]),
                expected: format!(
                    "{} as prompt 0: effects by position are asked for",
                    lengths[0]
                ),
            }),
        }
    }

    /// A title: what was done, and what is changed against which run.
    pub fn title(&self, method: &str, metric: &Metric) -> String {
        let ([base, _], name) = (self.names(), metric.name());
        format!("{method}: change of the {name} against the {base} run")
    }

    /// Checks that sources write what is computed from their activations.
    ///
    /// # Errors
    /// [`Error::Invalid`] for runs under interventions at heads' outputs.
    pub fn check_sources(&self) -> Result<()> {
        let [base, donor] = self.base_and_donor();
        base.check_heads_write_z("a study of edges")?;
        donor.check_heads_write_z("a study of edges")
    }

    /// What the sign of a change of the metric means.
    pub fn orientation(&self, metric: &Metric) -> Orientation {
        let noising = self.direction == Direction::Noising;
        if noising == metric.smaller_is_better() {
            Orientation::UsefulIsPositive
        } else {
            Orientation::UsefulIsNegative
        }
    }

    /// Announces runs that change what is read at these places, so that the base runs only once.
    pub fn expect(&self, places: impl IntoIterator<Item = HookPoint>) {
        let written: Vec<HookPoint> = self.graph().sources().map(Source::point).collect();
        let [base, donor] = self.base_and_donor();
        donor.expect(written.iter().copied(), Frozen::default());
        base.expect(written.into_iter().chain(places), Frozen::default());
    }

    /// Runs both bases, unless they have run, so that they keep what was announced.
    pub fn begin(&self, limits: &Limits<'_>) -> Result<()> {
        let [base, donor] = self.base_and_donor();
        for (runs, other) in [(base, donor), (donor, base)] {
            let room = limits.room(other.held_beside(runs));
            runs.held_within([HookPoint::Embed], room)?;
        }
        Ok(())
    }

    /// How what a source writes in the donor differs from what it writes in the base, `[pos,
    /// d_model]` by pair.
    pub fn differences(&self, source: Source) -> Result<Vec<Array2<f32>>> {
        (0..self.len())
            .map(|pair| self.difference(source, pair))
            .collect()
    }

    /// The same of one pair.
    pub fn difference(&self, source: Source, pair: usize) -> Result<Array2<f32>> {
        let of = |runs: &Base<'_>| {
            let caches = runs.held([source.point()])?;
            source.output(self.model(), &caches[pair])
        };
        let [base, donor] = self.base_and_donor().map(of);
        Ok(donor? - base?)
    }

    /// Queries, keys or values of all heads of a layer, `[row, head · d_head]`, from rows after
    /// LayerNorm, `[row, d_model]`.
    pub fn project(&self, layer: usize, read: Qkv, normed: ArrayView2<'_, f32>) -> Array2<f32> {
        let c_attn = &self.model().parameters().h[layer].attn.c_attn;
        let width = self.model().config().d_heads();
        let columns = read as usize * width..(read as usize + 1) * width;
        let weight = part(c_attn.weight.view(), 1, columns.clone());
        let bias = part(c_attn.bias.view(), 0, columns);
        ops::on_pool(|| ops::linear(normed, weight, Some(bias)))
    }

    /// Multiply-adds of [`Pairs::differences`].
    pub fn difference_macs(&self, source: Source) -> u64 {
        let config = self.model().config();
        match source {
            Source::Head(_) => (2 * self.tokens() * config.d_model * config.d_head()) as u64,
            Source::Input | Source::Mlp(_) => 0,
        }
    }
}

impl Source {
    /// Where it can be read: what it writes, or, for a head, [`Site::Z`].
    pub(super) fn point(self) -> HookPoint {
        let point = self.component().point();
        point.expect("embedding, heads and MLPs have one")
    }

    /// Its part of [`Source::point`].
    pub(super) fn target(self) -> Target {
        let target = Target::new(self.point());
        match self {
            Source::Head(head) => target.at_heads(head.head),
            Source::Input | Source::Mlp(_) => target,
        }
    }

    /// What it writes, `[pos, d_model]`, from a cache of [`Source::point`].
    pub(super) fn output(
        self,
        model: &Transformer,
        cache: &ActivationCache,
    ) -> Result<Array2<f32>> {
        let rows: ArrayView2<'_, f32> = cache.flat(self.point())?;
        Ok(match self {
            Source::Input | Source::Mlp(_) => rows.to_owned(),
            Source::Head(head) => {
                let d_head = model.config().d_head();
                let z = part(rows, 1, head.head * d_head..(head.head + 1) * d_head);
                ops::on_pool(|| ops::linear(z, model.output_map(head), None))
            }
        })
    }
}

impl Receiver {
    /// The hook point of what it reads.
    pub(super) fn point(self, n_layers: usize) -> HookPoint {
        match self {
            Receiver::Head(head, read) => read.input_site().at(head.layer),
            Receiver::Mlp(layer) => Site::MlpIn.at(layer),
            Receiver::Logits => Site::ResidPost.at(n_layers - 1),
        }
    }

    /// The residual stream that it reads.
    pub(super) fn stream(self, n_layers: usize) -> HookPoint {
        match self {
            Receiver::Head(head, _) => Site::ResidPre.at(head.layer),
            Receiver::Mlp(_) | Receiver::Logits => self.point(n_layers),
        }
    }
}

/// An activation `[pos, width]` of a cache.
pub(super) fn matrix(cache: &ActivationCache, at: HookPoint) -> Result<ArrayView2<'_, f32>> {
    let found = cache.get(at)?.into_dimensionality::<Ix2>();
    Ok(found.expect("an activation with two axes"))
}

/// What the studies of the effects of edges have in common: how they begin, and which run they
/// change.
macro_rules! edge_study_methods {
    ($life:lifetime) => {
        /// A study of prompt pairs.
        ///
        /// # Errors
        /// [`Error::Prompt`](crate::Error::Prompt) or [`Error::OutOfRange`](crate::Error::OutOfRange)
        /// if a prompt cannot run, [`Error::Invalid`](crate::Error::Invalid) for another number of
        /// corrupted prompts, [`Error::Prompt`](crate::Error::Prompt) if the two of a pair differ in
        /// length.
        pub fn new(
            model: &$life crate::Transformer,
            clean: impl crate::prompt::IntoPrompts,
            corrupted: impl crate::prompt::IntoPrompts,
        ) -> crate::Result<Self> {
            Ok(Self::of(crate::pairs::Pairs::new(
                model,
                clean,
                corrupted,
                crate::report::Direction::Noising,
            )?))
        }

        /// A study of base runs, which other studies may share.
        ///
        /// # Errors
        /// [`Error::Invalid`](crate::Error::Invalid) if there are not as many corrupted prompts as prompts,
        /// [`Error::Prompt`](crate::Error::Prompt) if the two of a pair differ in length.
        pub fn over(clean: &crate::Base<$life>, corrupted: &crate::Base<$life>) -> crate::Result<Self> {
            Ok(Self::of(crate::pairs::Pairs::over(clean, corrupted, crate::report::Direction::Noising)?))
        }

        fn of(pairs: crate::pairs::Pairs<$life>) -> Self {
            Self {
                pairs,
                limits: crate::limits::Limits::default(),
            }
        }

        /// Which run is changed: the clean one ([`Direction::Noising`](crate::report::Direction::Noising), the default) or the corrupted
        /// one.
        #[must_use]
        pub fn direction(mut self, direction: crate::report::Direction) -> Self {
            self.pairs.direction = direction;
            self
        }

        crate::limits::limits_methods!($life);

        /// The graph whose edges the model has.
        pub fn graph(&self) -> crate::circuits::Graph {
            self.pairs.graph()
        }
    };
}
pub(crate) use edge_study_methods;
