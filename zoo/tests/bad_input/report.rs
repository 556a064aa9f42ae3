//! The messages as a document.

use crate::case::{Case, Shown};
use std::{collections::BTreeMap, env, fs, path::Path};

const HEAD: &str = "# What `zoo` says to bad input

Every input below was given to the program, and this is all that it said: to standard error, with exit status 1 unless
another is named; with `--json-events` as one object on standard output. Nothing else is printed, and nothing is
written. `DIR` is the folder of the files; each of them is as it should be but for what the heading says.

A test makes these inputs and holds this page against the answers; `UPDATE=1 cargo test -p zoo --test bad_input` writes
it anew.
";

/// The page.
pub fn render(sections: &[(&str, Vec<(Case, Shown)>)]) -> String {
    let mut page = HEAD.to_owned() + "\n| command | kinds of bad input |\n|---|---|\n";
    for (command, kinds) in counts(sections.iter().flat_map(|(_, cases)| cases)) {
        page += &format!("| `zoo {command}` | {kinds} |\n");
    }
    for (title, cases) in sections {
        page += &format!("\n## {title}\n");
        for (Case { name, command, .. }, Shown { status, output, errors }) in cases {
            let status = status.filter(|status| *status != 1).map(|status| format!(" (exit status {status})"));
            let status = status.unwrap_or_default();
            page += &format!("\n### {name}{status}\n\n```console\n$ {command}\n{output}{errors}```\n");
        }
    }
    page
}

/// How many cases each command has; what comes after `zoo` and is an option or no command of ours counts as such.
fn counts<'a>(cases: impl Iterator<Item = &'a (Case, Shown)>) -> BTreeMap<&'a str, usize> {
    let mut counts = BTreeMap::new();
    for (Case { command, .. }, _) in cases {
        let after = command.split_whitespace().skip_while(|word| *word != "zoo").nth(1);
        *counts.entry(after.unwrap_or_default()).or_default() += 1;
    }
    counts
}

/// Holds the page against the one in the tree, or replaces that.
pub fn compare(page: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/errors.md");
    if env::var_os("UPDATE").is_some() {
        return fs::write(&path, page).unwrap();
    }
    let documented = fs::read_to_string(&path).unwrap_or_default();
    let other = |page: &str, than: &str| {
        let lines = page.lines().filter(|line| !than.contains(line));
        lines.map(|line| format!("  {line}\n")).collect::<String>()
    };
    assert!(
        page == documented,
        "docs/errors.md differs; look at it after `UPDATE=1 cargo test -p zoo --test bad_input`\nis:\n{}was:\n{}",
        other(page, &documented),
        other(&documented, page)
    );
}
