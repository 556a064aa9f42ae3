//! `zoo complete` and `zoo chat`.

use super::{
    ModelArguments,
    language::{ChatArguments, SamplingArguments},
    show::{Show, Unit, note_failure},
};
use crate::{
    Chat, Completion, Error, Event, LanguageModel, Request, Result, Stopped,
    text::{Message, tool_calls},
};
use serde_json::json;
use std::{
    io::{self, IsTerminal, Read, stdin, stdout},
    ops::ControlFlow,
};

/// Continues a text.
pub fn complete(prompt: &str, model: &ModelArguments, sampling: &SamplingArguments, show: &Show) -> Result<()> {
    let request = sampling.request(model)?;
    let model = open(model, show)?;
    let answer = observed(prompt, show, |observer| model.complete(prompt, &request, observer))?;
    report(&answer, &request, show)
}

/// Answers a question, or talks until the input ends.
pub fn chat(
    prompt: Option<&str>,
    arguments: &ChatArguments,
    model: &ModelArguments,
    sampling: &SamplingArguments,
    show: &Show,
) -> Result<()> {
    let chat = arguments.chat()?;
    // Some models mark the calls of tools with special tokens.
    let request = Request { special: chat.tools.is_some(), ..sampling.request(model)? };
    let question = match prompt {
        Some(prompt) => Some(prompt.to_owned()),
        None if stdin().is_terminal() => None,
        None => Some(read_all()?),
    };
    if question.as_ref().is_some_and(|question| question.trim().is_empty()) {
        return Err(Error::argument("prompt", "it is empty: there is nothing to answer"));
    }
    let model = open(model, show)?;
    let mut messages: Vec<Message> = arguments.system.iter().map(Message::system).collect();
    if let Some(question) = question {
        messages.push(Message::user(question));
        return answer(&model, &messages, &chat, &request, show).map(drop);
    }
    show.note("Type a message; an empty line, or the end of input, ends the conversation.")?;
    while let Some(line) = ask(show)? {
        messages.push(Message::user(line));
        let text = answer(&model, &messages, &chat, &request, show)?.text;
        messages.push(Message::assistant(text));
    }
    Ok(())
}

/// All of a piped input, as one message.
fn read_all() -> Result<String> {
    let mut text = String::new();
    stdin().read_to_string(&mut text).map_err(unreadable)?;
    Ok(text.trim_end().to_owned())
}

fn unreadable(error: io::Error) -> Error {
    Error::argument("prompt", format!("the input cannot be read: {error}"))
}

fn ask(show: &Show) -> Result<Option<String>> {
    show.text("> ")?;
    let mut line = String::new();
    stdin().read_line(&mut line).map_err(unreadable)?;
    let line = line.trim();
    Ok((!line.is_empty()).then(|| line.to_owned()))
}

fn answer(
    model: &LanguageModel,
    messages: &[Message],
    chat: &Chat,
    request: &Request,
    show: &Show,
) -> Result<Completion> {
    let answer = observed("", show, |observer| model.chat_with(messages, chat, request, observer))?;
    if chat.tools.is_some() {
        for call in tool_calls(&answer.text) {
            show.event("tool_call", serde_json::to_value(call).unwrap_or_default())?;
        }
    }
    report(&answer, request, show)?;
    Ok(answer)
}

/// Opens a language model, with its progress.
pub fn open(model: &ModelArguments, show: &Show) -> Result<LanguageModel> {
    let mut failure = None;
    let opened = model.compute.open().language_model_with(&model.model, &mut |done, total| {
        note_failure(show.progress("load", Unit::Bytes, done, total), &mut failure)
    });
    failure.map_or(opened, Err)
}

/// Runs a generation that streams to `show`, after `before`; an error of the output ends it and is the result.
fn observed(
    before: &str,
    show: &Show,
    run: impl FnOnce(&mut dyn FnMut(Event<'_>) -> ControlFlow<()>) -> Result<Completion>,
) -> Result<Completion> {
    let mut failure = None;
    let outcome = run(&mut |event| {
        let shown = match event {
            Event::Prefill { done, total } => {
                let shown = show.progress("prefill", Unit::Things("tokens"), done as u64, total as u64);
                // Only now is it certain that an answer follows.
                if done == total { shown.and_then(|()| show.text(before)) } else { shown }
            }
            Event::Text(text) => show.text(text).and_then(|()| show.event("text", json!({"text": text}))),
            Event::Token => Ok(()),
        };
        note_failure(shown, &mut failure)
    });
    failure.map_or(outcome, Err)
}

fn report(answer: &Completion, request: &Request, show: &Show) -> Result<()> {
    show.text("\n")?;
    let (reason, stop) = match &answer.stopped {
        Stopped::EndOfText => ("end_of_text", None),
        Stopped::Complete => ("complete", None),
        Stopped::StopString(text) => ("stop_string", Some(text)),
        Stopped::MaxTokens => ("max_tokens", None),
        Stopped::ContextFull => ("context_full", None),
    };
    show.event(
        "done",
        json!({
            "text": answer.text,
            "tokens": answer.tokens,
            "stopped": reason,
            "stop_string": stop,
            "truncated": answer.is_truncated(),
            "prompt_tokens": answer.prompt_tokens,
            "prefill_tokens_per_second": answer.prefill_rate(),
            "decode_tokens_per_second": answer.decode_rate(),
        }),
    )?;
    let end = match answer.stopped {
        Stopped::MaxTokens => "; stopped at --max-tokens",
        Stopped::ContextFull => "; the context is full",
        Stopped::EndOfText | Stopped::Complete | Stopped::StopString(_) => "",
    };
    if request.structure.is_some() && answer.is_truncated() {
        show.note(&format!("The answer is cut off, and no whole JSON{end}."))?;
    }
    // Speed is for whoever watches; a pipe wants the answer alone.
    if stdout().is_terminal() {
        let tokens = answer.tokens.len();
        show.note(&format!(
            "[prompt {} tokens at {:.1} tokens/s, answer {tokens} tokens at {:.1} tokens/s{end}]",
            answer.prompt_tokens,
            answer.prefill_rate(),
            answer.decode_rate(),
        ))?;
    }
    Ok(())
}
