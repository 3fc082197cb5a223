//! The TLS options of a front end for listed nodes. A configuration has directives for TLS.

use std::error::Error;
use std::path::PathBuf;

use kylin_lb::server::Listen;

/// The certificates that clients are shown.
#[cfg(feature = "tls")]
pub type Clients = kylin_lb::tls::ServerTls;

/// In a build without TLS there are none.
#[cfg(not(feature = "tls"))]
pub enum Clients {}

#[cfg(not(feature = "tls"))]
impl Clients {
    pub fn replace(&self, _: &Self) {
        match *self {}
    }
}

/// The options about TLS.
#[derive(Clone, Default)]
pub struct TlsOptions {
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    client_ca: Option<PathBuf>,
    /// The address at which requests are redirected to HTTPS.
    pub redirect: Option<Listen>,
    node_ca: Option<PathBuf>,
    node_verify_off: bool,
}

pub const NAMES: [&str; 6] =
    ["--tls-certificate", "--tls-key", "--tls-client-ca", "--redirect", "--node-ca", "--node-verify"];

/// The names of options that affect nodes at `https://`.
pub const OF_NODES: [&str; 2] = ["--node-ca", "--node-verify"];

impl TlsOptions {
    /// Sets one of [`NAMES`].
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        if cfg!(not(feature = "tls")) {
            return Err(format!("{name}: this build has no TLS: build it with --features tls"));
        }
        let file = || Some(PathBuf::from(value));
        match name {
            "--tls-certificate" => self.certificate = file(),
            "--tls-key" => self.key = file(),
            "--tls-client-ca" => self.client_ca = file(),
            "--redirect" => {
                self.redirect = Some(value.parse::<Listen>().map_err(|error| format!("--redirect: {error}"))?)
            }
            "--node-ca" => self.node_ca = file(),
            _ => self.node_verify_off = !crate::args::switch(name, value)?,
        }
        Ok(())
    }

    /// Checks that the options are consistent.
    pub fn check(&self) -> Result<(), String> {
        match (&self.certificate, &self.key) {
            (Some(_), None) => Err("--tls-certificate needs --tls-key".into()),
            (None, Some(_)) => Err("--tls-key needs --tls-certificate".into()),
            (None, None) if self.client_ca.is_some() => Err("--tls-client-ca needs --tls-certificate".into()),
            (None, None) if self.redirect.is_some() => Err("--redirect needs --tls-certificate".into()),
            _ => Ok(()),
        }
    }

    /// Returns the risk of the options, for `--check`.
    pub fn warning(&self) -> Option<&'static str> {
        let off = "nodes are not verified (--node-verify off): another host at a node's address can read logins";
        self.node_verify_off.then_some(off)
    }

    /// Reads the certificates for clients; `None` without any.
    #[cfg(feature = "tls")]
    pub fn clients(&self) -> Result<Option<Clients>, Box<dyn Error>> {
        use kylin_lb::tls::{ClientCertificate, Identity, Roots, ServerTls, TlsError};

        let (Some(certificate), Some(key)) = (&self.certificate, &self.key) else { return Ok(None) };
        let place = |error| match &error {
            TlsError::InFile { path, .. } | TlsError::Read { path, .. } if path == key && path != certificate => {
                format!("--tls-key {}: {}", key.display(), chain(&error))
            }
            _ => format!("--tls-certificate {}: {}", certificate.display(), chain(&error)),
        };
        let mut tls = ServerTls::builder(Identity::from_files(certificate, key).map_err(place)?);
        if let Some(file) = &self.client_ca {
            let roots = Roots::from_file(file);
            let roots = roots.map_err(|error| format!("--tls-client-ca {}: {}", file.display(), chain(&error)))?;
            tls = tls.client_roots(roots, ClientCertificate::Required);
        }
        Ok(Some(tls.build().map_err(place)?))
    }

    #[cfg(not(feature = "tls"))]
    pub fn clients(&self) -> Result<Option<Clients>, Box<dyn Error>> {
        Ok(None)
    }

    /// Reads the authorities of nodes.
    #[cfg(feature = "tls")]
    pub fn nodes(&self) -> Result<kylin_lb::tls::ClientTls, Box<dyn Error + Send + Sync>> {
        use kylin_lb::tls::{ClientTls, Roots};

        let mut tls = ClientTls::builder().verify(!self.node_verify_off);
        if let Some(file) = &self.node_ca {
            let roots = Roots::from_file(file);
            tls = tls.roots(roots.map_err(|error| format!("--node-ca {}: {}", file.display(), chain(&error)))?);
        }
        Ok(tls.build()?)
    }
}

/// Returns the text of an error with its causes. The file is omitted, because the option or
/// directive names it.
#[cfg(feature = "tls")]
pub fn chain(error: &kylin_lb::tls::TlsError) -> String {
    match error {
        kylin_lb::tls::TlsError::InFile { source, .. } => crate::running::chain(&**source),
        error => crate::running::chain(error),
    }
}
