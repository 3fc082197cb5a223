//! Files that conditions test, and error pages.

use super::*;
use crate::nginx::directives::rewrite::{Condition, Step};

#[test]
fn a_file_below_the_root_needs_a_root_that_is_known() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nginx.conf");
    let site = |server: &str, location: &str| {
        let test = "if (-f $document_root/off) { return 503; }";
        let text = format!("server {{ {server} location / {{ {location} {test} proxy_pass http://127.0.0.1:1; }} }}");
        std::fs::write(&path, text).unwrap();
        path.clone()
    };
    for (server, location, reason) in [
        ("", "", "it is relative to nginx's prefix"),
        ("root html;", "", "it is relative to nginx's prefix"),
        ("root /srv;", "root www;", "it is relative to nginx's prefix"),
        ("root /srv/$host;", "", "it has a variable"),
    ] {
        let error = Config::read(site(server, location)).unwrap_err();
        let expected = format!("the folder of $document_root is not known: {reason}");
        assert_eq!((error.kind(), error.message()), (ErrorKind::Unsupported, &*expected), "{server} {location}");
    }
    for (server, location, expected) in [
        ("", "", folder.path().join("html/off")),
        ("root www;", "", folder.path().join("www/off")),
        ("root www;", "root /srv;", "/srv/off".into()),
    ] {
        let config = Config::read_with_prefix(site(server, location), folder.path()).unwrap();
        let location = config.servers[0].locations.iter().next().unwrap();
        let Step::If { condition: Condition::File(_, Some(file), false), .. } = &location.script[0] else {
            panic!("{:?}", location.script)
        };
        assert_eq!(*file, expected);
    }
}

#[test]
fn error_pages_of_errors_that_get_no_response_are_noted() {
    for (line, noted) in [
        ("error_page 497 https://$host$request_uri;", "error_page 497: "),
        ("error_page 400 494 495 502 =502 @page;", "error_page 494 495: "),
    ] {
        let config = with("", &format!("location @page {{ return 502; }} {line}"));
        assert!(config.notes.len() == 1 && config.notes[0].text.starts_with(noted), "{:?}", config.notes);
    }
}
