//! Which positions of one run go where in another.

use ndarray::Axis as Dim;

use crate::cache::ActivationCache;
use crate::error::{Error, Result};
use crate::hook::HookPoint;
use crate::intervention::{Target, Values};
use crate::prompt::Prompts;
use crate::select::{InPrompt, Select};

/// Which positions of the source prompt go to which positions of the base prompt: the lengths of
/// the two may differ.
///
/// ```
/// use patchlens::interchange::PositionMap;
/// let last = PositionMap::new("END", -1, -1);
/// let names = PositionMap::new("subject", [0, 1], [3, 4]); // in every pair: 0 to 3, 1 to 4
/// let crossed = PositionMap::listed("crossed", vec![vec![(0, 4), (1, 3)]]); // (source, base)
/// assert_eq!([last, names, crossed].map(|map| map.name), ["END", "subject", "crossed"]);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PositionMap {
    /// Its name in results.
    pub name: String,
    moves: Listed,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Listed {
    /// The first of the sources, by position, goes to the first of the base's, and so on.
    InOrder { source: Select, base: Select },
    /// `(source, base)` by pair of prompts.
    Pairs(Vec<Vec<(usize, usize)>>),
}

/// The positions of all prompts, checked.
#[derive(Clone, Debug)]
pub(crate) struct Moves {
    /// `[pair][..]`, in the order of `to`.
    from: Vec<Vec<usize>>,
    /// `[pair][..]`, ascending.
    to: Vec<Vec<usize>>,
}

impl PositionMap {
    /// Positions of the source prompt, and as many of the base prompt, in ascending order: the
    /// first goes to the first. Both may differ from pair to pair, see [`Select::each`].
    pub fn new(
        name: impl Into<String>,
        source: impl Into<Select>,
        base: impl Into<Select>,
    ) -> Self {
        PositionMap {
            name: name.into(),
            moves: Listed::InOrder {
                source: source.into(),
                base: base.into(),
            },
        }
    }

    /// The same positions in both prompts.
    pub fn same(name: impl Into<String>, positions: impl Into<Select>) -> Self {
        let positions = positions.into();
        Self::new(name, positions.clone(), positions)
    }

    /// Any positions, `(source, base)`: one list per pair of prompts.
    pub fn listed(name: impl Into<String>, pairs: Vec<Vec<(usize, usize)>>) -> Self {
        PositionMap {
            name: name.into(),
            moves: Listed::Pairs(pairs),
        }
    }

    /// The positions in all pairs; one source prompt may serve all base prompts.
    pub(crate) fn moves(&self, source: &Prompts, base: &Prompts) -> Result<Moves> {
        let what = format!("position map `{}`", self.name);
        self.check_counts(&what, base.len())?;
        let mut moves = Moves {
            from: Vec::new(),
            to: Vec::new(),
        };
        let sources = source.lengths().into_iter().cycle();
        for (pair, lengths) in sources.zip(base.lengths()).enumerate() {
            let at = InPrompt {
                what: &what,
                prompt: pair,
                prompts: base.len(),
            };
            let pairs = self.of_pair(&at, lengths)?;
            moves
                .from
                .push(pairs.iter().map(|(from, _)| *from).collect());
            moves.to.push(pairs.iter().map(|(_, to)| *to).collect());
        }
        Ok(moves)
    }

    fn check_counts(&self, what: &String, prompts: usize) -> Result<()> {
        match &self.moves {
            Listed::Pairs(pairs) if pairs.len() != prompts => {
                let expected = format!("{prompts}, one per pair of prompts");
                Err(Error::invalid(
                    format!("{what}: lists"),
                    pairs.len(),
                    expected,
                ))
            }
            Listed::Pairs(_) => Ok(()),
            Listed::InOrder { source, base } => {
                source.check_prompts(what, "source pos", prompts)?;
                base.check_prompts(what, "base pos", prompts)
            }
        }
    }

    /// `(source, base)` of one pair, by position in the base prompt.
    fn of_pair(
        &self,
        at: &InPrompt<'_>,
        (from, to): (usize, usize),
    ) -> Result<Vec<(usize, usize)>> {
        let (source, base) = match &self.moves {
            Listed::InOrder { source, base } => (source.clone(), base.clone()),
            Listed::Pairs(pairs) => {
                let (source, base): (Vec<usize>, Vec<usize>) =
                    pairs[at.prompt].iter().copied().unzip();
                (source.into(), base.into())
            }
        };
        source.check(at, "source pos", at.prompt, from)?;
        base.check(at, "base pos", at.prompt, to)?;
        let mut pairs = match &self.moves {
            Listed::Pairs(pairs) => pairs[at.prompt].clone(),
            Listed::InOrder { .. } => {
                let source = source.resolve(at.prompt, from);
                let base = base.resolve(at.prompt, to);
                if source.len() != base.len() {
                    let found =
                        format!("{} of the source, {} of the base", source.len(), base.len());
                    let expected = "as many of both";
                    return Err(Error::invalid(format!("{at}: positions"), found, expected));
                }
                source.into_iter().zip(base).collect()
            }
        };
        pairs.sort_unstable_by_key(|(_, to)| *to);
        match pairs.windows(2).find(|pairs| pairs[0].1 == pairs[1].1) {
            None => Ok(pairs),
            Some(twice) => Err(Error::invalid(
                format!("{at}: base pos {}", twice[0].1),
                format!("source pos {} and {}", twice[0].0, twice[1].0),
                "one",
            )),
        }
    }
}

impl Moves {
    /// Checks that it moves one position in each pair.
    pub(crate) fn check_one(&self) -> Result<()> {
        match self.to.iter().position(|to| to.len() != 1) {
            None => Ok(()),
            Some(pair) => Err(Error::invalid(
                format!("positions of prompt {pair}"),
                self.to[pair].len(),
                "1",
            )),
        }
    }

    /// Where values go at a point of the base's run.
    pub(crate) fn target(&self, point: HookPoint) -> Target {
        Target::new(point).at_positions(Select::each(self.to.iter().cloned()))
    }

    /// What the source runs had at a point, in the shape of the target, with some columns of the
    /// last axis; one cache per pair, or one for all.
    pub(crate) fn values(
        &self,
        caches: &[ActivationCache],
        point: HookPoint,
        columns: &Select,
    ) -> Result<Values> {
        let caches = caches.iter().cycle();
        let arrays = self.from.iter().zip(caches).enumerate();
        let array = |(pair, (from, cache)): (usize, (&Vec<usize>, &ActivationCache))| {
            let all = cache.get(point)?;
            let rows = all.select(Dim(point.axes().pos_axis()), from);
            let last = Dim(rows.ndim() - 1);
            let width = rows.len_of(last);
            columns.check(&point, "column", pair, width)?;
            Ok(rows.select(last, &columns.resolve(pair, width)))
        };
        Ok(Values::arrays(arrays.map(array).collect::<Result<_>>()?))
    }
}
