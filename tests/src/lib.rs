//! Tests that span crates live in `tests/` of this package; the library holds what several of them need.
//!
//! - [`bert`] is a model of candle-nn, with Candle's operators or ours.
//! - [`language`] is the embedded model with the fixture that says what ONNX Runtime computes of it.
//! - [`single`] builds models of one operator, for suites that every backend must pass; [`families`] has more of them.
//! - [`stored`] reads whole models with their inputs and expected outputs.
#![forbid(unsafe_code)]

pub mod bert;
pub mod families;
pub mod language;
pub mod single;
pub mod stored;
