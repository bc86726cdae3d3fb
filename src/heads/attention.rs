//! What heads attend to on some prompts, as a study.

use ndarray::{Array2, Array4, Axis as Dim};

use super::detection::{Detection, check_patterns, detection_about};
use super::patterns::AttentionPattern;
use super::role::Role;
use super::scores::{about, entropy, entropy_about, measure, pattern_about, scores, summary};
use crate::error::{Error, Result};
use crate::limits::{Limits, limits_methods};
use crate::model::Transformer;
use crate::prompt::{IntoPrompts, Prompts};
use crate::report::{Axis, Labelled};

/// What heads attend to: scores of their attention patterns on prompts.
///
/// ```
/// use patchlens::heads::{Attention, AttentionPattern, AttentionScores};
/// use patchlens::{Config, Prompts, Transformer};
/// let config = Config { n_layers: 2, n_heads: 2, d_model: 8, d_mlp: 16, d_vocab: 11, ..Config::gpt2() };
/// let model = Transformer::random(config, 0)?;
/// let prompts = Prompts::new([[1, 2, 1, 2], [3, 4, 3, 4]])?;
/// let patterns = [AttentionPattern::Induction, AttentionPattern::PreviousToken];
/// let found = AttentionScores::new(&model, prompts)?.run(Attention::Patterns(&patterns))?;
/// assert_eq!(found.per_prompt.dim().3, 2);
/// println!("{}", found.effect.top(3)); // mean ± standard error
/// # Ok::<(), patchlens::Error>(())
/// ```
#[derive(Debug)]
pub struct AttentionScores<'m> {
    model: &'m Transformer,
    prompts: Prompts,
    limits: Limits<'m>,
}

/// What is asked of every head's attention.
#[derive(Clone, Copy, Debug)]
pub enum Attention<'a> {
    /// The share that goes to known patterns, `[pattern, layer, head]`: mean over the destinations
    /// where a pattern has a source. A prompt where it has none (no token occurs twice, say) does
    /// not count; a pattern without any such prompt is NaN.
    Patterns(&'a [AttentionPattern]),
    /// The share that goes to the token a given distance back (0 is the token itself), for
    /// distances up to this one, `[distance, layer, head]`; mean over destinations. NaN where all
    /// prompts are too short.
    ByDistance(usize),
    /// The entropy in nats, `[layer, head]`: mean over destinations.
    Entropy,
    /// The share that one labelled position (`END`, say) gives to others (`IO`, `S1`, `S2`),
    /// `[src, layer, head]`.
    ToRoles {
        /// The position that attends.
        dest: &'a Role,
        /// Those that are attended to.
        src: &'a [Role],
    },
    /// The closeness to a pattern given as a matrix `[dest, src]`, one per prompt,
    /// `[layer, head]`: TransformerLens's `detect_head`, but `abs` is not rounded.
    /// [`AttentionPattern::matrix`] makes the usual ones.
    Matrices(&'a [Array2<f32>], Detection),
}

/// Scores of heads' attention.
#[derive(Clone, Debug)]
pub struct Attended {
    /// The means over prompts, with standard errors where there are several; its axes are those
    /// of what was asked.
    pub effect: Labelled,
    /// `[measure, layer, head, prompt]`, with one measure where `effect` has no axis for it. NaN
    /// where a prompt has no sample.
    pub per_prompt: Array4<f32>,
}

impl<'m> AttentionScores<'m> {
    /// A study of some prompts.
    ///
    /// # Errors
    /// [`Error::Prompt`] or [`Error::OutOfRange`] for a prompt that cannot run.
    pub fn new(model: &'m Transformer, prompts: impl IntoPrompts) -> Result<Self> {
        let prompts = prompts.into_prompts()?;
        model.check_prompts(prompts.as_slice())?;
        Ok(AttentionScores {
            model,
            prompts,
            limits: Limits::default(),
        })
    }

    limits_methods!('m);

    /// Runs the study. If the observer ends it early, means are over the prompts that were done,
    /// and the result says that it is partial.
    ///
    /// # Errors
    /// [`Error::MemoryLimit`] if a prompt alone needs more; [`Error::Invalid`] without a pattern, for
    /// roles that do not fit the prompts, and for matrices that are not as many as the prompts or,
    /// where attention is causal, not lower triangular; [`Error::Shape`] for a matrix of another size than its prompt's;
    /// [`Error::OutOfRange`] for a distance that no two tokens of a context have.
    pub fn run(&self, what: Attention<'_>) -> Result<Attended> {
        match what {
            Attention::Patterns(patterns) => self.patterns(patterns),
            Attention::ByDistance(longest) => self.by_distance(longest),
            Attention::Entropy => self.summed(None, entropy_about(), 1, |_, attention| {
                vec![entropy(attention)]
            }),
            Attention::ToRoles { dest, src } => self.to_roles(dest, src),
            Attention::Matrices(matrices, detection) => {
                let direction = self.model.config().attention;
                check_patterns(direction, &self.prompts, matrices)?;
                self.summed(None, detection_about(detection), 1, |prompt, attention| {
                    vec![detection.score(attention, &matrices[prompt])]
                })
            }
        }
    }

    fn patterns(&self, patterns: &[AttentionPattern]) -> Result<Attended> {
        let axis = Axis::new("pattern", patterns.iter().map(ToString::to_string));
        let tokens = |prompt: usize| &self.prompts[prompt].tokens;
        self.summed(
            Some(axis),
            pattern_about(),
            patterns.len(),
            |prompt, attention| scores(patterns, attention, tokens(prompt)),
        )
    }

    fn by_distance(&self, longest: usize) -> Result<Attended> {
        let n_ctx = self.model.config().n_ctx;
        if longest >= n_ctx {
            return Err(Error::OutOfRange {
                at: "attention by distance".to_string(),
                axis: "distance",
                found: longest,
                expected: format!("0..{n_ctx} (n_positions)"),
            });
        }
        let distances: Vec<_> = (0..=longest).map(AttentionPattern::Offset).collect();
        let mut found = self.patterns(&distances)?;
        found.effect.about.title = "Attention by distance".to_string();
        found.effect.about.caption = "Mean attention to the token so far back.".to_string();
        Ok(found)
    }

    fn to_roles(&self, dest: &Role, src: &[Role]) -> Result<Attended> {
        dest.check(&self.prompts)?;
        src.iter().try_for_each(|role| role.check(&self.prompts))?;
        let axis = Axis::new("src", src.iter().map(|role| role.name.clone()));
        let caption = format!("Attention from {} to labelled positions.", dest.name);
        let about = about("Attention to roles", &caption, "attention");
        self.summed(Some(axis), about, src.len(), |prompt, attention| {
            let row = attention.row(dest.positions[prompt]);
            src.iter().map(|role| row[role.positions[prompt]]).collect()
        })
    }

    fn summed(
        &self,
        measures: Option<Axis>,
        mut about: crate::report::About,
        count: usize,
        of: impl FnMut(usize, ndarray::ArrayView2<'_, f32>) -> Vec<f32> + Send,
    ) -> Result<Attended> {
        let measured = measure(self.model, &self.prompts, &self.limits, count, of)?;
        about.partial = measured.len_of(Dim(3)) < self.prompts.len();
        let samples = match measures {
            Some(_) => measured.view().into_dyn(),
            None => measured.index_axis(Dim(0), 0).into_dyn(),
        };
        Ok(Attended {
            effect: summary(samples, measures, about)?,
            per_prompt: measured,
        })
    }
}

/// How much of its attention every head gives to known patterns, see [`Attention::Patterns`].
///
/// ```
/// use patchlens::{Config, Prompt, Transformer};
/// use patchlens::heads::{AttentionPattern, pattern_scores};
/// let config = Config { n_layers: 2, n_heads: 2, d_model: 8, d_mlp: 16, d_vocab: 11, ..Config::gpt2() };
/// let model = Transformer::random(config, 0)?;
/// let prompt = Prompt::from([1, 2, 3, 1, 2, 3]);
/// let scores = pattern_scores(&model, &prompt, &AttentionPattern::STANDARD)?;
/// assert_eq!(scores.values().shape()[0], 5);
/// # Ok::<(), patchlens::Error>(())
/// ```
///
/// # Errors
/// Same as [`AttentionScores::run`].
pub fn pattern_scores(
    model: &Transformer,
    prompts: impl IntoPrompts,
    patterns: &[AttentionPattern],
) -> Result<Labelled> {
    Ok(AttentionScores::new(model, prompts)?
        .run(Attention::Patterns(patterns))?
        .effect)
}
