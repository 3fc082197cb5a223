//! The text of `--help`.

pub const HELP: &str = "\
A load-balancing front end for Apache Kylin.

Usage: kylin_front [OPTIONS]          each option can also be written as --name=value
       kylin_front ctl VERB [OPTIONS]  changes a front end that runs with --admin; ctl --help lists the verbs
       kylin_front doctor [OPTIONS]    checks nodes and front end against the manuals of Kylin and KAP; see doctor --help

Nodes, from one of:
  --demo N            N demo Kylin nodes in this process (default, with N = 3)
  --kylin-version V   version of the demo nodes: 2.4 (KAP), 2.6, 3.0, 3.1 (default), 4.0 or 5.0; also v4 for 3.1, v5 for 5.0
  --nodes NODE,...    a node is [NAME@][https://]HOST:PORT[=ROLE], with the role all (default), query or job; the name is the
                      endpoint's id, and its jvmRoute for --sessions route; settings as in nginx follow after a space:
                      \"10.0.0.1:7070 weight=5 max_conns=32, 10.0.0.2:7070 backup\"; they are weight, max_conns, max_fails,
                      fail_timeout, slow_start, connect_timeout, read_timeout, backup, down and drain
  --nodes-file FILE   one node a line, HOST:PORT [role=ROLE] [weight=N] [id=NAME] [backup] [drain]; reloaded when it changes
  --zookeeper PLACE   the ZooKeeper in which Kylin registers its nodes: HOST:PORT[,HOST:PORT...][/BASE/CLUSTER]
                      (build with --features zookeeper)
  --properties FILE   a kylin.properties, and FILE.override if it exists: the nodes that it names, or those in its
                      ZooKeeper, with all later changes; nodes that use another metastore are quarantined
  --config FILE       an nginx configuration: upstreams, servers, locations; the options of \"Balancing\" apply to upstreams that
                      do not set them; a comment \"# kylin_lb: sessions redis://...;\" in an upstream or server sets one
  --prefix DIR        the folder to which file names in the nginx configuration are relative, as nginx -p (default: that of FILE)

  --httpd FILE        an Apache httpd configuration: balancers, members, ProxyPass, virtual hosts; the options of \"Balancing\"
                      apply to balancers that do not set them

Balancing:
  --policy NAME       round-robin (default with --config), least-conn (default otherwise), ip-hash, random-two or query-affinity
  --kylin on|off      apply Kylin's rules: roles, retries, closed internal calls (default: on)
  --reload WHO        who may use \"Reload Metadata\" and \"Reload Config\" in Kylin's web interface: administrators (default),
                      closed or everyone
  --resource-groups FILE  the resource groups of Kylin 5 (JSON, as in PUT /kylin/api/resource_groups), reloaded when it
                      changes: the nodes of its group serve a project (default: none)
  --sessions HOW      how logins are kept:
                        memory            learned from the nodes' cookies, in memory (default)
                        STORE             learned, in a store that front ends share: redis://, redis+sentinel://,
                                          redis+cluster://, mysql:// or memcached:// (build with --features redis, mysql)
                        cookie            a signed cookie of the front end
                        route             the jvmRoute in session ids
                        login-relay[:STORE]  the front end logs in at each node; in memory, or in a store
                                          (build with --features login-relay)
                        replicated[=FILE]    the nodes share sessions, for example through Redis; FILE is the context.xml of a
                                          node, or the kylin.properties of Kylin 5: --check reports errors in it
                        user              one node for each user, for clients without cookies
                        none              logins are not kept
                      With --config, sticky learn also uses the STORE.
  --store-deadline MS milliseconds for one operation of a store, after which the request proceeds without it
                      (default: 50)
  --restore-sessions HOW  whether relayed logins are written again to a store that has lost them: never (default with
                      --secret-file), alone (default without; for one front end), or shared (set it on all front ends)
  --secret-file FILE  the secret that front ends share: 64 hexadecimal digits, base64 of 32 bytes, or 32 bytes; further
                      lines are earlier secrets (default: random, which works for one front end only)
  --probe WHAT        auto (default: what each node offers), version (Kylin 3.1 and later), health (Kylin 5), tcp or none
  --buffer-bytes N    the bytes that may wait in memory for all clients together: request bodies, and responses that clients
                      have not read; one client may use a quarter; or none for no limit (default: 268435456)
  --response-buffer N the bytes of a response that are read from the node ahead of a slow client; 0: none
                      (default: 1048576); not with --config, which has proxy_buffering
  --outlier on|off    eject nodes that fail more than the others; off: by nginx's max_fails, 1 in 10s (default: on)
  --drain on|off      with --outlier on, no new sessions for a node that is stopping: it refuses connections, closes those of
                      clients, or responds with 503 and Retry-After (default: on)
  --single-flight on|off
                      execute equal concurrent queries of a user once (default: on)
  --cache USER:FILE   cache a query result for 60 s for the user who asked for it (build with --features cache); USER, whose
                      password is in FILE, must be able to see the jobs of all projects: every 10 s the front end asks a node
                      whether a build has changed the data; not with --config and --httpd (default: off)
  --max-conns N       the maximum number of concurrent queries at a node that does not set max_conns (default: no limit)
  --queue on|off      queries wait for a node that has reached max-conns, quick ones first, and other requests pass; off: a full
                      node gets no requests (default: on)
  --slow-weights on|off
                      lower the weight of nodes whose queries take longer than at the others; for nodes with max-conns
                      (default: off); not with --config
  --connect-timeout T the time to connect to a node (default: 5s)
  --read-timeout T    the time until a node responds, and between two pieces of a response (default: 310s, then 60s);
                      these two and --max-conns: not with --config, which has max_conns, proxy_connect_timeout and
                      proxy_read_timeout, and not with --httpd, which has max, connectiontimeout and timeout
  --panic on|off      while the health rules exclude every node, use one that failed instead of responding with 503 (default: on)

Clients:
  --trust NET,...     proxies in front, as addresses or networks: their X-Forwarded-For names the client, read from right to
                      left; the proxies themselves have no limits (default: none); not with --config or --httpd, which have
                      set_real_ip_from and RemoteIPTrustedProxy
  --client-connections N|none  connections of one client: an IPv4 address or an IPv6 /64 (default: 1024)
  --client-requests N|none     requests in flight of one client; further requests get 429 (default: 256)
  --half-close on|off a client that closes its side of the connection, as nc -N does, still gets its responses; off: it counts as
                      disconnected, and its requests are cancelled (default: off)

This program:
  --listen ADDR       where to listen (default 127.0.0.1:8080): HOST:PORT, [V6]:PORT, unix:/path; replaces all
                      addresses of a configuration, and serves its first server
  --tls-certificate FILE  serves https at --listen with this certificate chain (PEM); --tls-key FILE is its key
  --tls-client-ca FILE    serves only clients with a certificate from these authorities
  --redirect ADDR     redirects http at this address to https
  --node-ca FILE      the certificate authorities of nodes at https:// (default: those of the system)
  --node-verify on|off  off trusts any certificate of a node, so another host at its address could read logins (default: on)
                      (build with --features tls for these options; not with --config, which has ssl_* and proxy_ssl_*, or
                      --httpd, which has SSL* and SSLProxy*)
  --proxy-protocol NET,...  TCP balancers in front, which name the client in the PROXY protocol, version 1 or 2; other peers are
                      refused (default: none, and no PROXY protocol); not with --config, which has listen ... proxy_protocol,
                      or --httpd
  --status ADDR       serves GET /front/status for operators, and /metrics for Prometheus (build with --features prometheus); it
                      has no login, and refuses pages of other origins and foreign names of this host (default: off)
  --admin ADDR        serves a page for operators at /, the same data as JSON at /status, verbs at /action, and /metrics; only
                      clients on this machine can read it without a token (default: off)
  --admin-token-file FILE  the token for verbs, and for readers on other machines: one line of 16 characters or more, for example
                      from openssl rand -hex 32; reloaded at SIGHUP (default: none, and no verbs)
  --admin-read local|token  who may read that page. local (default): clients on this machine, and clients that send the token;
                      token: only clients that send the token, for use behind a local proxy that adds no forwarding header
  --admin-host NAME,...  names of this host in URLs of --admin and --status, in addition to localhost and IP addresses
  --log LEVEL         off, error, warn, info (default), debug or trace: the level of the log on standard error, one line for each
                      change of state; without this option, RUST_LOG may set levels such as kylin_lb=debug
  --log-format F      text (default) or json, one object a line
  --access-log FILE   a line for each request to the nodes: nginx's combined format, then times, nodes, and how the request
                      ended; - is standard output, and the program then prints its other output on standard error; SIGUSR1
                      reopens the file (default: off). Responses of a configuration itself, such as a return, are in the
                      access_log of that configuration
  --access-log-format F  combined (default) or json, one object a line
  --query-log FILE    a JSON object for each query: user, project, fingerprint, node and why it was picked, times, outcome
                      (- is standard output; --access-log and --query-log need different files)
  --log-flags         the query log also shows how the node got the result: from its cache, or by pushing the query down; not for
                      compressed responses
  --log-sql           the query log shows the SQL; without this option, only its fingerprint. Both logs mask sql= in a URL, and
                      keys, tokens, passwords, codes and signatures
  --grace SECONDS     how long requests in flight may take after a signal to stop (default: as long as the longest query)
  --lame-duck SECONDS how long the front end continues to serve after that signal, while the health path returns 503, so that a
                      balancer in front sends no more requests (default: 0)
  --health-path PATH  the path that tells a balancer in front whether to send requests here, 200 or 503; or none
                      (default: /front/health)
  --threads N         accept loops, each on a thread of its own (default: one per core)
  --check             prints the nodes and settings, and exits; fails if the log of an option cannot be written
  --version           prints the version
  --help              prints this text

SIGTERM, SIGINT and SIGQUIT stop the front end after the requests in flight. A second signal stops it at once: requests without
a response get a 502. SIGHUP reloads the configuration, the secret and the certificates. If all are valid, they take effect
without a lost request; otherwise nothing changes, and the log gives the reason. Changes to other options need a restart.
SIGUSR1 reopens log files. SIGUSR2 has no effect.

The front end notifies systemd when it is ready, reloads or stops (Type=notify).
Listening sockets that systemd passes (LISTEN_FDS) are used for their addresses. Without --listen and --config, the front end
listens on these addresses only. A second process with the same sockets takes over without a lost request; with --admin or
--status it needs the sockets of those addresses too.
";
