//! The CPU backend of millstream: thread pool, memory-mapped weights, run-time ISA choice.
