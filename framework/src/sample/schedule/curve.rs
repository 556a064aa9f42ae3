//! Ways from a highest to a lowest level that depend on nothing else.

use super::{check, linspace};
use crate::Result;
use serde::Deserialize;
use statrs::function::beta::inv_beta_reg;

/// How levels are spread between a highest and a lowest.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Curve {
    /// Even steps in `σ^(1/ρ)` (<https://arxiv.org/abs/2206.00364>).
    Karras {
        /// ρ; 7 is usual.
        rho: f64,
    },
    /// Even steps in `ln σ`.
    Exponential,
    /// Quantiles of a beta distribution (<https://arxiv.org/abs/2407.12173>).
    Beta {
        /// α; 0.6 is usual.
        alpha: f64,
        /// β; 0.6 is usual.
        beta: f64,
    },
}

impl Curve {
    /// Karras' with his ρ.
    pub const KARRAS: Self = Self::Karras { rho: 7.0 };
    /// The beta distribution of the paper.
    pub const BETA: Self = Self::Beta { alpha: 0.6, beta: 0.6 };

    /// `count` levels from `highest` to `lowest`, both included; of one, the highest.
    ///
    /// # Errors
    /// When an option is not above 0, or a level is not above 0 and finite.
    pub fn between(self, highest: f64, lowest: f64, count: usize) -> Result<Vec<f64>> {
        check("lowest", lowest, "above 0", lowest > 0.0)?;
        check("highest", highest, "at least the lowest level", highest >= lowest)?;
        self.validate()?;
        Ok(match self {
            Self::Karras { rho } => {
                let (from, to) = (highest.powf(1.0 / rho), lowest.powf(1.0 / rho));
                let ramp = linspace(0.0, 1.0, count).into_iter();
                ramp.map(|share| (from + share * (to - from)).powf(rho)).collect()
            }
            Self::Exponential => linspace(highest.ln(), lowest.ln(), count).into_iter().map(f64::exp).collect(),
            Self::Beta { alpha, beta } => {
                let ramp = linspace(0.0, 1.0, count).into_iter();
                let quantile = |share: f64| inv_beta_reg(alpha, beta, 1.0 - share);
                ramp.map(|share| lowest + quantile(share) * (highest - lowest)).collect()
            }
        })
    }

    fn validate(self) -> Result<()> {
        let positive = |name, value: f64| check(name, value, "above 0", value > 0.0);
        match self {
            Self::Karras { rho } => positive("rho", rho),
            Self::Exponential => Ok(()),
            Self::Beta { alpha, beta } => positive("alpha", alpha).and_then(|()| positive("beta", beta)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_curve_has_its_ends() {
        for curve in [Curve::KARRAS, Curve::Exponential, Curve::BETA] {
            let levels = curve.between(14.6, 0.03, 9).unwrap();
            assert!((levels[0] - 14.6).abs() < 1e-12 && (levels[8] - 0.03).abs() < 1e-12, "{levels:?}");
            assert!((curve.between(14.6, 0.03, 1).unwrap()[0] - 14.6).abs() < 1e-12);
        }
    }

    #[test]
    fn options_out_of_range_are_refused_by_name() {
        for (curve, highest, lowest, name) in [
            (Curve::Karras { rho: 0.0 }, 1.0, 0.1, "rho"),
            (Curve::Beta { alpha: -1.0, beta: 0.6 }, 1.0, 0.1, "alpha"),
            (Curve::Beta { alpha: 0.6, beta: f64::NAN }, 1.0, 0.1, "beta"),
            (Curve::Exponential, 1.0, 0.0, "lowest"),
            (Curve::Exponential, 0.05, 0.1, "highest"),
        ] {
            assert!(curve.between(highest, lowest, 4).unwrap_err().to_string().contains(name));
        }
    }
}
