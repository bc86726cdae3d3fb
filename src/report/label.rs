//! Labels, and how they are made fit to be shown.

use std::collections::BTreeMap;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

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

/// At most `limit` columns of a token's text, whose end is cut: words are told apart by how they
/// begin (`·baseball` and `·basketball`).
pub(super) fn shorten_token(text: &str, limit: usize) -> String {
    if width(text) <= limit {
        return text.to_string();
    }
    let head = take_width(text.chars(), limit.saturating_sub(1));
    head.into_iter().chain(['…']).collect()
}

/// Labels of at most `limit` columns each. Different ones that would look alike get twice the room,
/// and where that is not enough, their end gives way to their index.
pub(super) fn shorten_apart(labels: &[String], limit: usize) -> Vec<String> {
    let cut: Vec<String> = labels.iter().map(|label| shorten(label, limit)).collect();
    let cut = tell_apart(labels, cut, |i| shorten(&labels[i], 2 * limit));
    tell_apart(labels, cut, |i| {
        let number = format!("…#{i}");
        let room = limit.saturating_sub(width(&number));
        let head = take_width(labels[i].chars(), room).into_iter();
        head.collect::<String>() + &number
    })
}

/// Puts another text wherever several labels have the same one.
fn tell_apart(
    labels: &[String],
    mut cut: Vec<String>,
    other: impl Fn(usize) -> String,
) -> Vec<String> {
    let mut alike: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (i, text) in cut.iter().enumerate() {
        alike.entry(text.clone()).or_default().push(i);
    }
    for group in alike.into_values() {
        if group.iter().any(|&i| labels[i] != labels[group[0]]) {
            group.into_iter().for_each(|i| cut[i] = other(i));
        }
    }
    cut
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
