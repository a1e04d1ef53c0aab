//! Files that a command writes when it is done.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// A file, and the option that names it.
pub(crate) struct Wanted<'a> {
    pub(crate) option: &'static str,
    pub(crate) file: Option<&'a PathBuf>,
    /// Others may write it too, so it stays even if the check made it.
    pub(crate) shared: bool,
}

impl<'a> Wanted<'a> {
    pub(crate) fn ours(option: &'static str, file: Option<&'a PathBuf>) -> Self {
        Self {
            option,
            file,
            shared: false,
        }
    }
}

/// Every file can be written, and none is meant twice: who asks for hours wants to know now.
pub(crate) fn check(files: &[Wanted<'_>]) -> Result<()> {
    let mut seen: Vec<(&str, PathBuf)> = Vec::new();
    for Wanted {
        option,
        file,
        shared,
    } in files
    {
        let Some(file) = file else { continue };
        let cannot = || format!("{option}: cannot write {}", file.display());
        let is_new = !file.try_exists().with_context(cannot)?;
        let place = open(file).with_context(cannot)?;
        if is_new && !shared {
            fs::remove_file(file).with_context(cannot)?;
        }
        if let Some((other, _)) = seen.iter().find(|(_, earlier)| *earlier == place) {
            let file = file.display();
            bail!("{other} and {option} are both {file}: give each a file of its own");
        }
        seen.push((option, place));
    }
    Ok(())
}

/// Opens a file as a writer does and changes nothing in it; where it really is.
fn open(file: &Path) -> io::Result<PathBuf> {
    OpenOptions::new().append(true).create(true).open(file)?;
    // Pipes have no such place.
    Ok(file.canonicalize().unwrap_or_else(|_| file.to_owned()))
}

pub(crate) fn save(file: &Path, content: &str) -> Result<()> {
    fs::write(file, content).with_context(|| format!("cannot write {}", file.display()))
}
