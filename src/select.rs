//! Choices of indices along an axis: the same in every prompt, counted from the end, or different
//! ones in each prompt. They are data, so that whoever takes one can check it before a run and knows
//! what it leaves out.

use std::fmt;
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::ops::sorted;

/// Some indices of an axis: positions, heads, sequences. They are a set: order and repetition mean
/// nothing.
///
/// Whatever takes positions takes whatever converts into this: `3`, `-1` (the last one), `[3, 4]`,
/// `2..5`, [`Select::Last`], and, where prompts have different shapes, [`Select::each`] or
/// [`Select::role`].
///
/// ```
/// use patchlens::{Select, Site, Target};
/// let s2 = Select::role("S2", [9, 11, 8]); // one position per prompt
/// let target = Target::new(Site::Z.at(3)).at_positions(s2);
/// assert_eq!(target.to_string(), "blocks.3.attn.hook_z[pos S2]");
/// let subjects = Select::each([1..3, 2..5]); // several per prompt
/// assert_eq!(subjects.resolve(1, 7), [2, 3, 4]); // of prompt 1, with 7 tokens
/// assert_eq!(Select::from([-2, -1]).resolve(0, 7), [5, 6]);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Select {
    /// All of them.
    #[default]
    All,
    /// The last one in each prompt.
    Last,
    /// The listed ones. Those below 0 count from the end of each prompt: −1 is the last one.
    At(Vec<isize>),
    /// Different ones in each prompt, see [`Select::each`].
    Each(Each),
}

/// A choice per prompt, made by [`Select::each`] or [`Select::role`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Each {
    name: Option<Arc<str>>,
    /// The indices by prompt; `None` for all of them.
    choices: Arc<[Option<Vec<isize>>]>,
}

/// What an error is about: something in one of several prompts, or in the only one.
pub(crate) struct InPrompt<'a> {
    pub what: &'a dyn fmt::Display,
    pub prompt: usize,
    pub prompts: usize,
}

impl fmt::Display for InPrompt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.what.fmt(f)?;
        if self.prompts == 1 {
            return Ok(());
        }
        write!(f, " in prompt {}", self.prompt)
    }
}

impl Select {
    /// A choice per prompt, in the order of the prompts: positions that move from prompt to prompt.
    pub fn each<S: Into<Select>>(prompts: impl IntoIterator<Item = S>) -> Self {
        let choice = |(prompt, choice): (usize, S)| choice.into().of(prompt).map(<[_]>::to_vec);
        Select::Each(Each {
            name: None,
            choices: prompts.into_iter().enumerate().map(choice).collect(),
        })
    }

    /// Same as [`Select::each`], with a name that stands for the indices in labels and receipts:
    /// `S2`, `subject`.
    pub fn role<S: Into<Select>>(
        name: impl Into<String>,
        prompts: impl IntoIterator<Item = S>,
    ) -> Self {
        let mut role = Select::each(prompts);
        if let Select::Each(each) = &mut role {
            each.name = Some(name.into().into());
        }
        role
    }

    /// The indices in a prompt where the axis has length `n`, ascending; those that it lacks are
    /// left out.
    pub fn resolve(&self, prompt: usize, n: usize) -> Vec<usize> {
        match self.of(prompt) {
            None => (0..n).collect(),
            Some(list) => sorted(list.iter().filter_map(|index| place(*index, n))),
        }
    }

    /// Whether an index of an axis of length `n` is among those of a prompt.
    pub fn contains(&self, prompt: usize, index: usize, n: usize) -> bool {
        let list = self.of(prompt);
        list.is_none_or(|list| list.iter().any(|i| place(*i, n) == Some(index)))
    }

    /// The indices named in a prompt; `None` for all of them.
    pub(crate) fn of(&self, prompt: usize) -> Option<&[isize]> {
        match self {
            Select::All => None,
            Select::Last => Some(&[-1]),
            Select::At(list) => Some(list),
            Select::Each(each) => match each.choices.get(prompt) {
                Some(choice) => choice.as_deref(),
                None => Some(&[]),
            },
        }
    }

    /// The indices in a prompt, ascending, where they are named and need no length of the axis.
    pub(crate) fn fixed(&self, prompt: usize) -> Option<Vec<usize>> {
        let list = self.of(prompt)?.iter();
        let fixed: Option<Vec<_>> = list.map(|index| usize::try_from(*index).ok()).collect();
        fixed.map(sorted)
    }

    /// Whether the indices in a prompt were named in ascending order, each once: in the order in
    /// which [`Select::resolve`] returns them.
    pub(crate) fn ascends(&self, prompt: usize, n: usize) -> bool {
        let places = |list: &[isize]| list.iter().map(|i| place(*i, n)).is_sorted_by(|a, b| a < b);
        self.of(prompt).is_none_or(places)
    }

    /// Checks that a choice per prompt has as many entries as there are prompts.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it has not.
    pub(crate) fn check_prompts(
        &self,
        at: &dyn fmt::Display,
        axis: &str,
        prompts: usize,
    ) -> Result<()> {
        match self {
            Select::Each(each) if each.choices.len() != prompts => {
                let what = format!("{at}: {axis} chosen by prompt");
                let expected = format!("{prompts}, one per prompt");
                Err(Error::invalid(what, each.choices.len(), expected))
            }
            _ => Ok(()),
        }
    }

    /// Checks that it names something in a prompt where the axis has length `n`, and nothing that
    /// is not there.
    ///
    /// # Errors
    /// [`Error::NeverFires`] if nothing is named; [`Error::OutOfRange`] or, for an index from the
    /// end, [`Error::Invalid`].
    pub(crate) fn check(
        &self,
        at: &dyn fmt::Display,
        axis: &'static str,
        prompt: usize,
        n: usize,
    ) -> Result<()> {
        let Some(list) = self.of(prompt) else {
            return Ok(());
        };
        let at = || at.to_string();
        if list.is_empty() {
            let reason = format!("no {axis} is selected");
            return Err(Error::NeverFires { at: at(), reason });
        }
        match list.iter().find(|index| place(**index, n).is_none()) {
            None => Ok(()),
            Some(&index) => Err(match usize::try_from(index) {
                Ok(found) => Error::OutOfRange {
                    at: at(),
                    axis,
                    found,
                    expected: format!("0..{n}"),
                },
                Err(_) => Error::invalid(format!("{}: {axis}", at()), index, format!("-{n}..{n}")),
            }),
        }
    }

    /// What is named in one prompt, as text.
    pub(crate) fn in_prompt(&self, prompt: usize) -> String {
        match self.of(prompt) {
            None => "all".to_string(),
            Some([]) => "none".to_string(),
            Some([-1]) => "last".to_string(),
            Some(list) => {
                let items: Vec<String> = list.iter().map(ToString::to_string).collect();
                items.join(",")
            }
        }
    }

    /// Of a range that is longer than any axis, its beginning and its end, which checks reject.
    fn from_range(mut range: impl DoubleEndedIterator<Item = isize>) -> Self {
        const LONGEST: usize = 1 << 22;
        let mut list: Vec<isize> = range.by_ref().take(LONGEST).collect();
        list.extend(range.next_back());
        Select::from_list(list)
    }

    fn from_list(list: Vec<isize>) -> Self {
        if list == [-1] {
            Select::Last
        } else {
            Select::At(list)
        }
    }
}

/// Where an index that may count from the end points to, on an axis of length `n`.
fn place(index: isize, n: usize) -> Option<usize> {
    let place = match usize::try_from(index) {
        Ok(place) => Some(place),
        Err(_) => n.checked_sub(index.unsigned_abs()),
    };
    place.filter(|place| *place < n)
}

/// An index as a number that may count from the end.
trait Index {
    fn signed(self) -> isize;
}

impl Index for usize {
    /// No axis is so long that the largest number would not do for what is beyond it.
    fn signed(self) -> isize {
        isize::try_from(self).unwrap_or(isize::MAX)
    }
}

impl Index for isize {
    fn signed(self) -> isize {
        self
    }
}

impl Index for i32 {
    fn signed(self) -> isize {
        isize::try_from(self).unwrap_or(if self < 0 { isize::MIN } else { isize::MAX })
    }
}

/// What converts into a choice, for each type of index. `i32` is what a bare number is to Rust.
macro_rules! from_indices {
    ($($index:ty),*) => {$(
        impl From<$index> for Select {
            fn from(index: $index) -> Self {
                Select::from_list(vec![index.signed()])
            }
        }

        impl From<Vec<$index>> for Select {
            fn from(list: Vec<$index>) -> Self {
                Select::from_list(list.into_iter().map(Index::signed).collect())
            }
        }

        impl<const N: usize> From<[$index; N]> for Select {
            fn from(list: [$index; N]) -> Self {
                Select::from_list(list.map(Index::signed).to_vec())
            }
        }

        impl From<Range<$index>> for Select {
            fn from(range: Range<$index>) -> Self {
                Select::from_range(range.map(Index::signed))
            }
        }

        impl From<RangeInclusive<$index>> for Select {
            fn from(range: RangeInclusive<$index>) -> Self {
                Select::from_range(range.map(Index::signed))
            }
        }
    )*};
}

from_indices!(usize, isize, i32);

/// How many prompts' choices are printed one by one.
const SHOWN: usize = 6;

impl fmt::Display for Select {
    /// `all`, `last`, `3,-1`, `S2`; without a name, the choices of prompts in turn: `3; 5; last`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Select::Each(Each { name, choices }) = self else {
            return f.write_str(&self.in_prompt(0));
        };
        if let Some(name) = name {
            return f.write_str(name);
        }
        let shown = (0..choices.len().min(SHOWN)).map(|prompt| self.in_prompt(prompt));
        f.write_str(&shown.collect::<Vec<_>>().join("; "))?;
        f.write_str(if choices.len() > SHOWN { "; …" } else { "" })
    }
}
