//! Language models with mixtures of experts, as files hold them, and as they are used.

use framework::{
    Array, Dtype, Init, Leaf, Weight, math,
    weights::{Config, Header, Info, Packed, Tensors, evaluate::to_bytes, gguf::Metadata, safetensors},
};
use mlx_rs::ops;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    ops::ControlFlow,
    path::Path,
    process::{Command, Output},
};
use zoo::{Checkpoint, MODELS, OpenOptions, Opened, registry};

type Arrays = BTreeMap<String, Array>;

const WIDTH: i32 = 32;
const HEADS: i32 = 2;
const EXPERTS: i32 = 4;
const LAYERS: i32 = 2;
const WORDS: i32 = 5;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// Experts in both layers.
    Mixtral,
    /// Experts in the first of two layers.
    Qwen,
}

const KINDS: [Kind; 2] = [Kind::Mixtral, Kind::Qwen];

impl Kind {
    fn config(self) -> Value {
        let mut config = json!({
            "vocab_size": WORDS, "hidden_size": WIDTH, "intermediate_size": WIDTH, "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS, "num_key_value_heads": 1, "head_dim": WIDTH / HEADS,
            "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 1e4, "tie_word_embeddings": false,
        });
        let own = match self {
            Self::Mixtral => json!({
                "model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "num_local_experts": EXPERTS,
                "num_experts_per_tok": 2,
            }),
            Self::Qwen => json!({
                "model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"], "num_experts": EXPERTS,
                "num_experts_per_tok": 2, "moe_intermediate_size": WIDTH, "norm_topk_prob": true,
                "mlp_only_layers": [1],
            }),
        };
        config.as_object_mut().unwrap().extend(own.as_object().unwrap().clone());
        config
    }

    /// The module that holds a layer's experts, and the gate, up and down matrix of each, in published files.
    fn published(self) -> (&'static str, [&'static str; 3]) {
        match self {
            Self::Mixtral => ("block_sparse_moe", ["w1", "w3", "w2"]),
            Self::Qwen => ("mlp", ["gate_proj", "up_proj", "down_proj"]),
        }
    }

    /// The model as mlx-lm saves it, which is nearest to how it is used.
    fn stacked(self) -> Arrays {
        let mut init = Init::new(Dtype::Float32, 5);
        let mut arrays = Arrays::new();
        let mut add = |name: String, shape: &[i32]| {
            let mut value = init.normal(shape, 0.3).unwrap().get();
            if shape.len() == 1 {
                value = math::offset(&value, 1.0).unwrap();
            }
            arrays.insert(format!("{name}.weight"), value);
        };
        add("model.embed_tokens".into(), &[WORDS, WIDTH]);
        add("lm_head".into(), &[WORDS, WIDTH]);
        add("model.norm".into(), &[WIDTH]);
        for layer in 0..LAYERS {
            let mut add = |name: &str, shape: &[i32]| add(format!("model.layers.{layer}.{name}"), shape);
            let matrix = [WIDTH, WIDTH];
            add("input_layernorm", &[WIDTH]);
            add("post_attention_layernorm", &[WIDTH]);
            add("self_attn.q_proj", &matrix);
            add("self_attn.o_proj", &matrix);
            add("self_attn.k_proj", &[WIDTH / HEADS, WIDTH]);
            add("self_attn.v_proj", &[WIDTH / HEADS, WIDTH]);
            if self == Self::Qwen {
                add("self_attn.q_norm", &[WIDTH / HEADS]);
                add("self_attn.k_norm", &[WIDTH / HEADS]);
            }
            let (block, _) = self.published();
            let sparse = self == Self::Mixtral || layer == 0;
            if sparse {
                add(&format!("{block}.gate"), &[EXPERTS, WIDTH]);
            }
            for part in ["gate_proj", "up_proj", "down_proj"] {
                match sparse {
                    true => add(&format!("{block}.switch_mlp.{part}"), &[EXPERTS, WIDTH, WIDTH]),
                    false => add(&format!("mlp.{part}"), &matrix),
                }
            }
        }
        arrays
    }

    /// Each expert by itself, as published.
    fn single(self) -> Arrays {
        let (block, matrices) = self.published();
        let mut arrays = self.stacked();
        for (part, matrix) in ["gate_proj", "up_proj", "down_proj"].iter().zip(matrices) {
            for layer in 0..LAYERS {
                let prefix = format!("model.layers.{layer}.{block}");
                let Some(stack) = arrays.remove(&format!("{prefix}.switch_mlp.{part}.weight")) else { continue };
                for expert in 0..EXPERTS {
                    let one = stack.take_axis(Array::from_int(expert), 0).unwrap();
                    arrays.insert(format!("{prefix}.experts.{expert}.{matrix}.weight"), one);
                }
            }
        }
        arrays
    }

    /// Gates and ups in one tensor, as transformers 5 has them in memory.
    fn fused(self) -> Arrays {
        let (block, _) = self.published();
        let mut arrays = self.stacked();
        for layer in 0..LAYERS {
            let mut take = |part: &str| arrays.remove(&format!("model.layers.{layer}.{block}.{part}.weight"));
            let Some(gate) = take("switch_mlp.gate_proj") else { continue };
            let (up, down) = (take("switch_mlp.up_proj").unwrap(), take("switch_mlp.down_proj").unwrap());
            let router = take("gate").unwrap();
            let mut put = |part: &str, value| arrays.insert(format!("model.layers.{layer}.mlp.{part}"), value);
            put("gate.weight", router);
            put("experts.gate_up_proj", ops::concatenate(&[gate, up], 1).unwrap());
            put("experts.down_proj", down);
        }
        arrays
    }

    /// llama.cpp's names; where it says `llama`, rows of queries and keys stand for a rotation of neighbours.
    fn gguf(self) -> (BTreeMap<String, String>, Arrays) {
        let (block, _) = self.published();
        let architecture = if self == Self::Qwen { "qwen3moe" } else { "llama" };
        let mut texts = BTreeMap::from([("general.architecture".to_owned(), architecture.to_owned())]);
        for (key, value) in [
            ("embedding_length", WIDTH.to_string()),
            ("feed_forward_length", WIDTH.to_string()),
            ("block_count", LAYERS.to_string()),
            ("attention.head_count", HEADS.to_string()),
            ("attention.head_count_kv", "1".into()),
            ("attention.key_length", (WIDTH / HEADS).to_string()),
            ("attention.layer_norm_rms_epsilon", "0.00001".into()),
            ("context_length", "64".into()),
            ("rope.freq_base", "10000".into()),
            ("expert_count", EXPERTS.to_string()),
            ("expert_used_count", "2".into()),
        ] {
            texts.insert(format!("{architecture}.{key}"), value);
        }
        if self == Self::Qwen {
            texts.insert("qwen3moe.expert_feed_forward_length".into(), WIDTH.to_string());
        }
        let names = [
            ("model.embed_tokens", "token_embd".to_owned()),
            ("model.norm", "output_norm".into()),
            ("lm_head", "output".into()),
            ("model.layers.", "blk.".into()),
            ("input_layernorm", "attn_norm".into()),
            ("post_attention_layernorm", "ffn_norm".into()),
            ("self_attn.o_proj", "attn_output".into()),
            ("self_attn.", "attn_".into()),
        ];
        let experts = [
            (format!("{block}.switch_mlp.gate_proj"), "ffn_gate_exps"),
            (format!("{block}.switch_mlp.up_proj"), "ffn_up_exps"),
            (format!("{block}.switch_mlp.down_proj"), "ffn_down_exps"),
            (format!("{block}.gate."), "ffn_gate_inp."),
            ("mlp.".into(), "ffn_"),
            ("_proj".into(), ""),
        ];
        let mut arrays = Arrays::new();
        for (name, mut value) in self.stacked() {
            let heads = [("q_proj", HEADS), ("k_proj", 1)].into_iter().find(|(x, _)| name.contains(x));
            if let (Self::Mixtral, Some((_, heads))) = (self, heads) {
                let halves = value.reshape(&[heads, 2, -1, WIDTH]).unwrap();
                value = halves.swap_axes(1, 2).unwrap().reshape(value.shape()).unwrap();
            }
            let name = names.iter().fold(name, |name, (theirs, ours)| name.replace(theirs, ours));
            let name = experts.iter().fold(name, |name, (theirs, ours)| name.replace(theirs.as_str(), ours));
            arrays.insert(name, value);
        }
        (texts, arrays)
    }
}

/// A file in memory.
struct Memory(Header, BTreeMap<String, Vec<u8>>);

impl Memory {
    fn new(arrays: &Arrays) -> Self {
        let mut memory = Self(Header::default(), BTreeMap::new());
        for (name, array) in arrays {
            let (info, bytes) = to_bytes(array).unwrap();
            memory.0.tensors.insert(name.clone(), info);
            memory.1.insert(name.clone(), bytes);
        }
        memory
    }
}

impl Tensors for Memory {
    fn header(&self) -> &Header {
        &self.0
    }
    fn read(&self, name: &str) -> framework::Result<(Info, Vec<u8>)> {
        Ok((self.0.tensors[name].clone(), self.1[name].clone()))
    }
}

fn open(config: Config<'_>, arrays: &Arrays, packed: Packed) -> (&'static registry::Entry, Box<dyn Opened>) {
    let memory = Memory::new(arrays);
    let checkpoint = Checkpoint { config, header: &memory.0, tensors: Some(&memory) };
    let entry = registry::of(MODELS, &checkpoint, Path::new("memory")).unwrap();
    let options = OpenOptions { dtype: Dtype::Float32, packed };
    (entry, entry.open(&checkpoint, options, &mut |_, _| ControlFlow::Continue(())).unwrap())
}

fn logits((entry, opened): &(&registry::Entry, Box<dyn Opened>)) -> Vec<f32> {
    let model = entry.causal_lm(&**opened).unwrap();
    let ids: Vec<i32> = (0..40).map(|place| place * 7 % WORDS).collect();
    let ids = math::array(&ids, &[1, 40]).unwrap();
    math::read::<f32>(&model.next(&ids, &mut model.state()).unwrap()).unwrap()
}

fn apart(one: &[f32], other: &[f32]) -> f32 {
    assert_eq!(one.len(), other.len());
    one.iter().zip(other).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn however_experts_are_stored_the_model_is_the_same() {
    for kind in KINDS {
        let json = || Config::Json(kind.config());
        let stacked = open(json(), &kind.stacked(), Packed::Keep);
        assert_eq!(stacked.1.layout(), "mlx-lm");
        let expected = logits(&stacked);
        assert!(expected.iter().all(|logit| logit.is_finite()) && apart(&expected, &[0.0; WORDS as usize]) > 0.1);
        for (arrays, layout) in [(kind.single(), "transformers"), (kind.fused(), "transformers, experts fused")] {
            let opened = open(json(), &arrays, Packed::Keep);
            assert_eq!(opened.1.layout(), layout);
            assert_eq!(logits(&opened), expected, "{kind:?}");
        }
        let (texts, arrays) = kind.gguf();
        let metadata = Metadata::from_texts(&texts);
        let opened = open(Config::Gguf(&metadata), &arrays, Packed::Keep);
        assert_eq!(opened.1.layout(), "gguf");
        assert!(apart(&logits(&opened), &expected) < 1e-5, "{kind:?}");
    }
}

/// The same with every matrix in 8 bits.
fn packed(arrays: Arrays) -> Arrays {
    let mut packed = Arrays::new();
    for (name, value) in arrays {
        let module = name.strip_suffix(".weight").unwrap();
        if value.ndim() < 2 {
            packed.insert(name, value);
            continue;
        }
        let (weight, scales, biases) = ops::quantize(&value, 32, 8).unwrap();
        packed.insert(format!("{module}.scales"), scales);
        packed.insert(format!("{module}.biases"), biases);
        packed.insert(name, weight);
    }
    packed
}

#[test]
fn packed_experts_are_loaded_packed_stacked_or_each_by_itself() {
    for kind in KINDS {
        let mut seen = Vec::new();
        for arrays in [kind.stacked(), kind.single()] {
            for what in [Packed::Keep, Packed::Unpack] {
                let opened = open(Config::Json(kind.config()), &packed(arrays.clone()), what);
                let mut stacks = 0;
                framework::walk(opened.1.module(), &mut |path, leaf| {
                    if let Leaf::Linear(linear) = leaf
                        && linear.weight.shape().len() == 3
                    {
                        assert_eq!(matches!(linear.weight, Weight::Affine(_)), what == Packed::Keep, "{path}");
                        stacks += 1;
                    }
                });
                assert_eq!(stacks, if kind == Kind::Mixtral { 6 } else { 3 });
                seen.push(logits(&opened));
            }
        }
        assert!(seen.iter().all(|logits| apart(logits, &seen[0]) < 1e-4), "{kind:?} {seen:?}");
    }
}

#[test]
fn configs_that_choose_no_experts_are_refused() {
    let refused = |kind: Kind, key: &str, value: Value| {
        let mut config = kind.config();
        config[key] = value;
        let memory = Memory::new(&kind.single());
        let checkpoint = Checkpoint { config: Config::Json(config), header: &memory.0, tensors: None };
        let entry = registry::of(MODELS, &checkpoint, Path::new("memory")).unwrap();
        entry.fit(&checkpoint, Dtype::Float32).err().unwrap().to_string()
    };
    for kind in KINDS {
        for count in [0, 5] {
            let error = refused(kind, "num_experts_per_tok", count.into());
            assert!(error.contains("num_experts_per_tok") && error.contains("of 4"), "{error}");
        }
    }
    let error = refused(Kind::Qwen, "decoder_sparse_step", 0.into());
    assert!(error.contains("decoder_sparse_step"), "{error}");
    assert!(refused(Kind::Mixtral, "num_local_experts", 0.into()).contains("num_experts"));
    let error = refused(Kind::Mixtral, "num_local_experts", 5.into());
    assert!(error.contains("layers.0.ffn.experts.gate.weight"), "{error}");
}

/// A snapshot, and `zoo` in its folder.
fn zoo(kind: Kind, arguments: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, content: String| fs::write(folder.path().join(name), content).unwrap();
    write("config.json", kind.config().to_string());
    let words = json!({"<unk>": 0, "<s>": 1, "</s>": 2, "hello": 3, "world": 4});
    let tokenizer = json!({
        "version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "<unk>"},
    });
    write("tokenizer.json", tokenizer.to_string());
    write("chat_template.jinja", "{{ messages[0].content }}".into());
    let memory = Memory::new(&kind.single());
    let tensors = memory.0.tensors.into_iter().zip(memory.1.into_values());
    let tensors: BTreeMap<String, (Info, Vec<u8>)> =
        tensors.map(|((name, info), bytes)| (name, (info, bytes))).collect();
    safetensors::write(&folder.path().join("model.safetensors"), &tensors, &BTreeMap::new()).unwrap();
    Command::new(env!("CARGO_BIN_EXE_zoo")).current_dir(folder.path()).args(arguments).output().unwrap()
}

fn shown(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn they_chat_and_complete() {
    for kind in KINDS {
        for command in ["chat", "complete"] {
            let arguments = [command, "hello world", "--model", ".", "--max-tokens", "6", "--temperature", "0"];
            let (once, again) = (shown(&zoo(kind, &arguments)), shown(&zoo(kind, &arguments)));
            assert!(once == again && !once.trim().is_empty(), "{once}");
        }
    }
}

#[test]
fn inspect_counts_what_is_stacked() {
    let text = shown(&zoo(Kind::Mixtral, &["inspect", ".", "--depth", "9"]));
    assert!(text.contains("layers") && text.matches("4 × [32, 32]").count() >= 3, "{text}");
    assert!(text.contains("experts") && text.contains("router"), "{text}");
    let events = shown(&zoo(Kind::Qwen, &["--json-events", "inspect", "."]));
    let event: Value = serde_json::from_str(events.lines().next().unwrap()).unwrap();
    let gate = &event["parameters"]["layers"]["0"]["ffn"]["experts"]["gate"];
    assert_eq!(*gate, json!({"stack": 4, "shape": [32, 32], "packed": null}));
}
