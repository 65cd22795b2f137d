//! Convolutions and pools over one or two spatial axes.

use super::{Site, activation, product::finished};
use crate::{
    call::{Argument, Calls},
    shape,
};
use millstream_graph::Op;
use millstream_ops::{
    conv::conv::Conv,
    pool::{average_pool::AveragePool, max_pool::MaxPool},
};

/// Output channels of a group from which the tiled kernel pays.
const TILED_GROUP: usize = 8;

pub(super) fn knows(op: &dyn Op) -> bool {
    op.downcast_ref::<Conv>().is_some() || op.downcast_ref::<MaxPool>().is_some() || op.downcast_ref::<AveragePool>().is_some()
}

pub(super) fn select(site: &Site<'_>) -> Option<Calls> {
    let x = site.dims(0)?;
    if let Some(conv) = site.op.downcast_ref::<Conv>() {
        return convolution(site, conv);
    }
    let spatial = x.get(2..)?;
    let (name, windows, kernel, count_padding) = match site.op.downcast_ref::<MaxPool>() {
        Some(pool) => ("max_pool2d", pool.windows(spatial).ok()?, pool.kernel_shape(), false),
        None => {
            let pool = site.op.downcast_ref::<AveragePool>()?;
            ("average_pool2d", pool.windows(spatial).ok()?, pool.kernel_shape(), pool.counts_pads())
        }
    };
    let y = site.output()?.shape().dims();
    let ([height, width], [out_height, out_width]) = (plane(spatial)?, plane(&y[2..])?);
    let [kernel_height, kernel_width] = plane(kernel)?.map(|k| k as i32);
    let [down, across] = both(&windows)?;
    let shape = shape::Pool {
        planes: (x[0] * x[1]) as i64,
        height,
        width,
        out_height,
        out_width,
        kernel_height,
        kernel_width,
        stride_y: down[0],
        stride_x: across[0],
        pad_top: down[2],
        pad_left: across[2],
        pad_bottom: down[3],
        pad_right: across[3],
        dilation_y: down[1],
        dilation_x: across[1],
        count_padding: i32::from(count_padding),
        reserved: 0,
    };
    let elements = site.output()?.shape().elements();
    Some(Calls::new().call(
        format!("{name}_{}", site.float()?),
        elements,
        256,
        vec![Argument::Input(0, 0), Argument::Output(0, 0), Argument::structure(&shape)],
    ))
}

/// Height and width; one axis has a height of 1.
fn plane(spatial: &[usize]) -> Option<[i64; 2]> {
    match *spatial {
        [width] => Some([1, width as i64]),
        [height, width] => Some([height as i64, width as i64]),
        _ => None,
    }
}

/// Stride, dilation and pads down and across.
fn both(windows: &[[usize; 4]]) -> Option<[[i32; 4]; 2]> {
    let numbers = |w: &[usize; 4]| w.map(|n| n as i32);
    match windows {
        [across] => Some([[1, 1, 0, 0], numbers(across)]),
        [down, across] => Some([numbers(down), numbers(across)]),
        _ => None,
    }
}

fn convolution(site: &Site<'_>, conv: &Conv) -> Option<Calls> {
    let (x, w, y) = (site.dims(0)?, site.dims(1)?, site.output()?.shape().dims());
    let windows = conv.windows(x.get(2..)?, w.get(2..)?).ok()?;
    let ([height, width], [out_height, out_width], [kernel_height, kernel_width]) = (plane(&x[2..])?, plane(&y[2..])?, plane(&w[2..])?);
    let ([down, across], groups) = (both(&windows)?, conv.group());
    let (group_channels, group_outputs) = (w[1], w[0] / groups.max(1));
    let residual = conv.has_residual();
    let (number, alpha, beta) = if residual { (0, 0.0, 0.0) } else { activation(conv.activation())? };
    let shape = shape::Conv {
        batch: x[0] as i64,
        channels: x[1] as i64,
        height,
        width,
        outputs: w[0] as i64,
        out_height,
        out_width,
        group_channels: group_channels as i64,
        group_outputs: group_outputs as i64,
        kernel_height: kernel_height as i32,
        kernel_width: kernel_width as i32,
        stride_y: down[0],
        stride_x: across[0],
        pad_top: down[2],
        pad_left: across[2],
        dilation_y: down[1],
        dilation_x: across[1],
        activation: number,
        reserved: 0,
        alpha,
        beta,
    };
    let optional = |i: usize| if site.input(i).is_some() { Argument::Input(i, 0) } else { Argument::Null };
    let arguments =
        vec![Argument::Input(0, 0), Argument::Input(1, 0), optional(2), if residual { Argument::Input(3, 0) } else { Argument::Null }, Argument::Output(0, 0)];
    let arguments = arguments.into_iter().chain([Argument::structure(&shape)]).collect();
    let (places, dtype) = ((out_height * out_width) as usize, site.float()?);
    let calls = if group_channels == 1 && groups > 1 {
        let window = (kernel_height * kernel_width) as usize;
        Calls::new().call(format!("conv2d_depthwise_{dtype}"), x[0] * w[0] * places.div_ceil(1024), 1, arguments).shared(4 * window)
    } else if group_outputs >= TILED_GROUP {
        let tiles = x[0] * groups * group_outputs.div_ceil(64) * places.div_ceil(64);
        Calls::new().call(format!("conv2d_tiled_{dtype}"), tiles, 1, arguments)
    } else {
        Calls::new().call(format!("conv2d_direct_{dtype}"), x[0] * w[0] * places, 256, arguments)
    };
    finished(calls, site.output()?, residual, conv.activation())
}
