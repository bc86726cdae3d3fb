//! Copy scores of heads (Wang et al. 2022, "Interpretability in the Wild", section 3.1): does a
//! head that attends to a token raise that token's logit?

use ndarray::{Array2, Array4, ArrayView1, ArrayView2};

use super::circuits::Head;
use super::statistics::over_first;
use crate::cache::Selection;
use crate::error::{Error, Result};
use crate::hook::Site;
use crate::model::{KeepLogits, Run, Transformer};
use crate::ops::{layer_norm_affine, linear, matmul, part};
use crate::prompt::Prompt;
use crate::report::{About, Axis, Labelled};

/// Copy scores of every head, `[sign, layer, head]` with standard errors: block 0's `resid_post`
/// at the positions given goes through the head's layer's `ln1`, its values and its output map
/// (`b_V` included, `b_O` not), then through `ln_final` and the unembedding. The score is the
/// share of positions whose own token is among the `top` logits. `negative` has the head's output
/// with its sign flipped, which is high for heads that suppress what they attend to.
///
/// ```
/// use patchlens::{Config, Prompt, Transformer, copy_scores};
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
    let states = states(model, prompts, positions)?;
    let config = model.config();
    let shape = (tokens.len(), 2, config.n_layers, config.n_heads);
    let mut hits = Array4::zeros(shape);
    for head in Head::all(config) {
        let output = head_output(model, head, states.view());
        for (sign, output) in [output.clone(), -output].into_iter().enumerate() {
            let logits = unembed(model, output.view());
            for (i, token) in tokens.iter().enumerate() {
                let copied = is_among_top(logits.row(i), *token as usize, top);
                hits[[i, sign, head.layer, head.head]] = f32::from(u8::from(copied));
            }
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

/// Whether fewer than `top` other logits are as high: a head that writes nothing copies nothing.
fn is_among_top(logits: ArrayView1<'_, f32>, token: usize, top: usize) -> bool {
    let own = logits[token];
    logits.iter().filter(|v| **v >= own).count() <= top
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

/// Block 0's `resid_post` at the positions, `[token, d_model]`.
fn states(
    model: &Transformer,
    prompts: &[Prompt],
    positions: &[Vec<usize>],
) -> Result<Array2<f32>> {
    let point = Site::ResidPost.at(0);
    let selection = Selection::points([point]);
    let run = Run {
        cache: Some(&selection),
        stop_at_layer: Some(1),
        logits: KeepLogits::None,
    };
    let caches = model.run(prompts, (), &run)?.caches;
    let count = positions.iter().map(Vec::len).sum();
    let mut states = Array2::zeros((count, model.config().d_model));
    let mut rows = states.rows_mut().into_iter();
    for (cache, list) in caches.iter().zip(positions) {
        let whole = cache.flat(point)?;
        // In this order, so that the end of a list does not swallow a row.
        for (position, mut row) in list.iter().zip(rows.by_ref()) {
            row.assign(&whole.row(*position));
        }
    }
    Ok(states)
}

/// What a head writes where it attends to one state alone, `[token, d_model]`.
fn head_output(model: &Transformer, head: Head, states: ArrayView2<'_, f32>) -> Array2<f32> {
    let (config, block) = (model.config(), &model.parameters().h[head.layer]);
    let ln = &block.ln_1;
    let x = layer_norm_affine(
        states,
        ln.weight.view(),
        ln.bias.view(),
        config.layer_norm_eps,
    );
    let start = 2 * config.d_model + head.head * config.d_head();
    let columns = start..start + config.d_head();
    let w_v = part(block.attn.c_attn.weight.view(), 1, columns.clone());
    let b_v = part(block.attn.c_attn.bias.view(), 0, columns);
    matmul(
        linear(x.view(), w_v, Some(b_v)).view(),
        model.w_o(head.layer, head.head),
    )
}

fn unembed(model: &Transformer, residual: ArrayView2<'_, f32>) -> Array2<f32> {
    let parameters = model.parameters();
    let ln = &parameters.ln_f;
    let eps = model.config().layer_norm_eps;
    let x = layer_norm_affine(residual, ln.weight.view(), ln.bias.view(), eps);
    let bias = parameters.lm_head_bias.as_ref().map(|bias| bias.view());
    linear(x.view(), parameters.w_u(), bias)
}
