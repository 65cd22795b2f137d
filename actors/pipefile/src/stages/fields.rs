//! `fields`: renames fields, then keeps some or drops some.

use millstream_runtime::Flow;

use super::{StagePart, each};
use crate::row::Row;
use crate::{
    build::Workshop,
    node_options::NodeOptions,
    row::{Path, needed},
    table::{Pairs, Table},
};

struct Fields {
    /// What is taken, and its new name.
    rename: Vec<(Path, String)>,
    keep: Option<Vec<String>>,
    drop: Vec<String>,
    options: NodeOptions,
}

pub(super) fn read(table: &Table<'_>) -> Option<Box<dyn StagePart>> {
    let options = NodeOptions::for_stage(table);
    let rename = table.read::<Pairs<String>>("rename").map(|pairs| pairs.value.0).unwrap_or_default();
    let keep = table.read::<Vec<String>>("keep").map(|keep| keep.value);
    let drop = table.read::<Vec<String>>("drop");
    if let Some(drop) = drop.as_ref().filter(|_| keep.is_some()) {
        table.findings.add(&drop.span, "`drop` and `keep` exclude each other");
    }
    if !["rename", "keep", "drop"].into_iter().any(|key| table.has(key)) {
        table.findings.hint(&table.span, "a stage of kind `fields` that does nothing", "give `rename`, `keep` or `drop`");
    }
    let rename = rename.into_iter().map(|(old, new)| (Path::new(old.value), new)).collect();
    Some(Box::new(Fields { rename, keep, drop: drop.map(|drop| drop.value).unwrap_or_default(), options }))
}

impl StagePart for Fields {
    fn detail(&self) -> String {
        let mut parts: Vec<_> = self.rename.iter().map(|(old, new)| format!("{old} as {new}")).collect();
        parts.extend(self.keep.iter().map(|keep| format!("keep {}", keep.join(", "))));
        if !self.drop.is_empty() {
            parts.push(format!("drop {}", self.drop.join(", ")));
        }
        parts.join("; ")
    }

    fn options(&self) -> Option<&NodeOptions> {
        Some(&self.options)
    }

    fn attach(&self, name: &str, flow: Flow<Row>, _: &mut Workshop<'_>) -> Option<Vec<Flow<Row>>> {
        let (rename, keep, drop) = (self.rename.clone(), self.keep.clone(), self.drop.clone());
        each(name, &self.options, flow, move |row| {
            // All at once: two fields may exchange their names. A part of an object is copied out of it.
            let taken = rename.iter().map(|(old, _)| Ok(needed(row, old)?.to_datum())).collect::<Result<Vec<_>, _>>()?;
            rename.iter().for_each(|(old, _)| drop_field(row, old));
            rename.iter().zip(taken).for_each(|((_, new), datum)| row.set(new, datum));
            if let Some(keep) = &keep {
                row.retain(|name| keep.iter().any(|kept| kept == name));
            }
            row.retain(|name| !drop.iter().any(|dropped| dropped == name));
            Ok(())
        })
    }
}

fn drop_field(row: &mut Row, path: &Path) {
    row.take(&path.to_string());
}
