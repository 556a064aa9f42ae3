//! Training an image autoencoder.

use super::{
    examples::{pixels, plain, seen},
    lesson::Lesson,
    recipe::{AutoencoderRecipe, Reconstruction},
    snapshot,
};
use crate::{
    Error, Family, Result,
    autoencoder_kl::{AutoencoderKl, AutoencoderKlConfig},
    data::{Batches, Example, ImageFolder},
    image::bytes,
    picture::{self, Picture},
    registry::parse_config,
};
use framework::{
    Array, Dtype, Init, Module, math,
    train::{Loss, Named},
    vae::{Gaussian, KlVae},
    weights,
};
use mlx_rs::{ops, random};
use serde_json::{Value, json};
use std::{fs, path::Path};

/// Pictures that are encoded at once beside the steps.
const AT_ONCE: usize = 16;
/// Pictures that the scale of the latents is measured on.
const MEASURED: usize = 1024;

/// An autoencoder and pictures.
pub(super) struct Autoencoder {
    vae: KlVae,
    /// As the recipe's file has it.
    json: Value,
    config: AutoencoderKlConfig,
    loss: Reconstruction,
    pictures: ImageFolder,
    batches: Batches,
    /// What a step computes in.
    dtype: Dtype,
    samples: usize,
}

impl Autoencoder {
    /// Builds the model of the recipe over its pictures.
    pub fn new(recipe: &AutoencoderRecipe, pictures: ImageFolder) -> Result<Self> {
        let about = |error: Error| error.about(&recipe.config);
        let json = snapshot::config(&recipe.config)?;
        let (config, unread) = parse_config::<AutoencoderKlConfig>(&json).map_err(about)?;
        if let Some(key) = unread.iter().find(|key| !key.starts_with('_')) {
            let problem = format!("`{key}` is no key of an AutoencoderKL; what it asks for would be lost");
            return Err(Error::file(&recipe.config, problem));
        }
        let init = &mut Init::new(Dtype::Float32, recipe.seed);
        let vae = AutoencoderKl::build(&config, init).map_err(|error| about(error.into()))?;
        let side = recipe.data.side as i32;
        if side.checked_rem(vae.factor()) != Some(0) {
            let problem = format!("{side} is not a multiple of {}, by which the autoencoder shrinks", vae.factor());
            return Err(Error::argument("data.side", problem));
        }
        Ok(Self {
            batches: Batches::new(pictures.len(), recipe.training.batch, recipe.seed)?.flipping(recipe.data.flip)?,
            dtype: recipe.training.precision.dtype(),
            loss: recipe.loss,
            samples: recipe.samples,
            vae,
            json,
            config,
            pictures,
        })
    }

    /// So many pictures from everywhere among all.
    fn spread(&self, most: usize) -> Vec<Example> {
        let count = self.pictures.len().min(most);
        (0..count).map(|place| plain((place * self.pictures.len() / count.max(1)) as u32)).collect()
    }

    /// Mean and standard deviation of every channel of the latents.
    fn moments(&self) -> Result<(Vec<f32>, Vec<f32>)> {
        let mut latents = Vec::new();
        for examples in self.spread(MEASURED).chunks(AT_ONCE) {
            let image = seen(&pixels(&self.pictures, examples)?, self.dtype)?;
            let z = Gaussian::new(&self.vae.encode(&image)?)?.mode().as_dtype(Dtype::Float32)?;
            let z = z.reshape(&[-1, self.vae.channels()])?;
            z.eval()?;
            latents.push(z);
        }
        let z = ops::concatenate(&latents, 0)?;
        let deviation = ops::maximum(ops::std_axes(&z, &[0], false, None)?, math::scalar(1e-6, Dtype::Float32)?)?;
        Ok((math::read(&z.mean_axes(&[0], false)?)?, math::read(&deviation)?))
    }

    fn reconstructed(&self, image: &Array) -> framework::Result<Array> {
        self.vae.decode(&Gaussian::new(&self.vae.encode(image)?)?.mode())
    }
}

/// The mean distance of the differences between neighbours along an axis.
fn edges(error: &Array, axis: i32) -> framework::Result<Array> {
    let length = error.shape().get(axis as usize).copied().unwrap_or_default();
    let (after, before) = (math::slice(error, axis, 1, length)?, math::slice(error, axis, 0, length - 1)?);
    Ok(after.subtract(before)?.abs()?.mean(None)?)
}

impl Lesson for Autoencoder {
    fn module(&self) -> &dyn Module {
        &self.vae
    }

    fn parts(&self) -> &[&'static str] {
        &["l1", "gradient", "kl"]
    }

    fn batches(&self, done: u64, parts: usize) -> Result<Vec<Named>> {
        let examples = self.batches.examples(done);
        let batch = |examples: &[Example]| Ok(Named::from([("image".into(), pixels(&self.pictures, examples)?)]));
        examples.chunks(examples.len().div_ceil(parts)).map(batch).collect()
    }

    fn loss(&self, batch: &Named, key: &Array) -> framework::Result<Loss> {
        let image = batch.get("image").ok_or_else(|| framework::Error::argument("image", "is not in the batch"))?;
        let image = seen(image, self.dtype)?;
        let gaussian = Gaussian::new(&self.vae.encode(&image)?)?;
        let noise = random::normal::<f32>(gaussian.mean.shape(), None, None, key)?;
        let decoded = self.vae.decode(&gaussian.sample(&noise)?)?;
        let error = decoded.as_dtype(Dtype::Float32)?.subtract(image.as_dtype(Dtype::Float32)?)?;

        let l1 = error.abs()?.mean(None)?;
        let gradient = edges(&error, 1)?.add(edges(&error, 2)?)?;
        let (mean, log_variance) =
            (gaussian.mean.as_dtype(Dtype::Float32)?, gaussian.log_variance.as_dtype(Dtype::Float32)?);
        let divergence = mean.square()?.add(log_variance.exp()?)?.subtract(&log_variance)?;
        let kl = math::scaled(&math::offset(&divergence, -1.0)?.mean(None)?, 0.5)?;

        let mut value = math::scaled(&l1, self.loss.l1)?;
        value = value.add(math::scaled(&gradient, self.loss.gradient)?)?;
        value = value.add(math::scaled(&kl, self.loss.kl)?)?;
        Ok(Loss { value, aux: vec![l1, gradient, kl] })
    }

    /// The weights, and the config with the scale of the latents as they are now.
    fn export(&self, folder: &Path) -> Result<()> {
        let (mean, deviation) = self.moments()?;
        let mut json = self.json.clone();
        if let Some(fields) = json.as_object_mut() {
            fields.insert("_class_name".into(), json!("AutoencoderKL"));
            fields.insert("scaling_factor".into(), json!(1.0));
            fields.insert("shift_factor".into(), Value::Null);
            fields.insert("latents_mean".into(), json!(mean));
            fields.insert("latents_std".into(), json!(deviation));
        }
        let path = folder.join("config.json");
        fs::write(&path, format!("{json:#}\n")).map_err(|error| Error::file(&path, error.to_string()))?;
        let [layout, ..] = AutoencoderKl::layouts() else {
            return Err(Error::argument("layout", "the family names none"));
        };
        let path = folder.join("diffusion_pytorch_model.safetensors");
        Ok(weights::save(&self.vae, &(layout.map)(&self.config), None, &path)?)
    }

    /// Pictures in a row, and below each what the autoencoder makes of it.
    fn samples(&self, _snapshot: &Path) -> Result<Picture> {
        let mut rows = [Vec::new(), Vec::new()];
        for example in self.spread(self.samples) {
            let shown = pixels(&self.pictures, &[example])?;
            let again = self.reconstructed(&seen(&shown, self.dtype)?)?.as_dtype(Dtype::Float32)?;
            for (row, pixels) in rows.iter_mut().zip([shown, bytes(&again)?]) {
                row.extend(Picture::all(&pixels)?);
            }
        }
        let columns = self.spread(self.samples).len();
        picture::sheet(&rows.concat(), columns)
    }
}
