//! Candle as second engine of millstream, and millstream's kernels on Candle's tensors.
