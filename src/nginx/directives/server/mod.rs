//! `server`: a set of names at some addresses, and what it does with requests.

mod listen;
mod server_name;

use std::collections::HashSet;

pub(crate) use listen::{Listen, ListenAddress};
pub(crate) use server_name::{ServerName, ServerNames};

use super::catalogue::{self, Block, wrong_number};
use super::comments::CommentOptions;
use super::context::ReadContext;
use super::location::{self, LocationMatch, Locations, Reply};
use super::settings::{BlockSettings, SettingsReader};
use crate::kylin::NormalizedPath;
use crate::nginx::syntax::{Directive, Fault};

/// One `server` block.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    pub(crate) listens: Vec<Listen>,
    pub(crate) names: Vec<ServerName>,
    /// `$server_name`: the first name as written, or nothing.
    pub(crate) name: String,
    /// The settings outside locations.
    pub(crate) settings: BlockSettings,
    /// `return` outside locations: the response to every request.
    pub(crate) reply: Option<Reply>,
    pub(crate) locations: Locations,
    /// `# kylin_lb:` comments, which concern the upstreams of the locations.
    pub(crate) comments: CommentOptions,
}

impl Server {
    /// Finds the location for a path; without one the response is 404.
    pub(crate) fn locate<'r>(&self, path: &'r NormalizedPath<'_>) -> Option<LocationMatch<'_, 'r>> {
        self.locations.find(path)
    }

    pub(crate) fn read(
        directive: &Directive,
        http: &BlockSettings,
        context: &mut ReadContext<'_>,
    ) -> Result<Server, Fault> {
        if let Some(word) = directive.args.first() {
            let expected = "server { ... } here, or the line inside upstream NAME { ... }";
            return Err(word.span.misplaced("server with an address outside an upstream", expected));
        }
        let block = directive.block.as_deref().unwrap_or_default();
        let comments = CommentOptions::read(block, &context.remarks)?;
        let block = catalogue::modelled(block, Block::Server, &mut context.remarks)?;
        let mut level = SettingsReader::inside(http);
        let (mut listens, mut names, mut reply) = (Vec::<Listen>::new(), Vec::new(), None);
        let mut addresses = HashSet::new();
        for &inner in &block {
            match inner.name.text.as_str() {
                "location" => {}
                "listen" => {
                    let listen = Listen::read(inner, &mut context.remarks)?;
                    if !addresses.insert(listen.address.clone()) {
                        let message = format!("a duplicate listen {}", listen.address);
                        return Err(inner.span().duplicate(message, "another address"));
                    }
                    listens.push(listen);
                }
                "server_name" => {
                    if inner.args.is_empty() {
                        return Err(wrong_number(inner));
                    }
                    for word in &inner.args {
                        names.extend(ServerName::read(word)?);
                    }
                }
                "return" => {
                    level.once(inner)?;
                    reply = Some(Reply::read(inner, &context.maps)?);
                }
                _ => level.read(inner, context)?,
            }
        }
        if listens.is_empty() {
            context.remarks.note(directive.span(), "server without listen: port 80, as nginx started by root");
            listens.push(Listen::standard());
        }
        if names.is_empty() {
            names.push(ServerName::Exact(String::new()));
        }
        let captures = names.iter().any(|name| matches!(name, ServerName::Regex(_)));
        let locations = location::read_all(block, None, &level.settings, captures, context)?;
        if locations.is_empty() && reply.is_none() {
            let message = "server with neither a location nor return: static files are not served";
            return Err(directive.span().missing(message, "location / { proxy_pass http://UPSTREAM; }"));
        }
        if reply.is_none() && !locations.iter().any(|location| location.matcher.is_catch_all()) {
            let text = "server without location /: the response is 404 where no location matches";
            context.remarks.note(directive.span(), text);
        }
        let name = names[0].text();
        Ok(Server { listens, names, name, settings: level.settings, reply, locations, comments })
    }
}
