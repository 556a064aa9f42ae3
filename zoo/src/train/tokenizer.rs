//! Learning a tokenizer from captions.

use super::{Finished, TrainEvent, TrainObserver, recipe::TokenizerRecipe, run::tell, snapshot::made};
use crate::{
    Result,
    data::{bpe, texts},
};

/// Learns the tokens of all captions, whether their pictures can be read or not.
pub(super) fn train(recipe: &TokenizerRecipe, observer: &mut TrainObserver<'_>) -> Result<Finished> {
    let (texts, skipped) = texts(&recipe.data.folder)?;
    for skipped in &skipped {
        tell(observer, &TrainEvent::Skipped(skipped))?;
    }
    made(&recipe.out)?;
    bpe::train(texts.iter().map(String::as_str), recipe.vocabulary)?.write(&recipe.out)?;
    tell(observer, &TrainEvent::Wrote { what: "tokenizer", path: &recipe.out })?;
    Ok(Finished::Whole { steps: 1 })
}
