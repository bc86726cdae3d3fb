//! Averages over prompts.

use ndarray::Axis as Dim;

use super::{Decomposition, DirectLogitAttribution, LogitDirection};
use crate::error::{Error, Result};
use crate::model::Transformer;
use crate::prompt::Prompt;
use crate::report::Labelled;
use crate::statistics::{labelled_means, shaped};

/// The mean over prompts of a decomposition at each one's last position, `[component]`, with its
/// standard error; `directions` are one per prompt. Prompts may differ in length.
///
/// # Errors
/// Same as [`DirectLogitAttribution::new`] and [`DirectLogitAttribution::decompose`];
/// [`Error::Invalid`] if there are no prompts or another number of directions.
pub fn direct_logit_attribution(
    model: &Transformer,
    prompts: &(impl AsRef<[Prompt]> + ?Sized),
    directions: &[LogitDirection],
    by: Decomposition,
) -> Result<Labelled> {
    let prompts = prompts.as_ref();
    model.check_prompts(prompts)?;
    if directions.len() != prompts.len() {
        let expected = format!("{}, one per prompt", prompts.len());
        return Err(Error::invalid(
            "logit directions",
            directions.len(),
            expected,
        ));
    }
    let mut columns = Vec::with_capacity(prompts.len());
    let mut truth = 0.0;
    let mut first = None;
    for (prompt, direction) in prompts.iter().zip(directions) {
        let attribution = DirectLogitAttribution::new(model, prompt, direction.clone())?;
        let found = attribution.decompose(by)?;
        let last = found.values().index_axis_move(Dim(1), prompt.len() - 1);
        columns.push(last.iter().copied().collect::<Vec<f32>>());
        truth += attribution.truth[prompt.len() - 1] / prompts.len() as f64;
        first.get_or_insert(found);
    }
    let first = first.expect("there is a prompt");
    let mut about = first.about.clone();
    about.caption = format!(
        "{} Mean over {} prompts, last position.",
        about.caption,
        prompts.len()
    );
    let key = format!("{} at the last position", directions[0].name);
    about.baselines.insert(key, truth as f32);
    about
        .counts
        .insert("prompts".to_string(), prompts.len() as u64);
    let shape = [columns.len(), columns[0].len()];
    let samples = shaped(&shape, columns.concat()).reversed_axes();
    labelled_means(samples.view(), vec![first.axes()[0].clone()], about)
}
