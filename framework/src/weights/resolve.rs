//! From a map and a checkpoint's header to an expression for each parameter, or a report of everything that is in
//! the way.
//!
//! Two steps, because only the file says which weights are quantised. [`WeightMap::forward`] gives all that the
//! file offers under our names. The caller then converts the layers whose weights [`Forward::packed`] lists, and
//! [`Forward::against`] compares the result with the model's parameters.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use crate::error::Result;
use crate::weights::apply::{Source, apply};
use crate::weights::coverage::{
    ClaimedTwice, Coverage, DeadRule, Gap, Inapplicable, Incomplete, Missing, SHOWN, Side, Unexpected, WrongClass,
    WrongShape, nearest,
};
use crate::weights::expr::Expr;
use crate::weights::header::{Header, Info, Stored};
use crate::weights::map::{Op, Rule, WeightMap};
use crate::weights::pattern::{Captures, Pattern};

/// What a model's parameter must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Kind of element.
    pub class: Class,
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} {:?}", self.class, self.shape)
    }
}

impl From<Info> for Wanted {
    fn from(info: Info) -> Self {
        Self { class: Class::of(info.dtype), shape: info.shape }
    }
}

/// The kinds of elements that cannot stand for each other. Within a kind, loading may convert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Floating point of any width.
    Float,
    /// Integers of any width, packed weights among them, and booleans.
    Integer,
}

impl Class {
    /// The kind that an encoding belongs to.
    pub fn of(stored: Stored) -> Self {
        if stored.is_float() { Self::Float } else { Self::Integer }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Float => "float",
            Self::Integer => "integer",
        })
    }
}

/// One result of a map.
#[derive(Clone, Debug, PartialEq)]
pub struct Produced {
    /// How it is made from the file's tensors.
    pub expr: Expr,
    /// Its shape and type.
    pub info: Info,
    /// The rule that gives it, as the map writes it.
    pub rule: Arc<str>,
}

/// Everything that a file offers under our names.
#[derive(Clone, Debug, Default)]
pub struct Forward {
    /// By path of the parameter.
    pub produced: BTreeMap<String, Produced>,
    /// Pairs that must be equal: tensors that are tied and both in the file.
    pub checks: Vec<(Expr, Expr)>,
    /// What is already known to be wrong without looking at the model.
    pub coverage: Coverage,
    /// Paths whose absence another entry of the report explains.
    blocked: BTreeSet<String>,
    /// All names in the file.
    names: Vec<String>,
}

/// How to load: an expression for each parameter of the model, exactly.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// By path of the parameter.
    pub assign: BTreeMap<String, Expr>,
    /// Pairs that must turn out equal.
    pub checks: Vec<(Expr, Expr)>,
}

/// A quantised weight among what a map produces.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PackedWeight<'a> {
    /// Path of the module that holds it.
    pub module: &'a str,
    /// The packed words, `[…, out, in · bits / 32]`.
    pub weight: &'a Info,
    /// One scale a group, `[…, out, in / group]`.
    pub scales: &'a Info,
    /// One offset a group; the modes for floating point have none.
    pub biases: Option<&'a Info>,
}

impl WeightMap {
    /// Names, shapes and types of everything that a file offers under our names, and what is wrong so far.
    ///
    /// # Errors
    /// [`Error::Rule`](crate::error::Error::Rule) for a malformed map. What is wrong with the file stands in the
    /// result.
    pub fn forward(&self, header: &Header) -> Result<Forward> {
        self.check()?;
        let mut run = Run::new(header);
        let mut items = sources(header);
        for stage in self.stages() {
            items = run.stage(stage, items);
        }
        Ok(Forward {
            produced: items,
            checks: run.checks,
            coverage: run.coverage,
            blocked: run.blocked,
            names: header.tensors.keys().cloned().collect(),
        })
    }
}

impl Forward {
    /// The quantised weights: modules whose `weight` is `u32` and which have `scales`.
    pub fn packed(&self) -> impl Iterator<Item = PackedWeight<'_>> {
        self.produced.iter().filter_map(|(name, weight)| {
            let module = match name.rsplit_once('.') {
                Some((module, "weight")) => module,
                None if name == "weight" => "",
                _ => return None,
            };
            let info = |leaf| self.produced.get(&sibling(name, leaf)).map(|p| &p.info);
            Some(PackedWeight {
                module,
                weight: Some(&weight.info).filter(|info| info.dtype == Stored::U32)?,
                scales: info("scales")?,
                biases: info("biases"),
            })
        })
    }

    /// Compares what the file offers with the model's parameters, by path.
    ///
    /// # Errors
    /// The whole report, unless every parameter is produced once with its shape and kind of element, and nothing is
    /// left over.
    pub fn against(&self, targets: &BTreeMap<String, Wanted>) -> Result<Plan, Box<Coverage>> {
        let mut coverage = self.coverage.clone();
        for (path, wanted) in targets {
            match self.produced.get(path) {
                Some(produced) => compare(path, wanted, produced, &mut coverage),
                None if self.blocked.contains(path) => (),
                None => coverage.missing.push(Missing { path: path.clone(), wanted: wanted.clone(), nearest: None }),
            }
        }
        for (path, produced) in &self.produced {
            if !targets.contains_key(path) {
                coverage.unexpected.push(Unexpected {
                    sources: names(&produced.expr),
                    path: Some(path.clone()),
                    found: produced.info.clone(),
                    nearest: None,
                });
            }
        }
        if !coverage.is_empty() {
            self.suggest(targets, &mut coverage);
            return Err(Box::new(coverage));
        }
        let assign = self.produced.iter();
        Ok(Plan {
            assign: assign.map(|(path, produced)| (path.clone(), produced.expr.clone())).collect(),
            checks: self.checks.clone(),
        })
    }

    /// Looks up similar names for the entries that a report shows.
    fn suggest(&self, targets: &BTreeMap<String, Wanted>, coverage: &mut Coverage) {
        // A tensor that a rule gives a wrong path is found by that path too.
        let mut unused: BTreeMap<&str, &str> = BTreeMap::new();
        for Unexpected { sources, path, .. } in &coverage.unexpected {
            for source in sources {
                unused.insert(source, source);
                unused.extend(path.as_ref().map(|path| (path.as_str(), source.as_str())));
            }
        }
        for missing in coverage.missing.iter_mut().take(SHOWN) {
            missing.nearest = nearest(&missing.path, unused.keys().copied())
                .and_then(|name| unused.get(name).copied())
                .or_else(|| nearest(&missing.path, self.names.iter().map(String::as_str)))
                .map(String::from);
        }
        for unexpected in coverage.unexpected.iter_mut().take(SHOWN) {
            let name = unexpected.path.as_ref().or(unexpected.sources.first());
            unexpected.nearest =
                name.and_then(|name| nearest(name, targets.keys().map(String::as_str))).map(String::from);
        }
    }
}

fn compare(path: &str, wanted: &Wanted, produced: &Produced, coverage: &mut Coverage) {
    let Produced { expr, info, rule } = produced;
    if info.shape != wanted.shape {
        coverage.wrong_shape.push(WrongShape {
            path: path.into(),
            sources: names(expr),
            expected: wanted.shape.clone(),
            found: info.clone(),
            rule: rule.to_string(),
        });
    }
    if Class::of(info.dtype) != wanted.class {
        coverage.wrong_class.push(WrongClass {
            path: path.into(),
            sources: names(expr),
            expected: wanted.class,
            found: info.dtype,
            rule: rule.to_string(),
        });
    }
}

fn names(expr: &Expr) -> Vec<String> {
    expr.sources().into_iter().map(String::from).collect()
}

/// Tensors by name, at the start of a stage or at its end.
pub(crate) type Items = BTreeMap<String, Produced>;

/// The tensors of a file as they are.
pub(crate) fn sources(header: &Header) -> Items {
    let unnamed: Arc<str> = "".into();
    let items = header.tensors.iter().map(|(name, info)| {
        let produced = Produced { expr: Expr::source(name), info: info.clone(), rule: unnamed.clone() };
        (name.clone(), produced)
    });
    items.collect()
}

/// The name with another last segment.
pub(crate) fn sibling(name: &str, leaf: &str) -> String {
    match name.rsplit_once('.') {
        Some((module, _)) => format!("{module}.{leaf}"),
        None => leaf.into(),
    }
}

/// A part of a quantised weight that goes where the weight goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Companion {
    Scales,
    Biases,
}

impl Companion {
    fn leaf(self) -> &'static str {
        match self {
            Self::Scales => "scales",
            Self::Biases => "biases",
        }
    }

    /// The part that a name is, and the name of its weight, when the weight is quantised.
    fn of(name: &str, items: &Items) -> Option<(Self, String)> {
        let companion = match name.rsplit('.').next()? {
            "scales" => Self::Scales,
            "biases" => Self::Biases,
            _ => return None,
        };
        let weight = sibling(name, "weight");
        let packed = items.get(&weight)?.info.dtype == Stored::U32;
        (packed && items.contains_key(&sibling(name, "scales"))).then_some((companion, weight))
    }
}

/// A rule's claim on a tensor: through which of its patterns, and what that captured.
struct Claim {
    rule: usize,
    slot: usize,
    captures: Captures,
    companion: Option<Companion>,
}

/// Claims of one rule that belong together: same captures, same part of a quantised weight.
type Groups = BTreeMap<(usize, Vec<(String, String)>, Option<Companion>), Members>;

/// Names by slot, and by number in a stack.
type Members = BTreeMap<(usize, Option<usize>), String>;

/// One use of a rule, with every name written out; a concat knows its sizes.
pub(crate) struct Fired {
    pub rule: Rule,
    pub from: Vec<String>,
    pub to: Vec<String>,
}

/// The state that stages share.
pub(crate) struct Run<'a> {
    header: &'a Header,
    coverage: Coverage,
    checks: Vec<(Expr, Expr)>,
    blocked: BTreeSet<String>,
    /// Members that `unstack` may still make: a lying header must not make it allocate without end.
    unstack: usize,
    /// Uses of rules, in the stage that ran last.
    pub fired: Vec<Fired>,
    /// Names that stand for tied ones which are not in the file, in the stage that ran last: absent and present.
    pub stand_ins: Vec<(String, String)>,
}

impl<'a> Run<'a> {
    pub fn new(header: &'a Header) -> Self {
        Self {
            header,
            coverage: Coverage::default(),
            checks: Vec::new(),
            blocked: BTreeSet::new(),
            unstack: 1 << 16,
            fired: Vec::new(),
            stand_ins: Vec::new(),
        }
    }

    /// Applies the rules of one map, without those of the maps after it.
    pub fn stage(&mut self, map: &WeightMap, mut items: Items) -> Items {
        self.fired.clear();
        self.stand_ins.clear();
        let mut alive: BTreeSet<usize> = BTreeSet::new();
        let tied = self.tie(map, &mut items, &mut alive);
        let index = Index::new(map);
        let mut groups = Groups::new();
        for (name, item) in &items {
            let mut claims = index.claims(name, &items);
            let pre_claimed = tied.get(name).copied();
            if pre_claimed.is_some() {
                claims.retain(|claim| !index.fallback(claim.rule));
            }
            if claims.is_empty() && pre_claimed.is_none() {
                let sources = names(&item.expr);
                self.coverage.unexpected.push(Unexpected {
                    path: (sources != [name.as_str()]).then(|| name.clone()),
                    sources,
                    found: item.info.clone(),
                    nearest: None,
                });
            }
            let rules = pre_claimed.into_iter().chain(claims.iter().map(|claim| claim.rule));
            self.claimed(name, rules.filter_map(|n| map.rules.get(n)).collect());
            for claim in claims {
                alive.insert(claim.rule);
                let key = (claim.rule, claim.captures.named, claim.companion);
                let place = (claim.slot, claim.captures.gathered);
                groups.entry(key).or_default().insert(place, name.clone());
            }
        }
        for (n, rule) in map.rules.iter().enumerate() {
            if !alive.contains(&n) && !rule.optional && !rule.fallback {
                self.coverage.dead_rules.push(DeadRule { rule: rule.text.to_string() });
            }
        }
        let mut produced = Items::new();
        for ((rule, captures, companion), members) in groups {
            if let Some(rule) = map.rules.get(rule) {
                self.fire(rule, captures, companion, members, &items, &mut produced);
            }
        }
        produced
    }

    fn claimed(&mut self, name: &str, rules: Vec<&Rule>) {
        if rules.len() > 1 {
            self.coverage.claimed_twice.push(ClaimedTwice {
                name: name.into(),
                side: Side::Source,
                rules: rules.iter().map(|rule| rule.text.to_string()).collect(),
            });
        }
    }

    /// Gives each tied tensor its kept name. Returns the other names, each with the rule that claims it.
    fn tie(&mut self, map: &WeightMap, items: &mut Items, alive: &mut BTreeSet<usize>) -> BTreeMap<String, usize> {
        let mut claimed = BTreeMap::new();
        let ties = map.rules.iter().enumerate();
        for (n, rule) in ties.filter(|(_, rule)| rule.op == Op::Tied) {
            let [other, kept] = rule.from.as_slice() else {
                continue;
            };
            let mut absent = Vec::new();
            for (name, item) in items.iter() {
                if kept.matches(name) {
                    alive.insert(n);
                }
                let Some((captures, companion)) = matched(rule, other, name, items) else {
                    continue;
                };
                let Some(kept) = filled(kept, &captures, companion) else {
                    continue;
                };
                alive.insert(n);
                claimed.insert(name.clone(), n);
                match items.get(&kept) {
                    None => absent.push((name.clone(), kept, item.clone())),
                    Some(kept) if kept.info == item.info => {
                        self.checks.push((item.expr.clone(), kept.expr.clone()));
                    }
                    Some(other) => {
                        let problem = format!(
                            "{} and {} cannot be equal; the model is not tied, or the file stores it in two ways",
                            item.info, other.info
                        );
                        self.inapplicable(rule, vec![name.clone(), kept], problem);
                    }
                }
            }
            for (name, kept, item) in absent {
                items.insert(kept.clone(), item);
                self.stand_ins.push((kept, name));
            }
        }
        claimed
    }

    /// Applies a rule to tensors that belong together.
    fn fire(
        &mut self,
        rule: &Rule,
        named: Vec<(String, String)>,
        companion: Option<Companion>,
        members: Members,
        items: &Items,
        produced: &mut Items,
    ) {
        if matches!(rule.op, Op::Drop { .. } | Op::Tied) {
            return;
        }
        let mut captures = Captures { named, gathered: None };
        let mut targets: Vec<String> = rule.to.iter().filter_map(|to| filled(to, &captures, companion)).collect();

        let absent: Vec<String> = (rule.from.iter().enumerate().take(rule.required()))
            .filter(|(slot, _)| !members.keys().any(|(s, _)| s == slot))
            .filter_map(|(_, from)| filled(from, &captures, companion))
            .collect();
        if !absent.is_empty() {
            self.blocked.extend(targets);
            self.coverage.incomplete.push(Incomplete {
                rule: rule.text.to_string(),
                found: members.into_values().collect(),
                missing: absent,
            });
            return;
        }
        let hole = members
            .keys()
            .filter_map(|(_, number)| *number)
            .enumerate()
            .find_map(|(expected, number)| (expected != number).then_some(expected));
        if let Some(absent) = hole {
            self.coverage.gaps.push(Gap {
                rule: rule.text.to_string(),
                path: targets.join(", "),
                count: members.len(),
                absent,
            });
            self.blocked.extend(targets);
            return;
        }

        let sources: Vec<Source> = members
            .iter()
            .filter_map(|((slot, _), name)| Some(Source { slot: *slot, name, item: items.get(name)? }))
            .collect();
        let applied = match (&rule.op, sources.as_slice()) {
            (Op::Unstack, [one]) => {
                let count = one.item.info.shape.first().copied().unwrap_or(0);
                if let ([to], true) = (rule.to.as_slice(), targets.is_empty()) {
                    targets = (0..count.min(self.unstack))
                        .filter_map(|number| {
                            captures.gathered = Some(number);
                            filled(to, &captures, companion)
                        })
                        .collect();
                }
                self.unstack = self.unstack.saturating_sub(targets.len());
                if targets.len() == count {
                    apply(&rule.op, &sources, targets.len(), items)
                } else {
                    Err(format!("{} members for {count}", targets.len()))
                }
            }
            _ => apply(&rule.op, &sources, targets.len(), items),
        };
        let typed = applied.and_then(|exprs| {
            exprs.into_iter().map(|expr| Ok((expr.info(self.header)?, expr))).collect::<Result<Vec<_>, String>>()
        });
        let from: Vec<String> = members.into_values().collect();
        let results = match typed {
            Ok(results) if results.len() == targets.len() => results,
            Ok(results) => {
                let problem = format!("{} results for {}", results.len(), targets.len());
                return self.blocked_by(rule, from, targets, problem);
            }
            Err(problem) => return self.blocked_by(rule, from, targets, problem),
        };
        for (path, (info, expr)) in targets.iter().zip(results) {
            let result = Produced { expr, info, rule: rule.text.clone() };
            if let Some(earlier) = produced.insert(path.clone(), result) {
                self.coverage.claimed_twice.push(ClaimedTwice {
                    name: path.clone(),
                    side: Side::Target,
                    rules: vec![earlier.rule.to_string(), rule.text.to_string()],
                });
            }
        }
        let mut rule = rule.clone();
        if let Op::Concat { axis, sizes } = &mut rule.op {
            let actual = from.iter().filter_map(|name| items.get(name));
            *sizes = Some(actual.filter_map(|item| item.info.shape.get(*axis).copied()).collect());
        }
        self.fired.push(Fired { rule, from, to: targets });
    }

    fn blocked_by(&mut self, rule: &Rule, from: Vec<String>, to: Vec<String>, problem: String) {
        self.blocked.extend(to);
        self.inapplicable(rule, from, problem);
    }

    fn inapplicable(&mut self, rule: &Rule, sources: Vec<String>, problem: String) {
        self.coverage.inapplicable.push(Inapplicable { rule: rule.text.to_string(), sources, problem });
    }
}

/// Matches a name with one of a rule's patterns, or as a part of the quantised weight that matches.
fn matched(rule: &Rule, pattern: &Pattern, name: &str, items: &Items) -> Option<(Captures, Option<Companion>)> {
    if let Some(captures) = pattern.captures(name) {
        return Some((captures, None));
    }
    if !rule.leads() {
        return None;
    }
    let (companion, weight) = Companion::of(name, items)?;
    Some((pattern.captures(&weight)?, Some(companion)))
}

/// The name that a pattern stands for, or its companion's.
fn filled(pattern: &Pattern, captures: &Captures, companion: Option<Companion>) -> Option<String> {
    let name = pattern.fill(captures)?;
    Some(match companion {
        Some(companion) => sibling(&name, companion.leaf()),
        None => name,
    })
}

impl Rule {
    /// Whether the parts of a quantised weight follow it: every name that the rule writes ends in `weight`.
    fn leads(&self) -> bool {
        let mut names = self.from.iter().chain(&self.to);
        names.all(Pattern::ends_in_weight)
    }
}

/// A map's patterns, ready to look names up in.
struct Index<'a> {
    map: &'a WeightMap,
    literal: HashMap<&'a str, Vec<(usize, usize)>>,
    open: Vec<(usize, usize, &'a Pattern)>,
    /// Patterns of the rules that take what is left, the most specific first.
    fallback: Vec<(usize, usize, &'a Pattern)>,
}

impl<'a> Index<'a> {
    fn new(map: &'a WeightMap) -> Self {
        let mut index = Self { map, literal: HashMap::new(), open: Vec::new(), fallback: Vec::new() };
        let rules = map.rules.iter().enumerate();
        for (n, rule) in rules.filter(|(_, rule)| rule.op != Op::Tied) {
            for (slot, pattern) in rule.from.iter().enumerate() {
                match pattern.as_literal() {
                    _ if rule.fallback => index.fallback.push((n, slot, pattern)),
                    Some(name) => index.literal.entry(name).or_default().push((n, slot)),
                    None => index.open.push((n, slot, pattern)),
                }
            }
        }
        index.fallback.sort_by_key(|(_, _, pattern)| std::cmp::Reverse(pattern.specificity()));
        index
    }

    fn fallback(&self, rule: usize) -> bool {
        self.map.rules.get(rule).is_some_and(|rule| rule.fallback)
    }

    /// The claims on a tensor: of rules that match its name; else, if it belongs to a quantised weight, of rules
    /// that match the weight's; else of the rules that take the rest.
    fn claims(&self, name: &str, items: &Items) -> Vec<Claim> {
        let mut claims = self.matches(name, None);
        if (claims.is_empty() || self.map.specific)
            && let Some((companion, weight)) = Companion::of(name, items)
        {
            let mut followed = self.matches(&weight, Some(companion));
            followed.retain(|claim| self.map.rules.get(claim.rule).is_some_and(Rule::leads));
            claims.extend(followed);
        }
        if self.map.specific {
            let specificity = |claim: &Claim| {
                let rule = self.map.rules.get(claim.rule)?;
                Some(rule.from.get(claim.slot)?.specificity())
            };
            let best = claims.iter().map(specificity).max().flatten();
            claims.retain(|claim| specificity(claim) == best);
        }
        if !claims.is_empty() {
            return claims;
        }
        let fallback = self.fallback.iter().find_map(|&(rule, slot, pattern)| {
            Some(Claim { rule, slot, captures: pattern.captures(name)?, companion: None })
        });
        fallback.into_iter().collect()
    }

    fn matches(&self, name: &str, companion: Option<Companion>) -> Vec<Claim> {
        let literal = self.literal.get(name).into_iter().flatten();
        let literal = literal.map(|&(rule, slot)| Claim { rule, slot, captures: Captures::default(), companion });
        let open = self.open.iter().filter_map(|&(rule, slot, pattern)| {
            Some(Claim { rule, slot, captures: pattern.captures(name)?, companion })
        });
        literal.chain(open).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::error::Error;
    use crate::weights::expr::tests::{header, info};

    fn targets<'a>(wanted: impl IntoIterator<Item = (&'a str, &'a [usize])>) -> BTreeMap<String, Wanted> {
        let wanted = wanted.into_iter();
        wanted.map(|(path, shape)| (path.into(), Wanted { shape: shape.to_vec(), class: Class::Float })).collect()
    }

    /// The report on a map that produces nothing but problems.
    fn report(map: &WeightMap, header: &Header) -> Coverage {
        map.forward(header).unwrap().coverage
    }

    fn paths(map: &WeightMap, header: &Header) -> Vec<String> {
        let forward = map.forward(header).unwrap();
        assert!(forward.coverage.is_empty(), "{}", forward.coverage);
        forward.produced.into_keys().collect()
    }

    /// A quantised layer and its bias, with an optional prefix.
    fn packed(module: &str) -> Vec<(String, Info)> {
        let part = |leaf: &str, dtype, shape: &[usize]| (format!("{module}.{leaf}"), info(dtype, shape));
        vec![
            part("weight", Stored::U32, &[4, 8]),
            part("scales", Stored::F16, &[4, 2]),
            part("biases", Stored::F16, &[4, 2]),
            part("bias", Stored::F16, &[4]),
        ]
    }

    #[test]
    fn an_exact_fit_is_a_plan() {
        let header = header([("m.a.weight", &[4, 2][..]), ("m.b.weight", &[3])]);
        let map = WeightMap::default().rename("m.a.weight", "x.weight").rename("m.{r}.weight", "y.{r}.weight");
        assert_eq!(report(&map, &header).claimed_twice.len(), 1);
        let map = WeightMap::default().rename("m.{p:*}", "{p:*}");
        let plan = map.forward(&header).unwrap();
        let plan = plan.against(&targets([("a.weight", &[4, 2][..]), ("b.weight", &[3])])).unwrap();
        assert_eq!(plan.assign["a.weight"], Expr::source("m.a.weight"));
        assert_eq!(plan.assign.len(), 2);
    }

    #[test]
    fn everything_wrong_is_reported_together() {
        let mut header = header([
            ("a.weight", &[4, 2][..]),
            ("b.weight", &[4, 2]),
            ("c.weight", &[4, 2]),
            ("q.weight", &[4, 2]),
            ("e.0.w", &[4]),
            ("e.2.w", &[4]),
            ("f.weight", &[4]),
            ("odd.weight", &[4]),
            ("twice.weight", &[4]),
        ]);
        header.tensors.insert("n.weight".into(), info(Stored::I32, &[4]));
        let map = WeightMap::default()
            .rename("{x}.weight", "x.{x}.weight")
            .optional()
            .concat(["q.bias", "q.weight"], "qk.weight", 0)
            .stack("e.{*n}.w", "e.w")
            .rename("never.{p:*}", "never.{p:*}")
            .split("f.weight", ["f1", "f2"], 0, [3, 3]);
        // The first rule claims all that end in weight, which the others claim again.
        let coverage = report(&map, &header);
        assert_eq!(coverage.claimed_twice.len(), 2);

        let map = WeightMap::default()
            .rename("a.weight", "a.weight")
            .rename("b.weight", "b.weight")
            .rename("c.weight", "model.c.weights")
            .rename("n.weight", "n.weight")
            .rename("twice.weight", "n.weight")
            .concat(["q.bias", "q.weight"], "qk.weight", 0)
            .stack("e.{*n}.w", "e.w")
            .rename("never.{p:*}", "never.{p:*}")
            .split("f.weight", ["f1", "f2"], 0, [3, 3]);
        let wanted = targets([
            ("a.weight", &[4, 2][..]),
            ("b.weight", &[2, 4]),
            ("model.c.weight", &[4, 2]),
            ("n.weight", &[4]),
            ("qk.weight", &[8, 2]),
            ("e.w", &[3, 4]),
            ("f1", &[3]),
            ("f2", &[3]),
            ("zzzzzzzzzzzz", &[1]),
        ]);
        let forward = map.forward(&header).unwrap();
        let coverage = forward.against(&wanted).unwrap_err();
        let missing: Vec<_> = coverage.missing.iter().map(|m| (m.path.as_str(), m.nearest.as_deref())).collect();
        assert_eq!(missing, [("model.c.weight", Some("c.weight")), ("zzzzzzzzzzzz", None)]);
        let unexpected: Vec<_> =
            coverage.unexpected.iter().map(|u| (u.sources[0].as_str(), u.path.as_deref())).collect();
        assert_eq!(unexpected, [("odd.weight", None), ("c.weight", Some("model.c.weights"))]);
        assert_eq!(coverage.unexpected[1].nearest.as_deref(), Some("model.c.weight"));
        let [twice] = coverage.claimed_twice.as_slice() else { panic!("{coverage}") };
        assert_eq!((twice.name.as_str(), twice.side), ("n.weight", Side::Target));
        assert_eq!(twice.rules, ["rename n.weight -> n.weight", "rename twice.weight -> n.weight"]);
        assert_eq!(coverage.dead_rules, [DeadRule { rule: "rename never.{p:*} -> never.{p:*}".into() }]);
        let [shape] = coverage.wrong_shape.as_slice() else { panic!("{coverage}") };
        assert_eq!((shape.path.as_str(), shape.expected.as_slice()), ("b.weight", &[2, 4][..]));
        let [incomplete] = coverage.incomplete.as_slice() else { panic!("{coverage}") };
        assert_eq!(
            (incomplete.found.as_slice(), incomplete.missing.as_slice()),
            (&["q.weight".to_string()][..], &["q.bias".to_string()][..])
        );
        let [gap] = coverage.gaps.as_slice() else { panic!("{coverage}") };
        assert_eq!((gap.path.as_str(), gap.count, gap.absent), ("e.w", 2, 1));
        let [inapplicable] = coverage.inapplicable.as_slice() else { panic!("{coverage}") };
        assert!(inapplicable.problem.contains("sum to 6"));
        assert_eq!(coverage.count(), 10);
    }

    #[test]
    fn the_kind_of_element_must_fit() {
        let mut header = header([("a", &[4][..])]);
        header.tensors.insert("b".into(), info(Stored::I64, &[4]));
        header.tensors.insert("c".into(), info(Stored::Bool, &[4]));
        let mut wanted = targets([("a", &[4][..]), ("b", &[4]), ("c", &[4])]);
        wanted.get_mut("a").unwrap().class = Class::Integer;
        wanted.get_mut("c").unwrap().class = Class::Integer;
        let coverage = WeightMap::identity().forward(&header).unwrap().against(&wanted).unwrap_err();
        let wrong: Vec<_> = coverage.wrong_class.iter().map(|w| (w.path.as_str(), w.expected, w.found)).collect();
        assert_eq!(wrong, [("a", Class::Integer, Stored::F32), ("b", Class::Float, Stored::I64)]);
        assert_eq!(coverage.count(), 2);
    }

    #[test]
    fn a_tied_tensor_may_come_under_either_name_or_both() {
        let map = WeightMap::default()
            .tied("lm_head.weight", "model.embed.weight")
            .rename("model.embed.weight", "embed.weight");
        let wanted = targets([("embed.weight", &[4, 2][..])]);
        let plan = |header: &Header| map.forward(header).unwrap().against(&wanted);
        let (head, embed) = (("lm_head.weight", &[4, 2][..]), ("model.embed.weight", &[4, 2][..]));

        let only = plan(&header([embed])).unwrap();
        assert_eq!((&only.assign["embed.weight"], only.checks.len()), (&Expr::source(embed.0), 0));
        let other = plan(&header([head])).unwrap();
        assert_eq!((&other.assign["embed.weight"], other.checks.len()), (&Expr::source(head.0), 0));
        let both = plan(&header([head, embed])).unwrap();
        assert_eq!(both.assign["embed.weight"], Expr::source(embed.0));
        assert_eq!(both.checks, [(Expr::source(head.0), Expr::source(embed.0))]);

        let none = plan(&header([])).unwrap_err();
        assert_eq!((none.missing.len(), none.dead_rules.len()), (1, 2));
        let unequal = plan(&header([("lm_head.weight", &[5, 2][..]), embed])).unwrap_err();
        assert!(unequal.inapplicable[0].problem.contains("cannot be equal"), "{unequal}");
        let claimed = map.clone().rename("lm_head.{p:*}", "head.{p:*}");
        assert_eq!(report(&claimed, &header([head, embed])).claimed_twice.len(), 1);
    }

    #[test]
    fn a_tied_quantised_tensor_brings_its_parts() {
        let header = Header { tensors: packed("lm_head").into_iter().take(3).collect(), ..Header::default() };
        let map = WeightMap::default().tied("lm_head.weight", "e.weight").rename("e.weight", "embed.weight");
        assert_eq!(paths(&map, &header), ["embed.biases", "embed.scales", "embed.weight"]);
        let fallback = WeightMap::identity().tied("lm_head.weight", "e.weight");
        assert_eq!(paths(&fallback, &header), ["e.biases", "e.scales", "e.weight"]);
    }

    #[test]
    fn parts_of_a_quantised_weight_follow_it() {
        let header = Header { tensors: packed("a.b").into_iter().collect(), ..Header::default() };
        let map = WeightMap::default().rename("a.b.weight", "x.weight").rename("a.b.bias", "y.bias");
        assert_eq!(paths(&map, &header), ["x.biases", "x.scales", "x.weight", "y.bias"]);
        let dropped = WeightMap::identity().drop("a.b.weight", "unused");
        assert_eq!(paths(&dropped, &header), ["a.b.bias"]);
        // An explicit rule on the scales wins, and a dense weight has no parts.
        let stated = WeightMap::default().rename("a.b.{p:*}", "x.{p:*}");
        assert_eq!(paths(&stated, &header).len(), 4);
        let mut dense = header.clone();
        dense.tensors.insert("a.b.weight".into(), info(Stored::F16, &[4, 64]));
        assert_eq!(report(&map, &dense).unexpected.len(), 2);

        let forward = stated.forward(&header).unwrap();
        let [found] = forward.packed().collect::<Vec<_>>()[..] else { panic!("not one") };
        assert_eq!((found.module, found.weight.shape[1], found.scales.shape[1]), ("x", 8, 2));
        assert!(found.biases.is_some());
    }

    #[test]
    fn the_identity_takes_what_is_left() {
        let header = header([("a.x", &[1][..]), ("b.c.x", &[1]), ("b.d.x", &[1])]);
        let map = WeightMap::identity().drop("a.x", "unused").rename("b.c.{p:*}", "c.{p:*}");
        assert_eq!(paths(&map, &header), ["b.d.x", "c.x"]);
        let inner = WeightMap::identity().include("b", "z", WeightMap::identity());
        assert_eq!(paths(&inner, &header), ["a.x", "z.c.x", "z.d.x"]);
        assert!(report(&WeightMap::identity(), &Header::default()).is_empty());
    }

    #[test]
    fn a_rule_that_may_match_nothing_says_so() {
        let header = header([("a", &[1][..])]);
        let map = || WeightMap::default().rename("a", "a").drop("b", "old");
        assert_eq!(report(&map(), &header).dead_rules.len(), 1);
        assert!(report(&map().optional(), &header).is_empty());
    }

    #[test]
    fn maps_follow_each_other() {
        let header = header([("conv.g", &[4, 1, 1][..]), ("conv.v", &[4, 3, 5]), ("rest", &[1])]);
        let codec = WeightMap::default()
            .weight_norm("conv.g", "conv.v", "conv.weight", 0)
            .then(WeightMap::identity().transpose("conv.weight", "conv.weight", [0, 2, 1]));
        let map = WeightMap::default().rename("rest", "other").include("", "codec", codec);
        let forward = map.forward(&header).unwrap();
        assert!(forward.coverage.is_empty(), "{}", forward.coverage);
        assert_eq!(forward.produced["codec.conv.weight"].info.shape, [4, 5, 3]);
        assert_eq!(forward.produced["other"].expr, Expr::source("rest"));

        let three = map.then(WeightMap::default().rename("codec.{p:*}", "c.{p:*}"));
        let coverage = report(&three, &header);
        assert_eq!(coverage.unexpected.len(), 1, "{coverage}");
        assert_eq!(coverage.unexpected[0].sources, ["rest"]);
        assert_eq!(coverage.unexpected[0].path.as_deref(), Some("other"));
    }

    #[test]
    fn a_malformed_map_is_an_error() {
        let error = WeightMap::default().rename("{", "a").forward(&Header::default()).unwrap_err();
        assert!(matches!(error, Error::Rule { .. }));
    }

    #[test]
    fn a_lying_header_allocates_no_more_than_a_few_members() {
        let header = header([("a", &[usize::MAX, 0][..]), ("e.18446744073709551615.w", &[1])]);
        let map = WeightMap::default().unstack("a", "a.{*n}").stack("e.{*n}.w", "e.w");
        let coverage = report(&map, &header);
        assert!(coverage.inapplicable[0].problem.contains("members"), "{coverage}");
        assert_eq!(coverage.gaps[0].absent, 0);
    }

    const NAMES: &str = "([abw]|weight|scales|biases|[0-2])(\\.([ab]|weight|scales|biases|[0-2])){0,2}";
    const PATTERNS: &str = "([ab*]|\\{i\\}|\\*\\*)(\\.([ab]|weight|[0-2]|\\{\\*e\\}|\\{p:\\*\\})){0,2}";

    proptest! {
        #[test]
        fn no_file_and_no_map_panics(
            tensors in prop::collection::btree_map(NAMES, (any::<bool>(), prop::collection::vec(0_usize..70, 0..4)), 0..16),
            verbs in prop::collection::vec((0..11, PATTERNS, PATTERNS, PATTERNS, 0_usize..3), 0..5),
            identity in any::<bool>(),
        ) {
            let dtype = |packed| if packed { Stored::U32 } else { Stored::F16 };
            let tensors = tensors.into_iter().map(|(name, (packed, shape))| (name, info(dtype(packed), &shape)));
            let header = Header { tensors: tensors.collect(), ..Header::default() };
            let mut map = if identity { WeightMap::identity() } else { WeightMap::default() };
            for (verb, a, b, c, n) in verbs {
                let before = map.clone();
                map = match verb {
                    0 => map.rename(&a, &b),
                    1 => map.split(&a, [b, c], n, [n, 32]),
                    2 => map.concat([a, b], &c, n),
                    3 => map.stack(&a, &b),
                    4 => map.unstack(&a, &b),
                    5 => map.transpose(&a, &b, [1, 0]),
                    6 => map.permute_rows(&a, &b, crate::weights::expr::RowOrder::InterleavedToHalf { heads: n }),
                    7 => map.weight_norm(&a, &b, &c, n),
                    8 => map.drop(&a, "unused"),
                    9 => map.tied(&a, &b),
                    _ => map.then(WeightMap::identity().batch_norm(&a, &b, &c, 0.0)),
                };
                // A malformed rule hides the others.
                if map.check().is_err() {
                    map = before;
                }
            }
            let forward = map.forward(&header).unwrap();
            if let Err(coverage) = forward.against(&BTreeMap::new()) {
                let text = format!("{coverage:#}");
                prop_assert!(!text.is_empty());
            }
            let paths = map.paths(&header, ["a", "b"]).unwrap();
            for name in header.tensors.keys() {
                paths.lookup(name);
                paths.lookup(name.split('.').next().unwrap());
            }
            if let Ok(inverse) = map.invert_like(&header) {
                inverse.forward(&header).unwrap();
            }
        }
    }
}
