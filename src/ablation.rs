//! Knock-out: attention heads and MLPs replaced by zero, by their mean over counterfactual
//! prompts, or by their values on another prompt; and circuits scored by it (Wang et al. 2022,
//! "Interpretability in the Wild", sections 2.1 and 4).

mod circuit;
pub(crate) mod heads;
mod node;
mod replacement;

use std::collections::{BTreeMap, BTreeSet};

use ndarray::{Array1, Array2};

pub use circuit::{Circuit, CircuitNode, Completeness, Faithfulness, Minimality, NodeMinimality};
pub use heads::{HeadAblation, Replacement, head_ablation, head_direct_effect};
pub use node::AblationNode;
use replacement::Group;

use crate::error::{Error, Result};
use crate::intervention::{Intervention, Target};
use crate::metric::Metric;
use crate::model::Transformer;
use crate::prompt::Prompt;
use crate::report::{About, Axis, Labelled};
use crate::statistics::labelled_means;
use crate::statistics::mean;
use crate::sweep::{Cell, DEFAULT_MEMORY_LIMIT, Sweep};

/// Positions by node and prompt: what a cell knocks out.
type Removed = BTreeMap<AblationNode, Vec<BTreeSet<usize>>>;

/// A knock-out study: prompts, and what replaces a node that is knocked out.
///
/// ```
/// use patchlens::{Config, Prompts, Transformer, logit_diff};
/// use patchlens::ablation::{Ablation, CircuitNode};
/// let config = Config { n_layers: 2, n_heads: 2, d_model: 8, d_mlp: 16, d_vocab: 11, ..Config::gpt2() };
/// let model = Transformer::random(config, 0)?;
/// let prompts = Prompts::new([vec![1, 2, 3], vec![4, 5, 6]])?;
/// let counterfactual = Prompts::new([vec![7, 2, 3], vec![8, 5, 6], vec![9, 2, 6]])?;
/// let ablation = Ablation::mean(&model, &prompts, &counterfactual)?
///     .with_class("end", vec![vec![2], vec![2]])?;
/// let sets = [vec![CircuitNode::head(0, 1)], vec![CircuitNode::head(1, 0).at("end")]];
/// let found = ablation.knock_out(&sets, &logit_diff(5, 6))?;
/// assert_eq!(found.effect.values().shape(), [2]); // [set]
/// # Ok::<(), patchlens::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Ablation<'m> {
    model: &'m Transformer,
    prompts: Vec<Prompt>,
    groups: Vec<Group>,
    /// Positions of each class, `[prompt][..]`.
    classes: BTreeMap<String, Vec<BTreeSet<usize>>>,
    mlps: bool,
    method: &'static str,
    /// Bound of the sweep's working memory, in bytes.
    pub memory_limit: u64,
}

/// What knock-outs gave.
#[derive(Clone, Debug)]
pub struct KnockOut {
    /// The metric with each set knocked out, mean over prompts, `[set]`; with standard errors
    /// where there are several prompts. The baseline `clean` is the whole model's.
    pub effect: Labelled,
    /// By prompt, `[set, prompt]`.
    pub per_prompt: Array2<f32>,
    /// The metric of the whole model, `[prompt]`.
    pub clean: Array1<f32>,
}

impl<'m> Ablation<'m> {
    fn new(
        model: &'m Transformer,
        prompts: &[Prompt],
        groups: Vec<Group>,
        method: &'static str,
    ) -> Result<Self> {
        model.check_prompts(prompts)?;
        Ok(Ablation {
            model,
            prompts: prompts.to_vec(),
            groups,
            classes: BTreeMap::new(),
            mlps: false,
            method,
            memory_limit: DEFAULT_MEMORY_LIMIT,
        })
    }

    /// Names a class of positions, a list for each prompt.
    ///
    /// # Errors
    /// [`Error::Invalid`] for another number of lists than prompts, [`Error::OutOfRange`] for a
    /// position that its prompt lacks.
    pub fn with_class(mut self, name: &str, positions: Vec<Vec<usize>>) -> Result<Self> {
        let at = format!("position class `{name}`");
        if positions.len() != self.prompts.len() {
            let expected = format!("{}, a list for each prompt", self.prompts.len());
            return Err(Error::invalid(at, positions.len(), expected));
        }
        for (i, (list, prompt)) in positions.iter().zip(&self.prompts).enumerate() {
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

    /// The metric with each set of nodes knocked out.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an empty list or a class without a name here;
    /// [`Error::OutOfRange`] for a node that the model lacks; else as [`Sweep::prepare`].
    pub fn knock_out(&self, sets: &[Vec<CircuitNode>], metric: &Metric) -> Result<KnockOut> {
        let removed: Vec<Removed> = sets
            .iter()
            .map(|nodes| self.places(nodes))
            .collect::<Result<_>>()?;
        let (per_prompt, clean) = self.run(&removed, metric)?;
        let mut about = About {
            title: format!("Knock-out: {} ablation", self.method),
            caption: format!(
                "The metric with the named nodes knocked out, mean over {} prompts.",
                self.prompts.len()
            ),
            unit: metric.name().to_string(),
            ..About::default()
        };
        let whole = mean(clean.iter().copied());
        about.baselines.insert("clean".to_string(), whole);
        about
            .counts
            .insert("prompts".to_string(), self.prompts.len() as u64);
        let label = |nodes: &Vec<CircuitNode>| {
            let names: Vec<String> = nodes.iter().map(ToString::to_string).collect();
            names.join(" + ")
        };
        let axes = vec![Axis::new("knocked out", sets.iter().map(label))];
        let effect = labelled_means(per_prompt.view().into_dyn(), axes, about)?;
        Ok(KnockOut {
            effect,
            per_prompt,
            clean,
        })
    }

    /// Where the nodes stand, by prompt.
    fn places(&self, nodes: &[CircuitNode]) -> Result<Removed> {
        let mut places = Removed::new();
        for CircuitNode { node, class } in nodes {
            node.check(self.model.config())?;
            let empty = || vec![BTreeSet::new(); self.prompts.len()];
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
            return Ok(self
                .prompts
                .iter()
                .map(|p| (0..p.len()).collect())
                .collect());
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
        let rest = |node: AblationNode| {
            let left = |(i, all): (usize, &BTreeSet<usize>)| match kept.get(&node) {
                Some(kept) => all - &kept[i],
                None => all.clone(),
            };
            (node, all.iter().enumerate().map(left).collect())
        };
        let nodes = AblationNode::all(self.model.config(), self.mlps);
        Ok(nodes.into_iter().map(rest).collect())
    }

    /// The metric by cell and prompt, and that of the whole model.
    fn run(&self, removed: &[Removed], metric: &Metric) -> Result<(Array2<f32>, Array1<f32>)> {
        let cells: Vec<Cell> = removed.iter().map(|r| self.cell(r)).collect();
        let sweep = Sweep::new(self.model, &self.prompts)?.memory_limit(self.memory_limit);
        let result = sweep.run(&cells, metric)?;
        Ok((result.values, result.base))
    }

    /// As few interventions as say it: prompts, then heads, with the same positions go together.
    fn cell(&self, removed: &Removed) -> Cell {
        let mut cell = Cell::new();
        for group in &self.groups {
            let mut heads: BTreeMap<_, Vec<usize>> = BTreeMap::new();
            for (node, places) in removed {
                let mut prompts: BTreeMap<&BTreeSet<usize>, Vec<usize>> = BTreeMap::new();
                for &prompt in group.prompts.iter().filter(|p| !places[**p].is_empty()) {
                    prompts.entry(&places[prompt]).or_default().push(prompt);
                }
                for place in prompts {
                    let own = heads.entry((node.point(), place)).or_default();
                    if let AblationNode::Head(_, head) = node {
                        own.push(*head);
                    }
                }
            }
            for ((point, (positions, prompts)), heads) in heads {
                let positions: Vec<usize> = positions.iter().copied().collect();
                let mut target = Target::new(point).at_positions(positions);
                target = target.at_sequences(prompts);
                if !heads.is_empty() {
                    target.heads = heads.into();
                }
                let edit = group.edits.get(&point).cloned();
                cell.extend(edit.map(|edit| Intervention::new(target, edit)));
            }
        }
        cell
    }
}
