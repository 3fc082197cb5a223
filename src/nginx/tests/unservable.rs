//! Configurations whose requests reach no node.

use super::*;

#[test]
fn upstreams_without_a_server_to_pass_to_are_found() {
    const DOWN: &str = "all servers are down";
    const OWN: &str = "all servers are addresses of this configuration itself";
    let pass = "location / { proxy_pass http://k; }";
    for (text, expected) in [
        (format!("upstream k {{ server 1.1.1.1 down; server 1.1.1.2 down; }} server {{ {pass} }}"), Some(DOWN)),
        (format!("upstream k {{ server 1.1.1.1 down; server 1.1.1.2 backup; }} server {{ {pass} }}"), None),
        (format!("upstream k {{ server 127.0.0.1:8080; }} server {{ listen 8080; {pass} }}"), Some(OWN)),
        (format!("upstream k {{ server localhost; }} server {{ listen 127.0.0.1:80; {pass} }}"), Some(OWN)),
        (format!("upstream k {{ server localhost:81; }} server {{ listen 80; {pass} }}"), None),
        (format!("upstream k {{ server unix:/s; }} server {{ listen unix:/s; {pass} }}"), Some(OWN)),
        ("server { listen 8080; location / { proxy_pass http://127.0.0.1:8080; } }".to_owned(), Some(OWN)),
        (
            format!("upstream k {{ server 127.0.0.1:8080; server 1.1.1.1 down; }} server {{ listen 8080; {pass} }}"),
            Some("all servers are down, or addresses of this configuration itself"),
        ),
        // Another server of the file responds there.
        (
            format!(
                "upstream k {{ server 127.0.0.1:8080; }} server {{ {pass} }} server {{ listen 8080; return 200; }}"
            ),
            None,
        ),
        (
            format!("upstream k {{ server 1.1.1.1; }} upstream unused {{ server 1.1.1.1 down; }} server {{ {pass} }}"),
            None,
        ),
        ("server { return 200; }".to_owned(), None),
    ] {
        let config = Config::parse("kylin.conf", &text).unwrap();
        let found = config.unservable().map(|error| error.message().to_owned());
        assert_eq!(found, expected.map(|reason| format!("no request reaches a node: {reason}")), "{text}");
    }
}

#[test]
fn an_upstream_beside_others_is_noted() {
    let text = "upstream k { server 1.1.1.1; }\nupstream old { server 1.1.1.2 down; }
        server { location / { proxy_pass http://k; } location /old { proxy_pass http://old; } }";
    let config = Config::parse("kylin.conf", text).unwrap();
    assert!(config.unservable().is_none());
    let report = config.report().to_string();
    assert!(report.contains("kylin.conf:2 old: all servers are down, so no request reaches a node"), "{report}");
}
