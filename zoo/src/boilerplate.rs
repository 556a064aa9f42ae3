//! Keys that every config of a package carries and that say nothing about the model.

/// What transformers and diffusers write into every `config.json`.
const KEYS: &[&str] = &[
    "_attn_implementation_autoset",
    "_class_name",
    "_diffusers_version",
    "_name_or_path",
    "architectures",
    "auto_map",
    "bos_token_id",
    "chunk_size_feed_forward",
    "dtype",
    "eos_token_id",
    "id2label",
    "is_encoder_decoder",
    "label2id",
    "model_type",
    "output_attentions",
    "output_hidden_states",
    "pad_token_id",
    "problem_type",
    // Held against the file before the family reads its config.
    "quantization",
    "quantization_config",
    "return_dict",
    "torch_dtype",
    "transformers.js_config",
    "transformers_version",
    "use_cache",
];

/// Whether a key of a config may be left unread: it is boilerplate, or the family names a reason.
pub fn is_ignored(key: &str, of_family: &[(&str, &str)]) -> bool {
    let listed = |known: &str| key == known || key.strip_prefix(known).is_some_and(|rest| rest.starts_with('.'));
    KEYS.iter().any(|known| listed(known)) || of_family.iter().any(|(known, _)| listed(known))
}
