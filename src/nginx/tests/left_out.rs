//! Servers that are left out, and their hosts.

use super::*;

#[test]
fn a_host_of_a_server_that_is_left_out_reaches_no_other_server() {
    let kylin =
        "server { listen 80 default_server; server_name kylin.example; location / { proxy_pass http://kylin; } }";
    let other = |listen: &str| {
        let other = format!("server {{ listen {listen}; server_name other.example; location / {{ root /srv; }} }}");
        Config::parse("kylin.conf", &format!("{MANUAL}{kylin} {other}"))
    };
    for listen in [
        "80",
        "80 multipath",
        "80 accept_filter=httpready backlog=x",
        "*:80 setfib=1",
        "front.example:80",
        "front.example:80 ssl",
        "10.0.0.1:80",
        "10.0.0.1:80 multipath",
    ] {
        let config = other(listen).unwrap();
        assert_eq!(config.listeners.len(), 2, "{listen}");
        let listener = &config.listeners[1];
        let server = |host| listener.server_for(Some(host)).0;
        assert!(config.servers[server("other.example")].is_left_out, "{listen}");
        assert!(!config.servers[server("kylin.example")].is_left_out, "{listen}");
        assert!(!config.servers[server("third.example")].is_left_out, "{listen}");
    }
    for listen in ["81", "[::]:80", "443 quic", "10.0.0.1:81"] {
        let config = other(listen).unwrap();
        assert!(!config.servers[config.listeners[1].server_for(Some("other.example")).0].is_left_out, "{listen}");
    }
    // The other hosts of a default server cannot be known.
    let error = other("front.example:80 default_server").unwrap_err();
    assert!(error.message().starts_with("invalid listen address"), "{error}");
}
