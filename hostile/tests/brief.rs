//! A short run over every target.

use hostile::{Bench, SLACK, TARGETS, peak_of, run, target};

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

/// Each makes what the engine alone would let grow without end.
#[test]
fn templates_that_grow_stay_within_bounds() {
    let bench = Bench::new().unwrap();
    let template = target("template").unwrap();
    let word = "{% set w = 'word' * 400000 %}";
    let joined = format!("{word}{{{{ w{} }}}}", " ~ w".repeat(400));
    let listed = format!("{word}{{{{ [w{}] }}}}", ", w | upper".repeat(400));
    let stored = format!(
        "{{% set n = namespace(l=[]) %}}{{% for i in range(5000) %}}{{% set n.l = n.l + ['{}' ~ i] %}}{{% endfor %}}",
        "a".repeat(4000)
    );
    let within = format!("{}{{{{ t }}}}{}", "{% with t = t ~ t ~ 'a' %}".repeat(60), "{% endwith %}".repeat(60));
    let long =
        format!("{{% set t %}}{{% for i in range(20000) %}}{}{{% endfor %}}{{% endset %}}", "a word ".repeat(3000));
    let nested = "{% set t = 'word' * 1000 %}".to_owned() + &"{% set t %}{{ t }}{{ t }}{% endset %}".repeat(40);
    for source in [
        "{{ 'a' * 100000000 }}",
        "{{ [('a' * 8000000)] * 8000000 }}",
        "{% macro f(x) %}{{ f(x ~ x) }}{% endmacro %}{{ f('word') }}",
        "{% macro f(x) %}{{ f(x + x) | list }}{% endmacro %}{{ f(range(100000)) }}",
        "{{ ('a' * 11000000) | list | length }}{{ ('a' * 11000000).split('a') | length }}",
        "{{ ('\u{1}' * 11000000) | tojson | tojson | length }}",
        "{{ ('a' * 3000) | replace('a', 'b' * 3000) | replace('b', 'c' * 3000) }}",
        "{{ range(100000) | map('string') | join('-' * 100000) }}",
        "{{ '%100000000s%100000000s' | format('a', 'b') }}{{ '{:>100000000}'.format(1) }}",
        &joined,
        &listed,
        &stored,
        &within,
        &long,
        &nested,
    ] {
        let (_, peak) = peak_of(|| template.reads(&bench, source.as_bytes()));
        assert!(peak < source.len() + SLACK, "{peak} bytes: {}", source.get(..200).unwrap_or(source));
    }
}
