//! `split`: each record goes the first way whose conditions it satisfies. A way without conditions takes the rest; where
//! there is none, the rest goes to the dead letters.

use millstream_runtime::Flow;

use super::StagePart;
use crate::{
    build::Workshop,
    condition::Condition,
    row::Row,
    table::{At, Table},
};

struct Split {
    ways: Vec<(String, Option<Condition>)>,
}

pub(super) fn read(table: &Table<'_>) -> Option<Box<dyn StagePart>> {
    let mut ways: Vec<(String, Option<Condition>)> = Vec::new();
    let mut whole = true;
    let described = table.tables("way");
    if described.is_empty() && !table.is_table("way") {
        let message = "a stage of kind `split` needs ways";
        table.findings.hint(&table.key_span("way"), message, "as in way = [{ name = \"sure\", when = 'probability >= 0.6' }, { name = \"unsure\" }]");
    }
    for way in &described {
        let name = way.need::<String>("name");
        let when = way.read::<Vec<At<String>>>("when").map(|when| Condition::read(&when, table.findings));
        whole &= when.as_ref().is_none_or(Option::is_some);
        way.done();
        let Some(name) = name else {
            whole = false;
            continue;
        };
        if ways.iter().any(|(taken, _)| *taken == name.value) {
            table.findings.add(&name.span, format!("two ways are called `{}`", name.value));
        }
        if ways.last().is_some_and(|(_, when)| when.is_none()) {
            table.findings.add(&way.span, format!("nothing comes to `{}`: the way before it has no `when` and takes everything", name.value));
        }
        crate::file::check_name(&name, table.findings);
        ways.push((name.value, when.flatten()));
    }
    (whole && !ways.is_empty()).then(|| Box::new(Split { ways }) as Box<dyn StagePart>)
}

impl StagePart for Split {
    fn detail(&self) -> String {
        let way = |(name, when): &(String, Option<Condition>)| when.as_ref().map_or_else(|| name.clone(), |when| format!("{name}: {when}"));
        self.ways.iter().map(way).collect::<Vec<_>>().join("; ")
    }

    fn ways(&self) -> Option<Vec<String>> {
        Some(self.ways.iter().map(|(name, _)| name.clone()).collect())
    }

    fn attach(&self, name: &str, flow: Flow<Row>, _: &mut Workshop<'_>) -> Option<Vec<Flow<Row>>> {
        let conditions: Vec<_> = self.ways.iter().map(|(_, when)| when.clone()).collect();
        Some(flow.split_to(name, self.ways.len(), move |row: &Row| {
            // A number that is no way's sends a record to the dead letters.
            conditions.iter().position(|when| when.as_ref().is_none_or(|when| when.holds(row))).unwrap_or(conditions.len())
        }))
    }
}
