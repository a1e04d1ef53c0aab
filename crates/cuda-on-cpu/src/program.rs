//! A file of kernels as a program for this machine.

use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

const HEADER: (&str, &str) = ("cuda_on_cpu.h", include_str!("../cpp/cuda_on_cpu.h"));
const MACHINE: (&str, &str) = ("machine.cpp", include_str!("../cpp/machine.cpp"));

const COMPILER: &str = "g++";
/// The machine jumps between stacks, which the checks of `_FORTIFY_SOURCE` take for a mistake.
const FLAGS: [&str; 6] = [
    "-std=c++17",
    "-O2",
    "-U_FORTIFY_SOURCE",
    "-Wall",
    "-Wextra",
    "-Werror",
];
/// What makes every access of a kernel call the machine. Kernels' `#pragma unroll` is for nvcc.
const WATCHED: [&str; 4] = [
    "-fsanitize=thread",
    "-fsanitize=bounds",
    "-Wno-unknown-pragmas",
    "-xc++",
];

/// Tests run side by side and want the same programs: one makes them, the others find them.
static COMPILING: Mutex<()> = Mutex::new(());

/// A change to the source before it is compiled: a bug that a test must find.
#[derive(Clone, Copy, Debug)]
pub struct Edit<'a> {
    /// What is replaced; it stands once in all files together.
    pub from: &'a str,
    /// What stands there instead.
    pub to: &'a str,
}

/// Kernels that can be run.
#[derive(Clone, Debug)]
pub struct Program {
    pub(crate) path: PathBuf,
}

/// Why a program could not be made.
#[derive(Debug)]
pub enum CompileError {
    /// The text of an edit does not stand in the source once.
    Edit {
        /// That text.
        from: String,
        /// How often it was found.
        found: usize,
    },
    /// What the compiler said.
    Compiler(String),
    /// A file could not be read or written, or the compiler not be started.
    Io(io::Error),
}

impl std::fmt::Display for CompileError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Edit { from, found } => {
                write!(f, "{from:?} stands {found} times in the source, not once")
            }
            Self::Compiler(said) => write!(f, "the kernels do not compile:\n{said}"),
            Self::Io(error) => write!(f, "compiling kernels: {error}"),
        }
    }
}

impl std::error::Error for CompileError {}

impl From<io::Error> for CompileError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Program {
    /// Compiles `folder/name` of each name, with everything that it includes from `folder`, into one program. What is
    /// compiled is kept in `cache`, and not compiled again as long as nothing changes.
    ///
    /// # Errors
    /// Whoever wrote the kernels or the edits, or a machine without g++.
    pub fn compile(
        folder: &Path,
        names: &[&str],
        edits: &[Edit<'_>],
        cache: &Path,
    ) -> Result<Self, CompileError> {
        let mut files = sources(folder, names)?;
        for edit in edits {
            apply(edit, &mut files)?;
        }
        let files: Vec<(&str, &str)> = files
            .iter()
            .map(|(name, text)| (&**name, &**text))
            .collect();
        let _one_at_a_time = COMPILING.lock().unwrap_or_else(PoisonError::into_inner);
        let mut objects = vec![object(cache, MACHINE.0, &[HEADER, MACHINE], &FLAGS)?];
        let flags = [&FLAGS[..], &WATCHED].concat();
        for name in names {
            let others = |file: &&(&str, &str)| file.0 == *name || file.0.ends_with(".cuh");
            let mut sources: Vec<_> = files.iter().filter(others).copied().collect();
            sources.push(HEADER);
            objects.push(object(cache, name, &sources, &flags)?);
        }
        let objects: Vec<String> = objects
            .iter()
            .map(|path| path.to_string_lossy().into_owned())
            .collect();
        // A program is its objects, whose names say what they were made of.
        let program = Cached::new(cache, "program", &[], &objects);
        program.make(|build, made| compiler(build, &objects, made))?;
        Ok(Self { path: program.path })
    }
}

/// Compiles a file, which lies beside `sources`.
fn object(
    cache: &Path,
    name: &str,
    sources: &[(&str, &str)],
    flags: &[&str],
) -> Result<PathBuf, CompileError> {
    let mut arguments: Vec<String> = flags.iter().map(|flag| flag.to_string()).collect();
    arguments.extend(["-c".to_owned(), name.to_owned()]);
    let object = Cached::new(cache, name, sources, &arguments);
    object.make(|build, made| compiler(build, &arguments, made))?;
    Ok(object.path)
}

/// A file that is made of some sources, and is there already if it was made of the same before.
struct Cached<'a> {
    path: PathBuf,
    sources: &'a [(&'a str, &'a str)],
}

impl<'a> Cached<'a> {
    /// `arguments` are those of the compiler.
    fn new(
        cache: &Path,
        stem: &str,
        sources: &'a [(&'a str, &'a str)],
        arguments: &[String],
    ) -> Self {
        let mut hash = DefaultHasher::new();
        let texts = sources.iter().flat_map(|(name, text)| [*name, *text]);
        for text in texts.chain(arguments.iter().map(String::as_str)) {
            hash.write_usize(text.len());
            hash.write(text.as_bytes());
        }
        Self {
            path: cache.join(format!("{stem}-{:016x}", hash.finish())),
            sources,
        }
    }

    /// `make` gets a folder with the sources, and where to leave what it makes.
    fn make(
        &self,
        make: impl FnOnce(&Path, &Path) -> Result<(), CompileError>,
    ) -> Result<(), CompileError> {
        if self.path.exists() {
            return Ok(());
        }
        let build = self.path.with_extension(std::process::id().to_string());
        fs::create_dir_all(&build)?;
        for (name, text) in self.sources {
            fs::write(build.join(name), text)?;
        }
        // Moved when it is whole, so that no other process finds a part.
        let made = build.join("made");
        let result = make(&build, &made).and_then(|()| Ok(fs::rename(&made, &self.path)?));
        fs::remove_dir_all(&build)?;
        result
    }
}

/// Files of `folder`: those of `names`, and what they may include.
fn sources(folder: &Path, names: &[&str]) -> io::Result<Vec<(String, String)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let file = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        if names.contains(&file) || file.ends_with(".cuh") {
            files.push((file.to_owned(), fs::read_to_string(&path)?));
        }
    }
    files.sort();
    Ok(files)
}

fn apply(edit: &Edit<'_>, files: &mut [(String, String)]) -> Result<(), CompileError> {
    let found = files
        .iter()
        .map(|(_, text)| text.matches(edit.from).count())
        .sum();
    if found != 1 {
        let from = edit.from.to_owned();
        return Err(CompileError::Edit { from, found });
    }
    for (_, text) in files {
        *text = text.replace(edit.from, edit.to);
    }
    Ok(())
}

fn compiler(build: &Path, arguments: &[String], made: &Path) -> Result<(), CompileError> {
    let output = Command::new(COMPILER)
        .args(arguments)
        .arg("-o")
        .arg(made)
        .current_dir(build)
        .output()
        .map_err(|error| {
            io::Error::new(error.kind(), format!("cannot start {COMPILER}: {error}"))
        })?;
    match output.status.success() {
        true => Ok(()),
        false => Err(CompileError::Compiler(
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )),
    }
}
