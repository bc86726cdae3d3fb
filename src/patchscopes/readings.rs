//! What target prompts say with a state in them.

use std::borrow::Cow;

use ndarray::{Array1, Array2, Array3, Axis as Dim};

use super::Patchscopes;
use crate::base::Departure;
use crate::error::Result;
use crate::metric::Needs;
use crate::model::stage::Frozen;
use crate::ops::{largest, log_softmax_row};
use crate::report::{About, Absent, Axis, Labelled, Palette};
use crate::schedule::End;
use crate::sweep::Cell;
use crate::tokenizer::Tokenizer;

impl Patchscopes<'_> {
    /// The likeliest next token of each target prompt with each layer's state in each layer: its
    /// probability, and its text in each cell, `[source layer, target layer]`, or `[prompt, source
    /// layer, target layer]` for several.
    ///
    /// # Errors
    /// Same as [`Patchscopes::run`].
    pub fn likeliest(&self, tokenizer: &Tokenizer) -> Result<Labelled> {
        let (cells, prompts) = (self.cells()?, self.target.prompts().len());
        let mut axes = self.axes();
        let shape = (prompts, axes[0].labels.len(), axes[1].labels.len());
        let mut values = Array3::from_elem(shape, f32::NAN);
        let mut texts = Array3::from_elem(shape, String::new());
        let mut absent = Array3::from_elem(shape, Some(Absent::NotRun));
        let partial = self.read(&cells, |cell, prompt, row| {
            let best = largest(row.len(), 1, |i| f64::from(row[i]))[0];
            let at = [prompt, cell / shape.2, cell % shape.2];
            (values[at], absent[at]) = (row[best], None);
            texts[at] = tokenizer.token_label(best as u32);
        })?;
        let about = About {
            title: "Patchscopes: the likeliest next token".to_string(),
            unit: "probability".to_string(),
            palette: Palette::Sequential,
            partial,
            ..self.about()
        };
        if prompts == 1 {
            let (values, texts) = (values.remove_axis(Dim(0)), texts.remove_axis(Dim(0)));
            let found = Labelled::new(values, axes, about)?.with_texts(texts)?;
            return found.with_absent(absent.remove_axis(Dim(0)));
        }
        axes.insert(0, Axis::new("prompt", (0..prompts).map(|i| i.to_string())));
        let found = Labelled::new(values, axes, about)?.with_texts(texts)?;
        found.with_absent(absent)
    }

    /// Hands `each` the probabilities of the next token, `[d_vocab]`, by cell and prompt. Returns
    /// whether an observer has ended it before all had been run.
    pub(super) fn read(
        &self,
        cells: &[Cell],
        mut each: impl FnMut(usize, usize, Array1<f32>),
    ) -> Result<bool> {
        let lengths = self.target.prompts().lengths().into_iter();
        let needs: Vec<Needs> = lengths
            .map(|n| Needs {
                positions: vec![n - 1],
                tokens: None,
            })
            .collect();
        let schedule = self.target.depart(Departure {
            cells: Cow::Borrowed(cells),
            frozen: Frozen::default(),
            end: End::Logits(needs.clone()),
            held: 0,
            memory_limit: self.limits.memory,
        })?;
        let schedule = schedule.value;
        let base = self.target.readout(&needs)?;
        // Runs that change nothing are not made: they are the target's own.
        let mut unchanged = Array2::from_elem((cells.len(), base.len()), true);
        for lane in &schedule.lanes {
            unchanged[[lane.cell, lane.prompt]] = false;
        }
        let (total, mut memory) = (schedule.lanes.len(), Array2::default((0, 0)));
        let counted = schedule.run(self.target.model(), |chunk| {
            for (lane, planned) in chunk.planned.iter().enumerate() {
                let (cell, prompt) = (planned.cell, planned.prompt);
                let own = chunk.read(
                    lane,
                    &needs[prompt],
                    base[prompt].view(),
                    &mut memory,
                    |logits| logits.row(0).to_owned(),
                );
                each(cell, prompt, probabilities(own));
            }
            self.limits.report(0, total, "runs")
        });
        for ((cell, prompt), own) in unchanged.indexed_iter() {
            if *own {
                each(cell, prompt, probabilities(base[prompt].row(0).to_owned()));
            }
        }
        Ok(counted.lanes < total)
    }
}

fn probabilities(mut logits: Array1<f32>) -> Array1<f32> {
    let row = logits.as_slice_mut().expect("one row is contiguous");
    log_softmax_row(row);
    row.iter_mut().for_each(|v| *v = v.exp());
    logits
}
