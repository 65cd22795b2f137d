//! Images between row-major and channels-last memory, for steps whose neighbours want the other one.

use crate::grains;
use millstream_graph::{EvalCx, EvalError};
use millstream_simd::{dispatch, slice};
use millstream_tensor::tile::Tiles;

/// Rows that a grain has a multiple of: whole squares of the widest vectors.
const SQUARE: usize = 16;

/// Writes `images` matrices of `rows` × `cols` transposed, one after the other.
pub(crate) fn transpose(cx: &EvalCx<'_>, src: &[f32], dst: &mut [f32], images: usize, rows: usize, cols: usize) -> Result<(), EvalError> {
    let wrong = EvalError::Invalid("an image does not have its layout's length");
    if src.len() < images * rows * cols || dst.len() < images * rows * cols {
        return Err(wrong);
    }
    let tiles = Tiles::rows(&mut dst[..images * rows * cols], rows, grains::rows(images * cols, rows, 1).next_multiple_of(SQUARE)).ok_or(wrong)?;
    let level = cx.level();
    cx.parallel(tiles.count(), |grain, _| {
        let mut tile = tiles.claim(grain)?;
        let (first, count) = (tile.origin().0, tile.rows());
        let to = tile.as_slice()?;
        let mut done = 0;
        while done < count {
            let (image, col) = ((first + done) / cols, (first + done) % cols);
            let width = (count - done).min(cols - col);
            let (src, to) = (&src[image * rows * cols + col..(image + 1) * rows * cols], &mut to[done * rows..]);
            dispatch!(level, s => slice::transpose(s, src, cols, to, rows, width, rows));
            done += width;
        }
        Some(())
    })
}
