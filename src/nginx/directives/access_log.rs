//! `log_format` and `access_log`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::catalogue::wrong_number;
use super::remarks::Remarks;
use crate::nginx::syntax::values::{self, TimeUnit};
use crate::nginx::syntax::{Directive, Fault, Span, Word, nearest};
use crate::nginx::variables::{Escape, Maps, Scope, Template, ValueSources};

/// A `log_format` directive.
#[derive(Debug)]
pub(crate) struct LogFormat {
    pub(crate) name: String,
    escape: Escape,
    parts: Vec<Template>,
}

/// The formats of a configuration, by name.
#[derive(Debug, Default)]
pub(crate) struct LogFormats(HashMap<String, Arc<LogFormat>>);

/// The `access_log` directives of a block. A block with its own directives inherits none.
#[derive(Debug, Clone, Default)]
pub(crate) struct AccessLogs {
    logs: Vec<AccessLog>,
    is_off: bool,
}

/// An `access_log` directive.
#[derive(Debug, Clone)]
pub(crate) struct AccessLog {
    pub(crate) path: PathBuf,
    /// The file and the line of the directive.
    pub(crate) place: Arc<str>,
    pub(crate) format: Arc<LogFormat>,
    /// The value of `if=`. A line is written unless it is empty or `0`.
    pub(crate) condition: Option<Template>,
}

const COMBINED: &str = "$remote_addr - $remote_user [$time_local] \"$request\" $status $body_bytes_sent \"$http_referer\" \"$http_user_agent\"";

const PARAMETERS: &str = "buffer=SIZE, flush=TIME, gzip[=LEVEL], if=CONDITION";

impl LogFormats {
    /// Reads all `log_format` directives first, because `access_log` directives before them may
    /// name them.
    pub(crate) fn read<'d>(
        directives: impl Iterator<Item = &'d Directive>,
        maps: &Maps,
        sources: &ValueSources,
        remarks: &mut Remarks<'_>,
    ) -> Result<LogFormats, Fault> {
        let word = Word { text: COMBINED.into(), span: Span { file: 0, line: 1, at: 0 } };
        let combined = LogFormat::new("combined", Escape::Default, [&word], maps, sources)?.0;
        let mut formats = LogFormats(HashMap::from([("combined".to_owned(), Arc::new(combined))]));
        for directive in directives {
            let [name, rest @ ..] = &directive.args[..] else { return Err(wrong_number(directive)) };
            let (escape, parts) = match rest.first().and_then(|word| word.text.strip_prefix("escape=")) {
                Some("default") => (Escape::Default, &rest[1..]),
                Some("json") => (Escape::Json, &rest[1..]),
                Some("none") => (Escape::None, &rest[1..]),
                Some(_) => return Err(rest[0].invalid("escaping", "escape=default, escape=json or escape=none")),
                None => (Escape::Default, rest),
            };
            if parts.is_empty() {
                return Err(wrong_number(directive));
            }
            let (format, absent) = LogFormat::new(&name.text, escape, parts, maps, sources)?;
            for variable in absent {
                let text = format!("log_format {}: ${variable} has no value here", name.text);
                remarks.note(directive.span(), text);
            }
            if formats.0.insert(name.text.clone(), Arc::new(format)).is_some() {
                return Err(name.span.duplicate(format!("duplicate log_format \"{}\"", name.text), "another name"));
            }
        }
        Ok(formats)
    }

    fn find(&self, word: &Word) -> Result<Arc<LogFormat>, Fault> {
        let name = word.text.as_str();
        self.0.get(name).cloned().ok_or_else(|| {
            let meant = nearest(name, self.0.keys().map(String::as_str));
            let hint = meant.map(|meant| format!(", did you mean \"{meant}\"?")).unwrap_or_default();
            word.span.unknown(format!("unknown log format \"{name}\"{hint}"), "combined, or the name of a log_format")
        })
    }
}

impl LogFormat {
    /// Reads a format. Also returns the variables of nginx that have no value here.
    fn new<'w>(
        name: &str,
        escape: Escape,
        words: impl IntoIterator<Item = &'w Word>,
        maps: &Maps,
        sources: &ValueSources,
    ) -> Result<(Self, Vec<String>), Fault> {
        let (mut parts, mut absent) = (Vec::new(), Vec::new());
        for word in words {
            let (template, without) = Template::for_log(word, maps, sources)?;
            parts.push(template);
            absent.extend(without);
        }
        Ok((LogFormat { name: name.to_owned(), escape, parts }, absent))
    }

    /// Returns whether the name of one of the variables begins with `start`.
    pub(crate) fn mentions(&self, start: &str) -> bool {
        self.parts.iter().any(|part| part.mentions(start))
    }

    /// Returns the log line for a request, without a final line break.
    pub(crate) fn line(&self, scope: &Scope<'_>) -> Vec<u8> {
        let mut line = Vec::with_capacity(256);
        for part in &self.parts {
            part.log(scope, self.escape, &mut line);
        }
        line
    }
}

impl AccessLogs {
    /// Returns the logs that are written.
    pub(crate) fn active(&self) -> &[AccessLog] {
        if self.is_off { &[] } else { &self.logs }
    }

    /// Reads an `access_log` directive.
    pub(crate) fn read(
        &mut self,
        directive: &Directive,
        formats: &LogFormats,
        maps: &Maps,
        folder: Option<&Path>,
        remarks: &mut Remarks<'_>,
    ) -> Result<(), Fault> {
        let [path, parameters @ ..] = &directive.args[..] else { return Err(wrong_number(directive)) };
        if path.text == "off" {
            self.is_off = true;
            return match parameters.first() {
                Some(word) => Err(word.invalid("parameter", "access_log off; without parameters")),
                None => Ok(()),
            };
        }
        let is_parameter = |word: &Word| word.text.contains('=') || word.text == "gzip";
        let (format, parameters) = match parameters.split_first() {
            Some((format, parameters)) if !is_parameter(format) => (formats.find(format)?, parameters),
            _ => (formats.find(&Word { text: "combined".into(), span: path.span })?, parameters),
        };
        let (mut condition, mut flush, mut is_buffered) = (None, None, false);
        for word in parameters {
            let value = |name: &str| {
                let text = word.text.strip_prefix(name)?.to_owned();
                Some(Word { text, span: word.span.right(name.len()) })
            };
            if let Some(size) = value("buffer=") {
                values::size(&size)?;
                is_buffered = true;
            } else if let Some(time) = value("flush=") {
                values::time(&time, TimeUnit::Milliseconds)?;
                flush = Some(word);
            } else if word.text == "gzip" || word.text.starts_with("gzip=") {
                if let Some(level) = value("gzip=") {
                    values::number(&level, 1..=9)?;
                }
                is_buffered = true;
                remarks.note(word.span, "access_log gzip: the log is written without compression");
            } else if let Some(value) = value("if=") {
                condition = Some(Template::new(&value, maps)?);
            } else {
                return Err(word.invalid("parameter", PARAMETERS));
            }
        }
        if let Some(flush) = flush.filter(|_| !is_buffered) {
            return Err(flush.span.missing("flush= of access_log without buffer=", "buffer=SIZE flush=TIME"));
        }
        if path.text.starts_with("syslog:") || path.text.starts_with("memory:") || path.text.contains('$') {
            remarks.ignored(path.span, format!("access_log {}: only files are written", path.text));
            return Ok(());
        }
        let path = folder.map_or_else(|| path.text.clone().into(), |folder| folder.join(&path.text));
        let place = remarks.place(directive.span()).into();
        self.logs.push(AccessLog { path, place, format, condition });
        Ok(())
    }
}
