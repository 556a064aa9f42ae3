//! `parity check DIR…`: holds models against the reference's recorded cases, and prints where they part.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use parity::suite::{Outcome, Summary};

/// Layer-by-layer comparison with reference implementations.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run every case in or below the directories, and exit with 1 if any fails.
    Check {
        /// Directories that hold a case.json, themselves or below.
        #[arg(required = true)]
        dirs: Vec<PathBuf>,
        /// Print the results as JSON.
        #[arg(long)]
        json: bool,
        /// Exit with 1 if a case is skipped, too.
        #[arg(long)]
        no_skips: bool,
    },
}

fn main() -> ExitCode {
    let Command::Check { dirs, json, no_skips } = Arguments::parse().command;
    let summary = match parity::models().run(&dirs) {
        Ok(summary) => summary,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    if json {
        match serde_json::to_string_pretty(&summary) {
            Ok(text) => println!("{text}"),
            Err(error) => eprintln!("{error}"),
        }
    } else {
        print(&summary);
    }
    let [_, failed, skipped] = summary.counts();
    match failed > 0 || (no_skips && skipped > 0) {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    }
}

fn print(summary: &Summary) {
    for checked in &summary.cases {
        match &checked.outcome {
            Outcome::Passed(report) | Outcome::Failed(report) => println!("{report}"),
            Outcome::Broken(why) => println!("FAIL {}: {why}\n", checked.case),
            Outcome::Skipped(why) => println!("SKIP {}: {why}\n", checked.case),
        }
    }
    let [passed, failed, skipped] = summary.counts();
    println!("{passed} passed, {failed} failed, {skipped} skipped");
}
