//! libFuzzer over one target. `cargo xtask fuzz` builds this with counters in our code and calls it; libFuzzer's own
//! options come first, `-ignore_remaining_args=1` ends them, and ours follow: `--target=NAME`, or `--seeds=FOLDER` to
//! write what the search begins with.

#![no_main]
#![allow(clippy::print_stderr)]

use std::path::Path;
use std::process::exit;
use std::sync::OnceLock;

use lava_fuzz::{TARGETS, Target, may_panic};
use libfuzzer_sys::fuzz_target;

static TARGET: OnceLock<&'static Target> = OnceLock::new();

fuzz_target!(
    init: { begin() },
    |input: &[u8]| {
        if let Some(target) = TARGET.get() {
            (target.run)(input);
        }
    }
);

fn begin() {
    // The bindings end the process at every panic; some are caught where they happen.
    let abort = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !may_panic() {
            abort(panic);
        }
    }));
    let options: Vec<String> = std::env::args().collect();
    let option = |name| options.iter().find_map(|option| option.strip_prefix(name));
    if let Some(folder) = option("--seeds=") {
        match write_seeds(Path::new(folder)) {
            Ok(()) => exit(0),
            Err(error) => fail(&format!("cannot write {folder}: {error}")),
        }
    }
    let Some(target) = option("--target=").and_then(Target::named) else {
        let names = TARGETS.map(|target| target.name).join(", ");
        fail(&format!(
            "--target=NAME is missing or unknown; known are {names}"
        ))
    };
    let _ = TARGET.set(target);
}

fn write_seeds(folder: &Path) -> std::io::Result<()> {
    for target in &TARGETS {
        let folder = folder.join(target.name);
        std::fs::create_dir_all(&folder)?;
        for (name, input) in (target.seeds)() {
            std::fs::write(folder.join(name), input)?;
        }
    }
    Ok(())
}

fn fail(message: &str) -> ! {
    eprintln!("error: {message}");
    exit(2)
}
