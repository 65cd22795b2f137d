//! One run: the inputs of a batch put together, and its outputs taken apart.

use millstream_engine::{Request, Workspace};
use millstream_tensor::{Tensor, TensorError, Value};

use super::{
    Batching, EngineModel, Made, axis_of, failed,
    ragged::{Length, mask_row},
    stack::{rows, stack, with_axis_at},
};
use crate::error::StageError;

/// The lengths of a batch's examples: the batch's own, and each example's.
pub(super) struct Lengths {
    pub(super) padded: Vec<usize>,
    pub(super) own: Vec<Vec<usize>>,
}

impl EngineModel {
    /// Where an example's tensor stands in the signature.
    pub(super) fn place(&self, column: usize) -> usize {
        self.made.iter().fold(column, |place, (index, _)| place + usize::from(*index <= place))
    }

    /// The first axis that has this length, among an example's own tensors.
    pub(super) fn own_length(&self, length: &Length, example: &[Tensor]) -> Option<usize> {
        let (input, axis, _) = length.pads.first()?;
        let column = (0..example.len()).find(|column| self.place(*column) == *input)?;
        example[column].shape().dims().get(*axis).copied()
    }

    pub(super) fn lengths(&self, batch: &[&Vec<Tensor>]) -> Lengths {
        let own: Vec<Vec<usize>> =
            self.lengths.iter().map(|length| batch.iter().map(|example| self.own_length(length, example).unwrap_or(0)).collect()).collect();
        let padded = own.iter().zip(&self.lengths).map(|(own, length)| length.padded(own.iter().copied().max().unwrap_or(0))).collect();
        Lengths { padded, own }
    }

    /// The dims of a row of this input: those of the examples, but for the axes that are padded; and the padding.
    pub(super) fn row_dims(&self, input: usize, dims: &[usize], lengths: &Lengths) -> (Vec<usize>, f64) {
        let mut dims = dims.to_vec();
        let mut padding = 0.0;
        for (axis, dim) in dims.iter_mut().enumerate() {
            if let Some((value, padded)) = self.lengths.iter().zip(&lengths.padded).find_map(|(l, padded)| Some((l.pad(input, axis)?, *padded))) {
                (*dim, padding) = (padded, value);
            }
        }
        (dims, padding)
    }

    /// The inputs of one run, in the signature's order.
    fn inputs(&self, batch: &[&Vec<Tensor>], lengths: &Lengths) -> Result<Vec<Value>, TensorError> {
        let columns = batch.first().map_or(0, |example| example.len());
        let mut values = Vec::with_capacity(columns + self.made.len());
        for column in 0..columns {
            let parts: Vec<&Tensor> = batch.iter().filter_map(|example| example.get(column)).collect();
            let dims = parts.first().map_or(&[][..], |part| part.shape().dims());
            let place = self.place(column);
            let (dims, padding) = self.row_dims(place, dims, lengths);
            let rows = self.run_rows(batch.len());
            let value = match self.batching {
                Batching::None => stack(&parts, 1, &dims, padding)?.reshaped(&dims)?,
                _ => with_axis_at(stack(&parts, rows, &dims, padding)?, 0, axis_of(&self.input_axes, place))?,
            };
            values.push(Value::Tensor(value));
        }
        for (index, made) in &self.made {
            let value = match made {
                Made::Shared(tensor) => tensor.clone(),
                Made::Mask(length, dtype) => {
                    let padded = lengths.padded[*length];
                    let masks: Vec<Tensor> = lengths.own[*length].iter().map(|own| mask_row(*dtype, *own, padded)).collect::<Result<_, _>>()?;
                    let masks: Vec<&Tensor> = masks.iter().collect();
                    match (self.batching, masks.as_slice()) {
                        (Batching::None, [only, ..]) => (*only).clone(),
                        _ => stack(&masks, self.run_rows(batch.len()), &[padded], 0.0)?,
                    }
                }
            };
            values.insert((*index).min(values.len()), Value::Tensor(value));
        }
        Ok(values)
    }

    /// An error where inputs of one example that share a length differ in it.
    fn check(&self, batch: &[&Vec<Tensor>], lengths: &Lengths) -> Result<(), StageError> {
        for (length, own) in self.lengths.iter().zip(&lengths.own) {
            for (example, own) in batch.iter().zip(own) {
                for (column, tensor) in example.iter().enumerate() {
                    let place = self.place(column);
                    for (_, axis, _) in length.pads.iter().filter(|pad| pad.0 == place) {
                        let found = tensor.shape().dims().get(*axis);
                        if found != Some(own) {
                            let name = &self.executable.signature().inputs[place].name;
                            return Err(StageError::permanent(format!("axis {axis} of `{name}` is {found:?}, where the example's length is {own}")));
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// One run: an output per example, or `None` where the outputs have no batch axis.
    pub(super) fn run_stacked(&self, workspace: &mut Workspace, batch: &[&Vec<Tensor>]) -> Result<Option<Vec<Vec<Tensor>>>, StageError> {
        let lengths = self.lengths(batch);
        self.check(batch, &lengths)?;
        let inputs = self.inputs(batch, &lengths)?;
        let outputs = self.executable.run(workspace, Request::new(&inputs)).map_err(failed)?;
        let mut results: Vec<Vec<Tensor>> = batch.iter().map(|_| Vec::with_capacity(outputs.len())).collect();
        for (index, output) in outputs.into_iter().enumerate() {
            let Some(output) = output else { continue };
            let mut output = output.into_tensor()?;
            if self.batching != Batching::None {
                output = with_axis_at(output, axis_of(&self.output_axes, index), 0)?;
            }
            let cuts = || {
                self.lengths.iter().zip(lengths.padded.iter().zip(&lengths.own)).map(move |(length, (padded, own))| {
                    let axes = length.cuts.iter().filter(move |cut| cut.0 == index).map(|cut| cut.1);
                    (axes, *padded, own)
                })
            };
            let batched = usize::from(self.batching != Batching::None);
            for (axes, padded, _) in cuts() {
                for axis in axes {
                    let found = output.shape().dims().get(axis + batched);
                    if found != Some(&padded) {
                        let name = &self.executable.signature().outputs[index].name;
                        return Err(StageError::permanent(format!("axis {axis} of `{name}` is {found:?}, where the batch's length is {padded}")));
                    }
                }
            }
            let cut = |row: usize, dims: &mut [usize]| {
                for (axes, _, own) in cuts() {
                    axes.for_each(|axis| dims[axis] = own.get(row).or(own.last()).copied().unwrap_or(0));
                }
            };
            if self.batching == Batching::None {
                if let [result] = results.as_mut_slice() {
                    let row = output.reshaped(&[&[1], output.shape().dims()].concat())?;
                    result.extend(rows(&row, 1, cut)?.into_iter().flatten());
                }
                continue;
            }
            match rows(&output, self.run_rows(batch.len()), cut)? {
                Some(parts) => results.iter_mut().zip(parts).for_each(|(result, part)| result.push(part)),
                // One example gets what the model says about it, whatever its shape.
                None => match results.as_mut_slice() {
                    [result] => result.push(output),
                    _ => return Ok(None),
                },
            }
        }
        Ok(Some(results))
    }

    pub(super) fn run_alone(&self, workspace: &mut Workspace, batch: &[&Vec<Tensor>]) -> Result<Vec<Vec<Tensor>>, StageError> {
        let mut results = Vec::with_capacity(batch.len());
        for example in batch {
            results.extend(self.run_stacked(workspace, &[*example])?.into_iter().flatten());
        }
        Ok(results)
    }
}
