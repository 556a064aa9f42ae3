//! Which files of a repository a model needs.

use std::collections::BTreeSet;

/// Names under which transformers and diffusers publish weights, without their endings.
const WEIGHTS: [&str; 2] = ["model", "diffusion_pytorch_model"];

/// What says that a folder is a part of a pipeline.
const CONFIGS: [&str; 4] =
    ["config.json", "scheduler_config.json", "tokenizer_config.json", "preprocessor_config.json"];

/// The files that are read: configs, tokenizers, templates, and one set of weights in each folder that is a part of the
/// model. Other precisions, other frameworks' files, pictures and the repository's own files stay where they are.
pub(super) fn needed<'a>(files: &'a [&'a str]) -> Vec<&'a str> {
    let all: BTreeSet<&str> = files.iter().copied().collect();
    let mut folders = BTreeSet::from([""]);
    if all.contains("model_index.json") {
        let of =
            |file: &'a str| file.split_once('/').filter(|(_, name)| CONFIGS.contains(name)).map(|(folder, _)| folder);
        folders.extend(all.iter().filter_map(|file| of(file)));
    }
    let is_pipeline = folders.len() > 1;
    let mut found = Vec::new();
    for folder in folders {
        let inside = |file: &'a str| match folder {
            "" => (!file.contains('/')).then_some(file),
            folder => file.strip_prefix(folder)?.strip_prefix('/').filter(|name| !name.contains('/')),
        };
        let names: Vec<&str> = all.iter().filter_map(|file| inside(file)).collect();
        // A pipeline's own folder may hold the same weights once more, in a single file.
        let weights = if is_pipeline && folder.is_empty() { Vec::new() } else { weights(&names) };
        let wanted = names.iter().filter(|name| is_small(name) || weights.contains(name));
        let full = |name: &&str| all.iter().copied().find(|file| inside(file) == Some(*name));
        found.extend(wanted.filter_map(full));
    }
    found.extend(all.iter().filter(|file| file.starts_with("additional_chat_templates/") && file.ends_with(".jinja")));
    found
}

fn is_small(name: &str) -> bool {
    let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending);
    match ending {
        // Of the indices only those of weights that are taken.
        "json" => {
            !name.ends_with(".index.json")
                || WEIGHTS.iter().any(|stem| name == format!("{stem}.safetensors.index.json"))
        }
        "jinja" => true,
        "txt" => matches!(name, "merges.txt" | "vocab.txt"),
        "toml" => name == "weights.toml",
        _ => false,
    }
}

/// The shards of an index, or the single file, or the only file of weights.
fn weights<'a>(names: &[&'a str]) -> Vec<&'a str> {
    for stem in WEIGHTS {
        if names.contains(&format!("{stem}.safetensors.index.json").as_str()) {
            let shard =
                |name: &&&str| name.starts_with(stem) && name.ends_with(".safetensors") && name.contains("-of-");
            let shards: Vec<&str> = names.iter().filter(shard).copied().collect();
            if !shards.is_empty() {
                return shards;
            }
        }
        let single = format!("{stem}.safetensors");
        if let Some(single) = names.iter().find(|name| **name == single) {
            return vec![single];
        }
    }
    let files: Vec<&str> =
        names.iter().filter(|name| name.ends_with(".safetensors") || name.ends_with(".gguf")).copied().collect();
    if files.len() == 1 { files } else { Vec::new() }
}

/// Files of weights of which one would have to be chosen.
pub(super) fn choices<'a>(files: &[&'a str]) -> Vec<&'a str> {
    files.iter().filter(|file| file.ends_with(".gguf") || file.ends_with(".safetensors")).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_set_of_weights_and_what_is_read_with_it() {
        let files = [
            ".gitattributes",
            "README.md",
            "additional_chat_templates/tool_use.jinja",
            "chat_template.jinja",
            "config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "onnx/model.onnx",
            "original/consolidated.00.pth",
            "pytorch_model.bin.index.json",
            "tokenizer.json",
        ];
        let found = needed(&files);
        assert_eq!(
            found,
            [
                "chat_template.jinja",
                "config.json",
                "model-00001-of-00002.safetensors",
                "model-00002-of-00002.safetensors",
                "model.safetensors.index.json",
                "tokenizer.json",
                "additional_chat_templates/tool_use.jinja",
            ]
        );
        assert_eq!(needed(&["a.gguf", "README.md"]), ["a.gguf"]);
        assert_eq!(needed(&["model.fp16.safetensors", "model.safetensors", "model.safetensors.index.json"]).len(), 2);
        assert!(needed(&["a.Q4.gguf", "a.Q8.gguf"]).is_empty());
        assert_eq!(choices(&["a.Q4.gguf", "a.Q8.gguf", "b.txt"]).len(), 2);
    }

    #[test]
    fn a_pipeline_is_its_parts() {
        let files = [
            "ae.safetensors",
            "dev_grid.jpg",
            "flux1-dev.safetensors",
            "model_index.json",
            "scheduler/scheduler_config.json",
            "text_encoder/config.json",
            "text_encoder/model.safetensors",
            "text_encoder/model.fp16.safetensors",
            "tokenizer/merges.txt",
            "tokenizer/tokenizer_config.json",
            "transformer/config.json",
            "transformer/diffusion_pytorch_model-00001-of-00001.safetensors",
            "transformer/diffusion_pytorch_model.safetensors.index.json",
            "extras/notes.json",
        ];
        let found = needed(&files);
        assert_eq!(found.len(), files.len() - 5, "{found:?}");
        assert!(!found.iter().any(|file| file.contains("flux1") || file.contains("fp16") || file.contains("extras")));
    }
}
