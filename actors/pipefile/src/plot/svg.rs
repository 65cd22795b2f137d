//! The graph as a picture.
//!
//! ```text
//! a node's layer is the longest way to it from a source; layers are rows
//! nodes of a layer stand in the order of the mean place of what they take from
//! lines are curves from the lower side of a box to the upper side of another
//! ```

use super::{Drawn, Line, Shape, escape};

const WIDTH: usize = 220;
const HEIGHT: usize = 52;
const GAP: usize = 36;
const SPACE: usize = 24;
const MARGIN: usize = 16;
/// Longer texts are cut off.
const MOST: usize = 32;

pub(super) fn draw(nodes: &[Drawn<'_>], lines: &[Line]) -> String {
    let places = layout(nodes.len(), lines);
    let (layers, most) = places.iter().fold((0, 0), |(layers, most), (layer, place)| (layers.max(layer + 1), most.max(place + 1)));
    let size = |count: usize, each: usize, between: usize| 2 * MARGIN + count * each + count.saturating_sub(1) * between;
    let (width, height) = (size(most, WIDTH, SPACE), size(layers, HEIGHT, GAP));
    let corner = |node: usize| (MARGIN + places[node].1 * (WIDTH + SPACE), MARGIN + places[node].0 * (HEIGHT + GAP));
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" font-family=\"sans-serif\">\n"
    );
    svg += "<defs><marker id=\"tip\" markerWidth=\"8\" markerHeight=\"8\" refX=\"7\" refY=\"3\" orient=\"auto\"><path d=\"M0,0 L7,3 L0,6 Z\" fill=\"#555\"/></marker></defs>\n";
    for line in lines {
        let ((x, y), (to_x, to_y)) = (corner(line.from), corner(line.to));
        let (x, y, to_x) = (x + WIDTH / 2, y + HEIGHT, to_x + WIDTH / 2);
        let bend = (to_y - y) / 2;
        let path = format!("M{x},{y} C{x},{} {to_x},{} {to_x},{to_y}", y + bend, to_y - bend);
        svg += &format!("<path d=\"{path}\" fill=\"none\" stroke=\"#555\" marker-end=\"url(#tip)\"/>\n");
        if let Some(way) = &line.way {
            let (x, y) = ((x + to_x) / 2 + 6, (y + to_y) / 2);
            svg += &format!("<text x=\"{x}\" y=\"{y}\" font-size=\"11\" fill=\"#555\">{}</text>\n", escape(way, MOST / 2));
        }
    }
    for (index, node) in nodes.iter().enumerate() {
        let (x, y) = corner(index);
        let (fill, round) = match node.shape {
            Shape::Source => ("#e3f2e1", 26),
            Shape::Stage => ("#f2f2f2", 4),
            Shape::Model => ("#dde8f8", 4),
            Shape::Split => ("#fbeecb", 4),
            Shape::Meeting => ("#efe3f5", 12),
            Shape::Sink => ("#f6e0e0", 26),
        };
        svg += &format!("<rect x=\"{x}\" y=\"{y}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" rx=\"{round}\" fill=\"{fill}\" stroke=\"#555\"/>\n");
        if let Some(group) = node.group {
            let (x, y) = (x + WIDTH - 4, y - 4);
            svg += &format!("<text x=\"{x}\" y=\"{y}\" font-size=\"10\" text-anchor=\"end\" fill=\"#555\">group {}</text>\n", escape(group, MOST / 2));
        }
        let middle = x + WIDTH / 2;
        svg += &format!("<text x=\"{middle}\" y=\"{}\" font-size=\"13\" text-anchor=\"middle\">{}</text>\n", y + 22, escape(&node.title, MOST));
        svg +=
            &format!("<text x=\"{middle}\" y=\"{}\" font-size=\"10\" text-anchor=\"middle\" fill=\"#555\">{}</text>\n", y + 40, escape(&node.detail, MOST + 6));
    }
    svg + "</svg>\n"
}

/// Layer, and place in it, of each node. Nodes come behind those that they take from.
fn layout(nodes: usize, lines: &[Line]) -> Vec<(usize, usize)> {
    let mut places: Vec<(usize, usize)> = vec![(0, 0); nodes];
    for node in 0..nodes {
        places[node].0 = lines.iter().filter(|line| line.to == node).map(|line| places[line.from].0 + 1).max().unwrap_or(0);
    }
    for layer in 0..nodes {
        let mut members: Vec<(f64, usize)> = (0..nodes)
            .filter(|node| places[*node].0 == layer)
            .map(|node| {
                let before: Vec<f64> = lines.iter().filter(|line| line.to == node).map(|line| places[line.from].1 as f64).collect();
                (before.iter().sum::<f64>() / before.len().max(1) as f64, node)
            })
            .collect();
        members.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        members.iter().enumerate().for_each(|(place, (_, node))| places[*node].1 = place);
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_never_share_a_place_and_lines_lead_down() {
        let line = |(from, to)| Line { from, to, way: None };
        let lines: Vec<_> = [(0, 1), (0, 2), (1, 3), (2, 3), (0, 3), (2, 4)].into_iter().map(line).collect();
        let places = layout(5, &lines);
        assert_eq!(places, [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1)]);
        assert!(lines.iter().all(|line| places[line.from].0 < places[line.to].0));
    }
}
