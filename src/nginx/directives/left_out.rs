//! Finds locations and servers that do not pass requests to nodes: static files, PHP, nginx's own
//! status.
//!
//! Requests for them never reach a node. The response is 404, so a `deny` in them stays effective.

use crate::nginx::syntax::Directive;

/// Directives that produce the response of a location, other than `proxy_pass` and `return`.
pub(super) const HANDLERS: [&str; 41] = [
    "alias",
    "api",
    "check_status",
    "content_by_lua",
    "content_by_lua_block",
    "content_by_lua_file",
    "dashboard",
    "dav_methods",
    "dyups_interface",
    "echo",
    "empty_gif",
    "f4f",
    "fastcgi_pass",
    "flv",
    "grpc_pass",
    "hls",
    "image_filter",
    "internal",
    "js_content",
    "memc_pass",
    "memcached_pass",
    "mp4",
    "perl",
    "proxy_cache_purge",
    "push_stream_publisher",
    "push_stream_subscriber",
    "random_index",
    "redis2_pass",
    "redis_pass",
    "req_status_show",
    "root",
    "rtmp_control",
    "rtmp_stat",
    "scgi_pass",
    "status",
    "stub_status",
    "try_files",
    "upload_pass",
    "upstream_show",
    "uwsgi_pass",
    "vhost_traffic_status_display",
];

/// Returns the reason why a location is left out; `None` if it must be read.
pub(super) fn location(block: &[Directive]) -> Option<String> {
    let leads_on = |inner: &Directive| {
        inner.is("proxy_pass") || (inner.is("if") && mentions(inner.block.as_deref().unwrap_or_default(), "proxy_pass"))
    };
    // No file exists here, so the error page for 404 gets every request.
    let is_page = |inner: &Directive| inner.is("error_page") && inner.args.iter().any(|word| word.text == "404");
    let leads_by_files = |inner: &Directive| (inner.is("try_files") || is_page(inner)) && leads_to_named(inner);
    if block.iter().any(|inner| leads_on(inner) || leads_by_files(inner)) {
        return None;
    }
    // `root` and `internal` produce no response, so a `return` beside them counts.
    let responds = |inner: &&Directive| !inner.is("root") && is_handler(inner);
    if let Some(handler) = block.iter().find(responds) {
        return Some(reason(handler));
    }
    // A location that has only proxy settings lacks its `proxy_pass`, which must be an error.
    let is_meant = |inner: &Directive| {
        matches!(inner.name.text.as_str(), "return" | "rewrite" | "if") || inner.name.text.starts_with("proxy_")
    };
    if block.iter().any(is_meant) {
        return None;
    }
    let is_bare = |name: &str| block.iter().find(|inner| inner.is(name));
    Some(is_bare("internal").or(is_bare("root")).map_or_else(|| "static files are not served".into(), reason))
}

/// Returns whether a directive produces the response of a location that is left out.
pub(super) fn is_handler(directive: &Directive) -> bool {
    // `internal` is a setting, which inner locations inherit.
    HANDLERS.contains(&directive.name.text.as_str()) && !directive.is("internal")
}

/// Returns whether nginx adds the trailing slash of a location with this directive by a redirect.
pub(super) fn adds_slash(directive: &Directive) -> bool {
    ["fastcgi_pass", "grpc_pass", "memcached_pass", "scgi_pass", "uwsgi_pass"].iter().any(|name| directive.is(name))
}

/// Returns whether a location inside a block passes requests to a node, directly or through a named
/// location.
pub(super) fn leads_inside(block: &[Directive]) -> bool {
    fn leads(block: &[Directive]) -> bool {
        block.iter().any(|inner| {
            inner.is("proxy_pass") || leads_to_named(inner) || leads(inner.block.as_deref().unwrap_or_default())
        })
    }
    block.iter().any(|inner| inner.is("location") && leads(inner.block.as_deref().unwrap_or_default()))
}

/// Returns whether a directive leads to a named location, as `try_files $uri @kylin` or
/// `error_page 404 = @kylin`.
fn leads_to_named(directive: &Directive) -> bool {
    let is_named = || directive.args.last().is_some_and(|last| last.text.starts_with('@'));
    (directive.is("try_files") || directive.is("error_page")) && is_named()
}

/// Returns whether a server belongs to another site: it has no `proxy_pass`, and a directive that
/// serves files or programs.
pub(super) fn is_other_site(block: &[Directive]) -> bool {
    !mentions(block, "proxy_pass") && HANDLERS.iter().any(|handler| mentions(block, handler))
}

fn reason(handler: &Directive) -> String {
    match handler.name.text.as_str() {
        "internal" => "internal: clients get 404, as from nginx".into(),
        "alias" | "root" | "try_files" => format!("{}: static files are not served", handler.name.text),
        "stub_status" | "check_status" | "status" => {
            format!("{}: the application has a status page of its own", handler.name.text)
        }
        name => format!("{name}: only HTTP servers get requests"),
    }
}

/// Returns whether a block contains a directive, at any depth.
pub(super) fn mentions(block: &[Directive], name: &str) -> bool {
    block.iter().any(|inner| inner.is(name) || mentions(inner.block.as_deref().unwrap_or_default(), name))
}

/// The ports of Kylin: the default, the TLS port of Kylin 5, and the port of a second instance in
/// the KAP manual.
pub(crate) const KYLIN_PORTS: [u16; 3] = [7070, 7443, 17070];

/// Returns whether a name or path contains a name of Kylin.
pub(crate) fn names_kylin(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    let mut words = text.split(|letter: char| !letter.is_ascii_alphabetic());
    text.contains("kylin") || text.contains("kyligence") || words.any(|word| word == "kap")
}

/// Returns the names of the upstreams that are Kylin's by a name or a port.
pub(crate) fn kylin_upstreams<'d>(upstreams: impl Iterator<Item = &'d Directive>) -> Vec<&'d str> {
    let name = |upstream: &'d Directive| Some((upstream.args.first()?.text.as_str(), upstream));
    let is_of_kylin = |(name, upstream): &(&str, &Directive)| names_kylin(name) || says_kylin(upstream, &[]);
    upstreams.filter_map(name).filter(is_of_kylin).map(|(name, _)| name).collect()
}

/// Returns whether a block names Kylin: by a name, a path, a port, or one of Kylin's upstreams.
pub(crate) fn says_kylin(block: &Directive, upstreams: &[&str]) -> bool {
    block.block.iter().flatten().any(|inner| {
        let counts =
            ["server", "server_name", "location", "proxy_pass", "rewrite", "set"].iter().any(|name| inner.is(name));
        let says = |text: &str| {
            let has_port = || KYLIN_PORTS.iter().any(|port| text.contains(&format!(":{port}")));
            names_kylin(text) || has_port() || upstreams.iter().any(|upstream| text.contains(upstream))
        };
        inner.in_comment || (counts && inner.args.iter().any(|word| says(&word.text))) || says_kylin(inner, upstreams)
    })
}
