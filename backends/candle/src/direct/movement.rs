//! Elements that move without changing.

use super::{Direct, Site, at};
use candle_core::{DType, Result, Tensor};
use millstream_graph::{InferCx, Op};
use millstream_ops::movement::{concat::Concat, gather::Gather, transpose::Transpose};

pub(super) fn knows(op: &dyn Op) -> bool {
    op.downcast_ref::<Transpose>().is_some() || op.downcast_ref::<Concat>().is_some() || op.downcast_ref::<Gather>().is_some()
}

pub(super) fn select(site: &Site<'_>) -> Option<Direct> {
    let output = site.output.shape().dims().to_vec();
    let copy = site.output.bytes();
    if site.op.is_alias() {
        return Direct::new(copy, move |x| at(x, 0)?.reshape(output.as_slice()));
    }
    let rank = site.input(0)?.shape().rank();
    if let Some(transpose) = site.op.downcast_ref::<Transpose>() {
        let perm = transpose.perm(rank)?;
        return Direct::new(copy, move |x| at(x, 0)?.permute(perm.as_slice()));
    }
    if let Some(concat) = site.op.downcast_ref::<Concat>() {
        let axis = InferCx::axis(concat.axis(), rank).ok()?;
        return Direct::new(2 * copy, move |x| {
            let parts: Vec<&Tensor> = x.iter().flatten().copied().collect();
            Tensor::cat(&parts, axis)
        });
    }
    let gather = site.op.downcast_ref::<Gather>()?;
    let axis = InferCx::axis(gather.axis(), rank).ok()?;
    let indices = site.input(1)?.bytes();
    Direct::new(2 * indices + site.input(0)?.bytes(), move |x| {
        let (data, picks) = (at(x, 0)?.contiguous()?, at(x, 1)?);
        let picks = from_front(picks, data.dims()[axis])?;
        data.index_select(&picks, axis)?.reshape(output.as_slice())
    })
}

/// Indices as a vector, counted from the front; an error if one is out of range.
fn from_front(indices: &Tensor, extent: usize) -> Result<Tensor> {
    let n = extent as i64;
    let indices = indices.flatten_all()?;
    let mut picks: Vec<i64> = match indices.dtype() {
        DType::I32 => indices.to_vec1::<i32>()?.into_iter().map(i64::from).collect(),
        _ => indices.to_vec1()?,
    };
    for p in &mut picks {
        if *p < 0 {
            *p += n;
        }
        if !(0..n).contains(p) {
            candle_core::bail!("an index is out of range: {p} against {n}");
        }
    }
    let len = picks.len();
    Tensor::from_vec(picks, len, indices.device())
}
