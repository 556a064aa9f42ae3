//! Keys and values of earlier calls.

use crate::{Error, Result, math};
use mlx_rs::{
    Array,
    ops::{self, indexing::TryIndexMutOp},
};

/// How many tokens a growing cache makes room for at a time.
const STEP: i32 = 256;

/// The axis of tokens in a buffer.
const TOKENS: i32 = 2;

/// How many features of a packed key or value share a scale, where the head is a multiple of it; else the smaller one.
const GROUPS: [i32; 2] = [64, 32];

/// Keys and values of one layer, `[B, S, Hkv, D]` in order of time; owned by the caller of a model.
///
/// A growing cache keeps everything. A rotating one keeps what a sliding window still sees: it writes into a buffer
/// of twice the window and moves the window to the front when the buffer is full, so that a token costs a constant
/// amount on average and the order of time is never lost.
///
/// Either may be [packed](Self::packed): a token is quantised when it is added, and what a call sees is unpacked for it.
///
/// Buffers have their heads in front, because one head's tokens are read together, and kernels of attention know caches
/// by it.
#[derive(Clone, Debug, Default)]
pub struct KvCache {
    /// Keys and values, each in the arrays that its form has, `[B, Hkv, room, …]`.
    buffers: Option<[Vec<Array>; 2]>,
    form: Form,
    start: i32,
    end: i32,
    seen: i32,
    window: Option<i32>,
}

impl KvCache {
    /// Keeps everything.
    pub fn growing() -> Self {
        Self::default()
    }

    /// Keeps the `window` newest tokens.
    pub fn rotating(window: i32) -> Self {
        Self { window: Some(window), ..Self::default() }
    }

    /// Keeps 4 or 8 bits a number, with a scale and a bias (of the dtype of the keys) for 64 features of a head, or for 32
    /// where the head is no multiple of 64: MLX's affine quantisation, as in mlx-lm's `QuantizedKVCache`. In a bf16 cache
    /// of 64 a group a number takes 4.5 or 8.5 bits.
    ///
    /// # Errors
    /// When the bits are not 4 or 8, or the cache holds something. Heads that are no multiple of 32 are an error of
    /// [`update`](Self::update).
    pub fn packed(self, bits: i32) -> Result<Self> {
        if ![4, 8].contains(&bits) {
            return Err(Error::argument("kv_bits", format!("{bits} bits are none of 4 and 8")));
        }
        if self.buffers.is_some() {
            return Err(Error::argument(
                "kv_bits",
                "what a cache holds already is not packed; begin with an empty one",
            ));
        }
        Ok(Self { form: Form::Packed { bits }, ..self })
    }

    /// How many tokens have been added since the beginning: the position of the next one.
    pub fn seen(&self) -> i32 {
        self.seen
    }

    /// How many keys the queries of a call of `length` tokens will have before them, their own included.
    pub fn keys(&self, length: i32) -> i32 {
        let held = self.end - self.start;
        let past = self.window.map_or(held, |window| held.min(window - 1));
        past + length
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Self { window: self.window, form: self.form, ..Self::default() };
    }

    /// Forgets all but the first `seen` tokens. False, with nothing changed, where there are not so many, or the window has let
    /// go of what the token after them would see.
    pub fn rewind(&mut self, seen: i32) -> bool {
        let first = self.seen - self.end;
        let needed = self.window.map_or(0, |window| (seen - (window - 1)).max(0));
        if seen < 0 || seen > self.seen || needed < first {
            return false;
        }
        (self.start, self.end, self.seen) = (needed - first, seen - first, seen);
        true
    }

    /// Bytes that the buffers hold.
    pub fn bytes(&self) -> usize {
        self.arrays().map(Array::nbytes).sum()
    }

    /// The arrays, to be evaluated together with a result.
    pub fn arrays(&self) -> impl Iterator<Item = &Array> {
        self.buffers.iter().flatten().flatten()
    }

    /// What is held, for a layer that shares this layer's keys and values.
    ///
    /// # Errors
    /// When there is no state, or nothing has been added to it.
    pub fn borrowed(state: Option<&mut Self>) -> Result<(Array, Array)> {
        let missing =
            || Error::argument("state", "a layer that shares keys and values needs the state that holds them");
        let state = state.ok_or_else(missing)?;
        state.buffers.as_ref().ok_or_else(missing)?;
        state.held(state.start, state.end)
    }

    /// Adds the keys and values `[B, L, Hkv, D]` of a call; returns all that its queries see, `[B, S, Hkv, D]`.
    ///
    /// # Errors
    /// When they are to be packed and D is no multiple of 32.
    pub fn update(&mut self, keys: Array, values: Array) -> Result<(Array, Array)> {
        let [_, length, _, _] = math::shape(&keys)?;
        let visible = self.keys(length);
        if let Some(window) = self.window {
            self.start = self.start.max(self.end - (window - 1));
        }
        let new = [self.form.store(&keys)?, self.form.store(&values)?];
        self.make_room(&new, length)?;
        let (start, end) = (self.end, self.end + length);
        for (old, new) in self.buffers.iter_mut().flatten().flatten().zip(new.into_iter().flatten()) {
            old.try_index_mut((.., .., start..end), new)?;
        }
        self.end = end;
        self.seen += length;
        self.held(end - visible, end)
    }

    /// Keys and values of some tokens.
    fn held(&self, start: i32, end: i32) -> Result<(Array, Array)> {
        let [keys, values] =
            self.buffers.as_ref().ok_or_else(|| Error::argument("state", "nothing has been added to it"))?;
        let some = |parts: &[Array]| {
            let parts = parts.iter().map(|part| math::slice(part, TOKENS, start, end)).collect::<Result<Vec<_>>>()?;
            swapped(&self.form.restore(&parts)?)
        };
        Ok((some(keys)?, some(values)?))
    }

    /// Lets `length` tokens fit behind `end`: grows, or moves what is still seen to the front.
    fn make_room(&mut self, like: &[Vec<Array>; 2], length: i32) -> Result<()> {
        let capacity = match self.arrays().next() {
            Some(part) => {
                let [_, _, room, _] = math::shape(part)?;
                room
            }
            None => 0,
        };
        if self.end + length <= capacity {
            return Ok(());
        }
        let held = self.end - self.start;
        let wanted = match self.window {
            Some(window) => (held + length).max(2 * window),
            None => (held + length + STEP - 1) / STEP * STEP,
        };
        let (start, end) = (self.start, self.end);
        let [old_keys, old_values] = self.buffers.take().unwrap_or_default();
        let renew = |old: Vec<Array>, like: &[Array]| -> Result<Vec<Array>> {
            let mut old = old.into_iter();
            let renewed = like.iter().map(|like| {
                let [batch, heads, _, dim] = math::shape(like)?;
                let room = |length: i32| ops::zeros_dtype(&[batch, heads, length, dim], like.dtype());
                match old.next() {
                    Some(old) if held > 0 => {
                        let kept = math::slice(&old, TOKENS, start, end)?;
                        Ok(ops::concatenate(&[kept, room(wanted - held)?], TOKENS)?)
                    }
                    _ => Ok(room(wanted)?),
                }
            });
            renewed.collect()
        };
        self.buffers = Some([renew(old_keys, &like[0])?, renew(old_values, &like[1])?]);
        (self.start, self.end) = (0, held);
        Ok(())
    }
}

/// What a number in a cache is stored as.
#[derive(Clone, Copy, Debug, Default)]
enum Form {
    /// Itself.
    #[default]
    Dense,
    /// `bits` of it, with a scale and a bias for each group.
    Packed { bits: i32 },
}

impl Form {
    /// `[B, L, Hkv, D]` → the arrays that are stored, `[B, Hkv, L, …]` each.
    fn store(self, x: &Array) -> Result<Vec<Array>> {
        let Self::Packed { bits } = self else { return Ok(vec![swapped(x)?]) };
        let [_, _, _, dim] = math::shape(x)?;
        let (words, scales, biases) = ops::quantize(x, group(dim)?, bits)?;
        [words, scales, biases].iter().map(swapped).collect()
    }

    /// The way back to `[B, Hkv, L, D]`, up to the rounding.
    fn restore(self, parts: &[Array]) -> Result<Array> {
        match (self, parts) {
            (Self::Dense, [x]) => Ok(x.clone()),
            (Self::Packed { bits }, [words, scales, biases]) => {
                let [_, _, _, columns] = math::shape(words)?;
                Ok(ops::dequantize(words, scales, biases, group(columns * 32 / bits)?, bits)?)
            }
            _ => Err(Error::argument("state", "its buffers are of another form")),
        }
    }
}

/// With tokens and heads in each other's place.
fn swapped(x: &Array) -> Result<Array> {
    Ok(x.swap_axes(1, 2)?)
}

/// How many features of a head share a scale.
fn group(dim: i32) -> Result<i32> {
    let fits = GROUPS.into_iter().find(|group| dim % group == 0);
    fits.ok_or_else(|| {
        let problem = format!("heads of {dim} features cannot be packed, only multiples of 32; keep this cache dense");
        Error::argument("kv_bits", problem)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Init, Mask, Score, attend, testing::difference};
    use mlx_rs::Dtype;

    /// Keys that are their own position, so that what is seen can be read.
    fn keys(from: i32, length: i32) -> Array {
        let data: Vec<f32> = (from..from + length).map(|position| position as f32).collect();
        math::array(&data, &[1, length, 1, 1]).unwrap()
    }

    fn run(mut cache: KvCache, calls: &[i32]) -> Vec<Vec<f32>> {
        let mut from = 0;
        let mut seen = vec![];
        for &length in calls {
            let expected = cache.keys(length);
            let (k, v) = cache.update(keys(from, length), keys(from, length)).unwrap();
            let k = math::read::<f32>(&k).unwrap();
            assert_eq!(k, math::read::<f32>(&v).unwrap());
            assert_eq!(k.len() as i32, expected);
            seen.push(k);
            from += length;
            assert_eq!(cache.seen(), from);
        }
        seen
    }

    fn range(from: i32, to: i32) -> Vec<f32> {
        (from..to).map(|position| position as f32).collect()
    }

    #[test]
    fn a_growing_cache_keeps_everything_across_its_steps() {
        let seen = run(KvCache::growing(), &[5, 1, 260, 1, 300]);
        for (seen, end) in seen.iter().zip([5, 6, 266, 267, 567]) {
            assert_eq!(*seen, range(0, end));
        }
    }

    #[test]
    fn a_rotating_cache_keeps_the_window_in_order_of_time() {
        let calls: Vec<i32> = [3, 1, 1, 7, 1, 2].into_iter().chain([1; 20]).collect();
        let mut end = 0;
        for (seen, length) in run(KvCache::rotating(4), &calls).into_iter().zip(calls) {
            end += length;
            assert_eq!(seen, range((end - length - 3).max(0), end));
        }
    }

    #[test]
    fn a_cache_goes_back_as_far_as_it_remembers() {
        for (window, calls, back, possible) in [
            (None, &[5, 1, 300, 1][..], 3, true),
            (None, &[5], 0, true),
            (None, &[5], 6, false),
            (None, &[5], -1, false),
            (Some(4), &[3, 1, 1], 2, true),
            (Some(4), &[3, 1, 1, 1, 1], 5, true),
            (Some(4), &[3, 1, 1, 1, 1, 1, 1], 8, true),
            (Some(4), &[3, 1, 1, 1, 1, 1, 1], 7, false),
            (Some(4), &[9], 9, true),
        ] {
            let mut cache = window.map_or_else(KvCache::growing, KvCache::rotating);
            let mut from = 0;
            for &length in calls {
                cache.update(keys(from, length), keys(from, length)).unwrap();
                from += length;
            }
            assert_eq!(cache.rewind(back), possible, "{window:?} {calls:?} to {back}");
            let at = if possible { back } else { from };
            assert_eq!(cache.seen(), at);
            let (k, _) = cache.update(keys(at, 2), keys(at, 2)).unwrap();
            let oldest = window.map_or(0, |window| (at - (window - 1)).max(0));
            assert_eq!(math::read::<f32>(&k).unwrap(), range(oldest, at + 2), "{window:?} {calls:?} to {back}");
        }
    }

    #[test]
    fn a_rotating_cache_stays_small() {
        let mut cache = KvCache::rotating(4);
        for from in 0..100 {
            cache.update(keys(from, 1), keys(from, 1)).unwrap();
        }
        assert_eq!(cache.bytes(), 2 * 8 * 4);
    }

    /// Keys and values of a call, and queries to ask them.
    fn call(length: i32, dim: i32, init: &mut Init) -> [Array; 3] {
        [6, 2, 2].map(|heads| init.normal(&[2, length, heads, dim], 1.0).unwrap().get())
    }

    /// MLX's rounding of the whole at once.
    fn rounded(x: &[Array], group: i32, bits: i32) -> Array {
        let x = ops::concatenate(x, 1).unwrap();
        let (words, scales, biases) = ops::quantize(&x, group, bits).unwrap();
        ops::dequantize(words, scales, &biases, group, bits).unwrap()
    }

    #[test]
    fn attention_over_a_packed_cache_is_attention_over_the_rounded_keys_and_values() {
        let mut init = Init::default();
        for (dim, group) in [(64, 64), (128, 64), (96, 32), (32, 32)] {
            for (bits, window) in [(4, None), (8, None), (4, Some(5)), (8, Some(5))] {
                let empty = window.map_or_else(KvCache::growing, KvCache::rotating);
                let mut cache = empty.packed(bits).unwrap();
                let (mut keys, mut values) = (vec![], vec![]);
                for length in [3, 1, 300, 1, 2] {
                    let [q, k, v] = call(length, dim, &mut init);
                    keys.push(k.clone());
                    values.push(v.clone());
                    let visible = cache.keys(length);
                    let (k, v) = cache.update(k, v).unwrap();
                    let mask = window.map_or_else(Mask::causal, Mask::sliding);
                    let mask = mask.lower(length, visible, Dtype::Float32).unwrap();
                    let attended = |k: &Array, v: &Array| attend(&q, k, v, &mask, &Score::of(dim), None).unwrap();
                    let newest = |x: &[Array]| {
                        let x = rounded(x, group, bits);
                        let [_, end, _, _] = math::shape(&x).unwrap();
                        math::slice(&x, 1, end - visible, end).unwrap()
                    };
                    let expected = attended(&newest(&keys), &newest(&values));
                    let apart = difference(&attended(&k, &v), &expected);
                    assert!(apart < 1e-5, "{apart} at {dim} features, {bits} bits");
                }
            }
        }
    }

    #[test]
    fn what_is_packed_is_close_to_what_was_added() {
        let [_, k, v] = call(7, 64, &mut Init::default());
        let highest = |x: &Array| math::read::<f32>(&x.max(None).unwrap()).unwrap()[0];
        let range = highest(&k) + highest(&k.negative().unwrap());
        for bits in [4, 8] {
            let step = range / (2_f32.powi(bits) - 1.0);
            let mut cache = KvCache::growing().packed(bits).unwrap();
            let (packed, _) = cache.update(k.clone(), v.clone()).unwrap();
            let apart = difference(&packed, &k);
            assert!(apart > 0.0 && apart < step, "{apart} with {bits} bits");
            let (borrowed, _) = KvCache::borrowed(Some(&mut cache)).unwrap();
            assert_eq!(difference(&borrowed, &packed), 0.0);
        }
    }

    #[test]
    fn packing_takes_the_memory_that_it_says() {
        let bytes = |cache: KvCache, dtype| {
            let mut cache = cache;
            let [_, k, v] = call(10, 64, &mut Init::default()).map(|x| x.as_dtype(dtype).unwrap());
            let (k, _) = cache.update(k, v).unwrap();
            assert_eq!(k.dtype(), dtype);
            cache.bytes() as f64
        };
        for (dtype, wide) in [(Dtype::Bfloat16, 16.0), (Dtype::Float32, 32.0)] {
            let dense = bytes(KvCache::growing(), dtype);
            for bits in [4, 8] {
                let packed = bytes(KvCache::growing().packed(bits).unwrap(), dtype);
                assert_eq!(packed / dense, (f64::from(bits) + 2.0 * wide / 64.0) / wide);
            }
        }
    }

    #[test]
    fn what_cannot_be_packed_says_so() {
        for bits in [0, -4, 3, 16] {
            assert!(KvCache::growing().packed(bits).unwrap_err().to_string().contains("kv_bits"));
        }
        let [_, k, v] = call(2, 80, &mut Init::default());
        let mut cache = KvCache::rotating(4).packed(8).unwrap();
        assert!(cache.update(k.clone(), v.clone()).unwrap_err().to_string().contains("80 features"));
        let mut held = KvCache::growing();
        held.update(k, v).unwrap();
        assert!(held.packed(8).is_err());
    }

    #[test]
    fn a_cleared_cache_is_as_it_was_made() {
        let [_, k, v] = call(9, 32, &mut Init::default());
        let mut cache = KvCache::rotating(4).packed(4).unwrap();
        cache.update(k.clone(), v.clone()).unwrap();
        let bytes = cache.bytes();
        cache.clear();
        assert_eq!((cache.bytes(), cache.seen()), (0, 0));
        cache.update(k, v).unwrap();
        assert_eq!(cache.bytes(), bytes);
    }
}
