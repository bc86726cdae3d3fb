//! What takes the place of a node that is knocked out.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use ndarray::{Array1, ArrayD, ArrayView2, Axis as Dim, IxDyn};

use crate::base::{Base, Room};
use crate::cache::Selection;
use crate::error::{Error, Result};
use crate::hook::HookPoint;
use crate::intervention::{Edit, Values};
use crate::limits::Limits;
use crate::model::Transformer;
use crate::prompt::{IntoPrompts, Prompt, Prompts};
use crate::schedule::kept_bytes;

/// Counterfactual prompts that run at once: bounds the memory, not the result.
const BATCH: u64 = 32;

/// What takes the place of a node's output. Prints as it is named in captions.
///
/// A figure means little without it: over 256 IOI prompts, the shipped model's head 3.0 costs 2.64
/// logits where its output at the end becomes [`Replacement::OverallMean`], and 0.41 where it becomes
/// [`Replacement::TemplateMean`]. Most of what the first takes away is what the head writes whatever
/// the names are (`patchlens heads` prints both).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Replacement {
    /// Zeros.
    Zero,
    /// The node's mean output over all positions of all prompts of the study, which may differ in
    /// length. It takes away all that the node knows, including its position and template.
    #[default]
    OverallMean,
    /// Its mean over counterfactual prompts, position by position (the paper's p_ABC), which leaves
    /// the node what these prompts share with the study's. All share one template.
    CounterfactualMean(Prompts),
    /// Its mean over the counterfactual prompts of the same template, position by position, which
    /// leaves the node the template and its place in it.
    TemplateMean {
        /// A number for the template of each prompt of the study.
        templates: Vec<usize>,
        /// Prompts to take the means over.
        counterfactual: Prompts,
        /// The template of each of them.
        counterfactual_templates: Vec<usize>,
    },
    /// Its output on a counterfactual prompt, one per prompt.
    Resample(Prompts),
}

impl Replacement {
    /// [`Replacement::CounterfactualMean`].
    ///
    /// # Errors
    /// Same as [`Prompts::new`].
    pub fn counterfactual_mean(counterfactual: impl IntoPrompts) -> Result<Self> {
        Ok(Replacement::CounterfactualMean(
            counterfactual.into_prompts()?,
        ))
    }

    /// [`Replacement::Resample`].
    ///
    /// # Errors
    /// Same as [`Prompts::new`].
    pub fn resample(counterfactual: impl IntoPrompts) -> Result<Self> {
        Ok(Replacement::Resample(counterfactual.into_prompts()?))
    }

    /// As titles name it.
    pub(super) fn method(&self) -> &'static str {
        match self {
            Replacement::Zero => "zero ablation",
            Replacement::OverallMean => "mean ablation over all positions",
            Replacement::CounterfactualMean(_) => "mean ablation over counterfactual prompts",
            Replacement::TemplateMean { .. } => "mean ablation by template",
            Replacement::Resample(_) => "resample ablation",
        }
    }

    /// Checks that it fits the prompts of a study.
    pub(super) fn check(&self, base: &Base<'_>) -> Result<()> {
        let prompts = base.prompts();
        match self {
            Replacement::Zero | Replacement::OverallMean => Ok(()),
            Replacement::CounterfactualMean(counterfactual) => {
                base.model().check_prompts(counterfactual.as_slice())?;
                check_means(prompts.iter().enumerate(), counterfactual.iter())
            }
            Replacement::TemplateMean {
                templates,
                counterfactual,
                counterfactual_templates,
            } => {
                base.model().check_prompts(counterfactual.as_slice())?;
                for (of, list, prompts) in [
                    ("prompts", templates, prompts),
                    (
                        "counterfactual prompts",
                        counterfactual_templates,
                        counterfactual,
                    ),
                ] {
                    if list.len() != prompts.len() {
                        let expected = format!("{}, one per prompt", prompts.len());
                        let what = format!("templates of the {of}");
                        return Err(Error::invalid(what, list.len(), expected));
                    }
                }
                for template in &BTreeSet::from_iter(templates) {
                    let own = prompts.iter().enumerate().zip(templates);
                    let own = own.filter(|(_, t)| t == template).map(|(prompt, _)| prompt);
                    let donors = counterfactual.iter().zip(counterfactual_templates);
                    let donors = donors
                        .filter(|(_, t)| t == template)
                        .map(|(donor, _)| donor);
                    if donors.clone().next().is_none() {
                        let what = format!("counterfactual prompts of template {template}");
                        return Err(Error::invalid(what, 0, "at least one"));
                    }
                    check_means(own, donors)?;
                }
                Ok(())
            }
            Replacement::Resample(donors) => {
                base.model().check_prompts(donors.as_slice())?;
                if donors.len() != prompts.len() {
                    let expected = format!("{}, one per prompt", prompts.len());
                    let what = "counterfactual prompts";
                    return Err(Error::invalid(what, donors.len(), expected));
                }
                let way = "so that positions correspond";
                check_lengths(prompts.iter().enumerate(), donors.iter(), way)
            }
        }
    }

    /// What the nodes at some points become.
    pub(super) fn edits(
        &self,
        base: &Base<'_>,
        points: &BTreeSet<HookPoint>,
        limits: &Limits<'_>,
    ) -> Result<BTreeMap<HookPoint, Edit>> {
        let each = points.iter().copied();
        let room = limits.room(base.held_bytes());
        match self {
            Replacement::Zero => Ok(each.map(|point| (point, Edit::Zero)).collect()),
            Replacement::OverallMean => {
                let caches = base.held_within(each.clone(), limits.room(0))?;
                let edit = |point: HookPoint| {
                    let rows: Vec<_> = caches
                        .iter()
                        .map(|c| c.flat(point))
                        .collect::<Result<_>>()?;
                    let mut mean = mean_row(rows.into_iter()).into_dyn();
                    if point.axes().has_heads() {
                        let n_heads = base.model().config().n_heads;
                        let shape = [n_heads, mean.len() / n_heads];
                        let split = mean.into_shape_with_order(IxDyn(&shape));
                        mean = split.expect("rows are heads side by side");
                    }
                    Ok((point, Edit::Mean(Values::array(mean))))
                };
                each.map(edit).collect()
            }
            Replacement::CounterfactualMean(counterfactual) => {
                let one = vec![0; counterfactual.len()];
                let means = means_of(base.model(), counterfactual, &one, points, room)?;
                let edit = |(point, mut of): (_, BTreeMap<_, _>)| {
                    let mean = of.remove(&0).expect("there is a counterfactual prompt");
                    (point, Edit::Mean(Values::array(mean)))
                };
                Ok(means.into_iter().map(edit).collect())
            }
            Replacement::TemplateMean {
                templates,
                counterfactual,
                counterfactual_templates,
            } => {
                let of = counterfactual_templates;
                let means = means_of(base.model(), counterfactual, of, points, room)?;
                let edit = |(point, of): (_, BTreeMap<_, ArrayD<f32>>)| {
                    let values = templates.iter().map(|template| of[template].clone());
                    (point, Edit::Mean(Values::arrays(values.collect())))
                };
                Ok(means.into_iter().map(edit).collect())
            }
            Replacement::Resample(donors) => {
                let caches = Base::new(base.model(), donors)?.held_within(each.clone(), room)?;
                each.map(|point| Ok((point, Edit::patch(&caches, point)?)))
                    .collect()
            }
        }
    }
}

impl fmt::Display for Replacement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Replacement::Zero => "zeros",
            Replacement::OverallMean => "the mean output over all positions of all prompts",
            Replacement::CounterfactualMean(_) => "the mean output over counterfactual prompts",
            Replacement::TemplateMean { .. } => {
                "the mean output over counterfactual prompts of the same template"
            }
            Replacement::Resample(_) => "the output on a counterfactual prompt",
        })
    }
}

/// The mean of all rows of some matrices of one width, summed in f64.
pub(super) fn mean_row<'r>(matrices: impl Iterator<Item = ArrayView2<'r, f32>>) -> Array1<f32> {
    let mut sum: Option<Array1<f64>> = None;
    let mut rows = 0;
    for matrix in matrices {
        let part = matrix.mapv(f64::from).sum_axis(Dim(0));
        rows += matrix.nrows();
        sum = Some(match sum {
            Some(sum) => sum + part,
            None => part,
        });
    }
    sum.unwrap_or_default().mapv(|v| (v / rows as f64) as f32)
}

/// The means over the prompts of each template, position by position, by point and template.
fn means_of(
    model: &Transformer,
    prompts: &Prompts,
    templates: &[usize],
    points: &BTreeSet<HookPoint>,
    room: Room,
) -> Result<BTreeMap<HookPoint, BTreeMap<usize, ArrayD<f32>>>> {
    let mut sums: BTreeMap<(HookPoint, usize), (ArrayD<f64>, f64)> = BTreeMap::new();
    let kept = Selection::points(points.iter().copied());
    let lengths = prompts.lengths().into_iter();
    let bytes = lengths.map(|n| kept_bytes(model.config(), &kept, n)).max();
    let bytes = bytes.unwrap_or(0).max(1);
    // The sums, in f64, and their means, when all are there.
    let templates_of = templates.iter().collect::<BTreeSet<_>>().len() as u64;
    let room = Room {
        held: room.held + 3 * bytes * templates_of,
        ..room
    };
    let mut batch = (room.limit.saturating_sub(room.held) / 4 / bytes).clamp(1, BATCH) as usize;
    let mut done = 0;
    while done < prompts.len() {
        let end = prompts.len().min(done + batch);
        let runs = Base::new(model, &prompts.as_slice()[done..end])?;
        let caches = match runs.held_within(points.iter().copied(), room) {
            Err(Error::MemoryLimit { .. }) if batch > 1 => {
                batch /= 2;
                continue;
            }
            caches => caches?,
        };
        let templates = &templates[done..end];
        done = end;
        for (cache, template) in caches.iter().zip(templates) {
            for point in points {
                let more = cache.get(*point)?.mapv(f64::from);
                match sums.entry((*point, *template)) {
                    Entry::Vacant(entry) => {
                        entry.insert((more, 1.0));
                    }
                    Entry::Occupied(mut entry) => {
                        let (sum, count) = entry.get_mut();
                        *sum += &more;
                        *count += 1.0;
                    }
                }
            }
        }
    }
    let mut means: BTreeMap<HookPoint, BTreeMap<usize, ArrayD<f32>>> = BTreeMap::new();
    for ((point, template), (sum, count)) in sums {
        let mean = sum.mapv(|v| (v / count) as f32);
        means.entry(point).or_default().insert(template, mean);
    }
    Ok(means)
}

/// Prompts whose nodes become means over donors: all of one length.
fn check_means<'p>(
    prompts: impl Iterator<Item = (usize, &'p Prompt)>,
    donors: impl Iterator<Item = &'p Prompt> + Clone,
) -> Result<()> {
    let first = donors.clone().take(1).cycle();
    let way = "of one template, or `Replacement::TemplateMean` (a mean per template), or \
               `Replacement::OverallMean` (over all positions)";
    check_lengths(prompts, first.clone(), way)?;
    check_lengths(donors.enumerate(), first, way)
}

fn check_lengths<'p>(
    prompts: impl Iterator<Item = (usize, &'p Prompt)>,
    donors: impl Iterator<Item = &'p Prompt>,
    way: &str,
) -> Result<()> {
    for ((i, prompt), donor) in prompts.zip(donors) {
        if prompt.len() != donor.len() {
            return Err(Error::Prompt {
                at: format!("prompt {i}"),
                found: format!("{} tokens", prompt.len()),
                expected: format!("{} as its counterfactual, {way}", donor.len()),
            });
        }
    }
    Ok(())
}
