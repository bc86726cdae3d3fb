//! Composition of heads: how much of what one head writes another one reads (Elhage et al. 2021, "A
//! Mathematical Framework for Transformer Circuits").

use ndarray::{Array2, Array4, ArrayView2};

use crate::component::{Head, Qkv};
use crate::error::Result;
use crate::ops::matmul;
use crate::report::{About, Absent, Axis, Labelled, Palette};
use crate::statistics::shaped;
use crate::weights::circuits::Circuits;
use crate::weights::factored::gram;

impl<'m> Circuits<'m> {
    /// Composition scores `‖L · R‖ / (‖L‖ ‖R‖)` (Frobenius norms) of all pairs of heads,
    /// `[layer, head, later layer, later head]`: L is the OV circuit of the first head, R what
    /// the later one reads with, by the input through which it does: its QK circuit for queries,
    /// that transposed for keys, its OV circuit for values. No value ([`Absent::NoPath`]) where the
    /// second layer does not come after the first; not a number for a circuit that is zero.
    ///
    /// # Errors
    /// Same as [`Labelled::new`].
    pub fn composition_scores(&self, kind: Qkv) -> Result<Labelled> {
        let config = self.model.config();
        let (layers, heads) = (config.n_layers, config.n_heads);
        let writers: Vec<Reduced> = Head::all(config).map(|h| self.reduced(h, None)).collect();
        let readers: Vec<Reduced> = Head::all(config)
            .map(|h| self.reduced(h, Some(kind)))
            .collect();
        let shape = (layers, heads, layers, heads);
        let mut scores = Array4::from_elem(shape, f32::NAN);
        let no_path = |(from, _, to, _)| (to <= from).then_some(Absent::NoPath);
        for (i, from) in Head::all(config).enumerate() {
            for (j, to) in Head::all(config)
                .enumerate()
                .filter(|(_, h)| h.layer > from.layer)
            {
                let middle = self.model.output_map(from);
                let middle = matmul(middle, self.reader(to, kind).0);
                scores[[from.layer, from.head, to.layer, to.head]] =
                    composition(&writers[i], middle, &readers[j]);
            }
        }
        let axes = vec![
            Axis::layers(layers),
            Axis::heads(heads),
            Axis::layers(layers).named("later layer"),
            Axis::heads(heads).named("later head"),
        ];
        let about = About {
            title: format!("Composition through {}", kind.describe()),
            caption: format!(
                "‖OV · {}‖ / (‖OV‖ · ‖{0}‖) for every pair of heads; no path where the second is not in a later layer.",
                match kind {
                    Qkv::Q => "QK",
                    Qkv::K => "QK^T",
                    Qkv::V => "OV",
                }
            ),
            unit: "composition score".to_string(),
            palette: Palette::Sequential,
            ..About::default()
        };
        Labelled::new(scores, axes, about)?.with_absent(Array4::from_shape_fn(shape, no_path))
    }

    /// The scores of all three kinds in one table, `[composition, from, to]`, heads `0.0`, `0.1`, ...
    ///
    /// # Errors
    /// Same as [`Circuits::composition_scores`].
    pub fn composition_table(&self) -> Result<Labelled> {
        let heads: Vec<String> = Head::all(self.model.config())
            .map(|h| h.to_string())
            .collect();
        let n = heads.len();
        let (mut values, mut absent) = (Vec::new(), Vec::new());
        for kind in Qkv::ALL {
            let scores = self.composition_scores(kind)?;
            values.extend(scores.values().iter().copied());
            absent.extend(scores.absent().iter().copied());
        }
        let shape = [Qkv::ALL.len(), n, n];
        let axes = vec![
            Axis::new("composition", Qkv::ALL.map(|kind| kind.to_string())),
            Axis::new("from", heads.iter().cloned()),
            Axis::new("to", heads.iter().cloned()),
        ];
        let about = About {
            title: "Composition of heads".to_string(),
            caption: "‖L · R‖ / (‖L‖ · ‖R‖): L is the OV circuit of the head that writes, R what \
                      the later one reads with (for Q: QK, for K: its transpose, for V: OV); no path \
                      where that is not in a later layer."
                .to_string(),
            unit: "composition score".to_string(),
            palette: Palette::Sequential,
            ..About::default()
        };
        Labelled::new(shaped(&shape, values), axes, about)?.with_absent(shaped(&shape, absent))
    }

    /// The factors of the matrix with which a head reads what another one wrote.
    fn reader(&self, head: Head, kind: Qkv) -> (ArrayView2<'m, f32>, ArrayView2<'m, f32>) {
        let w = |input| self.model.input_map(head, input);
        match kind {
            Qkv::Q => (w(Qkv::Q), w(Qkv::K).reversed_axes()),
            Qkv::K => (w(Qkv::K), w(Qkv::Q).reversed_axes()),
            Qkv::V => (w(Qkv::V), self.model.output_map(head)),
        }
    }

    /// What composition needs of a head's OV circuit, or of the circuit that it reads with.
    fn reduced(&self, head: Head, kind: Option<Qkv>) -> Reduced {
        let (a, b) = self.reader(head, kind.unwrap_or(Qkv::V));
        let (rows, columns) = (gram(a.t()), gram(b));
        let norm = (&rows * &columns).sum().sqrt();
        Reduced {
            gram: if kind.is_some() { columns } else { rows },
            norm,
        }
    }
}

/// The outer factor's Gram matrix `[d_head, d_head]` and the norm of the whole circuit.
struct Reduced {
    gram: Array2<f64>,
    norm: f64,
}

/// `‖A·M·B‖` from the Gram matrices of A and B: `tr(Mᵀ·AᵀA·M·BBᵀ)`.
fn composition(writer: &Reduced, middle: Array2<f32>, reader: &Reduced) -> f32 {
    let middle = middle.mapv(f64::from);
    let squared = (writer.gram.dot(&middle) * middle.dot(&reader.gram)).sum();
    (squared.max(0.0).sqrt() / (writer.norm * reader.norm)) as f32
}
