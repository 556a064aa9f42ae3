//! A GGUF file of a Llama of one layer, to be spoilt.

use std::collections::BTreeMap;

/// The parts of a file; <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.
pub struct Gguf {
    /// Metadata.
    pub keys: BTreeMap<&'static str, Value>,
    /// Tensors, in their order in the file.
    pub tensors: Vec<Tensor>,
}

/// A value of the metadata.
pub enum Value {
    Number(u32),
    Float(f32),
    Text(&'static str),
    Texts(Vec<&'static str>),
}

/// A tensor of zeros.
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// Its dimensions, innermost first.
    pub dimensions: Vec<u64>,
    /// The number of its type: 0 is F32, 14 is Q6_K.
    pub kind: u32,
}

const ALIGNMENT: usize = 32;
const WIDTH: u64 = 32;

impl Gguf {
    /// A model that knows the word "hello".
    pub fn new() -> Self {
        let tokens = vec!["<|endoftext|>", "h", "e", "l", "o", "he", "ll", "hell", "hello", "Ġ"];
        let vocabulary = tokens.len() as u64;
        let matrix = |name: &str, rows| Tensor { name: name.into(), dimensions: vec![WIDTH, rows], kind: 0 };
        let vector = |name: &str| Tensor { name: name.into(), dimensions: vec![WIDTH], kind: 0 };
        Self {
            keys: BTreeMap::from([
                ("general.architecture", Value::Text("llama")),
                ("llama.attention.head_count", Value::Number(2)),
                ("llama.attention.layer_norm_rms_epsilon", Value::Float(1e-5)),
                ("llama.block_count", Value::Number(1)),
                ("llama.context_length", Value::Number(16)),
                ("llama.embedding_length", Value::Number(WIDTH as u32)),
                ("llama.feed_forward_length", Value::Number(WIDTH as u32)),
                ("tokenizer.chat_template", Value::Text("{{ messages[0].content }}")),
                ("tokenizer.ggml.eos_token_id", Value::Number(0)),
                ("tokenizer.ggml.merges", Value::Texts(vec!["h e", "l l", "he ll", "hell o"])),
                ("tokenizer.ggml.model", Value::Text("gpt2")),
                ("tokenizer.ggml.pre", Value::Text("gpt-2")),
                ("tokenizer.ggml.tokens", Value::Texts(tokens)),
            ]),
            tensors: vec![
                matrix("token_embd.weight", vocabulary),
                matrix("output.weight", vocabulary),
                vector("output_norm.weight"),
                vector("blk.0.attn_norm.weight"),
                matrix("blk.0.attn_q.weight", WIDTH),
                matrix("blk.0.attn_k.weight", WIDTH),
                matrix("blk.0.attn_v.weight", WIDTH),
                matrix("blk.0.attn_output.weight", WIDTH),
                vector("blk.0.ffn_norm.weight"),
                matrix("blk.0.ffn_gate.weight", WIDTH),
                matrix("blk.0.ffn_up.weight", WIDTH),
                matrix("blk.0.ffn_down.weight", WIDTH),
            ],
        }
    }

    /// The file.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(3_u32.to_le_bytes());
        bytes.extend((self.tensors.len() as u64).to_le_bytes());
        bytes.extend((self.keys.len() as u64).to_le_bytes());
        for (key, value) in &self.keys {
            bytes.extend(text(key));
            bytes.extend(value.bytes());
        }
        let mut data = 0_usize;
        for Tensor { name, dimensions, kind } in &self.tensors {
            bytes.extend(text(name));
            bytes.extend((dimensions.len() as u32).to_le_bytes());
            bytes.extend(dimensions.iter().flat_map(|length| length.to_le_bytes()));
            bytes.extend(kind.to_le_bytes());
            bytes.extend((data as u64).to_le_bytes());
            let elements: u64 = dimensions.iter().product();
            data = (data + 4 * elements as usize).next_multiple_of(ALIGNMENT);
        }
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT) + data, 0);
        bytes
    }
}

impl Value {
    fn bytes(&self) -> Vec<u8> {
        let of_type = |kind: u32, value: &[u8]| [&kind.to_le_bytes(), value].concat();
        match self {
            Self::Number(number) => of_type(4, &number.to_le_bytes()),
            Self::Float(number) => of_type(6, &number.to_le_bytes()),
            Self::Text(value) => of_type(8, &text(value)),
            Self::Texts(values) => {
                let items: Vec<u8> = values.iter().flat_map(|value| text(value)).collect();
                of_type(9, &[&8_u32.to_le_bytes()[..], &(values.len() as u64).to_le_bytes(), &items].concat())
            }
        }
    }
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}
