//! A clone stays small: the tree, and every case in `fixtures`.

use crate::{Finding, Result, Verdict, source::Workspace};
use std::collections::{BTreeMap, BTreeSet};

const MIB: u64 = 1 << 20;
/// What the tree may weigh, the weights that are shipped included.
const TREE: u64 = 26 * MIB;
/// Where the weights are that are shipped.
const WEIGHTS: &str = "pocket/weights/";
/// What they may weigh.
const SHIPPED: u64 = 16_000_000;
/// What a case, or any other file among the fixtures, may weigh.
const CASE: u64 = MIB;

/// Applies the rule to the workspace.
pub fn check(workspace: &Workspace) -> Result<Verdict> {
    let sized = workspace.files().iter().map(|file| Ok((file.as_str(), workspace.size(file)?)));
    Ok(judge(&sized.collect::<Result<Vec<_>>>()?))
}

fn judge(files: &[(&str, u64)]) -> Verdict {
    let sum = |folder: &str| files.iter().filter(|(file, _)| file.starts_with(folder)).map(|(_, size)| size).sum();
    let (total, shipped): (u64, u64) = (sum(""), sum(WEIGHTS));
    let cases: BTreeSet<&str> = files.iter().filter_map(|(file, _)| file.strip_suffix("/case.json")).collect();
    let mut weights: BTreeMap<&str, u64> = BTreeMap::new();
    for (file, size) in files.iter().filter(|(file, _)| file.starts_with("fixtures/")) {
        let ends = file.match_indices('/').map(|(at, _)| at);
        let case = ends.filter_map(|at| file.get(..at)).find(|folder| cases.contains(folder));
        *weights.entry(case.unwrap_or(file)).or_default() += size;
    }
    let heaviest = weights.iter().max_by_key(|(_, size)| **size);
    let mut measured = vec![format!("{:.1} MiB in {} files", mib(total), files.len())];
    measured.push(format!("{:.1} MiB of them weights", mib(shipped)));
    measured.extend(heaviest.map(|(place, size)| format!("heaviest fixture: {place}, {:.2} MiB", mib(*size))));
    let mut findings = Vec::new();
    for (place, size) in weights.iter().filter(|(_, size)| **size > CASE) {
        findings.push(Finding::new(place, 0, format!("{:.2} MiB; a case may weigh {} MiB", mib(*size), mib(CASE))));
    }
    if shipped > SHIPPED {
        findings.push(Finding::new(WEIGHTS, 0, format!("{shipped} bytes; what is shipped may have {SHIPPED}")));
    }
    if total >= TREE {
        findings.push(Finding::new(".", 0, format!("{:.1} MiB; the tree may weigh {} MiB", mib(total), mib(TREE))));
    }
    Verdict { measured, findings }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / MIB as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_is_weighed_as_a_whole() {
        let verdict = judge(&[
            ("fixtures/llama/base/case.json", 100),
            ("fixtures/llama/base/inputs/0/x.npy", MIB - 200),
            ("fixtures/llama/big/case.json", 100),
            ("fixtures/llama/big/weights.safetensors", MIB),
            ("fixtures/headers/h.json", 2 * MIB),
            ("zoo/src/big.rs", 2 * MIB),
        ]);
        let places: Vec<&str> = verdict.findings.iter().map(|finding| finding.file.as_str()).collect();
        assert_eq!(places, ["fixtures/headers/h.json", "fixtures/llama/big"]);
    }

    #[test]
    fn the_tree_is_weighed() {
        assert!(judge(&[("a", TREE - 1)]).findings.is_empty());
        assert_eq!(judge(&[("a", TREE)]).findings.len(), 1);
        let weights = "pocket/weights/vae/model.safetensors";
        assert!(judge(&[("a", TREE - SHIPPED - 1), (weights, SHIPPED)]).findings.is_empty());
        assert_eq!(judge(&[("a", TREE - SHIPPED), (weights, SHIPPED)]).findings.len(), 1);
        assert_eq!(judge(&[("a", 1), (weights, SHIPPED + 1)]).findings.len(), 1);
    }
}
