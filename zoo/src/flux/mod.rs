//! FLUX.1's transformer: diffusers' `FluxTransformer2DModel`, and Black Forest Labs' single file.

mod bfl;
mod case;
mod diffusers;
mod pipeline;
mod transformer;

pub use case::{IMAGE_TO_IMAGE, TEXT_TO_IMAGE};
pub use pipeline::FluxPipeline;
pub use transformer::{FluxInput, FluxTransformer};

use crate::{
    Arguments, Error, Outputs, Result,
    arguments::forward_only,
    positions::grid,
    registry::{Family, Layout, json_config},
    sizes::{heads, positive},
};
use framework::{
    Activation, AdaLnContinuous, AdaLnZero, Angle, AnyFfn, AnyModulation, AnyNorm, AnyPosition, Attention, Axes, Block,
    Heads, Init, Joint, LayerNorm, Layout::Interleaved, Linear, Mlp, Qkv, RmsNorm, Rope, Score, Single,
    TimestepEmbedding,
};
use serde::Deserialize;
use transformer::TimeTextEmbed;

/// The family.
pub struct Flux;

/// diffusers' config of `FluxTransformer2DModel`.
#[derive(Debug, Deserialize)]
pub struct FluxConfig {
    patch_size: i32,
    in_channels: i32,
    out_channels: Option<i32>,
    num_layers: usize,
    num_single_layers: usize,
    attention_head_dim: i32,
    num_attention_heads: i32,
    joint_attention_dim: i32,
    pooled_projection_dim: i32,
    guidance_embeds: bool,
    /// Missing from the configs that FLUX.1 was published with.
    #[serde(default = "axes_dims_rope")]
    axes_dims_rope: Vec<i32>,
}

/// What diffusers assumes where the config does not say.
fn axes_dims_rope() -> Vec<i32> {
    vec![16, 56, 56]
}

impl FluxConfig {
    fn dim(&self) -> i32 {
        self.num_attention_heads.saturating_mul(self.attention_head_dim)
    }

    fn out_channels(&self) -> i32 {
        self.out_channels.unwrap_or(self.in_channels)
    }

    fn sizes(&self) -> framework::Result<Heads> {
        heads("num_attention_heads", self.num_attention_heads, self.attention_head_dim)
    }

    fn rope(&self) -> Rope {
        let axes = Axes::Each(self.axes_dims_rope.clone());
        Rope { axes, angle: Angle::Double, ..Rope::new(self.attention_head_dim, 10_000.0, Interleaved) }
    }

    fn head_norm(&self, init: &mut Init) -> framework::Result<AnyNorm> {
        Ok(AnyNorm::Rms(RmsNorm::new(self.attention_head_dim, 1e-6, init)?))
    }

    fn stream(&self, init: &mut Init) -> framework::Result<Block> {
        let dim = self.dim();
        Ok(Block {
            norm1: AnyNorm::Layer(LayerNorm::plain(1e-6)),
            attn: Attention {
                qkv: Qkv::Fused { qkv: Linear::new(dim, 3 * dim, true, init)? },
                o: Linear::new(dim, dim, true, init)?,
                q_norm: self.head_norm(init)?,
                k_norm: self.head_norm(init)?,
                position: AnyPosition::Rope(self.rope()),
                sinks: None,
                sizes: self.sizes()?,
                score: Score::of(self.attention_head_dim),
            },
            norm2: AnyNorm::Layer(LayerNorm::plain(1e-6)),
            ffn: AnyFfn::Mlp(Mlp::new(dim, 4 * dim, Activation::GeluTanh, true, init)?),
            modulation: AnyModulation::AdaLnZero(AdaLnZero::new(dim, dim, 2, init)?),
        })
    }

    fn single(&self, init: &mut Init) -> framework::Result<Single> {
        let dim = self.dim();
        Ok(Single {
            norm: AnyNorm::Layer(LayerNorm::plain(1e-6)),
            proj_in: Linear::new(dim, 7 * dim, true, init)?,
            q_norm: self.head_norm(init)?,
            k_norm: self.head_norm(init)?,
            position: AnyPosition::Rope(self.rope()),
            proj_out: Linear::new(5 * dim, dim, true, init)?,
            modulation: AnyModulation::AdaLnZero(AdaLnZero::new(dim, dim, 1, init)?),
            sizes: self.sizes()?,
            score: Score::of(self.attention_head_dim),
            activation: Activation::GeluTanh,
        })
    }
}

/// Features of the sinusoid of a time step.
const SINUSOID: i32 = 256;

impl Family for Flux {
    const NAMES: &'static [&'static str] = &["FluxTransformer2DModel"];
    const IGNORED: &'static [(&'static str, &'static str)] = &[];
    type Config = FluxConfig;
    type Model = FluxTransformer;

    fn build(config: &FluxConfig, init: &mut Init) -> framework::Result<FluxTransformer> {
        positive(&[
            ("patch_size", config.patch_size),
            ("in_channels", config.in_channels),
            ("out_channels", config.out_channels()),
            ("joint_attention_dim", config.joint_attention_dim),
            ("pooled_projection_dim", config.pooled_projection_dim),
        ])?;
        config.sizes()?;
        let dim = config.dim();
        if dim.checked_mul(7).is_none() {
            let problem = format!("a single block projects 7 times {dim} features, more than a matrix can have");
            return Err(framework::Error::config("num_attention_heads", problem));
        }
        if config.axes_dims_rope.iter().map(|&dims| i64::from(dims)).sum::<i64>()
            != i64::from(config.attention_head_dim)
        {
            let problem =
                format!("{:?} do not add up to a head of {}", config.axes_dims_rope, config.attention_head_dim);
            return Err(framework::Error::config("axes_dims_rope", problem));
        }
        let text_embedder = Mlp {
            up: Linear::new(config.pooled_projection_dim, dim, true, init)?,
            down: Linear::new(dim, dim, true, init)?,
            activation: Activation::Silu,
        };
        let joint = |init: &mut Init| Ok(Joint { streams: vec![config.stream(init)?, config.stream(init)?] });
        let transformer_blocks = (0..config.num_layers).map(|_| joint(init)).collect::<framework::Result<_>>()?;
        let single_transformer_blocks = (0..config.num_single_layers).map(|_| config.single(init));
        let single_transformer_blocks = single_transformer_blocks.collect::<framework::Result<_>>()?;
        let patch = config.patch_size.saturating_mul(config.patch_size);
        Ok(FluxTransformer {
            x_embedder: Linear::new(config.in_channels, dim, true, init)?,
            context_embedder: Linear::new(config.joint_attention_dim, dim, true, init)?,
            time_text_embed: TimeTextEmbed {
                timestep_embedder: TimestepEmbedding::new(SINUSOID, dim, init)?,
                guidance_embedder: config
                    .guidance_embeds
                    .then(|| TimestepEmbedding::new(SINUSOID, dim, init))
                    .transpose()?,
                text_embedder,
            },
            transformer_blocks,
            single_transformer_blocks,
            norm_out: AdaLnContinuous::new(dim, dim, 1e-6, init)?,
            proj_out: Linear::new(dim, patch.saturating_mul(config.out_channels()), true, init)?,
            rope: config.rope(),
        })
    }

    fn layouts() -> &'static [Layout<FluxConfig>] {
        &[
            Layout { name: "diffusers", config: json_config::<Flux>, map: diffusers::map },
            Layout { name: "bfl", config: bfl::config, map: bfl::map },
        ]
    }

    fn call(model: &FluxTransformer, method: &str, arguments: &mut Arguments) -> Result<Outputs> {
        forward_only(method)?;
        let [x, text, pooled, timestep] = ["hidden_states", "encoder_hidden_states", "pooled_projections", "timestep"]
            .map(|name| arguments.take(name));
        let guidance = arguments.take_optional("guidance");
        let text_angles = model.angles(&grid(&arguments.take("txt_ids")?)?)?;
        let image_angles = model.angles(&grid(&arguments.take("img_ids")?)?)?;
        if !arguments.flag("return_dict", true)? {
            return Err(Error::argument("return_dict", "only true is answered"));
        }
        let sample = model.forward(&FluxInput {
            hidden_states: &x?,
            encoder_hidden_states: &text?,
            pooled_projections: &pooled?,
            timestep: &timestep?,
            guidance: guidance.as_ref(),
            text_angles: &text_angles,
            image_angles: &image_angles,
        })?;
        Ok(vec![("sample".into(), sample)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn sizes_that_cannot_be_are_refused_by_their_key() {
        let fine = json!({
            "patch_size": 1, "in_channels": 4, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 8,
            "num_attention_heads": 2, "joint_attention_dim": 6, "pooled_projection_dim": 5, "guidance_embeds": false,
            "axes_dims_rope": [2, 2, 4],
        });
        let build = |config| Flux::build(&serde_json::from_value(config).unwrap(), &mut Init::default());
        assert!(build(fine.clone()).is_ok());
        for (key, value) in [
            ("patch_size", json!(0)),
            ("in_channels", json!(-4)),
            ("out_channels", json!(0)),
            ("joint_attention_dim", json!(0)),
            ("pooled_projection_dim", json!(-1)),
            ("num_attention_heads", json!(0)),
            ("num_attention_heads", json!(1 << 28)),
            ("num_attention_heads", json!(i32::MAX)),
            ("axes_dims_rope", json!([2, 2, 2])),
            ("axes_dims_rope", json!([i32::MAX, i32::MAX, 10])),
        ] {
            let mut config = fine.clone();
            config[key] = value.clone();
            let error = build(config).map(drop).unwrap_err().to_string();
            assert!(error.contains(&format!("`{key}`")), "{key} {value}: {error}");
        }
    }
}
