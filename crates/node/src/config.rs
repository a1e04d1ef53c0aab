//! From a TOML file and its overrides to a value of the caller's type.
//!
//! Every node of the merged table carries a span, which says where it came from: nodes of the file
//! have theirs, nodes of override `i` have the empty span at `text.len() + 1 + i`. The span of a
//! deserialising error therefore leads back to the line of the file or to the override at fault.

use std::borrow::Cow;
use std::fs;
use std::ops::Range;
use std::path::Path;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Deserializer};

use crate::{ConfigError, Origin, Override};

/// Reads `file`, applies `overrides` in their order (the last one wins), and deserialises. No file
/// is an empty table, so that the defaults of `T` apply; a file that is named must exist. An
/// override replaces the whole value at its key and creates the tables on the way.
///
/// # Errors
///
/// The operator wrote what is not TOML, not known, of a wrong type, or not complete. The text names
/// the file or override, the key and what was expected; there is nothing to retry.
pub fn load<T: DeserializeOwned>(
    file: Option<&Path>,
    overrides: &[Override],
) -> Result<T, ConfigError> {
    let text = match file {
        Some(file) => fs::read_to_string(file).map_err(|cause| ConfigError::Unreadable {
            file: file.to_owned(),
            cause,
        })?,
        None => String::new(),
    };
    let root = DeTable::parse(&text).map_err(|cause| ConfigError::Invalid {
        origin: origin(file),
        key: String::new(),
        cause: Box::new(cause),
    })?;
    let root_span = root.span();
    let mut table = root.into_inner();
    for (index, given) in overrides.iter().enumerate() {
        insert(&mut table, given, text.len() + 1 + index)?;
    }

    let merged = Spanned::new(root_span.clone(), table.clone());
    T::deserialize(Deserializer::from(merged)).map_err(|mut cause| {
        let span = cause.span().unwrap_or(root_span.clone());
        if let Some(index) = span.start.checked_sub(text.len() + 1) {
            return ConfigError::Invalid {
                origin: Origin::Override(overrides[index].clone()),
                key: overrides[index].key.clone(),
                cause: Box::new(cause),
            };
        }
        let key = match path_of(&table, &span) {
            Some(key) if span != root_span => {
                cause.set_input(Some(&text));
                key
            }
            // The whole file is at fault: a line would mislead.
            _ => String::new(),
        };
        ConfigError::Invalid {
            origin: origin(file),
            key,
            cause: Box::new(cause),
        }
    })
}

fn origin(file: Option<&Path>) -> Origin {
    file.map_or(Origin::Defaults, |file| Origin::File(file.to_owned()))
}

/// Sets the value of `given`, with `at` as the span of everything that this creates.
fn insert<'i>(root: &mut DeTable<'i>, given: &'i Override, at: usize) -> Result<(), ConfigError> {
    if given.key.split('.').any(str::is_empty) {
        return Err(ConfigError::NotAnOverride {
            found: given.to_string(),
        });
    }
    let (parents, last) = match given.key.rsplit_once('.') {
        Some((parents, last)) => (Some(parents), last),
        None => (None, given.key.as_str()),
    };

    let mut table = root;
    let mut parent_len = 0;
    for part in parents.into_iter().flat_map(|parents| parents.split('.')) {
        parent_len += part.len();
        let value = table
            .entry(Spanned::new(at..at, Cow::from(part)))
            .or_insert_with(|| Spanned::new(at..at, DeValue::Table(DeTable::new())))
            .get_mut();
        let found = value.type_str();
        let DeValue::Table(inner) = value else {
            return Err(ConfigError::NotATable {
                given: given.clone(),
                key: given.key[..parent_len].to_owned(),
                found,
            });
        };
        table = inner;
        parent_len += 1; // the dot
    }

    // A map keeps the old key, and with it the old span, unless it is taken out first.
    table.remove(last);
    table.insert(
        Spanned::new(at..at, Cow::from(last)),
        moved_to(given.parsed(), at),
    );
    Ok(())
}

/// The same value with `at` as the span of each node.
fn moved_to(value: DeValue<'_>, at: usize) -> Spanned<DeValue<'_>> {
    let value = match value {
        DeValue::Array(items) => DeValue::Array(
            items
                .into_iter()
                .map(|item| moved_to(item.into_inner(), at))
                .collect(),
        ),
        DeValue::Table(table) => DeValue::Table(
            table
                .into_iter()
                .map(|(key, value)| {
                    let key = Spanned::new(at..at, key.into_inner());
                    (key, moved_to(value.into_inner(), at))
                })
                .collect(),
        ),
        scalar => scalar,
    };
    Spanned::new(at..at, value)
}

/// The key path of the outermost node with this span.
fn path_of(table: &DeTable<'_>, span: &Range<usize>) -> Option<String> {
    table.iter().find_map(|(key, value)| {
        let name = key.get_ref();
        if key.span() == *span {
            return Some(name.to_string());
        }
        path_below(value, span).map(|below| format!("{name}{below}"))
    })
}

/// What to append to the path of `value`: nothing, `.key…` or `[index]…`.
fn path_below(value: &Spanned<DeValue<'_>>, span: &Range<usize>) -> Option<String> {
    if value.span() == *span {
        return Some(String::new());
    }
    match value.get_ref() {
        DeValue::Table(table) => path_of(table, span).map(|below| format!(".{below}")),
        DeValue::Array(items) => items.iter().enumerate().find_map(|(index, item)| {
            path_below(item, span).map(|below| format!("[{index}]{below}"))
        }),
        _ => None,
    }
}

/// Checks lower bounds: key, value, least.
///
/// # Errors
/// The operator wrote a smaller value; the first such key is named.
pub fn at_least(bounds: &[(&str, u64, u64)]) -> Result<(), ConfigError> {
    match bounds.iter().find(|(_, value, least)| value < least) {
        None => Ok(()),
        Some((key, value, least)) => Err(ConfigError::Contradiction {
            key: (*key).to_owned(),
            found: value.to_string(),
            expected: format!("at least {least}"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use expect_test::{Expect, expect};
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Sample {
        name: String,
        prefill: Prefill,
        peers: Vec<Peer>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Prefill {
        queue_max: u32,
        policy: String,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Peer {
        port: u16,
    }

    impl Default for Sample {
        fn default() -> Sample {
            Sample {
                name: "unnamed".to_owned(),
                prefill: Prefill::default(),
                peers: Vec::new(),
            }
        }
    }

    impl Default for Prefill {
        fn default() -> Prefill {
            Prefill {
                queue_max: 8,
                policy: "full".to_owned(),
            }
        }
    }

    fn load_text<T: DeserializeOwned>(text: &str, overrides: &[&str]) -> Result<T, ConfigError> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let overrides: Vec<Override> = overrides.iter().map(|o| o.parse().unwrap()).collect();
        load(Some(file.path()), &overrides)
    }

    fn check(text: &str, overrides: &[&str], expected: Sample) {
        assert_eq!(load_text::<Sample>(text, overrides).unwrap(), expected);
    }

    /// The error's text, with the name of the file replaced by `FILE`.
    fn check_refused<T: DeserializeOwned + std::fmt::Debug>(
        text: &str,
        overrides: &[&str],
        expected: Expect,
    ) {
        let error = load_text::<T>(text, overrides).unwrap_err();
        let mut found = error.to_string();
        if let ConfigError::Invalid {
            origin: Origin::File(file),
            ..
        } = &error
        {
            found = found.replace(&file.display().to_string(), "FILE");
        }
        expected.assert_eq(&found);
    }

    #[test]
    fn no_file_and_no_override_is_the_default() {
        assert_eq!(load::<Sample>(None, &[]).unwrap(), Sample::default());
    }

    #[test]
    fn the_file_wins_over_defaults_and_later_overrides_over_earlier_ones_and_the_file() {
        check(
            "name = 'a'\n[prefill]\nqueue_max = 1\npolicy = 'lava'\n",
            &["prefill.queue_max=2", "name=b", "prefill.queue_max=3"],
            Sample {
                name: "b".to_owned(),
                prefill: Prefill {
                    queue_max: 3,
                    policy: "lava".to_owned(),
                },
                peers: Vec::new(),
            },
        );
    }

    #[test]
    fn an_override_may_create_tables_and_hold_any_value() {
        check(
            "",
            &[
                "prefill.queue_max=0x10",
                "peers=[{ port = 1 }, { port = 2 }]",
            ],
            Sample {
                prefill: Prefill {
                    queue_max: 16,
                    ..Prefill::default()
                },
                peers: vec![Peer { port: 1 }, Peer { port: 2 }],
                ..Sample::default()
            },
        );
    }

    #[test]
    fn an_override_of_a_table_replaces_all_of_it() {
        check(
            "[prefill]\nqueue_max = 1\n",
            &["prefill={ policy = 'lava' }"],
            Sample {
                prefill: Prefill {
                    policy: "lava".to_owned(),
                    ..Prefill::default()
                },
                ..Sample::default()
            },
        );
    }

    #[test]
    fn an_override_heals_a_bad_value_of_the_file() {
        check(
            "name = 4\n",
            &["name=four"],
            Sample {
                name: "four".to_owned(),
                ..Sample::default()
            },
        );
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_line_and_the_known_ones() {
        check_refused::<Sample>(
            "[prefill]\nqueue_max = 1\nqueue_min = 1\n",
            &["prefill.queue_max=2"],
            expect![[r#"
                FILE: `prefill.queue_min`: TOML parse error at line 3, column 1
                  |
                3 | queue_min = 1
                  | ^^^^^^^^^
                unknown field `queue_min`, expected `queue_max` or `policy`"#]],
        );
    }

    #[test]
    fn a_wrong_type_is_refused_with_its_line() {
        check_refused::<Sample>(
            "[prefill]\nqueue_max = 'four'\n",
            &[],
            expect![[r#"
            FILE: `prefill.queue_max`: TOML parse error at line 2, column 13
              |
            2 | queue_max = 'four'
              |             ^^^^^^
            invalid type: string "four", expected u32"#]],
        );
    }

    #[test]
    fn a_fault_inside_an_array_of_tables_names_the_element() {
        check_refused::<Sample>(
            "[[peers]]\nport = 1\n[[peers]]\nport = 65536\n",
            &[],
            expect![[r#"
                FILE: `peers[1].port`: TOML parse error at line 4, column 8
                  |
                4 | port = 65536
                  |        ^^^^^
                invalid value: integer `65536`, expected u16"#]],
        );
    }

    #[test]
    fn a_wrong_type_in_an_override_names_the_override() {
        check_refused::<Sample>(
            "[prefill]\nqueue_max = 1\n",
            &["name=x", "prefill.queue_max=four"],
            expect![[
                r#"override `prefill.queue_max=four`: invalid type: string "four", expected u32"#
            ]],
        );
        check_refused::<Sample>(
            "",
            &["peers=[{ port = 1 }, { port = true }]"],
            expect![
                "override `peers=[{ port = 1 }, { port = true }]`: invalid type: boolean `true`, expected u16"
            ],
        );
    }

    #[test]
    fn an_unknown_key_in_an_override_is_refused_with_the_known_ones() {
        check_refused::<Sample>(
            "",
            &["prefil.queue_max=4"],
            expect![
                "override `prefil.queue_max=4`: unknown field `prefil`, expected one of `name`, `prefill`, `peers`"
            ],
        );
    }

    #[test]
    fn an_override_through_a_scalar_is_refused() {
        check_refused::<Sample>(
            "name = 'a'\n",
            &["name.first=b"],
            expect!["override `name.first=b`: `name` is of type string, expected a table"],
        );
        check_refused::<Sample>(
            "",
            &["prefill.queue_max=1", "prefill.queue_max.a.b=2"],
            expect![
                "override `prefill.queue_max.a.b=2`: `prefill.queue_max` is of type integer, expected a table"
            ],
        );
        check_refused::<Sample>(
            "[[peers]]\nport = 1\n",
            &["peers.0.port=2"],
            expect!["override `peers.0.port=2`: `peers` is of type array, expected a table"],
        );
    }

    #[test]
    fn an_override_with_an_empty_part_is_refused() {
        for key in ["", ".", "a.", ".a", "a..b"] {
            let given = Override {
                key: key.to_owned(),
                value: "1".to_owned(),
            };
            let error = load::<Sample>(None, &[given]).unwrap_err();
            assert!(matches!(error, ConfigError::NotAnOverride { .. }), "{key}");
        }
    }

    #[test]
    fn a_missing_key_is_named_with_the_file_or_without_one() {
        check_refused::<Peer>("# nothing\n", &[], expect!["FILE: missing field `port`"]);
        let error = load::<Peer>(None, &[]).unwrap_err();
        expect!["configuration without a file: missing field `port`"].assert_eq(&error.to_string());
    }

    #[test]
    fn text_that_is_not_toml_is_refused_with_its_line() {
        check_refused::<Sample>(
            "name = 'a'\nprefill\n",
            &[],
            expect![[r#"
            FILE: TOML parse error at line 2, column 8
              |
            2 | prefill
              |        ^
            key with no value, expected `=`"#]],
        );
    }

    #[test]
    fn a_named_file_that_does_not_exist_is_refused() {
        let error = load::<Sample>(Some(Path::new("/nonexistent/lava.toml")), &[]).unwrap_err();
        expect!["cannot read the configuration /nonexistent/lava.toml: No such file or directory (os error 2)"]
            .assert_eq(&error.to_string());
    }
}
