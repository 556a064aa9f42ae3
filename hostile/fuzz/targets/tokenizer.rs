#![no_main]
hostile_fuzz::target!("tokenizer");
