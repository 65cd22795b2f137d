//! Models of one operator, and a table of them.

use millstream::{
    DType, Tensor,
    kernel::graph::{Attribute, Attributes, BuildCx, Declared, Graph, Node, Registry},
};

/// One operator on some inputs.
#[derive(Debug, Clone)]
pub struct Case {
    /// A name for messages.
    pub name: &'static str,
    /// The operator's name in ONNX.
    pub op: &'static str,
    /// The operator's domain, empty for ONNX's own.
    pub domain: &'static str,
    /// Attributes.
    pub attributes: Attributes,
    /// Inputs; `None` where an optional one is left out.
    pub inputs: Vec<Option<Tensor>>,
    /// Inputs that are constants of the model.
    pub constants: Vec<usize>,
    /// How many outputs the node names.
    pub outputs: usize,
    /// The opset that the model imports.
    pub opset: u32,
}

impl Case {
    /// An operator on these inputs, with one output.
    pub fn new(name: &'static str, op: &'static str, inputs: impl IntoIterator<Item = Tensor>) -> Case {
        let inputs = inputs.into_iter().map(Some).collect();
        Case { name, op, domain: "", attributes: Attributes::default(), inputs, constants: vec![], outputs: 1, opset: 22 }
    }

    /// With an integer attribute.
    pub fn int(self, name: &str, value: i64) -> Case {
        self.attribute(name, Attribute::Int(value))
    }

    /// With an attribute of integers.
    pub fn ints(self, name: &str, values: &[i64]) -> Case {
        self.attribute(name, Attribute::Ints(values.to_vec()))
    }

    /// With a float attribute.
    pub fn float(self, name: &str, value: f32) -> Case {
        self.attribute(name, Attribute::Float(value))
    }

    /// With a text attribute.
    pub fn text(self, name: &str, value: &str) -> Case {
        self.attribute(name, Attribute::String(value.to_owned()))
    }

    fn attribute(mut self, name: &str, value: Attribute) -> Case {
        self.attributes.insert(name.to_owned(), value);
        self
    }

    /// With inputs from `first` on as constants of the model.
    pub fn constants_from(mut self, first: usize) -> Case {
        self.constants = (first..self.inputs.len()).collect();
        self
    }

    /// With this many outputs.
    pub fn outputs(mut self, outputs: usize) -> Case {
        self.outputs = outputs;
        self
    }

    /// In a model of this opset.
    pub fn opset(mut self, opset: u32) -> Case {
        self.opset = opset;
        self
    }

    /// The model, and the inputs that a run gives it.
    pub fn graph(&self, registry: &Registry) -> (Graph, Vec<Tensor>) {
        let mut graph = Graph::new(self.name);
        let mut given = Vec::new();
        let mut inputs = Vec::new();
        for (i, input) in self.inputs.iter().enumerate() {
            inputs.push(input.as_ref().map(|t| {
                if self.constants.contains(&i) {
                    return graph.add_constant(&format!("c{i}"), t.clone());
                }
                given.push(t.clone());
                // Rank and type alone: dims are the run's.
                let dims = Some(t.shape().iter().map(|_| None).collect());
                graph.add_input(&format!("x{i}"), Declared { dtype: Some(t.dtype()), dims })
            }));
        }
        let outputs: Vec<_> = (0..self.outputs).map(|i| graph.add_placeholder(&format!("y{i}"), Declared::default())).collect();
        let def = registry.find(self.domain, self.op).unwrap_or_else(|| panic!("{}: no operator {}", self.name, self.op));
        let cx = BuildCx { version: 0, attributes: &self.attributes, inputs: inputs.len(), outputs: outputs.len(), subgraphs: &[] };
        let op = def.instantiate(self.opset, cx).unwrap_or_else(|e| panic!("{}: {e}", self.name));
        graph.add_node(Node {
            path: self.name.into(),
            op_name: self.op.into(),
            op: op.into(),
            inputs,
            outputs: outputs.iter().copied().map(Some).collect(),
            subgraphs: vec![],
        });
        for y in outputs {
            graph.add_output(y);
        }
        (graph, given)
    }
}

/// An f32 tensor whose elements lie in −1..1 and depend on `seed` alone.
pub fn noise(dims: &[usize], seed: u64) -> Tensor {
    let mut state = seed;
    let values: Vec<f32> = (0..dims.iter().product())
        .map(|_| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect();
    Tensor::from_slice(dims, &values).expect("as many values as elements")
}

/// The same with elements in 0.1..2.1, for roots, logarithms and quotients.
pub fn positive(dims: &[usize], seed: u64) -> Tensor {
    let values: Vec<f32> = noise(dims, seed).as_slice::<f32>().expect("f32").iter().map(|x| x + 1.1).collect();
    Tensor::from_slice(dims, &values).expect("as many values as elements")
}

fn ints(dims: &[usize], values: &[i64]) -> Tensor {
    Tensor::from_slice(dims, values).expect("as many values as elements")
}

fn bytes(dims: &[usize], scale: f32) -> Tensor {
    let values: Vec<u8> = noise(dims, 77).as_slice::<f32>().expect("f32").iter().map(|x| (x * scale + 128.0) as u8).collect();
    Tensor::from_slice(dims, &values).expect("as many values as elements")
}

fn flags(dims: &[usize]) -> Tensor {
    let bytes: Vec<u8> = noise(dims, 78).as_slice::<f32>().expect("f32").iter().map(|&x| u8::from(x > 0.0)).collect();
    Tensor::from_bytes(DType::Bool, dims, &bytes).expect("as many values as elements")
}

/// The operator suite: every backend must give the same results, within rounding.
pub fn cases() -> Vec<Case> {
    let image = || noise(&[2, 6, 9, 11], 1);
    let rows = || noise(&[3, 5, 16], 2);
    let unary = |name, op| Case::new(name, op, [rows()]);
    let broadcast = |name, op| Case::new(name, op, [rows(), positive(&[5, 1], 3)]);
    let conv =
        |name, channels: usize, kernel: usize| Case::new(name, "Conv", [image(), noise(&[8, channels, kernel, kernel], 4), noise(&[8], 5)]).constants_from(1);
    let scale = |values: &[f32]| Tensor::from_slice(&[], values).expect("a scalar");
    vec![
        broadcast("add", "Add"),
        broadcast("sub", "Sub"),
        broadcast("mul", "Mul"),
        broadcast("div", "Div"),
        broadcast("max", "Max"),
        broadcast("less", "Less"),
        Case::new("pow", "Pow", [positive(&[3, 7], 6), noise(&[7], 7)]),
        Case::new("add_i64", "Add", [ints(&[2, 2], &[1, -2, 3, 4]), ints(&[2], &[10, 20])]),
        unary("relu", "Relu"),
        unary("exp", "Exp"),
        unary("erf", "Erf"),
        unary("tanh", "Tanh"),
        unary("sigmoid", "Sigmoid"),
        unary("gelu", "Gelu"),
        unary("gelu_tanh", "Gelu").text("approximate", "tanh"),
        unary("hard_swish", "HardSwish"),
        unary("leaky_relu", "LeakyRelu").float("alpha", 0.1),
        unary("softplus", "Softplus"),
        Case::new("sqrt", "Sqrt", [positive(&[4, 7], 8)]),
        Case::new("log", "Log", [positive(&[4, 7], 9)]),
        Case::new("clip", "Clip", [rows(), scale(&[-0.5]), scale(&[0.25])]).constants_from(1),
        Case::new("where", "Where", [flags(&[3, 5, 16]), rows(), noise(&[16], 10)]),
        Case::new("cast", "Cast", [rows()]).int("to", 7),
        Case::new("matmul", "MatMul", [noise(&[2, 3, 7, 20], 11), noise(&[3, 20, 9], 12)]),
        Case::new("matmul_constant", "MatMul", [rows(), noise(&[16, 33], 13)]).constants_from(1),
        Case::new("matmul_vector", "MatMul", [rows(), noise(&[16], 14)]),
        Case::new("gemm", "Gemm", [noise(&[7, 20], 15), noise(&[9, 20], 16), noise(&[9], 17)]).int("transB", 1).float("alpha", 0.5).float("beta", 2.0),
        Case::new("gemm_turned", "Gemm", [noise(&[20, 7], 15), noise(&[20, 9], 16)]).int("transA", 1),
        conv("conv", 6, 3).ints("pads", &[1, 1, 1, 1]),
        conv("conv_strided", 6, 3).ints("pads", &[0, 1, 2, 1]).ints("strides", &[2, 2]),
        conv("conv_dilated", 6, 3).ints("dilations", &[2, 2]).text("auto_pad", "SAME_UPPER"),
        conv("conv_grouped", 3, 3).int("group", 2),
        conv("conv_pointwise", 6, 1),
        conv("conv_uneven", 6, 3).ints("strides", &[1, 2]),
        Case::new("conv_depthwise", "Conv", [image(), noise(&[6, 1, 3, 3], 18)]).int("group", 6).ints("pads", &[1, 1, 1, 1]),
        Case::new("conv_1d", "Conv", [noise(&[2, 4, 30], 19), noise(&[5, 4, 5], 20), noise(&[5], 21)]).ints("strides", &[2]).ints("pads", &[2, 2]),
        Case::new("max_pool", "MaxPool", [image()]).ints("kernel_shape", &[2, 3]).ints("strides", &[2, 2]),
        Case::new("max_pool_padded", "MaxPool", [image()]).ints("kernel_shape", &[3, 3]).ints("pads", &[1, 1, 1, 1]),
        Case::new("max_pool_1d", "MaxPool", [noise(&[2, 4, 30], 22)]).ints("kernel_shape", &[4]).ints("strides", &[4]),
        Case::new("average_pool", "AveragePool", [image()]).ints("kernel_shape", &[2, 2]),
        Case::new("global_average_pool", "GlobalAveragePool", [image()]),
        Case::new("global_max_pool", "GlobalMaxPool", [image()]),
        Case::new("batch_norm", "BatchNormalization", [image(), noise(&[6], 23), noise(&[6], 24), noise(&[6], 25), positive(&[6], 26)]).constants_from(1),
        Case::new("layer_norm", "LayerNormalization", [rows(), noise(&[16], 27), noise(&[16], 28)]),
        Case::new("layer_norm_statistics", "LayerNormalization", [rows(), noise(&[16], 27)]).outputs(3),
        Case::new("softmax", "Softmax", [rows()]).int("axis", 1),
        Case::new("softmax_flat", "Softmax", [rows()]).int("axis", 1).opset(11),
        Case::new("log_softmax", "LogSoftmax", [rows()]),
        Case::new("reduce_mean", "ReduceMean", [rows()]).ints("axes", &[-1]).opset(13),
        Case::new("reduce_sum", "ReduceSum", [rows(), ints(&[1], &[1])]).int("keepdims", 0),
        Case::new("reduce_max", "ReduceMax", [rows()]).opset(13),
        Case::new("arg_max", "ArgMax", [rows()]).int("axis", 2),
        Case::new("reshape", "Reshape", [rows(), ints(&[3], &[0, -1, 4])]),
        Case::new("flatten", "Flatten", [rows()]).int("axis", 2),
        Case::new("squeeze", "Squeeze", [noise(&[3, 1, 4], 29), ints(&[1], &[1])]),
        Case::new("unsqueeze", "Unsqueeze", [rows(), ints(&[2], &[0, -1])]),
        Case::new("transpose", "Transpose", [image()]).ints("perm", &[0, 2, 3, 1]),
        Case::new("concat", "Concat", [rows(), noise(&[3, 2, 16], 30), rows()]).int("axis", -2),
        Case::new("split", "Split", [rows()]).int("axis", 2).int("num_outputs", 3).outputs(3),
        Case::new("slice", "Slice", [rows(), ints(&[2], &[1, -1]), ints(&[2], &[9, -99]), ints(&[2], &[1, 2]), ints(&[2], &[1, -3])]),
        Case::new("gather", "Gather", [rows(), ints(&[2, 2], &[0, -1, 3, 4])]).int("axis", 1),
        Case::new("expand", "Expand", [noise(&[3, 1], 31), ints(&[3], &[2, 1, 4])]),
        Case::new("pad", "Pad", [rows(), ints(&[6], &[0, 1, 2, 1, 0, 3])]).text("mode", "reflect").constants_from(1),
        Case::new("tile", "Tile", [rows(), ints(&[3], &[2, 1, 3])]),
        Case::new("shape", "Shape", [rows()]),
        Case::new("range", "Range", [scale(&[1.0]), scale(&[5.0]), scale(&[0.5])]),
        Case::new("non_zero", "NonZero", [flags(&[4, 5])]),
        Case::new("top_k", "TopK", [rows(), ints(&[1], &[3])]).outputs(2),
        Case::new("cum_sum", "CumSum", [rows(), ints(&[], &[1])]),
        Case::new("quantize", "QuantizeLinear", [rows(), scale(&[0.01]), Tensor::from_slice(&[], &[7i8]).expect("a scalar")]),
        Case::new("mat_mul_integer", "MatMulInteger", [bytes(&[5, 20], 100.0), bytes(&[20, 6], 90.0)]),
    ]
}
