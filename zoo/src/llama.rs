//! Llama 2, 3, 3.1, 3.2, 3.3 and SmolLM2: transformers' `LlamaForCausalLM`, llama.cpp's `llama`.

use crate::{
    Arguments, Outputs, Result,
    decoder::{Decoder, DecoderSpec},
    gguf::Gguf,
    registry::{Checkpoint, Family, Layout, json_config},
    rope::{RopeKeys, gguf_parameters},
    sizes::{grouped_heads, positive},
};
use framework::{
    Activation, Init,
    weights::{RowOrder, WeightMap},
};
use serde::Deserialize;
use serde_json::{Map, Value};

/// The family.
pub struct Llama;

/// transformers' `LlamaConfig`.
#[derive(Debug, Deserialize)]
pub struct LlamaConfig {
    vocab_size: i32,
    hidden_size: i32,
    intermediate_size: i32,
    num_hidden_layers: i32,
    num_attention_heads: i32,
    num_key_value_heads: Option<i32>,
    head_dim: Option<i32>,
    hidden_act: Activation,
    max_position_embeddings: i32,
    rms_norm_eps: f32,
    #[serde(default)]
    tie_word_embeddings: bool,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    rope_theta: Option<f64>,
    rope_scaling: Option<Map<String, Value>>,
    rope_parameters: Option<Map<String, Value>>,
}

impl Family for Llama {
    const NAMES: &'static [&'static str] = &["llama", "LlamaForCausalLM"];
    const IGNORED: &'static [(&'static str, &'static str)] = &[
        ("attention_dropout", "training only"),
        ("initializer_range", "training only"),
        ("pretraining_tp", "splits products among devices; the result is the same"),
        ("rope_interleaved", "SmolLM2's note on its training code; the file is half-split"),
        ("is_llama_config", "SmolLM2's note on its training code"),
    ];
    type Config = LlamaConfig;
    type Model = Decoder;

    fn build(config: &LlamaConfig, init: &mut Init) -> framework::Result<Decoder> {
        positive(&[
            ("vocab_size", config.vocab_size),
            ("hidden_size", config.hidden_size),
            ("intermediate_size", config.intermediate_size),
            ("num_hidden_layers", config.num_hidden_layers),
            ("num_attention_heads", config.num_attention_heads),
            ("max_position_embeddings", config.max_position_embeddings),
        ])?;
        let heads = config.num_attention_heads;
        let sizes = grouped_heads(heads, config.num_key_value_heads, config.head_dim, config.hidden_size)?;
        let rope = RopeKeys {
            theta: config.rope_theta,
            scaling: config.rope_scaling.as_ref(),
            parameters: config.rope_parameters.as_ref(),
        };
        let spec = DecoderSpec {
            vocabulary: config.vocab_size,
            context: config.max_position_embeddings,
            dim: config.hidden_size,
            hidden: config.intermediate_size,
            layers: config.num_hidden_layers,
            sizes,
            rope: rope.rope(sizes.head_dim, config.max_position_embeddings, 10_000.0)?,
            eps: config.rms_norm_eps,
            activation: config.hidden_act,
            attention_bias: config.attention_bias,
            ffn_bias: config.mlp_bias,
            tied: config.tie_word_embeddings,
        };
        spec.build(init)
    }

    fn layouts() -> &'static [Layout<LlamaConfig>] {
        &[
            Layout { name: "transformers", config: json_config::<Llama>, map: transformers },
            Layout { name: "gguf", config: gguf_config, map: gguf },
        ]
    }

    fn call(model: &Decoder, method: &str, arguments: &mut Arguments) -> Result<Outputs> {
        model.call_by_name(method, arguments)
    }
}

fn transformers(config: &LlamaConfig) -> WeightMap {
    let map = WeightMap::default()
        .rename("model.embed_tokens.{p:*}", "embed_tokens.{p:*}")
        .rename("model.layers.{i}.input_layernorm.{p:*}", "layers.{i}.norm1.{p:*}")
        .rename("model.layers.{i}.self_attn.{x}_proj.{p:*}", "layers.{i}.attn.{x}.{p:*}")
        .rename("model.layers.{i}.post_attention_layernorm.{p:*}", "layers.{i}.norm2.{p:*}")
        .rename("model.layers.{i}.mlp.{x}_proj.{p:*}", "layers.{i}.ffn.{x}.{p:*}")
        .rename("model.norm.{p:*}", "norm.{p:*}")
        .drop("model.layers.{i}.self_attn.rotary_emb.inv_freq", "computed from rope_theta")
        .optional()
        .alias("model", ["norm"]);
    if config.tie_word_embeddings {
        map.tied("lm_head.weight", "model.embed_tokens.weight").alias("lm_head", ["lm_head"])
    } else {
        map.rename("lm_head.{p:*}", "lm_head.{p:*}")
    }
}

/// llama.cpp stores the rows of queries and keys for interleaved rotation; the rule puts them back.
fn gguf(config: &LlamaConfig) -> WeightMap {
    let heads = config.num_attention_heads.max(1) as usize;
    let kv_heads = config.num_key_value_heads.map_or(heads, |heads| heads.max(1) as usize);
    let order = |heads| RowOrder::InterleavedToHalf { heads };
    let map = WeightMap::default()
        .rename("token_embd.{p:*}", "embed_tokens.{p:*}")
        .rename("blk.{i}.attn_norm.{p:*}", "layers.{i}.norm1.{p:*}")
        .permute_rows("blk.{i}.attn_q.{p:*}", "layers.{i}.attn.q.{p:*}", order(heads))
        .permute_rows("blk.{i}.attn_k.{p:*}", "layers.{i}.attn.k.{p:*}", order(kv_heads))
        .rename("blk.{i}.attn_v.{p:*}", "layers.{i}.attn.v.{p:*}")
        .rename("blk.{i}.attn_output.{p:*}", "layers.{i}.attn.o.{p:*}")
        .rename("blk.{i}.ffn_norm.{p:*}", "layers.{i}.norm2.{p:*}")
        .rename("blk.{i}.ffn_gate.{p:*}", "layers.{i}.ffn.gate.{p:*}")
        .rename("blk.{i}.ffn_up.{p:*}", "layers.{i}.ffn.up.{p:*}")
        .rename("blk.{i}.ffn_down.{p:*}", "layers.{i}.ffn.down.{p:*}")
        .rename("output_norm.{p:*}", "norm.{p:*}")
        .drop("rope_freqs.weight", "read with the config")
        .optional();
    if config.tie_word_embeddings { map } else { map.rename("output.{p:*}", "lm_head.{p:*}") }
}

/// The config that a GGUF file's metadata and tensors amount to.
fn gguf_config(checkpoint: &Checkpoint<'_>) -> Result<Option<LlamaConfig>> {
    let Some(gguf) = Gguf::of(checkpoint, "llama") else {
        return Ok(None);
    };
    let head_dim = gguf.optional("attention.key_length")?.or(gguf.optional("rope.dimension_count")?);
    Ok(Some(LlamaConfig {
        vocab_size: gguf.optional("vocab_size")?.unwrap_or(gguf.rows("token_embd.weight")),
        hidden_size: gguf.number("embedding_length")?,
        intermediate_size: gguf.number("feed_forward_length")?,
        num_hidden_layers: gguf.number("block_count")?,
        num_attention_heads: gguf.number("attention.head_count")?,
        num_key_value_heads: gguf.optional("attention.head_count_kv")?,
        head_dim,
        hidden_act: Activation::Silu,
        max_position_embeddings: gguf.number("context_length")?,
        rms_norm_eps: gguf.float("attention.layer_norm_rms_epsilon")?,
        tie_word_embeddings: !gguf.has_tensor("output.weight"),
        attention_bias: gguf.has_tensor("blk.0.attn_q.bias"),
        mlp_bias: gguf.has_tensor("blk.0.ffn_up.bias"),
        rope_theta: None,
        rope_scaling: None,
        rope_parameters: Some(gguf_parameters(checkpoint, gguf.metadata, "llama")?),
    }))
}
