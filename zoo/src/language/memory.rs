//! What a model remembers of the last sequence, so that one that begins alike is not read again.

use framework::KvCache;

/// Tokens that were read, and the state after them.
#[derive(Default)]
pub struct Memory {
    tokens: Vec<u32>,
    state: Vec<KvCache>,
    kv_bits: Option<i32>,
}

impl Memory {
    /// Of a sequence that was read to its last token, with caches of so many bits.
    pub fn of(tokens: Vec<u32>, state: Vec<KvCache>, kv_bits: Option<i32>) -> Self {
        Self { tokens, state, kv_bits }
    }

    /// The state after what `prompt` has in common with the remembered sequence, and how many tokens that are; at least one
    /// of the prompt is left to be read. Nothing where a sliding window has let go of what the next token would see, or
    /// the caches are of other bits.
    pub fn recall(self, prompt: &[u32], kv_bits: Option<i32>) -> Option<(Vec<KvCache>, usize)> {
        let Self { tokens, mut state, kv_bits: held } = self;
        let common = tokens.iter().zip(prompt).take_while(|(known, token)| known == token).count();
        let common = common.min(prompt.len().saturating_sub(1));
        let rewound = held == kv_bits && common > 0 && state.iter_mut().all(|cache| cache.rewind(common as i32));
        rewound.then_some((state, common))
    }
}
