//! Every stored input goes through its target.

use std::{fs, path::Path};

fn replay(target: &str, run: fn(&[u8])) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    let mut count = 0;
    for entry in fs::read_dir(&dir).expect("the corpus is in the repository") {
        let bytes = fs::read(entry.expect("a readable folder").path()).expect("a readable file");
        run(&bytes);
        count += 1;
    }
    assert!(count > 0, "{dir:?} is empty");
}

#[test]
fn onnx_reader() {
    replay("onnx_reader", millstream_fuzz::onnx_reader);
}

#[test]
fn safetensors_reader() {
    replay("safetensors_reader", millstream_fuzz::safetensors_reader);
}

#[test]
fn tensor_pb() {
    replay("tensor_pb", millstream_fuzz::tensor_pb);
}
