//! The text files of real models that tests use.

use std::path::PathBuf;

use lava_gguf::Gguf;
use lava_text::TextFiles;

pub(crate) fn smollm2() -> TextFiles {
    open("SmolLM2-135M-Instruct.Q4_1.gguf")
}

pub(crate) fn qwen2() -> TextFiles {
    open("qwen2.5-coder-1.5b-instruct-q4_k_m.gguf")
}

fn open(file: &str) -> TextFiles {
    let folder = std::env::var_os("LAVA_MODELS")
        .expect("LAVA_MODELS is not set: run `cargo xtask test`, which fetches the models");
    let gguf = Gguf::open(&PathBuf::from(folder).join(file)).unwrap();
    TextFiles::from_gguf(&gguf).unwrap()
}
