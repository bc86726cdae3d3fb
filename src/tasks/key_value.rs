//! In-context tasks made of key → value examples: a mapping that changes from prompt to prompt
//! can only be read from the prompt itself.

use std::fmt;

use rand::Rng;
use rand::seq::SliceRandom;
use rand::seq::index::sample;
use rand_chacha::ChaCha8Rng;

use super::rng;
use crate::error::{Error, Result};
use crate::prompt::Prompt;
use crate::tokenizer::Tokenizer;

/// The generator: prompts `key arrow value end key arrow value end … key arrow`.
///
/// ```
/// use patchlens::tasks::KeyValue;
/// let task = KeyValue::new(vec![1, 2, 3, 4], vec![11, 12, 13, 14], vec![20], vec![21])?;
/// let pair = &task.pairs(1, 3, 0)?[0];
/// assert_eq!(pair.clean.len(), 3 * 4 + 2);
/// assert_eq!(pair.clean.len(), pair.corrupted.len());
/// assert_ne!(pair.answer, pair.other);
/// # Ok::<(), patchlens::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct KeyValue<'t> {
    keys: Vec<u32>,
    values: Vec<u32>,
    arrow: Vec<u32>,
    end: Vec<u32>,
    bos: Option<u32>,
    tokenizer: Option<&'t Tokenizer>,
}

/// Two prompts with the same keys in the same order and the same query, but other values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValuePair {
    /// Under the first mapping.
    pub clean: Prompt,
    /// Under the second one, in which every key has another value.
    pub corrupted: Prompt,
    /// The query's value under the first mapping.
    pub answer: u32,
    /// The query's value under the second one.
    pub other: u32,
    /// What each position is, `[pos]`. The queried example is drawn anew for each pair of prompts,
    /// so that positions of several pairs can be compared by their role alone.
    pub roles: Vec<KeyValueRole>,
}

/// What a position of a key → value prompt is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyValueRole {
    /// BOS.
    Bos,
    /// The key of an example that is not queried.
    OtherKey,
    /// The value of an example that is not queried.
    OtherValue,
    /// The key of the example that is queried.
    QueriedKey,
    /// The value of the example that is queried: the answer.
    QueriedValue,
    /// What stands between keys and values, or after an example.
    Between,
    /// The key after all examples.
    Query,
    /// What stands between the query and the answer to come.
    AfterQuery,
}

/// As labels of an axis: `asked` for the queried example.
impl fmt::Display for KeyValueRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            KeyValueRole::Bos => "BOS",
            KeyValueRole::OtherKey => "other key",
            KeyValueRole::OtherValue => "other value",
            KeyValueRole::QueriedKey => "asked key",
            KeyValueRole::QueriedValue => "asked value",
            KeyValueRole::Between => "between",
            KeyValueRole::Query => "query",
            KeyValueRole::AfterQuery => "after the query",
        })
    }
}

/// Prompts for function vectors; entries correspond.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FunctionPrompts {
    /// Examples of the function, and a query that is not among them.
    pub clean: Vec<Prompt>,
    /// The same with the examples' values shuffled.
    pub shuffled: Vec<Prompt>,
    /// The query alone.
    pub zero_shot: Vec<Prompt>,
    /// The query's value.
    pub answers: Vec<u32>,
}

impl<'t> KeyValue<'t> {
    /// Keys and values, the tokens between them, and those after each pair. For a function
    /// ([`KeyValue::function_prompts`]), each value is that of the key at its index.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there are fewer than two keys or values, or one twice.
    pub fn new(
        keys: Vec<u32>,
        values: Vec<u32>,
        arrow: Vec<u32>,
        end: Vec<u32>,
    ) -> Result<KeyValue<'static>> {
        for (what, list) in [("keys", &keys), ("values", &values)] {
            let mut unique = list.clone();
            unique.sort_unstable();
            unique.dedup();
            if unique.len() < 2 || unique.len() != list.len() {
                let found = format!("{} tokens, {} different", list.len(), unique.len());
                return Err(Error::invalid(what, found, "at least 2, all different"));
            }
        }
        Ok(KeyValue {
            keys,
            values,
            arrow,
            end,
            bos: None,
            tokenizer: None,
        })
    }

    /// Puts BOS before every prompt.
    pub fn with_bos(mut self, bos: u32) -> Self {
        self.bos = Some(bos);
        self
    }

    /// Labels the prompts with the texts of their tokens.
    pub fn labelled_by(self, tokenizer: &Tokenizer) -> KeyValue<'_> {
        KeyValue {
            tokenizer: Some(tokenizer),
            keys: self.keys,
            values: self.values,
            arrow: self.arrow,
            end: self.end,
            bos: self.bos,
        }
    }

    fn prompt(&self, examples: &[(u32, u32)], query: u32) -> Prompt {
        let mut tokens: Vec<u32> = self.bos.into_iter().collect();
        for (key, value) in examples {
            tokens.push(*key);
            tokens.extend(&self.arrow);
            tokens.push(*value);
            tokens.extend(&self.end);
        }
        tokens.push(query);
        tokens.extend(&self.arrow);
        match self.tokenizer {
            Some(tokenizer) => tokenizer.prompt(tokens),
            None => Prompt::from(tokens),
        }
    }

    /// What each position is when the example `queried` of `shots` is queried.
    fn roles(&self, shots: usize, queried: usize) -> Vec<KeyValueRole> {
        let mut roles: Vec<KeyValueRole> =
            self.bos.map(|_| KeyValueRole::Bos).into_iter().collect();
        let fill = |n: usize, role| std::iter::repeat_n(role, n);
        for example in 0..shots {
            let (key, value) = if example == queried {
                (KeyValueRole::QueriedKey, KeyValueRole::QueriedValue)
            } else {
                (KeyValueRole::OtherKey, KeyValueRole::OtherValue)
            };
            roles.push(key);
            roles.extend(fill(self.arrow.len(), KeyValueRole::Between));
            roles.push(value);
            roles.extend(fill(self.end.len(), KeyValueRole::Between));
        }
        roles.push(KeyValueRole::Query);
        roles.extend(fill(self.arrow.len(), KeyValueRole::AfterQuery));
        roles
    }

    fn check_shots(&self, shots: usize, most: usize) -> Result<()> {
        if (2..=most).contains(&shots) {
            return Ok(());
        }
        Err(Error::invalid("shots", shots, format!("2 to {most}")))
    }

    /// `n` pairs of prompts with `shots` examples each, and one of their keys as query.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there are fewer than 2 shots, or more than keys or values;
    /// [`Error::OutOfRange`] for a token that the tokenizer lacks.
    pub fn pairs(&self, n: usize, shots: usize, seed: u64) -> Result<Vec<KeyValuePair>> {
        self.check_shots(shots, self.keys.len().min(self.values.len()))?;
        let mut rng = rng(seed);
        (0..n).map(|_| self.pair(shots, &mut rng)).collect()
    }

    fn pair(&self, shots: usize, rng: &mut ChaCha8Rng) -> Result<KeyValuePair> {
        let draw = |from: &[u32], rng: &mut ChaCha8Rng| -> Vec<u32> {
            sample(rng, from.len(), shots)
                .iter()
                .map(|i| from[i])
                .collect()
        };
        let (keys, values) = (draw(&self.keys, rng), draw(&self.values, rng));
        let shift = rng.random_range(1..shots);
        let query = rng.random_range(0..shots);
        let examples = |shift: usize| -> Vec<(u32, u32)> {
            let value = |i: usize| values[(i + shift) % shots];
            keys.iter()
                .enumerate()
                .map(|(i, key)| (*key, value(i)))
                .collect()
        };
        Ok(KeyValuePair {
            clean: self.prompt(&examples(0), keys[query]),
            corrupted: self.prompt(&examples(shift), keys[query]),
            answer: values[query],
            other: values[(query + shift) % shots],
            roles: self.roles(shots, query),
        })
    }

    /// Prompts that show the function `keys[i] → values[i]` by `shots` examples.
    ///
    /// # Errors
    /// [`Error::Invalid`] if keys and values are not equally many, or if there are fewer than 2
    /// shots or more than leave a key for the query.
    pub fn function_prompts(&self, n: usize, shots: usize, seed: u64) -> Result<FunctionPrompts> {
        if self.keys.len() != self.values.len() {
            let expected = format!("{}, one per key", self.keys.len());
            return Err(Error::invalid("values", self.values.len(), expected));
        }
        self.check_shots(shots, self.keys.len() - 1)?;
        let mut rng = rng(seed);
        let mut prompts = FunctionPrompts::default();
        for _ in 0..n {
            let drawn: Vec<usize> = sample(&mut rng, self.keys.len(), shots + 1).into_vec();
            let (query, shown) = (drawn[0], &drawn[1..]);
            let mut values: Vec<u32> = shown.iter().map(|i| self.values[*i]).collect();
            let pair = |(i, value): (&usize, &u32)| (self.keys[*i], *value);
            let examples: Vec<_> = shown.iter().zip(&values).map(pair).collect();
            values.shuffle(&mut rng);
            let shuffled: Vec<_> = shown.iter().zip(&values).map(pair).collect();
            let key = self.keys[query];
            prompts.clean.push(self.prompt(&examples, key));
            prompts.shuffled.push(self.prompt(&shuffled, key));
            prompts.zero_shot.push(self.prompt(&[], key));
            prompts.answers.push(self.values[query]);
        }
        Ok(prompts)
    }
}
