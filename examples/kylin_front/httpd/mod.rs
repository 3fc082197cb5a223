//! `--httpd`: serves a configuration of Apache httpd 2.4.
//!
//! The KAP manual names httpd besides nginx as a load balancer for Kylin nodes. [`config`] reads
//! such a file unchanged, with the files that it includes. [`Site`] serves it, with a cluster for
//! each balancer, and a proxy for each balancer of a `<VirtualHost>`.
//!
//! Each directive is treated in one of four ways, and none is ignored silently:
//!
//! - it is supported, and does what httpd does;
//! - it has no effect on proxied requests, and `--check` lists it with its line: modules, logs,
//!   processes, files, compression;
//! - it differs from httpd, and `--check` says how;
//! - it is an error with file, line, column, and what to write instead. That is an unknown name, or
//!   an unsupported directive that would change a response of a node or refuse a client.
//!
//! | subject | directives |
//! |---|---|
//! | files | `Include`, `IncludeOptional`, `Define`, `UnDefine`, `${NAME}`, `ServerRoot`, `<IfModule>`, `<IfDefine>`, `<IfVersion>`, `<IfFile>`, `LoadModule` |
//! | servers | `Listen`, `<VirtualHost>`, `ServerName`, `ServerAlias`, `Timeout`, `SSLEngine`, `SSLCertificate...`, `RemoteIPHeader`, `RemoteIPTrustedProxy`, `RemoteIPInternalProxy` |
//! | balancers | `<Proxy balancer://...>`, `BalancerMember`, `ProxySet` |
//! | paths | `ProxyPass`, `ProxyPassMatch`, `<Location>`, `<LocationMatch>`, `Redirect`, `RedirectMatch`, `RewriteCond`, `RewriteRule` |
//! | responses | `ProxyPassReverse`, `ProxyPassReverseCookiePath`, `ProxyPassReverseCookieDomain`, `Header` |
//! | requests | `RequestHeader`, `ProxyAddHeaders`, `Require`, `<RequireAll>` and similar groups, `AuthMerging`, `Satisfy`, `Order`, `Allow`, `Deny`, `<Limit>`, `<LimitExcept>`, `ProxyTimeout`, `SSLProxy...` |
//!
//! A balancer of Kylin nodes gets the defaults of the crate, as with `--config`, unless the file
//! says otherwise. They are the rules of Kylin, probes, single flight, queues, and learned sessions
//! if there is no `stickysession`.

mod config;
mod directives;
mod kylin;
mod policy;
mod report;
mod serve;
mod syntax;

pub use self::report::report;
pub use self::serve::{Site, SiteListener};
