//! What holds for every decoder: token by token is the same as at once, padded rows the same as alone, and a conversation
//! that goes on is not read again.

use framework::{
    Array, Dtype, KvCache, math,
    weights::{Config, Packed, Source, Tensors},
};
use serde_json::{Value, json};
use std::{
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
};
use tempfile::TempDir;
use zoo::{
    Arguments, Checkpoint, Event, LanguageModel, MODELS, OpenOptions, Opened, Request, Stopped,
    families::{Gemma3, Qwen3},
    registry,
    task::CausalLm,
};

const OPTIONS: OpenOptions = OpenOptions { dtype: Dtype::Float32, packed: Packed::Keep };
/// Every family, with a sliding window of 5 where it has one.
const FAMILIES: [&str; 8] = ["llama", "qwen2", "qwen3", "mistral", "gemma3", "smollm3", "glm", "glm4"];

fn case(family: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures").join(family).join("base")
}

fn config(family: &str) -> Value {
    let description: Value = serde_json::from_slice(&fs::read(case(family).join("case.json")).unwrap()).unwrap();
    description["config"].clone()
}

fn open(family: &str) -> (Box<dyn Opened>, &'static registry::Entry) {
    let source = Source::open(&case(family).join("weights.safetensors")).unwrap();
    let config = Config::Json(config(family));
    let checkpoint = Checkpoint { config, header: source.header(), tensors: Some(&source) };
    let entry = registry::of(MODELS, &checkpoint, Path::new(family)).unwrap();
    (entry.open(&checkpoint, OPTIONS, &mut |_, _| ControlFlow::Continue(())).unwrap(), entry)
}

fn with_each(f: impl Fn(&str, &dyn CausalLm)) {
    for family in FAMILIES {
        let (opened, entry) = open(family);
        f(family, entry.causal_lm(&*opened).unwrap());
    }
}

fn ids(rows: &[&[u32]]) -> Array {
    math::array(&rows.concat(), &[rows.len() as i32, rows[0].len() as i32]).unwrap()
}

fn close(name: &str, a: &[f32], b: &[f32]) {
    let peak = b.iter().fold(0f32, |peak, x| peak.max(x.abs()));
    let worst = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    assert!(a.len() == b.len() && worst <= 1e-5 * peak, "{name}: {worst} of {peak}");
}

const TEXT: [u32; 17] = [5, 40, 3, 17, 9, 9, 41, 2, 33, 28, 36, 1, 7, 12, 24, 19, 30];

#[test]
fn token_by_token_is_the_same_as_at_once() {
    with_each(|family, model| {
        for chunk in [1, 2, 5, 7] {
            let mut state = model.state();
            let mut read = 0;
            for piece in TEXT.chunks(chunk) {
                read += piece.len();
                let stepped = math::read::<f32>(&model.next(&ids(&[piece]), &mut state).unwrap()).unwrap();
                let whole = model.next(&ids(&[&TEXT[..read]]), &mut model.state()).unwrap();
                close(&format!("{family}, {chunk} at a time, {read}"), &stepped, &math::read::<f32>(&whole).unwrap());
            }
        }
    });
}

#[test]
fn a_state_that_was_rewound_goes_on_as_if_nothing_had_been() {
    with_each(|family, model| {
        for back in 1..TEXT.len() {
            let mut state = model.state();
            for token in TEXT {
                model.next(&ids(&[&[token]]), &mut state).unwrap();
            }
            let possible = state.iter_mut().all(|cache| cache.rewind(back as i32));
            let windows = !matches!(family, "llama" | "glm" | "glm4");
            // A window of 5 is in a buffer of 10, which was moved to the front when 11 and 17 tokens were there.
            assert!(possible || windows && back < 16, "{family} to {back}");
            if possible {
                let other = [&TEXT[..back], &[13, 8]].concat();
                let again = model.next(&ids(&[&other[back..]]), &mut state).unwrap();
                let fresh = model.next(&ids(&[&other]), &mut model.state()).unwrap();
                let [again, fresh] = [again, fresh].map(|x| math::read::<f32>(&x).unwrap());
                close(&format!("{family} to {back}"), &again, &fresh);
            }
        }
    });
}

#[test]
fn padded_rows_are_the_same_as_alone() {
    with_each(|family, model| {
        let texts = [&TEXT[..11], &TEXT[4..11], &TEXT[10..11]];
        let pads = texts.map(|text| 11 - text.len() as i32);
        let padded = texts.map(|text| [&vec![0; 11 - text.len()], text].concat());
        let mut together = model.state();
        let mut alone = texts.map(|_| model.state());
        let mut next: Vec<Vec<u32>> = padded.to_vec();
        let mut own: Vec<Vec<u32>> = texts.map(<[u32]>::to_vec).to_vec();
        for step in 0..7 {
            let rows: Vec<&[u32]> = next.iter().map(Vec::as_slice).collect();
            let logits = model.next_padded(&ids(&rows), &pads, &mut together).unwrap();
            let logits = math::read::<f32>(&logits).unwrap();
            for (row, logits) in logits.chunks(model.vocabulary() as usize).enumerate() {
                let single = model.next(&ids(&[&own[row]]), &mut alone[row]).unwrap();
                close(&format!("{family}, row {row}, step {step}"), logits, &math::read::<f32>(&single).unwrap());
            }
            next = [20, 21, 22].map(|token| vec![token + step]).to_vec();
            own.clone_from(&next);
        }
        let error = model.next_padded(&ids(&[&[1], &[2]]), &[1], &mut model.state()).unwrap_err().to_string();
        assert!(error.contains("1 numbers for 2 rows"), "{error}");
    });
}

/// A snapshot of a family's case with a tokenizer of 42 words, `w1` to `w42`, and a chat template.
fn snapshot(family: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: String| fs::write(folder.path().join(name), text).unwrap();
    let mut config = config(family);
    config["eos_token_id"] = Value::Null;
    write("config.json", config.to_string());
    let mut words: serde_json::Map<String, Value> = (1..43).map(|id| (format!("w{id}"), id.into())).collect();
    words.insert("<unk>".into(), 0.into());
    let tokenizer = json!({
        "version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "<unk>"},
    });
    write("tokenizer.json", tokenizer.to_string());
    let template = "{% for message in messages %}{{ message.role == 'user' and 'w1 ' or 'w2 ' }}{{ message.content }} \
                    {% endfor %}w2";
    write("chat_template.jinja", template.into());
    fs::copy(case(family).join("weights.safetensors"), folder.path().join("model.safetensors")).unwrap();
    folder
}

fn language_model(folder: &TempDir) -> LanguageModel {
    LanguageModel::open(folder.path(), OPTIONS, &mut |_, _| ControlFlow::Continue(())).unwrap()
}

fn go_on(_: Event<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn greedy(max_tokens: usize) -> Request {
    let mut request = Request { max_tokens, ..Request::default() };
    request.sampler.temperature = 0.0;
    request
}

#[test]
fn hidden_states_of_chosen_layers_are_those_of_the_call() {
    let folder = snapshot("qwen3");
    let model = registry::open_model::<Qwen3>(folder.path(), OPTIONS, &mut |_, _| ControlFlow::Continue(())).unwrap();
    let padding = math::array(&[1i64, 1, 1, 1, 0, 0, 1, 1, 1, 1, 1, 1], &[2, 6]).unwrap();
    let tokens = ids(&[&TEXT[..6], &TEXT[6..12]]);
    let call = |asked: Value| {
        let mut arguments = Arguments::default();
        arguments.array("input_ids", tokens.clone());
        arguments.array("attention_mask", padding.clone());
        arguments.value("output_hidden_states", asked);
        arguments.value("use_cache", false.into());
        let mut outputs = model.call_by_name("forward", &mut arguments).unwrap();
        outputs.remove(0);
        outputs
    };
    let all = call(true.into());
    assert_eq!(all.len(), 3);
    let chosen = model.hidden_states(&tokens, Some(&padding), &[2, 0]).unwrap();
    for (ours, number) in chosen.iter().zip([2, 0]) {
        assert_eq!(math::read::<f32>(ours).unwrap(), math::read::<f32>(&all[number].1).unwrap());
    }
    let names = |asked: Value| call(asked).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    assert_eq!(names(json!([0, -1, 7])), ["hidden_states.0", "hidden_states.2"]);
    assert_eq!(names(json!(1)), ["hidden_states.1"]);
    assert!(names(json!(false)).is_empty());
    assert!(model.hidden_states(&tokens, None, &[3]).unwrap_err().to_string().contains("from 0 to 2"));
}

#[test]
fn sequences_together_become_what_they_are_alone() {
    for family in ["qwen3", "gemma3"] {
        let folder = snapshot(family);
        let model = language_model(&folder);
        let prompts = [&TEXT[..9], &TEXT[3..5], &TEXT[2..]].map(<[u32]>::to_vec);
        let mut request = greedy(12);
        for temperature in [0.0, 0.8] {
            (request.sampler.temperature, request.seed) = (temperature, 7);
            let mut read = [0; 3];
            let together = model.generate_batch(&prompts, &request, &mut |row, event| {
                if let Event::Prefill { done, .. } = event {
                    read[row] = done;
                }
                ControlFlow::Continue(())
            });
            assert_eq!(read, [9, 2, 15]);
            for (row, answer) in together.unwrap().into_iter().enumerate() {
                let own = Request { seed: 7 + row as u64, ..request.clone() };
                let alone = model.generate(&prompts[row], &own, &mut go_on).unwrap();
                assert_eq!((answer.tokens, answer.text), (alone.tokens, alone.text), "{family} {row}");
                assert_eq!((answer.stopped, answer.prompt_tokens), (alone.stopped, alone.prompt_tokens));
            }
        }
        assert!(model.generate_batch(&[], &request, &mut |_, _| ControlFlow::Continue(())).unwrap().is_empty());
        let empty = model.generate_batch(&[vec![1], vec![]], &request, &mut |_, _| ControlFlow::Continue(()));
        assert!(empty.unwrap_err().to_string().contains("empty"));
        let cancelled = model.generate_batch(&prompts, &request, &mut |row, _| match row {
            1 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        });
        assert!(cancelled.is_err());
    }
}

#[test]
fn a_stop_string_ends_one_sequence_of_several() {
    let folder = snapshot("qwen2");
    // Of a decoder whose text grows with every token.
    let tokenizer = folder.path().join("tokenizer.json");
    let mut json: Value = serde_json::from_slice(&fs::read(&tokenizer).unwrap()).unwrap();
    json["decoder"] = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
    fs::write(&tokenizer, json.to_string()).unwrap();
    let model = language_model(&folder);
    let prompts = [&TEXT[..9], &TEXT[3..5]].map(<[u32]>::to_vec);
    let free = model.generate_batch(&prompts, &greedy(8), &mut |_, _| ControlFlow::Continue(())).unwrap();
    let tokens = &free[0].tokens;
    let last = (1..tokens.len()).rfind(|&place| !tokens[..place].contains(&tokens[place])).unwrap();
    let word = format!("w{}", tokens[last]);
    let request = Request { stop: vec![word.clone()], ..greedy(8) };
    let cut = model.generate_batch(&prompts, &request, &mut |_, _| ControlFlow::Continue(())).unwrap();
    assert_eq!(cut[0].stopped, Stopped::StopString(word));
    assert_eq!(cut[0].tokens, free[0].tokens[..=last]);
    for (row, cut) in cut.into_iter().enumerate() {
        let alone = model.generate(&prompts[row], &request, &mut go_on).unwrap();
        assert_eq!((cut.text, cut.tokens, cut.stopped), (alone.text, alone.tokens, alone.stopped));
    }
}

#[test]
fn the_next_turn_of_a_conversation_reads_what_is_new() {
    use zoo::text::Message;
    for family in ["qwen3", "gemma3"] {
        let folder = snapshot(family);
        let (model, fresh) = (language_model(&folder), language_model(&folder));
        let mut messages = vec![Message::user("w5 w6 w7 w8")];
        for (turn, question) in ["w30 w31", "w9", "w40 w41 w42"].into_iter().enumerate() {
            let mut read = vec![];
            let answer = model.chat(&messages, &greedy(6), &mut |event| {
                if let Event::Prefill { done, total } = event {
                    read.push((done, total));
                }
                ControlFlow::Continue(())
            });
            let answer = answer.unwrap();
            fresh.forget();
            let whole = fresh.chat(&messages, &greedy(6), &mut go_on).unwrap();
            assert_eq!((&answer.tokens, whole.reused_tokens), (&whole.tokens, 0), "{family}, turn {turn}");
            // All but the last token of the answer had been read, then come `w1` or `w2`, the question, and `w2`.
            let new = [5 + 1, 1 + 1 + 2 + 1, 1 + 1 + 1 + 1][turn];
            assert_eq!(answer.prompt_tokens - answer.reused_tokens, new, "{family}, turn {turn}");
            assert_eq!(read.last(), Some(&(answer.prompt_tokens, answer.prompt_tokens)));
            messages.extend([Message::assistant(answer.text), Message::user(question)]);
        }
        // Another conversation has nothing in common with it but its first word.
        let other = [Message::user("w34 w35")];
        let answer = model.chat(&other, &greedy(6), &mut go_on).unwrap();
        fresh.forget();
        assert_eq!(answer.tokens, fresh.chat(&other, &greedy(6), &mut go_on).unwrap().tokens);
        assert!(answer.reused_tokens <= 1);
        // The same again reads the last token of its prompt, or all where a window is past it.
        let again = model.chat(&other, &greedy(6), &mut go_on).unwrap();
        assert_eq!(again.tokens, answer.tokens);
        assert!([0, again.prompt_tokens - 1].contains(&again.reused_tokens));
    }
}

#[test]
fn a_window_keeps_caches_small() {
    let folder = snapshot("gemma3");
    let model = registry::open_model::<Gemma3>(folder.path(), OPTIONS, &mut |_, _| ControlFlow::Continue(())).unwrap();
    let mut state = model.state();
    for _ in 0..20 {
        for token in TEXT {
            model.next(&ids(&[&[token]]), &mut state).unwrap();
        }
    }
    let bytes: Vec<usize> = state.iter().map(KvCache::bytes).collect();
    // Keys and values of 2 heads of 8 features in f32: twice the window of 5, and steps of 256 tokens.
    assert_eq!(bytes, [2 * 10 * 2 * 8 * 4, 2 * 512 * 2 * 8 * 4]);
}
