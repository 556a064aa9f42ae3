//! Nothing in the tree names a place on somebody's machine or somebody's package registry.

use crate::{Finding, Result, Verdict, source::Workspace};

/// Beginnings of paths that exist on one machine only. They count where a path can begin.
const ROOTS: &[&str] = &[
    concat!("/", "home/"),
    concat!("/", "root/"),
    concat!("/", "tmp/"),
    concat!("/", "work/"),
    concat!("/", "Users/"),
];

/// What the configuration of a private registry or mirror looks like.
const REGISTRIES: &[&str] = &[
    concat!("arti", "factory"),
    concat!("index-", "url"),
    concat!("INDEX_", "URL"),
    concat!("replace", "-with"),
    concat!("npm_config_", "registry"),
];

/// Where a lock file's packages come from.
const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Applies the rule to the workspace, whatever kind a file is of.
pub fn check(workspace: &Workspace) -> Result<Verdict> {
    let mut verdict = Verdict::default();
    for file in workspace.files() {
        verdict.findings.extend(judge(file, &workspace.bytes(file)?));
    }
    Ok(verdict)
}

fn judge(file: &str, content: &[u8]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let begins = |at: usize| {
        let before = at.checked_sub(1).and_then(|before| content.get(before)).copied().unwrap_or(b' ');
        !(before.is_ascii_alphanumeric() || b"_-.~$}/*)".contains(&before))
    };
    let mut found = |at: usize, what: &str| {
        let line = content.iter().take(at).filter(|&&byte| byte == b'\n').count() + 1;
        findings.push(Finding::new(file, line, format!("`{what}` belongs to a machine, not to the tree")));
    };
    for root in ROOTS {
        places(content, root.as_bytes()).filter(|at| begins(*at)).for_each(|at| found(at, root));
    }
    for registry in REGISTRIES {
        places(content, registry.as_bytes()).for_each(|at| found(at, registry));
    }
    for at in places(content, concat!("registry", "+").as_bytes()) {
        if !content.get(at..).is_some_and(|rest| rest.starts_with(CRATES_IO.as_bytes())) {
            found(at, "a registry other than crates.io");
        }
    }
    findings.sort();
    findings
}

fn places<'a>(content: &'a [u8], wanted: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    let mut from = 0;
    std::iter::from_fn(move || {
        let rest = content.get(from..)?;
        let at = from + rest.windows(wanted.len()).position(|window| window == wanted)?;
        from = at + wanted.len();
        Some(at)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<usize> {
        judge("a", text.as_bytes()).iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn places_of_a_machine_are_found_where_a_path_begins() {
        let home = ROOTS[0];
        assert_eq!(lines(&format!("\nx = \"{home}me\"\n({home}me)\n")), [2, 3]);
        assert_eq!(lines(&format!("https://example.org{home}x, src{home}x, ${{HOME}}{home}x")), [0; 0]);
        assert_eq!(lines("a/workspace/b framework/src"), [0; 0]);
    }

    #[test]
    fn only_the_public_registry_is_named() {
        assert_eq!(lines(&format!("source = \"{CRATES_IO}\"")), [0; 0]);
        assert_eq!(lines(&format!("source = \"{}+https://example.org/index\"", "registry")), [1]);
        assert_eq!(lines(&format!("pip --{} https://example.org", REGISTRIES[1])), [1]);
    }
}
