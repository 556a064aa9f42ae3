//! One denoising step of FLUX.1-dev in bf16, at its real size unless told otherwise.
//!
//! ```sh
//! cargo run --release -p benches --bin flux_step
//! ```
//!
//! `benches/peers/flux.py` runs it beside mflux and diffusers.

use benches::{
    flux::{self, Inputs, PATCH},
    settle, spread, times,
};
use clap::Parser;
use framework::{Dtype, math, memory};
use serde_json::json;
use std::{fs, path::PathBuf, time::Instant};
use zoo::doctor::Mlx;

/// Times a denoising step of FLUX.1-dev and reads the memory it takes.
#[derive(Parser)]
struct Options {
    /// Pixels of the picture's side, a multiple of 16.
    #[arg(long, default_value_t = 1024)]
    size: usize,
    /// Tokens of the text.
    #[arg(long, default_value_t = 512)]
    text_tokens: usize,
    /// How many steps to time, after two that warm up.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..))]
    steps: u16,
    /// Two blocks of each kind and a width of 256 where random weights are made; for a CPU.
    #[arg(long)]
    tiny: bool,
    /// Open the snapshot in this folder, and time from there to the end of the first step; it is written with random
    /// weights if there is none.
    #[arg(long, value_name = "DIR")]
    checkpoint: Option<PathBuf>,
    /// Let the device's queue hold as much memory as it likes, rather than what a step needs.
    #[arg(long)]
    unbounded: bool,
    /// Write every measurement there.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = Options::parse();
    if options.size == 0 || options.size % PATCH != 0 {
        return Err(format!("--size {} is not a multiple of {PATCH} above 0", options.size).into());
    }
    let folder = options.checkpoint.as_deref();
    let config =
        folder.map_or_else(|| Ok(flux::config(options.tiny)), |folder| flux::snapshot(folder, options.tiny))?;
    let inputs = Inputs::new(&config, options.size, options.text_tokens)?;

    let begin = Instant::now();
    let model = match folder {
        Some(folder) => flux::open(folder)?,
        None => flux::random(&config)?,
    };
    settle(&model)?;
    let step = inputs.step(&model)?;
    let velocity = step()?;
    velocity.eval()?;
    let loaded = folder.map(|_| begin.elapsed().as_secs_f64());

    let token = math::read::<f32>(&math::slice(&velocity, 1, 0, 1)?.as_dtype(Dtype::Float32)?)?;
    drop(velocity);
    let active = mlx_rs::memory::active_memory()?;
    let working = memory::working(&model, &step)?;
    let bound = if options.unbounded { u64::MAX } else { working };
    let times = memory::bounded(bound, || times(options.steps.into(), &step))??;
    let peak = mlx_rs::memory::peak_memory()?;

    if let Some(path) = options.json {
        let mlx = Mlx::now()?;
        let milliseconds: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1e3).collect();
        let report = json!({
            "device": mlx.device, "versions": {"mlx": mlx.version}, "milliseconds": milliseconds,
            "load_to_first_step": loaded, "active": active, "planned": working, "peak": peak, "velocity": token,
        });
        fs::write(path, serde_json::to_vec(&report)?)?;
    }
    let [median, least, most] = spread(times);
    let [active, planned, peak] = [active as u64, active as u64 + working, peak as u64].map(|bytes| bytes as f64 / 1e9);
    let Options { size, text_tokens, steps, .. } = options;
    print!("FLUX.1-dev step, {size}², {text_tokens} text tokens, bf16: median {median:.0} ms ");
    print!(
        "({least:.0} to {most:.0}, n = {steps}), weights {active:.1} GB, planned {planned:.1} GB, peak {peak:.1} GB"
    );
    println!("{}", loaded.map_or_else(String::new, |seconds| format!(", load to first step {seconds:.1} s")));
    Ok(())
}
