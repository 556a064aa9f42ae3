//! Library code does not panic: clippy's lints for that are denied in every crate root of `framework` and `zoo`, an
//! exception has a reason, and assertions, which clippy lets pass, are found here.

use crate::{
    Finding, Result, Verdict,
    source::{Source, Workspace, line},
};
use quote::ToTokens;
use syn::{
    Attribute, Macro,
    visit::{self, Visit},
};

/// What a crate root denies outside tests.
const DENIED: &[&str] = &[
    "clippy::arithmetic_side_effects",
    "clippy::disallowed_methods",
    "clippy::expect_used",
    "clippy::indexing_slicing",
    "clippy::panic",
    "clippy::string_slice",
    "clippy::todo",
    "clippy::unimplemented",
    "clippy::unreachable",
    "clippy::unwrap_used",
];

/// Macros that panic and that clippy has no lint for.
const ASSERTIONS: &[&str] = &["assert", "assert_eq", "assert_ne", "debug_assert", "debug_assert_eq", "debug_assert_ne"];

/// The crates that the rule is for.
const STRICT: &[&str] = &["framework/src/", "zoo/src/"];

/// Applies the rule to the workspace.
pub fn check(workspace: &Workspace) -> Result<Verdict> {
    let mut verdict = Verdict::default();
    for source in workspace.sources(STRICT)? {
        if is_root(&source.path) {
            verdict.findings.extend(missing(&source));
        }
        let mut panics = Panics { file: &source.path, exceptions: 0, findings: Vec::new() };
        panics.visit_file(&source.syntax);
        verdict.findings.append(&mut panics.findings);
        if panics.exceptions > 0 {
            verdict.measured.push(format!("{}: {} exceptions with a reason", source.path, panics.exceptions));
        }
    }
    Ok(verdict)
}

/// `lib.rs`, `main.rs` and `bin/*.rs`.
fn is_root(path: &str) -> bool {
    let Some((_, rest)) = path.split_once("/src/") else {
        return false;
    };
    matches!(rest, "lib.rs" | "main.rs") || rest.strip_prefix("bin/").is_some_and(|name| !name.contains('/'))
}

fn missing(root: &Source) -> Option<Finding> {
    let denials: Vec<String> = root.syntax.attrs.iter().map(compact).filter(|text| denies(text)).collect();
    let absent: Vec<&str> =
        DENIED.iter().filter(|lint| !denials.iter().any(|text| text.contains(*lint))).copied().collect();
    let problem = || format!("add #![cfg_attr(not(test), deny({}))]", absent.join(", "));
    (!absent.is_empty()).then(|| Finding::new(&root.path, 0, problem()))
}

fn denies(attribute: &str) -> bool {
    ["#![cfg_attr(not(test),deny(", "#![deny(", "#![forbid("].iter().any(|start| attribute.starts_with(start))
}

fn compact(attribute: &Attribute) -> String {
    attribute.to_token_stream().to_string().replace([' ', '\n'], "")
}

struct Panics<'a> {
    file: &'a str,
    exceptions: usize,
    findings: Vec<Finding>,
}

impl<'ast> Visit<'ast> for Panics<'_> {
    fn visit_macro(&mut self, call: &'ast Macro) {
        if let Some(name) = call.path.get_ident()
            && ASSERTIONS.iter().any(|assertion| name == assertion)
        {
            let problem = format!("`{name}!` panics; return an error");
            self.findings.push(Finding::new(self.file, line(name.span()), problem));
        }
        visit::visit_macro(self, call);
    }

    /// What holds at compile time cannot panic later.
    fn visit_item_const(&mut self, _: &'ast syn::ItemConst) {}
    fn visit_expr_const(&mut self, _: &'ast syn::ExprConst) {}

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        let text = compact(attribute);
        if !["allow(", "expect("].iter().any(|opening| text.contains(opening))
            || !DENIED.iter().any(|lint| text.contains(lint))
        {
            return;
        }
        if text.contains("reason=\"") {
            self.exceptions += 1;
        } else {
            let problem = "an exception from the panic lints needs a reason";
            self.findings.push(Finding::new(self.file, line(attribute.pound_token.span), problem));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source::parse("zoo/src/lib.rs", text).unwrap()
    }

    #[test]
    fn a_root_denies_everything() {
        let all = DENIED.join(", ");
        assert_eq!(missing(&source(&format!("#![cfg_attr(not(test), deny({all}))]"))), None);
        assert_eq!(missing(&source(&format!("#![deny({all})]"))), None);
        assert!(missing(&source(&format!("#![warn({all})]"))).is_some());
        let less = missing(&source("#![deny(clippy::panic)]")).unwrap().problem;
        assert!(less.contains("clippy::unwrap_used") && !less.contains("clippy::panic"), "{less}");
    }

    #[test]
    fn roots_are_told_by_their_place() {
        for (path, root) in [
            ("zoo/src/lib.rs", true),
            ("zoo/src/main.rs", true),
            ("zoo/src/bin/x.rs", true),
            ("zoo/src/cli/main.rs", false),
            ("zoo/src/x.rs", false),
        ] {
            assert_eq!(is_root(path), root, "{path}");
        }
    }

    #[test]
    fn assertions_and_unreasoned_exceptions_are_found() {
        let text = "fn f() { assert!(true); }\nconst _: () = assert!(true);\nfn g() { const { assert!(true) } }\n\
                    #[allow(clippy::panic)] fn h() {}\n#[allow(clippy::panic, reason = \"r\")] fn i() {}\n\
                    #[allow(clippy::too_many_lines)] fn j() {}";
        let mut panics = Panics { file: "a.rs", exceptions: 0, findings: Vec::new() };
        panics.visit_file(&source(text).syntax);
        let lines: Vec<usize> = panics.findings.iter().map(|finding| finding.line).collect();
        assert_eq!((lines, panics.exceptions), (vec![1, 4], 1));
    }
}
