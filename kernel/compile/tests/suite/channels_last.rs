//! Convolutional networks run channels-last from end to end: elements are reordered where they enter and leave, never inside.

use crate::model::{Builder, Model, close, ints, noise};
use millstream_compile::{Options, Template};
use millstream_engine::{Plan, Step, Target};
use millstream_graph::{Attribute, Fact, ValueId};
use millstream_simd::Level;
use millstream_tensor::Order;

/// A network while it is written; each layer takes fresh weights.
struct Network {
    b: Builder,
    seed: u64,
}

impl Network {
    fn new(dims: &[usize]) -> (Network, ValueId) {
        let mut b = Builder::default();
        let x = b.input(noise(dims, 1));
        (Network { b, seed: 1 }, x)
    }

    fn weights(&mut self, dims: &[usize]) -> ValueId {
        self.seed += 1;
        // Small enough that sums neither grow nor vanish from layer to layer.
        let fan: usize = dims.iter().skip(1).product();
        let values: Vec<f32> = noise(dims, self.seed).as_slice::<f32>().expect("f32").iter().map(|w| w * (6.0 / fan as f32).sqrt()).collect();
        self.b.constant(crate::model::floats(dims, &values))
    }

    /// A convolution and its normalisation.
    fn conv(&mut self, x: ValueId, [from, to, kernel, stride, group]: [usize; 5]) -> ValueId {
        let w = self.weights(&[to, from / group, kernel, kernel]);
        let pad = (kernel / 2) as i64;
        let attributes = [("pads", ints(&[pad; 4])), ("strides", ints(&[stride as i64; 2])), ("group", Attribute::Int(group as i64))];
        let y = self.b.op_with("Conv", &[x, w], &attributes);
        let [scale, shift, mean] = [10, 11, 12].map(|seed| self.b.constant(noise(&[to], seed)));
        let variance = self.b.constant(crate::model::floats(&[to], &vec![0.5; to]));
        self.b.op("BatchNormalization", &[y, scale, shift, mean, variance])
    }

    fn relu(&mut self, x: ValueId) -> ValueId {
        self.b.op("Relu", &[x])
    }

    fn relu6(&mut self, x: ValueId) -> ValueId {
        let (lo, hi) = (self.b.scalar(0.0), self.b.scalar(6.0));
        self.b.op("Clip", &[x, lo, hi])
    }

    /// Mean over space, and a classifier.
    fn head(mut self, x: ValueId, channels: usize) -> Model {
        let pooled = self.b.op("GlobalAveragePool", &[x]);
        let flat = self.b.op("Flatten", &[pooled]);
        let (w, bias) = (self.weights(&[10, channels]), self.b.constant(noise(&[10], 3)));
        let y = self.b.op_with("Gemm", &[flat, w, bias], &[("transB", Attribute::Int(1))]);
        self.b.outputs(&[y])
    }
}

/// A stem, a pooled image, and bottlenecks of which the third halves the image.
fn resnet() -> Model {
    let (mut n, x) = Network::new(&[1, 3, 64, 64]);
    let x = n.conv(x, [3, 16, 7, 2, 1]);
    let x = n.relu(x);
    let mut x = n.b.op_with("MaxPool", &[x], &[("kernel_shape", ints(&[3, 3])), ("strides", ints(&[2, 2])), ("pads", ints(&[1; 4]))]);
    let mut from = 16;
    for (width, stride) in [(16, 1), (16, 1), (32, 2), (32, 1)] {
        let to = 4 * width;
        let y = n.conv(x, [from, width, 1, 1, 1]);
        let y = n.relu(y);
        let y = n.conv(y, [width, width, 3, stride, 1]);
        let y = n.relu(y);
        let y = n.conv(y, [width, to, 1, 1, 1]);
        let shortcut = if from == to { x } else { n.conv(x, [from, to, 1, stride, 1]) };
        let sum = n.b.op("Add", &[y, shortcut]);
        x = n.relu(sum);
        from = to;
    }
    n.head(x, from)
}

/// Inverted residuals: expanded, filtered channel by channel, projected.
fn mobilenet() -> Model {
    let (mut n, x) = Network::new(&[1, 3, 64, 64]);
    let x = n.conv(x, [3, 16, 3, 2, 1]);
    let mut x = n.relu6(x);
    let mut from = 16;
    for (to, stride) in [(16, 1), (24, 2), (24, 1), (32, 2), (32, 1)] {
        let wide = 6 * from;
        let y = n.conv(x, [from, wide, 1, 1, 1]);
        let y = n.relu6(y);
        let y = n.conv(y, [wide, wide, 3, stride, wide]);
        let y = n.relu6(y);
        let y = n.conv(y, [wide, to, 1, 1, 1]);
        x = if from == to && stride == 1 { n.b.op("Add", &[x, y]) } else { y };
        from = to;
    }
    let x = n.conv(x, [from, 64, 1, 1, 1]);
    let x = n.relu6(x);
    n.head(x, 64)
}

fn plan(model: &Model, level: Level) -> Plan {
    let template = Template::new(model.simplified(&Options::default()), level, 1).expect("it compiles");
    let facts: Vec<Fact> = model.inputs.iter().map(|t| Fact::concrete(t.dtype(), t.shape())).collect();
    template.bind(&facts).expect("it binds").plan
}

fn moves(step: &Step) -> bool {
    matches!(&*step.name, "Reorder" | "Transpose")
}

/// The order in which the step writes an image of more than one pixel.
fn image_order(step: &Step) -> Option<Order> {
    let Some(Target::Value(_, spec)) = step.outputs.first() else { return None };
    (spec.shape().rank() == 4 && spec.shape()[2] > 1).then(|| spec.layout.order())?
}

#[track_caller]
fn only_edges_are_reordered(model: &Model) {
    for level in Level::available() {
        let plan = plan(model, level);
        let text: Vec<String> = plan.steps.iter().map(|s| format!("{level}: {s}")).collect();
        let convs: Vec<usize> = (0..plan.steps.len()).filter(|&i| plan.steps[i].name.contains("Conv")).collect();
        let (&first, &last) = convs.first().zip(convs.last()).expect("there are convolutions");
        for (step, text) in plan.steps[first..=last].iter().zip(&text[first..=last]) {
            assert!(!moves(step), "an inner step moves elements: {text}");
            if let Some(order) = image_order(step) {
                assert_eq!(order, Order::channels_last(4), "{text}");
            }
        }
        let edges = plan.steps.iter().filter(|s| moves(s)).count();
        assert!(edges <= 2, "{edges} steps move elements:\n{}", text.join("\n"));
        // Normalisations, activations and residuals have gone into the convolutions.
        assert!(!plan.steps.iter().any(|s| matches!(&*s.name, "BatchNormalization" | "Relu" | "Clip" | "Add")), "{}", text.join("\n"));
    }
}

#[test]
fn a_resnet_is_reordered_at_its_edges_only() {
    only_edges_are_reordered(&resnet());
}

#[test]
fn a_mobilenet_is_reordered_at_its_edges_only() {
    only_edges_are_reordered(&mobilenet());
}

#[test]
fn memory_orders_change_no_result() {
    for model in [resnet(), mobilenet()] {
        close(&model.run(&Options::default()), &model.evaluate(), 1e-4);
    }
}
