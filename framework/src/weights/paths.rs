//! Which module of the reference implementation is which of ours, for comparing activations and for naming adapters.
//!
//! It follows from the weight map, over one checkpoint of the reference:
//! - A module whose parameters become exactly the parameters of one of ours is that module. This holds for layers
//!   and for containers alike.
//! - Several nested modules can hold the same parameters (`norm.linear` and `norm`). Then the one is chosen below
//!   which the parameters' names agree best with those below the reference's: as many segments, and as many equal
//!   ones; then the one of the same name, then the deepest. So layers pair with layers and wrappers with wrappers.
//! - The root is the root, and nothing else is.
//! - A layer whose rows are some of those of one of ours gives a slice of our activation's last axis; a layer that
//!   is cut by rows into several of ours gives their concatenation. Rows are counted on our side of any
//!   transposition. Vectors alone (norms) do not qualify, and neither do rows in another order.
//! - A module without parameters, and one whose parameters part ways, follows from nothing: `alias`, `alias_concat`
//!   and `unobserved` say what holds, and win over all of the above. Of several that match, the last one holds.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, Range};

use crate::error::Result;
use crate::weights::coverage::nearest;
use crate::weights::expr::Expr;
use crate::weights::header::Header;
use crate::weights::map::{ActivationLayout, Observe, Output, WeightMap};
use crate::weights::pattern::Captures;
use crate::weights::resolve::{Run, sources};

/// The reference's module paths in terms of ours.
#[derive(Clone, Debug)]
pub struct ModulePaths {
    parity: Vec<Observe>,
    /// The file's tensors.
    header: Header,
    /// Paths of our parameters that each tensor goes into.
    uses: BTreeMap<String, BTreeSet<String>>,
    /// Our parameters.
    produced: BTreeMap<String, Expr>,
    /// Our module paths, for suggestions.
    modules: Vec<String>,
}

/// What a module of the reference is on our side.
#[derive(Clone, Debug, PartialEq)]
pub enum Lookup {
    /// The module at this path; its output is the same.
    Same(String),
    /// `start..end` of the last axis of this module's output.
    Slice {
        /// Path of our module.
        ours: String,
        /// First index.
        start: usize,
        /// First index that is no longer part.
        end: usize,
    },
    /// These outputs joined along the last axis.
    Concat {
        /// In the order in which they are joined.
        ours: Vec<Tap>,
    },
    /// One of our outputs for each of the reference's.
    Alias {
        /// In the reference's order.
        outputs: Vec<Tap>,
    },
    /// Deliberately not compared.
    Unobserved {
        /// Why.
        reason: String,
    },
    /// Nothing is known of it.
    Unknown {
        /// Why nothing follows from the map.
        because: String,
        /// The most similar module path of ours.
        nearest: Option<String>,
    },
}

/// One output of one of our modules.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tap {
    /// Path of the module.
    pub path: String,
    /// Which output: `k` of `path#k`, or a field's name; `None` when there is one.
    pub output: Option<String>,
}

impl WeightMap {
    /// Relates the reference's modules to ours, given a checkpoint of the reference and our module paths. The
    /// latter serve suggestions only.
    ///
    /// # Errors
    /// [`Error::Rule`](crate::error::Error::Rule) for a malformed map.
    pub fn paths<S: Into<String>>(&self, header: &Header, modules: impl IntoIterator<Item = S>) -> Result<ModulePaths> {
        self.check()?;
        // Where a file holds only the other name of a tied tensor, the kept name is still the module that is meant.
        let mut header = header.clone();
        let mut run = Run::new(&header);
        run.stage(self, sources(&header));
        for (kept, written) in std::mem::take(&mut run.stand_ins) {
            if let Some(info) = header.tensors.remove(&written) {
                header.tensors.insert(kept, info);
            }
        }
        let forward = self.forward(&header)?;
        let mut uses: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut produced = BTreeMap::new();
        for (path, result) in forward.produced {
            for source in result.expr.sources() {
                uses.entry(source.into()).or_default().insert(path.clone());
            }
            produced.insert(path, result.expr);
        }
        Ok(ModulePaths {
            parity: self.stages().flat_map(|stage| stage.parity.iter().cloned()).collect(),
            header,
            uses,
            produced,
            modules: modules.into_iter().map(S::into).collect(),
        })
    }
}

impl ModulePaths {
    /// What the reference's module at this path, `""` for the root, is on our side.
    pub fn lookup(&self, reference: &str) -> Lookup {
        let mut verbs = self.parity.iter().rev();
        if let Some(lookup) = verbs.find_map(|verb| stated(verb, reference)) {
            return lookup;
        }
        if reference.is_empty() {
            return Lookup::Same(String::new());
        }
        self.derive(reference).unwrap_or_else(|because| {
            let modules = self.modules.iter().map(String::as_str);
            Lookup::Unknown { because, nearest: nearest(reference, modules).map(String::from) }
        })
    }

    /// How the reference lays out this module's activations.
    pub fn layout(&self, reference: &str) -> ActivationLayout {
        let mut stated = self.parity.iter().rev();
        let layout = stated.find_map(|verb| match verb {
            Observe::Layout { reference: pattern, layout } if pattern.matches(reference) => Some(*layout),
            _ => None,
        });
        layout.unwrap_or_default()
    }

    fn derive(&self, reference: &str) -> Result<Lookup, String> {
        let targets: BTreeSet<&str> =
            below(&self.uses, reference).flat_map(|(_, targets)| targets).map(String::as_str).collect();
        if targets.is_empty() {
            return Err(if below(&self.header.tensors, reference).next().is_some() {
                "the map drops its parameters".into()
            } else {
                "it has no parameters in the checkpoint".into()
            });
        }
        let alone = targets.iter().all(|target| {
            let sources = self.produced.get(*target).map(Expr::sources);
            sources.is_some_and(|sources| sources.iter().all(|s| is_below(s, reference)))
        });
        let found = if alone {
            self.concat(reference, &targets).or_else(|| self.same(reference, &targets))
        } else {
            self.slice(reference, &targets)
        };
        match found {
            Some(lookup) => Ok(lookup),
            None if self.permutes(reference, &targets) => {
                Err("the rows of its weight are in another order here".into())
            }
            None => Err("its parameters are not those of one module, nor of a run of rows".into()),
        }
    }

    /// The module of ours that holds exactly these parameters.
    fn same(&self, reference: &str, targets: &BTreeSet<&str>) -> Option<Lookup> {
        if self.permutes(reference, targets) {
            return None;
        }
        let mut chain = Vec::new();
        let mut module = common_module(targets)?;
        while !module.is_empty() && below(&self.produced, module).count() == targets.len() {
            chain.push(module);
            module = parent(module);
        }
        let best = chain.into_iter().min_by_key(|module| self.disagreement(reference, module, targets))?;
        Some(Lookup::Same(best.into()))
    }

    /// How unlike the names below two modules are: smaller is better, compared part by part.
    fn disagreement(
        &self,
        reference: &str,
        module: &str,
        targets: &BTreeSet<&str>,
    ) -> (usize, std::cmp::Reverse<usize>, bool, std::cmp::Reverse<usize>) {
        let (mut depth, mut equal) = (0, 0);
        for target in targets {
            let sources = self.produced.get(*target).map(Expr::sources);
            for source in sources.unwrap_or_default() {
                let theirs: Vec<&str> = tail(source, reference).split('.').rev().collect();
                let ours: Vec<&str> = tail(target, module).split('.').rev().collect();
                depth += theirs.len().abs_diff(ours.len());
                equal += theirs.iter().zip(&ours).filter(|(a, b)| a == b).count();
            }
        }
        let other_name = module.rsplit('.').next() != reference.rsplit('.').next();
        let deeper = module.split('.').count();
        (depth, std::cmp::Reverse(equal), other_name, std::cmp::Reverse(deeper))
    }

    /// Whether the rows of a layer are reordered on their way to us: then so is its activation. A container's is not.
    fn permutes(&self, reference: &str, targets: &BTreeSet<&str>) -> bool {
        let exprs = || targets.iter().filter_map(|target| self.produced.get(*target));
        let own = |expr: &Expr| expr.sources().iter().all(|source| parent(source) == reference);
        exprs().all(own) && !exprs().all(|expr| self.is_straight(expr))
    }

    /// Whether rows come in the order in which the file has them, as far as they can be followed.
    fn is_straight(&self, expr: &Expr) -> bool {
        let follows = |found: Vec<Stretch>| {
            let mut next = 0;
            found.iter().all(|stretch| stretch.rows.start == std::mem::replace(&mut next, stretch.rows.end))
        };
        !has_rows(expr) && stretches(expr, 0, &self.header).is_none_or(follows)
    }

    /// The layer's rows stand among others in one of our layers.
    fn slice(&self, reference: &str, targets: &BTreeSet<&str>) -> Option<Lookup> {
        let ours = common_module(targets)?;
        if below(&self.produced, ours).count() != targets.len() || !self.is_layer(reference) {
            return None;
        }
        let mut place: Option<Range<usize>> = None;
        for target in targets {
            let mut start: usize = 0;
            let mut found = None;
            for stretch in self.stretches(target)? {
                let end = start.checked_add(stretch.rows.len())?;
                if parent(stretch.source) == reference {
                    let whole = stretch.rows == (0..stretch.total) && found.is_none();
                    whole.then_some(())?;
                    found = Some(start..end);
                }
                start = end;
            }
            let found = found?;
            if *place.get_or_insert_with(|| found.clone()) != found {
                return None;
            }
        }
        let Range { start, end } = place?;
        Some(Lookup::Slice { ours: ours.into(), start, end })
    }

    /// The layer's rows are shared out, in order, among several of our layers.
    fn concat(&self, reference: &str, targets: &BTreeSet<&str>) -> Option<Lookup> {
        if !self.is_layer(reference) {
            return None;
        }
        let mut parts: BTreeMap<&str, (Range<usize>, usize)> = BTreeMap::new();
        for target in targets {
            let found = self.stretches(target)?;
            let [stretch] = found.as_slice() else {
                return None;
            };
            (parent(stretch.source) == reference).then_some(())?;
            let place = (stretch.rows.clone(), stretch.total);
            let ours = parent(target);
            if *parts.entry(ours).or_insert_with(|| place.clone()) != place {
                return None;
            }
        }
        let held: usize = parts.keys().map(|ours| below(&self.produced, ours).count()).sum();
        let total = parts.values().next()?.1;
        let mut parts: Vec<(Range<usize>, &str)> = parts.into_iter().map(|(ours, (rows, _))| (rows, ours)).collect();
        parts.sort_by_key(|(rows, _)| rows.start);
        let end = parts.iter().try_fold(0, |at, (rows, _)| (rows.start == at && rows.end > at).then_some(rows.end))?;
        let ours = parts.into_iter().map(|(_, ours)| Tap { path: ours.into(), output: None });
        (end == total && held == targets.len() && ours.len() > 1).then(|| Lookup::Concat { ours: ours.collect() })
    }

    /// Whether it holds a matrix or kernel itself.
    fn is_layer(&self, reference: &str) -> bool {
        let own = below(&self.header.tensors, reference);
        own.filter(|(name, _)| parent(name) == reference).any(|(_, info)| info.shape.len() >= 2)
    }

    /// The runs of rows of the file's tensors that make up the rows of one of our parameters.
    fn stretches(&self, target: &str) -> Option<Vec<Stretch<'_>>> {
        stretches(self.produced.get(target)?, 0, &self.header)
    }
}

/// Some rows of a tensor in the file, along the axis that becomes our axis 0.
#[derive(Debug, PartialEq)]
struct Stretch<'a> {
    source: &'a str,
    rows: Range<usize>,
    total: usize,
}

/// Follows one axis of an expression back to the tensors; `None` where it is not a sequence of runs of theirs.
fn stretches<'a>(expr: &'a Expr, axis: usize, header: &Header) -> Option<Vec<Stretch<'a>>> {
    match expr {
        Expr::Source(source) => {
            let total = *header.tensors.get(source.as_ref())?.shape.get(axis)?;
            Some(vec![Stretch { source, rows: 0..total, total }])
        }
        Expr::Slice { of, axis: cut, start, end } if *cut == axis => {
            let mut at: usize = 0;
            let mut kept = Vec::new();
            for run in stretches(of, axis, header)? {
                let length = run.rows.len();
                let first = start.saturating_sub(at).min(length);
                let last = end.saturating_sub(at).min(length);
                if first < last {
                    let from = run.rows.start;
                    kept.push(Stretch { rows: from.checked_add(first)?..from.checked_add(last)?, ..run });
                }
                at = at.checked_add(length)?;
            }
            Some(kept)
        }
        Expr::Concat { parts, axis: along } if *along == axis => {
            let parts = parts.iter().map(|part| stretches(part, axis, header));
            Some(parts.collect::<Option<Vec<_>>>()?.into_iter().flatten().collect())
        }
        Expr::Transpose { of, axes } => stretches(of, *axes.get(axis)?, header),
        // Axes before the first one that changes are still there.
        Expr::Reshape { of, shape } => {
            let before = of.info(header).ok()?.shape;
            let kept = before.iter().zip(shape.iter()).take_while(|(a, b)| a == b);
            (axis < kept.count()).then(|| stretches(of, axis, header))?
        }
        Expr::WeightNorm { v, axis: kept, .. } if *kept == axis => stretches(v, axis, header),
        _ => None,
    }
}

fn has_rows(expr: &Expr) -> bool {
    matches!(expr, Expr::Rows { .. }) || expr.arguments().into_iter().any(has_rows)
}

fn stated(verb: &Observe, reference: &str) -> Option<Lookup> {
    let captures = verb.reference().captures(reference)?;
    let taps = |ours: &[Output]| -> Option<Vec<Tap>> { ours.iter().map(|output| output.fill(&captures)).collect() };
    match verb {
        Observe::Alias { ours, .. } => Some(Lookup::Alias { outputs: taps(ours)? }),
        Observe::AliasConcat { ours, .. } => Some(Lookup::Concat { ours: taps(ours)? }),
        Observe::Unobserved { reason, .. } => Some(Lookup::Unobserved { reason: reason.clone() }),
        Observe::Layout { .. } => None,
    }
}

impl Output {
    fn fill(&self, captures: &Captures) -> Option<Tap> {
        Some(Tap { path: self.path.fill(captures)?, output: self.output.clone() })
    }
}

/// The module that holds a parameter or a module.
fn parent(path: &str) -> &str {
    path.rsplit_once('.').map_or("", |(parent, _)| parent)
}

/// The part of a name below a module.
fn tail<'a>(name: &'a str, module: &str) -> &'a str {
    let rest = name.strip_prefix(module).unwrap_or(name);
    rest.strip_prefix('.').unwrap_or(rest)
}

fn is_below(name: &str, module: &str) -> bool {
    module.is_empty() || name.strip_prefix(module).is_some_and(|rest| rest.starts_with('.'))
}

/// The entries below a module.
fn below<'a, T>(entries: &'a BTreeMap<String, T>, module: &'a str) -> impl Iterator<Item = (&'a String, &'a T)> {
    let first = if module.is_empty() { String::new() } else { format!("{module}.") };
    entries
        .range::<str, _>((Bound::Included(first.as_str()), Bound::Unbounded))
        .take_while(move |(name, _)| is_below(name, module))
}

/// The deepest module that holds all of these parameters.
fn common_module<'a>(targets: &BTreeSet<&'a str>) -> Option<&'a str> {
    // Of sorted names the first and the last differ the soonest.
    let (first, last) = (targets.first()?, targets.last()?);
    let mut module = parent(first);
    while !is_below(last, module) {
        module = parent(module);
    }
    Some(module)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::expr::RowOrder;
    use crate::weights::expr::tests::{header, info};
    use crate::weights::header::Stored;

    fn same(path: &str) -> Lookup {
        Lookup::Same(path.into())
    }

    fn slice(ours: &str, start: usize, end: usize) -> Lookup {
        Lookup::Slice { ours: ours.into(), start, end }
    }

    fn taps(paths: &[&str]) -> Vec<Tap> {
        let split = |path: &&str| match path.split_once('#') {
            Some((path, output)) => Tap { path: path.into(), output: Some(output.into()) },
            None => Tap { path: (*path).into(), output: None },
        };
        paths.iter().map(split).collect()
    }

    fn concat(paths: &[&str]) -> Lookup {
        Lookup::Concat { ours: taps(paths) }
    }

    fn unknown(lookup: Lookup) -> String {
        match lookup {
            Lookup::Unknown { because, .. } => because,
            other => panic!("{other:?}"),
        }
    }

    fn relate(map: &WeightMap, header: &Header) -> ModulePaths {
        let forward = map.forward(header).unwrap();
        assert!(forward.coverage.is_empty(), "{}", forward.coverage);
        map.paths(header, forward.produced.keys().map(|path| parent(path))).unwrap()
    }

    /// Two layers of a Llama: 4 heads and 2 key-value heads of size 8, width 32.
    fn llama() -> Header {
        let mut file = header([
            ("model.embed_tokens.weight", &[77, 32][..]),
            ("model.norm.weight", &[32]),
            ("lm_head.weight", &[77, 32]),
        ]);
        for i in 0..2 {
            for (name, shape) in [
                ("input_layernorm", &[32][..]),
                ("post_attention_layernorm", &[32]),
                ("self_attn.q_proj", &[32, 32]),
                ("self_attn.k_proj", &[16, 32]),
                ("self_attn.v_proj", &[16, 32]),
                ("self_attn.o_proj", &[32, 32]),
                ("mlp.gate_proj", &[56, 32]),
                ("mlp.up_proj", &[56, 32]),
                ("mlp.down_proj", &[32, 56]),
            ] {
                file.tensors.insert(format!("model.layers.{i}.{name}.weight"), info(Stored::F32, shape));
            }
        }
        file
    }

    /// Names that a Llama's map shares, however attention holds its projections.
    fn common() -> WeightMap {
        WeightMap::default()
            .rename("model.embed_tokens.{p:*}", "embed_tokens.{p:*}")
            .rename("model.layers.{i}.self_attn.o_proj.{p:*}", "layers.{i}.attn.o.{p:*}")
            .rename("model.layers.{i}.mlp.{x}_proj.{p:*}", "layers.{i}.ffn.{x}.{p:*}")
            .rename("model.layers.{i}.input_layernorm.{p:*}", "layers.{i}.norm1.{p:*}")
            .rename("model.layers.{i}.post_attention_layernorm.{p:*}", "layers.{i}.norm2.{p:*}")
            .rename("model.norm.{p:*}", "norm.{p:*}")
    }

    fn separate() -> WeightMap {
        ["q", "k", "v"].iter().fold(common(), |map, x| {
            let from = format!("model.layers.{{i}}.self_attn.{x}_proj.{{p:*}}");
            map.rename(&from, &format!("layers.{{i}}.attn.{x}.{{p:*}}"))
        })
    }

    fn fused() -> WeightMap {
        let from = ["q", "k", "v"].map(|x| format!("model.layers.{{i}}.self_attn.{x}_proj.{{p:*}}"));
        common().concat(from, "layers.{i}.attn.qkv.{p:*}", 0)
    }

    #[test]
    fn layers_and_containers_follow_from_the_names() {
        let map = separate().rename("lm_head.{p:*}", "lm_head.{p:*}");
        let paths = relate(&map, &llama());
        for (reference, ours) in [
            ("model.embed_tokens", "embed_tokens"),
            ("model.layers.0.self_attn.q_proj", "layers.0.attn.q"),
            ("model.layers.1.self_attn.v_proj", "layers.1.attn.v"),
            ("model.layers.0.self_attn", "layers.0.attn"),
            ("model.layers.0.mlp", "layers.0.ffn"),
            ("model.layers.0.mlp.gate_proj", "layers.0.ffn.gate"),
            ("model.layers.0.input_layernorm", "layers.0.norm1"),
            ("model.layers.1", "layers.1"),
            ("model.layers", "layers"),
            ("model.norm", "norm"),
            ("lm_head", "lm_head"),
            ("", ""),
        ] {
            assert_eq!(paths.lookup(reference), same(ours), "{reference}");
        }
        // It holds all but the head, which no module of ours does.
        assert!(unknown(paths.lookup("model")).contains("not those of one module"));
        assert!(unknown(paths.lookup("model.layers.0.mlp.act_fn")).contains("no parameters"));
        let typo = paths.lookup("model.layers.0.self_attn.qq");
        let Lookup::Unknown { nearest: Some(near), .. } = typo else { panic!("{typo:?}") };
        assert_eq!(near, "layers.0.attn.q");
    }

    #[test]
    fn a_fused_projection_is_compared_by_slices() {
        let paths = relate(&fused().rename("lm_head.{p:*}", "lm_head.{p:*}"), &llama());
        assert_eq!(paths.lookup("model.layers.0.self_attn.q_proj"), slice("layers.0.attn.qkv", 0, 32));
        assert_eq!(paths.lookup("model.layers.1.self_attn.k_proj"), slice("layers.1.attn.qkv", 32, 48));
        assert_eq!(paths.lookup("model.layers.1.self_attn.v_proj"), slice("layers.1.attn.qkv", 48, 64));
        assert_eq!(paths.lookup("model.layers.0.self_attn"), same("layers.0.attn"));
        assert_eq!(paths.lookup("model.layers.0"), same("layers.0"));
    }

    #[test]
    fn a_projection_fused_in_the_reference_is_a_concatenation() {
        let mut file = llama();
        for i in 0..2 {
            for x in ["q", "k", "v"] {
                file.tensors.remove(&format!("model.layers.{i}.self_attn.{x}_proj.weight"));
            }
            let module = format!("model.layers.{i}.self_attn.qkv_proj");
            file.tensors.insert(format!("{module}.weight"), info(Stored::U32, &[64, 4]));
            file.tensors.insert(format!("{module}.scales"), info(Stored::F16, &[64, 1]));
            file.tensors.insert(format!("{module}.biases"), info(Stored::F16, &[64, 1]));
            file.tensors.insert(format!("{module}.bias"), info(Stored::F16, &[64]));
        }
        let to = ["q", "k", "v"].map(|x| format!("layers.{{i}}.attn.{x}.{{p:*}}"));
        let map = common()
            .split("model.layers.{i}.self_attn.qkv_proj.{p:*}", to, 0, [32, 16, 16])
            .rename("lm_head.{p:*}", "lm_head.{p:*}");
        let paths = relate(&map, &file);
        let expected = concat(&["layers.1.attn.q", "layers.1.attn.k", "layers.1.attn.v"]);
        assert_eq!(paths.lookup("model.layers.1.self_attn.qkv_proj"), expected);
        assert_eq!(paths.lookup("model.layers.1.self_attn"), same("layers.1.attn"));
    }

    #[test]
    fn a_tied_head_is_no_layer_and_the_embedding_is() {
        let tied = separate().tied("lm_head.weight", "model.embed_tokens.weight");
        let mut file = llama();
        for _ in 0..2 {
            let paths = relate(&tied, &file);
            assert_eq!(paths.lookup("model.embed_tokens"), same("embed_tokens"));
            assert!(matches!(paths.lookup("lm_head"), Lookup::Unknown { .. }));
            assert!(matches!(paths.lookup("model"), Lookup::Unknown { .. }));
            // Some files hold the tensor under its other name only.
            file.tensors.remove("model.embed_tokens.weight");
        }
    }

    #[test]
    fn rows_in_another_order_are_another_activation() {
        let mut file = Header::default();
        for (name, shape) in [
            ("token_embd", &[77, 32][..]),
            ("output_norm", &[32]),
            ("blk.0.attn_norm", &[32]),
            ("blk.0.ffn_norm", &[32]),
            ("blk.0.attn_q", &[32, 32]),
            ("blk.0.attn_k", &[16, 32]),
            ("blk.0.attn_v", &[16, 32]),
            ("blk.0.attn_output", &[32, 32]),
            ("blk.0.ffn_gate", &[64, 32]),
            ("blk.0.ffn_up", &[64, 32]),
            ("blk.0.ffn_down", &[32, 64]),
        ] {
            match shape {
                [out, width] => {
                    let mut add = |leaf, dtype, shape: &[usize]| {
                        file.tensors.insert(format!("{name}.{leaf}"), info(dtype, shape))
                    };
                    add("weight", Stored::U32, &[*out, width / 8]);
                    add("scales", Stored::F16, &[*out, width / 32]);
                    add("biases", Stored::F16, &[*out, width / 32]);
                }
                shape => {
                    file.tensors.insert(format!("{name}.weight"), info(Stored::F32, shape));
                }
            }
        }
        let order = |heads| RowOrder::InterleavedToHalf { heads };
        let map = WeightMap::default()
            .rename("token_embd.{p:*}", "embed_tokens.{p:*}")
            .rename("output_norm.weight", "norm.weight")
            .tied("output.weight", "token_embd.weight")
            .permute_rows("blk.{i}.attn_q.{p:*}", "layers.{i}.attn.q.{p:*}", order(4))
            .permute_rows("blk.{i}.attn_k.{p:*}", "layers.{i}.attn.k.{p:*}", order(2))
            .rename("blk.{i}.attn_v.{p:*}", "layers.{i}.attn.v.{p:*}")
            .rename("blk.{i}.attn_output.{p:*}", "layers.{i}.attn.o.{p:*}")
            .rename("blk.{i}.attn_norm.weight", "layers.{i}.norm1.weight")
            .rename("blk.{i}.ffn_norm.weight", "layers.{i}.norm2.weight");
        let greedy = map.clone().rename("blk.{i}.ffn_{x}.{p:*}", "layers.{i}.ffn.{x}.{p:*}");
        let twice = greedy.forward(&file).unwrap().coverage.claimed_twice;
        assert_eq!(twice.len(), 1, "`ffn_{{x}}` matches ffn_norm too");
        let map = ["gate", "up", "down"].iter().fold(map, |map, x| {
            map.rename(&format!("blk.{{i}}.ffn_{x}.{{p:*}}"), &format!("layers.{{i}}.ffn.{x}.{{p:*}}"))
        });
        let paths = relate(&map, &file);
        assert!(unknown(paths.lookup("blk.0.attn_q")).contains("another order"));
        assert_eq!(paths.lookup("blk.0.attn_v"), same("layers.0.attn.v"));
        assert_eq!(paths.lookup("blk.0.ffn_up"), same("layers.0.ffn.up"));
        assert_eq!(paths.lookup("blk.0"), same("layers.0"));
        assert_eq!(paths.lookup("token_embd"), same("embed_tokens"));
    }

    #[test]
    fn rows_are_counted_on_our_side_of_a_transposition() {
        // GPT-2 keeps linear weights as [in, out].
        let file = header([
            ("h.0.attn.c_attn.weight", &[8, 24][..]),
            ("h.0.attn.c_attn.bias", &[24]),
            ("h.0.attn.c_proj.weight", &[8, 8]),
            ("h.0.attn.c_proj.bias", &[8]),
        ]);
        let to = ["q", "k", "v"];
        let map = WeightMap::default()
            .transpose("h.{i}.attn.c_attn.{p:*}", "h.{i}.attn.qkv.{p:*}", [1, 0])
            .transpose("h.{i}.attn.c_proj.{p:*}", "h.{i}.attn.o.{p:*}", [1, 0])
            .then(WeightMap::identity().split(
                "h.{i}.attn.qkv.{p:*}",
                to.map(|x| format!("h.{{i}}.attn.{x}.{{p:*}}")),
                0,
                [8, 8, 8],
            ));
        let paths = relate(&map, &file);
        assert_eq!(paths.lookup("h.0.attn.c_attn"), concat(&["h.0.attn.q", "h.0.attn.k", "h.0.attn.v"]));
        assert_eq!(paths.lookup("h.0.attn.c_proj"), same("h.0.attn.o"));
        assert_eq!(paths.lookup("h.0.attn"), same("h.0.attn"));

        let swapped = WeightMap::identity()
            .split("a.weight", ["x", "y"], 0, [1, 2])
            .then(WeightMap::identity().concat(["y", "x"], "a.weight", 0));
        let paths = relate(&swapped, &header([("a.weight", &[3, 2][..])]));
        assert!(unknown(paths.lookup("a")).contains("another order"));
    }

    #[test]
    fn nested_modules_pair_by_what_is_below_them() {
        let file = header([
            ("norm.linear.weight", &[6, 2][..]),
            ("norm.linear.bias", &[6]),
            ("to_out.0.weight", &[2, 2]),
            ("ff.net.0.proj.weight", &[8, 2]),
            ("ff.net.2.weight", &[2, 8]),
            ("experts.0.w.weight", &[2, 2]),
            ("experts.1.w.weight", &[2, 2]),
            ("conv.g", &[4, 1]),
            ("conv.v", &[4, 3]),
        ]);
        let map = WeightMap::default()
            .rename("norm.{p:*}", "modulation.{p:*}")
            .rename("to_out.0.{p:*}", "attn.o.{p:*}")
            .rename("ff.net.0.proj.{p:*}", "ffn.up.{p:*}")
            .rename("ff.net.2.{p:*}", "ffn.down.{p:*}")
            .stack("experts.{*e}.w.weight", "experts.w.weight")
            .weight_norm("conv.g", "conv.v", "conv.weight", 0);
        let paths = relate(&map, &file);
        for (reference, ours) in [
            ("norm.linear", "modulation.linear"),
            ("norm", "modulation"),
            ("to_out.0", "attn.o"),
            ("ff", "ffn"),
            ("ff.net.0.proj", "ffn.up"),
            ("ff.net.0", "ffn.up"),
            ("conv", "conv"),
        ] {
            assert_eq!(paths.lookup(reference), same(ours), "{reference}");
        }
        assert_eq!(paths.lookup("experts"), same("experts"));
        assert!(matches!(paths.lookup("experts.1.w"), Lookup::Unknown { .. }));
    }

    #[test]
    fn vectors_are_not_sliced_and_dropped_modules_say_so() {
        let file = header([("a.weight", &[2][..]), ("b.weight", &[2]), ("rope.inv_freq", &[2])]);
        let map = WeightMap::default().concat(["a.weight", "b.weight"], "ab.weight", 0).drop("**.inv_freq", "computed");
        let paths = relate(&map, &file);
        assert!(matches!(paths.lookup("a"), Lookup::Unknown { .. }));
        assert!(unknown(paths.lookup("rope")).contains("drops"));
    }

    #[test]
    fn what_is_stated_wins_and_the_last_word_counts() {
        let map = separate()
            .rename("lm_head.{p:*}", "lm_head.{p:*}")
            .alias("model", ["norm"])
            .alias("", ["lm_head"])
            .alias("model.layers.{i}", ["layers.{i}#1", "layers.{i}#hidden"])
            .alias_concat("model.layers.{i}.mlp", ["layers.{i}.ffn.gate", "layers.{i}.ffn.up#0"])
            .unobserved("**.act_fn", "functional")
            .unobserved("model.layers.1", "unused")
            .layout("model.**", ActivationLayout::ChannelsFirst)
            .layout("model.layers.1.**", ActivationLayout::ChannelsLast);
        let paths = relate(&map, &llama());
        let alias = |paths: &[&str]| Lookup::Alias { outputs: taps(paths) };
        assert_eq!(paths.lookup("model"), alias(&["norm"]));
        assert_eq!(paths.lookup(""), alias(&["lm_head"]));
        assert_eq!(paths.lookup("model.layers.0"), alias(&["layers.0#1", "layers.0#hidden"]));
        assert_eq!(paths.lookup("model.layers.0.mlp"), concat(&["layers.0.ffn.gate", "layers.0.ffn.up#0"]));
        let unobserved = |reason: &str| Lookup::Unobserved { reason: reason.into() };
        assert_eq!(paths.lookup("model.layers.0.mlp.act_fn"), unobserved("functional"));
        assert_eq!(paths.lookup("model.layers.1"), unobserved("unused"));
        for (reference, layout) in [
            ("model", ActivationLayout::ChannelsFirst),
            ("model.layers.0.mlp", ActivationLayout::ChannelsFirst),
            ("model.layers.1", ActivationLayout::ChannelsLast),
            ("lm_head", ActivationLayout::ChannelsLast),
        ] {
            assert_eq!(paths.layout(reference), layout, "{reference}");
        }
    }

    #[test]
    fn a_component_states_its_root() {
        let component = WeightMap::identity().alias("", ["out#0"]).unobserved("dropout", "nothing");
        let map = WeightMap::default().include("text", "t", component).rename("x.{p:*}", "x.{p:*}");
        let paths = relate(&map, &header([("text.a.weight", &[2, 2][..]), ("x.weight", &[2])]));
        assert_eq!(paths.lookup("text"), Lookup::Alias { outputs: taps(&["t.out#0"]) });
        assert_eq!(paths.lookup("text.a"), same("t.a"));
        assert_eq!(paths.lookup("text.dropout"), Lookup::Unobserved { reason: "nothing".into() });
    }
}
