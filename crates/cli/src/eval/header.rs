//! What makes two runs the same.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use lava_lab::question::Text;
use lava_lab::results::{FORMAT, Header};
use xxhash_rust::xxh3::xxh3_128;

use super::options::{Eval, file_name};
use super::subject::Subject;

/// Everything that changes the answer to a question. Which questions, policies and budgets are asked is
/// not among it: a file may be added to.
pub(super) fn header(options: &Eval, texts: &[Text], subject: &Subject) -> Result<Header> {
    let digest = |bytes: &[u8]| format!("{:032x}", xxh3_128(bytes));
    let mut inputs: BTreeMap<String, String> = texts
        .iter()
        .map(|text| (text.name.clone(), digest(text.content.as_bytes())))
        .collect();
    for file in &options.data {
        let bytes =
            std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        inputs.insert(file_name(file), digest(&bytes));
    }
    let setting = |name: &str, value: String| (name.to_owned(), value);
    let where_it_ran = match &options.addr {
        Some(_) => [setting("from", "a server".to_owned())].to_vec(),
        None => vec![setting(
            "weights",
            format!("{:?}", options.weights).to_lowercase(),
        )],
    };
    let continuation = setting("continuation", options.continuation.to_string());
    Ok(Header {
        lava_eval: FORMAT,
        model: subject.name().to_owned(),
        model_digest: subject.digest()?,
        commit: options.commit.clone(),
        seed: options.seed,
        texts: inputs,
        settings: where_it_ran.into_iter().chain([continuation]).collect(),
    })
}
