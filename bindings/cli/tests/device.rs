//! The program as a process: a device that is not there, or that it was built without, is one line on standard error.

use std::{path::Path, process::Command};

#[test]
fn a_device_that_is_not_there_is_said_in_one_line() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/language-model/language.onnx");
    let program = || Command::new(env!("CARGO_BIN_EXE_millstream"));
    let output = program().arg("bench").arg(model).args(["--device", "cuda:99"]).output().expect("the program runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && output.stdout.is_empty(), "{said}");
    let reasons =
        ["there is no NVIDIA driver on this machine", "CUDA device 99 is not there", "this program was built without CUDA", "the NVIDIA driver is for CUDA"];
    assert!(said.starts_with("error: ") && said.lines().count() == 1 && reasons.iter().any(|r| said.contains(r)), "{said}");
}
