//! SmolLM2 with its real weights against transformers, through the whole of the zoo: GGUF, tokenizer, chat template, model,
//! cache, generation.
//!
//! Runs where the file is: `ZOO_SMOLLM2` names it, or `zoo fetch smollm2-135m-instruct` has fetched it.

use std::fs;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;

use framework::{Dtype, math};
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use parity::compare::compare;
use parity::npy;
use parity::tensor::{Data, Tensor};
use zoo::text::Message;
use zoo::{Chat, LanguageModel, Open, Request, Weights};

/// The bound on relative L2, and on the reference's margin where another token may be chosen.
const TOLERANCE: f64 = 1e-3;

/// `golden.json`.
#[derive(serde::Deserialize)]
struct Golden {
    question: String,
    prompt: Vec<u32>,
    stride: usize,
    greedy: Vec<u32>,
    margins: Vec<f64>,
    text: String,
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // The tensor library is not thread-safe.
    arguments.test_threads.get_or_insert(1);
    type Test = fn(&LanguageModel, &Golden) -> Result<(), Failed>;
    let tests: [(&str, Weights, Test); 5] = [
        ("the chat template and the tokenizer give the prompt", Weights::Packed, prompt),
        ("logits of packed weights", Weights::Packed, logits),
        ("greedy tokens of packed weights", Weights::Packed, greedy),
        ("logits of dense weights", Weights::Dense, logits),
        ("greedy tokens of dense weights", Weights::Dense, greedy),
    ];
    let trials = tests.map(|(name, weights, test)| {
        Trial::ignorable_test(name, move || {
            let Some(file) = file() else {
                return Ok(Completion::ignored_with("set ZOO_SMOLLM2 or run `zoo fetch smollm2-135m-instruct`"));
            };
            let model = Open { weights, dtype: Some(Dtype::Float32) }.language_model(&file.to_string_lossy())?;
            let golden: Golden = serde_json::from_slice(&fs::read(fixture("golden.json"))?)?;
            test(&model, &golden).map(|()| Completion::Completed)
        })
    });
    libtest_mimic::run(&arguments, trials.into()).exit_code()
}

fn file() -> Option<PathBuf> {
    let named = std::env::var_os("ZOO_SMOLLM2").map(PathBuf::from);
    named.or_else(|| zoo::cache::locate("smollm2-135m-instruct").ok())
}

fn fixture(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "../fixtures/llama/smollm2-135m-instruct.Q4_1", name].iter().collect()
}

fn prompt(model: &LanguageModel, golden: &Golden) -> Result<(), Failed> {
    let prompt = model.chat_prompt(&[Message::user(&golden.question)], &Chat::default())?;
    equal(&prompt, &golden.prompt)
}

/// The logits at every position of the prompt: all at the last, some elsewhere, and the norm of each row.
fn logits(model: &LanguageModel, golden: &Golden) -> Result<(), Failed> {
    let length = golden.prompt.len();
    let mut arguments = zoo::Arguments::default();
    arguments.array("input_ids", math::array(&golden.prompt, &[1, length as i32])?);
    let outputs = model.opened().call("forward", &mut arguments)?;
    let [(_, logits)] = &outputs[..] else { return Err("one output".into()) };
    let values = math::read::<f32>(logits)?;
    let rows: Vec<&[f32]> = values.chunks(values.len() / length).collect();
    let sample = rows.iter().flat_map(|row| row.iter().copied().step_by(golden.stride)).collect();
    let norm = |row: &&[f32]| row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    let top_ids = npy::read(&fixture("top_ids.npy"))?;
    let top = (0..top_ids.data.len()).map(|at| {
        let id = top_ids.data.integer(at).and_then(|id| usize::try_from(id).ok())?;
        rows.get(at * length / top_ids.data.len())?.get(id).copied()
    });
    let top = top.collect::<Option<Vec<f32>>>().ok_or("an id of top_ids.npy is not in the vocabulary")?;
    for (name, data) in [
        ("last.npy", Data::F32(rows[length - 1].to_vec())),
        ("sample.npy", Data::F32(sample)),
        ("top_logits.npy", Data::F32(top)),
        ("norms.npy", Data::F64(rows.iter().map(norm).collect())),
    ] {
        let want = npy::read(&fixture(name))?;
        let got = Tensor::new(want.shape.clone(), want.dtype, data)?;
        let comparison = compare(&got, &want, None, TOLERANCE);
        println!("{name}: relative L2 {:.2e}, {:.2e} of the peak", comparison.relative_l2, comparison.max_over_peak);
        if !comparison.verdict.passes() {
            return Err(format!("{name}: {comparison:?}").into());
        }
    }
    Ok(())
}

/// The tokens that follow, until the reference itself hardly knew which.
fn greedy(model: &LanguageModel, golden: &Golden) -> Result<(), Failed> {
    let request = Request { max_tokens: golden.greedy.len(), ..Request::default() };
    let answer = model.generate(&golden.prompt, &request, &mut |_| ControlFlow::Continue(()))?;
    println!("{:.1} tokens/s read, {:.1} tokens/s written", answer.prefill_rate(), answer.decode_rate());
    match answer.tokens.iter().zip(&golden.greedy).position(|(got, want)| got != want) {
        Some(at) if golden.margins[at] < TOLERANCE => {
            println!("token {at} is another, at a margin of {}", golden.margins[at]);
            Ok(())
        }
        _ => {
            equal(&answer.tokens, &golden.greedy)?;
            equal(&answer.text, &golden.text)
        }
    }
}

fn equal<T: PartialEq + std::fmt::Debug>(got: &T, want: &T) -> Result<(), Failed> {
    if got == want { Ok(()) } else { Err(format!("got {got:?}\nexpected {want:?}").into()) }
}
