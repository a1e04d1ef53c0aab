//! A process whose log cannot be written.

use std::fs::File;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::cluster::free_address;
use crate::{SMOLLM2, lava, model, text};

/// Every write to it fails as on a full disk.
const FULL: &str = "/dev/full";

#[test]
fn a_process_whose_log_cannot_be_written_goes_on_serving() {
    let address = free_address().to_string();
    let mut serve = Command::new(env!("CARGO_BIN_EXE_lava"));
    serve.arg("serve").arg("--model").arg(model(SMOLLM2));
    serve.args(["--set", &format!("listen.address=\"{address}\"")]);
    serve.args(["--set", "telemetry.level=\"debug\""]);
    let full = File::options().write(true).open(FULL).unwrap();
    let mut serve = serve.stdout(Stdio::null()).stderr(full).spawn().unwrap();
    let began = Instant::now();
    let answered = loop {
        let question = ["--prompt", "Say hello.", "--max-tokens", "4"];
        let output = lava(&[&["generate", "--addr", &address], &question[..]].concat());
        let ended = serve.try_wait().unwrap();
        if output.status.success() || ended.is_some() || began.elapsed() > Duration::from_secs(60) {
            break (output, ended);
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    let _ = serve.kill();
    let _ = serve.wait();
    let (output, ended) = answered;
    assert_eq!(ended, None, "the server ended by itself");
    assert!(output.status.success(), "{}", text(&output.stderr));
}
