//! Which of our crates may use which.

use std::collections::BTreeSet;

use serde_json::Value;

/// Crate by folder, and the folders that it may use. The reasons are in ARCHITECTURE.md.
const ALLOWED: [(&str, &[&str]); 22] = [
    ("crates/lava", &[]),
    ("crates/gguf", &[]),
    ("crates/kv", &[]),
    ("crates/node", &[]),
    ("crates/prefix", &[]),
    ("proto", &[]),
    ("kernels", &["crates/kv"]),
    ("crates/text", &["crates/gguf"]),
    ("crates/cluster", &["crates/node"]),
    (
        "crates/transfer",
        &["proto", "crates/kv", "crates/node", "kernels"],
    ),
    (
        "crates/engine",
        &[
            "crates/lava",
            "crates/gguf",
            "crates/kv",
            "crates/prefix",
            "kernels",
        ],
    ),
    (
        "crates/lab",
        &[
            "proto",
            "crates/lava",
            "crates/kv",
            "crates/text",
            "crates/engine",
        ],
    ),
    (
        "coordinator",
        &[
            "proto",
            "crates/lava",
            "crates/kv",
            "crates/prefix",
            "crates/text",
            "crates/cluster",
            "crates/node",
        ],
    ),
    (
        "crates/worker",
        &[
            "proto",
            "crates/lava",
            "crates/kv",
            "crates/prefix",
            "crates/node",
            "crates/cluster",
            "crates/text",
            "crates/engine",
            "crates/transfer",
        ],
    ),
    (
        "crates/simulate",
        &[
            "proto",
            "crates/lava",
            "crates/kv",
            "crates/prefix",
            "crates/node",
            "crates/text",
            "crates/transfer",
            "crates/worker",
        ],
    ),
    ("prefill-worker", WORKER),
    ("decode-worker", WORKER),
    (
        "crates/cli",
        &[
            "proto",
            "crates/lava",
            "crates/node",
            "crates/text",
            "crates/cluster",
            "crates/engine",
            "crates/lab",
            "crates/prefix",
            "crates/simulate",
            "crates/worker",
            "coordinator",
            "prefill-worker",
            "decode-worker",
        ],
    ),
    (
        "crates/test-support",
        &["crates/cuda-on-cpu", "crates/transfer", "kernels"],
    ),
    ("crates/cuda-on-cpu", &[]),
    // No program uses it: it is a test of the others, so it may use what tests use.
    (
        "crates/fuzz",
        &[
            "proto",
            "crates/gguf",
            "crates/kv",
            "crates/text",
            "crates/node",
            "crates/cluster",
            "crates/engine",
            "crates/transfer",
            "crates/worker",
            "crates/test-support",
            "coordinator",
        ],
    ),
    ("xtask", &[]),
];

/// The two workers: no text, no method of their own, no placement.
const WORKER: &[&str] = &[
    "proto",
    "crates/kv",
    "crates/prefix",
    "crates/node",
    "crates/cluster",
    "crates/engine",
    "crates/transfer",
    "crates/worker",
];

/// What tests may use beyond the table: toys, the method as an oracle, and a CPU that runs the kernels of GPUs.
const DEV_ONLY: [&str; 3] = ["crates/test-support", "crates/lava", "crates/cuda-on-cpu"];

/// What the tests of one crate may use beyond that: the coordinator runs among simulated workers, from seeds.
const DEV_ONLY_OF: [(&str, &[&str]); 1] = [("crates/simulate", &["coordinator", "crates/cluster"])];

/// A crate of the workspace.
pub(crate) struct Crate {
    folder: String,
    /// Folder of each of our crates that it uses, and whether only tests do.
    uses: Vec<(String, bool)>,
}

/// The crates in the output of `cargo metadata`.
pub(crate) fn crates(metadata: &Value) -> Vec<Crate> {
    let root = metadata["workspace_root"].as_str().unwrap_or_default();
    let inside = |path: &str| {
        let folder = path.strip_prefix(root)?.trim_start_matches('/');
        Some(folder.trim_end_matches("/Cargo.toml").to_owned())
    };
    let packages = metadata["packages"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let one = |package: &Value| {
        let dependencies = package["dependencies"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        let uses = dependencies
            .iter()
            .filter_map(|dep| Some((inside(dep["path"].as_str()?)?, dep["kind"] == "dev")))
            .collect();
        let folder = inside(package["manifest_path"].as_str()?)?;
        Some(Crate { folder, uses })
    };
    packages.iter().filter_map(one).collect()
}

/// Edges that the table does not allow, and crates that it does not know.
pub(crate) fn check(crates: &[Crate]) -> Vec<String> {
    let mut found = Vec::new();
    for Crate { folder, uses } in crates {
        let Some((_, allowed)) = ALLOWED.iter().find(|(known, _)| known == folder) else {
            found.push(format!(
                "{folder}: not in the table of xtask/src/tidy/edges.rs"
            ));
            continue;
        };
        for (used, dev) in uses {
            let of_tests = |used: &str| {
                let own = DEV_ONLY_OF.iter().find(|(known, _)| known == folder);
                DEV_ONLY.contains(&used) || own.is_some_and(|(_, own)| own.contains(&used))
            };
            let fine = allowed.contains(&used.as_str()) || (*dev && of_tests(used));
            if !fine {
                found.push(format!("{folder}/Cargo.toml: may not use {used}"));
            }
        }
    }
    found
}

/// Crates that the code map does not name.
pub(crate) fn unmapped(crates: &[Crate], architecture: &str) -> Vec<String> {
    let named: BTreeSet<&str> = architecture.split('`').collect();
    crates
        .iter()
        .filter(|one| !named.contains(format!("{}/", one.folder).as_str()))
        .map(|one| format!("ARCHITECTURE.md: `{}/` is missing", one.folder))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(folder: &str, uses: &[(&str, bool)]) -> Crate {
        let uses = uses
            .iter()
            .map(|(used, dev)| ((*used).to_owned(), *dev))
            .collect();
        Crate {
            folder: folder.into(),
            uses,
        }
    }

    #[test]
    fn an_edge_outside_the_table_is_reported() {
        let fine = one(
            "crates/engine",
            &[("crates/lava", false), ("crates/test-support", true)],
        );
        assert!(check(&[fine]).is_empty());
        let wrong = one("crates/lava", &[("crates/engine", false)]);
        assert_eq!(
            check(&[wrong]),
            ["crates/lava/Cargo.toml: may not use crates/engine"]
        );
        let in_production = one("crates/engine", &[("crates/test-support", false)]);
        assert_eq!(check(&[in_production]).len(), 1);
        let among_simulated = one("crates/simulate", &[("coordinator", true)]);
        assert!(check(&[among_simulated]).is_empty());
        for wrong in [
            one("crates/simulate", &[("coordinator", false)]),
            one("crates/transfer", &[("coordinator", true)]),
        ] {
            assert_eq!(check(&[wrong]).len(), 1);
        }
    }

    #[test]
    fn an_unknown_crate_is_reported() {
        assert_eq!(check(&[one("crates/new", &[])]).len(), 1);
    }

    #[test]
    fn a_crate_must_be_in_the_code_map() {
        let crates = [one("kernels", &[]), one("crates/lava", &[])];
        assert_eq!(
            unmapped(&crates, "- `kernels/`: x"),
            ["ARCHITECTURE.md: `crates/lava/` is missing"]
        );
    }
}
