//! Drawings of a pipeline file's graph.

mod mermaid;
mod svg;

use crate::file::{Part, PipelineFile};

/// A form of drawing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Plot {
    /// Text that Mermaid draws, and Markdown viewers with it.
    Mermaid,
    /// A picture.
    Svg,
}

/// What a drawing shows of a node.
struct Drawn<'f> {
    name: &'f str,
    title: String,
    detail: String,
    /// The nodes that it stands and falls with.
    group: Option<&'f str>,
    shape: Shape,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Source,
    Stage,
    Model,
    Split,
    /// Records that belong together become one.
    Meeting,
    Sink,
}

/// From a node to another, by a way that may have a name.
struct Line {
    from: usize,
    to: usize,
    way: Option<String>,
}

impl PipelineFile {
    /// Draws the graph. Opens nothing.
    pub fn plot(&self, plot: Plot) -> String {
        let drawn = |index: &usize| {
            let node = &self.nodes[*index];
            let shape = match &node.part {
                Part::Source(_) => Shape::Source,
                Part::Sink(_) => Shape::Sink,
                Part::Stage(_) if node.partners > 0 => Shape::Meeting,
                Part::Stage(stage) if stage.ways().is_some() => Shape::Split,
                Part::Stage(_) if node.kind == "infer" => Shape::Model,
                Part::Stage(_) => Shape::Stage,
            };
            Drawn { name: &node.name, title: node.title(), detail: node.detail(), group: self.settings.supervised.group_of(&node.name), shape }
        };
        let place = |index: usize| self.order.iter().position(|other| *other == index).unwrap_or(0);
        let mut lines = Vec::new();
        for (to, index) in self.order.iter().enumerate() {
            for (from, way) in &self.nodes[*index].inputs {
                let way = self.nodes[*from].way_name(*way).split_once('.').map(|(_, way)| way.to_owned());
                lines.push(Line { from: place(*from), to, way });
            }
        }
        let nodes: Vec<Drawn<'_>> = self.order.iter().map(drawn).collect();
        match plot {
            Plot::Mermaid => mermaid::draw(&nodes, &lines),
            Plot::Svg => svg::draw(&nodes, &lines),
        }
    }
}

/// Text in a picture's markup, cut off where it gets long.
fn escape(text: &str, most: usize) -> String {
    let cut = text.chars().count() > most;
    let shown: String = text.chars().take(if cut { most - 1 } else { most }).chain(cut.then_some('…')).collect();
    let special = |c: char| match c {
        '&' => "&amp;".to_owned(),
        '<' => "&lt;".to_owned(),
        '>' => "&gt;".to_owned(),
        '"' => "&quot;".to_owned(),
        c if c.is_control() => " ".to_owned(),
        c => c.to_string(),
    };
    shown.chars().map(special).collect()
}
