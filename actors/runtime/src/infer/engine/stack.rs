//! Stacking examples along a new first axis, and dividing outputs along it. Examples may be smaller than their row, which
//! is then filled up behind them along any axis, and a part of an output's row may be taken.

use millstream_tensor::{DType, Tensor, TensorError, TensorView};

use super::ragged::element;

/// Stacks tensors of one type and rank into `rows` rows of these dims; the last is repeated where there are too few. What a
/// tensor leaves free of its row holds `padding`.
pub(super) fn stack(parts: &[&Tensor], rows: usize, dims: &[usize], padding: f64) -> Result<Tensor, TensorError> {
    let [first, ..] = parts else { return Err(TensorError::Length { needed: 1, found: 0 }) };
    let all = [&[rows], dims].concat();
    if parts.len() == 1 && rows == 1 && first.shape().dims() == dims {
        return first.reshaped(&all);
    }
    let fits = |part: &Tensor| {
        let own = part.shape().dims();
        part.dtype() == first.dtype() && own.len() == dims.len() && own.iter().zip(dims).all(|(own, dim)| own <= dim)
    };
    if let Some(misfit) = parts.iter().find(|part| !fits(part)) {
        return Err(TensorError::Length { needed: dims.iter().product(), found: misfit.shape().elements() });
    }
    let row = |row: usize| parts[row.min(parts.len() - 1)];
    let elements: usize = dims.iter().product();
    if first.dtype() == DType::String {
        let mut strings = vec![String::new(); elements * rows];
        for (at, to) in strings.chunks_exact_mut(elements.max(1)).enumerate() {
            let part = dense(row(at))?;
            copy(to, dims, part.as_strings()?, part.shape().dims(), 1);
        }
        return Tensor::from_strings(&all, strings);
    }
    let mut stacked = Tensor::zeros(first.dtype(), &all)?;
    let size = first.dtype().size();
    let mut view = stacked.view_mut()?;
    let bytes = view.bytes_mut()?;
    let pattern = element(first.dtype(), padding);
    for (at, to) in bytes.chunks_exact_mut((elements * size).max(1)).enumerate() {
        let part = dense(row(at))?;
        if part.shape().dims() != dims && pattern.iter().any(|byte| *byte != 0) {
            to.chunks_exact_mut(pattern.len()).for_each(|element| element.copy_from_slice(&pattern));
        }
        copy(to, dims, part.view().bytes()?, part.shape().dims(), size);
    }
    Ok(stacked)
}

/// The rows of an output, each without the first axis and cut to what `part` says of it; `None` where it does not have that
/// many.
pub(super) fn rows(output: &Tensor, count: usize, part: impl Fn(usize, &mut [usize])) -> Result<Option<Vec<Tensor>>, TensorError> {
    let [first, rest @ ..] = output.shape().dims() else { return Ok(None) };
    if *first != count {
        return Ok(None);
    }
    let output = dense(output)?;
    let elements: usize = rest.iter().product();
    let size = output.dtype().size();
    let row = |row: usize| {
        let mut dims = rest.to_vec();
        part(row, &mut dims);
        if count == 1 && dims == rest {
            return output.reshaped(rest);
        }
        if output.dtype() == DType::String {
            let mut strings = vec![String::new(); dims.iter().product()];
            copy(&mut strings, &dims, &output.as_strings()?[row * elements..(row + 1) * elements], rest, 1);
            return Tensor::from_strings(&dims, strings);
        }
        let view = output.view();
        let bytes = &view.bytes()?[row * elements * size..(row + 1) * elements * size];
        // Rows of the first axis lie one behind the other.
        if dims.iter().skip(1).eq(rest.iter().skip(1)) {
            return Tensor::from_bytes(output.dtype(), &dims, &bytes[..dims.iter().product::<usize>() * size]);
        }
        let mut cut = Tensor::zeros(output.dtype(), &dims)?;
        copy(cut.view_mut()?.bytes_mut()?, &dims, bytes, rest, size);
        Ok(cut)
    };
    (0..count).map(row).collect::<Result<_, _>>().map(Some)
}

/// The tensor with one of its axes elsewhere among the others, row-major. One that lacks the axis stays as it is.
pub(super) fn with_axis_at(tensor: Tensor, from: usize, to: usize) -> Result<Tensor, TensorError> {
    let rank = tensor.shape().rank();
    if from == to || from >= rank || to >= rank {
        return Ok(tensor);
    }
    let mut axes: Vec<usize> = (0..rank).collect();
    let axis = axes.remove(from);
    axes.insert(to, axis);
    let dims: Vec<usize> = axes.iter().map(|axis| tensor.shape().dims()[*axis]).collect();
    if tensor.shape().dims()[from] == 1 && tensor.view().layout().is_row_major() {
        return tensor.reshaped(&dims);
    }
    let view = tensor.view();
    let layout = view.layout().permuted(&axes);
    Tensor::from_view(match tensor.dtype() {
        DType::String => TensorView::strings(&layout, view.as_strings()?)?,
        dtype => TensorView::new(dtype, &layout, view.bytes()?)?,
    })
}

/// Copies what two row-major blocks have in common, element by element of `size` units.
fn copy<T: Clone>(to: &mut [T], to_dims: &[usize], from: &[T], from_dims: &[usize], size: usize) {
    if to_dims == from_dims {
        to.clone_from_slice(from);
        return;
    }
    let ([to_first, to_rest @ ..], [from_first, from_rest @ ..]) = (to_dims, from_dims) else { return };
    let (to_step, from_step) = (to_rest.iter().product::<usize>() * size, from_rest.iter().product::<usize>() * size);
    if to_step == 0 || from_step == 0 {
        return;
    }
    let common = *to_first.min(from_first);
    if to_rest == from_rest {
        to[..common * to_step].clone_from_slice(&from[..common * to_step]);
        return;
    }
    for (to, from) in to.chunks_exact_mut(to_step).zip(from.chunks_exact(from_step)).take(common) {
        copy(to, to_rest, from, from_rest, size);
    }
}

/// The same tensor, row-major without gaps.
pub(super) fn dense(tensor: &Tensor) -> Result<Tensor, TensorError> {
    if tensor.view().layout().is_row_major() { Ok(tensor.clone()) } else { Tensor::from_view(tensor.view()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(output: &Tensor, count: usize) -> Option<Vec<Tensor>> {
        rows(output, count, |_, _| {}).unwrap()
    }

    #[test]
    fn what_is_stacked_comes_apart_again() {
        let (a, b) = (Tensor::from_slice(&[2], &[1.0f32, 2.0]).unwrap(), Tensor::from_slice(&[2], &[3.0f32, 4.0]).unwrap());
        let both = stack(&[&a, &b], 2, &[2], 0.0).unwrap();
        assert_eq!(both, Tensor::from_slice(&[2, 2], &[1.0f32, 2.0, 3.0, 4.0]).unwrap());
        assert_eq!(whole(&both, 2).unwrap(), [a.clone(), b]);
        assert_eq!(whole(&both, 3), None);
        // Filled up to a fixed batch.
        let filled = stack(&[&a], 3, &[2], 0.0).unwrap();
        assert_eq!(filled, Tensor::from_slice(&[3, 2], &[1.0f32, 2.0, 1.0, 2.0, 1.0, 2.0]).unwrap());
    }

    #[test]
    fn an_axis_goes_elsewhere_and_comes_back() {
        let tensor = Tensor::from_slice(&[2, 3, 1], &[1i32, 2, 3, 4, 5, 6]).unwrap();
        let moved = with_axis_at(tensor.clone(), 0, 2).unwrap();
        assert_eq!(moved, Tensor::from_slice(&[3, 1, 2], &[1i32, 4, 2, 5, 3, 6]).unwrap());
        assert_eq!(with_axis_at(moved, 2, 0).unwrap(), tensor);
        assert_eq!(with_axis_at(tensor.clone(), 2, 0).unwrap(), Tensor::from_slice(&[1, 2, 3], &[1i32, 2, 3, 4, 5, 6]).unwrap());
        assert_eq!(with_axis_at(tensor.clone(), 0, 3).unwrap(), tensor);
        let words = Tensor::from_strings(&[1, 2], vec!["a".into(), "b".into()]).unwrap();
        assert_eq!(with_axis_at(words, 1, 0).unwrap(), Tensor::from_strings(&[2, 1], vec!["a".into(), "b".into()]).unwrap());
    }

    #[test]
    fn strings_and_scalars_and_nothing_stack_too() {
        let text = |t: &str| Tensor::from_strings(&[1], vec![t.to_owned()]).unwrap();
        let both = stack(&[&text("a"), &text("b")], 2, &[1], 0.0).unwrap();
        assert_eq!(whole(&both, 2).unwrap(), [text("a"), text("b")]);
        let scalar = Tensor::scalar(7i64).unwrap();
        assert_eq!(stack(&[&scalar, &scalar], 2, &[], 0.0).unwrap(), Tensor::from_slice(&[2], &[7i64, 7]).unwrap());
        let empty = Tensor::zeros(DType::F32, &[0]).unwrap();
        assert_eq!(whole(&stack(&[&empty, &empty], 2, &[0], 0.0).unwrap(), 2).unwrap(), [empty.clone(), empty]);
    }

    #[test]
    fn shorter_ones_are_filled_up_behind_every_axis_and_cut_back() {
        let wide = Tensor::from_slice(&[1, 3], &[1i32, 2, 3]).unwrap();
        let high = Tensor::from_slice(&[2, 1], &[4i32, 5]).unwrap();
        let both = stack(&[&wide, &high], 2, &[2, 3], -1.0).unwrap();
        assert_eq!(both, Tensor::from_slice(&[2, 2, 3], &[1i32, 2, 3, -1, -1, -1, 4, -1, -1, 5, -1, -1]).unwrap());
        let sizes = [[1, 3], [2, 1]];
        let apart = rows(&both, 2, |row, dims| dims.copy_from_slice(&sizes[row])).unwrap().unwrap();
        assert_eq!(apart, [wide.clone(), high.clone()]);
        let text = |dims: &[usize], words: &[&str]| Tensor::from_strings(dims, words.iter().map(|w| (*w).to_owned()).collect()).unwrap();
        let words = stack(&[&text(&[1], &["a"]), &text(&[2], &["b", "c"])], 2, &[2], 0.0).unwrap();
        assert_eq!(words, text(&[2, 2], &["a", "", "b", "c"]));
        assert_eq!(rows(&words, 2, |row, dims| dims[0] = row + 1).unwrap().unwrap(), [text(&[1], &["a"]), text(&[2], &["b", "c"])]);
        // What does not fit is an error, not cut off.
        assert!(stack(&[&wide, &high], 2, &[1, 3], 0.0).is_err());
        assert!(stack(&[&wide, &Tensor::scalar(1i32).unwrap()], 2, &[1, 3], 0.0).is_err());
    }
}
