//! Every rule holds for this workspace.

use lints::{Rule, source::Workspace};

fn holds(rule: Rule) {
    let verdict = rule(&Workspace::here().unwrap()).unwrap();
    let findings: Vec<String> = verdict.findings.iter().map(ToString::to_string).collect();
    assert!(findings.is_empty(), "\n{}", findings.join("\n"));
}

macro_rules! rules {
    ($($name:ident),*) => {
        $(#[test]
        fn $name() {
            holds(lints::$name::check);
        })*

        #[test]
        fn no_rule_is_left_out() {
            assert_eq!([$(stringify!($name)),*].len(), lints::RULES.len());
        }
    };
}

rules!(blocks, comparators, strictness, clones, cost, sizes, paths);
