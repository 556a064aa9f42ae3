//! The map in the other direction: from our names to the checkpoint's, for saving in the reference's layout.

use crate::error::{Error, Result};
use crate::weights::header::Header;
use crate::weights::map::{Op, Rule, WeightMap, describe};
use crate::weights::pattern::Pattern;
use crate::weights::resolve::{Fired, Run, sources};

impl WeightMap {
    /// The map from our names to the checkpoint's: its [`forward`](WeightMap::forward) over a header of ours gives
    /// an expression over our parameters for each tensor of the checkpoint.
    ///
    /// Dropped tensors stay away, and of tied ones the kept name is written. Where the patterns of several rules on
    /// our side match one name, the most specific rule takes it.
    ///
    /// # Errors
    /// [`Error::Rule`] for a malformed rule; for folded weight and batch norms, which cannot be told apart again;
    /// and for a `concat` whose [`sizes`](WeightMap::sizes) are not stated.
    pub fn invert(&self) -> Result<Self> {
        self.check()?;
        let inverted = self.stages().map(|stage| {
            let rules = stage.rules.iter().map(invert).filter_map(Result::transpose);
            Ok(Self { rules: rules.collect::<Result<_>>()?, specific: true, ..Self::default() })
        });
        chain(inverted.collect::<Result<_>>()?)
    }

    /// As [`WeightMap::invert`], but for one particular checkpoint of the reference, whose header shows the sizes
    /// of joined parts, which tensors came from which rule, and which of two tied names is written.
    ///
    /// # Errors
    /// [`Error::Rule`] for a malformed rule and for one that folded a norm in this checkpoint.
    pub fn invert_like(&self, reference: &Header) -> Result<Self> {
        self.check()?;
        let mut run = Run::new(reference);
        let mut items = sources(reference);
        let mut inverted = Vec::new();
        for stage in self.stages() {
            items = run.stage(stage, items);
            let rules = run.fired.iter().map(Fired::written_out);
            let rules = rules.filter_map(|rule| invert(&rule).transpose());
            inverted.push(Self { rules: rules.collect::<Result<_>>()?, ..Self::default() });
            if !run.stand_ins.is_empty() {
                let names = run.stand_ins.iter();
                let mut back = Self::identity();
                back.rules.extend(names.map(|(kept, written)| {
                    literal("rename", std::slice::from_ref(kept), std::slice::from_ref(written), Op::Rename)
                }));
                // Inverse stages run last to first, so what renames this stage's sources comes before it in the list.
                let at = inverted.len().saturating_sub(1);
                inverted.insert(at, back);
            }
        }
        chain(inverted)
    }
}

/// The stages in reverse.
fn chain(stages: Vec<WeightMap>) -> Result<WeightMap> {
    let mut stages = stages.into_iter().rev();
    let last = stages.next().unwrap_or_default();
    Ok(stages.fold(last, WeightMap::then))
}

/// The rule in the other direction; `None` for one that only leaves things out.
fn invert(rule: &Rule) -> Result<Option<Rule>> {
    let refuse = |problem: &str| Err(Error::rule(rule.text.as_ref(), problem));
    let (verb, op) = match rule.op.clone() {
        Op::Rename => ("rename", Op::Rename),
        Op::Split { axis, sizes } => ("concat", Op::Concat { axis, sizes: Some(sizes) }),
        Op::Concat { axis, sizes: Some(sizes) } => ("split", Op::Split { axis, sizes }),
        Op::Concat { sizes: None, .. } => {
            return refuse("it inverts only when `sizes` states those of the parts");
        }
        Op::Stack => ("unstack", Op::Unstack),
        Op::Unstack => ("stack", Op::Stack),
        Op::Transpose { axes } => {
            let back = (0..axes.len()).filter_map(|n| axes.iter().position(|&axis| axis == n));
            let axes = back.collect();
            ("transpose", Op::Transpose { axes })
        }
        Op::Reshape { from, to } => ("reshape", Op::Reshape { from: to, to: from }),
        Op::Rows(order) => ("permute_rows", Op::Rows(order.inverse())),
        Op::WeightNorm { .. } => {
            return refuse("a folded weight norm does not say what its magnitudes were");
        }
        Op::BatchNorm { .. } => {
            return refuse("a folded batch norm does not say what its statistics were");
        }
        Op::Drop { .. } | Op::Tied => return Ok(None),
    };
    Ok(Some(Rule {
        text: describe(verb, &rule.to, &rule.from).into(),
        from: rule.to.clone(),
        to: rule.from.clone(),
        op,
        optional: rule.optional,
        fallback: rule.fallback,
    }))
}

fn literal(verb: &str, from: &[String], to: &[String], op: Op) -> Rule {
    let patterns = |names: &[String]| names.iter().map(|name| Pattern::literal(name)).collect();
    Rule {
        text: describe(verb, from, to).into(),
        from: patterns(from),
        to: patterns(to),
        op,
        optional: false,
        fallback: false,
    }
}

impl Fired {
    /// The rule for these names only.
    fn written_out(&self) -> Rule {
        let verb = self.rule.text.split(' ').next().unwrap_or_default();
        literal(verb, &self.from, &self.to, self.rule.op.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::weights::expr::RowOrder;
    use crate::weights::expr::tests::{Tensor, evaluate, header, info};
    use crate::weights::header::{Info, Stored};
    use crate::weights::resolve::Forward;

    /// What a map makes of a header, as the header of the other side.
    fn other_side(forward: &Forward) -> Header {
        assert!(forward.coverage.is_empty(), "{}", forward.coverage);
        let tensors = forward.produced.iter().map(|(name, produced)| (name.clone(), produced.info.clone()));
        Header { tensors: tensors.collect(), ..Header::default() }
    }

    /// Forward and back by both inversions, with values; what is left out stays away.
    fn round_trip(map: &WeightMap, file: &Header, left_out: &[&str]) {
        let mut first = 0;
        let mut tensors = BTreeMap::new();
        for (name, info) in &file.tensors {
            tensors.insert(name.clone(), Tensor::count(&info.shape, first));
            first += info.elements().unwrap();
        }
        let forward = map.forward(file).unwrap();
        let ours = other_side(&forward);
        let values = |forward: &Forward, tensors: &BTreeMap<String, Tensor>| -> BTreeMap<String, Tensor> {
            let produced = forward.produced.iter();
            produced.map(|(name, produced)| (name.clone(), evaluate(&produced.expr, tensors))).collect()
        };
        let loaded = values(&forward, &tensors);
        let mut expected = file.clone();
        for name in left_out {
            expected.tensors.remove(*name).unwrap();
            tensors.remove(*name);
        }
        for inverse in [map.invert().unwrap(), map.invert_like(file).unwrap()] {
            let back = inverse.forward(&ours).unwrap();
            assert_eq!(other_side(&back).tensors, expected.tensors);
            assert_eq!(values(&back, &loaded), tensors);
        }
    }

    /// A map with every verb that inverts.
    fn every_verb(heads: usize) -> WeightMap {
        WeightMap::default()
            .rename("model.{p:*}", "{p:*}")
            .rename("odd{n}.w", "even.{n}")
            .split("qkv.{p:*}", ["q.{p:*}", "kv.{p:*}"], 0, [4, 8])
            .split("wide.weight", ["left.weight", "right.weight"], 1, [2, 3])
            .concat(["gate.{i}.weight", "up.{i}.weight"], "gate_up.{i}.weight", 0)
            .sizes([3, 5])
            .stack("experts.{*e}.w", "experts")
            .unstack("books", "books.{*e}.weight")
            .transpose("conv.{p:*}", "c.conv.{p:*}", [2, 0, 1])
            .reshape("flat", "square", [6], [2, 3])
            .permute_rows("rope.{p:*}", "attn.{p:*}", RowOrder::InterleavedToHalf { heads })
            .tied("lm_head.weight", "model.embed.weight")
            .drop("**.inv_freq", "computed")
    }

    fn every_file(heads: usize) -> Header {
        header([
            ("model.embed.weight", &[7, 2][..]),
            ("model.norm.weight", &[2]),
            ("odd1.w", &[1]),
            ("odd2.w", &[2]),
            ("qkv.weight", &[12, 2]),
            ("qkv.bias", &[12]),
            ("wide.weight", &[2, 5]),
            ("gate.0.weight", &[3, 2]),
            ("up.0.weight", &[5, 2]),
            ("gate.x.weight", &[3, 4]),
            ("up.x.weight", &[5, 4]),
            ("experts.0.w", &[2, 3]),
            ("experts.1.w", &[2, 3]),
            ("books", &[3, 2]),
            ("conv.weight", &[2, 3, 4]),
            ("conv.bias", &[2]),
            ("flat", &[6]),
            ("rope.weight", &[heads * 6, 2]),
            ("rope.bias", &[heads * 6]),
            ("a.inv_freq", &[2]),
        ])
    }

    #[test]
    fn every_verb_comes_back() {
        round_trip(&every_verb(2), &every_file(2), &["a.inv_freq"]);
    }

    #[test]
    fn exceptions_to_the_identity_and_chains_come_back() {
        let map = WeightMap::identity()
            .rename("a.weight", "z.weight")
            .drop("b", "unused")
            .then(WeightMap::identity().transpose("z.weight", "z.weight", [1, 0]).rename("d", "e"))
            .then(WeightMap::identity().split("z.weight", ["x.weight", "y.weight"], 0, [1, 2]));
        let file = header([("a.weight", &[2, 3][..]), ("b", &[1]), ("c.d", &[1]), ("d", &[1])]);
        round_trip(&map, &file, &["b"]);
        let component = WeightMap::default().include("in", "ours", map);
        let prefixed = file.tensors.into_iter().map(|(name, info)| (format!("in.{name}"), info));
        round_trip(&component, &Header { tensors: prefixed.collect(), ..Header::default() }, &["in.b"]);
    }

    #[test]
    fn quantised_weights_come_back() {
        let part = |name: &str, dtype, shape: &[usize]| (name.to_string(), info(dtype, shape));
        let triplet = |module: &str, rows: usize, groups: usize| -> Vec<(String, Info)> {
            vec![
                part(&format!("{module}.weight"), Stored::U32, &[rows, 4 * groups]),
                part(&format!("{module}.scales"), Stored::F16, &[rows, groups]),
                part(&format!("{module}.biases"), Stored::F16, &[rows, groups]),
            ]
        };
        let tensors = [triplet("qkv", 8, 2), triplet("down", 4, 3), triplet("a", 4, 1), triplet("b", 4, 2)];
        let file = Header { tensors: tensors.into_iter().flatten().collect(), ..Header::default() };
        let map = WeightMap::default()
            .split("qkv.weight", ["q.weight", "kv.weight"], 0, [2, 6])
            .split("down.weight", ["d.weight", "e.weight"], 1, [32, 64])
            .concat(["a.weight", "b.weight"], "ab.weight", 1)
            .sizes([32, 64]);
        round_trip(&map, &file, &[]);
    }

    #[test]
    fn a_checkpoint_shows_what_the_map_leaves_open() {
        // Sizes differ from layer to layer, and the tensor that is tied goes by its other name.
        let map = WeightMap::default()
            .concat(["l.{i}.q", "l.{i}.k"], "l.{i}.qk", 0)
            .tied("head", "embed")
            .rename("embed", "e");
        let file = header([
            ("l.0.q", &[2, 1][..]),
            ("l.0.k", &[4, 1]),
            ("l.1.q", &[3, 1]),
            ("l.1.k", &[3, 1]),
            ("head", &[2, 2]),
        ]);
        let error = map.invert().unwrap_err().to_string();
        assert!(error.contains("rule `concat l.{i}.q + l.{i}.k -> l.{i}.qk`") && error.contains("sizes"), "{error}");
        let ours = other_side(&map.forward(&file).unwrap());
        let back = map.invert_like(&file).unwrap().forward(&ours).unwrap();
        assert_eq!(other_side(&back).tensors, file.tensors);
    }

    #[test]
    fn folded_norms_do_not_come_back() {
        let file = header([("g", &[2][..]), ("v", &[2, 3]), ("bn.running_mean", &[2]), ("bn.running_var", &[2])]);
        let rest = || WeightMap::identity().drop("{a}", "other").optional();
        for (map, rule) in [
            (WeightMap::default().weight_norm("g", "v", "w", 0).drop("bn.**", "other"), "weight_norm g + v -> w"),
            (rest().batch_norm("bn", "scale", "shift", 0.0), "batch_norm bn.running_mean"),
        ] {
            for error in [map.invert().unwrap_err(), map.invert_like(&file).unwrap_err()] {
                assert!(error.to_string().contains(rule), "{error}");
            }
        }
    }

    #[test]
    fn an_absent_optional_norm_does_not_stand_in_the_way_of_one_checkpoint() {
        let map = WeightMap::identity().weight_norm("g", "v", "w", 0).optional();
        assert!(map.invert_like(&header([("a", &[1][..])])).is_ok());
    }

    proptest! {
        #[test]
        fn any_shape_comes_back(
            heads in 1_usize..4,
            rows in prop::collection::vec(1_usize..5, 3),
            columns in 1_usize..5,
            axes in Just(vec![0_usize, 1, 2, 3]).prop_shuffle(),
            experts in 1_usize..12,
        ) {
            let total: usize = rows.iter().sum();
            let order = RowOrder::HalfToInterleaved { heads };
            let map = WeightMap::identity()
                .split("a.{i}.qkv.{p:*}", ["b.{i}.q.{p:*}", "b.{i}.k.{p:*}", "b.{i}.v.{p:*}"], 0, rows.clone())
                .concat(["c.x", "c.y"], "c.xy", 1)
                .sizes([rows[0], rows[1]])
                .stack("e.{*n}.w.{p:*}", "e.w.{p:*}")
                .permute_rows("r.{p:*}", "r.{p:*}", order)
                .then(WeightMap::identity().transpose("t", "u", axes).reshape("c.xy", "c.xy", [columns, rows[0] + rows[1]], [(rows[0] + rows[1]) * columns]));
            let mut file = header([
                ("a.0.qkv.weight", &[total, columns][..]),
                ("a.1.qkv.weight", &[total, columns]),
                ("a.1.qkv.bias", &[total]),
                ("c.x", &[columns, rows[0]]),
                ("c.y", &[columns, rows[1]]),
                ("r.weight", &[heads * 2 * columns, columns]),
                ("t", &[1, 2, columns, total]),
                ("z.z", &[columns]),
            ]);
            for n in 0..experts {
                file.tensors.insert(format!("e.{n}.w.weight"), info(Stored::F32, &[columns, 2]));
            }
            round_trip(&map, &file, &[]);
        }
    }
}
