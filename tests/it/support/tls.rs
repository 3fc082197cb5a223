//! Certificates for tests.

use std::process::Command;

use tempfile::TempDir;

use super::{redis::on_path, skip};

/// A self-signed certificate.
#[derive(Debug)]
pub(crate) struct Certificate(TempDir);

impl Certificate {
    /// Makes a certificate for 127.0.0.1 with the `openssl` command.
    pub(crate) fn make() -> Self {
        Self::for_names("IP:127.0.0.1")
    }

    /// Makes a certificate for these names, as in `DNS:kylin.example,IP:127.0.0.1`.
    pub(crate) fn for_names(names: &str) -> Self {
        Self::of_subject("/CN=test", names)
    }

    /// Makes a certificate for these names, whose subject and issuer is `subject`, as in
    /// `/O=Kylin/CN=test`.
    pub(crate) fn of_subject(subject: &str, names: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let certificate = Certificate(folder);
        let mut openssl = Command::new("openssl");
        openssl
            .args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -utf8 -subj".split(' '));
        openssl.arg(subject);
        openssl.args(["-addext", &format!("subjectAltName={names}"), "-addext", "basicConstraints=critical,CA:FALSE"]);
        openssl.arg("-keyout").arg(certificate.key()).arg("-out").arg(certificate.file());
        let output = openssl.output().expect("openssl can be run");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        certificate
    }

    pub(crate) fn file(&self) -> std::path::PathBuf {
        self.0.path().join("certificate.pem")
    }

    pub(crate) fn key(&self) -> std::path::PathBuf {
        self.0.path().join("key.pem")
    }
}

/// Returns whether `openssl` is installed, and reports a skipped test if it is not.
pub(crate) fn openssl_installed() -> bool {
    skip::installed("openssl", on_path("openssl"))
}
