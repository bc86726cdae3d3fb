//! How a subject is corrupted.

use ndarray::{Array1, Array2, ArrayView1};

use super::TracedFact;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::hook::HookPoint;
use crate::intervention::{Edit, Intervention, Target, Values};
use crate::model::Transformer;
use crate::prompt::Prompt;

/// What happens to a subject's tokens, once per sample. Every cell of a table meets the same
/// samples.
#[derive(Clone, Debug, PartialEq)]
pub enum SubjectCorruption {
    /// Gaussian noise is added to the token embeddings: the paper's corruption.
    Noise {
        /// Standard deviation, the paper's ν; see [`subject_noise_std`].
        std: f32,
        /// Seed.
        seed: u64,
        /// Number of samples, each with noise of its own.
        samples: usize,
    },
    /// These numbers are added to the token embeddings, one array `[subject token, d_model]` per
    /// sample.
    GivenNoise(Vec<Array2<f32>>),
    /// Each token embedding becomes this vector `[d_model]`, such as
    /// [`mean_subject_embedding`]'s.
    Embedding(Array1<f32>),
    /// The tokens are replaced by those of other subjects (Zhang and Nanda 2024, "Towards Best
    /// Practices of Activation Patching"): one sample for each subject in the list that is as
    /// long as the fact's own and not the same.
    Subjects(Vec<Vec<u32>>),
}

impl SubjectCorruption {
    /// Noise of a standard deviation, 10 samples, seed 0.
    pub fn noise(std: f32) -> Self {
        SubjectCorruption::Noise {
            std,
            seed: 0,
            samples: 10,
        }
    }

    pub(super) fn seed(&self) -> Option<u64> {
        match self {
            SubjectCorruption::Noise { seed, .. } => Some(*seed),
            _ => None,
        }
    }

    pub(super) fn describe(&self) -> String {
        match self {
            SubjectCorruption::Noise { std, samples, .. } => {
                format!("noise on its embeddings (std {std}, {samples} samples)")
            }
            SubjectCorruption::GivenNoise(list) => {
                format!("given noise on its embeddings ({} samples)", list.len())
            }
            SubjectCorruption::Embedding(_) => "one embedding for all its tokens".to_string(),
            SubjectCorruption::Subjects(_) => "other subjects of its length".to_string(),
        }
    }

    /// The prompts of the corrupted runs, one per sample, and what is done to their embeddings.
    pub(crate) fn samples(
        &self,
        config: &Config,
        fact: &TracedFact,
    ) -> Result<(Vec<Prompt>, Vec<Intervention>)> {
        fact.check(config.d_vocab)?;
        let embeddings = || Target::new(HookPoint::Embed).at_positions(fact.subject.clone());
        let edits: Vec<Edit> = match self {
            SubjectCorruption::Noise { std, seed, samples } => (0..*samples as u64)
                // Far apart, so that neighbouring seeds share no sample.
                .map(|sample| seed.wrapping_add(sample << 32))
                .map(|seed| Edit::Noise { std: *std, seed })
                .collect(),
            SubjectCorruption::GivenNoise(list) => list
                .iter()
                .map(|noise| Ok(Edit::Add(Values::array(padded(noise, config, fact)?))))
                .collect::<Result<_>>()?,
            SubjectCorruption::Embedding(vector) => vec![Edit::Set(Values::array(vector.clone()))],
            SubjectCorruption::Subjects(list) => {
                return Ok((other_subjects(list, fact)?, Vec::new()));
            }
        };
        if edits.is_empty() {
            return Err(Error::invalid("noise samples", 0, "at least 1"));
        }
        let prompts = vec![fact.prompt.clone(); edits.len()];
        let edits = edits.into_iter().enumerate();
        let interventions = edits
            .map(|(sample, edit)| Intervention::new(embeddings().at_sequences(sample), edit))
            .collect();
        Ok((prompts, interventions))
    }
}

/// Noise `[subject token, d_model]` as `[pos, d_model]`.
fn padded(noise: &Array2<f32>, config: &Config, fact: &TracedFact) -> Result<Array2<f32>> {
    if noise.dim() != (fact.subject.len(), config.d_model) {
        return Err(Error::Shape {
            at: "given noise".to_string(),
            found: noise.shape().to_vec(),
            expected: format!(
                "[{}, {}], [subject token, d_model]",
                fact.subject.len(),
                config.d_model
            ),
        });
    }
    let mut all = Array2::zeros((fact.prompt.len(), config.d_model));
    for (position, row) in fact.subject.clone().zip(noise.rows()) {
        all.row_mut(position).assign(&row);
    }
    Ok(all)
}

fn other_subjects(list: &[Vec<u32>], fact: &TracedFact) -> Result<Vec<Prompt>> {
    let own = fact.subject_tokens();
    let fits = |other: &&Vec<u32>| other.len() == own.len() && other[..] != *own;
    let prompts: Vec<Prompt> = list
        .iter()
        .filter(fits)
        .map(|other| {
            let mut tokens = fact.prompt.tokens.clone();
            tokens[fact.subject.clone()].copy_from_slice(other);
            Prompt::from(tokens)
        })
        .collect();
    if prompts.is_empty() {
        return Err(Error::invalid(
            "other subjects",
            format!("none of {} tokens among {}", own.len(), list.len()),
            "at least one as long as the fact's own, and not the same",
        ));
    }
    Ok(prompts)
}

fn embeddings<'a>(
    model: &'a Transformer,
    facts: &'a [TracedFact],
) -> Result<Vec<ArrayView1<'a, f32>>> {
    if facts.is_empty() {
        return Err(Error::invalid("facts", 0, "at least one"));
    }
    let d_vocab = model.config().d_vocab;
    facts.iter().try_for_each(|fact| fact.check(d_vocab))?;
    let tokens = facts.iter().flat_map(TracedFact::subject_tokens);
    Ok(tokens
        .map(|token| model.parameters().wte.row(*token as usize))
        .collect())
}

/// The paper's ν: three times the standard deviation of the token embeddings of all subjects, all
/// their numbers taken together (with Bessel's correction). A token counts as often as it occurs.
///
/// Subjects are taken as they stand in their prompts. The authors' code encodes each by itself,
/// so that one in mid-sentence lacks its leading space there.
///
/// # Errors
/// [`Error::Invalid`] without facts, [`Error::OutOfRange`] for a token that the model lacks.
pub fn subject_noise_std(model: &Transformer, facts: &[TracedFact]) -> Result<f32> {
    let rows = embeddings(model, facts)?;
    let values = || {
        rows.iter()
            .flat_map(|row| row.iter().map(|v| f64::from(*v)))
    };
    let n = values().count() as f64;
    let mean = values().sum::<f64>() / n;
    let squares = values().map(|v| (v - mean).powi(2)).sum::<f64>();
    Ok((3.0 * (squares / (n - 1.0)).sqrt()) as f32)
}

/// The mean token embedding `[d_model]` of all subjects' tokens.
///
/// # Errors
/// Same as [`subject_noise_std`].
pub fn mean_subject_embedding(model: &Transformer, facts: &[TracedFact]) -> Result<Array1<f32>> {
    let rows = embeddings(model, facts)?;
    let mut sum = Array1::<f64>::zeros(model.config().d_model);
    for row in &rows {
        sum.zip_mut_with(row, |sum, v| *sum += f64::from(*v));
    }
    Ok(sum.mapv(|v| (v / rows.len() as f64) as f32))
}
