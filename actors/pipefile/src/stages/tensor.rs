//! `tensor`: a field's numbers, text or bytes as a tensor. With `length`, a vector is cut off there, or filled up with `pad`.

use millstream_runtime::Flow;
use millstream_tensor::DType;

use super::{StagePart, each};
use crate::{
    build::Workshop,
    node_options::NodeOptions,
    row::{DataError, Datum, Path, Row, needed},
    table::Table,
    tensors::{Fit, to_tensor},
};

struct ToTensor {
    field: Path,
    into: String,
    dtype: DType,
    fit: Option<Fit>,
    options: NodeOptions,
}

pub(super) fn read(table: &Table<'_>) -> Option<Box<dyn StagePart>> {
    let options = NodeOptions::for_stage(table);
    let names: Vec<_> = DType::ALL.iter().map(|dtype| (dtype.name(), *dtype)).collect();
    let dtype = table.choice("dtype", &names).unwrap_or(DType::F32);
    let into = table.read::<String>("into").map(|into| into.value);
    let length = table.read::<usize>("length");
    let pad = table.read::<f64>("pad");
    if length.is_none() && pad.is_some() {
        table.findings.add(&table.key_span("pad"), "`pad` needs `length`");
    }
    let fit = length.map(|length| Fit { length: length.value, pad: pad.map_or(0.0, |pad| pad.value) });
    let field = table.need::<String>("field")?.value;
    Some(Box::new(ToTensor { into: into.unwrap_or_else(|| field.clone()), field: Path::new(field), dtype, fit, options }))
}

impl StagePart for ToTensor {
    fn detail(&self) -> String {
        let length = self.fit.map_or_else(String::new, |fit| fit.length.to_string());
        format!("{} as {}[{length}]", self.field, self.dtype)
    }

    fn options(&self) -> Option<&NodeOptions> {
        Some(&self.options)
    }

    fn attach(&self, name: &str, flow: Flow<Row>, _: &mut Workshop<'_>) -> Option<Vec<Flow<Row>>> {
        let (field, into, dtype, fit) = (self.field.clone(), self.into.clone(), self.dtype, self.fit);
        each(name, &self.options, flow, move |row| {
            let datum = needed(row, &field)?.to_datum();
            let tensor = to_tensor(&datum, dtype, fit).map_err(|error| DataError::Tensor { field: field.to_string(), error })?;
            row.set(&into, Datum::Tensor(tensor));
            Ok(())
        })
    }
}
