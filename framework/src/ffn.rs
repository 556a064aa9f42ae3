//! Feed-forward networks.

use crate::{Init, Linear, Module, Moe, Result, call, cuda::hidden, fused::fused, host, math};
use mlx_rs::Array;
use serde::Deserialize;

/// The role of a feed-forward network in a block: `[B, L, D]` → `[B, L, D]`.
pub trait Ffn: Module {
    /// Transforms every token by itself.
    fn forward(&self, x: &Array) -> Result<Array>;
}

/// An elementwise nonlinearity. The aliases are the names that upstream configs use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x σ(x)`.
    #[serde(alias = "swish")]
    Silu,
    /// `x Φ(x)`, exact.
    Gelu,
    /// GELU by tanh.
    #[serde(alias = "gelu_pytorch_tanh", alias = "gelu_new", alias = "gelu-approximate")]
    GeluTanh,
    /// `x σ(1.702 x)`.
    QuickGelu,
    /// `max(x, 0)`.
    Relu,
    /// `max(x, 0)²`.
    Relu2,
}

impl Activation {
    /// Applies it to every element.
    pub fn forward(self, x: &Array) -> Result<Array> {
        self.computed(move |[x]| self.of(x), [x])
    }

    /// `a(gate) ∘ x`, in the dtype of `gate`.
    pub fn gated(self, gate: &Array, x: &Array) -> Result<Array> {
        self.computed(move |[gate, x]| math::multiply(&self.of(gate)?, x), [gate, x])
    }

    fn computed<const N: usize, F>(self, f: F, inputs: [&Array; N]) -> Result<Array>
    where
        F: Fn([&Array; N]) -> Result<Array> + Copy + 'static,
    {
        match host::activate(self, inputs, f)? {
            Some(y) => Ok(y),
            None => fused(self as u32, f, inputs),
        }
    }

    fn of(self, x: &Array) -> Result<Array> {
        match self {
            Self::Silu => math::silu(x),
            Self::Gelu => math::gelu(x),
            Self::GeluTanh => math::gelu_tanh(x),
            Self::QuickGelu => math::quick_gelu(x),
            Self::Relu => math::relu(x),
            Self::Relu2 => math::relu2(x),
        }
    }
}

/// `W₂ a(W₁ x)`: the transformer's own (<https://arxiv.org/abs/1706.03762>).
pub struct Mlp {
    /// `[hidden, D]`.
    pub up: Linear,
    /// `[D, hidden]`.
    pub down: Linear,
    /// a.
    pub activation: Activation,
}
crate::module! { impl[] Mlp { up, down } }

impl Mlp {
    /// A network of `hidden` units.
    pub fn new(dim: i32, hidden: i32, activation: Activation, bias: bool, init: &mut Init) -> Result<Self> {
        let up = Linear::new(dim, hidden, bias, init)?;
        Ok(Self { up, down: Linear::new(hidden, dim, bias, init)?, activation })
    }
}

impl Ffn for Mlp {
    fn forward(&self, x: &Array) -> Result<Array> {
        let hidden = self.activation.forward(&call!(self.up.forward(x))?)?;
        call!(self.down.forward(&hidden))
    }
}

/// `W₂ (a(W_g x) ∘ W₁ x)`: gated (<https://arxiv.org/abs/2002.05202>); SwiGLU with SiLU, GEGLU with GELU.
pub struct Glu {
    /// `[hidden, D]`.
    pub gate: Linear,
    /// `[hidden, D]`.
    pub up: Linear,
    /// `[D, hidden]`.
    pub down: Linear,
    /// a.
    pub activation: Activation,
}
crate::module! { impl[] Glu { gate, up, down } }

impl Glu {
    /// A network of `hidden` units.
    pub fn new(dim: i32, hidden: i32, activation: Activation, bias: bool, init: &mut Init) -> Result<Self> {
        let gate = Linear::new(dim, hidden, bias, init)?;
        let up = Linear::new(dim, hidden, bias, init)?;
        Ok(Self { gate, up, down: Linear::new(hidden, dim, bias, init)?, activation })
    }

    /// `a(W_g x) ∘ W₁ x`, where there is a kernel for that.
    fn of_one_token(&self, x: &Array) -> Result<Option<Array>> {
        match Linear::matrices_for_row([&self.gate, &self.up], x)? {
            Some([gate, up]) => hidden(x, [&gate, &up], self.activation, None),
            None => Ok(None),
        }
    }
}

impl Ffn for Glu {
    fn forward(&self, x: &Array) -> Result<Array> {
        let hidden = match self.of_one_token(x)? {
            Some(hidden) => hidden,
            None => self.activation.gated(&call!(self.gate.forward(x))?, &call!(self.up.forward(x))?)?,
        };
        call!(self.down.forward(&hidden))
    }
}

/// A feed-forward network chosen by a config.
pub enum AnyFfn {
    /// Plain.
    Mlp(Mlp),
    /// Gated.
    Glu(Glu),
    /// Of which a token goes through a few.
    Moe(Box<Moe>),
    /// One's own.
    Custom(Box<dyn Ffn + Send>),
}
crate::module! { enum[] AnyFfn { AnyFfn::Mlp, AnyFfn::Glu, AnyFfn::Moe, AnyFfn::Custom } }

impl Ffn for AnyFfn {
    fn forward(&self, x: &Array) -> Result<Array> {
        match self {
            Self::Mlp(ffn) => ffn.forward(x),
            Self::Glu(ffn) => ffn.forward(x),
            Self::Moe(ffn) => ffn.forward(x),
            Self::Custom(ffn) => ffn.forward(x),
        }
    }
}
