//! The graph as Mermaid's text.

use super::{Drawn, Line, Shape, escape};

/// Longer texts are cut off.
const MOST: usize = 60;

pub(super) fn draw(nodes: &[Drawn<'_>], lines: &[Line]) -> String {
    let mut text = String::from("flowchart TD\n");
    for node in nodes {
        let (open, close) = match node.shape {
            Shape::Source => ("([", "])"),
            Shape::Stage => ("[", "]"),
            Shape::Model => ("[[", "]]"),
            Shape::Split => ("{", "}"),
            Shape::Meeting => ("{{", "}}"),
            Shape::Sink => ("[(", ")]"),
        };
        let detail = if node.detail.is_empty() { String::new() } else { format!("<br/>{}", escape(&node.detail, MOST)) };
        text += &format!("    {}{open}\"{}{detail}\"{close}\n", id(node.name), node.title);
    }
    for line in lines {
        let way = line.way.as_ref().map_or_else(String::new, |way| format!("|{way}|"));
        text += &format!("    {} -->{way} {}\n", id(nodes[line.from].name), id(nodes[line.to].name));
    }
    let mut groups: Vec<&str> = nodes.iter().filter_map(|node| node.group).collect();
    groups.sort_unstable();
    groups.dedup();
    for group in groups {
        text += &format!("    subgraph group.{group} [\"{group}\"]\n");
        nodes.iter().filter(|node| node.group == Some(group)).for_each(|node| text += &format!("        {}\n", id(node.name)));
        text += "    end\n";
    }
    text
}

/// Words that Mermaid keeps for itself get a mark behind them.
fn id(name: &str) -> String {
    let kept = ["end", "graph", "flowchart", "subgraph", "style", "class", "click", "default", "linkStyle", "classDef", "direction"];
    if kept.contains(&name) { format!("{name}_") } else { name.to_owned() }
}
