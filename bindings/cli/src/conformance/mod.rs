//! Tests in the form of the ONNX project's backend tests.
//!
//! A test is a folder with `model.onnx` and `test_data_set_<n>/{input_<i>,output_<i>}.pb`, or, in the loose form, a file
//! `light_NAME.onnx` beside `light_NAME_output_0.pb`, whose input is the ramp 0…n−1 over n.

mod case;
mod compare;

pub(crate) use case::{Case, Outcome, Verdict, find};
pub(crate) use compare::numbers;
