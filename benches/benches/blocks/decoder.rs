//! Blocks of published language models, reading a prompt and continuing it.

use crate::suite::Suite;
use framework::{
    Activation, AnyFfn, AnyModulation, AnyNorm, AnyPosition, At, Attention, Block, Dtype, Glu, Heads, Init, KvCache,
    Layout, Mask, Positions, Result, RmsNorm, Rope,
};

/// The widths of a block.
struct Widths {
    name: &'static str,
    dim: i32,
    hidden: i32,
    heads: Heads,
    /// Whether queries and keys are normalised.
    normed: bool,
}

const PROMPT: i32 = 512;

pub fn measure(suite: &mut Suite) -> Result<()> {
    let widths = |name, [dim, hidden]: [i32; 2], [heads, kv_heads, head_dim]: [i32; 3], normed| Widths {
        name,
        dim,
        hidden,
        heads: Heads { heads, kv_heads, head_dim },
        normed,
    };
    for widths in [
        widths("Qwen3-0.6B", [1024, 3072], [16, 8, 128], true),
        widths("Qwen3-1.7B", [2048, 6144], [16, 8, 128], true),
        widths("Llama-3.2-1B", [2048, 8192], [32, 8, 64], false),
    ] {
        widths.measure(suite)?;
    }
    Ok(())
}

impl Widths {
    fn block(&self, rope: Rope, init: &mut Init) -> Result<Block> {
        let &Self { dim, hidden, heads, normed, .. } = self;
        let norm = |width, init: &mut Init| Ok::<_, framework::Error>(AnyNorm::Rms(RmsNorm::new(width, 1e-6, init)?));
        let head_norm = |init: &mut Init| if normed { norm(heads.head_dim, init) } else { Ok(AnyNorm::None) };
        Ok(Block {
            norm1: norm(dim, init)?,
            attn: Attention {
                q_norm: head_norm(init)?,
                k_norm: head_norm(init)?,
                position: AnyPosition::Rope(rope),
                ..Attention::plain(heads, dim, false, init)?
            },
            norm2: norm(dim, init)?,
            ffn: AnyFfn::Glu(Glu::new(dim, hidden, Activation::Silu, false, init)?),
            modulation: AnyModulation::None,
        })
    }

    /// Multiplications and additions for `tokens` that see `keys`.
    fn operations(&self, tokens: i32, keys: i32) -> u64 {
        let Heads { heads, kv_heads, head_dim } = self.heads;
        let [tokens, keys, dim, hidden] = [tokens, keys, self.dim, self.hidden].map(|length| length as u64);
        let [queries, pairs] = [heads * head_dim, 2 * kv_heads * head_dim].map(|length| length as u64);
        tokens * (2 * dim * (2 * queries + pairs + 3 * hidden) + 4 * keys * queries)
    }

    fn measure(&self, suite: &mut Suite) -> Result<()> {
        let mut init = Init::default();
        let rope = Rope::new(self.heads.head_dim, 1e6, Layout::HalfSplit);
        let block = self.block(rope.clone(), &mut init)?;
        let mut call = |past, length: i32| -> Result<_> {
            let x = init.normal(&[1, length, self.dim], 1.0)?.get();
            let mask = Mask::causal().lower(length, length.max(past), Dtype::Float32)?;
            Ok((x, rope.angles(&Positions::range(past, length))?, mask))
        };
        let (x, angles, mask) = call(0, PROMPT)?;
        let at = At { angles: Some(&angles), mask: &mask, cond: None };
        let name = |what: &str| format!("{}, {what}", self.name);
        let work = (self.operations(PROMPT, PROMPT), Dtype::Float32);
        suite.product("block", &name("prompt of 512"), work, || block.forward(&x, &at, None));

        // A cache that rotates holds the same number however often this is repeated.
        let mut cache = KvCache::rotating(PROMPT);
        block.forward(&x, &at, Some(&mut cache))?;
        let (x, angles, mask) = call(PROMPT, 1)?;
        let at = At { angles: Some(&angles), mask: &mask, cond: None };
        let work = (self.operations(1, PROMPT), Dtype::Float32);
        suite.product("block", &name("1 after 512"), work, || block.forward(&x, &at, Some(&mut cache)));
        Ok(())
    }
}
