//! The directives that have no effect here.

/// Directives for logs, processes, static files and TLS, separated by spaces. A trailing `*`
/// matches any suffix.
const IGNORED: &str = "
    absolute_redirect alias api_* autoindex autoindex_* accept_mutex accept_mutex_delay aio aio_write brotli brotli_*
    check_shm_size chunked_transfer_encoding concat concat_* client_body_buffer_size client_body_in_file_only
    client_body_in_single_buffer client_body_temp_path connection_pool_size create_full_put_path daemon dav_access
    debug_connection debug_points directio directio_alignment disable_symlinks env error_log etag events fastcgi_*
    google_perftools_profiles gunzip gunzip_* gzip gzip_* http2_body_preread_size http2_chunk_size
    http2_idle_timeout http2_max_concurrent_pushes http2_max_concurrent_streams http2_max_field_size http2_max_header_size
    http2_max_requests http2_pool_size http2_push http2_push_preload http2_recv_buffer_size http2_recv_timeout
    http2_streams_index_size http3_* if_modified_since index grpc_*
    geoip2 geoip2_* geoip_* init_by_lua* init_worker_by_lua* js_fetch_* js_import js_include js_path js_preload_object js_set js_shared_dict_zone js_var keepalive_disable keepalive_min_timeout limit_conn_log_level limit_rate_after limit_req_log_level lingering_* load_module
    log_by_lua* lua_* memcached_bind memcached_buffer_size memcached_connect_timeout
    memcached_gzip_flag memcached_next_upstream memcached_next_upstream_* memcached_read_timeout memcached_send_timeout
    memcached_socket_keepalive mirror_request_body modsecurity_transaction_id opentracing opentracing_* otel_* session_sticky_* sticky_hide_cookie vhost_traffic_status
    vhost_traffic_status_average_method vhost_traffic_status_bypass_* vhost_traffic_status_display vhost_traffic_status_display_*
    vhost_traffic_status_dump vhost_traffic_status_filter vhost_traffic_status_filter_* vhost_traffic_status_histogram_buckets
    vhost_traffic_status_set_by_filter vhost_traffic_status_stats_by_upstream vhost_traffic_status_zone
    health_check_timeout lock_file log_not_found log_subrequest map_hash_* master_process match max_ranges min_delete_depth
    mp4_* msie_padding msie_refresh multi_accept open_file_cache open_file_cache_* open_log_file_cache
    output_buffers pcre_jit pid port_in_redirect postpone_gzipping postpone_output proxy_buffers
    proxy_busy_buffers_size proxy_cache_* proxy_headers_hash_*
    proxy_max_temp_file_size proxy_no_cache proxy_send_lowat proxy_socket_keepalive proxy_ssl_certificate_cache proxy_ssl_ciphers
    proxy_ssl_key_log proxy_ssl_session_reuse proxy_ssl_verify_depth proxy_store_access proxy_temp_* quic_* read_ahead referer_hash_* req_status req_status_*
    request_pool_size reset_timedout_connection rewrite_log
    scgi_* sendfile sendfile_max_chunk send_lowat
    server_admin server_info server_names_hash_* server_tag server_tokens ssi_* ssl_buffer_size ssl_certificate_cache ssl_ciphers ssl_dhparam
    ssl_early_data ssl_ecdh_curve ssl_encrypted_hello_key ssl_engine ssl_key_log ssl_ocsp_cache ssl_ocsp_responder
    ssl_prefer_server_ciphers ssl_session_cache ssl_session_ticket_key ssl_session_tickets ssl_session_timeout ssl_stapling
    ssl_stapling_file status_zone ssl_stapling_responder ssl_stapling_verify sub_filter_* subrequest_output_buffer_size sysguard_* tcp_nodelay
    tcp_nopush thread_pool timer_resolution types_hash_* uninitialized_variable_warn uwsgi_* variables_hash_*
    worker_aio_requests worker_connections worker_cpu_affinity worker_priority worker_processes worker_rlimit_core worker_rlimit_sigpending
    worker_shutdown_timeout working_directory zone_sync zone_sync_* zstd zstd_*
";

/// Directives and modules that have no effect unless the value is `on`, and what to write instead
/// of `NAME on`.
pub(super) static IGNORED_UNLESS_ON: &[(&str, &str)] = &[
    ("pagespeed", "pagespeed off; bodies of responses are passed unchanged"),
    (
        "server_name_in_redirect",
        "server_name_in_redirect off; redirects are relative, so clients stay at the host that they asked for",
    ),
    ("sysguard", "sysguard off; limit_conn and limit_req refuse requests here, not the load of this machine"),
];

/// The commands of `ssl_conf_command` and `proxy_ssl_conf_command` that have no effect here. They
/// do not decide which clients are served, and rustls has only safe ciphers.
pub(super) const OPENSSL_COMMANDS: [&str; 8] = [
    "CipherString",
    "Ciphersuites",
    "Curves",
    "DHParameters",
    "Groups",
    "NumTickets",
    "Options",
    "SignatureAlgorithms",
];

pub(super) fn ignored() -> impl Iterator<Item = &'static str> {
    IGNORED.split_ascii_whitespace()
}
