//! From text to ids, without silence about words that are not there.

use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer as _};

use super::{Tokenizer, guarded};
use crate::error::{Error, Result};

impl Tokenizer {
    /// The ids of a text.
    pub(super) fn ids(&self, text: &str) -> Result<Vec<u32>> {
        let unknown = |word: &str| {
            let found = format!("unknown word `{word}` in `{text}`");
            let mut expected = format!("words among the vocabulary's {}", self.vocab_size());
            if let Some(nearest) = self.nearest(word) {
                expected += &format!(", nearest `{nearest}`");
            }
            Error::tokenizer(found, expected)
        };
        let encoding = guarded(&self.path, || {
            // The model's own message ("Missing [UNK] token") does not say which word it misses.
            self.inner.encode(text, false).map_err(|error| {
                let plain = || Error::tokenizer(error.to_string(), "a text of known words");
                let word = self.first_unknown(text);
                word.map_or_else(plain, |word| unknown(&word))
                    .caused_by(error)
            })
        })?;
        let ids = encoding.get_ids();
        if let Some((unk, unk_text)) = &self.unknown {
            for (&id, &(start, end)) in std::iter::zip(ids, encoding.get_offsets()) {
                let word = text.get(start..end).unwrap_or(text);
                if id == *unk && word != unk_text {
                    return Err(unknown(word));
                }
            }
        }
        Ok(ids.to_vec())
    }

    /// The known word with the smallest edit distance; of several the first.
    fn nearest(&self, word: &str) -> Option<String> {
        let named = |token: &u32| self.unknown.as_ref().is_none_or(|(unk, _)| unk != token);
        let words = self.ordinary_tokens().into_iter().filter(named);
        let words = words.map(|token| self.token_text(token));
        words.min_by_key(|known| strsim::levenshtein(word, known))
    }

    fn first_unknown(&self, text: &str) -> Option<String> {
        let mut pieces = PreTokenizedString::from(text);
        self.inner
            .get_pre_tokenizer()?
            .pre_tokenize(&mut pieces)
            .ok()?;
        pieces
            .get_splits(OffsetReferential::Original, OffsetType::Byte)
            .into_iter()
            .map(|(word, ..)| word)
            .find(|word| self.inner.token_to_id(word).is_none())
            .map(str::to_string)
    }
}
