//! One product of matrices as one phase of grains.

use crate::carve::{carve, carved};
use millstream_gemm::{Epilogue, Gemm, GemmError, Lhs, PackedRef};
use millstream_graph::{EvalCx, EvalError};
use millstream_tensor::TensorError;

/// Bytes of scratch that a grain of `gemm` needs.
pub(crate) fn grain_scratch(gemm: &Gemm) -> usize {
    carved::<f32>(gemm.scratch_len())
}

/// A refusal of the product as a step's error: the operator's own arithmetic on shapes was wrong, or memory ran out.
pub(crate) fn refused(error: GemmError) -> EvalError {
    match error {
        GemmError::OutOfMemory(bytes) => TensorError::OutOfMemory(bytes).into(),
        _ => EvalError::Invalid("the dims of a product do not fit its operands"),
    }
}

/// Runs all grains of `gemm` into `c`, whose rows begin `row_stride` apart.
pub(crate) fn run(
    cx: &EvalCx<'_>,
    gemm: &Gemm,
    a: &Lhs<'_>,
    b: PackedRef<'_>,
    c: &mut [f32],
    row_stride: usize,
    epilogue: &Epilogue<'_>,
) -> Result<(), EvalError> {
    let tiles = gemm.tiles(c, row_stride).map_err(refused)?;
    cx.parallel(tiles.count(), |grain, mut scratch| {
        let scratch = carve(&mut scratch, gemm.scratch_len())?;
        gemm.run_grain(grain, a, b, &tiles, epilogue, scratch).ok()
    })
}
