//! A circuit as a layered drawing.

use std::path::Path;

use super::dot::color;
use super::edge::{Edge, Receiver, Source};
use super::scores::{EdgeScores, Orientation};
use super::set::EdgeSet;
use crate::component::{Head, Qkv};
use crate::error::{Error, Result};
use crate::report::{Format, Group, Layered, Link, Node, Stroke, count, number, save_as};

/// The widest line, in pixels.
const WIDEST: f32 = 5.0;
/// The thinnest line.
const THINNEST: f32 = 0.8;
/// A line without score.
const PLAIN: f32 = 1.5;
/// How strong the colour of the thinnest line is.
const PALEST: f32 = 0.35;
/// Most edges of a drawing: in more, nothing could be seen.
const MOST: usize = 4000;

/// A circuit as a picture, see [`EdgeSet::drawing`].
#[derive(Clone, Debug)]
pub struct CircuitDrawing(Layered);

impl EdgeSet {
    /// The circuit as a picture: the input on top, below it the layers that have part in the circuit,
    /// heads by column and MLPs in a column of their own, the logits at the bottom.
    ///
    /// A line is an edge. Its colour, and where it ends, say what reads it: at the left of a head its
    /// queries (blue), in the middle its keys (green), at the right its values (orange); MLPs and the
    /// logits are read into in grey. With scores, the larger a score's size the wider and
    /// the stronger its line, relative to the largest in the circuit, and lines of edges that work
    /// against the behaviour are dashed. Small scores are drawn first, so that large ones lie on top.
    /// No line crosses a box. In an SVG, edges say their names and scores under the pointer, nodes how
    /// many edges they have and what their scores sum to.
    ///
    /// ```
    /// use patchlens::circuits::{EdgeScores, Graph, Orientation, Ranking};
    /// use patchlens::Config;
    /// let graph = Graph::new(&Config::gpt2());
    /// let mut changes = vec![0.0; graph.n_edges()];
    /// changes[graph.index("a9.h9->logits".parse()?)?] = -5.6;
    /// changes[graph.index("input->a9.h9<q>".parse()?)?] = -0.5;
    /// let scores = EdgeScores::new(graph, changes, Orientation::UsefulIsNegative)?;
    /// let circuit = scores.top_n(2, Ranking::Signed)?;
    /// let svg = circuit.drawing(Some(&scores), "Two edges")?.to_svg()?;
    /// assert!(svg.contains("<title>a9.h9-&#62;logits: -5.600</title>"));
    /// # Ok::<(), patchlens::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`] for scores of another graph, and for more than 4,000 edges.
    pub fn drawing(&self, scores: Option<&EdgeScores>, title: &str) -> Result<CircuitDrawing> {
        if self.len() > MOST {
            let expected = format!("at most {MOST}; `EdgeScores::top_n` selects the best");
            return Err(Error::invalid("edges of a drawing", self.len(), expected));
        }
        let lines = self.lines(scores)?;
        let places = Places::new(self);
        let mut nodes: Vec<Node> = places.sources.iter().map(|&s| places.node(s)).collect();
        nodes.push(Node {
            name: Receiver::Logits.to_string(),
            row: places.rows.len(),
            column: None,
            title: String::new(),
        });
        for (node, source) in nodes
            .iter_mut()
            .zip(places.sources.iter().map(Some).chain([None]))
        {
            node.title = format!("{}: {}", node.name, describe(source.copied(), &lines));
        }
        let mut drawn: Vec<&Line> = lines.iter().collect();
        drawn.sort_by(|a, b| a.size().total_cmp(&b.size()));
        Ok(CircuitDrawing(Layered {
            title: title.to_string(),
            caption: self.caption(places.sources.len() - 1, scores),
            groups: places.groups(),
            nodes,
            links: drawn.iter().map(|line| places.link(line)).collect(),
            legend: legend(&lines),
            notes: vec![format!("patchlens {}", env!("CARGO_PKG_VERSION"))],
        }))
    }

    fn lines(&self, scores: Option<&EdgeScores>) -> Result<Vec<Line>> {
        let edges = self.edges();
        let Some(scores) = scores else {
            return Ok(edges.map(|edge| Line { edge, score: None }).collect());
        };
        let shares = self.shares(scores)?.into_iter();
        let line = |(edge, share)| {
            let value = scores.of(edge)?;
            let score = Some(Score { value, share });
            Ok(Line { edge, score })
        };
        edges.zip(shares).map(line).collect()
    }

    /// How much of the model is in it, and what the sign of a score means.
    fn caption(&self, nodes: usize, scores: Option<&EdgeScores>) -> String {
        let [edges, all] = [self.len(), self.graph().n_edges()].map(|n| count(n as u64));
        let sign = scores.map_or("", |scores| match scores.orientation() {
            Orientation::UsefulIsPositive => {
                " The more positive a score, the more the behaviour needs the edge."
            }
            Orientation::UsefulIsNegative => {
                " The more negative a score, the more the behaviour needs the edge."
            }
        });
        format!("{edges} of {all} edges; heads and MLPs: {nodes}.{sign}")
    }
}

impl CircuitDrawing {
    /// The drawing as SVG.
    ///
    /// # Errors
    /// [`Error::Render`] from the encoder.
    pub fn to_svg(&self) -> Result<String> {
        self.0.to_svg()
    }

    /// The drawing as PNG, two pixels per unit of the SVG; characters of the title that the font lacks
    /// are written as escapes.
    ///
    /// # Errors
    /// [`Error::Render`] from the encoder.
    pub fn to_png(&self) -> Result<Vec<u8>> {
        self.0.to_png()
    }

    /// One self-contained page of the drawing: a slider leaves out small scores; an edge that is
    /// pointed at is named with its score; a node that is chosen, by pointer or keyboard, shows the
    /// paths through it that are left, whose edges are listed below. The page loads nothing.
    ///
    /// # Errors
    /// [`Error::Render`] from the encoder.
    pub fn to_html(&self) -> Result<String> {
        self.0.to_html()
    }

    /// Writes the drawing as `.svg`, `.png` or `.html`. An existing file is replaced in one step.
    ///
    /// # Errors
    /// [`Error::Invalid`] for another extension; [`Error::Io`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        save_as(self, FORMATS, path.as_ref())
    }
}

const FORMATS: &[Format<CircuitDrawing>] = &[
    ("svg", |of| of.to_svg().map(String::into_bytes)),
    ("png", CircuitDrawing::to_png),
    ("html", |of| of.to_html().map(String::into_bytes)),
];

/// An edge, and its score where there are scores.
struct Line {
    edge: Edge,
    score: Option<Score>,
}

#[derive(Clone, Copy)]
struct Score {
    value: f32,
    /// Of the largest score's size; negative against the behaviour.
    share: f32,
}

impl Line {
    /// From 0 to 1.
    fn size(&self) -> f32 {
        self.score.map_or(0.0, |score| score.share.abs())
    }

    fn title(&self) -> String {
        let score = self.score.map(|score| format!(": {}", number(score.value)));
        self.edge.to_string() + &score.unwrap_or_default()
    }
}

/// How an edge into this receiver is drawn.
fn stroke(to: Receiver, share: Option<f32>) -> Stroke {
    let strength = share.map_or(1.0, |share| PALEST + (1.0 - PALEST) * share.abs().sqrt());
    let pale = |ink: u8| 255.0 - (255.0 - f32::from(ink)) * strength;
    Stroke {
        color: color(to).map(|ink| pale(ink).round() as u8),
        width: share.map_or(PLAIN, |share| THINNEST.max(WIDEST * share.abs())),
        dashed: share.is_some_and(|share| share < 0.0),
    }
}

/// How many edges a node, or the logits, have, and what their scores sum to.
fn describe(source: Option<Source>, lines: &[Line]) -> String {
    let part = |name: &str, is_one: &dyn Fn(Edge) -> bool| {
        let own = lines.iter().filter(|line| is_one(line.edge));
        let own: Vec<&Line> = own.collect();
        let scores: Option<Vec<f64>> = own
            .iter()
            .map(|line| line.score.map(|score| f64::from(score.value)))
            .collect();
        let sum = scores.filter(|scores| !scores.is_empty());
        let sum = sum.map(|scores| scores.iter().sum::<f64>() as f32);
        let sum = sum.map(|sum| format!(", scores sum to {}", number(sum)));
        format!("edges {name}: {}{}", own.len(), sum.unwrap_or_default())
    };
    let inward = part("in", &|edge| edge.to.source() == source);
    let outward = || part("out", &|edge| Some(edge.from) == source);
    match source {
        Some(Source::Input) => outward(),
        Some(_) => format!("{inward}; {}", outward()),
        None => inward,
    }
}

fn legend(lines: &[Line]) -> Vec<(Stroke, String)> {
    let head = Head::new(0, 0);
    let sample = |(to, words): (Receiver, &str)| (stroke(to, None), words.to_string());
    let kinds = [
        (Receiver::Head(head, Qkv::Q), "into a head's queries (left)"),
        (Receiver::Head(head, Qkv::K), "into its keys (middle)"),
        (Receiver::Head(head, Qkv::V), "into its values (right)"),
        (Receiver::Logits, "into an MLP or the logits"),
    ];
    let mut legend: Vec<(Stroke, String)> = kinds.map(sample).to_vec();
    let sizes = lines.iter().filter_map(|line| line.score);
    let largest = sizes.map(|score| score.value.abs()).reduce(f32::max);
    if let Some(largest) = largest.filter(|&largest| largest > 0.0) {
        for share in [1.0, 0.5, 0.1] {
            let words = format!("score of size {}", number(largest * share));
            legend.push((stroke(Receiver::Logits, Some(share)), words));
        }
        let against = stroke(Receiver::Logits, Some(-0.3));
        legend.push((against, "works against the behaviour".to_string()));
    }
    legend
}

/// Which row and column a node has: those of the circuit alone.
struct Places {
    /// The input, heads and MLPs, in graph order.
    sources: Vec<Source>,
    /// The times at which they write, in order.
    rows: Vec<usize>,
    /// The numbers of heads, in order.
    heads: Vec<usize>,
}

impl Places {
    fn new(circuit: &EdgeSet) -> Self {
        let mut sources = circuit.ends();
        if sources.first() != Some(&Source::Input) {
            sources.insert(0, Source::Input);
        }
        let mut rows: Vec<usize> = sources.iter().map(|source| source.time()).collect();
        rows.dedup();
        let heads = sources
            .iter()
            .filter_map(|source| source.component().head());
        let mut heads: Vec<usize> = heads.map(|head| head.head).collect();
        heads.sort_unstable();
        heads.dedup();
        Places {
            sources,
            rows,
            heads,
        }
    }

    fn node(&self, source: Source) -> Node {
        let row = self.rows.binary_search(&source.time());
        let column = match source {
            Source::Input => None,
            Source::Head(Head { head, .. }) => self.heads.binary_search(&head).ok(),
            Source::Mlp(_) => Some(self.heads.len()),
        };
        Node {
            name: source.to_string(),
            row: row.expect("every source has a row"),
            column,
            title: String::new(),
        }
    }

    fn link(&self, line: &Line) -> Link {
        let Edge { from, to } = line.edge;
        let index = |source| self.sources.iter().position(|&one| one == source);
        let end = match to {
            Receiver::Head(_, read) => Some((read as usize + 1) as f64 / 4.0),
            Receiver::Mlp(_) | Receiver::Logits => None,
        };
        Link {
            from: index(from).expect("it is an end of an edge"),
            to: to.source().and_then(index).unwrap_or(self.sources.len()),
            end,
            size: line.score.map(|score| score.value.abs()),
            stroke: stroke(to, line.score.map(|score| score.share)),
            title: line.title(),
        }
    }

    fn groups(&self) -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::new();
        let mut last = None;
        for &source in &self.sources {
            let Some(layer) = source.component().layer() else {
                continue;
            };
            let row = self.node(source).row;
            if last != Some(layer) {
                let name = format!("layer {layer}");
                let rows = [row, row];
                groups.push(Group { name, rows });
            }
            last = Some(layer);
            groups.last_mut().expect("one was pushed").rows[1] = row;
        }
        groups
    }
}
