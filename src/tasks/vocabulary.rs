//! The tokenizer of the shipped model, made from the words of the tasks.

use tokenizers::decoders::fuse::Fuse;
use tokenizers::models::wordlevel::WordLevel;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};
use tokenizers::{DecoderWrapper, PreTokenizerWrapper, SplitDelimiterBehavior};

use super::{facts, greater_than, ioi};
use crate::error::{Error, Result};
use crate::tokenizer::END_OF_TEXT;

/// A word or two digits, with the space before them; or any other single character.
const PIECES: &str = r" ?\p{L}+| ?\d{2}|[\s\S]";

/// The `tokenizer.json` of the shipped model, as text: one token per word with its leading space
/// (` Mary`), per punctuation mark and per two digits of a year; `<|endoftext|>` as BOS and EOS.
/// Unknown words have no token: encoding them is an error.
///
/// # Errors
/// [`Error::Tokenizer`] when the tokenizer library refuses to build it.
pub fn mini_tokenizer_json() -> Result<String> {
    let split = Split::new(
        SplitPattern::Regex(PIECES.to_string()),
        SplitDelimiterBehavior::Isolated,
        false,
    )
    .map_err(library)?;
    let words = vocabulary(&split)?;
    let ids = (0..).zip(&words).map(|(id, word)| (word.clone(), id));
    let model = WordLevel::builder()
        .vocab(ids.collect())
        .build()
        .map_err(library)?;
    let mut tokenizer = tokenizers::Tokenizer::new(model);
    tokenizer
        .with_pre_tokenizer(Some(PreTokenizerWrapper::Split(split)))
        .with_decoder(Some(DecoderWrapper::Fuse(Fuse::new())))
        .add_special_tokens(&[AddedToken::from(END_OF_TEXT, true)]);
    tokenizer.to_string(true).map_err(library)
}

/// Every word of the tasks, in order of its first occurrence after BOS and the digits.
fn vocabulary(split: &Split) -> Result<Vec<String>> {
    let mut words = vec![END_OF_TEXT.to_string()];
    words.extend((0..100).map(|i| format!("{i:02}")));
    for text in texts() {
        let mut pieces = PreTokenizedString::from(text);
        split.pre_tokenize(&mut pieces).map_err(library)?;
        for (piece, ..) in pieces.get_splits(OffsetReferential::Original, OffsetType::Byte) {
            if !words.iter().any(|word| word == piece) {
                words.push(piece.to_string());
            }
        }
    }
    Ok(words)
}

/// Texts in which every word of every task stands at least once.
fn texts() -> Vec<String> {
    let spaced = |words: &str| format!(" {words}.");
    let mut texts = vec![
        spaced(ioi::NAMES),
        spaced(ioi::PLACES),
        spaced(ioi::OBJECTS),
        spaced(greater_than::NOUNS),
        spaced(facts::FIRST_NAMES),
        spaced(facts::LAST_NAMES),
    ];
    texts.extend(greater_than::CENTURIES.map(|century| greater_than::text("war", century, 1)));
    texts.extend(facts::FIRST_NAMES.split(' ').map(str::to_string));
    for relation in &facts::RELATIONS {
        texts.push(spaced(relation.attributes));
        texts.extend(relation.phrasings.map(|p| facts::text(p, "Ada Brown")));
    }
    let word = "Mary";
    texts.extend(ioi::TEMPLATES.map(|template| ioi::text(template, [word; 5])));
    texts
}

fn library(source: tokenizers::Error) -> Error {
    Error::tokenizer(source.to_string(), "a tokenizer that can be built").caused_by(source)
}
