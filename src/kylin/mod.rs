//! What is known of Apache Kylin and KAP: which requests may be repeated and what answers mean, SQL that changes nothing,
//! Kylin's own files. Pure functions and values: nothing here does I/O or knows of clusters.
//!
//! | module | answers |
//! |---|---|
//! | [`path`] | which path will the node see? |
//! | [`class`] | what is this request for: may it be repeated, who must serve it, does it write? |
//! | [`sql`], [`query`] | does this SQL change anything, what is it like, under which keys is it placed? |
//! | [`answer`], [`retry`] | what does this answer mean, and may the request go elsewhere? |
//! | [`fan_out`] | does it concern every node, and how do the answers become one? |
//! | [`guard`], [`cookie`] | is it open to clients, is this a session? |
//! | [`properties`], [`metadata_url`], [`tomcat`] | what do Kylin's files say of the cluster and its sessions? |
//! | [`identity`] | do two nodes have the same metastore? |
//! | [`servers`] | which nodes does a node know? |
//!
//! Where the source of a fact is given, it is a file of <https://github.com/apache/kylin> at the tag or branch named. What was
//! inferred and not seen is said to be.

pub mod class;
pub mod fan_out;
pub mod guard;
pub mod identity;
mod json;
pub mod metadata_url;
pub mod path;
pub mod properties;
pub mod query;
pub mod response;
pub mod retry;
pub mod servers;
pub mod sql;
pub mod tomcat;
