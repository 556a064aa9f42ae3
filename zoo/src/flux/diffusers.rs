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
        map = map.include("transformer_blocks.{i}", "transformer_blocks.{i}.streams.0", stream(dim, &TEXT)).include(
            "transformer_blocks.{i}",
            "transformer_blocks.{i}.streams.1",
            stream(dim, &IMAGE),
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

/// What a stream's parts are called: the image's have plain names.
struct Names {
    modulation: &'static str,
    qkv: [&'static str; 3],
    norms: [&'static str; 2],
    out: &'static str,
    norm2: &'static str,
    ff: &'static str,
}

const IMAGE: Names = Names {
    modulation: "norm1",
    qkv: ["to_q", "to_k", "to_v"],
    norms: ["norm_q", "norm_k"],
    out: "to_out.0",
    norm2: "norm2",
    ff: "ff",
};

const TEXT: Names = Names {
    modulation: "norm1_context",
    qkv: ["add_q_proj", "add_k_proj", "add_v_proj"],
    norms: ["norm_added_q", "norm_added_k"],
    out: "to_add_out",
    norm2: "norm2_context",
    ff: "ff_context",
};

fn stream(dim: usize, names: &Names) -> WeightMap {
    let Names { modulation, qkv, norms: [q_norm, k_norm], out, norm2, ff } = names;
    WeightMap::default()
        .rename(&format!("{modulation}.linear.{{p:*}}"), "modulation.linear.{p:*}")
        .concat(qkv.map(|part| format!("attn.{part}.{{p:*}}")), "attn.qkv.{p:*}", 0)
        .sizes([dim; 3])
        .rename(&format!("attn.{q_norm}.{{p:*}}"), "attn.q_norm.{p:*}")
        .rename(&format!("attn.{k_norm}.{{p:*}}"), "attn.k_norm.{p:*}")
        .rename(&format!("attn.{out}.{{p:*}}"), "attn.o.{p:*}")
        .rename(&format!("{ff}.net.0.proj.{{p:*}}"), "ffn.up.{p:*}")
        .rename(&format!("{ff}.net.2.{{p:*}}"), "ffn.down.{p:*}")
        .unobserved(modulation, "returns the normalised tokens with gates and shifts; those are values here")
        .unobserved(&format!("{ff}.net.0"), "a function here")
        .unobserved(&format!("{ff}.net.1"), "dropout")
        .unobserved("attn.to_out.1", "dropout")
        .alias(norm2, ["norm2"])
}

fn single_block(dim: usize) -> WeightMap {
    let parts = ["attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"].map(|part| format!("{part}.{{p:*}}"));
    let map = WeightMap::default().concat(parts, "proj_in.{p:*}", 0).sizes([dim, dim, dim, 4 * dim]);
    let renamed = [("norm.linear", "modulation.linear"), ("attn.norm_q", "q_norm"), ("attn.norm_k", "k_norm")];
    let renamed = renamed.into_iter().chain([("proj_out", "proj_out")]);
    renamed
        .fold(map, |map, (from, to)| map.rename(&format!("{from}.{{p:*}}"), &format!("{to}.{{p:*}}")))
        .unobserved("norm", "returns the normalised tokens with the gate, which is a value here")
        .alias("attn", ["attended"])
}
