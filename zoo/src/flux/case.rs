//! FLUX.1's pipelines with the arguments of diffusers' classes.

use super::{FluxPipeline, pipeline::transformer_of};
use crate::{
    Arguments, Error, Generator, InitImage, OpenOptions, Outputs, Result,
    image::case::{Call, pixels},
    registry::Pipeline,
};
use serde_json::Value;
use std::path::Path;

/// From noise to pictures.
pub const TEXT_TO_IMAGE: Pipeline =
    Pipeline { names: &["FluxPipeline"], main: transformer_of, open, run: text_to_image };
/// From a picture to pictures.
pub const IMAGE_TO_IMAGE: Pipeline = Pipeline { names: &["FluxImg2ImgPipeline"], run: image_to_image, ..TEXT_TO_IMAGE };

/// diffusers' arguments for what is not done here. Not to ask for it is to give none.
const ABSENT: [&str; 14] = [
    "prompt_2",
    "negative_prompt_2",
    "sigmas",
    "generator",
    "prompt_embeds",
    "pooled_prompt_embeds",
    "negative_prompt_embeds",
    "negative_pooled_prompt_embeds",
    "ip_adapter_image",
    "ip_adapter_image_embeds",
    "negative_ip_adapter_image",
    "negative_ip_adapter_image_embeds",
    "joint_attention_kwargs",
    "callback_on_step_end",
];

fn open(snapshot: &Path, options: OpenOptions, keep: bool) -> Result<Box<dyn Generator>> {
    Ok(Box::new(FluxPipeline::open(snapshot, options, keep)?))
}

fn text_to_image(components: &Path, options: OpenOptions, arguments: &mut Arguments) -> Result<Outputs> {
    run(components, options, &taken(arguments, 3.5)?, None, arguments)
}

fn image_to_image(components: &Path, options: OpenOptions, arguments: &mut Arguments) -> Result<Outputs> {
    let noise = arguments.take_optional("posterior_noise").map(|noise| noise.transpose_axes(&[0, 2, 3, 1]));
    let init = InitImage {
        pixels: pixels(arguments.take("image")?)?,
        strength: arguments.optional("strength")?.unwrap_or(0.6),
        posterior_noise: noise.transpose()?,
    };
    run(components, options, &taken(arguments, 7.0)?, Some(init), arguments)
}

fn run(
    components: &Path,
    options: OpenOptions,
    call: &Call,
    init: Option<InitImage>,
    arguments: &mut Arguments,
) -> Result<Outputs> {
    let pipeline = FluxPipeline::open(components, options, false)?;
    call.run(&pipeline, init, |texts, text_tokens| pipeline.tokens(texts, text_tokens), arguments)
}

/// All but noise and pictures, and what diffusers assumes. `guidance` is what the class assumes.
fn taken(arguments: &mut Arguments, guidance: f32) -> Result<Call> {
    for name in ABSENT {
        if let Some(value) = arguments.optional::<Value>(name)? {
            return Err(Error::argument(name, format!("{value} asks for what is not done here; leave it out")));
        }
    }
    let mut call = Call::take(arguments)?;
    call.steps.get_or_insert(28);
    call.guidance.get_or_insert(guidance);
    call.text_tokens.get_or_insert(512);
    // diffusers guides only where a negative prompt is given.
    call.negative = call.negative.filter(|_| call.true_scale.is_some_and(|scale| scale > 1.0));
    call.true_scale = call.true_scale.filter(|_| call.negative.is_some()).or(Some(1.0));
    Ok(call)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ImageRequest;
    use serde_json::json;

    fn called(values: Value) -> Result<Call> {
        let mut arguments = Arguments::default();
        for (name, value) in values.as_object().unwrap() {
            arguments.value(name, value.clone());
        }
        let call = taken(&mut arguments, 3.5)?;
        arguments.finish()?;
        Ok(call)
    }

    fn request(call: &Call) -> ImageRequest {
        let row = crate::published::find("flux.1-dev").unwrap();
        call.request(row.image.as_ref().unwrap(), None)
    }

    #[test]
    fn what_is_not_given_is_as_diffusers_has_it() {
        let call = called(json!({"prompt": "a", "generator": null, "guidance_scale": null})).unwrap();
        let request = request(&call);
        assert_eq!((request.width, request.height, request.steps, request.text_tokens), (1024, 1024, 28, 512));
        assert_eq!((request.guidance, request.is_guided(), request.prompts.len()), (Some(3.5), false, 1));
    }

    #[test]
    fn a_prompt_may_have_several_pictures() {
        let several = json!({"prompt": ["a", "b"], "num_images_per_prompt": 2, "true_cfg_scale": 2.0, "negative_prompt": ["c", "d"]});
        let call = called(several).unwrap();
        assert_eq!(request(&call).prompts, ["a", "a", "b", "b"]);
        assert_eq!(request(&call).negative_prompts, ["c", "c", "d", "d"]);
        assert_eq!(call.prompts, ["a", "b"]);
    }

    #[test]
    fn only_a_negative_prompt_and_a_scale_guide_together() {
        let guided = |scale: f64, negative: Value| {
            let call = called(json!({"prompt": "a", "true_cfg_scale": scale, "negative_prompt": negative})).unwrap();
            (request(&call).is_guided(), request(&call).negative_prompts)
        };
        let off = (false, Vec::new());
        assert_eq!(guided(2.0, Value::Null), off);
        assert_eq!(guided(1.0, "b".into()), off);
        assert_eq!(guided(0.0, "b".into()), off);
        assert_eq!(guided(2.0, "".into()), (true, vec![String::new()]));
    }

    #[test]
    fn what_is_not_done_is_refused_by_name() {
        for (name, value) in [
            ("prompt", Value::Null),
            ("prompt", json!(3)),
            ("prompt_2", "b".into()),
            ("sigmas", json!([1.0])),
            ("output_type", "latent".into()),
            ("height", "tall".into()),
            ("seed", json!(1)),
        ] {
            let mut arguments = json!({"prompt": "a"});
            arguments[name] = value;
            let error = called(arguments).map(drop).unwrap_err().to_string();
            assert!(error.contains(&format!("`{name}`")), "{name}: {error}");
        }
    }
}
