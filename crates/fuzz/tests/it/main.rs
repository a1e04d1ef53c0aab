//! Every input that is known is put through its target.

#![allow(clippy::print_stdout)]

use std::fs;
use std::path::{Path, PathBuf};

use lava_fuzz::{TARGETS, Target};

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

#[test]
fn the_corpus_is_small() {
    let sizes = TARGETS.iter().flat_map(inputs);
    let bytes: u64 = sizes.map(|file| fs::metadata(file).unwrap().len()).sum();
    assert!(bytes < 1 << 20, "{bytes} bytes");
}
