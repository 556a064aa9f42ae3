//! Text to tokens and back, with the fixtures' small byte-level vocabulary.

use crate::suite::Suite;
use criterion::Throughput;
use serde_json::Value;
use std::{fs, path::Path};
use zoo::text::Tokenizer;

pub fn measure(suite: &mut Suite) -> Result<(), Box<dyn std::error::Error>> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let fixture: Value = serde_json::from_slice(&fs::read(package.join("../fixtures/text/tiny-bpe.json"))?)?;
    let folder = tempfile::tempdir()?;
    fs::write(folder.path().join("tokenizer.json"), fixture["tokenizer"].to_string())?;
    let tokenizer = Tokenizer::from_snapshot(folder.path())?;
    let text = fs::read_to_string(package.join("../README.md"))?;
    let ids = tokenizer.encode(&text, false)?;
    let bytes = Throughput::Bytes(text.len() as u64);
    suite.any("text", "encode the README", bytes.clone(), || tokenizer.encode(&text, false));
    suite.any("text", "decode it", bytes, || tokenizer.decode(&ids, false));
    suite.any("text", "decode it a token at a time", Throughput::Elements(ids.len() as u64), || {
        let mut stream = tokenizer.stream(false);
        for &id in &ids {
            stream.push(id)?;
        }
        stream.finish()
    });
    Ok(())
}
