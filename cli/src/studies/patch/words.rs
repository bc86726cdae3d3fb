//! What patching has found, in words.

use patchlens::patching::Patching;
use patchlens::report::{RankedCell, legible};

use super::Sweep;
use crate::missing::not_run;

/// The metric of both runs, and how often its sign is right.
pub(super) fn baselines(patching: &Patching, metric: &str) -> String {
    let line = |name: &str, values: &ndarray::Array1<f32>| {
        let mean = values.mean().unwrap_or(f32::NAN);
        let above = values.iter().filter(|v| **v > 0.0).count();
        let n = values.len();
        format!("  {name:10} {mean:>+12.4}   above 0 in {above} of {n}")
    };
    format!(
        "mean {metric}\n{}\n{}\n",
        line("clean", &patching.clean),
        line("corrupted", &patching.corrupted)
    )
}

/// One sentence on the strongest cells, put together from what was found.
pub(super) fn conclusion(found: &[(Sweep, Patching)]) -> String {
    let part = |(sweep, found): &(Sweep, Patching)| {
        // Both runs may have the same metric: then no change is a share of anything.
        let shares = found.normalized().ok();
        let share = |cell: &RankedCell| {
            let shares = shares.as_ref()?;
            Some(shares.cell(&cell.index).value)
        };
        let top = found.effect.top(3);
        let told = |cell: &RankedCell| {
            // `before L3` rather than `L3`, of the residual stream.
            let name = |(of, name): (&String, &String)| match of.strip_suffix(" layer") {
                Some(side) => format!("{side} {}", legible(name)),
                None => legible(name),
            };
            let names: Vec<String> = top.names.iter().zip(&cell.names).map(name).collect();
            let share = share(cell).map(|share| format!(", {:.0} %", 100.0 * share.abs()));
            format!(
                "{} ({:+.2}{})",
                names.join(", "),
                cell.value,
                share.unwrap_or_default()
            )
        };
        let strong = top.cells.iter().filter(|cell| cell.value != 0.0);
        let strong = strong.filter(|cell| share(cell).is_none_or(|share| share.abs() >= 0.1));
        let mut strong: Vec<String> = strong.map(told).collect();
        strong.extend(not_run(&found.effect));
        if strong.is_empty() {
            strong.push("nowhere by a tenth of the difference".to_string());
        }
        format!("{}: {}", sweep.name(), strong.join(", "))
    };
    let parts: Vec<String> = found.iter().map(part).collect();
    format!(
        "Largest changes of the metric by one patch, with their shares of the difference between \
         both runs: {}.",
        parts.join("; ")
    )
}
