//! What happens to an element after its dot product, while it is still in a register.

use crate::Activation;
use crate::error::{GemmError, require, span};

/// `activation(alpha x + bias_cols[col] + bias_rows[row] + beta residual[row, col])`, in this order.
#[derive(Clone, Copy, Debug)]
pub struct Epilogue<'a> {
    /// The factor of the product.
    pub alpha: f32,
    /// One term for each column (n).
    pub bias_cols: Option<&'a [f32]>,
    /// One term for each row (m).
    pub bias_rows: Option<&'a [f32]>,
    /// A matrix of the output's dims.
    pub residual: Option<Residual<'a>>,
    /// The last step.
    pub activation: Activation,
}

/// A matrix that is added to the product.
#[derive(Clone, Copy, Debug)]
pub struct Residual<'a> {
    /// The elements.
    pub data: &'a [f32],
    /// Elements from one row to the next.
    pub row_stride: usize,
    /// Its factor.
    pub beta: f32,
}

impl Default for Epilogue<'_> {
    fn default() -> Self {
        Self { alpha: 1.0, bias_cols: None, bias_rows: None, residual: None, activation: Activation::None }
    }
}

impl<'a> Epilogue<'a> {
    /// A bias for each column and an activation: a linear layer, or a channels-last convolution.
    pub fn bias(bias_cols: &'a [f32], activation: Activation) -> Self {
        Self { bias_cols: Some(bias_cols), activation, ..Self::default() }
    }

    /// An activation alone.
    pub fn activation(activation: Activation) -> Self {
        Self { activation, ..Self::default() }
    }

    pub(crate) fn check(&self, m: usize, n: usize) -> Result<(), GemmError> {
        if let Some(bias) = self.bias_cols {
            require("bias_cols", n, bias.len())?;
        }
        if let Some(bias) = self.bias_rows {
            require("bias_rows", m, bias.len())?;
        }
        if let Some(r) = self.residual {
            require("residual", span(m, r.row_stride, n, 1)?, r.data.len())?;
        }
        Ok(())
    }
}
