//! Which edges of attention are cut.

use std::collections::BTreeSet;

use crate::config::AttentionDirection;
use crate::error::{Error, Result};
use crate::hook::Site;
use crate::intervention::{Select, Target};
use crate::prompt::Prompts;
use crate::select::InPrompt;
use crate::tracing::TracedFact;

/// Edges of attention, under one name: from sources to destinations, in some heads.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cut {
    /// What results call it.
    pub name: String,
    /// Who reads.
    pub dest: Select,
    /// Who is read, or, if `keeps`, who is all that can still be read.
    pub src: Select,
    /// The heads, in every layer.
    pub heads: Select,
    /// Whether all other sources are cut.
    pub keeps: bool,
}

impl Cut {
    /// The last token can read these sources no more, in any head.
    pub fn new(name: impl Into<String>, src: impl Into<Select>) -> Self {
        Cut {
            name: name.into(),
            dest: Select::Last,
            src: src.into(),
            heads: Select::All,
            keeps: false,
        }
    }

    /// The last token can read nothing but these sources, in any head.
    pub fn all_but(name: impl Into<String>, src: impl Into<Select>) -> Self {
        Cut {
            keeps: true,
            ..Cut::new(name, src)
        }
    }

    /// The same sources, read by others than the last token.
    #[must_use]
    pub fn read_by(mut self, dest: impl Into<Select>) -> Self {
        self.dest = dest.into();
        self
    }

    /// The same edges, in some heads only.
    #[must_use]
    pub fn in_heads(mut self, heads: impl Into<Select>) -> Self {
        self.heads = heads.into();
        self
    }

    /// The edges in one layer, as far as each prompt has them.
    pub(super) fn target(
        &self,
        layer: usize,
        direction: AttentionDirection,
        prompts: &Prompts,
    ) -> Result<Target> {
        let point = Site::AttnScores.at(layer);
        let all = Target::new(point).at_positions(self.dest.clone());
        let what = format!("cut `{}`", self.name);
        for (select, axis) in [(&self.dest, "dest"), (&self.src, "src")] {
            select.check_prompts(&what, axis, prompts.len())?;
            for (prompt, n) in prompts.lengths().into_iter().enumerate() {
                let at = InPrompt {
                    what: &what,
                    prompt,
                    prompts: prompts.len(),
                };
                select.check(&at, axis, prompt, n)?;
            }
        }
        let sources = prompts.lengths().into_iter().enumerate();
        let sources = sources.map(|(prompt, n)| self.sources(prompt, n, direction));
        let sources: Vec<Vec<usize>> = sources.collect::<Result<_>>()?;
        let target = all.at_heads(self.heads.clone());
        Ok(target.at_src(Select::role(self.name.clone(), sources)))
    }

    /// The sources that are cut in one prompt.
    fn sources(
        &self,
        prompt: usize,
        n: usize,
        direction: AttentionDirection,
    ) -> Result<Vec<usize>> {
        let at = || format!("cut `{}` in prompt {prompt}", self.name);
        let named: BTreeSet<usize> = self.src.resolve(prompt, n).into_iter().collect();
        let cut: Vec<usize> = (0..n).filter(|p| named.contains(p) != self.keeps).collect();
        let dests = self.dest.resolve(prompt, n);
        let last = |dest: &usize| direction.last_source(*dest, n);
        let left = |dest: &&usize| (0..=last(dest)).filter(|p| !cut.contains(p)).count();
        if let Some(dest) = dests.iter().find(|dest| left(dest) == 0) {
            let expected = "a source that the destination can still attend to";
            return Err(Error::invalid(
                at(),
                format!("all sources of destination {dest}"),
                expected,
            ));
        }
        if dests
            .iter()
            .all(|dest| cut.iter().all(|src| *src > last(dest)))
        {
            return Err(Error::NeverFires {
                at: at(),
                reason: format!("destinations {dests:?} read none of the sources {cut:?}"),
            });
        }
        Ok(cut)
    }
}

/// The paper's three: the last token cannot read the subject; anything but the subject and itself;
/// itself.
///
/// # Errors
/// [`Error::Prompt`] for a fact that has nothing but its subject and the last token, or whose
/// subject reaches the last token.
pub fn cuts_of_facts(facts: &[TracedFact]) -> Result<Vec<Cut>> {
    let mut others = Vec::with_capacity(facts.len());
    for (i, fact) in facts.iter().enumerate() {
        let last = fact.prompt.len() - 1;
        let rest: Vec<usize> = (0..last).filter(|p| !fact.subject.contains(p)).collect();
        if rest.is_empty() || fact.subject.contains(&last) {
            return Err(Error::Prompt {
                at: format!("fact {i}"),
                found: format!("{} tokens, subject {:?}", last + 1, fact.subject),
                expected: "a subject before the last token, and others beside both".to_string(),
            });
        }
        others.push(rest);
    }
    let subjects = facts.iter().map(|fact| fact.subject.clone());
    Ok(vec![
        Cut::new("subject", Select::each(subjects)),
        Cut::new("other tokens", Select::each(others)),
        Cut::new("last token", Select::Last),
    ])
}
