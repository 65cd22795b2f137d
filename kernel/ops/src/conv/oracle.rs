//! The definition of convolution as loops over everything, for tests.

#![cfg(test)]

use crate::testing::{Case, t};
use alloc::{vec, vec::Vec};
use millstream_graph::Attribute;
use millstream_tensor::Tensor;

/// All of a list attribute, or `n` times the default.
pub(crate) fn list(case: &Case, name: &str, n: usize, default: i64) -> Vec<i64> {
    case.attributes.ints(name).unwrap().cloned().unwrap_or_else(|| vec![default; n])
}

/// The convolution of the case's f32 inputs in f64, rounded once.
pub(crate) fn reference(case: &Case) -> Vec<Tensor> {
    let (x, w) = (case.tensor(0), case.tensor(1));
    let (xd, wd): (Vec<i64>, Vec<i64>) = (x.shape().iter().map(|&d| d as i64).collect(), w.shape().iter().map(|&d| d as i64).collect());
    let n = xd.len() - 2;
    let group = case.int_or("group", 1);
    let (strides, dilations) = (list(case, "strides", n, 1), list(case, "dilations", n, 1));
    let mut pads = list(case, "pads", 2 * n, 0);
    let mut out = vec![xd[0], wd[0]];
    for i in 0..n {
        let reach = (wd[i + 2] - 1) * dilations[i] + 1;
        if let Some(Attribute::String(auto)) = case.attributes.find("auto_pad").filter(|a| **a != Attribute::String("VALID".into())) {
            let o = (xd[i + 2] + strides[i] - 1) / strides[i];
            let total = ((o - 1) * strides[i] + reach - xd[i + 2]).max(0);
            let small = total / 2;
            (pads[i], pads[n + i]) = if auto == "SAME_UPPER" { (small, total - small) } else { (total - small, small) };
        }
        out.push((xd[i + 2] + pads[i] + pads[n + i] - reach) / strides[i] + 1);
    }
    let (x, w) = (x.as_slice::<f32>().unwrap(), w.as_slice::<f32>().unwrap());
    let product = |d: &[i64]| d.iter().product::<i64>();
    let (plane_in, plane_out, taps) = (product(&xd[2..]), product(&out[2..]), product(&wd[2..]));
    let mut y = vec![];
    for image in 0..out[0] {
        for channel in 0..out[1] {
            for o in 0..plane_out {
                let mut sum = case.optional(2).map_or(0.0, |b| f64::from(b.as_slice::<f32>().unwrap()[channel as usize]));
                for c in 0..wd[1] {
                    for tap in 0..taps {
                        let (mut rest_o, mut rest_t, mut at, mut step, mut inside) = (o, tap, 0, 1, true);
                        for i in (0..n).rev() {
                            let p = rest_o % out[i + 2] * strides[i] + rest_t % wd[i + 2] * dilations[i] - pads[i];
                            (rest_o, rest_t) = (rest_o / out[i + 2], rest_t / wd[i + 2]);
                            inside &= (0..xd[i + 2]).contains(&p);
                            at += p * step;
                            step *= xd[i + 2];
                        }
                        if inside {
                            let from = (image * xd[1] + channel / (wd[0] / group) * wd[1] + c) * plane_in + at;
                            sum += f64::from(x[from as usize]) * f64::from(w[((channel * wd[1] + c) * taps + tap) as usize]);
                        }
                    }
                }
                if let Some(r) = case.optional(3) {
                    sum += f64::from(r.as_slice::<f32>().unwrap()[y.len()]);
                }
                y.push(sum as f32);
            }
        }
    }
    vec![t(&out.iter().map(|&d| d as usize).collect::<Vec<_>>(), &y)]
}
