//! Which input elements, with which weights, make an output element along one axis.
//!
//! A row of the table is made for every output position: `width` pairs of input position and weight. Positions outside of the
//! axis are clamped (their weights moved to the edge), or dropped and the rest scaled to one (`exclude_outside`).

use millstream_graph::EvalError;

/// How an output position becomes an input coordinate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transform {
    HalfPixel,
    HalfPixelSymmetric,
    PytorchHalfPixel,
    AlignCorners,
    Asymmetric,
    TfHalfPixelForNn,
    TfCropAndResize,
}

/// Which neighbour `nearest` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nearest {
    RoundPreferFloor,
    RoundPreferCeil,
    Floor,
    Ceil,
}

/// The interpolation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Mode {
    Nearest(Nearest),
    Linear,
    Cubic(f32),
}

/// One axis of a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct ResizeAxis {
    pub(crate) input: usize,
    pub(crate) output: usize,
    pub(crate) scale: f64,
    /// Start and end of the region of interest, as fractions of the axis.
    pub(crate) roi: (f64, f64),
}

/// What is the same for all axes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sampling {
    pub(crate) mode: Mode,
    pub(crate) transform: Transform,
    pub(crate) exclude_outside: bool,
    pub(crate) antialias: bool,
}

/// Coordinates this far beyond an axis are as good as any beyond it; keeps arithmetic in i64.
const FAR: f64 = 1e15;

impl ResizeAxis {
    /// True if every output element is the input element at its place.
    pub(crate) fn is_identity(&self, sampling: &Sampling) -> bool {
        self.input == self.output && self.scale == 1.0 && sampling.transform != Transform::TfCropAndResize
    }

    /// The input coordinate of output position `o`, in f32 as the model's scales are: at a tie, `floor` and `ceil` depend on it.
    pub(crate) fn coordinate(&self, transform: Transform, o: usize) -> f64 {
        let (o, input, output, scale) = (o as f32, self.input as f32, self.output as f32, self.scale as f32);
        let x = match transform {
            Transform::HalfPixel => (o + 0.5) / scale - 0.5,
            Transform::HalfPixelSymmetric => {
                let adjustment = output / (scale * input);
                let offset = input / 2.0 * (1.0 - adjustment);
                offset + (o + 0.5) / scale - 0.5
            }
            Transform::PytorchHalfPixel if self.output <= 1 => 0.0,
            Transform::PytorchHalfPixel => (o + 0.5) / scale - 0.5,
            Transform::AlignCorners if self.output <= 1 => 0.0,
            Transform::AlignCorners => o * (input - 1.0) / (output - 1.0),
            Transform::Asymmetric => o / scale,
            Transform::TfHalfPixelForNn => (o + 0.5) / scale,
            Transform::TfCropAndResize => {
                let (start, end) = (self.roi.0 as f32, self.roi.1 as f32);
                if self.output > 1 { start * (input - 1.0) + o * (end - start) * (input - 1.0) / (output - 1.0) } else { 0.5 * (start + end) * (input - 1.0) }
            }
        };
        if x.is_nan() { 0.0 } else { f64::from(x).clamp(-FAR, FAR) }
    }

    /// True if output position `o` lies outside of the input (for `tf_crop_and_resize`).
    pub(crate) fn is_outside(&self, transform: Transform, o: usize) -> bool {
        let x = self.coordinate(transform, o);
        transform == Transform::TfCropAndResize && (x < 0.0 || x > self.input as f64 - 1.0)
    }

    /// How far an interpolation reaches on either side, in input elements, and the filter's scale.
    fn support(&self, sampling: &Sampling) -> (f64, f64) {
        let shrink = if sampling.antialias && self.scale < 1.0 { self.scale } else { 1.0 };
        let reach = match sampling.mode {
            Mode::Nearest(_) => 0.5,
            Mode::Linear => 1.0,
            Mode::Cubic(_) => 2.0,
        };
        (reach / shrink, shrink)
    }

    /// Pairs of an output position at the most. Computed from the dims alone, since a plan knows no scales.
    pub(crate) fn width(input: usize, output: usize, sampling: &Sampling) -> usize {
        let shrink = if sampling.antialias { input.div_ceil(output.max(1)).max(1) } else { 1 };
        match sampling.mode {
            Mode::Nearest(_) => 1,
            Mode::Linear if sampling.antialias => 2 * shrink + 2,
            Mode::Linear => 2,
            Mode::Cubic(_) if sampling.antialias => 4 * shrink + 2,
            Mode::Cubic(_) => 4,
        }
    }

    /// Writes the pairs of output position `o`; pairs that are not needed get weight 0.
    pub(crate) fn fill(&self, sampling: &Sampling, o: usize, places: &mut [u32], weights: &mut [f32]) -> Result<(), EvalError> {
        places.fill(0);
        weights.fill(0.0);
        let last = self.input as i64 - 1;
        let x = self.coordinate(sampling.transform, o);
        let clamp = |i: i64| i.clamp(0, last.max(0)) as u32;
        if let Mode::Nearest(nearest) = sampling.mode {
            let i = match nearest {
                Nearest::RoundPreferFloor => libm::ceil(x - 0.5),
                Nearest::RoundPreferCeil => libm::floor(x + 0.5),
                Nearest::Floor => libm::floor(x),
                Nearest::Ceil => libm::ceil(x),
            };
            (places[0], weights[0]) = (clamp(i as i64), 1.0);
            return Ok(());
        }
        let (reach, shrink) = self.support(sampling);
        let first = libm::floor(x - reach) as i64 + 1;
        let end = libm::floor(x + reach) as i64 + 1;
        let too_far = EvalError::Invalid("a filter of Resize reaches further than the dims allow");
        let filter = |i: i64| self.filter(sampling.mode, (i as f64 - x) * shrink);
        let inside = |i: i64| (0..=last).contains(&i);
        // Filters that were widened, or whose outside is dropped, do not add up to one by themselves.
        let scaled = sampling.exclude_outside || shrink != 1.0;
        let total: f64 = (first..end).filter(|&i| !sampling.exclude_outside || inside(i)).map(filter).sum();
        let mut n = 0;
        for i in first..end {
            if sampling.exclude_outside && !inside(i) {
                continue;
            }
            let w = if scaled && total != 0.0 { filter(i) / total } else { filter(i) };
            // Positions beyond an edge fall on the edge's pair.
            let at = if n > 0 && places[n - 1] == clamp(i) { n - 1 } else { n };
            *places.get_mut(at).ok_or(too_far.clone())? = clamp(i);
            weights[at] += w as f32;
            n = at + 1;
        }
        Ok(())
    }

    fn filter(&self, mode: Mode, distance: f64) -> f64 {
        let d = distance.abs();
        match mode {
            Mode::Nearest(_) => 1.0,
            Mode::Linear => (1.0 - d).max(0.0),
            Mode::Cubic(a) => {
                let a = f64::from(a);
                if d <= 1.0 {
                    ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0
                } else if d < 2.0 {
                    ((a * d - 5.0 * a) * d + 8.0 * a) * d - 4.0 * a
                } else {
                    0.0
                }
            }
        }
    }
}
