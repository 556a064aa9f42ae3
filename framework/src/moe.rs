//! Mixtures of experts: feed-forward networks of which a token goes through a few.

mod on_cuda;

use crate::{Activation, Error, Ffn, Glu, Init, Linear, Param, Result, Route, Stacked, call, math};
use mlx_rs::{
    Array, Dtype, ops,
    ops::{argsort_axis, indexing::take_along_axis},
    stop_gradient,
};
use serde::Deserialize;

/// What makes an expert's score of its logit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scoring {
    /// A softmax over all experts (Mixtral, Qwen3-MoE).
    Softmax,
    /// A softmax over those that are chosen (gpt-oss).
    SoftmaxOfChosen,
    /// A sigmoid (DeepSeek-V3, GLM-4.5).
    Sigmoid,
}

/// How experts are chosen and weighed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// Experts a token, k.
    pub top_k: i32,
    /// What makes scores of logits.
    pub scoring: Scoring,
    /// Whether the weights of a token's experts are divided by their sum.
    pub normalise: bool,
    /// What weights are multiplied by in the end.
    pub scale: f32,
}

/// Chooses the k experts of the highest scores for each token, and their weights
/// (<https://arxiv.org/abs/1701.06538>; scores in f32). Of experts with the same score the first is chosen.
pub struct Router {
    /// From tokens to logits, `[E, D]`.
    pub linear: Linear,
    /// `[E]`: added to scores where experts are chosen, not where they are weighed (<https://arxiv.org/abs/2408.15664>).
    pub correction: Option<Param>,
    /// How experts are chosen and weighed.
    pub choice: Choice,
    /// What weights are kept in, where that is wider than the tokens: Mixtral's f32.
    pub accumulate: Option<Dtype>,
}
crate::module! { impl[] Router { linear, correction } }

/// The experts of T tokens, best first; observed as `router#logits`, `#weights`, `#indices`.
pub struct Routing {
    /// `[T, E]`.
    pub logits: Array,
    /// `[T, k]`.
    pub weights: Array,
    /// Numbers of experts, `[T, k]`.
    pub indices: Array,
}
crate::observed! { Routing { logits, weights, indices } }

impl Router {
    /// Tokens `[T, D]` → their experts.
    pub fn forward(&self, x: &Array) -> Result<Routing> {
        let logits = call!(self.linear.forward(x))?;
        let dtype = self.accumulate.unwrap_or(x.dtype());
        let [weights, indices] = match self.on_cuda(&logits, dtype)? {
            Some(chosen) => chosen,
            None => self.choose(&logits, dtype)?,
        };
        Ok(Routing { logits, weights, indices })
    }

    /// The k best of logits `[T, E]`: their weights of a dtype and their numbers, `[T, k]`.
    fn choose(&self, logits: &Array, dtype: Dtype) -> Result<[Array; 2]> {
        let Choice { top_k, scoring, normalise, scale } = self.choice;
        let wide = logits.as_dtype(Dtype::Float32)?;
        let scores = match scoring {
            Scoring::Softmax => ops::softmax_axis(&wide, -1, true)?,
            Scoring::SoftmaxOfChosen => wide,
            Scoring::Sigmoid => ops::sigmoid(&wide)?,
        };
        let ranked = match &self.correction {
            Some(correction) => math::add(&scores, &correction.get())?,
            None => scores.clone(),
        };
        let order = argsort_axis(stop_gradient(ranked.negative()?)?, -1)?;
        let indices = math::slice(&order, -1, 0, top_k)?;
        let mut weights = take_along_axis(&scores, &indices, -1)?;
        if scoring == Scoring::SoftmaxOfChosen {
            weights = ops::softmax_axis(&weights, -1, true)?;
        }
        if normalise {
            weights = math::divide(&weights, &weights.sum_axis(-1, true)?)?;
        }
        Ok([math::scaled(&weights, scale.into())?.as_dtype(dtype)?, indices])
    }
}

/// E gated networks ([`Glu`]), stacked.
pub struct Experts {
    /// `[E, hidden, D]`.
    pub gate: Stacked,
    /// `[E, hidden, D]`.
    pub up: Stacked,
    /// `[E, D, hidden]`.
    pub down: Stacked,
    /// That of the gate.
    pub activation: Activation,
}
crate::module! { impl[] Experts { gate, up, down } }

impl Experts {
    /// From so many rows on they are sorted by expert, so that those of one are multiplied together.
    const SORTED: usize = 64;

    /// Tokens `[T, D]` → the weighted sum of what their experts make of them, `[T, D]`.
    ///
    /// Inside there is a row for each token and each of its experts: T·k rows, in the order of tokens, or of experts where
    /// they are many.
    pub fn forward(&self, x: &Array, routing: &Routing) -> Result<Array> {
        let [tokens, top_k] = math::shape(&routing.indices)?;
        let every = routing.indices.flatten(None, None)?;
        let many = every.size() >= Self::SORTED;
        if !many && let Some(y) = self.on_cuda(x, routing)? {
            return Ok(y);
        }
        let order = many.then(|| argsort_axis(&every, 0)).transpose()?;
        let y = match &order {
            Some(order) => {
                let route = Route { indices: every.take_axis(order, 0)?, sorted: true };
                let token = order.floor_divide(Array::from_int(top_k).as_dtype(order.dtype())?)?;
                let y = self.each(&x.take_axis(token, 0)?, &route)?;
                y.take_axis(argsort_axis(order, 0)?, 0)?
            }
            None => {
                let rows = ops::broadcast_to(x.expand_dims(1)?, &[tokens, top_k, math::last(x)?])?;
                self.each(&rows.flatten(None, 1)?, &Route { indices: every, sorted: false })?
            }
        };
        let y = y.reshape(&[tokens, top_k, -1])?;
        let weighted = math::multiply(&routing.weights.expand_dims(-1)?, &y)?;
        Ok(weighted.sum_axis(1, false)?.as_dtype(x.dtype())?)
    }

    /// Rows `[R, D]`, each through the expert of its route → `[R, D]`.
    fn each(&self, x: &Array, route: &Route) -> Result<Array> {
        let gate = call!(self.gate.forward(x, route))?;
        let hidden = self.activation.gated(&gate, &call!(self.up.forward(x, route))?)?;
        call!(self.down.forward(&hidden, route))
    }
}

/// An expert that every token goes through; with a gate, as far as that opens it.
pub struct SharedExpert {
    /// The network.
    pub ffn: Glu,
    /// `[1, D]`: its sigmoid multiplies the network's output (Qwen2-MoE).
    pub gate: Option<Linear>,
}
crate::module! { impl[] SharedExpert { ffn, gate } }

impl SharedExpert {
    /// Tokens `[T, D]` → `[T, D]`.
    pub fn forward(&self, x: &Array) -> Result<Array> {
        let y = call!(self.ffn.forward(x))?;
        match &self.gate {
            Some(gate) => math::multiply(&y, &ops::sigmoid(call!(gate.forward(x))?)?),
            None => Ok(y),
        }
    }
}

/// A mixture of experts in the place of a feed-forward network (<https://arxiv.org/abs/2101.03961>): `Σ w_e E_e(x)` over
/// the k experts that the router chooses for a token, plus what the shared expert makes of it. The other experts are not
/// evaluated.
pub struct Moe {
    /// Chooses.
    pub router: Router,
    /// Compute.
    pub experts: Experts,
    /// Computes for every token.
    pub shared: Option<SharedExpert>,
}
crate::module! { impl[] Moe { router, experts, shared } }

/// How many experts of what size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ExpertSizes {
    /// How many, E.
    pub count: i32,
    /// Units of each.
    pub hidden: i32,
}

impl Moe {
    /// A mixture without a correction and without a shared expert.
    ///
    /// # Errors
    /// When a token would go through no expert, or through more than there are.
    pub fn new(dim: i32, sizes: ExpertSizes, choice: Choice, activation: Activation, init: &mut Init) -> Result<Self> {
        let ExpertSizes { count, hidden } = sizes;
        if !(1..=count).contains(&choice.top_k) {
            let problem =
                format!("{} experts a token, of {count}; at least 1 and at most all are chosen", choice.top_k);
            return Err(Error::argument("top_k", problem));
        }
        let router =
            Router { linear: Linear::new(dim, count, false, init)?, correction: None, choice, accumulate: None };
        let experts = Experts {
            gate: Stacked::new(count, dim, hidden, false, init)?,
            up: Stacked::new(count, dim, hidden, false, init)?,
            down: Stacked::new(count, hidden, dim, false, init)?,
            activation,
        };
        Ok(Self { router, experts, shared: None })
    }
}

impl Ffn for Moe {
    fn forward(&self, x: &Array) -> Result<Array> {
        let tokens = x.flatten(None, -2)?;
        let routing = call!(self.router.forward(&tokens))?;
        let mut y = call!(self.experts.forward(&tokens, &routing))?;
        if let Some(shared) = &self.shared {
            y = math::add(&y, &call!(shared.forward(&tokens))?)?;
        }
        Ok(y.reshape(x.shape())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Weight, on_linears, params, tap,
        testing::difference,
        train::{Adam, Loss, Named, Rate, Settings, State, Step, Trainable},
    };

    const DIM: i32 = 32;
    const SIZES: ExpertSizes = ExpertSizes { count: 5, hidden: 64 };
    const CHOICE: Choice = Choice { top_k: 2, scoring: Scoring::Softmax, normalise: true, scale: 1.0 };

    fn moe(choice: Choice) -> Moe {
        let mut init = Init::new(Dtype::Float32, 7);
        let mut moe = Moe::new(DIM, SIZES, choice, Activation::Silu, &mut init).unwrap();
        for param in params(&moe).into_values() {
            param.replace(math::scaled(&param.get(), 3.0).unwrap());
        }
        if choice.scoring == Scoring::Sigmoid {
            moe.router.correction = Some(init.normal(&[SIZES.count], 0.3).unwrap());
            let gate = Some(Linear::new(DIM, 1, false, &mut init).unwrap());
            let ffn = Glu::new(DIM, 8, Activation::Silu, false, &mut init).unwrap();
            moe.shared = Some(SharedExpert { ffn, gate });
        }
        moe
    }

    fn tokens(shape: &[i32]) -> Array {
        Init::new(Dtype::Float32, 11).normal(shape, 1.0).unwrap().get()
    }

    /// The rows of a parameter, `[…, columns]`.
    fn matrix(moe: &Moe, path: &str) -> Vec<Vec<f64>> {
        let param = params(moe)[path].get();
        let columns = math::last(&param).unwrap() as usize;
        let all: Vec<f64> = math::read::<f32>(&param).unwrap().into_iter().map(f64::from).collect();
        all.chunks(columns).map(<[f64]>::to_vec).collect()
    }

    fn times(matrix: &[Vec<f64>], x: &[f64]) -> Vec<f64> {
        matrix.iter().map(|row| row.iter().zip(x).map(|(a, b)| a * b).sum()).collect()
    }

    fn sigmoid(x: f64) -> f64 {
        1.0 / (1.0 + (-x).exp())
    }

    fn softmax(x: &[f64]) -> Vec<f64> {
        let exp: Vec<f64> = x.iter().map(|x| x.exp()).collect();
        let sum: f64 = exp.iter().sum();
        exp.into_iter().map(|x| x / sum).collect()
    }

    /// `down(silu(gate x) ∘ up x)` of one of several networks that are stacked.
    fn glu(moe: &Moe, path: &str, member: usize, count: usize, x: &[f64]) -> Vec<f64> {
        let own = |part: &str| {
            let all = matrix(moe, &format!("{path}.{part}.weight"));
            let rows = all.len() / count;
            all[member * rows..(member + 1) * rows].to_vec()
        };
        let pairs = times(&own("gate"), x).into_iter().zip(times(&own("up"), x));
        times(&own("down"), &pairs.map(|(gate, up)| gate * sigmoid(gate) * up).collect::<Vec<_>>())
    }

    /// A loop over tokens and their experts, in f64.
    fn looped(moe: &Moe, x: &Array) -> Array {
        let Choice { top_k, scoring, normalise, scale } = moe.router.choice;
        let rows = math::read::<f32>(x).unwrap();
        let mut y = Vec::new();
        for token in rows.chunks(DIM as usize) {
            let token: Vec<f64> = token.iter().map(|&x| x.into()).collect();
            let logits = times(&matrix(moe, "router.linear.weight"), &token);
            let scores = match scoring {
                Scoring::Softmax => softmax(&logits),
                Scoring::SoftmaxOfChosen => logits,
                Scoring::Sigmoid => logits.into_iter().map(sigmoid).collect(),
            };
            let mut ranked = scores.clone();
            if moe.router.correction.is_some() {
                let correction = matrix(moe, "router.correction").concat();
                ranked = ranked.iter().zip(correction).map(|(score, more)| score + more).collect();
            }
            let mut best: Vec<usize> = (0..scores.len()).collect();
            best.sort_by(|&a, &b| ranked[b].total_cmp(&ranked[a]));
            best.truncate(top_k as usize);
            let mut weights: Vec<f64> = best.iter().map(|&e| scores[e]).collect();
            if scoring == Scoring::SoftmaxOfChosen {
                weights = softmax(&weights);
            }
            let sum: f64 = if normalise { weights.iter().sum() } else { 1.0 };
            let mut out = vec![0.0; DIM as usize];
            let mut add = |weight: f64, part: Vec<f64>| out.iter_mut().zip(part).for_each(|(y, x)| *y += weight * x);
            for (&e, weight) in best.iter().zip(weights) {
                add(f64::from(scale) * weight / sum, glu(moe, "experts", e, SIZES.count as usize, &token));
            }
            if moe.shared.is_some() {
                let gate = sigmoid(times(&matrix(moe, "shared.gate.weight"), &token)[0]);
                add(gate, glu(moe, "shared.ffn", 0, 1, &token));
            }
            y.extend(out.into_iter().map(|y| y as f32));
        }
        math::array(&y, x.shape()).unwrap()
    }

    fn choices() -> Vec<Choice> {
        let mut found = Vec::new();
        for scoring in [Scoring::Softmax, Scoring::SoftmaxOfChosen, Scoring::Sigmoid] {
            for top_k in [1, 2, SIZES.count] {
                for (normalise, scale) in [(true, 1.0), (false, 2.5)] {
                    found.push(Choice { top_k, scoring, normalise, scale });
                }
            }
        }
        found
    }

    #[test]
    fn a_mixture_is_a_loop_over_experts() {
        for choice in choices() {
            let moe = moe(choice);
            // One token, a few, and so many that they are sorted.
            for shape in [[1, 1, DIM], [2, 3, DIM], [2, 33, DIM]] {
                let x = tokens(&shape);
                let apart = difference(&moe.forward(&x).unwrap(), &looped(&moe, &x));
                assert!(apart < 2e-5, "{choice:?} {shape:?}: {apart}");
            }
        }
    }

    #[test]
    fn packed_experts_are_the_unpacked() {
        let x = tokens(&[2, 33, DIM]);
        let mut moe = moe(CHOICE);
        on_linears(&mut moe, |_, linear| linear.weight.quantise(32, 4)).unwrap();
        assert!(matches!(moe.experts.down.linear().weight, Weight::Affine(_)));
        let few = math::slice(&x, 1, 0, 3).unwrap();
        let packed = [moe.forward(&x).unwrap(), moe.forward(&few).unwrap()];
        on_linears(&mut moe, |_, linear| linear.weight.dequantise(Dtype::Float32)).unwrap();
        for (packed, x) in packed.iter().zip([&x, &few]) {
            assert!(difference(packed, &looped(&moe, x)) < 1e-5);
        }
    }

    #[test]
    fn of_equal_experts_the_first_are_chosen() {
        let moe = moe(Choice { top_k: 3, ..CHOICE });
        params(&moe)["router.linear.weight"].replace(Array::zeros::<f32>(&[SIZES.count, DIM]).unwrap());
        let routing = moe.router.forward(&tokens(&[2, DIM])).unwrap();
        assert_eq!(math::read::<u32>(&routing.indices).unwrap(), [0, 1, 2, 0, 1, 2]);
        assert!(math::read::<f32>(&routing.weights).unwrap().iter().all(|weight| (weight - 1.0 / 3.0).abs() < 1e-6));
    }

    #[test]
    fn of_many_experts_the_best_are_chosen() {
        let linear = Linear::new(DIM, 70, false, &mut Init::new(Dtype::Float32, 13)).unwrap();
        let choice = Choice { top_k: 6, ..CHOICE };
        let router = Router { linear, correction: None, choice, accumulate: None };
        let routing = router.forward(&tokens(&[4, DIM])).unwrap();
        let (logits, indices) =
            (math::read::<f32>(&routing.logits).unwrap(), math::read::<u32>(&routing.indices).unwrap());
        for (logits, indices) in logits.chunks(70).zip(indices.chunks(6)) {
            let mut order: Vec<u32> = (0..70).collect();
            order.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]));
            assert_eq!(indices, &order[..6]);
        }
    }

    /// What is computed with not-a-number is not a number, multiplied by nothing or not.
    #[test]
    fn experts_that_no_token_chooses_are_not_evaluated() {
        for length in [1, 40] {
            let moe = moe(CHOICE);
            let x = ops::broadcast_to(tokens(&[1, 1, DIM]), &[1, length, DIM]).unwrap();
            let expected = moe.forward(&x).unwrap();
            expected.eval().unwrap();
            let chosen = math::read::<u32>(&moe.router.forward(&tokens(&[1, DIM])).unwrap().indices).unwrap();
            let spoil: Vec<f32> = (0..5).map(|e| if chosen.contains(&e) { 0.0 } else { f32::NAN }).collect();
            let spoil = math::array(&spoil, &[5, 1, 1]).unwrap();
            for (path, param) in params(&moe) {
                if path.starts_with("experts") {
                    param.replace(math::add(&param.get(), &spoil).unwrap());
                }
            }
            assert_eq!(difference(&moe.forward(&x).unwrap(), &expected), 0.0);
        }
    }

    #[test]
    fn the_rows_inside_are_those_of_the_chosen() {
        for length in [3, 33] {
            let mut rows = Vec::new();
            let mut sink = |path: &str, x: &Array| {
                rows.push((path.to_owned(), x.shape().to_vec()));
                None
            };
            let moe = moe(CHOICE);
            tap::with(&mut sink, || moe.forward(&tokens(&[2, length, DIM]))).unwrap();
            let (all, hidden) = (2 * length, SIZES.hidden);
            let expected = [
                ("router.linear", vec![all, SIZES.count]),
                ("router#logits", vec![all, SIZES.count]),
                ("router#weights", vec![all, 2]),
                ("router#indices", vec![all, 2]),
                ("experts.gate", vec![2 * all, hidden]),
                ("experts.up", vec![2 * all, hidden]),
                ("experts.down", vec![2 * all, DIM]),
                ("experts", vec![all, DIM]),
            ];
            assert_eq!(rows, expected.map(|(path, shape)| (path.to_owned(), shape)));
        }
    }

    #[test]
    fn bf16_mixtures_stay_narrow_but_for_weights_that_are_not() {
        for (accumulate, packed) in [(None, false), (Some(Dtype::Float32), false), (None, true)] {
            let mut moe = moe(CHOICE);
            moe.router.accumulate = accumulate;
            crate::train::cast(&moe, Dtype::Bfloat16, |_| true).unwrap();
            if packed {
                on_linears(&mut moe, |_, linear| linear.weight.quantise(32, 8)).unwrap();
            }
            // So few rows that their experts are widened, and so many that all are.
            for length in [1, 9, 40] {
                let x = tokens(&[length, DIM]).as_dtype(Dtype::Bfloat16).unwrap();
                let routing = moe.router.forward(&x).unwrap();
                assert_eq!(routing.weights.dtype(), accumulate.unwrap_or(Dtype::Bfloat16));
                let narrow = moe.experts.forward(&x, &routing).unwrap();
                assert_eq!(narrow.dtype(), Dtype::Bfloat16);
                let x = x.as_dtype(Dtype::Float32).unwrap();
                let wide = self::moe(CHOICE).experts.forward(&x, &routing).unwrap();
                let apart = math::subtract(&wide, &narrow).unwrap().square().unwrap().mean(None).unwrap();
                let size = wide.square().unwrap().mean(None).unwrap();
                let [apart, size] = [apart, size].map(|x| math::read::<f32>(&x).unwrap()[0]);
                assert!(apart < 4e-4 * size, "{apart} of {size}, {length} tokens");
            }
        }
    }

    /// In the dtype of our kernels where there are any; MLX's own sum up in it on a CPU.
    #[test]
    fn experts_of_few_tokens_in_16_bits_or_fewer_are_those_in_32() {
        use Activation::{Gelu, GeluTanh, QuickGelu, Relu, Relu2, Silu};
        let dtype = if crate::memory::is_on_cpu().unwrap() { Dtype::Float32 } else { Dtype::Bfloat16 };
        let in_four = [Silu, Gelu, GeluTanh, QuickGelu, Relu, Relu2].map(|activation| (activation, Some(4)));
        for (activation, bits) in in_four.into_iter().chain([(Silu, Some(8)), (Silu, None)]) {
            let mut moe = moe(CHOICE);
            moe.experts.activation = activation;
            crate::train::cast(&moe, dtype, |_| true).unwrap();
            let pack = |bits| on_linears(&mut moe, |_, linear| linear.weight.quantise(32, bits));
            bits.map_or(Ok(()), pack).unwrap();
            let x = tokens(&[3, DIM]).as_dtype(dtype).unwrap();
            let routing = moe.router.forward(&x).unwrap();
            let packed = moe.experts.forward(&x, &routing).unwrap();
            assert_eq!(packed.dtype(), dtype);
            on_linears(&mut moe, |_, linear| linear.weight.dequantise(Dtype::Float32)).unwrap();
            crate::train::cast(&moe, Dtype::Float32, |_| true).unwrap();
            let wide = moe.experts.forward(&x.as_dtype(Dtype::Float32).unwrap(), &routing).unwrap();
            let most = math::read::<f32>(&wide.abs().unwrap().max(None).unwrap()).unwrap()[0];
            let apart = difference(&packed.as_dtype(Dtype::Float32).unwrap(), &wide);
            assert!(apart < 0.01 * most, "{activation:?} {bits:?}: {apart} of {most}");
        }
    }

    #[test]
    fn more_experts_than_there_are_is_an_error() {
        for top_k in [0, 6] {
            let outcome = Moe::new(DIM, SIZES, Choice { top_k, ..CHOICE }, Activation::Silu, &mut Init::default());
            let error = outcome.err().unwrap().to_string();
            assert!(error.contains("top_k") && error.contains("of 5"), "{error}");
        }
    }

    #[test]
    fn a_mixture_learns_in_every_part() {
        for length in [4, 33] {
            let moe = moe(Choice { top_k: 2, ..CHOICE });
            let (x, y) = (tokens(&[1, length, DIM]), tokens(&[1, length + 1, DIM]));
            let y = math::slice(&y, 1, 1, length + 1).unwrap();
            let batches = [Named::from([("x".to_owned(), x), ("y".to_owned(), y)])];
            let before: Vec<(String, Array)> =
                params(&moe).into_iter().map(|(path, param)| (path, param.get())).collect();
            let trainable = Trainable::new(&moe, |_| true).unwrap();
            let mut step = Step::new(
                trainable,
                Adam::default(),
                Settings::new(Rate::Constant { rate: 3e-3, warm_up: 0 }),
                |_, batch, _| {
                    let off = math::subtract(&moe.forward(&batch["x"])?, &batch["y"])?;
                    Ok(Loss::of(off.square()?.mean(None)?))
                },
            )
            .unwrap();
            let mut state = State::begin(&step, 0).unwrap();
            let losses: Vec<f64> = (0..30).map(|_| step.run(&mut state, &batches).unwrap().loss).collect();
            assert!(losses[29] < 0.7 * losses[0], "{losses:?}");
            for (path, before) in before {
                assert!(difference(&state.params[&path], &before) > 1e-4, "{path} has not moved");
            }
        }
    }
}
