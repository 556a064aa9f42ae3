//! The image autoencoder of Stable Diffusion, SDXL and FLUX.1: diffusers' `AutoencoderKL`, and the files of the
//! CompVis and Black Forest Labs code.

use crate::{
    Arguments, Error, Outputs, Result,
    registry::{Checkpoint, Family, Layout, json_config},
    sizes::positive,
};
use framework::{
    Activation, Array, Conv, Init, Style, Window, math,
    vae::{Decoder, Encoder, Gaussian, KlVae, LatentSpace, Stages},
    weights::{
        ActivationLayout::{ChannelsFirst, ChannelsLast},
        Config, WeightMap,
    },
};
use serde::Deserialize;
use std::collections::BTreeSet;

/// The family.
pub struct AutoencoderKl;

/// diffusers' config of `AutoencoderKL`.
#[derive(Debug, Deserialize)]
pub struct AutoencoderKlConfig {
    in_channels: i32,
    out_channels: i32,
    down_block_types: Vec<Block>,
    up_block_types: Vec<Block>,
    block_out_channels: Vec<i32>,
    layers_per_block: usize,
    act_fn: Activation,
    latent_channels: i32,
    norm_num_groups: i32,
    #[serde(default = "scaling_factor")]
    scaling_factor: f32,
    shift_factor: Option<f32>,
    latents_mean: Option<Vec<f32>>,
    latents_std: Option<Vec<f32>>,
    #[serde(default = "yes")]
    use_quant_conv: bool,
    #[serde(default = "yes")]
    use_post_quant_conv: bool,
    #[serde(default = "yes")]
    mid_block_add_attention: bool,
}

/// What a configuration written before the key existed means.
fn yes() -> bool {
    true
}

/// Stable Diffusion's, which older configurations do not state.
fn scaling_factor() -> f32 {
    0.18215
}

/// A stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
enum Block {
    #[serde(rename = "DownEncoderBlock2D", alias = "UpDecoderBlock2D")]
    Plain,
    #[serde(rename = "AttnDownEncoderBlock2D", alias = "AttnUpDecoderBlock2D")]
    Attention,
}

impl AutoencoderKlConfig {
    /// The stages from the image inwards.
    fn stages<'a>(&self, blocks: impl Iterator<Item = &'a Block>) -> framework::Result<Stages> {
        let attention: Vec<bool> = blocks.map(|block| *block == Block::Attention).collect();
        if attention.len() != self.block_out_channels.len() {
            let problem = format!("{} stages where there are {}", attention.len(), self.block_out_channels.len());
            return Err(framework::Error::config("block_out_channels", problem));
        }
        let style = Style { rank: 2, groups: self.norm_num_groups, eps: 1e-6, activation: self.act_fn };
        let (channels, blocks) = (self.block_out_channels.clone(), self.layers_per_block);
        Ok(Stages { channels, attention, blocks, mid_attention: self.mid_block_add_attention, style })
    }

    fn has_attention(&self) -> bool {
        let mut blocks = self.down_block_types.iter().chain(&self.up_block_types);
        self.mid_block_add_attention || blocks.any(|block| *block == Block::Attention)
    }

    fn latents(&self) -> framework::Result<LatentSpace> {
        let each = |key: &str, values: &Option<Vec<f32>>| match values {
            Some(values) if values.len() != self.latent_channels.max(0) as usize => {
                let problem = format!("{} numbers for {} channels", values.len(), self.latent_channels);
                Err(framework::Error::config(key, problem))
            }
            other => Ok(other.clone()),
        };
        let shift = each("latents_mean", &self.latents_mean)?;
        let deviation = each("latents_std", &self.latents_std)?.unwrap_or_else(|| vec![1.0]);
        let scale: Vec<f32> = deviation.iter().map(|deviation| self.scaling_factor / deviation).collect();
        if !scale.iter().all(|scale| scale.is_normal()) {
            return Err(framework::Error::config("scaling_factor", "latents cannot be scaled by 0 or infinity"));
        }
        Ok(LatentSpace { shift: shift.unwrap_or_else(|| vec![self.shift_factor.unwrap_or(0.0)]), scale })
    }
}

impl Family for AutoencoderKl {
    const NAMES: &'static [&'static str] = &["AutoencoderKL"];
    const IGNORED: &'static [(&'static str, &'static str)] = &[
        ("sample_size", "the size that it was trained at; whoever decodes chooses the tiles"),
        ("force_upcast", "warns of overflow in f16; the dtype is the caller's choice"),
    ];
    type Config = AutoencoderKlConfig;
    type Model = KlVae;

    fn build(config: &AutoencoderKlConfig, init: &mut Init) -> framework::Result<KlVae> {
        let latent = config.latent_channels;
        positive(&[
            ("in_channels", config.in_channels),
            ("out_channels", config.out_channels),
            ("latent_channels", latent),
            ("norm_num_groups", config.norm_num_groups),
            ("layers_per_block", i32::try_from(config.layers_per_block).unwrap_or(i32::MAX)),
        ])?;
        let parameters =
            latent.checked_mul(2).ok_or_else(|| framework::Error::config("latent_channels", "too many"))?;
        let down = config.stages(config.down_block_types.iter())?;
        let up = config.stages(config.up_block_types.iter().rev())?;
        let pointwise = |channels, init: &mut Init| Conv::new(channels, channels, &[Window::same(1); 2], init);
        Ok(KlVae {
            encoder: Encoder::new(config.in_channels, parameters, &down, init)?,
            decoder: Decoder::new(latent, config.out_channels, &up, init)?,
            quant_conv: config.use_quant_conv.then(|| pointwise(parameters, init)).transpose()?,
            post_quant_conv: config.use_post_quant_conv.then(|| pointwise(latent, init)).transpose()?,
            latents: config.latents()?,
        })
    }

    fn layouts() -> &'static [Layout<AutoencoderKlConfig>] {
        &[
            Layout { name: "diffusers", config: json_config::<AutoencoderKl>, map: diffusers },
            Layout { name: "ldm", config: ldm_config, map: ldm },
        ]
    }

    /// `encode` (`x`) → `parameters`; `decode` (`z`) → `sample`; `forward` (`sample`) → `sample`, by way of the mode.
    /// Images and latents are `[B, C, H, W]`.
    fn call(model: &KlVae, method: &str, arguments: &mut Arguments) -> Result<Outputs> {
        let mut x = |name: &str| last(&arguments.take(name)?);
        let (name, output) = match method {
            "encode" => ("parameters", model.encode(&x("x")?)?),
            "decode" => ("sample", model.decode(&x("z")?)?),
            "forward" => {
                let posterior = Gaussian::new(&model.encode(&x("sample")?)?)?;
                if arguments.flag("sample_posterior", false)? {
                    return Err(Error::argument("sample_posterior", "only the mode is decoded"));
                }
                ("sample", model.decode(&posterior.mode())?)
            }
            other => {
                let problem = format!("`{other}` is not one of this model's: encode, decode, forward");
                return Err(Error::argument("method", problem));
            }
        };
        if !arguments.flag("return_dict", true)? {
            return Err(Error::argument("return_dict", "only true is answered"));
        }
        Ok(vec![(name.into(), output.transpose_axes(&[0, 3, 1, 2])?)])
    }
}

/// `[B, C, H, W]` → `[B, H, W, C]`.
fn last(x: &Array) -> Result<Array> {
    math::shape::<4>(x)?;
    Ok(x.transpose_axes(&[0, 2, 3, 1])?)
}

/// The axes of a convolution's weight, channels last.
const AXES: [usize; 4] = [0, 2, 3, 1];

/// Both halves and the convolutions between them, which all layouts name alike.
fn common(config: &AutoencoderKlConfig) -> WeightMap {
    let mut map = WeightMap::default().transpose("{c}coder.conv_in.{p}", "{c}coder.conv_in.{p}", AXES).transpose(
        "{c}coder.conv_out.{p}",
        "{c}coder.conv_out.{p}",
        AXES,
    );
    for (used, name) in [(config.use_quant_conv, "quant_conv"), (config.use_post_quant_conv, "post_quant_conv")] {
        if used {
            let name = format!("{name}.{{p}}");
            map = map.transpose(&name, &name, AXES);
        }
    }
    map
}

fn diffusers(config: &AutoencoderKlConfig) -> WeightMap {
    let mut map = common(config)
        .rename("{c}coder.conv_norm_out.{p}", "{c}coder.conv_norm_out.{p}")
        .rename("{s:*}.resnets.{j}.norm{n}.{p}", "{s:*}.resnets.{j}.norm{n}.{p}")
        .transpose("{s:*}.resnets.{j}.conv{n}.{p}", "{s:*}.resnets.{j}.conv{n}.{p}", AXES);
    if config.block_out_channels.len() > 1 {
        map = map.transpose("{s:*}.downsamplers.0.conv.{p}", "{s:*}.downsample.conv.{p}", AXES).transpose(
            "{s:*}.upsamplers.0.conv.{p}",
            "{s:*}.upsample.conv.{p}",
            AXES,
        );
    }
    if config.has_attention() {
        let to = |name: &str| format!("{{s:*}}.attentions.{{j}}.{name}.{{p}}");
        map = map.rename(&to("group_norm"), &to("group_norm"));
        for (from, ours) in [("to_q", "attn.q"), ("to_k", "attn.k"), ("to_v", "attn.v"), ("to_out.0", "attn.o")] {
            map = map.rename(&to(from), &to(ours));
        }
    }
    map.layout("encoder.**", ChannelsFirst)
        .layout("decoder.**", ChannelsFirst)
        .layout("quant_conv", ChannelsFirst)
        .layout("post_quant_conv", ChannelsFirst)
        .layout("**.attentions.*.to_*", ChannelsLast)
        .layout("**.attentions.*.to_out.*", ChannelsLast)
        .unobserved("**.nonlinearity", "a function here")
        .unobserved("**.conv_act", "a function here")
        .unobserved("**.dropout", "dropout")
        .unobserved("**.to_out.1", "dropout")
}

/// The names of the CompVis code, which Black Forest Labs kept. The decoder's stages are numbered from the image inwards.
fn ldm(config: &AutoencoderKlConfig) -> WeightMap {
    let mut map = common(config)
        .rename("{c}coder.norm_out.{p}", "{c}coder.conv_norm_out.{p}")
        .include("{c}coder.mid.block_1", "{c}coder.mid_block.resnets.0", ldm_resnet())
        .include("{c}coder.mid.block_2", "{c}coder.mid_block.resnets.1", ldm_resnet())
        .include("encoder.down.{i}.block.{j}", "encoder.down_blocks.{i}.resnets.{j}", ldm_resnet());
    let stages = config.block_out_channels.len();
    for i in 0..stages {
        let ours = format!("decoder.up_blocks.{}", stages - 1 - i);
        map = map.include(&format!("decoder.up.{i}.block.{{j}}"), &format!("{ours}.resnets.{{j}}"), ldm_resnet());
        if i > 0 {
            let theirs = format!("decoder.up.{i}.upsample.conv.{{p}}");
            map = map.transpose(&theirs, &format!("{ours}.upsample.conv.{{p}}"), AXES);
        }
    }
    if stages > 1 {
        let ours = "encoder.down_blocks.{i}.downsample.conv.{p}";
        map = map.transpose("encoder.down.{i}.downsample.conv.{p}", ours, AXES);
    }
    if config.mid_block_add_attention {
        let channels = config.block_out_channels.last().map_or(0, |&channels| channels.max(0) as usize);
        map = map.include("{c}coder.mid.attn_1", "{c}coder.mid_block.attentions.0", ldm_attention(channels));
    }
    map
}

fn ldm_resnet() -> WeightMap {
    WeightMap::default()
        .rename("norm{n}.{p}", "norm{n}.{p}")
        .transpose("conv{n}.{p}", "conv{n}.{p}", AXES)
        .transpose("nin_shortcut.{p}", "conv_shortcut.{p}", AXES)
        .optional()
}

/// The projections are convolutions of width 1 there.
fn ldm_attention(channels: usize) -> WeightMap {
    let mut map = WeightMap::default().rename("norm.{p}", "group_norm.{p}");
    for (from, to) in [("q", "attn.q"), ("k", "attn.k"), ("v", "attn.v"), ("proj_out", "attn.o")] {
        let shapes = ([channels, channels, 1, 1], [channels, channels]);
        map = map
            .reshape(&format!("{from}.weight"), &format!("{to}.weight"), shapes.0, shapes.1)
            .rename(&format!("{from}.bias"), &format!("{to}.bias"));
    }
    map
}

/// The config beside a file, or, where there is none, the one that the shapes of Black Forest Labs' autoencoder amount
/// to. Of another file the scale of its latents is not known.
fn ldm_config(checkpoint: &Checkpoint<'_>) -> Result<Option<AutoencoderKlConfig>> {
    let Config::None = checkpoint.config else {
        return json_config::<AutoencoderKl>(checkpoint);
    };
    let tensors = &checkpoint.header.tensors;
    let length = |name: &str, axis: usize| -> Option<i32> { i32::try_from(*tensors.get(name)?.shape.get(axis)?).ok() };
    let count = |prefix: &str| {
        let numbers = tensors.keys().filter_map(|name| name.strip_prefix(prefix)?.split('.').next());
        numbers.collect::<BTreeSet<_>>().len()
    };
    let config = || {
        let stages = count("encoder.down.");
        let channels = (0..stages).map(|i| length(&format!("encoder.down.{i}.block.0.conv1.weight"), 0));
        Some(AutoencoderKlConfig {
            in_channels: length("encoder.conv_in.weight", 1)?,
            out_channels: length("decoder.conv_out.weight", 0)?,
            down_block_types: vec![Block::Plain; stages],
            up_block_types: vec![Block::Plain; stages],
            block_out_channels: channels.collect::<Option<_>>()?,
            layers_per_block: count("encoder.down.0.block."),
            act_fn: Activation::Silu,
            latent_channels: length("decoder.conv_in.weight", 1).filter(|&channels| channels == 16)?,
            norm_num_groups: 32,
            scaling_factor: 0.3611,
            shift_factor: Some(0.1159),
            latents_mean: None,
            latents_std: None,
            use_quant_conv: false,
            use_post_quant_conv: false,
            mid_block_add_attention: length("encoder.mid.attn_1.q.weight", 0).is_some(),
        })
    };
    Ok(config())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MODELS, OpenOptions, registry};
    use framework::{
        Dtype,
        weights::{Header, Info, Packed, Source, Tensors},
    };
    use serde_json::{Value, json};
    use std::{fs, ops::ControlFlow, path::PathBuf};

    fn fixture(path: &str) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fixtures").join(path)
    }

    fn json(path: &str) -> Value {
        serde_json::from_slice(&fs::read(fixture(path)).unwrap()).unwrap()
    }

    /// A diffusers file as the original code would have written it.
    struct Original {
        source: Source,
        header: Header,
        names: Vec<(String, String)>,
    }

    impl Original {
        /// Renames tensor by tensor, without the map.
        fn new(source: Source, stages: usize) -> Self {
            let original = |name: &str| {
                let mut name = name.to_owned();
                for i in 0..stages {
                    name = name.replace(&format!("up_blocks.{i}."), &format!("UP.{}.", stages - 1 - i));
                    name = name.replace(&format!("down_blocks.{i}."), &format!("down.{i}."));
                }
                for (now, before) in [
                    ("mid_block.resnets.0.", "mid.block_1."),
                    ("mid_block.resnets.1.", "mid.block_2."),
                    ("mid_block.attentions.0.", "mid.attn_1."),
                    ("samplers.0.", "sample."),
                    ("resnets.", "block."),
                    ("UP.", "up."),
                    ("conv_shortcut", "nin_shortcut"),
                    ("conv_norm_out", "norm_out"),
                    ("group_norm", "norm"),
                    ("to_out.0", "proj_out"),
                    ("to_", ""),
                ] {
                    name = name.replace(now, before);
                }
                name
            };
            let mut header = Header::default();
            let mut names = Vec::new();
            for (name, info) in &source.header().tensors {
                let before = original(name);
                let mut info = info.clone();
                if before.contains("attn_1") && info.shape.len() == 2 {
                    info.shape.extend([1, 1]);
                }
                header.tensors.insert(before.clone(), info);
                names.push((before, name.clone()));
            }
            Self { source, header, names }
        }
    }

    impl Tensors for Original {
        fn header(&self) -> &Header {
            &self.header
        }
        fn read(&self, name: &str) -> framework::Result<(Info, Vec<u8>)> {
            let now = self.names.iter().find(|(before, _)| before == name).map(|(_, now)| now).unwrap();
            let (_, data) = self.source.read(now)?;
            Ok((self.header.tensors[name].clone(), data))
        }
    }

    fn decoded(config: &Value, tensors: &dyn Tensors) -> (&'static str, Vec<f32>) {
        let checkpoint =
            Checkpoint { config: Config::Json(config.clone()), header: tensors.header(), tensors: Some(tensors) };
        let options = OpenOptions { dtype: Dtype::Float32, packed: Packed::Keep };
        let entry = registry::find(MODELS, "AutoencoderKL").unwrap();
        let opened = entry.open(&checkpoint, options, &mut |_, _| ControlFlow::Continue(())).unwrap();
        let mut arguments = Arguments::default();
        arguments.array("z", Init::default().normal(&[1, 16, 3, 2], 1.0).unwrap().get());
        let outputs = opened.call("decode", &mut arguments).unwrap();
        (opened.layout(), math::read(&outputs[0].1.contiguous().unwrap()).unwrap())
    }

    #[test]
    fn both_layouts_are_the_same_model() {
        let config = json("autoencoder-kl/flux/case.json")["config"].clone();
        let source = || Source::open(&fixture("autoencoder-kl/flux/weights.safetensors")).unwrap();
        let (layout, image) = decoded(&config, &source());
        assert_eq!(layout, "diffusers");
        let (layout, other) = decoded(&config, &Original::new(source(), 3));
        assert_eq!(layout, "ldm");
        assert!(!image.is_empty());
        assert_eq!(image, other);
    }

    #[test]
    fn the_shapes_tell_the_config_of_the_original_file() {
        let header: Header = serde_json::from_value(json("headers/flux.1-dev.ae.json")["header"].clone()).unwrap();
        let checkpoint = Checkpoint { config: Config::None, header: &header, tensors: None };
        let entry = registry::find(MODELS, "AutoencoderKL").unwrap();
        assert_eq!(entry.fit(&checkpoint, Dtype::Bfloat16).unwrap().layout(), "ldm");
        let config = ldm_config(&checkpoint).unwrap().unwrap();
        let published: AutoencoderKlConfig =
            serde_json::from_value(json("headers/flux.1-dev.vae.json")["config"].clone()).unwrap();
        assert_eq!(format!("{config:?}"), format!("{published:?}"));
        let nothing = Checkpoint { config: Config::None, header: &Header::default(), tensors: None };
        assert!(ldm_config(&nothing).unwrap().is_none());
    }

    #[test]
    fn what_cannot_be_built_names_the_key() {
        let good = json("autoencoder-kl/flux/case.json")["config"].clone();
        for (key, value, expected) in [
            ("in_channels", json!(0), "in_channels"),
            ("latent_channels", json!(i32::MAX), "latent_channels"),
            ("layers_per_block", json!(0), "layers_per_block"),
            ("norm_num_groups", json!(0), "norm_num_groups"),
            ("norm_num_groups", json!(5), "groups"),
            ("block_out_channels", json!([8, 16]), "block_out_channels"),
            ("block_out_channels", json!([8, -16, 16]), "channels"),
            ("scaling_factor", json!(0.0), "scaling_factor"),
            ("latents_mean", json!([1.0]), "latents_mean"),
            ("latents_std", json!(vec![0.0; 16]), "scaling_factor"),
        ] {
            let mut config = good.clone();
            config[key] = value;
            let config: AutoencoderKlConfig = serde_json::from_value(config).unwrap();
            let error = AutoencoderKl::build(&config, &mut Init::default()).err().unwrap().to_string();
            assert!(error.contains(expected), "{key}: {error}");
        }
        let mut config = good.clone();
        config["down_block_types"][0] = "DownBlock2D".into();
        assert!(serde_json::from_value::<AutoencoderKlConfig>(config).is_err());
    }

    #[test]
    fn latents_are_scaled_as_the_config_says() {
        let latents = |path: &str| {
            let config: AutoencoderKlConfig = serde_json::from_value(json(path)["config"].clone()).unwrap();
            config.latents().unwrap()
        };
        let flux = LatentSpace { shift: vec![0.1159], scale: vec![0.3611] };
        assert_eq!(latents("headers/flux.1-dev.vae.json"), flux);
        assert_eq!(latents("autoencoder-kl/forward/case.json"), LatentSpace { shift: vec![0.0], scale: vec![0.18215] });
        let each = latents("autoencoder-kl/attention-in-stages/case.json");
        assert_eq!(each.shift, [0.5, -0.25, 0.125, 1.0]);
        assert_eq!(each.scale[1], 0.18215 / 0.5);
    }
}
