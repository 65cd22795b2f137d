//! Models as `benches/make_models.py` writes them: a folder each, with `model.onnx` and a `manifest.json` that names arrays, the
//! inputs and what ONNX Runtime gives for them.

use millstream::{DType, Tensor};
use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// The folders of models in the folder that `MILLSTREAM_MODELS` has to name.
pub fn folders() -> Vec<PathBuf> {
    let root = env::var_os("MILLSTREAM_MODELS").expect("MILLSTREAM_MODELS names a folder of models");
    let mut folders: Vec<_> = fs::read_dir(&root).expect("MILLSTREAM_MODELS names a folder").flatten().map(|entry| entry.path()).collect();
    folders.retain(|folder| folder.join("manifest.json").is_file());
    folders.sort();
    assert!(!folders.is_empty(), "MILLSTREAM_MODELS names a folder without models");
    folders
}

/// Named arrays of a folder: its `inputs` or its `outputs`.
pub fn arrays(folder: &Path, kind: &str) -> Vec<(String, Tensor)> {
    let text = fs::read_to_string(folder.join("manifest.json")).expect("there is a manifest");
    let manifest: serde_json::Value = serde_json::from_str(&text).expect("the manifest is JSON");
    let entry = |entry: &serde_json::Value| {
        let text = |key: &str| entry[key].as_str().expect("text").to_owned();
        (text("name"), array(&fs::read(folder.join(text("file"))).expect("the array is there")))
    };
    manifest[kind].as_array().expect("a list").iter().map(entry).collect()
}

/// The array of an `.npy` file of version 1: little-endian, rows first.
fn array(bytes: &[u8]) -> Tensor {
    assert_eq!(bytes[..7], *b"\x93NUMPY\x01", "an .npy file of version 1");
    let start = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let header = std::str::from_utf8(&bytes[10..start]).expect("ASCII");
    let behind = |key: &str| header.split_once(key).expect("a key of the header").1;
    let dtype = match behind("'descr': '").split('\'').next().expect("a type") {
        "<f4" => DType::F32,
        "<i8" => DType::I64,
        "<i4" => DType::I32,
        "|u1" => DType::U8,
        "|b1" => DType::Bool,
        other => panic!("arrays of {other} are not expected"),
    };
    assert!(behind("'fortran_order': ").starts_with("False"), "rows first");
    let dims = behind("'shape': (").split(')').next().expect("a tuple");
    let dims: Vec<usize> = dims.split(',').map(str::trim).filter(|d| !d.is_empty()).map(|d| d.parse().expect("a number")).collect();
    Tensor::from_bytes(dtype, &dims, &bytes[start..]).expect("as many bytes as the header says")
}
