//! The tokenizer inside a GGUF file's metadata.

use super::gguf::GgufTokenizer;
use crate::{Error, Result};
use framework::weights::gguf::Metadata;

impl GgufTokenizer {
    /// Reads the `tokenizer.*` keys.
    ///
    /// # Errors
    /// When the file has no tokenizer, or a key holds something else than it should.
    pub fn from_metadata(metadata: &Metadata) -> Result<Self> {
        let key = |name: &str| format!("tokenizer.ggml.{name}");
        if !metadata.has(&key("model")) {
            return Err(Error::tokenizer("the GGUF file holds none; convert the model again with its tokenizer"));
        }
        let text = |key: &str| metadata.has(key).then(|| metadata.str(key).map(str::to_owned)).transpose();
        let strings = |name: &str| match metadata.has(&key(name)) {
            true => metadata.strings(&key(name)).map(<[String]>::to_vec),
            false => Ok(Vec::new()),
        };
        let flag = |name: &str| metadata.has(&key(name)).then(|| metadata.bool(&key(name))).transpose();
        let id = |name: &str| -> Result<Option<u32>> {
            let key = key(&format!("{name}_token_id"));
            if !metadata.has(&key) {
                return Ok(None);
            }
            let id = metadata.u64(&key)?;
            let narrow = u32::try_from(id).map_err(|_| Error::tokenizer(format!("`{key}` is {id}, which is no id")))?;
            Ok(Some(narrow))
        };
        let types = match metadata.has(&key("token_type")) {
            true => metadata.integers(&key("token_type"))?.into_iter().map(|kind| kind as i32).collect(),
            false => Vec::new(),
        };
        let scores = if metadata.has(&key("scores")) { metadata.f32s(&key("scores"))? } else { Vec::new() };
        Ok(Self {
            model: metadata.str(&key("model"))?.to_owned(),
            pre: text(&key("pre"))?,
            tokens: strings("tokens")?,
            types,
            merges: strings("merges")?,
            scores,
            bos: id("bos")?,
            eos: id("eos")?,
            eot: id("eot")?,
            eom: id("eom")?,
            unk: id("unknown")?,
            pad: id("padding")?,
            add_bos: flag("add_bos_token")?,
            add_eos: flag("add_eos_token")?,
            add_space_prefix: flag("add_space_prefix")?,
            chat_template: text("tokenizer.chat_template")?,
            tool_template: text("tokenizer.chat_template.tool_use")?,
        })
    }
}
