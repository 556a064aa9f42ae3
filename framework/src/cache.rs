//! Keys and values of earlier calls.

use crate::{Error, Result, math};
use mlx_rs::{
    Array,
    ops::{self, indexing::TryIndexMutOp},
};

/// How many tokens a growing cache makes room for at a time.
const STEP: i32 = 256;

/// Keys and values of one layer, `[B, S, Hkv, D]` in order of time; owned by the caller of a model.
///
/// A growing cache keeps everything. A rotating one keeps what a sliding window still sees: it writes into a buffer
/// of twice the window and moves the window to the front when the buffer is full, so that a token costs a constant
/// amount on average and the order of time is never lost.
#[derive(Clone, Debug, Default)]
pub struct KvCache {
    buffers: Option<(Array, Array)>,
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
        *self = Self { window: self.window, ..Self::default() };
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
        self.buffers.as_ref().map_or(0, |(keys, values)| keys.nbytes() + values.nbytes())
    }

    /// The arrays, to be evaluated together with a result.
    pub fn arrays(&self) -> impl Iterator<Item = &Array> {
        self.buffers.iter().flat_map(|(keys, values)| [keys, values])
    }

    /// What is held, for a layer that shares this layer's keys and values.
    ///
    /// # Errors
    /// When there is no state, or nothing has been added to it.
    pub fn borrowed(state: Option<&mut Self>) -> Result<(Array, Array)> {
        let missing =
            || Error::argument("state", "a layer that shares keys and values needs the state that holds them");
        let state = state.ok_or_else(missing)?;
        let (keys, values) = state.buffers.as_ref().ok_or_else(missing)?;
        Ok((math::slice(keys, 1, state.start, state.end)?, math::slice(values, 1, state.start, state.end)?))
    }

    /// Adds the keys and values `[B, L, Hkv, D]` of a call; returns all that its queries see, `[B, S, Hkv, D]`.
    pub fn update(&mut self, keys: Array, values: Array) -> Result<(Array, Array)> {
        let [_, length, _, _] = math::shape(&keys)?;
        let visible = self.keys(length);
        if let Some(window) = self.window {
            self.start = self.start.max(self.end - (window - 1));
        }
        self.make_room(&keys, &values, length)?;
        let (start, end) = (self.end, self.end + length);
        let (old_keys, old_values) = self.buffers.as_mut().ok_or_else(|| Error::argument("keys", "no buffer"))?;
        old_keys.try_index_mut((.., start..end), keys)?;
        old_values.try_index_mut((.., start..end), values)?;
        let seen_from = end - visible;
        let seen = (math::slice(old_keys, 1, seen_from, end)?, math::slice(old_values, 1, seen_from, end)?);
        self.end = end;
        self.seen += length;
        Ok(seen)
    }

    /// Lets `length` tokens fit behind `end`: grows, or moves what is still seen to the front.
    fn make_room(&mut self, keys: &Array, values: &Array, length: i32) -> Result<()> {
        let capacity = match &self.buffers {
            Some((keys, _)) => math::shape::<4>(keys)?[1],
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
        let old = self.buffers.take();
        let renew = |old: Option<Array>, like: &Array| -> Result<Array> {
            let [batch, _, heads, dim] = math::shape(like)?;
            let room = |length: i32| ops::zeros_dtype(&[batch, length, heads, dim], like.dtype());
            match old {
                Some(old) if held > 0 => {
                    let kept = math::slice(&old, 1, start, end)?;
                    Ok(ops::concatenate(&[kept, room(wanted - held)?], 1)?)
                }
                _ => Ok(room(wanted)?),
            }
        };
        let (old_keys, old_values) = old.unzip();
        self.buffers = Some((renew(old_keys, keys)?, renew(old_values, values)?));
        (self.start, self.end) = (0, held);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            (Some(4), &[3, 1, 1, 1, 1, 1, 1], 7, true),
            (Some(4), &[3, 1, 1, 1, 1, 1, 1], 6, false),
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
}
