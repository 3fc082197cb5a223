//! `# kylin_lb:` comments: settings for this crate, which nginx skips.

use std::path::Path;

use super::catalogue::arg;
use super::remarks::Remarks;
use crate::nginx::options::{InvalidOption, KylinOptions, OPTIONS, SessionMode};
use crate::nginx::syntax::{Directive, Fault, did_you_mean};

/// The settings in the comments of an upstream or server, and their lines.
#[derive(Debug, Clone, Default)]
pub(crate) struct CommentOptions {
    pub(crate) options: KylinOptions,
    /// The name of each option, and its file and line.
    places: Vec<(&'static str, String)>,
}

impl CommentOptions {
    /// Reads the comments of a block.
    pub(super) fn read(block: &[Directive], remarks: &Remarks<'_>) -> Result<CommentOptions, Fault> {
        let mut comments = CommentOptions::default();
        for directive in block.iter().filter(|directive| directive.in_comment) {
            comments.add(directive, remarks)?;
        }
        Ok(comments)
    }

    fn add(&mut self, directive: &Directive, remarks: &Remarks<'_>) -> Result<(), Fault> {
        let name = directive.name.text.as_str();
        let Some((known, values)) = OPTIONS.into_iter().find(|(known, _)| *known == name) else {
            let hint = did_you_mean(name, OPTIONS.map(|(known, _)| known));
            let all = OPTIONS.map(|(known, values)| format!("{known} {values}")).join(", ");
            let message = format!("unknown setting \"{name}\" of kylin_lb{hint}");
            return Err(directive.span().unknown(message, format!("one of: {all}")));
        };
        if self.place(known).is_some() {
            let message = format!("\"{known}\" of kylin_lb is duplicate");
            return Err(directive.span().duplicate(message, format!("{known} once in an upstream or server")));
        }
        let word = match arg(directive) {
            Ok(word) => word,
            Err(_) => {
                let message = format!("\"{known}\" of kylin_lb takes one value");
                return Err(directive.span().value(message, format!("# kylin_lb: {known} {values};")));
            }
        };
        let file = remarks.file(directive.span());
        let folder = Path::new(&*file).parent().unwrap_or(Path::new(""));
        let set = self.options.set(known, &word.text, folder);
        set.map_err(|error: InvalidOption| {
            // The message omits the value, which may contain a password. The error shows the line
            // anyway, with credentials hidden.
            let expected = error.to_string();
            let expected = expected.strip_prefix("expected ").unwrap_or(&expected).to_owned();
            word.span.value(format!("invalid value of \"{known}\""), expected)
        })?;
        self.places.push((known, remarks.place(directive.span())));
        Ok(())
    }

    /// Sets the session mode of a directive of another module, unless a comment sets one.
    pub(super) fn by_directive(&mut self, name: &'static str, sessions: SessionMode, place: String) {
        if self.place(name).is_none() {
            self.options.sessions = Some(sessions);
            self.places.push((name, place));
        }
    }

    /// Returns the file and line of an option, if it is set.
    pub(crate) fn place(&self, name: &str) -> Option<&str> {
        self.places.iter().find(|(known, _)| *known == name).map(|(_, place)| place.as_str())
    }

    /// Adds the options of another server that passes requests to an upstream. Returns the option
    /// for which the two have different values.
    pub(crate) fn merge(&mut self, other: &CommentOptions) -> Result<(), &'static str> {
        let (ours, theirs) = (&mut self.options, &other.options);
        let agreed = [
            ("kylin", merge(&mut ours.kylin, &theirs.kylin)),
            ("sessions", merge(&mut ours.sessions, &theirs.sessions)),
            ("policy", merge(&mut ours.policy, &theirs.policy)),
            ("probe", merge(&mut ours.probe, &theirs.probe)),
            ("outlier", merge(&mut ours.outlier, &theirs.outlier)),
            ("drain", merge(&mut ours.drain, &theirs.drain)),
            ("single_flight", merge(&mut ours.single_flight, &theirs.single_flight)),
            ("panic", merge(&mut ours.panic, &theirs.panic)),
            ("queue", merge(&mut ours.queue, &theirs.queue)),
            ("resource_groups", merge(&mut ours.resource_groups, &theirs.resource_groups)),
        ];
        for (name, place) in &other.places {
            if self.place(name).is_none() {
                self.places.push((*name, place.clone()));
            }
        }
        agreed.iter().find(|(_, agrees)| !agrees).map_or(Ok(()), |(name, _)| Err(*name))
    }
}

/// Copies a value. Returns false if a different value is already set.
fn merge<T: Clone + PartialEq>(ours: &mut Option<T>, theirs: &Option<T>) -> bool {
    match (&ours, theirs) {
        (Some(one), Some(other)) => one == other,
        (None, Some(_)) => {
            ours.clone_from(theirs);
            true
        }
        (_, None) => true,
    }
}
