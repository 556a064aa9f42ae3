//! The declarative weight map: how the names and tensors of a checkpoint become those of a module tree, and which
//! module of the reference implementation is which of ours.
//!
//! A map is a list of rules, the checkpoint's names on the left and ours on the right. Loading is exact: each
//! tensor is claimed by one rule, each parameter is made once, each rule fires. A rule on `….weight`, or on a tail
//! `{p:*}`, covers the scales and biases of a quantised weight too. The same rules give the inverse map, for
//! saving, and the module paths, for parity.
//!
//! ```
//! use framework::weights::WeightMap;
//!
//! let llama = WeightMap::default()
//!     .rename("model.embed_tokens.{p:*}", "embed_tokens.{p:*}")
//!     .rename("model.layers.{i}.self_attn.{x}_proj.{p:*}", "layers.{i}.attn.{x}.{p:*}")
//!     .rename("model.layers.{i}.mlp.{x}_proj.{p:*}", "layers.{i}.ffn.{x}.{p:*}")
//!     .rename("model.layers.{i}.input_layernorm.weight", "layers.{i}.norm1.weight")
//!     .rename("model.layers.{i}.post_attention_layernorm.weight", "layers.{i}.norm2.weight")
//!     .rename("model.norm.weight", "norm.weight")
//!     .tied("lm_head.weight", "model.embed_tokens.weight");
//! # llama.check().unwrap();
//! ```

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::weights::expr::{RowOrder, is_permutation};
use crate::weights::pattern::Pattern;

/// Rules from a checkpoint's names to ours, and what parity must be told beside them.
///
/// A malformed rule is kept as a fault and reported, with the rule's text, by whatever uses the map first
/// ([`WeightMap::check`]).
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct WeightMap {
    pub(crate) rules: Vec<Rule>,
    pub(crate) parity: Vec<Observe>,
    /// Applied to what this map produces.
    pub(crate) next: Option<Box<WeightMap>>,
    /// A name that several rules match goes to the most specific one. Only inverted maps are so: there the patterns
    /// are the targets of the original, which need not exclude each other.
    pub(crate) specific: bool,
    pub(crate) faults: Vec<Fault>,
}

/// A rule's text and what is wrong with it.
type Fault = (String, String);

/// One rule on tensors.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    /// The rule as reports quote it.
    pub text: Arc<str>,
    pub from: Vec<Pattern>,
    pub to: Vec<Pattern>,
    pub op: Op,
    pub optional: bool,
    /// Takes only what no other rule claims.
    pub fallback: bool,
}

/// What a rule does with the tensors that it matches.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Op {
    Rename,
    Split { axis: usize, sizes: Vec<usize> },
    Concat { axis: usize, sizes: Option<Vec<usize>> },
    Stack,
    Unstack,
    Transpose { axes: Vec<usize> },
    Reshape { from: Vec<usize>, to: Vec<usize> },
    Rows(RowOrder),
    WeightNorm { axis: usize },
    BatchNorm { eps: f64 },
    Drop { reason: String },
    Tied,
}

/// What parity is told about modules.
#[derive(Clone, Debug)]
pub(crate) enum Observe {
    Alias { reference: Pattern, ours: Vec<Output> },
    AliasConcat { reference: Pattern, ours: Vec<Output> },
    Layout { reference: Pattern, layout: ActivationLayout },
    Unobserved { reference: Pattern, reason: String },
}

/// A module of ours, and which of its outputs when it has several.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    pub path: Pattern,
    pub output: Option<String>,
}

/// The order of the axes of the reference's activations. Ours keep channels last and heads beside them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActivationLayout {
    /// `[B, C, spatial…]`.
    ChannelsFirst,
    /// `[B, H, L, D]`, where ours are `[B, L, H, D]`.
    HeadsFirst,
    /// `[B, spatial…, C]`, as ours.
    #[default]
    ChannelsLast,
}

impl WeightMap {
    /// The map that keeps every name which no other rule claims. It is never dead, and rules added to it are its
    /// exceptions.
    pub fn identity() -> Self {
        let mut map = Self::default().rename("{p:*}", "{p:*}");
        for rule in &mut map.rules {
            rule.fallback = true;
        }
        map
    }

    /// Another name: `rename("model.layers.{i}.mlp.up_proj.{p:*}", "layers.{i}.ffn.up.{p:*}")`.
    pub fn rename(self, from: &str, to: &str) -> Self {
        self.rule("rename", [from], [to], Op::Rename)
    }

    /// One tensor cut along `axis` into several of the given sizes, which are those of the dense tensor: along the
    /// input axis of a quantised weight they are scaled to the packed words and groups, and a boundary inside a
    /// group is refused.
    pub fn split<S: AsRef<str>>(
        self,
        from: &str,
        to: impl IntoIterator<Item = S>,
        axis: usize,
        sizes: impl Into<Vec<usize>>,
    ) -> Self {
        let sizes = sizes.into();
        self.rule("split", [from], to, Op::Split { axis, sizes })
    }

    /// Several tensors joined along `axis` into one. It inverts only with their [`sizes`](WeightMap::sizes), or
    /// against a header that shows them ([`WeightMap::invert_like`]).
    pub fn concat<S: AsRef<str>>(self, from: impl IntoIterator<Item = S>, to: &str, axis: usize) -> Self {
        self.rule("concat", from, [to], Op::Concat { axis, sizes: None })
    }

    /// States the sizes of the parts of the `concat` that was added last; they are checked, and make it invertible.
    pub fn sizes(mut self, sizes: impl Into<Vec<usize>>) -> Self {
        let given = sizes.into();
        let fault = match self.rules.last_mut() {
            Some(Rule { op: Op::Concat { sizes, .. }, from, .. }) if from.len() == given.len() => {
                *sizes = Some(given);
                None
            }
            Some(Rule { text, .. }) => Some(text.to_string()),
            None => Some("sizes".into()),
        };
        if let Some(text) = fault {
            let problem = "`sizes` belongs to a concat and gives one size for each part";
            self.faults.push((text, problem.into()));
        }
        self
    }

    /// Tensors numbered by `{*e}` from 0 without a gap, along a new axis 0: `stack("experts.{*e}.w1.weight",
    /// "experts.gate.weight")`.
    pub fn stack(self, from: &str, to: &str) -> Self {
        self.rule("stack", [from], [to], Op::Stack)
    }

    /// The members of axis 0, numbered by `{*e}` on the right.
    pub fn unstack(self, from: &str, to: &str) -> Self {
        self.rule("unstack", [from], [to], Op::Unstack)
    }

    /// Axes in another order: axis `n` of ours is axis `axes[n]` of the checkpoint's. Vectors among the matched
    /// tensors pass unchanged, so that one rule with a tail serves a weight and its bias. `[0, 2, 3, 1]` takes a
    /// 2-D convolution to channels last.
    pub fn transpose(self, from: &str, to: &str, axes: impl Into<Vec<usize>>) -> Self {
        let axes = axes.into();
        self.rule("transpose", [from], [to], Op::Transpose { axes })
    }

    /// Another shape for the same elements. Shapes are those of dense tensors; a quantised one may change all but
    /// its last axis.
    pub fn reshape(
        self,
        from: &str,
        to: &str,
        from_shape: impl Into<Vec<usize>>,
        to_shape: impl Into<Vec<usize>>,
    ) -> Self {
        let op = Op::Reshape { from: from_shape.into(), to: to_shape.into() };
        self.rule("reshape", [from], [to], op)
    }

    /// Rows of each head in another order; weight, scales, biases and bias alike. A GGUF file's `attn_q` and
    /// `attn_k` of the Llama family need `RowOrder::InterleavedToHalf`.
    pub fn permute_rows(self, from: &str, to: &str, order: RowOrder) -> Self {
        self.rule("permute_rows", [from], [to], Op::Rows(order))
    }

    /// Folds PyTorch's weight normalisation: magnitudes `g` and directions `v` become one weight. `axis` keeps its
    /// magnitudes.
    pub fn weight_norm(self, g: &str, v: &str, to: &str, axis: usize) -> Self {
        self.rule("weight_norm", [g, v], [to], Op::WeightNorm { axis })
    }

    /// Folds a batch norm, given by its module's path, into the vectors `scale` and `shift` of `y = x · scale +
    /// shift`. Takes its `running_mean` and `running_var`, and `weight`, `bias` and `num_batches_tracked` where
    /// they exist.
    pub fn batch_norm(self, from: &str, scale: &str, shift: &str, eps: f64) -> Self {
        let from = BATCH_NORM.map(|part| format!("{from}.{part}"));
        self.rule("batch_norm", from, [scale, shift], Op::BatchNorm { eps })
    }

    /// Tensors that are left out, and why.
    pub fn drop(self, from: &str, reason: &str) -> Self {
        let reason = reason.into();
        self.rule("drop", [from], [""; 0], Op::Drop { reason })
    }

    /// Two names of the checkpoint for one tensor. The file may hold either or both; other rules speak of `kept`
    /// only. Both must be equal, which the plan lists as a check.
    pub fn tied(self, other: &str, kept: &str) -> Self {
        self.rule("tied", [other, kept], [""; 0], Op::Tied)
    }

    /// Lets the rule that was added last match nothing.
    pub fn optional(mut self) -> Self {
        match self.rules.last_mut() {
            Some(rule) => rule.optional = true,
            None => self.faults.push(("optional".into(), "there is no rule before it".into())),
        }
        self
    }

    /// This map for a model that sits at `from` in the checkpoint and at `to` in ours; either may be empty.
    pub fn prefixed(self, from: &str, to: &str) -> Self {
        let mut faults = self.faults;
        let (from, to) = match (Pattern::read_path(from), Pattern::read_path(to)) {
            (Ok(from), Ok(to)) => (from, to),
            (Err(problem), _) | (_, Err(problem)) => {
                faults.push((format!("prefixed {from} -> {to}"), problem));
                return Self { faults, ..Self::default() };
            }
        };
        let mut rules = Vec::new();
        for rule in self.rules {
            let text = rule.text.to_string();
            match rule.under(&from, &to) {
                Ok(rule) => rules.push(rule),
                Err(problem) => faults.push((text, problem)),
            }
        }
        let mut parity = Vec::new();
        for observe in self.parity {
            let text = observe.reference().to_string();
            match observe.under(&from, &to) {
                Ok(observe) => parity.push(observe),
                Err(problem) => faults.push((text, problem)),
            }
        }
        // Below this stage names are already ours.
        let next = self.next.map(|next| {
            let to = to.to_string();
            Box::new(next.prefixed(&to, &to))
        });
        Self { rules, parity, next, faults, ..self }
    }

    /// Adds the map of a component that sits at `from` in the checkpoint and at `to` in ours.
    pub fn include(self, from: &str, to: &str, component: Self) -> Self {
        self.merge(component.prefixed(from, to))
    }

    /// Applies another map to what this one produces, for a tensor that needs two operations. Usually the other one
    /// is [`WeightMap::identity`] with a few rules.
    pub fn then(mut self, other: Self) -> Self {
        self.next = Some(Box::new(match self.next {
            Some(next) => next.then(other),
            None => other,
        }));
        self
    }

    /// Says which modules of ours give the outputs of the reference's module, in the reference's order. `path#k` or
    /// `path#name` means one of several outputs: `alias("transformer_blocks.{i}", ["blocks.{i}#1",
    /// "blocks.{i}#0"])`.
    pub fn alias<S: AsRef<str>>(self, reference: &str, ours: impl IntoIterator<Item = S>) -> Self {
        self.aliases("alias", reference, ours, |reference, ours| Observe::Alias { reference, ours })
    }

    /// Says that the reference's output is those of our modules joined along the last axis.
    pub fn alias_concat<S: AsRef<str>>(self, reference: &str, ours: impl IntoIterator<Item = S>) -> Self {
        self.aliases("alias_concat", reference, ours, |reference, ours| Observe::AliasConcat { reference, ours })
    }

    /// Says how the reference lays out the activations of these modules: `layout("decoder.**", ChannelsFirst)`. Of
    /// several rules that match, the last one holds.
    pub fn layout(self, reference: &str, layout: ActivationLayout) -> Self {
        self.observe("layout", reference, |reference| Ok(Observe::Layout { reference, layout }))
    }

    /// Says that these modules of the reference have no counterpart here, and why.
    pub fn unobserved(self, reference: &str, reason: &str) -> Self {
        self.observe("unobserved", reference, |reference| {
            let reason = reasoned(reason)?;
            Ok(Observe::Unobserved { reference, reason })
        })
    }

    /// That every rule is well formed.
    ///
    /// # Errors
    /// [`Error::Rule`] for the first one that is not.
    pub fn check(&self) -> Result<()> {
        match self.stages().flat_map(|stage| &stage.faults).next() {
            Some((rule, problem)) => Err(Error::rule(rule.as_str(), problem.as_str())),
            None => Ok(()),
        }
    }

    /// This map and those applied after it.
    pub(crate) fn stages(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |stage| stage.next.as_deref())
    }

    fn rule<A: AsRef<str>, B: AsRef<str>>(
        mut self,
        verb: &str,
        from: impl IntoIterator<Item = A>,
        to: impl IntoIterator<Item = B>,
        op: Op,
    ) -> Self {
        let from: Vec<String> = from.into_iter().map(|a| a.as_ref().into()).collect();
        let to: Vec<String> = to.into_iter().map(|b| b.as_ref().into()).collect();
        let text = describe(verb, &from, &to);
        match Rule::read(&text, &from, &to, op) {
            Ok(rule) => self.rules.push(rule),
            Err(problem) => self.faults.push((text, problem)),
        }
        self
    }

    fn observe(mut self, verb: &str, reference: &str, make: impl FnOnce(Pattern) -> Result<Observe, String>) -> Self {
        match Pattern::read_path(reference).and_then(make) {
            Ok(observe) => self.parity.push(observe),
            Err(problem) => self.faults.push((format!("{verb} {reference}"), problem)),
        }
        self
    }

    fn aliases<S: AsRef<str>>(
        self,
        verb: &str,
        reference: &str,
        ours: impl IntoIterator<Item = S>,
        make: fn(Pattern, Vec<Output>) -> Observe,
    ) -> Self {
        self.observe(verb, reference, |reference| {
            if reference.is_wild() || reference.gather().is_some() {
                return Err("only {i} and {p:*} can stand in an alias".into());
            }
            let ours: Vec<Output> =
                ours.into_iter().map(|ours| Output::read(ours.as_ref())).collect::<Result<_, _>>()?;
            if ours.is_empty() {
                return Err("it names no module of ours".into());
            }
            let known: Vec<&str> = reference.names().collect();
            for Output { path, .. } in &ours {
                if path.is_wild() || path.gather().is_some() {
                    return Err(format!("`{path}` names no single module"));
                }
                if let Some(unknown) = path.names().find(|name| !known.contains(name)) {
                    return Err(format!("`{unknown}` in `{path}` is not captured"));
                }
            }
            Ok(make(reference, ours))
        })
    }

    fn merge(mut self, other: Self) -> Self {
        self.next = match (self.next, other.next) {
            (None, None) => None,
            // What only one of them produces passes through the other's later stages.
            (Some(next), None) | (None, Some(next)) => Some(Box::new(Self::identity().merge(*next))),
            (Some(ours), Some(theirs)) => Some(Box::new(ours.merge(*theirs))),
        };
        self.rules.extend(other.rules);
        self.parity.extend(other.parity);
        self.faults.extend(other.faults);
        self.specific |= other.specific;
        self
    }
}

/// The tensors of a batch norm, the required ones first.
const BATCH_NORM: [&str; 5] = ["running_mean", "running_var", "weight", "bias", "num_batches_tracked"];

impl Rule {
    /// How many of the sources must be there.
    pub fn required(&self) -> usize {
        match self.op {
            Op::BatchNorm { .. } => 2,
            _ => self.from.len(),
        }
    }

    fn read(text: &str, from: &[String], to: &[String], op: Op) -> Result<Self, String> {
        let read = |texts: &[String]| -> Result<Vec<Pattern>, String> {
            texts.iter().map(|text| Pattern::read(text)).collect()
        };
        let rule = Self {
            text: text.into(),
            from: read(from)?,
            to: read(to)?,
            op: op.reviewed(from.len(), to.len())?,
            optional: false,
            fallback: false,
        };
        rule.review_captures()?;
        Ok(rule)
    }

    /// Every name on one side determines those on the other, which makes targets distinct and the rule invertible.
    fn review_captures(&self) -> Result<(), String> {
        let drops = matches!(self.op, Op::Drop { .. });
        let names = |pattern: &Pattern| {
            let mut names: Vec<String> = pattern.names().map(String::from).collect();
            names.sort_unstable();
            names
        };
        let all = || self.from.iter().chain(&self.to);
        if let Some(wild) = all().find(|pattern| pattern.is_wild() && !drops) {
            return Err(format!("`{wild}` does not say what `*` stands for: use a capture"));
        }
        let mut sets = all().map(|pattern| (pattern, names(pattern)));
        if let Some((first, expected)) = sets.next()
            && let Some((other, _)) = sets.find(|(_, names)| *names != expected)
        {
            return Err(format!("`{first}` and `{other}` have different captures"));
        }
        let gathers = match self.op {
            Op::Stack => self.from.as_slice(),
            Op::Unstack => self.to.as_slice(),
            _ => &[],
        };
        if gathers.iter().any(|pattern| pattern.gather().is_none()) {
            return Err("it numbers the members of a stack with {*e}".into());
        }
        let gathered = all().filter(|pattern| pattern.gather().is_some()).count();
        if gathered > gathers.len() {
            return Err("{*e} stands only on the many side of a stack or unstack".into());
        }
        Ok(())
    }

    fn under(self, from: &Pattern, to: &Pattern) -> Result<Self, String> {
        let below = |patterns: &[Pattern], parent: &Pattern| -> Result<Vec<Pattern>, String> {
            patterns.iter().map(|pattern| pattern.under(parent)).collect()
        };
        let (from, to) = (below(&self.from, from)?, below(&self.to, to)?);
        let verb = self.text.split(' ').next().unwrap_or_default();
        let rule = Self { text: describe(verb, &from, &to).into(), from, to, ..self };
        rule.review_captures()?;
        Ok(rule)
    }
}

impl Op {
    /// The operation, if its arguments make sense for so many sources and targets.
    fn reviewed(self, from: usize, to: usize) -> Result<Self, String> {
        match &self {
            Self::Split { sizes, .. } if sizes.len() != to || to < 2 => {
                return Err(format!("{} sizes for {to} targets", sizes.len()));
            }
            Self::Split { sizes, .. }
                if sizes.iter().try_fold(0, |sum: usize, &n| sum.checked_add(n)).is_none_or(|sum| sum == 0) =>
            {
                return Err(format!("{sizes:?} is no way to split"));
            }
            Self::Concat { .. } if from < 2 => return Err("it joins at least two parts".into()),
            Self::Transpose { axes } if !is_permutation(axes) => {
                return Err(format!("{axes:?} is not a permutation of axes"));
            }
            Self::Reshape { from, to } => {
                let product = |shape: &[usize]| shape.iter().try_fold(1_usize, |all, &n| all.checked_mul(n));
                if product(from).is_none() || product(from) != product(to) {
                    return Err(format!("{from:?} and {to:?} differ in size"));
                }
            }
            Self::Rows(order) if order.heads() == 0 => return Err("no heads".into()),
            Self::BatchNorm { eps } if !(eps.is_finite() && *eps >= 0.0) => {
                return Err(format!("eps is {eps}"));
            }
            Self::Drop { reason } => {
                reasoned(reason)?;
            }
            _ => (),
        }
        Ok(self)
    }
}

impl Observe {
    pub fn reference(&self) -> &Pattern {
        match self {
            Self::Alias { reference, .. }
            | Self::AliasConcat { reference, .. }
            | Self::Layout { reference, .. }
            | Self::Unobserved { reference, .. } => reference,
        }
    }

    fn under(mut self, from: &Pattern, to: &Pattern) -> Result<Self, String> {
        match &mut self {
            Self::Alias { reference, ours } | Self::AliasConcat { reference, ours } => {
                *reference = reference.under(from)?;
                for output in ours {
                    output.path = output.path.under(to)?;
                }
            }
            Self::Layout { reference, .. } | Self::Unobserved { reference, .. } => {
                *reference = reference.under(from)?;
            }
        }
        Ok(self)
    }
}

impl Output {
    fn read(text: &str) -> Result<Self, String> {
        let (path, output) = match text.split_once('#') {
            Some((_, "")) => return Err(format!("`{text}` names no output after `#`")),
            Some((path, output)) => (path, Some(output.into())),
            None => (text, None),
        };
        let path = Pattern::read_path(path)?;
        Ok(Self { path, output })
    }
}

fn reasoned(reason: &str) -> Result<String, String> {
    if reason.trim().is_empty() {
        return Err("it gives no reason".into());
    }
    Ok(reason.into())
}

/// A rule as reports quote it.
pub(crate) fn describe<A: ToString, B: ToString>(verb: &str, from: &[A], to: &[B]) -> String {
    let from: Vec<String> = from.iter().map(A::to_string).collect();
    let to: Vec<String> = to.iter().map(B::to_string).collect();
    let arrow = if to.is_empty() { "" } else { " -> " };
    format!("{verb} {}{arrow}{}", from.join(" + "), to.join(" + "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(map: WeightMap) -> String {
        map.check().unwrap_err().to_string()
    }

    #[test]
    fn a_malformed_rule_is_quoted_with_its_problem() {
        let map = WeightMap::default;
        let order = RowOrder::InterleavedToHalf { heads: 0 };
        for (map, rule, problem) in [
            (map().rename("a.{i", "b"), "rename a.{i -> b", "`{` without `}`"),
            (map().rename("a.{i}", "b"), "rename a.{i} -> b", "different captures"),
            (map().rename("a", "b.{i}"), "rename a -> b.{i}", "different captures"),
            (map().rename("a.*", "b.*"), "rename a.* -> b.*", "use a capture"),
            (map().rename("a.{*e}", "b"), "rename a.{*e} -> b", "only on the many side"),
            (map().split("a", ["b", "c"], 0, [1]), "split a -> b + c", "1 sizes for 2 targets"),
            (map().split("a", ["b"], 0, [1]), "split a -> b", "1 sizes for 1 targets"),
            (map().split("a", ["b", "c"], 0, [usize::MAX, 1]), "split a", "no way to split"),
            (map().split("a", ["b", "c"], 0, [0, 0]), "split a", "no way to split"),
            (map().concat(["a"], "b", 0), "concat a -> b", "at least two"),
            (map().concat(["a.{i}", "b.{j}"], "c.{i}", 0), "concat", "different captures"),
            (map().concat(["a", "b"], "c", 0).sizes([1]), "concat a + b -> c", "one size for each part"),
            (map().rename("a", "b").sizes([1]), "rename a -> b", "belongs to a concat"),
            (map().sizes([1]), "sizes", "belongs to a concat"),
            (map().stack("a", "b"), "stack a -> b", "with {*e}"),
            (map().unstack("a", "b"), "unstack a -> b", "with {*e}"),
            (map().unstack("a.{*e}", "b.{*e}"), "unstack a.{*e} -> b.{*e}", "only on the many side"),
            (map().transpose("a", "b", [1, 2]), "transpose a -> b", "not a permutation"),
            (map().reshape("a", "b", [2, 3], [5]), "reshape a -> b", "differ in size"),
            (map().reshape("a", "b", [usize::MAX, 2], [usize::MAX, 2]), "reshape a -> b", "differ in size"),
            (map().permute_rows("a", "b", order), "permute_rows a -> b", "no heads"),
            (map().batch_norm("a", "b", "c", f64::NAN), "batch_norm a.running_mean", "eps is NaN"),
            (map().drop("a", " "), "drop a", "no reason"),
            (map().tied("a.{i}", "b"), "tied a.{i} + b", "different captures"),
            (map().optional(), "optional", "no rule before it"),
            (map().rename("a.{i}", "b.{i}").prefixed("x.{i}", "y.{i}"), "rename a.{i} -> b.{i}", "stands twice"),
            (map().rename("a", "b").prefixed("x.{i}", "y"), "rename a -> b", "different captures"),
            (map().prefixed("x..y", ""), "prefixed x..y -> ", "segment is empty"),
            (map().include("x", "y", map().rename("", "b")), "rename  -> b", "name is empty"),
            (WeightMap::identity().then(map().drop("a", "")), "drop a", "no reason"),
            (map().alias("a.{i}", ["b.{j}"]), "alias a.{i}", "`j` in `b.{j}` is not captured"),
            (map().alias("a", ["b#"]), "alias a", "no output after `#`"),
            (map().alias("a", [""; 0]), "alias a", "no module of ours"),
            (map().alias("a.**", ["b"]), "alias a.**", "in an alias"),
            (map().alias_concat("a", ["b.**"]), "alias_concat a", "no single module"),
            (map().unobserved("a", ""), "unobserved a", "no reason"),
            (map().layout("{", ActivationLayout::ChannelsFirst), "layout {", "`{` without `}`"),
        ] {
            let text = fault(map);
            assert!(text.contains(&format!("rule `{rule}")), "{rule}: {text}");
            assert!(text.contains(problem), "{rule}: {text}");
        }
    }

    #[test]
    fn a_component_keeps_its_rules_below_the_prefixes() {
        let component = WeightMap::default()
            .rename("a.{p:*}", "b.{p:*}")
            .optional()
            .alias("", ["out#0"])
            .unobserved("a.**", "unused");
        let map = WeightMap::default().include("x.{i}", "y.{i}.z", component);
        map.check().unwrap();
        let rule = &map.rules[0];
        assert_eq!(rule.text.as_ref(), "rename x.{i}.a.{p:*} -> y.{i}.z.b.{p:*}");
        assert!(rule.optional);
        let Observe::Alias { reference, ours } = &map.parity[0] else {
            panic!("not an alias");
        };
        assert_eq!((reference.to_string(), ours[0].path.to_string()), ("x.{i}".into(), "y.{i}.z.out".into()));
        assert_eq!(map.parity[1].reference().to_string(), "x.{i}.a.**");
    }
}
