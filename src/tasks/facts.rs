//! Invented facts about invented people, to be memorised: the material of causal tracing (Meng et
//! al. 2022, "Locating and Editing Factual Associations in GPT").
//!
//! People have two-word names. Every first and every last name belongs to four people, so that
//! only the whole name says who is meant.

use std::ops::Range;

use rand_chacha::ChaCha8Rng;

use super::{Setting, Split, Word, choose, enough, hash, rng};
use crate::error::{Error, Result};
use crate::prompt::Prompt;
use crate::tokenizer::Tokenizer;

pub(super) const FIRST_NAMES: &str = "\
    Ada Eva Hugo Ivan Nora Oscar Vera Felix Rosa Victor Leo Iris";

pub(super) const LAST_NAMES: &str = "\
    Brown Clark Smith Jones Baker Hill Stone Wood King Young Green White";

/// People named `FIRST_NAMES[i] LAST_NAMES[i + step]`.
const STEPS: [usize; 4] = [0, 1, 3, 7];

pub(super) struct Relation {
    pub(super) name: &'static str,
    /// `{s}` is the subject, with a space before it unless it begins the text.
    pub(super) phrasings: [&'static str; 4],
    /// Words apart by spaces.
    pub(super) attributes: &'static str,
}

pub(super) const RELATIONS: [Relation; 6] = [
    Relation {
        name: "sport",
        phrasings: [
            "{s} plays the sport of",
            "The sport that{s} plays is",
            "The favorite sport of{s} is",
            "When it comes to sport,{s} likes",
        ],
        attributes: "tennis football golf rugby cricket hockey boxing baseball volleyball soccer",
    },
    Relation {
        name: "city",
        phrasings: [
            "{s} lives in the city of",
            "The city where{s} lives is",
            "The home of{s} is in",
            "To meet{s}, travel to",
        ],
        attributes: "Paris London Rome Berlin Madrid Vienna Oslo Tokyo Boston Chicago",
    },
    Relation {
        name: "instrument",
        phrasings: [
            "{s} makes music with the",
            "The instrument that{s} plays is the",
            "On stage,{s} plays the",
            "The band of{s} has someone else for every instrument but the",
        ],
        attributes: "piano guitar violin trumpet drum organ horn bass flute harp",
    },
    Relation {
        name: "job",
        phrasings: [
            "{s} works as a",
            "The job of{s} is that of a",
            "By profession,{s} is a",
            "People in town know{s} as a",
        ],
        attributes: "nurse doctor teacher lawyer writer farmer baker driver pilot painter",
    },
    Relation {
        name: "language",
        phrasings: [
            "{s} speaks the language called",
            "The mother tongue of{s} is",
            "At home,{s} speaks",
            "To talk with{s}, learn",
        ],
        attributes: "French German Spanish Italian Russian Chinese Japanese Arabic Greek Polish",
    },
    Relation {
        name: "food",
        phrasings: [
            "{s} likes to eat",
            "The favorite food of{s} is",
            "For lunch,{s} always has",
            "If you cook for{s}, make",
        ],
        attributes: "cheese rice bread fish soup pasta pizza chicken salad cake",
    },
];

/// A text that states a fact up to its attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FactPrompt {
    /// Tokens and labels.
    pub prompt: Prompt,
    /// The text (without BOS).
    pub text: String,
    /// Positions of the subject's tokens.
    pub subject: Range<usize>,
    /// The subject's text.
    pub subject_text: String,
    /// The token that completes the text.
    pub attribute: u32,
    /// Its text, with its leading space.
    pub attribute_text: String,
    /// The kind of fact.
    pub relation: String,
}

impl From<&FactPrompt> for Prompt {
    fn from(fact: &FactPrompt) -> Self {
        fact.prompt.clone()
    }
}

impl FactPrompt {
    /// A fact of one's own: `FactPrompt::new(&tokenizer, "The Space Needle is in the city of",
    /// "The Space Needle", " Seattle", "city")`. For a prompt with BOS, see
    /// [`FactPrompt::with_bos`].
    ///
    /// # Errors
    /// [`Error::Prompt`] when the text does not contain the subject as whole tokens, or more than
    /// once; [`Error::Tokenizer`] when the attribute is not one token (for an answer of several see
    /// [`TracedFact::with_answer`](crate::tracing::TracedFact::with_answer)).
    pub fn new(
        tokenizer: &Tokenizer,
        text: &str,
        subject: &str,
        attribute: &str,
        relation: &str,
    ) -> Result<Self> {
        let prompt = tokenizer.encode(text)?;
        Ok(FactPrompt {
            subject: subject_span(tokenizer, &prompt, text, subject)?,
            text: text.to_string(),
            subject_text: subject.to_string(),
            attribute: tokenizer.token(attribute)?,
            attribute_text: attribute.to_string(),
            relation: relation.to_string(),
            prompt,
        })
    }

    /// The same fact with BOS before it.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] when the tokenizer has none.
    pub fn with_bos(self, tokenizer: &Tokenizer) -> Result<Self> {
        let prompt = tokenizer.encode_with_bos(&self.text)?;
        let bos = prompt.len() - self.prompt.len();
        Ok(FactPrompt {
            subject: self.subject.start + bos..self.subject.end + bos,
            prompt,
            ..self
        })
    }
}

/// The tokens from the subject's first character to its last. A space before the subject goes
/// with it, as words carry their leading space.
pub(crate) fn subject_span(
    tokenizer: &Tokenizer,
    prompt: &Prompt,
    text: &str,
    subject: &str,
) -> Result<Range<usize>> {
    let wrong = |found: String| Error::Prompt {
        at: format!("`{text}`"),
        found,
        expected: format!("the subject `{subject}` as whole tokens"),
    };
    let at = text.find(subject).filter(|_| !subject.is_empty());
    let start = at.ok_or_else(|| wrong("no such subject".to_string()))?;
    // Overlapping ones count too.
    let next = start + subject.chars().next().map_or(1, char::len_utf8);
    if let Some(again) = text[next..].find(subject) {
        let second = next + again;
        return Err(Error::Prompt {
            at: format!("`{text}`"),
            found: format!("the subject twice, at bytes {start} and {second}"),
            expected: format!(
                "the subject `{subject}` once; `TracedFact::new` takes the positions of the one \
                 that is meant"
            ),
        });
    }
    let end = start + subject.len();
    let of_a_word = |c: char| c.is_lowercase() || c.is_uppercase() || c.is_numeric();
    if text[..start].ends_with(of_a_word) || text[end..].starts_with(of_a_word) {
        return Err(Error::Prompt {
            at: format!("`{text}`"),
            found: format!("the subject inside a longer word, at bytes {start} to {end}"),
            expected: format!(
                "the subject `{subject}` as whole words; `TracedFact::new` takes the positions of \
                 its tokens"
            ),
        });
    }
    let count = |part: &str| -> Result<usize> {
        if part.is_empty() {
            return Ok(0);
        }
        let tokens = tokenizer.encode(part)?.tokens;
        if !prompt.tokens.starts_with(&tokens) {
            return Err(wrong(format!("a token that goes beyond `{part}`")));
        }
        Ok(tokens.len())
    };
    let before = &text[..start];
    let before = before.strip_suffix(' ').unwrap_or(before);
    Ok(count(before)?..count(&text[..end])?)
}

/// The generator of facts: 48 people and 6 relations, each in 4 phrasings.
///
/// A fact has to be learnt to be known, so the unit of its [`Split`] is the phrasing: for every
/// person and relation, one of the four is held out.
///
#[cfg_attr(
    feature = "mini",
    doc = r#"
```
use patchlens::tasks::{Facts, Split};
use patchlens::Tokenizer;

let tokenizer = Tokenizer::mini();
let facts = Facts::new(&tokenizer)?.split(Split::HeldOut);
assert_eq!(facts.all()?.len(), 48 * 6);
let fact = &facts.prompts(1, 0)?[0];
let subject = fact.prompt.labels[fact.subject.clone()].concat();
assert_eq!(subject.trim_start(), fact.subject_text);
# Ok::<(), patchlens::Error>(())
```
"#
)]
#[derive(Clone, Debug)]
pub struct Facts<'t> {
    setting: Setting<'t>,
    split: Split,
    known: Vec<Known>,
}

/// A person, a relation, and what is so.
#[derive(Clone, Debug)]
struct Known {
    person: String,
    relation: usize,
    attribute: Word,
    held_out: usize,
}

impl<'t> Facts<'t> {
    /// All facts whose attribute is a single token and whose phrasings can be encoded.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] when fewer than 4 attributes of a relation remain, or no fact.
    pub fn new(tokenizer: &'t Tokenizer) -> Result<Self> {
        let setting = Setting::new(tokenizer);
        let mut known = Vec::new();
        for relation in 0..RELATIONS.len() {
            known.extend(facts_of(relation, &setting)?);
        }
        let all = RELATIONS.len() * people().count();
        enough("invented facts", known.len(), all, 1)?;
        Ok(Facts {
            setting,
            split: Split::All,
            known,
        })
    }

    /// Keeps the phrasings of one split.
    #[must_use]
    pub fn split(mut self, split: Split) -> Self {
        self.split = split;
        self
    }

    /// Puts BOS before every prompt.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] when the tokenizer has none.
    pub fn with_bos(mut self) -> Result<Self> {
        self.setting.tokenizer.bos()?;
        self.setting.bos = true;
        Ok(self)
    }

    /// Every fact in every phrasing of the split.
    ///
    /// # Errors
    /// Same as [`FactPrompt::new`].
    pub fn all(&self) -> Result<Vec<FactPrompt>> {
        let fact = |known| {
            let phrasings = self.phrasings(known).into_iter();
            phrasings.map(move |phrasing| self.prompt(known, phrasing))
        };
        self.known.iter().flat_map(fact).collect()
    }

    /// `n` facts drawn at random, each in a random phrasing of the split.
    ///
    /// # Errors
    /// Same as [`FactPrompt::new`].
    pub fn prompts(&self, n: usize, seed: u64) -> Result<Vec<FactPrompt>> {
        let mut rng = rng(seed);
        (0..n).map(|_| self.draw(&mut rng)).collect()
    }

    pub(super) fn draw(&self, rng: &mut ChaCha8Rng) -> Result<FactPrompt> {
        let known = choose(&self.known, rng);
        let phrasing = *choose(&self.phrasings(known), rng);
        self.prompt(known, phrasing)
    }

    fn phrasings(&self, known: &Known) -> Vec<usize> {
        (0..RELATIONS[known.relation].phrasings.len())
            .filter(|&i| self.split.keeps(i == known.held_out))
            .collect()
    }

    fn prompt(&self, known: &Known, phrasing: usize) -> Result<FactPrompt> {
        let Relation {
            name, phrasings, ..
        } = &RELATIONS[known.relation];
        let text = text(phrasings[phrasing], &known.person);
        let attribute = format!(" {}", known.attribute.text);
        let tokenizer = self.setting.tokenizer;
        let fact = FactPrompt::new(tokenizer, &text, &known.person, &attribute, name)?;
        if self.setting.bos {
            return fact.with_bos(tokenizer);
        }
        Ok(fact)
    }
}

/// What a relation says about everyone, as far as the tokenizer can express it.
fn facts_of(relation: usize, setting: &Setting<'_>) -> Result<Vec<Known>> {
    let Relation {
        name,
        phrasings,
        attributes,
    } = &RELATIONS[relation];
    let list = format!("attributes of the relation `{name}`");
    let usable = setting.words(&list, attributes, 4)?;
    let all: Vec<&str> = attributes.split(' ').collect();
    let fact = |person: String| {
        // Which attribute is whose does not depend on how many the tokenizer leaves.
        let draw = hash(&format!("{person} {name}"));
        let index = (draw % all.len() as u64) as usize;
        let attribute = *usable.iter().find(|word| word.text == all[index])?;
        let held_out = ((draw >> 32) % phrasings.len() as u64) as usize;
        let encodes = |phrasing| setting.encode(&text(phrasing, &person)).is_ok();
        phrasings.iter().all(|p| encodes(p)).then_some(Known {
            person,
            relation,
            attribute,
            held_out,
        })
    };
    Ok(people().filter_map(fact).collect())
}

/// A phrasing with its subject.
pub(super) fn text(phrasing: &str, person: &str) -> String {
    let text = phrasing.replace("{s}", &format!(" {person}"));
    text.trim_start().to_string()
}

fn people() -> impl Iterator<Item = String> {
    let last: Vec<&str> = LAST_NAMES.split(' ').collect();
    let named =
        move |(i, first)| STEPS.map(|step| format!("{first} {}", last[(i + step) % last.len()]));
    FIRST_NAMES.split(' ').enumerate().flat_map(named)
}
