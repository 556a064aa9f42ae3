//! What each verb does to the tensors that its rule matches, quantised ones included.
//!
//! Sizes in a rule are those of dense tensors. A quantised weight is stored as packed words and one scale a group
//! along its last axis, so along that axis sizes are scaled to what is stored, and only boundaries between groups
//! can be met.

use std::sync::Arc;

use crate::weights::expr::{BatchNorm, Expr, Fold, size};
use crate::weights::header::{Info, Stored};
use crate::weights::map::Op;
use crate::weights::resolve::{Items, Produced, sibling};

/// A tensor that a rule matches.
pub(crate) struct Source<'a> {
    /// Which of the rule's patterns it matches.
    pub slot: usize,
    pub name: &'a str,
    pub item: &'a Produced,
}

impl Source<'_> {
    fn info(&self) -> &Info {
        &self.item.info
    }

    fn handle(&self) -> Arc<Expr> {
        Arc::new(self.item.expr.clone())
    }

    /// Whether it is part of a quantised weight, so that its last axis counts words or groups.
    fn is_packed(&self, items: &Items) -> bool {
        matches!(self.name.rsplit('.').next(), Some("weight" | "scales" | "biases"))
            && items.contains_key(&sibling(self.name, "scales"))
            && items.get(&sibling(self.name, "weight")).is_some_and(|weight| weight.info.dtype == Stored::U32)
    }

    /// Whether sizes along an axis are not those of the dense tensor.
    fn is_scaled(&self, axis: usize, items: &Items) -> bool {
        let rank = self.info().shape.len();
        rank >= 2 && axis + 1 == rank && self.is_packed(items)
    }
}

/// The results of an operation, in the order of the rule's targets, or why it cannot be done.
pub(crate) fn apply(op: &Op, sources: &[Source], targets: usize, items: &Items) -> Result<Vec<Expr>, String> {
    let one = || match sources {
        [one] => Ok(one),
        _ => Err(format!("{} sources for one", sources.len())),
    };
    let exprs = || sources.iter().map(|source| source.item.expr.clone());
    match op {
        Op::Rename => Ok(vec![one()?.item.expr.clone()]),
        Op::Split { axis, sizes } => split(one()?, *axis, sizes, items),
        Op::Concat { axis, sizes } => {
            same_packing(sources, *axis, items)?;
            if let Some(sizes) = sizes {
                stated_sizes(sources, *axis, sizes, items)?;
            }
            Ok(vec![Expr::Concat { parts: exprs().collect(), axis: *axis }])
        }
        Op::Stack => Ok(vec![Expr::Stack { parts: exprs().collect() }]),
        Op::Unstack => {
            let of = one()?.handle();
            let member = |index| Expr::Index { of: of.clone(), index };
            Ok((0..targets).map(member).collect())
        }
        Op::Transpose { axes } => transpose(one()?, axes, items),
        Op::Reshape { from, to } => reshape(one()?, from, to, items),
        Op::Rows(order) => Ok(vec![Expr::Rows { of: one()?.handle(), order: *order }]),
        Op::WeightNorm { axis } => match sources {
            [g, v] => Ok(vec![Expr::WeightNorm { g: g.handle(), v: v.handle(), axis: *axis }]),
            _ => Err("it takes magnitudes and directions".into()),
        },
        Op::BatchNorm { eps } => batch_norm(sources, *eps),
        Op::Drop { .. } | Op::Tied => Ok(Vec::new()),
    }
}

fn split(source: &Source, axis: usize, sizes: &[usize], items: &Items) -> Result<Vec<Expr>, String> {
    let info = source.info();
    let actual = size(info, axis)?;
    let total = sum(sizes).ok_or("the sizes overflow")?;
    let scaled = total != actual && source.is_scaled(axis, items);
    if total != actual && !scaled {
        return Err(format!("sizes {sizes:?} sum to {total}, but axis {axis} of {info} is {actual}"));
    }
    let mut start: usize = 0;
    let mut parts = Vec::with_capacity(sizes.len());
    for &size in sizes {
        let stored = if scaled {
            whole(size, actual, total)
                .ok_or_else(|| format!("sizes {sizes:?} cut {info} inside a group or word along axis {axis}"))?
        } else {
            size
        };
        let end = start.checked_add(stored).ok_or("the sizes overflow")?;
        parts.push(Expr::Slice { of: source.handle(), axis, start, end });
        start = end;
    }
    Ok(parts)
}

fn sum(sizes: &[usize]) -> Option<usize> {
    sizes.iter().try_fold(0_usize, |sum, &size| sum.checked_add(size))
}

/// `size · actual / total`, when that is whole.
fn whole(size: usize, actual: usize, total: usize) -> Option<usize> {
    let product = size.checked_mul(actual)?;
    product.is_multiple_of(total).then(|| product.checked_div(total))?
}

/// Along the input axis the packed words of weights join only if all have the same bits and groups: four-bit and
/// eight-bit words would join without complaint and mean something else.
fn same_packing(sources: &[Source], axis: usize, items: &Items) -> Result<(), String> {
    let mut first: Option<(&Source, usize, usize)> = None;
    for source in sources {
        if !source.is_scaled(axis, items) {
            continue;
        }
        let width = |leaf| {
            let name = sibling(source.name, leaf);
            let part = items.get(&name).ok_or(format!("`{name}` is not there"))?;
            size(&part.info, axis)
        };
        let (words, groups) = (width("weight")?, width("scales")?);
        match first {
            Some((other, w, g)) if words.checked_mul(g) != w.checked_mul(groups) => {
                return Err(format!(
                    "`{}` and `{}` are quantised to different bits or groups",
                    other.name, source.name
                ));
            }
            Some(_) => (),
            None => first = Some((source, words, groups)),
        }
    }
    Ok(())
}

fn stated_sizes(sources: &[Source], axis: usize, sizes: &[usize], items: &Items) -> Result<(), String> {
    let found: Vec<usize> = sources.iter().map(|source| size(source.info(), axis)).collect::<Result<_, _>>()?;
    let scaled = sources.first().is_some_and(|source| source.is_scaled(axis, items));
    let fits = if scaled {
        let (actual, total) = (sum(&found), sum(sizes));
        found.iter().zip(sizes).all(|(&found, &size)| {
            let product = |n: usize, by: Option<usize>| n.checked_mul(by?);
            product(found, total).is_some() && product(found, total) == product(size, actual)
        })
    } else {
        found == sizes
    };
    if fits {
        Ok(())
    } else {
        Err(format!("the parts have sizes {found:?} along axis {axis}, and the rule says {sizes:?}"))
    }
}

fn transpose(source: &Source, axes: &[usize], items: &Items) -> Result<Vec<Expr>, String> {
    let info = source.info();
    if info.shape.len() == 1 {
        return Ok(vec![source.item.expr.clone()]);
    }
    let last = axes.len().checked_sub(1);
    if source.is_packed(items) && axes.last().copied() != last {
        return Err(format!("{info} is quantised along its last axis, which cannot move"));
    }
    Ok(vec![Expr::Transpose { of: source.handle(), axes: axes.into() }])
}

fn reshape(source: &Source, from: &[usize], to: &[usize], items: &Items) -> Result<Vec<Expr>, String> {
    let info = source.info();
    let mut shape = to.to_vec();
    let fits = if source.is_packed(items) {
        match (from.split_last(), info.shape.split_last(), shape.last_mut()) {
            (Some((dense, rows)), Some((&stored, found)), Some(last)) if dense == last => {
                *last = stored;
                rows == found
            }
            _ => {
                return Err(format!("{info} is quantised along its last axis, which cannot change"));
            }
        }
    } else {
        from == info.shape
    };
    if !fits {
        return Err(format!("it expects the shape {from:?}, not {info}"));
    }
    Ok(vec![Expr::Reshape { of: source.handle(), shape: shape.into() }])
}

fn batch_norm(sources: &[Source], eps: f64) -> Result<Vec<Expr>, String> {
    let part = |slot| {
        let source = sources.iter().find(|source| source.slot == slot);
        source.map(|source| source.item.expr.clone())
    };
    let (Some(mean), Some(variance)) = (part(0), part(1)) else {
        return Err("it takes a mean and a variance".into());
    };
    let fold = |fold| {
        Expr::BatchNorm(Arc::new(BatchNorm {
            mean: mean.clone(),
            variance: variance.clone(),
            weight: part(2),
            bias: part(3),
            eps,
            part: fold,
        }))
    };
    Ok(vec![fold(Fold::Scale), fold(Fold::Shift)])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use crate::weights::expr::RowOrder;
    use crate::weights::expr::tests::{Tensor, evaluate, info};
    use crate::weights::header::{Header, Stored};
    use crate::weights::map::WeightMap;

    /// A checkpoint with its values.
    #[derive(Default)]
    struct File {
        header: Header,
        tensors: BTreeMap<String, Tensor>,
    }

    impl File {
        fn add(&mut self, name: String, dtype: Stored, tensor: Tensor) {
            self.header.tensors.insert(name.clone(), info(dtype, &tensor.shape));
            self.tensors.insert(name, tensor);
        }

        /// The values of everything that a map gives.
        fn load(&self, map: &WeightMap) -> BTreeMap<String, Tensor> {
            let forward = map.forward(&self.header).unwrap();
            assert!(forward.coverage.is_empty(), "{}", forward.coverage);
            let values = forward.produced.into_iter().map(|(path, produced)| {
                let value = evaluate(&produced.expr, &self.tensors);
                assert_eq!(value.shape, produced.info.shape, "{path}");
                (path, value)
            });
            values.collect()
        }
    }

    /// The same weights dense and packed, with `bits` and groups of 32.
    fn files(shapes: &[(&str, &[usize])], bits: usize) -> (File, File) {
        let (mut dense, mut packed) = (File::default(), File::default());
        for (n, (module, shape)) in shapes.iter().enumerate() {
            let size: usize = shape.iter().product();
            let levels: Vec<u32> = (0..size).map(|i| ((i * 7 + i / 5 + n) % (1 << bits)) as u32).collect();
            let with = |last: usize| [&shape[..shape.len() - 1], &[last]].concat();
            let last = shape[shape.len() - 1];
            let scales = Tensor::count(&with(last / 32), n + 1);
            let biases = Tensor::count(&with(last / 32), 1000 * (n + 1));
            let words = levels.chunks(32 / bits).map(|levels| {
                let word = levels.iter().rev().fold(0, |word: u32, level| word << bits | level);
                f64::from(word)
            });
            let words = Tensor { shape: with(last * bits / 32), data: words.collect() };
            let weight = unpack(&words, &scales, &biases, bits);
            dense.add(format!("{module}.weight"), Stored::F32, weight);
            packed.add(format!("{module}.weight"), Stored::U32, words);
            packed.add(format!("{module}.scales"), Stored::F16, scales);
            packed.add(format!("{module}.biases"), Stored::F16, biases);
        }
        (dense, packed)
    }

    fn unpack(words: &Tensor, scales: &Tensor, biases: &Tensor, bits: usize) -> Tensor {
        let per_word = 32 / bits;
        let data = (0..words.data.len() * per_word).map(|n| {
            let level = (words.data[n / per_word] as u32) >> (n % per_word * bits) & ((1 << bits) - 1);
            f64::from(level) * scales.data[n / 32] + biases.data[n / 32]
        });
        let mut shape = words.shape.clone();
        *shape.last_mut().unwrap() *= per_word;
        Tensor { shape, data: data.collect() }
    }

    /// Applies a map to a file before and after quantisation; unpacking must give the same.
    fn exact(map: WeightMap, shapes: &[(&str, &[usize])], results: usize) {
        for bits in [4, 8] {
            let (dense, packed) = files(shapes, bits);
            let (dense, packed) = (dense.load(&map), packed.load(&map));
            assert_eq!((dense.len(), packed.len()), (results, 3 * results));
            for (path, expected) in dense {
                let module = path.strip_suffix(".weight").unwrap();
                let part = |leaf: &str| &packed[&format!("{module}.{leaf}")];
                let found = unpack(part("weight"), part("scales"), part("biases"), bits);
                assert_eq!(found, expected, "{path}");
            }
        }
    }

    /// The problems of applying a map to a quantised file.
    fn problems(map: WeightMap, shapes: &[(&str, &[usize])]) -> String {
        let (_, packed) = files(shapes, 4);
        map.forward(&packed.header).unwrap().coverage.to_string()
    }

    #[test]
    fn every_verb_is_exact_on_quantised_weights() {
        let map = WeightMap::default;
        let pair: &[(&str, &[usize])] = &[("a", &[4, 64]), ("b", &[6, 64])];
        let columns: &[(&str, &[usize])] = &[("a", &[4, 64]), ("b", &[4, 96])];
        let experts: &[(&str, &[usize])] = &[("e.0", &[4, 64]), ("e.1", &[4, 64]), ("e.2", &[4, 64])];
        let stack: &[(&str, &[usize])] = &[("s", &[3, 4, 64])];
        exact(map().rename("{m}.weight", "x.{m}.weight"), pair, 2);
        exact(map().concat(["a.{p:*}", "b.{p:*}"], "ab.{p:*}", 0), pair, 1);
        exact(map().concat(["a.weight", "b.weight"], "ab.weight", 1), columns, 1);
        exact(map().concat(["a.weight", "b.weight"], "ab.weight", 1).sizes([64, 96]), columns, 1);
        exact(map().split("b.{p:*}", ["p.{p:*}", "q.{p:*}"], 0, [1, 5]), &pair[1..], 2);
        exact(map().split("b.{p:*}", ["p.{p:*}", "q.{p:*}"], 1, [64, 32]), &columns[1..], 2);
        exact(map().stack("e.{*n}.weight", "e.weight"), experts, 1);
        exact(map().unstack("s.weight", "s.{*n}.weight"), stack, 3);
        exact(map().transpose("s.weight", "s.weight", [1, 0, 2]), stack, 1);
        exact(map().reshape("s.weight", "s.weight", [3, 4, 64], [12, 64]), stack, 1);
        let order = RowOrder::InterleavedToHalf { heads: 3 };
        exact(map().permute_rows("b.{p:*}", "q.{p:*}", order), &pair[1..], 1);
    }

    #[test]
    fn what_is_not_exact_on_quantised_weights_is_refused() {
        let map = WeightMap::default;
        let one: &[(&str, &[usize])] = &[("a", &[4, 64])];
        for (map, expected) in [
            (map().split("a.{p:*}", ["p.{p:*}", "q.{p:*}"], 1, [24, 40]), "inside a group"),
            (map().split("a.{p:*}", ["p.{p:*}", "q.{p:*}"], 0, [3, 3]), "sum to 6, but axis 0"),
            (map().transpose("a.{p:*}", "a.{p:*}", [1, 0]), "cannot move"),
            (map().reshape("a.{p:*}", "a.{p:*}", [4, 64], [2, 128]), "cannot change"),
            (map().reshape("a.{p:*}", "a.{p:*}", [2, 2, 64], [4, 64]), "expects the shape [2, 2, 64]"),
            (map().permute_rows("a.{p:*}", "a.{p:*}", RowOrder::InterleavedToHalf { heads: 4 }), "heads of pairs"),
        ] {
            let problems = problems(map, one);
            assert!(problems.contains(expected), "{problems}");
        }
        let columns: &[(&str, &[usize])] = &[("a", &[4, 64]), ("b", &[4, 96])];
        let stated = map().concat(["a.weight", "b.weight"], "ab.weight", 1).sizes([96, 64]);
        let problems = problems(stated, columns);
        assert!(problems.contains("the rule says [96, 64]"), "{problems}");
    }

    #[test]
    fn weights_of_different_bits_do_not_join_along_the_input() {
        let (_, mut file) = files(&[("a", &[4, 64])], 4);
        let (_, other) = files(&[("b", &[4, 64])], 8);
        file.header.tensors.extend(other.header.tensors);
        for (axis, expected) in [(1, "different bits or groups"), (0, "do not join along axis 0")] {
            let map = WeightMap::default().concat(["a.{p:*}", "b.{p:*}"], "ab.{p:*}", axis);
            let problems = map.forward(&file.header).unwrap().coverage.to_string();
            assert!(problems.contains(expected), "{problems}");
        }
    }

    #[test]
    fn a_vector_has_nothing_to_transpose() {
        let mut file = File::default();
        file.add("c.weight".into(), Stored::F32, Tensor::count(&[2, 3, 1, 4], 0));
        file.add("c.bias".into(), Stored::F32, Tensor::count(&[2], 0));
        let loaded = file.load(&WeightMap::default().transpose("c.{p:*}", "c.{p:*}", [0, 2, 3, 1]));
        assert_eq!(loaded["c.weight"].shape, [2, 1, 4, 3]);
        assert_eq!(loaded["c.bias"], file.tensors["c.bias"]);
    }

    #[test]
    fn norms_are_folded() {
        let mut file = File::default();
        file.add("c.g".into(), Stored::F32, Tensor { shape: vec![2, 1], data: vec![10.0, 3.0] });
        file.add("c.v".into(), Stored::F32, Tensor { shape: vec![2, 2], data: vec![3.0, 4.0, 0.0, 2.0] });
        for (name, value) in [("running_mean", 3.0), ("running_var", 0.16), ("weight", 2.0), ("bias", 1.0)] {
            file.add(format!("bn.{name}"), Stored::F32, Tensor { shape: vec![1], data: vec![value] });
        }
        file.add("bn.num_batches_tracked".into(), Stored::I64, Tensor::count(&[], 7));
        for (name, value) in [("running_mean", 1.0), ("running_var", 0.25)] {
            file.add(format!("plain.{name}"), Stored::F32, Tensor { shape: vec![1], data: vec![value] });
        }
        let map = WeightMap::default()
            .weight_norm("c.g", "c.v", "c.weight", 0)
            .batch_norm("bn", "bn.scale", "bn.shift", 0.09)
            .batch_norm("plain", "plain.scale", "plain.shift", 0.0);
        let loaded = file.load(&map);
        assert_eq!(loaded["c.weight"].data, [6.0, 8.0, 0.0, 3.0]);
        assert_eq!((loaded["bn.scale"].data[0], loaded["bn.shift"].data[0]), (4.0, -11.0));
        assert_eq!((loaded["plain.scale"].data[0], loaded["plain.shift"].data[0]), (2.0, -2.0));
        assert_eq!(loaded.len(), 5);
    }
}
