//! A small model and a small task.

use framework::sample::{Noising, Prediction, Shift};
use framework::train::{Loss, Named, Objective, Timesteps, Trainable, Weighting};
use framework::{Activation, Array, Dtype, Ffn, Init, Linear, Mlp, Norm, Result, RmsNorm, call, math, module};
use mlx_rs::{ops, random};

pub const WIDTH: i32 = 16;

/// `x + ffn(norm(x))`.
pub struct Layer {
    norm: RmsNorm,
    ffn: Mlp,
}
module! { impl[] Layer { norm, ffn } }

impl Layer {
    pub fn new(width: i32, init: &mut Init) -> Result<Self> {
        let ffn = Mlp::new(width, 4 * width, Activation::Silu, true, init)?;
        Ok(Self { norm: RmsNorm::new(width, 1e-6, init)?, ffn })
    }

    pub fn forward(&self, x: &Array) -> Result<Array> {
        math::add(x, &call!(self.ffn.forward(&call!(self.norm.forward(x))?))?)
    }
}

/// Points `[B, 2]`, their labels `[B, 2]` and noise levels `[B]` to velocities `[B, 2]`.
pub struct Toy {
    pub embed: Linear,
    pub layers: Vec<Layer>,
    pub out: Linear,
}
module! { impl[] Toy { embed, layers, out } }

impl Toy {
    pub fn new(seed: u64) -> Self {
        let mut init = Init::new(Dtype::Float32, seed);
        let layers = (0..2).map(|_| Layer::new(WIDTH, &mut init).unwrap()).collect();
        Self {
            embed: Linear::new(5, WIDTH, true, &mut init).unwrap(),
            layers,
            out: Linear::new(WIDTH, 2, true, &mut init).unwrap(),
        }
    }

    pub fn forward(&self, x: &Array, label: &Array, sigma: &Array) -> Result<Array> {
        let dtype = self.embed.weight.dtype();
        let sigma = sigma.reshape(&[-1, 1])?;
        let all = ops::concatenate(&[x, label, &sigma], -1)?.as_dtype(dtype)?;
        let mut h = call!(self.embed.forward(&all))?;
        for index in 0..self.layers.len() {
            h = call!(self.layers[index].forward(&h))?;
        }
        call!(self.out.forward(&h))
    }
}

pub const OBJECTIVE: Objective =
    Objective { noising: Noising::Flow, prediction: Prediction::Flow, weighting: Weighting::Uniform };

pub const TIMESTEPS: Timesteps = Timesteps::LogitNormal { mean: 0.0, deviation: 1.0, shift: Shift::None };

/// Flow matching with noise from a key.
pub fn measure(model: &Toy, batch: &Named, key: &Array) -> Result<Loss> {
    let noised = OBJECTIVE.noised(&batch["clean"], &TIMESTEPS, key)?;
    let output = model.forward(&noised.input, &batch["label"], &noised.levels.sigma)?;
    Ok(Loss { value: OBJECTIVE.loss(&output, &noised)?, aux: vec![noised.levels.sigma] })
}

/// The same, as a step takes it.
pub fn loss<'a>(model: &'a Toy) -> impl Fn(&Trainable<'a>, &Named, &Array) -> Result<Loss> + 'a {
    move |_, batch, key| measure(model, batch, key)
}

/// One of two labels, and the point that belongs to it.
pub fn batch(count: i32, seed: u64) -> Named {
    let key = random::key(seed).unwrap();
    let which = random::randint::<_, i32>(0, 2, &[count], &key).unwrap();
    let pick = |table: &[f32; 4]| math::array(table, &[2, 2]).unwrap().take_axis(&which, 0).unwrap();
    let clean = pick(&[1.0, 0.5, -1.0, 0.25]);
    Named::from([("clean".to_owned(), clean), ("label".to_owned(), pick(&[1.0, 0.0, 0.0, 1.0]))])
}

/// All numbers, bit for bit.
pub fn bits(named: &Named) -> Vec<(String, Vec<u32>)> {
    let each = named.iter().map(|(path, value)| {
        let value = value.as_dtype(if value.dtype() == Dtype::Uint32 { Dtype::Uint32 } else { Dtype::Float32 });
        let words = value.unwrap().view_dtype(Dtype::Uint32).unwrap();
        (path.clone(), math::read::<u32>(&words).unwrap())
    });
    each.collect()
}

/// The largest difference between arrays of the same names, of the largest value of each.
pub fn apart(one: &Named, other: &Named) -> f32 {
    assert!(one.keys().eq(other.keys()));
    let pairs = one.values().zip(other.values()).map(|(one, other)| {
        let [one, other] = [one, other].map(|x| math::read::<f32>(&x.as_dtype(Dtype::Float32).unwrap()).unwrap());
        let peak = one.iter().fold(f32::MIN_POSITIVE, |peak, x| peak.max(x.abs()));
        one.iter().zip(&other).fold(0f32, |most, (one, other)| most.max((one - other).abs() / peak))
    });
    pairs.fold(0.0, f32::max)
}
