//! What attention heads look at: scores of patterns, distances, entropy and labelled positions
//! (Elhage et al. 2021; Olsson et al. 2022; TransformerLens's `head_detector`).

use std::collections::BTreeMap;
use std::fmt;

use ndarray::{Array2, Array4, ArrayView2, ArrayViewMutD, Axis as Dim};

use crate::ablation::heads::Place;
use crate::error::{Error, Result};
use crate::hook::{HookPoint, Site};
use crate::intervention::Select;
use crate::model::{Hooks, KeepLogits, Run, RunShape, Transformer, Visit};
use crate::prompt::Prompt;
use crate::report::{About, Axis, Labelled};
use crate::statistics::over_first;

/// Prompts that run at once: bounds the memory, not the result.
const BATCH: usize = 8;

/// Where a head of a known kind looks, given the tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AttentionPattern {
    /// The token before.
    PreviousToken,
    /// The token itself.
    CurrentToken,
    /// The first token (BOS, where there is one); the first row, which has no choice, is left out.
    FirstToken,
    /// Every earlier occurrence of the same token.
    DuplicateToken,
    /// Every token that follows an earlier occurrence of the same token.
    Induction,
    /// The token this far back: on a random sequence of `n` tokens given twice, `Offset(n)` is
    /// the duplicate-token stripe and `Offset(n - 1)` the induction stripe.
    Offset(usize),
}

impl fmt::Display for AttentionPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AttentionPattern::PreviousToken => f.write_str("previous token"),
            AttentionPattern::CurrentToken => f.write_str("current token"),
            AttentionPattern::FirstToken => f.write_str("first token"),
            AttentionPattern::DuplicateToken => f.write_str("duplicate token"),
            AttentionPattern::Induction => f.write_str("induction"),
            AttentionPattern::Offset(distance) => write!(f, "offset {distance}"),
        }
    }
}

impl AttentionPattern {
    /// The kinds that need no parameter.
    pub const STANDARD: [AttentionPattern; 5] = [
        AttentionPattern::PreviousToken,
        AttentionPattern::CurrentToken,
        AttentionPattern::FirstToken,
        AttentionPattern::DuplicateToken,
        AttentionPattern::Induction,
    ];

    /// Whether `src` is where such a head looks from `dest`.
    fn holds(self, tokens: &[u32], dest: usize, src: usize) -> bool {
        match self {
            AttentionPattern::PreviousToken => src + 1 == dest,
            AttentionPattern::CurrentToken => src == dest,
            AttentionPattern::FirstToken => src == 0 && dest > 0,
            AttentionPattern::DuplicateToken => src < dest && tokens[src] == tokens[dest],
            AttentionPattern::Induction => {
                0 < src && src <= dest && tokens[src - 1] == tokens[dest]
            }
            AttentionPattern::Offset(distance) => src + distance == dest,
        }
    }

    /// The pattern as a matrix of zeros and ones `[dest, src]`. For the previous token,
    /// duplicate tokens and induction these are TransformerLens's detection patterns.
    pub fn matrix(self, tokens: &[u32]) -> Array2<f32> {
        let n = tokens.len();
        Array2::from_shape_fn((n, n), |(dest, src)| {
            f32::from(u8::from(self.holds(tokens, dest, src)))
        })
    }

    /// The attention that a head gives to the pattern: the mean, over the destinations where the
    /// pattern has a source at all, of the attention to its sources; NaN where there is none.
    ///
    /// # Errors
    /// [`Error::Shape`] if `attention` `[dest, src]` has not as many rows and columns as there are
    /// tokens.
    pub fn score(self, attention: ArrayView2<'_, f32>, tokens: &[u32]) -> Result<f32> {
        let n = tokens.len();
        if attention.dim() == (n, n) {
            return Ok(self.mean_over(attention, tokens));
        }
        Err(Error::Shape {
            at: "attention".to_string(),
            found: attention.shape().to_vec(),
            expected: format!("[{n}, {n}] for {n} tokens"),
        })
    }

    /// As [`AttentionPattern::score`], of attention that fits.
    pub(crate) fn mean_over(self, attention: ArrayView2<'_, f32>, tokens: &[u32]) -> f32 {
        let mut rows = 0;
        let mut total = 0.0_f64;
        for (dest, row) in attention.outer_iter().enumerate() {
            let mut sources = (0..=dest)
                .filter(|src| self.holds(tokens, dest, *src))
                .peekable();
            rows += usize::from(sources.peek().is_some());
            total += sources.map(|src| f64::from(row[src])).sum::<f64>();
        }
        (total / rows as f64) as f32
    }
}

/// Shows every head's attention `[dest, src]` to a closure of layer, head and sequence.
pub(crate) struct PatternReader<F>(pub F);

impl<F: FnMut([usize; 2], usize, ArrayView2<'_, f32>) + Send> Hooks for PatternReader<F> {
    fn wants(&self, at: HookPoint, _sequence: usize) -> bool {
        matches!(at, HookPoint::Block(_, Site::Pattern))
    }

    fn visit(&mut self, at: &Visit<'_>, activation: ArrayViewMutD<'_, f32>) {
        let layer = at.point.layer().unwrap_or_default();
        for (head, attention) in at.heads.iter().zip(activation.axis_iter(Dim(0))) {
            if let Ok(attention) = attention.into_dimensionality() {
                (self.0)([layer, *head], at.sequence, attention);
            }
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

/// Some numbers of every head on every prompt, `[prompt, measure, layer, head]`.
pub(crate) fn measure(
    model: &Transformer,
    prompts: &[Prompt],
    measures: usize,
    mut of: impl FnMut(usize, ArrayView2<'_, f32>) -> Vec<f32> + Send,
) -> Result<Array4<f32>> {
    model.check_prompts(prompts)?;
    let config = model.config();
    let shape = (prompts.len(), measures, config.n_layers, config.n_heads);
    let mut samples = Array4::from_elem(shape, f32::NAN);
    for (batch, chunk) in prompts.chunks(BATCH).enumerate() {
        let reader = PatternReader(
            |[layer, head]: [usize; 2], sequence, attention: ArrayView2<'_, f32>| {
                let prompt = batch * BATCH + sequence;
                for (i, value) in of(prompt, attention).into_iter().enumerate() {
                    samples[[prompt, i, layer, head]] = value;
                }
            },
        );
        model.run(chunk, reader, &PATTERNS_ONLY)?;
    }
    Ok(samples)
}

/// Means and standard errors over prompts, `[measure, layer, head]`; without a measure axis
/// `[layer, head]`.
pub(crate) fn summary(
    samples: Array4<f32>,
    measures: Option<Axis>,
    mut about: About,
) -> Result<Labelled> {
    let (prompts, _, layers, heads) = samples.dim();
    let (mut mean, mut error) = over_first(samples.view().into_dyn());
    if measures.is_none() {
        mean = mean.index_axis_move(Dim(0), 0);
        error = error.index_axis_move(Dim(0), 0);
    }
    let axes = measures
        .into_iter()
        .chain([Axis::layers(layers), Axis::heads(heads)]);
    about.counts.insert("prompts".to_string(), prompts as u64);
    Labelled::new(mean, axes.collect(), about)?.with_std_error(error)
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
/// use patchlens::{AttentionPattern, Config, Prompt, Transformer, pattern_scores};
/// let config = Config { n_layers: 2, n_heads: 2, d_model: 8, d_mlp: 16, d_vocab: 11, ..Config::gpt2() };
/// let model = Transformer::random(config, 0)?;
/// let scores = pattern_scores(&model, &Prompt::from([1, 2, 3, 1, 2, 3]), &AttentionPattern::STANDARD)?;
/// assert_eq!(scores.values().shape(), [5, 2, 2]);
/// # Ok::<(), patchlens::Error>(())
/// ```
///
/// # Errors
/// As [`Transformer::run`]; [`Error::Invalid`] without a pattern.
pub fn pattern_scores(
    model: &Transformer,
    prompts: &(impl AsRef<[Prompt]> + ?Sized),
    patterns: &[AttentionPattern],
) -> Result<Labelled> {
    let prompts = prompts.as_ref();
    let samples = measure(model, prompts, patterns.len(), |prompt, attention| {
        let tokens = &prompts[prompt].tokens;
        patterns
            .iter()
            .map(|p| p.mean_over(attention, tokens))
            .collect()
    })?;
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
/// As [`Transformer::run`]; [`Error::OutOfRange`] for a distance that no two tokens of a context
/// have.
pub fn attention_by_distance(
    model: &Transformer,
    prompts: &(impl AsRef<[Prompt]> + ?Sized),
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
/// As [`Transformer::run`].
pub fn attention_entropy(
    model: &Transformer,
    prompts: &(impl AsRef<[Prompt]> + ?Sized),
) -> Result<Labelled> {
    let samples = measure(model, prompts.as_ref(), 1, |_, attention| {
        let terms = attention.iter().filter(|p| **p > 0.0);
        let total: f64 = terms.map(|p| -f64::from(*p) * f64::from(*p).ln()).sum();
        vec![(total / attention.nrows() as f64) as f32]
    })?;
    let caption = "Mean over destinations of the entropy of the attention to the sources.";
    summary(
        samples,
        None,
        about("Attention entropy", caption, "entropy (nats)"),
    )
}

/// A named position of each prompt, such as the indirect object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Role {
    /// `IO`, `S1`, `S2`, `subject`, ...
    pub name: String,
    /// Its position in each prompt.
    pub positions: Vec<usize>,
}

impl Role {
    /// A name, and one position a prompt.
    pub fn new(name: impl Into<String>, positions: impl IntoIterator<Item = usize>) -> Self {
        Role {
            name: name.into(),
            positions: positions.into_iter().collect(),
        }
    }

    /// The positions that occur, each in the prompts where it does.
    pub(crate) fn places(&self) -> Vec<Place> {
        let mut places = BTreeMap::<usize, Vec<usize>>::new();
        for (prompt, position) in self.positions.iter().enumerate() {
            places.entry(*position).or_default().push(prompt);
        }
        let place = |(position, prompts)| (Select::At(prompts), Select::At(vec![position]));
        places.into_iter().map(place).collect()
    }

    pub(crate) fn check(&self, prompts: &[Prompt]) -> Result<()> {
        if self.positions.len() != prompts.len() {
            let expected = format!("{}, one a prompt", prompts.len());
            let what = format!("positions of the role {}", self.name);
            return Err(Error::invalid(what, self.positions.len(), expected));
        }
        for (i, (position, prompt)) in self.positions.iter().zip(prompts).enumerate() {
            if *position >= prompt.len() {
                return Err(Error::OutOfRange {
                    at: format!("role {} of prompt {i}", self.name),
                    axis: "pos",
                    found: *position,
                    expected: format!("0..{}", prompt.len()),
                });
            }
        }
        Ok(())
    }
}

/// The attention that every head gives from one labelled position (`END`, say) to others (`IO`,
/// `S1`, `S2`), `[src, layer, head]`: means over prompts with standard errors.
///
/// # Errors
/// [`Error::Invalid`] or [`Error::OutOfRange`] for roles that do not fit the prompts; else as
/// [`Transformer::run`].
pub fn attention_to_roles(
    model: &Transformer,
    prompts: &(impl AsRef<[Prompt]> + ?Sized),
    dest: &Role,
    src: &[Role],
) -> Result<Labelled> {
    let prompts = prompts.as_ref();
    dest.check(prompts)?;
    src.iter().try_for_each(|role| role.check(prompts))?;
    let samples = measure(model, prompts, src.len(), |prompt, attention| {
        let row = attention.row(dest.positions[prompt]);
        src.iter().map(|role| row[role.positions[prompt]]).collect()
    })?;
    let axis = Axis::new("src", src.iter().map(|role| role.name.clone()));
    let caption = format!("Attention from {} to labelled positions.", dest.name);
    summary(
        samples,
        Some(axis),
        about("Attention to roles", &caption, "attention"),
    )
}
