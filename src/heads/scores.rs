//! What attention heads look at: scores of patterns, distances, entropy and labelled positions
//! (Elhage et al. 2021; Olsson et al. 2022; TransformerLens's `head_detector`).

use ndarray::{Array4, ArrayView2, ArrayViewD, ArrayViewMutD, Axis as Dim};

use crate::component::Head;
use crate::error::{Error, Result};
use crate::heads::patterns::AttentionPattern;
use crate::hook::{HookPoint, Site};
use crate::limits::Limits;
use crate::model::cost::Hidden;
use crate::model::lane::Lane;
use crate::model::{Footprint, Hooks, KeepLogits, Run, RunShape, Transformer, Visit};
use crate::prompt::{Prompt, Prompts};
use crate::report::{About, Absent, Axis, Labelled, labelled_means};

/// Prompts that run at once at most.
const BATCH: usize = 8;

/// Shows every head's attention `[dest, src]` to a closure of the head and the sequence.
pub(crate) struct PatternReader<F>(pub F);

impl<F: FnMut(Head, usize, ArrayView2<'_, f32>) + Send> Hooks for PatternReader<F> {
    fn wants(&self, at: HookPoint, _sequence: usize) -> bool {
        matches!(at, HookPoint::Block(_, Site::Pattern))
    }

    fn visit(&mut self, at: &Visit<'_>, activation: ArrayViewMutD<'_, f32>) {
        let layer = at.point.layer().expect("a pattern is in a layer");
        for (head, attention) in at.heads.iter().zip(activation.axis_iter(Dim(0))) {
            let attention = attention.into_dimensionality().expect("[dest, src]");
            (self.0)(Head::new(layer, *head), at.sequence, attention);
        }
    }

    fn begin(&mut self, _run: &RunShape<'_>) -> Result<()> {
        Ok(())
    }
}

/// What to run when only patterns are read: no logits.
pub(crate) const PATTERNS_ONLY: Run<'static> = Run {
    cache: None,
    stop_at_layer: None,
    logits: KeepLogits::None,
};

/// Some numbers of every head on every prompt, `[measure, layer, head, prompt]`; of the first prompts
/// only if the observer ends it there.
pub(crate) fn measure(
    model: &Transformer,
    prompts: &Prompts,
    limits: &Limits<'_>,
    measures: usize,
    mut of: impl FnMut(usize, ArrayView2<'_, f32>) -> Vec<f32> + Send,
) -> Result<Array4<f32>> {
    model.check_prompts(prompts.as_slice())?;
    let config = model.config();
    let shape = (measures, config.n_layers, config.n_heads, prompts.len());
    let mut samples = Array4::from_elem(shape, f32::NAN);
    let mut done = 0;
    for batch in batches_within(model, prompts.as_slice(), limits.memory)? {
        let reader = PatternReader(|head: Head, sequence, attention: ArrayView2<'_, f32>| {
            let prompt = done + sequence;
            for (i, value) in of(prompt, attention).into_iter().enumerate() {
                samples[[i, head.layer, head.head, prompt]] = value;
            }
        });
        model.run(batch, reader, &PATTERNS_ONLY)?;
        done += batch.len();
        if limits.report(done, prompts.len(), "prompts").is_break() {
            break;
        }
    }
    Ok(samples.slice_axis(Dim(3), (..done).into()).to_owned())
}

/// Prompts in turn, as many at a time as their runs with patterns shown fit into the memory, up to
/// [`BATCH`].
fn batches_within<'p>(
    model: &Transformer,
    prompts: &'p [Prompt],
    limit: u64,
) -> Result<Vec<&'p [Prompt]>> {
    let pattern = |at: HookPoint| {
        let here = matches!(at, HookPoint::Block(_, Site::Pattern));
        here.then(Footprint::default)
    };
    let bytes = |prompt: &Prompt| {
        let lane = Lane::full(&prompt.tokens, Vec::new());
        lane.cost(model.config(), Hidden::InPlace, &pattern).bytes
    };
    let mut batches = Vec::new();
    let (mut start, mut used) = (0, 0);
    for (i, prompt) in prompts.iter().enumerate() {
        let least = bytes(prompt);
        if least > limit {
            return Err(Error::MemoryLimit { limit, least });
        }
        if i > start && (used + least > limit || i == start + BATCH) {
            batches.push(&prompts[start..i]);
            (start, used) = (i, 0);
        }
        used += least;
    }
    batches.push(&prompts[start..]);
    Ok(batches)
}

/// Means over prompts, with standard errors where there are several, of
/// `[measure, layer, head, prompt]`, or without a measure axis.
pub(crate) fn summary(
    samples: ArrayViewD<'_, f32>,
    measures: Option<Axis>,
    mut about: About,
) -> Result<Labelled> {
    let [.., layers, heads, prompts] = *samples.shape() else {
        unreachable!("samples are of layers, heads and prompts");
    };
    let axes = measures
        .into_iter()
        .chain([Axis::layers(layers), Axis::heads(heads)]);
    about.counts.insert("prompts".to_string(), prompts as u64);
    let summary = labelled_means(samples, axes.collect(), about)?;
    // A NaN among samples is one that is not there.
    let absent = summary
        .values()
        .mapv(|v| v.is_nan().then_some(Absent::NoSamples));
    summary.with_absent(absent)
}

pub(crate) fn about(title: &str, caption: &str, unit: &str) -> About {
    About {
        title: title.to_string(),
        caption: caption.to_string(),
        unit: unit.to_string(),
        ..About::default()
    }
}

/// Scores of patterns and entropies, by the same runs.
pub(crate) fn scores_and_entropy(
    model: &Transformer,
    prompts: &Prompts,
    patterns: &[AttentionPattern],
    limits: &Limits<'_>,
) -> Result<(Labelled, Labelled)> {
    let n = patterns.len();
    let samples = measure(model, prompts, limits, n + 1, |prompt, attention| {
        let mut values = scores(patterns, attention, &prompts[prompt].tokens);
        values.push(entropy(attention));
        values
    })?;
    let (of_patterns, entropies) = samples.view().split_at(Dim(0), n);
    Ok((
        scores_summary(of_patterns.into_dyn(), patterns)?,
        summary(
            entropies.index_axis_move(Dim(0), 0).into_dyn(),
            None,
            entropy_about(),
        )?,
    ))
}

pub(crate) fn scores(
    patterns: &[AttentionPattern],
    attention: ArrayView2<'_, f32>,
    tokens: &[u32],
) -> Vec<f32> {
    let scores = patterns.iter().map(|p| p.mean_over(attention, tokens));
    scores.collect()
}

fn scores_summary(samples: ArrayViewD<'_, f32>, patterns: &[AttentionPattern]) -> Result<Labelled> {
    let axis = Axis::new("pattern", patterns.iter().map(ToString::to_string));
    summary(samples, Some(axis), pattern_about())
}

pub(crate) fn pattern_about() -> About {
    let caption = "Mean attention to the pattern, over the destinations where it has a source.";
    about("Pattern scores", caption, "attention")
}

pub(crate) fn entropy(attention: ArrayView2<'_, f32>) -> f32 {
    let terms = attention.iter().filter(|p| **p > 0.0);
    let total: f64 = terms.map(|p| -f64::from(*p) * f64::from(*p).ln()).sum();
    (total / attention.nrows() as f64) as f32
}

pub(crate) fn entropy_about() -> About {
    let caption = "Mean over destinations of the entropy of the attention to the sources.";
    about("Attention entropy", caption, "entropy (nats)")
}
