//! From a config to the model.

use super::{
    blocks::{Keyed, norm},
    config::{
        BlockConfig, ComposedConfig, ConditionConfig, ConditionPartConfig, HeadConfig, InputConfig, OutputConfig,
        OutputModulationConfig, PlaceConfig, ProjectionConfig, StageConfig, StreamConfig,
    },
    model::{
        ComposedTransformer, Condition, LastNorm, Output, Part, PartEmbedding, Projection, StreamInput, StreamNames,
    },
    stage::{Lane, Lends, Stage},
    stages::Seen,
};
use framework::{Activation, AdaLnContinuous, Embedding, Error, Init, Linear, Mlp, Result, TimestepEmbedding};

/// The whole model, lazily.
pub(super) fn build(config: &ComposedConfig, init: &mut Init) -> Result<ComposedTransformer> {
    let plan = Plan { config };
    plan.names()?;
    let each = config.streams.iter().enumerate();
    let streams = each.map(|(i, config)| stream(config, init).of(format!("streams[{i}]")));
    let streams = streams.collect::<Result<Vec<_>>>()?;
    let condition = config.condition.as_ref().map(|config| condition(config, init).of("condition")).transpose()?;
    let each = config.stages.iter().enumerate();
    let stages = each.map(|(i, config)| plan.stage(config, init).of(format!("stages[{i}]")));
    let stages = stages.collect::<Result<Vec<_>>>()?;
    let (norm_out, head, output) = plan.output(&config.output, init).of("output")?;
    plan.everything_is_read(&stages)?;
    Ok(ComposedTransformer { streams, condition, stages, norm_out, head, output })
}

impl StreamConfig {
    /// Features of its tokens when they reach the blocks.
    fn dim(&self) -> i32 {
        match &self.projection {
            ProjectionConfig::None => self.given(),
            ProjectionConfig::Linear { dim, .. } | ProjectionConfig::Mlp { dim, .. } => dim.get(),
        }
    }

    /// Features of what it is given as.
    fn given(&self) -> i32 {
        let (InputConfig::Tokens { dim, .. } | InputConfig::Features { dim, .. }) = &self.input;
        dim.get()
    }
}

fn stream(config: &StreamConfig, init: &mut Init) -> Result<StreamInput> {
    let (given, dim) = (config.given(), config.dim());
    let (name, embed, scale) = match &config.input {
        InputConfig::Tokens { name, vocabulary, scale, .. } => {
            (name, Some(Embedding::new(vocabulary.get(), given, init)?), *scale)
        }
        InputConfig::Features { name, .. } => (name, None, None),
    };
    let projection = match config.projection {
        ProjectionConfig::None => None,
        ProjectionConfig::Linear { bias, .. } => Some(Projection::Linear(Linear::new(given, dim, bias, init)?)),
        ProjectionConfig::Mlp { activation, bias, .. } => {
            Some(Projection::Mlp(two(given, dim, activation, bias, init)?))
        }
    };
    let place = match config.place {
        PlaceConfig::Learned { length } => Some(Embedding::new(length.get(), dim, init)?),
        PlaceConfig::Sinusoidal if dim % 2 != 0 => {
            return Err(Error::config("place", format!("{dim} features are not as many cosines as sines")));
        }
        PlaceConfig::None | PlaceConfig::Sinusoidal => None,
    };
    Ok(StreamInput {
        embed,
        norm: norm(&config.norm, given, init)?,
        projection,
        place,
        names: StreamNames { input: name.clone(), positions: config.positions.clone(), mask: config.mask.clone() },
        given,
        scale,
        sinusoidal: matches!(config.place, PlaceConfig::Sinusoidal),
    })
}

/// Two layers, both to `dim`.
fn two(from: i32, dim: i32, activation: Activation, bias: bool, init: &mut Init) -> Result<Mlp> {
    let up = Linear::new(from, dim, bias, init)?;
    Ok(Mlp { up, down: Linear::new(dim, dim, bias, init)?, activation })
}

fn condition(config: &ConditionConfig, init: &mut Init) -> Result<Condition> {
    if config.parts.is_empty() {
        return Err(Error::config("parts", "there is nothing to add up; name a part, or no condition"));
    }
    let dim = config.dim.get();
    let each = config.parts.iter().enumerate();
    let parts = each.map(|(i, config)| part(config, dim, init).of(format!("parts[{i}]"))).collect::<Result<_>>()?;
    let mut projections = Vec::new();
    for (i, shared) in config.projections.iter().enumerate() {
        let (width, sublayers) = (shared.dim.get(), shared.sublayers.get());
        if sublayers > 2 {
            let key = format!("projections[{i}].sublayers");
            return Err(Error::config(key, format!("{sublayers}, and blocks have 2, or 1 of `single`")));
        }
        projections.push(Linear::new(dim, 3 * sublayers * width, true, init)?);
    }
    Ok(Condition {
        parts,
        projections,
        sublayers: config.projections.iter().map(|shared| shared.sublayers.get() as usize).collect(),
        activation: config.activation,
    })
}

fn part(config: &ConditionPartConfig, dim: i32, init: &mut Init) -> Result<Part> {
    let (name, embed, scale) = match config {
        ConditionPartConfig::Time { sinusoid, .. } if sinusoid.get() % 2 != 0 => {
            let problem = format!("{} features are not as many cosines as sines", sinusoid.get());
            return Err(Error::config("time.sinusoid", problem));
        }
        ConditionPartConfig::Time { name, sinusoid, scale } => {
            (name, PartEmbedding::Time(TimestepEmbedding::new(sinusoid.get(), dim, init)?), *scale)
        }
        ConditionPartConfig::Vector { name, dim: from } => {
            (name, PartEmbedding::Vector(two(from.get(), dim, Activation::Silu, true, init)?), None)
        }
        ConditionPartConfig::Class { name, classes } => {
            (name, PartEmbedding::Class(Embedding::new(classes.get(), dim, init)?), None)
        }
    };
    Ok(Part { embed, name: name.clone(), scale })
}

struct Plan<'a> {
    config: &'a ComposedConfig,
}

impl<'a> Plan<'a> {
    fn find(&self, name: &str) -> Option<(usize, &'a StreamConfig)> {
        self.config.streams.iter().enumerate().find(|(_, stream)| stream.name == name)
    }

    fn stream(&self, key: &str, name: &str) -> Result<(usize, &'a StreamConfig)> {
        self.find(name).ok_or_else(|| Error::config(key, format!("there is no stream called `{name}`")))
    }

    fn condition(&self) -> Option<&'a ConditionConfig> {
        self.config.condition.as_ref()
    }

    /// Names stand for one thing each.
    fn names(&self) -> Result<()> {
        for (i, stream) in self.config.streams.iter().enumerate() {
            if self.find(&stream.name).is_some_and(|(first, _)| first != i) {
                return Err(Error::config(format!("streams[{i}].name"), format!("`{}` is taken", stream.name)));
            }
        }
        let projections = self.condition().map_or(&[][..], |condition| &condition.projections);
        for (i, projection) in projections.iter().enumerate() {
            if projections.iter().take(i).any(|before| before.name == projection.name) {
                let key = format!("condition.projections[{i}].name");
                return Err(Error::config(key, format!("`{}` is taken", projection.name)));
            }
        }
        Ok(())
    }

    fn stage(&self, config: &StageConfig, init: &mut Init) -> Result<Stage> {
        let on = config.on.iter().map(|name| self.stream("on", name)).collect::<Result<Vec<_>>>()?;
        let mut indices: Vec<usize> = on.iter().map(|(index, _)| *index).collect();
        let dims: Vec<i32> = on.iter().map(|(_, stream)| stream.dim()).collect();
        let Some(&dim) = dims.first() else {
            return Err(Error::config("on", "blocks act on at least one stream"));
        };
        let joint = matches!(config.block, BlockConfig::Joint(_));
        if !joint && dims.iter().any(|&other| other != dim) {
            return Err(Error::config("on", format!("streams of {dims:?} features do not join into one sequence")));
        }
        let lanes = if joint { indices.iter().map(|&index| vec![index]).collect() } else { vec![indices.clone()] };
        let seen = Seen { lanes, dims, condition: self.condition() };
        indices.sort_unstable();
        indices.dedup();
        if indices.len() != on.len() {
            return Err(Error::config("on", "a stream is named twice"));
        }
        let count = config.count.get();
        match &config.block {
            BlockConfig::PreNorm(layer) => seen.pre_norm(layer, count, init).of("block.pre_norm"),
            BlockConfig::Sandwich(layer) => seen.sandwich(layer, count, init).of("block.sandwich"),
            BlockConfig::Joint(joint) => seen.joint(joint, count, init).of("block.joint"),
            BlockConfig::Single(single) => seen.single(single, count, init).of("block.single"),
            BlockConfig::Cross(cross) => {
                let (context, stream) = self.stream("context", &cross.context).of("block.cross")?;
                if indices.contains(&context) {
                    return Err(Error::config("block.cross.context", "tokens do not ask themselves"));
                }
                let stage = seen.cross(cross, stream.dim(), count, init).of("block.cross")?;
                Ok(Stage { context: Some(context), ..stage })
            }
        }
    }

    fn output(&self, config: &OutputConfig, init: &mut Init) -> Result<(LastNorm, Option<Linear>, Output)> {
        let (stream, from) = self.stream("stream", &config.stream)?;
        let dim = from.dim();
        let plain = norm(&config.norm, dim, init)?;
        let norm_out = match config.modulation {
            OutputModulationConfig::None => LastNorm::Plain(plain),
            OutputModulationConfig::AdaLnContinuous => {
                let none = || Error::config("modulation", "it needs a condition, and the config has none");
                let cond = self.condition().ok_or_else(none)?.dim.get();
                LastNorm::Modulated(AdaLnContinuous { linear: Linear::new(cond, 2 * dim, true, init)?, norm: plain })
            }
        };
        let head = match config.head {
            HeadConfig::Linear { dim: to, bias } => Some(Linear::new(dim, to.get(), bias, init)?),
            HeadConfig::None | HeadConfig::Tied => None,
        };
        let tied = matches!(config.head, HeadConfig::Tied);
        if tied && !(matches!(from.input, InputConfig::Tokens { .. }) && from.given() == dim) {
            return Err(Error::config("head", "the stream has no embedding of its tokens' width to tie it to"));
        }
        Ok((norm_out, head, Output { name: config.name.clone(), stream, tied }))
    }

    /// What a config asks for and nothing uses would be lost: it is refused.
    fn everything_is_read(&self, stages: &[Stage]) -> Result<()> {
        let lanes = || stages.iter().flat_map(|stage| &stage.lanes);
        for (i, stream) in self.config.streams.iter().enumerate() {
            let on = |lane: &Lane| lane.streams.contains(&i);
            let place = |key: &str| format!("streams[{i}].{key}");
            let asked = stages.iter().any(|stage| stage.context == Some(i));
            if !asked && !lanes().any(on) {
                return Err(Error::config(place("name"), format!("no stage acts on `{}`", stream.name)));
            }
            if stream.positions.is_some() && !lanes().any(|lane| on(lane) && lane.rope.is_some()) {
                return Err(Error::config(place("positions"), "no stage turns this stream by a rope"));
            }
        }
        let Some(condition) = self.condition() else { return Ok(()) };
        for (i, projection) in condition.projections.iter().enumerate() {
            if !lanes().any(|lane| lane.lends == Lends::Projection(i)) {
                let key = format!("condition.projections[{i}].name");
                return Err(Error::config(key, format!("no modulation takes `{}`", projection.name)));
            }
        }
        let last = self.config.output.modulation != OutputModulationConfig::None;
        if !last && lanes().all(|lane| lane.lends == Lends::Nothing) {
            return Err(Error::config("condition", "no modulation takes it"));
        }
        Ok(())
    }
}
