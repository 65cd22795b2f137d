//! What make_models.py wrote beside a model: inputs, and the outputs that ONNX Runtime gives for them.

use crate::Result;
use millstream::{DType, Tensor};
use npyz::{NpyFile, TypeChar};
use serde_json::Value;
use std::{fs, path::Path};

/// Inputs by name, and the outputs to expect.
pub(crate) struct Case {
    pub(crate) inputs: Vec<(String, Tensor)>,
    expected: Vec<Vec<f64>>,
}

impl Case {
    /// Reads `manifest.json` and the arrays that it names.
    pub(crate) fn read(folder: &Path) -> Result<Case> {
        let manifest: Value = serde_json::from_str(&fs::read_to_string(folder.join("manifest.json"))?)?;
        let arrays = |key: &str| -> Result<Vec<(String, Tensor)>> {
            let list = manifest[key].as_array().ok_or("the manifest lacks a list")?;
            let text = |entry: &Value, key: &str| entry[key].as_str().map(str::to_owned).ok_or("the manifest lacks a name");
            list.iter().map(|entry| Ok((text(entry, "name")?, array(&folder.join(text(entry, "file")?))?))).collect()
        };
        let expected = arrays("outputs")?.iter().map(|(_, tensor)| floats(tensor)).collect::<Result<_>>()?;
        Ok(Case { inputs: arrays("inputs")?, expected })
    }

    /// The greatest absolute difference over the greatest absolute expected value, of all outputs.
    pub(crate) fn max_error(&self, outputs: &[Vec<f64>]) -> Result<f64> {
        let mut worst = 0.0_f64;
        for (found, expected) in outputs.iter().zip(&self.expected) {
            if found.len() != expected.len() {
                return Err(format!("{} elements where {} are expected", found.len(), expected.len()).into());
            }
            let scale = expected.iter().fold(f64::MIN_POSITIVE, |most, x| most.max(x.abs()));
            let differences = found.iter().zip(expected).map(|(a, b)| if a == b { 0.0 } else { (a - b).abs() / scale });
            worst = differences.fold(worst, |most, d| if d.is_nan() { f64::INFINITY } else { most.max(d) });
        }
        Ok(worst)
    }
}

fn array(path: &Path) -> Result<Tensor> {
    let bytes = fs::read(path)?;
    let npy = NpyFile::new(&bytes[..])?;
    let dims: Vec<usize> = npy.shape().iter().map(|&d| d as usize).collect();
    let npyz::DType::Plain(kind) = npy.dtype() else { return Err("records are not supported".into()) };
    let dtype = match (kind.type_char(), kind.size_field()) {
        (TypeChar::Float, 4) => DType::F32,
        (TypeChar::Int, 8) => DType::I64,
        (TypeChar::Int, 4) => DType::I32,
        (TypeChar::Uint, 1) => DType::U8,
        _ => return Err(format!("arrays of {kind} are not supported").into()),
    };
    let start = bytes.len().checked_sub(dims.iter().product::<usize>() * dtype.size()).ok_or("the file is too short")?;
    Ok(Tensor::from_bytes(dtype, &dims, &bytes[start..])?)
}

/// Calls a macro for each element type that models take.
macro_rules! by_dtype {
    ($tensor:expr, $($dtype:ident: $t:ty),*; $slice:ident => $body:expr) => {
        match $tensor.dtype() {
            $( millstream::DType::$dtype => { let $slice = $tensor.as_slice::<$t>()?; $body } )*
            other => return Err(format!("tensors of {other} are not supported").into()),
        }
    };
}
pub(crate) use by_dtype;

/// A tensor's elements as floats.
pub(crate) fn floats(tensor: &Tensor) -> Result<Vec<f64>> {
    Ok(by_dtype!(tensor, F32: f32, I64: i64, I32: i32, U8: u8; slice => slice.iter().map(|&x| x as f64).collect()))
}
