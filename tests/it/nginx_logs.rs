//! Access logs of an nginx configuration. With the same format and the same requests, a real nginx
//! and this crate write the same lines.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use kylin_lb::nginx::{Config, Site};
use kylin_lb::server::Server;

use crate::support::front::{closed_port, eventually};
use crate::support::http::{Connection, RawResponse};
use crate::support::raw_node::{Act, RawNode};
use crate::support::{Nginx, require_nginx};

/// Log formats with variables whose values are the same in both servers.
const FORMATS: &str = r#"
map $status $is_error { ~^[45] 1; default 0; }
map $request_uri $loggable { ~*/quiet 0; default 1; }
log_format all '$remote_addr|$remote_user|$request|$request_method|$request_uri|$uri|$args|$is_args|$status|$body_bytes_sent'
    '|$http_referer|$http_user_agent|$host|$http_host|$server_name|$scheme|$server_protocol|$arg_a|$arg_none|$http_none'
    '|$upstream_addr|$upstream_status|$upstream_response_length|$upstream_http_x_node|$sent_http_x_node|$sent_http_x_served_by'
    '|$request_length|$request_completion|$is_error|$content_type';
log_format times '$status $request_time $upstream_response_time $upstream_connect_time $upstream_header_time $msec $time_local $time_iso8601';
log_format json escape=json '{"agent":"$http_user_agent","none":"$http_none","user":"$remote_user","uri":"$uri"}';
log_format raw escape=none '$http_user_agent|$http_none|$remote_user';
log_format page '$status|$uri|$args|$request_uri|$upstream_addr|$upstream_status|$body_bytes_sent';
log_format id '$request_id $sent_http_x_id';
"#;

fn site(dead: SocketAddr, node: SocketAddr, closing: SocketAddr, folder: &str) -> String {
    format!(
        r#"{FORMATS}
        upstream retried {{ server {dead} max_fails=0; server {node} backup; }}
        upstream dead {{ server {dead} max_fails=0; }}
        upstream closing {{ server {closing} max_fails=0; server {node} backup; }}
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_set_header Host $http_host;
        server {{
            access_log {folder}/all all;
            listen 127.0.0.1:@front@;
            server_name kylin.example;
            add_header X-Served-By $upstream_addr always;
            location / {{ proxy_pass http://retried; }}
            location /closing {{ proxy_pass http://closing; }}
            location /dead {{ proxy_pass http://dead; }}
            location /second {{ proxy_pass http://dead; error_page 502 = @second; }}
            location @second {{ proxy_pass http://closing; }}
            location /paged {{ proxy_pass http://dead; error_page 502 /page?b=1; }}
            location = /page {{ access_log {folder}/page page; return 200 "page"; }}
            location /paged-off {{ proxy_pass http://dead; error_page 502 /page-off; }}
            location = /page-off {{ access_log off; return 200 "page"; }}
            location /off-paged {{ access_log off; proxy_pass http://dead; error_page 502 /page; }}
            location /text {{ return 200 "hello"; }}
            location /moved/ {{ proxy_pass http://retried; }}
            location /quiet {{ proxy_pass http://retried; access_log {folder}/all all if=$loggable; }}
            location /off {{ proxy_pass http://retried; access_log off; }}
            location /errors {{ proxy_pass http://retried; access_log {folder}/errors all buffer=4k flush=10ms if=$is_error; }}
            location /times {{ proxy_pass http://retried; access_log {folder}/times times; }}
            location /formats {{
                proxy_pass http://retried;
                access_log {folder}/json json;
                access_log {folder}/raw raw;
                access_log {folder}/combined;
            }}
            location /id {{
                proxy_pass http://retried;
                proxy_set_header X-Request-ID $request_id;
                add_header X-ID $request_id;
                access_log {folder}/id id;
            }}
            location /took {{ proxy_pass http://retried; add_header X-Took "$upstream_response_time $upstream_status $status" always; }}
        }}"#
    )
}

/// The lines of all logs, in the order in which they were written, each with the name of its file.
#[derive(Default, Clone)]
struct Lines(Arc<Mutex<Vec<(String, String)>>>);

impl Lines {
    fn of(&self, log: &str) -> Vec<String> {
        let lines = self.0.lock().unwrap();
        lines.iter().filter(|(name, _)| name == log).map(|(_, line)| line.clone()).collect()
    }
}

struct Pair {
    nginx: Nginx,
    front: Server,
    lines: Lines,
    node: RawNode,
    /// Closes each connection without a response.
    _closing: Option<RawNode>,
}

const NODE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nX-Node: one\r\nSet-Cookie: JSESSIONID=secret\r\n\r\nbody";

impl Pair {
    async fn start() -> Self {
        let node = RawNode::start([vec![Act::Serve(NODE.to_vec())]]).await;
        let closing = RawNode::start([vec![Act::Read]]).await;
        let (dead, address) = (closed_port(), node.address());
        let text = |folder: &str| site(dead, address, closing.address(), folder);
        let mut pair = Pair::of(node, text).await;
        pair._closing = Some(closing);
        pair
    }

    /// Starts both servers with a configuration for a folder of logs.
    async fn of(node: RawNode, site: impl Fn(&str) -> String) -> Self {
        let nginx = Nginx::start(&site("@folder@")).await;
        let folder = nginx.folder().to_str().unwrap().to_owned();
        let config = Config::parse("kylin.conf", &site(&folder).replace("@front@", "1")).unwrap();
        let lines = Lines::default();
        let paths: Vec<_> = config.access_logs().map(std::path::Path::to_owned).collect();
        let builder = paths.into_iter().fold(Site::builder(config), |builder, path| {
            let (lines, name) = (lines.clone(), path.file_name().unwrap().to_str().unwrap().to_owned());
            builder.access_log(path, move |line| {
                lines.0.lock().unwrap().push((name.clone(), String::from_utf8(line).unwrap()));
            })
        });
        let front = builder.build().unwrap().server_on("127.0.0.1:0".parse().unwrap()).start().unwrap();
        Pair { nginx, front, lines, node, _closing: None }
    }

    /// Sends a request to nginx and to this crate. Returns their responses.
    async fn ask(&self, request: &str) -> [RawResponse; 2] {
        let mut responses = Vec::new();
        for address in [self.nginx.address("front"), self.front.addresses()[0]] {
            let mut connection = Connection::open(address).await.unwrap();
            connection.send(request).await.unwrap();
            responses.push(connection.response().await.unwrap());
        }
        responses.try_into().map_err(|_| "two").unwrap()
    }

    /// Waits until both logs have `count` lines, and returns them.
    async fn lines(&self, log: &str, count: usize) -> [Vec<String>; 2] {
        let file = self.nginx.folder().join(log);
        let read = || std::fs::read_to_string(&file).unwrap_or_default().lines().map(str::to_owned).collect::<Vec<_>>();
        let both = || [read(), self.lines.of(log)];
        eventually(|| both().iter().all(|lines| lines.len() >= count), || format!("{count} lines in {:#?}", both()))
            .await;
        both()
    }
}

fn get(path: &str, headers: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: Kylin.example:80\r\n{headers}\r\n")
}

#[tokio::test]
async fn lines_are_those_of_nginx_with_retries_errors_and_responses_of_the_front_end() {
    require_nginx!();
    let pair = Pair::start().await;
    let requests = [
        get("/a%20b/../c;v=1?a=1&b=x%22y", "User-Agent: a\"b\\c\r\nReferer: http://x/y?z=1\r\n").replace(";v=1", ""),
        get("/plain", "Authorization: Basic QURNSU46S1lMSU4=\r\nCookie: JSESSIONID=hidden\r\n"),
        get("/empty?", ""),
        get("/closing/x", ""),
        get("/second", ""),
        get("/text", ""),
        get("/moved", ""),
        get("/off", ""),
        get("/quiet", ""),
        get("/errors", ""),
        "POST /post HTTP/1.1\r\nHost: kylin.example\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello"
            .to_owned(),
    ];
    for request in &requests {
        pair.ask(request).await;
    }
    let [nginx, here] = pair.lines("all", 8).await;
    assert_eq!(here.len(), 8, "/off, /quiet and /errors have no line: {here:#?}");
    for (nginx, here) in nginx.iter().zip(&here) {
        // The page of a redirect has another length here.
        let cut = |line: &str| line.contains("|301|").then(|| line.split("|301|").next().unwrap().to_owned());
        assert_eq!(cut(here).unwrap_or(here.clone()), cut(nginx).unwrap_or(nginx.clone()));
    }
    assert!(here[0].contains(", 127.0.0.1:") && here[0].contains("|502, 200|0, 4|one|one|"), "{}", here[0]);
    assert!(here[1].contains("|ADMIN|"), "{}", here[1]);
    // A colon separates the upstreams of the locations before and after an error page.
    assert!(here[4].contains(" : 127.0.0.1:") && here[4].contains("|502 : 502, 200|0 : 0, 4|"), "{}", here[4]);
    assert!(
        !here.concat().contains("secret") && !here.concat().contains("hidden") && !here.concat().contains("KYLIN|"),
        "{here:#?}"
    );
}

/// The line of a request is that of the location that responds.
#[tokio::test]
async fn a_page_of_an_error_is_logged_as_itself() {
    require_nginx!();
    let pair = Pair::start().await;
    for path in ["/paged?a=1", "/paged-off", "/off-paged"] {
        pair.ask(&get(path, "")).await;
    }
    let [nginx, here] = pair.lines("page", 2).await;
    assert_eq!(here, nginx);
    assert!(here[0].starts_with("502|/page|b=1|/paged?a=1|127.0.0.1:"), "{here:?}");
    pair.ask(&get("/text", "")).await;
    let [_, here] = pair.lines("all", 1).await;
    assert!(here.len() == 1 && here[0].contains("/text"), "{here:?}");
}

#[tokio::test]
async fn times_and_escaped_values_have_nginxs_form() {
    require_nginx!();
    let pair = Pair::start().await;
    let agent = "User-Agent: q\"b\\t\tu\u{e9}\r\nAuthorization: Basic QURNSU46S1lMSU4=\r\n";
    for path in ["/times", "/formats", "/formats/%22a?b=%22"] {
        pair.ask(&get(path, agent)).await;
    }
    for log in ["json", "raw"] {
        let [nginx, here] = pair.lines(log, 2).await;
        // No format lets a client write control characters.
        let escaped: Vec<_> = nginx.iter().map(|line| line.replace('\t', "\\x09")).collect();
        assert_eq!(here, escaped, "{log}");
    }
    let number = regex::Regex::new("[0-9]+").unwrap();
    for (log, count) in [("times", 1), ("combined", 2)] {
        let [nginx, here] = pair.lines(log, count).await;
        let form =
            |lines: &[String]| lines.iter().map(|line| number.replace_all(line, "9").into_owned()).collect::<Vec<_>>();
        // The local time may be behind UTC.
        assert_eq!(form(&here), form(&nginx).iter().map(|line| line.replace(" -9]", " +9]")).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn headers_of_the_response_and_of_the_request_tell_of_the_attempts() {
    require_nginx!();
    let pair = Pair::start().await;
    let [nginx, here] = pair.ask(&get("/served", "")).await;
    assert_eq!(here.header("x-served-by"), nginx.header("x-served-by"));
    assert!(here.header("x-served-by").unwrap().ends_with(&pair.node.address().to_string()));
    let [nginx, here] = pair.ask(&get("/took", "")).await;
    let form = |response: &RawResponse| response.header("x-took").unwrap().replace(char::is_numeric, "9");
    assert_eq!(form(&here), form(&nginx));

    for response in pair.ask(&get("/id", "X-Request-ID: of-the-client\r\n")).await {
        let id = response.header("x-id").unwrap();
        assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
        let sent = pair.node.seen().texts().concat().to_ascii_lowercase();
        assert!(sent.contains(&format!("x-request-id: {id}")), "{id} in {sent}");
    }
    for lines in pair.lines("id", 1).await {
        let (logged, sent) = lines[0].split_once(' ').unwrap();
        assert_eq!(logged, sent);
    }
}

/// No server is reachable. nginx responds with 502, and this crate with 503 or 502 in Kylin's form.
#[tokio::test]
async fn a_dead_upstream_and_a_masked_target_are_told() {
    require_nginx!();
    let pair = Pair::start().await;
    let [_, here] = pair
        .ask(&get(
            "/dead?sql=select+secret&a=1&token=hidden&%6bey=hidden&Sig=hidden",
            "Referer: http://x/y?sql=hidden&auth=hidden\r\n",
        ))
        .await;
    assert_eq!(here.status(), 502);
    let [_, lines] = pair.lines("all", 1).await;
    let line = &lines[0];
    for part in [
        "|GET /dead?sql=***&a=1&token=***&%6bey=***&Sig=*** HTTP/1.1|GET|/dead?sql=***&a=1&token=***&%6bey=***&Sig=***|/dead|",
        "|sql=***&a=1&token=***&%6bey=***&Sig=***|",
        "|http://x/y?sql=***&auth=***|",
        "|502|",
    ] {
        assert!(line.contains(part), "{part} in {line}");
    }
    assert!(!line.contains("hidden") && !line.contains("secret"), "{line}");
}

#[test]
fn a_format_that_would_log_a_secret_is_an_error_with_its_place_and_reason() {
    for (variable, reason) in [
        ("$http_authorization", "credentials"),
        ("${http_cookie}", "credentials or session ids"),
        ("$cookie_JSESSIONID", "session ids"),
        ("$http_proxy_authorization", "credentials"),
        ("$sent_http_set_cookie", "session ids"),
        ("$upstream_http_set_cookie", "session ids"),
        ("$upstream_cookie_jsessionid", "session ids"),
        ("$http_x_auth_token", "credentials"),
        ("$request_body", "SQL"),
        ("$passed", "credentials"),
        ("$part", "session ids"),
        ("$HTTP_Authorization", "credentials"),
    ] {
        let text = format!(
            "map $host $passed {{ default $http_authorization; }}\nmap $cookie_a $part {{ ~^(?<x>.*)$ $x; }}\n\
             log_format l '$status {variable}';\nserver {{ listen 80; location / {{ proxy_pass http://127.0.0.1:1; }} }}"
        );
        let error = Config::parse("kylin.conf", &text).unwrap_err();
        assert_eq!((error.line(), error.column()), (3, 23), "{error}");
        assert!(error.to_string().contains("must not be in a log") && error.to_string().contains(reason), "{error}");
    }
    // A value that only depends on a secret is not secret.
    let text = "map $cookie_a $has { \"\" 0; default 1; }\nlog_format l '$has $http_x_request_id $connection $date_gmt $geoip2_data_country_code $brotli_ratio';\n\
                server { listen 80; access_log /tmp/a l if=$cookie_debug; location / { proxy_pass http://127.0.0.1:1; } }";
    let config = Config::parse("kylin.conf", text).unwrap();
    for name in ["connection", "date_gmt", "geoip2_data_country_code", "brotli_ratio"] {
        assert!(config.report().to_string().contains(&format!("${name} has no value here")), "{}", config.report());
    }
}

#[test]
fn mistakes_in_logs_are_errors_with_what_to_write() {
    for (line, message) in [
        ("access_log a.log unknown;", "unknown log format \"unknown\""),
        ("access_log a.log combnied;", "did you mean \"combined\"?"),
        ("access_log a.log combined bufer=4k;", "parameter"),
        ("access_log a.log combined flush=1s;", "without buffer="),
        ("access_log off combined;", "parameter"),
        ("log_format combined '$status';", "duplicate"),
        ("log_format a escape=xml '$status';", "escaping"),
        ("log_format a '$stauts';", "unknown variable"),
        // nginx also refuses these formats.
        ("log_format a '$nosuch';", "unknown variable \"$nosuch\""),
        ("log_format a '$remote_passwd';", "unknown variable \"$remote_passwd\""),
        ("log_format a '$cookie';", "unknown variable \"$cookie\""),
        ("log_format a;", "number of arguments"),
    ] {
        let text = format!("{line}\nserver {{ listen 80; location / {{ proxy_pass http://127.0.0.1:1; }} }}");
        let error = Config::parse("kylin.conf", &text).unwrap_err().to_string();
        assert!(error.contains(message), "{line}: {error}");
    }
}

/// A secret must not get into a log under another name. The error names its source.
#[test]
fn a_format_that_would_log_a_secret_by_another_name_is_an_error_that_names_the_source() {
    for (shown, script, source) in [
        ("$a", "set $a $http_authorization;", "$http_authorization"),
        ("$b", "set $a \"x $cookie_sid\"; set $b $a;", "$cookie_sid"),
        ("$a", "if ($http_cookie ~ \"JSESSIONID=([^;]+)\") { set $a $1; }", "$http_cookie"),
        ("$a", "if ($http_cookie ~ \"JSESSIONID=([^;]+)\") { rewrite ^/x /y; set $a $1; }", "$http_cookie"),
        ("$1", "if ($http_cookie ~ \"JSESSIONID=([^;]+)\") { break; }", "$http_cookie"),
        (
            "$a",
            "if ($http_cookie ~ \"JSESSIONID=([^;]+)\") { set $b 1; } if ($request_method !~ \"^POST$\") { set $a $1; }",
            "$http_cookie",
        ),
        ("$a", "if ($http_cookie !~ \"JSESSIONID=([^;]+)\") { return 403; } set $a $1;", "$http_cookie"),
        ("$a", "set $a $request_uri;", "$request_uri"),
        ("$a", "set $a $uri;", "$uri"),
        ("$a", "set $a \"$args\";", "$args"),
        ("$a", "set $a $arg_sql;", "$arg_sql"),
        ("$a", "set $a $http_referer;", "$http_referer"),
        ("$a", "if ($args ~ \"sql=(.*)\") { set $a $1; }", "$args"),
        ("$a", "rewrite \"^/x;jsessionid=(.*)$\" /x; set $a $1;", "$1"),
        ("$mapped", "set $x $cookie_sid;", "$cookie_sid"),
        ("$grouped", "set $x $cookie_sid;", "$cookie_sid"),
        ("$args", "rewrite ^/x /y?sid=$cookie_sid;", "$cookie_sid"),
        ("$uri", "set $a $cookie_sid; rewrite ^/x /y/$a;", "$cookie_sid"),
        ("$arg_sid", "rewrite ^/x /y?sid=$cookie_sid;", "$cookie_sid"),
        ("$request $query_string", "rewrite ^/x /y?sid=$cookie_sid;", "$cookie_sid"),
        ("$sent_http_x_sid", "add_header X-Sid $cookie_sid;", "$cookie_sid"),
        ("$sent_http_location", "return 302 /login?was=$cookie_sid;", "$cookie_sid"),
        ("$args", "rewrite ^/x /y?from=$http_referer;", "$http_referer"),
        ("$sent_http_location", "proxy_redirect / /$cookie_sid/;", "$cookie_sid"),
        ("$loop", "set $loop $loop$again; set $again $loop$http_cookie;", "$http_cookie"),
    ] {
        let maps = match shown {
            "$mapped" => "map $host $mapped { default $x; }",
            "$grouped" => "map $x $grouped { ~^(?<part>..) $part; }",
            _ => "",
        };
        let text = format!(
            "{maps} log_format l '{shown}';\nserver {{ listen 80; location / {{ {script} proxy_pass http://127.0.0.1:1; }} }}"
        );
        let error = Config::parse("kylin.conf", &text).map(|_| text).unwrap_err().to_string();
        assert!(error.contains("must not be in a log") && error.contains(source), "{shown} of {script}: {error}");
    }
    // Values that only depend on secrets, and other values, are shown.
    for (shown, script) in [
        ("$a", "if ($http_cookie ~ sid) { set $a known; }"),
        ("$a", "if ($time_iso8601 ~ \"^([0-9]+)-\") { set $a $1; } rewrite ^/x /y;"),
        ("$a $b", "set $a $host; set $b \"$a-$remote_addr\"; if ($http_cookie ~ sid) { rewrite ^/x /y; }"),
        ("$loop", "set $loop $loop$again; set $again $loop;"),
        ("$uri $args $request_uri $arg_x", "rewrite ^/x/(.*)$ /y/$1?old=$args last;"),
        (
            "$sent_http_x_id $sent_http_location",
            "add_header X-Id $request_id; add_header X-Sid $cookie_sid; return 302 $request_uri;",
        ),
    ] {
        let text = format!(
            "log_format l '{shown}';\nserver {{ listen 80; location / {{ {script} proxy_pass http://127.0.0.1:1; }} }}"
        );
        if let Err(error) = Config::parse("kylin.conf", &text) {
            panic!("{shown} of {script}: {error}");
        }
    }
}

const SCRIPTED: &str = r#"
log_format l '$request_uri|$uri|$args|$status|$body_bytes_sent|$zone|$upstream_addr|$upstream_status|$arg_project|$sent_http_location';
upstream node { server NODE; }
upstream dead { server DEAD max_fails=0; }
server {
    access_log FOLDER/l l;
    listen 127.0.0.1:@front@;
    set $zone none;
    location /a { set $zone a; proxy_pass http://node; }
    location /old/ { rewrite ^/old/(.*)$ /new/$1?project=p last; }
    location /new/ { set $zone new; proxy_pass http://node; }
    location /gone { rewrite ^ /elsewhere redirect; }
    location /if { if ($arg_stop) { return 403 "stop"; } proxy_pass http://node; }
    location /denied { deny all; proxy_pass http://node; }
    location /page { error_page 502 =503 @page; proxy_pass http://dead; }
    location @page { return 503 "later"; }
    location /served { error_page 403 =410 @node; deny all; proxy_pass http://node; }
    location @node { add_header X-Status $status always; proxy_pass http://node; }
    location /moved { error_page 403 =410 @moved; deny all; proxy_pass http://node; }
    location @moved { return 302 /served; }
    location /files { error_page 502 =503 /page-of-files; proxy_pass http://dead; }
    location /page-of-files { try_files /nonexistent @files; }
    location @files { proxy_pass http://node; }
    location /own { error_page 403 =410 /page-of-files; deny all; proxy_pass http://node; }
    location /off { if ($arg_quiet) { access_log off; } proxy_pass http://node; }
    location /groups {
        set $first none;
        set $second none;
        set $third none;
        if ($arg_a ~ "x(.*)") { set $first $1; }
        if ($request_method !~ "^POST$") { set $second "[$1]"; }
        if ($arg_a ~ "x(.*)") { set $first $1; }
        rewrite "^/other(.)" /new;
        set $third "[$1]";
        add_header X-Groups "$first$second$third";
        proxy_pass http://node;
    }
}"#;

#[tokio::test]
async fn lines_after_rewrite_set_and_error_page_are_those_of_nginx() {
    require_nginx!();
    let node = RawNode::start([vec![Act::Serve(NODE.to_vec())]]).await;
    let text = SCRIPTED.replace("NODE", &node.address().to_string()).replace("DEAD", &closed_port().to_string());
    let pair = Pair::of(node, |folder| text.replace("FOLDER", folder)).await;
    let paths = [
        "/a",
        "/old/x",
        "/old/x?y=1",
        "/gone",
        "/if?stop=1",
        "/if?project=q",
        "/denied",
        "/page",
        "/served",
        "/moved",
        "/files",
        "/own",
        "/off?quiet=1",
        "/off",
        "/groups?a=xy",
    ];
    for path in paths {
        let responses = pair.ask(&get(path, "")).await;
        let groups = responses.each_ref().map(|response| response.header("x-groups").map(str::to_owned));
        assert_eq!(groups, [(); 2].map(|()| path.starts_with("/groups").then(|| "y[][]".to_owned())), "{path}");
        let statuses = responses.each_ref().map(|response| response.header("x-status"));
        assert_eq!(statuses, [(); 2].map(|()| (path == "/served").then_some("410")), "{path}");
    }
    let [nginx, here] = pair.lines("l", paths.len() - 1).await;
    // The pages of errors and redirects have another length here, and a redirect stays on the host
    // of the request.
    let form = |lines: &[String]| -> Vec<Vec<String>> {
        let fields = lines.iter().map(|line| line.split('|').map(str::to_owned).collect::<Vec<_>>());
        fields
            .map(|mut fields| {
                if matches!(&*fields[3], "302" | "403") && fields[0] != "/if?stop=1" {
                    fields[4].clear();
                }
                fields[9] = fields[9].rsplit('/').next().unwrap_or_default().to_owned();
                fields
            })
            .collect()
    };
    assert_eq!(form(&here), form(&nginx));

    // No part of a rewritten target contains the session id or the SQL.
    pair.ask(&get("/old/x;jsessionid=hidden?sql=hidden", "")).await;
    let [_, lines] = pair.lines("l", paths.len()).await;
    let line = lines.last().unwrap();
    assert!(line.starts_with("/old/x;***?sql=***|***|***|") && !line.contains("hidden"), "{line}");
}
