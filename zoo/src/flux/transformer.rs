//! The wiring of FLUX.1's transformer.

use framework::{
    Activation, AdaLnContinuous, Angles, Array, At, Cond, Error, Ffn, Joined, Joint, Linear, Lowered, Mlp, Positions,
    Result, Rope, Single, Stream, TimestepEmbedding, call, math, module, tap, within,
};

/// A flow transformer over packed latents and text (<https://arxiv.org/abs/2403.03206>): joint blocks with a stream for
/// text and one for the image, then single blocks over both.
pub struct FluxTransformer {
    pub(super) x_embedder: Linear,
    pub(super) context_embedder: Linear,
    pub(super) time_text_embed: TimeTextEmbed,
    pub(super) transformer_blocks: Vec<Joint>,
    pub(super) single_transformer_blocks: Vec<Single>,
    pub(super) norm_out: AdaLnContinuous,
    pub(super) proj_out: Linear,
    pub(super) rope: Rope,
}
module! {
    impl[] FluxTransformer {
        x_embedder, context_embedder, time_text_embed, transformer_blocks, single_transformer_blocks, norm_out, proj_out
    }
}

/// Time step, guidance and pooled prompt as one vector.
pub(super) struct TimeTextEmbed {
    pub timestep_embedder: TimestepEmbedding,
    pub guidance_embedder: Option<TimestepEmbedding>,
    pub text_embedder: Mlp,
}
module! { impl[] TimeTextEmbed { timestep_embedder, guidance_embedder, text_embedder } }

impl TimeTextEmbed {
    /// `timestep` and `guidance` `[B]`, in thousandths; `pooled` `[B, P]` → `[B, D]`.
    fn forward(&self, timestep: &Array, guidance: Option<&Array>, pooled: &Array) -> Result<Array> {
        let dtype = pooled.dtype();
        let mut sum = call!(self.timestep_embedder.forward(timestep, dtype))?;
        if let (Some(guidance_embedder), Some(guidance)) = (&self.guidance_embedder, guidance) {
            sum = math::add(&sum, &call!(guidance_embedder.forward(guidance, dtype))?)?;
        }
        math::add(&sum, &call!(self.text_embedder.forward(pooled))?)
    }
}

/// What one evaluation needs.
pub struct FluxInput<'a> {
    /// Packed latents `[B, L, in]`.
    pub hidden_states: &'a Array,
    /// The text encoder's hidden states `[B, T, joint]`.
    pub encoder_hidden_states: &'a Array,
    /// The pooled prompt `[B, P]`.
    pub pooled_projections: &'a Array,
    /// The time, from 1 (noise) to 0, `[B]`.
    pub timestep: &'a Array,
    /// The distilled guidance `[B]`; needed by the models that were distilled with it.
    pub guidance: Option<&'a Array>,
    /// Where the T text tokens stand; see [`FluxTransformer::angles`].
    pub text_angles: &'a Angles,
    /// Where the L latents stand.
    pub image_angles: &'a Angles,
}

impl FluxTransformer {
    /// Features of a packed latent.
    pub fn channels(&self) -> i32 {
        self.x_embedder.weight.shape().last().copied().unwrap_or(0)
    }

    /// Features of a token of the text, and of the pooled prompt.
    pub fn text_widths(&self) -> [i32; 2] {
        [&self.context_embedder, &self.time_text_embed.text_embedder.up]
            .map(|linear| linear.weight.shape().last().copied().unwrap_or(0))
    }

    /// Whether the model was distilled with a guidance, and needs one.
    pub fn is_guided(&self) -> bool {
        self.time_text_embed.guidance_embedder.is_some()
    }

    /// What positions, axes × length, are to the rope: the same at every step, so it is computed once.
    ///
    /// # Errors
    /// When there are fewer axes than the rope has.
    pub fn angles(&self, positions: &Positions) -> Result<Angles> {
        self.rope.angles(positions)
    }

    /// The velocity `[B, L, out]`.
    ///
    /// # Errors
    /// When the model needs a guidance and there is none, or the other way round.
    pub fn forward(&self, input: &FluxInput) -> Result<Array> {
        if input.guidance.is_some() != self.is_guided() {
            let problem = "dev models need it and schnell models do not have it";
            return Err(Error::argument("guidance", problem));
        }
        let mut image = call!(self.x_embedder.forward(input.hidden_states))?;
        let thousandths = |t: &Array| math::scaled(&t.as_dtype(image.dtype())?, 1000.0);
        let timestep = thousandths(input.timestep)?;
        let guidance = input.guidance.map(thousandths).transpose()?;
        let vector = call!(self.time_text_embed.forward(&timestep, guidance.as_ref(), input.pooled_projections))?;
        let cond = Activation::Silu.forward(&vector)?;
        let mut text = call!(self.context_embedder.forward(input.encoder_hidden_states))?;

        let &FluxInput { text_angles, image_angles, .. } = input;
        let at = |angles| At { angles: Some(angles), mask: &Lowered::None, cond: Some(Cond::Vector(&cond)) };
        for i in 0..self.transformer_blocks.len() {
            let streams = [Stream { x: &text, at: at(text_angles) }, Stream { x: &image, at: at(image_angles) }];
            let pair = call!(self.transformer_blocks[i].forward(&streams, &Lowered::None))?;
            [text, image] = pair.try_into().map_err(|_| Error::argument("streams", "two go in, two come out"))?;
        }

        let [_, first, _] = math::shape(&text)?;
        let all_angles = text_angles.then(image_angles)?;
        let mut tokens = mlx_rs::ops::concatenate(&[text, image], 1)?;
        for (i, block) in self.single_transformer_blocks.iter().enumerate() {
            let offered = |tokens| tap::offer(Joined { tokens, first }).tokens;
            tokens =
                within!(self.single_transformer_blocks[i] => block.forward(&tokens, &at(&all_angles)).map(offered))?;
        }
        let [_, length, _] = math::shape(&tokens)?;
        let image = math::slice(&tokens, 1, first, length)?;
        let image = call!(self.norm_out.forward(&image, &at(&all_angles)))?;
        call!(self.proj_out.forward(&image))
    }
}
