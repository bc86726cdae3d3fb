//! Tasks: which prompts show the behaviour, and which differ from them in one thing only?
//!
//! Prompt sets for known behaviours, made for any tokenizer: [`Ioi`] (Wang et al. 2022, section 2),
//! [`Facts`] (Meng et al. 2022, section 2), [`GreaterThan`] (Hanna et al. 2023, section 3),
//! [`Repeated`] (Olsson et al. 2022, "In-context Learning and Induction Heads"), [`KeyValue`] (Todd
//! et al. 2023, section 2), and files of one's own pairs ([`PairFile`]).
//!
//! ```
//! use patchlens::prelude::*;
//! use patchlens::tasks::{Corruption, Ioi};
//! let tokenizer = Tokenizer::mini();
//! for pair in Ioi::new(&tokenizer)?.template(0)?.pairs(2, Corruption::Aba, 0)? {
//!     println!("clean:     {}", pair.clean.text);
//!     println!("corrupted: {}", pair.corrupted.text);
//! }
//! # Ok::<(), patchlens::Error>(())
//! ```
//!
//! **What a pair means.** Whatever differs between the two runs comes from the tokens that differ.
//! How they are chosen is part of the question: with another name in place of the second one the
//! order of the names stays, with both exchanged the answer does.
//!
//! **What it does not mean.** That a model has the behaviour: look at the metric of the clean runs
//! first. A result holds for the prompts it was measured on.
//!
//! Each generator keeps those of its words that are single tokens in the tokenizer at hand, and
//! is an error where too few remain. The same seed gives the same prompts on every machine. The
//! small model that the crate ships is trained on these tasks ([`Corpus`]), never on what
//! [`Split::HeldOut`] holds.

mod corpus;
mod facts;
mod greater_than;
mod ioi;
mod key_value;
mod known_facts;
mod pair_file;
mod repeated;
mod vocabulary;

use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

pub use corpus::{Corpus, Task, TrainingItem};
pub(crate) use facts::subject_span;
pub use facts::{FactPrompt, Facts};
pub use greater_than::{GreaterThan, GreaterThanPrompt};
pub use ioi::{Corruption, Ioi, IoiPair, IoiPositions, IoiPrompt, Order};
pub use key_value::{FunctionPrompts, KeyValue, KeyValuePair, KeyValueRole};
pub use known_facts::{KnownFacts, SkippedFact};
pub use pair_file::{PairFile, PromptPair, SkippedPair, UnequalPair};
pub use repeated::{Repeated, RepeatedPrompt};
pub use vocabulary::mini_tokenizer_json;

use crate::error::{Error, Result};
use crate::prompt::Prompt;
use crate::tokenizer::Tokenizer;

/// Which part of a task's material: about a tenth is never trained on. What the unit is (a pair of
/// names, a phrasing of a fact, a year with its noun) each task says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Split {
    /// Everything.
    #[default]
    All,
    /// What [`Corpus`] trains on.
    Train,
    /// The rest.
    HeldOut,
}

impl Split {
    fn keeps(self, held_out: bool) -> bool {
        match self {
            Split::All => true,
            Split::Train => !held_out,
            Split::HeldOut => held_out,
        }
    }

    /// The text of one unit decides, so that the split is the same for every tokenizer and seed.
    fn keeps_key(self, key: &str) -> bool {
        self.keeps(hash(key).is_multiple_of(10))
    }
}

/// A word that is one token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Word {
    text: &'static str,
    id: u32,
}

/// What all generators of texts share: how a text becomes a prompt.
#[derive(Clone, Copy, Debug)]
struct Setting<'t> {
    tokenizer: &'t Tokenizer,
    bos: bool,
}

impl<'t> Setting<'t> {
    fn new(tokenizer: &'t Tokenizer) -> Self {
        Setting {
            tokenizer,
            bos: false,
        }
    }

    fn encode(&self, text: &str) -> Result<Prompt> {
        if self.bos {
            self.tokenizer.encode_with_bos(text)
        } else {
            self.tokenizer.encode(text)
        }
    }

    /// Those of a list's words, given with spaces between, which are single tokens after a space.
    fn words(&self, list: &str, words: &'static str, least: usize) -> Result<Vec<Word>> {
        let word = |text| {
            let id = self.tokenizer.token(&format!(" {text}")).ok()?;
            Some(Word { text, id })
        };
        let kept: Vec<Word> = words.split(' ').filter_map(word).collect();
        enough(list, kept.len(), words.split(' ').count(), least)?;
        Ok(kept)
    }
}

/// Checks that a tokenizer leaves enough of a list to make prompts from.
fn enough(list: &str, kept: usize, of: usize, least: usize) -> Result<()> {
    if kept >= least {
        return Ok(());
    }
    let found = format!("{kept} of {of} {list} can be used with this vocabulary");
    Err(Error::tokenizer(found, format!("at least {least}")))
}

/// The generator behind all tasks: its numbers are the same on every machine.
fn rng(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

fn choose<'a, T>(items: &'a [T], rng: &mut ChaCha8Rng) -> &'a T {
    items
        .choose(rng)
        .expect("lists are checked not to be empty")
}

/// FNV-1a, with a last mixing step (splitmix64's) so that every bit depends on every byte. The
/// standard library's hasher may change between releases; the splits must not.
fn hash(key: &str) -> u64 {
    let mut h = key.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, byte| {
        (h ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    h = (h ^ (h >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    h = (h ^ (h >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    h ^ (h >> 31)
}
