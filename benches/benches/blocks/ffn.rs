//! Feed-forward networks of real widths.

use crate::suite::Suite;
use framework::{Activation, Dtype, Ffn, Glu, Init, Mlp, Result};

pub fn measure(suite: &mut Suite) -> Result<()> {
    let mut init = Init::default();
    for (name, dim, hidden, tokens) in
        [("Qwen3-0.6B", 1024, 3072, 512), ("Llama-3.2-1B", 2048, 8192, 512), ("Llama-3.2-1B", 2048, 8192, 1)]
    {
        let glu = Glu::new(dim, hidden, Activation::Silu, false, &mut init)?;
        let x = init.normal(&[1, tokens, dim], 1.0)?.get();
        let operations = 6 * [dim, hidden, tokens].map(|length| length as u64).iter().product::<u64>();
        let name = format!("SwiGLU of {name}, {tokens}");
        suite.product("ffn", &name, (operations, Dtype::Float32), || glu.forward(&x));
    }
    let mlp = Mlp::new(1152, 4304, Activation::GeluTanh, true, &mut init)?;
    let x = init.normal(&[1, 256, 1152], 1.0)?.get();
    suite.product("ffn", "MLP of SigLIP, 256", (4 * 1152 * 4304 * 256, Dtype::Float32), || mlp.forward(&x));
    Ok(())
}
