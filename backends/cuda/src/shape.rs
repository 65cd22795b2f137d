//! The structures that kernels take by value, as kernels/README.md and the heads of kernels/*.cu state them: no holes.

use bytemuck::{Pod, Zeroable};

/// The most axes that a walk has.
pub(crate) const MOST_AXES: usize = 6;

/// A walk over a tensor through `OPERANDS` operands with strides of their own, in elements.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Walk<const OPERANDS: usize> {
    pub(crate) rank: i64,
    pub(crate) size: [i64; MOST_AXES],
    pub(crate) stride: [[i64; MOST_AXES]; OPERANDS],
}

impl<const OPERANDS: usize> Walk<OPERANDS> {
    /// The structure's words, in its order.
    pub(crate) fn words(&self) -> Vec<u64> {
        let axes = self.size.iter().chain(self.stride.iter().flatten());
        std::iter::once(&self.rank).chain(axes).map(|&w| w as u64).collect()
    }
}

#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Pod, Zeroable)]
pub(crate) struct Gemm {
    pub(crate) batch: i64,
    pub(crate) m: i64,
    pub(crate) n: i64,
    pub(crate) k: i64,
    pub(crate) a_batch: i64,
    pub(crate) a_row: i64,
    pub(crate) a_column: i64,
    pub(crate) b_batch: i64,
    pub(crate) b_row: i64,
    pub(crate) b_column: i64,
    pub(crate) c_batch: i64,
    pub(crate) c_row: i64,
    pub(crate) residual_batch: i64,
    pub(crate) residual_row: i64,
    /// 0 none, 1 one element a column, 2 one element a row.
    pub(crate) bias: i32,
    pub(crate) activation: i32,
    pub(crate) scale: f32,
    pub(crate) alpha: f32,
    pub(crate) beta: f32,
    /// C pads the structure to its alignment.
    pub(crate) end: i32,
}

#[repr(C)]
#[derive(Debug, Clone, Copy, Default, Pod, Zeroable)]
pub(crate) struct Conv {
    pub(crate) batch: i64,
    pub(crate) channels: i64,
    pub(crate) height: i64,
    pub(crate) width: i64,
    pub(crate) outputs: i64,
    pub(crate) out_height: i64,
    pub(crate) out_width: i64,
    pub(crate) group_channels: i64,
    pub(crate) group_outputs: i64,
    pub(crate) kernel_height: i32,
    pub(crate) kernel_width: i32,
    pub(crate) stride_y: i32,
    pub(crate) stride_x: i32,
    pub(crate) pad_top: i32,
    pub(crate) pad_left: i32,
    pub(crate) dilation_y: i32,
    pub(crate) dilation_x: i32,
    pub(crate) activation: i32,
    pub(crate) reserved: i32,
    pub(crate) alpha: f32,
    pub(crate) beta: f32,
}

#[repr(C)]
#[derive(Debug, Clone, Copy, Default, Pod, Zeroable)]
pub(crate) struct Pool {
    pub(crate) planes: i64,
    pub(crate) height: i64,
    pub(crate) width: i64,
    pub(crate) out_height: i64,
    pub(crate) out_width: i64,
    pub(crate) kernel_height: i32,
    pub(crate) kernel_width: i32,
    pub(crate) stride_y: i32,
    pub(crate) stride_x: i32,
    pub(crate) pad_top: i32,
    pub(crate) pad_left: i32,
    pub(crate) pad_bottom: i32,
    pub(crate) pad_right: i32,
    pub(crate) dilation_y: i32,
    pub(crate) dilation_x: i32,
    pub(crate) count_padding: i32,
    pub(crate) reserved: i32,
}

#[repr(C)]
#[derive(Debug, Clone, Copy, Default, Pod, Zeroable)]
pub(crate) struct Attention {
    pub(crate) batch: i64,
    pub(crate) heads: i64,
    pub(crate) kv_heads: i64,
    pub(crate) queries: i64,
    pub(crate) keys: i64,
    pub(crate) size: i64,
    pub(crate) value_size: i64,
    /// Strides of batch, head and row.
    pub(crate) q: [i64; 3],
    pub(crate) k: [i64; 3],
    pub(crate) v: [i64; 3],
    pub(crate) y: [i64; 3],
    pub(crate) mask_strides: [i64; 3],
    pub(crate) past: i64,
    pub(crate) window: i64,
    /// 0 none, 1 added to scores, 2 bytes of which 0 hides.
    pub(crate) mask: i32,
    pub(crate) causal: i32,
    /// What a query gives whose scores are all -∞: 0 zeros, 1 NaN.
    pub(crate) blind: i32,
    pub(crate) reserved: i32,
    pub(crate) scale: f32,
    pub(crate) softcap: f32,
}

#[repr(C)]
#[derive(Debug, Clone, Copy, Default, Pod, Zeroable)]
pub(crate) struct Rotary {
    pub(crate) batch: i64,
    pub(crate) heads: i64,
    pub(crate) length: i64,
    pub(crate) size: i64,
    /// Elements of a head that turn.
    pub(crate) rotated: i64,
    /// Strides of batch, head and row.
    pub(crate) x: [i64; 3],
    pub(crate) y: [i64; 3],
    pub(crate) table_rows: i64,
    pub(crate) table_row: i64,
    pub(crate) positions_batch: i64,
    pub(crate) first: i64,
    pub(crate) interleaved: i32,
    pub(crate) reserved: i32,
}

#[repr(C)]
#[derive(Debug, Clone, Copy, Default, Pod, Zeroable)]
pub(crate) struct Append {
    pub(crate) batch: i64,
    pub(crate) heads: i64,
    pub(crate) length: i64,
    pub(crate) size: i64,
    /// Strides of batch, head and row.
    pub(crate) x: [i64; 3],
    pub(crate) cache: [i64; 3],
    pub(crate) capacity: i64,
    pub(crate) first: i64,
    pub(crate) circular: i32,
    pub(crate) reserved: i32,
}

#[repr(C)]
#[derive(Debug, Clone, Copy, Default, Pod, Zeroable)]
pub(crate) struct Linear {
    pub(crate) m: i64,
    pub(crate) n: i64,
    pub(crate) k: i64,
    pub(crate) activation: i32,
    /// Where scales are for blocks: for 32 << shift weights of 4 bits, 16 << shift of 8.
    pub(crate) shift: i32,
    pub(crate) alpha: f32,
    pub(crate) beta: f32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ptx::entry;

    #[test]
    fn structures_are_as_large_as_the_ptx_says() {
        let sizes: [(&str, usize, usize); 10] = [
            ("copy_strided_b4", 3, size_of::<Walk<2>>()),
            ("binary_strided_f32", 5, size_of::<Walk<2>>()),
            ("where_strided_b4", 5, size_of::<Walk<3>>()),
            ("gemm_f32", 5, size_of::<Gemm>()),
            ("conv2d_tiled_f32", 5, size_of::<Conv>()),
            ("average_pool2d_f32", 2, size_of::<Pool>()),
            ("attention_d64_f32", 6, size_of::<Attention>()),
            ("rotary_f32", 5, size_of::<Rotary>()),
            ("cache_append_b4", 3, size_of::<Append>()),
            ("linear_int8_rows_f32", 6, size_of::<Linear>()),
        ];
        for (kernel, argument, bytes) in sizes {
            assert_eq!(entry(kernel).unwrap().arguments[argument], bytes, "{kernel}");
        }
        assert_eq!(Walk::<3> { rank: 1, size: [1; 6], stride: [[2; 6]; 3] }.words().len() * 8, size_of::<Walk<3>>());
    }
}
