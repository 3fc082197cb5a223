//! The REST interface of a node: access checks, handlers, and the forms of its responses.

pub(crate) mod access;
mod admin;
pub(crate) mod call;
pub(crate) mod catalog;
pub(crate) mod demo;
pub(crate) mod path;
mod query;
pub(crate) mod response;
pub(crate) mod routes;
mod servers;
mod sql;
