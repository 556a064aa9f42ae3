//! What the tensors of a decoder are called in files.

use super::{DecoderSpec, Mixture, Wiring};
use framework::weights::{ActivationLayout, Header, RowOrder, WeightMap};

/// What a family calls differently from the others.
#[derive(Clone, Copy, Debug)]
pub struct Naming {
    /// transformers' names of a layer's norms, in the order in which they are applied: two, or four of a sandwich.
    pub norms: &'static [&'static str],
    /// Whether gate and up are one matrix, the gate's rows first.
    pub gate_up: bool,
    /// Whether transformers normalises queries and keys as `[B, H, L, D]`, and not, as here, as `[B, L, H, D]`.
    pub heads_first: bool,
    /// The module of a layer that holds its experts in published files.
    pub experts_in: &'static str,
    /// Each expert's matrices there: gate, up, down.
    pub expert: [&'static str; 3],
}

/// How files hold the experts of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpertFiles {
    /// Each by itself, as they are published.
    Single,
    /// In one tensor of gates and ups and one of downs, as transformers 5 has them in memory.
    Fused,
    /// In one tensor of gates, one of ups and one of downs, as mlx-lm saves them.
    Stacked,
}

impl Naming {
    /// Llama's.
    pub const PLAIN: Self = Self {
        norms: &["input_layernorm", "post_attention_layernorm"],
        gate_up: false,
        heads_first: false,
        experts_in: "mlp",
        expert: ["gate_proj", "up_proj", "down_proj"],
    };
}

impl Wiring {
    /// Our names of a layer's norms, in the order in which they are applied, and llama.cpp's.
    fn norms(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::PreNorm => &[("norm1", "attn_norm"), ("norm2", "ffn_norm")],
            Self::Sandwich => &[
                ("norm1", "attn_norm"),
                ("norm2", "post_attention_norm"),
                ("ffn_norm1", "ffn_norm"),
                ("ffn_norm2", "post_ffw_norm"),
            ],
        }
    }
}

impl ExpertFiles {
    /// How the files with these tensors hold them; where there are no experts, every layout is the same.
    pub fn of(header: &Header) -> Self {
        let holds = |part: &str| header.tensors.keys().any(|name| name.contains(part));
        match (holds(".switch_mlp."), holds(".experts.gate_up_proj")) {
            (true, _) => Self::Stacked,
            (false, true) => Self::Fused,
            (false, false) => Self::Single,
        }
    }
}

/// The names in transformers' files.
pub fn transformers(spec: &DecoderSpec, naming: Naming, files: ExpertFiles) -> WeightMap {
    rooted("model", spec, naming, files)
}

/// The names of a language model inside a larger model, as transformers 4 wrote them and published files have them.
pub fn inside(spec: &DecoderSpec, naming: Naming) -> WeightMap {
    without_pictures(transformers(spec, naming, ExpertFiles::Single).prefixed("language_model", ""), "")
}

/// The names of a language model inside a larger model of transformers 5.
pub fn inside_5(spec: &DecoderSpec, naming: Naming) -> WeightMap {
    without_pictures(
        rooted("model.language_model", spec, naming, ExpertFiles::Single).alias("model", ["norm"]),
        "model.",
    )
}

fn without_pictures(map: WeightMap, root: &str) -> WeightMap {
    ["vision_tower", "multi_modal_projector"].iter().fold(map, |map, part| {
        map.drop(&format!("{root}{part}.{{p:*}}"), "pictures are not read: this is the language model alone")
    })
}

fn rooted(root: &str, spec: &DecoderSpec, naming: Naming, files: ExpertFiles) -> WeightMap {
    let of = |name: &str| format!("{root}.{name}");
    let mut map = WeightMap::default()
        .rename(&of("embed_tokens.{p:*}"), "embed_tokens.{p:*}")
        .rename(&of("layers.{i}.self_attn.{x}_proj.{p:*}"), "layers.{i}.attn.{x}.{p:*}")
        .rename(&of("norm.{p:*}"), "norm.{p:*}")
        .drop(&of("layers.{i}.self_attn.rotary_emb.inv_freq"), "computed from rope_theta")
        .optional()
        .alias(root, ["norm"])
        .unobserved(&of("rotary_emb"), "tables of a call, lent to the layers")
        .unobserved(&of("layers.{i}.mlp.act_fn"), "a function here")
        .unobserved(&of("layers.{i}.mlp.activation_fn"), "a function here");
    for (theirs, (ours, _)) in naming.norms.iter().zip(spec.wiring.norms()) {
        map = map.rename(&of(&format!("layers.{{i}}.{theirs}.{{p:*}}")), &format!("layers.{{i}}.{ours}.{{p:*}}"));
    }
    if spec.qk_norm {
        map = map.rename(&of("layers.{i}.self_attn.{x}_norm.{p:*}"), "layers.{i}.attn.{x}_norm.{p:*}");
    }
    if naming.heads_first {
        for norm in ["q_norm", "k_norm"] {
            map = map.layout(&of(&format!("layers.{{i}}.self_attn.{norm}")), ActivationLayout::HeadsFirst);
        }
    }
    if let Some(mixture) = spec.sparse() {
        map = experts(map, root, mixture, naming, files);
    }
    map = if spec.is_all_sparse() {
        map
    } else if naming.gate_up {
        split_gate_up(map, &of("layers.{i}.mlp.gate_up_proj.{p:*}"), spec)
            .rename(&of("layers.{i}.mlp.down_proj.{p:*}"), "layers.{i}.ffn.down.{p:*}")
    } else {
        map.rename(&of("layers.{i}.mlp.{x}_proj.{p:*}"), "layers.{i}.ffn.{x}.{p:*}")
    };
    if spec.tied {
        map.tied("lm_head.weight", &of("embed_tokens.weight")).alias("lm_head", ["lm_head"])
    } else {
        map.rename("lm_head.{p:*}", "lm_head.{p:*}")
    }
}

/// The names of the layers that have experts.
fn experts(map: WeightMap, root: &str, mixture: &Mixture, naming: Naming, files: ExpertFiles) -> WeightMap {
    let block = if files == ExpertFiles::Fused { "mlp" } else { naming.experts_in };
    let theirs = |name: &str| format!("{root}.layers.{{i}}.{block}.{name}");
    let ours = |name: &str| format!("layers.{{i}}.ffn.{name}");
    let map = map.rename(&theirs("gate.{p:*}"), &ours("router.linear.{p:*}"));
    match files {
        ExpertFiles::Single => ["gate", "up", "down"].iter().zip(naming.expert).fold(map, |map, (part, matrix)| {
            let each = theirs(&format!("experts.{{*e}}.{matrix}.{{p:*}}"));
            map.stack(&each, &ours(&format!("experts.{part}.{{p:*}}")))
        }),
        ExpertFiles::Fused => {
            let hidden = [mixture.experts.hidden.max(1) as usize; 2];
            let halves = [ours("experts.gate.weight"), ours("experts.up.weight")];
            map.split(&theirs("experts.gate_up_proj"), halves, 1, hidden)
                .rename(&theirs("experts.down_proj"), &ours("experts.down.weight"))
                .alias(&theirs("gate"), ["logits", "weights", "indices"].map(|name| ours(&format!("router#{name}"))))
                .alias(&theirs("experts"), [ours("experts")])
                .unobserved(&theirs("experts.act_fn"), "a function here")
        }
        ExpertFiles::Stacked => map.rename(&theirs("switch_mlp.{x}_proj.{p:*}"), &ours("experts.{x}.{p:*}")),
    }
}

/// The names in llama.cpp's files. Where it rotates neighbours and transformers halves, it stores the rows of queries and
/// keys in that order (`interleaved`); the rule puts them back.
pub fn gguf(spec: &DecoderSpec, naming: Naming, interleaved: bool) -> WeightMap {
    let mut map = WeightMap::default()
        .rename("token_embd.{p:*}", "embed_tokens.{p:*}")
        .rename("blk.{i}.attn_v.{p:*}", "layers.{i}.attn.v.{p:*}")
        .rename("blk.{i}.attn_output.{p:*}", "layers.{i}.attn.o.{p:*}")
        .rename("output_norm.{p:*}", "norm.{p:*}")
        .drop("rope_freqs.weight", "read with the config")
        .optional();
    for (x, heads) in [("q", spec.sizes.heads), ("k", spec.sizes.kv_heads)] {
        let (theirs, ours) = (format!("blk.{{i}}.attn_{x}.{{p:*}}"), format!("layers.{{i}}.attn.{x}.{{p:*}}"));
        map = match interleaved {
            true => map.permute_rows(&theirs, &ours, RowOrder::InterleavedToHalf { heads: heads.max(1) as usize }),
            false => map.rename(&theirs, &ours),
        };
    }
    for (ours, theirs) in spec.wiring.norms() {
        map = map.rename(&format!("blk.{{i}}.{theirs}.{{p:*}}"), &format!("layers.{{i}}.{ours}.{{p:*}}"));
    }
    if spec.qk_norm {
        map = map.rename("blk.{i}.attn_{x}_norm.{p:*}", "layers.{i}.attn.{x}_norm.{p:*}");
    }
    if spec.sparse().is_some() {
        map = map
            .rename("blk.{i}.ffn_gate_inp.{p:*}", "layers.{i}.ffn.router.linear.{p:*}")
            .rename("blk.{i}.ffn_{x}_exps.{p:*}", "layers.{i}.ffn.experts.{x}.{p:*}");
    }
    if !spec.is_all_sparse() {
        map = map.rename("blk.{i}.ffn_down.{p:*}", "layers.{i}.ffn.down.{p:*}");
        map = if naming.gate_up {
            split_gate_up(map, "blk.{i}.ffn_up.{p:*}", spec)
        } else {
            map.rename("blk.{i}.ffn_gate.{p:*}", "layers.{i}.ffn.gate.{p:*}")
                .rename("blk.{i}.ffn_up.{p:*}", "layers.{i}.ffn.up.{p:*}")
        };
    }
    if spec.tied { map } else { map.rename("output.{p:*}", "lm_head.{p:*}") }
}

fn split_gate_up(map: WeightMap, theirs: &str, spec: &DecoderSpec) -> WeightMap {
    let ours = ["layers.{i}.ffn.gate.{p:*}", "layers.{i}.ffn.up.{p:*}"];
    map.split(theirs, ours, 0, [spec.hidden.max(1) as usize; 2])
}
