//! A checkpoint that no family knows, by a `weights.toml` and a config.

use crate::{continued, place};
use framework::weights::{
    Packed, Tensors as _,
    safetensors::{self, File},
};
use std::{collections::BTreeMap, fs, path::Path};
use tempfile::TempDir;

/// Rows of whole heads, from the two halves that transformers rotates to the neighbours that Meta does.
fn interleaved(rows: &[u8], bytes: usize, head: usize) -> Vec<u8> {
    let rows: Vec<&[u8]> = rows.chunks(bytes).collect();
    rows.chunks(head)
        .flat_map(|head| (0..head.len()).map(move |n| head[n / 2 + n % 2 * head.len() / 2]))
        .flatten()
        .copied()
        .collect()
}

/// The Llama among the fixtures under Meta's names, with the example's config and map.
fn foreign() -> TempDir {
    let file = File::open(&place("fixtures/llama/base/weights.safetensors")).unwrap();
    let mut tensors = BTreeMap::new();
    for name in file.header().tensors.keys() {
        let (info, mut bytes) = file.read(name).unwrap();
        if ["q_proj", "k_proj"].iter().any(|part| name.contains(part)) {
            bytes = interleaved(&bytes, 4 * info.shape[1], 4);
        }
        let renamed = [
            ("model.embed_tokens", "tok_embeddings"),
            ("lm_head", "output"),
            ("model.", ""),
            ("self_attn.q_proj", "attention.wq"),
            ("self_attn.k_proj", "attention.wk"),
            ("self_attn.v_proj", "attention.wv"),
            ("self_attn.o_proj", "attention.wo"),
            ("input_layernorm", "attention_norm"),
            ("post_attention_layernorm", "ffn_norm"),
            ("mlp.gate_proj", "feed_forward.w1"),
            ("mlp.down_proj", "feed_forward.w2"),
            ("mlp.up_proj", "feed_forward.w3"),
        ];
        let name = renamed.iter().fold(name.clone(), |name, (ours, metas)| name.replace(ours, metas));
        tensors.insert(name, (info, bytes));
    }
    let folder = tempfile::tempdir().unwrap();
    safetensors::write(&folder.path().join("consolidated.safetensors"), &tensors, &BTreeMap::new()).unwrap();
    for name in ["config.json", "weights.toml"] {
        fs::copy(place("examples/map").join(name), folder.path().join(name)).unwrap();
    }
    folder
}

/// The same Llama as transformers names it.
fn known() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let weights = place("fixtures/llama/base/weights.safetensors");
    fs::copy(weights, folder.path().join("model.safetensors")).unwrap();
    fs::copy(place("examples/map/config.json"), folder.path().join("config.json")).unwrap();
    folder
}

fn tokens(folder: &Path) -> zoo::Result<(Vec<u32>, Vec<f32>)> {
    continued(folder, Packed::Keep, &[1, 5, 9, 42], 8)
}

#[test]
fn a_map_and_a_config_are_enough() {
    assert_eq!(tokens(foreign().path()).unwrap(), tokens(known().path()).unwrap());
}

#[test]
fn the_map_must_cover_the_file() {
    let folder = foreign();
    let path = folder.path().join("weights.toml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("output.{p:*}", "outputs.{p:*}")).unwrap();
    let problem = tokens(folder.path()).unwrap_err().to_string();
    assert!(problem.contains("lm_head.weight") && problem.contains("output.weight"), "{problem}");
    fs::remove_file(&path).unwrap();
    let problem = tokens(folder.path()).unwrap_err().to_string();
    assert!(problem.contains("tok_embeddings.weight"), "{problem}");
}
