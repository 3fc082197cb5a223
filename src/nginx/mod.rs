//! Serves an nginx configuration.
//!
//! Most clusters of Kylin nodes run behind nginx today, and Kylin's manual shows an nginx
//! configuration. This module reads such a file unchanged. [`Config`] parses and checks it.
//! [`Site`] serves it, with a cluster for each upstream and a proxy for each location with
//! `proxy_pass`. It uses only the public API of this crate, as an application would.
//!
//! # The rule
//!
//! Each directive is treated in one of four ways, and none is ignored silently:
//!
//! - it is **supported**, and does what nginx does;
//! - it is **accepted without effect**, and [`Config::report`] lists it with its line: error logs,
//!   processes, buffers, files, TLS files, compression;
//! - it is **left out**: a location or server that does not lead to the nodes responds with 404.
//!   Examples are static files, PHP, nginx's status and another site. The report says why. An
//!   address with only such servers is not opened;
//! - it is **an error** with file, line, column, the reason and what to write instead. That is an
//!   unknown name, or an unsupported directive that would change behaviour (`sub_filter`,
//!   `auth_request`).
//!
//! Directives of third-party modules are translated if this crate has an equivalent, and the report
//! notes each. They are `sticky` of nginx-sticky-module-ng, Tengine's `session_sticky` and `check`,
//! `jvm_route` with `srun_id`, and `fair`. A file of another program (HAProxy, Apache httpd,
//! Traefik, Caddy) is recognised, and is an error. Comments may be in any encoding.
//!
//! # What is supported
//!
//! | block | directives |
//! |---|---|
//! | top | `http`, `include` (also in every block) |
//! | `http` | `upstream`, `server`, `map`, `geo`, `split_clients`, `limit_req_zone`, `limit_conn_zone`, `log_format` |
//! | `upstream` | `server` (`weight`, `max_conns`, `max_fails`, `fail_timeout`, `backup`, `down`, `drain`, `route`, `slow_start`), round robin, `ip_hash`, `least_conn`, `hash` \[`consistent`\], `random` \[`two`\], `keepalive`, `keepalive_requests`, `keepalive_time`, `keepalive_timeout`, `sticky cookie`, `sticky route`, `sticky learn`, `queue`, `zone` |
//! | `server` | `listen`, `server_name`, `location`, `return`, `http2`, `large_client_header_buffers`, `client_header_timeout`, `max_headers`, `merge_slashes`, `ssl_reject_handshake`, `try_files ... @NAME`, `underscores_in_headers`, `ignore_invalid_headers`, `rewrite`, `if`, `set`, `break` |
//! | `location` | prefix, `=`, `^~`, `~`, `~*`, nested; `proxy_pass` (with variables of `map`, `set` and expressions), `return`, `rewrite`, `if`, `set`, `break`, `limit_except`, `internal`; `@NAME` for `try_files` and `error_page`, which returns a response or passes requests to another upstream |
//! | `http`, `server`, `location` | `proxy_set_header`, `proxy_hide_header`, `proxy_pass_header`, `proxy_pass_request_body`, `add_header`, `more_set_headers`, `more_clear_headers`, `access_log`, `charset`, `charset_types`, `expires`, `error_page` (to `@NAME`, a path or a URL, also with variables), `recursive_error_pages`, `proxy_intercept_errors`, `allow`, `deny`, `auth_basic`, `auth_basic_user_file`, `satisfy`, `limit_req`, `limit_req_status`, `limit_conn`, `limit_conn_status`, `proxy_redirect`, `proxy_cookie_path`, `proxy_cookie_domain`, `proxy_cookie_flags`, `proxy_next_upstream`, `proxy_next_upstream_tries`, `proxy_next_upstream_timeout`, `proxy_connect_timeout`, `proxy_read_timeout`, `proxy_buffering`, `proxy_buffer_size`, `proxy_request_buffering`, `client_max_body_size`, `client_body_timeout`, `send_timeout`, `keepalive_timeout`, `types`, `default_type`, `proxy_ignore_headers` (`X-Accel-Redirect`), `set_real_ip_from`, `real_ip_header`, `real_ip_recursive` |
//! | values | `$status`, `$request_time`, `$body_bytes_sent`, `$upstream_addr`, `$upstream_status`, `$upstream_response_time`, `$request_id`, `$remote_user`, `$time_local`, `$host`, `$uri`, `$request_uri`, `$args`, `$remote_addr`, `$proxy_add_x_forwarded_for`, `$scheme`, `$https`, `$ssl_protocol`, `$ssl_cipher`, `$ssl_client_s_dn`, `$server_name`, `$http_NAME`, `$cookie_NAME`, `$arg_NAME`, `$1`…`$9` and more |
//!
//! # Additional behaviour for Kylin nodes
//!
//! nginx does not know Kylin. With the manual's file and two nodes, every other request of a
//! session goes to the node that does not know the session. Here an upstream of Kylin nodes gets
//! the defaults of the crate, unless the file says otherwise.
//!
//! | setting | default for Kylin nodes | option of [`SiteBuilder`] |
//! |---|---|---|
//! | `kylin` | the rules of Kylin below `/kylin` ([`KylinRules`](crate::proxy::KylinRules)): internal calls are closed, the class of a request selects its node and decides whether it is retried | [`kylin`](SiteBuilder::kylin) |
//! | `sessions` | logins are learned, in memory ([`SessionMode`]) | [`session_mode`](SiteBuilder::session_mode) |
//! | `policy` | round robin, as in nginx ([`PolicyName`]) | [`policy`](SiteBuilder::policy) |
//! | `probe` | the probe that each node offers ([`ProbeMode`]), once [`Site::start_probes`] is called | [`probe`](SiteBuilder::probe) |
//! | `resource_groups` | none | a FILE: [`resource_groups`](SiteBuilder::resource_groups) |
//! | `outlier`, `drain`, `panic` | on, for any upstream | [`outlier`](SiteBuilder::outlier), [`drain`](SiteBuilder::drain), [`panic_mode`](SiteBuilder::panic_mode) |
//! | `queue` | on: queries wait for servers with `max_conns` | [`queue`](SiteBuilder::queue) |
//! | `single_flight` | on, for upstreams of Kylin | [`single_flight`](SiteBuilder::single_flight) |
//!
//! - Directives of nginx override these defaults: `sticky`, `ip_hash` and `hash` that of sessions,
//!   any method that of the policy, and `max_fails` and `fail_timeout` that of ejection.
//!   `proxy_next_upstream off` turns all retries off. Below `/kylin` its other conditions apply to
//!   requests that may be sent again, but `non_idempotent` and statuses do not apply.
//! - A comment in an upstream sets one of the settings for that upstream. A comment in a server
//!   sets it for the upstreams of its locations. nginx still accepts the file. One comment may have
//!   several settings, and a second `#` begins an ordinary comment:
//!
//!   ```text
//!   upstream kylin {
//!       # kylin_lb: sessions redis://10.0.0.5/3; policy least-conn;
//!       server 1.1.1.1:7070;
//!   }
//!   ```
//!
//!   An unknown or misplaced setting is an error, as an unknown directive is. `## kylin_lb: ...` is
//!   an ordinary comment.
//! - The closest source decides: the upstream, then a server, then an option, then the default.
//!   [`Config::report`] names the source.
//! - An upstream consists of Kylin nodes if a location for paths below `/kylin` passes requests to
//!   it. An upstream that shares a server with it does too. A location for all paths, such as `/`,
//!   counts if something else names Kylin. That may be the name of the upstream, of one of its
//!   servers or in `server_name` (`kylin`, `kyligence`, `kap`). It may also be the path after
//!   `proxy_pass`, or a port of Kylin (7070, 7443, 17070). Such a location also counts if nothing
//!   in the file names Kylin: the nodes then have other names and ports. [`Config::report`] shows
//!   what was found, and what is missing. The file may also serve another application, with a
//!   location such as `location /grafana/` and an upstream of its own. That application gets
//!   neither sessions nor rules nor probes. `kylin on` and `kylin off` in a comment decide where
//!   the locations do not.
//! - Requests for paths that are not below `/kylin` are retried as in nginx, regardless of their
//!   upstream.
//!
//! # Intended differences from nginx
//!
//! | subject | nginx | here |
//! |---|---|---|
//! | `Host` without `proxy_set_header` | the name of the upstream | the client's, if it names one: Kylin puts `Host` into redirects and error messages |
//! | the path that locations match, `$uri` and `rewrite` see | decoded, with `;parameters` | as Tomcat reads it ([`NormalizedPath`](crate::kylin::NormalizedPath)), so that `/bi/..;/x` is not in `/bi/`; conditions, expressions and `$uri` see no `;parameters`, but the node gets them |
//! | a path that applications read differently: with `%2F`, `%5C`, `%3B`, `\`, an escaped escape, not in UTF-8, or `/.` at its end | passed | passed if each reading has the same location, upstream and rules, else 400; for Kylin nodes always 400 |
//! | a path with `;parameters` whose forms with and without them have different locations | the location of the form with them | the location of the form without them; 400 if the other location has `deny`, a password or a `return` of an error |
//! | a path with `//` that `rewrite` makes | its own location | its own location; 400 if the path with one slash has a location with `deny`, a password or a `return` of an error |
//! | `merge_slashes off` | locations and `$uri` have all slashes | locations and `$uri` have merged slashes, as in Tomcat; nodes get the path as it was sent |
//! | two lines of `proxy_set_header Host` | both are sent, and servers refuse the request | the last one is sent |
//! | `proxy_pass_request_body off` without `proxy_set_header Content-Length ""` | nodes wait for the body | nodes get neither the body nor its length |
//! | `Host` with a port that is not a number | passed by older versions | 400 |
//! | `$status` in `proxy_set_header` | 000, or the status of the error in the location of an `error_page` | empty, or the status of the error in the location of an `error_page` |
//! | `error_page` for the 400 of a path that this front end refuses | | the page, unless a node serves it: no node gets such a request |
//! | `proxy_pass` whose resulting path would lead out of the path that it names | passed | 400 |
//! | connections to nodes | in most versions HTTP/1.0, closed after each request | HTTP/1.1, up to 64 idle per core, kept for 15 s |
//! | `keepalive N` | N for the upstream and worker | N for each server and core |
//! | a `server` with neither `max_fails` nor `fail_timeout` | ejected for 10 s after one failure | ejected if it fails more often than the others: [`Outlier`](crate::health::Outlier) |
//! | logins at Kylin nodes | lost whenever the node changes | kept |
//! | `PUT` whose connection broke, below `/kylin` | sent to the next server, which starts a second build | not sent again |
//! | a response that does not come in time | a failure | slow, not a failure, unless the file sets `max_fails` or `fail_timeout`, and `proxy_next_upstream` with `timeout` |
//! | all servers ejected | no server serves | the server that failed least recently serves |
//! | timeouts of a node without a directive | 60 s | those of [`Timeouts`](crate::backend::Timeouts): Kylin lets a query run for 300 s |
//! | `X-Forwarded-For`, `-Proto`, `-Host` | only by `proxy_set_header` | sent unless `proxy_set_header` changes them |
//! | `Forwarded`, `X-Real-IP` and other `X-Forwarded-*` of a client | passed | removed unless `set_real_ip_from` trusts the client; `proxy_set_header` with `$http_NAME` passes one |
//! | `max_conns`, `least_conn` | counted per worker without a `zone` | counted over all threads |
//! | `max_conns`, every server is full | 502; with `queue`, any request waits for any server, first come, first served | a query [waits](crate::admission::QueueRules) for the server that its session or the method chose, and quick queries go first; `queue` sets how many may wait and for how long; other requests do not wait |
//! | `backlog`, `large_client_header_buffers`, client timeouts | per address | one setting for all addresses: the highest limits among their default servers |
//! | the head of a request, without `large_client_header_buffers` | four buffers of 8 KiB | 64 KiB |
//! | the head of a node's response, without `proxy_buffer_size` | 4 or 8 KiB | 64 KiB; with the directive, the highest limit of the locations that pass requests to the upstream |
//! | slow heads and idle client connections | two timeouts | one timeout: the longer of `client_header_timeout` and `keepalive_timeout` |
//! | no eligible server | 502 | 503; every error response has Kylin's form |
//! | `Server` of a node's response | replaced by nginx's own | dropped |
//! | redirects of the front end | absolute `Location` | relative `Location`, absolute if a client would read `//host` in it |
//! | `proxy_pass` with `$uri` | the decoded path | the path, escaped again |
//! | bytes over 0x7F, blanks and control characters in the URI of `rewrite` and `proxy_pass` | sent | escaped |
//! | a body without a length, at a named location | the limit of that location | the highest `client_max_body_size` of the server |
//! | `Location` and cookies under a mapped prefix (`location /bi/ { proxy_pass http://k/kylin/; }`) | changed if they name the upstream, and only by `proxy_cookie_path` | redirects are also changed if they name the client's host, which a node gets without `proxy_set_header Host`; redirects and cookies are also changed if they have a path below `/kylin` |
//! | `rewrite` to a path with `..` | sent | 400 |
//! | `error_page` to a path with `..` from a variable | the page | the front end's own error, in Kylin's form |
//! | `error_page` to a path, for a request with a body | a GET with that body | a GET without a body |
//! | `real_ip_header` that a client sends twice | the first value | the last value, which the peer in front has added |
//! | `rewrite` to a URI that does not begin with `/` | sent as it is, or with the slash that a `proxy_pass` with variables adds | sent with that slash, else 400 |
//! | `$server_addr` with `listen PORT` | the address that the client reached | the same with the server of this crate; with another server the address in [`LocalAddr`](crate::LocalAddr), without which a request is 503 if the address decides |
//! | an address, and its port alone, in `listen` of different servers | the address decides | an error |
//! | the header `Refresh` of a node | changed as `Location` is | unchanged |
//! | `X-Request-ID` | only by `proxy_set_header` | sent if an access log records the request, or if the file uses `$request_id` |
//! | `error_page` for 494 to 497 | the page, on a connection that breaks the rules of TLS, speaks HTTP on a TLS port, or has too long a head | no page: the connection is closed, or the error has Kylin's form |
//! | `root` that is relative or missing, for `if (-f $document_root/FILE)` | a folder below nginx's prefix | the same with [`Config::read_with_prefix`], else an error |
//! | a group `(?<NAME>...)` of `proxy_redirect` | a variable everywhere | a variable in the replacement of its line |
//! | `auth_basic` | any form of `crypt`; hashes are computed for each request, and delay other requests | at most two hashes at a time, for which up to 512 requests wait, and 503 beyond; MD5, bcrypt, SHA-1 and SHA-crypt as `htpasswd` and `openssl passwd` write them, with the feature `htpasswd`; a correct password is remembered for five minutes as a keyed hash, or until the file changes |
//! | `X-Accel-Redirect` of a node | an internal redirect | 502, unless `proxy_ignore_headers` names it |
//! | `limit_except` | also `access_log` and other modules in it | `allow`, `deny`, `auth_basic`, `proxy_pass` |
//! | `return` with a code below 200 | sent | an error |
//! | `return 444` | closes without a response, and many clients send the request again | 403, and closes |
//! | `error_page` with a page that is a file | the page | the front end's own error, in Kylin's form, with its own status: not that of `=200` |
//! | `try_files FILE... @NAME`; `if (-f $request_filename)` | the file, if there is one | as if the file did not exist, because files are not served |
//! | `error_page` to a location that passes requests on | sends any request again | sends a request again if its method is safe, or if no node can have executed it: none was reached, or the response is 404, 405, 421 or 501; a body must have been read before it was sent: at most 1 MiB, and none with `proxy_request_buffering off` |
//! | `sticky cookie` | the MD5 of an address or `route=`, set on each response | a [signed cookie](crate::session::StickyCookie) that reveals no address, with `Path=/` by default, set when it is missing, old or names another server; see [`SiteBuilder::secret`] |
//! | `sticky learn` | binds a session to the server that sets its cookie | also binds a session whose cookie a server accepts as a login; also reads `;jsessionid=` in paths; forgets a session that its server ends; `zone=` is the size of the memory, `sync` needs [`SiteBuilder::sessions`] |
//! | `sticky`, the server is full | binds the session to the server that serves it instead | the session stays bound, and returns |
//! | `sticky route` | a server without `route=` has a route of its own | a server without `route=` has no route |
//! | several `ssl_certificate` in a server | the certificate that suits the client | the first certificate |
//! | possessive repetitions (`a++`), `(?=...)`, `(?<=...)`, `(?>...)`, backreferences in an expression | supported | an error; `(?!...)` is supported at such places as in `^/x(?!y)`, and in `/\.(?!y)` if it excludes literal text |
//! | `slow_start` | begins at 0 | begins at a tenth of the weight |
//! | `access_log` | without the directive, a log at the default path | without the directive, no log; the functions given to [`SiteBuilder::access_log`] write to files; syslog and paths with variables are not supported |
//! | `log_format` with `$http_authorization`, `$http_cookie`, `$cookie_NAME`, `$request_body`, `Set-Cookie` or another header of credentials, also behind `map`, `set`, `rewrite`, `add_header` or a group of an expression | written | an error |
//! | `log_format` with a part that `set` or an expression takes of `$request_uri`, `$uri`, `$args`, `$arg_sql`, `$http_referer` | written | an error: a session id or SQL is not recognised there |
//! | `$request`, `$request_uri`, `$args`, `$uri`, `$arg_NAME`, `$http_referer` in a log | as received | `sql=`, passwords, keys, tokens, signatures and path parameters are masked: [`masked_target`](crate::observe::masked_target); the result of a `rewrite` of a target with such a secret is `***` |
//! | `log_format` with a variable of nginx, or of a common module, that has no value here | written | `-`, and `--check` notes it; other unknown variables are an error in both |
//! | `log_format ... escape=none` | writes every byte | control characters are `\xXX`: a client could write lines of its own, for instance with `$remote_user` |
//! | `resolver` | asks these DNS servers for names in variables and with `resolve` | asks them for the names of servers with `resolve`, with the feature `dns`; the system resolver looks up all other names; lookups run at the start, then every `valid=`, or every 30 s ([`Site::name_lookup_interval`]), and within 30 s after a failure; the last known addresses stay in use. A name with `resolve` or in a `proxy_pass` with variables may be unknown at the start: until it is found, requests are 503 |
//! | `$time_local`, `$time_iso8601`, `expires @TIME` | local time | UTC |
//! | `$bytes_sent`, `$request_length`, `$upstream_bytes_received` | bytes on the wire | without framing and the headers that the server adds; without the head of the node's response |
//! | `$upstream_*` where no server was eligible | the upstream's name, 502 | the upstream's name, 503 |
//! | `$upstream_*` of a query that got the response to an identical query (`single_flight`) | | `-` |
//! | `$1` beside a variable of a `map` whose expression matches | the group of the map | the group of the directive's own expression |
//! | `map` | named groups are variables everywhere | named groups are variables in the map's own results |
//! | `proxy_cache`, `slice`, `mirror` | responses are cached, requests copied | every request reaches one node, and no copy reaches another server; `$upstream_cache_status` is empty |
//! | `listen ... quic`, `http3` | HTTP/3 | not served, and not announced by `Alt-Svc` |
//! | a server of a site other than Kylin that has a mistake or something unsupported | served | left out if the file names Kylin elsewhere: 404 for its names, or for all addresses if one of its addresses cannot be read |

mod applied;
mod config;
mod directives;
mod htpasswd;
mod options;
mod readings;
mod report;
mod serve;
mod syntax;
mod uri;
mod variables;

pub use config::Config;
pub use options::{InvalidOption, PolicyName, ProbeMode, SessionMode};
pub use report::Report;
pub use serve::{
    NAME_LOOKUP_INTERVAL, NameLookups, Site, SiteBuilder, SiteChanges, SiteError, SiteListener, SiteSuccessor,
};
pub use syntax::{ConfigError, ErrorKind, PcreError, translate_pcre};

#[cfg(test)]
mod tests;
