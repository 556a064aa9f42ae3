//! What a mixture computes for a token on CUDA: three kernels of ours in the place of some fifteen of MLX's.

use super::{Choice, Experts, Router, Routing, Scoring};
use crate::{
    Array, Dtype, Linear, Result,
    cuda::{self, Call, Chosen, Constant, Kernel, THREADS, hidden, source},
    math,
};

const ROUTE: Kernel = Kernel {
    name: c"route",
    inputs: &[c"logits", c"correction"],
    outputs: &[c"weights", c"indices"],
    header: source!("../cuda/warp.cuh", "route.cuh"),
    body: source!("route.cu"),
};

const WEIGHTED: Kernel = Kernel {
    name: c"weighted",
    inputs: &[c"x", c"w", c"scales", c"biases", c"index", c"weights"],
    outputs: &[c"y"],
    header: source!("../cuda/warp.cuh", "../cuda/packed.cuh"),
    body: source!("weighted.cu"),
};

/// Threads of a warp, of which each keeps a place of the result and a part of the logits.
const WARP: i32 = 32;
/// The most logits: 32 a thread, as many as it has marks for.
const MOST_EXPERTS: i32 = 32 * WARP;
/// Rows that a warp makes at once.
const ROWS: i32 = 2;

impl Router {
    /// The k best of logits `[T, E]` and their weights of a dtype, or nothing where there is no kernel for that.
    pub(super) fn on_cuda(&self, logits: &Array, dtype: Dtype) -> Result<Option<[Array; 2]>> {
        let Choice { top_k, scoring, normalise, scale } = self.choice;
        let [tokens, experts] = math::shape(logits)?;
        let fits = top_k <= WARP.min(experts) && experts <= MOST_EXPERTS && tokens > 0;
        if !fits || !cuda::is_usable()? {
            return Ok(None);
        }
        let correction = self.correction.as_ref().map(crate::Param::get);
        let outputs = ROUTE.run(&Call {
            inputs: &[logits, correction.as_ref().unwrap_or(logits)],
            outputs: [(&[tokens, top_k], dtype), (&[tokens, top_k], Dtype::Uint32)],
            blocks: [tokens, 1],
            threads: WARP,
            constants: &[
                (c"W", Constant::Type(dtype)),
                (c"EXPERTS", Constant::Int(experts)),
                (c"CHOSEN", Constant::Int(top_k)),
                (c"SCORING", Constant::Int(scoring as i32)),
                (c"CORRECTED", Constant::Bool(correction.is_some())),
                (c"NORMALISE", Constant::Bool(normalise)),
                (c"SCALE", Constant::Int(scale.to_bits() as i32)),
            ],
        })?;
        Ok(Some(outputs))
    }
}

impl Experts {
    /// What [`forward`](Self::forward) computes, or nothing where there is no kernel for that: under eyes that want to see
    /// each layer, and where a layer has more than its matrices.
    pub(super) fn on_cuda(&self, x: &Array, routing: &Routing) -> Result<Option<Array>> {
        let Self { gate, up, down, activation } = self;
        let [tokens, top_k] = math::shape(&routing.indices)?;
        let Some([gate, up]) = Linear::matrices([gate.linear(), up.linear()], x)? else { return Ok(None) };
        let index = &routing.indices.flatten(None, None)?;
        let chosen = Chosen { index, chosen: top_k };
        let Some(hidden) = hidden(x, [&gate, &up], *activation, Some(&chosen))? else { return Ok(None) };
        let Some([down]) = Linear::matrices([down.linear()], &hidden)? else { return Ok(None) };
        let [y] = WEIGHTED.run(&Call {
            inputs: &[&hidden, &down.words, &down.scales, &down.biases, index, &routing.weights],
            outputs: [(&[tokens, down.rows], x.dtype())],
            blocks: [down.blocks(ROWS), tokens],
            threads: THREADS,
            constants: &[&down.constants(x.dtype(), ROWS)[..], &[(c"CHOSEN", Constant::Int(top_k))]].concat(),
        })?;
        Ok(Some(y))
    }
}

/// The kernel's numbers of scorings.
const _: () =
    assert!(Scoring::Softmax as i32 == 0 && Scoring::SoftmaxOfChosen as i32 == 1 && Scoring::Sigmoid as i32 == 2);
