//! Convolutions and pools over one or two spatial axes. Candle has one stride and one dilation for all axes; pads are laid
//! around the image first.

use super::{
    Direct, Site, at,
    product::{activate, has},
};
use candle_core::Tensor;
use millstream_graph::Op;
use millstream_ops::{
    conv::conv::Conv,
    pool::{average_pool::AveragePool, global_average_pool::GlobalAveragePool, global_max_pool::GlobalMaxPool, max_pool::MaxPool},
};

pub(super) fn knows(op: &dyn Op) -> bool {
    op.downcast_ref::<Conv>().is_some()
        || op.downcast_ref::<MaxPool>().is_some()
        || op.downcast_ref::<AveragePool>().is_some()
        || op.downcast_ref::<GlobalAveragePool>().is_some()
        || op.downcast_ref::<GlobalMaxPool>().is_some()
}

pub(super) fn select(site: &Site<'_>) -> Option<Direct> {
    if !site.is_float() {
        return None;
    }
    let x = site.dims(0)?;
    let spatial = x.get(2..)?.to_vec();
    if let Some(conv) = site.op.downcast_ref::<Conv>() {
        return convolution(site, conv, &x);
    }
    if site.op.downcast_ref::<GlobalAveragePool>().is_some() {
        let axes: Vec<usize> = (2..x.len()).collect();
        return Direct::new(site.output.bytes(), move |x| at(x, 0)?.mean_keepdim(axes.as_slice()));
    }
    if site.op.downcast_ref::<GlobalMaxPool>().is_some() {
        let axes: Vec<usize> = (2..x.len()).collect();
        return Direct::new(2 * site.input(0)?.bytes(), move |x| axes.iter().try_fold(at(x, 0)?.clone(), |x, &axis| x.max_keepdim(axis)));
    }
    let max = site.op.downcast_ref::<MaxPool>();
    let average = site.op.downcast_ref::<AveragePool>();
    let (windows, kernel) = match (max, average) {
        (Some(p), _) => (p.windows(&spatial).ok()?, p.kernel_shape()),
        (_, Some(p)) => (p.windows(&spatial).ok()?, p.kernel_shape()),
        _ => return None,
    };
    // Windows that end past the input (`ceil_mode`) are none of Candle's.
    let whole =
        |(i, w): (usize, &[usize; 4])| w[1..] == [1, 0, 0] && kernel[i] <= spatial[i] && (spatial[i] - kernel[i]) / w[0] + 1 == site.output.shape()[i + 2];
    if !windows.iter().enumerate().all(whole) {
        return None;
    }
    let (kernel, stride) = match (kernel, windows.as_slice()) {
        (&[h, w], [a, b]) => ((h, w), (a[0], b[0])),
        (&[w], [b]) => ((1, w), (1, b[0])),
        _ => return None,
    };
    let (line, is_max) = (spatial.len() == 1, max.is_some());
    Direct::new(site.output.bytes() + site.input(0)?.bytes(), move |x| {
        let x = if line { at(x, 0)?.unsqueeze(2)? } else { at(x, 0)?.clone() };
        let y = if is_max { x.max_pool2d_with_stride(kernel, stride)? } else { x.avg_pool2d_with_stride(kernel, stride)? };
        if line { y.squeeze(2) } else { Ok(y) }
    })
}

fn convolution(site: &Site<'_>, conv: &Conv, x: &[usize]) -> Option<Direct> {
    let w = site.dims(1)?;
    let windows = conv.windows(&x[2..], &w[2..]).ok()?;
    let [stride, dilation, ..] = *windows.first()?;
    if windows.len() > 2 || !windows.iter().all(|w| w[..2] == [stride, dilation]) || !has(conv.activation()) {
        return None;
    }
    let (group, residual, activation) = (conv.group(), conv.has_residual(), conv.activation());
    let size = site.output.dtype.size();
    let padded: usize = x[..2].iter().product::<usize>() * x[2..].iter().zip(&windows).map(|(d, w)| d + w[2] + w[3]).product::<usize>() * size;
    let pixels: usize = site.output.shape()[2..].iter().product();
    let columns = x[0] * x[1] * w[2..].iter().product::<usize>() * pixels * size;
    Direct::new(3 * padded + 2 * columns + 2 * site.input(1)?.bytes() + 4 * site.output.bytes(), move |inputs| {
        let mut x: Tensor = at(inputs, 0)?.clone();
        for (i, &[.., before, after]) in windows.iter().enumerate() {
            if before + after > 0 {
                x = x.pad_with_zeros(i + 2, before, after)?;
            }
        }
        let w = at(inputs, 1)?;
        let mut y = if windows.len() == 1 { x.conv1d(w, 0, stride, dilation, group)? } else { x.conv2d(w, 0, stride, dilation, group)? };
        if let Some(bias) = inputs.get(2).copied().flatten() {
            let mut dims = vec![1; y.rank()];
            dims[1] = bias.elem_count();
            y = y.broadcast_add(&bias.reshape(dims)?)?;
        }
        if residual {
            y = y.add(at(inputs, 3)?)?;
        }
        activate(y, activation)
    })
}
