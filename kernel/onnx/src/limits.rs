//! How much an untrusted file may ask for.

use millstream_tensor::MAX_RANK;

/// Bounds on what a model may hold; past one of them loading fails with [`LoadError::Limit`](crate::LoadError::Limit).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the model file.
    pub bytes: usize,
    /// Nodes, in all subgraphs, functions counted as often as they are called.
    pub nodes: usize,
    /// Values (inputs, constants, outputs of nodes, captures) in all subgraphs.
    pub values: usize,
    /// How deep subgraphs and calls of functions may nest.
    pub depth: usize,
    /// Axes of a tensor; never more than [`MAX_RANK`].
    pub rank: usize,
    /// Bytes of all tensors together, external ones included.
    pub tensor_bytes: u64,
    /// Bytes of tensors and attributes that are decoded or copied; those read in place do not count.
    pub copied_bytes: u64,
    /// Elements of one attribute that is a list.
    pub attribute_elements: usize,
}

impl Default for Limits {
    /// Enough for any model that is known, too little to harm: 200,000 nodes, two million values, 32 levels.
    fn default() -> Limits {
        Limits {
            bytes: isize::MAX as usize,
            nodes: 200_000,
            values: 2_000_000,
            depth: 32,
            rank: MAX_RANK,
            tensor_bytes: isize::MAX as u64,
            copied_bytes: 4 << 30,
            attribute_elements: 1 << 24,
        }
    }
}
