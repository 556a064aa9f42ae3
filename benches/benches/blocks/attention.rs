//! `softmax(q kᵀ) v` in the shapes that models have, without projections.

use crate::suite::Suite;
use framework::{Array, Dtype, Init, KvCache, Mask, Result, Score, attend};

/// A call of attention.
struct Shape {
    name: &'static str,
    queries: i32,
    keys: i32,
    heads: i32,
    kv_heads: i32,
    dim: i32,
    mask: Mask,
}

impl Shape {
    /// Multiplications and additions of both products, over every key whether it is seen or not.
    fn operations(&self) -> u64 {
        4 * [self.queries, self.keys, self.heads, self.dim].map(|length| length as u64).iter().product::<u64>()
    }
}

pub fn measure(suite: &mut Suite) -> Result<()> {
    let shape = |name, [queries, keys]: [i32; 2], [heads, kv_heads, dim]: [i32; 3], mask| Shape {
        name,
        queries,
        keys,
        heads,
        kv_heads,
        dim,
        mask,
    };
    let mut init = Init::default();
    for shape in [
        shape("self, 512", [512, 512], [16, 16, 64], Mask::none()),
        shape("causal, 512", [512, 512], [16, 16, 64], Mask::causal()),
        shape("cross, 512 to 77", [512, 77], [16, 16, 64], Mask::none()),
        shape("grouped 16 to 8, 512", [512, 512], [16, 8, 128], Mask::causal()),
        shape("grouped 32 to 8, 512", [512, 512], [32, 8, 64], Mask::causal()),
        shape("sliding 128, 1024", [1024, 1024], [4, 1, 256], Mask::sliding(128)),
    ] {
        let mut of = |length, heads| Ok::<_, framework::Error>(init.normal(&[1, length, heads, shape.dim], 1.0)?.get());
        let q = of(shape.queries, shape.heads)?;
        let [k, v] = [of(shape.keys, shape.kv_heads)?, of(shape.keys, shape.kv_heads)?];
        let mask = shape.mask.lower(shape.queries, shape.keys, Dtype::Float32)?;
        let score = Score::of(shape.dim);
        let work = (shape.operations(), Dtype::Float32);
        suite.product("attention", shape.name, work, || attend(&q, &k, &v, &mask, &score, None));
    }
    for past in [512, 4096] {
        decode(suite, &mut init, past)?;
    }
    Ok(())
}

/// One token after `past`, whose keys and values are held; Qwen3-0.6B's heads.
fn decode(suite: &mut Suite, init: &mut Init, past: i32) -> Result<()> {
    let [heads, kv_heads, dim] = [16, 8, 128];
    let mut of = |length, heads| Ok::<Array, framework::Error>(init.normal(&[1, length, heads, dim], 1.0)?.get());
    // One that rotates holds the same number however often this is repeated.
    let mut cache = KvCache::rotating(past);
    cache.update(of(past, kv_heads)?, of(past, kv_heads)?)?;
    let (q, k, v) = (of(1, heads)?, of(1, kv_heads)?, of(1, kv_heads)?);
    let mask = Mask::causal().lower(1, past, Dtype::Float32)?;
    let operations = 4 * [past, heads, dim].map(|length| length as u64).iter().product::<u64>();
    suite.product("attention", &format!("cached, 1 of {past}"), (operations, Dtype::Float32), || {
        let (keys, values) = cache.update(k.clone(), v.clone())?;
        attend(&q, &keys, &values, &mask, &Score::of(dim), None)
    });
    Ok(())
}
