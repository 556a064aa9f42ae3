//! `zoo bench`.

use super::{
    as_option, gigabytes,
    show::{Show, Unit, note_failure},
    table::{columns, count},
};
use crate::{
    Result,
    bench::{Measured, Settings, Stage, Timing, measure},
    doctor::Bytes,
};

/// What is asked for on the command line.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The model's id; none of its files is needed.
    id: String,
    /// Tokens of the prompt.
    #[arg(long, default_value_t = 512, allow_negative_numbers = true)]
    prompt_tokens: usize,
    /// Tokens that are generated.
    #[arg(long, default_value_t = 64, allow_negative_numbers = true)]
    tokens: usize,
    /// How often both are measured, after once that does not count.
    #[arg(long, default_value_t = 5, allow_negative_numbers = true)]
    repeats: usize,
    /// Bits of a weight: 32 (f32), 16 (bf16), 8 or 4; by default 32 on a CPU and 16 on a GPU.
    #[arg(long, allow_negative_numbers = true)]
    bits: Option<u8>,
    /// Refuse what is predicted to need more than so many GB; by default what is free.
    #[arg(long, value_name = "GB", allow_negative_numbers = true)]
    memory: Option<f64>,
}

/// Measures a model and shows the numbers.
pub fn run(arguments: &Arguments, show: &Show) -> Result<()> {
    let &Arguments { ref id, prompt_tokens, tokens, repeats, bits, memory } = arguments;
    let memory = memory.map(gigabytes).transpose()?;
    let settings = Settings { prompt_tokens, tokens, repeats, bits, memory };
    let mut failure = None;
    let measured = measure(id, &settings, &mut |stage, done, total| {
        let (stage, unit) = match stage {
            Stage::Load => ("load", "weights"),
            Stage::Repeat => ("measure", "repeats"),
        };
        note_failure(show.progress(stage, Unit::Things(unit), done as u64, total as u64), &mut failure)
    });
    failure.map_or(Ok(()), Err)?;
    let measured = measured.map_err(as_option)?;
    show.event("bench", serde_json::to_value(&measured).unwrap_or_default())?;
    show.text(&text(&measured))
}

fn text(measured: &Measured) -> String {
    let Measured { id, parameters, device, mlx, dtype, bits, load_seconds, .. } = measured;
    let [weights, planned, peak] = [measured.weights, measured.planned, measured.peak].map(Bytes);
    let rates = |Timing { tokens, rate, lowest, highest, .. }: &Timing| {
        format!("{rate:.1} tokens/s ({lowest:.1} to {highest:.1}), {tokens} tokens")
    };
    columns(&[
        vec!["model".into(), format!("{id}, {} random parameters of {bits} bits, {weights}", count(*parameters))],
        vec!["device".into(), format!("{device}, MLX {mlx}, computing in {dtype}")],
        vec!["load".into(), format!("{load_seconds:.1} s")],
        vec!["prefill".into(), rates(&measured.prefill)],
        vec!["decode".into(), rates(&measured.decode)],
        vec!["repeats".into(), format!("{}, the median and the lowest to the highest", measured.decode.seconds.len())],
        vec!["memory".into(), format!("{peak} at most, {planned} planned")],
    ])
}
