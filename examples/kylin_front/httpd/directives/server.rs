//! The server and its `<VirtualHost>` sections.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::HeaderName;
use ipnet::IpNet;
use kylin_lb::proxy::TrustedProxies;

use super::pass::{Pass, Target};
use super::rewrite::Rewrites;
use super::section::{Matcher, Section, Settings};
use crate::httpd::syntax::{Fault, Place};

/// The server or a `<VirtualHost>`.
#[derive(Debug, Clone)]
pub struct Server {
    pub place: Place,
    /// The addresses of a `<VirtualHost>`; empty for the main server.
    pub addresses: Vec<(Option<IpAddr>, Option<u16>)>,
    /// The names, `ServerName` first.
    pub names: Vec<String>,
    /// The settings outside of sections, while they are read.
    pub(super) settings: Settings,
    /// The sections. Later ones take precedence.
    pub sections: Vec<Section>,
    pub passes: Vec<Pass>,
    /// `Timeout`.
    pub timeout: Option<Duration>,
    /// `ProxyTimeout`.
    pub proxy_timeout: Option<Duration>,
    pub tls: Tls,
    pub node_tls: NodeTls,
    /// `RemoteIPHeader`.
    pub remote_header: Option<HeaderName>,
    pub(super) trusted: Vec<IpNet>,
    pub rewrites: Rewrites,
}

/// The files of `SSLEngine On`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// Whether clients speak TLS (`SSLEngine`), if the file sets it.
    pub on: Option<bool>,
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
    pub chain: Option<PathBuf>,
}

/// `SSLProxy...`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeTls {
    pub roots: Option<PathBuf>,
    /// Whether nodes are verified (`SSLProxyVerify`), if the file sets it. httpd does not verify by
    /// default.
    pub verifies: Option<bool>,
}

impl Tls {
    fn inherit(&mut self, outer: &Tls) {
        self.on = self.on.or(outer.on);
        for (own, of_outer) in
            [(&mut self.certificate, &outer.certificate), (&mut self.key, &outer.key), (&mut self.chain, &outer.chain)]
        {
            if own.is_none() {
                own.clone_from(of_outer);
            }
        }
    }
}

impl NodeTls {
    /// Returns the file of certificate authorities for nodes. The outer `None` means that nodes are
    /// not verified; the inner `None` means the system's authorities.
    pub fn verified_by(&self) -> Option<Option<&Path>> {
        (self.verifies != Some(false)).then_some(self.roots.as_deref())
    }

    fn inherit(&mut self, outer: &NodeTls) {
        if self.roots.is_none() {
            self.roots.clone_from(&outer.roots);
        }
        self.verifies = self.verifies.or(outer.verifies);
    }
}

impl Server {
    pub(super) fn new(place: Place) -> Self {
        Server {
            place,
            addresses: Vec::new(),
            names: Vec::new(),
            settings: Settings::default(),
            sections: Vec::new(),
            passes: Vec::new(),
            timeout: None,
            proxy_timeout: None,
            tls: Tls::default(),
            node_tls: NodeTls::default(),
            remote_header: None,
            trusted: Vec::new(),
            rewrites: Rewrites::default(),
        }
    }

    /// Returns the proxies in front that name the client.
    pub fn trusted_proxies(&self) -> TrustedProxies {
        match &self.remote_header {
            Some(header) => TrustedProxies::new(self.trusted.iter().copied()).header(header.clone()),
            None => TrustedProxies::none(),
        }
    }

    /// Returns all `ProxyPass` directives, including those of locations, and the rules that lead to
    /// balancers.
    pub fn all_passes(&self) -> impl Iterator<Item = &Pass> {
        let of_sections = self.sections.iter().filter_map(|section| section.settings.pass.as_ref());
        self.passes.iter().chain(of_sections).chain(self.rewrites.passes())
    }

    pub fn targets_mut(&mut self) -> impl Iterator<Item = &mut Target> {
        let of_sections = self.sections.iter_mut().filter_map(|section| section.settings.pass.as_mut());
        let of_rules = self.rewrites.passes_mut();
        self.passes.iter_mut().chain(of_sections).chain(of_rules).filter_map(|pass| pass.to.as_mut())
    }

    /// Returns whether clients speak TLS.
    pub fn is_tls(&self) -> bool {
        self.tls.on == Some(true)
    }

    /// Checks that `SSLEngine On` has its files.
    pub fn check_tls(&self) -> Result<(), Fault> {
        if !cfg!(feature = "tls") {
            return Err(Fault::new(self.place, "SSLEngine On needs the feature tls", "a build with --features tls"));
        }
        match (&self.tls.certificate, &self.tls.key) {
            (Some(_), _) => Ok(()),
            (None, _) => Err(Fault::new(
                self.place,
                "SSLEngine On without a certificate",
                "SSLCertificateFile FILE and SSLCertificateKeyFile FILE",
            )),
        }
    }

    /// Checks that no `<Proxy URL>` with access rules differs from a URL of `ProxyPass` only by
    /// case.
    pub(super) fn check_capitals(&self) -> Result<(), Fault> {
        for section in self.sections.iter().filter(|section| !section.settings.access.is_empty()) {
            if let Matcher::Proxied(urls) = &section.matcher {
                let mut targets = self.all_passes().filter_map(|pass| pass.to.as_ref());
                targets.try_for_each(|target| urls.check_capitals(&format!("{}/", target.url)))?;
            }
        }
        Ok(())
    }

    /// Inherits the settings of the main server.
    pub fn inherit(&mut self, outer: &Server) {
        let own = std::mem::take(&mut self.passes);
        self.passes = outer.passes.iter().cloned().chain(own).collect();
        let own = std::mem::take(&mut self.sections);
        self.sections = outer.sections.iter().cloned().chain(own).collect();
        self.timeout = self.timeout.or(outer.timeout);
        self.proxy_timeout = self.proxy_timeout.or(outer.proxy_timeout);
        if self.remote_header.is_none() {
            self.remote_header.clone_from(&outer.remote_header);
        }
        if self.trusted.is_empty() {
            self.trusted.clone_from(&outer.trusted);
        }
        self.tls.inherit(&outer.tls);
        self.node_tls.inherit(&outer.node_tls);
    }
}
