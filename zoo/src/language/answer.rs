//! The text of an answer as it grows.

use crate::{
    Event, Request, Result, Stopped,
    error::go_on,
    text::{Stop, Stream, Tokenizer},
};
use std::ops::ControlFlow;

/// Ids in, shown text out, up to a stop string.
pub struct Answer<'a> {
    stream: Stream,
    stop: Stop,
    text: String,
    observer: &'a mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
}

impl<'a> Answer<'a> {
    pub fn new(
        request: &Request,
        tokenizer: &Tokenizer,
        observer: &'a mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Self> {
        let stop = Stop::new(request.stop.iter().cloned())?;
        Ok(Self { stream: tokenizer.stream(!request.special), stop, text: String::new(), observer })
    }

    pub fn tell(&mut self, event: Event<'_>) -> Result<()> {
        Ok(go_on((self.observer)(event))?)
    }

    fn show(&mut self, piece: &str) -> Result<()> {
        self.text.push_str(piece);
        if piece.is_empty() { self.tell(Event::Token) } else { self.tell(Event::Text(piece)) }
    }

    /// Takes a token; returns the stop string that it completed.
    pub fn push(&mut self, token: u32) -> Result<Option<String>> {
        let piece = self.stream.push(token)?.unwrap_or_default();
        let piece = self.stop.push(&piece);
        self.show(&piece)?;
        Ok(self.stop.fired().map(str::to_owned))
    }

    /// Shows what was held back, unless a stop string cut it off.
    pub fn finish(self, stopped: &Stopped) -> Result<String> {
        let Self { stream, mut stop, mut text, observer } = self;
        if !matches!(stopped, Stopped::StopString(_)) {
            let mut rest = stop.push(&stream.finish()?);
            rest.push_str(&stop.finish());
            if !rest.is_empty() {
                go_on(observer(Event::Text(&rest)))?;
            }
            text.push_str(&rest);
        }
        Ok(text)
    }
}
