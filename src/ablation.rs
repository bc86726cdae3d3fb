//! Knock-out: attention heads and MLPs replaced by zero, by their mean, or by their values on
//! another prompt; and circuits scored by it (Wang et al. 2022, "Interpretability in the Wild",
//! sections 2.1 and 4).

mod circuit;
mod heads;
mod replacement;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use ndarray::{Array1, Array2, ArrayD};

pub use circuit::{Circuit, CircuitNode, Completeness, Faithfulness, Minimality, NodeMinimality};
pub use replacement::Replacement;

use crate::base::Base;
use crate::component::{Component, Head};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::hook::HookPoint;
use crate::intervention::{Edit, Intervention, Select, Target};
use crate::limits::{Limits, limits_methods};
use crate::metric::Metric;
use crate::model::Transformer;
use crate::model::stage::Frozen;
use crate::prompt::IntoPrompts;
use crate::report::{About, Axis, Labelled};
use crate::statistics::{labelled_means, mean, shaped};
use crate::sweep::{Cell, Sweep, SweepResult};

/// Positions by node and prompt: what a cell knocks out.
type Removed = BTreeMap<Component, Vec<BTreeSet<usize>>>;

/// A knock-out study: prompts, and what replaces a node that is knocked out.
///
/// ```
/// use patchlens::{Config, Prompts, Transformer, logit_diff};
/// use patchlens::ablation::{Ablation, CircuitNode, Replacement};
/// let config = Config { n_layers: 2, n_heads: 2, d_model: 8, d_mlp: 16, d_vocab: 11, ..Config::gpt2() };
/// let model = Transformer::random(config, 0)?;
/// let prompts = Prompts::new([vec![1, 2, 3], vec![4, 5, 6]])?;
/// let counterfactual = Prompts::new([vec![7, 2, 3], vec![8, 5, 6], vec![9, 2, 6]])?;
/// let mean = Replacement::counterfactual_mean(&counterfactual)?;
/// let ablation = Ablation::new(&model, &prompts, mean)?.with_class("end", vec![vec![2], vec![2]])?;
/// let metric = logit_diff(5, 6);
/// let each = ablation.heads(&metric)?;
/// assert_eq!(each.lost()?.values().shape(), [2, 2]); // [layer, head]
/// let sets = [vec![CircuitNode::head(0, 1)], vec![CircuitNode::head(1, 0).at("end")]];
/// let found = ablation.knock_out(&sets, &metric)?;
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

/// What knock-outs found.
#[derive(Clone, Debug)]
pub struct KnockOut {
    /// The metric with each set of nodes, or each head, knocked out, mean over prompts, `[set]` or
    /// `[layer, head]`; with standard errors where there are several prompts. The baseline `clean`
    /// is the whole model's.
    pub effect: Labelled,
    /// By prompt, the last axis.
    pub per_prompt: ArrayD<f32>,
    /// The metric of the whole model, `[prompt]`.
    pub clean: Array1<f32>,
}

/// A metric with each of some cells knocked out.
struct Found {
    /// `[cell, prompt]`.
    values: Array2<f32>,
    /// That of the whole model, `[prompt]`.
    clean: Array1<f32>,
    partial: bool,
}

impl From<SweepResult> for Found {
    fn from(result: SweepResult) -> Self {
        Found {
            values: result.values,
            clean: result.base,
            partial: result.partial,
        }
    }
}

impl KnockOut {
    /// What the metric loses: the whole model's minus that of the knock-outs, mean over prompts;
    /// with standard errors where there are several. Positive where the nodes help.
    ///
    /// # Errors
    /// Same as [`Labelled::new`].
    pub fn lost(&self) -> Result<Labelled> {
        let mut about = self.effect.about.clone();
        about.title += ": what is lost";
        about.caption = format!("The whole model's minus this: {}", about.caption);
        self.lost_as(1.0, about)
    }

    /// What the metric loses in units of a number.
    pub(crate) fn lost_as(&self, unit: f32, about: About) -> Result<Labelled> {
        let lost = (&self.clean - &self.per_prompt) / unit;
        labelled_means(lost.view(), self.effect.axes().to_vec(), about)
    }
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
    /// [`Error::Invalid`] for another number of lists than prompts, [`Error::OutOfRange`] for a
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

    /// The metric with each set of nodes knocked out.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an empty list, a class without a name here, or a component that is
    /// neither a head nor an MLP; [`Error::OutOfRange`] for a node that the model lacks; else same
    /// as [`Sweep::prepare`].
    pub fn knock_out(&self, sets: &[Vec<CircuitNode>], metric: &Metric) -> Result<KnockOut> {
        let result = self.run_sets(sets, metric)?;
        let label = |nodes: &Vec<CircuitNode>| {
            let names: Vec<String> = nodes.iter().map(ToString::to_string).collect();
            names.join(" + ")
        };
        let axes = vec![Axis::new("knocked out", sets.iter().map(label))];
        let what = format!("the named nodes replaced by {}", self.replacement);
        self.labelled(result.into(), axes, "Knock-out", &what, metric)
    }

    /// The metric by set of nodes and prompt.
    pub(crate) fn run_sets(
        &self,
        sets: &[Vec<CircuitNode>],
        metric: &Metric,
    ) -> Result<SweepResult> {
        let removed = sets.iter().map(|nodes| self.places(nodes));
        self.run(&removed.collect::<Result<Vec<_>>>()?, metric)
    }

    /// What was found with one cell per place of the axes, which begins by `title`: the
    /// metric with `what` done.
    fn labelled(
        &self,
        found: Found,
        axes: Vec<Axis>,
        title: &str,
        what: &str,
        metric: &Metric,
    ) -> Result<KnockOut> {
        let prompts = self.base.prompts().len();
        let whole = mean(found.clean.iter().copied());
        let about = About {
            title: format!("{title}, {}", self.replacement.method()),
            caption: format!("The metric with {what}, mean over {prompts} prompts."),
            unit: metric.name().to_string(),
            baselines: [("clean".to_string(), whole)].into(),
            counts: [("prompts".to_string(), prompts as u64)].into(),
            partial: found.partial,
            ..About::default()
        };
        let mut shape: Vec<usize> = axes.iter().map(|axis| axis.labels.len()).collect();
        shape.push(prompts);
        let per_prompt = shaped(&shape, found.values);
        Ok(KnockOut {
            effect: labelled_means(per_prompt.view(), axes, about)?,
            per_prompt,
            clean: found.clean,
        })
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
    fn run(&self, removed: &[Removed], metric: &Metric) -> Result<SweepResult> {
        let points: BTreeSet<HookPoint> =
            removed.iter().flatten().map(|(n, _)| point(*n)).collect();
        // One run of the base serves both the edits and the sweep.
        self.base.expect(points.iter().copied(), Frozen::default());
        let edits = self.edits(points)?;
        let cells: Vec<Cell> = removed.iter().map(|r| self.cell(r, &edits)).collect();
        Sweep::limited(&self.base, self.limits.clone()).run(&cells, metric)
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
            let new = self.replacement.edits(&self.base, &missing)?;
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
                    target.heads = Select::At(heads);
                }
                Intervention::new(target, edits[&point].clone())
            };
        heads.into_iter().map(intervention).collect()
    }
}

/// All heads of a model, and its MLPs where asked for.
fn nodes(config: &Config, mlps: bool) -> Vec<Component> {
    let heads = Head::all(config).map(Component::Head);
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
