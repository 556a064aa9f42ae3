//! Predicting the next token.

use framework::{Array, KvCache, Result};

/// A model that continues a sequence of tokens.
pub trait CausalLm {
    /// The state of an empty sequence: a cache a layer.
    fn state(&self) -> Vec<KvCache>;

    /// Appends tokens `[B, L]` to the sequences in `state` → logits of the token after each, `[B, vocabulary]`.
    fn next(&self, ids: &Array, state: &mut [KvCache]) -> Result<Array> {
        self.next_padded(ids, &[], state)
    }

    /// As [`next`](Self::next) for sequences of which row `b` began with `pads[b]` tokens that mean nothing and stand nowhere;
    /// without `pads`, none did.
    ///
    /// # Errors
    /// When there are pads, and not one number a row.
    fn next_padded(&self, ids: &Array, pads: &[i32], state: &mut [KvCache]) -> Result<Array>;

    /// As [`next`](Self::next) for the token after each of them, `[B, L, vocabulary]`.
    fn next_of_each(&self, ids: &Array, state: &mut [KvCache]) -> Result<Array>;

    /// How many tokens there are.
    fn vocabulary(&self) -> i32;

    /// The longest sequence that the model was made for, in tokens.
    fn context(&self) -> i32;
}
