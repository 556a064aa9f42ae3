//! How fast published language models run here: random weights at their real size, so that nothing is downloaded.
//!
//! ```no_run
//! use std::ops::ControlFlow;
//! use zoo::bench::{Settings, measure};
//! let measured = measure("llama-3.2-1b", &Settings::default(), &mut |_, _, _| ControlFlow::Continue(()))?;
//! println!("{:.1} tokens/s", measured.decode.rate);
//! # Ok::<(), zoo::Error>(())
//! ```

use crate::{
    Error, Request, Result,
    doctor::{self, Bytes, Mlx},
    error::go_on,
    language::{Sequence, chunk},
    published,
    real_size::RandomModel,
    task::CausalLm,
};
use framework::{Array, Dtype, Embedding, KvCache, Leaf, LeafMut, Linear, Module, math, memory};
use mlx_rs::{memory as allocator, ops};
use serde::Serialize;
use std::{ops::ControlFlow, time::Instant};

/// Weights that share a scale where they are packed.
const GROUP: i32 = 64;

/// Steps that a run which does not count takes after its prompt.
const WARM_UP: usize = 2;

/// Bytes that a random weight takes while it is made, an element: its value in f32, and what is made of it.
const MAKING: u64 = 8;

/// What is measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens that are generated after it.
    pub tokens: usize,
    /// How often both are measured, after once that does not count.
    pub repeats: usize,
    /// Bits of a weight: 32 and 16 for f32 and bf16, 8 and 4 packed in groups of 64. By default 32 on a CPU, else 16.
    pub bits: Option<u8>,
    /// Bytes of memory that may be used; by default what is free.
    pub memory: Option<u64>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { prompt_tokens: 512, tokens: 64, repeats: 5, bits: None, memory: None }
    }
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Weights are made.
    Load,
    /// The prompt is read and continued.
    Repeat,
}

/// What was measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// The model.
    pub id: &'static str,
    /// How many parameters it has.
    pub parameters: u64,
    /// What computed: the device's name, or its kind where it has none.
    pub device: String,
    /// MLX's version.
    pub mlx: String,
    /// What was computed in: `f32` or `bf16`.
    pub dtype: &'static str,
    /// Bits of a weight.
    pub bits: u8,
    /// Seconds that building the model and making its weights took.
    pub load_seconds: f64,
    /// Reading the prompt.
    pub prefill: Timing,
    /// Generating.
    pub decode: Timing,
    /// Bytes of the weights.
    pub weights: u64,
    /// Bytes that were predicted to be needed at once, weights included.
    pub planned: u64,
    /// The most bytes in arrays at once, from the first weight to the last token.
    pub peak: u64,
}

/// Times of one stage.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Timing {
    /// Tokens each time.
    pub tokens: usize,
    /// Each time.
    pub seconds: Vec<f64>,
    /// Tokens a second, at the median.
    pub rate: f64,
    /// Tokens a second, the lowest.
    pub lowest: f64,
    /// Tokens a second, the highest.
    pub highest: f64,
}

impl Timing {
    fn new(tokens: usize, seconds: Vec<f64>) -> Self {
        let mut rates: Vec<f64> = seconds.iter().map(|time| tokens as f64 / time.max(1e-9)).collect();
        rates.sort_by(f64::total_cmp);
        let at = |index: usize| rates.get(index).copied().unwrap_or(0.0);
        let last = rates.len().saturating_sub(1);
        // Of an even number, the mean of both in the middle.
        let rate = f64::midpoint(at(last / 2), at(rates.len() / 2));
        Self { tokens, rate, lowest: at(0), highest: at(last), seconds }
    }
}

/// Builds the model of that id with random weights, reads a random prompt and generates, as chatting does; tells
/// `observer` how much of a stage is done, of how much.
///
/// # Errors
/// [`Error::UnknownModel`]; a value out of its range; [`Error::Memory`] when it is predicted not to fit, before any weight
/// is made; [`Error::Cancelled`] when the observer breaks.
pub fn measure(
    id: &str,
    settings: &Settings,
    observer: &mut dyn FnMut(Stage, usize, usize) -> ControlFlow<()>,
) -> Result<Measured> {
    settings.validate()?;
    let row = published::find(id)?;
    let on_cpu = memory::is_on_cpu()?;
    let bits = settings.bits.unwrap_or(if on_cpu { 32 } else { 16 });
    let (dtype, name) =
        if bits == 32 || (bits < 16 && on_cpu) { (Dtype::Float32, "f32") } else { (Dtype::Bfloat16, "bf16") };
    let begin = Instant::now();
    let mut model = RandomModel::build(row, dtype)?;
    settings.fits(model.lm()?.context())?;
    if bits < 16 {
        pack(model.module_mut(), bits.into())?;
    }
    let plan = Plan::of(&model, settings)?;
    if let Some(available) = settings.memory.or_else(doctor::available_memory) {
        plan.check(&row.id, available)?;
    }
    allocator::reset_peak_memory()?;
    settle(model.module(), observer)?;
    let load_seconds = begin.elapsed().as_secs_f64();

    let prompt = random_tokens(settings.prompt_tokens, model.lm()?.vocabulary());
    let warm_up = Settings { tokens: WARM_UP.min(settings.tokens), ..settings.clone() };
    warm_up.run(&model, &prompt)?;
    let (mut prefill, mut decode) = (Vec::new(), Vec::new());
    for done in 1..=settings.repeats {
        let [prompt, tokens] = settings.run(&model, &prompt)?;
        prefill.push(prompt);
        decode.push(tokens);
        go_on(observer(Stage::Repeat, done, settings.repeats))?;
    }
    let mlx = Mlx::now()?;
    Ok(Measured {
        id: &row.id,
        parameters: row.parameters,
        device: mlx.device_name.unwrap_or(mlx.device),
        mlx: mlx.version,
        dtype: name,
        bits,
        load_seconds,
        prefill: Timing::new(settings.prompt_tokens, prefill),
        decode: Timing::new(settings.tokens, decode),
        weights: plan.weights,
        planned: plan.peak(),
        peak: allocator::peak_memory()? as u64,
    })
}

impl Settings {
    fn validate(&self) -> Result<()> {
        let counts = [("prompt_tokens", self.prompt_tokens), ("tokens", self.tokens), ("repeats", self.repeats)];
        if let Some((name, _)) = counts.iter().find(|(_, count)| *count == 0) {
            return Err(Error::argument(*name, "0 leaves nothing to measure; ask for at least 1"));
        }
        match self.bits {
            None | Some(32 | 16 | 8 | 4) => Ok(()),
            Some(bits) => Err(Error::argument("bits", format!("{bits} is none of 32, 16, 8 and 4"))),
        }
    }

    /// Tokens of a whole sequence.
    fn length(&self) -> usize {
        self.prompt_tokens.saturating_add(self.tokens)
    }

    fn fits(&self, context: i32) -> Result<()> {
        let (length, context) = (self.length(), context.max(0) as usize);
        if length <= context {
            return Ok(());
        }
        let problem = format!("with those to generate they are {length}, and the model's context is {context}");
        Err(Error::argument("prompt_tokens", problem))
    }

    /// Seconds of the prompt and of the tokens after it.
    fn run(&self, model: &RandomModel, prompt: &[u32]) -> Result<[f64; 2]> {
        let request = Request::default();
        let lm = model.lm()?;
        let mut sequence = Sequence::new(lm, &request, prompt, lm.state(), None)?;
        let begin = Instant::now();
        let mut next = sequence.prefill(0, &mut |_| Ok(()))?;
        let prefill = begin.elapsed().as_secs_f64();
        let begin = Instant::now();
        for _ in 0..self.tokens {
            next = sequence.step(next)?;
        }
        Ok([prefill, begin.elapsed().as_secs_f64()])
    }
}

/// Bytes that are needed at once.
struct Plan {
    weights: u64,
    /// Beside the weights while the last one is made.
    making: u64,
    /// Beside the weights while the end of the prompt is read.
    working: u64,
}

impl Plan {
    /// Read off the graph; evaluates nothing.
    fn of(model: &RandomModel, settings: &Settings) -> Result<Self> {
        let lm = model.lm()?;
        let length = settings.length();
        let last = length.min(chunk()?);
        let mut state = filled(lm, length.saturating_sub(last))?;
        let working = memory::working(model.module(), || lm.next(&zeros(last)?, &mut state))?;
        let cache: u64 = state.iter().map(|cache| cache.bytes() as u64).sum();
        Ok(Self {
            weights: memory::weights(model.module()),
            making: largest(model.module()).saturating_mul(MAKING),
            working: working.saturating_add(cache),
        })
    }

    fn peak(&self) -> u64 {
        self.weights.saturating_add(self.making.max(self.working))
    }

    fn check(&self, id: &'static str, available: u64) -> Result<()> {
        if self.peak() <= available {
            return Ok(());
        }
        let [task, advice] = if self.weights > available {
            ["hold its weights", "take fewer bits, a smaller model, or a machine with more memory"]
        } else if self.making > self.working {
            ["make its weights", "free memory, or take a smaller model"]
        } else {
            ["read a prompt", "ask for fewer tokens of the prompt"]
        };
        let (needed, available) = (Bytes(self.peak()), Bytes(available));
        Err(Error::Memory { component: id, task, needed, available, advice })
    }
}

/// Token 0 so many times, `[1, count]`.
fn zeros(count: usize) -> framework::Result<Array> {
    math::array(&vec![0_u32; count], &[1, count as i32])
}

/// The state after so many tokens and one, of which only the shape is right: no attention is computed, not even lazily.
fn filled(lm: &dyn CausalLm, length: usize) -> Result<Vec<KvCache>> {
    let mut state = lm.state();
    if length == 0 {
        return Ok(state);
    }
    lm.next(&zeros(1)?, &mut state)?;
    for cache in &mut state {
        let held: Vec<Array> = cache.arrays().cloned().collect();
        let [keys, values] = &held[..] else { continue };
        let more = |like: &Array| {
            let [batch, heads, _, dim] = math::shape(like)?;
            Ok::<_, Error>(ops::zeros_dtype(&[batch, length as i32, heads, dim], like.dtype())?)
        };
        cache.update(more(keys)?, more(values)?)?;
    }
    Ok(state)
}

/// Elements of the largest weight.
fn largest(module: &dyn Module) -> u64 {
    let mut most = 0;
    framework::walk(module, &mut |_, leaf| {
        let shape = match leaf {
            Leaf::Linear(Linear { weight, .. }) | Leaf::Embedding(Embedding { weight }) => weight.shape(),
            Leaf::Param(param) => param.shape(),
            Leaf::Branch => return,
        };
        most = most.max(shape.iter().map(|&length| length as u64).product());
    });
    most
}

/// Packs every matrix, as mlx-lm does.
fn pack(module: &mut dyn Module, bits: i32) -> Result<()> {
    let mut outcome = Ok(());
    framework::walk_mut(module, &mut |path, leaf| {
        if let (LeafMut::Linear(Linear { weight, .. }) | LeafMut::Embedding(Embedding { weight }), Ok(())) =
            (leaf, &outcome)
        {
            outcome = weight.quantise(GROUP, bits).map_err(|error| error.under(&[&path]));
        }
    });
    Ok(outcome?)
}

/// Makes every weight, one after the other.
fn settle(module: &dyn Module, observer: &mut dyn FnMut(Stage, usize, usize) -> ControlFlow<()>) -> Result<()> {
    let params = framework::params(module);
    for (done, param) in (1..).zip(params.values()) {
        param.get().eval()?;
        go_on(observer(Stage::Load, done, params.len()))?;
    }
    allocator::clear_cache()?;
    Ok(())
}

/// Knuth's multiplicative hash of a token's place, among so many tokens.
fn random_tokens(count: usize, vocabulary: i32) -> Vec<u32> {
    let hash = |place: usize| (place as u32).wrapping_mul(2_654_435_761);
    (0..count).filter_map(|place| hash(place).checked_rem(vocabulary.max(1) as u32)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn go(_: Stage, _: usize, _: usize) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    #[test]
    fn a_rate_is_at_the_median_of_any_number_of_times() {
        let of = |seconds: &[f64]| Timing::new(10, seconds.to_vec());
        let Timing { rate, lowest, highest, .. } = of(&[2.0, 1.0, 5.0]);
        assert_eq!([rate, lowest, highest], [5.0, 2.0, 10.0]);
        assert_eq!(of(&[1.0, 2.0]).rate, 7.5);
        assert_eq!(of(&[]).rate, 0.0);
    }

    #[test]
    fn what_is_planned_depends_on_bits_and_on_the_length() {
        let peak = |bits, prompt_tokens| {
            let mut model = RandomModel::build(published::find("llama-3.1-8b").unwrap(), Dtype::Bfloat16).unwrap();
            if bits < 16 {
                pack(model.module_mut(), bits).unwrap();
            }
            Plan::of(&model, &Settings { prompt_tokens, ..Settings::default() }).unwrap()
        };
        let [dense, eight, four] = [16, 8, 4].map(|bits| peak(bits, 512).weights);
        assert_eq!(dense, 2 * 8_030_261_248);
        // A scale and a bias of two bytes for 64 weights are half a bit each; norms stay as they are.
        for (packed, bits) in [(eight, 8.5), (four, 4.5)] {
            let ratio = packed as f64 / dense as f64;
            assert!((ratio - bits / 16.0).abs() < 1e-3, "{ratio}");
        }
        let [short, long] = [512, 8192].map(|tokens| peak(16, tokens).working);
        // Keys and values of 32 layers, 8 heads of 128 features, two bytes each.
        assert!(long - short >= (8192 - 512) * 32 * 2 * 8 * 128 * 2, "{short} {long}");
    }

    /// The smallest model, whole.
    #[test]
    fn what_is_measured_keeps_to_its_plan() {
        let settings = Settings { prompt_tokens: 9, tokens: 2, repeats: 2, bits: Some(32), memory: None };
        let mut told = Vec::new();
        let measured = measure("smollm2-135m-instruct", &settings, &mut |stage, done, total| {
            told.push((stage, done, total));
            ControlFlow::Continue(())
        });
        let measured = measured.unwrap();
        assert_eq!(measured.weights, 4 * measured.parameters);
        assert!(measured.peak >= measured.weights && measured.peak <= measured.planned / 3 * 4, "{measured:?}");
        for (timing, tokens) in [(&measured.prefill, 9), (&measured.decode, 2)] {
            assert_eq!((timing.tokens, timing.seconds.len()), (tokens, 2));
            assert!(timing.lowest > 0.0 && timing.lowest <= timing.rate && timing.rate <= timing.highest);
        }
        assert!(told.windows(2).all(|pair| pair[0].0 != pair[1].0 || pair[0].1 + 1 == pair[1].1));
        assert_eq!(told.last(), Some(&(Stage::Repeat, 2, 2)));
    }

    #[test]
    fn values_out_of_range_are_refused_before_anything_is_built() {
        let refused = |settings: Settings| measure("nothing", &settings, &mut go).unwrap_err().to_string();
        let fine = Settings::default();
        for (settings, name) in [
            (Settings { prompt_tokens: 0, ..fine.clone() }, "prompt_tokens"),
            (Settings { tokens: 0, ..fine.clone() }, "tokens"),
            (Settings { repeats: 0, ..fine.clone() }, "repeats"),
            (Settings { bits: Some(5), ..fine.clone() }, "bits"),
        ] {
            let message = refused(settings);
            assert!(message.starts_with(&format!("`{name}`")), "{message}");
        }
        assert!(refused(fine).contains("no model is called"));
    }

    #[test]
    fn what_does_not_fit_is_refused_before_any_weight_is_made() {
        let refused = |id, memory, settings: Settings| {
            let settings = Settings { memory: Some(memory), bits: Some(4), ..settings };
            measure(id, &settings, &mut |_, _, _| panic!("a weight was made")).unwrap_err().to_string()
        };
        let weights = refused("llama-3.1-405b", 10_000_000_000, Settings::default());
        assert!(weights.contains("hold its weights") && weights.contains("fewer bits"), "{weights}");
        let long = Settings { prompt_tokens: 100_000, ..Settings::default() };
        let prompt = refused("llama-3.2-1b", 5_000_000_000, long);
        assert!(prompt.contains("read a prompt"), "{prompt}");
    }
}
