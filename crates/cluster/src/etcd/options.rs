//! What a connection is made with, from the plan and the files that it names.

use std::path::Path;
use std::time::Duration;
use std::{fs, io};

use etcd_client::{Certificate, ConnectOptions, Identity, TlsOptions};

use super::config::EtcdPlan;
use super::session::SessionError;

/// etcd takes more frequent pings for abuse and closes the connection: its `--grpc-keepalive-min-time` is 5 s.
/// They are for a peer that is gone without a word; one that is there and frozen is found by requests.
const PING_INTERVAL_MIN: Duration = Duration::from_secs(6);

pub(super) fn of(plan: &EtcdPlan) -> Result<ConnectOptions, SessionError> {
    let mut options = ConnectOptions::new()
        .with_connect_timeout(plan.request_timeout)
        .with_keep_alive(
            plan.request_timeout.max(PING_INTERVAL_MIN),
            plan.request_timeout,
        )
        // Without a stream, etcd allows a ping in two hours.
        .with_keep_alive_while_idle(false)
        // A node that is cut off from the others refuses to answer instead of telling old news.
        .with_require_leader(true);
    if let Some(credentials) = &plan.credentials {
        let file = &credentials.password_file;
        let password = match String::from_utf8(read("etcd.password_file", file)?) {
            Ok(password) => password,
            Err(error) => {
                return Err(SessionError::Unreadable {
                    key: "etcd.password_file",
                    file: file.clone(),
                    cause: io::Error::new(io::ErrorKind::InvalidData, error.utf8_error()),
                });
            }
        };
        // Editors end a file with a line break, and passwords have none.
        let password = password.trim_end_matches(['\r', '\n']);
        options = options.with_user(&credentials.username, password);
    }
    if let Some(tls) = &plan.tls {
        let authorities = Certificate::from_pem(read("etcd.ca_file", &tls.ca_file)?);
        let mut checked = TlsOptions::new().ca_certificate(authorities);
        if let Some(own) = &tls.own {
            checked = checked.identity(Identity::from_pem(
                read("etcd.cert_file", &own.cert_file)?,
                read("etcd.key_file", &own.key_file)?,
            ));
        }
        options = options.with_tls(checked);
    }
    Ok(options)
}

/// These are small local files; reading them holds up nobody.
fn read(key: &'static str, file: &Path) -> Result<Vec<u8>, SessionError> {
    fs::read(file).map_err(|cause| SessionError::Unreadable {
        key,
        file: file.to_owned(),
        cause,
    })
}
