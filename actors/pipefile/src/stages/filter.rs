//! `filter`: keeps the records that satisfy all conditions. The others end in good order.

use millstream_runtime::{Context, Emit, Flow, StageError, Transform};

use super::StagePart;
use crate::{
    build::Workshop,
    condition::Condition,
    node_options::NodeOptions,
    row::Row,
    table::{At, Table},
};

struct Filter {
    when: Condition,
    options: NodeOptions,
}

pub(super) fn read(table: &Table<'_>) -> Option<Box<dyn StagePart>> {
    let options = NodeOptions::for_stage(table);
    let when = table.need::<Vec<At<String>>>("when")?;
    Some(Box::new(Filter { when: Condition::read(&when, table.findings)?, options }))
}

/// The condition at work.
struct Keep(Condition);

impl Transform<Row, Row> for Keep {
    fn apply(&mut self, row: Row, _: &Context<'_>, out: &mut Emit<Row>) -> Result<(), StageError> {
        if self.0.holds(&row) {
            out.push(row);
        }
        Ok(())
    }
}

impl StagePart for Filter {
    fn detail(&self) -> String {
        self.when.to_string()
    }

    fn options(&self) -> Option<&NodeOptions> {
        Some(&self.options)
    }

    fn attach(&self, name: &str, flow: Flow<Row>, _: &mut Workshop<'_>) -> Option<Vec<Flow<Row>>> {
        let when = self.when.clone();
        Some(vec![flow.stage(name, self.options.stage(), move |_| Ok(Keep(when.clone())))])
    }
}
