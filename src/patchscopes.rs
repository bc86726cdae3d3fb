//! Patchscopes: what is in a hidden state, if another prompt is made to say it?
//!
//! ```text
//! h = state of the source prompt after layer l, at position i
//! run the target prompt with its state after layer l*, at position i*, set to h; read what it says
//! ```
//!
//! (Ghandeharioun et al. 2024, "Patchscopes: A Unifying Framework for Inspecting Hidden
//! Representations of Language Models", section 3.)
//!
//! ```
//! use patchlens::prelude::*;
//! use patchlens::patchscopes::Patchscopes;
//! let (model, tokenizer) = (Transformer::mini(), Tokenizer::mini());
//! let source = tokenizer.encode("Ada Brown")?;
//! let target = tokenizer.encode("Leo Green plays the sport of")?;
//! let scope = Patchscopes::new(&model, &source, &target)?.write_at(1);
//! println!("{}", scope.likeliest(&tokenizer)?); // [source layer, target layer]
//! # Ok::<(), patchlens::Error>(())
//! ```
//!
//! **What a number means.** How likely the target prompt makes a token once it has the state: if it
//! was not so before, the state brought it along. Early target layers leave the model most to do
//! with it.
//!
//! **What it does not mean.** That the source run uses what is said here: the target prompt asks its
//! own question, and may answer without the state; look at [`Patchscopes::target`] alone, and at
//! states that should say nothing. A state put into a layer that never sees the like may say
//! anything. More in [the guide](crate::guide::states).

mod readings;

use ndarray::Array2;

use crate::alignment::moved;
use crate::base::Base;
pub use crate::effects::Interchanged;
use crate::error::{Error, Result};
use crate::generate::{Generated, Generation};
use crate::hook::{Axes, HookPoint, Site};
use crate::intervention::{Interventions, Select};
use crate::limits::{Limits, limits_methods};
use crate::metric::Metric;
use crate::model::Transformer;
use crate::pairs::averaged;
use crate::prompt::{IntoPrompts, Prompts};
use crate::report::{About, Axis};
use crate::select::InPrompt;
use crate::sweep::{Cell, Sweep};

/// A study of states of source prompts, put into runs of target prompts.
#[derive(Clone, Debug)]
pub struct Patchscopes<'m> {
    source: Base<'m>,
    target: Base<'m>,
    site: Site,
    read: Select,
    write: Select,
    limits: Limits<'m>,
}

impl<'m> Patchscopes<'m> {
    /// A study within one model: one source prompt per target prompt, or one of either for all.
    /// Unless said otherwise, the last token's state after a layer goes to the last token.
    ///
    /// # Errors
    /// [`Error::Prompt`] or [`Error::OutOfRange`] for a prompt that cannot run; else same as
    /// [`Patchscopes::over`].
    pub fn new(
        model: &'m Transformer,
        source: impl IntoPrompts,
        target: impl IntoPrompts,
    ) -> Result<Self> {
        Self::over(&Base::new(model, source)?, &Base::new(model, target)?)
    }

    /// A study of base runs, which other studies may share, also of two models of one width: a
    /// small one's states can be read by a large one, a tuned one's by its origin.
    ///
    /// ```
    /// use patchlens::{Base, Config, Prompt, Transformer};
    /// use patchlens::patchscopes::Patchscopes;
    /// use patchlens::metric::probability;
    /// let config = Config { n_layers: 2, n_heads: 2, d_model: 8, d_mlp: 16, d_vocab: 11,
    /// ..Config::gpt2() };
    /// let deep = Transformer::random(Config { n_layers: 3, ..config.clone() }, 1)?;
    /// let model = Transformer::random(config, 0)?;
    /// let source = Base::new(&deep, &Prompt::from([1, 2]))?;
    /// let target = Base::new(&model, &Prompt::from([3, 4, 5]))?;
    /// let found = Patchscopes::over(&source, &target)?.run(&probability(&[7]))?;
    /// assert_eq!(found.effect.values().shape(), [3, 2]); // [source layer, target layer]
    /// # Ok::<(), patchlens::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`] for models of two widths, and for numbers of prompts that differ unless
    /// one of them is 1.
    pub fn over(source: &Base<'m>, target: &Base<'m>) -> Result<Self> {
        let [from, to] = [source, target].map(|base| base.model().config().d_model);
        if from != to {
            let expected = format!("{to}, as the target's");
            return Err(Error::invalid(
                "d_model of the source's model",
                from,
                expected,
            ));
        }
        let (sources, targets) = (source.prompts().len(), target.prompts().len());
        let target = match (sources, targets) {
            (n, 1) if n > 1 => {
                let copies = vec![target.prompts()[0].clone(); n];
                Base::over(target, &Prompts::new(copies)?, Vec::new())?
            }
            (n, m) if n == 1 || n == m => target.clone(),
            _ => {
                let expected = crate::error::one_or_each(targets, "target prompt");
                return Err(Error::invalid("source prompts", sources, expected));
            }
        };
        Ok(Patchscopes {
            source: source.clone(),
            target,
            site: Site::ResidPost,
            read: Select::Last,
            write: Select::Last,
            limits: Limits::default(),
        })
    }

    /// Reads and writes at another site than the residual stream after a layer: one with the axes
    /// `[pos, d_model]`.
    #[must_use]
    pub fn site(mut self, site: Site) -> Self {
        self.site = site;
        self
    }

    /// The position of each source prompt whose state is taken.
    #[must_use]
    pub fn read_at(mut self, position: impl Into<Select>) -> Self {
        self.read = position.into();
        self
    }

    /// The position of each target prompt where it goes.
    #[must_use]
    pub fn write_at(mut self, position: impl Into<Select>) -> Self {
        self.write = position.into();
        self
    }

    limits_methods!('m);

    /// The runs that the states are of.
    pub fn source(&self) -> &Base<'m> {
        &self.source
    }

    /// The runs that get them.
    pub fn target(&self) -> &Base<'m> {
        &self.target
    }

    /// What the states of each layer do to a metric of the target runs, written to each layer:
    /// `[source layer, target layer]`. A KL divergence without a reference is measured to the
    /// target runs as they are.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a site of other axes than `[pos, d_model]`, and unless one position is
    /// read and one written per prompt; [`Error::OutOfRange`] for a position that a prompt lacks;
    /// else same as [`Sweep::prepare`].
    pub fn run(&self, metric: &Metric) -> Result<Interchanged> {
        let metric = self.target.refer_within(metric, self.limits.room(0))?;
        let cells = self.cells()?;
        let sweep = Sweep::limited(&self.target, self.limits.clone());
        let sweep = sweep.beside(self.source.held_beside(&self.target));
        let result = sweep.run(&cells, &metric)?;
        Interchanged::of(result, None, self.axes(), self.about(), &metric)
    }

    /// The probabilities of the next token of each target prompt, `[prompt, d_vocab]`, with the
    /// state that follows one layer written after another.
    ///
    /// # Errors
    /// Same as [`Patchscopes::run`]; [`Error::OutOfRange`] for a layer that a model lacks.
    pub fn next_tokens(&self, source_layer: usize, target_layer: usize) -> Result<Array2<f32>> {
        let cell = self.cell(source_layer, target_layer)?;
        let prompts = self.target.prompts().len();
        let mut found = Array2::zeros((prompts, self.target.model().config().d_logits()));
        self.read(&[cell], |_, prompt, row| found.row_mut(prompt).assign(&row))?;
        Ok(found)
    }

    /// Continues each target prompt, with the state that follows one layer written after another:
    /// at its position once, so that all that comes later reads it there.
    ///
    /// # Errors
    /// Same as [`Patchscopes::next_tokens`] and [`Transformer::generate`].
    pub fn generate(
        &self,
        source_layer: usize,
        target_layer: usize,
        generation: &Generation,
    ) -> Result<Vec<Generated>> {
        let cell = self.cell(source_layer, target_layer)?;
        let all = [self.target.interventions(), &cell].concat();
        let prompts = self.target.prompts();
        let hooks = Interventions::new(all);
        self.target.model().generate(prompts, hooks, generation)
    }

    /// Every layer's state in every layer.
    fn cells(&self) -> Result<Vec<Cell>> {
        let [from, to] = [&self.source, &self.target].map(|base| base.model().config().n_layers);
        let points = |n: usize| (0..n).map(|layer| self.site.at(layer));
        // In one run.
        self.source.held(points(from))?;
        let cells = points(from).flat_map(|read| points(to).map(move |write| (read, write)));
        cells.map(|(read, write)| self.moved(read, write)).collect()
    }

    /// The state after one layer, written after another.
    fn cell(&self, source_layer: usize, target_layer: usize) -> Result<Cell> {
        let [read, write] = [source_layer, target_layer].map(|layer| self.site.at(layer));
        write.check(self.target.model().config())?;
        self.moved(read, write)
    }

    fn moved(&self, read: HookPoint, write: HookPoint) -> Result<Cell> {
        let what = "site of patchscopes";
        let expected = Axes::Model;
        self.site.axes().expect(expected, what, &self.site.name())?;
        let [from, to] = [
            (&self.read, &self.source, "source"),
            (&self.write, &self.target, "target"),
        ]
        .map(|(select, base, name)| positions(select, base.prompts(), name));
        let from = from?.into_iter().cycle();
        let partners: Vec<Vec<[usize; 2]>> = to?
            .into_iter()
            .zip(from)
            .map(|(to, from)| vec![[to, from]])
            .collect();
        let caches = self.source.held([read])?.to_vec();
        let donors: Vec<_> = caches.into_iter().cycle().take(partners.len()).collect();
        Ok(vec![moved(
            read,
            write.into(),
            "state",
            &partners,
            &donors,
        )?])
    }

    fn axes(&self) -> Vec<Axis> {
        let layers = |base: &Base<'_>, name: &str| {
            let n_layers = base.model().config().n_layers;
            Axis::layers(n_layers).named(name)
        };
        vec![
            layers(&self.source, "source layer"),
            layers(&self.target, "target layer"),
        ]
    }

    fn about(&self) -> About {
        About {
            title: "Patchscopes".to_string(),
            caption: format!(
                "{} of the source prompt, pos {}, put into the target prompt, pos {}; {}.",
                self.site.name(),
                self.read,
                self.write,
                averaged(self.target.prompts().len(), "prompt pair")
            ),
            ..About::default()
        }
    }
}

/// The one position of each prompt that is named.
fn positions(select: &Select, prompts: &Prompts, of: &str) -> Result<Vec<usize>> {
    let what = format!("position of the {of} prompt");
    select.check_prompts(&what, "pos", prompts.len())?;
    let one = |(prompt, n): (usize, usize)| {
        let at = InPrompt {
            what: &what,
            prompt,
            prompts: prompts.len(),
        };
        select.check(&at, "pos", prompt, n)?;
        match select.resolve(prompt, n)[..] {
            [position] => Ok(position),
            ref several => Err(Error::invalid(
                at.to_string(),
                format!("{several:?}"),
                "one",
            )),
        }
    };
    prompts.lengths().into_iter().enumerate().map(one).collect()
}
