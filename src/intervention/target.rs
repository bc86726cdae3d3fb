//! Where an intervention acts, and whether a run has that place.

use std::fmt;

use super::{Select, Subspace};
use crate::error::{Error, Result};
use crate::hook::{Axes, HookPoint};
use crate::model::RunShape;
use crate::select::InPrompt;

/// Where an intervention acts.
///
/// ```
/// use patchlens::{Site, Target};
/// let target = Target::new(Site::Z.at(9)).at_positions(4).at_heads([6, 9]);
/// assert_eq!(target.to_string(), "blocks.9.attn.hook_z[pos 4, head 6,9]");
/// let neurons = Target::new(Site::MlpPost.at(2)).at_columns([7, 12]); // at all positions
/// assert_eq!(neurons.to_string(), "blocks.2.mlp.hook_post[d_mlp 7,12]");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// The hook point.
    pub point: HookPoint,
    /// Sequences of the batch.
    pub sequences: Select,
    /// Positions; for attention scores and patterns, destinations.
    pub positions: Select,
    /// Heads, where the point has a head axis.
    pub heads: Select,
    /// Source positions, for attention scores and patterns.
    pub src: Select,
    /// Columns of the last axis: neurons, dimensions, of the logits tokens. Attention has sources
    /// there, see [`Target::src`].
    pub columns: Select,
    /// The subspace of the last axis in which changes stay, unless all of it may change.
    pub subspace: Option<Subspace>,
}

impl From<HookPoint> for Target {
    fn from(point: HookPoint) -> Self {
        Target::new(point)
    }
}

impl Target {
    /// The whole activation at a point.
    pub fn new(point: HookPoint) -> Self {
        Target {
            point,
            sequences: Select::All,
            positions: Select::All,
            heads: Select::All,
            src: Select::All,
            columns: Select::All,
            subspace: None,
        }
    }

    /// Only these positions (destinations).
    pub fn at_positions(mut self, positions: impl Into<Select>) -> Self {
        self.positions = positions.into();
        self
    }

    /// Only these heads.
    pub fn at_heads(mut self, heads: impl Into<Select>) -> Self {
        self.heads = heads.into();
        self
    }

    /// Only these source positions.
    pub fn at_src(mut self, src: impl Into<Select>) -> Self {
        self.src = src.into();
        self
    }

    /// Only these columns of the last axis: neurons of `[pos, d_mlp]`, dimensions of
    /// `[pos, d_model]` or of each head's `d_head`.
    pub fn at_columns(mut self, columns: impl Into<Select>) -> Self {
        self.columns = columns.into();
        self
    }

    /// Changes what lies in a subspace of the last axis, and nothing else.
    pub fn in_subspace(mut self, subspace: Subspace) -> Self {
        self.subspace = Some(subspace);
        self
    }

    /// Only these sequences of the batch.
    pub fn at_sequences(mut self, sequences: impl Into<Select>) -> Self {
        self.sequences = sequences.into();
        self
    }

    pub(super) fn check(&self, run: &RunShape<'_>) -> Result<()> {
        run.check_point(self.point)?;
        self.check_axes()?;
        let axes = self.point.axes();
        let (point, prompts) = (&self.point, run.lengths.len());
        self.sequences.check(point, "sequence", 0, prompts)?;
        let names = axes.names();
        let (pos, last) = (names[axes.pos_axis()], names[names.len() - 1]);
        for (select, axis) in [
            (&self.positions, pos),
            (&self.heads, "head"),
            (&self.src, "src"),
            (&self.columns, last),
        ] {
            select.check_prompts(point, axis, prompts)?;
        }
        let shape = axes.shape(run.config, 1);
        let width = shape[shape.len() - 1];
        self.check_width(last, width)?;
        for (prompt, n) in run.lengths.iter().enumerate() {
            if !self.takes(prompt, prompts) {
                continue;
            }
            let at = |prompts| InPrompt {
                what: point,
                prompt,
                prompts,
            };
            self.positions.check(&at(prompts), pos, prompt, *n)?;
            // Every prompt has the same heads and columns.
            self.heads
                .check(&at(1), "head", prompt, run.config.n_heads)?;
            self.columns.check(&at(1), last, prompt, width)?;
            self.src.check(&at(prompts), "src", prompt, *n)?;
            let named = self.positions.of(prompt).is_some();
            let mut positions = self.positions.resolve(prompt, *n).into_iter();
            if named && !positions.all(|p| run.computes(self.point, p, *n)) {
                return Err(run.only_last(self.point));
            }
        }
        Ok(())
    }

    /// Checks that it names nothing along axes that the point lacks.
    fn check_axes(&self) -> Result<()> {
        let axes = self.point.axes();
        let attention = axes == Axes::Attention;
        let names = axes.names().join(", ");
        let reason = if self.heads != Select::All && !axes.has_heads() {
            format!("heads are selected, but its axes are [{names}]")
        } else if self.src != Select::All && !attention {
            format!("sources are selected, but its axes are [{names}]")
        } else if self.columns != Select::All && attention {
            format!("columns are selected, but its axes are [{names}]: select sources")
        } else if self.subspace.is_some() && attention {
            format!("it is in a subspace of columns, but its axes are [{names}]")
        } else if self.subspace.is_some() && self.columns != Select::All {
            "columns are selected, and a subspace, which may be one of columns".to_string()
        } else if matches!(self.sequences, Select::Each(_)) {
            "sequences are selected sequence by sequence".to_string()
        } else {
            return Ok(());
        };
        let at = self.point.to_string();
        Err(Error::NeverFires { at, reason })
    }

    /// Checks that its subspace is one of this many dimensions.
    fn check_width(&self, axis: &str, width: usize) -> Result<()> {
        match &self.subspace {
            Some(subspace) if subspace.width() != width => Err(Error::Shape {
                at: format!("basis of a subspace at {}", self.point),
                found: subspace.basis().shape().to_vec(),
                expected: format!("[{width}, k], the first axis being {axis}"),
            }),
            _ => Ok(()),
        }
    }

    /// What is named along the last axis.
    pub(super) fn along_rows(&self) -> &Select {
        match self.point.axes() {
            Axes::Attention => &self.src,
            _ => &self.columns,
        }
    }

    /// Whether a sequence of a batch is among those that it names.
    pub(crate) fn takes(&self, sequence: usize, sequences: usize) -> bool {
        self.sequences.contains(0, sequence, sequences)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.point.axes().names();
        let position = names[self.point.axes().pos_axis()];
        let mut parts: Vec<String> = [
            ("sequence", &self.sequences),
            (position, &self.positions),
            ("head", &self.heads),
            ("src", &self.src),
            (names[names.len() - 1], &self.columns),
        ]
        .into_iter()
        .filter(|(_, select)| **select != Select::All)
        .map(|(axis, select)| format!("{axis} {select}"))
        .collect();
        parts.extend(self.subspace.iter().map(ToString::to_string));
        write!(f, "{}", self.point)?;
        if parts.is_empty() {
            return Ok(());
        }
        write!(f, "[{}]", parts.join(", "))
    }
}
