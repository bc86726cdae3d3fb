//! Text to tokens and back: [`Tokenizer`], a `tokenizer.json` that never adds, drops or replaces
//! anything silently.

mod growth;
mod vocabulary;
mod words;

use std::any::Any;
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::value::RawValue;
use tokenizers::{DecoderWrapper, ModelWrapper};

use crate::error::{Error, Result};
use crate::files::{UniqueKeys, format_error, parse_error, read_bytes, read_text};
use crate::prompt::Prompt;

/// GPT-2's begin-of-text token, taken where no `tokenizer_config.json` names another.
pub(crate) const END_OF_TEXT: &str = "<|endoftext|>";

/// Real ones have up to some 30 MB.
const MAX_BYTES: u64 = 256 << 20;

/// What would cut or lengthen texts unasked. It is not even parsed.
const IGNORED: [&str; 3] = ["padding", "post_processor", "truncation"];

/// A tokenizer in the Hugging Face format.
///
#[cfg_attr(
    feature = "mini",
    doc = r#"
```
use patchlens::Tokenizer;

let tokenizer = Tokenizer::mini();
let prompt = tokenizer.encode("When Mary and John went to the store,")?;
assert_eq!(prompt.labels[..3], ["When", " Mary", " and"]);
assert_eq!(tokenizer.token(" Mary")?, prompt.tokens[1]);
assert_eq!(tokenizer.encode_with_bos("When Mary")?.labels[0], "<|endoftext|>");
# Ok::<(), patchlens::Error>(())
```
"#
)]
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// The file, for error messages.
    path: PathBuf,
    bos: Option<String>,
    /// Stands for unknown words: id and text.
    unknown: Option<(u32, String)>,
    /// Ids of added tokens, whose text is stored as it is.
    added: HashSet<u32>,
}

impl Tokenizer {
    /// Reads `tokenizer.json` in a folder, and `bos_token` of a `tokenizer_config.json` beside it
    /// where there is one.
    ///
    /// Where there is no `tokenizer.json`, GPT-2's older files do: `vocab.json` and `merges.txt`,
    /// and `added_tokens.json` if there is one. `<|endoftext|>` is then a token of its own wherever
    /// it stands in a text, as in Hugging Face's `GPT2Tokenizer`.
    ///
    /// # Errors
    /// [`Error::Io`] when a file can't be read, [`Error::Format`] when there is none, or it is not
    /// what it should be, or makes the tokenizer library panic. (It may do so later, too: the
    /// methods below then return this error.)
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let path = dir.join("tokenizer.json");
        let mut tokenizer = if path.exists() || path.is_symlink() {
            Self::read(&read_bytes(&path, MAX_BYTES)?, &path)?
        } else {
            Self::read(
                &vocabulary::tokenizer_json(dir)?,
                &dir.join(vocabulary::VOCAB),
            )?
        };
        if let Some(bos) = configured_bos(dir)? {
            tokenizer.bos = Some(bos);
        }
        Ok(tokenizer)
    }

    /// Reads the bytes of a `tokenizer.json`.
    ///
    /// # Errors
    /// [`Error::Format`] when they are not one.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        Self::read(bytes, Path::new("tokenizer.json"))
    }

    /// The tokenizer of the built-in model: one token per word (with its leading space, as in
    /// GPT-2) or punctuation mark, years in two tokens (` 17`, `32`).
    #[cfg(feature = "mini")]
    pub fn mini() -> Self {
        Self::from_bytes(include_bytes!("../assets/mini/tokenizer.json"))
            .expect("the tokenizer built into the crate is valid")
    }

    fn read(bytes: &[u8], path: &Path) -> Result<Self> {
        let expected = "a Hugging Face tokenizer";
        let fields: UniqueKeys<Box<RawValue>> =
            serde_json::from_slice(bytes).map_err(|error| parse_error(path, error, expected))?;
        let mut fields = fields.0;
        fields.retain(|field, _| !IGNORED.contains(&field.as_str()));
        for part in ["normalizer", "decoder"] {
            if let Some(json) = fields.get(part) {
                growth::check(path, part, json)?;
            }
        }
        let text = serde_json::to_vec(&fields).expect("parts of a JSON text are one themselves");
        guarded(path, || {
            let inner = tokenizers::Tokenizer::from_bytes(text)
                .map_err(|error| parse_error(path, error, expected))?;
            if let Some(added) = fields.get("added_tokens") {
                check_added(added, &inner, path)?;
            }
            let bos = inner.token_to_id(END_OF_TEXT).map(|_| END_OF_TEXT.into());
            Ok(Tokenizer {
                bos,
                unknown: unknown_token(&inner),
                added: inner.get_added_tokens_decoder().into_keys().collect(),
                inner,
                path: path.to_path_buf(),
            })
        })
    }

    /// Tokens of a text, nothing added: no BOS or other special token.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] when the text is empty, or has a word which the tokenizer does not
    /// know (it is never replaced by `[UNK]`).
    pub fn encode(&self, text: &str) -> Result<Prompt> {
        if text.is_empty() {
            return Err(Error::tokenizer("an empty text", "at least one token"));
        }
        Ok(self.prompt(self.ids(text)?))
    }

    /// Tokens of a text after the begin-of-text token, which shows as the first label. The text
    /// may be empty.
    ///
    /// # Errors
    /// Same as [`Tokenizer::encode`], and when the tokenizer has no such token.
    pub fn encode_with_bos(&self, text: &str) -> Result<Prompt> {
        let mut ids = vec![self.bos()?];
        ids.extend(self.ids(text)?);
        Ok(self.prompt(ids))
    }

    /// The text of tokens. Bytes that are not UTF-8 (a part of a character) become U+FFFD.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] when there is no such token: a model may have more rows than its
    /// tokenizer has tokens. [`Tokenizer::readable`] shows such a token as `#396`.
    pub fn decode(&self, tokens: &[u32]) -> Result<String> {
        tokens.iter().try_for_each(|&token| self.check(token))?;
        let text = guarded(&self.path, || Ok(self.inner.decode(tokens, false)))?;
        text.map_err(|error| {
            let expected = "tokens that decode to a text";
            Error::tokenizer(error.to_string(), expected).caused_by(error)
        })
    }

    /// Same as [`Tokenizer::decode`], to be read: an id without a token is `#396`.
    ///
    /// # Errors
    /// As of [`Tokenizer::decode`], but for such ids.
    pub fn readable(&self, tokens: &[u32]) -> Result<String> {
        let known = |token: &u32| self.check(*token).is_ok();
        let mut text = String::new();
        for run in tokens.chunk_by(|a, b| known(a) && known(b)) {
            match run {
                [token] if !known(token) => text += &self.token_label(*token),
                _ => text += &self.decode(run)?,
            }
        }
        Ok(text)
    }

    /// Checks that there is such a token.
    pub(crate) fn check(&self, token: u32) -> Result<()> {
        let text = self.inner.id_to_token(token);
        text.map(|_| ()).ok_or_else(|| Error::OutOfRange {
            at: "tokenizer".to_string(),
            axis: "token",
            found: token as usize,
            expected: format!("one of the vocabulary's {} tokens", self.vocab_size()),
        })
    }

    /// The text of one token, made to be read: spaces are spaces (` Mary`, not `ĠMary`), control
    /// characters and bytes that are not UTF-8 are escaped (`\n`, `\xe2`). An id without a token is
    /// `#396`: a model may have more rows than its tokenizer has tokens.
    pub fn token_text(&self, token: u32) -> String {
        let label = self.token_label(token);
        let mut text = String::with_capacity(label.len());
        for c in label.chars() {
            if c.is_control() {
                text.extend(c.escape_default());
            } else {
                text.push(c);
            }
        }
        text
    }

    /// The text of one token as it is, for labels of axes, which pictures and tables make legible
    /// themselves ([`legible`](crate::report::legible)): only bytes that are not UTF-8 are escaped
    /// (`\xe2`). An id without a token is `#396`.
    pub fn token_label(&self, token: u32) -> String {
        let Some(raw) = self.inner.id_to_token(token) else {
            return format!("#{token}");
        };
        let bytes = match self.inner.get_decoder() {
            _ if self.added.contains(&token) => raw.into_bytes(),
            Some(DecoderWrapper::ByteLevel(_)) => byte_level_bytes(&raw),
            Some(DecoderWrapper::Metaspace(_)) => raw.replace('▁', " ").into_bytes(),
            _ => raw.into_bytes(),
        };
        escaped(&bytes)
    }

    /// The one token that a text is: `token(" Mary")`.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] when the text is not exactly one token; it lists those found.
    pub fn token(&self, text: &str) -> Result<u32> {
        let prompt = self.encode(text)?;
        if let [token] = prompt.tokens[..] {
            return Ok(token);
        }
        let shown = |id: &u32| format!("`{}` ({id})", self.token_text(*id));
        let list: Vec<String> = prompt.tokens.iter().map(shown).collect();
        let found = format!("`{text}` is {} tokens: {}", list.len(), list.join(", "));
        Err(Error::tokenizer(found, "exactly one token"))
    }

    /// Number of tokens, special ones included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// All tokens and their texts, in order of the ids, special ones included.
    ///
    /// ```
    /// use patchlens::Tokenizer;
    /// let tokenizer = Tokenizer::mini();
    /// let words: Vec<String> = tokenizer.tokens().map(|(_, text)| text).collect();
    /// assert!(words.contains(&" Mary".to_string()));
    /// ```
    pub fn tokens(&self) -> impl Iterator<Item = (u32, String)> {
        let mut ids: Vec<u32> = self.inner.get_vocab(true).into_values().collect();
        ids.sort_unstable();
        ids.into_iter().map(|id| (id, self.token_text(id)))
    }

    /// The begin-of-text token: `bos_token` of `tokenizer_config.json`, else GPT-2's
    /// `<|endoftext|>`.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] when the tokenizer has none.
    pub fn bos(&self) -> Result<u32> {
        let name = self.bos.as_deref().unwrap_or(END_OF_TEXT);
        let id = self.inner.token_to_id(name);
        id.ok_or_else(|| {
            let found = format!("no begin-of-text token `{name}`");
            Error::tokenizer(found, "a vocabulary that has it, or a prompt without BOS")
        })
    }

    /// A prompt of tokens given by id, labelled with their texts ([`Tokenizer::token_label`]).
    pub fn prompt(&self, tokens: Vec<u32>) -> Prompt {
        let labels = tokens.iter().map(|&t| self.token_label(t)).collect();
        Prompt { tokens, labels }
    }

    /// All tokens but the added ones (such as BOS), in order.
    pub(crate) fn ordinary_tokens(&self) -> Vec<u32> {
        let ids = self.inner.get_vocab(false).into_values();
        let mut ids: Vec<u32> = ids.filter(|id| !self.added.contains(id)).collect();
        ids.sort_unstable();
        ids
    }
}

/// An entry of `added_tokens`.
#[derive(Deserialize)]
struct Added {
    id: u32,
    content: String,
}

/// Checks that added tokens have the ids of the file: the library numbers those anew that do not
/// follow the vocabulary without gaps.
fn check_added(json: &RawValue, inner: &tokenizers::Tokenizer, path: &Path) -> Result<()> {
    let added: Vec<Added> = serde_json::from_str(json.get())
        .map_err(|error| parse_error(path, error, "added tokens with ids"))?;
    for Added { id, content } in added {
        if let Some(given) = inner.token_to_id(&content).filter(|given| *given != id) {
            let found = format!("the added token `{content}` with id {id}");
            let expected = format!("id {given}, which follows the other tokens without a gap");
            return Err(format_error(path, found, expected));
        }
    }
    Ok(())
}

/// The token that stands for unknown words, if this tokenizer has one.
fn unknown_token(tokenizer: &tokenizers::Tokenizer) -> Option<(u32, String)> {
    let text = match tokenizer.get_model() {
        ModelWrapper::WordLevel(model) => &model.unk_token,
        ModelWrapper::WordPiece(model) => &model.unk_token,
        ModelWrapper::BPE(model) => model.unk_token.as_ref()?,
        ModelWrapper::Unigram(_) => "<unk>",
    };
    Some((tokenizer.token_to_id(text)?, text.to_string()))
}

/// Runs a part of the tokenizer library, which panics on some of the files that it accepts.
fn guarded<T>(path: &Path, f: impl FnOnce() -> Result<T>) -> Result<T> {
    // All that could be left half done is the library's cache of words.
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|panic| {
        let found = format!("a panic of the tokenizer library: {}", message(&*panic));
        Err(format_error(path, found, "a tokenizer that it can run"))
    })
}

/// What a panic said.
fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or(panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

/// `bos_token` of `tokenizer_config.json`: a string, or an object with the string as `content`.
fn configured_bos(dir: &Path) -> Result<Option<String>> {
    let path = dir.join("tokenizer_config.json");
    if !path.exists() {
        return Ok(None);
    }
    let text = read_text(&path, MAX_BYTES)?;
    let config: serde_json::Value =
        serde_json::from_str(&text).map_err(|error| parse_error(&path, error, "a JSON object"))?;
    let bos = &config["bos_token"];
    Ok(bos.as_str().or(bos["content"].as_str()).map(str::to_string))
}

/// Undoes GPT-2's alphabet, in which every byte is a printable character: printable Latin-1 bytes
/// are themselves, the others follow from U+0100 on in order.
fn byte_level_bytes(token: &str) -> Vec<u8> {
    let printable = |b: &u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let others: Vec<u8> = (0..=255).filter(|b| !printable(b)).collect();
    let mut bytes = Vec::with_capacity(token.len());
    for c in token.chars() {
        let latin = u8::try_from(c).ok().filter(printable);
        let other = (c as usize).checked_sub(256).and_then(|i| others.get(i));
        match latin.or(other.copied()) {
            Some(byte) => bytes.push(byte),
            None => bytes.extend(c.to_string().bytes()),
        }
    }
    bytes
}

/// A text whose bytes that are not UTF-8 are escaped.
fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    text
}
