//! Induction: what a repeated random sequence gains, and the circuit that gains it (Elhage et al.
//! 2021; Olsson et al. 2022, "In-context Learning and Induction Heads").

mod edges;
mod paths;

use std::ops::Range;

use ndarray::ArrayView1;
use serde::{Deserialize, Serialize};

use crate::ablation::{Ablation, CircuitNode, Each, KnockOut, Replacement};
use crate::base::Base;
use crate::component::Head;
use crate::error::{Error, Result};
use crate::heads::attention::pattern_scores;
use crate::heads::patterns::AttentionPattern;
use crate::limits::{Limits, limits_methods};
use crate::metric::{Metric, next_token_loss};
use crate::model::Transformer;
use crate::report::{About, Labelled};
use crate::statistics::{Estimate, mean};
use crate::tasks::RepeatedPrompt;
use crate::weights::Circuits;

/// The metric that the search uses: mean loss of the first repeat minus mean loss where copying
/// predicts the next token.
fn gain_metric(repeated: &[RepeatedPrompt]) -> Metric {
    let repeated = repeated.to_vec();
    Metric::from_fn("gain of the repetition (nats)", move |prompt, logits| {
        let Some(r) = repeated.get(prompt) else {
            return f32::NAN;
        };
        let Ok((_, losses)) = next_token_loss(logits, &r.prompt.tokens) else {
            return f32::NAN;
        };
        let part = |rows: Range<usize>| mean(losses[rows].iter().copied());
        part(r.first()) - part(r.predictable())
    })
}

/// The search for the induction circuit, causally. Candidates are the heads that attend by
/// induction. Each is ablated by itself, and kept by itself while all other candidates are ablated:
/// where several do the same, the first shows nothing, only the second does. Then the paths from
/// every earlier head into the keys of the induction heads are cut, as in path patching: the head is
/// ablated, all other heads frozen, MLPs computed anew, and only the keys of one induction head, or
/// of all of them at once, see what came of it. Heads that attend to the previous token are also cut
/// all at once, and all but one. An edge belongs to the circuit if cutting its sender out of all
/// keys removes enough of the gain ([`InductionThresholds::share`]), or the sender alone keeps
/// enough of it while the
/// other previous-token heads are cut; and if, in one way or the other, the edge makes up as large a
/// share of the receiver's attention to the induction pattern.
#[derive(Clone, Debug)]
pub struct InductionSearch<'m> {
    model: &'m Transformer,
    repeated: Vec<RepeatedPrompt>,
    replacement: Replacement,
    thresholds: InductionThresholds,
    limits: Limits<'m>,
}

/// From where on something belongs to the circuit; each 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct InductionThresholds {
    /// Mean attention to the induction pattern from which on a head is a candidate: 0.3.
    pub attention: f32,
    /// Mean attention to the previous token from which on a head counts as one that attends so:
    /// 0.3.
    pub previous_token: f32,
    /// Share of the gain that an ablation must remove, or a head alone must keep, for a head or
    /// an edge to belong to the circuit: 0.05.
    pub share: f32,
}

impl Default for InductionThresholds {
    fn default() -> Self {
        InductionThresholds {
            attention: 0.3,
            previous_token: 0.3,
            share: 0.05,
        }
    }
}

impl InductionThresholds {
    fn check(&self) -> Result<()> {
        for (what, share) in [
            ("attention", self.attention),
            ("previous token", self.previous_token),
            ("share", self.share),
        ] {
            if !(0.0..=1.0).contains(&share) {
                let what = format!("induction threshold, {what}");
                return Err(Error::invalid(what, share, "0 to 1"));
            }
        }
        Ok(())
    }
}

impl<'m> InductionSearch<'m> {
    /// A search by repeated random sequences.
    ///
    /// # Errors
    /// Same as [`repeated_loss`](crate::in_context::repeated_loss).
    pub fn new(model: &'m Transformer, repeated: &[RepeatedPrompt]) -> Result<Self> {
        RepeatedPrompt::check_all(repeated)?;
        model
            .config()
            .check_predicts("the search for induction heads")?;
        Ok(InductionSearch {
            model,
            repeated: repeated.to_vec(),
            replacement: Replacement::default(),
            thresholds: InductionThresholds::default(),
            limits: Limits::default(),
        })
    }

    /// What takes the place of a head's output; its mean over all positions by default.
    #[must_use]
    pub fn replacement(mut self, replacement: Replacement) -> Self {
        self.replacement = replacement;
        self
    }

    /// From where on a head or an edge belongs to the circuit.
    #[must_use]
    pub fn thresholds(mut self, thresholds: InductionThresholds) -> Self {
        self.thresholds = thresholds;
        self
    }

    limits_methods!('m);

    /// Searches. An observer hears of how many earlier heads the paths have been cut; after its
    /// break those of the others are missing, and the result says it is partial.
    ///
    /// # Errors
    /// [`Error::Invalid`] if a threshold is not within 0 to 1, if a replacement does not fit the
    /// sequences, or if the model gains nothing from the repetition; else same as
    /// [`Sweep::prepare`](crate::Sweep::prepare).
    pub fn run(&self) -> Result<InductionCircuit> {
        self.limits.undivided("a search for an induction circuit")?;
        self.thresholds.check()?;
        let base = Base::new(self.model, &self.repeated)?;
        let mut ablation = Ablation::over(&base, self.replacement.clone())?;
        ablation.limits = self.limits.quiet();
        let study = Study {
            search: self,
            metric: gain_metric(&self.repeated),
            ablation,
        };
        let whole = study.ablation.run(Each::Head, &study.metric)?;
        let gain = Estimate::of(whole.clean.iter().copied());
        if gain.mean.is_nan() || gain.mean <= 0.0 {
            let what = "gain of the repetition (nats)";
            let expected = "a positive one: this model does not use the repetition";
            return Err(Error::invalid(what, gain.mean, expected));
        }
        let patterns = pattern_scores(self.model, base.prompts(), &PATTERNS)?;
        let removed = study.removed(&whole, gain.mean)?;
        let (induction_heads, kept_alone) =
            study.induction_heads(&patterns, &removed, gain.mean)?;
        let keys = study.keys(&induction_heads, gain.mean, &patterns)?;
        let mut circuit = InductionCircuit {
            thresholds: self.thresholds,
            gain,
            patterns,
            copying: Circuits::new(self.model).copying_scores()?,
            removed,
            key_paths: keys.paths,
            previous_token_heads: keys.previous_token_heads,
            previous_token_removed: keys.previous_token_removed,
            edges: keys.edges,
            partial: keys.partial,
            senders_removed: None,
            induction_removed: None,
            induction_heads,
            kept_alone,
        };
        circuit.senders_removed = study.joint(&circuit.senders(), gain.mean)?;
        circuit.induction_removed = study.joint(&circuit.induction_heads, gain.mean)?;
        Ok(circuit)
    }
}

/// The patterns that the search looks at, in the order of [`InductionCircuit::patterns`].
const PATTERNS: [AttentionPattern; 3] = [
    AttentionPattern::PreviousToken,
    AttentionPattern::DuplicateToken,
    AttentionPattern::Induction,
];

/// A head's score of one of them.
fn pattern(scores: &Labelled, pattern: AttentionPattern, head: Head) -> f32 {
    let row = PATTERNS.iter().position(|p| *p == pattern);
    let row = row.expect("the search measures it");
    scores.values()[[row, head.layer, head.head]]
}

/// A head whose output an induction head's keys read, directly or through MLPs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InductionEdge {
    /// The earlier head.
    pub from: Head,
    /// The induction head.
    pub to: Head,
    /// Share of the gain that goes when these paths alone are cut.
    pub share_removed: f32,
    /// Share of the gain that goes when the earlier head is cut out of the keys of all induction
    /// heads at once.
    pub share_removed_from_all: f32,
    /// Share of the gain that is kept when all other heads that attend to the previous token are
    /// cut out of the keys of all induction heads, beyond what is kept with this one cut as well.
    /// NaN if the earlier head does not attend to the previous token.
    pub share_kept_alone: f32,
    /// The induction head's attention to the induction pattern, whole and with the edge cut.
    pub attention: [f32; 2],
    /// The same with all heads that attend to the previous token cut out of its keys, and with all
    /// but this one. NaN if the earlier head is none of them.
    pub attention_alone: [f32; 2],
    /// K-composition score of the weights.
    pub k_composition: f32,
    /// The earlier head's attention to the previous token.
    pub previous_token: f32,
}

/// What the search found.
#[derive(Clone, Debug)]
pub struct InductionCircuit {
    /// From where on something counted.
    pub thresholds: InductionThresholds,
    /// The gain of the whole model in nats, mean and standard error over sequences.
    pub gain: Estimate,
    /// Pattern scores (previous token, duplicate token, induction), `[pattern, layer, head]`.
    pub patterns: Labelled,
    /// Eigenvalue copying scores, `[layer, head]`.
    pub copying: Labelled,
    /// Share of the gain that the ablation of each head removes, `[layer, head]`.
    pub removed: Labelled,
    /// Heads that attend by induction, and either remove enough of the gain by their ablation, or
    /// keep enough of it when all others that attend so are ablated.
    pub induction_heads: Vec<Head>,
    /// For each of them, the share of the gain that it keeps when all the other heads that attend
    /// by induction are ablated, beyond what is left without any of them.
    pub kept_alone: Vec<f32>,
    /// The share of the gain removed by cutting each earlier head out of the keys of each
    /// induction head and, in the last row, of all of them at once,
    /// `[induction head, layer, head]`; NaN where there is no path. `None` without induction heads.
    pub key_paths: Option<Labelled>,
    /// The heads below an induction head that attend to the previous token, whether or not an
    /// edge leads from them.
    pub previous_token_heads: Vec<Head>,
    /// Share of the gain removed by cutting all of them out of the keys of all induction heads.
    pub previous_token_removed: Option<f32>,
    /// The edges that carry enough of the gain: those of the strongest sender first, by receiver.
    pub edges: Vec<InductionEdge>,
    /// Share of the gain removed by ablating all senders of the edges at once.
    pub senders_removed: Option<f32>,
    /// Share of the gain removed by ablating all induction heads at once.
    pub induction_removed: Option<f32>,
    /// Whether an observer ended the search before all paths were cut.
    pub partial: bool,
}

impl InductionCircuit {
    /// The heads whose output reaches the keys of induction heads, each once, in order.
    pub fn senders(&self) -> Vec<Head> {
        let mut heads: Vec<Head> = self.edges.iter().map(|edge| edge.from).collect();
        heads.sort();
        heads.dedup();
        heads
    }
}

/// What the steps of the search share.
struct Study<'s, 'm> {
    search: &'s InductionSearch<'m>,
    metric: Metric,
    ablation: Ablation<'m>,
}

impl<'m> Study<'_, 'm> {
    fn base(&self) -> &Base<'m> {
        self.ablation.base()
    }

    fn removed(&self, whole: &KnockOut, gain: f32) -> Result<Labelled> {
        let about = About {
            title: "Share of the repetition's gain removed by each head's ablation".to_string(),
            caption: format!(
                "One head at all positions replaced by {}.",
                self.search.replacement
            ),
            unit: "share of the gain".to_string(),
            baselines: [("gain (nats)".to_string(), gain)].into(),
            counts: [("prompts".to_string(), whole.clean.len() as u64)].into(),
            ..About::default()
        };
        whole.lost_as(gain, about)
    }

    /// The heads that belong to the circuit, and what each keeps alone.
    fn induction_heads(
        &self,
        patterns: &Labelled,
        removed: &Labelled,
        gain: f32,
    ) -> Result<(Vec<Head>, Vec<f32>)> {
        let InductionThresholds {
            attention, share, ..
        } = self.search.thresholds;
        let attends =
            |head: &Head| pattern(patterns, AttentionPattern::Induction, *head) >= attention;
        let heads = Head::all(self.search.model.config());
        let candidates: Vec<Head> = heads.filter(attends).collect();
        let kept = self.kept_alone(&candidates, gain)?;
        let belongs = |(head, kept): &(Head, f32)| {
            removed.values()[[head.layer, head.head]] >= share || *kept >= share
        };
        Ok(candidates.into_iter().zip(kept).filter(belongs).unzip())
    }

    /// Share of the gain removed by ablating several heads at once.
    fn joint(&self, heads: &[Head], gain: f32) -> Result<Option<f32>> {
        let shares = self.removed_by(&[heads.to_vec()], gain)?;
        Ok((!heads.is_empty()).then_some(shares[0]))
    }

    /// Share of the gain removed by ablating each set of heads.
    fn removed_by(&self, sets: &[Vec<Head>], gain: f32) -> Result<Vec<f32>> {
        let nodes = |heads: &Vec<Head>| heads.iter().copied().map(CircuitNode::from).collect();
        let sets: Vec<Vec<CircuitNode>> = sets.iter().map(nodes).collect();
        let found = self.ablation.run_sets(&sets, &self.metric)?;
        let share = |row: ArrayView1<'_, f32>| mean((&found.base - &row).into_iter()) / gain;
        Ok(found.values.outer_iter().map(share).collect())
    }

    /// The share of the gain that each candidate keeps alone, beyond what is left without any.
    fn kept_alone(&self, candidates: &[Head], gain: f32) -> Result<Vec<f32>> {
        let others = |head: &Head| candidates.iter().copied().filter(|h| h != head).collect();
        let mut sets: Vec<Vec<Head>> = candidates.iter().map(others).collect();
        sets.push(candidates.to_vec());
        let mut removed = self.removed_by(&sets, gain)?;
        let all = removed.pop().expect("the last set is that of all");
        Ok(removed.into_iter().map(|share| all - share).collect())
    }
}
