//! `lints` prints every rule's verdict; `lints RULE` that of one; `lints clones --accept` lowers the ratchet.

use lints::{RULES, Result, clones, source::Workspace};
use std::{env, process::ExitCode};

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match run(&arguments.iter().map(String::as_str).collect::<Vec<_>>()) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}

/// Returns how many places break a rule.
fn run(arguments: &[&str]) -> Result<usize> {
    let workspace = Workspace::here()?;
    let wanted = match arguments {
        [] => "",
        ["clones", "--accept"] => {
            println!("{:.2} % is accepted", clones::accept(&workspace)?);
            return Ok(0);
        }
        [name] if RULES.iter().any(|(rule, _)| title(rule) == *name) => name,
        _ => {
            let names: Vec<&str> = RULES.iter().map(|(rule, _)| title(rule)).collect();
            return Err(format!("usage: lints [{}] | clones --accept", names.join(" | ")).into());
        }
    };
    let mut broken = 0;
    for (rule, check) in RULES.iter().filter(|(rule, _)| wanted.is_empty() || title(rule) == wanted) {
        let verdict = check(&workspace)?;
        let mark = if verdict.findings.is_empty() { "ok  " } else { "FAIL" };
        println!("{mark} {rule}");
        verdict.measured.iter().for_each(|line| println!("     {line}"));
        verdict.findings.iter().for_each(|finding| println!("  -> {finding}"));
        broken += verdict.findings.len();
    }
    Ok(broken)
}

fn title(rule: &str) -> &str {
    rule.split(':').next().unwrap_or(rule)
}
