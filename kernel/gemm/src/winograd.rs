//! Convolution of 3 × 3 windows, stride 1, by Winograd's F(4 × 4, 3 × 3): 36 multiply-adds where the definition has 144.
//!
//! ```text
//! U[p] = (G g Gᵀ)[p]                for each filter g, once: 36 matrices, channels × outputs
//! for blocks of tiles (4 × 4 pixels of the output, 6 × 6 of the image):
//!   V[p] = (Bᵀ d B)[p]              36 matrices, tiles × channels
//!   M[p] = V[p] · U[p]              the microkernel, on V where it lies, or on its columns where they are used often
//!   y = activation(Aᵀ M A + bias + residual)
//! ```
//! The points are 0, ±√½, ±√2 and ∞, whose errors are smaller than those of 0, ±1, ±2 and ∞: a result differs from the exact one by some 1e-6
//! of the greatest result. V and M of a block stay in the second cache. See Lavin and Gray, "Fast Algorithms for Convolutional Neural
//! Networks", CVPR 2016, and Barabasz et al., "Error Analysis and Improving the Accuracy of Winograd Convolution", ACM TOMS 46(4), 2020.
//!
//! A tile's result is a function of its own pixels, whatever the block, the grain and the batch.

use millstream_simd::{Level, SimdF32, dispatch};
use millstream_tensor::AlignedBytes;
use millstream_tensor::tile::{MAX_TILES, TileMut, Tiles};

use crate::error::{GemmError, agree, require, span};
use crate::micro::{Call, KC, Later, Tile, Transposed, row_tile};
use crate::rhs::packed_len;
use crate::transform::{POINTS, image_to_points, points_to_pixels, weights_to_points};
use crate::{Activation, PackedRef, Residual, Window};

/// Pixels of an output tile's edge.
const STEP: usize = 4;
/// Pixels of an image tile's edge.
pub(crate) const EDGE: usize = 6;
/// Floats of a block's V and M: a good half of a second cache.
const BLOCK_FLOATS: usize = 320 << 10;
/// Bytes of U that may be read again for every dozen tiles.
const NEAR_WEIGHTS: usize = 1 << 20;
/// Grains of an image at the least, where its tiles and channels allow.
const GRAINS: usize = 4;
/// Columns of the widest panel.
const WIDEST: usize = 64;
/// Floats of a cache line.
const LINE: usize = 16;

/// The transformed weights of a convolution: 36 packed matrices.
#[derive(Debug)]
pub struct PackedWinograd {
    bytes: AlignedBytes,
    level: Level,
    channels: usize,
    outputs: usize,
}

impl PackedWinograd {
    /// Transforms and packs weights `[outputs, channels, 3, 3]`.
    pub fn new(level: Level, weights: &[f32], channels: usize, outputs: usize) -> Result<Self, GemmError> {
        let len = packed_len(level, channels, outputs);
        let bytes = len.checked_mul(POINTS * size_of::<f32>()).ok_or(GemmError::Overflow)?;
        require("weights", channels.checked_mul(outputs).and_then(|n| n.checked_mul(9)).ok_or(GemmError::Overflow)?, weights.len())?;
        let mut bytes = AlignedBytes::zeroed(bytes).map_err(|_| GemmError::OutOfMemory(bytes))?;
        let packed: &mut [f32] = bytemuck::cast_slice_mut(bytes.as_mut());
        dispatch!(level, s => transform_weights(s, weights, channels, outputs, packed));
        Ok(Self { bytes, level, channels, outputs })
    }

    /// Channels of the output.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    fn point(&self, p: usize) -> Result<PackedRef<'_>, GemmError> {
        let data: &[f32] = bytemuck::cast_slice(self.bytes.as_ref());
        let len = data.len() / POINTS;
        PackedRef::new(self.level, self.channels, self.outputs, &data[p * len..][..len])
    }
}

#[inline(always)]
fn transform_weights<S: Tile>(s: S, weights: &[f32], channels: usize, outputs: usize, packed: &mut [f32]) {
    let lanes = S::F32::LANES;
    let len = packed.len() / POINTS;
    for panel in 0..outputs.div_ceil(S::NR) {
        // Columns past the last filter stay zeros.
        let mut taps = [[0.0_f32; WIDEST]; 9];
        let cols = (outputs - panel * S::NR).min(S::NR);
        for c in 0..channels {
            for j in 0..cols {
                let filter = &weights[((panel * S::NR + j) * channels + c) * 9..][..9];
                for (taps, w) in taps.iter_mut().zip(filter) {
                    taps[j] = *w;
                }
            }
            for v in (0..S::NR).step_by(lanes) {
                let mut g = [S::F32::splat(s, 0.0); 9];
                for (g, taps) in g.iter_mut().zip(&taps) {
                    *g = S::F32::load(s, &taps[v..]);
                }
                weights_to_points(s, &g, |p, u: S::F32| u.store(&mut packed[p * len + (panel * channels + c) * S::NR + v..]));
            }
        }
    }
}

/// A convolution of known dims, cut into grains: bands of tiles, or of whole images, by channels of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Winograd {
    level: Level,
    batch: usize,
    out: [usize; 2],
    channels: usize,
    outputs: usize,
    /// Tiles of an image.
    tiles: [usize; 2],
    /// Lines of tiles of a grain; whole images where there are several.
    lines: usize,
    /// Output channels of a grain.
    cols: usize,
    /// Tiles of a block.
    block: usize,
    /// Columns of V are packed.
    columns: bool,
}

impl Winograd {
    /// A convolution whose output is `[batch, out height, out width, outputs]`. A batch is cut between images only: a few great images are
    /// better run one by one.
    pub fn new(level: Level, batch: usize, out: [usize; 2], channels: usize, outputs: usize) -> Self {
        dispatch!(level, s => Self::cut(s, batch, out, channels, outputs))
    }

    #[inline(always)]
    fn cut<S: Tile>(s: S, batch: usize, out: [usize; 2], channels: usize, outputs: usize) -> Self {
        let tiles = out.map(|n| n.div_ceil(STEP));
        let [down, across] = tiles.map(|n| n.max(1));
        let panels = outputs.div_ceil(S::NR).max(1);
        // Few weights may be read for every row of tiles, many only for as many tiles as pay for it.
        let weights = packed_len(s.level(), channels, outputs).saturating_mul(POINTS * size_of::<f32>());
        let wanted = if weights <= NEAR_WEIGHTS { S::MR - 2 } else { 2 * S::MR };
        let lines = if batch > 1 { wanted.div_ceil(down * across).clamp(1, batch) * down } else { wanted.div_ceil(across).min(down) };
        let lines = if batch > 1 { lines.max(batch.div_ceil(MAX_TILES / 16) * down) } else { lines.max(down.div_ceil(MAX_TILES / 16)) };
        let bands = (batch * down).div_ceil(lines).max(1);
        // Equal bands.
        let lines = if batch > 1 { lines } else { down.div_ceil(bands) };
        let chunks = GRAINS.div_ceil(bands).min(panels.div_ceil(2)).min(MAX_TILES / bands.min(MAX_TILES)).max(1);
        let cols = panels.div_ceil(chunks) * S::NR;
        let mut job = Self { level: s.level(), batch, out, channels, outputs, tiles, lines: lines.max(1), cols, block: 1, columns: false };
        let most = (BLOCK_FLOATS / (POINTS * (job.image_stride() + job.product_stride()))).max(S::MR);
        let count = (job.lines * across).max(1);
        job.block = count.div_ceil(count.div_ceil(most));
        job.columns = Transposed::<S>::paying(job.block, cols.min(outputs)).is_some();
        job
    }

    /// How many grains there are.
    pub fn grains(&self) -> usize {
        if self.rows() == 0 || self.outputs == 0 { 0 } else { self.pixels().div_ceil(self.rows()) * self.outputs.div_ceil(self.cols) }
    }

    /// Elements of scratch that each running grain needs.
    pub fn scratch_len(&self) -> usize {
        POINTS * (self.image_plane() + self.product_plane()) + odd_lines(self.channels) + self.columns_len() + LINE
    }

    /// The output cut into this job's grains. Pixel p begins at `p * pixel_stride`.
    pub fn tiles<'c>(&self, out: &'c mut [f32], pixel_stride: usize) -> Result<Tiles<'c, f32>, GemmError> {
        let (found, needed) = (out.len(), span(self.pixels(), pixel_stride, self.outputs, 1)?);
        let (rows, cols) = (self.rows().max(1), self.cols);
        Tiles::new(out, self.pixels(), self.outputs, pixel_stride, rows, cols).ok_or(GemmError::Length { what: "output", needed, found })
    }

    /// Runs one grain; each must run once, in any order, on any thread.
    pub fn run_grain(
        &self,
        grain: usize,
        image: &Window<'_>,
        weights: &PackedWinograd,
        bias: Option<&[f32]>,
        residual: Option<Residual<'_>>,
        activation: Activation,
        tiles: &Tiles<'_, f32>,
        scratch: &mut [f32],
    ) -> Result<(), GemmError> {
        agree("batch", self.batch, image.batch)?;
        agree("output height", self.out[0], image.out[0])?;
        agree("output width", self.out[1], image.out[1])?;
        agree("channels", self.channels, image.channels)?;
        agree("channels of the weights", self.channels, weights.channels)?;
        agree("outputs of the weights", self.outputs, weights.outputs)?;
        for axis in 0..2 {
            agree("kernel", 3, image.kernel[axis])?;
            agree("stride", 1, image.stride[axis])?;
            agree("dilation", 1, image.dilation[axis])?;
        }
        image.check(self.pixels(), 9 * self.channels)?;
        require("bias", self.outputs, bias.map_or(self.outputs, <[f32]>::len))?;
        if let Some(r) = residual {
            require("residual", span(self.pixels(), r.row_stride, self.outputs, 1)?, r.data.len())?;
        }
        require("scratch", self.scratch_len(), scratch.len())?;
        if grain >= self.grains() || tiles.count() != self.grains() {
            return Err(GemmError::Grain(grain));
        }
        let mut tile = tiles.claim(grain).ok_or(GemmError::Grain(grain))?;
        let (row, col) = tile.origin();
        // Tiles of another job with as many grains would stand elsewhere.
        if row % self.rows() != 0
            || col % self.cols != 0
            || tile.rows() != self.rows().min(self.pixels() - row)
            || tile.cols() != self.cols.min(self.outputs - col)
        {
            return Err(GemmError::Grain(grain));
        }
        dispatch!(self.level, s => {
            let mut points = [weights.point(0)?; POINTS];
            for (p, point) in points.iter_mut().enumerate() {
                *point = weights.point(p)?;
                point.check(self.channels, self.outputs, panel_width(s))?;
            }
            let grain = Grain { job: self, image, points, bias, residual, activation };
            grain.run(s, &mut tile, scratch);
            Ok(())
        })
    }

    fn pixels(&self) -> usize {
        self.batch * self.out[0] * self.out[1]
    }

    /// Pixels of a grain.
    fn rows(&self) -> usize {
        if self.batch > 1 { self.lines / self.tiles[0].max(1) * self.out[0] * self.out[1] } else { self.lines * STEP * self.out[1] }
    }

    /// Elements from a tile of V to the next.
    fn image_stride(&self) -> usize {
        odd_lines(self.channels)
    }

    /// Elements from a tile of M to the next.
    fn product_stride(&self) -> usize {
        odd_lines(self.cols)
    }

    fn image_plane(&self) -> usize {
        odd_lines(self.block * self.image_stride())
    }

    fn product_plane(&self) -> usize {
        odd_lines(self.block * self.product_stride())
    }

    /// Elements of a point's V in packed columns: each tile of rows has a vector more than its elements.
    fn columns_len(&self) -> usize {
        if self.columns { self.block * (self.channels + LINE) } else { 0 }
    }
}

/// At least `n` floats in an odd number of cache lines: so far apart, things don't share a set of the cache.
fn odd_lines(n: usize) -> usize {
    (n.div_ceil(LINE) | 1) * LINE
}

#[inline(always)]
fn panel_width<S: Tile>(_: S) -> usize {
    S::NR
}

/// Packs the columns of each tile of rows of a point's V, block after block of k.
#[inline(always)]
fn pack_columns<S: Tile>(s: S, columns: Transposed<S>, v: &[f32], stride: usize, tiles: usize, (channels, kc): (usize, usize), packed: &mut [f32]) {
    for t in 0..tiles.div_ceil(S::MR) {
        let (i, mr) = row_tile::<S>(tiles, t);
        let packed = &mut packed[i * (channels + LINE)..][..mr * (channels + LINE)];
        for k0 in (0..channels).step_by(kc) {
            let kc = kc.min(channels - k0);
            let rows = &v[i * stride + k0..][..(mr - 1) * stride + kc];
            // SAFETY: `rows` has mr rows of kc; past the block's mr * kc elements, `packed` has those of later blocks and at least a line.
            unsafe { (columns.pack)(s, rows.as_ptr(), stride, mr, kc, packed[mr * k0..].as_mut_ptr()) }
        }
    }
}

/// What a grain reads. The lengths were checked.
struct Grain<'a> {
    job: &'a Winograd,
    image: &'a Window<'a>,
    points: [PackedRef<'a>; POINTS],
    bias: Option<&'a [f32]>,
    residual: Option<Residual<'a>>,
    activation: Activation,
}

impl Grain<'_> {
    #[inline(always)]
    fn run<S: Tile>(&self, s: S, out: &mut TileMut<'_, f32>, scratch: &mut [f32]) {
        let job = self.job;
        let aligned = scratch.as_ptr().align_offset(64).min(LINE);
        let (v, rest) = scratch[aligned..].split_at_mut(POINTS * job.image_plane());
        let (m, rest) = rest.split_at_mut(POINTS * job.product_plane());
        let (zeros, rest) = rest.split_at_mut(job.channels);
        let columns = &mut rest[..job.columns_len()];
        zeros.fill(0.0);
        let [down, across] = job.tiles;
        let [height, width] = job.out;
        let (row, lines) = (out.origin().0, out.rows() / width);
        let (first, lines) = if job.batch > 1 { (row / (height * width) * down, lines / height * down) } else { (row / (width * STEP), lines.div_ceil(STEP)) };
        let count = lines * across;
        for start in (0..count).step_by(job.block) {
            let tiles = job.block.min(count - start);
            let at = |t: usize| {
                let (line, x) = (first + (start + t) / across, (start + t) % across);
                (line / down, line % down * STEP, x * STEP)
            };
            for t in 0..tiles {
                self.transform_image(s, at(t), &mut v[t * job.image_stride()..], zeros);
            }
            self.multiply(s, tiles, out.origin().1, out.cols(), v, m, columns);
            for t in 0..tiles {
                self.transform_product(s, at(t), &m[t * job.product_stride()..], out);
            }
        }
    }

    /// Bᵀ d B of the tile at (image, y, x), to the start of each plane of `v`.
    #[inline(always)]
    fn transform_image<S: Tile>(&self, s: S, (batch, y, x): (usize, usize, usize), v: &mut [f32], zeros: &[f32]) {
        let (image, job) = (self.image, self.job);
        let (channels, lanes, plane) = (job.channels, S::F32::LANES, job.image_plane());
        let [height, width] = image.size;
        let mut pixels = [zeros.as_ptr(); POINTS];
        for i in 0..EDGE {
            let iy = (y + i).wrapping_sub(image.pad[0]);
            for j in 0..EDGE {
                let ix = (x + j).wrapping_sub(image.pad[1]);
                if iy < height && ix < width {
                    pixels[i * EDGE + j] = image.data[((batch * height + iy) * width + ix) * image.pixel_stride..][..channels].as_ptr();
                }
            }
        }
        let _ = &v[..(POINTS - 1) * plane + channels.next_multiple_of(LINE)];
        for c in (0..channels).step_by(lanes) {
            // SAFETY: each pixel has `channels` elements, of which `channels - c` are left.
            let load = |p: *const f32| unsafe {
                if c + lanes <= channels { S::F32::load_ptr(s, p.add(c)) } else { S::F32::load_ptr_partial(s, p.add(c), channels - c) }
            };
            image_to_points(s, &pixels, load, |p, value: S::F32| {
                // SAFETY: `v` was sliced to the end of the last plane's tile, which is a multiple of LINE >= lanes long.
                unsafe { value.store_ptr(v.as_mut_ptr().add(p * plane + c)) }
            });
        }
    }

    /// M = V U for `tiles` tiles and the columns `col .. col + cols`.
    #[inline(always)]
    fn multiply<S: Tile>(&self, s: S, tiles: usize, col: usize, cols: usize, v: &[f32], m: &mut [f32], packed: &mut [f32]) {
        let job = self.job;
        let (stride, product_stride) = (job.image_stride(), job.product_stride());
        let row_tiles = tiles.div_ceil(S::MR);
        let first_panel = col / S::NR;
        let panels = cols.div_ceil(S::NR);
        let k_blocks = job.channels.div_ceil(KC).max(1);
        let kc_most = job.channels.div_ceil(k_blocks).max(1);
        let later_step = (S::NR * size_of::<f32>()).div_ceil(row_tiles);
        let columns = S::TRANSPOSED.filter(|_| job.columns);
        let kernels = columns.map_or(S::KERNELS, |columns| columns.kernels);
        for point in 0..POINTS {
            let v = &v[point * job.image_plane()..][..tiles * stride];
            if let Some(columns) = columns {
                pack_columns(s, columns, v, stride, tiles, (job.channels, kc_most), packed);
            }
            let m = &mut m[point * job.product_plane()..][..tiles * product_stride];
            for p in 0..panels {
                let panel = self.points[point].panel(first_panel + p);
                // What comes after this panel: the next one, or the first one of the next point.
                let next = match (p + 1 < panels, self.points.get(point + 1)) {
                    (true, _) => panel.as_ptr().wrapping_add(panel.len()),
                    (false, Some(next)) => next.panel(first_panel).as_ptr(),
                    (false, None) => panel.as_ptr(),
                };
                let mut k0 = 0;
                loop {
                    let kc = kc_most.min(job.channels - k0);
                    for t in 0..row_tiles {
                        let (i, mr) = row_tile::<S>(tiles, t);
                        let call = Call {
                            a: match columns {
                                Some(_) => packed[i * (job.channels + LINE) + mr * k0..][..mr * kc].as_ptr(),
                                None => v[i * stride + k0..][..(mr - 1) * stride + kc].as_ptr(),
                            },
                            a_stride: stride,
                            runs: 1,
                            run_step: 0,
                            b: panel[k0 * S::NR..][..kc * S::NR].as_ptr(),
                            kc,
                            c: m[i * product_stride + p * S::NR..][..(mr - 1) * product_stride + S::NR].as_mut_ptr(),
                            c_stride: product_stride,
                            cols: S::NR,
                            first: k0 == 0,
                            later: Later { start: next.wrapping_add(k0 * S::NR).wrapping_byte_add(t * kc * later_step), step: later_step },
                            finish: None,
                            row: 0,
                            col: 0,
                        };
                        // SAFETY: A has mr rows or columns of kc elements, the panel kc groups of NR, C mr rows of NR (all three were sliced); C was
                        // written by the first block of k unless this is the first.
                        unsafe { kernels[mr - 1][S::NV - 1](s, &call) };
                    }
                    k0 += kc;
                    if k0 >= job.channels {
                        break;
                    }
                }
            }
        }
    }

    /// Aᵀ M A of the tile at (image, y, x), and what follows it.
    #[inline(always)]
    fn transform_product<S: Tile>(&self, s: S, (batch, y, x): (usize, usize, usize), m: &[f32], out: &mut TileMut<'_, f32>) {
        let job = self.job;
        let (lanes, plane) = (S::F32::LANES, job.product_plane());
        let ((row, col), cols) = (out.origin(), out.cols());
        let [height, width] = job.out;
        let (lines, columns) = (STEP.min(height - y), STEP.min(width - x));
        let first = (batch * height + y) * width + x;
        let m = &m[..(POINTS - 1) * plane + cols.next_multiple_of(LINE)];
        let (lo, hi) = self.activation.clamp().unwrap_or((f32::NEG_INFINITY, f32::INFINITY));
        let (lo, hi) = (S::F32::splat(s, lo), S::F32::splat(s, hi));
        let bias = self.bias.map(|b| &b[col..][..cols]);
        if (first - row) + (lines - 1) * width + columns > out.rows() {
            return;
        }
        for c in (0..cols).step_by(lanes) {
            let left = cols - c;
            // SAFETY: `m` was sliced to the end of the last plane's tile, which is a multiple of LINE >= lanes long.
            let pixels = points_to_pixels(s, |p| unsafe { S::F32::load_ptr(s, m.as_ptr().add(p * plane + c)) });
            let bias = bias.map_or(S::F32::splat(s, 0.0), |b| S::F32::load_partial(s, &b[c..]));
            for i in 0..lines {
                for j in 0..columns {
                    let pixel = first + i * width + j;
                    let mut value = pixels[i * STEP + j] + bias;
                    if let Some(r) = &self.residual {
                        // SAFETY: `run_grain` checked that the residual has every pixel's outputs.
                        let x = unsafe { S::F32::load_ptr_partial(s, r.data.as_ptr().add(pixel * r.row_stride + col + c), left) };
                        value = x.mul_add(S::F32::splat(s, r.beta), value);
                    }
                    let value = hi.min(lo.max(value));
                    // SAFETY: the last pixel of the tile lies in `out`, hence this one; `left` of its elements are from column c on.
                    unsafe {
                        let to = out.as_mut_ptr().add((pixel - row) * out.row_stride() + c);
                        if left >= lanes { value.store_ptr(to) } else { value.store_ptr_partial(to, left) }
                    }
                }
            }
        }
        if self.activation.clamp().is_none() {
            for i in 0..lines {
                for j in 0..columns {
                    self.activation.run(s, out.row(first - row + i * width + j));
                }
            }
        }
    }
}
