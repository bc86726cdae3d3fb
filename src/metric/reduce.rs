//! How logits of several tokens become one number.

use ndarray::ArrayView1;

/// How the logits of several right or wrong answers become one number.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Reduce {
    /// Their mean.
    #[default]
    Mean,
    /// The largest: with right answers against wrong ones, the margin, which is positive where
    /// some right answer is likelier than every wrong one.
    Max,
    /// `ln Σ exp`: the difference is then the log-odds of the right answers against the wrong
    /// ones.
    LogSumExp,
}

impl Reduce {
    pub(super) fn of(self, logits: impl Iterator<Item = f32> + Clone) -> f32 {
        let largest = || logits.clone().fold(f32::NEG_INFINITY, larger);
        match self {
            Reduce::Mean => {
                let n = logits.clone().count();
                logits.sum::<f32>() / n as f32
            }
            Reduce::Max => largest(),
            Reduce::LogSumExp => {
                let largest = largest();
                if largest.is_infinite() {
                    return largest;
                }
                let sum: f64 = logits.map(|v| f64::from(v - largest).exp()).sum();
                (f64::from(largest) + sum.ln()) as f32
            }
        }
    }

    /// What each of a set's logits adds to the reduced number; of several largest ones, each has
    /// its share.
    pub(super) fn slopes(self, set: &[u32], logits: ArrayView1<'_, f32>) -> Vec<f32> {
        let values = || set.iter().map(|t| logits[*t as usize]);
        let whole = self.of(values());
        let largest = values().filter(|v| *v == whole).count() as f32;
        let weight = |v: f32| match self {
            Reduce::Mean => 1.0 / set.len() as f32,
            Reduce::Max if v == whole => 1.0 / largest,
            Reduce::Max => 0.0,
            Reduce::LogSumExp => (v - whole).exp(),
        };
        values().map(weight).collect()
    }
}

/// The larger of two numbers, NaN if one is.
fn larger(a: f32, b: f32) -> f32 {
    if a.is_nan() || a > b { a } else { b }
}
