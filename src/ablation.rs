//! Ablation: what does the model lose without these heads or MLPs? And circuits scored by it.
//!
//! ```text
//! lost(nodes) = m(whole model) - m(model whose nodes are replaced)
//! ```
//!
//! (Wang et al. 2022, "Interpretability in the Wild", sections 2.1 and 4.)
//!
//! ```
//! use patchlens::prelude::*;
//! let (model, tokenizer) = (Transformer::mini(), Tokenizer::mini());
//! let clean = tokenizer.encode("When Mary and John went to the store, John gave a drink to")?;
//! let metric = logit_diff(tokenizer.token(" Mary")?, tokenizer.token(" John")?);
//! let ablation = Ablation::new(&model, &clean, Replacement::Zero)?;
//! println!("{}", ablation.run(patchlens::ablation::Each::Head, &metric)?.lost()?.top(3));
//! # Ok::<(), patchlens::Error>(())
//! ```
//!
//! **What a number means.** Above 0: the nodes help. It depends on what takes their place
//! ([`Replacement`]): zeros ask what would be lost if the head did not exist, the mean over all
//! positions
//! what it knows of this prompt *and* place, the mean over prompts of the same template what it
//! knows of this prompt alone. The same head can cost ten times as much by one as by another.
//!
//! **What it does not mean.** Nodes that stand in for each other cost little one by one; knock out
//! sets of them. Zeros are activations that later layers have never seen. More in
//! [the guide](crate::guide::ablation).

mod circuit;
mod heads;
mod knock_out;
mod replacement;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

pub use circuit::{Circuit, CircuitNode, Completeness, Faithfulness, Minimality, NodeMinimality};
pub(crate) use knock_out::Found;
pub use knock_out::KnockOut;
pub use replacement::Replacement;

use crate::base::Base;
use crate::component::{Component, Head};
use crate::config::{Config, Element};
use crate::error::{Error, Result};
use crate::hook::HookPoint;
use crate::intervention::{Edit, Intervention, Target, Values};
use crate::limits::{Limits, limits_methods};
use crate::metric::Metric;
use crate::model::Transformer;
use crate::model::stage::Frozen;
use crate::pairs::averaged;
use crate::prompt::IntoPrompts;
use crate::report::{About, Axis};
use crate::sweep::{Cell, Sweep, SweepResult};

/// Positions by node and prompt: what a cell knocks out.
type Removed = BTreeMap<Component, Vec<BTreeSet<usize>>>;

/// What is knocked out: each in runs of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Each<'a> {
    /// Every head in turn, at all positions: `[layer, head]`.
    Head,
    /// Every head in turn, at a class of positions: `[layer, head]`.
    HeadAt(&'a str),
    /// Every head in turn, removed only from the last `resid_post`, so that no later head and no MLP
    /// sees the change: `[layer, head]`, the head's direct effect (Wang et al. 2022, section 3.1,
    /// path patching of heads to the logits with MLPs frozen). The final LayerNorm is computed
    /// anew, so that taking out a head which writes mostly unrelated content shrinks the scale and
    /// so boosts the rest, which can raise the metric. The rest of what [`Each::Head`] measures
    /// goes through later parts of
    /// the model.
    HeadDirectly,
    /// Every one of these sets of nodes, whose members go together: `[set]`.
    Set(&'a [Vec<CircuitNode>]),
}

/// A knock-out study: prompts, and what replaces a node that is knocked out.
///
/// ```
/// use patchlens::{Config, Prompts, Transformer, logit_diff};
/// use patchlens::ablation::{Ablation, CircuitNode, Each, Replacement};
/// let config = Config { n_layers: 2, n_heads: 2, d_model: 8, d_mlp: 16, d_vocab: 11,
/// ..Config::gpt2() };
/// let model = Transformer::random(config, 0)?;
/// let prompts = Prompts::new([vec![1, 2, 3], vec![4, 5, 6]])?;
/// let counterfactual = Prompts::new([vec![7, 2, 3], vec![8, 5, 6], vec![9, 2, 6]])?;
/// let mean = Replacement::counterfactual_mean(&counterfactual)?;
/// let ablation = Ablation::new(&model, &prompts, mean)?.with_class("end", vec![vec![2], vec![2]])?;
/// let metric = logit_diff(5, 6);
/// let each = ablation.run(Each::Head, &metric)?;
/// assert_eq!(each.effect.values().shape(), [2, 2]); // [layer, head]
/// println!("{}", each.effect.top(3)); // the heads that change the metric most
/// let sets = [vec![CircuitNode::head(0, 1)], vec![CircuitNode::head(1, 0).at("end")]];
/// let found = ablation.run(Each::Set(&sets), &metric)?;
/// assert_eq!(found.effect.values().shape(), [2]); // [set]
/// # Ok::<(), patchlens::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Ablation<'m> {
    base: Base<'m>,
    replacement: Replacement,
    /// What nodes become, as far as it has been asked for; clones share it.
    edits: Arc<Mutex<BTreeMap<HookPoint, Edit>>>,
    /// Positions of each class, `[prompt][..]`.
    classes: BTreeMap<String, Vec<BTreeSet<usize>>>,
    mlps: bool,
    pub(crate) limits: Limits<'m>,
}

impl<'m> Ablation<'m> {
    /// A study of some prompts.
    ///
    /// # Errors
    /// [`Error::Prompt`] or [`Error::OutOfRange`] for a prompt that cannot run; same as
    /// [`Ablation::over`].
    pub fn new(
        model: &'m Transformer,
        prompts: impl IntoPrompts,
        replacement: Replacement,
    ) -> Result<Self> {
        Self::over(&Base::new(model, prompts)?, replacement)
    }

    /// A study of base runs, which other studies may share.
    ///
    /// # Errors
    /// [`Error::Invalid`] for another number of templates or resampled prompts than prompts, or a
    /// template without counterfactual prompts; [`Error::Prompt`] or [`Error::OutOfRange`] for a
    /// counterfactual prompt that cannot run, or one that differs in length from a prompt whose
    /// nodes it replaces.
    pub fn over(base: &Base<'m>, replacement: Replacement) -> Result<Self> {
        replacement.check(base)?;
        Ok(Ablation {
            base: base.clone(),
            replacement,
            edits: Arc::default(),
            classes: BTreeMap::new(),
            mlps: false,
            limits: Limits::default(),
        })
    }

    /// Names a class of positions, a list for each prompt.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there are not as many lists as prompts, [`Error::OutOfRange`] for a
    /// position that its prompt lacks.
    pub fn with_class(mut self, name: &str, positions: Vec<Vec<usize>>) -> Result<Self> {
        let at = format!("position class `{name}`");
        let prompts = self.base.prompts();
        if positions.len() != prompts.len() {
            let expected = format!("{}, a list for each prompt", prompts.len());
            return Err(Error::invalid(at, positions.len(), expected));
        }
        for (i, (list, prompt)) in positions.iter().zip(prompts).enumerate() {
            if let Some(&found) = list.iter().find(|p| **p >= prompt.len()) {
                return Err(Error::OutOfRange {
                    at: format!("{at} of prompt {i}"),
                    axis: "pos",
                    found,
                    expected: format!("0..{}", prompt.len()),
                });
            }
        }
        let positions = positions.into_iter().map(BTreeSet::from_iter).collect();
        self.classes.insert(name.to_string(), positions);
        Ok(self)
    }

    /// Counts the MLPs among the nodes, too: those outside a circuit are knocked out like heads.
    /// In the paper they stay.
    #[must_use]
    pub fn with_mlps(mut self) -> Self {
        self.mlps = true;
        self
    }

    limits_methods!('m);

    /// The base runs.
    pub fn base(&self) -> &Base<'m> {
        &self.base
    }

    /// What takes the place of a node.
    pub fn replacement(&self) -> &Replacement {
        &self.replacement
    }

    /// Knocks out one after the other. A KL divergence without a reference is measured to the
    /// whole model.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an empty list, a class without a name here, or a component that is
    /// neither a head nor an MLP; [`Error::OutOfRange`] for a node that the model lacks; else same
    /// as [`Sweep::prepare`].
    pub fn run(&self, each: Each<'_>, metric: &Metric) -> Result<KnockOut> {
        match each {
            Each::Head => self.each_head(None, metric),
            Each::HeadAt(class) => self.each_head(Some(class), metric),
            Each::HeadDirectly => self.each_head_directly(metric),
            Each::Set(sets) => self.each_set(sets, metric),
        }
    }

    fn each_set(&self, sets: &[Vec<CircuitNode>], metric: &Metric) -> Result<KnockOut> {
        let result = self.run_sets(sets, metric)?;
        let label = |nodes: &Vec<CircuitNode>| {
            let names: Vec<String> = nodes.iter().map(ToString::to_string).collect();
            names.join(" + ")
        };
        let axes = vec![Axis::new("knocked out", sets.iter().map(label))];
        let what = format!("The named nodes replaced by {}", self.replacement);
        let about = self.about("Knock-out", &what, metric);
        Found::from(result).label(axes, about, metric)
    }

    /// The metric by set of nodes and prompt.
    pub(crate) fn run_sets(
        &self,
        sets: &[Vec<CircuitNode>],
        metric: &Metric,
    ) -> Result<SweepResult> {
        let removed = sets.iter().map(|nodes| self.places(nodes));
        self.sweep(&removed.collect::<Result<Vec<_>>>()?, metric)
    }

    /// What was measured: the title begins by `title`, and `what` was done.
    fn about(&self, title: &str, what: &str, metric: &Metric) -> About {
        let prompts = self.base.prompts().len();
        About {
            title: format!("{title}, {}", self.replacement.method()),
            caption: format!("{what}; {}.", averaged(prompts, "prompt")),
            unit: metric.name().to_string(),
            counts: [("prompts".to_string(), prompts as u64)].into(),
            ..About::default()
        }
    }

    /// Where the nodes stand, by prompt.
    fn places(&self, nodes: &[CircuitNode]) -> Result<Removed> {
        let mut places = Removed::new();
        for CircuitNode { node, class } in nodes {
            check_node(*node, self.base.model().config())?;
            let empty = || vec![BTreeSet::new(); self.base.prompts().len()];
            let own = places.entry(*node).or_insert_with(empty);
            for (own, more) in own.iter_mut().zip(self.positions(class.as_deref())?) {
                own.extend(more);
            }
        }
        Ok(places)
    }

    /// The positions of a class, or all of them.
    fn positions(&self, class: Option<&str>) -> Result<Vec<BTreeSet<usize>>> {
        let Some(name) = class else {
            let all = self.base.prompts().iter().map(|p| (0..p.len()).collect());
            return Ok(all.collect());
        };
        self.classes.get(name).cloned().ok_or_else(|| {
            let names: Vec<&str> = self.classes.keys().map(String::as_str).collect();
            let expected = format!("one of [{}]", names.join(", "));
            Error::invalid("position class", format!("`{name}`"), expected)
        })
    }

    /// All nodes but those at their places.
    fn complement(&self, kept: &Removed) -> Result<Removed> {
        let all = self.positions(None)?;
        let rest = |node: Component| {
            let left = |(i, all): (usize, &BTreeSet<usize>)| match kept.get(&node) {
                Some(kept) => all - &kept[i],
                None => all.clone(),
            };
            (node, all.iter().enumerate().map(left).collect())
        };
        let nodes = nodes(self.base.model().config(), self.mlps);
        Ok(nodes.into_iter().map(rest).collect())
    }

    /// The metric by cell and prompt.
    fn sweep(&self, removed: &[Removed], metric: &Metric) -> Result<SweepResult> {
        let points: BTreeSet<HookPoint> =
            removed.iter().flatten().map(|(n, _)| point(*n)).collect();
        // One run of the base serves both the edits and the sweep.
        self.base.expect(points.iter().copied(), Frozen::default());
        let edits = self.edits(points)?;
        let cells: Vec<Cell> = removed.iter().map(|r| self.cell(r, &edits)).collect();
        let values = edits.values().filter_map(Edit::values);
        let held = values.map(Values::bytes).sum();
        let metric = self.base.refer_within(metric, self.limits.room(held))?;
        let sweep = Sweep::limited(&self.base, self.limits.clone());
        sweep.beside(held).run(&cells, &metric)
    }

    /// What the nodes at some points become.
    pub(crate) fn edits(
        &self,
        points: impl IntoIterator<Item = HookPoint>,
    ) -> Result<BTreeMap<HookPoint, Edit>> {
        let points: BTreeSet<HookPoint> = points.into_iter().collect();
        let made = || self.edits.lock().unwrap_or_else(PoisonError::into_inner);
        let lacking = |p: &HookPoint| !made().contains_key(p);
        let missing: BTreeSet<HookPoint> = points.iter().copied().filter(lacking).collect();
        if !missing.is_empty() {
            let new = self.replacement.edits(&self.base, &missing, &self.limits)?;
            made().extend(new);
        }
        let made = made();
        Ok(points.into_iter().map(|p| (p, made[&p].clone())).collect())
    }

    /// As few interventions as say it: prompts, then heads, with the same positions go together.
    fn cell(&self, removed: &Removed, edits: &BTreeMap<HookPoint, Edit>) -> Cell {
        let mut heads: BTreeMap<_, Vec<usize>> = BTreeMap::new();
        for (node, places) in removed {
            let mut prompts: BTreeMap<&BTreeSet<usize>, Vec<usize>> = BTreeMap::new();
            for (prompt, places) in places.iter().enumerate().filter(|(_, p)| !p.is_empty()) {
                prompts.entry(places).or_default().push(prompt);
            }
            for place in prompts {
                let own = heads.entry((point(*node), place)).or_default();
                own.extend(node.head().map(|head| head.head));
            }
        }
        let intervention =
            |((point, (positions, prompts)), heads): ((HookPoint, (&BTreeSet<usize>, _)), _)| {
                let heads: Vec<usize> = heads;
                let positions: Vec<usize> = positions.iter().copied().collect();
                let prompts: Vec<usize> = prompts;
                let mut target = Target::new(point)
                    .at_positions(positions)
                    .at_sequences(prompts);
                if !heads.is_empty() {
                    target.heads = heads.into();
                }
                Intervention::new(target, edits[&point].clone())
            };
        heads.into_iter().map(intervention).collect()
    }
}

/// All heads of a model, and its MLPs where asked for.
fn nodes(config: &Config, mlps: bool) -> Vec<Component> {
    let heads = Head::all(config).map(Component::Head);
    let mlps = mlps && config.has(Element::Mlp);
    let layers = if mlps { 0..config.n_layers } else { 0..0 };
    heads.chain(layers.map(Component::Mlp)).collect()
}

/// Where a node is replaced.
fn point(node: Component) -> HookPoint {
    node.point()
        .expect("heads and MLPs have one, and nodes are checked to be one of them")
}

fn check_node(node: Component, config: &Config) -> Result<()> {
    match node {
        Component::Head(_) | Component::Mlp(_) => node.check(config),
        other => Err(Error::invalid("node", other, "a head or an MLP")),
    }
}
