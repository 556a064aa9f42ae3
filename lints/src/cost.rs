//! What a family costs: its hand-written lines, without comments, blank lines and tests.

use crate::{
    Finding, Result, Verdict,
    source::{Source, Workspace, leaves},
};
use quote::ToTokens;
use std::collections::BTreeSet;
use syn::Item;

/// What the median family may cost.
const MEDIAN: usize = 150;
/// Holds the median that was last accepted where it is above [`MEDIAN`]; it may not rise.
const BASELINE: &str = "lints/cost.txt";
/// Where families live.
const FOLDER: &str = "zoo/src/";

/// Applies the rule to the workspace.
pub fn check(workspace: &Workspace) -> Result<Verdict> {
    let costs = costs(&workspace.sources(&[FOLDER])?);
    let median = median(costs.iter().map(|(_, lines)| *lines).collect());
    let mut measured: Vec<String> = costs.iter().map(|(file, lines)| format!("{lines:5}  {file}")).collect();
    measured.push(format!("{median:5}  median of {} families; {MEDIAN} is the aim", costs.len()));
    let accepted: usize = workspace.text(BASELINE)?.trim().parse().map_err(|error| format!("{BASELINE}: {error}"))?;
    let mut findings = Vec::new();
    if median > accepted.max(MEDIAN) {
        let problem = format!("the median family has {median} hand-written lines, {accepted} were accepted");
        findings.push(Finding::new(FOLDER, 0, problem));
    }
    Ok(Verdict { measured, findings })
}

/// The lines of each family, dearest first: of the file that implements `Family`, and of the folder of its name.
fn costs(sources: &[Source]) -> Vec<(String, usize)> {
    let families = sources.iter().filter(|source| source.syntax.items.iter().any(is_family));
    let mut costs: Vec<(String, usize)> = families
        .map(|family| {
            let stem = family.path.strip_suffix("mod.rs").or(family.path.strip_suffix(".rs")).unwrap_or(&family.path);
            let folder = format!("{}/", stem.trim_end_matches('/'));
            let own = sources.iter().filter(|source| source.path == family.path || source.path.starts_with(&folder));
            (family.path.clone(), own.map(lines).sum())
        })
        .collect();
    costs.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    costs
}

fn is_family(item: &Item) -> bool {
    let Item::Impl(block) = item else {
        return false;
    };
    // What implements it for all of a kind is no family.
    if !block.generics.params.is_empty() {
        return false;
    }
    let name = block.trait_.as_ref().and_then(|(_, path, _)| path.segments.last());
    name.is_some_and(|segment| segment.ident == "Family")
}

fn lines(source: &Source) -> usize {
    let mut lines = BTreeSet::new();
    leaves(source.syntax.to_token_stream(), &mut |_, span| lines.extend(span.start().line..=span.end().line));
    lines.len()
}

fn median(mut values: Vec<usize>) -> usize {
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hand_written_lines_count() {
        let text = "//! Doc.\n\nuse a::B;\n\n/// Doc.\npub struct X;\n// why\nimpl Family for X {\n    fn f() {\n    }\n}\n\n\
                    #[cfg(test)]\nmod tests {\n    fn t() {}\n}\n";
        let family = Source::parse("zoo/src/x.rs", text).unwrap();
        let part = Source::parse("zoo/src/x/part.rs", "fn a() {}\n").unwrap();
        let other = Source::parse("zoo/src/xy.rs", "impl<D: Kind> Family for D {}\n").unwrap();
        assert_eq!(costs(&[family, part, other]), [("zoo/src/x.rs".to_owned(), 7)]);
    }

    #[test]
    fn medians() {
        assert_eq!((median(vec![]), median(vec![3]), median(vec![9, 1, 5])), (0, 3, 5));
    }
}
