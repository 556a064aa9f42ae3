//! What a model remembers of the last sequence, so that one that begins alike is not read again.

use framework::KvCache;

/// Tokens that were read, and the state after them.
#[derive(Default)]
pub struct Memory {
    tokens: Vec<u32>,
    state: Vec<KvCache>,
}

impl Memory {
    /// Of a sequence that was read to its last token.
    pub fn of(tokens: Vec<u32>, state: Vec<KvCache>) -> Self {
        Self { tokens, state }
    }

    /// The state after what `prompt` has in common with the remembered sequence, and how many tokens that are; at least one
    /// of the prompt is left to be read. Nothing where a sliding window has let go of what the next token would see.
    pub fn recall(self, prompt: &[u32]) -> Option<(Vec<KvCache>, usize)> {
        let Self { tokens, mut state } = self;
        let common = tokens.iter().zip(prompt).take_while(|(known, token)| known == token).count();
        let common = common.min(prompt.len().saturating_sub(1));
        let rewound = common > 0 && state.iter_mut().all(|cache| cache.rewind(common as i32));
        rewound.then_some((state, common))
    }
}
