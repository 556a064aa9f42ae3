//! The measures of a comparison are defined once, in `parity`: tests with their own cosine drift apart.

use crate::{
    Finding, Result, Verdict,
    source::{Workspace, line},
};
use syn::{
    Signature,
    visit::{self, Visit},
};

/// Names that measures go by.
const MEASURES: &[&str] = &["cosine", "max_abs", "max_abs_diff", "peak_rel", "rel_l2", "rel_peak", "relative_l2"];

/// Where they are defined.
const HOME: &str = "parity/src/";

/// Applies the rule to the workspace, tests included.
pub fn check(workspace: &Workspace) -> Result<Verdict> {
    let mut verdict = Verdict::default();
    for path in workspace.files().iter().filter(|path| path.ends_with(".rs") && !path.starts_with(HOME)) {
        let syntax = syn::parse_file(&workspace.text(path)?).map_err(|error| format!("{path}: {error}"))?;
        Measures { file: path, findings: &mut verdict.findings }.visit_file(&syntax);
    }
    Ok(verdict)
}

struct Measures<'a> {
    file: &'a str,
    findings: &'a mut Vec<Finding>,
}

impl<'ast> Visit<'ast> for Measures<'_> {
    fn visit_signature(&mut self, signature: &'ast Signature) {
        let name = signature.ident.to_string();
        if MEASURES.contains(&name.as_str()) {
            let problem = format!("`fn {name}`: use the measures of `parity::compare`");
            self.findings.push(Finding::new(self.file, line(signature.ident.span()), problem));
        }
        visit::visit_signature(self, signature);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measure_in_a_test_is_found() {
        let mut findings = Vec::new();
        let syntax = syn::parse_file("#[cfg(test)] mod tests {\n fn cosine() {} fn close() {} }").unwrap();
        Measures { file: "a.rs", findings: &mut findings }.visit_file(&syntax);
        assert_eq!(findings, [Finding::new("a.rs", 2, "`fn cosine`: use the measures of `parity::compare`")]);
    }
}
