//! Reads servers and their balancers.

use std::path::PathBuf;

use http::HeaderName;

use super::access::network;
use super::address::{Listen, host_address, server_name};
use super::balancer::Balancer;
use super::catalogue;
use super::remarks::Remarks;
use super::section::{Balancers, Matcher, ProxiedUrls, Section, Settings, read_server_pass};
use super::server::Server;
use crate::httpd::syntax::{Directive, Fault, Place, Word};

/// Reads servers.
pub struct Reader {
    pub remarks: Remarks,
    pub balancers: Vec<Balancer>,
    pub listens: Vec<Listen>,
    /// The folder for relative paths.
    root: PathBuf,
    /// The index of the first balancer of the current server. Earlier ones belong to the main
    /// server or to another virtual host.
    own: usize,
    /// The number of balancers of the main server.
    shared: usize,
}

/// Notes a directive without effect.
pub fn ignored(line: &Directive, why: &str, remarks: &mut Remarks) {
    let text = if why.is_empty() { line.line() } else { format!("{}: {why}", line.line()) };
    remarks.ignored(line.name.place, text);
}

impl Balancers for Reader {
    fn find(&mut self, url: &Word, parameters: &[Word]) -> Result<(usize, String), Fault> {
        let lower = url.text.to_ascii_lowercase();
        if let Some(rest) = lower.strip_prefix("balancer://") {
            let rest = &url.text[url.text.len() - rest.len()..];
            let (name, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let index = self.named(name, url)?;
            for parameter in parameters {
                self.balancers[index].set(parameter, &mut self.remarks)?;
            }
            return Ok((index, path.to_owned()));
        }
        // A host that is not a member of a balancer gets a balancer of its own.
        let (scheme, rest) = url.text.split_once("://").unwrap_or(("", &url.text));
        let end = url.text.len() - rest.len() + rest.find(['/', '$', '?']).unwrap_or(rest.len());
        if scheme.is_empty() || end == scheme.len() + 3 {
            return Err(url
                .fault(format!("not a target: \"{}\"", url.text), "balancer://NAME/PATH, http://HOST:PORT/PATH or !"));
        }
        let bare = Word { text: url.text[..end].to_owned(), ..url.clone() };
        let path = url.text[end..].to_owned();
        let known = self.balancers.iter().position(|balancer| !balancer.declared && balancer.name == bare.text);
        let index = match known {
            Some(index) => index,
            None => {
                let mut balancer = Balancer::new(&bare.text, url.place);
                balancer.add(&bare, &[], &mut self.remarks)?;
                self.balancers.push(balancer);
                self.balancers.len() - 1
            }
        };
        for parameter in parameters {
            self.balancers[index].members[0].set(parameter, &mut self.remarks)?;
        }
        Ok((index, path))
    }

    fn remarks(&mut self) -> &mut Remarks {
        &mut self.remarks
    }
}

impl Reader {
    pub fn new(remarks: Remarks, root: PathBuf) -> Self {
        Reader { remarks, balancers: Vec::new(), listens: Vec::new(), root, own: 0, shared: 0 }
    }

    /// Reads a whole configuration. The main server comes first, and virtual hosts include the
    /// settings that they inherit.
    pub fn servers(&mut self, lines: &[Directive], start: Place) -> Result<Vec<Server>, Fault> {
        let is_host = |line: &&Directive| line.is("<VirtualHost");
        let mut server = Server::new(start);
        let outer: Vec<&Directive> = lines.iter().filter(|line| !is_host(line)).collect();
        self.server(&mut server, &outer)?;
        self.shared = self.balancers.len();
        let mut servers = vec![server];
        for section in lines.iter().filter(is_host) {
            self.own = self.balancers.len();
            let mut host = Server::new(section.name.place);
            if section.args.is_empty() {
                return Err(section.fault("a virtual host without an address", "<VirtualHost *:PORT>"));
            }
            for address in &section.args {
                host.addresses.push(host_address(address)?);
            }
            let inner: Vec<&Directive> = section.section.iter().flatten().collect();
            // As in httpd, `RewriteEngine` is inherited, but the rules are not.
            host.rewrites.is_on = servers[0].rewrites.is_on;
            host.rewrites.root.clone_from(&servers[0].rewrites.root);
            self.server(&mut host, &inner)?;
            host.inherit(&servers[0]);
            servers.push(host);
        }
        for server in &mut servers {
            // The more specific section takes precedence: a location over a balancer.
            server.sections.sort_by_key(|section| match section.matcher {
                Matcher::All => 0,
                Matcher::Proxied(_) => 1,
                Matcher::Below(_) | Matcher::Pattern(_) => 2,
            });
            server.check_capitals()?;
        }
        Ok(servers)
    }

    fn server(&mut self, server: &mut Server, lines: &[&Directive]) -> Result<(), Fault> {
        // `ProxyPass` may name a balancer that is declared further down.
        for line in lines {
            if line.is("<Proxy") && is_balancer(line.args.first()) {
                self.balancer(line)?;
            } else if line.is("BalancerMember") {
                let [balancer, url, parameters @ ..] = &line.args[..] else {
                    return Err(line.fault(
                        "BalancerMember needs a balancer and a URL",
                        "BalancerMember balancer://NAME http://HOST:PORT",
                    ));
                };
                let index = self.declare(balancer)?;
                self.balancers[index].add(url, parameters, &mut self.remarks)?;
            }
        }
        let engine = lines.iter().rev().filter(|line| line.is("RewriteEngine")).find_map(|line| line.flag().ok());
        server.rewrites.is_on = engine.unwrap_or(server.rewrites.is_on);
        let root = lines.iter().rev().find(|line| line.is("DocumentRoot")).and_then(|line| line.args.first());
        server.rewrites.root =
            root.map(|root| root.text.trim_end_matches('/').to_owned()).or(server.rewrites.root.take());
        for line in lines {
            self.line(server, line)?;
        }
        let settings = std::mem::take(&mut server.settings);
        server.sections.insert(0, Section { matcher: Matcher::All, settings });
        Ok(())
    }

    fn line(&mut self, server: &mut Server, line: &Directive) -> Result<(), Fault> {
        if let Some(lines) = &line.section {
            return self.section(server, line, lines);
        }
        match line.name.text.to_ascii_lowercase().as_str() {
            "balancermember" => {}
            "proxypass" | "proxypassmatch" => {
                let pass = read_server_pass(line, self)?;
                server.passes.push(pass);
            }
            "proxyset" => {
                let Some((url, parameters)) = line.args.split_first() else {
                    return Err(line.fault("ProxySet needs a balancer", "ProxySet balancer://NAME NAME=VALUE"));
                };
                self.find(url.defined()?, parameters)?;
            }
            "servername" => server.names.insert(0, server_name(line.one("a host name")?)?),
            "serveralias" => server.names.extend(line.args.iter().map(server_name).collect::<Result<Vec<_>, _>>()?),
            "listen" if server.addresses.is_empty() => self.listens.push(Listen::read(line)?),
            "timeout" => server.timeout = Some(line.one("a time")?.time()?),
            "proxytimeout" => server.proxy_timeout = Some(line.one("a time")?.time()?),
            "proxyrequests" => {
                if line.flag()? {
                    return Err(line.args[0]
                        .fault("this is no forward proxy, which lets clients reach any host", "ProxyRequests Off"));
                }
            }
            "remoteipheader" => {
                let word = line.one("X-Forwarded-For")?;
                let name = HeaderName::from_bytes(word.text.as_bytes());
                server.remote_header =
                    Some(name.map_err(|_| word.fault("not the name of a header", "X-Forwarded-For"))?);
            }
            "remoteipinternalproxy" | "remoteiptrustedproxy" => {
                if line.is("RemoteIPTrustedProxy") {
                    let text =
                        "private addresses that it names are clients too; in httpd only those of RemoteIPInternalProxy";
                    self.remarks.note(line.name.place, format!("{}: {text}", line.line()));
                }
                server.trusted.extend(line.args.iter().map(network).collect::<Result<Vec<_>, _>>()?);
            }
            "rewriteengine" => {
                line.flag()?;
            }
            "rewriterule" | "rewritecond" if !server.rewrites.is_on => {
                ignored(line, "RewriteEngine is not On", &mut self.remarks);
            }
            "rewriterule" => server.rewrites.rule(line, self)?,
            "rewritecond" => server.rewrites.condition(line, self)?,
            "rewriteoptions" => {
                if let Some(word) = line.args.iter().find(|word| word.text.to_ascii_lowercase().starts_with("inherit"))
                {
                    return Err(word.fault("rules are not inherited", "the rules in each <VirtualHost>"));
                }
            }
            "sslengine" => {
                server.tls.on = Some(line.one("On or Off")?.text.eq_ignore_ascii_case("optional") || line.flag()?)
            }
            "sslcertificatefile" => server.tls.certificate = Some(self.file(line)?),
            "sslcertificatekeyfile" => server.tls.key = Some(self.file(line)?),
            "sslcertificatechainfile" => server.tls.chain = Some(self.file(line)?),
            "sslproxycacertificatefile" => server.node_tls.roots = Some(self.file(line)?),
            "sslproxyengine" => _ = line.flag()?,
            "sslproxyverify" => {
                let how = line.one("require or none")?;
                match how.text.to_ascii_lowercase().as_str() {
                    "none" => server.node_tls.verifies = Some(false),
                    "require" => server.node_tls.verifies = Some(true),
                    _ => {
                        return Err(
                            how.fault(format!("SSLProxyVerify {} is not supported", how.text), "require or none")
                        );
                    }
                }
            }
            "sslproxycheckpeername" | "sslproxycheckpeercn" | "sslproxycheckpeerexpire" => {
                if !line.flag()? {
                    self.remarks
                        .note(line.name.place, format!("{}: checked unless SSLProxyVerify is none", line.line()));
                }
            }
            _ => {
                if !server.settings.read(line, None, self)? {
                    let why = catalogue::no_effect(line)?;
                    ignored(line, why, &mut self.remarks);
                }
            }
        }
        Ok(())
    }

    fn section(&mut self, server: &mut Server, line: &Directive, lines: &[Directive]) -> Result<(), Fault> {
        match line.name.text.to_ascii_lowercase().as_str() {
            "<location" | "<locationmatch" => server.sections.push(Settings::section(line, self)?),
            "<proxy" | "<proxymatch" => {
                if line.is("<ProxyMatch") {
                    return Err(line.fault("<ProxyMatch> is not supported", "<Proxy *> or <Proxy balancer://NAME>"));
                }
                match &line.args[..] {
                    [url, ..] if is_balancer(Some(url)) => {
                        self.proxied(server, url, lines.iter().filter(|line| !is_of_balancer(line)))?;
                    }
                    [url] => self.proxied(server, url, lines.iter())?,
                    _ => return Err(line.fault("<Proxy> needs a URL", "<Proxy balancer://NAME> or <Proxy *>")),
                }
            }
            "<directory" | "<directorymatch" | "<files" | "<filesmatch" => {
                if line.args.iter().any(|word| word.text.to_ascii_lowercase().contains("proxy:")) {
                    return Err(line.fault("a section of httpd 2.0 for proxied requests", "<Proxy *> or <Location>"));
                }
                ignored(line, "files are not served", &mut self.remarks);
            }
            "<limit" | "<limitexcept" => {
                let message = format!("{}> may not stand here", line.name.text);
                return Err(line.fault(message, "<Limit> in <Location> or <Proxy>: <Location /> for all paths"));
            }
            "<virtualhost" => {
                return Err(line.fault("<VirtualHost> may not stand here", "<VirtualHost> outside of sections"));
            }
            "<requireall" | "<requireany" | "<requirenone" => _ = server.settings.access.read(line)?,
            _ => {
                catalogue::no_effect(line)?;
                return Err(
                    line.fault(format!("{}> is not supported", line.name.text), "<Location>, <Proxy> or <VirtualHost>")
                );
            }
        }
        Ok(())
    }

    /// Reads the members and parameters of `<Proxy balancer://NAME [NAME=VALUE]...>`. Other
    /// directives of the section are read elsewhere.
    fn balancer(&mut self, section: &Directive) -> Result<(), Fault> {
        let Some((url, parameters)) = section.args.split_first() else { return Ok(()) };
        let index = self.declare(url)?;
        for parameter in parameters {
            self.balancers[index].set(parameter, &mut self.remarks)?;
        }
        for line in section.section.iter().flatten().filter(|line| is_of_balancer(line)) {
            if line.is("BalancerMember") {
                let Some((member, parameters)) = line.args.split_first() else {
                    return Err(
                        line.fault("BalancerMember needs a URL", "BalancerMember http://HOST:PORT [NAME=VALUE]...")
                    );
                };
                if member.text.starts_with("balancer://") {
                    return Err(member.fault("the name of a balancer inside of it", "BalancerMember http://HOST:PORT"));
                }
                self.balancers[index].add(member, parameters, &mut self.remarks)?;
            } else {
                for parameter in &line.args {
                    self.balancers[index].set(parameter, &mut self.remarks)?;
                }
            }
        }
        Ok(())
    }

    /// Reads the settings of requests to a balancer or host.
    fn proxied<'d>(
        &mut self,
        server: &mut Server,
        url: &Word,
        lines: impl Iterator<Item = &'d Directive>,
    ) -> Result<(), Fault> {
        let mut settings = Settings::default();
        for line in lines {
            if line.name.text.to_ascii_lowercase().starts_with("redirect") {
                return Err(
                    line.fault(format!("{} may not stand in <Proxy>", line.name.text), "<Location PATH> with it")
                );
            }
            if !settings.read(line, None, self)? {
                let why = catalogue::no_effect(line)?;
                ignored(line, why, &mut self.remarks);
            }
        }
        server.sections.push(Section { matcher: Matcher::Proxied(ProxiedUrls::read(url)?), settings });
        Ok(())
    }

    /// Returns the balancer `balancer://NAME` of the current server, which is created if it is new.
    fn declare(&mut self, url: &Word) -> Result<usize, Fault> {
        let text = url.defined()?.text.as_str();
        let name = text.get(.."balancer://".len()).filter(|scheme| scheme.eq_ignore_ascii_case("balancer://"));
        let name = name.map(|scheme| text[scheme.len()..].trim_end_matches('/')).unwrap_or_default();
        if name.is_empty() || name.contains('/') {
            return Err(url.fault(format!("not the name of a balancer: \"{text}\""), "balancer://NAME"));
        }
        let mut own = self.balancers.iter().enumerate().skip(self.own);
        if let Some((index, _)) = own.find(|(_, known)| known.declared && known.name.eq_ignore_ascii_case(name)) {
            return Ok(index);
        }
        let is_same = |known: &&Balancer| known.declared && known.name.eq_ignore_ascii_case(name);
        if let (true, Some(_)) =
            (self.own >= self.shared && self.shared > 0, self.balancers.iter().take(self.shared).find(is_same))
        {
            let text =
                format!("{text}: has no effect, because httpd takes the one of this name outside of <VirtualHost>");
            self.remarks.note(url.place, text);
        }
        self.balancers.push(Balancer { declared: true, ..Balancer::new(name, url.place) });
        Ok(self.balancers.len() - 1)
    }

    /// Finds a balancer of the main server, else of the current server.
    fn named(&self, name: &str, url: &Word) -> Result<usize, Fault> {
        let all = || self.balancers.iter().enumerate();
        let is_named = |known: &Balancer| known.declared && known.name.eq_ignore_ascii_case(name);
        // httpd searches the main server first.
        let mut visible = all().take(self.shared).chain(all().skip(self.own));
        if let Some((index, _)) = visible.find(|(_, known)| is_named(known)) {
            return Ok(index);
        }
        let names = all().map(|(_, known)| known.name.as_str());
        let meant = crate::httpd::syntax::did_you_mean(name, names);
        Err(url.fault(
            format!("no balancer is called \"{name}\" here{meant}"),
            format!("<Proxy balancer://{name}> with BalancerMember lines"),
        ))
    }

    fn file(&self, line: &Directive) -> Result<PathBuf, Fault> {
        Ok(self.root.join(&line.one("a file")?.defined()?.text))
    }
}

/// Returns whether the URL of `<Proxy>` names one balancer, and is not a pattern.
fn is_balancer(url: Option<&Word>) -> bool {
    url.is_some_and(|url| url.text.to_ascii_lowercase().starts_with("balancer://") && !url.text.contains('*'))
}

fn is_of_balancer(line: &Directive) -> bool {
    line.is("BalancerMember") || line.is("ProxySet")
}
