//! Files as people have them, in `tests/nginx_files`: each is accepted and serves as a real nginx does, or refused with a clear error.
//!
//! The first lines of a file say what is expected:
//!
//! - `#? METHOD PATH [HEADER: VALUE] => STATUS [PATH AT THE NODE] [location=...] [cookie=...] [cache=...] [type=...]`: a request and
//!   its response, from this crate and from nginx;
//! - `#! ours only`: nginx as Debian has it does not read the file, or differs as documented;
//! - `#! error LINE:COLUMN MESSAGE ## EXPECTED`: the file is refused.

use std::num::NonZero;
use std::path::Path;
use std::time::Duration;

use kylin_lb::nginx::{Config, Site};
use kylin_lb::server::Server;

use crate::support::files::{compare_all, replaced, send};
use crate::support::{Nginx, require_nginx};

#[tokio::test]
async fn files_as_people_have_them_serve_as_in_nginx_or_are_refused_clearly() {
    require_nginx!();
    compare_all("nginx_files", 70, compare).await;
}

/// Returns what is not as the file says.
async fn compare(file: &Path, nodes: &[Server; 2]) -> Vec<String> {
    let mut bytes = std::fs::read(file).unwrap();
    let folder = file.parent().unwrap().to_str().unwrap();
    for (name, value) in [("@node1@", &nodes[0]), ("@node2@", &nodes[1])] {
        bytes = replaced(&bytes, name, &value.addresses()[0].to_string());
    }
    bytes = replaced(&bytes, "@files@", folder);
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let marked = |mark: &'static str| {
        text.lines().filter_map(move |line| line.trim_start_matches('\u{feff}').strip_prefix(mark))
    };
    let mut differences = Vec::new();
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("front.conf");
    if let Some(expected) = marked("#! error ").next() {
        let expected = expected.replace("@front@", "81");
        std::fs::write(&path, replaced(&bytes, "@front@", "81")).unwrap();
        let (message, instead) = expected.split_once(" ## ").unwrap();
        match Config::read(&path) {
            Ok(_) => differences.push("accepted".to_owned()),
            Err(error) => {
                let found = format!("{}:{} {}", error.line(), error.column(), error.message());
                if !found.starts_with(message) || !error.expected().contains(instead) {
                    differences.push(format!("{found} ## {}", error.expected()));
                }
            }
        }
        return differences;
    }
    let nginx = match marked("#! ours only").next() {
        Some(_) => None,
        None => Some(Nginx::start(&text).await),
    };
    std::fs::write(&path, replaced(&bytes, "@front@", "81")).unwrap();
    let config = match Config::read(&path) {
        Ok(config) => config,
        Err(error) => return vec![error.to_string()],
    };
    let site = Site::new(config).unwrap();
    let ours = site.server_on("127.0.0.1:0".parse().unwrap()).threads(NonZero::new(1).unwrap()).start().unwrap();
    if marked("#? ").next().is_none() {
        differences.push("no request".to_owned());
    }
    for line in marked("#? ") {
        let (request, expected) = line.trim().split_once(" => ").unwrap();
        let typed = expected.contains(" type=");
        let found = send(ours.addresses()[0], request, typed).await;
        if found != expected {
            differences.push(format!("{request}\n  expected {expected}\n  found    {found}"));
        }
        if let Some(nginx) = &nginx {
            let found = send(nginx.address("front"), request, typed).await;
            if found != expected {
                differences.push(format!("{request}\n  expected {expected}\n  nginx    {found}"));
            }
        }
    }
    ours.stop(Duration::from_secs(5)).await;
    differences
}
