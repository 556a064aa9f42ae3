//! A weight map as a TOML file, so that an unforeseen checkpoint loads without any Rust.
//!
//! Each rule is a table of the list `rule`; `verb` says which. Names of the checkpoint are on the `from` side.
//! ```toml
//! identity = true                     # names that no rule claims stay as they are; false when left out
//!
//! [[rule]]
//! verb = "rename"
//! from = "model.layers.{i}.mlp.up_proj.{p:*}"
//! to = "layers.{i}.ffn.up.{p:*}"
//! optional = true                     # it may match nothing; any rule on tensors can say so
//!
//! [[rule]]
//! verb = "split"
//! from = "model.layers.{i}.self_attn.qkv_proj.{p:*}"
//! to = ["layers.{i}.attn.q.{p:*}", "layers.{i}.attn.k.{p:*}", "layers.{i}.attn.v.{p:*}"]
//! axis = 0
//! sizes = [64, 16, 16]
//!
//! [[rule]]
//! verb = "concat"
//! from = ["mlp.gate_proj.{p:*}", "mlp.up_proj.{p:*}"]
//! to = "ffn.gate_up.{p:*}"
//! axis = 0
//! sizes = [56, 56]                    # may be left out; needed for saving a model that was not loaded
//!
//! [[rule]]
//! verb = "stack"
//! from = "experts.{*e}.w1.weight"
//! to = "experts.gate.weight"
//!
//! [[rule]]
//! verb = "unstack"
//! from = "codebooks.weight"
//! to = "quantizers.{*e}.weight"
//!
//! [[rule]]
//! verb = "transpose"
//! from = "conv_in.{p:*}"
//! to = "conv_in.{p:*}"
//! axes = [0, 2, 3, 1]
//!
//! [[rule]]
//! verb = "reshape"
//! from = "proj.weight"
//! to = "proj.weight"
//! from_shape = [64, 32, 1, 1]
//! to_shape = [64, 32]
//!
//! [[rule]]
//! verb = "permute_rows"
//! from = "blk.{i}.attn_q.{p:*}"
//! to = "layers.{i}.attn.q.{p:*}"
//! order = "interleaved_to_half"       # or "half_to_interleaved"
//! heads = 4
//!
//! [[rule]]
//! verb = "weight_norm"
//! g = "conv.weight_g"
//! v = "conv.weight_v"
//! to = "conv.weight"
//! axis = 0                            # 0 when left out
//!
//! [[rule]]
//! verb = "batch_norm"
//! from = "bn"                         # the module: running_mean, running_var, weight, bias, num_batches_tracked
//! scale = "bn.scale"
//! shift = "bn.shift"
//! eps = 1e-5
//!
//! [[rule]]
//! verb = "drop"
//! from = "**.rotary_emb.inv_freq"
//! reason = "computed from the base"
//!
//! [[rule]]
//! verb = "tied"
//! other = "lm_head.weight"
//! kept = "model.embed_tokens.weight"
//!
//! [[rule]]
//! verb = "include"                    # the map of a component below both prefixes
//! from = "text_model"
//! to = "text"
//! identity = true
//! [[rule.rule]]
//! verb = "drop"
//! from = "position_ids"
//! reason = "0, 1, 2, …"
//!
//! [[rule]]
//! verb = "alias"
//! reference = "transformer_blocks.{i}"
//! ours = ["blocks.{i}#1", "blocks.{i}#0"]
//!
//! [[rule]]
//! verb = "alias_concat"
//! reference = "transformer_blocks.{i}.attn.qkv"
//! ours = ["blocks.{i}.attn.q", "blocks.{i}.attn.kv"]
//!
//! [[rule]]
//! verb = "layout"
//! reference = "decoder.**"
//! layout = "channels_first"           # or "heads_first", "channels_last"
//!
//! [[rule]]
//! verb = "unobserved"
//! reference = "**.dropout"
//! reason = "does nothing at inference"
//!
//! [[then]]                            # a map applied to what the rules above give
//! identity = true
//! [[then.rule]]
//! verb = "transpose"
//! from = "conv.weight"
//! to = "conv.weight"
//! axes = [0, 2, 1]
//! ```

use ::toml::{Table, Value};
use serde::Deserialize;

use crate::error::{Error, Result};
use crate::weights::expr::RowOrder;
use crate::weights::map::{ActivationLayout, WeightMap};

/// Components within components, and maps one after the other, that a file may have.
const DEEPEST: usize = 8;

impl WeightMap {
    /// Reads a map from TOML, in the form that the module describes.
    ///
    /// # Errors
    /// [`Error::Rule`] that names the rule, by its place and text where it has them, and what is wrong with it.
    pub fn from_toml(text: &str) -> Result<Self> {
        let file: File = ::toml::from_str(text).map_err(|error| Error::rule("(file)", error.to_string()))?;
        let mut map = build(file.identity, file.rule, "rule", DEEPEST)?;
        if file.then.len() > DEEPEST {
            return Err(Error::rule("(file)", format!("more than {DEEPEST} maps follow each other")));
        }
        for (n, stage) in file.then.into_iter().enumerate() {
            let place = format!("then {} rule", n + 1);
            map = map.then(build(stage.identity, stage.rule, &place, DEEPEST)?);
        }
        map.check()?;
        Ok(map)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    identity: bool,
    #[serde(default)]
    rule: Vec<Table>,
    #[serde(default)]
    then: Vec<Stage>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stage {
    #[serde(default)]
    identity: bool,
    #[serde(default)]
    rule: Vec<Table>,
}

#[derive(Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case", deny_unknown_fields)]
enum Verb {
    Rename {
        from: String,
        to: String,
    },
    Split {
        from: String,
        to: Vec<String>,
        axis: usize,
        sizes: Vec<usize>,
    },
    Concat {
        from: Vec<String>,
        to: String,
        axis: usize,
        sizes: Option<Vec<usize>>,
    },
    Stack {
        from: String,
        to: String,
    },
    Unstack {
        from: String,
        to: String,
    },
    Transpose {
        from: String,
        to: String,
        axes: Vec<usize>,
    },
    Reshape {
        from: String,
        to: String,
        from_shape: Vec<usize>,
        to_shape: Vec<usize>,
    },
    PermuteRows {
        from: String,
        to: String,
        order: Order,
        heads: usize,
    },
    WeightNorm {
        g: String,
        v: String,
        to: String,
        #[serde(default)]
        axis: usize,
    },
    BatchNorm {
        from: String,
        scale: String,
        shift: String,
        eps: f64,
    },
    Drop {
        from: String,
        reason: String,
    },
    Tied {
        other: String,
        kept: String,
    },
    Include {
        from: String,
        to: String,
        #[serde(default)]
        identity: bool,
        #[serde(default)]
        rule: Vec<Table>,
    },
    Alias {
        reference: String,
        ours: Vec<String>,
    },
    AliasConcat {
        reference: String,
        ours: Vec<String>,
    },
    Layout {
        reference: String,
        layout: ActivationLayout,
    },
    Unobserved {
        reference: String,
        reason: String,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Order {
    InterleavedToHalf,
    HalfToInterleaved,
}

fn build(identity: bool, rules: Vec<Table>, place: &str, depth: usize) -> Result<WeightMap> {
    let mut map = if identity { WeightMap::identity() } else { WeightMap::default() };
    for (n, mut table) in rules.into_iter().enumerate() {
        let place = format!("{place} {}", n + 1);
        let verb = table.get("verb").and_then(Value::as_str);
        let named = match verb {
            Some(verb) => format!("{place}, {verb}"),
            None => place.clone(),
        };
        let refuse = |problem: String| Error::rule(named.clone(), problem);
        let optional = match table.remove("optional") {
            None => false,
            Some(Value::Boolean(optional)) => optional,
            Some(_) => return Err(refuse("`optional` is true or false".into())),
        };
        let verb: Verb =
            Value::Table(table).try_into().map_err(|error: ::toml::de::Error| refuse(error.message().into()))?;
        if optional && !verb.is_on_tensors() {
            return Err(refuse("`optional` belongs to a rule on tensors".into()));
        }
        map = verb.add(map, &place, depth)?;
        if optional {
            map = map.optional();
        }
    }
    Ok(map)
}

impl Verb {
    fn is_on_tensors(&self) -> bool {
        !matches!(
            self,
            Self::Include { .. }
                | Self::Alias { .. }
                | Self::AliasConcat { .. }
                | Self::Layout { .. }
                | Self::Unobserved { .. }
        )
    }

    fn add(self, map: WeightMap, place: &str, depth: usize) -> Result<WeightMap> {
        Ok(match self {
            Self::Rename { from, to } => map.rename(&from, &to),
            Self::Split { from, to, axis, sizes } => map.split(&from, to, axis, sizes),
            Self::Concat { from, to, axis, sizes } => {
                let map = map.concat(from, &to, axis);
                match sizes {
                    Some(sizes) => map.sizes(sizes),
                    None => map,
                }
            }
            Self::Stack { from, to } => map.stack(&from, &to),
            Self::Unstack { from, to } => map.unstack(&from, &to),
            Self::Transpose { from, to, axes } => map.transpose(&from, &to, axes),
            Self::Reshape { from, to, from_shape, to_shape } => map.reshape(&from, &to, from_shape, to_shape),
            Self::PermuteRows { from, to, order, heads } => {
                let order = match order {
                    Order::InterleavedToHalf => RowOrder::InterleavedToHalf { heads },
                    Order::HalfToInterleaved => RowOrder::HalfToInterleaved { heads },
                };
                map.permute_rows(&from, &to, order)
            }
            Self::WeightNorm { g, v, to, axis } => map.weight_norm(&g, &v, &to, axis),
            Self::BatchNorm { from, scale, shift, eps } => map.batch_norm(&from, &scale, &shift, eps),
            Self::Drop { from, reason } => map.drop(&from, &reason),
            Self::Tied { other, kept } => map.tied(&other, &kept),
            Self::Include { from, to, identity, rule } => {
                let depth =
                    depth.checked_sub(1).ok_or_else(|| Error::rule(place, "components are nested too deeply"))?;
                let component = build(identity, rule, &format!("{place} rule"), depth)?;
                map.include(&from, &to, component)
            }
            Self::Alias { reference, ours } => map.alias(&reference, ours),
            Self::AliasConcat { reference, ours } => map.alias_concat(&reference, ours),
            Self::Layout { reference, layout } => map.layout(&reference, layout),
            Self::Unobserved { reference, reason } => map.unobserved(&reference, &reason),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: &str) -> String {
        WeightMap::from_toml(text).unwrap_err().to_string()
    }

    /// The example at the head of this file.
    fn example() -> String {
        let lines = include_str!("toml.rs").lines().map_while(|line| line.strip_prefix("//!"));
        let fenced = lines.skip_while(|line| *line != " ```toml").skip(1);
        fenced.take_while(|line| *line != " ```").map(|line| format!("{line}\n")).collect()
    }

    #[test]
    fn the_documented_example_is_the_map_it_says() {
        let built = WeightMap::identity()
            .rename("model.layers.{i}.mlp.up_proj.{p:*}", "layers.{i}.ffn.up.{p:*}")
            .optional()
            .split(
                "model.layers.{i}.self_attn.qkv_proj.{p:*}",
                ["layers.{i}.attn.q.{p:*}", "layers.{i}.attn.k.{p:*}", "layers.{i}.attn.v.{p:*}"],
                0,
                [64, 16, 16],
            )
            .concat(["mlp.gate_proj.{p:*}", "mlp.up_proj.{p:*}"], "ffn.gate_up.{p:*}", 0)
            .sizes([56, 56])
            .stack("experts.{*e}.w1.weight", "experts.gate.weight")
            .unstack("codebooks.weight", "quantizers.{*e}.weight")
            .transpose("conv_in.{p:*}", "conv_in.{p:*}", [0, 2, 3, 1])
            .reshape("proj.weight", "proj.weight", [64, 32, 1, 1], [64, 32])
            .permute_rows("blk.{i}.attn_q.{p:*}", "layers.{i}.attn.q.{p:*}", RowOrder::InterleavedToHalf { heads: 4 })
            .weight_norm("conv.weight_g", "conv.weight_v", "conv.weight", 0)
            .batch_norm("bn", "bn.scale", "bn.shift", 1e-5)
            .drop("**.rotary_emb.inv_freq", "computed from the base")
            .tied("lm_head.weight", "model.embed_tokens.weight")
            .include("text_model", "text", WeightMap::identity().drop("position_ids", "0, 1, 2, …"))
            .alias("transformer_blocks.{i}", ["blocks.{i}#1", "blocks.{i}#0"])
            .alias_concat("transformer_blocks.{i}.attn.qkv", ["blocks.{i}.attn.q", "blocks.{i}.attn.kv"])
            .layout("decoder.**", ActivationLayout::ChannelsFirst)
            .unobserved("**.dropout", "does nothing at inference")
            .then(WeightMap::identity().transpose("conv.weight", "conv.weight", [0, 2, 1]));
        let read = WeightMap::from_toml(&example()).unwrap();
        assert_eq!(format!("{read:#?}"), format!("{built:#?}"));
    }

    #[test]
    fn an_empty_file_is_an_empty_map() {
        assert!(WeightMap::from_toml("").unwrap().rules.is_empty());
    }

    #[test]
    fn a_problem_names_the_rule() {
        let good = "[[rule]]\nverb = 'rename'\nfrom = 'a'\nto = 'b'\n";
        for (text, rule, expected) in [
            ("rule = 3", "(file)", "rule"),
            ("rules = []", "(file)", "unknown field `rules`"),
            ("[[rule]\n", "(file)", "1"),
            ("[[rule]]\nfrom = 'a'", "rule 1", "missing field `verb`"),
            ("[[rule]]\nverb = 'renam'", "rule 1, renam", "unknown variant `renam`"),
            ("[[rule]]\nverb = 'rename'\nfrom = 'a'", "rule 1, rename", "missing field `to`"),
            ("[[rule]]\nverb = 'drop'\nfrom = 'a'\nreason = 'x'\nto = 'b'", "rule 1, drop", "unknown field `to`"),
            ("[[rule]]\nverb = 'stack'\nfrom = 'a'\nto = 'b'", "stack a -> b", "with {*e}"),
            ("[[rule]]\nverb = 'transpose'\nfrom = 'a'\nto = 'a'\naxes = [-1]", "rule 1, transpose", "-1"),
            ("[[rule]]\nverb = 'layout'\nreference = 'a'\nlayout = 'last'", "rule 1, layout", "unknown variant `last`"),
            ("[[rule]]\nverb = 'drop'\nfrom = 'a'\nreason = 'x'\noptional = 1", "rule 1, drop", "true or false"),
            (
                "[[rule]]\nverb = 'unobserved'\nreference = 'a'\nreason = 'x'\noptional = true",
                "rule 1, unobserved",
                "a rule on tensors",
            ),
            ("[[then]]\n[[then.rule]]\nverb = 'x'", "then 1 rule 1, x", "unknown variant"),
            (
                "[[rule]]\nverb = 'include'\nfrom = ''\nto = ''\n[[rule.rule]]\nverb = 'x'",
                "rule 1 rule 1, x",
                "unknown variant",
            ),
        ] {
            let problem = problem(text);
            assert!(problem.contains(&format!("rule `{rule}`")), "{text}: {problem}");
            assert!(problem.contains(expected), "{text}: {problem}");
        }
        let second = problem(&format!("{good}[[rule]]\nverb = 'x'"));
        assert!(second.contains("rule `rule 2, x`"), "{second}");
    }

    #[test]
    fn deep_nesting_is_refused() {
        let mut text = String::new();
        for depth in 1..=DEEPEST + 1 {
            let path = vec!["rule"; depth].join(".");
            text += &format!("[[{path}]]\nverb = 'include'\nfrom = ''\nto = ''\n");
        }
        assert!(problem(&text).contains("nested too deeply"));
        assert!(problem(&"[[then]]\n".repeat(DEEPEST + 1)).contains("follow each other"));
        let inline = "rule = [".to_string() + &"{rule = [".repeat(100_000);
        assert!(problem(&inline).contains("(file)"));
    }
}
