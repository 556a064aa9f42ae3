//! Everything that keeps a checkpoint from fitting a model, in one report.

use std::fmt;

use crate::weights::header::{Info, Stored};
use crate::weights::resolve::{Class, Wanted};

/// All that is wrong, together. Empty when the weights fit exactly.
///
/// Displayed as one section for each kind, with the first 24 entries of each; `{:#}` shows all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Coverage {
    /// Parameters that no rule produces.
    pub missing: Vec<Missing>,
    /// Tensors that no rule claims, and results that are no parameter.
    pub unexpected: Vec<Unexpected>,
    /// Tensors claimed, or parameters produced, by more than one rule.
    pub claimed_twice: Vec<ClaimedTwice>,
    /// Rules that match nothing and are not optional.
    pub dead_rules: Vec<DeadRule>,
    /// Parameters produced with another shape than the model's.
    pub wrong_shape: Vec<WrongShape>,
    /// Parameters produced with another kind of element than the model's.
    pub wrong_class: Vec<WrongClass>,
    /// Rules of several sources of which some are not in the file.
    pub incomplete: Vec<Incomplete>,
    /// Stacks whose members are not numbered 0, 1, 2, ….
    pub gaps: Vec<Gap>,
    /// Rules whose operation cannot be done to the tensors that they match.
    pub inapplicable: Vec<Inapplicable>,
}

/// Entries of one kind that `Display` shows, and for which the nearest name is looked up.
pub const SHOWN: usize = 24;

/// A parameter that no rule produces.
#[derive(Clone, Debug, PartialEq)]
pub struct Missing {
    /// Its path.
    pub path: String,
    /// What the model holds there.
    pub wanted: Wanted,
    /// The most similar name in the file, unclaimed ones first.
    pub nearest: Option<String>,
}

/// A tensor that ends nowhere.
#[derive(Clone, Debug, PartialEq)]
pub struct Unexpected {
    /// Its names in the file.
    pub sources: Vec<String>,
    /// The path that a rule gave it, which the model does not have.
    pub path: Option<String>,
    /// Shape and type, in the file or as produced.
    pub found: Info,
    /// The most similar parameter of the model.
    pub nearest: Option<String>,
}

/// A name with more than one rule.
#[derive(Clone, Debug, PartialEq)]
pub struct ClaimedTwice {
    /// A name in the file, or a path of the model.
    pub name: String,
    /// Which of the two it is.
    pub side: Side,
    /// The rules.
    pub rules: Vec<String>,
}

/// Where a name belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The checkpoint.
    Source,
    /// Our module tree.
    Target,
}

/// A rule that matches nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct DeadRule {
    /// The rule.
    pub rule: String,
}

/// A parameter of the wrong shape.
#[derive(Clone, Debug, PartialEq)]
pub struct WrongShape {
    /// Its path.
    pub path: String,
    /// The tensors that it is made from.
    pub sources: Vec<String>,
    /// The model's shape.
    pub expected: Vec<usize>,
    /// What the rule gives.
    pub found: Info,
    /// The rule.
    pub rule: String,
}

/// A parameter of the wrong kind of element.
#[derive(Clone, Debug, PartialEq)]
pub struct WrongClass {
    /// Its path.
    pub path: String,
    /// The tensors that it is made from.
    pub sources: Vec<String>,
    /// The model's.
    pub expected: Class,
    /// The file's.
    pub found: Stored,
    /// The rule.
    pub rule: String,
}

/// A rule of which some sources are there and some are not.
#[derive(Clone, Debug, PartialEq)]
pub struct Incomplete {
    /// The rule.
    pub rule: String,
    /// Sources in the file.
    pub found: Vec<String>,
    /// Sources that are not.
    pub missing: Vec<String>,
}

/// A stack with a hole.
#[derive(Clone, Debug, PartialEq)]
pub struct Gap {
    /// The rule.
    pub rule: String,
    /// The parameter that it would give.
    pub path: String,
    /// How many members there are.
    pub count: usize,
    /// The first number that is not there.
    pub absent: usize,
}

/// A rule that cannot be applied.
#[derive(Clone, Debug, PartialEq)]
pub struct Inapplicable {
    /// The rule.
    pub rule: String,
    /// The tensors that it matches.
    pub sources: Vec<String>,
    /// Why not.
    pub problem: String,
}

impl Coverage {
    /// Number of entries; 0 when the weights fit. The layout with the smallest count is the likeliest.
    pub fn count(&self) -> usize {
        self.missing.len()
            + self.unexpected.len()
            + self.claimed_twice.len()
            + self.dead_rules.len()
            + self.wrong_shape.len()
            + self.wrong_class.len()
            + self.incomplete.len()
            + self.gaps.len()
            + self.inapplicable.len()
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.count() == 0
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let all = f.alternate();
        let mut report = Report { f, all, first: true };
        report.section("missing: no rule gives", &self.missing, |x| {
            let near = near(&x.nearest, "in the file");
            format!("{}  {}{near}", x.path, x.wanted)
        })?;
        report.section("unexpected: not in the model", &self.unexpected, |x| {
            let near = near(&x.nearest, "in the model");
            let path = x.path.as_ref().map(|path| format!(" -> {path}"));
            let path = path.unwrap_or_default();
            format!("{}{path}  {}{near}", some(&x.sources), x.found)
        })?;
        report.section("claimed twice", &self.claimed_twice, |x| {
            let side = match x.side {
                Side::Source => "tensor",
                Side::Target => "parameter",
            };
            format!("{side} {}  by `{}`", x.name, x.rules.join("` and `"))
        })?;
        report.section("dead rules: nothing matches", &self.dead_rules, |x| format!("`{}`", x.rule))?;
        report.section("wrong shape", &self.wrong_shape, |x| {
            format!(
                "{}  expected {:?}, found {} from {} by `{}`",
                x.path,
                x.expected,
                x.found,
                some(&x.sources),
                x.rule
            )
        })?;
        report.section("wrong kind of element", &self.wrong_class, |x| {
            format!("{}  expected {}, found {} from {} by `{}`", x.path, x.expected, x.found, some(&x.sources), x.rule)
        })?;
        report.section("incomplete: some sources are absent", &self.incomplete, |x| {
            format!("`{}`  found {}, not {}", x.rule, some(&x.found), some(&x.missing))
        })?;
        report.section("gaps: a stack is not numbered from 0", &self.gaps, |x| {
            format!("{}  {} members without number {} by `{}`", x.path, x.count, x.absent, x.rule)
        })?;
        report.section("inapplicable rules", &self.inapplicable, |x| {
            format!("`{}` to {}: {}", x.rule, some(&x.sources), x.problem)
        })
    }
}

struct Report<'a, 'b> {
    f: &'a mut fmt::Formatter<'b>,
    all: bool,
    first: bool,
}

impl Report<'_, '_> {
    fn section<T>(&mut self, title: &str, entries: &[T], line: impl Fn(&T) -> String) -> fmt::Result {
        if entries.is_empty() {
            return Ok(());
        }
        if !self.first {
            self.f.write_str("\n")?;
        }
        self.first = false;
        write!(self.f, "{title} ({})", entries.len())?;
        let shown = if self.all { entries.len() } else { SHOWN };
        for entry in entries.iter().take(shown) {
            write!(self.f, "\n  {}", line(entry))?;
        }
        match entries.len().saturating_sub(shown) {
            0 => Ok(()),
            more => write!(self.f, "\n  … and {more} more"),
        }
    }
}

fn near(nearest: &Option<String>, place: &str) -> String {
    nearest.as_ref().map(|name| format!("  (nearest {place}: {name})")).unwrap_or_default()
}

/// A few names of many.
fn some(names: &[String]) -> String {
    const FEW: usize = 3;
    let few: Vec<&str> = names.iter().take(FEW).map(String::as_str).collect();
    match names.len().saturating_sub(FEW) {
        0 => few.join(", "),
        more => format!("{}, … {more} more", few.join(", ")),
    }
}

/// The name most similar to `name`, if any is similar enough to be meant.
pub(crate) fn nearest<'a>(name: &str, among: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    /// Longer names are not compared: the comparison takes time in the product of the lengths.
    const LONGEST: usize = 256;
    /// How many candidates are compared exactly.
    const CLOSE: usize = 24;
    const LEAST: f64 = 0.4;
    if name.len() > LONGEST {
        return None;
    }
    let letters = histogram(name);
    let mut close: Vec<(u32, &str)> = among
        .into_iter()
        .filter(|other| other.len() <= LONGEST)
        .map(|other| (distance(&letters, &histogram(other)), other))
        .collect();
    if close.len() > CLOSE {
        close.select_nth_unstable(CLOSE);
        close.truncate(CLOSE);
    }
    close
        .into_iter()
        .map(|(_, other)| (strsim::normalized_levenshtein(name, other), other))
        .filter(|(similarity, _)| *similarity >= LEAST)
        .max_by(|a, b| a.0.total_cmp(&b.0).then_with(|| b.1.cmp(a.1)))
        .map(|(_, other)| other)
}

/// How often each byte occurs, modulo the size of the table: twice the edit distance is at least the difference of
/// two.
fn histogram(name: &str) -> [u16; 64] {
    let mut counts = [0; 64];
    for byte in name.bytes() {
        if let Some(count) = counts.get_mut(usize::from(byte) % 64) {
            *count += 1;
        }
    }
    counts
}

fn distance(a: &[u16; 64], b: &[u16; 64]) -> u32 {
    let pairs = a.iter().zip(b);
    pairs.map(|(a, b)| u32::from(a.abs_diff(*b))).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_reads_as_sections() {
        let names = |n: usize| (0..n).map(|i| format!("e.{i}.w")).collect::<Vec<_>>();
        let info = Info { dtype: Stored::F32, shape: vec![4, 2] };
        let report = Coverage {
            missing: vec![Missing {
                path: "layers.0.attn.q.weight".into(),
                wanted: Wanted { shape: vec![4, 2], class: Class::Float },
                nearest: Some("layers.0.attn.query.weight".into()),
            }],
            unexpected: vec![Unexpected {
                sources: names(1),
                path: Some("e.w".into()),
                found: info.clone(),
                nearest: None,
            }],
            claimed_twice: vec![ClaimedTwice { name: "a".into(), side: Side::Source, rules: names(2) }],
            dead_rules: vec![DeadRule { rule: "drop a".into() }],
            wrong_shape: vec![WrongShape {
                path: "b".into(),
                sources: names(5),
                expected: vec![2, 4],
                found: info,
                rule: "stack".into(),
            }],
            wrong_class: vec![WrongClass {
                path: "c".into(),
                sources: names(2),
                expected: Class::Integer,
                found: Stored::F32,
                rule: "rename".into(),
            }],
            incomplete: vec![Incomplete { rule: "concat".into(), found: names(1), missing: names(2) }],
            gaps: vec![Gap { rule: "stack".into(), path: "d".into(), count: 2, absent: 1 }],
            inapplicable: vec![Inapplicable { rule: "split".into(), sources: names(1), problem: "no".into() }],
        };
        assert_eq!(report.count(), 9);
        let text = report.to_string();
        for line in [
            "missing: no rule gives (1)\n  layers.0.attn.q.weight  float [4, 2]  (nearest in the file: layers.0.attn.query.weight)",
            "  e.0.w -> e.w  F32",
            "  tensor a  by `e.0.w` and `e.1.w`",
            "  `drop a`",
            "  b  expected [2, 4], found F32",
            "from e.0.w, e.1.w, e.2.w, … 2 more by `stack`",
            "  c  expected integer, found F32 from e.0.w, e.1.w by `rename`",
            "  `concat`  found e.0.w, not e.0.w, e.1.w",
            "  d  2 members without number 1 by `stack`",
            "  `split` to e.0.w: no",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        assert_eq!(text.lines().count(), 18);
    }

    #[test]
    fn a_long_section_is_cut_unless_all_is_asked_for() {
        let dead = |n| DeadRule { rule: format!("drop {n}") };
        let report = Coverage { dead_rules: (0..100).map(dead).collect(), ..Coverage::default() };
        assert!(report.to_string().ends_with("  … and 76 more"));
        assert_eq!(format!("{report:#}").lines().count(), 101);
    }

    #[test]
    fn the_nearest_name_is_the_likeliest() {
        let names = ["layers.0.attn.q.weight", "layers.0.attn.k.weight", "layers.10.ffn.up.weight", "norm"];
        assert_eq!(nearest("layers.0.attn.qq.weight", names), Some(names[0]));
        assert_eq!(nearest("layers.10.ffn.up_proj.weight", names), Some(names[2]));
        assert_eq!(nearest("xyz", names), None);
        assert_eq!(nearest("a", []), None);
        let long = "a".repeat(100_000);
        assert_eq!(nearest(&long, [long.as_str()]), None);
        let many: Vec<String> = (0..3000).map(|n| format!("model.layers.{n}.mlp.up.weight")).collect();
        assert_eq!(nearest("layers.2718.mlp.up.weight", many.iter().map(String::as_str)), Some(many[2718].as_str()));
    }
}
