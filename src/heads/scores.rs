//! What attention heads look at: scores of patterns, distances, entropy and labelled positions
//! (Elhage et al. 2021; Olsson et al. 2022; TransformerLens's `head_detector`).

use ndarray::{Array4, ArrayView2, ArrayViewD, ArrayViewMutD, Axis as Dim};

use crate::component::Head;
use crate::error::{Error, Result};
use crate::heads::patterns::AttentionPattern;
use crate::heads::role::Role;
use crate::hook::{HookPoint, Site};
use crate::model::{Hooks, KeepLogits, Run, RunShape, Transformer, Visit};
use crate::prompt::{IntoPrompts, Prompts};
use crate::report::{About, Absent, Axis, Labelled, labelled_means};

/// Prompts that run at once: bounds the memory, not the result.
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

/// Some numbers of every head on every prompt, `[measure, layer, head, prompt]`.
pub(crate) fn measure(
    model: &Transformer,
    prompts: &Prompts,
    measures: usize,
    mut of: impl FnMut(usize, ArrayView2<'_, f32>) -> Vec<f32> + Send,
) -> Result<Array4<f32>> {
    model.check_prompts(prompts.as_slice())?;
    let config = model.config();
    let shape = (measures, config.n_layers, config.n_heads, prompts.len());
    let mut samples = Array4::from_elem(shape, f32::NAN);
    for (batch, chunk) in prompts.as_slice().chunks(BATCH).enumerate() {
        let reader = PatternReader(|head: Head, sequence, attention: ArrayView2<'_, f32>| {
            let prompt = batch * BATCH + sequence;
            for (i, value) in of(prompt, attention).into_iter().enumerate() {
                samples[[i, head.layer, head.head, prompt]] = value;
            }
        });
        model.run(chunk, reader, &PATTERNS_ONLY)?;
    }
    Ok(samples)
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

/// How much of its attention every head gives to known patterns, `[pattern, layer, head]`: means
/// over the prompts with their standard errors. A prompt where a pattern has no source (no token
/// occurs twice, say) does not count; a pattern without any such prompt is NaN.
///
/// ```
/// use patchlens::{Config, Prompt, Transformer};
/// use patchlens::heads::{AttentionPattern, pattern_scores};
/// let config = Config { n_layers: 2, n_heads: 2, d_model: 8, d_mlp: 16, d_vocab: 11,
/// ..Config::gpt2() };
/// let model = Transformer::random(config, 0)?;
/// let scores = pattern_scores(&model, &Prompt::from([1, 2, 3, 1, 2, 3]),
/// &AttentionPattern::STANDARD)?;
/// assert_eq!(scores.values().shape(), [5, 2, 2]);
/// # Ok::<(), patchlens::Error>(())
/// ```
///
/// # Errors
/// Same as [`Transformer::run`]; [`Error::Invalid`] without a pattern.
pub fn pattern_scores(
    model: &Transformer,
    prompts: impl IntoPrompts,
    patterns: &[AttentionPattern],
) -> Result<Labelled> {
    let prompts = prompts.into_prompts()?;
    let samples = measure(model, &prompts, patterns.len(), |prompt, attention| {
        scores(patterns, attention, &prompts[prompt].tokens)
    })?;
    scores_summary(samples.view().into_dyn(), patterns)
}

/// [`pattern_scores`] and [`attention_entropy`] by the same runs.
pub(crate) fn scores_and_entropy(
    model: &Transformer,
    prompts: &Prompts,
    patterns: &[AttentionPattern],
) -> Result<(Labelled, Labelled)> {
    let n = patterns.len();
    let samples = measure(model, prompts, n + 1, |prompt, attention| {
        let mut values = scores(patterns, attention, &prompts[prompt].tokens);
        values.push(entropy(attention));
        values
    })?;
    let (of_patterns, entropies) = samples.view().split_at(Dim(0), n);
    Ok((
        scores_summary(of_patterns.into_dyn(), patterns)?,
        entropy_summary(entropies.index_axis_move(Dim(0), 0).into_dyn())?,
    ))
}

fn scores(
    patterns: &[AttentionPattern],
    attention: ArrayView2<'_, f32>,
    tokens: &[u32],
) -> Vec<f32> {
    let scores = patterns.iter().map(|p| p.mean_over(attention, tokens));
    scores.collect()
}

fn scores_summary(samples: ArrayViewD<'_, f32>, patterns: &[AttentionPattern]) -> Result<Labelled> {
    let axis = Axis::new("pattern", patterns.iter().map(ToString::to_string));
    let caption = "Mean attention to the pattern, over the destinations where it has a source.";
    summary(
        samples,
        Some(axis),
        about("Pattern scores", caption, "attention"),
    )
}

/// How much attention every head gives to the token a given distance back (0 is the token
/// itself), `[distance, layer, head]`, for distances up to `longest`; mean over destinations,
/// then over prompts. NaN where all prompts are too short.
///
/// # Errors
/// Same as [`Transformer::run`]; [`Error::OutOfRange`] for a distance that no two tokens of a context
/// have.
pub fn attention_by_distance(
    model: &Transformer,
    prompts: impl IntoPrompts,
    longest: usize,
) -> Result<Labelled> {
    let n_ctx = model.config().n_ctx;
    if longest >= n_ctx {
        return Err(Error::OutOfRange {
            at: "attention by distance".to_string(),
            axis: "distance",
            found: longest,
            expected: format!("0..{n_ctx} (n_positions)"),
        });
    }
    let distances: Vec<_> = (0..=longest).map(AttentionPattern::Offset).collect();
    let mut scores = pattern_scores(model, prompts, &distances)?;
    scores.about.title = "Attention by distance".to_string();
    scores.about.caption = "Mean attention to the token so far back.".to_string();
    Ok(scores)
}

/// The entropy of every head's attention in nats, `[layer, head]`: mean over destinations, then
/// over prompts.
///
/// # Errors
/// Same as [`Transformer::run`].
pub fn attention_entropy(model: &Transformer, prompts: impl IntoPrompts) -> Result<Labelled> {
    let prompts = prompts.into_prompts()?;
    let samples = measure(model, &prompts, 1, |_, attention| vec![entropy(attention)])?;
    entropy_summary(samples.index_axis_move(Dim(0), 0).view().into_dyn())
}

fn entropy(attention: ArrayView2<'_, f32>) -> f32 {
    let terms = attention.iter().filter(|p| **p > 0.0);
    let total: f64 = terms.map(|p| -f64::from(*p) * f64::from(*p).ln()).sum();
    (total / attention.nrows() as f64) as f32
}

fn entropy_summary(samples: ArrayViewD<'_, f32>) -> Result<Labelled> {
    let caption = "Mean over destinations of the entropy of the attention to the sources.";
    summary(
        samples,
        None,
        about("Attention entropy", caption, "entropy (nats)"),
    )
}

/// The attention that every head gives from one labelled position (`END`, say) to others (`IO`,
/// `S1`, `S2`), `[src, layer, head]`: means over prompts with standard errors.
///
/// # Errors
/// [`Error::Invalid`] or [`Error::OutOfRange`] for roles that do not fit the prompts; else same
/// as [`Transformer::run`].
pub fn attention_to_roles(
    model: &Transformer,
    prompts: impl IntoPrompts,
    dest: &Role,
    src: &[Role],
) -> Result<Labelled> {
    let prompts = prompts.into_prompts()?;
    dest.check(&prompts)?;
    src.iter().try_for_each(|role| role.check(&prompts))?;
    let samples = measure(model, &prompts, src.len(), |prompt, attention| {
        let row = attention.row(dest.positions[prompt]);
        src.iter().map(|role| row[role.positions[prompt]]).collect()
    })?;
    let axis = Axis::new("src", src.iter().map(|role| role.name.clone()));
    let caption = format!("Attention from {} to labelled positions.", dest.name);
    let about = about("Attention to roles", &caption, "attention");
    summary(samples.view().into_dyn(), Some(axis), about)
}
