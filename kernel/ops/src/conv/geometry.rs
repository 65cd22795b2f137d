//! Windows that slide over spatial axes: the attributes that convolutions and pools share, and the dims that follow.
//!
//! Attributes of untrusted models are bounded to 31 bits when they are read, so that no sum or product below overflows.

use alloc::{vec, vec::Vec};
use millstream_graph::{BuildCx, BuildError, Dim, InferError};

/// The greatest kernel extent, stride, dilation or pad.
const LIMIT: i64 = i32::MAX as i64;

/// Where the zeros around an image come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Padding {
    /// Before and after each axis; empty means none.
    Explicit { begin: Vec<usize>, end: Vec<usize> },
    /// As many as give `ceil(input / stride)` outputs; the odd one comes last.
    SameUpper,
    /// As [`Padding::SameUpper`]; the odd one comes first.
    SameLower,
}

/// A window's attributes. Lists are empty where the model leaves them out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sliding {
    pub(crate) strides: Vec<usize>,
    pub(crate) dilations: Vec<usize>,
    pub(crate) padding: Padding,
    /// Windows that begin inside of the input or its leading pad count even if they end past the trailing one.
    pub(crate) ceil: bool,
}

/// One spatial axis of one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Axis {
    pub(crate) input: usize,
    pub(crate) kernel: usize,
    pub(crate) stride: usize,
    pub(crate) dilation: usize,
    pub(crate) pad_begin: usize,
    pub(crate) pad_end: usize,
    pub(crate) output: usize,
}

impl Axis {
    /// An axis of one element.
    pub(crate) const UNIT: Axis = Axis { input: 1, kernel: 1, stride: 1, dilation: 1, pad_begin: 0, pad_end: 0, output: 1 };

    /// The taps of output `o` that lie inside of the input.
    pub(crate) fn taps(&self, o: usize) -> core::ops::Range<usize> {
        let start = o * self.stride;
        let first = self.pad_begin.saturating_sub(start).div_ceil(self.dilation);
        let room = (self.input + self.pad_begin).saturating_sub(start);
        let end = room.div_ceil(self.dilation).min(self.kernel);
        first.min(end)..end
    }

    /// How many taps of output `o` lie inside of the input and its pads.
    pub(crate) fn padded_taps(&self, o: usize) -> usize {
        let room = (self.input + self.pad_begin + self.pad_end).saturating_sub(o * self.stride);
        room.div_ceil(self.dilation).min(self.kernel)
    }

    /// The input's position under tap `t` of output `o`, for a tap in [`Axis::taps`].
    pub(crate) fn position(&self, o: usize, t: usize) -> usize {
        (o * self.stride + t * self.dilation).saturating_sub(self.pad_begin)
    }

    /// True if output o reads input o alone.
    pub(crate) fn is_pointwise(&self) -> bool {
        self.kernel == 1 && self.stride == 1 && self.pad_begin == 0 && self.pad_end == 0
    }
}

/// A list of integers in `least..=LIMIT`, empty where the attribute is absent.
pub(crate) fn positive(cx: &BuildCx<'_>, name: &'static str, least: i64) -> Result<Vec<usize>, BuildError> {
    let values = cx.attributes.ints(name)?.map_or(&[][..], Vec::as_slice);
    match values.iter().find(|&&v| v < least || v > LIMIT) {
        Some(v) => Err(BuildError::UnsupportedAttribute { name, value: alloc::format!("{v}") }),
        None => Ok(values.iter().map(|&v| v as usize).collect()),
    }
}

impl Sliding {
    /// Reads strides, dilations, pads, auto_pad and ceil_mode.
    pub(crate) fn read(cx: &BuildCx<'_>) -> Result<Sliding, BuildError> {
        let pads = positive(cx, "pads", 0)?;
        if pads.len() % 2 != 0 {
            return Err(BuildError::UnsupportedAttribute { name: "pads", value: alloc::format!("{pads:?}") });
        }
        let padding = match cx.attributes.string_or("auto_pad", "NOTSET")? {
            "NOTSET" | "" => {
                let (begin, end) = pads.split_at(pads.len() / 2);
                Padding::Explicit { begin: begin.to_vec(), end: end.to_vec() }
            }
            "VALID" => Padding::Explicit { begin: vec![], end: vec![] },
            "SAME_UPPER" => Padding::SameUpper,
            "SAME_LOWER" => Padding::SameLower,
            other => return Err(BuildError::UnsupportedAttribute { name: "auto_pad", value: other.into() }),
        };
        Ok(Sliding {
            strides: positive(cx, "strides", 1)?,
            dilations: positive(cx, "dilations", 1)?,
            padding,
            ceil: cx.attributes.flag_or("ceil_mode", false)?,
        })
    }

    /// An error if a list has neither no element nor one for each of `rank` axes.
    pub(crate) fn check_rank(&self, rank: usize) -> Result<(), InferError> {
        let fits = |v: &Vec<usize>| v.is_empty() || v.len() == rank;
        let pads = match &self.padding {
            Padding::Explicit { begin, .. } => fits(begin),
            _ => true,
        };
        if fits(&self.strides) && fits(&self.dilations) && pads {
            return Ok(());
        }
        Err(InferError::Invalid("strides, dilations or pads have another rank than the input"))
    }

    /// Stride, dilation, leading and trailing pad of each axis.
    pub(crate) fn windows(&self, input: &[usize], kernel: &[usize]) -> Result<Vec<[usize; 4]>, InferError> {
        let axis = |(i, (&input, &kernel))| self.axis(i, input, kernel).map(|a| [a.stride, a.dilation, a.pad_begin, a.pad_end]);
        input.iter().zip(kernel).enumerate().map(axis).collect()
    }

    pub(crate) fn stride(&self, i: usize) -> usize {
        self.strides.get(i).copied().unwrap_or(1)
    }

    pub(crate) fn dilation(&self, i: usize) -> usize {
        self.dilations.get(i).copied().unwrap_or(1)
    }

    /// The dim of spatial axis `i` of the output.
    pub(crate) fn output_dim(&self, i: usize, input: &Dim, kernel: &Dim) -> Result<Dim, InferError> {
        if let (Some(input), Some(kernel)) = (input.as_extent(), kernel.as_extent()) {
            return Ok(Dim::from(self.axis(i, input, kernel)?.output));
        }
        let (one, stride) = (Dim::from(1), Dim::from(self.stride(i)));
        match &self.padding {
            Padding::SameUpper | Padding::SameLower => Ok(input.div_ceil(&stride)),
            Padding::Explicit { begin, end } => {
                let pad = |pads: &[usize]| Dim::from(pads.get(i).copied().unwrap_or(0));
                let reach = kernel.sub(&one).mul(&Dim::from(self.dilation(i))).add(&one);
                // The last window may lie in the trailing padding, where it does not count.
                if self.ceil && (self.stride(i) > 1 || !reach.sub(&pad(end)).at_least(1)) {
                    return Err(InferError::NeedsDims(0));
                }
                let pads = pad(begin).add(&pad(end));
                Ok(input.add(&pads).sub(&reach).div_floor(&stride).add(&one))
            }
        }
    }

    /// Spatial axis `i` of a step; an error if no window fits. An empty input has no output unless it is padded.
    pub(crate) fn axis(&self, i: usize, input: usize, kernel: usize) -> Result<Axis, InferError> {
        let (stride, dilation) = (self.stride(i), self.dilation(i));
        let fail = || InferError::Mismatch {
            what: "the window does not fit the padded input",
            left: alloc::format!("kernel {kernel}, dilation {dilation}"),
            right: alloc::format!("{input}"),
        };
        let reach = kernel.checked_sub(1).and_then(|k| k.checked_mul(dilation)).and_then(|r| r.checked_add(1)).ok_or_else(fail)?;
        let mut axis = Axis { input, kernel, stride, dilation, pad_begin: 0, pad_end: 0, output: 0 };
        match &self.padding {
            Padding::Explicit { begin, end } => {
                axis.pad_begin = begin.get(i).copied().unwrap_or(0);
                axis.pad_end = end.get(i).copied().unwrap_or(0);
                let padded = input.checked_add(axis.pad_begin + axis.pad_end).ok_or_else(fail)?;
                let Some(room) = padded.checked_sub(reach) else {
                    return if input == 0 { Ok(axis) } else { Err(fail()) };
                };
                axis.output = if self.ceil { room.div_ceil(stride) } else { room / stride } + 1;
                if self.ceil && (axis.output - 1).checked_mul(stride).ok_or_else(fail)? >= input + axis.pad_begin {
                    axis.output -= 1;
                }
            }
            same => {
                axis.output = input.div_ceil(stride);
                let last = axis.output.saturating_sub(1).checked_mul(stride).and_then(|x| x.checked_add(reach)).ok_or_else(fail)?;
                let total = last.saturating_sub(input);
                axis.pad_begin = if *same == Padding::SameUpper { total / 2 } else { total.div_ceil(2) };
                axis.pad_end = total - axis.pad_begin;
            }
        }
        Ok(axis)
    }

    /// All spatial axes of a step.
    pub(crate) fn axes(&self, input: &[usize], kernel: &[usize]) -> Result<Axes, InferError> {
        input.iter().zip(kernel).enumerate().map(|(i, (&d, &k))| self.axis(i, d, k)).collect()
    }
}

/// The spatial axes of a step, outermost first.
pub(crate) type Axes = smallvec::SmallVec<[Axis; 3]>;

/// Visits the taps of the window at output position `at` that lie inside of the input, in ascending order, as
/// (the input's spatial position in elements of a row-major plane, the tap's position in a row-major kernel).
#[inline(always)]
pub(crate) fn visit(axes: &[Axis], at: &[usize], f: &mut impl FnMut(usize, usize)) {
    walk(axes, at, 0, 0, f);
}

fn walk<F: FnMut(usize, usize)>(axes: &[Axis], at: &[usize], plane: usize, tap: usize, f: &mut F) {
    let (Some((axis, axes)), Some((&o, at))) = (axes.split_first(), at.split_first()) else {
        f(plane, tap);
        return;
    };
    for t in axis.taps(o) {
        walk(axes, at, plane * axis.input + axis.position(o, t), tap * axis.kernel + t, f);
    }
}

/// The position of row-major index `i` in the outputs of `axes`.
pub(crate) fn position(axes: &[Axis], mut i: usize) -> [usize; millstream_tensor::MAX_RANK] {
    let mut at = [0; millstream_tensor::MAX_RANK];
    for (a, axis) in axes.iter().enumerate().rev() {
        at[a] = i % axis.output.max(1);
        i /= axis.output.max(1);
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sliding(stride: usize, dilation: usize, padding: Padding, ceil: bool) -> Sliding {
        Sliding { strides: vec![stride], dilations: vec![dilation], padding, ceil }
    }

    #[test]
    fn outputs_match_their_definition() {
        for input in 1..12usize {
            for kernel in 1..4 {
                for (stride, dilation, begin, end) in [(1, 1, 0, 0), (2, 1, 1, 0), (3, 2, 2, 1), (2, 3, 0, 3)] {
                    let s = sliding(stride, dilation, Padding::Explicit { begin: vec![begin], end: vec![end] }, false);
                    let reach = (kernel - 1) * dilation + 1;
                    let want = (0..).take_while(|o| o * stride + reach <= input + begin + end).count();
                    match s.axis(0, input, kernel) {
                        Ok(axis) => {
                            assert_eq!(axis.output, want);
                            for o in 0..axis.output {
                                let inside = |t: &usize| (begin..begin + input).contains(&(o * stride + t * dilation));
                                assert_eq!(axis.taps(o).collect::<Vec<_>>(), (0..kernel).filter(inside).collect::<Vec<_>>());
                            }
                        }
                        Err(_) => assert_eq!(want, 0),
                    }
                }
            }
        }
    }

    #[test]
    fn same_padding_keeps_the_input_over_the_stride() {
        let upper = sliding(2, 1, Padding::SameUpper, false).axis(0, 5, 4).unwrap();
        assert_eq!((upper.output, upper.pad_begin, upper.pad_end), (3, 1, 2));
        let lower = sliding(2, 1, Padding::SameLower, false).axis(0, 5, 4).unwrap();
        assert_eq!((lower.output, lower.pad_begin, lower.pad_end), (3, 2, 1));
    }

    #[test]
    fn symbolic_dims_agree_with_numbers() {
        let n = millstream_graph::Symbol::new("n");
        let s = sliding(2, 2, Padding::Explicit { begin: vec![1], end: vec![2] }, false);
        let symbolic = s.output_dim(0, &Dim::symbol(n.clone()), &Dim::from(3)).unwrap();
        for input in 2..20usize {
            let at = symbolic.substitute(&alloc::collections::BTreeMap::from([(n.clone(), input as i64)]));
            assert_eq!(at.as_extent(), Some(s.axis(0, input, 3).unwrap().output));
        }
    }

    #[test]
    fn extremes_are_errors() {
        let huge = i32::MAX as usize;
        let s = sliding(huge, huge, Padding::Explicit { begin: vec![huge], end: vec![huge] }, true);
        assert!(s.axis(0, 4, huge).is_err());
        assert!(s.axis(0, usize::MAX, 1).is_err());
        assert!(sliding(1, 1, Padding::SameUpper, false).axis(0, 4, 0).is_err());
    }
}
