//! The example front end is reloaded, stopped, and replaced by another process while clients use
//! it.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::example_options::nodes;
use crate::support::browser::Browser;
use crate::support::example::{TIMEOUT, address, program, run, spawn, start};
use crate::support::front::{closed_port, demo, eventually, refusal};
use crate::support::http::{Connection, FIRST_REQUEST, get};
use crate::support::load::load;
use crate::support::process::Process;
use crate::support::raw_node::{Act, RawNode, ok};
use crate::support::tls::{Certificate, openssl_installed};

const QUICK: &str = "/demo/bytes?n=5";
const LONG: &str = "GET /long HTTP/1.1\r\nHost: kylin\r\n\r\n";

/// Holds a configuration and its additional files.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Files(TempDir::new().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> String {
        std::fs::write(self.path(name), text).unwrap();
        self.path(name).to_str().unwrap().to_owned()
    }
}

/// Waits for the `count`th line that a reload logs. Returns it.
async fn reloaded(process: &mut Process, count: usize) -> String {
    let lines = |process: &Process| -> Vec<String> {
        let log = process.file("stderr");
        log.lines()
            .filter(|line| line.contains(" reloaded ") || line.contains("not reloaded"))
            .map(str::to_owned)
            .collect()
    };
    process
        .wait_ready(TIMEOUT, |process| lines(process).len() >= count)
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    lines(process).swap_remove(count - 1)
}

/// Starts four requests that the node holds back.
async fn four_long(address: SocketAddr, slow: &RawNode) -> Vec<Connection> {
    let mut clients = Vec::new();
    for _ in 0..4 {
        let mut client = Connection::open(address).await.unwrap();
        client.send(LONG).await.unwrap();
        clients.push(client);
    }
    slow.wait_until(|seen| seen.requests.len() == 4).await;
    clients
}

async fn finish(clients: Vec<Connection>, slow: &RawNode) -> usize {
    let mut served = 0;
    for _ in &clients {
        slow.go();
    }
    for mut client in clients {
        served += usize::from(client.response().await.is_ok_and(|response| response.text() == "long"));
    }
    served
}

async fn slow_node() -> RawNode {
    let exchange = vec![Act::Read, Act::WaitForGo, Act::Write(ok("long"))];
    RawNode::start([exchange.clone(), exchange.clone(), exchange.clone(), exchange]).await
}

/// Sends 240 requests on new connections. `event` happens in each third of them. Returns how many
/// got 200.
async fn load_with(address: SocketAddr, mut event: impl AsyncFnMut(usize)) -> usize {
    let before = async |number| {
        if number % 80 == 40 {
            event(number / 80).await;
        }
    };
    let send = move || async move {
        let request = format!("GET {QUICK} HTTP/1.1\r\nHost: kylin\r\n\r\n");
        let mut client = Connection::open_promptly(address, request, FIRST_REQUEST).await.unwrap();
        client.response().await.is_ok_and(|response| response.status() == 200)
    };
    load(240, before, send).await.into_iter().filter(|served| *served).count()
}

fn config(front: SocketAddr, slow: &RawNode, quick: SocketAddr, upstream: &str) -> String {
    format!(
        "upstream slow {{ server {}; }}\nupstream quick {{ {upstream} server {quick}; }}\n\
         server {{ listen {front};\nlocation /long {{ proxy_pass http://slow; }}\nlocation / {{ proxy_pass http://quick; }} }}\n",
        slow.address()
    )
}

#[tokio::test]
async fn a_reload_under_load_loses_no_request_and_a_broken_file_changes_nothing() {
    let (files, slow, (_node, served), front) = (Files::new(), slow_node().await, demo("q1").await, closed_port());
    let quick = served.addr();
    let path = files.write("kylin.conf", &config(front, &slow, quick, ""));
    let mut process = spawn(&["--config", &path, "--kylin=off"]).await;
    let long = four_long(front, &slow).await;
    let mut idle = Connection::open(front).await.unwrap();
    let mut count = 0;
    let served = load_with(front, async |third| {
        let text = match third {
            0 => config(front, &slow, quick, "least_conn;"),
            1 => config(front, &slow, quick, "leastconn;"),
            _ => config(front, &slow, quick, &format!("least_conn; server {} backup;", closed_port())),
        };
        files.write("kylin.conf", &text);
        process.signal("HUP");
        count += 1;
        let line = reloaded(&mut process, count).await;
        match third {
            0 => assert!(line.contains(" INFO ") && line.contains("policies changed: quick"), "{line}"),
            1 => assert!(
                line.contains("ERROR") && line.contains("kylin.conf:2:18") && line.contains("leastconn"),
                "{line}"
            ),
            _ => assert!(line.contains("endpoints added: quick/127.0.0.1:"), "{line}"),
        }
    })
    .await;
    assert_eq!(served, 240);
    assert_eq!(finish(long, &slow).await, 4);
    // A connection from before the reload.
    idle.send(format!("GET {QUICK} HTTP/1.1\r\nHost: kylin\r\n\r\n")).await.unwrap();
    assert_eq!(idle.response().await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_stop_does_not_wait_for_a_reload_that_hangs() {
    let (_nodes, named) = nodes(1).await;
    let files = Files::new();
    let users = files.write("users", "");
    let server = "auth_basic off; listen 127.0.0.1:1; location / { proxy_pass http://kylin; }";
    let address = named.trim_start_matches("n1@");
    let text = format!("upstream kylin {{ server {address}; }} server {{ auth_basic_user_file {users}; {server} }}");
    let (mut process, front) = start(&["--config", &files.write("kylin.conf", &text)]).await;
    // A pipe whose writer is silent is never read to its end.
    std::fs::remove_file(&users).unwrap();
    assert!(Command::new("mkfifo").arg(&users).status().unwrap().success());
    let _writer = std::fs::OpenOptions::new().read(true).write(true).open(&users).unwrap();
    process.signal("HUP");
    let open_files = PathBuf::from(format!("/proc/{}/fd", process.id()));
    let reads = || {
        let mut links =
            std::fs::read_dir(&open_files).unwrap().filter_map(|entry| entry.unwrap().path().read_link().ok());
        links.any(|link| link.as_os_str() == users.as_str())
    };
    eventually(reads, || "the reload reads the file".to_owned()).await;
    assert_eq!(get(front, QUICK, &[]).await.unwrap().status(), 200);
    process.signal("TERM");
    assert!(process.ended(TIMEOUT).await.is_some_and(|status| status.success()), "{}", process.log());
}

#[tokio::test]
async fn listeners_come_and_go_and_those_that_cannot_be_bound_leave_all_as_it_was() {
    let (files, first, second) = (Files::new(), closed_port(), closed_port());
    let text = |listen: &str| format!("server {{ {listen}\nlocation / {{ return 200 here; }} }}\n");
    let path = files.write("kylin.conf", &text(&format!("listen {first};")));
    let mut process = Process::spawn(
        "kylin_front",
        TempDir::new().unwrap(),
        Command::new(program()).args(["--config", &path, "--threads", "2"]),
    )
    .unwrap();
    process.wait_ready(TIMEOUT, |process| process.file("stdout").contains("listening on")).await.unwrap();
    files.write("kylin.conf", &text(&format!("listen {first}; listen {second};")));
    process.signal("HUP");
    let line = reloaded(&mut process, 1).await;
    assert!(line.contains(&format!("; listening on {second}")), "{line}");
    for address in [first, second] {
        assert_eq!(get(address, "/", &[]).await.unwrap().text(), "here");
    }
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = other.local_addr().unwrap();
    files.write("kylin.conf", &text(&format!("listen {taken};")));
    process.signal("HUP");
    let line = reloaded(&mut process, 2).await;
    assert!(line.contains("not reloaded") && line.contains(&format!("cannot listen on {taken}")), "{line}");
    assert_eq!(get(second, "/", &[]).await.unwrap().text(), "here");
    files.write("kylin.conf", &text(&format!("listen {second};")));
    process.signal("HUP");
    let line = reloaded(&mut process, 3).await;
    assert!(line.contains(&format!("no longer listening on {first}")), "{line}");
    assert_eq!(get(second, "/", &[]).await.unwrap().text(), "here");
    crate::support::front::until("the first is closed", async || Connection::open(first).await.is_err()).await;
}

#[tokio::test]
async fn a_new_secret_is_read_and_logins_stay() {
    let (files, (_nodes, named)) = (Files::new(), nodes(2).await);
    let (old, new) = ("5a".repeat(32), "3c".repeat(32));
    for sessions in ["memory", "cookie", "user", "login-relay"] {
        let secret = files.write("secret", &format!("{old}\n"));
        let (mut process, front) = start(&["--nodes", &named, "--sessions", sessions, "--secret-file", &secret]).await;
        let mut browsers = Vec::new();
        for _ in 0..4 {
            let mut browser = Browser::new(front);
            assert_eq!(browser.log_in("ADMIN", "KYLIN").await.status(), 200, "{sessions}");
            browsers.push(browser);
        }
        files.write("secret", "5a5a\n");
        process.signal("HUP");
        let line = reloaded(&mut process, 1).await;
        assert!(line.contains("not reloaded") && line.contains("secret:1: not a secret"), "{line}");
        files.write("secret", &format!("{new}\n{old}\n"));
        process.signal("HUP");
        let line = reloaded(&mut process, 2).await;
        assert!(line.contains("another secret"), "{line}");
        for browser in &mut browsers {
            for _ in 0..3 {
                assert_eq!(browser.query().await.status(), 200, "{sessions}");
            }
        }
    }
}

#[tokio::test]
async fn a_list_of_nodes_is_followed_and_a_reload_says_what_is_wrong_with_it() {
    let (files, (_first, one), (_second, two)) = (Files::new(), demo("q1").await, demo("q2").await);
    let list = files.write("nodes", &format!("{} id=one\n", one.addr()));
    let (mut process, _) = start(&["--nodes-file", &list, "--status", "127.0.0.1:0"]).await;
    let operators = address(&process, "status on http://");
    files.write("nodes", &format!("{} id=one\n{} wieght=2\n", one.addr(), two.addr()));
    process.signal("HUP");
    let line = reloaded(&mut process, 1).await;
    assert!(line.contains("not reloaded") && line.contains("nodes:2:"), "{line}");
    files.write("nodes", "# none\n");
    process.signal("HUP");
    let line = reloaded(&mut process, 2).await;
    assert!(line.contains("not reloaded") && line.contains("nodes: no node is listed; a line is HOST:PORT"), "{line}");
    files.write("nodes", &format!("{} id=one\n{} weight=2\n", one.addr(), two.addr()));
    process.signal("HUP");
    assert!(reloaded(&mut process, 3).await.contains(" reloaded "));
    let two = two.addr().to_string();
    crate::support::front::until("the second node", async || {
        get(operators, "/front/status", &[]).await.unwrap().text().contains(&two)
    })
    .await;
}

#[tokio::test]
async fn a_front_end_with_an_empty_list_of_nodes_says_which_and_what_a_line_is() {
    let files = Files::new();
    let list = files.write("nodes", "# none\n\n");
    let (process, _) = start(&["--nodes-file", &list]).await;
    let is_said = |line: &str| {
        let parts = ["WARN", "no node is listed yet", &list, "a line is HOST:PORT and settings, such as 10.0.0.1:7070"];
        parts.iter().all(|part| line.contains(part))
    };
    eventually(|| process.file("stderr").lines().any(is_said), || process.file("stderr")).await;
}

/// An operator who has not touched a node must not be named for a change that comes from a file.
#[tokio::test]
async fn a_change_by_a_reload_is_told_from_one_by_the_operator() {
    let (files, (_one, first), (_two, second), front) =
        (Files::new(), demo("q1").await, demo("q2").await, closed_port());
    let token = files.write("token", "a-token-of-some-length");
    let config = |servers: &str| {
        let server = format!("server {{ listen {front}; location / {{ proxy_pass http://k; }} }}");
        files.write("kylin.conf", &format!("upstream k {{ {servers} }}\n{server}"))
    };
    let (first, second) = (first.addr().to_string(), second.addr().to_string());
    let path = config(&format!("server {first};"));
    let args = ["--config", &path, "--admin", "127.0.0.1:0", "--admin-token-file", &token];
    let mut process = spawn(&args).await;
    let admin = address(&process, "admin on http://").to_string();
    let ctl = |verb: &str| {
        let output = run(&["ctl", verb, &second, "--admin", &admin, "--token-file", &token]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let mut count = 0;
    let mut reload = async |process: &mut Process, servers: &str| {
        config(servers);
        process.signal("HUP");
        count += 1;
        assert!(reloaded(process, count).await.contains(" reloaded "));
    };
    let told = async |process: &Process, change: &str, found_by: &str| {
        let (change, endpoint) = (format!("node is {change}"), format!("endpoint=\"{second}\""));
        let lines = || {
            let log = process.file("stderr");
            let of_change = |line: &&str| line.contains(&change) && line.contains(&endpoint);
            log.lines().filter(of_change).map(str::to_owned).collect::<Vec<_>>()
        };
        let is_told = || lines().last().is_some_and(|line| line.contains(&format!("found_by=\"{found_by}\"")));
        eventually(is_told, || format!("{change} by {found_by}: {}", process.file("stderr"))).await;
    };
    reload(&mut process, &format!("server {first}; server {second};")).await;
    told(&process, "added", "configuration").await;
    reload(&mut process, &format!("server {first}; server {second} down;")).await;
    told(&process, "maintenance", "configuration").await;
    reload(&mut process, &format!("server {first}; server {second};")).await;
    told(&process, "ready", "configuration").await;
    ctl("maintenance");
    told(&process, "maintenance", "operator").await;
    ctl("ready");
    told(&process, "ready", "operator").await;
    reload(&mut process, &format!("server {first};")).await;
    told(&process, "removed", "configuration").await;
}

#[tokio::test]
async fn the_health_path_says_when_it_stops_and_a_second_signal_ends_at_once() {
    let (_nodes, named) = nodes(1).await;
    for (path, options) in [("/front/health", &[][..]), ("/up", &["--health-path", "/up"])] {
        let (mut process, front) = start(&[&["--nodes", &named, "--lame-duck", "600"][..], options].concat()).await;
        let ready = get(front, path, &[]).await.unwrap();
        assert_eq!((ready.status(), ready.text()), (200, "{\"status\":\"ready\"}\n"));
        process.signal("QUIT");
        crate::support::front::until("it says so", async || get(front, path, &[]).await.unwrap().status() == 503).await;
        assert_eq!(get(front, QUICK, &[]).await.unwrap().status(), 200, "it serves on");
        process.signal("TERM");
        assert!(process.ended(TIMEOUT).await.is_some_and(|status| status.success()));
        assert!(process.file("stdout").contains("stopped at once"), "{}", process.log());
    }
    let (_process, front) = start(&["--nodes", &named, "--health-path", "none"]).await;
    assert_eq!(get(front, "/front/health", &[]).await.unwrap().status(), 404);
    let dead = closed_port().to_string();
    let (_process, front) = start(&["--nodes", &dead, "--probe=tcp", "--panic=off"]).await;
    crate::support::front::until("no node", async || get(front, "/front/health", &[]).await.unwrap().status() == 503)
        .await;
    // Panic mode tries the node. A draining node serves the sessions that are bound to it.
    let draining = format!("{named} drain");
    for (args, told) in [
        (&["--nodes", &dead, "--probe=tcp"], "no node is up: panic mode tries those that failed"),
        (&["--nodes", &draining, "--probe=none"], "no node is up: only requests of sessions that are bound are served"),
    ] {
        let (process, front) = start(args).await;
        crate::support::front::until(told, async || process.file("stderr").contains(told)).await;
        assert_eq!(get(front, "/front/health", &[]).await.unwrap().status(), 200, "{told}");
    }
}

#[tokio::test]
async fn the_grace_ends_what_takes_longer_and_is_that_of_the_longest_query_by_default() {
    let slow = RawNode::start([vec![Act::Read, Act::UntilClosed]]).await;
    let named = slow.address().to_string();
    let (mut process, front) = start(&["--nodes", &named, "--kylin=off", "--probe=none", "--grace", "0"]).await;
    let mut client = Connection::open(front).await.unwrap();
    client.send(LONG).await.unwrap();
    slow.wait_until(|seen| seen.requests.len() == 1).await;
    process.signal("TERM");
    assert_eq!(client.response().await.unwrap().status(), 502);
    assert!(process.ended(TIMEOUT).await.is_some_and(|status| status.success()));
    assert!(process.file("stdout").contains("stopped; 1 connections were cut"));

    let files = Files::new();
    let text = format!(
        "upstream k {{ server {named}; }} server {{ listen {}; location / {{ proxy_read_timeout 7m; proxy_pass http://k; }} }}",
        closed_port()
    );
    let path = files.write("kylin.conf", &text);
    let mut process = spawn(&["--config", &path, "--probe=none"]).await;
    process.signal("TERM");
    assert!(process.ended(TIMEOUT).await.is_some_and(|status| status.success()));
    assert!(process.file("stdout").contains("requests in flight have 420 s"), "{}", process.log());
}

/// Starts the program with `socket` as systemd passes it: as descriptor 3.
pub(crate) async fn with_socket(socket: &TcpListener, args: &[&str]) -> Process {
    with_sockets(&[socket], args).await
}

/// Starts the program with one or two sockets, as descriptors 3 and 4.
async fn with_sockets(sockets: &[&TcpListener], args: &[&str]) -> Process {
    let pass = "exec 3<&0 4<&1 0</dev/null >\"$STDOUT\"; LISTEN_PID=$$ exec \"$@\"";
    let folder = TempDir::new().unwrap();
    let socket = |socket: &&TcpListener| Stdio::from(OwnedFd::from(socket.try_clone().unwrap()));
    let mut command = Command::new("sh");
    command.args(["-c", pass, "sh"]).arg(program()).args(args).args(["--threads", "2"]);
    command
        .env("STDOUT", folder.path().join("stdout"))
        .env("LISTEN_FDS", sockets.len().to_string())
        .stdin(socket(&sockets[0]))
        .stdout(sockets.get(1).map_or_else(Stdio::null, socket))
        .stderr(Stdio::from(std::fs::File::create(folder.path().join("stderr")).unwrap()));
    let mut process = Process::of_child("kylin_front", folder, command.spawn().unwrap());
    let ready = process.wait_ready(TIMEOUT, |process| process.file("stdout").contains("policy: ")).await;
    ready.unwrap_or_else(|error| panic!("{error}"));
    process
}

#[tokio::test]
async fn a_second_process_takes_over_by_the_listening_descriptor_without_a_lost_request() {
    let (files, slow, (_node, served)) = (Files::new(), slow_node().await, demo("q1").await);
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let front = socket.local_addr().unwrap();
    let path = files.write("kylin.conf", &config(front, &slow, served.addr(), ""));
    let args = ["--config", &path, "--kylin=off"];
    let mut first = with_socket(&socket, &args).await;
    let long = four_long(front, &slow).await;
    let mut second = None;
    let served = load_with(front, async |third| match third {
        0 => second = Some(with_socket(&socket, &args).await),
        1 => first.signal("QUIT"),
        _ => {}
    })
    .await;
    assert_eq!(served, 240);
    assert_eq!(finish(long, &slow).await, 4);
    assert!(first.ended(TIMEOUT).await.is_some_and(|status| status.success()));
    assert!(first.file("stdout").contains("stopped; 0 connections were cut"), "{}", first.log());
    assert_eq!(get(front, QUICK, &[]).await.unwrap().status(), 200);
    drop(second);

    // Without --listen the inherited socket determines the address.
    let (_nodes, named) = nodes(1).await;
    let process = with_socket(&socket, &["--nodes", &named]).await;
    assert_eq!(address(&process, "listening on http://"), front);
    drop(process);
    // Clients of a socket without a listener would wait.
    let mut command = Command::new("sh");
    command.args(["-c", "exec 3<&0; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$@\"", "sh"]).arg(program());
    command.args(["--nodes", &named, "--listen", &closed_port().to_string()]);
    let output = command.stdin(Stdio::from(OwnedFd::from(socket))).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && stderr.contains("has the address of no listener"), "{stderr}");
}

#[tokio::test]
async fn a_second_process_with_a_page_for_operators_takes_over_without_a_lost_request() {
    let (_node, served) = demo("q1").await;
    let (socket, operators) = (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
    let (front, page) = (socket.local_addr().unwrap(), operators.local_addr().unwrap());
    let (named, admin) = (served.addr().to_string(), page.to_string());
    for option in ["--admin", "--status"] {
        let args = ["--nodes", &named, "--kylin=off", option, &admin];
        let mut first = with_sockets(&[&socket, &operators], &args).await;
        assert_eq!(address(&first, "listening on http://"), front);
        let mut second = None;
        let served = load_with(front, async |third| match third {
            0 => second = Some(with_sockets(&[&socket, &operators], &args).await),
            1 => first.signal("QUIT"),
            _ => {}
        })
        .await;
        assert_eq!(served, 240);
        assert!(first.ended(TIMEOUT).await.is_some_and(|status| status.success()));
        assert!(first.file("stdout").contains("stopped; 0 connections were cut"), "{}", first.log());
        let path = if option == "--admin" { "/status" } else { "/front/status" };
        assert_eq!(get(page, path, &[]).await.unwrap().status(), 200);

        // Without the operators' socket, the next process ends before it accepts a client.
        let mut command = Command::new("sh");
        command.args(["-c", "exec 3<&0; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$@\"", "sh"]).arg(program()).args(args);
        let socket = Stdio::from(OwnedFd::from(socket.try_clone().unwrap()));
        let output = command.stdin(socket).output().unwrap();
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(!output.status.success() && stderr.contains(&format!("{option} {admin}: ")), "{stderr}");
        assert!(!stdout.contains("listening on"), "{stdout}");
        assert_eq!(get(front, QUICK, &[]).await.unwrap().status(), 200);
    }
}

/// The options that name the node at `address`, one set for each source of nodes.
fn sources(files: &Files, address: SocketAddr) -> [[String; 2]; 2] {
    let list = files.write("nodes", &format!("{address}\n"));
    let properties = files.write("kylin.properties", &format!("kylin.server.cluster-servers={address}\n"));
    [["--nodes-file".to_owned(), list], ["--properties".to_owned(), properties]]
}

#[tokio::test]
async fn a_second_process_whose_nodes_are_listed_takes_over_without_a_lost_request() {
    let (files, (_node, served)) = (Files::new(), demo("q1").await);
    for [option, file] in sources(&files, served.addr()) {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let front = socket.local_addr().unwrap();
        let args = [&option, &file, "--kylin=off"];
        let mut first = with_socket(&socket, &args).await;
        let mut second = None;
        let served = load_with(front, async |third| match third {
            0 => second = Some(with_socket(&socket, &args).await),
            1 => first.signal("TERM"),
            _ => {}
        })
        .await;
        assert_eq!(served, 240, "{option}: {}", first.log());
        assert!(first.ended(TIMEOUT).await.is_some_and(|status| status.success()), "{option}");
        assert!(first.file("stdout").contains("stopped; 0 connections were cut"), "{}", first.log());
    }
}

/// Between a stop and a start, the kernel accepts the connections of clients.
#[tokio::test]
async fn clients_that_wait_for_the_process_are_not_served_before_the_first_list_of_nodes() {
    let (files, (_node, served)) = (Files::new(), demo("q1").await);
    for [option, file] in sources(&files, served.addr()) {
        for round in 0..8 {
            let socket = TcpListener::bind("127.0.0.1:0").unwrap();
            let mut clients = Vec::new();
            for _ in 0..64 {
                let mut client = Connection::open(socket.local_addr().unwrap()).await.unwrap();
                client.send(format!("GET {QUICK} HTTP/1.1\r\nHost: kylin\r\n\r\n")).await.unwrap();
                clients.push(client);
            }
            let process = with_socket(&socket, &[&option, &file, "--kylin=off"]).await;
            let mut served = 0;
            for client in &mut clients {
                served += usize::from(client.response().await.is_ok_and(|response| response.status() == 200));
            }
            assert_eq!(served, 64, "{option}, round {round}: {}", process.log());
        }
    }
}

/// The socket of `[::]` accepts IPv4 too, which the option does not show.
#[tokio::test]
async fn the_socket_that_redirects_is_taken_over_also_if_it_is_dual_stack() {
    let Ok(redirect) = TcpListener::bind("[::]:0") else { return };
    if !openssl_installed() {
        return;
    }
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, certificate) = (redirect.local_addr().unwrap().port(), Certificate::make());
    let [file, key] = [certificate.file(), certificate.key()].map(|path| path.to_str().unwrap().to_owned());
    let args = ["--demo=1", "--tls-certificate", &file, "--tls-key", &key, "--redirect", &format!("[::]:{port}")];
    let process = with_sockets(&[&socket, &redirect], &args).await;
    assert_eq!(address(&process, "listening on https://"), socket.local_addr().unwrap());
    assert_eq!(get(([127, 0, 0, 1], port).into(), QUICK, &[]).await.unwrap().status(), 308);
}

#[tokio::test]
async fn a_second_signal_ends_the_time_of_a_lame_duck_at_once_also_with_a_query_in_flight() {
    let slow = slow_node().await;
    let named = slow.address().to_string();
    let args = ["--nodes", &named, "--kylin=off", "--probe=none", "--lame-duck", "600"];
    let (mut process, front) = start(&args).await;
    let mut client = Connection::open(front).await.unwrap();
    client.send(LONG).await.unwrap();
    slow.wait_until(|seen| seen.requests.len() == 1).await;
    process.signal("TERM");
    let stops = async || get(front, "/front/health", &[]).await.unwrap().status() == 503;
    crate::support::front::until("it says so", stops).await;
    process.signal("TERM");
    refused_at_the_stop(client).await;
    assert!(process.ended(TIMEOUT).await.is_some_and(|status| status.success()));
    assert!(process.file("stdout").contains("stopped at once"), "{}", process.log());
}

/// Asserts that the client gets a 502. A client whose connection closes without a byte repeats its
/// request, even a write.
async fn refused_at_the_stop(mut client: Connection) {
    assert!(refusal(&client.response().await.unwrap(), 502).contains("may have been executed"));
}

#[tokio::test]
async fn a_second_signal_ends_the_grace_and_requests_in_flight_get_a_502() {
    let (files, slow) = (Files::new(), slow_node().await);
    let (named, log) = (slow.address().to_string(), files.path("log").to_str().unwrap().to_owned());
    let args = ["--nodes", &named, "--kylin=off", "--probe=none", "--grace", "600", "--access-log", &log];
    let (mut process, front) = start(&args).await;
    let clients = four_long(front, &slow).await;
    process.signal("TERM");
    let stops = |process: &Process| process.file("stdout").contains("requests in flight have 600 s");
    process.wait_ready(TIMEOUT, stops).await.unwrap();
    process.signal("TERM");
    for client in clients {
        refused_at_the_stop(client).await;
    }
    assert!(process.ended(TIMEOUT).await.is_some_and(|status| status.success()));
    let stdout = process.file("stdout");
    assert!(stdout.contains("stopped at once; 4 connections were cut"), "{}", process.log());
    let log = std::fs::read_to_string(log).unwrap();
    let told = |line: &&str| line.contains(" 502 ") && line.contains(" end=server_stopped ");
    assert_eq!(log.lines().filter(told).count(), 4, "{log}");
}

#[test]
fn values_are_checked() {
    for (args, why) in [
        (&["--grace", "soon"][..], "--grace soon: expected a number of seconds"),
        (&["--lame-duck=-1"], "--lame-duck -1: expected a number of seconds"),
        (&["--health-path", "up"], "--health-path up: expected none, or a path such as /front/health"),
        (&["--health-path", "http://a/up"], "--health-path http://a/up: expected none, or a path"),
        (&["--health-path", "/up now"], "--health-path /up now: expected none, or a path"),
        (&["--health-path", "/up?all"], "--health-path /up?all: expected none, or a path"),
        (&["--health-path", "/up#all"], "--health-path /up#all: expected none, or a path"),
        (&["--health-path", "/gesund/ü"], "--health-path /gesund/ü: expected none, or a path"),
        (&["--health-path", ""], "--health-path : expected none, or a path"),
        (&["--nodes-file=a", "--nodes=b:1"], "--nodes and --nodes-file exclude each other"),
    ] {
        let output = run(args);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && stderr.contains(why), "{args:?}: {stderr}");
    }
}
