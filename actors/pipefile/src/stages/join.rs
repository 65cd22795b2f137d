//! `join`: two records become one, that of the flow and that of another branch, if both come in time.

use std::time::Duration;

use millstream_runtime::{Flow, Join, Lone};

use super::StagePart;
use crate::{
    build::Workshop,
    copies::Meeting,
    row::Row,
    table::{At, Table},
};

struct Joining {
    with: At<Vec<At<String>>>,
    by_key: bool,
    within: Duration,
    /// Records whose partner does not come have a way of their own.
    alone: bool,
}

pub(super) fn read(table: &Table<'_>) -> Option<Box<dyn StagePart>> {
    let by_key = table.choice("by", &[("record", false), ("key", true)]).unwrap_or(false);
    let alone = table.read("alone").is_some_and(|alone| alone.value);
    let (with, within) = (table.need("with"), table.need::<Duration>("within"));
    Some(Box::new(Joining { with: with?, by_key, within: within?.value, alone }))
}

/// The record with the fields that its partner has and it has not.
fn united((mut row, partner): (Row, Row)) -> Row {
    row.adopt(partner);
    row
}

impl StagePart for Joining {
    fn detail(&self) -> String {
        format!("by {}, within {:?}", if self.by_key { "key" } else { "record" }, self.within)
    }

    fn ways(&self) -> Option<Vec<String>> {
        self.alone.then(|| vec!["pairs".to_owned(), "alone".to_owned()])
    }

    fn meeting(&self) -> Option<Meeting> {
        (!self.by_key).then_some(Meeting::Join)
    }

    fn partners(&self) -> Option<&At<Vec<At<String>>>> {
        Some(&self.with)
    }

    fn join(&self, name: &str, flow: Flow<Row>, partners: Vec<Flow<Row>>) -> Option<Vec<Flow<Row>>> {
        let partner = Flow::merge(partners);
        let join = if self.by_key { Join::by_key(self.within) } else { Join::by_record(self.within) };
        let rows = format!("{name}.rows");
        if !self.alone {
            return Some(vec![flow.join(name, partner, join).map(&rows, united)]);
        }
        let (pairs, alone) = flow.join_or(name, partner, join);
        let single = |lone| match lone {
            Lone::Left(row) | Lone::Right(row) => row,
        };
        Some(vec![pairs.map(&rows, united), alone.map(&format!("{name}.alone"), single)])
    }

    fn attach(&self, _: &str, _: Flow<Row>, _: &mut Workshop<'_>) -> Option<Vec<Flow<Row>>> {
        None
    }
}
