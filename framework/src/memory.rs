//! How much memory work will take, and work that keeps to it.

use crate::{Array, Module, Result, params, tap};
use mlx_rs::{Device, DeviceType, memory};
use std::collections::BTreeMap;

/// Whether arrays are computed on the processor itself.
pub fn is_on_cpu() -> Result<bool> {
    Ok(matches!(Device::try_default()?.get_type()?, DeviceType::Cpu))
}

/// The bytes of a model's parameters, whether they are there yet or not.
pub fn weights(model: &dyn Module) -> u64 {
    params(model).values().map(|param| bytes(&param.get())).sum()
}

/// An estimate of the bytes that a computation needs at once beside the parameters of `model` and its inputs.
///
/// `run` builds its graph and evaluates nothing. What the innermost repeated part (a block of a list) observes of itself
/// counts, two and a half times, because as much again passes unobserved between the layers, and the next layer begins
/// before the last one's memory is free; the part that needs most gives the estimate. On a CPU a convolution also copies
/// its windows. Scores of attention count where no fused kernel spares them, and packed matrices where they are unpacked.
///
/// ```
/// use framework::{Activation, Array, Ffn, Init, Mlp, memory};
/// let mlp = Mlp::new(8, 32, Activation::Silu, true, &mut Init::default())?;
/// let x = Array::zeros::<f32>(&[1, 100, 8])?;
/// let bytes = memory::working(&mlp, || mlp.forward(&x))?;
/// assert_eq!(bytes, 100 * (32 + 8) * 4 * 5 / 2);
/// # Ok::<(), framework::Error>(())
/// ```
///
/// # Errors
/// Those of `run`.
pub fn working<T>(model: &dyn Module, run: impl FnOnce() -> Result<T>) -> Result<u64> {
    let params = params(model);
    let on_cpu = is_on_cpu()?;
    let mut parts: BTreeMap<String, u64> = BTreeMap::new();
    let (mut scratch, mut held) = (0, 0);
    let mut sink = |path: &str, x: &Array| {
        if let Some((_, question)) = path.rsplit_once('?') {
            held = held.max(match question {
                "scores" => bytes(x).saturating_mul(5) / 4,
                "unpacked" => bytes(x).saturating_mul(2),
                _ => 0,
            });
            return None;
        }
        *parts.entry(innermost(path).to_owned()).or_default() += bytes(x);
        if let Some(weight) = params.get(format!("{path}.weight").as_str()).filter(|_| on_cpu) {
            scratch = scratch.max(windows(&weight.get(), x));
        }
        None
    };
    tap::answering(&mut sink, run)?;
    let observed = parts.into_values().max().unwrap_or(0).saturating_add(scratch);
    Ok((observed.saturating_mul(5) / 2).saturating_add(held))
}

/// The path up to its last number, without what tells several results apart: the innermost part of a list.
fn innermost(path: &str) -> &str {
    let path = path.split('#').next().unwrap_or_default();
    let mut end = 0;
    let mut place = 0;
    for segment in path.split('.') {
        place += segment.len();
        if segment.bytes().all(|byte| byte.is_ascii_digit()) {
            end = place;
        }
        place += 1;
    }
    path.get(..end).unwrap_or_default()
}

/// The copy of every window that a convolution with this weight, `[O, k…, I]`, makes for its output `x`.
fn windows(weight: &Array, x: &Array) -> u64 {
    let [_, window @ ..] = weight.shape() else { return 0 };
    if window.len() < 2 {
        return 0;
    }
    let window: u64 = window.iter().map(|&length| length as u64).product();
    let channels = x.shape().last().copied().unwrap_or(1).max(1) as u64;
    bytes(x) / channels * window
}

fn bytes(x: &Array) -> u64 {
    x.nbytes() as u64
}

/// Runs `f` so that about `working` bytes live at once beside what lives now.
///
/// A device computes long after it was told to, and what it was told keeps its memory: without a bound, the intermediate
/// results of many layers live at once. Where the bound would be passed, MLX waits for the device.
///
/// # Errors
/// When MLX refuses the bound.
pub fn bounded<T>(working: u64, f: impl FnOnce() -> T) -> Result<T> {
    struct Restore(usize);
    impl Drop for Restore {
        fn drop(&mut self) {
            // The bound is only advice, and there is no better moment to report that it stayed.
            let _ = memory::set_memory_limit(self.0);
        }
    }
    // What is begun when the bound is reached still finishes: a quarter is left for it.
    let bound = usize::try_from(working / 4 * 3).unwrap_or(usize::MAX);
    let limit = memory::active_memory()?.saturating_add(bound);
    let _restore = Restore(memory::set_memory_limit(limit)?);
    Ok(f())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Conv, Init, Window};

    #[test]
    fn paths_end_at_their_last_number() {
        assert_eq!(innermost("decoder.up_blocks.2.resnets.11.conv1"), "decoder.up_blocks.2.resnets.11");
        assert_eq!(innermost("blocks.0"), "blocks.0");
        assert_eq!(innermost("blocks.0#1"), "blocks.0");
        assert_eq!(innermost("norm_out.linear"), "");
    }

    #[test]
    fn a_convolution_copies_its_windows_on_a_cpu() {
        let conv = Conv::new(4, 2, &[Window::same(3); 2], &mut Init::default()).unwrap();
        struct One {
            conv: Conv,
        }
        crate::module! { impl[] One { conv } }
        let one = One { conv };
        let x = Array::zeros::<f32>(&[1, 10, 10, 4]).unwrap();
        let bytes = working(&one, || crate::call!(one.conv.forward(&x))).unwrap();
        let copied = if is_on_cpu().unwrap() { 100 * 9 * 4 * 4 } else { 0 };
        assert_eq!(bytes, (100 * 2 * 4 + copied) * 5 / 2);
        assert_eq!(weights(&one), (4 * 9 * 2 + 2) * 4);
    }

    #[test]
    fn the_bound_is_taken_away_again() {
        let before = memory::memory_limit().unwrap();
        let inside = bounded(1 << 20, || memory::memory_limit().unwrap()).unwrap();
        assert!(inside < before);
        assert_eq!(memory::memory_limit().unwrap(), before);
    }
}
