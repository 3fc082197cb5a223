//! Typical files of Apache httpd, in `tests/httpd_files`. The example serves each file like a real
//! httpd, or refuses it with a clear error.
//!
//! The first lines of a file state the expectations, as in `nginx_files`:
//!
//! - `#? METHOD PATH [HTTP/1.0] [HEADER: VALUE] => STATUS [PATH AT THE NODE] [location=...]
//!   [cookie=...]`: a request and its response, from the example and from httpd;
//! - `#! error LINE:COLUMN MESSAGE ## EXPECTED`: the file is refused.

use std::path::Path;

use crate::support::example::{run, start};
use crate::support::files::{Nodes, compare_all, send};
use crate::support::httpd::{Httpd, require_httpd};

#[tokio::test]
async fn files_as_people_have_them_serve_as_in_httpd_or_are_refused_clearly() {
    require_httpd!();
    compare_all("httpd_files", 30, compare).await;
}

/// Returns the differences from the expectations in the file.
async fn compare(file: &Path, nodes: &Nodes) -> Vec<String> {
    let mut text = std::fs::read_to_string(file).unwrap();
    for (name, value) in [("@node1@", nodes.address(0)), ("@node2@", nodes.address(1))] {
        text = text.replace(name, &value.to_string());
    }
    text = text.replace("@files@", file.parent().unwrap().to_str().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("httpd.conf");
    let mut differences = Vec::new();
    if let Some(expected) = text.lines().find_map(|line| line.strip_prefix("#! error ")) {
        std::fs::write(&path, &text).unwrap();
        let output = run(&["--httpd", path.to_str().unwrap(), "--check"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let (message, instead) = expected.split_once(" ## ").unwrap();
        let (place, message) = message.split_once(' ').unwrap();
        let is_said = said.contains(&format!("httpd.conf:{place}: {message}"));
        if output.status.success() || !is_said || !said.contains(instead) {
            differences.push(format!("{expected}\n  said {said}"));
        }
        return differences;
    }
    // The comments with requests stay as lines in both files.
    let (first, rest) = text.split_once('\n').unwrap();
    let whole = format!("{first}\nListen 127.0.0.1:@port@\n{rest}").replace("@front@", "@port@");
    let httpd = Httpd::start(&whole).await;
    std::fs::write(&path, whole.replace("@port@", "81")).unwrap();
    let (_process, front) = start(&["--httpd", path.to_str().unwrap(), "--probe", "none"]).await;
    let mut count = 0;
    for line in text.lines().filter_map(|line| line.strip_prefix("#? ")) {
        count += 1;
        let (request, expected) = line.trim().split_once(" => ").unwrap();
        for (address, name) in [(front, "found   "), (httpd.address(), "httpd   ")] {
            let found = send(address, request, false).await;
            if found != expected {
                differences.push(format!("{request}\n  expected {expected}\n  {name} {found}"));
            }
        }
    }
    assert!(count > 0, "no request in {}", file.display());
    differences
}
