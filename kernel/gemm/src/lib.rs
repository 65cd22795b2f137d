//! Packed, blocked GEMM with per-ISA microkernels and fused epilogues.
