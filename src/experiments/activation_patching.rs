//! Activation patching: which activations, swapped between a clean and a corrupted run, move the
//! answer (Vig et al. 2020; Meng et al. 2022; Wang et al. 2022; TransformerLens's `patching.py`).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::ControlFlow;

use ndarray::{Array1, ArrayD, Axis as Dim, Dimension, IxDyn};

use super::pairs::{check_pairs, position_labels, with_reference};
use crate::cache::ActivationCache;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::hook::{Axes, HookPoint, Site};
use crate::intervention::{Edit, Intervention, Target};
use crate::metric::Metric;
use crate::model::{Run, Transformer};
use crate::prompt::Prompt;
use crate::report::{About, Axis, Direction, Labelled};
use crate::sweep::{Cell, DEFAULT_MEMORY_LIMIT, Plan, Progress, Sweep, points_read};

/// The cells of a patching study: what is patched, one activation at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Grid {
    /// `[layer, pos]`, a site without a head axis.
    Positions(Site),
    /// `[layer, pos, head]`, a site with positions and heads: z, q, k, v, result.
    HeadPositions(Site),
    /// `[layer, head]`, all positions at once: z, q, k, v, the pattern.
    Heads(Site),
    /// `[layer, head, dest]`: one row of an attention pattern.
    PatternDest,
    /// `[layer, head, dest, src]`: one entry of an attention pattern.
    PatternEntries,
    /// `[3, layer, pos]`: resid_pre, attn_out, mlp_out.
    EveryBlock,
    /// `[5, layer, head]`: z, q, k, v and the pattern, all positions at once.
    EveryHead,
    /// `[5, layer, pos, head]`: z, q, k, v and the pattern, by position (destination).
    EveryHeadPosition,
}

const BLOCK_SITES: [Site; 3] = [Site::ResidPre, Site::AttnOut, Site::MlpOut];
const HEAD_SITES: [Site; 5] = [Site::Z, Site::Q, Site::K, Site::V, Site::Pattern];

impl Grid {
    /// Layers × heads.
    pub fn heads(site: Site) -> Self {
        Grid::Heads(site)
    }

    /// Layers × positions.
    pub fn positions(site: Site) -> Self {
        Grid::Positions(site)
    }

    /// Layers × positions × heads.
    pub fn head_positions(site: Site) -> Self {
        Grid::HeadPositions(site)
    }

    /// The sites that are patched.
    pub fn sites(&self) -> Vec<Site> {
        match *self {
            Grid::Positions(site) | Grid::HeadPositions(site) | Grid::Heads(site) => vec![site],
            Grid::PatternDest | Grid::PatternEntries => vec![Site::Pattern],
            Grid::EveryBlock => BLOCK_SITES.to_vec(),
            Grid::EveryHead | Grid::EveryHeadPosition => HEAD_SITES.to_vec(),
        }
    }

    fn by_position(&self) -> bool {
        !matches!(self, Grid::Heads(_) | Grid::EveryHead)
    }

    fn check(&self) -> Result<()> {
        let (fits, expected): (fn(Axes) -> bool, _) = match self {
            Grid::Positions(_) => (|a| !a.has_heads(), "a site without a head axis"),
            Grid::HeadPositions(_) => (Axes::has_heads, "a site with a head axis"),
            Grid::Heads(_) => (Axes::has_heads, "a site with a head axis"),
            _ => return Ok(()),
        };
        match self.sites().into_iter().find(|s| !fits(s.axes())) {
            Some(site) => {
                let names = site.axes().names().join(", ");
                let found = format!("{} with axes [{names}]", site.name());
                Err(Error::invalid(format!("grid {self:?}"), found, expected))
            }
            None => Ok(()),
        }
    }

    /// The axes, in the order of the result's dimensions. `tokens` label positions.
    fn axes(&self, n_layers: usize, n_heads: usize, tokens: &[String]) -> Vec<Axis> {
        let layers = || Axis::layers(n_layers);
        let heads = || Axis::heads(n_heads);
        let positions = |name: &str| Axis::tokens(name, tokens);
        let sites = || Axis::new("site", self.sites().iter().map(|s| s.name()));
        match self {
            Grid::Positions(_) => vec![layers(), positions("position")],
            Grid::HeadPositions(_) => vec![layers(), positions("position"), heads()],
            Grid::Heads(_) => vec![layers(), heads()],
            Grid::PatternDest => vec![layers(), heads(), positions("dest")],
            Grid::PatternEntries => vec![layers(), heads(), positions("dest"), positions("src")],
            Grid::EveryBlock => vec![sites(), layers(), positions("position")],
            Grid::EveryHead => vec![sites(), layers(), heads()],
            Grid::EveryHeadPosition => vec![sites(), layers(), positions("position"), heads()],
        }
    }

    /// The place of each cell, in row-major order of the result, for prompts of `n` tokens: to
    /// build sweeps with other edits than a patch.
    pub fn targets(&self, config: &Config, n: usize) -> Vec<Target> {
        let positions = vec![String::new(); n];
        let axes = self.axes(config.n_layers, config.n_heads, &positions);
        let shape: Vec<usize> = axes.iter().map(|a| a.labels.len()).collect();
        targets(*self, &shape)
    }

    /// The target of the cell at an index of the result.
    fn target(&self, index: &[usize]) -> Target {
        let at = |site: Site, layer: usize| Target::new(site.at(layer));
        match *self {
            Grid::Positions(site) => at(site, index[0]).at_positions(index[1]),
            Grid::HeadPositions(site) => {
                at(site, index[0]).at_positions(index[1]).at_heads(index[2])
            }
            Grid::Heads(site) => at(site, index[0]).at_heads(index[1]),
            Grid::PatternDest => at(Site::Pattern, index[0])
                .at_heads(index[1])
                .at_positions(index[2]),
            Grid::PatternEntries => at(Site::Pattern, index[0])
                .at_heads(index[1])
                .at_positions(index[2])
                .at_src(index[3]),
            Grid::EveryBlock => Grid::Positions(BLOCK_SITES[index[0]]).target(&index[1..]),
            Grid::EveryHead => Grid::Heads(HEAD_SITES[index[0]]).target(&index[1..]),
            Grid::EveryHeadPosition => {
                Grid::HeadPositions(HEAD_SITES[index[0]]).target(&index[1..])
            }
        }
    }
}

/// The targets of a result's cells, in row-major order.
fn targets(grid: Grid, shape: &[usize]) -> Vec<Target> {
    let cells = ArrayD::from_elem(IxDyn(shape), ());
    let indices = cells.indexed_iter().map(|(index, ())| index);
    indices
        .map(|index| grid.target(index.as_array_view().as_slice().unwrap_or(&[])))
        .collect()
}

/// A patching study: pairs of prompts, and which run is patched into which.
#[derive(Clone, Debug)]
pub struct ActivationPatching<'m> {
    model: &'m Transformer,
    clean: Vec<Prompt>,
    corrupted: Vec<Prompt>,
    /// Whether clean is patched into corrupted (the default) or the other way round.
    pub direction: Direction,
    /// Bound of the sweep's working memory, in bytes.
    pub memory_limit: u64,
    /// Labels of the positions; by default the tokens, where all prompts agree.
    pub position_labels: Option<Vec<String>>,
}

/// What a patching study gave.
#[derive(Clone, Debug)]
pub struct Patching {
    /// The raw metric, mean over the prompt pairs, with labelled axes and both baselines.
    pub effect: Labelled,
    /// The raw metric of each pair; the last axis is the pair.
    pub per_prompt: ArrayD<f32>,
    /// The metric of each clean run, `[pair]`.
    pub clean: Array1<f32>,
    /// The metric of each corrupted run, `[pair]`.
    pub corrupted: Array1<f32>,
    /// What was planned (and done, unless the result is partial).
    pub plan: Plan,
}

impl Patching {
    /// The effect as `(m − corrupted) / (clean − corrupted)` of the means: 0 is the corrupted
    /// run, 1 the clean one.
    ///
    /// # Errors
    /// [`Error::Invalid`] if both baselines are equal.
    pub fn normalized(&self) -> Result<Labelled> {
        self.effect.normalized()
    }

    /// Saves the raw effect, see [`Labelled::save`].
    ///
    /// # Errors
    /// As [`Labelled::save`].
    pub fn save(&self, path: impl AsRef<std::path::Path>) -> Result<()> {
        self.effect.save(path)
    }
}

/// Patches clean activations into corrupted runs, one grid cell at a time; the result is the
/// metric of each patched run. [`ActivationPatching`] has the other direction and more settings.
///
/// ```
/// use patchlens::{Config, Grid, Prompt, Site, Transformer, activation_patching, logit_diff};
/// let config = Config { n_layers: 2, n_heads: 2, d_model: 8, d_mlp: 16, d_vocab: 11, ..Config::gpt2() };
/// let model = Transformer::random(config, 0)?;
/// let (clean, corrupted) = (Prompt::from([1, 2, 3]), Prompt::from([1, 4, 3]));
/// let metric = logit_diff(2, 4);
/// let found = activation_patching(&model, &clean, &corrupted, Grid::heads(Site::Z), &metric)?;
/// assert_eq!(found.effect.values().shape(), [2, 2]); // [layer, head]
/// println!("{}", found.normalized()?);
/// # Ok::<(), patchlens::Error>(())
/// ```
///
/// # Errors
/// As [`ActivationPatching::new`] and [`ActivationPatching::run`].
pub fn activation_patching(
    model: &Transformer,
    clean: &(impl AsRef<[Prompt]> + ?Sized),
    corrupted: &(impl AsRef<[Prompt]> + ?Sized),
    grid: Grid,
    metric: &Metric,
) -> Result<Patching> {
    ActivationPatching::new(model, clean, corrupted)?.run(grid, metric)
}

impl<'m> ActivationPatching<'m> {
    /// A study of prompt pairs.
    ///
    /// # Errors
    /// [`Error::Prompt`] if a prompt cannot run, or the two of a pair differ in length.
    pub fn new(
        model: &'m Transformer,
        clean: &(impl AsRef<[Prompt]> + ?Sized),
        corrupted: &(impl AsRef<[Prompt]> + ?Sized),
    ) -> Result<Self> {
        let (clean, corrupted) = (clean.as_ref().to_vec(), corrupted.as_ref().to_vec());
        check_pairs(model, ["clean", "corrupted"], &clean, &corrupted)?;
        Ok(ActivationPatching {
            model,
            clean,
            corrupted,
            direction: Direction::Denoising,
            memory_limit: DEFAULT_MEMORY_LIMIT,
            position_labels: None,
        })
    }

    /// Runs the study.
    ///
    /// # Errors
    /// [`Error::Prompt`] if the grid has positions and the pairs differ in length;
    /// [`Error::Invalid`] for a site that does not fit the grid; else as [`Sweep::prepare`].
    pub fn run(&self, grid: Grid, metric: &Metric) -> Result<Patching> {
        self.run_observed(grid, metric, |_| ControlFlow::Continue(()))
    }

    /// As [`ActivationPatching::run`], telling an observer how far the sweep has come.
    ///
    /// # Errors
    /// As [`ActivationPatching::run`].
    pub fn run_observed(
        &self,
        grid: Grid,
        metric: &Metric,
        observer: impl FnMut(&Progress) -> ControlFlow<()>,
    ) -> Result<Patching> {
        grid.check()?;
        let config = self.model.config();
        let axes = grid.axes(config.n_layers, config.n_heads, &self.labels(grid)?);
        let shape: Vec<usize> = axes.iter().map(|a| a.labels.len()).collect();
        let metric = with_reference(self.model, &self.clean, metric)?;
        let points: Vec<HookPoint> = grid
            .sites()
            .into_iter()
            .flat_map(|site| (0..config.n_layers).map(move |layer| site.at(layer)))
            .collect();
        let (donor, base) = match self.direction {
            Direction::Denoising => (&self.clean, &self.corrupted),
            Direction::Noising => (&self.corrupted, &self.clean),
        };
        let donors = self.donor_caches(donor, &points)?;
        let donor_metric = Sweep::new(self.model, donor)?
            .with_base(&donors)?
            .run(&[], &metric)?
            .base;
        let cells = cells(targets(grid, &shape), &donors)?;
        let sweep = Sweep::new(self.model, base)?
            .with_base_over(&donors)?
            .memory_limit(self.memory_limit);
        let result = sweep.prepare(&cells, &metric)?.run_observed(observer)?;
        let (clean, corrupted) = match self.direction {
            Direction::Denoising => (donor_metric, result.base),
            Direction::Noising => (result.base, donor_metric),
        };
        let mean = result.values.mean_axis(Dim(1)).unwrap_or_default();
        let mut about = self.about(grid, &metric, &clean, &corrupted);
        about.partial = result.partial;
        about
            .counts
            .insert("multiply-adds".to_string(), result.multiply_adds);
        about.counts.insert(
            "multiply-adds, naive".to_string(),
            result.plan.naive_multiply_adds,
        );
        let reshape = |shape: &[usize], values: Vec<f32>| {
            ArrayD::from_shape_vec(IxDyn(shape), values)
                .unwrap_or_else(|_| unreachable!("one value a cell of {shape:?}"))
        };
        let effect = Labelled::new(reshape(&shape, mean.to_vec()), axes, about)?;
        let with_prompts = [&shape[..], &[self.clean.len()]].concat();
        let per_prompt = reshape(&with_prompts, result.values.into_iter().collect());
        Ok(Patching {
            effect,
            per_prompt,
            clean,
            corrupted,
            plan: result.plan,
        })
    }

    fn donor_caches(
        &self,
        prompts: &[Prompt],
        points: &[HookPoint],
    ) -> Result<Vec<ActivationCache>> {
        let selection = points_read(self.model.config(), points.iter().copied());
        let run = Run {
            cache: Some(&selection),
            logits: crate::model::KeepLogits::None,
            ..Run::default()
        };
        Ok(self.model.run(prompts, (), &run)?.caches)
    }

    fn labels(&self, grid: Grid) -> Result<Vec<String>> {
        if !grid.by_position() {
            return Ok(Vec::new());
        }
        let labels = position_labels("clean", &self.clean, &self.corrupted)?;
        match &self.position_labels {
            Some(own) if own.len() != labels.len() => Err(Error::invalid(
                "position labels",
                own.len(),
                format!("{}, one a token", labels.len()),
            )),
            own => Ok(own.clone().unwrap_or(labels)),
        }
    }

    fn about(
        &self,
        grid: Grid,
        metric: &Metric,
        clean: &Array1<f32>,
        corrupted: &Array1<f32>,
    ) -> About {
        let sites: Vec<&str> = grid.sites().iter().map(|s| s.name()).collect();
        let (from, into) = match self.direction {
            Direction::Denoising => ("clean", "corrupted"),
            Direction::Noising => ("corrupted", "clean"),
        };
        let pairs = self.clean.len();
        let mean = |values: &Array1<f32>| values.mean().unwrap_or(f32::NAN);
        let baselines = [("clean", mean(clean)), ("corrupted", mean(corrupted))];
        let mut about = About {
            title: format!("Activation patching: {}", sites.join(", ")),
            caption: format!(
                "One activation of the {from} run patched into the {into} run; mean {} over {pairs} prompt pair{}.",
                metric.name(),
                if pairs == 1 { "" } else { "s" },
            ),
            unit: metric.name().to_string(),
            direction: Some(self.direction),
            ..About::default()
        };
        about
            .baselines
            .extend(baselines.map(|(name, value)| (name.to_string(), value)));
        about
            .counts
            .insert("prompt pairs".to_string(), pairs as u64);
        about
    }
}

/// One cell a target of the grid. All cells of a point share its values.
fn cells(targets: Vec<Target>, donors: &[ActivationCache]) -> Result<Vec<Cell>> {
    let mut edits: BTreeMap<HookPoint, Edit> = BTreeMap::new();
    let mut cells = Vec::with_capacity(targets.len());
    for target in targets {
        let edit = match edits.entry(target.point) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(Edit::patch(donors, target.point)?),
        };
        cells.push(vec![Intervention::new(target, edit.clone())]);
    }
    Ok(cells)
}
