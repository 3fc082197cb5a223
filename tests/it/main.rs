//! Black-box tests: one binary, with one module per behaviour.
//!
//! A test that needs a real server starts its own and stops it; `support` contains the means. If
//! the server is not installed, the test reports that prominently and counts as passed, unless the
//! environment has `CI=true`.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "clippy.toml allows these in test functions; here also in the functions that they share"
)]

mod admin;
mod affinity_cookie;

mod affinity_learn;
mod affinity_route;
mod affinity_user;
mod backends;
mod blame;
mod bound_picks;
mod broken_responses;
mod buffered_uploads;
mod cancel_on_disconnect;
mod cancelled_requests;
mod client_limits;
mod concurrency;
mod connection_limits;
mod discovery;
mod discovery_dns;
mod discovery_file;
mod drain_on_shutdown;
mod drills;
mod dropped_futures;
mod ejection;
mod example_admin;
mod example_doctor;
mod example_first_sights;
mod example_front;
mod example_httpd;
mod example_httpd_tls;
mod example_log;
mod example_metrics;
mod example_options;
mod example_reload;
mod example_request_log;
mod example_sessions;
#[cfg(target_os = "linux")]
mod example_systemd;
mod example_tls;
mod flow_control;
mod hop_by_hop;
mod host_header;
mod hostile_requests;
mod http2;
mod http2_close;
mod http2_floods;
mod http2_heads;
mod httpd_files;
mod kylin_budget;
mod kylin_compressed;
mod kylin_drills;
mod kylin_fan_out;
mod kylin_guard;
mod kylin_logout;
mod kylin_own_writes;
mod kylin_policies;
mod kylin_reload;
mod kylin_roles;
mod kylin_table;
mod kylinpy;
mod learned_roles;
mod local_address;
mod login_relay;
mod login_relay_logout;
mod login_relay_refusals;
mod login_relay_secrets;
mod manual;
mod messages;
mod metastore_check;
mod nginx_choice;
mod nginx_ejection;
mod nginx_errors;
mod nginx_files;
mod nginx_kylin;
mod nginx_limits;
mod nginx_logs;
mod nginx_reload;
mod nginx_site;
mod nginx_smoke;
mod nginx_sticky;
mod nginx_tls;
mod node_clocks;
mod node_codec;
mod node_connections;
mod node_states;
mod node_wire;
mod observer;
mod other_logins;
mod outlier;
mod panic_mode;
mod panics;
mod poisoned_requests;
mod policies;
mod probe_levels;
mod probes;
mod properties_cluster;
mod proxy_protocol;
mod query_policies;
mod queues;
mod replicated_sessions;
mod request_rules;
mod resource_groups;
mod restarts;
mod result_cache;
mod retries;
mod server_limits;
mod server_replace;
mod server_stop;
mod sessions_restored;
mod sessions_store_down;
mod short_of_descriptors;
mod simulation;
mod single_flight;
mod slow_clients;
mod slow_readers;
mod slow_start;
mod small_chunks;
mod spans;
mod stale_connections;
mod stopping_nodes;
mod stopping_plain;
mod store_drills;
mod store_memcached;
mod store_mysql;
mod store_redis;
mod store_redis_cluster;
mod store_sentinel;
mod support;
mod support_works;
mod tls_clients;
mod tls_nodes;
mod tomcat_paths;
mod tomcat_sessions;
mod truncated_responses;
mod user_source_down;
mod zookeeper;
