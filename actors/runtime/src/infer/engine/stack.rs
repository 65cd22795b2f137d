//! Stacking examples along a new first axis, and dividing outputs along it.

use millstream_tensor::{DType, Tensor, TensorError};

/// Stacks tensors of one type and shape into `rows` rows; the last is repeated where there are too few.
pub(super) fn stack(parts: &[&Tensor], rows: usize) -> Result<Tensor, TensorError> {
    let [first, ..] = parts else { return Err(TensorError::Length { needed: 1, found: 0 }) };
    let dims = [&[rows], first.shape().dims()].concat();
    if parts.len() == 1 && rows == 1 {
        return first.reshaped(&dims);
    }
    let parts = (0..rows).map(|row| parts[row.min(parts.len() - 1)]);
    if first.dtype() == DType::String {
        let mut strings = Vec::with_capacity(first.shape().elements() * rows);
        for part in parts {
            strings.extend_from_slice(dense(part)?.as_strings()?);
        }
        return Tensor::from_strings(&dims, strings);
    }
    let mut stacked = Tensor::zeros(first.dtype(), &dims)?;
    let row_bytes = first.shape().elements() * first.dtype().size();
    let mut view = stacked.view_mut()?;
    let bytes = view.bytes_mut()?;
    if row_bytes > 0 {
        for (to, part) in bytes.chunks_exact_mut(row_bytes).zip(parts) {
            let part = dense(part)?;
            let from = part.view().bytes()?;
            let from = from.get(..row_bytes).filter(|_| part.dtype() == first.dtype());
            to.copy_from_slice(from.ok_or(TensorError::Length { needed: row_bytes, found: part.bytes_len() })?);
        }
    }
    Ok(stacked)
}

/// The rows of an output, each without the first axis; `None` where it does not have that many.
pub(super) fn rows(output: &Tensor, count: usize) -> Result<Option<Vec<Tensor>>, TensorError> {
    let [first, rest @ ..] = output.shape().dims() else { return Ok(None) };
    if *first != count {
        return Ok(None);
    }
    let output = dense(output)?;
    if count == 1 {
        return Ok(Some(vec![output.reshaped(rest)?]));
    }
    let elements: usize = rest.iter().product();
    if output.dtype() == DType::String {
        let strings = output.as_strings()?;
        let row = |row: usize| Tensor::from_strings(rest, strings[row * elements..(row + 1) * elements].to_vec());
        return (0..count).map(row).collect::<Result<_, _>>().map(Some);
    }
    let row_bytes = elements * output.dtype().size();
    let view = output.view();
    let bytes = view.bytes()?;
    let row = |row: usize| Tensor::from_bytes(output.dtype(), rest, &bytes[row * row_bytes..(row + 1) * row_bytes]);
    (0..count).map(row).collect::<Result<_, _>>().map(Some)
}

/// The same tensor, row-major without gaps.
fn dense(tensor: &Tensor) -> Result<Tensor, TensorError> {
    if tensor.view().layout().is_row_major() { Ok(tensor.clone()) } else { Tensor::from_view(tensor.view()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stacked_comes_apart_again() {
        let (a, b) = (Tensor::from_slice(&[2], &[1.0f32, 2.0]).unwrap(), Tensor::from_slice(&[2], &[3.0f32, 4.0]).unwrap());
        let both = stack(&[&a, &b], 2).unwrap();
        assert_eq!(both, Tensor::from_slice(&[2, 2], &[1.0f32, 2.0, 3.0, 4.0]).unwrap());
        assert_eq!(rows(&both, 2).unwrap().unwrap(), [a.clone(), b]);
        assert_eq!(rows(&both, 3).unwrap(), None);
        // Filled up to a fixed batch.
        let filled = stack(&[&a], 3).unwrap();
        assert_eq!(filled, Tensor::from_slice(&[3, 2], &[1.0f32, 2.0, 1.0, 2.0, 1.0, 2.0]).unwrap());
    }

    #[test]
    fn strings_and_scalars_and_nothing_stack_too() {
        let text = |t: &str| Tensor::from_strings(&[1], vec![t.to_owned()]).unwrap();
        let both = stack(&[&text("a"), &text("b")], 2).unwrap();
        assert_eq!(rows(&both, 2).unwrap().unwrap(), [text("a"), text("b")]);
        let scalar = Tensor::scalar(7i64).unwrap();
        assert_eq!(stack(&[&scalar, &scalar], 2).unwrap(), Tensor::from_slice(&[2], &[7i64, 7]).unwrap());
        let empty = Tensor::zeros(DType::F32, &[0]).unwrap();
        assert_eq!(rows(&stack(&[&empty, &empty], 2).unwrap(), 2).unwrap().unwrap(), [empty.clone(), empty]);
    }
}
