//! Training from a recipe: a tokenizer, an autoencoder, or a text-to-image model, each from nothing.
//!
//! The folder that a training writes has, whatever is trained: `checkpoint/`, from which it goes on exactly (and, when only
//! the slim one is left, from its weights); `snapshot/`, which opens as any model; `samples/`; `log.jsonl`, a line a step;
//! and `loss.png`. The loop knows no model: a kind of training brings its examples, its loss and its snapshot.

mod autoencoder;
mod curve;
mod event;
mod examples;
mod initial;
mod lesson;
mod log;
mod recipe;
mod run;
mod snapshot;
mod text_to_image;
mod tokenizer;

pub use event::{Entry, Finished, Limits, TrainEvent, TrainObserver};
pub use recipe::{
    AutoencoderRecipe, Captioned, Checkpoints, Denoising, Initial, OptimiserSettings, Parts, Pictures, Precision,
    Recipe, Recommended, Reconstruction, TextToImageRecipe, TokenizerRecipe, Training,
};

use crate::{Result, data::ImageFolder};
use std::{path::Path, time::Instant};

/// Trains what a recipe describes, from the checkpoint of its folder or from nothing.
///
/// # Errors
/// When the recipe, its files or its examples cannot be used, before any step;
/// [`Error::Cancelled`](crate::Error::Cancelled) when the observer breaks, after a checkpoint; a loss that is not finite,
/// with the last checkpoint as it was.
pub fn train(recipe: &Recipe, limits: Limits, observer: &mut TrainObserver<'_>) -> Result<Finished> {
    let clock = run::Clock { started: Instant::now(), limits };
    let out = recipe.out();
    match recipe {
        Recipe::Tokenizer(recipe) => tokenizer::train(recipe, observer),
        Recipe::Autoencoder(recipe) => {
            let pictures = pictures(&recipe.data.folder, recipe.data.side, observer)?;
            let lesson = autoencoder::Autoencoder::new(recipe, pictures)?;
            run::run(&lesson, &recipe.training, &recipe.checkpoints, (out, recipe.seed), &clock, observer)
        }
        Recipe::TextToImage(recipe) => {
            let pictures = pictures(&recipe.data.folder, recipe.data.side, observer)?;
            let lesson = text_to_image::TextToImage::new(recipe, &pictures, observer)?;
            run::run(&lesson, &recipe.training, &recipe.checkpoints, (out, recipe.seed), &clock, observer)
        }
    }
}

/// The pictures of a folder; those that cannot be used are told.
fn pictures(folder: &Path, side: u32, observer: &mut TrainObserver<'_>) -> Result<ImageFolder> {
    let pictures = ImageFolder::open(folder, side)?;
    for skipped in pictures.skipped() {
        run::tell(observer, &TrainEvent::Skipped(skipped))?;
    }
    Ok(pictures)
}
