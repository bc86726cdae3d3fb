//! An edge and its two ends, by the names in EAP-IG's files.

use std::fmt;
use std::str::FromStr;

use crate::component::{Component, Head, Qkv, serde_as_text};
use crate::error::{Error, Result};
use crate::hook::parse_index;

/// Where an edge starts: what writes into the residual stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// `input`: the token embedding, without the position embedding.
    Input,
    /// `a9.h6`: a head's output, without `b_O`.
    Head(Head),
    /// `m9`: an MLP's output, with `b_out`.
    Mlp(usize),
}

impl Source {
    /// The same as a part of the model.
    pub fn component(self) -> Component {
        match self {
            Source::Input => Component::Embedding,
            Source::Head(head) => Component::Head(head),
            Source::Mlp(layer) => Component::Mlp(layer),
        }
    }

    /// The first time at which the stream holds its output, on the clock of [`Receiver::time`].
    pub(super) fn time(self) -> usize {
        match self {
            Source::Input => 0,
            Source::Head(head) => 2 * head.layer + 1,
            Source::Mlp(layer) => 2 * layer + 2,
        }
    }
}

/// Where an edge ends: what reads the residual stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Receiver {
    /// `a9.h6<q>`: what a head's queries, keys or values are made of, before the LayerNorm.
    Head(Head, Qkv),
    /// `m9`: what an MLP reads, before the LayerNorm.
    Mlp(usize),
    /// `logits`: the stream after the last block, before the final LayerNorm.
    Logits,
}

impl Receiver {
    /// What its component writes in turn; `None` for the logits.
    pub fn source(self) -> Option<Source> {
        match self {
            Receiver::Head(head, _) => Some(Source::Head(head)),
            Receiver::Mlp(layer) => Some(Source::Mlp(layer)),
            Receiver::Logits => None,
        }
    }

    /// When it reads: attention of layer `l` at `2l`, its MLP at `2l + 1`, the logits last.
    pub(super) fn time(self) -> usize {
        match self {
            Receiver::Head(head, _) => 2 * head.layer,
            Receiver::Mlp(layer) => 2 * layer + 1,
            Receiver::Logits => usize::MAX,
        }
    }
}

/// One writer's part in what one reader reads, at all positions.
///
/// ```
/// use patchlens::circuits::{Edge, Receiver, Source};
/// use patchlens::{Head, Qkv};
/// let edge: Edge = "a0.h1->a2.h3<k>".parse()?;
/// assert_eq!(edge.from, Source::Head(Head::new(0, 1)));
/// assert_eq!(edge.to, Receiver::Head(Head::new(2, 3), Qkv::K));
/// assert_eq!(edge.to_string(), "a0.h1->a2.h3<k>");
/// # Ok::<(), patchlens::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Edge {
    /// What writes.
    pub from: Source,
    /// What reads.
    pub to: Receiver,
}

impl Edge {
    /// From a writer to a reader. Whether a model has such an edge, [`Graph::index`] tells.
    ///
    /// [`Graph::index`]: super::Graph::index
    pub fn new(from: Source, to: Receiver) -> Self {
        Edge { from, to }
    }

    /// Whether the writer writes before the reader reads. Heads of one layer do not read each other.
    pub(super) fn leads_forward(self) -> bool {
        self.from.time() <= self.to.time()
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&match self {
            Source::Input => "input".to_string(),
            Source::Head(Head { layer, head }) => format!("a{layer}.h{head}"),
            Source::Mlp(layer) => format!("m{layer}"),
        })
    }
}

impl fmt::Display for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self, self.source()) {
            (Receiver::Head(head, read), _) => f.pad(&format!("{}<{read}>", Source::Head(*head))),
            (_, Some(source)) => source.fmt(f),
            (_, None) => f.pad("logits"),
        }
    }
}

impl fmt::Display for Edge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}->{}", self.from, self.to))
    }
}

impl FromStr for Source {
    type Err = Error;

    /// # Errors
    /// [`Error::Invalid`] for anything but `input`, `a9.h6` and `m9`.
    fn from_str(text: &str) -> Result<Self> {
        let found = match text {
            "input" => Some(Source::Input),
            _ => head(text).map(Source::Head).or(mlp(text).map(Source::Mlp)),
        };
        found.ok_or_else(|| invalid("start of an edge", text, "`input`, `a9.h6` or `m9`"))
    }
}

impl FromStr for Receiver {
    type Err = Error;

    /// # Errors
    /// [`Error::Invalid`] for anything but `a9.h6<q>`, `m9` and `logits`.
    fn from_str(text: &str) -> Result<Self> {
        let input_of_head = || {
            let (name, read) = text.strip_suffix('>')?.split_once('<')?;
            Some(Receiver::Head(head(name)?, read.parse().ok()?))
        };
        let found = match text {
            "logits" => Some(Receiver::Logits),
            _ => input_of_head().or(mlp(text).map(Receiver::Mlp)),
        };
        found.ok_or_else(|| invalid("end of an edge", text, "`a9.h6<q>`, `m9` or `logits`"))
    }
}

impl FromStr for Edge {
    type Err = Error;

    /// # Errors
    /// [`Error::Invalid`] for anything but the names of two ends with `->` between them.
    fn from_str(text: &str) -> Result<Self> {
        let ends = text.split_once("->");
        let (from, to) = ends.ok_or_else(|| invalid("edge", text, "as in `a0.h1->a2.h3<k>`"))?;
        Ok(Edge::new(from.parse()?, to.parse()?))
    }
}

fn head(text: &str) -> Option<Head> {
    let (layer, head) = text.strip_prefix('a')?.split_once(".h")?;
    Some(Head::new(parse_index(layer)?, parse_index(head)?))
}

fn mlp(text: &str) -> Option<usize> {
    parse_index(text.strip_prefix('m')?)
}

fn invalid(what: &str, text: &str, expected: &str) -> Error {
    Error::invalid(what, format!("`{text}`"), expected)
}

serde_as_text!(Source Receiver Edge);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_parses_prints_back(
            text in "(input|a[0-9]{1,2}\\.h[0-9]|m[0-9]|logits)->(a[0-9]\\.h[0-9](<[qkvx]>)?|m[0-9]{0,2}|logits)"
        ) {
            if let Ok(edge) = text.parse::<Edge>() {
                prop_assert_eq!(edge.to_string(), text);
            }
        }
    }

    #[test]
    fn names_that_are_none_say_what_would_be_one() {
        let message = |text: &str| text.parse::<Edge>().unwrap_err().to_string();
        let expected = "edge: found `a0.h1`; expected as in `a0.h1->a2.h3<k>`";
        assert_eq!(message("a0.h1"), expected);
        let expected = "end of an edge: found `a2.h3`; expected `a9.h6<q>`, `m9` or `logits`";
        assert_eq!(message("m0->a2.h3"), expected);
        let expected = "start of an edge: found `logits`; expected `input`, `a9.h6` or `m9`";
        assert_eq!(message("logits->m0"), expected);
        assert!(message("a00.h1->m3").contains("start of an edge: found `a00.h1`"));
    }
}
