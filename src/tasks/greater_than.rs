//! Greater-than (Hanna et al. 2023, "How does GPT-2 compute greater-than?"): "The war lasted from
//! the year 1732 to the year 17" should go on with a number above 32.

use rand_chacha::ChaCha8Rng;

use super::{Setting, Split, Word, choose, enough, rng};
use crate::error::{Error, Result};
use crate::prompt::Prompt;
use crate::tokenizer::Tokenizer;

pub(super) const NOUNS: &str = "\
    war battle siege trial plague voyage drought reign dynasty rebellion contract expedition \
    dispute conflict campaign famine feud alliance project search strike marriage program \
    tour treaty truce crisis empire";

/// Centuries as the paper has them, and the years of a century which leave room on either side.
pub(super) const CENTURIES: [u32; 7] = [11, 12, 13, 14, 15, 16, 17];
const YEARS: std::ops::RangeInclusive<u32> = 2..=98;

/// One prompt, without its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GreaterThanPrompt {
    /// Tokens and labels.
    pub prompt: Prompt,
    /// The text (without BOS).
    pub text: String,
    /// The first year's last two digits (1 in a corrupted prompt).
    pub year: u32,
    /// The position of these digits.
    pub year_position: usize,
    /// The tokens of `00` to `99`.
    pub digits: [u32; 100],
}

impl GreaterThanPrompt {
    /// The tokens of the numbers above `year`. The metric of the paper is the sum of their
    /// probabilities at the last position, minus the sum of the others' ([`Self::not_later`]).
    ///
    /// # Panics
    /// If `year` is 100 or more: the generator draws none, but the field may be set.
    pub fn later(&self) -> &[u32] {
        &self.digits[self.year as usize + 1..]
    }

    /// The tokens of the numbers up to and including `year`.
    ///
    /// # Panics
    /// Same as [`GreaterThanPrompt::later`].
    pub fn not_later(&self) -> &[u32] {
        &self.digits[..=self.year as usize]
    }
}

impl From<&GreaterThanPrompt> for Prompt {
    fn from(greater_than: &GreaterThanPrompt) -> Self {
        greater_than.prompt.clone()
    }
}

/// The generator of greater-than prompts. The unit of its [`Split`] is the noun with the year.
///
/// All prompts have the same length. Only years that the tokenizer cuts into century and digits
/// are used, as in the paper.
#[derive(Clone, Debug)]
pub struct GreaterThan<'t> {
    setting: Setting<'t>,
    digits: [u32; 100],
    /// What the tokenizer leaves.
    usable: Vec<Case>,
    /// What the split leaves of it.
    cases: Vec<Case>,
}

#[derive(Clone, Copy, Debug)]
struct Case {
    noun: Word,
    century: u32,
    year: u32,
}

impl<'t> GreaterThan<'t> {
    /// All nouns that are single tokens, and all years in two tokens.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] when one of `00` to `99` is not a token, or fewer than 1 noun or 50
    /// years remain.
    pub fn new(tokenizer: &'t Tokenizer) -> Result<Self> {
        let setting = Setting::new(tokenizer);
        let nouns = setting.words("greater-than nouns", NOUNS, 1)?;
        let mut digits = [0; 100];
        for (i, digit) in digits.iter_mut().enumerate() {
            *digit = tokenizer.token(&format!("{i:02}"))?;
        }
        let is_cut = |century: u32, year: u32| {
            let parts = [
                tokenizer.token(&format!(" {century}")),
                Ok(digits[year as usize]),
            ];
            let whole = tokenizer.encode(&format!(" {century}{year:02}"));
            matches!((whole, parts), (Ok(w), [Ok(a), Ok(b)]) if w.tokens == [a, b])
        };
        let usable = CENTURIES.into_iter().filter(|&century| is_cut(century, 1));
        let years: Vec<(u32, u32)> = usable
            .flat_map(|century| YEARS.map(move |year| (century, year)))
            .filter(|&(century, year)| is_cut(century, year))
            .collect();
        enough(
            "greater-than years",
            years.len(),
            CENTURIES.len() * YEARS.count(),
            50,
        )?;
        let of_noun = |noun| {
            let case = move |&(century, year)| Case {
                noun,
                century,
                year,
            };
            years.iter().map(case)
        };
        let usable: Vec<Case> = nouns.into_iter().flat_map(of_noun).collect();
        let cases = usable.clone();
        Ok(GreaterThan {
            setting,
            digits,
            usable,
            cases,
        })
    }

    /// Keeps the cases of one split.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] when it has none among those that the tokenizer leaves.
    pub fn split(mut self, split: Split) -> Result<Self> {
        let kept = self.usable.iter().filter(
            |Case {
                 noun,
                 century,
                 year,
             }| { split.keeps_key(&format!("{} {century}{year:02}", noun.text)) },
        );
        self.cases = kept.copied().collect();
        enough("greater-than cases", self.cases.len(), self.usable.len(), 1)?;
        Ok(self)
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

    /// How many combinations of noun and year there are.
    pub fn cases(&self) -> usize {
        self.cases.len()
    }

    /// `n` prompts drawn at random.
    ///
    /// # Errors
    /// [`Error::Prompt`] when the tokenizer merges the digits with what is around.
    pub fn prompts(&self, n: usize, seed: u64) -> Result<Vec<GreaterThanPrompt>> {
        let mut rng = rng(seed);
        (0..n).map(|_| self.draw(&mut rng)).collect()
    }

    /// `n` prompts, each with its "01" corruption: the same century's year 01, after which every
    /// year is as good. The two differ at `year_position` only.
    ///
    /// # Errors
    /// Same as [`GreaterThan::prompts`].
    pub fn pairs(&self, n: usize, seed: u64) -> Result<Vec<[GreaterThanPrompt; 2]>> {
        let mut rng = rng(seed);
        (0..n)
            .map(|_| {
                let case = *choose(&self.cases, &mut rng);
                Ok([self.prompt(case)?, self.prompt(Case { year: 1, ..case })?])
            })
            .collect()
    }

    pub(super) fn draw(&self, rng: &mut ChaCha8Rng) -> Result<GreaterThanPrompt> {
        self.prompt(*choose(&self.cases, rng))
    }

    fn prompt(
        &self,
        Case {
            noun,
            century,
            year,
        }: Case,
    ) -> Result<GreaterThanPrompt> {
        let text = text(noun.text, century, year);
        let prompt = self.setting.encode(&text)?;
        let token = self.digits[year as usize];
        let mut found = (0..prompt.len()).filter(|&i| prompt.tokens[i] == token);
        let (Some(year_position), None) = (found.next(), found.next()) else {
            return Err(Error::Prompt {
                at: format!("`{text}`"),
                found: format!("tokens {:?}", prompt.labels),
                expected: format!("`{year:02}` exactly once"),
            });
        };
        let digits = self.digits;
        Ok(GreaterThanPrompt {
            prompt,
            text,
            year,
            year_position,
            digits,
        })
    }
}

pub(super) fn text(noun: &str, century: u32, year: u32) -> String {
    format!("The {noun} lasted from the year {century}{year:02} to the year {century}")
}
