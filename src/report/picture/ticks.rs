//! Round numbers along an axis.

/// At most about `most` round numbers from `low` to `high`, and their texts.
pub(super) fn ticks((low, high): (f64, f64), most: u32) -> (Vec<f64>, Vec<String>) {
    let least = (high - low) / f64::from(most);
    let power = 10_f64.powf(least.log10().floor());
    let rounded = [1.0, 2.0, 5.0].map(|factor| factor * power);
    let step = rounded.into_iter().find(|step| *step >= least);
    let step = step.unwrap_or(10.0 * power);
    let (first, last) = ((low / step).ceil(), (high / step).floor());
    let n = (last - first).max(0.0) as u32;
    let values: Vec<f64> = (0..=n).map(|i| (first + f64::from(i)) * step).collect();
    let largest = values.iter().map(|v| v.abs()).fold(0.0, f64::max);
    // As many digits as it takes to tell neighbours apart.
    let text = |v: &f64| {
        if (1e-5..1e6).contains(&step) && largest < 1e7 {
            let digits = (-step.log10().floor()).max(0.0) as usize;
            format!("{v:.digits$}")
        } else {
            let digits = (largest / step).log10().ceil().clamp(0.0, 9.0) as usize;
            format!("{v:.digits$e}")
        }
    };
    let texts = values.iter().map(text).collect();
    (values, texts)
}
