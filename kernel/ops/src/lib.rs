//! millstream's operators: one file each, in the folder of its family, and one word in the list below.
//!
//! An operator's file holds, in this order: what it computes and how; `DEF`, its schema and constructor; the operator with
//! `infer` and `eval`; the fast kernel; and, for tests, an obvious `reference` with cases for `op_tests!`.
//! `docs/adding-an-operator.md` walks through one.
//!
//! Conventions: floats are computed as f32 (f64 for f64); f16 and bf16 are widened, computed, and rounded once.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;
#[cfg(test)]
extern crate std;

#[macro_use]
mod numeric;
#[cfg(test)]
#[macro_use]
mod testing;
mod carve;
mod grains;

use millstream_graph::{OpDef, Registry};

/// Declares the operators' modules and the list of their definitions. Names after `;` are modules that
/// several operators share.
macro_rules! operators {
    ($($(#[$doc:meta])* $family:ident { $($op:ident),* $(,)? $(; $($shared:ident),* $(,)?)? })*) => {
        $( $(#[$doc])* pub mod $family {
            $( pub mod $op; )*
            $( $( pub(crate) mod $shared; )* )?
        } )*
        /// Every operator's definition.
        pub const ALL: &[&OpDef] = &[ $( $( &$family::$op::DEF, )* )* ];
    };
}

operators! {
    /// One output element from the input elements at the same place.
    elementwise {
        abs, acos, acosh, add, and, asin, asinh, atan, atanh, bit_shift, bitwise_and, bitwise_not, bitwise_or, bitwise_xor, cast,
        cast_like, ceil, celu, clip, cos, cosh, div, elu, equal, erf, exp, floor, gelu, greater, greater_or_equal, hard_sigmoid,
        hard_swish, is_inf, is_nan, leaky_relu, less, less_or_equal, log, max, mean, min, mish, modulo, mul, neg, not, or, pow, prelu,
        reciprocal, relu, round, selu, shrink, sigmoid, sign, sin, sinh, softplus, softsign, sqrt, sub, sum, swish, tan, tanh,
        thresholded_relu, where_select, xor
        ; casting, compare, map, walk, zip
    }
    /// Elements along axes joined to one.
    reduce { sum, mean, max, min, prod, l1, l2, log_sum, log_sum_exp, sum_square, argmax, argmin; arg, axes, kernel }
    /// Statistics along axes, and elements scaled by them.
    norm {
        softmax, log_softmax, hardmax, layer_normalization, rms_normalization, batch_normalization, dropout,
        instance_normalization, group_normalization
        ; lines, planes, rows
    }
    /// Integers that stand for floats.
    quantize {
        quantize_linear, dequantize_linear, dynamic_quantize_linear, matmul_integer, fused_matmul_integer, qlinear_matmul, qlinear_add, conv_integer,
        qlinear_conv, mat_mul_n_bits
        ; convolution, linear, packed, product
    }
    /// Sliding windows and weights.
    conv { conv, conv_transpose, fused_conv; depthwise, direct, disjoint, fast, gather, geometry, oracle, planar, reorder, weights, winograd }
    /// Products of matrices.
    matmul { mat_mul, fused_mat_mul, gemm; activation, batched, direct, number, oracle, product }
    /// Softmaxes of products that weigh values.
    attention { fused_attention, scaled_dot_product, rotary_embedding; heads, operands, printed }
    /// Images sampled at other places.
    resize { resize, upsample; coordinate, pass }
    /// Windows and planes reduced to one element.
    pool { max_pool, average_pool, lp_pool, global_average_pool, global_max_pool, global_lp_pool; global, window }
    /// Shapes as values, and values under another shape.
    shape { shape_of, size, constant, constant_of_shape, eye_like, range, reshape, flatten, squeeze, unsqueeze; relabel }
    /// Elements that move without changing.
    movement {
        identity, transpose, concat, split, slice, gather, expand, pad, tile, depth_to_space, space_to_depth, gather_elements, gather_nd,
        scatter_elements, scatter_old, scatter_nd, trilu, reverse_sequence, tensor_scatter, center_crop_pad; strided, flat, index, pick, scatter, typed
    }
    /// Elements that are looked for, counted and summed up.
    select { one_hot, top_k, cum_sum, non_zero, compress, unique, non_max_suppression, det }
    /// Images read and written between their elements' places.
    sample { grid_sample, affine_grid, col2im }
    /// Subgraphs.
    control { if_ }
    /// Layers that carry a state from step to step.
    recurrent { lstm, gru, rnn; activation, layer }
}

/// A registry with every operator of this crate.
pub fn registry() -> Registry {
    let mut registry = Registry::new();
    for def in ALL {
        registry.add(def);
    }
    registry
}
