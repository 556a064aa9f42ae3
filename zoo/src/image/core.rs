//! What all families of latent diffusion models have.

use super::{Capabilities, ImageRequest, Scheduler, patches};
use crate::{OpenOptions, Result, autoencoder_kl::AutoencoderKl, component::Component};
use framework::{Array, Dtype, sample::Schedule, vae::KlVae};
use std::path::Path;

/// What a latent diffusion model has beside its texts and its denoiser, whose latents are patches in rows: `[B, L, p² C]`.
pub struct Core {
    /// What may be asked of it.
    pub capabilities: Capabilities,
    /// The autoencoder of its latents.
    pub vae: Component<AutoencoderKl>,
    /// What it computes in.
    pub dtype: Dtype,
    /// Whether components stay in memory when their part is done.
    pub keep: bool,
    scheduler: Scheduler,
    /// Latents on a side of a patch.
    patch: i32,
    /// Features of a patch.
    features: i32,
}

impl Core {
    /// Of a snapshot whose autoencoder is open.
    ///
    /// # Errors
    /// When the scheduler's config is missing or is not one of those that are known.
    pub(crate) fn open(
        snapshot: &Path,
        capabilities: Capabilities,
        (vae, built): (Component<AutoencoderKl>, &KlVae),
        patch: i32,
        options: OpenOptions,
        keep: bool,
    ) -> Result<Self> {
        Ok(Self {
            capabilities,
            vae,
            dtype: options.dtype,
            keep,
            scheduler: Scheduler::open(&snapshot.join("scheduler/scheduler_config.json"))?,
            patch,
            features: built.channels().saturating_mul(patch).saturating_mul(patch),
        })
    }

    /// Rows and columns of patches.
    pub fn grid(&self, request: &ImageRequest) -> [i32; 2] {
        [request.height, request.width].map(|pixels| pixels / self.capabilities.multiple.max(1))
    }

    /// The shape of the noise of so many pictures.
    pub fn noise(&self, request: &ImageRequest, pictures: i32) -> [i32; 3] {
        let [rows, columns] = self.grid(request);
        [pictures, rows * columns, self.features]
    }

    /// The noise levels.
    ///
    /// # Errors
    /// When there are no steps.
    pub fn schedule(&self, request: &ImageRequest) -> Result<Schedule<f64>> {
        let [rows, columns] = self.grid(request);
        self.scheduler.schedule((rows * columns) as usize, request.steps)
    }

    /// The model's latents → the autoencoder's, normalised, `[B, h, w, C]`.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn unpacked(&self, latents: &Array, request: &ImageRequest) -> framework::Result<Array> {
        patches::unpacked(latents, self.grid(request), self.patch)
    }

    /// The autoencoder's latents, normalised, `[B, h, w, C]` → the model's.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn packed(&self, latents: &Array) -> framework::Result<Array> {
        patches::packed(latents, self.patch)
    }
}
