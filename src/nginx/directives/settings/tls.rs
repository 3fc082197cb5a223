//! `ssl_*` for TLS with clients, and `proxy_ssl_*` for TLS with nodes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::BlockSettings;
use crate::nginx::directives::catalogue::arg;
use crate::nginx::directives::remarks::Remarks;
use crate::nginx::syntax::{Directive, Fault, values};

/// A certificate and its key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct CertificateFiles {
    pub(crate) certificate: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
}

/// The `ssl_protocols` that rustls supports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Protocols {
    pub(crate) tls12: bool,
    pub(crate) tls13: bool,
}

impl Default for Protocols {
    fn default() -> Self {
        Protocols { tls12: true, tls13: true }
    }
}

impl Protocols {
    /// Adds the protocols of another directive.
    pub(super) fn add(&mut self, other: Protocols) {
        self.tls12 |= other.tls12;
        self.tls13 |= other.tls13;
    }
}

/// `ssl_verify_client`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum VerifyClient {
    #[default]
    Off,
    On,
    Optional,
}

/// The certificates and settings that a server presents to clients.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ClientSide {
    pub(crate) files: CertificateFiles,
    pub(crate) protocols: Protocols,
    /// `ssl_client_certificate`: the certificate authorities of clients.
    pub(crate) authorities: Option<PathBuf>,
    /// `ssl_trusted_certificate`: more authorities of clients, whose names nginx does not send.
    pub(crate) trusted: Option<PathBuf>,
    pub(crate) verify: VerifyClient,
    /// Whether handshakes are rejected (`ssl_reject_handshake`).
    pub(crate) rejects_handshake: bool,
}

/// The settings of a location for `https://` nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct NodeSide {
    pub(crate) files: CertificateFiles,
    pub(crate) protocols: Protocols,
    /// `proxy_ssl_trusted_certificate`: the authorities of nodes; `None` for those of the system.
    pub(crate) authorities: Option<PathBuf>,
    /// Whether nodes are verified (`proxy_ssl_verify`); `None` if not written. The default here is
    /// on, but off in nginx.
    pub(crate) verify: Option<bool>,
    /// `proxy_ssl_name`.
    pub(crate) name: Option<String>,
    /// Whether SNI is sent to nodes (`proxy_ssl_server_name`); `None` if not written. The default
    /// here is on, but off in nginx.
    pub(crate) sni: Option<bool>,
}

/// Reads a directive about TLS. Returns false if it is about something else.
pub(super) fn read(
    settings: &mut BlockSettings,
    directive: &Directive,
    folder: Option<&Path>,
    remarks: &mut Remarks<'_>,
) -> Result<bool, Fault> {
    let span = directive.span();
    let name = directive.name.text.as_str();
    let file = || {
        let word = arg(directive)?;
        if word.text.is_empty()
            || word.text.contains('$')
            || word.text.starts_with("data:")
            || word.text.starts_with("engine:")
        {
            return Err(word.invalid("file", "the name of a PEM file, without variables"));
        }
        Ok(folder.map_or_else(|| PathBuf::from(&word.text), |folder| folder.join(&word.text)))
    };
    match name {
        "ssl_certificate" => clients(settings).files.certificate = Some(file()?),
        "ssl_certificate_key" => clients(settings).files.key = Some(file()?),
        "ssl_client_certificate" => clients(settings).authorities = Some(file()?),
        "ssl_trusted_certificate" => clients(settings).trusted = Some(file()?),
        "ssl_protocols" => clients(settings).protocols = protocols(directive, remarks)?,
        "ssl_reject_handshake" => clients(settings).rejects_handshake = values::flag(arg(directive)?)?,
        "ssl_verify_client" => {
            let word = arg(directive)?;
            clients(settings).verify = match word.text.as_str() {
                "off" => VerifyClient::Off,
                "on" => VerifyClient::On,
                "optional" => VerifyClient::Optional,
                _ => return Err(word.invalid("value", "on, off or optional")),
            };
        }
        "proxy_ssl_certificate" => nodes(settings).files.certificate = Some(file()?),
        "proxy_ssl_certificate_key" => nodes(settings).files.key = Some(file()?),
        "proxy_ssl_trusted_certificate" => nodes(settings).authorities = Some(file()?),
        "proxy_ssl_protocols" => nodes(settings).protocols = protocols(directive, remarks)?,
        "proxy_ssl_verify" => {
            let on = values::flag(arg(directive)?)?;
            if !on {
                let text =
                    "proxy_ssl_verify off: a machine that can redirect connections to the nodes reads every login";
                remarks.note(span, text);
            }
            nodes(settings).verify = Some(on);
        }
        "proxy_ssl_server_name" => nodes(settings).sni = Some(values::flag(arg(directive)?)?),
        "proxy_ssl_name" => {
            let word = arg(directive)?;
            if word.text.contains('$') {
                return Err(word.span.unsupported(
                    "variables in proxy_ssl_name are not supported",
                    "the name in the certificates of the nodes",
                ));
            }
            nodes(settings).name = Some(word.text.clone());
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn clients(settings: &mut BlockSettings) -> &mut ClientSide {
    Arc::make_mut(&mut settings.client_tls)
}

fn nodes(settings: &mut BlockSettings) -> &mut NodeSide {
    Arc::make_mut(&mut settings.node_tls)
}

fn protocols(directive: &Directive, remarks: &mut Remarks<'_>) -> Result<Protocols, Fault> {
    let mut protocols = Protocols { tls12: false, tls13: false };
    for word in &directive.args {
        match word.text.as_str() {
            "TLSv1.2" => protocols.tls12 = true,
            "TLSv1.3" => protocols.tls13 = true,
            "SSLv2" | "SSLv3" | "TLSv1" | "TLSv1.1" => {
                remarks.note(word.span, format!("{}: insecure, and not spoken", word.text));
            }
            _ => return Err(word.invalid("protocol", "TLSv1.2 or TLSv1.3")),
        }
    }
    if protocols == (Protocols { tls12: false, tls13: false }) {
        let message = format!("{} without a protocol that is spoken", directive.name.text);
        return Err(directive.span().unsupported(message, "TLSv1.2 TLSv1.3"));
    }
    Ok(protocols)
}
