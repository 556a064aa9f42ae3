//! A block of one's own over `framework`'s, beside the models of `zoo`.

use framework::{Array, Init, LayerNorm, Linear, Norm, Result, call, math, module, params};

/// `x + W norm(x)`: `[…, D]` → `[…, D]`.
struct Residual<N = LayerNorm> {
    norm: N,
    proj: Linear,
}
module! { impl[N: Norm] Residual<N> { norm, proj } }

impl<N: Norm> Residual<N> {
    fn forward(&self, x: &Array) -> Result<Array> {
        let h = call!(self.norm.forward(x))?;
        math::add(x, &call!(self.proj.forward(&h))?)
    }
}

fn main() -> Result<()> {
    let mut init = Init::default();
    let blocks = (0..2)
        .map(|_| {
            let norm = LayerNorm::new(16, 1e-5, &mut init)?;
            Ok(Residual { norm, proj: Linear::new(16, 16, true, &mut init)? })
        })
        .collect::<Result<Vec<_>>>()?;
    for (path, param) in params(&blocks) {
        println!("{path} {:?}", param.shape());
    }
    let x = init.normal(&[2, 3, 16], 1.0)?.get();
    let y = blocks.iter().try_fold(x, |x, block| block.forward(&x))?;
    println!("output {:?}, finite: {}", y.shape(), math::is_finite(&y)?);
    for entry in zoo::MODELS {
        println!("zoo has {}", entry.names.join(", "));
    }
    Ok(())
}
