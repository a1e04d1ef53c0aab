//! `docs/quality.md`: what budgets cost, measured anew. The prose of that file stays; tables are written
//! between its markers.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use clap::Args;

use crate::{binary, document, models, shell};

const DOCUMENT: &str = "docs/quality.md";

#[derive(Args)]
pub(crate) struct Options {
    /// Folder with the texts named in docs/quality.md.
    #[arg(long)]
    texts: PathBuf,
    /// Measure only parts whose name contains this.
    #[arg(long, default_value = "")]
    part: String,
}

/// A table of the document.
struct Part {
    name: &'static str,
    model: Model,
    texts: Texts,
    /// Policies, budgets and row formats.
    variants: [&'static str; 6],
    /// Tasks and sizes.
    arguments: &'static [&'static str],
}

#[derive(Clone, Copy)]
enum Model {
    Smol,
    Qwen,
}

/// The settings of `lava-peaks` were chosen on the first half of the texts.
#[derive(Clone, Copy)]
enum Texts {
    Chosen,
    Unseen,
}

const CHOSEN: [&str; 3] = [
    "discourse_of_a_method_descartes",
    "dragons_blood_rideout_1909",
    "pioneer_days_st_paul_moore",
];
const UNSEEN: [&str; 3] = [
    "sand_hill_to_pine_harte",
    "swf_club_jacobs_1912",
    "theophrastus_such_eliot",
];

/// From the paper's score to that of `lava-peaks`, one change at a time, and what else was tried.
const STEPS: &str = "lava,lava+kernel=1,lava+kernel=41,lava+kernel=41+shoulder=50,lava+score=max-clamp,\
    lava+score=max-clamp+kernel=1,lava-peaks,lava-peaks+shoulder=20,lava-peaks+shoulder=100,lava-peaks+kernel=21,\
    lava-peaks+kernel=31,lava-peaks+weight=uniform,lava-peaks+weight=perplexity,lava-peaks+alpha=0,\
    lava-peaks+value-norm=off,lava-peaks+sinks=4,lava-peaks+window=16,lava-peaks+observers=32,lava-peaks+observers=128,\
    lava-peaks+score=value-output,lava-peaks+score=rms-value-output+sinks=4,\
    lava-peaks+score=max-clamp-value-output+sinks=4,cake+kernel=1,ada-snapkv+kernel=1";

const ALL: [&str; 6] = of_f16("all", "64,128,256,512");
const OF_STEPS: [&str; 6] = of_f16(STEPS, "128");

const fn of_f16(policies: &'static str, budgets: &'static str) -> [&'static str; 6] {
    equal_bytes(policies, budgets, "f16")
}

const fn equal_bytes(
    policies: &'static str,
    budgets: &'static str,
    formats: &'static str,
) -> [&'static str; 6] {
    let [p, b, f] = ["--policies", "--budgets", "--row-formats"];
    [p, policies, b, budgets, f, formats]
}

/// Bytes of 128 entries in half precision: 30 layers of 3 heads of 64, 28 layers of 2 heads of 128.
const SMOL_128: &str = "2.94912MB";
const QWEN_128: &str = "3.670016MB";
/// Of 64, 128, 256 and 512 entries.
const SMOL_BYTES: &str = "1.47456MB,2.94912MB,5.89824MB,11.79648MB";

const PARTS: [Part; 13] = [
    Part {
        name: "rows-text",
        model: Model::Smol,
        texts: Texts::Unseen,
        variants: equal_bytes(
            "lava,lava+score=max-clamp,lava-peaks,snapkv,ada-snapkv,cake",
            SMOL_128,
            "f16,int8,fp8,int4",
        ),
        arguments: &["lm", "--samples", "8"],
    },
    Part {
        name: "rows-needles",
        model: Model::Smol,
        texts: Texts::Unseen,
        variants: equal_bytes("lava,lava-peaks", SMOL_128, "f16,int8,fp8,int4"),
        arguments: &["needle", "kv", "--samples", "2"],
    },
    Part {
        name: "rows-bytes",
        model: Model::Smol,
        texts: Texts::Unseen,
        variants: equal_bytes("full,lava,lava-peaks", SMOL_BYTES, "f16,int8,int4"),
        arguments: &["lm", "--samples", "2"],
    },
    Part {
        name: "rows-qwen2-text",
        model: Model::Qwen,
        texts: Texts::Unseen,
        variants: equal_bytes("full,lava,lava-peaks", QWEN_128, "f16,int8,int4"),
        arguments: &["lm", "--samples", "4", "--continuation", "32"],
    },
    Part {
        name: "rows-qwen2-needles",
        model: Model::Qwen,
        texts: Texts::Unseen,
        variants: equal_bytes("lava,lava-peaks", QWEN_128, "f16,int4"),
        arguments: &["needle", "--samples", "1", "--depths", "10,50,90"],
    },
    Part {
        name: "smollm2-text",
        model: Model::Smol,
        texts: Texts::Unseen,
        variants: ALL,
        arguments: &["lm", "--samples", "4"],
    },
    Part {
        name: "steps-unseen-text",
        model: Model::Smol,
        texts: Texts::Unseen,
        variants: OF_STEPS,
        arguments: &["lm", "--samples", "8"],
    },
    Part {
        name: "steps-unseen-needles",
        model: Model::Smol,
        texts: Texts::Unseen,
        variants: OF_STEPS,
        arguments: &["needle", "kv", "--samples", "2"],
    },
    Part {
        name: "steps-chosen-text",
        model: Model::Smol,
        texts: Texts::Chosen,
        variants: OF_STEPS,
        arguments: &["lm", "--samples", "4"],
    },
    Part {
        name: "steps-chosen-needles",
        model: Model::Smol,
        texts: Texts::Chosen,
        variants: OF_STEPS,
        arguments: &["needle", "kv", "--samples", "1"],
    },
    Part {
        name: "qwen2-text",
        model: Model::Qwen,
        texts: Texts::Unseen,
        variants: ALL,
        arguments: &["lm", "--samples", "1", "--continuation", "32"],
    },
    Part {
        name: "smollm2-needles",
        model: Model::Smol,
        texts: Texts::Unseen,
        variants: ALL,
        arguments: &["needle", "needles", "kv", "--samples", "1"],
    },
    Part {
        name: "qwen2-needles",
        model: Model::Qwen,
        texts: Texts::Unseen,
        variants: ALL,
        arguments: &["needle", "--samples", "1", "--depths", "10,50,90"],
    },
];

pub(crate) fn run(options: &Options) -> Result<()> {
    let commit = document::clean_commit()?;
    let lava = binary::build()?;
    let models = models::all()?;
    let out = shell::target().join("quality");
    std::fs::create_dir_all(&out).with_context(|| format!("cannot create {}", out.display()))?;
    let chosen = PARTS
        .iter()
        .filter(|part| part.name.contains(&options.part));
    for part in chosen {
        println!("{}", part.name);
        let tables = out.join(part.name).with_extension("md");
        let mut eval = Command::new(&lava);
        eval.arg("eval").args(part.arguments).args(part.variants);
        eval.arg("--model").arg(models.join(part.model.file()));
        eval.arg("--texts").arg(part.texts.list(&options.texts)?);
        eval.args(["--baseline", "lava-exact", "--commit", &commit]);
        for (option, extension) in [("--out", "jsonl"), ("--html", "html"), ("--json", "json")] {
            eval.arg(option)
                .arg(out.join(part.name).with_extension(extension));
        }
        shell::run(eval.arg("--markdown").arg(&tables))?;
        let tables = std::fs::read_to_string(&tables)?;
        let arguments = part.arguments.join(" ");
        let command = format!("`lava eval {arguments}` ..., commit {commit}");
        document::fill(DOCUMENT, part.name, &format!("{command}\n\n{tables}"))?;
    }
    println!("pages and records are in {}", out.display());
    Ok(())
}

impl Model {
    fn file(self) -> &'static str {
        match self {
            Model::Smol => "SmolLM2-135M-Instruct.Q4_1.gguf",
            Model::Qwen => "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
        }
    }
}

impl Texts {
    /// As `lava eval` takes them.
    fn list(self, folder: &Path) -> Result<String> {
        let names = match self {
            Texts::Chosen => CHOSEN,
            Texts::Unseen => UNSEEN,
        };
        let folder = std::path::absolute(folder)?;
        let file = |name: &str| {
            folder
                .join(name)
                .with_extension("txt")
                .display()
                .to_string()
        };
        Ok(names.map(file).join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_has_a_place_for_every_part() {
        let text = std::fs::read_to_string(shell::root().join(DOCUMENT)).unwrap();
        for part in PARTS {
            document::filled(&text, part.name, "x").unwrap();
        }
    }
}
