//! A short run over every target.

use hostile::{Bench, TARGETS, run};

/// Inputs for each target: seconds without optimisation.
const INPUTS: u64 = 60;

#[test]
fn valid_files_are_accepted() {
    let bench = Bench::new().unwrap();
    for target in TARGETS {
        let seeds = target.seeds().unwrap();
        // Of cases only the first is that of the folder that it is read in.
        let own = if target.name == "case" { 1 } else { seeds.len() };
        assert!(own > 0, "{} has no seeds", target.name);
        for (n, seed) in seeds[..own].iter().enumerate() {
            assert!(target.reads(&bench, seed), "{} {n}", target.name);
        }
    }
}

#[test]
fn whatever_is_read_is_answered_within_bounds() {
    let bench = Bench::new().unwrap();
    let mut broken = Vec::new();
    for target in TARGETS {
        let mut faults = 0;
        let tally = run(target, &bench, 0..INPUTS, &mut |number, tally| {
            if tally.faults() > faults {
                faults = tally.faults();
                broken.push(format!("{} {}", target.name, number - 1));
            }
            Ok(())
        });
        let tally = tally.unwrap();
        assert!(tally.refused > 0 && tally.inputs() == INPUTS, "{}: {tally:?}", target.name);
    }
    assert!(broken.is_empty(), "{broken:?}");
}
