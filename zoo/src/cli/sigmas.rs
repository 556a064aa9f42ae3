//! `zoo sigmas`.

use super::show::Show;
use crate::{Error, Result};
use clap::Args;
use framework::sample::{
    AnySchedule, BetaKind, Betas, Clock, Curve, Discrete, Fixed, Flow, LogitNormal, Resolution, Schedule, Shift,
    Spacing,
};
use serde_json::json;

const FLOW: &[&str] = &["shift", "mu", "tokens", "terminal"];
const DISCRETE: &[&str] = &["betas", "beta-start", "beta-end", "timesteps", "spacing", "offset", "multistep"];

/// The schedules, and the options that each reads beside `--steps` and `--strength`.
const SCHEDULES: &[(&str, &[&[&str]])] = &[
    ("flow", &[FLOW]),
    ("flow_trained", &[FLOW]),
    ("flow_unipc", &[FLOW]),
    ("flow_dpm", &[FLOW]),
    ("logit_normal", &[&["mean", "deviation", "height", "width"]]),
    ("fixed", &[&["sigmas"]]),
    ("normal", &[DISCRETE]),
    ("simple", &[&["betas", "beta-start", "beta-end", "timesteps"]]),
    ("sgm_uniform", &[&["betas", "beta-start", "beta-end", "timesteps"]]),
    ("karras", &[DISCRETE, &["rho"]]),
    ("exponential", &[DISCRETE]),
    ("beta", &[DISCRETE, &["alpha", "beta"]]),
];

/// Which schedule, and its options. Those that a schedule does not read are refused.
#[derive(Debug, Args)]
#[command(allow_negative_numbers = true)]
pub struct Arguments {
    /// flow (even steps, as pipelines give), flow_trained, flow_unipc, flow_dpm (as diffusers' FlowMatchEuler, UniPC and
    /// DPMSolver make them), logit_normal, fixed; of discrete timesteps: normal, simple, sgm_uniform, karras,
    /// exponential, beta.
    #[arg(long, value_name = "NAME", default_value = "flow")]
    schedule: String,
    /// How many steps; may be left out for fixed.
    #[arg(long)]
    steps: Option<usize>,
    /// Keep the last steps only, this share of them: what denoising a given image does.
    #[arg(long)]
    strength: Option<f64>,
    /// Flow: multiply the odds of noise.
    #[arg(long)]
    shift: Option<f64>,
    /// Flow: multiply the odds of noise by e^mu.
    #[arg(long)]
    mu: Option<f64>,
    /// Flow: mu of FLUX.1 for an image of so many tokens, width/16 · height/16.
    #[arg(long)]
    tokens: Option<usize>,
    /// Flow: stretch the schedule to this lowest level.
    #[arg(long)]
    terminal: Option<f64>,
    /// Logit-normal: the mean of the logits [default: 0].
    #[arg(long)]
    mean: Option<f64>,
    /// Logit-normal: their standard deviation [default: 1.5].
    #[arg(long)]
    deviation: Option<f64>,
    /// Logit-normal: the image's height, which moves the mean; with --width.
    #[arg(long)]
    height: Option<usize>,
    /// Logit-normal: the image's width; with --height.
    #[arg(long)]
    width: Option<usize>,
    /// Fixed: the levels.
    #[arg(long, value_delimiter = ',', value_name = "LEVEL,…")]
    sigmas: Option<Vec<f64>>,
    /// Discrete: linear, scaled_linear or squaredcos_cap_v2 [default: scaled_linear].
    #[arg(long, value_name = "NAME")]
    betas: Option<String>,
    /// Discrete: the first beta [default: 0.00085].
    #[arg(long)]
    beta_start: Option<f64>,
    /// Discrete: the last beta [default: 0.012].
    #[arg(long)]
    beta_end: Option<f64>,
    /// Discrete: how many timesteps the model was trained with [default: 1000].
    #[arg(long)]
    timesteps: Option<usize>,
    /// Discrete: leading, linspace or trailing [default: linspace].
    #[arg(long, value_name = "NAME")]
    spacing: Option<String>,
    /// Discrete: what leading spacing adds to each timestep [default: 0].
    #[arg(long)]
    offset: Option<usize>,
    /// Discrete: space as diffusers' multistep schedulers (DPM-Solver++, UniPC).
    #[arg(long)]
    multistep: bool,
    /// Karras: ρ [default: 7].
    #[arg(long)]
    rho: Option<f64>,
    /// Beta: α [default: 0.6].
    #[arg(long)]
    alpha: Option<f64>,
    /// Beta: β [default: 0.6].
    #[arg(long)]
    beta: Option<f64>,
}

/// Prints the noise levels and the timesteps of a schedule as JSON.
pub fn run(arguments: &Arguments, show: &Show) -> Result<()> {
    let schedule = arguments.schedule()?;
    let fields = json!({
        "schedule": arguments.name(),
        "steps": schedule.steps(),
        "sigmas": schedule.sigmas(),
        "timesteps": schedule.timesteps(),
    });
    show.text(&format!("{fields:#}\n"))?;
    show.event("sigmas", fields)
}

impl Arguments {
    fn name(&self) -> String {
        self.schedule.replace('-', "_")
    }

    fn schedule(&self) -> Result<Schedule<f64>> {
        let any = self.any(&self.name())?;
        let schedule = any.schedule(self.steps(&any)?)?;
        match self.strength {
            Some(strength) => Ok(schedule.with_strength(strength)?),
            None => Ok(schedule),
        }
    }

    fn any(&self, name: &str) -> Result<AnySchedule> {
        let Some((_, reads)) = SCHEDULES.iter().find(|(known, _)| *known == name) else {
            return Err(unknown("schedule", name, SCHEDULES.iter().map(|(known, _)| *known)));
        };
        self.refuse_unread(name, &reads.concat())?;
        Ok(match name {
            "flow" => AnySchedule::Flow(self.flow(Flow::even)?),
            "flow_trained" => AnySchedule::Flow(self.flow(Flow::trained)?),
            "flow_unipc" => AnySchedule::Flow(self.flow(Flow::unipc)?),
            "flow_dpm" => AnySchedule::Flow(self.flow(Flow::dpm)?),
            "logit_normal" => AnySchedule::LogitNormal(self.logit_normal()?),
            "fixed" => {
                let sigmas = self.sigmas.clone();
                let sigmas =
                    sigmas.ok_or_else(|| Error::argument("sigmas", "fixed needs the levels, `--sigmas 1,0.5`"))?;
                AnySchedule::Fixed(Fixed { sigmas, clock: Clock::Scaled(1000.0) })
            }
            _ => AnySchedule::Discrete(self.discrete(name)?),
        })
    }

    /// An option that is given and not read would be believed to matter.
    fn refuse_unread(&self, name: &str, reads: &[&str]) -> Result<()> {
        let given = [
            ("shift", self.shift.is_some()),
            ("mu", self.mu.is_some()),
            ("tokens", self.tokens.is_some()),
            ("terminal", self.terminal.is_some()),
            ("mean", self.mean.is_some()),
            ("deviation", self.deviation.is_some()),
            ("height", self.height.is_some()),
            ("width", self.width.is_some()),
            ("sigmas", self.sigmas.is_some()),
            ("betas", self.betas.is_some()),
            ("beta-start", self.beta_start.is_some()),
            ("beta-end", self.beta_end.is_some()),
            ("timesteps", self.timesteps.is_some()),
            ("spacing", self.spacing.is_some()),
            ("offset", self.offset.is_some()),
            ("multistep", self.multistep),
            ("rho", self.rho.is_some()),
            ("alpha", self.alpha.is_some()),
            ("beta", self.beta.is_some()),
        ];
        match given.into_iter().find(|(option, given)| *given && !reads.contains(option)) {
            None => Ok(()),
            Some((option, _)) => {
                let problem = format!("the schedule {name} does not read it; it reads {}", listed(reads));
                Err(Error::argument(option, problem))
            }
        }
    }

    fn steps(&self, any: &AnySchedule) -> Result<usize> {
        match (self.steps, any) {
            (Some(steps), _) => Ok(steps),
            (None, AnySchedule::Fixed(fixed)) => Ok(fixed.sigmas.iter().filter(|&&sigma| sigma != 0.0).count()),
            (None, _) => Err(Error::argument("steps", "how many are wanted, `--steps 8`?")),
        }
    }

    fn flow(&self, ramp: fn(Shift) -> Flow) -> Result<Flow> {
        let shift = match (self.shift, self.mu, self.tokens) {
            (None, None, None) => Shift::None,
            (Some(shift), None, None) => Shift::Algebraic { shift },
            (None, Some(mu), None) => Shift::Exponential { mu },
            (None, None, Some(tokens)) => Shift::Exponential { mu: Resolution::default().mu(tokens) },
            _ => return Err(Error::argument("shift", "give one of --shift, --mu and --tokens")),
        };
        Ok(Flow { terminal: self.terminal, ..ramp(shift) })
    }

    fn logit_normal(&self) -> Result<LogitNormal> {
        let usual = LogitNormal::default();
        let base = LogitNormal {
            mean: self.mean.unwrap_or(usual.mean),
            deviation: self.deviation.unwrap_or(usual.deviation),
            ..usual
        };
        match (self.height, self.width) {
            (None, None) => Ok(base),
            (Some(height), Some(width)) if height > 0 && width > 0 => Ok(base.at(height, width)),
            _ => Err(Error::argument("height", "give --height and --width, both above 0, or neither")),
        }
    }

    fn discrete(&self, name: &str) -> Result<Discrete> {
        let usual = Betas::STABLE_DIFFUSION;
        let kind = match self.betas.as_deref() {
            None => usual.kind,
            Some("linear") => BetaKind::Linear,
            Some("scaled_linear") => BetaKind::ScaledLinear,
            Some("squaredcos_cap_v2") => BetaKind::SquaredCosine,
            Some(other) => return Err(unknown("betas", other, ["linear", "scaled_linear", "squaredcos_cap_v2"])),
        };
        if kind == BetaKind::SquaredCosine && (self.beta_start.is_some() || self.beta_end.is_some()) {
            return Err(Error::argument("betas", "squaredcos_cap_v2 has neither --beta-start nor --beta-end"));
        }
        let betas = Betas {
            kind,
            start: self.beta_start.unwrap_or(usual.start),
            end: self.beta_end.unwrap_or(usual.end),
            timesteps: self.timesteps.unwrap_or(usual.timesteps),
        };
        let spacing = match (name, self.spacing.as_deref()) {
            ("simple", _) => Spacing::Simple,
            ("sgm_uniform", _) => Spacing::SgmUniform,
            (_, Some("leading")) => Spacing::Leading { offset: self.offset.unwrap_or(0) },
            (_, Some("trailing")) => Spacing::Trailing,
            (_, None | Some("linspace")) => Spacing::Linspace,
            (_, Some(other)) => return Err(unknown("spacing", other, ["leading", "linspace", "trailing"])),
        };
        if self.offset.is_some() && !matches!(spacing, Spacing::Leading { .. }) {
            return Err(Error::argument("offset", "only `--spacing leading` has one"));
        }
        let curve = match name {
            "karras" => Some(Curve::Karras { rho: self.rho.unwrap_or(7.0) }),
            "exponential" => Some(Curve::Exponential),
            "beta" => Some(Curve::Beta { alpha: self.alpha.unwrap_or(0.6), beta: self.beta.unwrap_or(0.6) }),
            _ => None,
        };
        if self.multistep && curve.is_some() && self.spacing.is_some() {
            return Err(Error::argument("spacing", format!("with --multistep, {name} spans all timesteps")));
        }
        Ok(Discrete { betas, spacing, curve, multistep: self.multistep })
    }
}

fn unknown<'a>(option: &str, name: &str, known: impl IntoIterator<Item = &'a str>) -> Error {
    let known: Vec<&str> = known.into_iter().collect();
    Error::argument(option, format!("none is called `{name}`; there are {}", known.join(", ")))
}

fn listed(options: &[&str]) -> String {
    options.iter().map(|option| format!("--{option}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn parse(line: &str) -> Arguments {
        Line::parse_from(std::iter::once("sigmas").chain(line.split_whitespace())).arguments
    }

    fn outcome(line: &str) -> Result<Schedule<f64>> {
        parse(line).schedule()
    }

    #[test]
    fn every_schedule_falls_to_zero() {
        for (name, _) in SCHEDULES {
            let options = if *name == "fixed" { "--sigmas 1,0.5,0.25,0.1" } else { "--steps 4" };
            let schedule = outcome(&format!("--schedule {name} {options}")).unwrap();
            assert_eq!((schedule.steps(), schedule.sigmas()[4]), (4, 0.0), "{name}");
        }
        assert_eq!(outcome("--steps 2 --shift 3").unwrap().sigmas(), [1.0, 0.75, 0.0]);
        assert_eq!(outcome("--steps 4 --strength 0.5").unwrap().sigmas(), [0.5, 0.25, 0.0]);
        assert_eq!(outcome("--schedule sgm-uniform --steps 3").unwrap().steps(), 3);
    }

    #[test]
    fn every_option_that_a_schedule_reads_matters() {
        let values = [
            ("shift", "2.5"),
            ("mu", "0.7"),
            ("tokens", "1024"),
            ("terminal", "0.2"),
            ("mean", "0.4"),
            ("deviation", "1.1"),
            ("height", "768 --width 512"),
            ("width", "768 --height 512"),
            ("betas", "linear"),
            ("beta-start", "0.001"),
            ("beta-end", "0.02"),
            ("timesteps", "500"),
            ("spacing", "trailing"),
            ("offset", "2 --spacing leading"),
            ("multistep", ""),
            ("rho", "5"),
            ("alpha", "0.5"),
            ("beta", "0.5"),
        ];
        for (name, reads) in SCHEDULES.iter().filter(|(name, _)| *name != "fixed") {
            let plain = format!("--schedule {name} --steps 4");
            for (option, value) in values {
                let given = outcome(&format!("{plain} --{option} {value}"));
                if reads.concat().contains(&option) {
                    assert_ne!(given.unwrap(), outcome(&plain).unwrap(), "{name} {option}");
                } else {
                    let error = given.unwrap_err().to_string();
                    assert!(error.contains(&format!("the schedule {name} does not read it")), "{error}");
                }
            }
        }
    }

    #[test]
    fn bad_options_are_refused_by_name() {
        for (line, words) in [
            ("--steps 0", "`steps`"),
            ("", "`steps`"),
            ("--steps 4 --shift NaN", "`shift`"),
            ("--steps 4 --shift -1", "`shift`"),
            ("--steps 4 --mu inf", "`mu`"),
            ("--steps 4 --shift 3 --mu 1", "one of --shift, --mu and --tokens"),
            ("--schedule cosine --steps 4", "sgm_uniform, karras"),
            ("--schedule karras --steps 4 --betas cubic", "squaredcos_cap_v2"),
            ("--schedule karras --steps 4 --spacing even", "leading, linspace, trailing"),
            ("--schedule karras --steps 4 --offset 1", "--spacing leading"),
            ("--schedule normal --steps 4 --betas squaredcos_cap_v2 --beta-end 0.1", "neither"),
            ("--schedule simple --steps 2000", "fewer steps"),
            ("--schedule karras --steps 4 --multistep --spacing trailing", "spans all"),
            ("--steps 4 --strength 0", "`strength`"),
            ("--schedule fixed", "--sigmas"),
            ("--schedule fixed --sigmas 0.5,0.6", "strictly"),
            ("--schedule logit_normal --steps 4 --height 512", "--width"),
        ] {
            let error = outcome(line).unwrap_err().to_string();
            assert!(error.contains(words), "{line}: {error}");
        }
    }
}
