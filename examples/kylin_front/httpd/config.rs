//! A whole configuration: its servers, its balancers and its addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use super::directives::{Balancer, Listen, Reader, Remarks, Server};
use super::syntax::{self, ConfigError, Fault, Notice, Parsed, Place};

/// A configuration of Apache httpd, read and checked.
#[derive(Debug)]
pub struct Config {
    /// The servers. The first is the main server, outside of the `<VirtualHost>` sections.
    pub servers: Vec<Server>,
    pub balancers: Vec<Balancer>,
    pub listeners: Vec<Listener>,
    /// Remarks about directives that are accepted without effect.
    pub ignored: Vec<Notice>,
    /// Remarks about directives for which the front end differs from httpd.
    pub notes: Vec<Notice>,
}

/// An address and its servers.
#[derive(Debug, Clone)]
pub struct Listener {
    pub listen: kylin_lb::server::Listen,
    pub is_tls: bool,
    /// The virtual hosts, or the main server if there are none. The first serves the hosts that no
    /// server names.
    pub servers: Vec<usize>,
}

impl Listener {
    /// Returns the port; 0 for a unix socket.
    pub fn port(&self) -> u16 {
        match &self.listen {
            kylin_lb::server::Listen::Tcp(address) | kylin_lb::server::Listen::DualStack(address) => address.port(),
            _ => 0,
        }
    }
}

impl Config {
    /// Reads a file and the files that it includes.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let Parsed { sources, directives, notices, root } = syntax::parse(path)?;
        let mut reader = Reader::new(Remarks::new(sources.clone()), root);
        reader.remarks.ignored.extend(notices);
        let config = reader.servers(&directives, Place::default()).and_then(|servers| Config::check(servers, reader));
        config.map_err(|fault| fault.locate(&sources))
    }

    fn check(servers: Vec<Server>, reader: Reader) -> Result<Self, Fault> {
        let Reader { remarks, balancers, listens, .. } = reader;
        let mut config = Config { servers, balancers, listeners: Vec::new(), ignored: Vec::new(), notes: Vec::new() };
        let mut remarks = remarks;
        config.check_balancers(&mut remarks)?;
        config.name_balancers();
        config.listen(listens, &mut remarks)?;
        config.check_node_tls()?;
        if config.passes().next().is_none() {
            return Err(Fault::new(None, "no ProxyPass leads to a node", ""));
        }
        (config.ignored, config.notes) = (remarks.ignored, remarks.notes);
        Ok(config)
    }

    /// Returns the servers and targets of all directives that lead to nodes.
    pub fn passes(&self) -> impl Iterator<Item = (&Server, &super::directives::Pass, &super::directives::Target)> {
        self.servers
            .iter()
            .flat_map(|server| server.all_passes().filter_map(move |pass| Some((server, pass, pass.to.as_ref()?))))
    }

    fn check_balancers(&self, remarks: &mut Remarks) -> Result<(), Fault> {
        for (_, pass, target) in self.passes() {
            let balancer = &self.balancers[target.balancer];
            if balancer.members.is_empty() {
                let message = format!("balancer://{} has no members", balancer.name);
                return Err(Fault::new(pass.place, message, "BalancerMember http://HOST:PORT in it"));
            }
        }
        for (index, balancer) in self.balancers.iter().enumerate() {
            if !self.passes().any(|(.., target)| target.balancer == index) {
                remarks.note(balancer.place, format!("balancer://{}: no ProxyPass leads to it", balancer.name));
            }
            let mut servers = self.passes().filter(|(.., target)| target.balancer == index).map(|(server, ..)| server);
            if balancer.members.iter().any(|member| member.tls)
                && servers.any(|server| server.node_tls.verifies.is_none())
            {
                let text = format!(
                    "{}: certificates of members are verified, httpd does so with SSLProxyVerify require; none turns it off",
                    balancer.url()
                );
                remarks.note(balancer.place, text);
            }
            let has = |what: fn(&super::directives::Member) -> bool| balancer.members.iter().any(what);
            if balancer.sticky.is_some() && !has(|member| member.route.is_some()) {
                remarks.note(
                    balancer.place,
                    format!("balancer://{}: stickysession without route= keeps no session", balancer.name),
                );
            }
            if balancer.no_failover && has(|member| member.redirect.is_some()) {
                let message = "nofailover and redirect exclude each other here: one keeps a session at its node, the other moves it";
                return Err(Fault::new(balancer.place, message, "one of them"));
            }
            for member in &balancer.members {
                if let Some(redirect) = &member.redirect
                    && !balancer.members.iter().any(|other| other.route.as_ref() == Some(redirect))
                {
                    return Err(Fault::new(
                        member.place,
                        format!("redirect to \"{redirect}\", which no member has as its route"),
                        "the route= of another member",
                    ));
                }
            }
        }
        Ok(())
    }

    /// Returns whether a server serves an address. The main server may serve none.
    pub fn is_reached(&self, server: &Server) -> bool {
        let mut numbers = self.listeners.iter().flat_map(|listener| &listener.servers);
        numbers.any(|number| std::ptr::eq(&raw const self.servers[*number], server))
    }

    /// Checks that the servers of a balancer agree on how its `https://` members are verified,
    /// because they share its connections.
    fn check_node_tls(&self) -> Result<(), Fault> {
        for (index, balancer) in self.balancers.iter().enumerate() {
            if !balancer.members.iter().any(|member| member.tls) {
                continue;
            }
            let mut first = None;
            for (server, pass, _) in self.passes().filter(|(.., target)| target.balancer == index) {
                if !self.is_reached(server) {
                    continue;
                }
                let known = *first.get_or_insert(server);
                if known.node_tls.verified_by() == server.node_tls.verified_by() {
                    continue;
                }
                let message = format!("{}: another virtual host verifies its members otherwise", balancer.url());
                let expected =
                    "the same SSLProxyVerify and SSLProxyCACertificateFile in each virtual host that leads to them";
                return Err(Fault::new(pass.place, message, expected));
            }
        }
        Ok(())
    }

    /// Merges identical balancers of several virtual hosts, and renames different ones that share a
    /// name.
    fn name_balancers(&mut self) {
        let mut kept: Vec<Balancer> = Vec::new();
        let mut places = Vec::new();
        for balancer in std::mem::take(&mut self.balancers) {
            let alike = kept
                .iter()
                .position(|other| other.name.split('@').next() == Some(&balancer.name) && other.is_like(&balancer));
            places.push(alike.unwrap_or(kept.len()));
            if alike.is_some() {
                continue;
            }
            let count = kept.iter().filter(|other| other.name.split('@').next() == Some(&balancer.name)).count();
            let name = if count == 0 { balancer.name.clone() } else { format!("{}@{}", balancer.name, count + 1) };
            kept.push(Balancer { name, ..balancer });
        }
        self.balancers = kept;
        for target in self.servers.iter_mut().flat_map(Server::targets_mut) {
            target.balancer = places[target.balancer];
        }
    }

    fn listen(&mut self, mut listens: Vec<Listen>, remarks: &mut Remarks) -> Result<(), Fault> {
        if listens.is_empty() {
            // The file is part of a configuration, such as a file in `sites-enabled`.
            for server in &self.servers {
                for (ip, port) in &server.addresses {
                    let port = port.unwrap_or(if server.is_tls() { 443 } else { 80 });
                    if !listens.iter().any(|listen| listen.port == port) {
                        remarks
                            .note(server.place, format!("no Listen: listening on port {port}, as <VirtualHost> says"));
                        listens.push(Listen { place: server.place, ip: *ip, port, https: server.is_tls() });
                    }
                }
            }
        }
        if listens.is_empty() {
            return Err(Fault::new(None, "no Listen, and no <VirtualHost> with a port: Listen 8080, for example", ""));
        }
        for listen in &listens {
            let listener = self.listener(listen)?;
            if !self.listeners.iter().any(|other| other.listen == listener.listen) {
                self.listeners.push(listener);
            }
        }
        for server in self.servers.iter().skip(1) {
            let is_reached = |(ip, port): &(Option<IpAddr>, Option<u16>)| {
                listens.iter().any(|listen| {
                    port.is_none_or(|port| port == listen.port) && ip.is_none_or(|ip| listen.ip == Some(ip))
                })
            };
            if server.addresses.iter().any(is_reached) {
                continue;
            }
            let on_any = |ip: IpAddr| {
                listens.iter().any(|listen| {
                    listen.ip.is_none_or(|listen| listen.is_unspecified() && listen.is_ipv4() == ip.is_ipv4())
                })
            };
            match server.addresses.iter().find_map(|(ip, _)| ip.filter(|ip| on_any(*ip))) {
                Some(ip) => {
                    let message = format!("a virtual host for {ip}, and Listen is for all addresses");
                    return Err(Fault::new(
                        server.place,
                        message,
                        format!("Listen {}", SocketAddr::new(ip, 80).to_string().replace(":80", ":PORT")),
                    ));
                }
                None => {
                    remarks.note(server.place, "no Listen is for the address of this <VirtualHost>: it serves nothing")
                }
            }
        }
        Ok(())
    }

    fn listener(&self, listen: &Listen) -> Result<Listener, Fault> {
        let is_at = |(ip, port): &(Option<IpAddr>, Option<u16>)| {
            port.is_none_or(|port| port == listen.port) && (ip.is_none() || *ip == listen.ip)
        };
        let hosts = self.servers.iter().enumerate().skip(1).filter(|(_, server)| server.addresses.iter().any(is_at));
        // Virtual hosts for this address precede those for all addresses.
        let is_exact =
            |index: &usize| self.servers[*index].addresses.iter().any(|(ip, _)| ip.is_some() && *ip == listen.ip);
        let all: Vec<usize> = hosts.map(|(index, _)| index).collect();
        let exact: Vec<usize> = all.iter().copied().filter(is_exact).collect();
        let servers = match (exact.is_empty(), all.is_empty()) {
            (false, _) => exact,
            (true, false) => all,
            (true, true) => vec![0],
        };
        let is_tls = servers.iter().any(|index| self.servers[*index].is_tls());
        if let Some(plain) = servers.iter().map(|index| &self.servers[*index]).find(|server| is_tls && !server.is_tls())
        {
            return Err(Fault::new(
                plain.place,
                format!("port {} with and without SSLEngine On", listen.port),
                "SSLEngine On in each <VirtualHost> of the port",
            ));
        }
        if listen.https && !is_tls {
            return Err(Fault::new(
                listen.place,
                "https, and no SSLEngine On for this port",
                "SSLEngine On, SSLCertificateFile and SSLCertificateKeyFile",
            ));
        }
        if is_tls {
            for server in servers.iter().map(|index| &self.servers[*index]) {
                server.check_tls()?;
            }
        }
        let address = match listen.ip {
            Some(ip) => kylin_lb::server::Listen::Tcp(SocketAddr::new(ip, listen.port)),
            // As in httpd, one socket serves IPv6 and IPv4 if the system has IPv6.
            None if std::net::UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).is_ok() => {
                kylin_lb::server::Listen::DualStack(SocketAddr::from((Ipv6Addr::UNSPECIFIED, listen.port)))
            }
            None => kylin_lb::server::Listen::Tcp(SocketAddr::from((Ipv4Addr::UNSPECIFIED, listen.port))),
        };
        Ok(Listener { listen: address, is_tls, servers })
    }

    /// Returns the index of the server of a listener for a host name without its port.
    pub fn server_for(&self, listener: &Listener, host: &str) -> usize {
        let is_named = |index: &&usize| self.servers[**index].names.iter().any(|name| syntax::matches(name, host));
        *listener.servers.iter().find(is_named).unwrap_or(&listener.servers[0])
    }
}
