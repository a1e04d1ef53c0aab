//! The members as a follower knows them: what was listed, and what has happened since.

use std::collections::BTreeMap;

use super::record;
use crate::Members;

/// No I/O.
#[derive(Debug)]
pub(super) struct View {
    folder: String,
    members: Members,
    /// Of the last list. What happened up to then is in it.
    revision: i64,
    /// Keys that hold no record, and the revision of what they hold, so that the log tells it once.
    unreadable: BTreeMap<Vec<u8>, i64>,
}

/// A key that was read or changed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry<'e> {
    pub(super) key: &'e [u8],
    /// None if the key was deleted.
    pub(super) value: Option<&'e [u8]>,
    pub(super) revision: i64,
}

impl View {
    pub(super) fn new(folder: String) -> View {
        View {
            folder,
            members: Members::new(),
            revision: 0,
            unreadable: BTreeMap::new(),
        }
    }

    pub(super) fn folder(&self) -> &str {
        &self.folder
    }

    pub(super) fn members(&self) -> &Members {
        &self.members
    }

    /// Takes the list for all there is, whatever was known before: the revision of a wiped etcd is lower.
    pub(super) fn listed<'e>(&mut self, entries: impl Iterator<Item = Entry<'e>>, revision: i64) {
        self.members.clear();
        let known = std::mem::take(&mut self.unreadable);
        for entry in entries {
            self.apply(entry, &known);
        }
        self.revision = revision;
    }

    /// Takes in what a watch told. It may tell again what a later list has told.
    pub(super) fn happened(&mut self, entry: Entry<'_>) {
        if entry.revision > self.revision {
            self.apply(entry, &BTreeMap::new());
        }
    }

    fn apply(&mut self, entry: Entry<'_>, known_unreadable: &BTreeMap<Vec<u8>, i64>) {
        let Entry {
            key,
            value,
            revision,
        } = entry;
        self.unreadable.remove(key);
        if let Some(worker) = record::worker(&self.folder, key) {
            self.members.remove(worker);
        }
        let Some(value) = value else {
            return;
        };
        match record::decode(&self.folder, key, value) {
            Ok((worker, record)) => {
                self.members.insert(worker, record);
            }
            Err(error) => {
                if known_unreadable.get(key) != Some(&revision) {
                    let key = String::from_utf8_lossy(key);
                    tracing::warn!(%key, %error, "what etcd holds is no record of a worker; it is skipped");
                }
                self.unreadable.insert(key.to_owned(), revision);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"address":"h:1","incarnation":1}"#;
    const BETTER: &str = r#"{"address":"h:2","incarnation":2}"#;

    fn entry<'e>(key: &'e str, value: Option<&'e str>, revision: i64) -> Entry<'e> {
        Entry {
            key: key.as_bytes(),
            value: value.map(str::as_bytes),
            revision,
        }
    }

    fn view(entries: &[Entry<'_>], revision: i64) -> View {
        let mut view = View::new("/l/".to_owned());
        view.listed(entries.iter().copied(), revision);
        view
    }

    fn check(view: &View, expected: &[(&str, &str)]) {
        let found: Vec<(&str, &str)> = view
            .members()
            .iter()
            .map(|(worker, record)| (worker.as_str(), record.address.as_str()))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_list_replaces_all_that_was_known_even_at_a_lower_revision() {
        let mut view = view(&[entry("/l/a", Some(GOOD), 8)], 9);
        check(&view, &[("a", "h:1")]);
        view.listed([entry("/l/b", Some(GOOD), 2)].into_iter(), 2);
        check(&view, &[("b", "h:1")]);
        view.happened(entry("/l/a", Some(BETTER), 3));
        check(&view, &[("a", "h:2"), ("b", "h:1")]);
    }

    #[test]
    fn events_that_the_list_contains_already_change_nothing() {
        let mut view = view(&[entry("/l/a", Some(BETTER), 5)], 6);
        view.happened(entry("/l/a", Some(GOOD), 4));
        view.happened(entry("/l/a", None, 6));
        check(&view, &[("a", "h:2")]);
        view.happened(entry("/l/a", None, 7));
        check(&view, &[]);
    }

    #[test]
    fn what_is_no_record_is_skipped_and_takes_the_record_before_it_away() {
        let mut view = view(
            &[
                entry("/l/a", Some(GOOD), 1),
                entry("/l/b", Some("?"), 2),
                entry("/other/c", Some(GOOD), 3),
            ],
            3,
        );
        check(&view, &[("a", "h:1")]);
        assert_eq!(view.unreadable.len(), 2);
        view.happened(entry("/l/a", Some("{}"), 4));
        view.happened(entry("/l/b", Some(GOOD), 5));
        check(&view, &[("b", "h:1")]);
        view.happened(entry("/l/a", None, 6));
        view.listed([].into_iter(), 7);
        check(&view, &[]);
        assert!(view.unreadable.is_empty());
    }
}
