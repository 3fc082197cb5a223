//! `server`: a set of names at some addresses, and what it does with requests.

use std::collections::HashSet;

use super::directives::{self, Block, Verdict};
use super::error::{ErrorKind, Fault};
use super::level::Level;
use super::listen::Listen;
use super::location::{self, Found, Locations};
use super::parser::Directive;
use super::reader::Reader;
use super::reply::Reply;
use super::server_name::ServerName;
use super::settings::Settings;

/// One `server` block.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    /// Where it is reached.
    pub(crate) listens: Vec<Listen>,
    /// Its names.
    pub(crate) names: Vec<ServerName>,
    /// `$server_name`: the first name as written, or nothing.
    pub(crate) name: String,
    /// What holds in it outside locations.
    pub(crate) settings: Settings,
    /// `return` outside locations: the answer to every request.
    pub(crate) reply: Option<Reply>,
    /// Its locations.
    pub(crate) locations: Locations,
}

impl Server {
    /// The location for a [normalised](super::normalise) path; `None`, to be answered with 404, when there is none.
    pub(crate) fn locate<'r>(&self, path: &'r [u8]) -> Option<Found<'_, 'r>> {
        self.locations.find(path)
    }

    pub(super) fn read(directive: &Directive, http: &Settings, reader: &mut Reader<'_>) -> Result<Server, Fault> {
        if let Some(word) = directive.args.first() {
            return Err(Fault::new(ErrorKind::Misplaced, word.span, "server with an address outside an upstream")
                .expecting("server { ... } here, or the line inside upstream NAME { ... }"));
        }
        let block = directive.block.as_deref().unwrap_or_default();
        let mut level = Level::inside(http);
        let (mut listens, mut names, mut reply) = (Vec::<Listen>::new(), Vec::new(), None);
        let mut name: Option<String> = None;
        let mut seen = HashSet::new();
        for inner in block {
            if directives::judge(inner, Block::Server)? == Verdict::Harmless {
                reader.harmless(inner);
                continue;
            }
            match inner.name.text.as_str() {
                "location" => {}
                "listen" => {
                    let listen = Listen::read(inner, reader)?;
                    if !seen.insert(listen.address.clone()) {
                        let message = format!("a duplicate listen {}", listen.address);
                        return Err(
                            Fault::new(ErrorKind::Duplicate, inner.span(), message).expecting("another address")
                        );
                    }
                    listens.push(listen);
                }
                "server_name" => {
                    if inner.args.is_empty() {
                        return Err(super::level::wrong_number(inner));
                    }
                    for word in &inner.args {
                        names.extend(ServerName::read(word)?);
                        // `.x` is called x.
                        name.get_or_insert_with(|| names.first().map(ServerName::text).unwrap_or_default());
                    }
                }
                "return" => {
                    level.once(inner)?;
                    reply = Some(Reply::read(inner, reader.maps())?);
                }
                _ => level.read(inner, reader)?,
            }
        }
        if listens.is_empty() {
            reader.note(directive.span(), "server without listen: port 80, as nginx started by root");
            listens.push(Listen::standard());
        }
        if names.is_empty() {
            names.push(ServerName::Exact(String::new()));
        }
        let captures = names.iter().any(|name| matches!(name, ServerName::Regex(_)));
        let locations = location::read_all(block, None, &level.settings, captures, reader)?;
        if locations.is_empty() && reply.is_none() {
            let message = "server with neither a location nor return: static files are not served";
            return Err(Fault::new(ErrorKind::Missing, directive.span(), message)
                .expecting("location / { proxy_pass http://UPSTREAM; }"));
        }
        if reply.is_none() && !locations.iter().any(|location| location.matcher.is_catch_all()) {
            reader.note(directive.span(), "server without location /: what no location matches is answered with 404");
        }
        Ok(Server { listens, names, name: name.unwrap_or_default(), settings: level.settings, reply, locations })
    }
}
