//! The report on all heads of a model: one card each, as table, JSON and page.

use std::fmt;

use askama::Template;
use ndarray::ArrayView2;
use serde::{Deserialize, Serialize};

use crate::ablation::Replacement;
use crate::component::{Head, Qkv};
use crate::error::{Error, Result};
use crate::heads::card::{HeadCard, HeadLabel, Partner, Score, Thresholds};
use crate::heads::copy_scores::CopyScores;
use crate::heads::patterns::AttentionPattern;
use crate::heads::scores::{PATTERNS_ONLY, PatternReader, scores_and_entropy};
use crate::heads::task::{HeadTask, MeasuredTask, TaskSettings};
use crate::limits::{Limits, limits_methods};
use crate::model::Transformer;
use crate::prompt::{IntoPrompts, Prompt, Prompts};
use crate::report::{Labelled, legible};
use crate::weights::Circuits;

/// What a head report is made from; [`HeadReporter::run`] makes it.
#[derive(Clone, Debug)]
pub struct HeadReporter<'m> {
    model: &'m Transformer,
    prompts: Prompts,
    task: Option<HeadTask>,
    copy_tokens: Vec<u32>,
    bos: Option<u32>,
    replacement: Replacement,
    thresholds: Thresholds,
    partners: usize,
    limits: Limits<'m>,
}

impl<'m> HeadReporter<'m> {
    /// A report by patterns and weights, unless a task or copy tokens are set. The patterns
    /// are those of the prompts: repeated random sequences, say, so that tokens recur.
    ///
    /// # Errors
    /// [`Error::Prompt`] for prompts that are none.
    pub fn new(model: &'m Transformer, prompts: impl IntoPrompts) -> Result<Self> {
        Ok(HeadReporter {
            model,
            prompts: prompts.into_prompts()?,
            task: None,
            copy_tokens: Vec::new(),
            bos: None,
            replacement: Replacement::default(),
            thresholds: Thresholds::default(),
            partners: 3,
            limits: Limits::default(),
        })
    }

    /// Measures what the heads do in a task, too.
    #[must_use]
    pub fn task(mut self, task: HeadTask) -> Self {
        self.task = Some(task);
        self
    }

    /// Measures the copy scores of these tokens, too, each after BOS if there is one.
    #[must_use]
    pub fn copy_tokens(mut self, tokens: Vec<u32>, bos: Option<u32>) -> Self {
        (self.copy_tokens, self.bos) = (tokens, bos);
        self
    }

    /// What takes the place of a head that is knocked out; its mean over all positions by default.
    #[must_use]
    pub fn replacement(mut self, replacement: Replacement) -> Self {
        self.replacement = replacement;
        self
    }

    /// From where on a measurement counts as evidence.
    #[must_use]
    pub fn thresholds(mut self, thresholds: Thresholds) -> Self {
        self.thresholds = thresholds;
        self
    }

    /// How many partners are listed per head; 3 by default.
    #[must_use]
    pub fn partners(mut self, partners: usize) -> Self {
        self.partners = partners;
        self
    }

    limits_methods!('m);

    /// Measures all heads and labels them. An observer hears how far the knock-outs of heads are,
    /// one study of them after the other.
    ///
    /// # Errors
    /// Same as [`AttentionScores::run`](crate::heads::AttentionScores::run), [`CopyScores::run`] and
    /// [`Ablation::run`](crate::ablation::Ablation::run); [`Error::Invalid`] if the answer is none of
    /// the roles, or if [`Thresholds::copy_top`] is 0 or the whole vocabulary.
    pub fn run(&self) -> Result<HeadReport> {
        self.limits.undivided("a report on heads")?;
        let model = self.model;
        let top = self.thresholds.copy_top;
        let circuits = Circuits::new(model);
        let composition = Qkv::ALL
            .into_iter()
            .map(|kind| Ok((kind, circuits.composition_scores(kind)?)));
        let copies = if self.copy_tokens.is_empty() {
            None
        } else {
            let mut study = CopyScores::of_tokens(model, &self.copy_tokens, self.bos)?;
            study.limits = self.limits.quiet();
            Some(study.top(top).run()?.score)
        };
        let task = |task: &HeadTask| {
            let settings = TaskSettings {
                replacement: self.replacement.clone(),
                top,
                limits: self.limits.clone(),
            };
            MeasuredTask::new(model, task, settings)
        };
        let limits = self.limits.quiet();
        let (patterns, entropy) =
            scores_and_entropy(model, &self.prompts, &AttentionPattern::STANDARD, &limits)?;
        let measured = Measured {
            patterns,
            entropy,
            eigenvalue_copying: circuits.copying_scores()?,
            copies,
            composition: composition.collect::<Result<_>>()?,
            task: self.task.as_ref().map(task).transpose()?,
        };
        let card = |head| {
            let card = measured.card(head, model, self.partners);
            card.labelled(&self.thresholds)
        };
        let metric = |task: &HeadTask| task.metric.name().to_string();
        Ok(HeadReport {
            metric: self.task.as_ref().map(metric),
            base: measured.task.as_ref().map(|task| task.base),
            thresholds: self.thresholds,
            partial: measured.task.as_ref().is_some_and(|task| task.partial),
            cards: Head::all(model.config()).map(card).collect(),
        })
    }
}

/// What was measured, for all heads.
struct Measured {
    patterns: Labelled,
    entropy: Labelled,
    eigenvalue_copying: Labelled,
    copies: Option<Labelled>,
    composition: Vec<(Qkv, Labelled)>,
    task: Option<MeasuredTask>,
}

impl Measured {
    fn card(&self, head: Head, model: &Transformer, partners: usize) -> HeadCard {
        let index = [head.layer, head.head];
        let kinds = self.composition.iter();
        let mut others: Vec<Partner> = kinds
            .flat_map(|(kind, scores)| partners_of(model, head, *kind, scores))
            .collect();
        // A circuit that is zero composes with nothing.
        others.retain(|partner| !partner.score.is_nan());
        others.sort_by(|a, b| b.score.total_cmp(&a.score));
        others.truncate(partners);
        let mut patterns = Score::of_head(&self.patterns, &AttentionPattern::STANDARD, head);
        patterns.sort_by(|a, b| order(b.value).total_cmp(&order(a.value)));
        let mut copy = self
            .copies
            .iter()
            .flat_map(|copies| Score::by_label(copies, head));
        HeadCard {
            head,
            label: HeadLabel::Unlabelled,
            suggestions: Vec::new(),
            patterns,
            entropy: Score::at(&self.entropy, "entropy", &index),
            eigenvalue_copying: Some(self.eigenvalue_copying.values()[index])
                .filter(|v| !v.is_nan()),
            copy: copy.next(),
            negative_copy: copy.next(),
            partners: others,
            task: self.task.as_ref().map(|task| task.of(head)),
        }
    }
}

/// A missing score ranks last.
fn order(value: Option<f32>) -> f32 {
    value.unwrap_or(f32::NEG_INFINITY)
}

/// The heads that compose with a head, earlier and later ones.
fn partners_of(model: &Transformer, head: Head, kind: Qkv, scores: &Labelled) -> Vec<Partner> {
    let other = |other: Head| {
        let (from, to) = if other.layer < head.layer {
            (other, head)
        } else {
            (head, other)
        };
        let score = scores.values()[&[from.layer, from.head, to.layer, to.head][..]];
        Partner {
            head: other,
            through: kind,
            score,
        }
    };
    let others = Head::all(model.config()).filter(|o| o.layer != head.layer);
    others.map(other).collect()
}

/// The cards of all heads. Prints as a table; serde makes JSON of it; [`HeadReport::to_html`]
/// makes one page with the attention patterns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeadReport {
    /// The task's metric, where there was a task.
    pub metric: Option<String>,
    /// The whole model's mean metric.
    pub base: Option<f32>,
    /// What counted as evidence.
    pub thresholds: Thresholds,
    /// Whether an observer ended the knock-outs early: then some of their scores are missing.
    #[serde(default)]
    pub partial: bool,
    /// One card per head, layer by layer.
    pub cards: Vec<HeadCard>,
}

#[derive(Template)]
#[template(path = "heads.html")]
struct HeadsPage<'a> {
    title: String,
    data: PageData<'a>,
}

#[derive(Serialize)]
struct PageData<'a> {
    report: &'a HeadReport,
    tokens: Vec<String>,
    /// By card, `[dest * src]`.
    attention: Vec<Vec<f32>>,
    heads_per_layer: usize,
}

impl HeadReport {
    /// The heads with a label, among the labels that their evidence supports.
    pub fn with_label(&self, label: HeadLabel) -> Vec<Head> {
        let has = |card: &&HeadCard| card.suggestions.iter().any(|s| s.label == label);
        self.cards
            .iter()
            .filter(has)
            .map(|card| card.head)
            .collect()
    }

    /// The card of a head, if the model has it.
    pub fn card(&self, head: Head) -> Option<&HeadCard> {
        self.cards.iter().find(|card| card.head == head)
    }

    /// One self-contained page: the table, and each head's attention on one prompt.
    ///
    /// # Errors
    /// Same as [`Transformer::run`]; [`Error::Render`] from the template engine.
    pub fn to_html(&self, title: &str, model: &Transformer, prompt: &Prompt) -> Result<String> {
        let mut attention = vec![Vec::new(); self.cards.len()];
        let reader = PatternReader(|head: Head, _, pattern: ArrayView2<'_, f32>| {
            if let Some(card) = self.cards.iter().position(|card| card.head == head) {
                attention[card] = pattern.iter().copied().collect();
            }
        });
        model.run(prompt, reader, &PATTERNS_ONLY)?;
        let page = HeadsPage {
            title: legible(title),
            data: PageData {
                report: self,
                tokens: prompt.labels.iter().map(|label| legible(label)).collect(),
                attention,
                heads_per_layer: model.config().n_heads,
            },
        };
        page.render().map_err(|error| Error::render("html", error))
    }
}

impl fmt::Display for HeadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:6}{:20}", "head", "label")?;
        for pattern in AttentionPattern::STANDARD {
            let name = pattern.to_string();
            write!(f, "{:>10}", name.trim_end_matches(" token"))?;
        }
        let columns = ["copy", "−copy", "direct*", "at end", "lost"].map(|c| format!("{c:>8}"));
        writeln!(f, "{}  composes with", columns.concat())?;
        let number = |value: Option<f32>| value.map_or("n/a".to_string(), |v| format!("{v:.2}"));
        for card in &self.cards {
            write!(f, "{:6}{:20}", card.head, card.label)?;
            for pattern in AttentionPattern::STANDARD {
                write!(f, "{:>10}", number(card.pattern(pattern)))?;
            }
            let copies = [&card.copy, &card.negative_copy];
            for score in copies.map(|copy| copy.as_ref().and_then(|c| c.value)) {
                write!(f, "{:>8}", number(score))?;
            }
            let task = card.task.as_ref();
            for score in [
                task.and_then(|t| t.direct.value),
                task.and_then(|t| t.lost_at_end.value),
                task.and_then(|t| t.lost.value),
            ] {
                write!(f, "{:>8}", number(score))?;
            }
            let partner = |p: &Partner| format!("{} {} {:.2}", p.head, p.through, p.score);
            let partners: Vec<String> = card.partners.iter().map(partner).collect();
            writeln!(f, "  {}", partners.join(", "))?;
        }
        self.legend(f)
    }
}

impl HeadReport {
    /// What the columns are.
    fn legend(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let top = self.thresholds.copy_top;
        writeln!(
            f,
            "\nprevious to first: mean attention, 0 to 1; copy, −copy: share of tokens that the head's \
             output has among the {top} highest logits, with the sign flipped for −copy"
        )?;
        let Some(metric) = &self.metric else {
            return Ok(());
        };
        writeln!(
            f,
            "direct*, at end, lost: what the {metric} loses when the head's output is ablated (as set, by \
             zeros or by its mean over all positions of all prompts); positive where the head helps\n  \
             direct*  taken out of the last resid_post alone; the final LayerNorm is computed anew and \
             reacts,\n           so heads that write something else can have an effect here that \
             attribution with a frozen scale lacks\n  \
             at end   ablated at the last position\n  \
             lost     ablated at all positions"
        )
    }
}
