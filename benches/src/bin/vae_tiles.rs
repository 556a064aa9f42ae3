//! Decoding a picture with FLUX.1's autoencoder, whole and in tiles of half its side: the difference, the time, the memory.
//!
//! ```sh
//! cargo run --release -p benches --bin vae_tiles -- 1024
//! ```

use benches::settle;
use framework::{Array, Dtype, Init, math};
use mlx_rs::memory;
use std::time::Instant;
use zoo::{Family, families::AutoencoderKl};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let side: i32 = std::env::args().nth(1).map_or(Ok(1024), |side| side.parse())?;
    let tile = side / 2;
    let config = serde_json::json!({
        "in_channels": 3, "out_channels": 3, "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2,
        "down_block_types": vec!["DownEncoderBlock2D"; 4], "up_block_types": vec!["UpDecoderBlock2D"; 4],
        "act_fn": "silu", "latent_channels": 16, "norm_num_groups": 32, "sample_size": 1024,
        "scaling_factor": 0.3611, "shift_factor": 0.1159, "use_quant_conv": false, "use_post_quant_conv": false,
        "force_upcast": true, "mid_block_add_attention": true,
    });
    let mut init = Init::new(Dtype::Float32, 0);
    let vae = AutoencoderKl::build(&serde_json::from_value(config)?, &mut init)?;
    settle(&vae)?;
    let z = uneven(side / 8, &mut init)?;
    let measured = |decode: &dyn Fn() -> framework::Result<Array>| -> framework::Result<(Array, f64, f64)> {
        memory::clear_cache()?;
        memory::reset_peak_memory()?;
        let (before, start) = (memory::active_memory()?, Instant::now());
        let image = decode()?;
        image.eval()?;
        let beside = memory::peak_memory()?.saturating_sub(before);
        Ok((image, start.elapsed().as_secs_f64(), beside as f64 / 1e9))
    };
    let (whole, whole_time, whole_memory) = measured(&|| vae.decode(&z))?;
    let (tiled, tiled_time, tiled_memory) = measured(&|| vae.decode_tiled(&z, tile, &mut |_, _| Ok(())))?;
    let apart = math::subtract(&whole, &tiled)?.abs()?;
    let levels =
        |x: Array| -> framework::Result<f32> { Ok(math::read::<f32>(&x)?.first().copied().unwrap_or(0.0) * 127.5) };
    println!("a decode of {side}² pixels in f32, beside the weights:");
    println!("whole          {whole_memory:.2} GB  {whole_time:.1} s");
    println!("tiles of {tile:<4}  {tiled_memory:.2} GB  {tiled_time:.1} s");
    println!("difference in 255ths: mean {:.5}, most {:.5}", levels(apart.mean(None)?)?, levels(apart.max(None)?)?);
    Ok(())
}

/// A latent whose parts differ, as those of a picture do: smooth above, rough below.
fn uneven(side: i32, init: &mut Init) -> framework::Result<Array> {
    let noise = init.normal(&[1, side, side, 16], 1.0)?.get();
    let rows: Vec<f32> = (0..side).map(|row| if row < side / 2 { 0.05 } else { 1.5 }).collect();
    let z = math::multiply(&noise, &math::array(&rows, &[1, side, 1, 1])?)?;
    z.eval()?;
    Ok(z)
}
