//! The receivers of paths as places in the model, and what they receive.

use std::collections::BTreeMap;

use ndarray::{ArrayD, Axis as Dim};

use super::nodes::PathReceiver;
use crate::cache::ActivationCache;
use crate::config::Config;
use crate::error::Result;
use crate::hook::{Axes, HookPoint};
use crate::intervention::{Edit, Intervention, Target, Values};
use crate::sweep::Cell;

/// Receivers with the model's names for them.
pub(super) struct Ends {
    pub targets: Vec<Target>,
    /// The residual stream that each of them reads.
    pub reads: Vec<HookPoint>,
}

impl Ends {
    pub fn new(receivers: &[PathReceiver], config: &Config) -> Self {
        Ends {
            targets: receivers.iter().map(|r| r.target(config)).collect(),
            reads: receivers.iter().map(|r| r.reads(config)).collect(),
        }
    }

    /// The cell of run D: the receivers' inputs set to what run C saved, by prompt.
    pub fn receive(&self, saved: &[ActivationCache]) -> Result<Cell> {
        // Heads of a layer read one residual, each through a copy of its own.
        let mut for_heads = BTreeMap::new();
        let mut cell = Cell::new();
        for (target, reads) in self.targets.iter().zip(&self.reads) {
            let values = match target.point.axes() {
                Axes::HeadModel => match for_heads.get(reads) {
                    Some(values) => Values::clone(values),
                    None => {
                        let values = spread(saved, *reads)?;
                        for_heads.insert(*reads, values.clone());
                        values
                    }
                },
                _ => Values::from_caches(saved, *reads)?,
            };
            cell.push(Intervention::new(target.clone(), Edit::Patch(values)));
        }
        Ok(cell)
    }
}

/// A residual of each prompt, `[pos, 1, d_model]`: for every head.
fn spread(saved: &[ActivationCache], point: HookPoint) -> Result<Values> {
    let one = |cache: &ActivationCache| -> Result<ArrayD<f32>> {
        Ok(cache.get(point)?.insert_axis(Dim(1)).to_owned())
    };
    Ok(Values::arrays(
        saved.iter().map(one).collect::<Result<_>>()?,
    ))
}
