//! Mixtures of experts at Qwen3-30B-A3B's widths, with 16 of its 128 experts.

use crate::suite::Suite;
use framework::{Activation, Choice, Dtype, ExpertSizes, Ffn, Init, Moe, Result, Scoring, on_linears};

const DIM: i32 = 2048;
const SIZES: ExpertSizes = ExpertSizes { count: 16, hidden: 768 };
const CHOICE: Choice = Choice { top_k: 8, scoring: Scoring::Softmax, normalise: true, scale: 1.0 };

/// Below 64 rows experts are gone through token by token, from there on sorted: 1, 8 and 256 tokens have 8, 64 and 2048 rows.
pub fn measure(suite: &mut Suite) -> Result<()> {
    let mut init = Init::default();
    let mut moe = Moe::new(DIM, SIZES, CHOICE, Activation::Silu, &mut init)?;
    for tokens in [1, 8, 256] {
        forward(suite, &moe, "f32", tokens, &mut init)?;
    }
    on_linears(&mut moe.experts, |_, linear| linear.weight.quantise(64, 4))?;
    for tokens in [1, 8] {
        forward(suite, &moe, "4 bits", tokens, &mut init)?;
    }
    Ok(())
}

fn forward(suite: &mut Suite, moe: &Moe, storage: &str, tokens: i32, init: &mut Init) -> Result<()> {
    let x = init.normal(&[1, tokens, DIM], 1.0)?.get();
    let token = 2 * DIM * SIZES.count + CHOICE.top_k * 6 * DIM * SIZES.hidden;
    let operations = token as u64 * tokens as u64;
    suite.product("moe", &format!("8 of 16, {storage}, {tokens}"), (operations, Dtype::Float32), || moe.forward(&x));
    Ok(())
}
