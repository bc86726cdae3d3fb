//! How well two methods agree, as a picture.

use super::agreement::Agreement;
use super::dot::color;
use super::edge::Receiver;
use crate::component::{Head, Qkv};
use crate::report::{Cloud, Dot, Scatter, number};

/// How many of the worst edges are named.
const NAMED: usize = 6;

impl Agreement {
    /// The two scores of each edge as a point: the reference along, the judged one up, by the
    /// names that they shall have. On the dashed line both are equal. Colours say what reads the
    /// edge, as in [drawings](super::EdgeSet::drawing); the worst edges are named.
    ///
    /// ```
    /// use patchlens::circuits::{EdgeScores, Graph, Orientation};
    /// use patchlens::Config;
    /// let graph = Graph::new(&Config { n_layers: 1, n_heads: 1, ..Config::gpt2() });
    /// let scores = |values: [f32; 8]| {
    ///     EdgeScores::new(graph, values.to_vec(), Orientation::UsefulIsNegative)
    /// };
    /// let exact = scores([0.0, -4.0, 1.0, 0.0, 0.0, -2.0, 0.0, 3.0])?;
    /// let found = scores([0.0, -3.0, 1.0, 0.0, 0.0, -3.0, 2.0, 3.0])?.agreement(&exact)?;
    /// let svg = found.scatter("EAP", "exact effect (logit difference)").to_svg()?;
    /// assert!(svg.contains("<title>a0.h0-&#62;logits: 2.000 for 0</title>"));
    /// # Ok::<(), patchlens::Error>(())
    /// ```
    pub fn scatter(&self, found: &str, reference: &str) -> Scatter {
        let head = Head::new(0, 0);
        let kinds = [
            (Receiver::Head(head, Qkv::Q), "into queries"),
            (Receiver::Head(head, Qkv::K), "into keys"),
            (Receiver::Head(head, Qkv::V), "into values"),
            (Receiver::Logits, "into MLPs, the logits"),
        ];
        let cloud = |(to, name): (Receiver, &str)| Cloud {
            name: name.to_string(),
            color: color(to),
            dots: self.dots(to),
        };
        let clouds = kinds.map(cloud).into_iter();
        Scatter {
            title: format!("{found} against {reference}"),
            caption: format!("{}.", self.summary()),
            names: [reference, found].map(str::to_string),
            clouds: clouds.filter(|cloud| !cloud.dots.is_empty()).collect(),
            named: NAMED,
            notes: vec![format!("patchlens {}", env!("CARGO_PKG_VERSION"))],
        }
    }

    /// The points of the edges that are drawn like one into this receiver.
    fn dots(&self, like: Receiver) -> Vec<Dot> {
        let own = self.edges.iter();
        let own = own.filter(|pair| color(pair.edge.to) == color(like));
        let dot = |pair: &super::EdgePair| Dot {
            x: pair.reference,
            y: pair.found,
            name: pair.edge.to_string(),
            title: format!(
                "{}: {} for {}",
                pair.edge,
                number(pair.found),
                number(pair.reference)
            ),
        };
        own.map(dot).collect()
    }
}
