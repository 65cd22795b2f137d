//! `shadow`: copies that never hold up a record, and are thrown away first where memory or time is short.

use millstream_runtime::Flow;

use super::StagePart;
use crate::{build::Workshop, copies::Meeting, row::Row, table::Table};

struct Shadow;

pub(super) fn read(_: &Table<'_>) -> Option<Box<dyn StagePart>> {
    Some(Box::new(Shadow))
}

impl StagePart for Shadow {
    fn detail(&self) -> String {
        String::new()
    }

    fn meeting(&self) -> Option<Meeting> {
        Some(Meeting::Part)
    }

    fn ways(&self) -> Option<Vec<String>> {
        Some(vec!["main".to_owned(), "copy".to_owned()])
    }

    fn attach(&self, name: &str, flow: Flow<Row>, _: &mut Workshop<'_>) -> Option<Vec<Flow<Row>>> {
        let (main, copy) = flow.shadow(name);
        Some(vec![main, copy])
    }
}
