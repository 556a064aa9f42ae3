//! Llama 2, 3, 3.1, 3.2, 3.3 and SmolLM2: transformers' `LlamaForCausalLM`, llama.cpp's `llama`.

use crate::{
    Arguments, Outputs, Result,
    decoder::Decoder,
    registry::{Checkpoint, Family, Layout, json_config},
    rope::{RopeKeys, gguf_parameters},
    sizes::positive,
};
use framework::{
    Activation, AnyFfn, AnyModulation, AnyNorm, AnyPosition, Attention, Block, Embedding, Error, Glu, Heads, Init,
    Linear, Qkv, RmsNorm, Rope, Score,
    weights::{Config, RowOrder, WeightMap},
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

impl LlamaConfig {
    fn heads(&self) -> framework::Result<Heads> {
        let heads = self.num_attention_heads;
        let kv_heads = self.num_key_value_heads.unwrap_or(heads);
        if kv_heads < 1 || heads % kv_heads != 0 {
            let problem = format!("{kv_heads} key-value heads do not divide {heads} heads");
            return Err(Error::config("num_key_value_heads", problem));
        }
        let head_dim = self.head_dim.unwrap_or(self.hidden_size / heads);
        if head_dim < 1 || heads.checked_mul(head_dim).is_none() {
            return Err(Error::config("head_dim", format!("{heads} heads of {head_dim} features are not possible")));
        }
        Ok(Heads { heads, kv_heads, head_dim })
    }

    fn rope(&self, head_dim: i32) -> framework::Result<Rope> {
        let keys = RopeKeys {
            theta: self.rope_theta,
            scaling: self.rope_scaling.as_ref(),
            parameters: self.rope_parameters.as_ref(),
        };
        keys.rope(head_dim, self.max_position_embeddings, 10_000.0)
    }

    fn block(&self, sizes: Heads, rope: &Rope, init: &mut Init) -> framework::Result<Block> {
        let dim = self.hidden_size;
        let norm = |init: &mut Init| Ok::<_, Error>(AnyNorm::Rms(RmsNorm::new(dim, self.rms_norm_eps, init)?));
        Ok(Block {
            norm1: norm(init)?,
            attn: Attention {
                qkv: Qkv::separate(&sizes, dim, self.attention_bias, init)?,
                o: Linear::new(sizes.heads * sizes.head_dim, dim, self.attention_bias, init)?,
                q_norm: AnyNorm::None,
                k_norm: AnyNorm::None,
                position: AnyPosition::Rope(rope.clone()),
                sinks: None,
                sizes,
                score: Score::of(sizes.head_dim),
            },
            norm2: norm(init)?,
            ffn: AnyFfn::Glu(Glu::new(dim, self.intermediate_size, self.hidden_act, self.mlp_bias, init)?),
            modulation: AnyModulation::None,
        })
    }
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
        let sizes = config.heads()?;
        let rope = config.rope(sizes.head_dim)?;
        let (vocabulary, dim) = (config.vocab_size, config.hidden_size);
        let layers = (0..config.num_hidden_layers).map(|_| config.block(sizes, &rope, init));
        let layers = layers.collect::<framework::Result<_>>()?;
        Ok(Decoder {
            embed_tokens: Embedding::new(vocabulary, dim, init)?,
            layers,
            norm: RmsNorm::new(dim, config.rms_norm_eps, init)?,
            lm_head: (!config.tie_word_embeddings).then(|| Linear::new(dim, vocabulary, false, init)).transpose()?,
            rope,
            vocabulary,
            context: config.max_position_embeddings,
        })
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
    let Config::Gguf(metadata) = &checkpoint.config else {
        return Ok(None);
    };
    let key = |name: &str| format!("llama.{name}");
    let number = |name: &str| -> Result<i32> {
        let value = metadata.u64(&key(name))?;
        Ok(i32::try_from(value).map_err(|_| Error::config(key(name), format!("{value} is out of range")))?)
    };
    let optional = |name: &str| metadata.has(&key(name)).then(|| number(name)).transpose();
    let table = checkpoint.header.tensors.get("token_embd.weight").and_then(|info| info.shape.first().copied());
    let vocab_size = match optional("vocab_size")? {
        Some(size) => size,
        None => table.unwrap_or(0) as i32,
    };
    let heads = number("attention.head_count")?;
    let context = number("context_length")?;
    let head_dim = optional("attention.key_length")?.or(optional("rope.dimension_count")?);
    Ok(Some(LlamaConfig {
        vocab_size,
        hidden_size: number("embedding_length")?,
        intermediate_size: number("feed_forward_length")?,
        num_hidden_layers: number("block_count")?,
        num_attention_heads: heads,
        num_key_value_heads: optional("attention.head_count_kv")?,
        head_dim,
        hidden_act: Activation::Silu,
        max_position_embeddings: context,
        rms_norm_eps: metadata.f32(&key("attention.layer_norm_rms_epsilon"))?,
        tie_word_embeddings: !checkpoint.header.tensors.contains_key("output.weight"),
        attention_bias: checkpoint.header.tensors.contains_key("blk.0.attn_q.bias"),
        mlp_bias: checkpoint.header.tensors.contains_key("blk.0.ffn_up.bias"),
        rope_theta: None,
        rope_scaling: None,
        rope_parameters: Some(gguf_parameters(checkpoint, metadata, "llama")?),
    }))
}
