//! ISA tokens, level detection and portable vectors for millstream's kernels.
