//! With the feature `cuda`: compiles `cuda/*.cu` for the cards that we build for, and for later ones as PTX.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// An architecture, and what is made for it: machine code, or PTX that a driver compiles.
const TARGETS: [(&str, &str); 3] = [
    ("compute_80", "sm_80"),
    ("compute_90", "sm_90"),
    ("compute_90", "compute_90"),
];

fn main() {
    println!("cargo:rerun-if-changed=cuda");
    println!("cargo:rerun-if-env-changed=CUDA_HOME");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let mut images = String::new();
    for source in sources() {
        let image = out.join(source.with_extension("fatbin").file_name().expect("a file"));
        compile(&source, &image);
        images += &format!("include_bytes!({image:?}),\n");
    }
    fs::write(out.join("images.rs"), format!("&[\n{images}]\n")).expect("OUT_DIR can be written");
}

fn sources() -> Vec<PathBuf> {
    let entries = fs::read_dir("cuda").expect("kernels/cuda is there");
    let paths = entries.map(|entry| entry.expect("kernels/cuda can be read").path());
    let mut sources: Vec<PathBuf> = paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "cu"))
        .collect();
    sources.sort();
    sources
}

fn compile(source: &Path, image: &Path) {
    let nvcc = match env::var_os("CUDA_HOME") {
        Some(home) => Path::new(&home).join("bin/nvcc"),
        None => PathBuf::from("nvcc"),
    };
    let mut command = Command::new(&nvcc);
    command.args(["-std=c++17", "-O3", "-fatbin", "-Werror", "all-warnings"]);
    for (architecture, code) in TARGETS {
        command.arg(format!("-gencode=arch={architecture},code={code}"));
    }
    let status = command.arg("-o").arg(image).arg(source).status();
    let status = status.unwrap_or_else(|error| {
        panic!(
            "cannot start {}: {error}. The feature `cuda` needs CUDA's compiler: set CUDA_HOME, put nvcc on PATH, or \
             build with `cargo xtask`, which fetches one",
            nvcc.display()
        )
    });
    assert!(
        status.success(),
        "nvcc failed on {} ({status})",
        source.display()
    );
}
