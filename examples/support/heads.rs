//! What the examples on heads share, and the test of their labels: repeated random sequences, and
//! what knocking heads out costs.

use anyhow::Result;
use ndarray::Array2;
use patchlens::report::{About, Axis, Labelled};
use patchlens::tasks::{IoiPair, IoiPrompt, Repeated, RepeatedPrompt};
use patchlens::{Ablation, CircuitNode, Head, HeadTask, Prompt, Tokenizer, Transformer};

/// Options for repeated random sequences.
#[derive(clap::Args, Debug)]
pub struct Sequences {
    /// Random sequences
    #[arg(long, default_value_t = 8)]
    pub sequences: usize,
    /// Tokens of one repeat [default: at most 24, so that two fit the context]
    #[arg(long)]
    pub period: Option<usize>,
}

impl Sequences {
    /// BOS and a random sequence, given twice.
    pub fn repeated(
        &self,
        model: &Transformer,
        tokenizer: &Tokenizer,
        seed: u64,
    ) -> Result<Vec<RepeatedPrompt>> {
        let longest = (model.config().n_ctx - 1) / 2;
        let period = self.period.unwrap_or(longest.min(24));
        let repeated = Repeated::new(tokenizer)?.with_bos()?;
        Ok(repeated.prompts(self.sequences, period, 2, seed)?)
    }
}

/// `0.123 ± 0.004`
pub fn pm((mean, error): (f32, f32)) -> String {
    format!("{mean:.3} ± {error:.3}")
}

/// What IOI's logit difference loses when each head is knocked out at END: replaced by its mean
/// over prompts of the same template with other names (Wang et al. 2022), `[layer, head]`.
pub fn cost_at_end(model: &Transformer, pairs: &[IoiPair]) -> Result<Labelled> {
    let prompts = |of: fn(&IoiPair) -> &IoiPrompt| -> (Vec<Prompt>, Vec<usize>) {
        let prompts = pairs.iter().map(of);
        prompts.map(|p| (Prompt::from(p), p.template)).unzip()
    };
    let clean: Vec<IoiPrompt> = pairs.iter().map(|pair| pair.clean.clone()).collect();
    let task = HeadTask::ioi(&clean);
    let ends = clean.iter().map(|p| vec![p.positions.end]).collect();
    let (originals, others) = (prompts(|pair| &pair.clean), prompts(|pair| &pair.corrupted));
    let ablation =
        Ablation::mean_by_template(model, (&originals.0, &originals.1), (&others.0, &others.1))?
            .with_class("END", ends)?;
    let node = |head: Head| vec![CircuitNode::head(head.layer, head.head).at("END")];
    let sets: Vec<_> = Head::all(model.config()).map(node).collect();
    let found = ablation.knock_out(&sets, &task.metric)?;
    let whole = found.clean.mean().unwrap_or(f32::NAN);
    let shape = (model.config().n_layers, model.config().n_heads);
    let lost = found.effect.values().mapv(|v| whole - v);
    let lost = Array2::from_shape_vec(shape, lost.into_iter().collect())?;
    let about = About {
        title: "Heads knocked out at END".to_string(),
        caption: "What is lost when a head at END is replaced by its mean over other names."
            .to_string(),
        unit: task.metric.name().to_string(),
        baselines: [("whole".to_string(), whole)].into(),
        ..About::default()
    };
    let axes = vec![Axis::layers(shape.0), Axis::heads(shape.1)];
    Ok(Labelled::new(lost, axes, about)?)
}
