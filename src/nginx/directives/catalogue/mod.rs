//! The catalogue of directives, and how the reader treats each.
//!
//! There are three kinds of directives. Modelled directives have a list of the blocks that they may
//! stand in. Directives without effect here are accepted, so that a configuration may keep them.
//! Directives of nginx that this crate refuses come with what to write instead. Any other name is
//! an error, so no directive that could change behaviour is ignored.

mod ignored;
mod names;

use self::ignored::{IGNORED_UNLESS_ON, OPENSSL_COMMANDS, ignored};
use self::names::unknown;
pub(super) use self::names::{check_names, unended};
use super::remarks::Remarks;
use crate::nginx::syntax::{Directive, Fault, Word};

/// A kind of block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Block {
    /// The top of a full `nginx.conf`.
    Main = 1,
    Http = 2,
    Server = 4,
    Location = 8,
    Upstream = 16,
}

impl Block {
    fn phrase(self) -> &'static str {
        match self {
            Block::Main => "outside \"http\"",
            Block::Http => "in \"http\"",
            Block::Server => "in \"server\"",
            Block::Location => "in \"location\"",
            Block::Upstream => "in \"upstream\"",
        }
    }
}

/// The modelled directives that take a block, except `server`.
const BLOCKS: [&str; 9] =
    ["geo", "http", "if", "limit_except", "location", "map", "split_clients", "types", "upstream"];

const M: u8 = Block::Main as u8;
const H: u8 = Block::Http as u8;
const S: u8 = Block::Server as u8;
const L: u8 = Block::Location as u8;
const U: u8 = Block::Upstream as u8;
const HSL: u8 = H | S | L;

/// The modelled directives: name, blocks and usage.
static MODELLED: &[(&str, u8, &str)] = &[
    (
        "access_log",
        HSL,
        "access_log PATH [FORMAT [buffer=SIZE] [flush=TIME] [gzip] [if=CONDITION]]; or access_log off;",
    ),
    ("add_header", HSL, "add_header NAME VALUE [always];"),
    ("allow", HSL, "allow ADDRESS|CIDR|unix:|all;"),
    ("auth_basic", HSL, "auth_basic REALM|off;"),
    ("auth_basic_user_file", HSL, "auth_basic_user_file FILE;"),
    ("break", S | L, "break;"),
    ("charset", HSL, "charset NAME|off;"),
    ("charset_types", HSL, "charset_types TYPE...|*;"),
    ("client_body_timeout", HSL, "client_body_timeout TIME;"),
    ("client_header_buffer_size", H | S, "client_header_buffer_size SIZE;"),
    ("client_header_timeout", H | S, "client_header_timeout TIME;"),
    ("client_max_body_size", HSL, "client_max_body_size SIZE;"),
    ("default_type", HSL, "default_type TYPE;"),
    ("deny", HSL, "deny ADDRESS|CIDR|unix:|all;"),
    ("error_page", HSL, "error_page CODE... [=[CODE]] @NAME|PATH|URL;"),
    ("expires", HSL, "expires TIME|epoch|max|off;"),
    ("geo", H, "geo [$ADDRESS] $NAME { default VALUE; NETWORK VALUE; ... }"),
    ("hash", U, "hash KEY [consistent];"),
    ("http", M, "http { ... }"),
    ("http2", H | S, "http2 on|off;"),
    ("if", S | L, "if (CONDITION) { ... }"),
    ("ignore_invalid_headers", H | S, "ignore_invalid_headers on|off;"),
    ("internal", L, "internal;"),
    ("ip_hash", U, "ip_hash;"),
    ("keepalive", U, "keepalive N;"),
    ("keepalive_requests", HSL | U, "keepalive_requests N;"),
    ("keepalive_time", HSL | U, "keepalive_time TIME;"),
    ("keepalive_timeout", HSL | U, "keepalive_timeout TIME;"),
    ("large_client_header_buffers", H | S, "large_client_header_buffers NUMBER SIZE;"),
    ("least_conn", U, "least_conn;"),
    ("limit_conn", HSL, "limit_conn ZONE NUMBER;"),
    ("limit_conn_status", HSL, "limit_conn_status CODE;"),
    ("limit_conn_zone", H, "limit_conn_zone KEY zone=NAME:SIZE;"),
    ("limit_except", L, "limit_except METHOD... { deny all; }"),
    ("limit_req", HSL, "limit_req zone=NAME [burst=N] [nodelay|delay=N];"),
    ("limit_req_status", HSL, "limit_req_status CODE;"),
    ("limit_req_zone", H, "limit_req_zone KEY zone=NAME:SIZE rate=N(r/s|r/m);"),
    ("listen", S, "listen ADDRESS[:PORT] [parameters];"),
    ("location", S | L, "location [= | ^~ | ~ | ~*] PATH { ... }"),
    ("log_format", H, "log_format NAME [escape=default|json|none] STRING...;"),
    ("map", H, "map SOURCE $NAME { VALUE RESULT; ... }"),
    ("max_headers", H | S, "max_headers NUMBER;"),
    ("merge_slashes", H | S, "merge_slashes on|off;"),
    ("more_clear_headers", HSL, "more_clear_headers NAME...;"),
    ("more_set_headers", HSL, "more_set_headers \"NAME: VALUE\"...;"),
    ("proxy_buffer_size", HSL, "proxy_buffer_size SIZE;"),
    ("proxy_buffering", HSL, "proxy_buffering on|off;"),
    ("proxy_connect_timeout", HSL, "proxy_connect_timeout TIME;"),
    ("proxy_cookie_domain", HSL, "proxy_cookie_domain off|DOMAIN REPLACEMENT;"),
    ("proxy_cookie_flags", HSL, "proxy_cookie_flags off|COOKIE FLAG...;"),
    ("proxy_cookie_path", HSL, "proxy_cookie_path off|PATH REPLACEMENT;"),
    ("proxy_hide_header", HSL, "proxy_hide_header NAME;"),
    ("proxy_http_version", HSL, "proxy_http_version 1.0|1.1;"),
    ("proxy_ignore_headers", HSL, "proxy_ignore_headers NAME...;"),
    ("proxy_intercept_errors", HSL, "proxy_intercept_errors on|off;"),
    ("proxy_next_upstream", HSL, "proxy_next_upstream CONDITION...;"),
    ("proxy_next_upstream_timeout", HSL, "proxy_next_upstream_timeout TIME;"),
    ("proxy_next_upstream_tries", HSL, "proxy_next_upstream_tries N;"),
    ("proxy_pass", L, "proxy_pass http://UPSTREAM[/URI];"),
    ("proxy_pass_header", HSL, "proxy_pass_header NAME;"),
    ("proxy_pass_request_body", HSL, "proxy_pass_request_body on|off;"),
    ("proxy_pass_trailers", HSL, "proxy_pass_trailers on|off;"),
    ("proxy_read_timeout", HSL, "proxy_read_timeout TIME;"),
    ("proxy_redirect", HSL, "proxy_redirect default|off|FROM TO;"),
    ("proxy_request_buffering", HSL, "proxy_request_buffering on|off;"),
    ("proxy_send_timeout", HSL, "proxy_send_timeout TIME;"),
    ("proxy_set_header", HSL, "proxy_set_header NAME VALUE;"),
    ("proxy_ssl_certificate", HSL, "proxy_ssl_certificate FILE;"),
    ("proxy_ssl_certificate_key", HSL, "proxy_ssl_certificate_key FILE;"),
    ("proxy_ssl_name", HSL, "proxy_ssl_name NAME;"),
    ("proxy_ssl_protocols", HSL, "proxy_ssl_protocols [TLSv1.2] [TLSv1.3];"),
    ("proxy_ssl_server_name", HSL, "proxy_ssl_server_name on|off;"),
    ("proxy_ssl_trusted_certificate", HSL, "proxy_ssl_trusted_certificate FILE;"),
    ("proxy_ssl_verify", HSL, "proxy_ssl_verify on|off;"),
    ("queue", U, "queue NUMBER [timeout=TIME];"),
    ("random", U, "random [two [least_conn]];"),
    ("real_ip_header", HSL, "real_ip_header NAME;"),
    ("real_ip_recursive", HSL, "real_ip_recursive on|off;"),
    ("recursive_error_pages", HSL, "recursive_error_pages on|off;"),
    ("return", S | L, "return CODE [TEXT|URL];"),
    ("rewrite", S | L, "rewrite EXPRESSION REPLACEMENT [last|break|redirect|permanent];"),
    ("root", HSL, "root FOLDER;"),
    ("satisfy", HSL, "satisfy all|any;"),
    ("send_timeout", HSL, "send_timeout TIME;"),
    ("server", H | U, "server { ... } in http, server ADDRESS [parameters]; in upstream"),
    ("server_name", S, "server_name NAME...;"),
    ("set", S | L, "set $NAME VALUE;"),
    ("set_real_ip_from", HSL, "set_real_ip_from ADDRESS|CIDR|unix:;"),
    ("split_clients", H, "split_clients STRING $NAME { PERCENT% VALUE; ... * VALUE; }"),
    ("ssl", H | S, "ssl on|off;"),
    ("ssl_certificate", H | S, "ssl_certificate FILE;"),
    ("ssl_certificate_key", H | S, "ssl_certificate_key FILE;"),
    ("ssl_client_certificate", H | S, "ssl_client_certificate FILE;"),
    ("ssl_protocols", H | S, "ssl_protocols [TLSv1.2] [TLSv1.3];"),
    ("ssl_reject_handshake", H | S, "ssl_reject_handshake on|off;"),
    ("ssl_trusted_certificate", H | S, "ssl_trusted_certificate FILE;"),
    ("ssl_verify_client", H | S, "ssl_verify_client on|off|optional;"),
    ("sticky", U, "sticky cookie|route|learn PARAMETERS;"),
    ("try_files", S | L, "try_files FILE... @NAME;"),
    ("types", HSL, "types { TYPE EXTENSION...; }"),
    ("underscores_in_headers", H | S, "underscores_in_headers on|off;"),
    ("upstream", H, "upstream NAME { ... }"),
    ("zone", U, "zone NAME [SIZE];"),
    ("worker_rlimit_nofile", M, "worker_rlimit_nofile NUMBER;"),
];

/// Directives that have no effect with one value: name, that value, and what to write instead of
/// any other value.
static IGNORED_WITH: &[(&str, &str, &str)] = &[
    ("dav_methods", "off", "dav_methods off; files are not stored here, and nodes get requests of every method"),
    ("auth_request", "off", "auth_request off; Kylin asks for a password itself"),
    ("limit_conn_dry_run", "off", "limit_conn_dry_run off; limits that only write a log are not counted"),
    ("limit_req_dry_run", "off", "limit_req_dry_run off; limits that only write a log are not counted"),
    ("proxy_force_ranges", "off", "proxy_force_ranges off; ranges stay unchanged"),
    ("proxy_pass_request_headers", "on", "proxy_pass_request_headers on;"),
    ("proxy_store", "off", "proxy_store off; responses are not stored"),
    ("ssi", "off", "ssi off; response bodies are passed unchanged"),
    ("userid", "off", "userid off; requests have an id in $request_id, and logins in --sessions"),
    ("ssl_ocsp", "off", "ssl_ocsp off; certificates of short life: whether one of a client is revoked is not asked"),
];

/// Directives whose effect differs from nginx, and the difference.
static NOTED: &[(&str, &str)] = &[
    ("auth_delay", "a 401 is sent at once; hashes of passwords are computed few at a time"),
    ("user", "this process does not change its user: start it as one without rights"),
    ("ssl_verify_depth", "a chain of a client's certificate may have up to six certificates of authorities between"),
    ("limit_rate proxy_limit_rate", "bandwidth is not limited"),
    ("http3", "HTTP/3 is not served: clients use HTTP/2 and HTTP/1.1"),
    ("health_check", "the front end probes the nodes: # kylin_lb: probe auto|version|health|tcp|none; in the upstream"),
    ("mirror", "requests are not copied"),
    ("proxy_bind", "the system chooses the local address"),
    ("proxy_cache", "responses are not cached: every request reaches a node"),
    ("slice", "responses are not cached, so ranges reach the nodes unchanged"),
    (
        "proxy_ignore_client_abort",
        "a client that disconnects cancels its request at the node; Kylin continues a build all the same",
    ),
    (
        "resolver resolver_timeout",
        match cfg!(feature = "dns") {
            true => {
                "its servers are asked for the names of servers with resolve, this machine for the others, at the start and then \
                     every valid= or 30s; the last addresses that were found stay"
            }
            false => {
                "this machine looks names up, at the start and then every valid= or 30s, and keeps the last addresses that were found; \
                      to ask those servers needs the feature dns"
            }
        },
    ),
];

/// Upstream directives of third-party modules that are translated.
pub(super) const OF_OTHER_MODULES: [&str; 11] = [
    "check",
    "check_fastcgi_param",
    "check_http_expect_alive",
    "check_http_send",
    "check_keepalive_requests",
    "consistent_hash",
    "dynamic_resolve",
    "fair",
    "jvm_route",
    "session_sticky",
    "vnswrr",
];

const NO_ACCESS: &str = "auth_basic, or an application that checks before it forwards: tokens are not checked here, and Kylin checks its own";

/// Directives of nginx that this crate refuses, separated by spaces, and what to write instead.
static REFUSED: &[(&str, &str)] = &[
    ("auth_jwt", NO_ACCESS),
    ("perl", "an application that embeds the crate: Perl does not run here"),
    (
        "least_time",
        "least_conn, or # kylin_lb: policy query-affinity|least-conn;: both did better in simulations of long queries",
    ),
    ("ajp_pass", "proxy_pass http://...: the HTTP port of the same Tomcat"),
    ("more_set_input_headers", "proxy_set_header NAME VALUE;"),
    ("more_clear_input_headers", "proxy_set_header NAME \"\";"),
    (
        "access_by_lua access_by_lua_block access_by_lua_file balancer_by_lua_block balancer_by_lua_file header_filter_by_lua header_filter_by_lua_block header_filter_by_lua_file rewrite_by_lua rewrite_by_lua_block rewrite_by_lua_file set_by_lua set_by_lua_block set_by_lua_file",
        "an application that embeds the crate: Lua does not run here",
    ),
    (
        "js_access js_body_filter js_content js_header_filter",
        "an application that embeds the crate: JavaScript does not run here",
    ),
    ("modsecurity modsecurity_rules modsecurity_rules_file", "a firewall in front of this front end"),
    ("fastcgi_pass grpc_pass scgi_pass uwsgi_pass", "proxy_pass http://..."),
    (
        "stream",
        "http { upstream kylin { ... } server { location / { proxy_pass http://kylin; } } }: connections of TCP are not forwarded",
    ),
    ("keyval keyval_zone", "map SOURCE $NAME { VALUE RESULT; ... }"),
    (
        "add_after_body add_before_body image_filter sub_filter subs_filter",
        "no such line: response bodies are passed unchanged",
    ),
    ("add_trailer", "add_header NAME VALUE;"),
    ("ancient_browser modern_browser", "map $http_user_agent $NAME { ~EXPRESSION VALUE; }"),
    ("auth_request_set", "auth_request off; Kylin asks for a password itself"),
    ("post_action", "access_log: a second request is not made for each"),
    ("secure_link secure_link_md5 secure_link_secret", NO_ACCESS),
    (
        "valid_referers",
        "map $http_referer $invalid_referer { default 1; \"\" \"\"; ~^https?://kylin\\.example/ \"\"; } in http",
    ),
    ("ntlm", "sticky cookie: connections are not bound to clients"),
    ("proxy_method", "no proxy_method: the method is passed unchanged"),
    ("proxy_protocol", "real_ip_header X-Forwarded-For: nodes are not sent the PROXY protocol"),
    ("proxy_set_body", "no proxy_set_body: the body is passed unchanged"),
    ("source_charset charset_map override_charset", "charset NAME; the bytes of responses are passed unchanged"),
    (
        "vhost_traffic_status_limit vhost_traffic_status_limit_traffic vhost_traffic_status_limit_traffic_by_set_key",
        "limit_req or limit_conn",
    ),
    ("ssl_crl proxy_ssl_crl", "certificates of short life: lists of revoked certificates are not read"),
    ("ssl_password_file proxy_ssl_password_file", "a key without a passphrase, readable by this process only"),
    ("state", "server ADDRESS lines"),
];

/// Returns the modelled directives of a block, and notes those without effect here.
///
/// # Errors
/// A directive is unknown, refused, or not allowed in this kind of block.
pub(crate) fn modelled<'d>(
    directives: impl IntoIterator<Item = &'d Directive>,
    block: Block,
    remarks: &mut Remarks<'_>,
) -> Result<Vec<&'d Directive>, Fault> {
    let mut modelled = Vec::new();
    // The reader of the block handles `# kylin_lb:` comments itself.
    for directive in directives.into_iter().filter(|directive| !directive.in_comment) {
        let name = &directive.name.text;
        if let Some((_, difference)) = NOTED.iter().find(|(names, _)| names.split(' ').any(|known| known == name))
            && (block != Block::Upstream || name.starts_with("resolver"))
        {
            if !directive.args.iter().all(|word| matches!(word.text.as_str(), "0" | "off")) {
                remarks.note(directive.span(), format!("{name}: {difference}"));
            }
        } else if block == Block::Main && matches!(name.as_str(), "stream" | "mail" | "rtmp") {
            remarks.note(directive.span(), format!("{name}: left out, only http is served"));
        } else if block == Block::Upstream && OF_OTHER_MODULES.contains(&name.as_str()) {
            // The reader of the block handles it itself.
        } else if is_modelled(directive, block)? {
            modelled.push(directive);
        } else {
            remarks.ignored(directive.span(), &directive.name.text);
        }
    }
    Ok(modelled)
}

/// Returns whether a directive is modelled; if not, it has no effect here.
fn is_modelled(directive: &Directive, block: Block) -> Result<bool, Fault> {
    let name = directive.name.text.as_str();
    let span = directive.span();
    if let Some((_, blocks, usage)) = MODELLED.iter().find(|(known, ..)| *known == name) {
        if blocks & block as u8 == 0 {
            let message = format!("\"{name}\" is not allowed {}", block.phrase());
            return Err(span.misplaced(message, format!("{usage} {}", phrases(*blocks))));
        }
        let takes_block = BLOCKS.contains(&name) || (name == "server" && block == Block::Http);
        return match &directive.block {
            Some(_) if !takes_block => {
                Err(unended(directive).unwrap_or_else(|| span.syntax(format!("\"{name}\" takes no block"), *usage)))
            }
            None if takes_block => Err(span.syntax(format!("\"{name}\" has no block"), *usage)),
            _ => Ok(true),
        };
    }
    if let Some((_, instead)) = REFUSED.iter().find(|(names, _)| names.split(' ').any(|known| known == name)) {
        return Err(span.unsupported(format!("\"{name}\" is not supported"), *instead));
    }
    if block == Block::Upstream {
        return Err(unknown(directive, block));
    }
    if name.ends_with("ssl_conf_command") {
        return match directive.args.first() {
            Some(command) if OPENSSL_COMMANDS.contains(&command.text.as_str()) => Ok(false),
            _ => Err(span.unsupported(
                format!("this \"{name}\" is not supported"),
                "ssl_protocols or proxy_ssl_protocols; or a command about ciphers and groups",
            )),
        };
    }
    if let Some((_, value, instead)) = IGNORED_WITH.iter().find(|(known, ..)| *known == name) {
        return match &directive.args[..] {
            [word] if word.text == *value => Ok(false),
            _ => Err(span.unsupported(format!("\"{name}\" is supported as \"{name} {value}\" only"), *instead)),
        };
    }
    if let Some((_, instead)) = IGNORED_UNLESS_ON.iter().find(|(known, _)| *known == name) {
        return match directive.args.first() {
            Some(word) if word.text.eq_ignore_ascii_case("on") => {
                Err(span.unsupported(format!("\"{name} on\" is not supported"), *instead))
            }
            _ => Ok(false),
        };
    }
    if is_ignored(name) { Ok(false) } else { Err(unknown(directive, block)) }
}

fn is_ignored(name: &str) -> bool {
    ignored().any(|known| known.strip_suffix('*').map_or(known == name, |start| name.starts_with(start)))
}

/// Returns the syntax of a modelled directive.
pub(crate) fn usage(name: &str) -> &'static str {
    MODELLED.iter().find(|(known, ..)| *known == name).map_or("", |(.., usage)| usage)
}

/// Returns the arguments of a directive that takes exactly `N` arguments.
pub(crate) fn args<const N: usize>(directive: &Directive) -> Result<[&Word; N], Fault> {
    let words: Vec<&Word> = directive.args.iter().collect();
    words.try_into().map_err(|_| wrong_number(directive))
}

pub(crate) fn arg(directive: &Directive) -> Result<&Word, Fault> {
    args(directive).map(|[word]| word)
}

pub(crate) fn wrong_number(directive: &Directive) -> Fault {
    let name = &directive.name.text;
    let number = || directive.span().value(format!("invalid number of arguments of \"{name}\""), usage(name));
    unended(directive).unwrap_or_else(number)
}

fn phrases(blocks: u8) -> String {
    let all = [Block::Main, Block::Http, Block::Server, Block::Location, Block::Upstream];
    let allowed: Vec<_> = all.into_iter().filter(|block| blocks & *block as u8 != 0).map(Block::phrase).collect();
    allowed.join(" or ")
}
