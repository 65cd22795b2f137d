//! The obvious recurrent layer, element by element, for the references of LSTM, GRU and RNN.

use super::{Case, t};
use crate::recurrent::activation::Activation;
use alloc::{vec, vec::Vec};
use millstream_tensor::Tensor;

/// A case of a recurrent layer.
pub(crate) struct Oracle<'c> {
    case: &'c Case,
    gates: usize,
    pub(crate) hidden: usize,
    defaults: &'c [Activation],
}

/// One direction of it.
pub(crate) struct CellOf<'c> {
    oracle: &'c Oracle<'c>,
    direction: usize,
}

impl<'c> Oracle<'c> {
    pub(crate) fn new(case: &'c Case, gates: usize, defaults: &'c [Activation]) -> Oracle<'c> {
        Oracle { case, gates, hidden: case.tensor(2).shape()[2], defaults }
    }

    /// Runs the layer; `step` gives the new hidden state from (cell, x, h, c).
    pub(crate) fn run(&self, memory: bool, step: impl Fn(&CellOf<'_>, &[f32], &[f32], &mut [f32]) -> Vec<f32>) -> Vec<Tensor> {
        let (case, n) = (self.case, self.hidden);
        let x = case.tensor(0);
        let batch_first = case.int_or("layout", 0) == 1;
        let (steps, batch) = if batch_first { (x.shape()[1], x.shape()[0]) } else { (x.shape()[0], x.shape()[1]) };
        let (input, directions) = (x.shape()[2], case.tensor(1).shape()[0]);
        let data = x.as_slice::<f32>().unwrap();
        let mut y = vec![0.0f32; steps * directions * batch * n];
        let (mut last_h, mut last_c) = (vec![0.0f32; directions * batch * n], vec![0.0f32; directions * batch * n]);
        for dir in 0..directions {
            let backwards = dir == 1 || case.attributes.string_or("direction", "forward").unwrap() == "reverse";
            for b in 0..batch {
                let at = (if batch_first { b * directions + dir } else { dir * batch + b }) * n;
                let first = |i: usize| case.optional(i).map_or(vec![0.0; n], |s| s.as_slice::<f32>().unwrap()[at..at + n].to_vec());
                let (mut h, mut c) = (first(5), if memory { first(6) } else { vec![] });
                let length = case.optional(4).map_or(steps, |l| l.as_slice::<i32>().unwrap()[b] as usize);
                for s in 0..length {
                    let time = if backwards { length - 1 - s } else { s };
                    let row = (if batch_first { b * steps + time } else { time * batch + b }) * input;
                    h = step(&CellOf { oracle: self, direction: dir }, &data[row..row + input], &h, &mut c);
                    let to = (if batch_first { (b * steps + time) * directions + dir } else { (time * directions + dir) * batch + b }) * n;
                    y[to..to + n].copy_from_slice(&h);
                }
                last_h[at..at + n].copy_from_slice(&h);
                if memory {
                    last_c[at..at + n].copy_from_slice(&c);
                }
            }
        }
        let (whole, last) =
            if batch_first { ([batch, steps, directions, n], [batch, directions, n]) } else { ([steps, directions, batch, n], [directions, batch, n]) };
        let mut out = vec![t(&whole, &y), t(&last, &last_h)];
        out.extend(memory.then(|| t(&last, &last_c)));
        out
    }
}

impl CellOf<'_> {
    fn dot(&self, input: usize, gate: usize, j: usize, v: &[f32]) -> f32 {
        let o = self.oracle;
        let w = o.case.tensor(input).as_slice::<f32>().unwrap();
        let row = ((self.direction * o.gates + gate) * o.hidden + j) * v.len();
        v.iter().zip(&w[row..row + v.len()]).map(|(a, b)| a * b).sum()
    }

    /// Row j of gate `gate` of W times `v`.
    pub(crate) fn x(&self, gate: usize, j: usize, v: &[f32]) -> f32 {
        self.dot(1, gate, j, v)
    }

    /// Row j of gate `gate` of R times `v`.
    pub(crate) fn r(&self, gate: usize, j: usize, v: &[f32]) -> f32 {
        self.dot(2, gate, j, v)
    }

    /// Element j of block `block` of the biases.
    pub(crate) fn bias(&self, block: usize, j: usize) -> f32 {
        let o = self.oracle;
        o.case.optional(3).map_or(0.0, |b| b.as_slice::<f32>().unwrap()[(self.direction * 2 * o.gates + block) * o.hidden + j])
    }

    /// Element j of block `block` of the peepholes.
    pub(crate) fn peephole(&self, block: usize, j: usize) -> f32 {
        let o = self.oracle;
        o.case.optional(7).map_or(0.0, |p| p.as_slice::<f32>().unwrap()[(self.direction * 3 + block) * o.hidden + j])
    }

    /// Activation `k` of a clipped number.
    pub(crate) fn act(&self, k: usize, x: f32) -> f32 {
        let clip = self.oracle.case.attributes.float_or("clip", f32::INFINITY).unwrap();
        self.activation(k, x.clamp(-clip, clip))
    }

    /// Activation `k`.
    pub(crate) fn activation(&self, k: usize, x: f32) -> f32 {
        let a = &self.oracle.case.attributes;
        let Some(names) = a.strings("activations").unwrap() else { return self.oracle.defaults[k].of(x) };
        // The one named case: HardSigmoid(0.3, 0.4), Softsign, LeakyRelu(0.1); and Relu.
        match names[k].as_str() {
            "HardSigmoid" => (0.3 * x + 0.4).clamp(0.0, 1.0),
            "Softsign" => x / (1.0 + x.abs()),
            "LeakyRelu" => {
                if x >= 0.0 {
                    x
                } else {
                    0.1 * x
                }
            }
            _ => x.max(0.0),
        }
    }
}
