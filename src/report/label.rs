//! Axis labels, and how they are made fit to be shown.

use serde::{Deserialize, Serialize};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// One dimension of a [`Labelled`](super::Labelled) array: its name and a label per index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Axis {
    /// What the axis runs over: `layer`, `pos`, `head`, ...
    pub name: String,
    /// One label per index, raw: made legible only when shown.
    pub labels: Vec<String>,
}

impl Axis {
    /// An axis with any labels.
    pub fn new<L: Into<String>>(
        name: impl Into<String>,
        labels: impl IntoIterator<Item = L>,
    ) -> Self {
        Axis {
            name: name.into(),
            labels: labels.into_iter().map(Into::into).collect(),
        }
    }

    /// The axis `layer` with the labels `L0`, `L1`, ...
    pub fn layers(n: usize) -> Self {
        Axis::new("layer", (0..n).map(|i| format!("L{i}")))
    }

    /// The axis `head` with the labels `H0`, `H1`, ...
    pub fn heads(n: usize) -> Self {
        Axis::new("head", (0..n).map(|i| format!("H{i}")))
    }

    /// Tokens with their positions: ` Mary` at 4 becomes ` Mary@4`.
    pub fn tokens<T: AsRef<str>>(name: impl Into<String>, tokens: &[T]) -> Self {
        let label = |(i, token): (usize, &T)| format!("{}@{i}", token.as_ref());
        Axis::new(name, tokens.iter().enumerate().map(label))
    }

    /// Numbers, such as the scales of a dose-response curve.
    pub fn numbers(name: impl Into<String>, numbers: &[f32]) -> Self {
        Axis::new(name, numbers.iter().map(f32::to_string))
    }

    /// The labels as they are shown.
    pub(super) fn legible(&self) -> Vec<String> {
        self.labels.iter().map(|label| legible(label)).collect()
    }
}

/// A label as it can be shown anywhere: spaces that the eye would miss become `·`; control,
/// zero-width and bidirectional-control characters become escapes; a backslash is doubled, but not
/// that of an escaped byte (`\xe2`, see [`token_label`](crate::Tokenizer::token_label)); different
/// labels stay different.
///
/// ```
/// use patchlens::report::legible;
/// assert_eq!(legible(" Mary@4"), "·Mary@4");
/// assert_eq!(legible("\n\n@0"), "\\n\\n@0");
/// assert_eq!(legible("final residual"), "final residual");
/// ```
pub fn legible(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut shown = String::with_capacity(text.len());
    for (i, &c) in chars.iter().enumerate() {
        let before = i.checked_sub(1).map(|j| chars[j]);
        let after = chars.get(i + 1).copied();
        let inner = |c: Option<char>| c.is_some_and(|c| c != ' ' && c != '@');
        match c {
            ' ' if inner(before) && inner(after) => shown.push(' '),
            ' ' => shown.push('·'),
            '\n' => shown.push_str("\\n"),
            '\r' => shown.push_str("\\r"),
            '\t' => shown.push_str("\\t"),
            '\\' if is_byte(&chars[i + 1..]) => shown.push('\\'),
            '\\' => shown.push_str("\\\\"),
            _ if hidden(c) => shown.extend(c.escape_unicode()),
            _ => shown.push(c),
        }
    }
    shown
}

/// Whether what follows a backslash makes it the escape of a byte. No character is shown as such an
/// escape, so that one means nothing else.
fn is_byte(rest: &[char]) -> bool {
    matches!(rest, ['x', a, b, ..] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit())
}

/// Whether a character cannot be seen, or could be mistaken for the mark of a space.
fn hidden(c: char) -> bool {
    // Control characters have no width.
    c == '·' || c.is_whitespace() || c.width().unwrap_or(0) == 0
}

/// Columns that a text takes in a terminal or in a monospaced font.
pub(super) fn width(text: &str) -> usize {
    text.width()
}

/// At most `limit` columns of a text; what is cut from the middle is marked by `…`, so that a
/// token's position at the end stays.
pub(super) fn shorten(text: &str, limit: usize) -> String {
    if width(text) <= limit {
        return text.to_string();
    }
    let room = limit.saturating_sub(1);
    let tail = take_width(text.chars().rev(), room / 2);
    let head = take_width(text.chars(), room - room / 2);
    head.into_iter()
        .chain(['…'])
        .chain(tail.into_iter().rev())
        .collect()
}

fn take_width(chars: impl Iterator<Item = char>, room: usize) -> Vec<char> {
    let mut used = 0;
    chars
        .take_while(|c| {
            used += c.width().unwrap_or(0);
            used <= room
        })
        .collect()
}

/// A text broken into lines of at most `width` columns.
pub(super) fn wrap(text: &str, width: usize) -> Vec<String> {
    let lines = text.lines().map(sanitized).collect::<Vec<_>>();
    lines
        .iter()
        .flat_map(|line| textwrap::wrap(line, width.max(8)))
        .map(std::borrow::Cow::into_owned)
        .filter(|line| !line.is_empty())
        .collect()
}

/// Free text without characters that could steer a terminal or break an XML file.
pub(super) fn sanitized(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if c != ' ' && c != '·' && hidden(c) {
            safe.extend(c.escape_unicode());
        } else {
            safe.push(c);
        }
    }
    safe
}

/// A number for people: four significant digits, `n/a` where there is none.
pub(super) fn number(value: f32) -> String {
    let magnitude = value.abs();
    if value.is_nan() {
        "n/a".to_string()
    } else if value == 0.0 {
        "0".to_string()
    } else if value.is_infinite() {
        value.to_string()
    } else if (1e-3..1e6).contains(&magnitude) {
        let decimals = (3 - magnitude.log10().floor() as i32).clamp(0, 6);
        format!("{value:.*}", decimals as usize)
    } else {
        format!("{value:.3e}")
    }
}
