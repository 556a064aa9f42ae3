//! FLUX.1-dev's transformer with random weights, and what one of its denoising steps is given.

use framework::{
    Array, Dtype, Init, Positions, math,
    weights::{Packed, save},
};
use serde_json::{Value, json};
use std::{fs, ops::ControlFlow, path::Path};
use zoo::{Family, FluxInput, FluxTransformer, OpenOptions, Result, families::Flux, registry};

/// Pixels that a packed latent stands for, along each axis.
pub const PATCH: usize = 16;

/// diffusers' config of FLUX.1-dev's transformer; of a `tiny` one, which a CPU evaluates at once.
pub fn config(tiny: bool) -> Value {
    let [layers, single_layers, heads, joint, pooled] = if tiny { [2, 2, 2, 64, 32] } else { [19, 38, 24, 4096, 768] };
    json!({
        "_class_name": "FluxTransformer2DModel", "patch_size": 1, "in_channels": 64, "out_channels": null,
        "num_layers": layers, "num_single_layers": single_layers, "attention_head_dim": 128,
        "num_attention_heads": heads, "joint_attention_dim": joint, "pooled_projection_dim": pooled,
        "guidance_embeds": true, "axes_dims_rope": [16, 56, 56],
    })
}

/// The model with random bf16 weights, lazily.
///
/// # Errors
/// When the config cannot be built.
pub fn random(config: &Value) -> Result<FluxTransformer> {
    let (config, _) = registry::parse_config(config)?;
    Ok(Flux::build(&config, &mut Init::new(Dtype::Bfloat16, 0))?)
}

/// The config of the snapshot in `folder`; if there is none, one with random weights is written in diffusers' layout.
///
/// # Errors
/// Those of the disk.
pub fn snapshot(folder: &Path, tiny: bool) -> std::result::Result<Value, Box<dyn std::error::Error>> {
    let path = folder.join("config.json");
    if !path.exists() {
        let config = config(tiny);
        let layout = Flux::layouts().iter().find(|layout| layout.name == "diffusers").ok_or("no such layout")?;
        let map = (layout.map)(&serde_json::from_value(config.clone())?);
        fs::create_dir_all(folder)?;
        save(&random(&config)?, &map, None, &folder.join("diffusion_pytorch_model.safetensors"))?;
        mlx_rs::memory::clear_cache()?;
        // Last, so that a folder with a config is complete.
        fs::write(&path, serde_json::to_vec_pretty(&config)?)?;
    }
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

/// Opens a snapshot in bf16.
///
/// # Errors
/// When it does not fit.
pub fn open(folder: &Path) -> Result<FluxTransformer> {
    let options = OpenOptions { dtype: Dtype::Bfloat16, packed: Packed::Keep };
    registry::open_model::<Flux>(folder, options, &mut |_, _| ControlFlow::Continue(()))
}

/// The tensors of the first step: the same numbers whoever makes them.
pub struct Inputs {
    side: usize,
    latents: Array,
    text: Array,
    pooled: Array,
    timestep: Array,
    guidance: Array,
}

impl Inputs {
    /// For a picture of `size` × `size` pixels and a text of `tokens`, evaluated.
    ///
    /// # Errors
    /// When the config lacks a width.
    pub fn new(config: &Value, size: usize, tokens: usize) -> Result<Self> {
        let side = size / PATCH;
        let width = |key: &str| {
            let width = config.get(key).and_then(Value::as_u64).map(|width| width as usize);
            width.ok_or_else(|| framework::Error::config(key, "must be a number"))
        };
        let inputs = Self {
            side,
            latents: numbers(&[1, side * side, width("in_channels")?])?,
            text: numbers(&[1, tokens, width("joint_attention_dim")?])?,
            pooled: numbers(&[1, width("pooled_projection_dim")?])?,
            timestep: math::array(&[1.0_f32], &[1])?,
            guidance: math::array(&[3.5_f32], &[1])?,
        };
        mlx_rs::transforms::eval([&inputs.latents, &inputs.text, &inputs.pooled])?;
        Ok(inputs)
    }

    /// One evaluation of the model as a step: the closure returns the velocity `[1, L, 64]`, lazily. What is the same at
    /// every step is computed here.
    ///
    /// # Errors
    /// When the rope does not have three axes.
    pub fn step<'a>(
        &'a self,
        model: &'a FluxTransformer,
    ) -> framework::Result<impl Fn() -> framework::Result<Array> + 'a> {
        let (side, area) = (self.side, self.side * self.side);
        let [_, tokens, _] = math::shape::<3>(&self.text)?.map(|length| length as usize);
        let coordinate = |axis: usize| (0..area).map(move |i| [0, i / side, i % side][axis] as f64);
        let image_angles = model.angles(&Positions::new((0..3).flat_map(coordinate).collect(), 3, 1, area)?)?;
        let text_angles = model.angles(&Positions::new(vec![0.0; 3 * tokens], 3, 1, tokens)?)?;
        Ok(move || {
            model.forward(&FluxInput {
                hidden_states: &self.latents,
                encoder_hidden_states: &self.text,
                pooled_projections: &self.pooled,
                timestep: &self.timestep,
                guidance: Some(&self.guidance),
                text_angles: &text_angles,
                image_angles: &image_angles,
            })
        })
    }
}

/// Numbers from -1 to 1 in bf16: Knuth's multiplicative hash of an element's place.
fn numbers(shape: &[usize]) -> framework::Result<Array> {
    let hash = |place: u32| f64::from(place.wrapping_mul(2_654_435_761)) / f64::from(1_u32 << 31) - 1.0;
    let values: Vec<f32> = (0..shape.iter().product::<usize>() as u32).map(|place| hash(place) as f32).collect();
    let shape: Vec<i32> = shape.iter().map(|&length| length as i32).collect();
    Ok(math::array(&values, &shape)?.as_dtype(Dtype::Bfloat16)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use framework::memory;

    #[test]
    fn a_snapshot_is_written_once_and_gives_the_velocity_of_the_model_that_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let config = snapshot(folder.path(), true).unwrap();
        assert_eq!(snapshot(folder.path(), false).unwrap(), config);
        let inputs = Inputs::new(&config, 48, 5).unwrap();
        let velocity = |model: FluxTransformer| inputs.step(&model).unwrap()().unwrap();
        let opened = velocity(open(folder.path()).unwrap());
        assert_eq!(opened.shape(), [1, 9, 64]);
        assert!(math::is_finite(&opened).unwrap());
        assert!(opened.eq_exact(velocity(random(&config).unwrap())).unwrap());
    }

    /// No weight is made: the graph alone says what is needed. On a CPU 0.7 GB of it are scores, which GPUs never hold.
    #[test]
    fn a_step_at_the_real_size_is_planned_within_25_and_a_half_gb() {
        let config = config(false);
        let model = random(&config).unwrap();
        let inputs = Inputs::new(&config, 1024, 512).unwrap();
        let step = inputs.step(&model).unwrap();
        let [weights, working] = [memory::weights(&model), memory::working(&model, step).unwrap()];
        assert_eq!(weights, 2 * 11_901_408_320);
        assert!(weights + working < 25_500_000_000, "{working}");
    }

    #[test]
    fn numbers_are_those_of_the_peers() {
        let values = math::read::<f32>(&numbers(&[2, 2]).unwrap().as_dtype(Dtype::Float32).unwrap()).unwrap();
        assert_eq!(values, [-1.0, 121.0 / 512.0, -135.0 / 256.0, 181.0 / 256.0]);
    }
}
