//! The one table of a checkpoint's tensors: name, role and shape of each, and the field that holds
//! it. Naming, checking, loading, saving and initialisation go by it.

use ndarray::{ArrayViewD, ArrayViewMutD};

use super::Parameters;
use crate::config::{Config, Element};

/// What a tensor does, which decides how it is initialised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The factor of a LayerNorm.
    Scale,
    /// What is added: a bias, or the offset of a LayerNorm.
    Bias,
    /// An embedding, or a map that does not write into the residual stream.
    Map,
    /// A map that writes into the residual stream.
    Output,
}

/// A tensor of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tensor {
    /// As in a checkpoint, without the prefix `transformer.`.
    pub name: String,
    pub role: Role,
    pub shape: Vec<usize>,
}

/// A row of the table.
struct Row {
    /// Within a block, below `h.{layer}.`.
    name: &'static str,
    role: Role,
    /// Empty arrays stand for what a model lacks.
    shape: fn(&Config) -> Vec<usize>,
}

/// The shape of weight or bias of a LayerNorm of the stream.
fn norm(c: &Config) -> Vec<usize> {
    vec![if c.has_norm_weights() { c.d_model } else { 0 }]
}

/// The shape of weight or bias of the LayerNorm inside an MLP.
fn inner_norm(c: &Config) -> Vec<usize> {
    let there = c.has(Element::InnerNorm) && c.has_norm_weights();
    vec![if there { c.d_mlp } else { 0 }]
}

fn positions(c: &Config) -> Vec<usize> {
    let there = c.has(Element::Positions);
    vec![if there { c.n_ctx } else { 0 }, c.d_model]
}

/// The width of an MLP's hidden layer, and that of what it writes.
fn mlp(c: &Config) -> [usize; 2] {
    if c.has(Element::Mlp) {
        [c.d_mlp, c.d_model]
    } else {
        [0, 0]
    }
}

/// Defines the lists of rows, and the views of all fields in their order.
macro_rules! tensors {
    (
        first { $($first:literal, $first_role:ident, $first_shape:expr, $($f:ident).+;)* }
        block { $($block:literal, $block_role:ident, $block_shape:expr, $($b:ident).+;)* }
        last { $($last:literal, $last_role:ident, $last_shape:expr, $($l:ident).+;)* }
        head { $($head:literal, $head_role:ident, $head_shape:expr, $h:ident;)* }
    ) => {
        const FIRST: &[Row] =
            &[$(Row { name: $first, role: Role::$first_role, shape: $first_shape }),*];
        const BLOCK: &[Row] =
            &[$(Row { name: $block, role: Role::$block_role, shape: $block_shape }),*];
        const LAST: &[Row] =
            &[$(Row { name: $last, role: Role::$last_role, shape: $last_shape }),*];
        const HEAD: &[Row] =
            &[$(Row { name: $head, role: Role::$head_role, shape: $head_shape }),*];

        impl Parameters {
            fn views(&self) -> Vec<ArrayViewD<'_, f32>> {
                let mut list = vec![$(self.$($f).+.view().into_dyn()),*];
                for block in &self.h {
                    list.extend([$(block.$($b).+.view().into_dyn()),*]);
                }
                list.extend([$(self.$($l).+.view().into_dyn()),*]);
                $(list.extend(self.$h.iter().map(|tensor| tensor.view().into_dyn()));)*
                list
            }

            fn views_mut(&mut self) -> Vec<ArrayViewMutD<'_, f32>> {
                let mut list = vec![$(self.$($f).+.view_mut().into_dyn()),*];
                for block in &mut self.h {
                    list.extend([$(block.$($b).+.view_mut().into_dyn()),*]);
                }
                list.extend([$(self.$($l).+.view_mut().into_dyn()),*]);
                $(list.extend(self.$h.iter_mut().map(|tensor| tensor.view_mut().into_dyn()));)*
                list
            }

            /// Which tensors of the unembedding it has.
            fn head(&self) -> [bool; 2] {
                [$(self.$h.is_some()),*]
            }
        }
    };
}

tensors! {
    first {
        "wte.weight", Map, |c| vec![c.d_vocab, c.d_model], wte;
        "wpe.weight", Map, positions, wpe;
    }
    block {
        "ln_1.weight", Scale, norm, ln_1.weight;
        "ln_1.bias", Bias, norm, ln_1.bias;
        "attn.c_attn.weight", Map, |c| vec![c.d_model, 3 * c.d_heads()], attn.c_attn.weight;
        "attn.c_attn.bias", Bias, |c| vec![3 * c.d_heads()], attn.c_attn.bias;
        "attn.c_proj.weight", Output, |c| vec![c.d_heads(), c.d_model], attn.c_proj.weight;
        "attn.c_proj.bias", Bias, |c| vec![c.d_model], attn.c_proj.bias;
        "ln_2.weight", Scale, norm, ln_2.weight;
        "ln_2.bias", Bias, norm, ln_2.bias;
        "mlp.c_fc.weight", Map, |c| vec![c.d_model, mlp(c)[0]], mlp.c_fc.weight;
        "mlp.c_fc.bias", Bias, |c| vec![mlp(c)[0]], mlp.c_fc.bias;
        "mlp.ln.weight", Scale, inner_norm, mlp.ln.weight;
        "mlp.ln.bias", Bias, inner_norm, mlp.ln.bias;
        "mlp.c_proj.weight", Output, |c| mlp(c).to_vec(), mlp.c_proj.weight;
        "mlp.c_proj.bias", Bias, |c| vec![mlp(c)[1]], mlp.c_proj.bias;
    }
    last {
        "ln_f.weight", Scale, norm, ln_f.weight;
        "ln_f.bias", Bias, norm, ln_f.bias;
    }
    head {
        "lm_head.weight", Map, |c| vec![c.d_logits(), c.d_model], lm_head;
        "lm_head.bias", Bias, |c| vec![c.d_logits()], lm_head_bias;
    }
}

/// The rows of a model with or without the tensors of the unembedding, in order of the forward
/// pass; lazy, so that an absurd number of layers costs nothing until they are asked for.
fn rows(n_layers: usize, head: [bool; 2]) -> impl Iterator<Item = (String, &'static Row)> {
    let named = |row: &'static Row| (row.name.to_string(), row);
    let of_layer = |layer| {
        let named = move |row: &'static Row| (format!("h.{layer}.{}", row.name), row);
        BLOCK.iter().map(named)
    };
    let head = HEAD.iter().zip(head).filter(|(_, has)| *has);
    FIRST
        .iter()
        .map(named)
        .chain((0..n_layers).flat_map(of_layer))
        .chain(LAST.iter().map(named))
        .chain(head.map(move |(row, _)| named(row)))
}

impl Tensor {
    fn new((name, row): (String, &Row), config: &Config) -> Self {
        Tensor {
            name,
            role: row.role,
            shape: (row.shape)(config),
        }
    }

    /// Every tensor that a model of this shape must have, in the order of
    /// [`Parameters::tensors`].
    pub fn required(config: &Config) -> impl Iterator<Item = Tensor> {
        let rows = rows(config.n_layers, [!config.tie_word_embeddings, false]);
        let tensors = rows.map(|row| Tensor::new(row, config));
        tensors.filter(|tensor| !tensor.shape.contains(&0))
    }

    /// The shapes of all fields of a model, empty ones among them, but for the unembedding's bias.
    pub fn fields(config: &Config) -> impl Iterator<Item = Vec<usize>> {
        let rows = rows(config.n_layers, [!config.tie_word_embeddings, false]);
        rows.map(|(_, row)| (row.shape)(config))
    }

    /// The names of a GPT-2's block's tensors, below `h.{layer}.`.
    pub fn in_block() -> impl Iterator<Item = &'static str> {
        let gpt2 = |row: &&Row| !(row.shape)(&Config::gpt2()).contains(&0);
        BLOCK.iter().filter(gpt2).map(|row| row.name)
    }

    /// The names of all tensors outside of blocks.
    pub fn outside_blocks() -> impl Iterator<Item = &'static str> {
        [FIRST, LAST, HEAD]
            .into_iter()
            .flatten()
            .map(|row| row.name)
    }

    /// The tensors of the unembedding, which a checkpoint may have in any case.
    pub fn unembedding(config: &Config) -> impl Iterator<Item = Tensor> {
        HEAD.iter()
            .map(|row| Tensor::new((row.name.to_string(), row), config))
    }
}

impl Parameters {
    /// Every tensor with its checkpoint name (without the `transformer.` prefix), in order of
    /// the forward pass.
    pub fn tensors(&self) -> Vec<(String, ArrayViewD<'_, f32>)> {
        let tensors = self.names().zip(self.views());
        tensors.filter(|(_, tensor)| !tensor.is_empty()).collect()
    }

    /// Same as [`Parameters::tensors`], to be written to.
    pub fn tensors_mut(&mut self) -> Vec<(String, ArrayViewMutD<'_, f32>)> {
        let tensors = self.names().zip(self.views_mut());
        tensors.filter(|(_, tensor)| !tensor.is_empty()).collect()
    }

    fn names(&self) -> impl Iterator<Item = String> + use<> {
        rows(self.h.len(), self.head()).map(|(name, _)| name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table's order is that of the fields, and its shapes are what `Parameters::zeros` makes.
    #[test]
    fn names_shapes_and_fields_agree() {
        for tie_word_embeddings in [true, false] {
            let config = Config {
                n_layers: 2,
                n_heads: 2,
                d_model: 6,
                d_mlp: 7,
                n_ctx: 5,
                d_vocab: 11,
                tie_word_embeddings,
                ..Config::gpt2()
            };
            let mut parameters = Parameters::zeros(&config).unwrap();
            parameters.h[1].mlp.c_fc.bias[3] = 1.0;
            parameters.lm_head_bias = Some(ndarray::Array1::zeros(11));
            let tensors = parameters.tensors();
            let mut expected: Vec<Tensor> = Tensor::required(&config).collect();
            expected.extend(Tensor::unembedding(&config).last());
            assert_eq!(tensors.len(), expected.len());
            for ((name, tensor), expected) in tensors.iter().zip(expected) {
                assert_eq!(
                    (name, tensor.shape()),
                    (&expected.name, &expected.shape[..])
                );
                let marked = name == "h.1.mlp.c_fc.bias";
                assert_eq!(tensor.sum(), if marked { 1.0 } else { 0.0 }, "{name}");
            }
        }
    }
}
