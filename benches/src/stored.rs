//! Models as `make_models.py` writes them: a folder each, with `model.onnx`, and a `manifest.json` that names the arrays to run it with.

use std::{
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
};

use millstream::{DType, Model, Session, Tensor, Value};
use npyz::{NpyFile, TypeChar};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The folders of models in the folder that `MILLSTREAM_MODELS` names, if it is set.
pub fn folders() -> Option<Vec<PathBuf>> {
    let root = env::var_os("MILLSTREAM_MODELS")?;
    let mut folders: Vec<_> = fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    folders.retain(|folder| folder.join("manifest.json").is_file());
    folders.sort();
    Some(folders)
}

/// The model of a folder and its inputs in the model's order. It has run once.
pub fn open(session: &Session, folder: &Path) -> Result<(Model, Vec<Value>)> {
    let model = session.open(folder.join("model.onnx"))?;
    let manifest: serde_json::Value = serde_json::from_str(&fs::read_to_string(folder.join("manifest.json"))?)?;
    let listed = manifest["inputs"].as_array().ok_or("the manifest lists no inputs")?;
    let mut inputs = Vec::new();
    for port in &model.signature().inputs {
        let entry = listed.iter().find(|entry| entry["name"] == *port.name).ok_or("the manifest lacks an input")?;
        inputs.push(Value::Tensor(array(&folder.join(entry["file"].as_str().ok_or("an input has no file")?))?));
    }
    model.run_values(&inputs)?;
    Ok((model, inputs))
}

/// The array of an `.npy` file.
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
