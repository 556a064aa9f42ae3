//! The names of diffusers' snapshots.

use super::FluxConfig;
use framework::weights::WeightMap;

/// Queries, keys, values and hidden units are one matrix each in our blocks; text is stream 0, the image stream 1.
pub fn map(config: &FluxConfig) -> WeightMap {
    let dim = config.dim().max(0) as usize;
    let mut map = WeightMap::default()
        .rename("x_embedder.{p:*}", "x_embedder.{p:*}")
        .rename("context_embedder.{p:*}", "context_embedder.{p:*}")
        .rename("norm_out.linear.{p:*}", "norm_out.linear.{p:*}")
        .rename("proj_out.{p:*}", "proj_out.{p:*}");
    for (from, to) in [("linear_1", "up"), ("linear_2", "down")] {
        let rename = |map: WeightMap, part: &str, inner: &str| {
            let [from, to] = [format!("{part}.{from}.{{p:*}}"), format!("{part}{inner}.{to}.{{p:*}}")];
            map.rename(&from, &to)
        };
        map = rename(map, "time_text_embed.timestep_embedder", ".mlp");
        map = rename(map, "time_text_embed.text_embedder", "");
        if config.guidance_embeds {
            map = rename(map, "time_text_embed.guidance_embedder", ".mlp");
        }
    }
    if config.num_layers > 0 {
        map = map.include("transformer_blocks.{i}", "transformer_blocks.{i}.streams.0", text_stream(dim)).include(
            "transformer_blocks.{i}",
            "transformer_blocks.{i}.streams.1",
            image_stream(dim),
        );
    }
    if config.num_single_layers > 0 {
        map = map.include("single_transformer_blocks.{i}", "single_transformer_blocks.{i}", single_block(dim));
    }
    map.alias("transformer_blocks.{i}", ["transformer_blocks.{i}#0", "transformer_blocks.{i}#1"])
        .alias(
            "transformer_blocks.{i}.attn",
            ["transformer_blocks.{i}.streams.1.attn.o", "transformer_blocks.{i}.streams.0.attn.o"],
        )
        .alias("single_transformer_blocks.{i}", ["single_transformer_blocks.{i}#0", "single_transformer_blocks.{i}#1"])
        .unobserved("pos_embed", "tables, not activations")
        .unobserved("time_text_embed.{x}_proj", "sinusoids, a function here")
        .unobserved("**.silu", "a function here")
        .unobserved("**.act", "a function here")
        .unobserved("**.act_mlp", "a function here")
        .unobserved("time_text_embed.text_embedder.act_1", "a function here")
}

fn image_stream(dim: usize) -> WeightMap {
    let parts = ["attn.to_q.{p:*}", "attn.to_k.{p:*}", "attn.to_v.{p:*}"];
    WeightMap::default()
        .rename("norm1.linear.{p:*}", "modulation.linear.{p:*}")
        .concat(parts, "attn.qkv.{p:*}", 0)
        .sizes([dim; 3])
        .rename("attn.norm_q.{p:*}", "attn.q_norm.{p:*}")
        .rename("attn.norm_k.{p:*}", "attn.k_norm.{p:*}")
        .rename("attn.to_out.0.{p:*}", "attn.o.{p:*}")
        .rename("ff.net.0.proj.{p:*}", "ffn.up.{p:*}")
        .rename("ff.net.2.{p:*}", "ffn.down.{p:*}")
        .unobserved("norm1", "returns the normalised image with gates and shifts; those are values here")
        .unobserved("ff.net.0", "a function here")
        .unobserved("ff.net.1", "dropout")
        .unobserved("attn.to_out.1", "dropout")
        .alias("norm2", ["norm2"])
}

fn text_stream(dim: usize) -> WeightMap {
    let parts = ["attn.add_q_proj.{p:*}", "attn.add_k_proj.{p:*}", "attn.add_v_proj.{p:*}"];
    WeightMap::default()
        .rename("norm1_context.linear.{p:*}", "modulation.linear.{p:*}")
        .concat(parts, "attn.qkv.{p:*}", 0)
        .sizes([dim; 3])
        .rename("attn.norm_added_q.{p:*}", "attn.q_norm.{p:*}")
        .rename("attn.norm_added_k.{p:*}", "attn.k_norm.{p:*}")
        .rename("attn.to_add_out.{p:*}", "attn.o.{p:*}")
        .rename("ff_context.net.0.proj.{p:*}", "ffn.up.{p:*}")
        .rename("ff_context.net.2.{p:*}", "ffn.down.{p:*}")
        .unobserved("norm1_context", "returns the normalised text with gates and shifts; those are values here")
        .unobserved("ff_context.net.0", "a function here")
        .unobserved("ff_context.net.1", "dropout")
        .alias("norm2_context", ["norm2"])
}

fn single_block(dim: usize) -> WeightMap {
    let parts = ["attn.to_q.{p:*}", "attn.to_k.{p:*}", "attn.to_v.{p:*}", "proj_mlp.{p:*}"];
    WeightMap::default()
        .rename("norm.linear.{p:*}", "modulation.linear.{p:*}")
        .concat(parts, "proj_in.{p:*}", 0)
        .sizes([dim, dim, dim, 4 * dim])
        .rename("attn.norm_q.{p:*}", "q_norm.{p:*}")
        .rename("attn.norm_k.{p:*}", "k_norm.{p:*}")
        .rename("proj_out.{p:*}", "proj_out.{p:*}")
        .unobserved("norm", "returns the normalised tokens with the gate, which is a value here")
        .alias("attn", ["attended"])
}
