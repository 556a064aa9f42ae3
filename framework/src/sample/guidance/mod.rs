//! Predictions under several conditions become one.

mod apg;
mod guide;
mod rescale;

pub use apg::{Anchor, Apg};
pub use guide::Guide;
pub use rescale::Rescale;

use crate::{Error, Result};
use serde::Deserialize;

/// What a prediction is asked under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Condition {
    /// What the sample should be: every condition there is.
    Towards,
    /// Some of it, where guidance has two scales: of an editing model the picture without the text.
    Between,
    /// What the sample should not be: the negative conditions, or none.
    Away,
}

impl Condition {
    /// A word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Towards => "towards",
            Self::Between => "between",
            Self::Away => "away",
        }
    }
}

/// How predictions are combined. Norms and products run over all axes but the batch.
///
/// A scale of 1 is off in every rule; diffusers' `use_original_formulation` has 0 there, and its scales are lower by 1.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Rule {
    /// Classifier-free guidance, `away + scale (towards − away)` (<https://arxiv.org/abs/2207.12598>).
    ClassifierFree {
        /// How far from away to towards, and beyond.
        scale: f64,
    },
    /// Adaptive projected guidance (<https://arxiv.org/abs/2410.02416>).
    Apg(Apg),
    /// CFG-Zero*: `α away + scale (towards − α away)`, where `α away` is `towards` projected onto `away`
    /// (<https://arxiv.org/abs/2503.18886>).
    ClassifierFreeZero {
        /// How far from away to towards, and beyond.
        scale: f64,
        /// The first steps, in which the prediction is zero and nothing is evaluated, whatever the scale.
        #[serde(default = "first_step")]
        zero_init_steps: usize,
    },
    /// Two scales, s₁ `between` and s₂ `scale`: `away + s₁ (between − away) + s₂ (towards − between)`. InstructPix2Pix
    /// has s₁ for the picture and s₂ for the text (<https://arxiv.org/abs/2211.09800>).
    Dual {
        /// How far from [`Condition::Between`] to towards, and beyond.
        scale: f64,
        /// How far from away to [`Condition::Between`], and beyond.
        between: f64,
    },
}

/// What diffusers takes unless told otherwise.
fn first_step() -> usize {
    1
}

impl Rule {
    /// What a guided step evaluates: nothing whose share is 0.
    fn conditions(self) -> &'static [Condition] {
        use Condition::{Away, Between, Towards};
        match self {
            Self::ClassifierFree { scale } | Self::Apg(Apg { scale, .. }) | Self::ClassifierFreeZero { scale, .. }
                if scale == 1.0 =>
            {
                &[Towards]
            }
            Self::Dual { scale, between } if scale == 1.0 && between == 1.0 => &[Towards],
            Self::Dual { between: 1.0, .. } => &[Towards, Between],
            Self::Dual { scale, between } if scale != between => &[Towards, Between, Away],
            _ => &[Towards, Away],
        }
    }
}

/// Guidance of a run: a rule, what follows it, and in which steps. [`Guide`] carries it out.
///
/// A guidance that the model was distilled with is an input of the model and has no part in this.
///
/// ```
/// use framework::sample::{Guidance, Rescale, Rule};
/// let guidance: Guidance = serde_json::from_str(
///     r#"{"rule": {"classifier_free": {"scale": 5}}, "rescale": {"deviation": {"share": 0.7}}, "stop": 0.8}"#,
/// )?;
/// let rescale = Some(Rescale::Deviation { share: 0.7 });
/// assert_eq!(guidance, Guidance { rescale, stop: 0.8, ..Guidance::classifier_free(5.0) });
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Guidance {
    /// How predictions are combined.
    pub rule: Rule,
    /// What is done to the result.
    pub rescale: Option<Rescale>,
    /// The share of the steps before guidance begins.
    pub start: f64,
    /// The share of the steps after which guidance ends. Outside, the prediction is that of [`Condition::Towards`].
    pub stop: f64,
}

impl Default for Guidance {
    /// None: a scale of 1.
    fn default() -> Self {
        Self::classifier_free(1.0)
    }
}

impl Guidance {
    /// Classifier-free guidance in all steps.
    pub const fn classifier_free(scale: f64) -> Self {
        Self { rule: Rule::ClassifierFree { scale }, rescale: None, start: 0.0, stop: 1.0 }
    }

    /// What a guided step evaluates, and so what a run has to prepare; [`Condition::Towards`] alone where guidance is
    /// off.
    pub fn conditions(&self) -> &'static [Condition] {
        self.rule.conditions()
    }

    /// Checks every value.
    ///
    /// # Errors
    /// Names the first that is out of its range.
    pub fn validate(&self) -> Result<()> {
        let within = |name, value: f64, range: &str, fits: bool| {
            if value.is_finite() && fits {
                return Ok(());
            }
            Err(Error::argument(name, format!("{value} is not {range}")))
        };
        let scaled = |name, scale: f64| within(name, scale, "0 or more; 1 is no guidance", scale >= 0.0);
        let share = |name, share: f64| within(name, share, "from 0 to 1", (0.0..=1.0).contains(&share));
        match self.rule {
            Rule::ClassifierFree { scale } | Rule::ClassifierFreeZero { scale, .. } => scaled("scale", scale)?,
            Rule::Apg(Apg { scale, momentum, threshold, eta, anchor: _ }) => {
                scaled("scale", scale)?;
                within("momentum", momentum, "between -1 and 1; 0 is none", momentum.abs() < 1.0)?;
                let threshold = threshold.unwrap_or(f64::MAX);
                within("threshold", threshold, "above 0; leave it out for none", threshold > 0.0)?;
                share("eta", eta)?;
            }
            Rule::Dual { scale, between } => {
                scaled("scale", scale)?;
                scaled("between", between)?;
            }
        }
        if let Some(Rescale::Deviation { share: of_rescaled }) = self.rescale {
            share("rescale", of_rescaled)?;
        }
        share("start", self.start)?;
        share("stop", self.stop)?;
        within("stop", self.stop, "after `start`; for no guidance set the scale to 1", self.stop > self.start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const APG: Apg = Apg { scale: 7.5, momentum: -0.5, threshold: Some(15.0), eta: 0.0, anchor: Anchor::Away };

    fn ruled(rule: Rule) -> Guidance {
        Guidance { rule, ..Guidance::default() }
    }

    #[test]
    fn what_has_no_share_is_not_evaluated() {
        use Condition::{Away, Between, Towards};
        let dual = |scale, between| Rule::Dual { scale, between }.conditions();
        assert_eq!(dual(7.5, 1.5), [Towards, Between, Away]);
        assert_eq!(dual(1.0, 1.5), [Towards, Between, Away]);
        assert_eq!(dual(7.5, 1.0), [Towards, Between]);
        assert_eq!(dual(7.5, 7.5), [Towards, Away]);
        assert_eq!(dual(1.0, 1.0), [Towards]);
        assert_eq!(Guidance::default().conditions(), [Towards]);
        assert_eq!(ruled(Rule::Apg(APG)).conditions(), [Towards, Away]);
    }

    #[test]
    fn values_out_of_range_are_refused_by_name() {
        ruled(Rule::Apg(APG)).validate().unwrap();
        let usual = Guidance::classifier_free(5.0);
        for (guidance, name) in [
            (Guidance::classifier_free(-1.0), "scale"),
            (Guidance::classifier_free(f64::INFINITY), "scale"),
            (ruled(Rule::ClassifierFreeZero { scale: f64::NAN, zero_init_steps: 1 }), "scale"),
            (ruled(Rule::Apg(Apg { scale: -1.0, ..APG })), "scale"),
            (ruled(Rule::Apg(Apg { momentum: 1.0, ..APG })), "momentum"),
            (ruled(Rule::Apg(Apg { threshold: Some(0.0), ..APG })), "threshold"),
            (ruled(Rule::Apg(Apg { eta: 1.1, ..APG })), "eta"),
            (ruled(Rule::Dual { scale: 7.5, between: -0.1 }), "between"),
            (ruled(Rule::Dual { scale: f64::NAN, between: 1.5 }), "scale"),
            (Guidance { rescale: Some(Rescale::Deviation { share: 1.5 }), ..usual }, "rescale"),
            (Guidance { start: -0.1, ..usual }, "start"),
            (Guidance { stop: f64::NAN, ..usual }, "stop"),
            (Guidance { start: 0.5, stop: 0.5, ..usual }, "stop"),
        ] {
            let message = guidance.validate().unwrap_err().to_string();
            assert!(message.contains(&format!("`{name}`")), "{guidance:?}: {message}");
        }
    }

    #[test]
    fn unknown_keys_are_refused() {
        for text in [r#"{"scale": 5}"#, r#"{"rule": {"apg": {"scale": 5, "norm": 2}}}"#] {
            assert!(serde_json::from_str::<Guidance>(text).is_err());
        }
        let found: Guidance = serde_json::from_str(r#"{"rule": {"classifier_free_zero": {"scale": 5}}}"#).unwrap();
        assert_eq!(found, ruled(Rule::ClassifierFreeZero { scale: 5.0, zero_init_steps: 1 }));
    }
}
