//! Which records are copies of one another, and where copies meet again.
//!
//! ```text
//! a record's layers: where it was copied, the last copying last
//! an output with several takers, `shadow`, `ask` → a layer more on each way
//! `join` by record, `ensemble`                  → all that meet here have the same layers; behind it there is one less
//! ```
//!
//! Copies that do not meet where they should would wait for one another in vain: that is wrong before anything runs.

use std::collections::HashMap;

use crate::{
    problem::{Findings, Span},
    table::At,
};

/// What a stage does with copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meeting {
    /// It makes them.
    Part,
    /// It makes them, and the record itself, its first way, waits for what is answered about it.
    Ask,
    /// Two become one.
    Join,
    /// A record and its answers become one.
    Answers,
    /// Its first way has new records.
    Anew,
}

/// A node, as far as copies are concerned.
pub(crate) struct Crossing {
    pub(crate) name: At<String>,
    /// Where it says what it takes from.
    pub(crate) from: Span,
    /// Where it says what that meets.
    pub(crate) with: Option<At<Vec<At<String>>>>,
    pub(crate) meeting: Option<Meeting>,
    /// What it does is known: its description is in order.
    pub(crate) known: bool,
    pub(crate) inputs: Vec<(usize, usize)>,
    /// How many of them, the last, are what `with` names.
    pub(crate) partners: usize,
}

/// Where a record was copied: nodes and their ways out, or the node alone where it copies by itself.
type Layers = Vec<(usize, Option<usize>)>;

/// Reports copies that do not meet where they should. `order` has each node behind those that it takes from.
pub(crate) fn check(nodes: &[Crossing], order: &[usize], findings: &Findings) {
    let takers = |port: (usize, usize)| nodes.iter().filter(move |node| node.inputs.contains(&port));
    // Of what comes out of each node; `None` where copies of several layers meet on the way.
    let mut out: HashMap<usize, Option<Layers>> = HashMap::new();
    for index in order {
        let node = &nodes[*index];
        let come = |port: &(usize, usize)| -> Option<Layers> {
            let (before, way) = *port;
            let mut layers = match (nodes[before].meeting, way) {
                (Some(Meeting::Anew), 0) => Vec::new(),
                _ => out.get(&before)?.clone()?,
            };
            if takers(*port).count() > 1 {
                layers.push((before, Some(way)));
            }
            Some(layers)
        };
        let same = |ports: &[(usize, usize)]| {
            let mut layers = ports.iter().map(come);
            let first = layers.next()??;
            layers.all(|other| other.as_ref() == Some(&first)).then_some(first)
        };
        let (own, partners) = node.inputs.split_at(node.inputs.len() - node.partners);
        let mut layers = if own.is_empty() { Some(Vec::new()) } else { same(own) };
        match node.meeting {
            None | Some(Meeting::Anew) => {}
            Some(Meeting::Part | Meeting::Ask) => layers.iter_mut().for_each(|layers| layers.push((*index, None))),
            Some(meeting @ (Meeting::Join | Meeting::Answers)) => {
                let asked = matches!(own, [(ask, 0)] if nodes[*ask].meeting == Some(Meeting::Ask));
                if meeting == Meeting::Answers && !asked {
                    findings.hint(
                        &node.from,
                        format!("`{}` needs a record that is asked about", node.name.value),
                        "the way `record` of an `ask`, and that alone",
                    );
                } else {
                    let named = node.with.iter().flat_map(|with| &with.value).zip(partners);
                    let meets = |port: &(usize, usize)| layers.as_ref().is_some_and(|own| !own.is_empty() && come(port).as_ref() == Some(own));
                    named.filter(|(_, port)| !meets(port)).for_each(|(name, _)| apart(meeting, node, name, findings));
                }
                layers = layers.map(|mut layers| {
                    layers.pop();
                    layers
                });
            }
        }
        if node.meeting == Some(Meeting::Ask) {
            let waiting: Vec<_> = takers((*index, 0)).filter(|taker| taker.known).map(|taker| taker.meeting).collect();
            if waiting != [Some(Meeting::Answers)] && !waiting.is_empty() {
                findings.hint(&node.name.span, format!("`{}.record` is what one ensemble waits with", node.name.value), "nothing else takes from it");
            }
        }
        out.insert(*index, layers);
    }
}

/// Says that a partner of a node has nothing that could meet there.
fn apart(meeting: Meeting, node: &Crossing, partner: &At<String>, findings: &Findings) {
    let (name, partner, place) = (&node.name.value, &partner.value, &partner.span);
    if meeting == Meeting::Answers {
        let hint = "it has to come from a way of the same `ask`, and not to be copied on it";
        findings.hint(place, format!("`with`: `{partner}` is no answer to what is asked"), hint);
    } else {
        let hint = "both have to come from one output, or to meet by = \"key\"";
        findings.hint(place, format!("`with`: what comes from `{partner}` are no copies of what `{name}` takes from"), hint);
    }
}
