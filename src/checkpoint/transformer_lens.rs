//! TransformerLens's names and shapes: `blocks.0.attn.W_Q` `[head, d_model, d_head]` and so on.
//!
//! Each of its tensors is a view of one of ours, so that one table serves loading and saving.

use std::collections::{BTreeMap, BTreeSet};

use ndarray::{Array1, ArrayBase, ArrayViewD, ArrayViewMutD, Axis, CowArray, IxDyn, RawData};

use super::load::Checkpoint;
use super::options::{OpenOptions, Opened};
use super::report::{Assumed, SkipReason, Skipped};
use super::source::tensor_error;
use crate::config::{Config, ConfigFile, Program};
use crate::error::Result;
use crate::parameters::{Parameters, Role, Tensor};

/// Which part of our tensor a tensor of TransformerLens is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// All of it, in the same shape.
    Whole,
    /// All of it, transposed.
    Turned,
    /// Queries (0), keys (1) or values (2): of `[d_model, 3 * head * d_head]` the columns
    /// `[head, d_model, d_head]`, of `[3 * head * d_head]` the numbers `[head, d_head]`.
    Third(usize),
    /// `[head * d_head, d_model]` as `[head, d_head, d_model]`.
    ByHead,
}

/// Its name, ours, and which part of ours it is.
type Row = (&'static str, &'static str, Part);

/// Below `blocks.{layer}.` and `h.{layer}.`.
const BLOCK: &[Row] = &[
    ("ln1.w", "ln_1.weight", Part::Whole),
    ("ln1.b", "ln_1.bias", Part::Whole),
    ("attn.W_Q", "attn.c_attn.weight", Part::Third(0)),
    ("attn.W_K", "attn.c_attn.weight", Part::Third(1)),
    ("attn.W_V", "attn.c_attn.weight", Part::Third(2)),
    ("attn.b_Q", "attn.c_attn.bias", Part::Third(0)),
    ("attn.b_K", "attn.c_attn.bias", Part::Third(1)),
    ("attn.b_V", "attn.c_attn.bias", Part::Third(2)),
    ("attn.W_O", "attn.c_proj.weight", Part::ByHead),
    ("attn.b_O", "attn.c_proj.bias", Part::Whole),
    ("ln2.w", "ln_2.weight", Part::Whole),
    ("ln2.b", "ln_2.bias", Part::Whole),
    ("mlp.W_in", "mlp.c_fc.weight", Part::Whole),
    ("mlp.b_in", "mlp.c_fc.bias", Part::Whole),
    ("mlp.ln.w", "mlp.ln.weight", Part::Whole),
    ("mlp.ln.b", "mlp.ln.bias", Part::Whole),
    ("mlp.W_out", "mlp.c_proj.weight", Part::Whole),
    ("mlp.b_out", "mlp.c_proj.bias", Part::Whole),
];

const OTHERS: &[Row] = &[
    ("embed.W_E", "wte.weight", Part::Whole),
    ("pos_embed.W_pos", "wpe.weight", Part::Whole),
    ("ln_final.w", "ln_f.weight", Part::Whole),
    ("ln_final.b", "ln_f.bias", Part::Whole),
    ("unembed.W_U", "lm_head.weight", Part::Turned),
    ("unembed.b_U", "lm_head.bias", Part::Whole),
];

/// A tensor of TransformerLens.
struct Named {
    name: String,
    /// The name of the one of ours that it is part of.
    ours: String,
    part: Part,
    shape: Vec<usize>,
}

impl Part {
    /// This part of one of our tensors.
    fn of<S: RawData>(self, ours: ArrayBase<S, IxDyn>, n_heads: usize) -> ArrayBase<S, IxDyn> {
        let split = |array: ArrayBase<S, IxDyn>, shape: &[usize]| {
            let split = array.into_shape_with_order(IxDyn(shape));
            split.expect("parameters are row-major, and their shapes have been checked")
        };
        let shape = ours.shape().to_vec();
        match (self, &shape[..]) {
            (Part::Whole, _) => ours,
            (Part::Turned, _) => ours.reversed_axes(),
            (Part::Third(i), [all]) => {
                let each = split(ours, &[3, n_heads, all / (3 * n_heads)]);
                each.index_axis_move(Axis(0), i)
            }
            (Part::Third(i), shape) => {
                let (rows, all) = (shape[0], shape[1]);
                let each = split(ours, &[rows, 3, n_heads, all / (3 * n_heads)]);
                let mut third = each.index_axis_move(Axis(1), i);
                third.swap_axes(0, 1);
                third
            }
            (Part::ByHead, shape) => split(ours, &[n_heads, shape[0] / n_heads, shape[1]]),
        }
    }

    /// Its shape, of ours.
    fn shape(self, ours: &[usize], n_heads: usize) -> Vec<usize> {
        match (self, ours) {
            (Part::Turned, ours) => ours.iter().rev().copied().collect(),
            (Part::Third(_), [all]) => vec![n_heads, all / (3 * n_heads)],
            (Part::Third(_), [rows, all]) => vec![n_heads, *rows, all / (3 * n_heads)],
            (Part::ByHead, [all, columns]) => vec![n_heads, all / n_heads, *columns],
            (_, ours) => ours.to_vec(),
        }
    }
}

/// What stands for one of our tensors.
fn named(tensor: &Tensor, config: &Config) -> Vec<Named> {
    let in_block = tensor.name.strip_prefix("h.");
    let (layer, ours, rows) = match in_block.and_then(|rest| rest.split_once('.')) {
        Some((layer, ours)) => (Some(layer), ours, BLOCK),
        None => (None, &tensor.name[..], OTHERS),
    };
    let found = rows.iter().filter(|(_, of, _)| *of == ours);
    found
        .map(|(name, _, part)| Named {
            name: match layer {
                Some(layer) => format!("blocks.{layer}.{name}"),
                None => name.to_string(),
            },
            ours: tensor.name.clone(),
            part: *part,
            shape: part.shape(&tensor.shape, config.n_heads),
        })
        .collect()
}

/// The buffers of a block that hold no weights.
fn is_mask(name: &str) -> bool {
    let in_block = name.strip_prefix("blocks.");
    let rest = in_block.and_then(|rest| rest.split_once('.'));
    rest.is_some_and(|(_, rest)| matches!(rest, "attn.mask" | "attn.IGNORE"))
}

/// A model's weights, row-major, under TransformerLens's names, each once.
pub(super) fn renamed<'p>(
    tensors: &'p [(String, CowArray<'p, f32, IxDyn>)],
    config: &Config,
) -> Vec<(String, ArrayViewD<'p, f32>)> {
    let mut all = Vec::new();
    for (name, values) in tensors {
        let of = Tensor {
            name: name.clone(),
            role: Role::Map,
            shape: values.shape().to_vec(),
        };
        for Named { name, part, .. } in named(&of, config) {
            all.push((name, part.of(values.view(), config.n_heads)));
        }
    }
    all
}

impl Checkpoint<'_> {
    /// Reads a state dict of TransformerLens. Its tensors are not in the order of ours in memory,
    /// so that the largest of them is there twice at one time.
    pub(super) fn load_transformer_lens(
        mut self,
        file: ConfigFile,
        options: &OpenOptions,
    ) -> Result<Opened> {
        let ConfigFile {
            config, assumed, ..
        } = file;
        self.by = Program::TransformerLens;
        let wanted = self.match_names(&config, options)?;
        let mut parameters = Parameters::zeros(&config)?;
        if wanted.iter().any(|named| named.ours == "lm_head.bias") {
            parameters.lm_head_bias = Some(Array1::zeros(config.d_logits()));
        }
        self.fill_parts(&mut parameters, wanted, config.n_heads)?;
        self.assumed.extend(assumed.into_iter().map(Assumed::Field));
        Ok(Opened {
            config,
            parameters,
            report: self.report(),
        })
    }

    /// Which file has each tensor of the files.
    fn sources_by_name(&self) -> Result<BTreeMap<String, usize>> {
        let mut found = BTreeMap::new();
        for (i, source) in self.sources.iter().enumerate() {
            for name in source.tensors.keys() {
                if found.insert(name.clone(), i).is_some() {
                    let found = "the tensor in two files".to_string();
                    return Err(source.error(name, found, "each tensor once"));
                }
            }
        }
        Ok(found)
    }

    /// Checks names, shapes and dtypes; returns what is to be read. Stops at the first tensor that
    /// is missing, so that its cost is bounded by the files' headers, whatever the config says.
    fn match_names(&mut self, config: &Config, options: &OpenOptions) -> Result<Vec<Named>> {
        let places = self.sources_by_name()?;
        let mut left: BTreeSet<&String> = places.keys().collect();
        let bias = |tensor: &Tensor| tensor.role == Role::Bias;
        let names = |tensor: Tensor| named(&tensor, config).into_iter();
        let no_biases = {
            let biases = Tensor::required(config).filter(bias).take(64);
            !biases.flat_map(names).any(|n| places.contains_key(&n.name))
        };
        let last = Tensor::unembedding(config).filter(|t| t.name == "lm_head.bias");
        let mut wanted = Vec::new();
        for tensor in Tensor::required(config).chain(last) {
            let optional = tensor.name == "lm_head.bias" || (no_biases && bias(&tensor));
            for named in named(&tensor, config) {
                match places.get(&named.name) {
                    Some(source) => {
                        self.check_float(*source, &named.name, &named.shape)?;
                        left.remove(&named.name);
                        wanted.push(named);
                    }
                    None if optional => {}
                    None => {
                        let expected = format!("a tensor of shape {:?}", named.shape);
                        let found = "nothing".to_string();
                        return Err(tensor_error(&self.path, &named.name, found, expected));
                    }
                }
            }
        }
        if no_biases {
            self.assumed.push(Assumed::ZeroBiases);
        }
        for name in left {
            let reason = if is_mask(name) {
                SkipReason::Mask
            } else if options.skips(name) {
                SkipReason::Asked
            } else {
                let source = &self.sources[places[name]];
                let shape = &source.tensors[name].shape;
                let found = format!("an unknown tensor of shape {shape:?}");
                let expected = format!(
                    "only tensors that TransformerLens has of such a model. To leave it out: \
                     OpenOptions::new().skip(\"{name}\"), or --skip {name}"
                );
                return Err(source.error(name, found, expected));
            };
            self.skipped.push(Skipped {
                tensor: name.clone(),
                reason,
            });
        }
        if let Some(named) = wanted.iter().find(|named| options.skips(&named.name)) {
            let found = format!("`{}`, which is a tensor of the model", named.name);
            return Err(options.invalid(found));
        }
        options.check_all_found(&self.skipped)?;
        Ok(wanted)
    }

    /// Reads all tensors, in the order in which they stand in the files.
    fn fill_parts(
        &mut self,
        parameters: &mut Parameters,
        mut wanted: Vec<Named>,
        n_heads: usize,
    ) -> Result<()> {
        let places = self.sources_by_name()?;
        let mut ours: BTreeMap<String, ArrayViewMutD<'_, f32>> =
            parameters.tensors_mut().into_iter().collect();
        wanted.sort_by_key(|named| {
            let source = places[&named.name];
            (
                source,
                self.sources[source].tensors[&named.name].data_offsets,
            )
        });
        for named in wanted {
            let source = &mut self.sources[places[&named.name]];
            let mut values = vec![0.0; named.shape.iter().product()];
            source.read_into(&named.name, &mut values)?;
            let dtype = source.tensors[&named.name].dtype;
            *self.read.entry(format!("{dtype:?}")).or_default() += 1;
            let values = ArrayViewD::from_shape(named.shape, &values);
            let values = values.expect("as many values as the shape says");
            let to = ours
                .get_mut(&named.ours)
                .expect("the model has this tensor");
            named.part.of(to.view_mut(), n_heads).assign(&values);
        }
        Ok(())
    }
}
