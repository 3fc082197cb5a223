//! Every directive name that is known, and what becomes of it.
//!
//! Three lists: what is modelled (with the blocks it may stand in), what has no effect here (so that a configuration
//! need not be stripped of it), and what is refused although nginx knows it, with what to do instead. A name in none of
//! them is an error: nothing that could change behaviour is passed over.

use super::error::{ErrorKind, Fault};
use super::parser::Directive;
use super::suggest;

/// A kind of block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Block {
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

const M: u8 = Block::Main as u8;
const H: u8 = Block::Http as u8;
const S: u8 = Block::Server as u8;
const L: u8 = Block::Location as u8;
const U: u8 = Block::Upstream as u8;
const HSL: u8 = H | S | L;

/// Name, blocks, how it is written.
static MODELLED: &[(&str, u8, &str)] = &[
    ("add_header", HSL, "add_header NAME VALUE [always];"),
    ("client_body_timeout", HSL, "client_body_timeout TIME;"),
    ("client_header_buffer_size", H | S, "client_header_buffer_size SIZE;"),
    ("client_header_timeout", H | S, "client_header_timeout TIME;"),
    ("client_max_body_size", HSL, "client_max_body_size SIZE;"),
    ("default_type", HSL, "default_type TYPE;"),
    ("hash", U, "hash KEY [consistent];"),
    ("http", M, "http { ... }"),
    ("http2", H | S, "http2 on|off;"),
    ("ip_hash", U, "ip_hash;"),
    ("keepalive", U, "keepalive N;"),
    ("keepalive_requests", HSL | U, "keepalive_requests N;"),
    ("keepalive_time", HSL | U, "keepalive_time TIME;"),
    ("keepalive_timeout", HSL | U, "keepalive_timeout TIME;"),
    ("large_client_header_buffers", H | S, "large_client_header_buffers NUMBER SIZE;"),
    ("least_conn", U, "least_conn;"),
    ("listen", S, "listen ADDRESS[:PORT] [parameters];"),
    ("location", S | L, "location [= | ^~ | ~ | ~*] PATH { ... }"),
    ("map", H, "map SOURCE $NAME { VALUE RESULT; ... }"),
    ("merge_slashes", H | S, "merge_slashes on|off;"),
    ("proxy_buffering", HSL, "proxy_buffering on|off;"),
    ("proxy_connect_timeout", HSL, "proxy_connect_timeout TIME;"),
    ("proxy_hide_header", HSL, "proxy_hide_header NAME;"),
    ("proxy_http_version", HSL, "proxy_http_version 1.0|1.1;"),
    ("proxy_next_upstream", HSL, "proxy_next_upstream CONDITION...;"),
    ("proxy_next_upstream_timeout", HSL, "proxy_next_upstream_timeout TIME;"),
    ("proxy_next_upstream_tries", HSL, "proxy_next_upstream_tries N;"),
    ("proxy_pass", L, "proxy_pass http://UPSTREAM[/URI];"),
    ("proxy_pass_header", HSL, "proxy_pass_header NAME;"),
    ("proxy_pass_trailers", HSL, "proxy_pass_trailers on|off;"),
    ("proxy_read_timeout", HSL, "proxy_read_timeout TIME;"),
    ("proxy_redirect", HSL, "proxy_redirect default|off|FROM TO;"),
    ("proxy_request_buffering", HSL, "proxy_request_buffering on|off;"),
    ("proxy_send_timeout", HSL, "proxy_send_timeout TIME;"),
    ("proxy_set_header", HSL, "proxy_set_header NAME VALUE;"),
    ("random", U, "random [two [least_conn]];"),
    ("real_ip_header", HSL, "real_ip_header NAME;"),
    ("real_ip_recursive", HSL, "real_ip_recursive on|off;"),
    ("return", S | L, "return CODE [TEXT|URL];"),
    ("send_timeout", HSL, "send_timeout TIME;"),
    ("server", H | U, "server { ... } in http, server ADDRESS [parameters]; in upstream"),
    ("server_name", S, "server_name NAME...;"),
    ("set_real_ip_from", HSL, "set_real_ip_from ADDRESS|CIDR|unix:;"),
    ("sticky", U, "sticky cookie|route|learn PARAMETERS;"),
    ("underscores_in_headers", H | S, "underscores_in_headers on|off;"),
    ("upstream", H, "upstream NAME { ... }"),
    ("zone", U, "zone NAME [SIZE];"),
];

/// What concerns logs, processes, files or TLS that is not there. A trailing `*` stands for any ending.
static HARMLESS: &[&str] = &[
    "absolute_redirect",
    "accept_mutex",
    "accept_mutex_delay",
    "access_log",
    "aio",
    "brotli",
    "brotli_*",
    "charset",
    "charset_*",
    "chunked_transfer_encoding",
    "client_body_buffer_size",
    "client_body_in_file_only",
    "client_body_in_single_buffer",
    "client_body_temp_path",
    "connection_pool_size",
    "daemon",
    "debug_connection",
    "debug_points",
    "directio",
    "env",
    "error_log",
    "etag",
    "events",
    "fastcgi_*",
    "google_perftools_profiles",
    "gunzip",
    "gunzip_*",
    "gzip",
    "gzip_*",
    "http2_*",
    "http3_*",
    "if_modified_since",
    "ignore_invalid_headers",
    "keepalive_disable",
    "keepalive_min_timeout",
    "lingering_*",
    "load_module",
    "lock_file",
    "log_format",
    "log_not_found",
    "log_subrequest",
    "map_hash_*",
    "master_process",
    "max_ranges",
    "msie_padding",
    "msie_refresh",
    "multi_accept",
    "open_file_cache",
    "open_file_cache_*",
    "open_log_file_cache",
    "output_buffers",
    "pcre_jit",
    "pid",
    "port_in_redirect",
    "postpone_output",
    "proxy_buffer_size",
    "proxy_buffers",
    "proxy_busy_buffers_size",
    "proxy_cache_*",
    "proxy_headers_hash_*",
    "proxy_ignore_headers",
    "proxy_max_temp_file_size",
    "proxy_send_lowat",
    "proxy_socket_keepalive",
    "proxy_ssl_*",
    "proxy_temp_*",
    "quic_*",
    "read_ahead",
    "recursive_error_pages",
    "request_pool_size",
    "reset_timedout_connection",
    "resolver",
    "resolver_timeout",
    "scgi_*",
    "sendfile",
    "sendfile_max_chunk",
    "send_lowat",
    "server_name_in_redirect",
    "server_names_hash_*",
    "server_tokens",
    "ssl_*",
    "ssl_engine",
    "subrequest_output_buffer_size",
    "tcp_nodelay",
    "tcp_nopush",
    "thread_pool",
    "timer_resolution",
    "types",
    "types_hash_*",
    "user",
    "uwsgi_*",
    "variables_hash_*",
    "worker_*",
    "working_directory",
];

/// A directive that is harmless with these values only; else the reason applies.
static ONLY: &[(&str, &[&str], &str)] = &[
    ("auth_basic", &["off"], "Kylin itself asks for a password"),
    ("auth_request", &["off"], "Kylin itself asks for a password"),
    ("autoindex", &["off"], NO_FILES),
    ("expires", &["off"], "add_header Cache-Control VALUE"),
    ("limit_rate", &["0"], "no bandwidth limit"),
    ("proxy_cache", &["off"], "no cache: answers of Kylin depend on who asks"),
    ("proxy_force_ranges", &["off"], "no change of ranges"),
    ("proxy_ignore_client_abort", &["off"], "off: a request whose client has left is cancelled at the node"),
    ("proxy_intercept_errors", &["off"], "off: the node's error answers reach the client"),
    ("proxy_limit_rate", &["0"], "no bandwidth limit"),
    ("proxy_pass_request_body", &["on"], "on"),
    ("proxy_pass_request_headers", &["on"], "on"),
    ("proxy_store", &["off"], "no copies of answers"),
    ("proxy_cookie_domain", &["off"], "cookies unchanged"),
    ("proxy_cookie_path", &["off"], "cookies unchanged"),
    ("proxy_cookie_flags", &["off"], "cookies unchanged"),
    ("satisfy", &["all"], "all"),
];

const NO_FILES: &str = "proxy_pass or return: static files are not served";
const NO_LOGIC: &str = "locations and variables: there is no rewriting here";
const NO_LIMITS: &str = "max_conns=N on the servers of an upstream: requests are not limited per client";
const NO_ACCESS: &str = "a firewall, or a host application that checks before it forwards: access is not decided here";

/// Known to nginx, refused here; and what is accepted in its place.
static REFUSED: &[(&str, &str)] = &[
    ("alias", NO_FILES),
    ("allow", NO_ACCESS),
    ("auth_basic_user_file", NO_ACCESS),
    ("auth_jwt", NO_ACCESS),
    ("break", NO_LOGIC),
    ("deny", NO_ACCESS),
    ("error_page", "nothing: the node's own error answers reach the client"),
    ("fair", "least_conn"),
    ("fastcgi_pass", "proxy_pass http://..."),
    ("geo", NO_LOGIC),
    ("grpc_pass", "proxy_pass http://..."),
    ("health_check", "max_fails=N fail_timeout=TIME on the servers of an upstream"),
    ("if", NO_LOGIC),
    ("index", NO_FILES),
    ("internal", NO_LOGIC),
    ("least_time", "least_conn"),
    ("limit_conn", NO_LIMITS),
    ("limit_conn_zone", NO_LIMITS),
    ("limit_except", NO_ACCESS),
    ("limit_req", NO_LIMITS),
    ("limit_req_zone", NO_LIMITS),
    ("mail", "http { ... } only"),
    ("mirror", "nothing: requests are not copied"),
    ("ntlm", "sticky cookie: connections are not bound to clients"),
    ("perl", NO_LOGIC),
    ("proxy_bind", "nothing: the system chooses the local address"),
    ("proxy_method", "nothing: the method is passed unchanged"),
    ("proxy_protocol", "real_ip_header X-Forwarded-For"),
    ("proxy_set_body", "nothing: the body is passed unchanged"),
    ("queue", "max_conns=N; a request that finds every server full is answered 503"),
    ("rewrite", NO_LOGIC),
    ("root", NO_FILES),
    ("scgi_pass", "proxy_pass http://..."),
    ("set", NO_LOGIC),
    ("split_clients", "weight=N on the servers of an upstream"),
    ("ssl", "a TLS terminator in front: TLS is not spoken here"),
    ("state", "server ADDRESS lines"),
    ("stream", "http { ... } only"),
    ("stub_status", "the host application's own status page"),
    ("sub_filter", "nothing: answers are passed unchanged"),
    ("try_files", NO_FILES),
    ("uwsgi_pass", "proxy_pass http://..."),
];

/// What to do with a directive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is modelled and may stand where it does.
    Modelled,
    /// It changes nothing here.
    Harmless,
}

/// Judges a directive by its name and the block it stands in.
pub(super) fn judge(directive: &Directive, block: Block) -> Result<Verdict, Fault> {
    let name = directive.name.text.as_str();
    let fault = |kind, message: String| Fault::new(kind, directive.span(), message);
    if let Some((_, blocks, usage)) = MODELLED.iter().find(|(known, ..)| *known == name) {
        if blocks & block as u8 == 0 {
            let message = format!("\"{name}\" is not allowed {}", block.phrase());
            return Err(fault(ErrorKind::Misplaced, message).expecting(format!("{usage} {}", phrases(*blocks))));
        }
        let takes_block =
            matches!(name, "http" | "location" | "map" | "upstream") || (name == "server" && block == Block::Http);
        return match &directive.block {
            Some(_) if !takes_block => {
                Err(fault(ErrorKind::Syntax, format!("\"{name}\" takes no block")).expecting(*usage))
            }
            None if takes_block => Err(fault(ErrorKind::Syntax, format!("\"{name}\" has no block")).expecting(*usage)),
            _ => Ok(Verdict::Modelled),
        };
    }
    if let Some((_, hint)) = REFUSED.iter().find(|(known, _)| *known == name) {
        return Err(fault(ErrorKind::Unsupported, format!("\"{name}\" is not supported")).expecting(*hint));
    }
    if block == Block::Upstream {
        return Err(unknown(directive, block));
    }
    if let Some((_, values, reason)) = ONLY.iter().find(|(known, ..)| *known == name) {
        return match &directive.args[..] {
            [value] if values.contains(&value.text.as_str()) => Ok(Verdict::Harmless),
            _ => {
                Err(fault(ErrorKind::Unsupported, format!("\"{name}\" is supported as \"{name} {}\" only", values[0]))
                    .expecting(*reason))
            }
        };
    }
    let harmless = |known: &&str| known.strip_suffix('*').map_or(*known == name, |start| name.starts_with(start));
    if HARMLESS.iter().any(harmless) { Ok(Verdict::Harmless) } else { Err(unknown(directive, block)) }
}

/// How a modelled directive is written.
pub(super) fn usage(name: &str) -> &'static str {
    MODELLED.iter().find(|(known, ..)| *known == name).map_or("", |(.., usage)| usage)
}

fn unknown(directive: &Directive, block: Block) -> Fault {
    let name = &directive.name.text;
    let here = || MODELLED.iter().filter(|(_, blocks, _)| blocks & block as u8 != 0).map(|(known, ..)| *known);
    let fault = |message| Fault::new(ErrorKind::Unknown, directive.span(), message);
    let harmless = HARMLESS.iter().copied().filter(|name| block != Block::Upstream && !name.ends_with('*'));
    if let Some(meant) = suggest::nearest(name, here().chain(harmless)) {
        return fault(format!("unknown directive \"{name}\", did you mean \"{meant}\"?")).expecting(
            match usage(meant) {
                "" => meant,
                usage => usage,
            },
        );
    }
    fault(format!("unknown directive \"{name}\" {}", block.phrase()))
        .expecting(format!("one of: {}", here().collect::<Vec<_>>().join(", ")))
}

fn phrases(blocks: u8) -> String {
    let all = [Block::Main, Block::Http, Block::Server, Block::Location, Block::Upstream];
    let allowed: Vec<_> = all.into_iter().filter(|block| blocks & *block as u8 != 0).map(Block::phrase).collect();
    allowed.join(" or ")
}
