//! Transformers described by config: every example of `docs/composed.md` is built and runs, families that can be described so
//! give the same bits, and what cannot be is refused by its key.

use framework::{
    Array, Dtype, Init, math, params,
    weights::{Config, Packed, Source, Tensors, save},
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
};
use zoo::{
    Arguments, Checkpoint, Family, MODELS, OpenOptions, Opened,
    composed::{ComposedConfig, ComposedTransformer, Inputs},
    families::Composed,
    registry::{self, parse_config},
};

const PAGE: &str = include_str!("../../docs/composed.md");

/// The page's examples: the rest of the fence's first line after `json`, and the JSON.
fn examples() -> Vec<(String, Value)> {
    let fences = PAGE.split("```json ").skip(1);
    let parse = |fence: &str| {
        let (kind, rest) = fence.split_once('\n').unwrap();
        let text = rest.split("```").next().unwrap();
        let json = serde_json::from_str(text).unwrap_or_else(|error| panic!("{kind}: {error}\n{text}"));
        (kind.to_owned(), json)
    };
    fences.map(parse).collect()
}

fn example(kind: &str) -> Value {
    examples().into_iter().find(|(other, _)| other == kind).unwrap_or_else(|| panic!("no `{kind}`")).1
}

fn build(config: &Value) -> zoo::Result<ComposedTransformer> {
    let (config, unread) = parse_config::<ComposedConfig>(config)?;
    assert!(unread.iter().all(|key| key == "model_type"), "{unread:?}");
    Ok(Composed::build(&config, &mut Init::default().at_most(10_000))?)
}

/// Inputs of batch 2 for a config of the page, by what it says of them.
fn inputs(config: &Value) -> Inputs {
    let mut init = Init::new(Dtype::Float32, 7);
    let mut normal = |shape: &[i32]| init.normal(shape, 1.0).unwrap().get();
    let mut inputs = Inputs::new();
    for (i, stream) in config["streams"].as_array().unwrap().iter().enumerate() {
        let length = 5 + i as i32;
        for (kind, input) in stream["input"].as_object().unwrap() {
            let name = input["name"].as_str().unwrap().to_owned();
            let x = match kind.as_str() {
                "tokens" => math::array(&(0..2 * length).collect::<Vec<i32>>(), &[2, length]).unwrap(),
                _ => normal(&[2, length, input["dim"].as_i64().unwrap() as i32]),
            };
            inputs.insert(name, x);
        }
        if let Some(mask) = stream["mask"].as_str() {
            let seen: Vec<i32> = (0..2 * length).map(|i| i32::from(i != 2 * length - 1)).collect();
            inputs.insert(mask.to_owned(), math::array(&seen, &[2, length]).unwrap());
        }
        if let Some(positions) = stream["positions"].as_str() {
            inputs.insert(positions.to_owned(), normal(&[length, 3]));
        }
    }
    for part in config["condition"]["parts"].as_array().into_iter().flatten() {
        for (kind, part) in part.as_object().unwrap() {
            let x = match kind.as_str() {
                "time" => math::array(&[0.3f32, 0.9], &[2]).unwrap(),
                "vector" => normal(&[2, part["dim"].as_i64().unwrap() as i32]),
                _ => math::array(&[1, 3], &[2]).unwrap(),
            };
            inputs.insert(part["name"].as_str().unwrap().to_owned(), x);
        }
    }
    inputs
}

/// The page's `base` with an example in its place.
fn with(kind: &str, example: Value) -> Value {
    let mut config = self::example("config base");
    let block = "/stages/0/block/pre_norm";
    let place = match kind {
        "stream" => "/streams/0".to_owned(),
        "part" => "/condition/parts/0".to_owned(),
        "stage" => "/stages/0".to_owned(),
        "output" => "/output".to_owned(),
        "norm" | "attention" | "ffn" | "modulation" => format!("{block}/{kind}"),
        "projections" | "qk_norm" | "mask" | "position" => format!("{block}/attention/{kind}"),
        _ => panic!("{kind} has no place"),
    };
    let (parent, key) = place.rsplit_once('/').unwrap();
    match config.pointer_mut(parent).unwrap() {
        Value::Array(items) => items[key.parse::<usize>().unwrap()] = example,
        parent => parent[key] = example,
    }
    config
}

#[test]
fn every_example_is_built_and_runs() {
    let examples = examples();
    assert!(examples.len() > 45, "{}", examples.len());
    for (kind, example) in examples {
        let config = if kind.starts_with("config ") { example.clone() } else { with(&kind, example.clone()) };
        let model = build(&config).unwrap_or_else(|error| panic!("{kind} {example}: {error}"));
        let y = model.forward(&inputs(&config)).unwrap_or_else(|error| panic!("{kind} {example}: {error}"));
        assert!(math::is_finite(&y).unwrap(), "{kind} {example}");
    }
}

/// A case of another family: its config, its folder, what the first call is given.
struct Case {
    folder: PathBuf,
    json: Value,
}

impl Case {
    fn new(name: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures").join(name);
        let json = serde_json::from_slice(&fs::read(folder.join("case.json")).unwrap()).unwrap();
        Self { folder, json }
    }

    fn dtype(&self) -> Dtype {
        if self.json["reference"]["dtype"] == "bfloat16" { Dtype::Bfloat16 } else { Dtype::Float32 }
    }

    fn open(&self) -> Box<dyn Opened> {
        let source = Source::open(&self.folder.join("weights.safetensors")).unwrap();
        let checkpoint = Checkpoint {
            config: Config::Json(self.json["config"].clone()),
            header: source.header(),
            tensors: Some(&source),
        };
        let entry = registry::find(MODELS, self.json["reference"]["class"].as_str().unwrap()).unwrap();
        let options = OpenOptions { dtype: self.dtype(), packed: Packed::Keep };
        entry.open(&checkpoint, options, &mut |_, _| ControlFlow::Continue(())).unwrap()
    }

    fn arguments(&self) -> Arguments {
        let mut arguments = Arguments::default();
        for file in fs::read_dir(self.folder.join("inputs/0")).unwrap() {
            let path = file.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let dtype = &self.json["dtypes"][format!("inputs/0/{name}")];
            let x = npy(&path);
            arguments.array(name, if dtype == "bfloat16" { x.as_dtype(Dtype::Bfloat16).unwrap() } else { x });
        }
        arguments
    }
}

/// A file of f32 or i64.
fn npy(path: &Path) -> Array {
    let file = npyz::NpyFile::new(std::io::BufReader::new(fs::File::open(path).unwrap())).unwrap();
    let shape: Vec<i32> = file.shape().iter().map(|&length| length as i32).collect();
    match file.try_data::<f32>() {
        Ok(data) => math::array(&data.map(Result::unwrap).collect::<Vec<f32>>(), &shape).unwrap(),
        Err(file) => {
            let data = file.data::<i64>().unwrap().map(Result::unwrap);
            math::array(&data.collect::<Vec<i64>>(), &shape).unwrap()
        }
    }
}

/// Holds a config of the page against a family's build on the weights of a case, bit by bit: `paths` are prefixes of the
/// family's paths and ours; `values` are told the family.
fn same(case: &str, example: &str, paths: &[(&str, &str)], values: &[(&str, Value)]) {
    let case = Case::new(case);
    let family = case.open();
    let (config, _) = parse_config::<ComposedConfig>(&self::example(&format!("config {example}"))).unwrap();
    let model = Composed::build(&config, &mut Init::new(case.dtype(), 1)).unwrap();
    let ours = params(&model);
    let theirs = params(family.module());
    assert_eq!(ours.len(), theirs.len());
    for (path, param) in &theirs {
        let (from, to) = paths.iter().find(|(from, _)| path.starts_with(from)).unwrap_or_else(|| panic!("{path}"));
        let place = ours.get(&path.replacen(from, to, 1)).unwrap_or_else(|| panic!("{path} has no place"));
        assert_eq!((place.shape(), place.dtype()), (param.shape(), param.dtype()), "{path}");
        place.replace(param.get());
    }
    let output = model.output().to_owned();
    let mut arguments = case.arguments();
    values.iter().for_each(|(name, value)| arguments.value(*name, value.clone()));
    let expected = family.call("forward", &mut arguments).unwrap();
    let expected = &expected.iter().find(|(name, _)| *name == output).unwrap().1;
    let mut arguments = case.arguments();
    let found = Composed::call(&model, "forward", &mut arguments).unwrap();
    assert_eq!(found[0].0, output);
    assert_eq!((found[0].1.shape(), found[0].1.dtype()), (expected.shape(), expected.dtype()));
    assert!(math::is_finite(expected).unwrap());
    let same = found[0].1.eq(expected).unwrap().all(None).unwrap();
    assert_eq!(math::read::<bool>(&same).unwrap(), [true]);
}

#[test]
fn flux_is_the_same_bits() {
    for case in ["flux/guidance", "flux/bf16"] {
        same(
            case,
            "flux",
            &[
                ("context_embedder", "streams.0.projection"),
                ("x_embedder", "streams.1.projection"),
                ("time_text_embed.timestep_embedder", "condition.parts.0.embed"),
                ("time_text_embed.guidance_embedder", "condition.parts.1.embed"),
                ("time_text_embed.text_embedder", "condition.parts.2.embed"),
                ("transformer_blocks", "stages.0.blocks"),
                ("single_transformer_blocks", "stages.1.blocks"),
                ("norm_out", "norm_out"),
                ("proj_out", "head"),
            ],
            &[],
        );
    }
}

#[test]
fn llama_is_the_same_bits() {
    let paths =
        [("embed_tokens", "streams.0.embed"), ("layers", "stages.0.blocks"), ("norm", "norm_out"), ("lm_head", "head")];
    // Caches keep heads in another order, in which products round otherwise.
    same("llama/uneven-gqa", "llama", &paths, &[("use_cache", false.into())]);
}

#[test]
fn text_encoders_are_the_same_bits() {
    let t5 = [
        ("embed_tokens", "streams.0.embed"),
        ("distances", "stages.0.distances"),
        ("layers", "stages.0.blocks"),
        ("norm", "norm_out"),
    ];
    same("t5/gated-gelu", "t5", &t5, &[]);
    let clip = [
        ("embeddings.tokens", "streams.0.embed"),
        ("embeddings.positions", "streams.0.place"),
        ("layers", "stages.0.blocks"),
        ("norm", "norm_out"),
    ];
    same("clip/quick-gelu", "clip", &clip, &[]);
}

#[test]
fn what_cannot_be_is_refused_by_its_key() {
    let base = example("config base");
    let block = "stages[0].block.pre_norm";
    let table: &[(&str, Value, &str)] = &[
        // A key, and a value, that nobody knows.
        ("/stages/0/block/pre_norm/ffn", json!({"mlp": {"hiden": 3, "activation": "gelu"}}), "ffn.mlp.hiden"),
        ("/stages/0/block/pre_norm/norm", json!({"rms": {"eps": 1e-6, "epsilon": 1}}), "norm.rms.epsilon"),
        ("/stages/0/block/pre_norm/norm", json!({"batch": {}}), "norm"),
        ("/stages/0/block/pre_norm/attention", json!({"heads": 4, "head": 1}), "attention.head"),
        ("/stages/0/block", json!({"mamba": {}}), "stages[0].block"),
        ("/streams/0/input/features", json!({"name": "text", "dims": 12}), "streams[0].input.features.dims"),
        ("/condition/parts/0", json!({"time": {"name": "t", "sinusoid": 64, "flip": 1}}), "parts[0].time.flip"),
        ("/output", json!({"name": "x", "stream": "image", "heads": 1}), "output.heads"),
        // Sizes.
        ("/stages/0/count", json!(0), "stages[0].count"),
        ("/stages/0/count", json!(-3), "stages[0].count"),
        ("/stages/0/count", json!(1e30), "stages[0].count"),
        ("/stages/0/count", json!(u64::MAX), "stages[0].count"),
        ("/stages/0/block/pre_norm/attention/heads", json!(0), "attention.heads"),
        ("/stages/0/block/pre_norm/attention/heads", json!(3), "attention.heads"),
        ("/stages/0/block/pre_norm/attention", json!({"heads": 1 << 24, "head_dim": 2}), "attention.heads"),
        ("/stages/0/block/pre_norm/attention", json!({"heads": 4, "kv_heads": 3}), "attention.kv_heads"),
        ("/stages/0/block/pre_norm/attention", json!({"heads": 4, "softcap": 0}), "attention.softcap"),
        ("/stages/0/block/pre_norm/ffn/mlp/hidden", json!(-1), "ffn.mlp.hidden"),
        ("/streams/0/input/features/dim", json!(i32::MAX), "streams[0].input.features.dim"),
        ("/condition/projections/0/sublayers", json!(1 << 24), "condition.projections"),
        ("/condition/parts/0/time/sinusoid", json!(5), "condition.parts[0].time.sinusoid"),
        ("/condition/parts", json!([]), "condition.parts"),
        // Names.
        ("/stages/0/on", json!(["audio"]), "stages[0].on"),
        ("/stages/0/on", json!(["text", "text"]), "stages[0].on"),
        ("/stages/0/on", json!([]), "stages[0].on"),
        ("/output/stream", json!("audio"), "output.stream"),
        ("/streams/1/name", json!("text"), "streams[1].name"),
        ("/condition/projections/1/name", json!("both"), "condition.projections[1].name"),
        ("/stages/0/block/pre_norm/modulation", json!({"shared": {"projection": "none"}}), "modulation"),
        ("/stages/0/block/pre_norm/modulation", json!({"table": {"projection": "single"}}), "modulation"),
        // What does not go together.
        ("/streams/0/projection/linear/dim", json!(16), "stages[1].block.joint.streams"),
        ("/stages/1/block/joint/streams", json!([]), "stages[1].block.joint.streams"),
        (
            "/stages/1/block/joint/streams/0/attention/position",
            json!({"relative_bias": {"buckets": 8, "max_distance": 16, "tables": "each"}}),
            "relative_bias",
        ),
        ("/stages/1/block/joint/streams/0/attention/sinks", json!(true), "stages[1].block.joint.streams"),
        ("/stages/2/block/single/attention/projections", json!({}), "stages[2].block.single.attention.projections"),
        ("/output/head", json!("tied"), "output.head"),
        // What nothing uses.
        ("/streams/0/positions", json!("ids"), "streams[0].positions"),
        ("/stages/2/block/single/modulation", json!("none"), "condition.projections[1].name"),
        ("/streams/2", json!({"name": "c", "input": {"features": {"name": "c", "dim": 32}}}), "streams[2].name"),
    ];
    for (place, value, key) in table {
        let mut config = base.clone();
        let (parent, last) = place.rsplit_once('/').unwrap();
        match config.pointer_mut(parent).unwrap() {
            Value::Array(items) => match items.get_mut(last.parse::<usize>().unwrap()) {
                Some(item) => *item = value.clone(),
                None => items.push(value.clone()),
            },
            parent => parent[last] = value.clone(),
        }
        let error = build(&config).map(drop).expect_err(place).to_string();
        assert!(error.contains("config key `") && error.contains(key), "{place} {value}: {error}");
    }
    let ropes: &[(Value, &str)] = &[
        (json!({"theta": 1, "layout": "half_split"}), "rope.theta"),
        (json!({"theta": 1e4, "layout": "half_split", "dims": 3}), "rope.dims"),
        (json!({"theta": 1e4, "layout": "half_split", "dims": 10}), "rope.dims"),
        (json!({"theta": 1e4, "layout": "spiral"}), "rope.layout"),
        (json!({"theta": 1e4, "layout": "half_split", "axes": {"each": [i32::MAX, i32::MAX, 10]}}), "rope.axes"),
        (json!({"theta": 1e4, "layout": "half_split", "axes": {"each": [3, 5]}}), "rope.axes"),
        (json!({"theta": 1e4, "layout": "half_split", "axes": {"sections": [8, -4]}}), "rope.axes"),
        (json!({"theta": 1e4, "layout": "half_split", "scaling": {"rope_type": "linear"}}), "rope.scaling"),
        (
            json!({"theta": 1e4, "layout": "half_split", "scaling": {"rope_type": "longrope", "short_factor": [],
            "long_factor": [], "factor": 2, "original_max_position_embeddings": 8}}),
            "rope.scaling",
        ),
    ];
    for (rope, key) in ropes {
        let error = build(&with("position", json!({"rope": rope}))).map(drop).unwrap_err().to_string();
        assert!(error.contains(&format!("{block}.attention.position.{key}")), "{rope}: {error}");
    }
    let mut narrow = with("stage", base["stages"][2].clone());
    narrow["streams"][0]["projection"]["linear"]["dim"] = json!(16);
    assert!(build(&narrow).map(drop).unwrap_err().to_string().contains("stages[0].on"));
    let bias = json!({"relative_bias": {"buckets": 2, "max_distance": 16, "tables": "each"}});
    let error = build(&with("position", bias)).map(drop).unwrap_err().to_string();
    assert!(error.contains("position.relative_bias.buckets"), "{error}");
    let mut plain = example("config tied");
    plain["stages"][0]["block"]["pre_norm"]["modulation"] = json!("ada_ln_zero");
    assert!(build(&plain).map(drop).unwrap_err().to_string().contains("pre_norm.modulation"));
}

#[test]
fn the_inputs_are_those_that_the_config_names() {
    let config = example("config base");
    let model = build(&config).unwrap();
    let all = inputs(&config);
    assert_eq!(model.inputs().into_iter().collect::<Vec<_>>(), all.keys().collect::<Vec<_>>());
    for name in all.keys() {
        let mut some = all.clone();
        some.remove(name);
        assert!(model.forward(&some).unwrap_err().to_string().contains(&format!("`{name}`: is needed")));
    }
    let mut more = all.clone();
    more.insert("colour".into(), all["text"].clone());
    assert!(model.forward(&more).unwrap_err().to_string().contains("colour"));
}

#[test]
fn a_snapshot_is_opened_by_what_it_says() {
    let config = example("config base");
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let model = build(&config).unwrap();
    let file = folder.path().join("model.safetensors");
    let map = framework::weights::WeightMap::default().rename("{p:*}", "{p:*}");
    save(&model, &map, None, &file).unwrap();
    let source = Source::open(folder.path()).unwrap();
    let checkpoint = Checkpoint::of(&source).unwrap();
    let entry = registry::of(MODELS, &checkpoint, folder.path()).unwrap();
    let fitted = entry.fit(&checkpoint, Dtype::Float32).unwrap();
    let shapes = |module| params(module).into_iter().map(|(path, param)| (path, param.shape())).collect();
    let expected: BTreeMap<String, Vec<i32>> = shapes(&model);
    assert_eq!(shapes(fitted.module()), expected);
    assert!(expected.contains_key("stages.1.blocks.0.streams.1.attn.q.weight"), "{expected:?}");
}

#[test]
fn a_config_alone_has_a_header_and_huge_ones_are_refused() {
    let config = example("config flux");
    let header = zoo::composed::header(&config).unwrap();
    let checkpoint = Checkpoint { config: Config::Json(config), header: &header, tensors: None };
    let fitted = registry::find(MODELS, "composed").unwrap().fit(&checkpoint, Dtype::Float32).unwrap();
    assert_eq!(params(fitted.module()).len(), header.tensors.len());
    assert_eq!(header.tensors["stages.1.blocks.1.proj_in.weight"].shape, [3 * 16 + 64, 16]);
    let mut config = example("config llama");
    config["stages"][0]["count"] = json!(1 << 24);
    assert!(zoo::composed::header(&config).unwrap_err().to_string().contains("far more parameters"));
}

/// The places of everything in a config, as JSON pointers.
fn places(json: &Value, here: &str, found: &mut Vec<String>) {
    found.push(here.to_owned());
    match json {
        Value::Object(fields) => fields.iter().for_each(|(key, value)| places(value, &format!("{here}/{key}"), found)),
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(i, value)| places(value, &format!("{here}/{i}"), found));
        }
        _ => {}
    }
}

#[test]
fn no_value_anywhere_panics() {
    let values = [
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(3),
        json!(1 << 24),
        json!(i32::MAX),
        json!(i64::MIN),
        json!(u64::MAX),
        json!(1e300),
        json!(-1e-300),
        json!(""),
        json!("none"),
        json!([]),
        json!([-1, i32::MAX]),
        json!({}),
    ];
    for kind in ["config base", "config flux", "config t5", "config clip"] {
        let config = example(kind);
        let mut all = vec![];
        places(&config, "", &mut all);
        for (place, value) in all.iter().flat_map(|place| values.iter().map(move |value| (place, value))) {
            let mut spoilt = config.clone();
            *spoilt.pointer_mut(place).unwrap() = value.clone();
            let _ = zoo::composed::header(&spoilt);
        }
    }
}
