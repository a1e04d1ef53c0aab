use std::io::Write;

use expect_test::{Expect, expect};
use tempfile::NamedTempFile;

use super::*;

fn config(text: &str) -> EtcdConfig {
    toml::from_str(text).unwrap()
}

fn plan(text: &str) -> EtcdPlan {
    config(text).into_plan().unwrap().unwrap()
}

/// The error, with the name of `file` as FILE.
fn check_refused(text: &str, file: &NamedTempFile, expected: Expect) {
    let name = file.path().display().to_string();
    let error = config(&text.replace("FILE", &name))
        .into_plan()
        .unwrap_err();
    expected.assert_eq(&error.to_string().replace(&name, "FILE"));
}

#[test]
fn nothing_written_is_no_etcd() {
    assert_eq!(config(""), EtcdConfig::default());
    assert_eq!(EtcdConfig::default().into_plan().unwrap(), None);
}

#[test]
fn an_unknown_key_is_refused() {
    toml::from_str::<EtcdConfig>("endpoint = 'a:1'").unwrap_err();
}

#[test]
fn endpoints_get_the_scheme_that_they_lack() {
    let plain = plan("endpoints = ['a:1', 'http://b_c-d.e:2', '[::1]:3']");
    assert_eq!(
        plain.endpoints,
        ["http://a:1", "http://b_c-d.e:2", "http://[::1]:3"]
    );
    assert_eq!(plain.tls, None);

    let file = NamedTempFile::new().unwrap();
    let name = file.path().display();
    let text = format!("endpoints = ['a:1', 'https://b:2']\nca_file = '{name}'");
    assert_eq!(plan(&text).endpoints, ["https://a:1", "https://b:2"]);
}

#[test]
fn a_lease_is_whole_seconds_rounded_up() {
    for (ms, seconds) in [
        (4000, 4),
        (4001, 5),
        (4999, 5),
        (u64::MAX, 18_446_744_073_709_552),
    ] {
        let mut config = config("endpoints = ['a:1']");
        config.lease_ttl_ms = ms;
        assert_eq!(config.into_plan().unwrap().unwrap().lease_ttl_s, seconds);
    }
}

#[test]
fn files_are_named_in_the_plan_and_their_contents_are_not() {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(b"hunter2").unwrap();
    let name = file.path().display();
    let plan = plan(&format!(
        "endpoints = ['a:1']\nusername = 'u'\npassword_file = '{name}'\nca_file = '{name}'\n\
         cert_file = '{name}'\nkey_file = '{name}'"
    ));
    let credentials = plan.credentials.as_ref().unwrap();
    assert_eq!(credentials.username, "u");
    assert_eq!(credentials.password_file, file.path());
    assert!(plan.tls.as_ref().unwrap().own.is_some());
    assert!(!format!("{plan:?}").contains("hunter2"));
}

#[test]
fn values_that_cannot_be_are_refused() {
    let file = NamedTempFile::new().unwrap();
    for (text, expected) in [
        (
            "endpoints = ['a:1', 'b']",
            expect![[
                r#"`etcd.endpoints` is "b", expected http://host:port, https://host:port or host:port"#
            ]],
        ),
        (
            "endpoints = ['ftp://a:1']",
            expect![[
                r#"`etcd.endpoints` is "ftp://a:1", expected http://host:port, https://host:port or host:port"#
            ]],
        ),
        (
            "endpoints = ['http://a:1/path']",
            expect![[
                r#"`etcd.endpoints` is "http://a:1/path", expected http://host:port, https://host:port or host:port"#
            ]],
        ),
        (
            "endpoints = ['a:70000']",
            expect![[
                r#"`etcd.endpoints` is "a:70000", expected http://host:port, https://host:port or host:port"#
            ]],
        ),
        (
            "endpoints = ['::1:1']",
            expect![[
                r#"`etcd.endpoints` is "::1:1", expected http://host:port, https://host:port or host:port"#
            ]],
        ),
        (
            "endpoints = ['']",
            expect![[
                r#"`etcd.endpoints` is "", expected http://host:port, https://host:port or host:port"#
            ]],
        ),
        (
            "endpoints = ['a:1']\nprefix = ''",
            expect![[
                r#"`etcd.prefix` is "", expected a path that begins with / and does not end with it"#
            ]],
        ),
        (
            "endpoints = ['a:1']\nprefix = '/lava/'",
            expect![[
                r#"`etcd.prefix` is "/lava/", expected a path that begins with / and does not end with it"#
            ]],
        ),
        (
            "endpoints = ['a:1']\nlease_ttl_ms = 1999",
            expect!["`etcd.lease_ttl_ms` is 1999, expected at least 2000"],
        ),
        (
            "endpoints = ['a:1']\nrequest_timeout_ms = 0",
            expect!["`etcd.request_timeout_ms` is 0, expected at least 1"],
        ),
        (
            "endpoints = ['a:1']\nlease_ttl_ms = 3000",
            expect![
                "`etcd.request_timeout_ms` is 2000, expected at most half of etcd.lease_ttl_ms, 1500"
            ],
        ),
    ] {
        check_refused(text, &file, expected);
    }
}

#[test]
fn values_that_contradict_each_other_are_refused() {
    let file = NamedTempFile::new().unwrap();
    for (text, expected) in [
        (
            "username = 'u'",
            expect!["`etcd.password_file` is missing, expected one beside etcd.username"],
        ),
        (
            "password_file = 'FILE'",
            expect!["`etcd.username` is missing, expected one beside etcd.password_file"],
        ),
        (
            "cert_file = 'FILE'",
            expect!["`etcd.key_file` is missing, expected one beside etcd.cert_file"],
        ),
        (
            "key_file = 'FILE'",
            expect!["`etcd.cert_file` is missing, expected one beside etcd.key_file"],
        ),
        (
            "ca_file = 'FILE'\ncert_file = 'FILE'",
            expect!["`etcd.key_file` is missing, expected one beside etcd.cert_file"],
        ),
        (
            "cert_file = 'FILE'\nkey_file = 'FILE'",
            expect!["`etcd.cert_file` is FILE, expected etcd.ca_file beside it"],
        ),
    ] {
        check_refused(&format!("endpoints = ['a:1']\n{text}"), &file, expected);
    }
    for (text, expected) in [
        (
            "endpoints = ['http://a:1']\nca_file = 'FILE'",
            expect![[
                r#"`etcd.endpoints` is "http://a:1", expected https://, since there is etcd.ca_file"#
            ]],
        ),
        (
            "endpoints = ['https://a:1']",
            expect![[
                r#"`etcd.endpoints` is "https://a:1", expected etcd.ca_file beside https://"#
            ]],
        ),
    ] {
        check_refused(text, &file, expected);
    }
}

#[test]
fn settings_without_endpoints_are_refused() {
    let file = NamedTempFile::new().unwrap();
    for (text, expected) in [
        (
            "prefix = '/other'",
            expect![[
                r#"`etcd.prefix` is "/other", expected nothing, since etcd.endpoints is empty"#
            ]],
        ),
        (
            "lease_ttl_ms = 5000",
            expect!["`etcd.lease_ttl_ms` is 5000, expected nothing, since etcd.endpoints is empty"],
        ),
        (
            "request_timeout_ms = 1",
            expect![
                "`etcd.request_timeout_ms` is 1, expected nothing, since etcd.endpoints is empty"
            ],
        ),
        (
            "username = 'u'",
            expect![[r#"`etcd.username` is "u", expected nothing, since etcd.endpoints is empty"#]],
        ),
        (
            "password_file = 'FILE'",
            expect![
                "`etcd.password_file` is FILE, expected nothing, since etcd.endpoints is empty"
            ],
        ),
        (
            "ca_file = 'FILE'",
            expect!["`etcd.ca_file` is FILE, expected nothing, since etcd.endpoints is empty"],
        ),
        (
            "cert_file = 'FILE'",
            expect!["`etcd.cert_file` is FILE, expected nothing, since etcd.endpoints is empty"],
        ),
        (
            "key_file = 'FILE'",
            expect!["`etcd.key_file` is FILE, expected nothing, since etcd.endpoints is empty"],
        ),
    ] {
        check_refused(text, &file, expected);
    }
}

#[test]
fn a_file_that_cannot_be_read_is_named_with_its_key() {
    let file = NamedTempFile::new().unwrap();
    for (text, expected) in [
        (
            "username = 'u'\npassword_file = 'FILE.gone'",
            expect![
                "`etcd.password_file` is FILE.gone, expected a file that can be read (No such file or directory (os error 2))"
            ],
        ),
        (
            "ca_file = 'FILE.gone'",
            expect![
                "`etcd.ca_file` is FILE.gone, expected a file that can be read (No such file or directory (os error 2))"
            ],
        ),
        (
            "ca_file = 'FILE'\ncert_file = 'FILE.gone'\nkey_file = 'FILE'",
            expect![
                "`etcd.cert_file` is FILE.gone, expected a file that can be read (No such file or directory (os error 2))"
            ],
        ),
        (
            "ca_file = 'FILE'\ncert_file = 'FILE'\nkey_file = 'FILE.gone'",
            expect![
                "`etcd.key_file` is FILE.gone, expected a file that can be read (No such file or directory (os error 2))"
            ],
        ),
    ] {
        check_refused(&format!("endpoints = ['a:1']\n{text}"), &file, expected);
    }
}
