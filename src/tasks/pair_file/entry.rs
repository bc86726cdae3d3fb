//! Entries of a file as prompts and answers of a tokenizer.

use super::PromptPair;
use super::layouts::{Entry, Text, spaced};
use crate::error::{Error, Result};
use crate::prompt::Prompt;
use crate::tokenizer::Tokenizer;

impl Entry {
    /// Whether no answer is beside another.
    pub(super) fn is_one_answer(&self) -> bool {
        self.answers.len() <= 1 && self.wrong_answers.is_empty()
    }

    /// The pair; `long` is whether its answer may have several tokens.
    pub(super) fn pair(
        &self,
        index: usize,
        tokenizer: &Tokenizer,
        bos: bool,
        long: bool,
    ) -> Result<PromptPair> {
        let clean = self.clean.prompt("clean", tokenizer, bos)?;
        let corrupted = self.corrupted.as_ref();
        let corrupted = corrupted.map(|text| text.prompt("corrupted", tokenizer, bos));
        let mut pair = PromptPair {
            index,
            text: match &self.clean {
                Text::Words(text) => text.clone(),
                Text::Ids(ids) => tokenizer.decode(ids)?,
            },
            clean,
            corrupted: corrupted.transpose()?,
            answers: Vec::new(),
            wrong_answers: Vec::new(),
            long_answer: None,
        };
        let answer = self.answers.first().filter(|_| long);
        if let Some(answer) = answer.and_then(|answer| answer.long(tokenizer)) {
            pair.clean = pair.clean.teacher_forced(&answer);
            pair.corrupted = pair.corrupted.map(|p| p.teacher_forced(&answer));
            pair.long_answer = Some(answer.tokens);
            return Ok(pair);
        }
        [pair.answers, pair.wrong_answers] = self.single_tokens(tokenizer)?;
        Ok(pair)
    }

    /// Right and wrong answers that are one token each.
    fn single_tokens(&self, tokenizer: &Tokenizer) -> Result<[Vec<u32>; 2]> {
        let alone = self.is_one_answer();
        let tokens = |what: &str, of: &[Text]| -> Result<Vec<u32>> {
            let token = |text: &Text| match text.long(tokenizer).filter(|_| !alone) {
                Some(long) => Err(Error::tokenizer(
                    format!("{what}: {} tokens {:?}", long.len(), long.labels),
                    "exactly one token beside other answers: a difference of longer ones would \
                     need two runs",
                )),
                None => text.token(what, tokenizer),
            };
            of.iter().map(token).collect()
        };
        let answers = tokens("right answer", &self.answers)?;
        let wrong_answers = tokens("wrong answer", &self.wrong_answers)?;
        if answers.is_empty() {
            return Err(Error::invalid("right answers", "none", "at least one"));
        }
        if let Some(both) = answers.iter().find(|token| wrong_answers.contains(token)) {
            let found = format!("`{}` as right and as wrong", tokenizer.token_text(*both));
            return Err(Error::invalid("answers", found, "one or the other"));
        }
        Ok([answers, wrong_answers])
    }
}

impl Text {
    fn prompt(&self, what: &str, tokenizer: &Tokenizer, bos: bool) -> Result<Prompt> {
        let ids = |start: &[u32], ids: &[u32]| {
            ids.iter().try_for_each(|&id| tokenizer.check(id))?;
            Ok(tokenizer.prompt([start, ids].concat()))
        };
        let prompt = match (self, bos) {
            (Text::Words(text), true) => tokenizer.encode_with_bos(text),
            (Text::Words(text), false) => tokenizer.encode(text),
            (Text::Ids(list), true) => ids(&[tokenizer.bos()?], list),
            (Text::Ids(list), false) => ids(&[], list),
        };
        let prompt = prompt.map_err(|error| at(what, error))?;
        if prompt.is_empty() {
            return Err(Error::Prompt {
                at: what.to_string(),
                found: "no tokens".to_string(),
                expected: "at least one token".to_string(),
            });
        }
        Ok(prompt)
    }

    /// The answer, if it has several tokens; not a word that would be one token after a space.
    fn long(&self, tokenizer: &Tokenizer) -> Option<Prompt> {
        let prompt = self.prompt("answer", tokenizer, false).ok()?;
        let lacks_space = match self {
            Text::Words(text) => tokenizer.token(&spaced(text)).is_ok(),
            Text::Ids(_) => false,
        };
        (prompt.len() > 1 && !lacks_space).then_some(prompt)
    }

    /// The one token that an answer is.
    fn token(&self, what: &str, tokenizer: &Tokenizer) -> Result<u32> {
        match self {
            Text::Words(text) => tokenizer.token(text).map_err(|error| {
                let spaced = spaced(text);
                match tokenizer.token(&spaced) {
                    Ok(_) if spaced != *text => Error::tokenizer(
                        format!("{what} `{text}` is not one token"),
                        format!("exactly one token, as `{spaced}` is"),
                    ),
                    _ => at(what, error),
                }
            }),
            Text::Ids(ids) => match ids[..] {
                [id] => {
                    let known = tokenizer.check(id);
                    known.map(|()| id).map_err(|error| at(what, error))
                }
                _ => {
                    self.prompt(what, tokenizer, false)?;
                    Err(Error::invalid(what, format!("{ids:?}"), "one token id"))
                }
            },
        }
    }
}

/// An error with what it is about before what was found.
fn at(what: &str, error: Error) -> Error {
    match error {
        Error::Tokenizer {
            found,
            expected,
            source,
        } => Error::Tokenizer {
            found: format!("{what}: {found}"),
            expected,
            source,
        },
        Error::OutOfRange {
            axis,
            found,
            expected,
            ..
        } => Error::OutOfRange {
            at: what.to_string(),
            axis,
            found,
            expected,
        },
        other => other,
    }
}
