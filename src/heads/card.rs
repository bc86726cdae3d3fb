//! The card of one head: what was measured, and what kind of head that suggests.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::component::{Head, Qkv};
use crate::heads::copy_scores::TOP_OF_THE_PAPER;
use crate::heads::patterns::AttentionPattern;
use crate::report::Labelled;
use crate::statistics::write_with_error;

/// The kinds of heads that a report tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeadLabel {
    /// Writes the answer at the task's last position: it attends to a labelled position, what it
    /// writes has the answer on top, and raises the metric directly. (Wang et al. 2022, section
    /// 3.1, for whom the position is IO; it may be any that carries the answer by then.)
    NameMover,
    /// As a name mover, but what it writes is the answer with the sign flipped, and lowers the
    /// metric directly (section 3.5).
    NegativeNameMover,
    /// Writes against the wrong answer (S): it attends to a labelled position, what it writes has
    /// the wrong answer at the bottom (on top when negated), and raises the metric directly. (Copy
    /// suppression, McDougall et al. 2023, where the token suppressed is the wrong one.)
    Suppression,
    /// The task's last position attends to a labelled one that is not the answer (S2), the head
    /// itself writes neither for an answer nor against one, and the metric falls when it is
    /// ablated at the last position, beyond what it writes to the logits directly: it acts
    /// through later heads (section 3.2).
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

impl HeadLabel {
    /// The label of a head that attends to a pattern.
    fn of_pattern(pattern: AttentionPattern) -> Option<Self> {
        Some(match pattern {
            AttentionPattern::PreviousToken => HeadLabel::PreviousToken,
            AttentionPattern::CurrentToken => HeadLabel::CurrentToken,
            AttentionPattern::FirstToken => HeadLabel::FirstToken,
            AttentionPattern::DuplicateToken => HeadLabel::DuplicateToken,
            AttentionPattern::Induction => HeadLabel::Induction,
            AttentionPattern::Offset(_) => return None,
        })
    }

    /// Which labels come first where a head has several. Strengths do not compare between kinds of
    /// evidence: a head that moves names may attend by induction everywhere else (as GPT-2's 9.6
    /// and 9.9), and it is the task that was asked about. Many heads rest on the first token when
    /// they have nothing to do: that comes last.
    fn rank(self) -> u8 {
        match self {
            HeadLabel::NameMover
            | HeadLabel::NegativeNameMover
            | HeadLabel::Suppression
            | HeadLabel::SInhibition => 0,
            HeadLabel::Induction
            | HeadLabel::DuplicateToken
            | HeadLabel::PreviousToken
            | HeadLabel::CurrentToken => 1,
            HeadLabel::FirstToken | HeadLabel::Unlabelled => 2,
        }
    }
}

impl fmt::Display for HeadLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            HeadLabel::NameMover => "name mover",
            HeadLabel::NegativeNameMover => "negative name mover",
            HeadLabel::Suppression => "suppression",
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

/// From where on a measurement counts as evidence, with the reasons for the defaults.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Thresholds {
    /// Mean attention to a pattern. 0.4: no more than two patterns can hold that much at once.
    pub pattern: f32,
    /// Mean attention from the task's last position to a labelled one. 0.3: no more than three
    /// positions can hold that much at once.
    pub role: f32,
    /// Share of prompts in which the answer (or the wrong one) is among the top logits of what
    /// the head writes, as it is or negated. 0.5: more often than not. A head that writes names at
    /// random has 5 tries in as many names as there are: 0.1 of 50.
    pub copy: f32,
    /// How many logits those are. 5, as in Wang et al. (2022); fewer than the vocabulary's tokens.
    #[serde(default = "top_of_the_paper")]
    pub copy_top: usize,
    /// Share of the metric that the head's direct effect makes up, or its ablation takes away.
    /// 0.05: a twentieth of the whole, so that a handful of such heads is worth naming.
    pub effect: f32,
    /// How many standard errors that effect must be away from 0, where one is known. 2: about one
    /// head in twenty passes by chance.
    pub errors: f32,
}

impl Default for Thresholds {
    fn default() -> Self {
        Thresholds {
            pattern: 0.4,
            role: 0.3,
            copy: 0.5,
            copy_top: top_of_the_paper(),
            effect: 0.05,
            errors: 2.0,
        }
    }
}

fn top_of_the_paper() -> usize {
    TOP_OF_THE_PAPER
}

/// A number with the name of what was measured: a text, or an [`AttentionPattern`]. Prints as
/// `0.123 ± 0.004`, `n/a` where there was nothing to measure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Score<N = String> {
    /// What was measured.
    pub name: N,
    /// The mean; `None` where there was nothing to measure.
    pub value: Option<f32>,
    /// Its standard error, where known.
    pub std_error: Option<f32>,
}

impl<N> Score<N> {
    pub(crate) fn new(name: impl Into<N>, value: f32, std_error: Option<f32>) -> Self {
        Score {
            name: name.into(),
            value: (!value.is_nan()).then_some(value),
            std_error: std_error.filter(|e| !e.is_nan()),
        }
    }

    /// One cell of a result as a score.
    pub(crate) fn at(of: &Labelled, name: impl Into<N>, index: &[usize]) -> Self {
        let error = of.std_error().map(|errors| errors[index]);
        Score::new(name, of.values()[index], error)
    }

    /// A head's scores in a result `[measure, layer, head]`, by the names of the measures.
    pub(crate) fn of_head<'n, M: Clone + Into<N> + 'n>(
        of: &Labelled,
        names: impl IntoIterator<Item = &'n M>,
        head: Head,
    ) -> Vec<Self> {
        let names = names.into_iter().enumerate();
        names
            .map(|(i, name)| Score::at(of, name.clone(), &[i, head.layer, head.head]))
            .collect()
    }

    fn or_zero(&self) -> f32 {
        self.value.unwrap_or(0.0)
    }

    /// Whether it is so many standard errors away from 0; if none is known, it counts as it is.
    fn is_beyond(&self, errors: f32) -> bool {
        self.or_zero().abs() >= errors * self.std_error.unwrap_or(0.0)
    }
}

impl Score {
    /// A head's scores in a result `[measure, layer, head]`, by the labels of its first axis.
    pub(crate) fn by_label(of: &Labelled, head: Head) -> Vec<Self> {
        Score::of_head(of, &of.axes()[0].labels, head)
    }
}

impl<N> fmt::Display for Score<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_with_error(f, self.value.unwrap_or(f32::NAN), self.std_error)
    }
}

/// Another head with which a head composes strongly.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Partner {
    /// The other head.
    pub head: Head,
    /// Through which input the later of the two reads.
    pub through: Qkv,
    /// The composition score.
    pub score: f32,
}

/// What a head does in a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskEvidence {
    /// The whole model's mean metric.
    pub base: f32,
    /// The total effect: what the metric loses when the head is ablated at all positions.
    pub lost: Score,
    /// What the metric loses when the head is ablated at the task's last position alone.
    pub lost_at_end: Score,
    /// The direct effect: what the metric loses when the head's output is taken out of the final
    /// residual stream alone ([`Each::HeadDirectly`](crate::ablation::Each::HeadDirectly)).
    pub direct: Score,
    /// Attention from the last position to each role.
    pub roles: Vec<Score>,
    /// Where the head reads at the last position, and what it writes.
    pub reads: Option<Reading>,
    /// Which of the roles is the answer, if any.
    pub answer: Option<String>,
    /// Which of the roles is the wrong answer, if any.
    pub rival: Option<String>,
}

impl TaskEvidence {
    /// A figure as a share of the whole model's metric; `None` where that is 0.
    pub fn share(&self, of: &Score) -> Option<f32> {
        of.value
            .map(|v| v / self.base.abs())
            .filter(|v| v.is_finite())
    }
}

/// Where a head reads and what it writes at the task's last position: as its copy score, but with
/// its real output there, which goes alone through `ln_final` and the unembedding.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// The role attended to most from the last position.
    pub role: String,
    /// Share of prompts with the answer among the top logits ([`Thresholds::copy_top`]).
    pub answer: Score,
    /// The same with the head's output negated.
    pub answer_negated: Score,
    /// Share of prompts with the wrong answer among the top logits, where the task names one.
    pub rival: Option<Score>,
    /// The same with the head's output negated.
    pub rival_negated: Option<Score>,
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
    /// The first of the suggestions.
    pub label: HeadLabel,
    /// All labels that the evidence supports: those of the task, then those of patterns, the first
    /// token last; the strongest first among each.
    pub suggestions: Vec<Suggestion>,
    /// Pattern scores, highest first.
    pub patterns: Vec<Score<AttentionPattern>>,
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
    pub(crate) fn labelled(mut self, thresholds: &Thresholds) -> Self {
        let mut found = self.task_labels(thresholds);
        found.extend(self.pattern_labels(thresholds));
        found.retain(|s| s.strength >= 1.0);
        found.sort_by(|a, b| {
            let by_strength = b.strength.total_cmp(&a.strength);
            a.label.rank().cmp(&b.label.rank()).then(by_strength)
        });
        self.label = found.first().map_or(HeadLabel::Unlabelled, |s| s.label);
        self.suggestions = found;
        self
    }

    fn pattern_labels(&self, thresholds: &Thresholds) -> Vec<Suggestion> {
        let suggest = |score: &Score<AttentionPattern>| {
            Some(Suggestion {
                label: HeadLabel::of_pattern(score.name)?,
                strength: score.or_zero() / thresholds.pattern,
                evidence: format!("attention to {}: {score}", score.name),
            })
        };
        self.patterns.iter().filter_map(suggest).collect()
    }

    fn task_labels(&self, thresholds: &Thresholds) -> Vec<Suggestion> {
        let Some(task) = &self.task else {
            return Vec::new();
        };
        let Some(reads) = &task.reads else {
            return Vec::new();
        };
        let attention = task.roles.iter().find(|role| role.name == reads.role);
        let attended = attention.map_or(0.0, Score::or_zero) / thresholds.role;
        let written = |score: Option<&Score>| score.map_or(0.0, Score::or_zero) / thresholds.copy;
        let answer = [&reads.answer, &reads.answer_negated].map(|s| written(Some(s)));
        let rival = [&reads.rival, &reads.rival_negated].map(|s| written(s.as_ref()));
        let share = |score: &Score| {
            if score.is_beyond(thresholds.errors) {
                task.share(score).unwrap_or(0.0) / thresholds.effect
            } else {
                0.0
            }
        };
        let direct = share(&task.direct);
        let is_answer = task.answer.as_ref() == Some(&reads.role);
        let writes_none = answer.iter().chain(&rival).all(|share| *share < 1.0);
        let inhibits = if writes_none && !is_answer {
            share(&task.lost_at_end) - direct
        } else {
            0.0
        };
        let kinds = [
            (HeadLabel::NameMover, answer[0].min(direct)),
            (HeadLabel::NegativeNameMover, answer[1].min(-direct)),
            (HeadLabel::Suppression, rival[1].min(direct)),
            (HeadLabel::SInhibition, inhibits),
        ];
        let suggest = |(label, strength): (HeadLabel, f32)| Suggestion {
            label,
            strength: strength.min(attended),
            evidence: task.to_string(),
        };
        kinds.map(suggest).into()
    }

    /// The score of a pattern, if it was measured.
    pub fn pattern(&self, pattern: AttentionPattern) -> Option<f32> {
        let mut scores = self.patterns.iter();
        scores.find(|score| score.name == pattern)?.value
    }
}

impl fmt::Display for TaskEvidence {
    /// The evidence in numbers, on one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(reads) = &self.reads {
            write!(f, "attends most to {}", reads.role)?;
            if let Some(attention) = self.roles.iter().find(|role| role.name == reads.role) {
                write!(f, " ({attention})")?;
            }
            write!(f, ", on top of what it writes: ")?;
            let on_top = [
                ("the answer", Some(&reads.answer)),
                ("negated the answer", Some(&reads.answer_negated)),
                ("the wrong answer", reads.rival.as_ref()),
                ("negated the wrong answer", reads.rival_negated.as_ref()),
            ];
            let on_top = on_top.into_iter().filter_map(|(what, score)| {
                let share = 100.0 * score?.value?;
                Some(format!("{what} {share:.0} %"))
            });
            write!(f, "{}; ", on_top.collect::<Vec<_>>().join(", "))?;
        }
        let effects = [
            ("direct effect", &self.direct),
            ("lost when ablated at the end", &self.lost_at_end),
            ("everywhere", &self.lost),
        ];
        let effect = |(name, score): (&str, &Score)| match self.share(score) {
            Some(share) => format!("{name} {score} ({:.1} %)", 100.0 * share),
            None => format!("{name} {score}"),
        };
        f.write_str(&effects.map(effect).join(", "))
    }
}
