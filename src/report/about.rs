//! What the numbers of a result are.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::digits::{count, number};

/// Which run is patched into which.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Clean activations are patched into the corrupted run.
    Denoising,
    /// Corrupted activations are patched into the clean run.
    Noising,
}

impl Direction {
    /// The direction in words, as captions print it.
    pub fn describe(self) -> &'static str {
        match self {
            Direction::Denoising => "denoising: clean patched into corrupted",
            Direction::Noising => "noising: corrupted patched into clean",
        }
    }
}

/// Whether values are as measured, changes, or relative to the baselines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Normalization {
    /// As measured.
    #[default]
    Raw,
    /// Minus the metric of the runs that were changed, prompt by prompt: 0 is no change.
    Change,
    /// The change over `clean − corrupted`: 0 is no change; 1 (or −1, if the corrupted run is
    /// patched into the clean one) is that from the one run to the other.
    Normalized,
}

/// The colour scale of a heat map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Palette {
    /// Red (negative) over white (zero) to blue (positive), equally far to both sides.
    #[default]
    Diverging,
    /// From the smallest to the largest value, where all have one sign; else as `Diverging`.
    Sequential,
}

/// What the numbers of a [`Labelled`](super::Labelled) array are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct About {
    /// One line.
    pub title: String,
    /// What was patched into what, in a sentence or two.
    pub caption: String,
    /// The model's name, where one is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// What is measured: `logit difference`, `probability`, ...
    pub unit: String,
    /// The patching direction, where there is one.
    pub direction: Option<Direction>,
    /// Raw or normalised.
    pub normalization: Normalization,
    /// The colour scale that suits the values.
    pub palette: Palette,
    /// The metric of the unpatched runs; `clean` and `corrupted` for patching.
    #[serde(with = "crate::number::named")]
    pub baselines: BTreeMap<String, f32>,
    /// What was counted: prompts, cells, multiply-adds, ...
    pub counts: BTreeMap<String, u64>,
    /// The seed, where chance took part.
    pub seed: Option<u64>,
    /// Versions of what computed the result; this crate's is there from the start.
    pub versions: BTreeMap<String, String>,
    /// What to know before the numbers are read, such as that the baselines leave the metric no
    /// room for an effect: clauses without a full stop.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Whether the run ended before every cell was computed.
    pub partial: bool,
}

impl Default for About {
    fn default() -> Self {
        let version = ["patchlens", env!("CARGO_PKG_VERSION")].map(String::from);
        About {
            title: String::new(),
            caption: String::new(),
            model: None,
            unit: String::new(),
            direction: None,
            normalization: Normalization::default(),
            palette: Palette::default(),
            baselines: BTreeMap::new(),
            counts: BTreeMap::new(),
            seed: None,
            versions: BTreeMap::from([version.into()]),
            notes: Vec::new(),
            partial: false,
        }
    }
}

impl About {
    /// The name in [`About::counts`] of the multiply-adds that were done.
    pub const MULTIPLY_ADDS: &'static str = "multiply-adds";
    /// The name in [`About::counts`] of the multiply-adds that one full forward pass per cell and
    /// prompt would have taken. With both, captions say how many times fewer were done.
    pub const FULL_PASSES: &'static str = "multiply-adds, naive";

    /// The unit with its normalisation, as a colour bar names it.
    pub(super) fn unit_label(&self) -> String {
        match (self.unit.as_str(), self.normalization) {
            ("", Normalization::Raw) => "value".to_string(),
            ("", Normalization::Change) => "change".to_string(),
            ("", Normalization::Normalized) => "normalized".to_string(),
            (unit, Normalization::Raw) => unit.to_string(),
            (unit, Normalization::Change) => format!("change of the {unit}"),
            (unit, Normalization::Normalized) => format!("{unit}, normalized"),
        }
    }

    /// Says which model the numbers are of.
    #[must_use]
    pub fn model(mut self, name: impl Into<String>) -> Self {
        self.model = Some(name.into());
        self
    }

    /// Everything that is neither title, caption nor unit, one fact per line.
    pub(super) fn facts(&self) -> Vec<String> {
        let mut facts = Vec::new();
        if self.partial {
            facts.push("PARTIAL: the run ended before every cell was computed".to_string());
        }
        facts.extend(self.notes.iter().map(|note| format!("note: {note}")));
        facts.extend(self.model.iter().map(|name| format!("model: {name}")));
        facts.extend(self.direction.map(|d| d.describe().to_string()));
        if self.normalization == Normalization::Normalized {
            let ends = match self.direction {
                Some(Direction::Noising) => "0 is the clean run, -1 the corrupted run",
                _ => "0 is the corrupted run, 1 the clean run",
            };
            facts.push(format!("normalized: {ends}"));
        }
        let list =
            |pairs: Vec<String>, between: &str| (!pairs.is_empty()).then(|| pairs.join(between));
        let baselines = self.baselines.iter();
        let baselines = baselines.map(|(k, v)| format!("{k} {}", number(*v)));
        let baselines = list(baselines.collect(), ", ");
        facts.extend(baselines.map(|list| format!("baselines: {list}")));
        // Names of counts may have commas.
        facts.extend(list(self.counted(), "; "));
        let versions = self.versions.iter().map(|(k, v)| format!("{k} {v}"));
        let seed = self.seed.map(|seed| format!("seed {seed}"));
        facts.extend(list(versions.chain(seed).collect(), ", "));
        facts
    }

    /// The counts in words; the work relative to full passes where both are known.
    fn counted(&self) -> Vec<String> {
        let work = [Self::MULTIPLY_ADDS, Self::FULL_PASSES];
        let [own, full] = work.map(|name| self.counts.get(name).copied());
        let others = self.counts.iter();
        let others = others.filter(|(name, _)| !work.contains(&name.as_str()));
        let mut texts: Vec<String> = others.map(|(name, n)| counted(name, *n)).collect();
        texts.extend(match (own, full) {
            // A run that ended early has not done the work of the full passes.
            (Some(own), Some(full)) if !self.partial => Some(saving(own, full)),
            (Some(own), _) => Some(counted(Self::MULTIPLY_ADDS, own)),
            (None, full) => full.map(|n| counted(Self::FULL_PASSES, n)),
        });
        texts
    }
}

/// `8 prompts`; names are plural, so that one thing is written the other way round.
fn counted(name: &str, n: u64) -> String {
    if n == 1 {
        format!("{name}: 1")
    } else {
        format!("{} {name}", count(n))
    }
}

/// The multiply-adds of a run beside those of full passes.
fn saving(own: u64, full: u64) -> String {
    let times = full as f64 / own as f64;
    if own == 0 {
        "no multiply-adds".to_string()
    } else if times >= 9.95 {
        format!(
            "{} × fewer multiply-adds than full passes",
            count(times.round() as u64)
        )
    } else if times >= 1.05 {
        format!("{times:.1} × fewer multiply-adds than full passes")
    } else if times > 0.95 {
        "as many multiply-adds as full passes".to_string()
    } else {
        format!("{:.1} × the multiply-adds of full passes", 1.0 / times)
    }
}
