//! `ask`: the record waits while others are asked about it; an `ensemble` makes one of it and of their answers.

use millstream_runtime::Flow;

use super::StagePart;
use crate::{
    build::Workshop,
    copies::Meeting,
    file::check_name,
    row::Row,
    table::{At, Table},
};

/// The way of the record itself.
const RECORD: &str = "record";

struct Ask {
    /// Those who are asked.
    asked: Vec<String>,
}

pub(super) fn read(table: &Table<'_>) -> Option<Box<dyn StagePart>> {
    let ways = table.need::<Vec<At<String>>>("way")?;
    let mut asked: Vec<String> = Vec::new();
    for name in &ways.value {
        check_name(name, table.findings);
        if asked.contains(&name.value) || name.value == RECORD {
            let taken = if name.value == RECORD { "is the way of the record itself" } else { "is asked twice" };
            table.findings.add(&name.span, format!("`{}` {taken}", name.value));
        }
        asked.push(name.value.clone());
    }
    if asked.is_empty() {
        table.findings.hint(&ways.span, "`way` names nobody who is asked", "as in way = [\"small\", \"large\"]");
    }
    Some(Box::new(Ask { asked }))
}

impl StagePart for Ask {
    fn detail(&self) -> String {
        self.asked.join(", ")
    }

    fn ways(&self) -> Option<Vec<String>> {
        Some(std::iter::once(RECORD.to_owned()).chain(self.asked.iter().cloned()).collect())
    }

    fn meeting(&self) -> Option<Meeting> {
        Some(Meeting::Ask)
    }

    fn attach(&self, name: &str, flow: Flow<Row>, _: &mut Workshop<'_>) -> Option<Vec<Flow<Row>>> {
        let (record, asked) = flow.ask(name, self.asked.len());
        Some(std::iter::once(record).chain(asked).collect())
    }
}
