//! Linear layers of one size that stand for one another: of each, some rows of the input go through.

use crate::{Init, Leaf, LeafMut, Linear, Module, Result, Weight, math};
use mlx_rs::Array;

/// Which layer of a stack each row goes through.
pub struct Route {
    /// The layers' numbers, of any shape `[…]`: one for each row.
    pub indices: Array,
    /// Whether the numbers rise from row to row; rows of one layer are then multiplied together.
    pub sorted: bool,
}

impl Route {
    /// `x Wᵀ`, `[…, in]` → `[…, out]`, by the route if there is one: serves factors of an adapter in both kinds of layer.
    pub fn product(route: Option<&Self>, x: &Array, weight: &Weight) -> Result<Array> {
        match route {
            Some(route) => weight.gather(x, route),
            None => weight.matmul(x, None),
        }
    }
}

/// E linear layers in one: `y = x W_eᵀ + b_e` with an e for each row. Only the layers that a route names are read.
///
/// To everything generic it is a [`Linear`] whose tensors have an axis more, in front: it is packed, adapted, loaded and
/// trained as any other.
pub struct Stacked(Linear);

impl Stacked {
    /// `count` dense layers that begin as PyTorch's: uniform in ±1/√in, the biases too.
    pub fn new(count: i32, input: i32, output: i32, bias: bool, init: &mut Init) -> Result<Self> {
        let bound = (input.max(1) as f32).sqrt().recip();
        let weight = Weight::Dense(init.uniform(&[count, output, input], bound)?);
        let bias = bias.then(|| init.uniform(&[count, output], bound)).transpose()?;
        Ok(Self(Linear { weight, bias, adapters: Default::default() }))
    }

    /// Rows `[…, in]` → `[…, out]`. The axes of `x` before its last and those of the route are the same, or broadcast.
    pub fn forward(&self, x: &Array, route: &Route) -> Result<Array> {
        let Self(Linear { weight, bias, adapters }) = self;
        let mut y = weight.gather(x, route)?;
        if let Some(bias) = bias {
            y = math::add(&y, &bias.get().take_axis(&route.indices, 0)?)?;
        }
        adapters.values().try_fold(y, |y, adapter| adapter.apply(x, y, Some(route)))
    }

    /// What a walk sees.
    pub fn linear(&self) -> &Linear {
        &self.0
    }
}

impl Module for Stacked {
    fn each<'a>(&'a self, f: &mut dyn FnMut(&str, &'a dyn Module)) {
        self.0.each(f);
    }
    fn each_mut(&mut self, f: &mut dyn FnMut(&str, &mut dyn Module)) {
        self.0.each_mut(f);
    }
    fn leaf(&self) -> Leaf<'_> {
        self.0.leaf()
    }
    fn leaf_mut(&mut self) -> LeafMut<'_> {
        self.0.leaf_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Adapter, Dtype, Param, on_linears, testing::difference};

    const COUNT: i32 = 5;
    const WIDTH: i32 = 64;

    fn stacked(bias: bool) -> Stacked {
        Stacked::new(COUNT, WIDTH, 6, bias, &mut Init::default()).unwrap()
    }

    fn rows(count: usize) -> Array {
        Init::new(Dtype::Float32, 3).normal(&[count as i32, WIDTH], 1.0).unwrap().get()
    }

    fn route(indices: &[i32], sorted: bool) -> Route {
        Route { indices: math::array(indices, &[indices.len() as i32]).unwrap(), sorted }
    }

    /// Row by row, each through a linear layer of its own.
    fn one_by_one(stacked: &Stacked, x: &Array, indices: &[i32]) -> Array {
        let Linear { weight: Weight::Dense(weight), bias, .. } = stacked.linear() else { panic!("it is packed") };
        let member = |param: &Param, e| Param::new(param.get().take_axis(Array::from_int(e), 0).unwrap());
        let each = indices.iter().zip(0..).map(|(&e, row)| {
            let bias = bias.as_ref().map(|bias| member(bias, e));
            let row = math::slice(x, 0, row, row + 1).unwrap();
            Weight::Dense(member(weight, e)).matmul(&row, bias.as_ref()).unwrap()
        });
        mlx_rs::ops::concatenate(&each.collect::<Vec<_>>(), 0).unwrap()
    }

    #[test]
    fn rows_go_through_the_layers_that_the_route_names() {
        for bias in [false, true] {
            let stacked = stacked(bias);
            for (indices, sorted) in [(&[4, 0, 0, 2, 4, 1][..], false), (&[0, 0, 1, 2, 2, 4], true), (&[3], true)] {
                let x = rows(indices.len());
                let y = stacked.forward(&x, &route(indices, sorted)).unwrap();
                assert!(difference(&y, &one_by_one(&stacked, &x, indices)) < 1e-5);
            }
        }
    }

    #[test]
    fn packed_layers_equal_the_unpacked() {
        let indices: Vec<i32> = (0..70).map(|row| row * 3 % COUNT).collect();
        let (x, rising) = (rows(70), (0..70).map(|row| row / 14).collect());
        for (group, bits) in [(32, 4), (64, 8), (32, 3)] {
            let mut stacked = stacked(true);
            on_linears(&mut stacked, |_, linear| linear.weight.quantise(group, bits)).unwrap();
            assert_eq!(stacked.linear().weight.shape(), [COUNT, 6, WIDTH]);
            let run = |indices: &Vec<i32>, sorted| stacked.forward(&x, &route(indices, sorted)).unwrap();
            let packed = [run(&indices, false), run(&rising, true)];
            on_linears(&mut stacked, |_, linear| linear.weight.dequantise(Dtype::Float32)).unwrap();
            for (packed, indices) in packed.iter().zip([&indices, &rising]) {
                assert!(difference(packed, &one_by_one(&stacked, &x, indices)) < 1e-5, "{group} {bits}");
            }
        }
    }

    /// LoRA, with factors as the layer has its weights: `[…, r, in]` and `[…, out, r]`.
    struct Lora {
        down: Weight,
        up: Weight,
    }
    impl Module for Lora {
        fn each<'a>(&'a self, f: &mut dyn FnMut(&str, &'a dyn Module)) {
            self.down.each(f);
            self.up.each(f);
        }
        fn each_mut(&mut self, f: &mut dyn FnMut(&str, &mut dyn Module)) {
            self.down.each_mut(f);
            self.up.each_mut(f);
        }
    }
    impl Adapter for Lora {
        fn apply(&self, x: &Array, y: Array, route: Option<&Route>) -> Result<Array> {
            math::add(&y, &Route::product(route, &Route::product(route, x, &self.down)?, &self.up)?)
        }
    }

    #[test]
    fn an_adapter_of_stacked_factors_follows_the_route() {
        let (indices, mut init) = ([4, 0, 0, 2], Init::default());
        let x = rows(indices.len());
        for bits in [None, Some(4)] {
            let mut stacked = stacked(false);
            bits.map_or(Ok(()), |bits| on_linears(&mut stacked, |_, linear| linear.weight.quantise(32, bits))).unwrap();
            let plain = stacked.forward(&x, &route(&indices, false)).unwrap();
            let [down, up] = [[COUNT, 2, WIDTH], [COUNT, 6, 2]].map(|shape| init.normal(&shape, 0.1).unwrap());
            let product = Weight::Dense(Param::new(up.get().matmul(down.get()).unwrap()));
            let mut lora = Some(Lora { down: Weight::Dense(down), up: Weight::Dense(up) });
            on_linears(&mut stacked, |_, linear| {
                linear.adapters.insert("style".into(), Box::new(lora.take().unwrap()));
                Ok(())
            })
            .unwrap();
            let change = math::subtract(&stacked.forward(&x, &route(&indices, false)).unwrap(), &plain).unwrap();
            let whole = Stacked(Linear { weight: product, bias: None, adapters: Default::default() });
            assert!(difference(&change, &one_by_one(&whole, &x, &indices)) < 1e-5);
            assert!(crate::params(&stacked).contains_key("style.weight"));
        }
    }
}
