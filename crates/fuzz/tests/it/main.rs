//! Every input that is known is put through its target.

#![allow(clippy::print_stdout)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use lava_fuzz::{TARGETS, Target};
use prost::Message;
use prost_types::FileDescriptorSet;

fn corpus(target: &Target) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    folder.join(target.name)
}

fn inputs(target: &Target) -> Vec<PathBuf> {
    let folder = corpus(target);
    let files = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn no_known_input_breaks_a_law() {
    for target in &TARGETS {
        for file in inputs(target) {
            // What a failure belongs to; it is shown with the panic.
            println!("{}", file.display());
            (target.run)(&fs::read(&file).unwrap());
        }
    }
}

#[test]
fn the_corpus_has_what_real_peers_send() {
    for target in &TARGETS {
        for (name, input) in (target.seeds)() {
            let file = corpus(target).join(name);
            let found = fs::read(&file).unwrap_or_default();
            let file = file.display();
            assert!(
                found == input,
                "{file} is old; `cargo xtask fuzz --seeds` writes it"
            );
        }
    }
}

/// Messages of calls in which there is nothing to get wrong: empty, or a field that is looked up or copied.
const PLAIN: [&str; 7] = [
    "DescribeRequest",
    "DrainRequest",
    "DrainResponse",
    "GetModelRequest",
    "GetTextFilesRequest",
    "LaneReply",
    "ListModelsRequest",
];
/// What only clients read.
const ANSWERS: [&str; 4] = [
    "GenerateResponse",
    "ListModelsResponse",
    "Model",
    "TokenizeResponse",
];

#[test]
fn every_message_of_a_call_has_a_target() {
    let set = FileDescriptorSet::decode(lava_proto::DESCRIPTORS).unwrap();
    let services = set.file.iter().flat_map(|file| &file.service);
    let messages = services
        .flat_map(|service| &service.method)
        .flat_map(|method| [method.input_type(), method.output_type()])
        .map(|path| path.rsplit('.').next().unwrap());
    let sent: BTreeSet<&str> = messages.collect();
    let targets = TARGETS.iter().flat_map(|target| target.messages.iter());
    let known: Vec<&str> = targets.chain(&PLAIN).chain(&ANSWERS).copied().collect();
    assert_eq!(BTreeSet::from_iter(known.iter().copied()), sent);
    assert_eq!(known.len(), sent.len(), "one is there twice");
}

#[test]
fn the_corpus_is_small() {
    let sizes = TARGETS.iter().flat_map(inputs);
    let bytes: u64 = sizes.map(|file| fs::metadata(file).unwrap().len()).sum();
    assert!(bytes < 1 << 20, "{bytes} bytes");
}
