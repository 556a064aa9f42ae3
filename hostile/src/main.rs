//! `hostile --inputs 1000000`: so many damaged files over all targets, and a table of what became of them.

use clap::Parser;
use hostile::{Campaign, TARGETS, Tally, Target, mutate::mutate, target};
use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

/// Gives damaged files to every reader, and counts what becomes of them; exits with 1 if any was not answered as it should be.
#[derive(Parser)]
struct Arguments {
    /// How many inputs, over all targets.
    #[arg(long, default_value_t = 10_000)]
    inputs: u64,
    /// Only this target.
    #[arg(long, value_parser = of_name)]
    target: Option<&'static Target>,
    /// The number of the first input; each number is the same input in every run.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Write the input `--from` to standard output, and read nothing.
    #[arg(long, requires = "target")]
    print: bool,
    #[arg(long, hide = true, requires_all = ["record", "target"])]
    work: bool,
    #[arg(long, hide = true)]
    record: Option<PathBuf>,
}

fn of_name(name: &str) -> Result<&'static Target, String> {
    let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
    target(name).ok_or_else(|| format!("one of {}", names.join(", ")))
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Returns how many inputs were not answered as they should be.
fn run(arguments: &Arguments) -> io::Result<u64> {
    let numbers = |inputs| arguments.from..arguments.from + inputs;
    let targets: Vec<&'static Target> = match arguments.target {
        Some(target) => vec![target],
        None => TARGETS.iter().collect(),
    };
    if let (Some(target), true) = (arguments.target, arguments.print) {
        io::stdout().write_all(&mutate(&target.seeds()?, target.kind, arguments.from))?;
        return Ok(0);
    }
    if let (Some(target), Some(record), true) = (arguments.target, &arguments.record, arguments.work) {
        Campaign { target, numbers: numbers(arguments.inputs) }.work(record)?;
        return Ok(0);
    }
    let mut total = Tally::default();
    let mut rows = Vec::new();
    let count = targets.len() as u64;
    for (position, target) in (0..).zip(targets) {
        // The first ones take what does not divide evenly.
        let share = arguments.inputs / count + u64::from(position < arguments.inputs % count);
        let tally = Campaign { target, numbers: numbers(share) }.run()?;
        eprintln!("{}: {} inputs, {} faults", target.name, tally.inputs(), tally.faults());
        rows.push((target.name, tally));
        total += tally;
    }
    rows.push(("all", total));
    println!("\n| format | inputs | accepted | refused | panics | aborts | too much memory | peak, MB |");
    println!("|---|---|---|---|---|---|---|---|");
    for (name, Tally { accepted, refused, panics, aborts, greedy, peak }) in rows {
        let inputs = accepted + refused + panics + aborts;
        let peak = peak as f64 / 1e6;
        println!("| {name} | {inputs} | {accepted} | {refused} | {panics} | {aborts} | {greedy} | {peak:.1} |");
    }
    Ok(total.faults())
}
