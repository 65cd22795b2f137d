//! Images between row-major and channels-last memory, for steps whose neighbours want the other one.

use crate::grains;
use millstream_graph::{EvalCx, EvalError};
use millstream_tensor::tile::Tiles;

/// Rows and columns of a block that is moved while its lines are in the cache.
const BLOCK: usize = 16;

/// Writes `images` matrices of `rows` × `cols` transposed, one after the other.
pub(crate) fn transpose(cx: &EvalCx<'_>, src: &[f32], dst: &mut [f32], images: usize, rows: usize, cols: usize) -> Result<(), EvalError> {
    let wrong = EvalError::Invalid("an image does not have its layout's length");
    if src.len() < images * rows * cols || dst.len() < images * rows * cols {
        return Err(wrong);
    }
    let tiles = Tiles::rows(&mut dst[..images * rows * cols], rows, grains::rows(images * cols, rows, 1)).ok_or(wrong)?;
    cx.parallel(tiles.count(), |grain, _| {
        let mut tile = tiles.claim(grain)?;
        let first = tile.origin().0;
        let mut done = 0;
        while done < tile.rows() {
            let (image, col) = ((first + done) / cols, (first + done) % cols);
            let width = BLOCK.min(tile.rows() - done).min(cols - col);
            let src = &src[image * rows * cols..][..rows * cols];
            for row in (0..rows).step_by(BLOCK) {
                let height = BLOCK.min(rows - row);
                for j in 0..width {
                    for (i, to) in tile.row(done + j)[row..row + height].iter_mut().enumerate() {
                        *to = src[(row + i) * cols + col + j];
                    }
                }
            }
            done += width;
        }
        Some(())
    })
}
