//! The harness under faults put in on purpose: each must be headlined at the first observed output downstream of it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Trial};
use parity::Suite;
use parity::case::Case;
use parity::fault::Change::{self, Set, Times};
use parity::fault::Fault;
use parity::fault::Operation::{self, Negate, Roll, Swap, Transpose};
use parity::fault::Rewrite::{self, Drop, Ones, Shift};
use parity::suite::{Found, find};
use serde_json::{Value as Json, json};

/// Llama with every part of its first layer observed.
const WHOLE: &str = "base batch2-* no-scaling-tied uneven-gqa";
/// Llama with the projections of its first layer observed, each with its own rope.
const ROPES: &str = "dynamic-ntk llama3-scaling longrope proportional yarn";
/// Llama, token after token; layers and attentions are observed.
const DECODE: &str = "cached-decode* dynamic-ntk-decode";

const NORM1: &str = "model.layers.0.input_layernorm";
const Q: &str = "model.layers.0.self_attn.q_proj";
const K: &str = "model.layers.0.self_attn.k_proj";
const V: &str = "model.layers.0.self_attn.v_proj";
const O: &str = "model.layers.0.self_attn.o_proj";
const ATTENTION: &str = "model.layers.0.self_attn";
const NORM2: &str = "model.layers.0.post_attention_layernorm";
const GATE: &str = "model.layers.0.mlp.gate_proj";
const UP: &str = "model.layers.0.mlp.up_proj";
const DOWN: &str = "model.layers.0.mlp.down_proj";
/// What a block returns.
const OUT: &str = "output/0/0";

const HALVES: Operation = Swap { chunks: 2, first: 0, second: 1 };

/// A number of the config times a factor.
fn times(factor: f64, pointer: &str, expected: &str) -> Fault {
    Fault::config(&format!("{} times {factor}", words(pointer)), pointer, Times(factor), expected)
}

/// Another value in the config.
fn set(pointer: &str, value: Json, expected: &str) -> Fault {
    Fault::config(&format!("{} {}", words(pointer), words(&value.to_string())), pointer, Set(value), expected)
}

/// Another order, or sign, of a tensor's elements.
fn weight(operation: Operation, tensor: &str, expected: &str) -> Fault {
    Fault::weight(&format!("{operation:?} {tensor}"), tensor, operation, expected)
}

/// Two tensors under each other's name.
fn swapped(one: &str, other: &str, expected: &str) -> Fault {
    Fault::exchange(&format!("{one} for {other}"), one, other, expected)
}

/// Other values in an input.
fn input(rewrite: Rewrite, name: &str, expected: &str) -> Fault {
    Fault::input(&format!("{rewrite:?} {}", words(name)), name, rewrite, expected)
}

/// Fit for the name of a directory.
fn words(text: &str) -> String {
    let fit = |c: char| if c.is_alphanumeric() || "._".contains(c) { c } else { ' ' };
    text.chars().map(fit).collect::<String>().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Which fault goes into which cases of a folder. Cases are named one after the other; a star stands for any end.
type Row = (&'static str, Fault);

fn llama() -> Vec<Row> {
    let theta = "/rope_parameters/rope_theta";
    let unscaled = || json!({"rope_theta": 10000.0, "rope_type": "default"});
    let first = |tensor: &str| format!("model.layers.0.{tensor}.weight");
    let [q, k, v, o] = ["q", "k", "v", "o"].map(|x| first(&format!("self_attn.{x}_proj")));
    let [gate, up, down] = ["gate", "up", "down"].map(|x| first(&format!("mlp.{x}_proj")));
    let [norm1, norm2] = ["input_layernorm", "post_attention_layernorm"].map(first);
    vec![
        (WHOLE, times(10.0, "/rms_norm_eps", NORM1)),
        ("bf16", times(10.0, "/rms_norm_eps", NORM1)),
        (ROPES, times(10.0, "/rms_norm_eps", Q)),
        ("linear-scaling smollm2", times(10.0, "/rms_norm_eps", Q)),
        (DECODE, times(10.0, "/rms_norm_eps", ATTENTION)),
        (WHOLE, times(1.01, theta, O)),
        (ROPES, times(1.01, theta, O)),
        ("linear-scaling", times(1.01, "/rope_scaling/rope_theta", O)),
        ("smollm2", times(1.01, "/rope_theta", O)),
        (DECODE, times(1.01, theta, ATTENTION)),
        // One per cent of the base is less than bf16's noise.
        ("bf16", times(2.0, theta, O)),
        (ROPES, set("/rope_parameters", unscaled(), O)),
        ("linear-scaling", set("/rope_scaling", unscaled(), O)),
        ("batch2-*", input(Drop, "inputs/0/attention_mask", O)),
        ("cached-decode-padded", input(Ones, "inputs/0/attention_mask", ATTENTION)),
        ("base", weight(Transpose, &q, Q)),
        ("base", weight(Transpose, &o, O)),
        (WHOLE, swapped(&k, &v, K)),
        (WHOLE, swapped(&gate, &up, GATE)),
        (WHOLE, swapped(&norm1, &norm2, NORM1)),
        (WHOLE, weight(HALVES, &q, Q)),
        (WHOLE, weight(Negate, &v, V)),
        (WHOLE, weight(Roll(1), &norm2, NORM2)),
        (WHOLE, weight(Roll(1), &up, UP)),
        (WHOLE, weight(Roll(1), &down, DOWN)),
        ("bf16", swapped(&k, &v, K)),
        ("bf16", swapped(&gate, &up, GATE)),
        ("bf16", swapped(&norm1, &norm2, NORM1)),
        (WHOLE, weight(Roll(1), "model.embed_tokens.weight", "model.embed_tokens")),
        (WHOLE, weight(Roll(1), "model.norm.weight", "model.norm")),
        ("base uneven-gqa", weight(Roll(1), "lm_head.weight", "lm_head")),
    ]
}

/// Mixtral: experts in the first layer, observed but in `base`.
fn mixtral() -> Vec<Row> {
    let [router, experts] = ["gate", "experts"].map(|part| format!("model.layers.0.mlp.{part}"));
    let [fused, down] = ["gate_up", "down"].map(|part| format!("{experts}.{part}_proj"));
    vec![
        ("published-long bf16", weight(Roll(1), &format!("{router}.weight"), &format!("{router}#0"))),
        // An expert in the place of another.
        ("published-long bf16", weight(Roll(1), &fused, &experts)),
        ("published-long bf16", weight(Roll(1), &down, &experts)),
        ("base", weight(Roll(1), &down, "model.layers.0.mlp")),
        ("base", set("/sliding_window", json!(4), "model.layers.0.mlp")),
    ]
}

/// Qwen3's mixtures: experts in the first layer, or, in `unnormalised`, in the second.
fn qwen3_moe() -> Vec<Row> {
    let [router, experts] = ["gate", "experts"].map(|part| format!("model.layers.1.mlp.{part}"));
    vec![
        ("unnormalised", set("/norm_topk_prob", json!(true), &format!("{router}#1"))),
        ("unnormalised", weight(Negate, &format!("{router}.weight"), &format!("{router}#0"))),
        ("unnormalised", weight(Roll(1), &format!("{experts}.gate_up_proj"), &experts)),
        ("base", set("/norm_topk_prob", json!(false), "model.layers.0.mlp")),
        ("bf16", set("/norm_topk_prob", json!(false), "model.layers.0.mlp.gate#1")),
        ("base", weight(Roll(1), "model.layers.0.mlp.experts.down_proj", "model.layers.0.mlp")),
    ]
}

/// Llama's relatives: base cases observe layers, attentions and networks, bf16 ones every part of the first layer.
fn decoders() -> Vec<(&'static str, Vec<Row>)> {
    let layer = |i: usize, part: &str| format!("model.layers.{i}.{part}");
    let attention = |i: usize| layer(i, "self_attn");
    let eps = || vec![("base", times(10.0, "/rms_norm_eps", ATTENTION)), ("bf16", times(10.0, "/rms_norm_eps", NORM1))];
    let with = |rows: Vec<Row>| [eps(), rows].concat();
    let theta = |name: &str| times(1.01, &format!("/rope_parameters{name}/rope_theta"), ATTENTION);
    let [q, k] = ["q", "k"].map(|x| layer(0, &format!("self_attn.{x}_norm.weight")));
    let yarn = json!({"type": "yarn", "factor": 8.0, "original_max_position_embeddings": 16});
    let norms =
        ["input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"];
    let [norm1, norm2, norm3, norm4] = norms.map(|norm| layer(0, &format!("{norm}.weight")));
    let glm4 = ["post_self_attn_layernorm", "post_mlp_layernorm"].map(|norm| layer(0, &format!("{norm}.weight")));
    let (mlp, gate_up) = (layer(0, "mlp"), layer(0, "mlp.gate_up_proj.weight"));
    vec![
        (
            "qwen2",
            with(vec![
                ("base", theta("")),
                ("base", set("/sliding_window", json!(6), &attention(1))),
                ("base", weight(Negate, &layer(0, "self_attn.q_proj.bias"), ATTENTION)),
                ("published-yarn", set("/rope_scaling", yarn, "model.layers.0")),
                ("published-yarn", set("/use_sliding_window", json!(true), "model.layers.1")),
            ]),
        ),
        (
            "qwen3",
            with(vec![
                ("base", theta("")),
                ("base", set("/sliding_window", json!(4), ATTENTION)),
                ("base", set("/layer_types", json!(["full_attention", "sliding_attention"]), ATTENTION)),
                ("base", swapped(&q, &k, ATTENTION)),
                ("bf16", weight(Roll(1), &q, "model.layers.0.self_attn.q_norm")),
            ]),
        ),
        ("mistral", with(vec![("base", theta("")), ("base", set("/sliding_window", json!(6), ATTENTION))])),
        (
            "gemma3",
            with(vec![
                ("base", theta("/sliding_attention")),
                ("base", times(10.0, "/rope_parameters/full_attention/rope_theta", &attention(1))),
                ("base", times(1.1, "/query_pre_attn_scalar", ATTENTION)),
                ("base", set("/sliding_window", json!(6), ATTENTION)),
                ("base", times(1.1, "/final_logit_softcapping", "output/0/logits")),
                ("base", swapped(&norm1, &norm2, ATTENTION)),
                ("base", swapped(&norm3, &norm4, &mlp)),
                ("base", swapped(&q, &k, ATTENTION)),
                ("multimodal", times(10.0, "/text_config/rms_norm_eps", "model.language_model.layers.0")),
                ("published", set("/sliding_window_pattern", json!(5), "model.layers.4")),
                ("published", times(2.0, "/rope_local_base_freq", "model.layers.0")),
                ("published", times(2.0, "/rope_theta", "model.layers.5")),
            ]),
        ),
        (
            "smollm3",
            with(vec![
                ("base", theta("")),
                ("base", set("/no_rope_layers", json!([1, 1]), &attention(1))),
                ("base", set("/sliding_window", json!(6), &attention(1))),
            ]),
        ),
        (
            "glm",
            vec![
                ("base", times(10.0, "/rms_norm_eps", NORM1)),
                ("base", set("/rope_parameters/partial_rotary_factor", json!(1.0), O)),
            ],
        ),
        (
            "glm4",
            with(vec![
                ("base", theta("")),
                ("base", set("/rope_parameters/partial_rotary_factor", json!(1.0), ATTENTION)),
                ("base", weight(HALVES, &gate_up, &mlp)),
                ("base", swapped(&glm4[0], &glm4[1], "model.layers.0.mlp")),
            ]),
        ),
    ]
}

fn norms_and_layers() -> Vec<Row> {
    vec![
        ("rms-norm*", times(10.0, "/eps", OUT)),
        ("rms-norm*", weight(Roll(1), "weight", OUT)),
        ("rms-norm-offset", set("/offset", json!(0.0), OUT)),
        ("layer-norm*", times(10.0, "/eps", OUT)),
        ("layer-norm", swapped("weight", "bias", OUT)),
        ("layer-norm-no-bias", weight(Negate, "weight", OUT)),
        ("group-norm*", times(10.0, "/eps", OUT)),
        ("group-norm*", swapped("weight", "bias", OUT)),
        ("group-norm", set("/groups", json!(2), OUT)),
        ("linear*", weight(Roll(1), "weight", OUT)),
        ("linear linear-affine-8bit-group64", weight(Negate, "bias", OUT)),
        ("embedding*", weight(Roll(1), "weight", OUT)),
        ("linear-affine-* embedding-affine-*", swapped("scales", "biases", OUT)),
        ("mlp-*", weight(Negate, "up.weight", OUT)),
        ("mlp-*", weight(Roll(1), "down.weight", OUT)),
        ("glu-*", swapped("gate.weight", "up.weight", OUT)),
        ("moe-*", swapped("experts.gate.weight", "experts.up.weight", OUT)),
        // An expert in the place of another.
        ("moe-*", weight(Roll(1), "experts.down.weight", OUT)),
        ("moe-*", weight(Roll(1), "router.linear.weight", OUT)),
        ("moe-softmax", set("/normalise", json!(false), OUT)),
        ("moe-softmax", set("/top_k", json!(3), OUT)),
        ("moe-softmax-shared", set("/normalise", json!(true), OUT)),
        ("moe-softmax-shared", weight(Negate, "shared.gate.weight", OUT)),
        ("moe-sigmoid", set("/scoring", json!("softmax"), OUT)),
        ("moe-sigmoid", weight(Negate, "router.correction", OUT)),
        ("moe-sigmoid", times(1.01, "/scale", OUT)),
        ("moe-chosen", set("/scoring", json!("softmax"), OUT)),
        ("mlp-gelu glu-gelu", set("/activation", json!("gelu_tanh"), OUT)),
        ("mlp-gelu-tanh glu-gelu-tanh mlp-relu2", set("/activation", json!("gelu"), OUT)),
        ("mlp-quick-gelu mlp-relu", set("/activation", json!("silu"), OUT)),
        ("mlp-silu glu-silu", set("/activation", json!("quick_gelu"), OUT)),
    ]
}

fn ropes() -> Vec<Row> {
    let half_split = "rope-half-split* rope-axes-half-split rope-sections-* rope-dynamic-* rope-linear rope-llama3 \
                      rope-proportional rope-yarn";
    vec![
        ("rope-*", times(1.01, "/theta", OUT)),
        (half_split, set("/layout", json!("interleaved"), OUT)),
        ("rope-interleaved* rope-axes-interleaved*", set("/layout", json!("half_split"), OUT)),
        ("rope-half-split-partial rope-interleaved-partial", set("/dims", json!(8), OUT)),
        ("rope-axes-interleaved*", set("/axes", json!([6, 4, 6]), OUT)),
        ("rope-axes-half-split", set("/axes", json!([4, 12]), OUT)),
        ("rope-sections-contiguous", set("/sections_interleaved", json!(true), OUT)),
        ("rope-sections-interleaved", set("/sections_interleaved", json!(false), OUT)),
        ("rope-linear rope-llama3 rope-proportional", times(1.01, "/scaling/factor", OUT)),
        ("rope-dynamic-long rope-yarn rope-interleaved-yarn-mscale", times(1.01, "/scaling/factor", OUT)),
        ("rope-interleaved-yarn-mscale", set("/scaling/truncate", json!(true), OUT)),
    ]
}

fn attention() -> Vec<Row> {
    let causal = "attend-causal attend-causal-cached attend-every-head attend-scale attend-sinks attend-softcap";
    let rotating = "attention-fused attention-key-* attention-partial-rope attention-separate";
    let normed = "attention-key-* attention-partial-rope";
    let separate = "attention-separate attention-partial-rope attention-no-rope";
    let sees = |kind: &str| json!({"kind": kind});
    vec![
        (causal, set("/mask", sees("none"), OUT)),
        ("attend-causal-one-query", set("/mask", json!({"kind": "sliding", "window": 2}), OUT)),
        ("attend-none", set("/mask", sees("causal"), OUT)),
        ("attend-sliding* attend-sinks-sliding", set("/mask", sees("causal"), OUT)),
        ("attend-sliding* attend-sinks-sliding", set("/mask/window", json!(2), OUT)),
        ("attend-boolean* attend-additive", input(Ones, "inputs/0/mask", OUT)),
        ("attend-blocks", input(Ones, "inputs/0/segments", OUT)),
        ("attend-sinks*", weight(Roll(1), "sinks", OUT)),
        ("attend-softcap", times(1.1, "/softcap", OUT)),
        ("attend-scale", times(1.01, "/scale", OUT)),
        ("attention-*", set("/mask", sees("none"), OUT)),
        (rotating, times(1.01, "/rope/theta", OUT)),
        // No query or key of these cases is so small that ten times eps shows.
        (normed, times(1e4, "/qk_norm/eps", OUT)),
        (normed, swapped("q_norm.weight", "k_norm.weight", OUT)),
        (separate, swapped("k.weight", "v.weight", OUT)),
        ("attention-fused", weight(Swap { chunks: 5, first: 3, second: 4 }, "qkv.weight", OUT)),
        ("attention-key-value", weight(HALVES, "kv.weight", OUT)),
        ("attention-key-is-value", weight(HALVES, "k.weight", OUT)),
        ("attention-*", weight(Roll(1), "o.weight", OUT)),
        ("block-pre-norm-*", times(10.0, "/norm/eps", "norm1")),
        ("block-pre-norm-*", times(1.01, "/attention/rope/theta", "attn")),
        ("block-pre-norm-*", set("/attention/mask", sees("none"), "attn")),
        ("block-pre-norm-*", swapped("norm1.weight", "norm2.weight", "norm1")),
        ("block-*", swapped("attn.k.weight", "attn.v.weight", "attn")),
        ("block-pre-norm-*", weight(Roll(1), "norm2.weight", "norm2")),
        ("block-*", weight(Negate, "ffn.down.weight", "ffn")),
        ("block-pre-norm-glu", swapped("ffn.gate.weight", "ffn.up.weight", "ffn")),
        ("block-pre-norm-mlp", set("/ffn/activation", json!("gelu_tanh"), "ffn")),
    ]
}

/// Modulated blocks and those that attend to a context; of width 16.
fn modulated() -> Vec<Row> {
    let chunks = |chunks, first, second| Swap { chunks, first, second };
    let [linear, table] = ["modulation.linear.weight", "modulation.scale_shift_table"];
    let (tables, gated) = ("cross-wan* cross-pixart", "sandwich-tanh-gated");
    vec![
        ("block-ada-ln-zero", times(10.0, "/norm/eps", "attn")),
        ("block-ada-ln-zero", weight(chunks(6, 0, 1), linear, "attn")),
        ("block-ada-ln-zero", weight(chunks(6, 1, 4), linear, "attn")),
        ("block-ada-ln-zero", weight(chunks(6, 2, 5), linear, "ffn")),
        ("block-ada-ln-zero", weight(chunks(6, 3, 4), linear, "ffn")),
        ("block-shared", times(10.0, "/norm/eps", "norm1")),
        ("block-shared", input(Shift(16), "inputs/0/chunks", "attn")),
        ("block-shared", input(Shift(3 * 16), "inputs/0/chunks", "attn")),
        ("sandwich*", times(10.0, "/norm/eps", "norm1")),
        ("sandwich*", swapped("norm1.weight", "norm2.weight", "norm1")),
        ("sandwich*", swapped("norm2.weight", "ffn_norm2.weight", "norm2")),
        ("sandwich*", swapped("ffn_norm1.weight", "ffn_norm2.weight", "ffn_norm1")),
        ("sandwich*", times(1.01, "/attention/rope/theta", "attn")),
        (gated, weight(chunks(4, 0, 1), linear, "attn")),
        (gated, weight(chunks(4, 1, 3), linear, "ffn_norm1")),
        (gated, weight(chunks(4, 2, 3), linear, "ffn")),
        (tables, weight(chunks(6, 0, 1), table, "attn1")),
        ("cross-wan", weight(chunks(6, 2, 5), table, "norm2")),
        ("cross-wan-by-token cross-pixart", weight(chunks(6, 2, 5), table, "attn2")),
        (tables, weight(chunks(6, 3, 4), table, "ffn")),
        (tables, input(Shift(16), "inputs/0/chunks", "attn1")),
        (tables, times(10.0, "/norm1/eps", "attn1")),
        ("cross-wan*", set("/attn1/rope/axes", json!([2, 4, 2]), "attn1")),
        ("cross-wan*", swapped("attn1.q_norm.weight", "attn1.k_norm.weight", "attn1")),
        ("cross-*", swapped("attn2.k.weight", "attn2.v.weight", "attn2")),
        ("cross-pixart cross-unet", input(Ones, "inputs/0/mask", "attn2")),
        ("cross-unet", times(10.0, "/norm1/eps", "norm1")),
        ("cross-unet", swapped("norm2.weight", "norm3.weight", "norm2")),
        ("cross-unet", swapped("ffn.gate.weight", "ffn.up.weight", "ffn")),
        ("spatial-transformer", times(10.0, "/eps", "norm")),
        ("spatial-transformer", input(Ones, "inputs/0/mask", "transformer_blocks.0")),
        ("spatial-transformer", weight(Roll(1), "proj_in.weight", "proj_in")),
        ("spatial-transformer", weight(Roll(1), "transformer_blocks.1.attn2.o.weight", "transformer_blocks.1")),
        ("spatial-transformer", weight(Negate, "proj_out.weight", "proj_out")),
    ]
}

/// FLUX.1: what swaps in a modulation is the order of its chunks.
fn flux() -> Vec<Row> {
    let chunks = |chunks, first, second| Swap { chunks, first, second };
    let joint = |part: &str| format!("transformer_blocks.0.{part}");
    let single = |part: &str| format!("single_transformer_blocks.0.{part}");
    let [to_q, add_q, to_add_out] = ["to_q", "add_q_proj", "to_add_out"].map(|part| joint(&format!("attn.{part}")));
    let [image, text] = ["norm1", "norm1_context"].map(|part| joint(&format!("{part}.linear.weight")));
    let [norm2, norm2_context] = ["norm2", "norm2_context"].map(joint);
    let norm_q = joint("attn.norm_q");
    let step = "time_text_embed.timestep_embedder";
    // The noise of the bf16 case is as large as what these change.
    let single_precision = "guidance no-guidance out-channels";
    vec![
        ("*", weight(chunks(6, 0, 1), &image, &to_q)),
        (single_precision, weight(chunks(6, 2, 5), &image, &norm2)),
        ("*", weight(chunks(6, 0, 1), &text, &add_q)),
        (single_precision, weight(chunks(6, 2, 5), &text, &norm2_context)),
        ("*", weight(chunks(3, 0, 1), &single("norm.linear.weight"), &single("proj_mlp"))),
        (single_precision, weight(chunks(3, 1, 2), &single("norm.linear.weight"), &single("proj_mlp"))),
        ("*", weight(chunks(2, 0, 1), "norm_out.linear.weight", "norm_out")),
        ("*", weight(Transpose, &format!("{to_q}.weight"), &to_q)),
        ("*", swapped(&format!("{to_q}.weight"), &format!("{add_q}.weight"), &to_q)),
        (single_precision, swapped(&format!("{norm_q}.weight"), &joint("attn.norm_k.weight"), &norm_q)),
        (single_precision, set("/axes_dims_rope", json!([2, 4, 2]), &to_add_out)),
        ("*", weight(Roll(1), &format!("{step}.linear_1.weight"), step)),
    ]
}

/// Another value in a JSON file of a pipeline's case.
fn changed(change: Change, file: &str, pointer: &str, expected: &str) -> Fault {
    let name = words(&format!("{change:?} {file} {pointer}"));
    Fault::json(&name, file, pointer, change, expected)
}

/// Another value among the arguments of one of a pipeline's calls.
fn argument(call: usize, change: Change, name: &str, expected: &str) -> Fault {
    changed(change, "case.json", &format!("/calls/{call}/arguments/{name}"), &format!("output/{call}/{expected}"))
}

/// Another value in a file of a pipeline's component, which the first call shows.
fn component(change: Change, name: &str, pointer: &str, expected: &str) -> Fault {
    changed(change, &format!("components/{name}"), pointer, &format!("output/0/{expected}"))
}

/// FLUX.1 from a prompt to pixels: what is wrong with one part shows in what the part makes, and in nothing before.
fn flux_pipeline() -> Vec<Row> {
    let [scheduler, vae] = ["scheduler/scheduler_config.json", "vae/config.json"];
    let pad = |tokenizer: &str| format!("{tokenizer}/tokenizer_config.json");
    let weight = |operation, tensor: &str, expected: &str| weight(operation, tensor, &format!("output/0/{expected}"));
    let guided = "batch2 dev img2img";
    let from_noise = "batch2 dev schnell";
    let latents = "output/0/latents.0";
    vec![
        ("*", component(Set("<|startoftext|>".into()), &pad("tokenizer"), "/pad_token", "tokens")),
        ("*", component(Set("<unk>".into()), &pad("tokenizer_2"), "/pad_token", "tokens_2")),
        (guided, component(Set(false.into()), scheduler, "/use_dynamic_shifting", "sigmas")),
        (guided, component(Times(1.1), scheduler, "/base_shift", "sigmas")),
        ("schnell", component(Times(2.0), scheduler, "/shift", "sigmas")),
        ("img2img", argument(0, Set(json!(0.9)), "strength", "sigmas")),
        (from_noise, component(Times(2.0), vae, "/scaling_factor", "image")),
        ("img2img", component(Times(2.0), vae, "/scaling_factor", "latents.0")),
        ("img2img", component(Set(json!(0.0)), vae, "/shift_factor", "latents.0")),
        ("dev", argument(0, Set(json!(1.0)), "guidance_scale", "latents.0")),
        ("dev", argument(1, Set("hello".into()), "prompt", "tokens")),
        ("dev", argument(2, Times(0.9), "true_cfg_scale", "latents.0")),
        ("dev", argument(2, Set(json!(1.0)), "true_cfg_scale", "latents.0")),
        ("dev", argument(2, Set("hello".into()), "negative_prompt", "negative_tokens")),
        ("batch2", argument(1, Times(0.9), "true_cfg_scale", "latents.0")),
        ("batch2", argument(1, Set(json!(1.0)), "true_cfg_scale", "latents.0")),
        ("dev", argument(0, Set(json!(6)), "max_sequence_length", "tokens_2")),
        ("schnell", argument(1, Set(json!(6)), "max_sequence_length", "tokens_2")),
        ("dev img2img", input(Ones, "inputs/0/latents", latents)),
        ("dev", input(Ones, "inputs/2/latents", "output/2/latents.0")),
        ("img2img", input(Drop, "inputs/0/posterior_noise", latents)),
        (from_noise, weight(Roll(1), "text_encoder.final_layer_norm.weight", "latents.0")),
        (from_noise, weight(Roll(1), "text_encoder_2.encoder.final_layer_norm.weight", "latents.0")),
        (from_noise, weight(Negate, "transformer.proj_out.weight", "latents.0")),
        (from_noise, weight(Negate, "vae.decoder.conv_out.bias", "image")),
    ]
}

/// A pipeline of composed parts, likewise.
fn composed_pipeline() -> Vec<Row> {
    let weight = |operation, tensor: &str, expected: &str| weight(operation, tensor, &format!("output/0/{expected}"));
    let [index, pad] = ["model_index.json", "tokenizer/tokenizer_config.json"];
    let [scheduler, vae] = ["scheduler/scheduler_config.json", "vae/config.json"];
    let theta = "/stages/0/block/joint/streams/0/attention/position/rope/theta";
    vec![
        ("*", component(Set("<|im_end|>".into()), pad, "/pad_token", "tokens")),
        ("encoder unguided", component(Times(2.0), scheduler, "/shift", "sigmas")),
        ("self-reading", component(Set(false.into()), scheduler, "/use_dynamic_shifting", "sigmas")),
        ("self-reading", component(Times(1.1), scheduler, "/base_shift", "sigmas")),
        ("*", component(Times(2.0), vae, "/scaling_factor", "image")),
        ("encoder", component(Times(0.9), index, "/recommended/guidance", "latents.0")),
        ("encoder", component(Set(json!(4)), index, "/recommended/steps", "sigmas")),
        ("encoder", component(Set(json!(11)), index, "/recommended/text_tokens", "tokens")),
        ("self-reading", argument(0, Times(0.9), "true_cfg_scale", "latents.0")),
        ("self-reading", argument(0, Set("hello".into()), "negative_prompt", "negative_tokens")),
        ("self-reading", argument(0, Set(json!(8)), "max_sequence_length", "tokens")),
        ("encoder", component(Times(1.5), "transformer/config.json", theta, "latents.0")),
        ("encoder", component(Set(Json::Null), "transformer/config.json", "/streams/0/mask", "latents.0")),
        ("encoder", component(Set(Json::Null), "text_encoder/config.json", "/streams/0/mask", "latents.0")),
        ("self-reading", component(Set(Json::Null), "transformer/config.json", "/streams/0/mask", "latents.0")),
        ("*", input(Ones, "inputs/0/latents", "output/0/latents.0")),
        ("encoder unguided", weight(Roll(1), "text_encoder.norm_out.weight", "latents.0")),
        ("*", weight(Negate, "transformer.head.weight", "latents.0")),
        ("*", weight(Negate, "vae.decoder.conv_out.bias", "image")),
    ]
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // The tensor library is not thread-safe.
    arguments.test_threads.get_or_insert(1);
    let suite = Arc::new(parity::models());
    let blocks = [norms_and_layers(), ropes(), attention(), modulated()].concat();
    let mut trials = Vec::new();
    let mut folders = decoders();
    folders.extend([
        ("mixtral", mixtral()),
        ("qwen3-moe", qwen3_moe()),
        ("llama", llama()),
        ("flux", flux()),
        ("flux-pipeline", flux_pipeline()),
        ("composed-pipeline", composed_pipeline()),
        ("framework", blocks),
    ]);
    for (folder, rows) in folders {
        let cases = find(&[fixtures().join(folder)]).expect("the fixtures");
        let mut faultless: BTreeSet<&str> = cases.iter().map(|case| case.name.as_str()).collect();
        for (pattern, fault) in rows {
            let chosen: Vec<&Found> = cases.iter().filter(|case| matches(pattern, &case.name)).collect();
            assert!(!chosen.is_empty(), "no case of {folder} is called {pattern}");
            for case in chosen {
                faultless.remove(case.name.as_str());
                let (suite, dir, fault) = (Arc::clone(&suite), case.dir.clone(), fault.clone());
                let name = format!("{folder}/{}: {}", case.name, fault.name);
                trials.push(Trial::test(name, move || Ok(prove(&suite, &dir, &fault)?)));
            }
        }
        let name = format!("{folder}: every case has a fault");
        let left = faultless.into_iter().map(str::to_owned).collect::<Vec<_>>();
        trials.push(Trial::test(name, move || if left.is_empty() { Ok(()) } else { Err(left.join(", ").into()) }));
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn fixtures() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "fixtures"].iter().collect()
}

fn matches(pattern: &str, name: &str) -> bool {
    pattern.split_whitespace().any(|one| match one.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == one,
    })
}

fn prove(suite: &Suite, dir: &Path, fault: &Fault) -> parity::Result<()> {
    let case = Case::open(dir)?;
    let scratch = tempfile::tempdir().map_err(|e| parity::Error::io(dir, e))?;
    let family = suite.family(&case.meta.reference)?.ok_or_else(|| parity::Error::subject("no family"))?;
    fault.prove(&case, family, scratch.path())
}
