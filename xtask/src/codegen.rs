//! Rust code from the `.proto` files: written into `proto/src/generated`, which is committed.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use prost::Message;
use prost_types::FileDescriptorSet;

use crate::shell;

const FOLDER: &str = "proto/src/generated";
const PUBLIC: &str = "lava/v1/inference.proto";
const INTERNAL: &str = "lava/worker/v1/worker.proto";

/// Writes the generated files.
pub(crate) fn run() -> Result<()> {
    let folder = shell::root().join(FOLDER);
    std::fs::create_dir_all(&folder)?;
    for (name, content) in generate()? {
        std::fs::write(folder.join(&name), content)
            .with_context(|| format!("cannot write {FOLDER}/{name}"))?;
    }
    Ok(())
}

/// Fails if the committed files are not what the `.proto` files give.
pub(crate) fn check() -> Result<Vec<String>> {
    let folder = shell::root().join(FOLDER);
    let stale = generate()?
        .into_iter()
        .filter(|(name, content)| {
            std::fs::read(folder.join(name)).ok().as_deref() != Some(content.as_slice())
        })
        .map(|(name, _)| format!("{FOLDER}/{name} is not current: run cargo xtask codegen"));
    Ok(stale.collect())
}

/// Name and content of every generated file.
fn generate() -> Result<BTreeMap<String, Vec<u8>>> {
    let mut compiler = protox::Compiler::new([shell::root().join("proto")])?;
    compiler
        .include_imports(true)
        .include_source_info(true)
        .open_files([PUBLIC, INTERNAL])?;
    let mut set = compiler.file_descriptor_set();
    // The public service has its own codec, see proto/src/codec.rs.
    let builder = || tonic_prost_build::configure().bytes(".");
    let strict = builder().codec_path("crate::StrictCodec");
    let mut files = BTreeMap::from([
        rust_file(strict, &set, "lava.v1.rs")?,
        rust_file(builder(), &set, "lava.worker.v1.rs")?,
    ]);
    for file in &mut set.file {
        file.source_code_info = None;
    }
    files.insert("descriptors.bin".into(), set.encode_to_vec());
    Ok(files)
}

/// Generates all packages and takes one of them.
fn rust_file(
    builder: tonic_prost_build::Builder,
    set: &FileDescriptorSet,
    name: &str,
) -> Result<(String, Vec<u8>)> {
    let out = tempfile::tempdir()?;
    builder
        .emit_rerun_if_changed(false)
        .out_dir(out.path())
        .compile_fds(set.clone())?;
    let path = out.path().join(name);
    shell::run(
        shell::program("rustfmt")
            .args(["--edition", "2024"])
            .arg(&path),
    )?;
    Ok((name.to_owned(), std::fs::read(path)?))
}
