//! BERT (Devlin et al., arXiv 1810.04805) written on candle-nn as candle-transformers writes it, and the same with millstream's
//! operators in the places of Candle's: linear layers, attention, layer norms, GELU.

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::{Embedding, LayerNorm, Linear, Module, VarBuilder};
use millstream::candle::ops::{self, Attention, AttentionMask, Epilogue, PackedLinear};
use std::collections::HashMap;

/// The sizes of a BERT.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Words.
    pub vocabulary: usize,
    /// Positions.
    pub positions: usize,
    /// Elements of a token.
    pub hidden: usize,
    /// Heads of attention.
    pub heads: usize,
    /// Elements between the two linear layers.
    pub intermediate: usize,
    /// Layers.
    pub layers: usize,
}

impl Sizes {
    /// A BERT of a few thousand weights.
    pub const TINY: Sizes = Sizes { vocabulary: 50, positions: 32, hidden: 32, heads: 4, intermediate: 64, layers: 2 };
    /// all-MiniLM-L6's encoder.
    pub const MINILM: Sizes = Sizes { vocabulary: 1000, positions: 512, hidden: 384, heads: 12, intermediate: 1536, layers: 6 };

    /// Weights by the names that Hugging Face gives them, pseudo-random.
    pub fn weights(&self) -> Result<HashMap<String, Tensor>> {
        let mut made = HashMap::new();
        let mut seed = 0;
        let mut add = |name: String, dims: &[usize], centre: f64| -> Result<()> {
            seed += 1;
            made.insert(name, (noise(dims, seed)?.affine(0.1, centre))?);
            Ok(())
        };
        let (h, i) = (self.hidden, self.intermediate);
        for (name, rows) in [("word", self.vocabulary), ("position", self.positions), ("token_type", 2)] {
            add(format!("embeddings.{name}_embeddings.weight"), &[rows, h], 0.0)?;
        }
        let mut norms = vec!["embeddings.LayerNorm".to_owned()];
        for layer in 0..self.layers {
            let of = |part: &str| format!("encoder.layer.{layer}.{part}");
            for (part, outputs, inputs) in [
                ("attention.self.query", h, h),
                ("attention.self.key", h, h),
                ("attention.self.value", h, h),
                ("attention.output.dense", h, h),
                ("intermediate.dense", i, h),
                ("output.dense", h, i),
            ] {
                add(of(part) + ".weight", &[outputs, inputs], 0.0)?;
                add(of(part) + ".bias", &[outputs], 0.0)?;
            }
            norms.extend([of("attention.output.LayerNorm"), of("output.LayerNorm")]);
        }
        for norm in norms {
            add(norm.clone() + ".weight", &[h], 1.0)?;
            add(norm + ".bias", &[h], 0.0)?;
        }
        Ok(made)
    }
}

/// Elements in (-1, 1), the same for the same seed.
pub fn noise(dims: &[usize], seed: u64) -> Result<Tensor> {
    let n: usize = dims.iter().product();
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    Tensor::from_vec((0..n).map(|_| next()).collect::<Vec<f32>>(), dims, &Device::Cpu)
}

/// Whose operators a model runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernels {
    /// Candle's own.
    Candle,
    /// millstream's.
    Millstream,
}

const EPSILON: f64 = 1e-12;

enum Dense {
    Candle(Linear, bool),
    Ours(PackedLinear),
}

impl Dense {
    fn load(vb: &VarBuilder<'_>, inputs: usize, outputs: usize, gelu: bool, kernels: Kernels) -> Result<Dense> {
        let (weight, bias) = (vb.get((outputs, inputs), "weight")?, vb.get(outputs, "bias")?);
        Ok(match kernels {
            Kernels::Candle => Dense::Candle(Linear::new(weight, Some(bias)), gelu),
            Kernels::Millstream => Dense::Ours(PackedLinear::new(&weight, Some(&bias), if gelu { Epilogue::Gelu } else { Epilogue::None })?),
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Dense::Candle(layer, false) => layer.forward(x),
            Dense::Candle(layer, true) => layer.forward(x)?.gelu_erf(),
            Dense::Ours(layer) => Ok(layer.run(x)?),
        }
    }

    fn forward_add(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        match self {
            Dense::Candle(..) => self.forward(x)? + residual,
            Dense::Ours(layer) => Ok(layer.run_add(x, residual)?),
        }
    }
}

struct Norm {
    weight: Tensor,
    bias: Tensor,
    candle: LayerNorm,
    kernels: Kernels,
}

impl Norm {
    fn load(vb: &VarBuilder<'_>, n: usize, kernels: Kernels) -> Result<Norm> {
        let (weight, bias) = (vb.get(n, "weight")?, vb.get(n, "bias")?);
        Ok(Norm { candle: LayerNorm::new(weight.clone(), bias.clone(), EPSILON), weight, bias, kernels })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self.kernels {
            Kernels::Candle => self.candle.forward(x),
            Kernels::Millstream => Ok(ops::layer_norm(x, &self.weight, Some(&self.bias), EPSILON as f32)?),
        }
    }
}

struct Layer {
    qkv: [Dense; 3],
    out: Dense,
    out_norm: Norm,
    up: Dense,
    down: Dense,
    down_norm: Norm,
    heads: usize,
    kernels: Kernels,
}

impl Layer {
    fn load(vb: &VarBuilder<'_>, sizes: &Sizes, kernels: Kernels) -> Result<Layer> {
        let h = sizes.hidden;
        let square = |name: &str| Dense::load(&vb.pp(name), h, h, false, kernels);
        Ok(Layer {
            qkv: [square("attention.self.query")?, square("attention.self.key")?, square("attention.self.value")?],
            out: square("attention.output.dense")?,
            out_norm: Norm::load(&vb.pp("attention.output.LayerNorm"), h, kernels)?,
            up: Dense::load(&vb.pp("intermediate.dense"), h, sizes.intermediate, true, kernels)?,
            down: Dense::load(&vb.pp("output.dense"), sizes.intermediate, h, false, kernels)?,
            down_norm: Norm::load(&vb.pp("output.LayerNorm"), h, kernels)?,
            heads: sizes.heads,
            kernels,
        })
    }

    fn forward(&self, x: &Tensor, mask: &Tensor) -> Result<Tensor> {
        let (batch, rows, hidden) = x.dims3()?;
        let split = |layer: &Dense| layer.forward(x)?.reshape((batch, rows, self.heads, hidden / self.heads))?.transpose(1, 2);
        let [q, k, v] = &self.qkv;
        let (q, k, v) = (split(q)?, split(k)?, split(v)?);
        let context = match self.kernels {
            Kernels::Candle => {
                let scores = (q.contiguous()?.matmul(&k.t()?.contiguous()?)? / ((hidden / self.heads) as f64).sqrt())?;
                candle_nn::ops::softmax_last_dim(&scores.broadcast_add(mask)?)?.matmul(&v.contiguous()?)?
            }
            Kernels::Millstream => Attention::default().run(&q, &k, &v, Some(AttentionMask::Added(mask)))?,
        };
        let context = context.transpose(1, 2)?.contiguous()?.reshape((batch, rows, hidden))?;
        let x = self.out_norm.forward(&self.out.forward_add(&context, x)?)?;
        self.down_norm.forward(&self.down.forward_add(&self.up.forward(&x)?, &x)?)
    }
}

/// BERT's encoder.
pub struct Bert {
    words: Embedding,
    positions: Tensor,
    kinds: Embedding,
    norm: Norm,
    layers: Vec<Layer>,
}

impl Bert {
    /// Reads weights by the names that Hugging Face gives them.
    ///
    /// # Errors
    /// A weight that is missing or of another shape.
    pub fn load(vb: &VarBuilder<'_>, sizes: &Sizes, kernels: Kernels) -> Result<Bert> {
        let table = |name: &str, rows: usize| vb.get((rows, sizes.hidden), &format!("embeddings.{name}_embeddings.weight"));
        Ok(Bert {
            words: Embedding::new(table("word", sizes.vocabulary)?, sizes.hidden),
            positions: table("position", sizes.positions)?,
            kinds: Embedding::new(table("token_type", 2)?, sizes.hidden),
            norm: Norm::load(&vb.pp("embeddings.LayerNorm"), sizes.hidden, kernels)?,
            layers: (0..sizes.layers).map(|i| Layer::load(&vb.pp(format!("encoder.layer.{i}")), sizes, kernels)).collect::<Result<_>>()?,
        })
    }

    /// A BERT of pseudo-random weights.
    ///
    /// # Errors
    /// None, if there is memory.
    pub fn random(sizes: &Sizes, kernels: Kernels) -> Result<Bert> {
        Bert::load(&VarBuilder::from_tensors(sizes.weights()?, DType::F32, &Device::Cpu), sizes, kernels)
    }

    /// The hidden states of tokens `ids` of `kinds`, both `[batch, rows]` of u32, where `mask`, `[batch, rows]` of f32, is 1.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn forward(&self, ids: &Tensor, kinds: &Tensor, mask: &Tensor) -> Result<Tensor> {
        let (batch, rows) = ids.dims2()?;
        let x = (self.words.forward(ids)? + self.kinds.forward(kinds)?)?.broadcast_add(&self.positions.narrow(0, 0, rows)?)?;
        let mut x = self.norm.forward(&x)?;
        let mask = mask.affine(1e9, -1e9)?.reshape((batch, 1, 1, rows))?;
        for layer in &self.layers {
            x = layer.forward(&x, &mask)?;
        }
        Ok(x)
    }
}
