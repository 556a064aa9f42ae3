//! Near-duplicate functions: what could be removed if each were written once, and a ratchet on that share.
//!
//! Two functions of at least five lines are clones when the sets of their token shingles overlap by 0.7. Names count,
//! the values of literals do not. Clones of clones are one cluster, of which all but the longest member could be removed.
//! (By this measure a quarter of candle's models, one file a model, could be.)

use crate::{
    Finding, Result, Verdict,
    source::{Source, Workspace, leaves, line},
};
use quote::ToTokens;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
};
use syn::{
    Block, ImplItemFn, ItemFn, Signature, TraitItemFn,
    spanned::Spanned,
    visit::{self, Visit},
};

/// Shorter functions are not looked at.
const LINES: usize = 5;
/// Tokens in a shingle.
const SHINGLE: usize = 4;
/// From this overlap on, two functions are clones.
const JACCARD: f64 = 0.7;
/// Percent of the lines of functions that may be removable.
const LIMIT: f64 = 2.0;
/// Holds the share that was last accepted; it may not rise.
const BASELINE: &str = "lints/clones.txt";
/// Where clones are looked for.
const FOLDERS: &[&str] = &["framework/src/", "zoo/src/", "parity/src/", "benches/"];

/// Applies the rule to the workspace.
pub fn check(workspace: &Workspace) -> Result<Verdict> {
    let report = report(&workspace.sources(FOLDERS)?);
    let accepted: f64 = workspace.text(BASELINE)?.trim().parse().map_err(|error| format!("{BASELINE}: {error}"))?;
    let share = report.share();
    let mut verdict = Verdict { measured: report.to_lines(), findings: Vec::new() };
    if share > LIMIT {
        verdict.findings.push(Finding::new(BASELINE, 0, format!("{share:.2} % is removable, {LIMIT} % may be")));
    }
    if share > accepted {
        let problem = format!("the removable share rose from {accepted:.2} % to {share:.2} %; extract what is common");
        verdict.findings.push(Finding::new(BASELINE, 0, problem));
    }
    if share < accepted {
        let advice =
            format!("below the accepted {accepted:.2} %; lower it with: cargo run -p lints -- clones --accept");
        verdict.measured.push(advice);
    }
    Ok(verdict)
}

/// Lowers the accepted share to today's.
pub fn accept(workspace: &Workspace) -> Result<f64> {
    let share = report(&workspace.sources(FOLDERS)?).share();
    let accepted: Option<f64> = workspace.text(BASELINE).ok().and_then(|text| text.trim().parse().ok());
    if accepted.is_some_and(|accepted| share > accepted) {
        return Err(format!("the share rose to {share:.2} %; it is not accepted").into());
    }
    workspace.write(BASELINE, &format!("{share:.2}\n"))?;
    Ok(share)
}

struct Function {
    name: String,
    file: String,
    first: usize,
    lines: usize,
    shingles: BTreeSet<u64>,
}

struct Report {
    lines: usize,
    removable: usize,
    clusters: Vec<Vec<String>>,
}

impl Report {
    /// In percent, to two decimals as it is written down.
    fn share(&self) -> f64 {
        let share = 100.0 * self.removable as f64 / self.lines.max(1) as f64;
        (share * 100.0).round() / 100.0
    }

    fn to_lines(&self) -> Vec<String> {
        let share =
            format!("{} of {} lines of functions are removable: {:.2} %", self.removable, self.lines, self.share());
        let clusters = self.clusters.iter().map(|members| members.join(" ~ "));
        std::iter::once(share).chain(clusters).collect()
    }
}

fn report(sources: &[Source]) -> Report {
    let mut functions = Functions::default();
    for source in sources {
        functions.file.clone_from(&source.path);
        functions.visit_file(&source.syntax);
    }
    let all = functions.found;
    // Each function points at a member of its cluster; the one that points at itself stands for it.
    let mut cluster: Vec<usize> = (0..all.len()).collect();
    for (right, function) in all.iter().enumerate() {
        for (left, earlier) in all.iter().enumerate().take(right) {
            if overlap(&earlier.shingles, &function.shingles) >= JACCARD {
                let (a, b) = (root(&cluster, left), root(&cluster, right));
                cluster[b] = a;
            }
        }
    }
    let mut clusters: BTreeMap<usize, Vec<&Function>> = BTreeMap::new();
    for (index, function) in all.iter().enumerate() {
        clusters.entry(root(&cluster, index)).or_default().push(function);
    }
    clusters.retain(|_, members| members.len() > 1);
    let removable = clusters.values().map(|members| {
        let lines = members.iter().map(|function| function.lines);
        lines.clone().sum::<usize>() - lines.max().unwrap_or(0)
    });
    let describe = |function: &&Function| format!("{}:{} {}", function.file, function.first, function.name);
    Report {
        lines: all.iter().map(|function| function.lines).sum(),
        removable: removable.sum(),
        clusters: clusters.values().map(|members| members.iter().map(describe).collect()).collect(),
    }
}

fn root(cluster: &[usize], mut index: usize) -> usize {
    while cluster[index] != index {
        index = cluster[index];
    }
    index
}

/// The share that two sets have in common of what they have together.
fn overlap(a: &BTreeSet<u64>, b: &BTreeSet<u64>) -> f64 {
    let (small, large) = (a.len().min(b.len()), a.len().max(b.len()));
    if (small as f64) < JACCARD * large as f64 {
        return 0.0;
    }
    let common = a.intersection(b).count();
    common as f64 / (a.len() + b.len() - common).max(1) as f64
}

#[derive(Default)]
struct Functions {
    file: String,
    found: Vec<Function>,
}

impl Functions {
    fn add(&mut self, signature: &Signature, block: &Block) {
        let (first, last) = (line(signature.span()), block.span().end().line);
        let lines = last + 1 - first;
        if lines < LINES {
            return;
        }
        let mut shingles = BTreeSet::new();
        let mut window = VecDeque::new();
        let mut tokens = signature.to_token_stream();
        tokens.extend(block.to_token_stream());
        leaves(tokens, &mut |leaf, _| {
            let literal = leaf.starts_with(|c: char| c == '"' || c == '\'' || c.is_ascii_digit());
            window.push_back(if literal { "0".to_owned() } else { leaf.to_owned() });
            if window.len() > SHINGLE {
                window.pop_front();
            }
            if window.len() == SHINGLE {
                let mut hasher = DefaultHasher::new();
                window.hash(&mut hasher);
                shingles.insert(hasher.finish());
            }
        });
        let (name, file) = (signature.ident.to_string(), self.file.clone());
        self.found.push(Function { name, file, first, lines, shingles });
    }
}

/// Functions inside functions belong to the outer one.
impl<'ast> Visit<'ast> for Functions {
    fn visit_item_fn(&mut self, function: &'ast ItemFn) {
        self.add(&function.sig, &function.block);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast ImplItemFn) {
        self.add(&function.sig, &function.block);
    }

    fn visit_trait_item_fn(&mut self, function: &'ast TraitItemFn) {
        match &function.default {
            Some(block) => self.add(&function.sig, block),
            None => visit::visit_trait_item_fn(self, function),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &str = "(x: &Array, w: &Array) -> Result<Array> {\n let y = x.multiply(w)?;\n let z = y.mean(None)?;\n \
                        let r = z.add(scalar(1.0)?)?;\n y.divide(r.sqrt()?)\n}\n";

    fn measure(functions: &[String]) -> Report {
        report(&[Source::parse("framework/src/a.rs", &functions.concat()).unwrap()])
    }

    #[test]
    fn a_copy_under_another_name_is_removable() {
        let report = measure(&[format!("fn norm{BODY}"), format!("fn other{}", BODY.replace("1.0", "2.0"))]);
        assert_eq!((report.lines, report.removable), (12, 6));
        assert_eq!(report.share(), 50.0);
        assert_eq!(report.clusters, [["framework/src/a.rs:1 norm", "framework/src/a.rs:7 other"]]);
    }

    #[test]
    fn of_three_copies_two_are_removable() {
        let report = measure(&["a", "b", "c"].map(|name| format!("fn {name}{BODY}")));
        assert_eq!((report.removable, report.clusters.len()), (12, 1));
    }

    #[test]
    fn different_functions_and_short_ones_are_not() {
        let other =
            "fn f(names: &[String]) -> usize {\n let mut n = 0;\n for name in names {\n n += name.len();\n }\n n\n}\n";
        assert_eq!(measure(&[format!("fn norm{BODY}"), other.to_owned()]).removable, 0);
        assert_eq!(measure(&["a", "b"].map(|name| format!("fn {name}() -> u8 {{\n 1\n}}\n"))).lines, 0);
    }

    #[test]
    fn methods_count_and_tests_do_not() {
        let method = format!("struct A;\nimpl A {{\nfn a{BODY}}}\n");
        let tests = format!("#[cfg(test)] mod tests {{ fn b{BODY} }}\n");
        assert_eq!(measure(&[method.clone(), tests]).removable, 0);
        assert_eq!(measure(&[method, format!("trait T {{ fn b{BODY} }}")]).removable, 6);
    }
}
