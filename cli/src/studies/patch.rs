//! Activation patching: which activations, swapped between two runs, move the answer.

mod words;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, ValueEnum};
use patchlens::forecast::Forecast;
use patchlens::intervention::Subspace;
use patchlens::patching::{ActivationPatching, Alignment, Patching};
use patchlens::report::{Direction, Labelled};
use patchlens::tasks::Corruption;
use patchlens::{Config, Grid, Prompts, Site, Transformer};
use serde_json::json;

use crate::interrupt;
use crate::numbers;
use crate::options::{Common, PromptArgs, TaskName, prompts_by_default};
use crate::outline::Outline;
use crate::output::Output;
use crate::prompts::{Role, aligned};
use crate::questions::{Questions, Takes};
use crate::session::Session;
use crate::usage::usage;
use crate::work::Divided;

/// Activation patching: which layers, positions and heads carry the answer?
///
/// Clean activations are patched into the corrupted run, one at a time; what is shown is by how
/// much each changes that run's metric. With --direction noising, corrupted activations go into
/// the clean run. With --values normalized, 1 is the clean run's whole lead (-1 when noising).
#[derive(Args, Clone, Debug)]
#[command(mut_arg("prompts", prompts_by_default(TAKES.prompts)))]
#[command(after_help = "\
Examples:
  patchlens patch --out study
  patchlens patch --sweep z --sweep pattern --model weights/gpt2
  patchlens patch --sweep mlp_out --neurons 0
  patchlens patch --sweep resid_pre --subspace basis.safetensors
  patchlens patch --clean \"When Mary and John went to the store, John gave a drink to\" \\
      --corrupted \"When Mary and John went to the store, Mary gave a drink to\" \\
      --answer \" Mary\" --wrong \" John\"
  patchlens patch --pairs pairs.json --metric logit-diff-max --json")]
pub struct Patch {
    #[command(flatten)]
    pub common: Common,
    /// Only say what the study will cost: multiply-adds, memory and time on this machine. Opens no
    /// weights
    #[arg(long, help_heading = "Model and machine", conflicts_with_all = [
        "align", "role", "subspace", "journal", "shard", "known",
    ])]
    pub plan: bool,
    #[command(flatten)]
    pub divided: Divided,
    #[command(flatten)]
    prompts: PromptArgs,
    /// What to patch; may be given several times [default: resid_pre attn_out mlp_out z; prompts
    /// of several lengths: z]
    #[arg(long, value_enum, value_name = "SITE")]
    sweep: Vec<Sweep>,
    /// Also patch every neuron of this layer's MLP, one at a time, at all positions
    #[arg(long, value_name = "LAYER", value_parser = numbers::from_0::<usize>())]
    neurons: Option<usize>,
    /// Patch only what lies in a subspace: a safetensors file with one tensor, an orthonormal basis
    /// [k, d]. Sites whose last axis is not d are left out by default
    #[arg(long, value_name = "FILE", conflicts_with = "neurons")]
    subspace: Option<PathBuf>,
    /// How positions correspond in pairs whose prompts differ in length, which are refused
    /// otherwise
    #[arg(long, value_enum, value_name = "HOW")]
    align: Option<Align>,
    /// A role, its positions in the clean and in the corrupted prompts, below 0 from the end: a
    /// column of the result; may be given several times
    #[arg(
        long,
        value_name = "NAME=C,C:C,C",
        value_parser = Role::parse,
        conflicts_with = "align",
        allow_hyphen_values = true
    )]
    role: Vec<Role>,
    /// Which run is patched into which
    #[arg(long, value_enum, default_value_t = Way::Denoising)]
    direction: Way,
    /// What tables, rankings and pictures show; JSON always has the raw metric too
    #[arg(long, value_enum, value_name = "KIND", default_value_t = Values::Change)]
    values: Values,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Align {
    /// The tokens that both prompts begin with, and those that both end with
    Ends,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Values {
    /// The change of the metric by the patch
    Change,
    /// The change as a share of the difference between the clean and the corrupted run
    Normalized,
    /// The metric of the patched run
    Raw,
}

impl Values {
    fn of(self, found: &Patching) -> Result<Labelled> {
        Ok(match self {
            Values::Change => found.effect.clone(),
            Values::Normalized => found.normalized()?,
            Values::Raw => found.raw().clone(),
        })
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Way {
    /// Clean activations into the corrupted run
    Denoising,
    /// Corrupted activations into the clean run
    Noising,
}

impl From<Way> for Direction {
    fn from(way: Way) -> Self {
        match way {
            Way::Denoising => Direction::Denoising,
            Way::Noising => Direction::Noising,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Sweep {
    /// Residual stream before each layer, by position
    ResidPre,
    /// Attention outputs, by position
    AttnOut,
    /// MLP outputs, by position
    MlpOut,
    /// Heads' outputs
    Z,
    /// Heads' queries
    Q,
    /// Heads' keys
    K,
    /// Heads' values
    V,
    /// Heads' attention patterns
    Pattern,
}

const BY_POSITION: [Sweep; 3] = [Sweep::ResidPre, Sweep::AttnOut, Sweep::MlpOut];

impl Sweep {
    fn grid(self) -> Grid {
        match self {
            Sweep::ResidPre => Grid::Positions(Site::ResidPre),
            Sweep::AttnOut => Grid::Positions(Site::AttnOut),
            Sweep::MlpOut => Grid::Positions(Site::MlpOut),
            Sweep::Z => Grid::Heads(Site::Z),
            Sweep::Q => Grid::Heads(Site::Q),
            Sweep::K => Grid::Heads(Site::K),
            Sweep::V => Grid::Heads(Site::V),
            Sweep::Pattern => Grid::Heads(Site::Pattern),
        }
    }

    fn name(self) -> String {
        let value = self.to_possible_value().expect("no site is hidden");
        value.get_name().to_string()
    }
}

const TAKES: Takes = Takes {
    tasks: &[TaskName::Ioi, TaskName::GreaterThan, TaskName::KeyValue],
    prompts: 8,
    corruption: Corruption::Aba,
    template: Some(0),
    corrupted: true,
    wrong: false,
    unequal: false,
};

impl Patch {
    /// Runs the study.
    ///
    /// # Errors
    /// For prompts that cannot be patched; `EndedEarly` after Ctrl-C.
    pub fn run(&self, session: &Session) -> Result<()> {
        let (output, tokenizer) = (&session.output, &session.tokenizer);
        let takes = Takes {
            unequal: self.is_aligned(),
            ..TAKES
        };
        let questions = Questions::new(&self.prompts, takes, tokenizer, output)?;
        let subspace = self.subspace.as_ref().map(Subspace::open).transpose()?;
        let sweeps = self.sweeps(&questions, subspace.as_ref(), session.model.config())?;
        let by_position = sweeps.iter().any(|sweep| BY_POSITION.contains(sweep));
        let (questions, metric) = session.begin(questions, by_position, self.prompts.metric)?;
        let corrupted = Prompts::new(&questions.corrupted)?;
        session.introduce(&questions)?;
        let study = self.study(&session.model, &questions.clean, &corrupted)?;
        let mut study = study
            .memory_limit(session.memory)
            .journal(session.work.journal())
            .direction(self.direction.into());
        if let Some(subspace) = subspace {
            let [d, k] = [subspace.width(), subspace.basis().ncols()];
            output.number("subspace", json!({ "vectors": k, "dimensions": d }))?;
            output.say(format_args!("patched: what lies {subspace}\n"))?;
            study = study.in_subspace(subspace);
        }
        if let Some(labels) = &questions.labels {
            study = study.position_labels(labels.clone());
        }
        let mut found = Vec::new();
        for (i, sweep) in sweeps.into_iter().enumerate() {
            let observer = session.progress.observer(&sweep.name());
            let patching = study.clone().observe(observer).run(sweep.grid(), &metric)?;
            if session.work.is_part() {
                interrupt::check()?;
                continue;
            }
            if i == 0 {
                output.say(words::baselines(&patching, metric.name()))?;
            }
            let shown = questions.seeded(&self.values.of(&patching)?);
            output.table(&shown)?;
            output.say(format_args!("{}\n", shown.top(5)))?;
            output.keep(&sweep.name(), &shown)?;
            let raw = questions.seeded(patching.raw());
            output.number(&format!("{}_raw", sweep.name()), raw)?;
            found.push((sweep, patching));
            interrupt::check()?;
        }
        if let Some(layer) = self.neurons {
            let study = study.observe(session.progress.observer("neurons"));
            let patching = study.run(Grid::Columns(Site::MlpPost, layer), &metric)?;
            session.work.last_step()?;
            let shown = questions.seeded(&self.values.of(&patching)?);
            show_neurons(&shown, output)?;
        }
        session.work.last_step()?;
        output.say(words::conclusion(&found))
    }

    /// Says what the study will cost, at most.
    ///
    /// # Errors
    /// For prompts that cannot be patched.
    pub fn outline(&self, outline: Outline) -> Result<()> {
        let (config, tokenizer) = (&outline.config, &outline.tokenizer);
        let questions = Questions::new(&self.prompts, TAKES, tokenizer, &outline.output)?;
        let metric = questions.metric(self.prompts.metric)?;
        let corrupted = Prompts::new(&questions.corrupted)?;
        let sweeps = self.sweeps(&questions, None, config)?.into_iter();
        let neurons = self
            .neurons
            .map(|layer| Grid::Columns(Site::MlpPost, layer));
        let grids = sweeps.map(Sweep::grid).chain(neurons);
        let forecasts = grids
            .map(|grid| Forecast::patching(config, &questions.clean, &corrupted, grid, &metric));
        let forecasts: Vec<Forecast> = forecasts.collect::<Result<_, _>>()?;
        let (first, later) = forecasts.split_first().expect("there is a sweep");
        let mut forecast = first.clone();
        for grid in later {
            // The base runs are made once.
            forecast.plan.add(&grid.plan);
        }
        outline.tell(&forecast)
    }

    /// Whether it is said which positions correspond.
    fn is_aligned(&self) -> bool {
        self.align.is_some() || !self.role.is_empty()
    }

    fn study<'m>(
        &self,
        model: &'m Transformer,
        clean: &Prompts,
        corrupted: &Prompts,
    ) -> Result<ActivationPatching<'m>> {
        if !self.role.is_empty() {
            let roles = aligned(&self.role);
            return Ok(ActivationPatching::aligned(model, clean, corrupted, roles)?);
        }
        Ok(match self.align {
            None => ActivationPatching::new(model, clean, corrupted)?,
            Some(Align::Ends) => {
                let ends = Alignment::common_ends(clean, corrupted)?;
                ActivationPatching::aligned(model, clean, corrupted, ends)?
            }
        })
    }

    /// What is patched: by position only where all prompts have one length.
    fn sweeps(
        &self,
        questions: &Questions,
        subspace: Option<&Subspace>,
        config: &Config,
    ) -> Result<Vec<Sweep>> {
        if let Some(layer) = self.neurons.filter(|layer| *layer >= config.n_layers) {
            let last = config.n_layers - 1;
            return Err(usage(format!(
                "--neurons: found layer {layer}; expected 0 to {last}"
            )));
        }
        let by_position = |sweep: &Sweep| BY_POSITION.contains(sweep);
        let ragged = questions.clean.common_len().is_none() && !self.is_aligned();
        if ragged && let Some(sweep) = self.sweep.iter().find(|sweep| by_position(sweep)) {
            let lengths = questions.lengths();
            let sweep = sweep.name();
            return Err(usage(format!(
                "--sweep {sweep} is by position: found prompts of {lengths}; expected one length, \
                 or sweeps by head (z, q, k, v, pattern)"
            )));
        }
        let sweeps = match (self.sweep.is_empty(), ragged) {
            (false, _) => self.sweep.clone(),
            (true, true) => vec![Sweep::Z],
            (true, false) => [&BY_POSITION[..], &[Sweep::Z]].concat(),
        };
        match subspace {
            Some(subspace) => self.as_wide_as(subspace.width(), sweeps, config),
            None => Ok(sweeps),
        }
    }

    /// The sweeps whose sites have this many dimensions: all that were asked for, or some of the
    /// usual ones.
    fn as_wide_as(&self, width: usize, sweeps: Vec<Sweep>, config: &Config) -> Result<Vec<Sweep>> {
        let own = |sweep: &Sweep| match sweep {
            Sweep::ResidPre | Sweep::AttnOut | Sweep::MlpOut => Some(config.d_model),
            Sweep::Z | Sweep::Q | Sweep::K | Sweep::V => Some(config.d_head()),
            Sweep::Pattern => None,
        };
        let fits = |sweep: &Sweep| own(sweep) == Some(width);
        let (fitting, others): (Vec<Sweep>, Vec<Sweep>) = sweeps.into_iter().partition(fits);
        if fitting.is_empty() || !(others.is_empty() || self.sweep.is_empty()) {
            let has = |sweep: &Sweep| {
                let own = own(sweep).map_or_else(|| "none".to_string(), |own| own.to_string());
                format!("{} has {own}", sweep.name())
            };
            let others: Vec<String> = others.iter().map(has).collect();
            return Err(usage(format!(
                "--subspace: found a basis in {width} dimensions; expected those of the site: {}",
                others.join(", ")
            )));
        }
        Ok(fitting)
    }
}

fn show_neurons(shown: &Labelled, output: &Output) -> Result<()> {
    output.say(format_args!("{}\n{}\n", shown.about.title, shown.top(10)))?;
    output.number("neurons", shown)?;
    interrupt::check()
}
