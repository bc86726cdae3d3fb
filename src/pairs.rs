//! What methods over pairs of prompts share: checks, captions, labels of positions.

mod gradients;

pub(crate) use gradients::{GradientRuns, Variant, fixed_bytes};

use ndarray::Array1;

use crate::base::Base;
use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::metric::{Baseline, Metric};
use crate::model::Transformer;
use crate::prompt::{IntoPrompts, Prompt, Prompts};
use crate::report::Direction;

/// The runs of pairs of a clean and a corrupted prompt, and which of the two is changed.
#[derive(Clone, Debug)]
pub(crate) struct Pairs<'m> {
    pub clean: Base<'m>,
    pub corrupted: Base<'m>,
    pub direction: Direction,
}

const NAMES: [&str; 2] = ["clean", "corrupted"];

impl<'m> Pairs<'m> {
    /// # Errors
    /// Same as [`pairs`].
    pub fn new(
        model: &'m Transformer,
        clean: impl IntoPrompts,
        corrupted: impl IntoPrompts,
        direction: Direction,
    ) -> Result<Self> {
        let [clean, corrupted] = pairs(model, NAMES, clean, corrupted)?;
        Ok(Pairs {
            clean,
            corrupted,
            direction,
        })
    }

    /// # Errors
    /// Same as [`check_pairs`] and [`check_one_model`].
    pub fn over(clean: &Base<'m>, corrupted: &Base<'m>, direction: Direction) -> Result<Self> {
        check_pairs(NAMES, clean.prompts(), corrupted.prompts())?;
        check_one_model(NAMES, clean, corrupted)?;
        Ok(Pairs {
            clean: clean.clone(),
            corrupted: corrupted.clone(),
            direction,
        })
    }

    pub fn model(&self) -> &'m Transformer {
        self.clean.model()
    }

    /// The runs that are changed, and those that the changes come from.
    pub fn base_and_donor(&self) -> [&Base<'m>; 2] {
        match self.direction {
            Direction::Noising => [&self.clean, &self.corrupted],
            Direction::Denoising => [&self.corrupted, &self.clean],
        }
    }

    /// What [`Pairs::base_and_donor`] are called.
    pub fn names(&self) -> [&'static str; 2] {
        match self.direction {
            Direction::Noising => NAMES,
            Direction::Denoising => [NAMES[1], NAMES[0]],
        }
    }

    /// The metric of the clean and of the corrupted runs, `[pair]` each.
    pub fn metrics_within(&self, metric: &Metric, limits: &Limits<'_>) -> Result<[Array1<f32>; 2]> {
        let of = |runs: &Base<'m>, other: &Base<'m>| {
            runs.metric_within(metric, limits.room(other.held_beside(runs)))
        };
        let (clean, corrupted) = (&self.clean, &self.corrupted);
        Ok([of(clean, corrupted)?, of(corrupted, clean)?])
    }

    /// What to know of effects on these runs, whose metric is given, `[pair]`.
    pub fn notes(
        &self,
        metric: &Metric,
        clean: &Array1<f32>,
        corrupted: &Array1<f32>,
    ) -> Vec<String> {
        let values = match self.direction {
            Direction::Noising => [clean, corrupted],
            Direction::Denoising => [corrupted, clean],
        };
        let names = self.names();
        let [changed, other] = [0, 1].map(|i| Baseline {
            name: names[i],
            values: values[i],
        });
        let mut notes = metric.notes(changed, Some(other));
        let bases = self.base_and_donor().into_iter().zip(names);
        notes.extend(bases.filter_map(|(base, name)| base.blocked().told(&format!("{name} run"))));
        notes
    }

    /// Number of tokens of all pairs.
    pub fn tokens(&self) -> usize {
        self.clean.prompts().lengths().iter().sum()
    }

    /// Number of pairs.
    pub fn len(&self) -> usize {
        self.clean.prompts().len()
    }
}

/// The base runs of pairs of prompts, the second ones as lanes over the first. `names` say what
/// the two of a pair are called.
///
/// # Errors
/// Same as [`Base::new`] and [`check_pairs`].
pub(crate) fn pairs<'m>(
    model: &'m Transformer,
    names: [&str; 2],
    first: impl IntoPrompts,
    second: impl IntoPrompts,
) -> Result<[Base<'m>; 2]> {
    let (first, second) = (Base::new(model, first)?, second.into_prompts()?);
    check_pairs(names, first.prompts(), &second)?;
    let second = Base::over(&first, second, Vec::new())?;
    Ok([first, second])
}

/// Checks that there are as many prompts of both kinds, and those of each pair have one length.
///
/// # Errors
/// [`Error::Invalid`] if there are not as many second prompts as prompts, [`Error::Prompt`] for a
/// pair of
/// different lengths.
pub(crate) fn check_pairs(names: [&str; 2], first: &Prompts, second: &Prompts) -> Result<()> {
    let [a, b] = names;
    if first.len() != second.len() {
        let expected = format!("{}, one per {a} prompt", first.len());
        let what = format!("{b} prompts");
        return Err(Error::invalid(what, second.len(), expected));
    }
    let mut lengths = first.iter().map(Prompt::len).zip(second).enumerate();
    match lengths.find(|(_, (n, prompt))| prompt.len() != *n) {
        None => Ok(()),
        Some((i, (n, prompt))) => Err(Error::Prompt {
            at: format!("{b} prompt {i}"),
            found: format!("{} tokens", prompt.len()),
            expected: format!("{n} as the {a} prompt, so that positions correspond"),
        }),
    }
}

/// Checks that runs are of one model.
///
/// # Errors
/// [`Error::Provenance`].
pub(crate) fn check_one_model(names: [&str; 2], first: &Base<'_>, second: &Base<'_>) -> Result<()> {
    let [a, b] = names;
    let at = format!("{b} runs beside {a} ones");
    let (model, other) = (first.model(), second.model());
    if !std::ptr::eq(model, other) {
        other.fingerprint();
        model.check_own(&at, Some(other.identity()))?;
    }
    Ok(())
}

/// `mean over 32 prompt pairs`, as captions have it; of one, there is no mean.
pub(crate) fn averaged(n: usize, what: &str) -> String {
    match n {
        1 => format!("1 {what}"),
        _ => format!("mean over {n} {what}s"),
    }
}

/// Labels of the positions of pairs of one length: a token where all prompts agree, both where
/// the two of a single pair differ, the first pair's followed by
/// `…` where pairs differ. `name` is what the first prompts are called.
///
/// # Errors
/// [`Error::Prompt`] if lengths differ.
pub(crate) fn position_labels(
    name: &str,
    first: &Prompts,
    second: &Prompts,
) -> Result<Vec<String>> {
    let n = first[0].len();
    if let Some(i) = first.iter().position(|p| p.len() != n) {
        return Err(Error::Prompt {
            at: format!("{name} prompt {i}"),
            found: format!("{} tokens", first[i].len()),
            expected: format!("{n} as prompt 0: this grid has a position axis"),
        });
    }
    let all = || first.iter().chain(second);
    let label = |p: usize| {
        let (a, b) = (&first[0].labels[p], &second[0].labels[p]);
        let both = if a == b {
            a.clone()
        } else {
            format!("{a}/{}", b.trim_start())
        };
        if first.len() == 1 || all().all(|prompt| prompt.labels[p] == *a) {
            both
        } else {
            format!("{both}…")
        }
    };
    Ok((0..n).map(label).collect())
}
