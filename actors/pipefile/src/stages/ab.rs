//! `ab`: each record goes one of several ways by chance, always the same for the same key, in proportion to their weights.

use millstream_runtime::Flow;

use super::StagePart;
use crate::{build::Workshop, row::Row, table::Table};

struct Ab {
    ways: Vec<(String, u32)>,
    /// Another one divides the keys anew.
    salt: u64,
}

pub(super) fn read(table: &Table<'_>) -> Option<Box<dyn StagePart>> {
    let salt = table.read("salt").map_or(0, |salt| salt.value);
    let described = table.tables("way");
    if described.len() < 2 {
        let message = "a stage of kind `ab` needs two ways or more";
        table.findings.hint(&table.key_span("way"), message, "as in way = [{ name = \"a\", weight = 9 }, { name = \"b\" }]");
        return None;
    }
    let mut ways: Vec<(String, u32)> = Vec::new();
    for way in &described {
        let name = way.need::<String>("name");
        let weight = way.read_if::<u64>("weight", |weight| *weight <= u64::from(u32::MAX), "at most 4294967295").map_or(1, |weight| weight.value);
        way.done();
        let name = name?;
        if ways.iter().any(|(taken, _)| *taken == name.value) {
            table.findings.add(&name.span, format!("two ways are called `{}`", name.value));
        }
        crate::file::check_name(&name, table.findings);
        ways.push((name.value, u32::try_from(weight).unwrap_or(u32::MAX)));
    }
    if ways.iter().all(|(_, weight)| *weight == 0) {
        table.findings.add(&table.key_span("way"), "the weights of all ways are 0");
    }
    Some(Box::new(Ab { ways, salt }))
}

impl StagePart for Ab {
    fn detail(&self) -> String {
        self.ways.iter().map(|(name, weight)| format!("{name}: {weight}")).collect::<Vec<_>>().join(", ")
    }

    fn ways(&self) -> Option<Vec<String>> {
        Some(self.ways.iter().map(|(name, _)| name.clone()).collect())
    }

    fn attach(&self, name: &str, flow: Flow<Row>, _: &mut Workshop<'_>) -> Option<Vec<Flow<Row>>> {
        let weights: Vec<u32> = self.ways.iter().map(|(_, weight)| *weight).collect();
        Some(flow.ab_to(name, self.salt, &weights))
    }
}
