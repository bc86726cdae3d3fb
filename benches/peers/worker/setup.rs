//! What the driver hands to every peer.

use std::path::PathBuf;

use patchlens::{Metric, Prompt, logit_diff};

/// A checkpoint, and what is asked of it.
#[derive(serde::Deserialize)]
pub struct Request {
    pub checkpoint: PathBuf,
    #[serde(flatten)]
    pub about: About,
}

#[derive(serde::Deserialize)]
#[serde(untagged)]
pub enum About {
    /// One fact, to be traced.
    Fact(Fact),
    /// Prompts, for everything else.
    Prompts(Setup),
}

/// A fact and the noise on its subject.
#[derive(serde::Deserialize)]
pub struct Fact {
    pub fact: Vec<u32>,
    /// From the first position of the subject to the one after it.
    pub subject: (usize, usize),
    /// `[sample][subject token][d_model]`
    pub noise: Vec<Vec<Vec<f32>>>,
}

/// Prompts and metric.
#[derive(serde::Deserialize)]
pub struct Setup {
    /// `[pair][position]`
    pub clean: Vec<Vec<u32>>,
    /// The clean prompts with other tokens from a late position on.
    pub late: Vec<Vec<u32>>,
    /// The clean prompts with other tokens everywhere.
    pub everywhere: Vec<Vec<u32>>,
    /// One long prompt.
    pub long: Vec<u32>,
    /// The tokens whose logit difference is measured.
    pub metric: (u32, u32),
    /// Pairs of the shipped model, where it is compared.
    pub shipped: Option<Shipped>,
}

/// The shipped model and prompt pairs of it.
#[derive(serde::Deserialize)]
pub struct Shipped {
    pub checkpoint: PathBuf,
    /// `[pair][position]`
    pub clean: Vec<Vec<u32>>,
    pub corrupted: Vec<Vec<u32>>,
}

impl Setup {
    pub fn metric(&self) -> Metric {
        logit_diff(self.metric.0, self.metric.1)
    }

    /// The long prompt cut into pieces of `n` tokens.
    pub fn pieces(&self, n: usize) -> Vec<Prompt> {
        self.long.chunks_exact(n).map(Prompt::from).collect()
    }
}

pub fn prompts(tokens: &[Vec<u32>]) -> Vec<Prompt> {
    tokens.iter().map(|t| Prompt::from(&t[..])).collect()
}
