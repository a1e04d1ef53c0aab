//! The section `[etcd]` of a configuration.

use std::fs;
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lava_node::{ConfigError, config};
use serde::Deserialize;

/// The settings as they are written; [`EtcdConfig::into_plan`] checks them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EtcdConfig {
    /// The nodes, each as `http://host:port`, `https://host:port` or `host:port`; none means no etcd.
    pub endpoints: Vec<String>,
    /// What all keys of this cluster begin with; two clusters in one etcd have two.
    pub prefix: String,
    /// How long a worker's record outlives the worker, milliseconds; etcd counts whole seconds, so this is
    /// rounded up.
    pub lease_ttl_ms: u64,
    /// Time for the answer to a request, milliseconds.
    pub request_timeout_ms: u64,
    /// The user of etcd, if it wants one.
    pub username: Option<String>,
    /// File with that user's password.
    pub password_file: Option<PathBuf>,
    /// PEM file with the authorities that the nodes' certificates are checked against; for https.
    pub ca_file: Option<PathBuf>,
    /// PEM file with our own certificate, if the nodes want one.
    pub cert_file: Option<PathBuf>,
    /// PEM file with its key.
    pub key_file: Option<PathBuf>,
}

impl Default for EtcdConfig {
    fn default() -> EtcdConfig {
        EtcdConfig {
            endpoints: Vec::new(),
            prefix: "/lava".to_owned(),
            lease_ttl_ms: 10_000,
            request_timeout_ms: 2000,
            username: None,
            password_file: None,
            ca_file: None,
            cert_file: None,
            key_file: None,
        }
    }
}

/// Settings that make sense, alone and together. Files are named and not read: each session reads them, so
/// that a new password or certificate is taken up without a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdPlan {
    /// With scheme; at least one.
    pub(super) endpoints: Vec<String>,
    pub(super) prefix: String,
    pub(super) lease_ttl_s: i64,
    pub(super) request_timeout: Duration,
    pub(super) credentials: Option<Credentials>,
    /// If there is one, every endpoint is https, or else none.
    pub(super) tls: Option<Tls>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Credentials {
    pub(super) username: String,
    pub(super) password_file: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tls {
    pub(super) ca_file: PathBuf,
    pub(super) own: Option<OwnCertificate>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OwnCertificate {
    pub(super) cert_file: PathBuf,
    pub(super) key_file: PathBuf,
}

impl EtcdConfig {
    /// Checks every value and every pair of values that could contradict each other; none without
    /// endpoints.
    ///
    /// # Errors
    ///
    /// The operator wrote an endpoint, a prefix or a time that cannot be, named a file that cannot be read,
    /// or gave values that contradict each other, such as a user without a password.
    pub fn into_plan(self) -> Result<Option<EtcdPlan>, ConfigError> {
        if self.endpoints.is_empty() {
            return self.refuse_leftovers().map(|()| None);
        }
        config::at_least(&[
            ("etcd.lease_ttl_ms", self.lease_ttl_ms, 2000),
            ("etcd.request_timeout_ms", self.request_timeout_ms, 1),
        ])?;
        // A renewal that a frozen node leaves unanswered begins after a third of the lease; what is left
        // must be enough to write the record through another node.
        if self.request_timeout_ms > self.lease_ttl_ms / 2 {
            return Err(contradiction(
                "etcd.request_timeout_ms",
                self.request_timeout_ms,
                format!(
                    "at most half of etcd.lease_ttl_ms, {}",
                    self.lease_ttl_ms / 2
                ),
            ));
        }
        let is_folder = self.prefix.starts_with('/') && !self.prefix.ends_with('/');
        if !is_folder {
            return Err(contradiction(
                "etcd.prefix",
                format!("{:?}", self.prefix),
                "a path that begins with / and does not end with it",
            ));
        }
        let tls = self.tls()?;
        let endpoint = |written: &String| endpoint(written, tls.is_some());
        let endpoints: Result<Vec<String>, ConfigError> =
            self.endpoints.iter().map(endpoint).collect();
        let lease_ttl_s = self.lease_ttl_ms.div_ceil(1000);
        Ok(Some(EtcdPlan {
            endpoints: endpoints?,
            credentials: self.credentials()?,
            lease_ttl_s: i64::try_from(lease_ttl_s).expect("a thousandth of a u64 fits an i64"),
            request_timeout: Duration::from_millis(self.request_timeout_ms),
            prefix: self.prefix,
            tls,
        }))
    }

    /// Without endpoints nothing else may be set: it would mean nothing.
    fn refuse_leftovers(&self) -> Result<(), ConfigError> {
        let default = EtcdConfig::default();
        let number = |value: u64, default: u64| (value != default).then(|| value.to_string());
        let text = |text: &String| format!("{text:?}");
        let file = |file: &Option<PathBuf>| file.as_ref().map(|file| file.display().to_string());
        let prefix = (self.prefix != default.prefix).then_some(&self.prefix);
        let set = [
            ("prefix", prefix.map(text)),
            (
                "lease_ttl_ms",
                number(self.lease_ttl_ms, default.lease_ttl_ms),
            ),
            (
                "request_timeout_ms",
                number(self.request_timeout_ms, default.request_timeout_ms),
            ),
            ("username", self.username.as_ref().map(text)),
            ("password_file", file(&self.password_file)),
            ("ca_file", file(&self.ca_file)),
            ("cert_file", file(&self.cert_file)),
            ("key_file", file(&self.key_file)),
        ];
        match set.into_iter().find_map(|(key, found)| Some((key, found?))) {
            None => Ok(()),
            Some((key, found)) => Err(contradiction(
                &format!("etcd.{key}"),
                found,
                "nothing, since etcd.endpoints is empty",
            )),
        }
    }

    fn credentials(&self) -> Result<Option<Credentials>, ConfigError> {
        let named = both(
            ("etcd.username", &self.username),
            ("etcd.password_file", &self.password_file),
        )?;
        let Some((username, password_file)) = named else {
            return Ok(None);
        };
        readable("etcd.password_file", password_file)?;
        Ok(Some(Credentials {
            username: username.clone(),
            password_file: password_file.clone(),
        }))
    }

    fn tls(&self) -> Result<Option<Tls>, ConfigError> {
        let own = both(
            ("etcd.cert_file", &self.cert_file),
            ("etcd.key_file", &self.key_file),
        )?;
        let Some(ca_file) = &self.ca_file else {
            return match own {
                None => Ok(None),
                Some((cert_file, _)) => Err(contradiction(
                    "etcd.cert_file",
                    cert_file.display(),
                    "etcd.ca_file beside it",
                )),
            };
        };
        readable("etcd.ca_file", ca_file)?;
        if let Some((cert_file, key_file)) = own {
            readable("etcd.cert_file", cert_file)?;
            readable("etcd.key_file", key_file)?;
        }
        Ok(Some(Tls {
            ca_file: ca_file.clone(),
            own: own.map(|(cert_file, key_file)| OwnCertificate {
                cert_file: cert_file.clone(),
                key_file: key_file.clone(),
            }),
        }))
    }
}

/// The endpoint with its scheme; without one it is the scheme that the other settings call for.
fn endpoint(written: &str, tls: bool) -> Result<String, ConfigError> {
    let refused = |expected: &str| {
        contradiction(
            "etcd.endpoints",
            format!("{written:?}"),
            expected.to_owned(),
        )
    };
    let (scheme, address) = match written.split_once("://") {
        Some((scheme, address)) => (scheme, address),
        None if tls => ("https", written),
        None => ("http", written),
    };
    if !matches!(scheme, "http" | "https") || !is_address(address) {
        return Err(refused("http://host:port, https://host:port or host:port"));
    }
    match (scheme, tls) {
        ("http", true) => Err(refused("https://, since there is etcd.ca_file")),
        ("https", false) => Err(refused("etcd.ca_file beside https://")),
        _ => Ok(format!("{scheme}://{address}")),
    }
}

fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else {
        return false;
    };
    let in_brackets = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let is_host = match in_brackets {
        Some(host) => host.parse::<Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty()
                && host
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c))
        }
    };
    is_host && port.parse::<u16>().is_ok_and(|port| port > 0)
}

/// Both values or neither.
fn both<'c, A, B>(
    (first_key, first): (&str, &'c Option<A>),
    (second_key, second): (&str, &'c Option<B>),
) -> Result<Option<(&'c A, &'c B)>, ConfigError> {
    let missing =
        |key: &str, other: &str| contradiction(key, "missing", format!("one beside {other}"));
    match (first, second) {
        (Some(first), Some(second)) => Ok(Some((first, second))),
        (None, None) => Ok(None),
        (Some(_), None) => Err(missing(second_key, first_key)),
        (None, Some(_)) => Err(missing(first_key, second_key)),
    }
}

fn readable(key: &str, file: &Path) -> Result<(), ConfigError> {
    match fs::read(file) {
        Ok(_) => Ok(()),
        Err(cause) => Err(contradiction(
            key,
            file.display(),
            format!("a file that can be read ({cause})"),
        )),
    }
}

fn contradiction(key: &str, found: impl ToString, expected: impl Into<String>) -> ConfigError {
    ConfigError::Contradiction {
        key: key.to_owned(),
        found: found.to_string(),
        expected: expected.into(),
    }
}

#[cfg(test)]
mod tests;
