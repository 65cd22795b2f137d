//! Shared set-up of the criterion benchmarks.
#![forbid(unsafe_code)]
