//! What is told while images are made, and how the listener stops it.

use crate::error::go_on;
use framework::{Array, Result, sample::Condition};
use std::{
    cell::{Cell, RefCell},
    ops::ControlFlow,
    time::{Duration, Instant},
};

/// A stage of making images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// A component is read; counts bytes.
    Load(&'static str),
    /// Prompts become conditions; counts text encoders.
    Encode,
    /// A picture to begin from becomes latents; counts tiles.
    Begin,
    /// Noise becomes latents; counts steps.
    Denoise,
    /// Latents become pixels; counts tiles.
    Decode,
}

impl Stage {
    /// A word for it; a component's name while it is loaded.
    pub fn name(self) -> &'static str {
        match self {
            Self::Load(component) => component,
            Self::Encode => "encode",
            Self::Begin => "begin",
            Self::Denoise => "denoise",
            Self::Decode => "decode",
        }
    }
}

/// What happens while images are made.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum ImageEvent<'a> {
    /// So much of a stage is done. It begins with 1, grows, and ends with `total`; loading begins anywhere.
    Progress {
        /// Which.
        stage: Stage,
        /// Done, from 1.
        done: u64,
        /// In all.
        total: u64,
        /// How long the rest of the stage will take at the pace so far.
        remaining: Option<Duration>,
    },
    /// The denoiser is about to be evaluated; some samplers do so more than once a step, and guidance under each condition.
    Evaluating {
        /// The first of the pictures that it is evaluated for.
        first: usize,
        /// The step, from 1.
        step: usize,
        /// The noise level.
        sigma: f64,
        /// Under which condition.
        condition: Condition,
    },
    /// The latents after a step of denoising, as the model has them: `[B, …]` of the pictures that are made at once.
    Latents {
        /// The first of the pictures that these are of.
        first: usize,
        /// The step, from 1.
        step: usize,
        /// The latents.
        latents: &'a Array,
    },
    /// What pictures will be, small. Where the request asks for it.
    Preview {
        /// The first of the pictures that these are.
        first: usize,
        /// `[B, h, w, 3]`, bytes.
        pixels: &'a Array,
    },
}

/// Hears what happens; may stop the work.
pub type Observer<'a> = dyn FnMut(ImageEvent<'_>) -> ControlFlow<()> + 'a;

/// Whoever watches, shared by the stages of one request.
pub struct Watch<'a> {
    observer: RefCell<&'a mut Observer<'a>>,
    /// The stage that was told of last, when that was first, and what was done then.
    pace: Cell<Option<(Stage, Instant, u64)>>,
}

impl<'a> Watch<'a> {
    /// Tells `observer`.
    pub fn new(observer: &'a mut Observer<'a>) -> Self {
        Self { observer: RefCell::new(observer), pace: Cell::new(None) }
    }

    /// Tells of something.
    ///
    /// # Errors
    /// [`framework::Error::Cancelled`] when the observer breaks.
    pub fn tell(&self, event: ImageEvent<'_>) -> Result<()> {
        go_on((*self.observer.borrow_mut())(event))
    }

    /// So much of a stage is done.
    ///
    /// # Errors
    /// As [`tell`](Self::tell).
    pub fn progress(&self, stage: Stage, done: u64, total: u64) -> Result<()> {
        let now = Instant::now();
        let (begun, from) = match self.pace.get() {
            Some((known, begun, from)) if known == stage => (begun, from),
            _ => {
                self.pace.set(Some((stage, now, done)));
                (now, done)
            }
        };
        let share = total.saturating_sub(done) as f64 / done.saturating_sub(from) as f64;
        let remaining = Duration::try_from_secs_f64(now.duration_since(begun).as_secs_f64() * share).ok();
        self.tell(ImageEvent::Progress { stage, done, total, remaining })
    }

    /// Tells of the loading of components.
    pub fn loading(&self) -> impl FnMut(&'static str, u64, u64) -> ControlFlow<()> {
        |component, done, total| match self.progress(Stage::Load(component), done, total) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use framework::Error;

    #[test]
    fn the_rest_is_reckoned_from_the_pace_of_the_stage() {
        let mut seen = Vec::new();
        let mut observer = |event: ImageEvent<'_>| {
            if let ImageEvent::Progress { stage, done, remaining, .. } = event {
                seen.push((stage, done, remaining));
            }
            ControlFlow::Continue(())
        };
        let watch = Watch::new(&mut observer);
        for done in 1..=3 {
            watch.progress(Stage::Denoise, done, 5).unwrap();
            std::thread::sleep(Duration::from_millis(20));
        }
        watch.progress(Stage::Decode, 1, 1).unwrap();
        assert_eq!(seen[0].2, None, "one step has no pace");
        let rest = seen[2].2.unwrap();
        assert!(rest >= Duration::from_millis(40) && rest < Duration::from_secs(4), "{rest:?}");
        assert_eq!(seen[3], (Stage::Decode, 1, None));
    }

    #[test]
    fn a_break_cancels() {
        let mut observer = |_: ImageEvent<'_>| ControlFlow::Break(());
        let watch = Watch::new(&mut observer);
        assert!(matches!(watch.progress(Stage::Encode, 1, 1), Err(Error::Cancelled)));
        assert!(watch.loading()("vae", 1, 2).is_break());
    }
}
