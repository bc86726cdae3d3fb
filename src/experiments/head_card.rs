//! The card of one head: what was measured, and what kind of head that suggests.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::circuits::{Composition, Head};

/// The kinds of heads that a report tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeadLabel {
    /// Moves the answer: the task's last position attends to the answer, the head copies what it
    /// attends to, and without it the metric falls.
    NameMover,
    /// Attends to the answer and suppresses it: without the head the metric rises.
    NegativeNameMover,
    /// The task's last position attends to a labelled position that is not the answer (S2), the
    /// head does not copy, and without it the metric falls.
    SInhibition,
    /// Attends to what followed an earlier occurrence of the token.
    Induction,
    /// Attends to earlier occurrences of the token.
    DuplicateToken,
    /// Attends to the token before.
    PreviousToken,
    /// Attends to the token itself.
    CurrentToken,
    /// Attends to the first token, where heads rest.
    FirstToken,
    /// The evidence for every kind is weak.
    Unlabelled,
}

impl fmt::Display for HeadLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            HeadLabel::NameMover => "name mover",
            HeadLabel::NegativeNameMover => "negative name mover",
            HeadLabel::SInhibition => "S-inhibition-like",
            HeadLabel::Induction => "induction",
            HeadLabel::DuplicateToken => "duplicate token",
            HeadLabel::PreviousToken => "previous token",
            HeadLabel::CurrentToken => "current token",
            HeadLabel::FirstToken => "first token",
            HeadLabel::Unlabelled => "unlabelled",
        })
    }
}

/// From where on a measurement counts as evidence.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Thresholds {
    /// Mean attention to a pattern.
    pub pattern: f32,
    /// Mean attention from the task's last position to a labelled one.
    pub role: f32,
    /// Copy score, positive or negative: share of tokens.
    pub copy: f32,
    /// Share of the metric that the head's ablation takes away (or adds).
    pub effect: f32,
    /// How many standard errors that change must be away from 0, where one is known.
    pub errors: f32,
}

impl Default for Thresholds {
    fn default() -> Self {
        Thresholds {
            pattern: 0.4,
            role: 0.3,
            copy: 0.5,
            effect: 0.05,
            errors: 2.0,
        }
    }
}

/// A number with its name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// What was measured.
    pub name: String,
    /// The mean; `None` where there was nothing to measure.
    pub value: Option<f32>,
    /// Its standard error, where known.
    pub std_error: Option<f32>,
}

impl Score {
    pub(super) fn new(name: impl Into<String>, value: f32, std_error: Option<f32>) -> Self {
        Score {
            name: name.into(),
            value: (!value.is_nan()).then_some(value),
            std_error: std_error.filter(|e| !e.is_nan()),
        }
    }

    fn or_zero(&self) -> f32 {
        self.value.unwrap_or(0.0)
    }
}

/// Another head with which a head composes strongly.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Partner {
    /// The other head.
    pub head: Head,
    /// Through which input the later of the two reads.
    pub through: Composition,
    /// The composition score.
    pub score: f32,
}

/// What a head does in a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskEvidence {
    /// What the metric loses when the head is ablated.
    pub lost: Score,
    /// The same as a share of the whole model's metric; `None` where that is 0.
    pub share_lost: Option<f32>,
    /// Attention from the last position to each role.
    pub roles: Vec<Score>,
    /// Which of the roles is the answer, if any.
    pub answer: Option<String>,
}

/// A label that the evidence supports.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Suggestion {
    /// The label.
    pub label: HeadLabel,
    /// The weakest piece of its evidence in units of its threshold: 1 is just enough.
    pub strength: f32,
    /// The evidence in numbers.
    pub evidence: String,
}

/// Everything measured about one head.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeadCard {
    /// The head.
    pub head: Head,
    /// The best supported label.
    pub label: HeadLabel,
    /// All labels that the evidence supports, strongest first.
    pub suggestions: Vec<Suggestion>,
    /// Pattern scores, highest first.
    pub patterns: Vec<Score>,
    /// Entropy of the attention in nats.
    pub entropy: Score,
    /// `Σ Re λ / Σ |λ|` of the full OV circuit; `None` for a circuit that is zero.
    pub eigenvalue_copying: Option<f32>,
    /// Share of tokens that the head copies.
    pub copy: Option<Score>,
    /// Share of tokens that the head would copy with its sign flipped.
    pub negative_copy: Option<Score>,
    /// The strongest composition scores with other heads.
    pub partners: Vec<Partner>,
    /// The task, where one was given.
    pub task: Option<TaskEvidence>,
}

impl HeadCard {
    /// Fills in label and suggestions from what was measured.
    pub(super) fn labelled(mut self, thresholds: &Thresholds) -> Self {
        let mut found = self.task_labels(thresholds);
        found.extend(self.pattern_labels(thresholds));
        found.retain(|s| s.strength >= 1.0);
        // Many heads rest on the first token when they have nothing to do: the weakest of labels.
        let rests = |s: &Suggestion| s.label == HeadLabel::FirstToken;
        found.sort_by(|a, b| {
            let by_strength = b.strength.total_cmp(&a.strength);
            rests(a).cmp(&rests(b)).then(by_strength)
        });
        self.label = found.first().map_or(HeadLabel::Unlabelled, |s| s.label);
        self.suggestions = found;
        self
    }

    fn pattern_labels(&self, thresholds: &Thresholds) -> Vec<Suggestion> {
        let label = |score: &Score| match score.name.as_str() {
            "previous token" => Some(HeadLabel::PreviousToken),
            "current token" => Some(HeadLabel::CurrentToken),
            "first token" => Some(HeadLabel::FirstToken),
            "duplicate token" => Some(HeadLabel::DuplicateToken),
            "induction" => Some(HeadLabel::Induction),
            _ => None,
        };
        let suggest = |score: &Score| {
            Some(Suggestion {
                label: label(score)?,
                strength: score.or_zero() / thresholds.pattern,
                evidence: format!("attention to {}: {}", score.name, shown(score)),
            })
        };
        self.patterns.iter().filter_map(suggest).collect()
    }

    fn task_labels(&self, thresholds: &Thresholds) -> Vec<Suggestion> {
        let Some(task) = &self.task else {
            return Vec::new();
        };
        let enough = thresholds.errors * task.lost.std_error.unwrap_or(0.0);
        if task.lost.or_zero().abs() < enough {
            return Vec::new();
        }
        let effect = task.share_lost.unwrap_or(0.0) / thresholds.effect;
        let is_answer = |role: &&Score| task.answer.as_ref() == Some(&role.name);
        let strongest = |of: Vec<&Score>| {
            let by = |a: &&Score, b: &&Score| a.or_zero().total_cmp(&b.or_zero());
            of.into_iter().max_by(by).cloned()
        };
        let answer = strongest(task.roles.iter().filter(is_answer).collect());
        let other = strongest(task.roles.iter().filter(|r| !is_answer(r)).collect());
        let [copy, negative] = [&self.copy, &self.negative_copy]
            .map(|score| score.as_ref().map_or(0.0, Score::or_zero) / thresholds.copy);
        let kinds = [
            (HeadLabel::NameMover, &answer, copy, effect),
            (HeadLabel::NegativeNameMover, &answer, negative, -effect),
            // A head that copies the subject would hurt, not help.
            (
                HeadLabel::SInhibition,
                &other,
                if copy < 1.0 { f32::INFINITY } else { 0.0 },
                effect,
            ),
        ];
        let suggest = |(label, role, copies, effect): (_, &Option<Score>, f32, f32)| {
            let role = role.as_ref()?;
            Some(Suggestion {
                label,
                strength: (role.or_zero() / thresholds.role).min(copies).min(effect),
                evidence: self.task_evidence(task, role),
            })
        };
        kinds.into_iter().filter_map(suggest).collect()
    }

    fn task_evidence(&self, task: &TaskEvidence, role: &Score) -> String {
        let copies = match (&self.copy, &self.negative_copy) {
            (Some(copy), Some(negative)) => {
                format!("copy score {}, negative {}; ", shown(copy), shown(negative))
            }
            _ => String::new(),
        };
        format!(
            "attention to {}: {}; {copies}metric lost without it: {} ({:.1} %)",
            role.name,
            shown(role),
            shown(&task.lost),
            100.0 * task.share_lost.unwrap_or(f32::NAN)
        )
    }

    /// The score of a pattern by name, if it was measured.
    pub fn pattern(&self, name: &str) -> Option<f32> {
        self.patterns.iter().find(|score| score.name == name)?.value
    }
}

/// A score as text, with its standard error where known.
fn shown(score: &Score) -> String {
    match (score.value, score.std_error) {
        (None, _) => "n/a".to_string(),
        (Some(value), None) => format!("{value:.3}"),
        (Some(value), Some(error)) => format!("{value:.3} ± {error:.3}"),
    }
}
