//! Copy scores of heads (Wang et al. 2022, "Interpretability in the Wild", section 3.1): does a
//! head that attends to a token raise that token's logit?

use ndarray::{Array2, Array3, Array4, ArrayD, ArrayView1, ArrayView2, Axis as Dim};

use crate::base::Base;
use crate::error::{Error, Result};
use crate::heads::scores::summary;
use crate::hook::Site;
use crate::intervention::{Edit, Intervention, Select, Target, Values};
use crate::limits::{Limits, limits_methods};
use crate::metric::rank;
use crate::model::Transformer;
use crate::prompt::{IntoPrompts, Prompt, Prompts};
use crate::report::{About, Absent, Axis, Labelled};
use crate::sweep::{Cell, Sweep};

/// A study of copy scores: block 0's `resid_post` at the positions given goes through the head's
/// layer's `ln1`, its values and its output map (`b_V` included, `b_O` not), then through
/// `ln_final` and the unembedding. A token is copied if it is among the `top` logits.
///
/// ```
/// use patchlens::{Config, Prompt, Transformer};
/// use patchlens::heads::CopyScores;
/// let config = Config { n_layers: 2, n_heads: 2, d_model: 8, d_mlp: 16, d_vocab: 11,
/// ..Config::gpt2() };
/// let model = Transformer::random(config, 0)?;
/// let found = CopyScores::new(&model, &Prompt::from([1, 2, 3]), &[vec![1, 2]])?.top(3).run()?;
/// assert_eq!(found.score.values().shape(), [2, 2, 2]); // [sign, layer, head]
/// assert_eq!(found.per_token.shape(), [2, 2, 2, 2]); // the last axis is the token
/// # Ok::<(), patchlens::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct CopyScores<'m> {
    model: &'m Transformer,
    prompts: Prompts,
    positions: Vec<Vec<usize>>,
    /// Those at the positions of all prompts.
    tokens: Vec<u32>,
    top: usize,
    pub(super) limits: Limits<'m>,
}

/// Which tokens heads copy.
#[derive(Clone, Debug)]
pub struct Copied {
    /// The share of tokens that every head copies, `[sign, layer, head]`, with standard errors
    /// where there are several tokens. `negative` has the head's output with its sign flipped,
    /// which is high for heads that suppress what they attend to.
    pub score: Labelled,
    /// 1 where the token is copied, 0 where not; the last axis is the token.
    pub per_token: ArrayD<f32>,
}

impl<'m> CopyScores<'m> {
    /// A study of the tokens at some positions, one list per prompt.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the lists are not one per prompt, or if there is no position at all;
    /// [`Error::OutOfRange`] for a position that a prompt lacks.
    pub fn new(
        model: &'m Transformer,
        prompts: impl IntoPrompts,
        positions: &[Vec<usize>],
    ) -> Result<Self> {
        let prompts = prompts.into_prompts()?;
        Ok(CopyScores {
            model,
            tokens: tokens_at(&prompts, positions)?,
            prompts,
            positions: positions.to_vec(),
            top: TOP_OF_THE_PAPER,
            limits: Limits::default(),
        })
    }

    /// A study of a set of tokens, each alone in its prompt, after BOS if there is one.
    ///
    /// # Errors
    /// Same as [`CopyScores::new`]: [`Error::Prompt`] without a token.
    pub fn of_tokens(model: &'m Transformer, tokens: &[u32], bos: Option<u32>) -> Result<Self> {
        let prompt =
            |token: &u32| Prompt::from(bos.into_iter().chain([*token]).collect::<Vec<_>>());
        let prompts: Vec<Prompt> = tokens.iter().map(prompt).collect();
        let positions = vec![vec![usize::from(bos.is_some())]; tokens.len()];
        Self::new(model, &prompts, &positions)
    }

    /// How many logits count as the top; 5 by default, as in the paper. Fewer than the
    /// vocabulary's tokens.
    #[must_use]
    pub fn top(mut self, top: usize) -> Self {
        self.top = top;
        self
    }

    limits_methods!('m);

    /// Runs the study.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the top is 0 or the whole vocabulary, which every token is in; else
    /// same as [`Transformer::run`].
    pub fn run(&self) -> Result<Copied> {
        let decoder = Decoder::new(self.model, &self.tokens, self.top, self.limits.clone())?;
        let states = states(self.model, &self.prompts, &self.positions)?;
        let hits = decoder.hits(&self.tokens, &outputs(&decoder.base, &states)?)?;
        let about = About {
            title: "Copy scores".to_string(),
            caption: format!(
                "Share of tokens among the top {} logits of the head's OV circuit.",
                self.top
            ),
            unit: "share of tokens".to_string(),
            ..About::default()
        };
        let mut score = hits.summary(about)?;
        score.about.counts = [("tokens".to_string(), self.tokens.len() as u64)].into();
        Ok(Copied {
            score,
            per_token: hits.values.into_dyn(),
        })
    }
}

/// The top logits of Wang et al. (2022), section 3.1.
pub(crate) const TOP_OF_THE_PAPER: usize = 5;

/// Checks that some tokens can be among the top logits and others not.
fn check_top(model: &Transformer, top: usize) -> Result<()> {
    model.config().check_same_tokens("copy scores")?;
    let all = model.config().d_logits();
    if (1..all).contains(&top) {
        return Ok(());
    }
    let expected = format!("at least 1, and fewer than the vocabulary's {all} tokens");
    Err(Error::invalid("top", top, expected))
}

/// The tokens at the positions of all prompts.
fn tokens_at(prompts: &Prompts, positions: &[Vec<usize>]) -> Result<Vec<u32>> {
    if positions.len() != prompts.len() {
        let expected = format!("{}, one list per prompt", prompts.len());
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

/// Block 0's `resid_post` at the positions, `[1, d_model]` each.
fn states(
    model: &Transformer,
    prompts: &Prompts,
    positions: &[Vec<usize>],
) -> Result<Vec<ArrayD<f32>>> {
    let point = Site::ResidPost.at(0);
    let caches = Base::new(model, prompts)?.held([point])?;
    let mut states = Vec::new();
    for (cache, list) in caches.iter().zip(positions) {
        let whole = cache.flat(point)?;
        let rows = list.iter().map(|p| whole.select(Dim(0), &[*p]).into_dyn());
        states.extend(rows);
    }
    Ok(states)
}

/// What the heads of each layer write where they attend to one state alone, `[token, head,
/// d_model]`: in prompts of one token, which can attend to itself only, with the state set as the
/// layer's input.
fn outputs(alone: &Base<'_>, states: &[ArrayD<f32>]) -> Result<Vec<Array3<f32>>> {
    let model = alone.model();
    let values = Values::arrays(states.to_vec());
    let set = |layer: usize| {
        let edit = Edit::Set(values.clone());
        let set = Intervention::new(Site::ResidPre.at(layer), edit);
        Ok((layer, Base::over(alone, alone.prompts(), vec![set])?))
    };
    // All are announced before the first runs.
    let runs: Vec<(usize, Base<'_>)> = (0..model.config().n_layers)
        .map(set)
        .collect::<Result<_>>()?;
    let outputs = runs.into_iter().map(|(layer, run)| {
        let caches = run.held([Site::Z.at(layer)])?;
        let at = caches
            .iter()
            .map(|cache| Ok(cache.flat(Site::Z.at(layer))?.index_axis_move(Dim(0), 0)));
        let rows: Vec<_> = at.collect::<Result<_>>()?;
        Ok(model.head_results(layer, stacked(&rows).view()))
    });
    outputs.collect()
}

/// Rows as a matrix.
pub(crate) fn stacked(rows: &[ArrayView1<'_, f32>]) -> Array2<f32> {
    ndarray::stack(Dim(0), rows).expect("rows of one length")
}

/// Reads vectors as logits: each alone in the final residual stream, through the model's own
/// `ln_final` and unembedding.
pub(crate) struct Decoder<'m> {
    /// Prompts of one token.
    base: Base<'m>,
    top: usize,
    limits: Limits<'m>,
}

/// Which tokens are on top of what heads write.
pub(crate) struct Hits {
    /// 1 where the token is among the top logits of a head's output, 0 where not,
    /// `[sign, layer, head, prompt]`; sign 0 is the output, sign 1 the output negated.
    pub values: Array4<f32>,
    /// The layers before an observer's break.
    layers: usize,
}

impl Hits {
    /// The share of prompts, `[sign, layer, head]`.
    pub fn summary(&self, mut about: About) -> Result<Labelled> {
        let (signs, layers, heads, _) = self.values.dim();
        about.partial = self.layers < layers;
        let axis = Axis::new("sign", ["positive", "negative"]);
        let shares = summary(self.values.view().into_dyn(), Some(axis), about)?;
        let not_run = |(_, layer, _)| (layer >= self.layers).then_some(Absent::NotRun);
        shares.with_absent(Array3::from_shape_fn((signs, layers, heads), not_run))
    }
}

impl<'m> Decoder<'m> {
    /// Whether one token per prompt is among the `top` logits; any tokens can stand in for the
    /// prompts, since what is read does not depend on them.
    pub(crate) fn new(
        model: &'m Transformer,
        tokens: &[u32],
        top: usize,
        limits: Limits<'m>,
    ) -> Result<Self> {
        check_top(model, top)?;
        let alone = Prompts::new(tokens.iter().map(|token| [*token]))?;
        Ok(Decoder {
            base: Base::new(model, alone)?,
            top,
            limits,
        })
    }

    /// Which tokens, one per prompt, are on top of the heads' outputs, which are those of each
    /// layer, `[prompt, head, d_model]`. Equal logits count half, so that zeros have no token on
    /// top.
    pub(crate) fn hits(&self, tokens: &[u32], outputs: &[Array3<f32>]) -> Result<Hits> {
        let config = self.base.model().config();
        let last = Site::ResidPost.at(config.n_layers - 1);
        let heads = config.n_layers * config.n_heads;
        let metric = rank(tokens);
        let best = (self.top - 1) as f32;
        let shape = (2, config.n_layers, config.n_heads, tokens.len());
        let mut values = Array4::from_elem(shape, f32::NAN);
        let mut layers = 0;
        for (layer, outputs) in outputs.iter().enumerate() {
            let cell = |(output, sign): (ArrayView2<'_, f32>, f32)| -> Cell {
                let signed = output.outer_iter().map(|v| v.mapv(|v| v * sign).into_dyn());
                let edit = Edit::Set(Values::arrays(signed.collect()));
                let target = Target::new(last).at_positions(Select::Last);
                vec![Intervention::new(target, edit)]
            };
            let both = |output| [(output, 1.0), (output, -1.0)];
            let cells: Vec<Cell> = outputs.axis_iter(Dim(1)).flat_map(both).map(cell).collect();
            let sweep = Sweep::limited(&self.base, self.limits.quiet());
            let found = sweep.run(&cells, &metric)?;
            let mut of_layer = values.index_axis_mut(Dim(1), layer);
            for (i, ranks) in found.values.outer_iter().enumerate() {
                let mut of_sign = of_layer.index_axis_mut(Dim(0), i % 2);
                let hits = ranks.mapv(|rank| f32::from(u8::from(rank <= best)));
                of_sign.row_mut(i / 2).assign(&hits);
            }
            layers += 1;
            let answer = self.limits.report(layers * config.n_heads, heads, "heads");
            if answer.is_break() {
                break;
            }
        }
        Ok(Hits { values, layers })
    }
}
