//! A matrix cut into a grid of disjoint tiles that several workers write at once.
//!
//! A kernel's phase makes [`Tiles`] over its output, and each grain claims its tile once. Rows may be longer than the tile
//! is wide (a stride), so that tiles of one row interleave in memory: a plain `chunks_mut` could not express that.

use core::{
    marker::PhantomData,
    slice,
    sync::atomic::{AtomicU64, Ordering},
};

const WORDS: usize = 16;

/// The most tiles a grid can have; kernels make at most this many grains in a phase.
pub const MAX_TILES: usize = WORDS * 64;

/// A mutable matrix of `rows` × `cols` elements, cut into tiles of at most `tile_rows` × `tile_cols`.
#[derive(Debug)]
pub struct Tiles<'a, T> {
    base: *mut T,
    rows: usize,
    cols: usize,
    row_stride: usize,
    tile_rows: usize,
    tile_cols: usize,
    claimed: [AtomicU64; WORDS],
    memory: PhantomData<&'a mut [T]>,
}

// SAFETY: `claim` lends each tile at most once in the life of the grid, and tiles are disjoint, so threads that share a
// grid never reach the same element; T is Send.
unsafe impl<T: Send> Sync for Tiles<'_, T> {}
// SAFETY: the memory is exclusively borrowed for 'a and may move with its borrower; T is Send.
unsafe impl<T: Send> Send for Tiles<'_, T> {}

impl<'a, T> Tiles<'a, T> {
    /// Cuts a matrix whose row `r` begins at `r * row_stride`. `None` if `data` is too short, rows overlap, a tile would be
    /// empty, or there would be more than [`MAX_TILES`] tiles.
    pub fn new(data: &'a mut [T], rows: usize, cols: usize, row_stride: usize, tile_rows: usize, tile_cols: usize) -> Option<Tiles<'a, T>> {
        let span = if rows == 0 || cols == 0 { 0 } else { (rows - 1).checked_mul(row_stride)?.checked_add(cols)? };
        if span > data.len() || (rows > 1 && row_stride < cols) || tile_rows == 0 || tile_cols == 0 {
            return None;
        }
        let tiles =
            Tiles { base: data.as_mut_ptr(), rows, cols, row_stride, tile_rows, tile_cols, claimed: [const { AtomicU64::new(0) }; WORDS], memory: PhantomData };
        (tiles.count() <= MAX_TILES).then_some(tiles)
    }

    /// Cuts a slice into consecutive chunks of at most `chunk` elements.
    pub fn chunks(data: &'a mut [T], chunk: usize) -> Option<Tiles<'a, T>> {
        let len = data.len();
        Tiles::new(data, 1, len, len, 1, chunk.max(1))
    }

    /// Cuts dense rows of `cols` elements into groups of at most `rows_per_tile`.
    pub fn rows(data: &'a mut [T], cols: usize, rows_per_tile: usize) -> Option<Tiles<'a, T>> {
        let rows = data.len().checked_div(cols).unwrap_or(0);
        Tiles::new(data, rows, cols, cols, rows_per_tile.max(1), cols.max(1))
    }

    /// Tiles down and tiles across.
    pub fn grid(&self) -> (usize, usize) {
        (self.rows.div_ceil(self.tile_rows), self.cols.div_ceil(self.tile_cols))
    }

    /// How many tiles there are.
    pub fn count(&self) -> usize {
        let (down, across) = self.grid();
        down.saturating_mul(across)
    }

    /// Lends tile `index` (row-major in the grid). `None` if there is no such tile or it was claimed before.
    pub fn claim(&self, index: usize) -> Option<TileMut<'_, T>> {
        if index >= self.count() {
            return None;
        }
        let bit = 1u64 << (index % 64);
        if self.claimed[index / 64].fetch_or(bit, Ordering::Relaxed) & bit != 0 {
            return None;
        }
        let (_, across) = self.grid();
        let (row, col) = (index / across * self.tile_rows, index % across * self.tile_cols);
        Some(TileMut {
            // SAFETY: (row, col) is an element of the matrix, whose span `new` checked against the data.
            base: unsafe { self.base.add(row * self.row_stride + col) },
            row,
            col,
            rows: self.tile_rows.min(self.rows - row),
            cols: self.tile_cols.min(self.cols - col),
            row_stride: self.row_stride,
            grid: PhantomData,
        })
    }
}

/// A claimed tile: exclusive access to its elements.
#[derive(Debug)]
pub struct TileMut<'t, T> {
    base: *mut T,
    row: usize,
    col: usize,
    rows: usize,
    cols: usize,
    row_stride: usize,
    grid: PhantomData<&'t mut [T]>,
}

// SAFETY: a tile is exclusive access to its elements, like a `&mut [T]`.
unsafe impl<T: Send> Send for TileMut<'_, T> {}

impl<T> TileMut<'_, T> {
    /// Row and column of the tile's first element in the matrix.
    pub fn origin(&self) -> (usize, usize) {
        (self.row, self.col)
    }

    /// Rows of the tile.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns of the tile.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Elements from one row's start to the next one's.
    pub fn row_stride(&self) -> usize {
        self.row_stride
    }

    /// Row `i` of the tile; an empty slice past its last row.
    pub fn row(&mut self, i: usize) -> &mut [T] {
        if i >= self.rows {
            return &mut [];
        }
        // SAFETY: the row's `cols` elements lie inside the matrix and belong to this tile alone, which `&mut self` holds.
        unsafe { slice::from_raw_parts_mut(self.base.add(i * self.row_stride), self.cols) }
    }

    /// The whole tile as one slice, if its rows follow each other in memory.
    pub fn as_slice(&mut self) -> Option<&mut [T]> {
        if self.rows > 1 && self.row_stride != self.cols {
            return None;
        }
        // SAFETY: rows without gaps: all `rows * cols` elements from the first on belong to this tile.
        Some(unsafe { slice::from_raw_parts_mut(self.base, self.rows * self.cols) })
    }

    /// A part of the tile as a tile of its own, whose origin is (0, 0). `None` if it does not lie inside.
    pub fn part(&mut self, row: usize, col: usize, rows: usize, cols: usize) -> Option<TileMut<'_, T>> {
        if row.checked_add(rows)? > self.rows || col.checked_add(cols)? > self.cols {
            return None;
        }
        let start = if rows == 0 || cols == 0 { 0 } else { row * self.row_stride + col };
        Some(TileMut {
            // SAFETY: (row, col) is an element of this tile (or the part is empty and begins where the tile does); the part borrows
            // the tile, so nobody else reaches its elements while it lives.
            base: unsafe { self.base.add(start) },
            row: 0,
            col: 0,
            rows,
            cols,
            row_stride: self.row_stride,
            grid: PhantomData,
        })
    }

    /// The first element, for microkernels: element (r, c) is at `r * row_stride + c` for r < rows, c < cols.
    pub fn as_mut_ptr(&mut self) -> *mut T {
        self.base
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{thread, vec};

    #[test]
    fn each_tile_is_lent_once_and_they_cover_the_matrix() {
        let mut data = vec![0u32; 7 * 12];
        let tiles = Tiles::new(&mut data, 7, 10, 12, 3, 4).unwrap();
        assert_eq!(tiles.grid(), (3, 3));
        thread::scope(|s| {
            for i in 0..tiles.count() {
                let tiles = &tiles;
                s.spawn(move || {
                    let mut tile = tiles.claim(i).unwrap();
                    for r in 0..tile.rows() {
                        tile.row(r).fill(i as u32 + 1);
                    }
                });
            }
        });
        assert!(tiles.claim(0).is_none() && tiles.claim(9).is_none());
        for r in 0..7 {
            for c in 0..12 {
                let want = if c < 10 { (r / 3 * 3 + c / 4 + 1) as u32 } else { 0 };
                assert_eq!(data[r * 12 + c], want);
            }
        }
    }

    #[test]
    fn parts_lie_inside() {
        let mut data = vec![0u32; 4 * 6];
        let tiles = Tiles::new(&mut data, 4, 6, 6, 4, 6).unwrap();
        let mut tile = tiles.claim(0).unwrap();
        let mut part = tile.part(1, 2, 2, 3).unwrap();
        assert_eq!((part.origin(), part.rows(), part.cols()), ((0, 0), 2, 3));
        part.row(1).fill(7);
        assert!(tile.part(1, 2, 4, 1).is_none() && tile.part(0, 4, 1, 3).is_none());
        assert!(tile.part(usize::MAX, 0, 2, 1).is_none());
        assert_eq!(tile.part(4, 6, 0, 0).unwrap().rows(), 0);
        assert_eq!((&data[14..17], data.iter().sum::<u32>()), (&[7, 7, 7][..], 21));
    }

    #[test]
    fn impossible_grids_are_refused() {
        let mut data = [0u8; 10];
        assert!(Tiles::new(&mut data, 3, 4, 4, 1, 1).is_none(), "too short");
        assert!(Tiles::new(&mut data, 2, 4, 3, 1, 1).is_none(), "rows overlap");
        assert!(Tiles::new(&mut data, 1, 4, 4, 0, 1).is_none(), "empty tiles");
        let mut many = vec![0u8; 2000];
        assert!(Tiles::chunks(&mut many, 1).is_none(), "too many tiles");
        assert_eq!(Tiles::new(&mut data, 0, 4, 4, 1, 4).unwrap().count(), 0);
    }
}
