//! What the model reads: a [`Prompt`] of tokens with their texts, and non-empty sets of them,
//! [`Prompts`].

use std::ops::Index;
use std::sync::Arc;

use crate::error::{Error, Result};

/// Tokens, and for each one the text that labels its position on an axis.
///
/// ```
/// use patchlens::Prompt;
///
/// let prompt = Prompt::from(vec![464, 1175]);
/// assert_eq!(prompt.labels, ["464", "1175"]);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Prompt {
    /// Token ids, `[pos]`.
    pub tokens: Vec<u32>,
    /// The text of each token, `[pos]`. Equal tokens have equal labels: whoever prints them adds
    /// the position.
    pub labels: Vec<String>,
}

impl Prompt {
    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// This prompt, followed by all tokens of an answer but the last one: what a model has read when
    /// it predicts the answer's last token (teacher forcing). For metrics of answers of several
    /// tokens ([`answer_log_probability`](crate::metric::answer_log_probability)); an answer of
    /// one token changes nothing.
    #[must_use]
    pub fn teacher_forced(mut self, answer: &Prompt) -> Self {
        let given = answer.len().saturating_sub(1);
        self.tokens.extend(&answer.tokens[..given]);
        self.labels
            .extend(answer.labels.iter().take(given).cloned());
        self
    }

    /// Whether there is no token. No model runs such a prompt.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }
}

impl From<Vec<u32>> for Prompt {
    /// Labels are the ids.
    fn from(tokens: Vec<u32>) -> Self {
        let labels = tokens.iter().map(u32::to_string).collect();
        Prompt { tokens, labels }
    }
}

impl From<&[u32]> for Prompt {
    /// Labels are the ids.
    fn from(tokens: &[u32]) -> Self {
        tokens.to_vec().into()
    }
}

impl<const N: usize> From<[u32; N]> for Prompt {
    /// Labels are the ids.
    fn from(tokens: [u32; N]) -> Self {
        tokens.to_vec().into()
    }
}

impl From<&Prompt> for Prompt {
    fn from(prompt: &Prompt) -> Self {
        prompt.clone()
    }
}

impl AsRef<[Prompt]> for Prompt {
    fn as_ref(&self) -> &[Prompt] {
        std::slice::from_ref(self)
    }
}

impl AsRef<[u32]> for Prompt {
    fn as_ref(&self) -> &[u32] {
        &self.tokens
    }
}

/// One prompt or more, each with as many labels as tokens. Lengths may differ: batches are ragged,
/// nothing is padded. Clones share their memory.
///
/// ```
/// use patchlens::Prompts;
///
/// let prompts = Prompts::new([vec![1, 2, 3], vec![4, 5]])?;
/// assert_eq!(prompts.len(), 2);
/// assert_eq!(prompts[1].tokens, [4, 5]);
/// # Ok::<(), patchlens::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Prompts(Arc<[Prompt]>);

impl Prompts {
    /// Collects prompts, token lists, or what a task generates.
    ///
    /// # Errors
    /// [`Error::Prompt`] when there is none, when one has no tokens, or when its labels are not
    /// as many as its tokens.
    pub fn new<P: Into<Prompt>>(prompts: impl IntoIterator<Item = P>) -> Result<Self> {
        let prompts: Arc<[Prompt]> = prompts.into_iter().map(Into::into).collect();
        if prompts.is_empty() {
            return Err(bad("prompts", "an empty set", "at least one prompt"));
        }
        for (i, prompt) in prompts.iter().enumerate() {
            let (tokens, labels) = (prompt.len(), prompt.labels.len());
            let at = format!("prompt {i}");
            if tokens == 0 {
                return Err(bad(&at, "no tokens", "at least one token"));
            }
            if tokens != labels {
                let found = format!("{labels} labels for {tokens} tokens");
                return Err(bad(&at, &found, "one label per token"));
            }
        }
        Ok(Prompts(prompts))
    }

    /// Number of prompts.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none: never.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The prompts in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Prompt> {
        self.0.iter()
    }

    /// The prompts as a slice.
    pub fn as_slice(&self) -> &[Prompt] {
        &self.0
    }

    /// The number of tokens of each prompt.
    pub fn lengths(&self) -> Vec<usize> {
        self.iter().map(Prompt::len).collect()
    }

    /// The length that all prompts share, where they do: then a result can have a position axis.
    pub fn common_len(&self) -> Option<usize> {
        let len = self[0].len();
        self.iter().all(|prompt| prompt.len() == len).then_some(len)
    }
}

impl Index<usize> for Prompts {
    type Output = Prompt;

    fn index(&self, prompt: usize) -> &Prompt {
        &self.0[prompt]
    }
}

impl AsRef<[Prompt]> for Prompts {
    fn as_ref(&self) -> &[Prompt] {
        &self.0
    }
}

impl<'a> IntoIterator for &'a Prompts {
    type Item = &'a Prompt;
    type IntoIter = std::slice::Iter<'a, Prompt>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// What a study takes as its prompts: [`Prompts`], which are shared and not checked again; a
/// [`Prompt`]; or a list of prompts, or of what a task generates.
pub trait IntoPrompts {
    /// The prompts.
    ///
    /// # Errors
    /// Same as [`Prompts::new`].
    fn into_prompts(self) -> Result<Prompts>;
}

impl IntoPrompts for Prompts {
    fn into_prompts(self) -> Result<Prompts> {
        Ok(self)
    }
}

impl IntoPrompts for &Prompts {
    fn into_prompts(self) -> Result<Prompts> {
        Ok(self.clone())
    }
}

impl IntoPrompts for &Prompt {
    fn into_prompts(self) -> Result<Prompts> {
        Prompts::new([self])
    }
}

impl<'p, P> IntoPrompts for &'p [P]
where
    Prompt: From<&'p P>,
{
    fn into_prompts(self) -> Result<Prompts> {
        Prompts::new(self)
    }
}

impl<'p, P> IntoPrompts for &'p Vec<P>
where
    Prompt: From<&'p P>,
{
    fn into_prompts(self) -> Result<Prompts> {
        Prompts::new(self)
    }
}

impl<'p, P, const N: usize> IntoPrompts for &'p [P; N]
where
    Prompt: From<&'p P>,
{
    fn into_prompts(self) -> Result<Prompts> {
        Prompts::new(self)
    }
}

fn bad(at: &str, found: &str, expected: &str) -> Error {
    Error::Prompt {
        at: at.to_string(),
        found: found.to_string(),
        expected: expected.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_never_empty_nor_lopsided() {
        let message = |prompts: Vec<Prompt>| (&prompts).into_prompts().unwrap_err().to_string();
        assert_eq!(
            message(vec![]),
            "prompts: an empty set; expected at least one prompt"
        );
        assert_eq!(
            message(vec![Prompt::from([1]), Prompt::default()]),
            "prompt 1: no tokens; expected at least one token"
        );
        let lopsided = Prompt {
            tokens: vec![1, 2],
            labels: vec!["a".to_string()],
        };
        assert_eq!(
            message(vec![lopsided]),
            "prompt 0: 1 labels for 2 tokens; expected one label per token"
        );
    }

    #[test]
    fn lengths_and_views() {
        let same = Prompts::new([[1, 2], [3, 4]]).unwrap();
        assert_eq!(same.common_len(), Some(2));
        let ragged = Prompts::new([vec![1, 2], vec![3]]).unwrap();
        assert_eq!(ragged.common_len(), None);
        let one = Prompt::from([7, 8]);
        assert_eq!((&one).into_prompts().unwrap().as_slice(), [one]);
        assert_eq!(ragged.lengths(), [2, 1]);
    }
}
