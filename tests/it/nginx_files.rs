//! Typical nginx files, in `tests/nginx_files`. Each file is served like a real nginx serves it, or
//! refused with a clear error.
//!
//! The first lines of a file state the expectations:
//!
//! - `#? METHOD PATH [HEADER: VALUE] => STATUS [PATH AT THE NODE] [location=...] [cookie=...]
//!   [cache=...] [type=...]`: a request and its response, from this crate and from nginx. The nodes
//!   get the same requests from both;
//! - `#?ours` and `#?nginx` instead of `#?`: the response of only one of them;
//! - `#! ours only`: Debian's nginx does not read the file, or differs as documented;
//! - `#! error LINE:COLUMN MESSAGE ## EXPECTED`: the file is refused.

use std::num::NonZero;
use std::path::Path;
use std::time::Duration;

use kylin_lb::nginx::{Config, Site};

use crate::support::files::{Nodes, compare_all, replaced, send};
use crate::support::{Nginx, require_nginx};

#[tokio::test]
async fn files_as_people_have_them_serve_as_in_nginx_or_are_refused_clearly() {
    require_nginx!();
    compare_all("nginx_files", 175, compare).await;
}

/// Returns the differences from the expectations in the file.
async fn compare(file: &Path, nodes: &Nodes) -> Vec<String> {
    let mut bytes = std::fs::read(file).unwrap();
    let folder = file.parent().unwrap().to_str().unwrap();
    for (name, value) in [("@node1@", nodes.address(0)), ("@node2@", nodes.address(1))] {
        bytes = replaced(&bytes, name, &value.to_string());
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
    nodes.take_seen();
    let lines: Vec<_> =
        text.lines().filter_map(|line| line.trim_start_matches('\u{feff}').strip_prefix("#?")).collect();
    if lines.is_empty() {
        differences.push("no request".to_owned());
    }
    for (who, line) in lines.iter().filter_map(|line| line.split_once(' ')) {
        let (request, expected) = line.trim().split_once(" => ").unwrap();
        let typed = expected.contains(" type=");
        let fronts =
            [("ours", Some(ours.addresses()[0])), ("nginx", nginx.as_ref().map(|nginx| nginx.address("front")))];
        let mut seen = Vec::new();
        for (name, front) in fronts.into_iter().filter(|(name, _)| who.is_empty() || who == *name) {
            let Some(front) = front else { continue };
            let found = send(front, request, typed).await;
            if !fits(&found, expected) {
                differences.push(format!("{request}\n  expected {expected}\n  {name} {found}"));
            }
            seen.push(nodes.take_seen());
        }
        if let [ours, nginx] = &seen[..]
            && ours != nginx
        {
            differences.push(format!("{request}: the nodes got\n  ours {ours:?}\n  nginx {nginx:?}"));
        }
    }
    ours.stop(Duration::from_secs(5)).await;
    differences
}

/// Compares a result with `expected`, in which `*` matches any text.
fn fits(found: &str, expected: &str) -> bool {
    match expected.split_once('*') {
        Some((start, end)) => found.strip_prefix(start).is_some_and(|rest| rest.ends_with(end)),
        None => found == expected,
    }
}
