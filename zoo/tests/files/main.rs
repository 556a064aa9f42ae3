//! Models from the files that people have: a map and a config alone, snapshots as MLX's tools pack them, repositories.

mod hub;
mod map;
mod packed;

use framework::{
    Dtype, math,
    weights::{Packed, Source},
};
use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
};
use zoo::{Checkpoint, MODELS, OpenOptions, Result, registry};

/// A place in the repository.
fn place(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)
}

/// What follows a prompt greedily, a token at a time, and the logits right after it.
fn continued(folder: &Path, packed: Packed, prompt: &[u32], count: usize) -> Result<(Vec<u32>, Vec<f32>)> {
    let source = Source::open(folder)?;
    let checkpoint = Checkpoint::of(&source)?;
    let entry = registry::of(MODELS, &checkpoint, folder)?;
    let options = OpenOptions { dtype: Dtype::Float32, packed };
    let opened = entry.open(&checkpoint, options, &mut |_, _| ControlFlow::Continue(()))?;
    let model = entry.causal_lm(&*opened).unwrap();
    let mut state = model.state();
    let mut next = |tokens: &[u32]| -> Result<Vec<f32>> {
        let ids = math::array(tokens, &[1, tokens.len() as i32])?;
        Ok(math::read::<f32>(&model.next(&ids, &mut state)?)?)
    };
    let first = next(prompt)?;
    let (mut logits, mut tokens) = (first.clone(), Vec::new());
    while tokens.len() < count {
        let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
        tokens.push(best as u32);
        logits = next(&[best as u32])?;
    }
    Ok((tokens, first))
}
