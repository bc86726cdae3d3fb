//! Equal parts of a study's work, for many machines.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use crate::error::{Error, Result};

/// One of several equal parts of a study's work.
///
/// As a text it counts from 1: `3/10` is the third of ten.
///
/// ```
/// use patchlens::journal::Shard;
/// let shard: Shard = "3/10".parse()?;
/// assert_eq!(shard, Shard::new(2, 10)?);
/// assert_eq!(shard.to_string(), "3/10");
/// // Of eight prompts, all of one length; the fourth is shared with the next shard.
/// let part = "1/3".parse::<Shard>()?.part(&[15; 8]);
/// assert_eq!(part.prompts(), 0..3);
/// assert!("11/10".parse::<Shard>().is_err());
/// # Ok::<(), patchlens::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shard {
    index: usize,
    of: usize,
}

/// More shards than any array of jobs has; what lists them all stays small.
pub(super) const MOST_SHARDS: usize = 1_000_000;

impl Shard {
    /// The shard of this index, from 0, among so many.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for an index that is not below the number; [`Error::Invalid`] for more
    /// than a million shards.
    pub fn new(index: usize, of: usize) -> Result<Self> {
        if of > MOST_SHARDS {
            return Err(Error::invalid(
                "shards",
                of,
                format!("at most {MOST_SHARDS}"),
            ));
        }
        if index < of {
            return Ok(Shard { index, of });
        }
        Err(Error::OutOfRange {
            at: format!("shards of {of}"),
            axis: "shard",
            found: index,
            expected: format!("0..{of}"),
        })
    }

    /// Which one it is, from 0.
    pub fn index(self) -> usize {
        self.index
    }

    /// How many there are.
    pub fn of(self) -> usize {
        self.of
    }

    /// The part of a study over prompts of these costs: planned multiply-adds, or, where every
    /// prompt has the same cells, anything that grows with them, such as tokens. Parts are
    /// contiguous, so that only the prompts at their ends are run by two shards.
    pub fn part(self, costs: &[u64]) -> Part {
        let costs = scaled(costs);
        let total: u128 = costs.iter().sum();
        let bound = |index: usize| total * index as u128 / self.of as u128;
        let (begin, end) = (bound(self.index), bound(self.index + 1));
        let mut before = 0;
        let slots = costs.into_iter().map(|whole| {
            let within = |at: u128| at.clamp(before, before + whole) - before;
            let slot = Slot {
                begin: within(begin),
                end: within(end),
                whole,
            };
            before += whole;
            slot
        });
        let slots: Vec<Slot> = slots.collect();
        let mine = |slot: &Slot| slot.begin < slot.end;
        let first = slots.iter().position(mine).unwrap_or(0);
        let last = slots.iter().rposition(mine).map_or(first, |last| last + 1);
        Part {
            shard: self,
            prompts: first..last,
            slots,
        }
    }
}

/// Costs in units that are small enough for bounds to lie anywhere, and large enough for what costs
/// nothing to belong to somebody.
fn scaled(costs: &[u64]) -> Vec<u128> {
    const ALL: u128 = 1 << 40;
    let total: u128 = costs.iter().map(|cost| u128::from(*cost)).sum();
    let scale = |cost: &u64| (u128::from(*cost) * ALL / total.max(1)).max(1);
    costs.iter().map(scale).collect()
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index + 1, self.of)
    }
}

impl FromStr for Shard {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            let expected = format!(
                "a shard and how many there are, such as 1/10 to 10/10, at most {MOST_SHARDS}"
            );
            Error::invalid("shard", format!("`{text}`"), expected)
        };
        let (index, of) = text.split_once('/').ok_or_else(wrong)?;
        let number = |text: &str| text.trim().parse::<usize>().map_err(|_| wrong());
        let (index, of) = (number(index)?, number(of)?);
        let index = index.checked_sub(1).ok_or_else(wrong)?;
        Shard::new(index, of).map_err(|_| wrong())
    }
}

/// How much of one prompt's work belongs to a shard, in units of its cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    begin: u128,
    end: u128,
    whole: u128,
}

impl Slot {
    /// Whether work belongs to the shard that begins where `before` of all `total` multiply-adds
    /// of its prompt are done. Exactly one shard says yes.
    pub fn takes(self, before: u64, total: u64) -> bool {
        let (before, total) = (u128::from(before), u128::from(total.max(1)));
        let place = before * self.whole;
        self.begin * total <= place && place < self.end * total
    }
}

/// Which prompts of a study a shard works on, and how much of the first and the last of them.
///
/// Made by [`Shard::part`], given to [`Journal::part`](super::Journal::part).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    shard: Shard,
    prompts: Range<usize>,
    /// One per prompt of the study that gets it.
    slots: Vec<Slot>,
}

impl Part {
    /// The prompts that the shard works on. A study of these alone, with the journal of
    /// [`Part::of_these`], runs no other prompt.
    pub fn prompts(&self) -> Range<usize> {
        self.prompts.clone()
    }

    /// The shard.
    pub fn shard(&self) -> Shard {
        self.shard
    }

    /// The same part for a study of [`Part::prompts`] alone. Without this, the study is of all
    /// prompts, as one must be whose runs depend on them all, such as a mean ablation.
    #[must_use]
    pub fn of_these(mut self) -> Self {
        self.slots = self.slots[self.prompts.clone()].to_vec();
        self
    }

    pub(crate) fn slots(&self) -> &[Slot] {
        &self.slots
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which shards of `of` take each unit, by prompt and place, where each prompt has `units` of
    /// one cost.
    fn takers(costs: &[u64], units: u64, of: usize) -> Vec<Vec<usize>> {
        let mut takers = Vec::new();
        for prompt in 0..costs.len() {
            for unit in 0..units {
                let parts = (0..of).map(|index| Shard { index, of }.part(costs));
                let takes = |(shard, part): (usize, Part)| {
                    let slot = part.slots[prompt];
                    assert!(slot.begin >= slot.end || part.prompts.contains(&prompt));
                    slot.takes(unit, units).then_some(shard)
                };
                takers.push(parts.enumerate().filter_map(takes).collect());
            }
        }
        takers
    }

    #[test]
    fn every_unit_belongs_to_exactly_one_shard() {
        for of in [1, 2, 3, 7, 40] {
            for costs in [&[15, 15, 15][..], &[1], &[3, 0, 9, 1000]] {
                for owners in takers(costs, 11, of) {
                    assert_eq!(owners.len(), 1, "{costs:?} in {of}: {owners:?}");
                }
            }
        }
    }

    #[test]
    fn shards_follow_one_another_and_are_equal() {
        let takers = takers(&[10, 10], 30, 3).concat();
        assert!(takers.is_sorted());
        let share = |shard| takers.iter().filter(|taker| **taker == shard).count();
        assert_eq!([0, 1, 2].map(share), [20, 20, 20]);
    }

    #[test]
    fn a_part_of_its_prompts_alone_has_their_slots() {
        let part = Shard { index: 1, of: 2 }.part(&[4, 4, 4]);
        assert_eq!(part.prompts(), 1..3);
        let alone = part.clone().of_these();
        assert_eq!(alone.slots, part.slots[1..]);
    }

    #[test]
    fn there_are_not_endlessly_many() {
        assert!(Shard::new(0, MOST_SHARDS).is_ok());
        for text in ["1/1000001", "1/18446744073709551615", "1/0", "0/1"] {
            assert!(text.parse::<Shard>().is_err(), "{text}");
        }
    }
}
