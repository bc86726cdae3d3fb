//! Attention knock-out: does the last token need to read the subject, and in which layers?
//!
//! ```text
//! scores[head, dest, src] = -∞   for the cut edges, in the layers of a window around l
//! effect(l) = m(cut model) - m(model)
//! ```
//!
//! The softmax follows, so that the attention that is cut goes to the sources that are left. (Geva
//! et al. 2023, "Dissecting Recall of Factual Associations in Auto-Regressive Language Models",
//! section 4.)
//!
//! ```
//! use patchlens::prelude::*;
//! use patchlens::knockout::{AttentionKnockout, Cut};
//! use patchlens::metric::probability;
//! let (model, tokenizer) = (Transformer::mini(), Tokenizer::mini());
//! let prompt = tokenizer.encode("Ada Brown plays the sport of")?; // the subject is tokens 0 and 1
//! let study = AttentionKnockout::new(&model, &prompt)?.window(1);
//! let metric = probability(&study.base().likeliest()?);
//! println!("{}", study.run(&[Cut::new("subject", 0..2)], &metric)?.effect);
//! # Ok::<(), patchlens::Error>(())
//! ```
//!
//! **What a number means.** By how much the answer becomes likelier if the destination cannot read
//! these sources in these layers: far below 0 where it gets what it needs from them there. A window
//! of several layers finds what single layers, which stand in for each other, hide.
//!
//! **What it does not mean.** That nothing flows where the effect is 0: another token may have
//! read the source before and pass it on. That the source itself is the origin: it may have read
//! what it shows from elsewhere. More in [the guide](crate::guide::tracing).

mod cut;

pub use cut::{Cut, cuts_of_facts};

use std::ops::Range;

use crate::ablation::{Found, KnockOut};
use crate::base::Base;
use crate::effects::layer_window;
use crate::error::{Error, Result};
use crate::hook::Site;
use crate::intervention::{Edit, Intervention, Values};
use crate::limits::{Limits, limits_methods};
use crate::metric::Metric;
use crate::model::Transformer;
use crate::model::stage::Frozen;
use crate::pairs::averaged;
use crate::prompt::IntoPrompts;
use crate::report::{About, Axis};
use crate::sweep::{Cell, Sweep};

/// Layers of a window unless said otherwise: the paper's for GPT-2 XL.
pub const DEFAULT_WINDOW: usize = 9;

/// A study that cuts edges of attention, window by window.
#[derive(Clone, Debug)]
pub struct AttentionKnockout<'m> {
    base: Base<'m>,
    window: usize,
    limits: Limits<'m>,
}

impl<'m> AttentionKnockout<'m> {
    /// A study of some prompts, with windows of [`DEFAULT_WINDOW`] layers.
    ///
    /// # Errors
    /// [`Error::Prompt`] or [`Error::OutOfRange`] for a prompt that cannot run.
    pub fn new(model: &'m Transformer, prompts: impl IntoPrompts) -> Result<Self> {
        Ok(Self::over(&Base::new(model, prompts)?))
    }

    /// A study of base runs, which other studies may share.
    pub fn over(base: &Base<'m>) -> Self {
        AttentionKnockout {
            base: base.clone(),
            window: DEFAULT_WINDOW,
            limits: Limits::default(),
        }
    }

    /// Cuts the layers `l - window / 2` to `l + ceil(window / 2) - 1` at once, as far as the model
    /// has them.
    #[must_use]
    pub fn window(mut self, window: usize) -> Self {
        self.window = window;
        self
    }

    limits_methods!('m);

    /// The base runs.
    pub fn base(&self) -> &Base<'m> {
        &self.base
    }

    /// Makes each cut in each window: `[cut, layer]`, the layer in the middle of the window.
    /// [`KnockOut::relative`] is what the paper reports. A KL divergence without a reference is
    /// measured to the whole model.
    ///
    /// # Errors
    /// [`Error::Invalid`] without cuts, for a window of no layers, and for a cut that leaves a
    /// destination nothing to attend to; [`Error::NeverFires`] for one that cuts nothing in some
    /// prompt; else same as [`Sweep::prepare`].
    pub fn run(&self, cuts: &[Cut], metric: &Metric) -> Result<KnockOut> {
        if self.window == 0 {
            return Err(Error::invalid("window", 0, "at least 1 layer"));
        }
        if cuts.is_empty() {
            return Err(Error::invalid("cuts", "none", "at least one"));
        }
        self.base.expect(
            self.layers().map(|layer| Site::AttnScores.at(layer)),
            Frozen::default(),
        );
        let mut cells: Vec<Cell> = Vec::new();
        for cut in cuts {
            let whole = self.layers().map(|layer| self.cut(cut, layer));
            let whole: Vec<Intervention> = whole.collect::<Result<_>>()?;
            cells.extend(
                self.layers()
                    .map(|layer| whole[self.around(layer)].to_vec()),
            );
        }
        let metric = self.base.refer_within(metric, self.limits.room(0))?;
        let result = Sweep::limited(&self.base, self.limits.clone()).run(&cells, &metric)?;
        let names = cuts.iter().map(|cut| cut.name.clone());
        let axes = vec![
            Axis::new("cut", names),
            Axis::layers(self.base.model().config().n_layers),
        ];
        Found::from(result).label(axes, self.about(&metric), &metric)
    }

    fn layers(&self) -> Range<usize> {
        0..self.base.model().config().n_layers
    }

    fn around(&self, layer: usize) -> Range<usize> {
        layer_window(layer, self.window, self.layers().end)
    }

    /// One layer's part of a cut.
    fn cut(&self, cut: &Cut, layer: usize) -> Result<Intervention> {
        let direction = self.base.model().config().attention;
        let target = cut.target(layer, direction, self.base.prompts())?;
        let blocked = Values::scalar(f32::NEG_INFINITY);
        Ok(Intervention::new(target, Edit::Set(blocked)))
    }

    fn about(&self, metric: &Metric) -> About {
        let prompts = self.base.prompts().len();
        let layers = match self.window {
            1 => "one layer".to_string(),
            n => format!("{n} layers around each"),
        };
        About {
            title: "Attention knock-out".to_string(),
            caption: format!(
                "Edges of attention cut in {layers}; {}.",
                averaged(prompts, "prompt")
            ),
            unit: metric.name().to_string(),
            counts: [("prompts".to_string(), prompts as u64)].into(),
            ..About::default()
        }
    }
}
