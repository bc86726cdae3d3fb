//! Loading: everything is checked against the headers before the parameters are allocated, then
//! each tensor is read once, straight into its final array.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use ndarray::Array1;

use super::decode::Float;
use super::find::{CONVERTER, WeightFiles};
use super::names::{is_bias, is_mask};
use super::options::{OpenOptions, Opened};
use super::places::{Places, shape_of_model};
use super::report::{Assumed, OpenReport, SkipReason, Skipped};
use super::shards::open_shards;
use super::source::{Source, tensor_error};
use crate::config::{Config, ConfigFile, Program};
use crate::error::Result;
use crate::parameters::{Parameters, Role, Tensor};

/// The embedding, and the unembedding that may be tied to it.
const EMBEDDING: &str = "wte.weight";
const HEAD: &str = "lm_head.weight";

/// The open files of a checkpoint.
pub(super) struct Checkpoint<'a> {
    /// The file to name when a tensor is missing.
    pub(super) path: PathBuf,
    pub(super) sources: Vec<Source<'a>>,
    places: Places,
    /// Whose names the tensors have.
    pub(super) by: Program,
    /// How many tensors of each type were read.
    pub(super) read: BTreeMap<String, usize>,
    /// What is not read.
    pub(super) skipped: Vec<Skipped>,
    pub(super) assumed: Vec<Assumed>,
}

impl Checkpoint<'static> {
    pub(super) fn open(files: &WeightFiles) -> Result<Self> {
        Ok(match files {
            WeightFiles::Single(path) => Self::new(path, vec![Source::open(path)?]),
            WeightFiles::Index(path) => Self::new(path, open_shards(path)?),
        })
    }
}

impl<'a> Checkpoint<'a> {
    pub(super) fn new(path: &Path, sources: Vec<Source<'a>>) -> Self {
        Checkpoint {
            path: path.to_path_buf(),
            sources,
            places: Places::default(),
            by: Program::default(),
            read: BTreeMap::new(),
            skipped: Vec::new(),
            assumed: Vec::new(),
        }
    }

    pub(super) fn load(mut self, file: ConfigFile, options: &OpenOptions) -> Result<Opened> {
        if file.by == Program::TransformerLens {
            return self.load_transformer_lens(file, options);
        }
        let ConfigFile {
            config, assumed, ..
        } = file;
        self.places = Places::find(&self.sources, &config, options)?;
        if config.tie_word_embeddings {
            self.take_head_for_embedding();
        }
        if !self.places.by_name.keys().any(|name| is_bias(name)) {
            self.assumed.push(Assumed::ZeroBiases);
        }
        self.check(&config)?;
        let mut parameters = Parameters::zeros(&config)?;
        if self.places.by_name.contains_key("lm_head.bias") {
            parameters.lm_head_bias = Some(Array1::zeros(config.d_logits()));
        }
        self.fill(&mut parameters)?;
        if config.tie_word_embeddings {
            self.compare_tied_head(&parameters)?;
        }
        self.assumed.extend(assumed.into_iter().map(Assumed::Field));
        Ok(Opened {
            config,
            parameters,
            report: self.report(),
        })
    }

    pub(super) fn report(mut self) -> OpenReport {
        self.skipped.append(&mut self.places.skipped);
        OpenReport {
            by: self.by,
            files: self.sources.into_iter().map(|source| source.path).collect(),
            wrapper: self.places.wrapper,
            tensors: self.read,
            skipped: self.skipped,
            assumed: self.assumed,
        }
    }

    /// In a tied model, either name may stand for both tensors.
    fn take_head_for_embedding(&mut self) {
        let places = &mut self.places.by_name;
        if !places.contains_key(EMBEDDING)
            && let Some(head) = places.remove(HEAD)
        {
            places.insert(EMBEDDING.to_string(), head);
            self.assumed.push(Assumed::EmbeddingFromHead);
        }
    }

    /// Checks names, shapes and dtypes. Stops at the first missing tensor, so that its cost is
    /// bounded by the files' headers, whatever numbers the config has.
    fn check(&mut self, config: &Config) -> Result<()> {
        let no_biases = self.assumed.contains(&Assumed::ZeroBiases);
        let mut known = HashSet::new();
        for Tensor { name, role, shape } in Tensor::required(config) {
            if self.places.by_name.contains_key(&name) {
                self.check_tensor(&name, &shape)?;
            } else if !(no_biases && role == Role::Bias) {
                let shape = format!("a tensor of shape {shape:?} ({})", shape_of_model(config));
                let name = self.places.name_in_file(&name);
                let found = "nothing".to_string();
                return Err(tensor_error(&self.path, &name, found, shape));
            }
            known.insert(name);
        }
        let optional: Vec<Tensor> = Tensor::unembedding(config).collect();
        for (name, place) in &self.places.by_name {
            if known.contains(name) {
                continue;
            }
            if is_mask(name, config.n_layers) {
                self.places.skipped.push(Skipped {
                    tensor: place.name.clone(),
                    reason: SkipReason::Mask,
                });
                continue;
            }
            match optional.iter().find(|tensor| tensor.name == *name) {
                Some(tensor) => self.check_tensor(name, &tensor.shape)?,
                None => return Err(self.places.unknown(place, &self.sources, config)),
            }
        }
        Ok(())
    }

    /// Checks shape and dtype of a tensor that is there.
    fn check_tensor(&self, canonical: &str, shape: &[usize]) -> Result<()> {
        let place = &self.places.by_name[canonical];
        let source = &self.sources[place.source];
        let info = &source.tensors[&place.name];
        if info.shape != shape {
            let mut expected = format!("shape {shape:?}");
            let turned = shape.len() == 2 && info.shape.iter().eq(shape.iter().rev());
            if turned && canonical.starts_with("h.") {
                expected += &format!(
                    ", which is [in, out]: it looks stored as nn.Linear stores weights, [out, in], \
                     and `python {CONVERTER}` turns such checkpoints round"
                );
            }
            let found = format!("shape {:?}", info.shape);
            return Err(source.error(&place.name, found, expected));
        }
        self.check_float(place.source, &place.name, shape)
    }

    /// Checks shape and dtype of a tensor of one of the files.
    pub(super) fn check_float(&self, source: usize, name: &str, shape: &[usize]) -> Result<()> {
        let source = &self.sources[source];
        let info = &source.tensors[name];
        if info.shape != shape {
            let found = format!("shape {:?}", info.shape);
            return Err(source.error(name, found, format!("shape {shape:?}")));
        }
        match Float::new(info.dtype) {
            Some(_) => Ok(()),
            None => Err(source.dtype_error(name, info)),
        }
    }

    /// Reads all tensors, in the order in which they stand in the files.
    fn fill(&mut self, parameters: &mut Parameters) -> Result<()> {
        let mut tensors: Vec<_> = parameters
            .tensors_mut()
            .into_iter()
            .filter_map(|(name, tensor)| Some((self.places.by_name.get(&name)?, tensor)))
            .collect();
        tensors.sort_by_key(|(place, _)| {
            let info = &self.sources[place.source].tensors[&place.name];
            (place.source, info.data_offsets)
        });
        for (place, mut tensor) in tensors {
            let dtype = self.sources[place.source].tensors[&place.name].dtype;
            *self.read.entry(format!("{dtype:?}")).or_default() += 1;
            let values = tensor
                .as_slice_mut()
                .expect("`Parameters::zeros` makes arrays in standard layout");
            self.sources[place.source].read_into(&place.name, values)?;
        }
        Ok(())
    }

    /// Compares an `lm_head.weight` that needn't be there with the embedding that it is tied to.
    fn compare_tied_head(&mut self, parameters: &Parameters) -> Result<()> {
        let Some(place) = self.places.by_name.get(HEAD) else {
            return Ok(());
        };
        let source = &mut self.sources[place.source];
        let wte = parameters
            .wte
            .as_slice()
            .expect("`Parameters::zeros` makes arrays in standard layout");
        match source.first_difference(&place.name, wte)? {
            None => {
                self.places.skipped.push(Skipped {
                    tensor: place.name.clone(),
                    reason: SkipReason::Copy,
                });
                Ok(())
            }
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
