//! Tests that span crates live in `tests/` of this package; the library itself is empty.
#![forbid(unsafe_code)]
