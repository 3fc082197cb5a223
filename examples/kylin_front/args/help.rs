//! The text of `--help`.

pub const HELP: &str = "\
A load-balancing front end for Apache Kylin.

Usage: kylin_front [OPTIONS]          each option also as --name=value
       kylin_front ctl VERB [OPTIONS]  changes a front end that runs with --admin; ctl --help has the verbs
       kylin_front doctor [OPTIONS]    checks nodes and front end against the manuals of Kylin and KAP; doctor --help has more

Nodes, from one of:
  --demo N            N demo Kylin nodes in this process (default, with N = 3)
  --kylin-version V   version of the demo nodes: 2.4 (KAP), 2.6, 3.0, 3.1 (default), 4.0 or 5.0; also v4 for 3.1, v5 for 5.0
  --nodes NODE,...    a node is [NAME@][https://]HOST:PORT[=ROLE], with the role all (default), query or job; the name is the
                      endpoint's id, and its jvmRoute for --sessions route; behind a space settings as in nginx:
                      \"10.0.0.1:7070 weight=5 max_conns=32, 10.0.0.2:7070 backup\", with weight, max_conns, max_fails,
                      fail_timeout, slow_start, connect_timeout, read_timeout, backup, down and drain
  --nodes-file FILE   a node a line, HOST:PORT [role=ROLE] [weight=N] [id=NAME] [backup] [drain]; followed as it changes
  --zookeeper PLACE   the ZooKeeper where Kylin registers its nodes: HOST:PORT[,HOST:PORT...][/BASE/CLUSTER]
                      (build with --features zookeeper)
  --properties FILE   a kylin.properties, and FILE.override if it exists: the nodes that it names, or those of its
                      ZooKeeper, followed as they change; nodes of another metastore are quarantined
  --config FILE       an nginx configuration: upstreams, servers, locations; the options of \"Balancing\" are for upstreams about
                      which it says nothing, and a comment \"# kylin_lb: sessions redis://...;\" in an upstream or server sets one
  --prefix DIR        the folder of relative names of files in the nginx configuration, as of nginx -p (default: that of FILE)

  --httpd FILE        a configuration of Apache httpd: balancers, members, ProxyPass, virtual hosts; the options of \"Balancing\" are
                      for balancers about which it says nothing

Balancing:
  --policy NAME       round-robin (default with --config), least-conn (default), ip-hash, random-two or query-affinity
  --kylin on|off      apply the rules of Kylin: roles, retries, closed internal calls (default: on)
  --reload WHO        who may use \"Reload Metadata\" and \"Reload Config\" in Kylin's web interface: administrators (default),
                      closed or everyone
  --resource-groups FILE  the resource groups of Kylin 5 (JSON, as in PUT /kylin/api/resource_groups), read again when it
                      changes: a project is served by the nodes of its group (default: none)
  --sessions HOW      how logins are kept:
                        memory            learned from the nodes' cookies, in memory (default)
                        STORE             learned, in a store that front ends share: redis://, redis+sentinel://,
                                          redis+cluster://, mysql:// or memcached:// (build with --features redis, mysql)
                        cookie            a signed cookie of the front end
                        route             the jvmRoute in session ids
                        login-relay[:STORE]  the front end logs in at each node; in memory, or in a store
                                          (build with --features login-relay)
                        replicated[=FILE]    the nodes share them, through Redis for example; FILE is the context.xml of a
                                          node, or the kylin.properties of Kylin 5: --check says what is wrong in it
                        user              one node for each user, for clients without cookies
                        none              logins are not kept
                      With --config a STORE is also for its sticky learn.
  --store-deadline MS milliseconds for one operation of a store, after which the request proceeds without it
                      (default: 50)
  --restore-sessions HOW  which relayed logins are written again to a store that has lost them: never (default with
                      --secret-file), alone (default without; for one front end), or shared (all front ends need it)
  --secret-file FILE  the secret that front ends share: 64 hexadecimal digits, base64 of 32 bytes, or 32 bytes; further
                      lines are earlier secrets (default: random, which works for one front end)
  --probe WHAT        auto (default: what each node offers), version (Kylin 3.1 and later), health (Kylin 5), tcp or none
  --buffer-bytes N    how many bytes may wait in memory for all clients together, of which one client may have a quarter:
                      bodies of requests, and responses that clients do not read; or none (default: 268435456)
  --response-buffer N how many bytes of a response are taken from its node ahead of a client that reads slowly; 0: none
                      (default: 1048576); not with --config, which has proxy_buffering
  --outlier on|off    eject nodes that fail more than the others; off: by nginx's max_fails, 1 in 10s (default: on)
  --drain on|off      no new sessions for a node that shows that it stops, where --outlier is on: it refuses connections, closes
                      those of clients, or says 503 with Retry-After (default: on)
  --single-flight on|off
                      equal queries of a user at the same time are executed once (default: on)
  --cache USER:FILE   results of queries are given for 60 s to the user who has asked for them (build with --features cache); the
                      user, whose password is in FILE, sees the jobs of all projects: a node is asked each 10 s whether a build has
                      changed the data; not with --config and --httpd (default: off)
  --max-conns N       the most queries at once at a node for which none is set (default: no limit)
  --queue on|off      queries wait for a node that has its max-conns, quick ones first, and other requests pass; off: a full
                      node gets no requests (default: on)
  --slow-weights on|off
                      less weight for nodes whose queries take longer than those of the others, where a node has a max-conns
                      (default: off); not with --config
  --connect-timeout T the time for a connection to a node (default: 5s)
  --read-timeout T    the time until a node responds, and between two pieces of a response (default: 310s, then 60s);
                      --max-conns and these two not with --config, which has max_conns, proxy_connect_timeout and
                      proxy_read_timeout, and not with --httpd, which has max, connectiontimeout and timeout
  --panic on|off      use a node that failed where health keeps requests from all of them, instead of a 503 (default: on)

Clients:
  --trust NET,...     proxies in front, as addresses or networks: their X-Forwarded-For names the client, read from right to
                      left; they have no limits themselves (default: none); not with --config or --httpd, which have
                      set_real_ip_from and RemoteIPTrustedProxy
  --client-connections N|none  connections of one client: an IPv4 address or an IPv6 /64 (default: 1024)
  --client-requests N|none     its requests in flight; more get 429 (default: 256)
  --half-close on|off clients that close their side of the connection, as nc -N does, get the responses to what they have sent; off:
                      they have disconnected, and their requests are cancelled (default: off)

This program:
  --listen ADDR       where to listen (default 127.0.0.1:8080): HOST:PORT, [V6]:PORT, unix:/path; replaces all
                      addresses of a configuration, and serves its first server
  --tls-certificate FILE  speaks https at --listen, with this chain of certificates, PEM; and --tls-key FILE, its key
  --tls-client-ca FILE    serves only clients with a certificate of these authorities
  --redirect ADDR     redirects http at this address to https
  --node-ca FILE      the authorities of nodes at https:// (default: those of the system)
  --node-verify on|off  off trusts any certificate of a node, so that another host at its address reads logins (default: on)
                      (these build with --features tls, and not with --config, which has ssl_* and proxy_ssl_*, or
                      --httpd, which has SSL* and SSLProxy*)
  --proxy-protocol NET,...  balancers of TCP connections in front, which name the client in the PROXY protocol, version 1 or 2;
                      others are refused (default: none, and no such protocol; not with --config, which has listen ... proxy_protocol,
                      or --httpd)
  --status ADDR       serves GET /front/status for operators, and /metrics for Prometheus (build with --features prometheus); it
                      has no login, and refuses pages of other origins and foreign names of this host (default: off)
  --admin ADDR        serves a page for operators at /, the same as JSON at /status, verbs at /action, and /metrics; readable without
                      a token on this machine only (default: off)
  --admin-token-file FILE  the token that verbs need, and readers on other machines: 16 characters or more in one line, such as from
                      openssl rand -hex 32; read again at SIGHUP (default: none, and no verbs)
  --admin-read local|token  who may read that page: clients on this machine, and clients that send the token (default); or clients
                      that send the token alone, as behind a proxy on this machine that does not show that it forwards
  --admin-host NAME,...  names of this host in URLs of --admin and --status, apart from localhost and IP addresses
  --log LEVEL         off, error, warn, info (default), debug or trace: what it logs to standard error, one line for each change
                      of state; without this option, RUST_LOG may set levels such as kylin_lb=debug
  --log-format F      text (default) or json, one object a line
  --access-log FILE   a line for each request for the nodes: nginx's combined format, and behind it times, nodes, and how it
                      ended; - is standard output, and what the program prints at its start and its end is then on standard
                      error; SIGUSR1 opens the file again (default: off). Responses of a configuration itself, such as a return,
                      are in its own access_log
  --access-log-format F  combined (default) or json, one object a line
  --query-log FILE    a JSON object for each query: user, project, fingerprint, node and why there, times, outcome
                      (- is standard output; --access-log and --query-log must not name one file)
  --log-flags         the query log also shows how the node got the result: from its cache, or by pushing the query down; not of
                      responses that are compressed
  --log-sql           the query log shows SQL; without it, it has its fingerprint alone. sql= in a URL is masked in both logs, as
                      are keys, tokens, passwords, codes and signatures
  --grace SECONDS     how long requests in flight may take after a signal to stop (default: as long as the longest query)
  --lame-duck SECONDS how long it serves on after that signal, while the health path says 503, so that a balancer in front
                      sends no more (default: 0)
  --health-path PATH  the path that tells a balancer in front whether to send requests here, 200 or 503; or none
                      (default: /front/health)
  --threads N         accept loops, each on a thread of its own (default: one per core)
  --check             prints the nodes and settings, and exits; fails if a log of an option could not be written
  --version           prints the version
  --help              prints this

SIGTERM, SIGINT and SIGQUIT stop it after the requests in flight, a second one at once: those without a response get a 502.
SIGHUP reads the configuration, the secret and certificates again: if all are valid, they are exchanged without a lost request,
else nothing changes and the log says why. Other options need a restart. SIGUSR1 opens log files again. SIGUSR2 has no effect.

Listening sockets that systemd passes (LISTEN_FDS) are used for the addresses that they have; without --listen and --config,
those are the addresses. A second process with the same sockets takes over without a lost request; with --admin or --status it
needs their sockets too.
";
