//! Loading: everything is checked against the headers before the parameters are allocated, then
//! each tensor is read once, straight into its final array.

use std::collections::{BTreeMap, HashSet};
use std::io::Cursor;
use std::path::{Path, PathBuf};

use ndarray::Array1;
use serde::Deserialize;

use super::decode::Float;
use super::names::{PREFIX, canonical, is_mask, prefixed};
use super::source::{Source, tensor_error};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::files::{UniqueKeys, parse_error, read_text};
use crate::parameters::{Parameters, Tensor};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Real ones have some 100 bytes a tensor.
const MAX_INDEX: u64 = 16 << 20;

impl Parameters {
    /// Loads a checkpoint in Hugging Face's layout from the folder `dir`: `config.json`, and
    /// `model.safetensors` or, where that is absent, `model.safetensors.index.json` with shards.
    ///
    /// Tensors may be F32, F16 or BF16, with or without the prefix `transformer.`. The buffers
    /// `h.N.attn.bias` and `h.N.attn.masked_bias`, which hold the causal mask, are skipped. Where
    /// embedding and unembedding are tied, an `lm_head.weight` must equal `wte.weight` to the bit.
    /// Memory peaks at the f32 size of the weights and about 1 MB; each byte is read once.
    ///
    /// # Errors
    /// - [`Error::Io`] if a file cannot be read.
    /// - [`Error::Format`] if a file is not JSON or safetensors, is truncated or has bytes left.
    /// - [`Error::Config`] as in [`Config::from_json`].
    /// - [`Error::Tensor`] for a tensor that is missing, unknown, there twice, of another shape
    ///   or dtype than expected, not within the file, or not finite.
    pub fn load(dir: impl AsRef<Path>) -> Result<(Config, Parameters)> {
        let dir = dir.as_ref();
        let config = Config::open(dir)?;
        let parameters = Checkpoint::open(dir)?.load(&config)?;
        Ok((config, parameters))
    }

    /// Same as [`Parameters::load`], from the contents of `config.json` and of `model.safetensors`.
    ///
    /// # Errors
    /// Same as [`Parameters::load`].
    pub fn from_bytes(config_json: &str, safetensors: &[u8]) -> Result<(Config, Parameters)> {
        let config = Config::from_json(config_json, Path::new("config.json"))?;
        let path = Path::new(SINGLE);
        let reader = Box::new(Cursor::new(safetensors));
        let source = Source::new(path, reader, safetensors.len() as u64)?;
        let parameters = Checkpoint::new(path, vec![source])?.load(&config)?;
        Ok((config, parameters))
    }
}

/// Where a tensor stands.
struct Place {
    source: usize,
    /// Its name in that file.
    name: String,
}

/// The open files of a checkpoint.
struct Checkpoint<'a> {
    /// The file to name when a tensor is missing.
    path: PathBuf,
    sources: Vec<Source<'a>>,
    /// By canonical names.
    places: BTreeMap<String, Place>,
}

impl Checkpoint<'static> {
    fn open(dir: &Path) -> Result<Self> {
        let (single, index) = (dir.join(SINGLE), dir.join(INDEX));
        if single.exists() || !index.exists() {
            let source = Source::open(&single)?;
            return Self::new(&single, vec![source]);
        }
        Self::new(&index, open_shards(dir, &index)?)
    }
}

impl<'a> Checkpoint<'a> {
    fn new(path: &Path, sources: Vec<Source<'a>>) -> Result<Self> {
        let mut places: BTreeMap<String, Place> = BTreeMap::new();
        for (i, source) in sources.iter().enumerate() {
            for name in source.tensors.keys() {
                let place = Place {
                    source: i,
                    name: name.clone(),
                };
                if let Some(other) = places.insert(canonical(name).to_string(), place) {
                    let file = sources[other.source].path.display();
                    let found =
                        format!("the tensor a second time, after `{}` in {file}", other.name);
                    return Err(source.error(name, found, "each tensor once"));
                }
            }
        }
        Ok(Checkpoint {
            path: path.to_path_buf(),
            sources,
            places,
        })
    }

    fn load(mut self, config: &Config) -> Result<Parameters> {
        self.check(config)?;
        let mut parameters = Parameters::zeros(config)?;
        if self.places.contains_key("lm_head.bias") {
            parameters.lm_head_bias = Some(Array1::zeros(config.d_vocab));
        }
        self.fill(&mut parameters)?;
        if config.tie_word_embeddings {
            self.compare_tied_head(&parameters)?;
        }
        Ok(parameters)
    }

    /// Checks names, shapes and dtypes. Stops at the first missing tensor, so that its cost is
    /// bounded by the files' headers, whatever numbers the config has.
    fn check(&self, config: &Config) -> Result<()> {
        let mut known = HashSet::new();
        for Tensor { name, shape, .. } in Tensor::required(config) {
            if !self.places.contains_key(&name) {
                let shape = format!("a tensor of shape {shape:?} ({})", shape_of_model(config));
                // As it would stand in this file.
                let has_prefix = |place: &Place| place.name.starts_with(PREFIX);
                let name = if self.places.values().any(has_prefix) {
                    prefixed(&name)
                } else {
                    name
                };
                let found = "nothing".to_string();
                return Err(tensor_error(&self.path, &name, found, shape));
            }
            self.check_tensor(&name, &shape)?;
            known.insert(name);
        }
        let optional: Vec<Tensor> = Tensor::unembedding(config).collect();
        for (name, place) in &self.places {
            if known.contains(name) || is_mask(name, config.n_layers) {
                continue;
            }
            match optional.iter().find(|tensor| tensor.name == *name) {
                Some(tensor) => self.check_tensor(name, &tensor.shape)?,
                None => return Err(self.unknown(place, config)),
            }
        }
        Ok(())
    }

    fn unknown(&self, place: &Place, config: &Config) -> Error {
        let source = &self.sources[place.source];
        let shape = &source.tensors[&place.name].shape;
        let found = format!("an unknown tensor of shape {shape:?}");
        let expected = format!("only tensors of a GPT-2 ({})", shape_of_model(config));
        source.error(&place.name, found, expected)
    }

    /// Checks shape and dtype of a tensor that is there.
    fn check_tensor(&self, canonical: &str, shape: &[usize]) -> Result<()> {
        let place = &self.places[canonical];
        let source = &self.sources[place.source];
        let info = &source.tensors[&place.name];
        if info.shape != shape {
            let found = format!("shape {:?}", info.shape);
            return Err(source.error(&place.name, found, format!("shape {shape:?}")));
        }
        match Float::new(info.dtype) {
            Some(_) => Ok(()),
            None => Err(source.dtype_error(&place.name, info)),
        }
    }

    /// Reads all tensors, in the order in which they stand in the files.
    fn fill(&mut self, parameters: &mut Parameters) -> Result<()> {
        let mut tensors: Vec<_> = parameters
            .tensors_mut()
            .into_iter()
            .map(|(name, tensor)| (&self.places[&name], tensor))
            .collect();
        tensors.sort_by_key(|(place, _)| {
            let info = &self.sources[place.source].tensors[&place.name];
            (place.source, info.data_offsets)
        });
        for (place, mut tensor) in tensors {
            let values = tensor
                .as_slice_mut()
                .expect("`Parameters::zeros` makes arrays in standard layout");
            self.sources[place.source].read_into(&place.name, values)?;
        }
        Ok(())
    }

    /// Compares an `lm_head.weight` that needn't be there with the embedding that it is tied to.
    fn compare_tied_head(&mut self, parameters: &Parameters) -> Result<()> {
        let Some(place) = self.places.get("lm_head.weight") else {
            return Ok(());
        };
        let source = &mut self.sources[place.source];
        let wte = parameters
            .wte
            .as_slice()
            .expect("`Parameters::zeros` makes arrays in standard layout");
        match source.first_difference(&place.name, wte)? {
            None => Ok(()),
            Some(flat) => {
                let d_model = parameters.wte.ncols();
                let at = [flat / d_model, flat % d_model];
                let found = format!("values unlike `wte.weight`'s, first at {at:?}");
                let expected = "equal bits, as config.json has tie_word_embeddings = true";
                Err(source.error(&place.name, found, expected))
            }
        }
    }
}

/// The sizes that the config asks for, to be compared with what a checkpoint has.
fn shape_of_model(config: &Config) -> String {
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

#[derive(Deserialize)]
struct Index {
    /// Tensor to file.
    weight_map: UniqueKeys<String>,
}

/// Opens the shards of an index, and checks that they hold what it says.
fn open_shards(dir: &Path, path: &Path) -> Result<Vec<Source<'static>>> {
    let text = read_text(path, MAX_INDEX)?;
    let index: Index = serde_json::from_str(&text).map_err(|error| {
        let expected = "a JSON object with `weight_map`, from tensors to files";
        parse_error(path, error, expected)
    })?;
    let map = index.weight_map.0;
    let mut shards: BTreeMap<&str, Source<'static>> = BTreeMap::new();
    for (tensor, file) in &map {
        if file.is_empty() || file.contains(['/', '\\', ':']) || file == ".." {
            let found = format!("the shard `{file}`");
            let expected = "a file in the folder of the index, without path";
            return Err(tensor_error(path, tensor, found, expected));
        }
        if !shards.contains_key(file.as_str()) {
            shards.insert(file, Source::open(&dir.join(file))?);
        }
        if !shards[file.as_str()].tensors.contains_key(tensor) {
            let expected = format!("it in the shard `{file}`, as the index says");
            return Err(tensor_error(path, tensor, "nothing".to_string(), expected));
        }
    }
    for (file, shard) in &shards {
        let unlisted = |name: &&String| map.get(*name).is_none_or(|listed| listed != file);
        if let Some(name) = shard.tensors.keys().find(unlisted) {
            let found = "a tensor that the index does not list for this file".to_string();
            return Err(shard.error(name, found, "exactly the tensors of the index"));
        }
    }
    Ok(shards.into_values().collect())
}
