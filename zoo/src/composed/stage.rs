//! A run of blocks that are alike.

use crate::positions;
use framework::{
    Angles, Array, At, Axes, Block, Cond, Context, Cross, Error, Joint, Lowered, Mask, Positions, RelativeBias, Result,
    Rope, Sandwich, Single, Stream, call, math, module, tap,
};
use mlx_rs::ops;

/// A block of any kind.
pub enum AnyBlock {
    /// Pre-norm.
    PreNorm(Block),
    /// Norms on both sides.
    Sandwich(Sandwich),
    /// A block a stream, with one attention.
    Joint(Joint),
    /// Attention and feed-forward network side by side.
    Single(Single),
    /// With attention to a context.
    Cross(Box<Cross>),
}
module! {
    enum[] AnyBlock { AnyBlock::PreNorm, AnyBlock::Sandwich, AnyBlock::Joint, AnyBlock::Single, AnyBlock::Cross }
}

/// Blocks that are alike, and what each call of the model lends to them.
pub struct Stage {
    /// The blocks.
    pub blocks: Vec<AnyBlock>,
    /// What blocks add to their scores: a block without a table of its own has the last one before it.
    pub distances: Vec<RelativeBias>,
    pub(super) lanes: Vec<Lane>,
    pub(super) context: Option<usize>,
    pub(super) mask: Mask,
}
module! { impl[] Stage { blocks, distances } }

/// A sequence that blocks see as one: of streams joined along the tokens.
#[derive(Debug)]
pub(super) struct Lane {
    pub streams: Vec<usize>,
    pub rope: Option<Rope>,
    pub lends: Lends,
}

/// What of the condition a sequence's blocks are lent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lends {
    Nothing,
    Vector,
    Projection(usize),
}

/// The tokens of a stream on their way through the model.
pub(super) struct Tokens {
    /// `[B, L, D]`.
    pub x: Array,
    pub positions: Option<Array>,
    /// `[B, L]`; zeros are padding.
    pub keys: Option<Array>,
}

/// The condition, and its projections as chunks.
pub(super) struct Lent {
    pub vector: Array,
    pub chunks: Vec<Array>,
}

/// The tables of the ropes, made once a call for each stream.
#[derive(Default)]
pub(super) struct Tables<'a>(Vec<(&'a Rope, usize, Angles)>);

impl<'a> Tables<'a> {
    fn of(&mut self, rope: &'a Rope, stream: usize, tokens: &Tokens) -> Result<Angles> {
        if let Some((.., angles)) = self.0.iter().find(|(known, of, _)| *of == stream && *known == rope) {
            return Ok(angles.clone());
        }
        let positions = match (&tokens.positions, &rope.axes) {
            (None, _) => Positions::range(0, tokens.length()?),
            (Some(ids), Axes::One) => positions::rows(ids)?,
            (Some(ids), Axes::Each(_)) => positions::grid(ids)?,
            (Some(ids), Axes::Sections(_) | Axes::InterleavedSections(_)) => positions::by_axis(ids)?,
        };
        let angles = rope.angles(&positions)?;
        self.0.push((rope, stream, angles.clone()));
        Ok(angles)
    }
}

impl Tokens {
    fn length(&self) -> Result<i32> {
        let [_, length, _] = math::shape(&self.x)?;
        Ok(length)
    }

    /// Which tokens are seen, where the stream does not say: all.
    fn seen(&self) -> Result<Array> {
        let [batch, length, _] = math::shape(&self.x)?;
        match &self.keys {
            Some(keys) => Ok(keys.as_dtype(framework::Dtype::Bool)?),
            None => Ok(Array::ones::<bool>(&[batch, length])?),
        }
    }
}

/// Arrays joined along the tokens; one is itself.
fn join(mut parts: Vec<Array>) -> Result<Array> {
    match parts.pop() {
        Some(only) if parts.is_empty() => Ok(only),
        last => {
            parts.extend(last);
            Ok(ops::concatenate(&parts, 1)?)
        }
    }
}

impl Lane {
    /// Its tokens as one sequence.
    fn gather(&self, tokens: &[Tokens]) -> Result<Array> {
        join(self.streams.iter().filter_map(|&stream| tokens.get(stream)).map(|tokens| tokens.x.clone()).collect())
    }

    /// Puts `x` back where its tokens came from.
    fn scatter(&self, x: &Array, tokens: &mut [Tokens]) -> Result<()> {
        let mut start = 0;
        for &stream in &self.streams {
            if let Some(tokens) = tokens.get_mut(stream) {
                let end = start + tokens.length()?;
                tokens.x = math::slice(x, 1, start, end)?;
                start = end;
            }
        }
        Ok(())
    }

    fn angles<'a>(&'a self, tokens: &[Tokens], tables: &mut Tables<'a>) -> Result<Option<Angles>> {
        let Some(rope) = &self.rope else { return Ok(None) };
        let mut all: Option<Angles> = None;
        for (stream, tokens) in self.streams.iter().filter_map(|&stream| Some((stream, tokens.get(stream)?))) {
            let own = tables.of(rope, stream, tokens)?;
            all = Some(match all {
                Some(before) => before.then(&own)?,
                None => own,
            });
        }
        Ok(all)
    }

    fn cond<'a>(&self, lent: Option<&'a Lent>) -> Option<Cond<'a>> {
        match self.lends {
            Lends::Nothing => None,
            Lends::Vector => lent.map(|lent| Cond::Vector(&lent.vector)),
            Lends::Projection(index) => lent?.chunks.get(index).map(Cond::Chunks),
        }
    }
}

/// The sequences of a stage; one is observed under its block's path alone.
struct Sequences(Vec<Array>);

impl tap::Observed for Sequences {
    fn observe(self, offer: &mut dyn FnMut(&str, Array) -> Array) -> Self {
        let alone = self.0.len() == 1;
        let number = |(i, x)| if alone { offer("", x) } else { offer(&format!("#{i}"), x) };
        Self(self.0.into_iter().enumerate().map(number).collect())
    }
}

impl AnyBlock {
    fn forward(&self, sequences: &Sequences, ats: &[At], context: Option<&Context>) -> Result<Sequences> {
        let one = |x: Result<Array>| Ok(Sequences(vec![x?]));
        match (self, &sequences.0[..], ats, context) {
            (Self::Joint(block), xs, [first, ..], _) => {
                let streams: Vec<Stream> = xs.iter().zip(ats).map(|(x, &at)| Stream { x, at }).collect();
                Ok(Sequences(block.forward(&streams, first.mask)?))
            }
            (Self::PreNorm(block), [x], [at], _) => one(block.forward(x, at, None)),
            (Self::Sandwich(block), [x], [at], _) => one(block.forward(x, at, None)),
            (Self::Single(block), [x], [at], _) => one(block.forward(x, at)),
            (Self::Cross(block), [x], [at], Some(context)) => one(block.forward(x, context, at)),
            _ => Err(Error::argument("streams", "a block of this kind does not act on what it was given")),
        }
    }
}

impl Stage {
    /// Every sequence `[B, L, D]` → `[B, L, D]`, in place.
    pub(super) fn forward<'a>(
        &'a self,
        tokens: &mut [Tokens],
        lent: Option<&Lent>,
        tables: &mut Tables<'a>,
    ) -> Result<()> {
        let gathered = self.lanes.iter().map(|lane| lane.gather(tokens)).collect::<Result<_>>()?;
        let mut sequences = Sequences(gathered);
        let angles = self.lanes.iter().map(|lane| lane.angles(tokens, tables)).collect::<Result<Vec<_>>>()?;
        let (mask, length) = self.mask(tokens)?;
        let dtype = sequences.0.first().map_or(framework::Dtype::Float32, Array::dtype);
        let mut lowered = mask.lower(length, length, dtype)?;
        let context = self.context.and_then(|stream| tokens.get(stream)).map(|context| seen(context, length));
        let context = context.transpose()?;
        let context = context.as_ref().map(|(tokens, mask)| Context { tokens, mask });
        for i in 0..self.blocks.len() {
            if i < self.distances.len() {
                let bias = call!(self.distances[i].forward(length, length))?;
                lowered = mask.clone().bias(bias).lower(length, length, dtype)?;
            }
            let lanes = self.lanes.iter().zip(&angles);
            let at = |(lane, angles): (&Lane, _)| At { angles, mask: &lowered, cond: lane.cond(lent) };
            let ats: Vec<At> = lanes.map(|(lane, angles)| at((lane, angles.as_ref()))).collect();
            sequences = call!(self.blocks[i].forward(&sequences, &ats, context.as_ref()))?;
        }
        self.lanes.iter().zip(&sequences.0).try_for_each(|(lane, x)| lane.scatter(x, tokens))
    }

    /// What tokens see, over all streams in order, and how many tokens these have.
    fn mask(&self, tokens: &[Tokens]) -> Result<(Mask, i32)> {
        let streams = self.lanes.iter().flat_map(|lane| &lane.streams);
        let streams: Vec<&Tokens> = streams.filter_map(|&stream| tokens.get(stream)).collect();
        let length = streams.iter().map(|tokens| tokens.length()).sum::<Result<i32>>()?;
        if streams.iter().all(|tokens| tokens.keys.is_none()) {
            return Ok((self.mask.clone(), length));
        }
        let keys = streams.iter().map(|tokens| tokens.seen()).collect::<Result<_>>()?;
        Ok((self.mask.clone().keys(join(keys)?), length))
    }
}

/// A stream as the context of so many queries.
fn seen(context: &Tokens, queries: i32) -> Result<(Array, Lowered)> {
    let length = context.length()?;
    let mask = context.keys.clone().map_or(Mask::none(), |keys| Mask::none().keys(keys));
    Ok((context.x.clone(), mask.lower(queries, length, context.x.dtype())?))
}
