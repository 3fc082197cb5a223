use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::kylin::node::role::{Role, Roles};

fn read(text: &str) -> Properties {
    Properties::parse("kylin.properties", text).unwrap()
}

fn location_of(error: PropertyError) -> (u32, String) {
    match error {
        PropertyError::Value { location, key, .. } => (location.line(), key),
        PropertyError::Escape { location } => (location.line(), String::new()),
    }
}

/// The examples of java.util.Properties.load, and its documented corner cases.
#[test]
fn reads_as_java_does() {
    for (text, key, value) in [
        ("Truth = Beauty", "Truth", "Beauty"),
        ("  Truth:Beauty", "Truth", "Beauty"),
        ("Truth                    :Beauty", "Truth", "Beauty"),
        ("fruits   apple, banana, \\\n    pear, \\\r\n\t cherry", "fruits", "apple, banana, pear, cherry"),
        ("cheeses", "cheeses", ""),
        ("a\\:b\\=c\\ d = e", "a:b=c d", "e"),
        ("a==b", "a", "=b"),
        ("a = = b", "a", "= b"),
        ("a b = c", "a", "b = c"),
        ("path=c:\\\\dir\\x\\ty", "path", "c:\\dirx\ty"),
        ("even=x\\\\\nnext=y", "even", "x\\"),
        ("a=b\\", "a", "b"),
        ("a=b\\\n#c", "a", "b#c"),
        ("a=b\\\n\nc=d", "a", "b"),
        ("a=\\u00e9\\ud83d\\ude00\\uD800", "a", "é😀\u{fffd}"),
        ("# a=b\n ! a=c\n\n\u{c} \ta=d", "a", "d"),
        ("a=1\na=2", "a", "2"),
        ("a=x\rb=y", "b", "y"),
    ] {
        assert_eq!(read(text).get(key), Some(value), "{text:?}");
    }
    assert_eq!(read("=\n:\n").keys().count(), 0);
}

#[test]
fn the_second_file_wins_and_locations_are_kept() {
    let both = read("a=1\nb=2\n").overridden_by("kylin.properties.override", "\nb=3\nc=4").unwrap();
    assert_eq!((both.get("a"), both.get("b"), both.get("c")), (Some("1"), Some("3"), Some("4")));
    assert_eq!(both.location("b").unwrap().to_string(), "kylin.properties.override:2");
    assert_eq!(both.location("a").unwrap().to_string(), "kylin.properties:1");
    let error = Properties::parse("k", "a=b\\\n c\nx=\\u12g4").unwrap_err();
    assert_eq!(error.to_string(), "k:3: \\u needs four hexadecimal digits");
}

#[test]
fn servers_are_read_in_every_form() {
    let list = |text: &str| {
        let servers = read(text).cluster_servers().unwrap();
        servers.iter().map(|server| format!("{server} {:?}", server.roles())).collect::<Vec<_>>()
    };
    assert_eq!(list(""), [""; 0]);
    assert_eq!(
        list("kylin.server.cluster-servers=a:7070, ADMIN:KYLIN@b:17070,c,[::1]:80,p@ss:w@d,a:7070,"),
        ["a:7070 None", "b:17070 None", "c:7070 None", "[::1]:80 None", "d:7070 None"]
    );
    assert_eq!(list("kylin.rest.servers=a"), ["a:7070 None"]);
    assert_eq!(list("kylin.rest.servers=a\nkylin.server.cluster-servers=b"), ["b:7070 None"]);
    assert_eq!(
        list("kylin.server.cluster-servers=x\nkylin.server.cluster-servers-with-mode=a:1:query,b:2:all"),
        ["a:1 Some(query)", "b:2 Some(all)"]
    );
    assert_eq!(
        list(
            "kylin.server.cluster-mode-query=a:1,b:1\nkylin.server.cluster-mode-job=c:1\nkylin.server.cluster-servers=x"
        ),
        ["a:1 Some(query)", "b:1 Some(query)", "c:1 Some(job)"]
    );
    for (line, key) in [
        ("kylin.server.cluster-servers=a:7070,b:x", "kylin.server.cluster-servers"),
        ("kylin.server.cluster-servers=a:0", "kylin.server.cluster-servers"),
        ("kylin.server.cluster-servers=a:70000", "kylin.server.cluster-servers"),
        ("kylin.server.cluster-servers=a b", "kylin.server.cluster-servers"),
        ("kylin.server.cluster-servers=[x]:1", "kylin.server.cluster-servers"),
        ("kylin.server.cluster-servers=secret:p@", "kylin.server.cluster-servers"),
        ("kylin.server.cluster-servers-with-mode=a:1", "kylin.server.cluster-servers-with-mode"),
        ("kylin.server.cluster-servers-with-mode=a:1:boss", "kylin.server.cluster-servers-with-mode"),
    ] {
        let error = read(&format!("\n{line}")).cluster_servers().unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
        assert_eq!(location_of(error), (2, key.to_owned()), "{line}");
    }
    let error = read("kylin.server.cluster-servers=a,b:x").cluster_servers().unwrap_err();
    assert_eq!(
        error.to_string(),
        "kylin.properties:1: kylin.server.cluster-servers: expected host:port or user:password@host:port, … (entry 2 is not)"
    );
}

#[test]
fn settings_that_are_missing_have_kylins_default() {
    let none = read("");
    assert_eq!(none.metadata_url().unwrap(), None);
    assert_eq!(none.server_mode().unwrap(), Roles::ALL);
    assert!(!none.self_discovery().unwrap());
    assert_eq!(none.cluster_name().unwrap(), "kylin_metadata");
    assert_eq!(none.zookeeper_root().unwrap(), "/kylin/kylin_metadata");
    assert_eq!(none.zookeeper_servers().unwrap(), None);
    assert_eq!(none.query_timeout().unwrap(), None);
    assert_eq!(none.host_address().unwrap(), None);
}

#[test]
fn set_properties_are_read() {
    let set = read(
        "kylin.metadata.url=prod@jdbc,url=jdbc:mysql://db/k,password=s3cret\n\
         kylin.server.mode=query,stream_coordinator\n\
         kylin.server.self-discovery-enabled=TRUE\n\
         kylin.server.host-address=n1:17070\n\
         kylin.env.zookeeper-connect-string=z1:2181, z2/ch/root/\n\
         kylin.job.scheduler.default=100\n\
         kylin.env.zookeeper-base-path=/k/\n\
         kylin.query.timeout-seconds=300\n\
",
    );
    assert_eq!(set.metadata_url().unwrap().unwrap().identifier(), "prod");
    assert_eq!(set.server_mode().unwrap(), Roles::only(Role::Query));
    assert!(set.self_discovery().unwrap());
    assert_eq!(set.host_address().unwrap().unwrap().to_string(), "n1:17070");
    assert_eq!(set.zookeeper_servers().unwrap().unwrap(), ["z1:2181", "z2"]);
    assert_eq!(set.zookeeper_root().unwrap(), "/k/prod");
    assert_eq!((set.zookeeper_chroot().unwrap().as_str(), set.job_scheduler().unwrap()), ("/ch/root", Some(100)));
    assert_eq!(set.query_timeout().unwrap(), Some(Duration::from_secs(300)));
    assert!(!format!("{set:?}").contains("s3cret"));
    assert_eq!(read("kylin.server.cluster-name=c").zookeeper_root().unwrap(), "/kylin/c");
}

#[test]
fn errors_name_line_and_key() {
    let check = |text: &str, read_it: &dyn Fn(&Properties) -> Option<PropertyError>| {
        let properties = read(&format!("# head\n{text}"));
        let (line, key) = location_of(read_it(&properties).unwrap());
        assert_eq!((line, Some(&*key)), (2, text.split('=').next()), "{text}");
    };
    check("kylin.server.mode=boss", &|p| p.server_mode().err());
    check("kylin.server.self-discovery-enabled=yes", &|p| p.self_discovery().err());
    check("kylin.server.host-address=:1", &|p| p.host_address().err());
    check("kylin.query.timeout-seconds=-1", &|p| p.query_timeout().err());
    check("kylin.env.zookeeper-base-path=kylin", &|p| p.zookeeper_root().err());
    check("kylin.env.zookeeper-connect-string=a:b", &|p| p.zookeeper_servers().err());
    check("kylin.job.scheduler.default=fair", &|p| p.job_scheduler().err());
    check("kylin.env.zookeeper-connect-string=${ZK}/x", &|p| p.zookeeper_chroot().err());
    check("kylin.metadata.url=${URL}", &|p| p.metadata_url().err());
    check("kylin.metadata.url=${URL}", &|p| p.cluster_name().err());
}

/// Writes a pair as `Properties.store` does.
fn store(key: &str, value: &str) -> String {
    let escape = |text: &str, key: bool| {
        let mut out = String::new();
        for (at, c) in text.chars().enumerate() {
            match c {
                '\t' => out.push_str("\\t"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\u{c}' => out.push_str("\\f"),
                ' ' if key || at == 0 => out.push_str("\\ "),
                '\\' | '=' | ':' | '#' | '!' => out.extend(['\\', c]),
                ' '..='~' => out.push(c),
                c => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        out.push_str(&format!("\\u{unit:04X}"));
                    }
                }
            }
        }
        out
    };
    format!("{}={}\n", escape(key, true), escape(value, false))
}

proptest! {
    #[test]
    fn properties_that_java_writes_are_read(pairs in prop::collection::btree_map("[ -~\\t\\né😀]{1,10}", "\\S|\\S.{0,10}\\S", 0..6)) {
        let text: String = pairs.iter().map(|(key, value)| store(key, value)).collect();
        let properties = read(&text);
        for (key, value) in &pairs {
            prop_assert_eq!(properties.get(key), Some(value.trim()));
        }
        prop_assert_eq!(properties.keys().count(), pairs.len());
    }

    #[test]
    fn no_text_panics(text in "(\\PC|\n|\r|\\\\|=|:| ){0,60}", server in ".{0,30}") {
        if let Ok(properties) = Properties::parse("x", &text) {
            let _ = format!("{properties:?}");
        }
        if let Some(server) = ServerAddr::parse(&server) {
            prop_assert_eq!(ServerAddr::parse(&server.to_string()), Some(server));
        }
        let _ = ServerAddr::parse_with_mode(&server);
    }
}
