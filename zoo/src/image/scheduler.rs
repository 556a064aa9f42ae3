//! The noise levels that a snapshot asks for.

use crate::{Error, Result, text::required_json};
use framework::sample::{Flow, Resolution, Schedule, Shift};
use serde::Deserialize;
use std::path::Path;

/// diffusers' `FlowMatchEulerDiscreteScheduler`. What no pipeline here sets is refused rather than lost.
#[derive(Clone, Debug, Deserialize)]
pub struct Scheduler {
    #[serde(rename = "_class_name")]
    class: Option<String>,
    #[serde(default)]
    use_dynamic_shifting: bool,
    #[serde(default = "one")]
    shift: f64,
    #[serde(default = "thousand")]
    num_train_timesteps: f64,
    #[serde(default)]
    time_shift_type: TimeShift,
    #[serde(default)]
    use_karras_sigmas: bool,
    #[serde(default)]
    use_exponential_sigmas: bool,
    #[serde(default)]
    use_beta_sigmas: bool,
    #[serde(default)]
    invert_sigmas: bool,
    #[serde(default)]
    stochastic_sampling: bool,
    shift_terminal: Option<f64>,
    #[serde(flatten)]
    resolution: Resolution,
}

/// What becomes of the shift that follows from the number of tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum TimeShift {
    /// It is a logarithm.
    #[default]
    Exponential,
    /// It is the shift itself.
    Linear,
}

fn one() -> f64 {
    1.0
}

fn thousand() -> f64 {
    1000.0
}

impl Scheduler {
    /// Reads `scheduler_config.json`.
    ///
    /// # Errors
    /// When it is missing, or asks for what is not done here.
    pub fn open(path: &Path) -> Result<Self> {
        let scheduler: Self = required_json(path)?;
        let known = "FlowMatchEulerDiscreteScheduler";
        if let Some(class) = scheduler.class.as_deref().filter(|class| *class != known) {
            return Err(Error::file(path, format!("`{class}` is not the one scheduler that is done here, `{known}`")));
        }
        let asked = [
            ("num_train_timesteps", scheduler.num_train_timesteps != thousand()),
            ("use_karras_sigmas", scheduler.use_karras_sigmas),
            ("use_exponential_sigmas", scheduler.use_exponential_sigmas),
            ("use_beta_sigmas", scheduler.use_beta_sigmas),
            ("invert_sigmas", scheduler.invert_sigmas),
            ("stochastic_sampling", scheduler.stochastic_sampling),
            ("shift_terminal", scheduler.shift_terminal.is_some_and(|sigma| sigma != 0.0)),
        ];
        match asked.iter().find(|(_, asked)| *asked) {
            Some((key, _)) => Err(Error::file(path, format!("`{key}` asks for what is not done here"))),
            None => Ok(scheduler),
        }
    }

    /// The levels of so many steps over so many image tokens.
    ///
    /// # Errors
    /// When a shift cannot be.
    pub fn schedule(&self, tokens: usize, steps: usize) -> Result<Schedule<f64>> {
        let mu = self.resolution.mu(tokens);
        let shift = match (self.use_dynamic_shifting, self.time_shift_type) {
            (true, TimeShift::Exponential) => Shift::Exponential { mu },
            (true, TimeShift::Linear) => Shift::Algebraic { shift: mu },
            (false, _) => Shift::Algebraic { shift: self.shift },
        };
        Ok(Flow::even(shift).schedule(steps)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn open(config: Value) -> Result<Scheduler> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("scheduler_config.json");
        std::fs::write(&path, config.to_string()).unwrap();
        Scheduler::open(&path)
    }

    #[test]
    fn what_is_not_done_is_refused_by_its_key() {
        for (key, value) in [
            ("_class_name", json!("EulerDiscreteScheduler")),
            ("num_train_timesteps", json!(500)),
            ("use_karras_sigmas", json!(true)),
            ("use_exponential_sigmas", json!(true)),
            ("use_beta_sigmas", json!(true)),
            ("invert_sigmas", json!(true)),
            ("stochastic_sampling", json!(true)),
            ("shift_terminal", json!(0.02)),
            ("time_shift_type", json!("square")),
        ] {
            let error = open(json!({ key: value })).unwrap_err().to_string();
            let named = if key == "_class_name" { "EulerDiscreteScheduler" } else { key };
            assert!(error.contains(named), "{key}: {error}");
        }
    }

    #[test]
    fn the_shift_is_one_number_or_follows_the_tokens() {
        let first = |config: Value, tokens| open(config).unwrap().schedule(tokens, 2).unwrap().sigmas()[1];
        assert_eq!(first(json!({"shift": 3.0}), 64), 0.75);
        assert_eq!(first(json!({}), 64), 0.5);
        let mu = Resolution::default().mu(1024);
        let dynamic = |kind: &str| json!({"use_dynamic_shifting": true, "time_shift_type": kind, "shift": 3.0});
        assert!((first(dynamic("exponential"), 1024) - mu.exp() / (mu.exp() + 1.0)).abs() < 1e-12);
        assert!((first(dynamic("linear"), 1024) - mu / (mu + 1.0)).abs() < 1e-12);
    }
}
