//! Which positions of two prompts correspond, where their lengths differ.

mod moved;

pub(crate) use moved::{moved, patches};

use crate::error::{Error, Result};
use crate::prompt::{IntoPrompts, Prompt, Prompts};
use crate::select::{InPrompt, Select};

/// Which positions of the two prompts of each pair correspond: by role, or by a map of positions.
/// A column of the result stands for a role or for a position of the first prompt; a pair in which
/// one of the two prompts lacks it has no value there.
///
/// ```
/// use patchlens::patching::{ActivationPatching, Alignment};
/// use patchlens::prelude::*;
/// let (model, tokenizer) = (Transformer::mini(), Tokenizer::mini());
/// let clean = tokenizer.encode("When Mary and John went to the store, John gave a drink to")?;
/// let corrupted = tokenizer.encode("When Mary and John went to the store Mary gave a drink to")?;
/// let names = Select::each([[1, 3, 9]]); // Mary, John, John
/// let alignment = Alignment::roles([
///     ("names", names, Select::each([[1, 3, 8]])), // Mary, John, Mary
///     ("end", Select::Last, Select::Last),
/// ]);
/// let metric = logit_diff(tokenizer.token(" Mary")?, tokenizer.token(" John")?);
/// let study = ActivationPatching::aligned(&model, &clean, &corrupted, alignment)?;
/// println!("{}", study.run(Grid::Positions(Site::ResidPre), &metric)?.effect);
/// # Ok::<(), patchlens::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alignment(Columns);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Columns {
    /// Name, positions in the first prompts, positions in the second ones.
    Roles(Vec<(String, Select, Select)>),
    /// By pair: a position in the first prompt and its partner in the second one.
    Map(Vec<Vec<[usize; 2]>>),
}

/// An alignment of certain prompts.
#[derive(Clone, Debug)]
pub(crate) struct Aligned {
    /// Names of roles, or tokens.
    pub labels: Vec<String>,
    /// Whether columns are roles, rather than positions of the first prompts.
    pub by_role: bool,
    /// `[column][pair]`: positions in the first prompt, ascending, each with its partner in the
    /// second one; none where one of the two lacks what the column is about.
    pub columns: Vec<Vec<Vec<[usize; 2]>>>,
}

impl Alignment {
    /// Columns named by roles, each with its positions in the first prompts and in the second ones:
    /// [`Select::each`], the same in all, or counted from the end. Several positions correspond in
    /// ascending order; where a pair's two prompts have different numbers of them, or one has none
    /// (an empty list), the pair has no value.
    pub fn roles<N: Into<String>>(roles: impl IntoIterator<Item = (N, Select, Select)>) -> Self {
        let roles = roles.into_iter().map(|(name, a, b)| (name.into(), a, b));
        Alignment(Columns::Roles(roles.collect()))
    }

    /// One list per pair of positions `(first, second)` that correspond; columns are the positions
    /// of the first prompts.
    pub fn map(pairs: impl IntoIterator<Item = Vec<(usize, usize)>>) -> Self {
        let sorted = |mut map: Vec<(usize, usize)>| {
            map.sort_unstable();
            map.into_iter().map(|(a, b)| [a, b]).collect()
        };
        Alignment(Columns::Map(pairs.into_iter().map(sorted).collect()))
    }

    /// The map by which the tokens that both prompts of a pair begin with, and those that both end
    /// with, correspond; what stands between them as well, where it is equally long.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there are not as many second prompts as first ones; else same as
    /// [`Prompts::new`].
    pub fn common_ends(first: impl IntoPrompts, second: impl IntoPrompts) -> Result<Self> {
        let (first, second) = (first.into_prompts()?, second.into_prompts()?);
        check_count(first.len(), second.len())?;
        let ends = |(a, b): (&Prompt, &Prompt)| {
            let (n, m) = (a.len(), b.len());
            if n == m {
                return (0..n).map(|p| (p, p)).collect();
            }
            let tokens = || a.tokens.iter().zip(&b.tokens);
            let begin = tokens().take_while(|(a, b)| a == b).count();
            let mut from_end = a.tokens.iter().rev().zip(b.tokens.iter().rev());
            let most = n.min(m) - begin;
            let end = from_end.by_ref().take_while(|(a, b)| a == b).count();
            let end = (1..=end.min(most)).rev().map(|i| (n - i, m - i));
            (0..begin).map(|p| (p, p)).chain(end).collect()
        };
        Ok(Self::map(first.iter().zip(second.iter()).map(ends)))
    }

    /// The columns of certain prompts.
    ///
    /// # Errors
    /// [`Error::OutOfRange`], or [`Error::Invalid`] for a position counted from the end, if a prompt
    /// lacks a position; [`Error::Invalid`] without any column, for choices or maps that are not one
    /// per pair, and for a position with two partners.
    pub(crate) fn of(&self, first: &Prompts, second: &Prompts) -> Result<Aligned> {
        check_count(first.len(), second.len())?;
        let aligned = match &self.0 {
            Columns::Roles(roles) => Aligned {
                labels: roles.iter().map(|(name, ..)| name.clone()).collect(),
                by_role: true,
                columns: roles
                    .iter()
                    .map(|role| by_role(role, first, second))
                    .collect::<Result<_>>()?,
            },
            Columns::Map(maps) => by_map(maps, first, second)?,
        };
        if aligned.columns.iter().flatten().all(Vec::is_empty) {
            let expected = "at least one position with a partner";
            return Err(Error::invalid("alignment", "none", expected));
        }
        Ok(aligned)
    }
}

impl Aligned {
    /// What corresponds in a column, by pair: positions that values go to, ascending, each with the
    /// one that they come from. They go into the first prompts if `into_first`, else the second.
    pub fn partners(&self, column: usize, into_first: bool) -> Vec<Vec<[usize; 2]>> {
        let pair = |pair: &Vec<[usize; 2]>| {
            let turned = |&[a, b]: &[usize; 2]| if into_first { [a, b] } else { [b, a] };
            let mut pair: Vec<[usize; 2]> = pair.iter().map(turned).collect();
            pair.sort_unstable();
            pair
        };
        self.columns[column].iter().map(pair).collect()
    }

    /// All columns as one.
    pub fn joined(&self) -> Result<Self> {
        let n_pairs = self.columns[0].len();
        let pairs = (0..n_pairs).map(|pair| {
            let mut all: Vec<[usize; 2]> = self
                .columns
                .iter()
                .flat_map(|c| c[pair].iter().copied())
                .collect();
            all.sort_unstable();
            all.dedup();
            check_partners(pair, &all)?;
            Ok(all)
        });
        Ok(Aligned {
            labels: vec!["all that correspond".to_string()],
            by_role: true,
            columns: vec![pairs.collect::<Result<_>>()?],
        })
    }
}

fn check_count(first: usize, second: usize) -> Result<()> {
    if first == second {
        return Ok(());
    }
    let expected = format!("{first}, one per first prompt");
    Err(Error::invalid(
        "second prompts of an alignment",
        second,
        expected,
    ))
}

fn by_role(
    (name, a, b): &(String, Select, Select),
    first: &Prompts,
    second: &Prompts,
) -> Result<Vec<Vec<[usize; 2]>>> {
    let what = format!("role {name}");
    let sides = [(a, first, "first"), (b, second, "second")];
    for (select, prompts, which) in sides {
        let at = format!("{what} of the {which} prompts");
        select.check_prompts(&at, "pos", prompts.len())?;
        for (prompt, n) in prompts.lengths().into_iter().enumerate() {
            let at = InPrompt {
                what: &at,
                prompt,
                prompts: prompts.len(),
            };
            // That a prompt lacks a role is no error.
            if select.of(prompt) != Some(&[]) {
                select.check(&at, "pos", prompt, n)?;
            }
        }
    }
    let pair = |(i, (a_prompt, b_prompt)): (usize, (&Prompt, &Prompt))| {
        let (a, b) = (a.resolve(i, a_prompt.len()), b.resolve(i, b_prompt.len()));
        if a.len() == b.len() {
            a.into_iter().zip(b).map(|(a, b)| [a, b]).collect()
        } else {
            Vec::new()
        }
    };
    Ok(first
        .iter()
        .zip(second.iter())
        .enumerate()
        .map(pair)
        .collect())
}

fn by_map(maps: &[Vec<[usize; 2]>], first: &Prompts, second: &Prompts) -> Result<Aligned> {
    if maps.len() != first.len() {
        let expected = format!("{}, one per pair", first.len());
        return Err(Error::invalid("maps of positions", maps.len(), expected));
    }
    for (i, map) in maps.iter().enumerate() {
        let [of_first, of_second] = [0, 1].map(|side| map.iter().map(|p| p[side]).collect());
        let sides: [(_, _, Vec<usize>); 2] =
            [("first", first, of_first), ("second", second, of_second)];
        for (which, prompts, list) in sides {
            if !list.is_empty() {
                let at = format!("map of pair {i}, {which} prompt");
                Select::from(list).check(&at, "pos", 0, prompts[i].len())?;
            }
        }
        check_partners(i, map)?;
    }
    let longest = first.lengths().into_iter().max().unwrap_or(0);
    let columns = (0..longest).map(|position| {
        let here = |p: &&[usize; 2]| p[0] == position;
        maps.iter()
            .map(|map| map.iter().filter(here).copied().collect())
            .collect()
    });
    let columns: Vec<Vec<Vec<[usize; 2]>>> = columns.collect();
    let labels = columns.iter().enumerate();
    let labels = labels.map(|(position, column)| label(position, column, first, second));
    Ok(Aligned {
        labels: labels.collect(),
        by_role: false,
        columns,
    })
}

/// Checks that no position has two partners.
fn check_partners(pair: usize, map: &[[usize; 2]]) -> Result<()> {
    for (side, which) in ["first", "second"].into_iter().enumerate() {
        let mut seen: Vec<usize> = map.iter().map(|p| p[side]).collect();
        seen.sort_unstable();
        if let Some(twice) = seen.windows(2).find(|two| two[0] == two[1]) {
            return Err(Error::invalid(
                format!("alignment of pair {pair}"),
                format!("position {} of the {which} prompt twice", twice[0]),
                "one partner for each position",
            ));
        }
    }
    Ok(())
}

/// What a column of a map is called: the token at that position of the first prompts, followed by
/// `…` where pairs differ; of a single pair also the second prompt's, where it is another.
fn label(position: usize, column: &[Vec<[usize; 2]>], first: &Prompts, second: &Prompts) -> String {
    let with = || first.iter().filter(|prompt| prompt.len() > position);
    let mut labels = with().map(|prompt| &prompt.labels[position]);
    let own = labels
        .next()
        .expect("a column is a position of some prompt");
    match column {
        [pair] => match pair.first().map(|p| &second[0].labels[p[1]]) {
            Some(other) if other != own => format!("{own}/{}", other.trim_start()),
            _ => own.clone(),
        },
        _ if labels.all(|label| label == own) => own.clone(),
        _ => format!("{own}…"),
    }
}
