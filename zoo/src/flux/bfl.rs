//! Black Forest Labs' single file, whose matrices are joined as ours are. It carries no config: the shapes tell.

use super::FluxConfig;
use crate::{Result, registry::Checkpoint};
use framework::weights::{Config, WeightMap};
use std::collections::BTreeSet;

/// The config that the shapes amount to; nothing for a file with a config of its own, or of another model.
pub fn config(checkpoint: &Checkpoint<'_>) -> Result<Option<FluxConfig>> {
    let Config::None = checkpoint.config else {
        return Ok(None);
    };
    let length = |name: &str, axis: usize| -> Option<i32> {
        let shape = &checkpoint.header.tensors.get(name)?.shape;
        i32::try_from(*shape.get(axis)?).ok()
    };
    let count = |prefix: &str| {
        let numbers = checkpoint.header.tensors.keys().filter_map(|name| name.strip_prefix(prefix)?.split('.').next());
        numbers.collect::<BTreeSet<_>>().len()
    };
    let config = || {
        let head = length("double_blocks.0.img_attn.norm.query_norm.scale", 0)?;
        let dim = length("img_in.weight", 0)?;
        Some(FluxConfig {
            patch_size: 1,
            in_channels: length("img_in.weight", 1)?,
            out_channels: length("final_layer.linear.weight", 0),
            num_layers: count("double_blocks."),
            num_single_layers: count("single_blocks."),
            attention_head_dim: head,
            num_attention_heads: dim.checked_div(head)?,
            joint_attention_dim: length("txt_in.weight", 1)?,
            pooled_projection_dim: length("vector_in.in_layer.weight", 1)?,
            guidance_embeds: length("guidance_in.in_layer.weight", 0).is_some(),
            // An eighth of a head for the image's index, the rest for its rows and columns.
            axes_dims_rope: vec![head / 8, head / 16 * 7, head / 16 * 7],
        })
    };
    Ok(config())
}

/// The names of the file. Its last modulation has the shift before the scale.
pub fn map(config: &FluxConfig) -> WeightMap {
    let dim = config.dim().max(0) as usize;
    let mut map = WeightMap::default()
        .rename("img_in.{p:*}", "x_embedder.{p:*}")
        .rename("txt_in.{p:*}", "context_embedder.{p:*}")
        .rename("vector_in.in_layer.{p:*}", "time_text_embed.text_embedder.up.{p:*}")
        .rename("vector_in.out_layer.{p:*}", "time_text_embed.text_embedder.down.{p:*}")
        .include("time_in", "time_text_embed.timestep_embedder.mlp", embedder())
        .rename("final_layer.linear.{p:*}", "proj_out.{p:*}")
        .split("final_layer.adaLN_modulation.1.{p:*}", ["shift.{p:*}", "scale.{p:*}"], 0, [dim, dim]);
    if config.guidance_embeds {
        map = map.include("guidance_in", "time_text_embed.guidance_embedder.mlp", embedder());
    }
    if config.num_layers > 0 {
        for (name, stream) in [("txt", 0), ("img", 1)] {
            let ours = format!("transformer_blocks.{{i}}.streams.{stream}");
            map = map.include("double_blocks.{i}", &ours, stream_map(name));
        }
    }
    if config.num_single_layers > 0 {
        map = map.include("single_blocks.{i}", "single_transformer_blocks.{i}", single_block());
    }
    let swapped = WeightMap::identity().concat(["scale.{p:*}", "shift.{p:*}"], "norm_out.linear.{p:*}", 0);
    map.then(swapped.sizes([dim, dim]))
}

fn embedder() -> WeightMap {
    WeightMap::default().rename("in_layer.{p:*}", "up.{p:*}").rename("out_layer.{p:*}", "down.{p:*}")
}

fn stream_map(name: &str) -> WeightMap {
    WeightMap::default()
        .rename(&format!("{name}_mod.lin.{{p:*}}"), "modulation.linear.{p:*}")
        .rename(&format!("{name}_attn.qkv.{{p:*}}"), "attn.qkv.{p:*}")
        .rename(&format!("{name}_attn.norm.query_norm.scale"), "attn.q_norm.weight")
        .rename(&format!("{name}_attn.norm.key_norm.scale"), "attn.k_norm.weight")
        .rename(&format!("{name}_attn.proj.{{p:*}}"), "attn.o.{p:*}")
        .rename(&format!("{name}_mlp.0.{{p:*}}"), "ffn.up.{p:*}")
        .rename(&format!("{name}_mlp.2.{{p:*}}"), "ffn.down.{p:*}")
}

fn single_block() -> WeightMap {
    WeightMap::default()
        .rename("modulation.lin.{p:*}", "modulation.linear.{p:*}")
        .rename("linear1.{p:*}", "proj_in.{p:*}")
        .rename("linear2.{p:*}", "proj_out.{p:*}")
        .rename("norm.query_norm.scale", "q_norm.weight")
        .rename("norm.key_norm.scale", "k_norm.weight")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Family, MODELS, OpenOptions, Opened, flux::Flux, registry};
    use framework::{
        Dtype, Init,
        weights::{Packed, Source, Tensors, save},
    };
    use serde_json::json;
    use std::{ops::ControlFlow, path::Path};

    fn open(config: Config<'_>, weights: &Path) -> Box<dyn Opened> {
        let source = Source::open(weights).unwrap();
        let checkpoint = Checkpoint { config, header: source.header(), tensors: Some(&source) };
        let options = OpenOptions { dtype: Dtype::Float32, packed: Packed::Keep };
        let entry = registry::of(MODELS, &checkpoint, weights).unwrap();
        entry.open(&checkpoint, options, &mut |_, _| ControlFlow::Continue(())).unwrap()
    }

    #[test]
    fn a_single_file_is_the_snapshot_under_other_names() {
        let json = json!({
            "_class_name": "FluxTransformer2DModel", "patch_size": 1, "in_channels": 8, "out_channels": null,
            "num_layers": 2, "num_single_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2,
            "joint_attention_dim": 12, "pooled_projection_dim": 10, "guidance_embeds": true,
            "axes_dims_rope": [4, 6, 6],
        });
        let config: FluxConfig = serde_json::from_value(json.clone()).unwrap();
        let mut init = Init::default();
        let model = Flux::build(&config, &mut init).unwrap();
        for param in framework::params(&model).values() {
            param.replace(init.normal(&param.shape(), 1.0).unwrap().get());
        }
        let folder = tempfile::tempdir().unwrap();
        let [snapshot, file] = ["snapshot", "flux"].map(|name| folder.path().join(name).with_extension("safetensors"));
        let diffusers = Flux::layouts().iter().find(|layout| layout.name == "diffusers").unwrap();
        save(&model, &(diffusers.map)(&config), None, &snapshot).unwrap();
        let snapshot = open(Config::Json(json), &snapshot);
        assert_eq!(snapshot.layout(), "diffusers");

        save(snapshot.module(), &map(&config), None, &file).unwrap();
        let saved = Source::open(&file).unwrap();
        assert!(saved.header().tensors.contains_key("double_blocks.1.img_attn.norm.query_norm.scale"));
        assert!(saved.header().tensors.contains_key("final_layer.adaLN_modulation.1.weight"));

        let single = open(Config::None, &file);
        assert_eq!(single.layout(), "bfl");
        let params = framework::params(snapshot.module());
        for (path, param) in framework::params(single.module()) {
            assert!(param.get().eq_exact(params[&path].get()).unwrap(), "{path}");
        }
        let swapped = saved.read("final_layer.adaLN_modulation.1.bias").unwrap().1;
        let ours = framework::weights::evaluate::to_bytes(&params["norm_out.linear.bias"].get()).unwrap().1;
        let half = ours.len() / 2;
        assert_eq!((&swapped[..half], &swapped[half..]), (&ours[half..], &ours[..half]), "the shift comes first");
    }
}
