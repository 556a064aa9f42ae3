//! One denoising step of FLUX.1-dev at its real size: 1024 × 1024 pixels, 512 text tokens, random bf16 weights.
//!
//! ```sh
//! cargo run --release -p benches --bin flux_step
//! ```

use benches::{settle, spread, times};
use framework::{Array, Dtype, Init, Positions};
use mlx_rs::memory;
use zoo::{Family, FluxInput, families::Flux};

const SIDE: usize = 64;
const TEXT: i32 = 512;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let config = serde_json::json!({
        "patch_size": 1, "in_channels": 64, "out_channels": null, "num_layers": 19, "num_single_layers": 38,
        "attention_head_dim": 128, "num_attention_heads": 24, "joint_attention_dim": 4096,
        "pooled_projection_dim": 768, "guidance_embeds": true, "axes_dims_rope": [16, 56, 56],
    });
    let mut init = Init::new(Dtype::Bfloat16, 0);
    let model = Flux::build(&serde_json::from_value(config)?, &mut init)?;
    settle(&model)?;
    let mut random = |shape: &[i32]| -> framework::Result<Array> {
        let x = init.normal(shape, 1.0)?.get();
        x.eval()?;
        Ok(x)
    };
    let latents = random(&[1, (SIDE * SIDE) as i32, 64])?;
    let text = random(&[1, TEXT, 4096])?;
    let pooled = random(&[1, 768])?;
    let (timestep, guidance) = (Array::from_f32(0.7).reshape(&[1])?, Array::from_f32(3.5).reshape(&[1])?);
    let coordinate = |axis: usize| (0..SIDE * SIDE).map(move |i| [0, i / SIDE, i % SIDE][axis] as f64);
    let image_positions = Positions::new((0..3).flat_map(coordinate).collect(), 3, 1, SIDE * SIDE)?;
    let text_positions = Positions::new(vec![0.0; 3 * TEXT as usize], 3, 1, TEXT as usize)?;
    let (text_angles, image_angles) = (model.angles(&text_positions)?, model.angles(&image_positions)?);
    let input = FluxInput {
        hidden_states: &latents,
        encoder_hidden_states: &text,
        pooled_projections: &pooled,
        timestep: &timestep,
        guidance: Some(&guidance),
        text_angles: &text_angles,
        image_angles: &image_angles,
    };
    let [median, least, most] = spread(times(10, || model.forward(&input))?);
    let peak = memory::peak_memory()? as f64 / 1e9;
    println!(
        "FLUX.1-dev step, 1024², {TEXT} text tokens, bf16: median {median:.0} ms ({least:.0} to {most:.0}, n = 10), peak {peak:.1} GB"
    );
    Ok(())
}
