//! The crate's one error type: every variant says what was found and what was expected.

use std::error::Error as StdError;
use std::path::{Path, PathBuf};

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of another library.
type Cause = Box<dyn StdError + Send + Sync>;

/// Everything that can go wrong, with the facts needed to mend it. Where another library's error is
/// behind it, that is its [`source`](std::error::Error::source); the message says it too.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error("{}: {reason}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        reason: std::io::Error,
    },
    /// A result could not be turned into a page, a picture or a text.
    #[error("<{format}>: {source}")]
    Render {
        /// The format: `html`, `png`, ...
        format: String,
        /// What the encoder or the template engine said.
        source: Cause,
    },
    /// A file's content is not what its format demands.
    #[error("{}: {found}; expected {expected}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What stands there.
        found: String,
        /// What should stand there.
        expected: String,
        /// The parser's error, if it was one that found this.
        source: Option<Cause>,
    },
    /// A field of `config.json` (or of a [`Config`](crate::Config)) is missing or unsupported.
    #[error("{}config field `{field}`: found {found}; expected {expected}", prefix(path.as_deref()))]
    Config {
        /// The file, if the config was read from one.
        path: Option<PathBuf>,
        /// The field, by its name in `config.json`.
        field: String,
        /// Its value.
        found: String,
        /// The values that are supported.
        expected: String,
    },
    /// A tensor of a checkpoint is missing, unknown, misshapen, of an unsupported type or not finite.
    #[error("{}: tensor `{tensor}`: found {found}; expected {expected}", path.display())]
    Tensor {
        /// The file that holds (or should hold) the tensor.
        path: PathBuf,
        /// The tensor's name in the file.
        tensor: String,
        /// What was found.
        found: String,
        /// What was expected.
        expected: String,
    },
    /// A hook name that no model has.
    #[error("unknown hook `{name}`; did you mean `{suggestion}`?{note}")]
    UnknownHook {
        /// The name as given.
        name: String,
        /// The nearest valid name.
        suggestion: String,
        /// How that differs, where it is known; else empty.
        note: &'static str,
    },
    /// A hook, position, head or other index which this model, site or prompt does not have.
    #[error("{at}: {axis} {found} is out of range; expected {expected}")]
    OutOfRange {
        /// Where: a hook name, `prompt 3`, ...
        at: String,
        /// The axis: `layer`, `pos`, `head`, `dest`, `src`, `token`, ...
        axis: &'static str,
        /// The index found.
        found: usize,
        /// The valid range in words.
        expected: String,
    },
    /// A hook point, or something else of other models, that this model lacks.
    #[error("{at}: {reason}")]
    Lacks {
        /// The hook name, or what was asked for.
        at: String,
        /// What the model lacks, and whether there is something instead.
        reason: String,
    },
    /// A hook or intervention that this run could never reach.
    #[error("`{at}` would never fire: {reason}")]
    NeverFires {
        /// The hook name.
        at: String,
        /// Why not.
        reason: String,
    },
    /// Shapes that do not fit together.
    #[error("{at}: found shape {found:?}; expected {expected}")]
    Shape {
        /// What has the shape.
        at: String,
        /// Its shape.
        found: Vec<usize>,
        /// The shape in words.
        expected: String,
    },
    /// A prompt that cannot be run: empty, longer than the context, or not matching its pair.
    #[error("{at}: {found}; expected {expected}")]
    Prompt {
        /// Which prompt.
        at: String,
        /// What is wrong with it.
        found: String,
        /// What a valid prompt is.
        expected: String,
    },
    /// A text that does not tokenize as the caller needs.
    #[error("tokenizer: {found}; expected {expected}")]
    Tokenizer {
        /// What happened.
        found: String,
        /// What was expected.
        expected: String,
        /// The tokenizer library's error, if it was one that found this.
        source: Option<Cause>,
    },
    /// A point that an activation cache does not hold.
    #[error("the cache does not hold `{at}`; it holds {holds}")]
    NotCached {
        /// The hook name asked for.
        at: String,
        /// What is there, in words.
        holds: String,
    },
    /// A cache of another model, or of another kind of run, than what reads it needs.
    #[error("{at}: found {found}; expected {expected}")]
    Provenance {
        /// What takes the cache.
        at: String,
        /// What it is of: a model's [`Fingerprint`](crate::model::Fingerprint) and a kind of run.
        found: String,
        /// What would fit.
        expected: String,
    },
    /// Not even one run at a time fits the memory limit, beside what the base runs keep.
    #[error("memory limit in bytes: found {limit}; expected at least {least}")]
    MemoryLimit {
        /// The limit, in bytes.
        limit: u64,
        /// A limit that is enough, in bytes: the lowest, unless the base has not run.
        least: u64,
    },
    /// An argument with a value that makes no sense.
    #[error("{what}: found {found}; expected {expected}")]
    Invalid {
        /// The argument.
        what: String,
        /// Its value.
        found: String,
        /// What would be valid.
        expected: String,
    },
}

/// The message, so that a `main` which returns the error prints that.
impl std::fmt::Debug for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

impl Error {
    /// An [`Error::Invalid`] from anything that prints.
    pub(crate) fn invalid(
        what: impl Into<String>,
        found: impl std::fmt::Display,
        expected: impl Into<String>,
    ) -> Self {
        Error::Invalid {
            what: what.into(),
            found: found.to_string(),
            expected: expected.into(),
        }
    }

    /// Wraps an I/O error with the path it happened at.
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |reason| Error::Io { path, reason }
    }

    /// An [`Error::Tokenizer`].
    pub(crate) fn tokenizer(found: impl Into<String>, expected: impl Into<String>) -> Self {
        Error::Tokenizer {
            found: found.into(),
            expected: expected.into(),
            source: None,
        }
    }

    /// An [`Error::Render`] from an encoder's error.
    pub(crate) fn render(format: impl Into<String>, source: impl Into<Cause>) -> Self {
        Error::Render {
            format: format.into(),
            source: source.into(),
        }
    }

    /// Keeps another library's error as the source of an [`Error::Format`] or
    /// [`Error::Tokenizer`].
    pub(crate) fn caused_by(mut self, cause: impl Into<Cause>) -> Self {
        if let Error::Format { source, .. } | Error::Tokenizer { source, .. } = &mut self {
            *source = Some(cause.into());
        }
        self
    }
}

/// How many there may be of what is given once for all or for each: `1 or 3, one per prompt`.
pub(crate) fn one_or_each(count: usize, of: &str) -> String {
    if count == 1 {
        "1".to_string()
    } else {
        format!("1 or {count}, one per {of}")
    }
}

/// `path: `, or nothing where there is no path.
fn prefix(path: Option<&Path>) -> String {
    path.map_or_else(String::new, |path| format!("{}: ", path.display()))
}
