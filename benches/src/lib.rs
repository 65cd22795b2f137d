//! Shared set-up of the criterion benchmarks.
