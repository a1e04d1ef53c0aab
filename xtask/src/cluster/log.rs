//! One file with what every process writes to standard error, and on the terminal what matters of it.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, Result};

/// The file, and a thread for each process that was started.
pub(crate) struct Log {
    file: Arc<File>,
    verbose: bool,
    /// Nothing more goes to the terminal.
    hushed: Arc<AtomicBool>,
    /// Columns of the names.
    width: usize,
    threads: Vec<JoinHandle<()>>,
}

impl Log {
    /// Empties the file.
    ///
    /// # Errors
    ///
    /// The file cannot be written, or another cluster runs and writes it.
    pub(crate) fn create(path: &Path, width: usize, verbose: bool) -> Result<Self> {
        let shown = path.display();
        // Appended lines of several threads do not overwrite each other.
        let file = File::options().create(true).append(true).open(path);
        let file = file.with_context(|| format!("cannot write {shown}"))?;
        file.try_lock()
            .with_context(|| format!("another cluster runs: it writes {shown}"))?;
        file.set_len(0)?;
        Ok(Self {
            file: Arc::new(file),
            verbose,
            hushed: Arc::default(),
            width,
            threads: Vec::new(),
        })
    }

    /// From here on lines go to the file only: what processes say of each other while all of them end is
    /// of no interest.
    pub(crate) fn hush(&self) {
        self.hushed.store(true, Ordering::Relaxed);
    }

    /// Copies lines until the process has closed its end.
    pub(crate) fn follow(&mut self, name: &str, source: impl Read + Send + 'static) {
        let (file, verbose) = (Arc::clone(&self.file), self.verbose);
        let hushed = Arc::clone(&self.hushed);
        let prefix = format!("{name:<width$}  | ", width = self.width);
        let copy = move || {
            let mut source = BufReader::new(source);
            let mut bytes = Vec::new();
            while source.read_until(b'\n', &mut bytes).is_ok_and(|n| n > 0) {
                let line = String::from_utf8_lossy(&bytes);
                let line = line.trim_end();
                let copied = format!("{prefix}{line}\n");
                // Nobody is left to hear that the disk is full.
                let _ = (&*file).write_all(copied.as_bytes());
                if (verbose || is_loud(line)) && !hushed.load(Ordering::Relaxed) {
                    eprint!("{copied}");
                }
                bytes.clear();
            }
        };
        self.threads.push(std::thread::spawn(copy));
    }
}

impl Drop for Log {
    /// The processes have ended by now; their last words are waited for.
    fn drop(&mut self) {
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Whether a line is a warning, an error, or none of the log's: what a process says when it panics or gives up.
fn is_loud(line: &str) -> bool {
    // Ours: time, level, target. etcd's: an object with the level first.
    let ours = line.split_whitespace().nth(1);
    let quiet_ours = ours.is_some_and(|word| ["INFO", "DEBUG", "TRACE"].contains(&word));
    let quiet_etcd = ["info", "debug"]
        .iter()
        .any(|level| line.starts_with(&format!("{{\"level\":\"{level}\"")));
    !quiet_ours && !quiet_etcd && !line.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_errors_and_last_words_are_loud() {
        for (line, loud) in [
            ("2026-01-02T03:04:05.000006Z  INFO lava: ready", false),
            ("2026-01-02T03:04:05.000006Z DEBUG lava: WARN", false),
            ("2026-01-02T03:04:05.000006Z  WARN lava: slow", true),
            ("2026-01-02T03:04:05.000006Z ERROR lava: lost", true),
            (r#"{"level":"info","ts":"x","msg":"a warn"}"#, false),
            (r#"{"level":"warn","ts":"x","msg":"slow"}"#, true),
            ("error: the port is taken", true),
            ("thread 'main' panicked at src/main.rs:1:1:", true),
            ("", false),
        ] {
            assert_eq!(is_loud(line), loud, "{line}");
        }
    }

    #[test]
    fn lines_of_all_processes_are_in_one_file_under_their_names() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::fs::write(&path, "of the run before\n").unwrap();
        let mut log = Log::create(&path, 9, false).unwrap();
        log.follow("decode-1", &b"t INFO one\nt INFO two"[..]);
        log.follow("prefill-1", &b"t INFO three \xFF\n"[..]);
        assert!(Log::create(&path, 9, false).is_err(), "it is in use");
        drop(log);
        let text = std::fs::read_to_string(&path).unwrap();
        let mut lines: Vec<_> = text.lines().collect();
        lines.sort_unstable();
        let expected = [
            "decode-1   | t INFO one",
            "decode-1   | t INFO two",
            "prefill-1  | t INFO three \u{FFFD}",
        ];
        assert_eq!(lines, expected);
    }
}
