//! Locations and servers that nginx does not pass to nodes: static files, PHP, nginx's own status.
//!
//! Requests for them never reach a node. The response is 404, so a `deny` in them still holds.

use crate::nginx::syntax::Directive;

/// Directives that make the response of a location, other than `proxy_pass` and `return`.
const HANDLERS: [&str; 24] = [
    "alias",
    "check_status",
    "content_by_lua",
    "content_by_lua_block",
    "content_by_lua_file",
    "dav_methods",
    "echo",
    "empty_gif",
    "fastcgi_pass",
    "flv",
    "grpc_pass",
    "internal",
    "js_content",
    "memcached_pass",
    "mp4",
    "perl",
    "random_index",
    "root",
    "scgi_pass",
    "status",
    "stub_status",
    "try_files",
    "uwsgi_pass",
    "vhost_traffic_status_display",
];

/// Returns the reason why a location is left out; `None` if it must be read.
pub(super) fn location(block: &[Directive]) -> Option<String> {
    let leads_on = |inner: &Directive| {
        inner.is("proxy_pass") || (inner.is("if") && mentions(inner.block.as_deref().unwrap_or_default(), "proxy_pass"))
    };
    if block.iter().any(|inner| leads_on(inner) || (inner.is("try_files") && leads_to_named(inner))) {
        return None;
    }
    // `root` and `internal` do not respond by themselves, so a `return` beside them counts.
    let responds = |inner: &&Directive| !inner.is("root") && is_handler(inner);
    if let Some(handler) = block.iter().find(responds) {
        return Some(reason(handler));
    }
    // A location that only has settings of a proxy is one whose `proxy_pass` was forgotten.
    let is_meant = |inner: &Directive| {
        matches!(inner.name.text.as_str(), "return" | "rewrite" | "if") || inner.name.text.starts_with("proxy_")
    };
    if block.is_empty() || block.iter().any(is_meant) {
        return None;
    }
    let is_bare = |name: &str| block.iter().find(|inner| inner.is(name));
    Some(is_bare("internal").or(is_bare("root")).map_or_else(|| "static files are not served".into(), reason))
}

/// Returns whether a directive makes the response of a location that is left out.
pub(super) fn is_handler(directive: &Directive) -> bool {
    // `internal` is a setting, which the locations inside inherit.
    HANDLERS.contains(&directive.name.text.as_str()) && !directive.is("internal")
}

/// Returns whether a location inside a block passes requests to a node, itself or by a named location.
pub(super) fn leads_inside(block: &[Directive]) -> bool {
    fn leads(block: &[Directive]) -> bool {
        block.iter().any(|inner| {
            inner.is("proxy_pass") || leads_to_named(inner) || leads(inner.block.as_deref().unwrap_or_default())
        })
    }
    block.iter().any(|inner| inner.is("location") && leads(inner.block.as_deref().unwrap_or_default()))
}

/// Returns whether a directive is `try_files $uri @kylin`, or `error_page 404 = @kylin`.
fn leads_to_named(directive: &Directive) -> bool {
    let is_named = || directive.args.last().is_some_and(|last| last.text.starts_with('@'));
    (directive.is("try_files") || directive.is("error_page")) && is_named()
}

/// Returns whether a server belongs to another site: no directive in it leads to a node, and one serves files or programs.
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

/// Returns whether a directive stands in a block, at any depth.
fn mentions(block: &[Directive], name: &str) -> bool {
    block.iter().any(|inner| inner.is(name) || mentions(inner.block.as_deref().unwrap_or_default(), name))
}
