//! What people do with a language model, on tiny ones with random weights.

use framework::weights::{Info, Stored, safetensors};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::{
    collections::BTreeMap,
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
    process::{Command, Output},
};
use tempfile::TempDir;
use zoo::{Completion, Error, LanguageModel, Open, Request, Stopped, Structure, Windows, text::Message};

const LAYERS: usize = 2;
const DIM: usize = 32;
const HIDDEN: usize = 48;
/// More than the 482 tokens of the tokenizer, as models have it.
const VOCABULARY: usize = 490;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures").join(name)
}

fn parsed(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Numbers that look random, of a deviation near one.
fn noise(seed: &mut u64) -> f32 {
    let mut uniform = || {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*seed >> 40) as f32 / (1 << 24) as f32
    };
    (0..4).map(|_| uniform() - 0.5).sum::<f32>() * 1.7
}

/// A snapshot of a model of one head of 32 features, with a byte-level tokenizer like SmolLM2's.
fn chatty() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, value: &Value| fs::write(folder.path().join(name), value.to_string()).unwrap();
    let sizes = json!({
        "model_type": "llama", "vocab_size": VOCABULARY, "hidden_size": DIM, "intermediate_size": HIDDEN,
        "num_hidden_layers": LAYERS, "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": DIM,
        "hidden_act": "silu", "max_position_embeddings": 1024, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
        "tie_word_embeddings": true, "attention_bias": false, "mlp_bias": false, "eos_token_id": 2, "bos_token_id": 1,
    });
    write("config.json", &sizes);
    write("tokenizer.json", &parsed(&fixture("text/tiny-bpe.json"))["tokenizer"]);
    write("tokenizer_config.json", &json!({"eos_token": "<|im_end|>"}));
    let template = "{% if tools %}{{ tools | tojson }}{% endif %}{% for message in messages %}\
        {{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}{% endfor %}<|im_start|>assistant\n\
        {% if enable_thinking is defined %}{{ enable_thinking }}{% endif %}";
    fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
    let mut seed = 11;
    let mut tensors = BTreeMap::new();
    let mut add = |name: String, shape: &[usize], deviation: f32, centre: f32| {
        let numbers = (0..shape.iter().product()).flat_map(|_| (centre + deviation * noise(&mut seed)).to_le_bytes());
        tensors.insert(name, (Info { dtype: Stored::F32, shape: shape.to_vec() }, numbers.collect::<Vec<u8>>()));
    };
    add("model.embed_tokens.weight".into(), &[VOCABULARY, DIM], 0.3, 0.0);
    add("model.norm.weight".into(), &[DIM], 0.1, 1.0);
    for layer in 0..LAYERS {
        let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
        for part in ["q", "k", "v", "o"] {
            add(name(&format!("self_attn.{part}_proj")), &[DIM, DIM], 0.2, 0.0);
        }
        add(name("mlp.gate_proj"), &[HIDDEN, DIM], 0.2, 0.0);
        add(name("mlp.up_proj"), &[HIDDEN, DIM], 0.2, 0.0);
        add(name("mlp.down_proj"), &[DIM, HIDDEN], 0.2, 0.0);
        add(name("input_layernorm"), &[DIM], 0.1, 1.0);
        add(name("post_attention_layernorm"), &[DIM], 0.1, 1.0);
    }
    safetensors::write(&folder.path().join("model.safetensors"), &tensors, &BTreeMap::new()).unwrap();
    folder
}

fn open(folder: &Path) -> LanguageModel {
    Open::default().language_model(folder.to_str().unwrap()).unwrap()
}

fn answer(model: &LanguageModel, request: &Request) -> Completion {
    model.chat(&[Message::user("Hello")], request, &mut |_| ControlFlow::Continue(())).unwrap()
}

/// A request that follows whatever the model happens to say.
fn free(seed: u64, structure: Option<Structure>) -> Request {
    let mut request = Request { seed, structure, max_tokens: 600, ..Request::default() };
    request.sampler.temperature = 1.0;
    request
}

/// Whether a value satisfies the part of JSON Schema that the schemas below use.
fn satisfies(value: &Value, schema: &Value) -> bool {
    let is_in = |key: &str| schema.get(key).and_then(Value::as_array);
    let number = |key: &str| schema.get(key).and_then(Value::as_f64);
    let typed = match schema.get("type").and_then(Value::as_str) {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("integer") => value.as_f64().is_some_and(|value| value.fract() == 0.0),
        Some("number") => value.is_number(),
        Some("boolean") => value.is_boolean(),
        Some("null") => value.is_null(),
        _ => true,
    };
    let length = value.as_str().map(|text| text.chars().count()).or(value.as_array().map(Vec::len)).unwrap_or(0) as f64;
    let long = ["maxLength", "maxItems"].iter().all(|key| number(key).is_none_or(|most| length <= most))
        && ["minLength", "minItems"].iter().all(|key| number(key).is_none_or(|least| length >= least));
    let size = value.as_f64().is_none_or(|value| {
        number("minimum").is_none_or(|least| value >= least) && number("maximum").is_none_or(|most| value <= most)
    });
    let fields = value.as_object().is_none_or(|fields| {
        let properties = schema.get("properties").and_then(Value::as_object).cloned().unwrap_or_default();
        let closed = schema.get("additionalProperties") == Some(&json!(false));
        fields.iter().all(|(name, value)| properties.get(name).map_or(!closed, |part| satisfies(value, part)))
            && is_in("required").into_iter().flatten().all(|name| fields.contains_key(name.as_str().unwrap()))
    });
    let items = schema
        .get("items")
        .is_none_or(|part| value.as_array().is_none_or(|items| items.iter().all(|item| satisfies(item, part))));
    let choice = is_in("enum").is_none_or(|values| values.contains(value))
        && is_in("anyOf").is_none_or(|parts| parts.iter().any(|part| satisfies(value, part)));
    typed && long && size && fields && items && choice
}

fn schemas() -> Vec<Value> {
    let name = json!({"type": "string", "minLength": 1, "maxLength": 12});
    vec![
        json!({
            "type": "object",
            "properties": {
                "name": name,
                "größe": {"enum": ["klein", "größer als 日本", "\"quoted\"\n", 7, null]},
                "tags": {"type": "array", "items": {"type": "string", "maxLength": 6}, "minItems": 1, "maxItems": 3},
                "at": {
                    "type": "object",
                    "properties": {"x": {"type": "number", "minimum": -1.5, "maximum": 99}, "deep": {"type": "boolean"}},
                    "required": ["x", "deep"],
                    "additionalProperties": false,
                },
            },
            "required": ["name", "größe", "tags", "at"],
            "additionalProperties": false,
        }),
        json!({"type": "array", "items": {"type": "integer", "minimum": -20, "maximum": 300}, "minItems": 2, "maxItems": 5}),
        json!({"type": "integer", "minimum": 0, "maximum": 99999}),
        json!({"enum": ["é", "👋🏽", "a\\b"]}),
        json!({"anyOf": [{"type": "null"}, {"type": "object", "properties": {"a": name}, "required": ["a"], "additionalProperties": false}]}),
    ]
}

#[test]
fn whatever_a_model_says_its_answer_satisfies_the_schema() {
    let folder = chatty();
    let model = open(folder.path());
    for schema in schemas() {
        let structure = Structure::schema(schema.clone()).unwrap();
        for seed in 0..6 {
            let said = answer(&model, &free(seed, Some(structure.clone())));
            let value: Value = serde_json::from_str(&said.text)
                .unwrap_or_else(|error| panic!("{error} in {:?} ({:?}) for {schema}", said.text, said.stopped));
            assert!(satisfies(&value, &schema), "{value} for {schema}");
            assert!(!satisfies(&json!({"another": "thing"}), &schema));
            assert!(matches!(said.stopped, Stopped::EndOfText | Stopped::Complete), "{:?}", said.stopped);
            assert!(!said.is_truncated());
        }
    }
}

#[test]
fn an_answer_with_a_structure_that_is_cut_off_says_so() {
    let folder = chatty();
    let model = open(folder.path());
    let structure = Structure::schema(schemas().remove(0)).unwrap();
    let said = answer(&model, &Request { max_tokens: 4, ..free(0, Some(structure)) });
    assert_eq!(said.stopped, Stopped::MaxTokens);
    assert!(said.is_truncated() && said.tokens.len() == 4 && serde_json::from_str::<Value>(&said.text).is_err());
    // An object without a schema has no bound, but it is one wherever it ends.
    let mut whole = 0;
    for seed in 0..24 {
        let said = answer(&model, &Request { max_tokens: 60, ..free(seed, Some(Structure::json())) });
        assert!(said.text.starts_with('{'));
        if !said.is_truncated() {
            whole += 1;
            assert!(serde_json::from_str::<Map<String, Value>>(&said.text).is_ok(), "{}", said.text);
        }
    }
    assert!(whole > 0);
}

#[test]
fn the_likeliest_token_that_fits_is_taken() {
    let folder = chatty();
    let model = open(folder.path());
    let structure = Some(Structure::schema(json!({"enum": ["left", "right"]})).unwrap());
    let greedy = answer(&model, &Request { structure, ..Request::default() });
    assert!(["\"left\"", "\"right\""].contains(&greedy.text.as_str()), "{}", greedy.text);
}

#[test]
fn what_does_not_go_with_a_structure_is_refused() {
    let structure = Some(Structure::json());
    let refused = Request { structure: structure.clone(), stop: vec!["}".into()], ..Request::default() }.validate();
    assert!(refused.unwrap_err().to_string().contains("`stop`"));
    // Whose words have spaces between them that no token has.
    let folder = base();
    let refused = open(folder.path())
        .complete("hello", &Request { structure, ..Request::default() }, &mut |_| ControlFlow::Continue(()));
    assert!(matches!(refused, Err(Error::Tokenizer(_))), "{refused:?}");
}

#[test]
fn penalties_count_what_was_generated_and_biases_decide() {
    let folder = chatty();
    let model = open(folder.path());
    let mut request = Request { max_tokens: 40, ..Request::default() };
    request.sampler.logit_bias.insert(300, 1e4);
    assert_eq!(answer(&model, &request).tokens, [300; 40]);
    let plain = answer(&model, &Request { max_tokens: 40, ..Request::default() });
    request.sampler.logit_bias.clear();
    request.sampler.presence_penalty = 2.0;
    request.sampler.frequency_penalty = 2.0;
    let penalised = answer(&model, &request);
    let distinct = |answer: &Completion| answer.tokens.iter().collect::<std::collections::BTreeSet<_>>().len();
    assert!(distinct(&penalised) > distinct(&plain), "{:?} {:?}", penalised.tokens, plain.tokens);
    request.sampler.logit_bias.insert(VOCABULARY as u32, 1.0);
    let refused = model.chat(&[Message::user("a")], &request, &mut |_| ControlFlow::Continue(()));
    assert!(refused.unwrap_err().to_string().contains("token 490"));
}

#[test]
fn packed_caches_answer_and_small_heads_are_refused() {
    let folder = chatty();
    let model = open(folder.path());
    let packed = |kv_bits| answer(&model, &Request { max_tokens: 20, kv_bits, ..Request::default() });
    let dense = packed(None);
    assert_eq!(packed(Some(8)).tokens[..4], dense.tokens[..4]);
    assert!(!packed(Some(4)).tokens.is_empty());
    let folder = base();
    let request = Request { kv_bits: Some(8), ..Request::default() };
    let refused = open(folder.path()).complete("hello", &request, &mut |_| ControlFlow::Continue(()));
    assert!(refused.unwrap_err().to_string().contains("4 features"));
}

#[test]
fn perplexities_with_packed_caches_are_near_and_small_heads_are_refused() {
    let folder = chatty();
    let model = open(folder.path());
    let tokens: Vec<u32> = (0..90).map(|i| i * i * 37 % 480).collect();
    let score = |model: &LanguageModel, kv_bits| {
        let windows = Windows { context: 48, stride: 20 };
        model.perplexity(&tokens, windows, kv_bits, &mut |_| ControlFlow::Continue(()))
    };
    let [dense, eight, four] = [None, Some(8), Some(4)].map(|bits| score(&model, bits).unwrap());
    let off = |packed: f64| (packed / dense.nats - 1.0).abs();
    assert!(
        0.0 < off(eight.nats) && off(eight.nats) < off(four.nats) && off(four.nats) < 0.05,
        "{dense:?} {eight:?} {four:?}"
    );
    assert_eq!(eight.tokens, dense.tokens);
    let small = base();
    let windows = Windows { context: 4, stride: 2 };
    let refused = open(small.path()).perplexity(&[1, 2, 3], windows, Some(8), &mut |_| ControlFlow::Continue(()));
    assert!(refused.unwrap_err().to_string().contains("4 features"));
}

/// The model of `fixtures/llama/base` with a tokenizer of words.
fn base() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let case = fixture("llama/base");
    let write = |name: &str, value: &Value| fs::write(folder.path().join(name), value.to_string()).unwrap();
    write("config.json", &parsed(&case.join("case.json"))["config"]);
    fs::copy(case.join("weights.safetensors"), folder.path().join("model.safetensors")).unwrap();
    let words: Map<String, Value> =
        (0..43).map(|id| (if id == 7 { "hello".into() } else { format!("w{id}") }, id.into())).collect();
    let model = json!({"type": "WordLevel", "vocab": words, "unk_token": "w0"});
    write(
        "tokenizer.json",
        &json!({"version": "1.0", "added_tokens": [], "normalizer": null, "post_processor": null, "decoder": null, "pre_tokenizer": {"type": "WhitespaceSplit"}, "model": model}),
    );
    folder
}

#[derive(Deserialize)]
struct Golden {
    tokens: Vec<u32>,
    cases: Vec<Scored>,
}

#[derive(Deserialize)]
struct Scored {
    context: usize,
    stride: usize,
    nats: f64,
    tokens: usize,
    value: f64,
}

#[test]
fn perplexities_are_those_of_transformers() {
    let folder = base();
    let model = open(folder.path());
    let golden: Golden = serde_json::from_value(parsed(&fixture("text/perplexity.json"))).unwrap();
    for Scored { context, stride, nats, tokens, value } in golden.cases {
        let mut told = vec![];
        let windows = Windows { context, stride };
        let scored = model.perplexity(&golden.tokens, windows, None, &mut |done| {
            told.push(done);
            ControlFlow::Continue(())
        });
        let scored = scored.unwrap();
        assert_eq!(scored.tokens, tokens, "{windows:?}");
        assert!((scored.nats / nats - 1.0).abs() < 1e-5, "{windows:?}: {} {nats}", scored.nats);
        assert!((scored.value() / value - 1.0).abs() < 1e-4, "{windows:?}: {} {value}", scored.value());
        assert!(told.is_sorted() && told.last() == Some(&tokens), "{told:?}");
    }
    let cancelled =
        model.perplexity(&golden.tokens, Windows { context: 8, stride: 4 }, None, &mut |_| ControlFlow::Break(()));
    assert!(matches!(cancelled, Err(Error::Cancelled)));
}

fn zoo(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_zoo")).current_dir(folder).args(arguments).output().unwrap()
}

fn events(output: &Output) -> Vec<Value> {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn the_command_line_reaches_all_of_it() {
    let folder = chatty();
    let at = folder.path();
    fs::write(at.join("schema.json"), schemas()[2].to_string()).unwrap();
    fs::write(at.join("tools.json"), r#"[{"type": "function", "function": {"name": "now", "parameters": {}}}]"#)
        .unwrap();
    fs::write(at.join("text.txt"), "The quick brown fox jumps over the lazy dog. ".repeat(8)).unwrap();
    let chat = |arguments: &[&str]| {
        zoo(at, &[&["chat", "Hi", "--model", ".", "--temperature", "1", "--json-events"], arguments].concat())
    };
    for schema in ["schema.json", &schemas()[2].to_string()] {
        let done = events(&chat(&["--json-schema", schema])).pop().unwrap();
        assert!(
            done["text"].as_str().unwrap().parse::<u32>().unwrap() < 100_000 && done["truncated"] == false,
            "{done}"
        );
    }
    let done = events(&chat(&["--json", "--max-tokens", "2"])).pop().unwrap();
    assert!(done["truncated"] == true && done["stopped"] == "max_tokens", "{done}");
    let note = zoo(at, &["chat", "Hi", "--model", ".", "--json", "--max-tokens", "2"]);
    assert!(String::from_utf8_lossy(&note.stderr).contains("no whole JSON"));

    let read = |arguments: &[&str]| {
        let few = [arguments, &["--max-tokens", "1"]].concat();
        events(&chat(&few)).pop().unwrap()["prompt_tokens"].as_u64().unwrap()
    };
    let plain = read(&[]);
    for more in
        [&["--tools", "tools.json"][..], &["--thinking", "on"], &["--thinking", "off"], &["--system", "Be brief."]]
    {
        assert!(read(more) > plain, "{more:?}");
    }
    let call = r#"{"const": "<tool_call>{\"name\": \"now\", \"arguments\": {\"a\": 1}}</tool_call>"}"#;
    let shown = events(&chat(&["--tools", "tools.json", "--json-schema", call]));
    assert!(shown.iter().all(|event| event["event"] != "tool_call"), "a quoted call is none: {shown:?}");
    let call = r#"{"type": "object", "properties": {"name": {"const": "now"}, "parameters": {"const": {"a": 1}}}, "required": ["name", "parameters"], "additionalProperties": false}"#;
    let shown = events(&chat(&["--tools", "tools.json", "--json-schema", call]));
    let called = shown.iter().find(|event| event["event"] == "tool_call").unwrap();
    assert!(called["name"] == "now" && called["arguments"] == json!({"a": 1}), "{called}");
    assert_eq!(shown.last().unwrap()["event"], "done");

    let measured = events(&zoo(
        at,
        &["eval", "ppl", "text.txt", "--model", ".", "--context", "40", "--stride", "10", "--json-events"],
    ));
    let measured = measured.last().unwrap();
    assert!(measured["perplexity"].as_f64().unwrap() > 1.0 && measured["stride"] == 10, "{measured}");
    assert_eq!(measured["kv_bits"], Value::Null);
    for shell in ["bash", "zsh", "fish"] {
        let script = zoo(at, &["completions", shell]);
        assert!(String::from_utf8_lossy(&script.stdout).contains("json-schema"), "{shell}");
    }
}
