//! Passwords and certificates.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use etcd_client::{Client, Permission, PermissionType};
use lava_cluster::EtcdConfig;
use lava_test_support::Etcd;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair,
};
use tempfile::TempDir;
use tokio::time::sleep;
use tracing_subscriber::fmt::MakeWriter;

use crate::etcd::Reachable as _;
use crate::{Process, TTL, within};

/// What tasks on this thread log.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn count(&self, text: &str) -> usize {
        let log = self.0.lock().unwrap();
        String::from_utf8_lossy(&log).matches(text).count()
    }

    async fn until(&self, text: &str, count: usize) {
        let reached = async {
            while self.count(text) < count {
                sleep(Duration::from_millis(20)).await;
            }
        };
        within(text, reached).await;
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Log;

    fn make_writer(&self) -> Log {
        self.clone()
    }
}

/// Turns authentication on, with a user who may do what a worker and a coordinator do and no more.
async fn require_passwords(client: &mut Client) {
    let everything = async {
        client.user_add("root", "root's", None).await?;
        client.user_grant_role("root", "root").await?;
        client.role_add("lava").await?;
        let workers = Permission::new(PermissionType::Readwrite, "/lava/workers/");
        client
            .role_grant_permission("lava", workers.with_prefix())
            .await?;
        client.user_add("lava", "lava's", None).await?;
        client.user_grant_role("lava", "lava").await?;
        client.auth_enable().await
    };
    within("authentication", everything).await.unwrap();
}

#[tokio::test]
async fn a_wrong_password_is_reported_and_a_right_one_works_also_after_a_restart() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(log.clone())
        .finish();
    let _installed = tracing::subscriber::set_default(subscriber);
    let mut etcd = Etcd::start(1).await;
    require_passwords(&mut etcd.client().await).await;
    let folder = tempfile::tempdir().unwrap();
    let password_file = folder.path().join("password");
    fs::write(&password_file, "wrong\n").unwrap();
    let process = Process::new(EtcdConfig {
        username: Some("lava".to_owned()),
        password_file: Some(password_file.clone()),
        ..etcd.config()
    });

    let mut follower = process.follow();
    let registration = process.register("w", "h:1");
    process
        .until_metric("failures_total", |failures| failures >= 6)
        .await;
    assert_eq!(process.metric("connected"), 0);
    assert_eq!(process.metric("registrations_total"), 0);
    // Once for each of the two tasks.
    assert_eq!(log.count("WARN"), 2, "{log:?}", log = log.0);
    assert_eq!(
        log.count("authentication failed, invalid user ID or password"),
        2
    );
    assert_eq!(log.count("wrong"), 0);

    // It is read again for each session.
    fs::write(&password_file, "lava's\n").unwrap();
    follower.until_there("w", "h:1").await;
    process
        .until_metric("connected", |connected| connected == 1)
        .await;
    log.until("etcd is back", 2).await;

    // The new process of etcd does not know the old one's tokens.
    etcd.kill(0);
    etcd.restart(0).await;
    follower.until_later("w", 1).await;
    follower
        .stays(TTL, "the registration", |members| members.contains_key("w"))
        .await;
    registration.withdraw().await;
    follower.until_gone("w").await;
}

#[tokio::test]
async fn no_password_is_no_entry() {
    let etcd = Etcd::start(1).await;
    require_passwords(&mut etcd.client().await).await;
    let process = Process::new(etcd.config());
    let _follower = process.follow();
    let _registration = process.register("w", "h:1");
    process
        .until_metric("failures_total", |failures| failures >= 6)
        .await;
    assert_eq!(process.metric("registrations_total"), 0);
    assert_eq!(process.metric("connected"), 0);
}

/// An authority that signs certificates for loopback.
struct Authority {
    certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        Authority {
            certificate: params.self_signed(&key).unwrap(),
            issuer: Issuer::new(params, key),
        }
    }

    /// Writes the authority's own certificate.
    fn write(&self, folder: &TempDir, name: &str) -> PathBuf {
        let file = folder.path().join(name);
        fs::write(&file, self.certificate.pem()).unwrap();
        file
    }

    /// Writes a certificate and its key.
    fn sign(&self, folder: &TempDir, name: &str) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let in_folder = |end: &str| folder.path().join(format!("{name}{end}"));
        let (cert_file, key_file) = (in_folder(".pem"), in_folder(".key.pem"));
        fs::write(&cert_file, certificate.pem()).unwrap();
        fs::write(&key_file, key.serialize_pem()).unwrap();
        (cert_file, key_file)
    }
}

#[tokio::test]
async fn certificates_are_checked_on_both_sides() {
    let folder = tempfile::tempdir().unwrap();
    let (ours, other) = (Authority::new("ours"), Authority::new("other"));
    let (our_ca, other_ca) = (
        ours.write(&folder, "ca.pem"),
        other.write(&folder, "other.pem"),
    );
    let (node_cert, node_key) = ours.sign(&folder, "node");
    let own = ours.sign(&folder, "client");
    let foreign = other.sign(&folder, "foreign");
    let mut etcd = Etcd::stopped(1).with_tls(&our_ca, &node_cert, &node_key);
    etcd.restart(0).await;
    let process = |ca_file: &Path, own: Option<&(PathBuf, PathBuf)>| {
        Process::new(EtcdConfig {
            ca_file: Some(ca_file.to_owned()),
            cert_file: own.map(|(cert_file, _)| cert_file.clone()),
            key_file: own.map(|(_, key_file)| key_file.clone()),
            ..etcd.config()
        })
    };

    let refused = [
        process(&other_ca, Some(&own)),
        process(&our_ca, None),
        process(&our_ca, Some(&foreign)),
    ];
    for process in &refused {
        let _follower = process.follow();
        let _registration = process.register("refused", "h:1");
        process
            .until_metric("failures_total", |failures| failures >= 6)
            .await;
        assert_eq!(process.metric("connected"), 0);
        assert_eq!(process.metric("registrations_total"), 0);
    }

    let process = process(&our_ca, Some(&own));
    let mut follower = process.follow();
    let registration = process.register("w", "h:1");
    follower.until_there("w", "h:1").await;
    assert_eq!(follower.following.members().len(), 1);
    registration.withdraw().await;
    follower.until_gone("w").await;
}
