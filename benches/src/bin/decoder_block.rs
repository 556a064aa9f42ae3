//! The first block of a Llama checkpoint in f32, timed once for every line on standard input, so that another program can
//! take turns with it.
//!
//! `benches/peers/block.py` runs it beside PyTorch.

use benches::settle;
use clap::Parser;
use framework::{At, Dtype, Mask, Positions, math, weights::Packed};
use serde_json::json;
use std::{
    io::{Write, stdin, stdout},
    ops::ControlFlow,
    path::PathBuf,
    time::Instant,
};
use zoo::{OpenOptions, doctor::Mlx, families::Llama, registry};

/// Times the first block of a Llama checkpoint. The input is the first rows of its embedding.
#[derive(Parser)]
struct Options {
    /// The snapshot's folder.
    #[arg(long)]
    checkpoint: PathBuf,
    /// Tokens that the block reads.
    #[arg(long, default_value_t = 512)]
    tokens: i32,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let Options { checkpoint, tokens } = Options::parse();
    let options = OpenOptions { dtype: Dtype::Float32, packed: Packed::Keep };
    let model = registry::open_model::<Llama>(&checkpoint, options, &mut |_, _| ControlFlow::Continue(()))?;
    settle(&model)?;
    let block = model.layers.first().ok_or("the checkpoint has no layer")?;
    let ids: Vec<i32> = (0..tokens).collect();
    let x = model.embed_tokens.forward(&math::array(&ids, &[1, tokens])?)?;
    let rope =
        model.kinds.first().and_then(|kind| kind.rope.as_ref()).ok_or("the first layer has no rotary positions")?;
    let angles = rope.angles(&Positions::range(0, tokens))?;
    let mask = Mask::causal().lower(tokens, tokens, x.dtype())?;
    let at = At { angles: Some(&angles), mask: &mask, cond: None };
    let run = || -> framework::Result<_> {
        let y = block.forward(&x, &at, None)?;
        y.eval()?;
        Ok(y)
    };
    let last = math::read::<f32>(&math::slice(&run()?, 1, tokens - 1, tokens)?)?;
    let tell = |value: serde_json::Value| -> std::io::Result<()> {
        println!("{value}");
        stdout().flush()
    };
    tell(json!({"versions": {"mlx": Mlx::now()?.version}, "last": last}))?;
    for line in stdin().lines() {
        line?;
        let begin = Instant::now();
        run()?;
        tell(json!(begin.elapsed().as_secs_f64() * 1e3))?;
    }
    Ok(())
}
