//! Helpers for the tests: child processes, ports, a real nginx, and an HTTP client that controls
//! every byte.

pub(crate) mod browser;
pub(crate) mod chromium;
pub(crate) mod clock;
pub(crate) mod cluster;
pub(crate) mod dialects;
pub(crate) mod drills;
pub(crate) mod example;
pub(crate) mod files;
pub(crate) mod frames;
pub(crate) mod front;
pub(crate) mod health;
pub(crate) mod http;
pub(crate) mod httpd;
pub(crate) mod kylin;
pub(crate) mod load;
pub(crate) mod login;
pub(crate) mod login_relay;
pub(crate) mod mariadb;
pub(crate) mod memcached;
pub(crate) mod nginx;
pub(crate) mod port;
pub(crate) mod process;
pub(crate) mod raw_node;
pub(crate) mod recording;
pub(crate) mod redis;
pub(crate) mod resources;
pub(crate) mod sessions;
pub(crate) mod skip;
pub(crate) mod store;
pub(crate) mod subscriber;
pub(crate) mod tls;
pub(crate) mod tomcat;
pub(crate) mod zookeeper;

pub(crate) use nginx::{Nginx, require_nginx};
