//! Training a transformer, and the encoder of its texts, to make pictures.

use super::{
    TrainEvent, TrainObserver,
    examples::{pixels, plain, seen},
    lesson::Lesson,
    recipe::{Parts, TextToImageRecipe},
    run::tell,
    snapshot,
};
use crate::{
    Error, Open, Result,
    autoencoder_kl::AutoencoderKl,
    composed::{ComposedTransformer, Encoder, Feed, Inputs, Texts},
    data::{ArrayCache, Batches, Captions, Example, ImageFolder, Key, weights_digest},
    families::Composed,
    image::{ImageRequest, patches},
    picture::{self, Picture},
    registry::{Checkpoint, Family, json_config, open_model},
    text::Tokenizer,
};
use framework::{
    Array, Dtype, Init, Module, Result as Outcome, math,
    sample::{Noising, Prediction},
    train::{Loss, Named, Objective},
    vae::{Gaussian, KlVae},
    weights::{Config, Header},
};
use serde_json::json;
use std::{
    ops::{ControlFlow, Range},
    path::Path,
};

/// Pictures, or captions, that are encoded at once.
const AT_ONCE: usize = 32;
/// The names of a batch's arrays.
const LATENTS: &str = "latents";
const IDS: &str = "input_ids";
const MASK: &str = "attention_mask";
const STATES: &str = "encoder_hidden_states";

/// What is trained.
struct Learned {
    transformer: ComposedTransformer,
    text_encoder: Option<ComposedTransformer>,
}
framework::module! { impl[] Learned { transformer, text_encoder } }

/// A model, and its pictures as latents.
pub(super) struct TextToImage<'r> {
    recipe: &'r TextToImageRecipe,
    learned: Learned,
    encoder: Option<Encoder>,
    feed: Feed,
    /// Where patches and tokens stand.
    places: Inputs,
    /// `[N, rows · columns, C · p²]`, f32; then the same of the mirrored pictures, if there are any.
    latents: Array,
    captions: Captions,
    /// What a text encoder that stays as it is makes of every caption, `[M + 1, T, D]`.
    states: Option<Array>,
    batches: Batches,
    /// How many pictures there are.
    count: u32,
}

impl<'r> TextToImage<'r> {
    /// Builds the parts of the recipe, and reads its pictures through the autoencoder.
    pub fn new(
        recipe: &'r TextToImageRecipe,
        pictures: &ImageFolder,
        observer: &mut TrainObserver<'_>,
    ) -> Result<Self> {
        let Parts { transformer, text_encoder, tokenizer, vae, text_tokens, .. } = &recipe.model;
        let init = &mut Init::new(Dtype::Float32, recipe.seed);
        let trained = text_encoder.as_ref().filter(|path| path.is_file());
        let given = text_encoder.as_ref().filter(|path| !path.is_file());
        let learned = Learned {
            transformer: built(transformer, init)?,
            text_encoder: trained.map(|path| built(path, init)).transpose()?,
        };
        let frozen = given.map(|path| opened::<Composed>(path)).transpose()?;
        let encoder = learned.text_encoder.as_ref().or(frozen.as_ref()).map(Encoder::of).transpose()?;
        let vae = opened::<AutoencoderKl>(vae)?;
        let misfit = |error: framework::Error| Error::from(error).about(transformer);
        let feed = Feed::new(&learned.transformer, vae.channels(), encoder).map_err(misfit)?;
        let multiple = vae.factor().saturating_mul(feed.patch);
        let side = recipe.data.side as i32;
        if side.checked_rem(multiple) != Some(0) {
            let problem =
                format!("{side} is not a multiple of {multiple}, which a patch of the transformer stands for");
            return Err(Error::argument("data.side", problem));
        }
        let captions = Captions::new(pictures, &Tokenizer::from_snapshot(tokenizer)?, *text_tokens)?;
        if let Some(id) = captions.ids().iter().find(|&&id| id >= feed.vocabulary) {
            let problem =
                format!("has the token {id}, and its encoder knows {}: it is another model's", feed.vocabulary);
            return Err(Error::file(tokenizer, problem));
        }
        if captions.cut() > 0 {
            let text = format!("{} captions are longer than {text_tokens} tokens, and are cut", captions.cut());
            tell(observer, &TrainEvent::Note(&text))?;
        }
        let mut store = Store { cache: ArrayCache::new(recipe.out.join("cache")), observer };
        let grid = [side / multiple; 2];
        let batches = Batches::new(pictures.len(), recipe.training.batch, recipe.seed)?;
        Ok(Self {
            latents: store.latents(&vae, pictures, feed.patch, recipe.data.flip > 0.0)?,
            states: match (frozen, encoder) {
                (Some(model), Some(encoder)) => Some(store.states(&model, encoder, &captions)?),
                _ => None,
            },
            places: feed.places(grid, *text_tokens)?,
            batches: batches.dropping(recipe.data.drop)?.flipping(recipe.data.flip)?,
            count: pictures.len() as u32,
            recipe,
            learned,
            encoder,
            feed,
            captions,
        })
    }

    fn batch(&self, examples: &[Example]) -> Result<Named> {
        let place = |example: &Example| (example.picture + if example.flipped { self.count } else { 0 }) as i32;
        let places: Vec<i32> = examples.iter().map(place).collect();
        let places = math::array(&places, &[places.len() as i32])?;
        let rows: Vec<u32> = examples.iter().map(|example| self.captions.row(example)).collect();
        let (ids, mask) = self.captions.tokens(&rows)?;
        let mut batch = Named::from([
            (LATENTS.to_owned(), self.latents.take_axis(&places, 0)?),
            (IDS.to_owned(), ids),
            (MASK.to_owned(), mask),
        ]);
        if let Some(states) = &self.states {
            let rows: Vec<i32> = rows.into_iter().map(|row| row as i32).collect();
            batch.insert(STATES.to_owned(), states.take_axis(math::array(&rows, &[rows.len() as i32])?, 0)?);
        }
        Ok(batch)
    }
}

/// The composed model of a config, with parameters from `init`.
fn built(config: &Path, init: &mut Init) -> Result<ComposedTransformer> {
    let none = Header::default();
    let checkpoint = Checkpoint { config: Config::Json(snapshot::config(config)?), header: &none, tensors: None };
    let about = |error: Error| error.about(config);
    let parsed = json_config::<Composed>(&checkpoint).map_err(about)?;
    let parsed = parsed.ok_or_else(|| Error::file(config, "is no config of a composed model"))?;
    Composed::build(&parsed, init).map_err(|error| about(error.into()))
}

/// A trained component, in the dtype that suits the machine.
fn opened<F: Family>(folder: &Path) -> Result<F::Model> {
    let options = Open::default().resolve(folder)?;
    open_model::<F>(folder, options, &mut |_, _| ControlFlow::Continue(())).map_err(|error| error.about(folder))
}

/// What is computed once, and kept beside the training.
struct Store<'a, 'o> {
    cache: ArrayCache,
    observer: &'a mut TrainObserver<'o>,
}

impl Store<'_, '_> {
    /// All pictures as the transformer's patches, `[N, L, C·p²]`, f32.
    fn latents(&mut self, vae: &KlVae, pictures: &ImageFolder, patch: i32, mirrored: bool) -> Result<Array> {
        let mut shown: Vec<Example> = (0..pictures.len() as u32).map(plain).collect();
        if mirrored {
            shown.extend(shown.clone().into_iter().map(|example| Example { flipped: true, ..example }));
        }
        let key = Key::from([
            ("pictures".into(), pictures.digest().to_owned()),
            ("autoencoder".into(), weights_digest(vae)?),
            ("patch".into(), patch.to_string()),
            ("mirrored".into(), mirrored.to_string()),
        ]);
        let dtype = framework::params(vae).values().next().map_or(Dtype::Float32, |param| param.dtype());
        self.kept("latents", &key, shown.len(), &mut |rows| {
            let image = seen(&pixels(pictures, shown.get(rows).unwrap_or_default())?, dtype)?;
            let z = Gaussian::new(&vae.encode(&image)?)?.mode().as_dtype(Dtype::Float32)?;
            Ok(patches::packed(&vae.latents.normalise(&z)?, patch)?)
        })
    }

    /// What a text encoder makes of all captions, `[M + 1, T, D]`, in its dtype.
    fn states(&mut self, model: &ComposedTransformer, encoder: Encoder, captions: &Captions) -> Result<Array> {
        let key = Key::from([
            ("captions".into(), captions.digest().to_owned()),
            ("text_encoder".into(), weights_digest(model)?),
        ]);
        self.kept("text", &key, captions.len() + 1, &mut |rows| {
            let rows: Vec<u32> = rows.map(|row| row as u32).collect();
            let (ids, mask) = captions.tokens(&rows)?;
            Ok(encoder.states(model, &ids, &mask)?)
        })
    }

    fn kept(
        &mut self,
        name: &'static str,
        key: &Key,
        rows: usize,
        compute: &mut dyn FnMut(Range<usize>) -> Result<Array>,
    ) -> Result<Array> {
        let observer = &mut *self.observer;
        let (mut arrays, origin) = self.cache.get(name, key, rows, AT_ONCE, &mut |range| {
            let done = range.end as u64;
            let array = compute(range)?;
            array.eval()?;
            tell(observer, &TrainEvent::Preparing { stage: name, done, total: rows as u64 })?;
            Ok(Named::from([(name.to_owned(), array)]))
        })?;
        tell(observer, &TrainEvent::Note(&format!("{name}: {origin}")))?;
        arrays.remove(name).ok_or_else(|| Error::argument(name, "is not in the cache"))
    }
}

impl Lesson for TextToImage<'_> {
    fn module(&self) -> &dyn Module {
        &self.learned
    }

    fn parts(&self) -> &[&'static str] {
        &[]
    }

    fn batches(&self, done: u64, parts: usize) -> Result<Vec<Named>> {
        let examples = self.batches.examples(done);
        examples.chunks(examples.len().div_ceil(parts)).map(|examples| self.batch(examples)).collect()
    }

    fn loss(&self, batch: &Named, key: &Array) -> Outcome<Loss> {
        let take = |name: &str| {
            let missing = || framework::Error::argument(name, "is not in the batch");
            batch.get(name).cloned().ok_or_else(missing)
        };
        let weighting = self.recipe.loss.weighting;
        let objective = Objective { noising: Noising::Flow, prediction: Prediction::Flow, weighting };
        let clean = take(LATENTS)?.as_dtype(self.recipe.training.precision.dtype())?;
        let noised = objective.noised(&clean, &self.recipe.loss.timesteps, key)?;
        let (ids, mask) = (take(IDS)?, take(MASK)?);
        let hidden = match (&self.learned.text_encoder, self.encoder) {
            (Some(model), Some(encoder)) => Some(encoder.states(model, &ids, &mask)?),
            _ => batch.get(STATES).cloned(),
        };
        let texts = Texts { ids, mask, hidden };
        let inputs = self.feed.inputs(noised.input.clone(), noised.levels.sigma.clone(), texts, &self.places);
        let velocity = self.learned.transformer.forward(&inputs)?;
        Ok(Loss::of(objective.loss(&velocity, &noised)?))
    }

    fn export(&self, folder: &Path) -> Result<()> {
        let TextToImageRecipe { model, recommended, data, .. } = self.recipe;
        snapshot::component(&folder.join("transformer"), &model.transformer, &self.learned.transformer)?;
        match (&model.text_encoder, &self.learned.text_encoder) {
            (Some(config), Some(encoder)) => snapshot::component(&folder.join("text_encoder"), config, encoder)?,
            (Some(given), None) => snapshot::copy(given, &folder.join("text_encoder"))?,
            (None, _) => {}
        }
        snapshot::copy(&model.vae, &folder.join("vae"))?;
        snapshot::copy(&model.tokenizer, &folder.join("tokenizer"))?;
        let scheduler = json!({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": model.shift});
        snapshot::json(&folder.join("scheduler/scheduler_config.json"), &scheduler)?;
        let recommended = json!({
            "size": [data.side, data.side],
            "steps": recommended.steps,
            "guidance": recommended.guidance,
            "text_tokens": model.text_tokens,
        });
        let index = json!({"_class_name": "ComposedPipeline", "recommended": recommended});
        snapshot::json(&folder.join("model_index.json"), &index)
    }

    /// A picture of each prompt, as anyone would ask for it.
    fn samples(&self, snapshot: &Path) -> Result<Picture> {
        let generator = Open::default().generator_at(snapshot, false)?;
        let prompts = self.recipe.samples.clone();
        let request = ImageRequest { prompts, ..generator.capabilities().request() };
        let pixels = generator.generate(&request, &mut |_| ControlFlow::Continue(()))?;
        picture::square_sheet(&Picture::all(&pixels)?)
    }
}
