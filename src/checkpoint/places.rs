//! Where the tensors of a model stand in its files, whatever their names begin with.

use std::collections::BTreeMap;

use super::names::{self, PREFIX, canonical, common_wrapper, is_gpt2, is_mask, prefixed};
use super::options::OpenOptions;
use super::report::{SkipReason, Skipped};
use super::source::Source;
use crate::config::Config;
use crate::error::{Error, Result};

/// Where a tensor stands.
#[derive(Clone)]
pub(super) struct Place {
    pub source: usize,
    /// Its name in that file.
    pub name: String,
}

/// The places of a checkpoint's tensors.
#[derive(Default)]
pub(super) struct Places {
    /// By canonical names.
    pub by_name: BTreeMap<String, Place>,
    /// What the names in the files begin with, besides [`PREFIX`].
    pub wrapper: String,
    /// What is not read.
    pub skipped: Vec<Skipped>,
}

impl Places {
    /// Finds every tensor but those to be skipped.
    pub fn find(sources: &[Source<'_>], config: &Config, options: &OpenOptions) -> Result<Self> {
        let all = || {
            let tensors = |(source, file): (usize, &Source<'_>)| -> Vec<Place> {
                let names = file.tensors.keys().cloned();
                names.map(|name| Place { source, name }).collect()
            };
            sources.iter().enumerate().flat_map(tensors)
        };
        let names: Vec<String> = all().map(|place| place.name).collect();
        let mut places = Places {
            wrapper: common_wrapper(names.iter().map(String::as_str)).to_string(),
            ..Places::default()
        };
        let mut others = Vec::new();
        for place in all() {
            if options.skips(&place.name) {
                places.skip(place, config, options)?;
            } else if places.belongs(&place.name) {
                places.insert(place, sources)?;
            } else {
                others.push(place);
            }
        }
        options.check_all_found(&places.skipped)?;
        match others.first() {
            Some(place) => Err(places.stranger(place, sources, config)),
            None => Ok(places),
        }
    }

    /// Whether the name begins as most do.
    fn belongs(&self, name: &str) -> bool {
        match names::wrapper(name) {
            Some(wrapper) => wrapper == self.wrapper,
            None => name.starts_with(&self.wrapper),
        }
    }

    /// The canonical form of a name that [belongs](Self::belongs).
    fn canonical<'n>(&self, name: &'n str) -> &'n str {
        canonical(&name[self.wrapper.len()..])
    }

    fn insert(&mut self, place: Place, sources: &[Source<'_>]) -> Result<()> {
        let name = self.canonical(&place.name).to_string();
        match self.by_name.get(&name) {
            Some(other) => Err(twice(&place, other, sources, String::new())),
            None => {
                self.by_name.insert(name, place);
                Ok(())
            }
        }
    }

    fn skip(&mut self, place: Place, config: &Config, options: &OpenOptions) -> Result<()> {
        if self.belongs(&place.name) {
            let name = self.canonical(&place.name);
            let there = names::layer(name).is_none_or(|layer| layer < config.n_layers);
            if is_gpt2(name) && there && !is_mask(name, config.n_layers) {
                let found = format!("`{}`, which is a tensor of the model", place.name);
                return Err(options.invalid(found));
            }
        }
        self.skipped.push(Skipped {
            tensor: place.name,
            reason: SkipReason::Asked,
        });
        Ok(())
    }

    /// The error of a tensor whose name does not begin as most do.
    fn stranger(&self, place: &Place, sources: &[Source<'_>], config: &Config) -> Error {
        let name = &place.name;
        let own = names::wrapper(name);
        if let Some(own) = own
            && let Some(other) = self.by_name.get(canonical(&name[own.len()..]))
        {
            return twice(place, other, sources, self.how_to_skip(name));
        }
        let why = match own {
            Some(own) if !own.is_empty() => {
                format!(" whose name begins with `{own}`, unlike the others'")
            }
            _ => {
                let wrapper = &self.wrapper;
                format!(" whose name does not begin with `{wrapper}`, as the others' do")
            }
        };
        self.unknown_and(&why, place, sources, config)
    }

    /// The error of a tensor that no GPT-2 of this config has.
    pub fn unknown(&self, place: &Place, sources: &[Source<'_>], config: &Config) -> Error {
        self.unknown_and("", place, sources, config)
    }

    fn unknown_and(
        &self,
        why: &str,
        place: &Place,
        sources: &[Source<'_>],
        config: &Config,
    ) -> Error {
        let source = &sources[place.source];
        let shape = &source.tensors[&place.name].shape;
        let found = format!("an unknown tensor of shape {shape:?}{why}");
        let hint = self.how_to_skip(&place.name);
        let expected = format!("only tensors of a GPT-2 ({}){hint}", shape_of_model(config));
        source.error(&place.name, found, expected)
    }

    /// How a tensor can be left out, if it is not one that a GPT-2 has.
    fn how_to_skip(&self, name: &str) -> String {
        let part = match names::wrapper(name) {
            Some(wrapper) if wrapper.is_empty() || wrapper == self.wrapper => return String::new(),
            Some(wrapper) => wrapper.trim_end_matches('.'),
            None => {
                let rest = name.strip_prefix(&self.wrapper).unwrap_or(name);
                let rest = rest.strip_prefix(PREFIX).unwrap_or(rest);
                let first = rest.find('.').unwrap_or(rest.len());
                &name[..name.len() - rest.len() + first]
            }
        };
        format!(". To leave it out: OpenOptions::new().skip(\"{part}\"), or --skip {part}")
    }

    /// A tensor's name as it would stand in the files.
    pub fn name_in_file(&self, canonical: &str) -> String {
        let start = self.wrapper.len();
        let has_prefix = |place: &Place| place.name[start..].starts_with(PREFIX);
        let name = if self.by_name.values().any(has_prefix) {
            prefixed(canonical)
        } else {
            canonical.to_string()
        };
        format!("{}{name}", self.wrapper)
    }
}

/// The error of a tensor that is there under two names.
fn twice(place: &Place, other: &Place, sources: &[Source<'_>], hint: String) -> Error {
    let file = sources[other.source].path.display();
    let found = format!("the tensor twice: it is `{}` in {file}, too", other.name);
    sources[place.source].error(&place.name, found, format!("each tensor once{hint}"))
}

/// The sizes that the config asks for, to be compared with what a checkpoint has.
pub(super) fn shape_of_model(config: &Config) -> String {
    let Config {
        n_layers,
        d_model,
        d_mlp,
        n_ctx,
        d_vocab,
        tie_word_embeddings,
        ..
    } = config;
    format!(
        "config.json: n_layer {n_layers}, n_embd {d_model}, n_inner {d_mlp}, n_positions {n_ctx}, \
         vocab_size {d_vocab}, tie_word_embeddings {tie_word_embeddings}"
    )
}
