//! What a language model is asked for on the command line.

use super::{ModelArguments, as_option};
use crate::{Chat, Error, Request, Result, Structure, published};
use clap::{ArgAction, Args, ValueEnum};
use framework::sample::TokenSampler;
use serde_json::Value;
use std::{fs, path::Path};

/// How an answer is chosen.
#[derive(Debug, Args)]
pub struct SamplingArguments {
    /// The most tokens to generate.
    #[arg(long, default_value_t = 512, allow_negative_numbers = true)]
    max_tokens: usize,
    /// 0 takes the likeliest token; higher is freer. By default what the model's authors recommend, else 0.
    #[arg(long, allow_negative_numbers = true)]
    temperature: Option<f32>,
    /// Keep the k likeliest tokens; 0 keeps all.
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    top_k: usize,
    /// Keep the likeliest tokens that together reach this probability. By default what the model's authors recommend,
    /// else 1.
    #[arg(long, allow_negative_numbers = true)]
    top_p: Option<f32>,
    /// Keep tokens at least this probable relative to the likeliest.
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    min_p: f32,
    /// Make tokens that occurred less likely; 1 does not.
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    repetition_penalty: f32,
    /// Make tokens less likely with each time that they were generated, from -2 to 2.
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    frequency_penalty: f32,
    /// Make tokens less likely once they were generated, from -2 to 2.
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    presence_penalty: f32,
    /// Add to the logit of a token; may be given more than once.
    #[arg(long, value_name = "TOKEN_ID=VALUE", value_parser = bias)]
    logit_bias: Vec<(u32, f32)>,
    /// The seed of the choices.
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    seed: u64,
    /// End the answer at this text; may be given more than once.
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Answer with a JSON object.
    #[arg(long, conflicts_with = "json_schema", action = ArgAction::SetTrue)]
    json: bool,
    /// Answer with JSON that satisfies this schema.
    #[arg(long, value_name = "FILE_OR_JSON")]
    json_schema: Option<String>,
    /// Keep keys and values in so many bits, 4 or 8: a long context takes less memory, and answers are less exact.
    #[arg(long, value_name = "BITS", allow_negative_numbers = true)]
    kv_bits: Option<i32>,
}

/// What a conversation has beside what is said.
#[derive(Debug, Args)]
pub struct ChatArguments {
    /// What the model is told before the conversation.
    #[arg(long)]
    pub system: Option<String>,
    /// The tools that the model may call: a JSON list of their schemas, as transformers takes it.
    #[arg(long, value_name = "FILE")]
    tools: Option<String>,
    /// Whether the model thinks before it answers, where its chat template has a switch for it.
    #[arg(long, value_enum)]
    thinking: Option<Switch>,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Switch {
    On,
    Off,
}

impl SamplingArguments {
    /// The request, checked before any weight is read.
    pub fn request(&self, model: &ModelArguments) -> Result<Request> {
        let row = published::find(&model.model).ok().and_then(|row| row.language);
        let (temperature, top_p) = row.map_or((0.0, 1.0), |row| (row.temperature, row.top_p));
        let request = Request {
            max_tokens: self.max_tokens,
            sampler: TokenSampler {
                logit_bias: self.logit_bias.iter().copied().collect(),
                repetition_penalty: self.repetition_penalty,
                frequency_penalty: self.frequency_penalty,
                presence_penalty: self.presence_penalty,
                temperature: self.temperature.unwrap_or(temperature),
                top_k: self.top_k,
                top_p: self.top_p.unwrap_or(top_p),
                min_p: self.min_p,
            },
            seed: self.seed,
            stop: self.stop.clone(),
            structure: self.structure()?,
            kv_bits: self.kv_bits,
            special: false,
        };
        request.validate().map_err(as_option)?;
        Ok(request)
    }

    fn structure(&self) -> Result<Option<Structure>> {
        let schema = match &self.json_schema {
            None => return Ok(self.json.then(Structure::json)),
            Some(text) if text.trim_start().starts_with(['{', '[', '"']) => serde_json::from_str(text)
                .map_err(|error| Error::argument("--json-schema", format!("it is no JSON: {error}")))?,
            Some(path) => json_file(Path::new(path))?,
        };
        Structure::schema(schema).map(Some).map_err(as_option)
    }
}

impl ChatArguments {
    /// Reads the tools.
    pub fn chat(&self) -> Result<Chat> {
        let tools = self.tools.as_deref().map(|path| tools(Path::new(path))).transpose()?;
        let thinking = self.thinking.map(|switch| switch == Switch::On);
        Ok(Chat { tools, thinking, ..Chat::default() })
    }
}

fn tools(path: &Path) -> Result<Value> {
    let tools = json_file(path)?;
    let described =
        |tool: &Value| tool.pointer("/function/name").or_else(|| tool.get("name")).is_some_and(Value::is_string);
    match tools.as_array().map(|tools| tools.iter().position(|tool| !described(tool))) {
        Some(None) => Ok(tools),
        Some(Some(at)) => Err(Error::file(path, format!("tool {at}, counted from 0, has no `function` with a `name`"))),
        None => {
            Err(Error::file(path, "expected a list of tools, such as [{\"type\": \"function\", \"function\": {…}}]"))
        }
    }
}

/// All of a file that a person wrote.
pub fn text_file(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|error| Error::file(path, format!("cannot be read as text: {error}")))
}

fn json_file(path: &Path) -> Result<Value> {
    serde_json::from_str(&text_file(path)?).map_err(|error| Error::file(path, format!("it is no JSON: {error}")))
}

/// `TOKEN_ID=VALUE`.
fn bias(text: &str) -> Result<(u32, f32), String> {
    let (token, value) = text.split_once('=').ok_or("expected TOKEN_ID=VALUE, such as 17=-2.5")?;
    let token = token.trim().parse().map_err(|_| format!("`{token}` is no id of a token"))?;
    Ok((token, value.trim().parse().map_err(|_| format!("`{value}` is no number"))?))
}
