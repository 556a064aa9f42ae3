//! Qwen3's mixtures of experts: transformers' `Qwen3MoeForCausalLM`, llama.cpp's `qwen3moe`.

use crate::decoder::{Biases, DecoderSpec, Family, GgufNaming, Keys, Mixture};
use framework::{Choice, Error, ExpertSizes, Result, Scoring};
use serde::Deserialize;

/// The family (<https://arxiv.org/abs/2505.09388>): Qwen3 with experts in some layers or all.
pub struct Qwen3Moe;

/// What transformers' `Qwen3MoeConfig` has of its own.
#[derive(Debug, Deserialize)]
pub struct Qwen3MoeKeys {
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    use_sliding_window: bool,
    sliding_window: Option<i32>,
    #[serde(alias = "num_local_experts")]
    num_experts: Option<i32>,
    num_experts_per_tok: i32,
    moe_intermediate_size: i32,
    #[serde(default)]
    norm_topk_prob: bool,
    mlp_only_layers: Option<Vec<usize>>,
    decoder_sparse_step: usize,
}

impl Family for Qwen3Moe {
    const NAMES: &'static [&'static str] = &["qwen3_moe", "qwen3moe", "Qwen3MoeForCausalLM"];
    const IGNORED: &'static [(&'static str, &'static str)] = &[
        ("attention_dropout", "training only"),
        ("initializer_range", "training only"),
        ("max_window_layers", "of dense models: here every layer slides, or none"),
        ("output_router_logits", "adds outputs for training; the logits are the same"),
        ("router_aux_loss_coef", "training only"),
    ];
    const GGUF: Option<GgufNaming> = Some(GgufNaming::plain("qwen3moe"));
    const DEFAULTS: &'static str = r#"{
        "hidden_act": "silu", "rope_theta": 1e4, "sliding_window": 4096, "num_experts_per_tok": 8,
        "moe_intermediate_size": 768, "decoder_sparse_step": 1
    }"#;
    type Own = Qwen3MoeKeys;

    fn spec(keys: &Keys, own: &Qwen3MoeKeys) -> Result<DecoderSpec> {
        let window = own.sliding_window.filter(|_| own.use_sliding_window);
        let biases = Biases { qkv: own.attention_bias, o: own.attention_bias, ffn: false };
        let mixture = Some(own.mixture(keys)?);
        Ok(DecoderSpec { biases, qk_norm: true, mixture, ..keys.spec(keys.alike(keys.rope()?, window)?)? })
    }
}

impl Qwen3MoeKeys {
    /// Every `decoder_sparse_step`-th layer has experts, but for those that `mlp_only_layers` names.
    fn mixture(&self, keys: &Keys) -> Result<Mixture> {
        if self.decoder_sparse_step == 0 {
            return Err(Error::config("decoder_sparse_step", "0 is no step; 1 gives every layer experts"));
        }
        let count = self.num_experts.unwrap_or(128);
        let dense = self.mlp_only_layers.as_deref().unwrap_or_default();
        let has_experts =
            |layer: usize| count > 0 && !dense.contains(&layer) && (layer + 1).is_multiple_of(self.decoder_sparse_step);
        Ok(Mixture {
            experts: ExpertSizes { count, hidden: self.moe_intermediate_size },
            choice: Choice {
                top_k: self.num_experts_per_tok,
                scoring: Scoring::Softmax,
                normalise: self.norm_topk_prob,
                scale: 1.0,
            },
            accumulate: None,
            layers: keys.layers()?.map(has_experts).collect(),
        })
    }
}
