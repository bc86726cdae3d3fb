//! The layered drawing of a graph: boxes in rows and columns, and lines that lead down from box to
//! box without crossing another one.

use askama::Template;
use serde::Serialize;

use super::png::covered;
use super::route::{Boxed, route};
use super::{Anchor, GREY, PAD, SMALL, Scene, Shape, Spelling, Stroke, TEXT, WHITE};
use super::{line_height, text_px, widest_px};
use crate::error::Result;
use crate::report::color::Rgb;
use crate::report::label::sanitized;
use crate::report::save::encoder;

/// A graph with a place for each of its nodes.
#[derive(Clone, Debug)]
pub(crate) struct Layered {
    pub title: String,
    pub caption: String,
    /// In order of their rows.
    pub groups: Vec<Group>,
    pub nodes: Vec<Node>,
    /// In the order in which they are drawn: the last one lies on top.
    pub links: Vec<Link>,
    /// Samples of lines and what they mean.
    pub legend: Vec<(Stroke, String)>,
    /// Facts below the drawing.
    pub notes: Vec<String>,
}

/// Neighbouring rows with a name.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    pub name: String,
    /// The first and the last.
    pub rows: [usize; 2],
}

/// A box.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub name: String,
    pub row: usize,
    /// None: it is as wide as all columns.
    pub column: Option<usize>,
    /// What an SVG's reader shows under the pointer.
    pub title: String,
}

/// A line from the bottom of a node to the top of one in a later row.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    /// Places among the nodes.
    pub from: usize,
    pub to: usize,
    /// Where it ends: how far along the top, from 0 to 1; None: where it is nearest.
    pub end: Option<f64>,
    /// By which a page filters, smallest first; None for all or for none.
    pub size: Option<f32>,
    pub stroke: Stroke,
    /// What an SVG's reader shows under the pointer.
    pub title: String,
}

/// The height of a box.
const BOX: i32 = 22;
/// The room between columns, through which lines pass.
const GUTTER: i32 = 30;
/// The room for all lines between rows; it is divided, within these limits.
const ROOM: i32 = 480;
const LEAST_ROOM: i32 = 26;
const MOST_ROOM: i32 = 60;
/// Behind every other group.
const SHADE: Rgb = [0xf4, 0xf4, 0xf4];
/// The length of a line in the legend.
const SAMPLE: i32 = 28;

impl Layered {
    /// The drawing as SVG.
    ///
    /// # Errors
    /// [`Error::Render`](crate::Error::Render) from the encoder.
    pub(crate) fn to_svg(&self) -> Result<String> {
        self.scene(str::to_string).to_svg()
    }

    /// The drawing as PNG, two pixels per unit of the SVG.
    ///
    /// # Errors
    /// [`Error::Render`](crate::Error::Render) from the encoder.
    pub(crate) fn to_png(&self) -> Result<Vec<u8>> {
        self.scene(covered).to_png()
    }

    /// The drawing as a self-contained page in which lines are filtered and paths followed.
    ///
    /// # Errors
    /// [`Error::Render`](crate::Error::Render) from the encoder.
    pub(crate) fn to_html(&self) -> Result<String> {
        let untitled = Layered {
            title: String::new(),
            ..self.clone()
        };
        let page = Page {
            title: sanitized(&self.title),
            svg: untitled.to_svg()?,
            data: Data {
                nodes: self.nodes.iter().map(|node| &*node.name).collect(),
                links: self.links.iter().map(LinkData::new).collect(),
            },
        };
        page.render().map_err(|e| encoder("html", e))
    }

    fn scene(&self, spell: Spelling) -> Scene {
        let mut grid = Grid::new(self);
        let legend = grid.right() + GUTTER + PAD;
        let words: Vec<String> = self.legend.iter().map(|(_, words)| words.clone()).collect();
        let mut scene = Scene {
            width: legend + SAMPLE + 8 + widest_px(&words) + PAD,
            ..Scene::default()
        };
        grid.top = scene.headline(&self.title, &self.caption, spell);
        self.draw_groups(&mut scene, &grid);
        let boxes: Vec<Boxed> = self.nodes.iter().map(|node| grid.place(node)).collect();
        for (lane, link) in self.links.iter().enumerate() {
            let points = route(&boxes, (link.from, link.to), link.end, lane);
            scene.shapes.push(Shape::Line {
                points,
                stroke: link.stroke,
                title: Some(link.title.clone()),
            });
        }
        for (node, place) in self.nodes.iter().zip(&boxes) {
            let (from, size) = ((place.left, place.top), (place.width(), BOX));
            scene.titled_rect(from, size, WHITE, Some(node.title.clone()));
            scene.outline(from, size);
            let middle = ((place.left + place.right) / 2, place.top + BOX / 2);
            scene.label(middle, &node.name, Anchor::Middle);
        }
        let mut level = grid.top + line_height(TEXT) / 2;
        for (stroke, words) in &self.legend {
            scene.shapes.push(Shape::Line {
                points: vec![(legend, level), (legend + SAMPLE, level)],
                stroke: *stroke,
                title: None,
            });
            scene.label((legend + SAMPLE + 8, level), words, Anchor::Start);
            level += line_height(TEXT);
        }
        scene.foot(grid.bottom().max(level), &self.notes, spell);
        scene
    }

    /// Each group's name, and a shade behind every other one.
    fn draw_groups(&self, scene: &mut Scene, grid: &Grid) {
        for (i, group) in self.groups.iter().enumerate() {
            let [first, last] = group.rows.map(|row| grid.row(row));
            let (top, bottom) = (first - grid.room / 2, last + BOX + grid.room / 2);
            if i % 2 == 0 {
                let size = (grid.right() + GUTTER - PAD, bottom - top);
                scene.rect((PAD, top), size, SHADE);
            }
            let at = (PAD + 6, (top + bottom) / 2);
            scene.push_text(at, &group.name, (SMALL, GREY), Anchor::Start, false);
        }
    }
}

#[derive(Template)]
#[template(path = "circuit.html")]
struct Page<'a> {
    title: String,
    svg: String,
    data: Data<'a>,
}

/// What the page's script knows of the drawing, in its order.
#[derive(Serialize)]
struct Data<'a> {
    nodes: Vec<&'a str>,
    links: Vec<LinkData<'a>>,
}

#[derive(Serialize)]
struct LinkData<'a> {
    from: usize,
    to: usize,
    size: Option<f32>,
    title: &'a str,
}

impl<'a> LinkData<'a> {
    fn new(link: &'a Link) -> Self {
        LinkData {
            from: link.from,
            to: link.to,
            size: link.size,
            title: &link.title,
        }
    }
}

/// Where rows and columns lie.
struct Grid {
    left: i32,
    top: i32,
    columns: i32,
    rows: i32,
    /// The width of a box.
    width: i32,
    /// Between two rows.
    room: i32,
}

impl Grid {
    fn new(of: &Layered) -> Self {
        let in_columns = of.nodes.iter().filter_map(|node| node.column);
        let columns = in_columns.max().map_or(1, |last| last as i32 + 1);
        let rows = of.nodes.iter().map(|node| node.row as i32 + 1).max();
        let rows = rows.unwrap_or(0);
        let names = of.nodes.iter().map(|node| text_px(&node.name, TEXT));
        let groups = of.groups.iter().map(|group| text_px(&group.name, SMALL));
        Grid {
            left: PAD + 6 + groups.max().unwrap_or(0) + GUTTER,
            top: 0,
            columns,
            rows,
            width: names.max().unwrap_or(0) + 12,
            room: (ROOM / rows.max(1)).clamp(LEAST_ROOM, MOST_ROOM),
        }
    }

    fn right(&self) -> i32 {
        self.left + self.columns * (self.width + GUTTER) - GUTTER
    }

    fn bottom(&self) -> i32 {
        self.row(self.rows as usize) - self.room
    }

    /// The upper end of a row.
    fn row(&self, row: usize) -> i32 {
        self.top + row as i32 * (BOX + self.room)
    }

    fn place(&self, node: &Node) -> Boxed {
        let top = self.row(node.row);
        let left = |column: usize| self.left + column as i32 * (self.width + GUTTER);
        let (left, right) = node.column.map_or((self.left, self.right()), |column| {
            (left(column), left(column) + self.width)
        });
        Boxed {
            left,
            right,
            top,
            bottom: top + BOX,
            gutter: GUTTER,
        }
    }
}
