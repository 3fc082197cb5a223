//! A running server whose listeners and handlers are replaced, and a server that takes over from
//! another.

use std::net::{SocketAddr, TcpListener};
use std::num::NonZero;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use kylin_lb::server::{Handler, Listen, Server, ServerBuilder};
use kylin_lb::{Body, ClientAddr};
use tokio::sync::Semaphore;

use crate::support::front::{closed_port, until};
use crate::support::http::{Connection, FIRST_REQUEST};
use crate::support::load::load;

const GET: &str = "GET / HTTP/1.1\r\nHost: kylin\r\n\r\n";
const GET_SLOW: &str = "GET /slow HTTP/1.1\r\nHost: kylin\r\n\r\n";
const LONG: Duration = Duration::from_secs(60);

/// Responds with its name; on `/slow`, only once the test has added a permit to `go`.
#[derive(Clone)]
struct Named {
    name: &'static str,
    arrived: Arc<Semaphore>,
    go: Arc<Semaphore>,
}

impl Named {
    fn new(name: &'static str) -> Self {
        Named { name, arrived: Arc::new(Semaphore::new(0)), go: Arc::new(Semaphore::new(0)) }
    }

    /// Returns a server with only this handler.
    fn server(&self, listens: &[Listen]) -> ServerBuilder<Named> {
        let builder = Server::builder().threads(NonZero::new(2).unwrap());
        listens.iter().fold(builder, |builder, listen| builder.listen(listen.clone(), self.clone()))
    }

    async fn wait_for_slow(&self, requests: u32) {
        self.arrived.acquire_many(requests).await.unwrap().forget();
    }

    /// Returns four connections whose requests this handler has.
    async fn four_in_flight(&self, address: SocketAddr) -> Vec<Connection> {
        let mut clients = Vec::new();
        for _ in 0..4 {
            let mut client = Connection::open(address).await.unwrap();
            client.send(GET_SLOW).await.unwrap();
            clients.push(client);
        }
        self.wait_for_slow(4).await;
        clients
    }

    /// Lets those requests finish. Each gets the response of this handler.
    async fn complete(&self, clients: Vec<Connection>) {
        self.go.add_permits(clients.len());
        for mut client in clients {
            assert_eq!(client.response().await.unwrap().text(), self.name);
        }
    }
}

impl Handler for Named {
    async fn handle(&self, _: ClientAddr, request: Request<Body>) -> Response<Body> {
        if request.uri().path() == "/slow" {
            self.arrived.add_permits(1);
            self.go.acquire().await.unwrap().forget();
        }
        Response::new(Body::from(self.name))
    }
}

fn any_port() -> Listen {
    "127.0.0.1:0".parse().unwrap()
}

async fn get(client: &mut Connection) -> String {
    client.send(GET).await.unwrap();
    client.response().await.unwrap().text().to_owned()
}

/// Sends a request on its own connection.
async fn get_once(address: SocketAddr) -> String {
    let mut client = Connection::open_promptly(address, GET, FIRST_REQUEST).await.unwrap();
    client.response().await.unwrap().text().to_owned()
}

#[tokio::test]
async fn a_listener_that_stays_keeps_its_connections_and_the_next_request_gets_the_new_handler() {
    let (old, new) = (Named::new("old"), Named::new("new"));
    let listen = [any_port()];
    let mut server = old.server(&listen).start().unwrap();
    let address = server.addresses()[0];
    let (mut idle, mut busy) = (Connection::open(address).await.unwrap(), Connection::open(address).await.unwrap());
    assert_eq!(get(&mut idle).await, "old");
    busy.send(GET_SLOW).await.unwrap();
    old.wait_for_slow(1).await;

    let replaced = server.replace(new.server(&listen)).unwrap();
    assert_eq!((replaced.added.len(), replaced.removed.len(), replaced.kept_settings.len()), (0, 0, 0));
    assert_eq!(server.addresses(), [address]);
    assert_eq!(get(&mut idle).await, "new");
    assert_eq!(get_once(address).await, "new");
    old.go.add_permits(1);
    assert_eq!(busy.response().await.unwrap().text(), "old", "it was in flight");
    assert_eq!(get(&mut busy).await, "new");
    drop((idle, busy));
    assert_eq!(server.stop(LONG).await.cut, 0);
}

#[tokio::test]
async fn a_listener_that_leaves_drains_and_a_new_one_accepts() {
    let (old, new) = (Named::new("old"), Named::new("new"));
    // Not a port that the system could give to a client of another test between the two listeners.
    let first = Listen::Tcp(closed_port());
    let mut server = old.server(std::slice::from_ref(&first)).start().unwrap();
    let address = server.addresses()[0];
    let (mut idle, mut busy) = (Connection::open(address).await.unwrap(), Connection::open(address).await.unwrap());
    assert_eq!(get(&mut idle).await, "old");
    busy.send(GET_SLOW).await.unwrap();
    old.wait_for_slow(1).await;

    let folder = tempfile::TempDir::new().unwrap();
    let unix = Listen::Unix(folder.path().join("front.sock"));
    let replaced = server.replace(new.server(std::slice::from_ref(&unix))).unwrap();
    assert_eq!((replaced.added, replaced.removed), (vec![unix.clone()], vec![first]));
    assert!(server.addresses().is_empty());
    assert!(idle.rest().await.unwrap().is_empty(), "an idle connection ends with a FIN");
    until("the listener is closed", async || Connection::open(address).await.is_err()).await;
    old.go.add_permits(1);
    let response = busy.response().await.unwrap();
    assert_eq!((response.text(), response.header("connection")), ("old", Some("close")));
    // The address is free for a later reload.
    let back = [unix, Listen::Tcp(address)];
    server.replace(new.server(&back)).unwrap();
    assert_eq!(get_once(address).await, "new");
    assert_eq!(server.stop(LONG).await.cut, 0);
}

/// Connections in the backlog of a removed listener wait for permits like others.
#[tokio::test]
async fn what_a_removed_listener_has_accepted_is_served_within_the_limit_of_connections() {
    let (stays, leaves) = (Listen::Tcp(closed_port()), Listen::Tcp(closed_port()));
    let (handler, one) = (Named::new("front"), NonZero::new(1).unwrap());
    let both = handler.server(&[stays.clone(), leaves.clone()]).threads(one).max_connections(Some(one));
    let mut server = both.start().unwrap();
    let [Listen::Tcp(stays_at), Listen::Tcp(leaves_at)] = [&stays, &leaves] else { unreachable!() };
    let mut clients = Vec::new();
    for address in [stays_at, leaves_at, leaves_at, leaves_at] {
        let mut client = Connection::open(*address).await.unwrap();
        client.send("GET /slow HTTP/1.1\r\nHost: kylin\r\nConnection: close\r\n\r\n").await.unwrap();
        clients.push(client);
        if clients.len() == 1 {
            handler.wait_for_slow(1).await;
        }
    }
    server.replace(handler.server(std::slice::from_ref(&stays)).threads(one).max_connections(Some(one))).unwrap();
    until("the listener is closed", async || Connection::open(*leaves_at).await.is_err()).await;
    for _ in 0..3 {
        assert_eq!(handler.arrived.available_permits(), 0, "a connection more than the limit is served");
        handler.go.add_permits(1);
        handler.wait_for_slow(1).await;
    }
    handler.go.add_permits(1);
    for client in &mut clients {
        assert_eq!(client.response().await.unwrap().text(), "front");
    }
    assert_eq!(server.stop(LONG).await.cut, 0);
}

#[tokio::test]
async fn a_removed_listener_with_requests_in_flight_is_cut_when_the_server_stops() {
    let (old, new) = (Named::new("old"), Named::new("new"));
    let mut server = old.server(&[any_port()]).start().unwrap();
    let mut busy = Connection::open(server.addresses()[0]).await.unwrap();
    busy.send(GET_SLOW).await.unwrap();
    old.wait_for_slow(1).await;
    server.replace(new.server(&[])).unwrap();
    server.replace(new.server(&[])).unwrap();
    assert_eq!(server.stop(Duration::from_millis(50)).await.cut, 1);
    assert_eq!(busy.response().await.unwrap().status(), 502);
}

#[tokio::test]
async fn where_an_address_cannot_be_bound_or_a_handler_has_another_type_nothing_changes() {
    let (old, new) = (Named::new("old"), Named::new("new"));
    let listen = any_port();
    let mut server = old.server(std::slice::from_ref(&listen)).start().unwrap();
    let address = server.addresses()[0];
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = Listen::Tcp(taken.local_addr().unwrap());
    let error = server.replace(new.server(&[listen.clone(), taken.clone()])).unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot listen on {taken}")), "{error}");
    let other = |_: ClientAddr, _: Request<Body>| async { Response::new(Body::empty()) };
    let error = server.replace(Server::builder().listen(listen, other)).unwrap_err().to_string();
    assert!(error.contains("a handler of another type"), "{error}");
    assert_eq!((get_once(address).await, server.addresses()), ("old".to_owned(), &[address][..]));
}

#[tokio::test]
async fn settings_that_a_running_server_keeps_are_named() {
    let old = Named::new("old");
    let mut server = old.server(&[any_port()]).start().unwrap();
    let changed = old.server(&[any_port()]).threads(NonZero::new(3).unwrap()).max_connections_per_client(None);
    let replaced = server.replace(changed.backlog(NonZero::new(7).unwrap()).max_connections(None)).unwrap();
    let all = ["threads", "max_connections", "max_connections_per_client", "backlog"];
    assert_eq!(replaced.kept_settings, all);
}

/// Sends 240 requests, each on its own connection, and calls `half` before the second half of them.
/// Each gets a response. Returns which handlers sent the responses.
async fn load_with(address: SocketAddr, half: impl FnOnce()) -> Vec<String> {
    let mut half = Some(half);
    let at_half = async |number| {
        if number == 120 {
            half.take().unwrap()();
        }
    };
    let served = load(240, at_half, move || get_once(address)).await;
    assert!(served.iter().all(|name| name == "old" || name == "new"), "{served:?}");
    served
}

#[tokio::test]
async fn no_request_fails_while_handlers_are_exchanged_under_load() {
    let (old, new) = (Named::new("old"), Named::new("new"));
    let listen = [any_port()];
    let mut server = old.server(&listen).start().unwrap();
    let address = server.addresses()[0];
    let busy = old.four_in_flight(address).await;
    let served = load_with(address, || _ = server.replace(new.server(&listen)).unwrap()).await;
    // At most eight are in flight at a time, so all others of the first half have ended before the
    // replacement.
    let early = served[..120].iter().filter(|name| *name == "new").count();
    assert!(early <= 8, "{early} requests before the exchange");
    assert!(served[120..].iter().all(|name| name == "new"), "a connection after the exchange: {served:?}");
    old.complete(busy).await;
}

#[tokio::test]
async fn a_second_server_takes_over_by_the_same_socket() {
    let (old, new) = (Named::new("old"), Named::new("new"));
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let listen = Listen::of_socket(&socket).unwrap();
    assert_eq!(listen, Listen::Tcp(address));
    let first = old.server(std::slice::from_ref(&listen)).inherit(socket.try_clone().unwrap()).start().unwrap();
    let busy = old.four_in_flight(address).await;
    let second = new.server(&[listen]).inherit(socket).start().unwrap();
    // Both accept at first, and then the first closes its sockets at some time, so either may serve
    // any of these.
    let mut stopping = None;
    load_with(address, || stopping = Some(tokio::spawn(first.stop(LONG)))).await;
    let all_new = async || {
        for _ in 0..40 {
            if get_once(address).await != "new" {
                return false;
            }
        }
        true
    };
    until("the first accepts no more, though it has requests in flight", all_new).await;
    old.complete(busy).await;
    assert_eq!(stopping.unwrap().await.unwrap().cut, 0);
    assert!(all_new().await, "the first has stopped");
    assert_eq!(second.stop(LONG).await.cut, 0);
}

#[tokio::test]
async fn an_inherited_socket_without_a_listener_is_an_error() {
    let handler = Named::new("front");
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let error = handler.server(&[any_port()]).inherit(socket).start().unwrap_err().to_string();
    assert_eq!(error, format!("the inherited socket {address} has the address of no listener"));
    // There are more sockets with one address than loops, and each is served.
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let mut builder = handler.server(&[Listen::Tcp(address)]);
    for _ in 0..3 {
        builder = builder.inherit(socket.try_clone().unwrap());
    }
    drop(socket);
    let server = builder.start().unwrap();
    assert_eq!(get_once(address).await, "front");
    assert_eq!(server.stop(LONG).await.cut, 0);
}
