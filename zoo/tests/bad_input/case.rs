//! One bad input: how it is made, what is done with it, and what must hold whatever it is.

use crate::world::World;
use serde_json::Value;

/// One bad input.
pub struct Case {
    /// What is bad.
    pub name: &'static str,
    /// Makes it, in a world where all is well.
    pub spoil: fn(&World),
    /// A line of shell; `DIR` is the folder of the world.
    pub command: &'static str,
}

/// What a command showed.
#[derive(Debug)]
pub struct Shown {
    /// The exit status, unless a signal ended it.
    pub status: Option<i32>,
    /// Standard output.
    pub output: String,
    /// Standard error.
    pub errors: String,
}

impl Case {
    /// Runs the command; what it showed, or how that is not the way to refuse an input.
    pub fn run(&self) -> Result<Shown, String> {
        let world = World::new();
        (self.spoil)(&world);
        let before = world.files();
        let shown = world.run(self.command);
        let after = world.files();
        if before != after {
            return Err(format!("it changed {before:?} into {after:?}"));
        }
        match self.fault(&shown) {
            Some(fault) => Err(format!("{fault}: {shown:?}")),
            None => Ok(shown),
        }
    }

    fn fault(&self, shown: &Shown) -> Option<&'static str> {
        let Shown { status, output, errors } = shown;
        if errors.contains("panicked") {
            return Some("it panicked");
        }
        if self.command.contains("--json-events") {
            let event = serde_json::from_str::<Value>(output.strip_suffix('\n').unwrap_or_default());
            let is_error = event.is_ok_and(|event| event["event"] == "error" && event["message"].is_string());
            return (!is_error || !errors.is_empty() || *status != Some(1)).then_some("the error is not one event");
        }
        if !output.is_empty() {
            return Some("something is in the output");
        }
        // clap's status for a command line that does not parse.
        let usage = errors.contains("For more information, try '--help'.");
        if *status != Some(if usage { 2 } else { 1 }) {
            return Some("the exit status is wrong");
        }
        let says = errors.lines().any(|line| line.starts_with("error: ")) && errors.ends_with('\n');
        (!says).then_some("it does not say what is wrong")
    }
}
