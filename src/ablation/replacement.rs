//! What takes the place of a node that is knocked out.

use std::collections::{BTreeMap, BTreeSet};

use super::Ablation;
use crate::cache::{ActivationCache, Selection};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::hook::{HookPoint, Site};
use crate::intervention::{Edit, Values};
use crate::model::{KeepLogits, Run, Transformer};
use crate::prompt::Prompt;

/// What replaces the nodes of some of the prompts.
#[derive(Clone, Debug)]
pub(super) struct Group {
    /// Those prompts; ascending.
    pub prompts: Vec<usize>,
    pub edits: BTreeMap<HookPoint, Edit>,
}

impl<'m> Ablation<'m> {
    /// Nodes become zero.
    ///
    /// # Errors
    /// [`Error::Prompt`] or [`Error::OutOfRange`] for a prompt that cannot run.
    pub fn zero(model: &'m Transformer, prompts: &(impl AsRef<[Prompt]> + ?Sized)) -> Result<Self> {
        let prompts = prompts.as_ref();
        let points = points(model.config()).map(|point| (point, Edit::Zero));
        let group = Group {
            prompts: (0..prompts.len()).collect(),
            edits: points.collect(),
        };
        Self::new(model, prompts, vec![group], "zero")
    }

    /// Nodes become their mean over counterfactual prompts (the paper's p_ABC), position by
    /// position. All prompts share one template.
    ///
    /// # Errors
    /// As [`Ablation::mean_by_template`].
    pub fn mean(
        model: &'m Transformer,
        prompts: &(impl AsRef<[Prompt]> + ?Sized),
        counterfactual: &(impl AsRef<[Prompt]> + ?Sized),
    ) -> Result<Self> {
        let (prompts, counterfactual) = (prompts.as_ref(), counterfactual.as_ref());
        let (own, other) = (vec![0; prompts.len()], vec![0; counterfactual.len()]);
        Self::mean_by_template(model, (prompts, &own), (counterfactual, &other))
    }

    /// Nodes become their mean over the counterfactual prompts of the same template, position by
    /// position: prompts, and a number for the template of each.
    ///
    /// # Errors
    /// [`Error::Invalid`] for another number of templates than prompts, or a template without
    /// counterfactual prompts; [`Error::Prompt`] if prompts of a template differ in length, or one
    /// cannot run.
    pub fn mean_by_template(
        model: &'m Transformer,
        (prompts, templates): (&[Prompt], &[usize]),
        (counterfactual, others): (&[Prompt], &[usize]),
    ) -> Result<Self> {
        for (what, prompts, templates) in [
            ("templates of the prompts", prompts.len(), templates),
            (
                "templates of the counterfactual prompts",
                counterfactual.len(),
                others,
            ),
        ] {
            if templates.len() != prompts {
                let expected = format!("{prompts}, one a prompt");
                return Err(Error::invalid(what, templates.len(), expected));
            }
        }
        let mut groups = Vec::new();
        for &template in &BTreeSet::from_iter(templates) {
            let members = |list: &[usize]| -> Vec<usize> {
                (0..list.len()).filter(|i| list[*i] == *template).collect()
            };
            let (own, other) = (members(templates), members(others));
            let donors: Vec<Prompt> = other.iter().map(|i| counterfactual[*i].clone()).collect();
            if donors.is_empty() {
                return Err(Error::invalid(
                    format!("counterfactual prompts of template {template}"),
                    0,
                    "at least one",
                ));
            }
            let receivers = own.iter().map(|i| (*i, &prompts[*i]));
            check_lengths(receivers, donors.iter().cycle().take(own.len()))?;
            check_lengths(
                donors.iter().enumerate(),
                donors[..1].iter().cycle().take(donors.len()),
            )?;
            let caches = caches(model, &donors)?;
            let edit = |point| Ok((point, Edit::Mean(Values::mean(&caches, point)?)));
            let edits = points(model.config()).map(edit).collect::<Result<_>>()?;
            groups.push(Group {
                prompts: own,
                edits,
            });
        }
        Self::new(model, prompts, groups, "mean")
    }

    /// Nodes take the values that they have on a counterfactual prompt: one a prompt.
    ///
    /// # Errors
    /// [`Error::Invalid`] for another number of counterfactual prompts; [`Error::Prompt`] if the
    /// two of a pair differ in length, or one cannot run.
    pub fn resample(
        model: &'m Transformer,
        prompts: &(impl AsRef<[Prompt]> + ?Sized),
        counterfactual: &(impl AsRef<[Prompt]> + ?Sized),
    ) -> Result<Self> {
        let (prompts, donors) = (prompts.as_ref(), counterfactual.as_ref());
        if donors.len() != prompts.len() {
            let expected = format!("{}, one a prompt", prompts.len());
            return Err(Error::invalid(
                "counterfactual prompts",
                donors.len(),
                expected,
            ));
        }
        check_lengths(prompts.iter().enumerate(), donors.iter())?;
        let caches = caches(model, donors)?;
        let edit = |point| Ok((point, Edit::patch(&caches, point)?));
        let group = Group {
            prompts: (0..prompts.len()).collect(),
            edits: points(model.config()).map(edit).collect::<Result<_>>()?,
        };
        Self::new(model, prompts, vec![group], "resample")
    }
}

/// Everything that can be knocked out: z and mlp_out of every layer.
fn points(config: &Config) -> impl Iterator<Item = HookPoint> + use<> {
    (0..config.n_layers).flat_map(|layer| [Site::Z.at(layer), Site::MlpOut.at(layer)])
}

fn caches(model: &Transformer, prompts: &[Prompt]) -> Result<Vec<ActivationCache>> {
    let mut selection = Selection::default();
    selection.extend(points(model.config()));
    let run = Run {
        cache: Some(&selection),
        logits: KeepLogits::None,
        ..Run::default()
    };
    Ok(model.run(prompts, (), &run)?.caches)
}

fn check_lengths<'p>(
    prompts: impl Iterator<Item = (usize, &'p Prompt)>,
    donors: impl Iterator<Item = &'p Prompt>,
) -> Result<()> {
    for ((i, prompt), donor) in prompts.zip(donors) {
        if prompt.len() != donor.len() {
            return Err(Error::Prompt {
                at: format!("prompt {i}"),
                found: format!("{} tokens", prompt.len()),
                expected: format!(
                    "{} as its counterfactual, so that positions correspond",
                    donor.len()
                ),
            });
        }
    }
    Ok(())
}
