//! `softmax(q kᵀ · scale + mask) v`, some queries of a head at a time over some keys after the other, so that few scores are
//! held at once (<https://arxiv.org/abs/2205.14135>).

mod product;
mod softmax;

use super::{Kernel, Operand};
use crate::blas::Strided;
use rayon::prelude::*;
use softmax::Softmax;
use std::cell::RefCell;

/// Multiply-adds below which starting threads costs more than it saves.
const PARALLEL_FROM: usize = 1 << 18;
/// Queries that a task answers at most.
const ROWS: usize = 128;
/// Scores that a task holds at most: what a core's cache has room for.
const SCORES: usize = 1 << 18;

thread_local! {
    /// The scores of one task after the other.
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Of queries `[B, L, H, D]`, keys `[B, S, Hkv, D]`, values `[B, S, Hkv, E]`, then a mask `[B, H, L, S]` that is added to the
/// scores and sinks `[H]` where they are `masked` and have `sinks`, to `[B, L, H·E]`. Hkv divides H.
///
/// A query that no key is shown to sees all of them alike.
#[derive(Clone, Copy)]
pub struct Attend {
    /// What products are multiplied by.
    pub scale: f32,
    /// `c tanh(score / c)` before the mask.
    pub softcap: Option<f32>,
    /// Whether a query sees the keys up to its own, the newest query the newest key.
    pub causal: bool,
    /// Whether there is a mask.
    pub masked: bool,
    /// Whether there is, for each head, a score without a value.
    pub sinks: bool,
}

impl Kernel for Attend {
    fn run(&self, inputs: &[Operand<'_>], output: &mut [f32]) {
        let [q, k, v, rest @ ..] = inputs else { panic!("queries, keys and values") };
        let (mask, rest) = if self.masked { (rest.first(), &rest[1..]) } else { (None, rest) };
        let sinks = rest.first().filter(|_| self.sinks);
        let ([batch, queries, heads, dim], [keys, kv_heads], width) = match (q.shape(), k.shape(), v.shape()) {
            (&[b, l, h, d], &[_, s, g, _], &[.., e]) => ([b, l, h, d], [s, g], e),
            _ => panic!("four axes"),
        };
        let call = Call { of: self, q, k, v, mask, sinks, queries, keys, heads, group: heads / kv_heads, dim, width };
        // A single query is answered for several heads that share their keys.
        let [rows, together] = if queries == 1 {
            let tasks = rayon::current_num_threads().div_ceil(batch * kv_heads);
            [1, call.group.div_ceil(tasks).min(ROWS)]
        } else {
            [ROWS, 1]
        };
        let [blocks, parts] = [queries.div_ceil(rows), call.group.div_ceil(together)];
        let output = Output(output.as_mut_ptr());
        let task = |task: usize| {
            let (task, block) = (task / blocks, task % blocks);
            let (task, part) = (task / parts, task % parts);
            let (batch, shared) = (task / kv_heads, task % kv_heads);
            let (head, first) = (shared * call.group + part * together, block * rows);
            let heads = together.min(call.group - part * together);
            let of = Block { batch, head, heads, first, rows: rows.min(queries - first) };
            SCRATCH.with_borrow_mut(|scratch| call.answer(&of, scratch, &output));
        };
        let tasks = batch * kv_heads * parts * blocks;
        if batch * heads * queries * keys * (dim + width) < PARALLEL_FROM {
            (0..tasks).for_each(task);
        } else {
            (0..tasks).into_par_iter().with_max_len(1).for_each(task);
        }
    }
}

/// Where tasks write, each to rows of its own.
struct Output(*mut f32);
// SAFETY: no two tasks write to the same element.
unsafe impl Sync for Output {}

/// Some queries of one head, or one query of some heads that share their keys.
struct Block {
    batch: usize,
    head: usize,
    heads: usize,
    first: usize,
    rows: usize,
}

struct Call<'a> {
    of: &'a Attend,
    q: &'a Operand<'a>,
    k: &'a Operand<'a>,
    v: &'a Operand<'a>,
    mask: Option<&'a Operand<'a>>,
    sinks: Option<&'a Operand<'a>>,
    queries: usize,
    keys: usize,
    heads: usize,
    group: usize,
    dim: usize,
    width: usize,
}

impl Call<'_> {
    /// How many keys a query sees; a query that sees none sees all, with nothing to tell them apart.
    fn seen(&self, query: usize) -> usize {
        if self.of.causal { (self.keys + query + 1).saturating_sub(self.queries) } else { self.keys }
    }

    fn answer(&self, block: &Block, scratch: &mut Vec<f32>, output: &Output) {
        let &Block { batch, head, heads, first, rows } = block;
        let shared = head / self.group;
        let count = heads * rows;
        let keys = if self.seen(first) == 0 { self.keys } else { self.seen(first + rows - 1) };
        let at_once = (SCORES / count).min(keys);
        if scratch.len() < count * at_once {
            scratch.resize(count * at_once, 0.0);
        }
        let (axis, step) = if heads == 1 { (1, self.heads * self.width) } else { (2, self.width) };
        let of_query = Strided {
            data: self.q.pointer(&[batch, first, head]),
            row: self.q.stride(axis),
            column: self.q.stride(3),
        };
        let place = ((batch * self.queries + first) * self.heads + head) * self.width;
        // SAFETY: the block's rows of the output are its alone.
        let mut out = unsafe { Rows { data: output.0.add(place), step, width: self.width, count } };
        let mut of_sinks = Vec::new();
        let sinks = self.sinks.map(|sinks| sinks.row(&[], &mut of_sinks));
        let place_of = |row| if heads == 1 { (head, first + row) } else { (head + row, first) };
        let mut softmax: [_; ROWS] =
            std::array::from_fn(|row| Softmax::new(sinks.filter(|_| row < count).map(|sinks| sinks[place_of(row).0])));
        for start in (0..keys).step_by(at_once) {
            let at_once = at_once.min(keys - start);
            let scores = &mut scratch[..count * at_once];
            let [of_keys, of_values] = [self.k, self.v].map(|x| Strided {
                data: x.pointer(&[batch, start, shared]),
                row: x.stride(1),
                column: x.stride(3),
            });
            // SAFETY: queries and keys of the block lie inside their arrays; the scores have a row a query.
            unsafe { product::scores(scores, [count, self.dim], self.of.scale, of_query, of_keys) };
            let mut of_mask = Vec::new();
            let mut rests = [1.0; ROWS];
            for (row, scores) in scores.chunks_exact_mut(at_once).enumerate() {
                let (head, query) = place_of(row);
                let (seen, softcap) = match self.seen(query) {
                    0 => {
                        scores.fill(f32::MIN);
                        (at_once, None)
                    }
                    seen => (seen.saturating_sub(start).min(at_once), self.of.softcap),
                };
                let (scores, hidden) = scores.split_at_mut(seen);
                hidden.fill(0.0);
                let mask = self.mask.map(|mask| &mask.row(&[batch, head, query], &mut of_mask)[start..]);
                rests[row] = softmax[row].weigh(scores, softcap, mask);
            }
            if start > 0 {
                out.scale(&rests);
            }
            // SAFETY: values of the block lie inside their array.
            unsafe { product::add(scores, of_values, &mut out, start == 0) };
        }
        out.scale(&softmax.map(|softmax| softmax.share()));
    }
}

/// Rows of the output that nothing else refers to.
struct Rows {
    data: *mut f32,
    step: usize,
    width: usize,
    count: usize,
}

impl Rows {
    fn row(&mut self, row: usize) -> &mut [f32] {
        assert!(row < self.count);
        // SAFETY: there are so many rows.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(row * self.step), self.width) }
    }

    fn scale(&mut self, factors: &[f32]) {
        for (row, &factor) in factors.iter().enumerate().take(self.count) {
            self.row(row).iter_mut().for_each(|x| *x *= factor);
        }
    }
}
