//! Kinds of stages: a file each.
//!
//! A new kind is a new file with a `read` function, and a line in [`KINDS`].

mod ab;
mod ask;
mod ensemble;
mod event_time;
mod fields;
mod filter;
mod infer;
mod join;
mod json;
mod key;
mod label;
mod read;
mod remote;
mod shadow;
mod split;
mod tensor;
mod window;

use millstream_runtime::Flow;

use crate::{
    build::Workshop,
    copies::Meeting,
    node_options::NodeOptions,
    row::{DataError, Row},
    table::{At, Table},
};
pub(crate) use infer::Inference;
pub(crate) use key::identity;

/// A stage that was read from a file.
pub(crate) trait StagePart: Send + Sync {
    /// What it does, for people.
    fn detail(&self) -> String;

    /// What it was told as stages of all kinds can be.
    fn options(&self) -> Option<&NodeOptions> {
        None
    }

    /// The names of its ways out, where it has several.
    fn ways(&self) -> Option<Vec<String>> {
        None
    }

    /// What its records are joined with, for a stage that joins.
    fn partners(&self) -> Option<&At<Vec<At<String>>>> {
        None
    }

    /// Whether copies of a record part here, or meet again.
    fn meeting(&self) -> Option<Meeting> {
        None
    }

    /// As [`StagePart::attach`], for a stage that has partners: a flow for each that `with` names.
    fn join(&self, name: &str, flow: Flow<Row>, partners: Vec<Flow<Row>>) -> Option<Vec<Flow<Row>>> {
        let _ = (name, flow, partners);
        None
    }

    /// The flows behind it, one for each way out; `None` if a problem was reported.
    fn attach(&self, name: &str, flow: Flow<Row>, workshop: &mut Workshop<'_>) -> Option<Vec<Flow<Row>>>;
}

/// A kind of stage, by name.
pub(crate) type Kind = (&'static str, fn(&Table<'_>) -> Option<Box<dyn StagePart>>);

/// All of them.
pub(crate) const KINDS: &[Kind] = &[
    ("ab", ab::read),
    ("ask", ask::read),
    ("ensemble", ensemble::read),
    ("event_time", event_time::read),
    ("fields", fields::read),
    ("filter", filter::read),
    ("infer", infer::read),
    ("join", join::read),
    ("json", json::read),
    ("key", key::read),
    ("label", label::read),
    ("read", read::read),
    ("remote", remote::read),
    ("shadow", shadow::read),
    ("split", split::read),
    ("tensor", tensor::read),
    ("window", window::read),
];

/// A stage that changes each record by itself.
fn each(
    name: &str,
    options: &NodeOptions,
    flow: Flow<Row>,
    change: impl Fn(&mut Row) -> Result<(), DataError> + Clone + Send + Sync + 'static,
) -> Option<Vec<Flow<Row>>> {
    let change = move |mut row: Row| change(&mut row).map(|()| row);
    Some(vec![flow.try_map_with(name, options.stage(), change)])
}
