//! Weights by name out of safetensors files.
