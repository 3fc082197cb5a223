//! What is known of Apache Kylin and KAP: which requests may be repeated and what answers mean, SQL that changes nothing,
//! Kylin's own files. Pure functions and values: nothing here does I/O or knows of clusters.
//!
//! Where the source of a fact is given, it is a file of <https://github.com/apache/kylin> at the tag or branch named. What was
//! inferred and not seen is said to be.

pub mod answer;
pub mod class;
pub mod cookie;
pub mod fan_out;
pub mod guard;
pub mod identity;
mod json;
pub mod metadata_url;
pub mod path;
pub mod properties;
pub mod query;
pub mod retry;
pub mod sql;
pub mod tomcat;
