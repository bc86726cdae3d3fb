//! The runs that a divergence is measured to.

use ndarray::ArrayView2;

use super::{Kind, Metric};
use crate::error::{Error, Result};
use crate::ops::log_softmax_row;

impl Metric {
    /// A KL divergence to these runs, given by their logits `[pos, d_vocab]`: one per prompt, or
    /// one for all.
    ///
    /// # Errors
    /// [`Error::Invalid`] for any other metric, which has no reference; [`Error::OutOfRange`] for
    /// logits without the position that it reads.
    pub fn with_reference(self, logits: &[ArrayView2<'_, f32>]) -> Result<Self> {
        if !matches!(self.kind, Kind::Divergence(..)) {
            let expected =
                "a KL or JS divergence, the only metrics that are measured to other runs";
            return Err(Error::invalid(
                "metric with a reference",
                self.name,
                expected,
            ));
        }
        let row = |(prompt, logits): (usize, &ArrayView2<'_, f32>)| {
            self.check_position(prompt, logits.nrows())?;
            let position = self.position(prompt, logits.nrows());
            Ok(logits.row(position.expect("just checked")).to_vec())
        };
        let rows = logits.iter().enumerate().map(row).collect::<Result<_>>()?;
        Ok(self.with_reference_rows(rows))
    }

    /// A KL divergence to runs given by their logits `[d_vocab]` at the position that it reads.
    pub(crate) fn with_reference_rows(mut self, mut rows: Vec<Vec<f32>>) -> Self {
        rows.iter_mut().for_each(|row| log_softmax_row(row));
        match &mut self.kind {
            Kind::Divergence(_, reference) => *reference = Some(rows.into()),
            _ => debug_assert!(false, "{} has no reference", self.name),
        }
        self
    }

    /// Whether it still lacks the runs that it compares with.
    pub(crate) fn lacks_reference(&self) -> bool {
        matches!(self.kind, Kind::Divergence(_, None))
    }
}
