//! Predicting the next token.

use framework::{Array, KvCache, Result};

/// A model that continues a sequence of tokens.
pub trait CausalLm {
    /// The state of an empty sequence: a cache a layer.
    fn state(&self) -> Vec<KvCache>;

    /// Appends tokens `[B, L]` to the sequences in `state` → logits of the token after each, `[B, vocabulary]`.
    fn next(&self, ids: &Array, state: &mut [KvCache]) -> Result<Array>;

    /// How many tokens there are.
    fn vocabulary(&self) -> i32;

    /// The longest sequence that the model was made for, in tokens.
    fn context(&self) -> i32;
}
