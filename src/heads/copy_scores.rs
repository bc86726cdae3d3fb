//! Copy scores of heads (Wang et al. 2022, "Interpretability in the Wild", section 3.1): does a
//! head that attends to a token raise that token's logit?

use ndarray::{Array1, Array3, Array4, ArrayD, ArrayViewMut2, Axis as Dim};

use crate::cache::{ActivationCache, Selection};
use crate::error::{Error, Result};
use crate::hook::{HookPoint, Site};
use crate::intervention::{Edit, Intervention, Interventions, Select, Target, Values};
use crate::metric::{Metric, rank};
use crate::model::{KeepLogits, Run, Transformer};
use crate::prompt::Prompt;
use crate::report::{About, Axis, Labelled};
use crate::statistics::over_first;
use crate::sweep::{Cell, DEFAULT_MEMORY_LIMIT, Sweep};

/// Copy scores of every head, `[sign, layer, head]` with standard errors: block 0's `resid_post`
/// at the positions given goes through the head's layer's `ln1`, its values and its output map
/// (`b_V` included, `b_O` not), then through `ln_final` and the unembedding. The score is the
/// share of positions whose own token is among the `top` logits. `negative` has the head's output
/// with its sign flipped, which is high for heads that suppress what they attend to.
///
/// ```
/// use patchlens::{Config, Prompt, Transformer};
/// use patchlens::heads::copy_scores;
/// let config = Config { n_layers: 2, n_heads: 2, d_model: 8, d_mlp: 16, d_vocab: 11, ..Config::gpt2() };
/// let model = Transformer::random(config, 0)?;
/// let scores = copy_scores(&model, &Prompt::from([1, 2, 3]), &[vec![1, 2]], 5)?;
/// assert_eq!(scores.values().shape(), [2, 2, 2]);
/// # Ok::<(), patchlens::Error>(())
/// ```
///
/// # Errors
/// [`Error::Invalid`] if `positions` are not one list a prompt, if there is no position at all,
/// or if `top` is 0; [`Error::OutOfRange`] for a position that a prompt lacks; else as
/// [`Transformer::run`].
pub fn copy_scores(
    model: &Transformer,
    prompts: &(impl AsRef<[Prompt]> + ?Sized),
    positions: &[Vec<usize>],
    top: usize,
) -> Result<Labelled> {
    let prompts = prompts.as_ref();
    if top == 0 {
        return Err(Error::invalid("top", top, "at least 1"));
    }
    let tokens = tokens_at(prompts, positions)?;
    let config = model.config();
    let alone: Vec<Prompt> = tokens.iter().map(|t| Prompt::from([*t])).collect();
    let states = states(model, prompts, positions)?;
    let decoder = Decoder::new(model, &alone, &tokens, top, DEFAULT_MEMORY_LIMIT)?;
    let shape = (tokens.len(), 2, config.n_layers, config.n_heads);
    let mut hits = Array4::zeros(shape);
    for layer in 0..config.n_layers {
        let outputs = outputs(model, layer, &alone, &states)?;
        for (head, found) in decoder.both_signs(&outputs)?.outer_iter().enumerate() {
            of_head(&mut hits, layer, head).assign(&found.t());
        }
    }
    let (mean, error) = over_first(hits.view().into_dyn());
    let axes = vec![
        Axis::new("sign", ["positive", "negative"]),
        Axis::layers(config.n_layers),
        Axis::heads(config.n_heads),
    ];
    let mut about = About {
        title: "Copy scores".to_string(),
        caption: format!("Share of tokens among the top {top} logits of the head's OV circuit."),
        unit: "share of tokens".to_string(),
        ..About::default()
    };
    about
        .counts
        .insert("tokens".to_string(), tokens.len() as u64);
    Labelled::new(mean, axes, about)?.with_std_error(error)
}

/// [`copy_scores`] of a set of tokens, each alone in its prompt, after BOS if there is one.
///
/// # Errors
/// As [`copy_scores`].
pub fn copy_scores_of_tokens(
    model: &Transformer,
    tokens: &[u32],
    bos: Option<u32>,
    top: usize,
) -> Result<Labelled> {
    let prompt = |token: &u32| Prompt::from(bos.into_iter().chain([*token]).collect::<Vec<_>>());
    let prompts: Vec<Prompt> = tokens.iter().map(prompt).collect();
    let positions = vec![vec![usize::from(bos.is_some())]; tokens.len()];
    copy_scores(model, &prompts, &positions, top)
}

/// The tokens at the positions of all prompts.
fn tokens_at(prompts: &[Prompt], positions: &[Vec<usize>]) -> Result<Vec<u32>> {
    if positions.len() != prompts.len() {
        let expected = format!("{}, one list a prompt", prompts.len());
        return Err(Error::invalid("positions", positions.len(), expected));
    }
    let mut tokens = Vec::new();
    for (i, (prompt, list)) in prompts.iter().zip(positions).enumerate() {
        for &position in list {
            let token = prompt
                .tokens
                .get(position)
                .ok_or_else(|| Error::OutOfRange {
                    at: format!("prompt {i}"),
                    axis: "pos",
                    found: position,
                    expected: format!("0..{}", prompt.len()),
                })?;
            tokens.push(*token);
        }
    }
    if tokens.is_empty() {
        return Err(Error::invalid("positions", "none", "at least one"));
    }
    Ok(tokens)
}

/// A head's part `[prompt, sign]` of `[prompt, sign, layer, head]`.
pub(crate) fn of_head(hits: &mut Array4<f32>, layer: usize, head: usize) -> ArrayViewMut2<'_, f32> {
    let of_layer = hits.view_mut().index_axis_move(Dim(2), layer);
    of_layer.index_axis_move(Dim(2), head)
}

/// Block 0's `resid_post` at the positions, `[1, d_model]` each.
fn states(
    model: &Transformer,
    prompts: &[Prompt],
    positions: &[Vec<usize>],
) -> Result<Vec<ArrayD<f32>>> {
    let point = Site::ResidPost.at(0);
    let selection = Selection::points([point]);
    let caches = model.run(prompts, (), &up_to(0, &selection))?.caches;
    let mut states = Vec::new();
    for (cache, list) in caches.iter().zip(positions) {
        let whole = cache.flat(point)?;
        let rows = list.iter().map(|p| whole.select(Dim(0), &[*p]).into_dyn());
        states.extend(rows);
    }
    Ok(states)
}

/// What the heads of a layer write where they attend to one state alone, `[head][token]`, each
/// `[d_model]`: a prompt of one token, which can attend to itself only, with the state set as the
/// layer's input.
fn outputs(
    model: &Transformer,
    layer: usize,
    alone: &[Prompt],
    states: &[ArrayD<f32>],
) -> Result<Vec<Vec<Array1<f32>>>> {
    let edit = Edit::Set(Values::arrays(states.to_vec()));
    let set = [Intervention::new(Site::ResidPre.at(layer), edit)];
    let point = Site::Result.at(layer);
    let selection = Selection::points([point]);
    let run = up_to(layer, &selection);
    let caches = model.run(alone, Interventions::new(&set[..]), &run)?.caches;
    let of_one = |head: usize| {
        let output = |cache: &ActivationCache| {
            let output = cache.get(point)?.index_axis_move(Dim(1), head);
            Ok(output.iter().copied().collect())
        };
        caches.iter().map(output).collect()
    };
    (0..model.config().n_heads).map(of_one).collect()
}

fn up_to(layer: usize, selection: &Selection) -> Run<'_> {
    Run {
        cache: Some(selection),
        stop_at_layer: Some(layer + 1),
        logits: KeepLogits::None,
    }
}

/// Reads vectors as logits: each alone in the final residual stream, through the model's own
/// `ln_final` and unembedding.
pub(crate) struct Decoder<'m> {
    sweep: Sweep<'m>,
    metric: Metric,
    top: usize,
    last: HookPoint,
}

impl<'m> Decoder<'m> {
    /// Whether one token a prompt is among the `top` logits at the prompt's last position.
    pub(crate) fn new(
        model: &'m Transformer,
        prompts: &[Prompt],
        tokens: &[u32],
        top: usize,
        memory_limit: u64,
    ) -> Result<Self> {
        Ok(Decoder {
            sweep: Sweep::new(model, prompts)?.memory_limit(memory_limit),
            metric: rank(tokens),
            top,
            last: Site::ResidPost.at(model.config().n_layers - 1),
        })
    }

    /// 1 where the token is among the top logits of a vector, 0 where not, `[vector, sign,
    /// prompt]`; sign 0 is the vector, sign 1 the vector negated. `vectors` are `[vector][prompt]`,
    /// each `[d_model]`. Equal logits count half, so that zeros have no token on top.
    pub(crate) fn both_signs(&self, vectors: &[Vec<Array1<f32>>]) -> Result<Array3<f32>> {
        let cell = |vector: &[Array1<f32>], sign: f32| -> Cell {
            let signed = vector.iter().map(|v| v.mapv(|v| v * sign).into_dyn());
            let edit = Edit::Set(Values::arrays(signed.collect()));
            let target = Target::new(self.last).at_positions(Select::Last);
            vec![Intervention::new(target, edit)]
        };
        let signs = vectors
            .iter()
            .flat_map(|v| [cell(v, 1.0), cell(v, -1.0)])
            .collect::<Vec<_>>();
        let ranks = self.sweep.run(&signs, &self.metric)?.values;
        let last = (self.top - 1) as f32;
        let hits = ranks.mapv(|rank| f32::from(u8::from(rank <= last)));
        let shape = (vectors.len(), 2, self.sweep.prompts().len());
        Ok(hits
            .into_shape_with_order(shape)
            .unwrap_or_else(|_| unreachable!("two signs a vector")))
    }
}
