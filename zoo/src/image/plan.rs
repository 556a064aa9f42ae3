//! How much memory a request will take, known before any weight is read.

use super::ImageRequest;
use crate::{Error, Result, doctor::Bytes};
use serde::Serialize;

/// What one component's part of the work takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Planned {
    /// The component.
    pub component: &'static str,
    /// What it does: encode, denoise, decode.
    pub task: &'static str,
    /// Bytes of its weights.
    pub weights: u64,
    /// Bytes beside them, estimated.
    pub working: u64,
}

/// What a request takes, part by part in the order of the work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// The parts.
    pub parts: Vec<Planned>,
    /// Whether components stay in memory when their part is done.
    pub kept: bool,
}

impl Planned {
    /// Bytes while this part runs, of this component alone.
    pub fn peak(&self) -> u64 {
        self.weights.saturating_add(self.working)
    }
}

impl Plan {
    /// The most bytes at once, and the part that needs them.
    pub fn peak(&self) -> Option<(u64, &Planned)> {
        let mut before: Vec<&Planned> = Vec::new();
        let mut peaks = Vec::new();
        for part in &self.parts {
            let kept: u64 = before.iter().map(|part| part.weights).sum();
            let others = if self.kept { kept } else { 0 };
            let again = before.iter().any(|known| known.component == part.component);
            let loaded = if self.kept && again { 0 } else { part.weights };
            peaks.push((others.saturating_add(loaded).saturating_add(part.working), part));
            if !again {
                before.push(part);
            }
        }
        peaks.into_iter().max_by_key(|(peak, _)| *peak)
    }

    /// Bytes beside the weights that a component may use.
    pub(crate) fn working(&self, component: &str) -> u64 {
        let of_it = self.parts.iter().filter(|part| part.component == component);
        of_it.map(|part| part.working).max().unwrap_or(0)
    }

    /// Refuses what needs more than `available` bytes, with advice.
    ///
    /// # Errors
    /// [`Error::Memory`].
    pub fn check(&self, available: u64, request: &ImageRequest) -> Result<()> {
        let Some((needed, part)) = self.peak().filter(|(needed, _)| *needed > available) else { return Ok(()) };
        let advice = if part.weights > available {
            "its weights alone do not fit: use a machine with more memory"
        } else if part.component == "vae" && request.tile.is_none() {
            "decode in tiles (tile, for example 512)"
        } else if request.at_once() > 1 {
            "make fewer pictures at once (batch)"
        } else if part.component.starts_with("text") {
            "ask for fewer text tokens, or free memory"
        } else {
            "ask for a smaller width and height"
        };
        let (component, task) = (part.component, part.task);
        Err(Error::Memory { component, task, needed: Bytes(needed), available: Bytes(available), advice })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(component: &'static str, task: &'static str, weights: u64, working: u64) -> Planned {
        Planned { component, task, weights, working }
    }

    fn plan(kept: bool) -> Plan {
        let parts = vec![
            part("text", "encode", 40, 5),
            part("vae", "encode", 3, 9),
            part("transformer", "denoise", 100, 10),
            part("vae", "decode", 3, 30),
        ];
        Plan { parts, kept }
    }

    #[test]
    fn components_that_go_do_not_add_up() {
        let apart = plan(false);
        assert_eq!(apart.peak().map(|(bytes, part)| (bytes, part.component)), Some((110, "transformer")));
        let kept = plan(true);
        assert_eq!(kept.peak().map(|(bytes, part)| (bytes, part.task)), Some((40 + 3 + 100 + 30, "decode")));
        assert_eq!(apart.working("vae"), 30);
        assert_eq!(apart.working("nothing"), 0);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_advice() {
        let request = crate::published::find("flux.1-schnell").unwrap().image.as_ref().unwrap().request();
        let plan = plan(false);
        assert!(plan.check(110, &request).is_ok());
        let refused = |available, request: &ImageRequest| plan.check(available, request).unwrap_err().to_string();
        assert!(refused(99, &request).contains("weights alone"));
        assert!(refused(105, &request).contains("transformer"));
        let two = ImageRequest { prompts: vec!["a".into(); 2], ..request.clone() };
        assert!(refused(105, &two).contains("batch"));
        let decode = Plan { parts: plan.parts[3..].to_vec(), kept: false };
        let message = decode.check(20, &request).unwrap_err().to_string();
        assert!(message.contains("tile") && message.contains("decode"), "{message}");
        let tiled = ImageRequest { tile: Some(512), ..request };
        assert!(decode.check(20, &tiled).unwrap_err().to_string().contains("smaller"));
    }
}
