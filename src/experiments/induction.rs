//! Induction: what a repeated random sequence gains, and the circuit that gains it (Elhage et al.
//! 2021; Olsson et al. 2022, "In-context Learning and Induction Heads").

use ndarray::{Array3, ArrayD, ArrayView2, Axis as Dim};
use serde::{Deserialize, Serialize};

use super::circuits::{Circuits, Composition, Head};
use super::head_ablation::{HeadAblation, Replacement, ablate, ablation_cells, mean_at, per_head};
use super::head_scores::{AttentionPattern, PatternReader, pattern_scores};
use super::repeated_loss::{check, first_rows, mean};
use crate::cache::Selection;
use crate::error::{Error, Result};
use crate::hook::Site;
use crate::intervention::{Edit, Intervention, Interventions, Select, Target, Values};
use crate::metric::{Metric, next_token_loss};
use crate::model::{KeepLogits, Run, Transformer};
use crate::prompt::Prompt;
use crate::report::{About, Axis, Labelled};
use crate::sweep::{Cell, DEFAULT_MEMORY_LIMIT, Sweep};
use crate::tasks::RepeatedPrompt;

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
        mean(&losses[first_rows(r)]) - mean(&losses[r.predictable()])
    })
}

/// Settings of the search for the induction circuit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct InductionSearch {
    /// What takes the place of a head's output.
    pub ablation: Replacement,
    /// Mean attention to the induction pattern from which on a head is a candidate.
    pub min_attention: f32,
    /// Share of the gain that an ablation must remove for a head or an edge to belong to the
    /// circuit.
    pub min_share: f32,
    /// Bound of the sweeps' working memory, in bytes.
    pub memory_limit: u64,
}

impl Default for InductionSearch {
    fn default() -> Self {
        InductionSearch {
            ablation: Replacement::Mean,
            min_attention: 0.3,
            min_share: 0.05,
            memory_limit: DEFAULT_MEMORY_LIMIT,
        }
    }
}

/// A head whose output an induction head's keys read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InductionEdge {
    /// The earlier head.
    pub from: Head,
    /// The induction head.
    pub to: Head,
    /// Share of the gain that goes when the earlier head's output is taken out of the induction
    /// head's key input, and of nothing else.
    pub share_removed: f32,
    /// The induction head's attention to the induction pattern, whole and with the edge cut.
    pub attention: [f32; 2],
    /// K-composition score of the weights.
    pub k_composition: f32,
    /// The earlier head's attention to the previous token.
    pub previous_token: f32,
}

/// What the search found.
#[derive(Clone, Debug)]
pub struct InductionCircuit {
    /// The gain of the whole model in nats, mean and standard error over sequences.
    pub gain: (f32, f32),
    /// Pattern scores (previous token, duplicate token, induction), `[pattern, layer, head]`.
    pub patterns: Labelled,
    /// Eigenvalue copying scores, `[layer, head]`.
    pub copying: Labelled,
    /// Share of the gain that the ablation of each head removes, `[layer, head]`.
    pub removed: Labelled,
    /// Heads that attend by induction and whose ablation removes enough of the gain.
    pub induction_heads: Vec<Head>,
    /// For each induction head, the share of the gain removed by cutting each earlier head out of
    /// its keys, `[induction head, layer, head]`; NaN where there is no path. `None` without
    /// induction heads.
    pub key_paths: Option<Labelled>,
    /// The edges that carry enough of the gain, strongest first.
    pub edges: Vec<InductionEdge>,
    /// Share of the gain removed by ablating all senders of the edges at once.
    pub senders_removed: Option<f32>,
    /// Share of the gain removed by ablating all induction heads at once.
    pub induction_removed: Option<f32>,
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

/// Finds the induction circuit causally: every head is ablated by itself; those that attend by
/// induction and carry the gain are the induction heads; then every earlier head's output is taken
/// out of each induction head's key input alone (a path patch of `hook_k_input`), and the heads
/// whose absence removes enough of the gain are the senders.
///
/// # Errors
/// As [`repeated_loss`](crate::repeated_loss); [`Error::Invalid`] if the model gains nothing from the repetition.
pub fn induction_circuit(
    model: &Transformer,
    repeated: &[RepeatedPrompt],
    search: InductionSearch,
) -> Result<InductionCircuit> {
    check(repeated)?;
    let prompts: Vec<Prompt> = repeated.iter().map(Prompt::from).collect();
    let study = Study {
        model,
        metric: gain_metric(repeated),
        sweep: Sweep::new(model, &prompts)?.memory_limit(search.memory_limit),
        search,
    };
    let whole = ablate(
        model,
        &prompts,
        &study.metric,
        search.ablation,
        search.memory_limit,
    )?;
    let gain = whole.base_mean();
    if gain.0 <= 0.0 {
        let expected = "a positive one: this model does not use the repetition";
        return Err(Error::invalid(
            "gain of the repetition (nats)",
            gain.0,
            expected,
        ));
    }
    let kinds = [
        AttentionPattern::PreviousToken,
        AttentionPattern::DuplicateToken,
        AttentionPattern::Induction,
    ];
    let patterns = pattern_scores(model, &prompts, &kinds)?;
    let removed = study.removed(&whole, gain.0)?;
    let is_induction = |head: &Head| {
        patterns.values()[[2, head.layer, head.head]] >= search.min_attention
            && removed.values()[[head.layer, head.head]] >= search.min_share
    };
    let induction_heads: Vec<Head> = Head::all(model.config()).filter(is_induction).collect();
    let key_paths = study.key_paths(&induction_heads, gain.0)?;
    let edges = study.edges(&induction_heads, key_paths.as_ref(), &patterns)?;
    let mut circuit = InductionCircuit {
        gain,
        patterns,
        copying: Circuits::new(model).copying_scores()?,
        removed,
        key_paths,
        edges,
        senders_removed: None,
        induction_removed: None,
        induction_heads,
    };
    circuit.senders_removed = study.joint(&circuit.senders(), gain.0)?;
    circuit.induction_removed = study.joint(&circuit.induction_heads, gain.0)?;
    Ok(circuit)
}

/// What the steps of the search share.
struct Study<'m> {
    model: &'m Transformer,
    sweep: Sweep<'m>,
    metric: Metric,
    search: InductionSearch,
}

impl Study<'_> {
    fn removed(&self, whole: &HeadAblation, gain: f32) -> Result<Labelled> {
        let about = About {
            title: "Share of the repetition's gain removed by each head's ablation".to_string(),
            caption: format!("{:?} ablation at all positions.", self.search.ablation),
            unit: "share of the gain".to_string(),
            baselines: [("gain (nats)".to_string(), gain)].into(),
            ..About::default()
        };
        let shares = (&whole.base - &whole.ablated) / gain;
        per_head(self.model, shares, about)
    }

    /// Share of the gain removed by ablating several heads at once.
    fn joint(&self, heads: &[Head], gain: f32) -> Result<Option<f32>> {
        if heads.is_empty() {
            return Ok(None);
        }
        let edits = self
            .search
            .ablation
            .edits(self.model, self.sweep.prompts(), Site::Z)?;
        let cell = ablation_cells(heads, &edits, &Select::All).concat();
        let found = self.sweep.run(&[cell], &self.metric)?;
        let lost = &found.base - &found.values.row(0);
        Ok(Some(mean(&lost.to_vec()) / gain))
    }

    /// `[induction head, layer, head]`, see [`InductionCircuit::key_paths`].
    fn key_paths(&self, receivers: &[Head], gain: f32) -> Result<Option<Labelled>> {
        let config = self.model.config();
        let Some(last) = receivers.iter().map(|head| head.layer).max() else {
            return Ok(None);
        };
        let shape = (receivers.len(), config.n_layers, config.n_heads);
        let mut shares = Array3::from_elem(shape, f32::NAN);
        for layer in 0..last {
            let senders = self.negated_outputs(layer)?;
            let later = receivers
                .iter()
                .enumerate()
                .filter(|(_, to)| to.layer > layer);
            let paths: Vec<(usize, Head, usize)> = later
                .flat_map(|(i, to)| (0..config.n_heads).map(move |head| (i, *to, head)))
                .collect();
            let cells: Vec<Cell> = paths
                .iter()
                .map(|(_, to, head)| vec![key_edit(*to, &senders[*head])])
                .collect();
            let found = self.sweep.run(&cells, &self.metric)?;
            for ((i, _, head), row) in paths.into_iter().zip(found.values.outer_iter()) {
                shares[[i, layer, head]] = mean(&(&found.base - &row).to_vec()) / gain;
            }
        }
        let axes = vec![
            Axis::new("induction head", receivers.iter().map(ToString::to_string)),
            Axis::layers(shape.1),
            Axis::heads(shape.2),
        ];
        let about = About {
            title: "Paths into the keys of induction heads".to_string(),
            caption: "Share of the gain removed when a head's output is taken out of the key \
                      input of an induction head."
                .to_string(),
            unit: "share of the gain".to_string(),
            ..About::default()
        };
        Labelled::new(shares, axes, about).map(Some)
    }

    /// For each head of a layer, what takes its output away where it is added: minus its output,
    /// plus its mean under mean ablation; `[pos, 1, d_model]` of every prompt.
    fn negated_outputs(&self, layer: usize) -> Result<Vec<Values>> {
        let (model, prompts) = (self.model, self.sweep.prompts());
        let point = Site::Result.at(layer);
        let selection = Selection::points([point]);
        let run = Run {
            cache: Some(&selection),
            stop_at_layer: Some(layer + 1),
            logits: KeepLogits::None,
        };
        let caches = model.run(prompts, (), &run)?.caches;
        let means = match self.search.ablation {
            Replacement::Mean => Some(mean_at(model, prompts, layer, Site::Result)?),
            Replacement::Zero => None,
        };
        let of_head = |head: usize| {
            let arrays: Result<Vec<ArrayD<f32>>> = caches
                .iter()
                .map(|cache| {
                    let output = cache.get(point)?.index_axis_move(Dim(1), head).mapv(|v| -v);
                    let output = match &means {
                        Some(means) => output + means.row(head),
                        None => output,
                    };
                    Ok(output.insert_axis(Dim(1)))
                })
                .collect();
            Ok(Values::arrays(arrays?))
        };
        (0..model.config().n_heads).map(of_head).collect()
    }

    fn edges(
        &self,
        receivers: &[Head],
        key_paths: Option<&Labelled>,
        patterns: &Labelled,
    ) -> Result<Vec<InductionEdge>> {
        let Some(key_paths) = key_paths else {
            return Ok(Vec::new());
        };
        let composition = Circuits::new(self.model).composition_scores(Composition::K)?;
        let mut edges = Vec::new();
        for (index, share) in key_paths.values().indexed_iter() {
            let (to, from) = (receivers[index[0]], Head::new(index[1], index[2]));
            // NaN, where there is no path, is never enough.
            if *share >= self.search.min_share {
                let pattern = |i: usize, h: Head| patterns.values()[[i, h.layer, h.head]];
                edges.push(InductionEdge {
                    from,
                    to,
                    share_removed: *share,
                    attention: [pattern(2, to), self.attention_without(from, to)?],
                    k_composition: composition.values()
                        [&[from.layer, from.head, to.layer, to.head][..]],
                    previous_token: pattern(0, from),
                });
            }
        }
        edges.sort_by(|a, b| b.share_removed.total_cmp(&a.share_removed));
        Ok(edges)
    }

    /// The induction head's attention to the induction pattern with an edge cut.
    fn attention_without(&self, from: Head, to: Head) -> Result<f32> {
        let prompts = self.sweep.prompts();
        let cell = [key_edit(to, &self.negated_outputs(from.layer)?[from.head])];
        let mut scores = Vec::new();
        let reader = PatternReader(
            |[layer, head]: [usize; 2], i: usize, attention: ArrayView2<'_, f32>| {
                if Head::new(layer, head) == to {
                    scores.push(AttentionPattern::Induction.score(attention, &prompts[i].tokens));
                }
            },
        );
        let run = Run {
            stop_at_layer: Some(to.layer + 1),
            logits: KeepLogits::None,
            ..Run::default()
        };
        self.model
            .run(prompts, (Interventions::new(&cell[..]), reader), &run)?;
        Ok(mean(&scores))
    }
}

/// Adds values to what a head's keys read.
fn key_edit(to: Head, values: &Values) -> Intervention {
    let target = Target::new(Site::KInput.at(to.layer)).at_heads(to.head);
    Intervention::new(target, Edit::Add(values.clone()))
}
