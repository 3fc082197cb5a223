//! The text of a configuration: files, words, directives, values, and errors that point at a word.
//!
//! This module knows nginx's syntax, not what a directive does.

pub(crate) mod address;
mod error;
mod excerpt;
mod foreign;
mod include;
mod lexer;
mod lua;
mod parser;
mod pattern;
mod source;
mod suggest;
pub(crate) mod values;

pub(crate) use error::Fault;
pub use error::{ConfigError, ErrorKind};
pub(crate) use excerpt::printable;
pub(crate) use foreign::explain;
pub(crate) use lexer::Word;
pub(crate) use parser::{Directive, Parser};
pub(crate) use pattern::{Captures, NamedGroup, Pattern};
pub use pattern::{PcreError, translate_pcre};
pub(crate) use source::{Sources, Span};
pub(crate) use suggest::{did_you_mean, nearest};
