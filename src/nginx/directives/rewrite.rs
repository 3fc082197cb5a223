//! `rewrite`, `if`, `set` and `break`: steps that change a request before it is served
//! (`ngx_http_rewrite_module`).

use std::path::{Path, PathBuf};

use super::catalogue::{args, usage, wrong_number};
use super::remarks::Remarks;
use super::reply::Reply;
use crate::nginx::syntax::{Directive, Fault, Pattern, Word};
use crate::nginx::variables::{Maps, Template, may_be_set};

/// A step. Steps run in the order of the file.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Set {
        slot: usize,
        value: Template,
    },
    Rewrite(Rewrite),
    Return(Reply),
    Break,
    If {
        condition: Condition,
        then: Vec<Step>,
        /// The index of the block's settings among the variants of the location.
        variant: Option<usize>,
    },
}

/// A `rewrite` directive.
#[derive(Debug, Clone)]
pub(crate) struct Rewrite {
    pub(crate) pattern: Pattern,
    pub(crate) path: Template,
    /// The text after the `?` of the replacement.
    pub(crate) args: Option<Template>,
    /// Whether the arguments of the request are appended, because the replacement does not end with
    /// `?`.
    pub(crate) keeps_args: bool,
    pub(crate) then: AfterRewrite,
    /// Whether the new path may be below `/kylin`; `None` if that depends on the request.
    leads_to_kylin: Option<bool>,
    /// The new paths, if they do not depend on the request.
    paths: Vec<String>,
}

/// The action after a `rewrite`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AfterRewrite {
    /// The next step runs.
    Next,
    /// The location of the new path is searched (`last`).
    Last,
    /// This location serves the new path (`break`).
    Break,
    /// The client is redirected with this status.
    Redirect(u16),
}

/// The condition of an `if`.
#[derive(Debug, Clone)]
pub(crate) enum Condition {
    /// The value is neither empty nor `0`.
    True(Template),
    Equals(Template, Template, bool),
    Matches(Template, Pattern, bool),
    /// Whether a file exists. `None` is a file of the site, which has no files.
    File(FileTest, Option<PathBuf>, bool),
}

/// The test of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileTest {
    /// `-f`: the file is a regular one.
    File,
    /// `-d`: the file is a folder.
    Folder,
    /// `-e`: the file exists.
    Exists,
}

/// Adds a remark on an `if` that tests a file of the site.
pub(crate) fn note_files(directive: &Directive, remarks: &mut Remarks<'_>) {
    if let [test, path, ..] = &directive.args[..]
        && FileTest::read(test.text.trim_start_matches('(')).is_some()
        && path.text.starts_with('$')
        && below_root(path.text.trim_end_matches(')')).is_none()
    {
        remarks.note(
            directive.span(),
            format!("if {}: the site has no files, because static files are not served", test.text),
        );
    }
}

/// Returns `NAME` of `$document_root/NAME`.
fn below_root(text: &str) -> Option<&str> {
    text.strip_prefix("$document_root/").filter(|rest| !rest.contains('$'))
}

impl FileTest {
    /// Reads `-f`, `!-f` and similar operators. Returns the test, and whether it is negated.
    fn read(text: &str) -> Option<(Self, bool)> {
        let bare = text.strip_prefix('!');
        let test = match bare.unwrap_or(text) {
            "-f" => FileTest::File,
            "-d" => FileTest::Folder,
            "-e" => FileTest::Exists,
            _ => return None,
        };
        Some((test, bare.is_some()))
    }

    pub(crate) fn holds(self, path: &Path) -> bool {
        std::fs::metadata(path).is_ok_and(|file| match self {
            FileTest::File => file.is_file(),
            FileTest::Folder => file.is_dir(),
            FileTest::Exists => true,
        })
    }
}

/// The prefix of Kylin's paths.
pub(crate) const KYLIN: &str = "/kylin";

/// Returns whether one of the values is true; `None` if that is unknown.
pub(crate) fn any(all: impl IntoIterator<Item = Option<bool>>) -> Option<bool> {
    let mut known = Some(false);
    for one in all {
        match one {
            Some(true) => return Some(true),
            Some(false) => {}
            None => known = None,
        }
    }
    known
}

const IF: &str = "if ($VARIABLE), if ($VARIABLE = VALUE), !=, ~ EXPRESSION, ~*, !~, !~*, or if (-f FILE), -d, -e";

impl Step {
    /// Returns whether [`Step::read`] reads a directive.
    pub(crate) fn is(directive: &Directive) -> bool {
        matches!(directive.name.text.as_str(), "rewrite" | "set" | "break" | "return" | "if")
    }

    /// Reads a directive. `root` is the `$document_root` of the block, or the reason why it is
    /// unknown. `variant` is the index of the settings of an `if` among the variants of its
    /// location.
    pub(crate) fn read(
        directive: &Directive,
        maps: &Maps,
        root: &Result<PathBuf, &str>,
        variant: Option<usize>,
    ) -> Result<Step, Fault> {
        match directive.name.text.as_str() {
            "rewrite" => Rewrite::read(directive, maps).map(Step::Rewrite),
            "set" => {
                let [name, value] = args(directive)?;
                let Some(variable) = name.text.strip_prefix('$').filter(|variable| !variable.is_empty()) else {
                    return Err(name.invalid("variable name", usage("set")));
                };
                let variable = variable.to_ascii_lowercase();
                let Some(slot) = maps.set_slot(&variable) else {
                    let expected = match variable.as_str() {
                        "args" => format!("rewrite ^(.*)$ $1?{}? break;", value.text),
                        "proxy_host" | "proxy_port" => {
                            "proxy_set_header Host VALUE; in place of $proxy_host".to_owned()
                        }
                        other => format!("a variable of another name: set $my_{other} {};", value.text),
                    };
                    return Err(match may_be_set(&variable) {
                        true => {
                            let message = format!("\"set\" of the built-in variable ${variable} is not supported");
                            name.span.unsupported(message, expected)
                        }
                        false => name.span.duplicate(format!("the duplicate \"{variable}\" variable"), expected),
                    });
                };
                Ok(Step::Set { slot, value: Template::new(value, maps)? })
            }
            "break" => args::<0>(directive).map(|_| Step::Break),
            "return" => Reply::read(directive, maps).map(Step::Return),
            _ => {
                let condition = Condition::read(directive, maps, root)?;
                let block = directive.block.as_deref().unwrap_or_default();
                let mut then = Vec::new();
                for inner in block.iter().filter(|inner| Step::is(inner)) {
                    if inner.is("if") {
                        return Err(inner.span().misplaced("\"if\" inside \"if\"", "one condition, or a map"));
                    }
                    then.push(Step::read(inner, maps, root, None)?);
                }
                Ok(Step::If { condition, then, variant })
            }
        }
    }

    /// Returns whether the location of the step serves the request after it.
    pub(crate) fn ends_here(&self) -> bool {
        match self {
            Step::Rewrite(rewrite) => rewrite.then == AfterRewrite::Break,
            Step::If { then, .. } => then.iter().all(Step::ends_here),
            Step::Set { .. } | Step::Break => true,
            Step::Return(_) => false,
        }
    }

    /// Returns whether the step may respond with an error.
    pub(crate) fn may_refuse(&self) -> bool {
        match self {
            Step::Return(reply) => reply.status >= 400,
            Step::If { then, .. } => then.iter().any(Step::may_refuse),
            Step::Rewrite(_) | Step::Set { .. } | Step::Break => false,
        }
    }

    /// Returns whether a request that continues after the step keeps its path.
    pub(crate) fn stays(&self) -> bool {
        match self {
            Step::Rewrite(rewrite) => matches!(rewrite.then, AfterRewrite::Redirect(_)),
            Step::If { then, .. } => then.iter().all(Step::stays),
            Step::Set { .. } | Step::Return(_) | Step::Break => true,
        }
    }

    /// Returns whether the step may make its location pass a path below `/kylin`; `None` if that
    /// depends on the request.
    pub(crate) fn leads_to_kylin(&self) -> Option<bool> {
        match self {
            // The new path has its own location.
            Step::Rewrite(rewrite) if rewrite.then == AfterRewrite::Last => Some(false),
            Step::Rewrite(rewrite) => rewrite.leads_to_kylin,
            Step::If { then, .. } => any(then.iter().map(Step::leads_to_kylin)),
            Step::Set { .. } | Step::Return(_) | Step::Break => Some(false),
        }
    }

    /// Returns the rewrites in the step that change the path of a request.
    pub(crate) fn rewrites(&self) -> Vec<&Rewrite> {
        match self {
            Step::Rewrite(rewrite) => Vec::from_iter((!self.stays()).then_some(rewrite)),
            Step::If { then, .. } => then.iter().flat_map(Step::rewrites).collect(),
            Step::Set { .. } | Step::Return(_) | Step::Break => Vec::new(),
        }
    }
}

impl Rewrite {
    fn read(directive: &Directive, maps: &Maps) -> Result<Rewrite, Fault> {
        let (expression, replacement, flag) = match &directive.args[..] {
            [expression, replacement] => (expression, replacement, None),
            [expression, replacement, flag] => (expression, replacement, Some(flag)),
            _ => return Err(wrong_number(directive)),
        };
        let pattern = maps.bind(Pattern::new(&expression.text, false, expression, 0)?, expression)?;
        let is_url = ["http://", "https://", "$scheme"].iter().any(|start| replacement.text.starts_with(start));
        let then = match flag.map(|flag| flag.text.as_str()) {
            Some("permanent") => AfterRewrite::Redirect(301),
            Some("redirect") => AfterRewrite::Redirect(302),
            _ if is_url => AfterRewrite::Redirect(302),
            None => AfterRewrite::Next,
            Some("last") => AfterRewrite::Last,
            Some("break") => AfterRewrite::Break,
            Some(_) => {
                let flag = flag.unwrap_or(expression);
                return Err(flag.invalid("flag", "last, break, redirect or permanent"));
            }
        };
        if !is_url && !replacement.text.starts_with(['/', '$']) {
            return Err(replacement.invalid("replacement", "a path that begins with \"/\", or http://..."));
        }
        let (text, keeps_args) = match replacement.text.strip_suffix('?') {
            Some(text) => (text, false),
            None => (replacement.text.as_str(), true),
        };
        let (path, query) = text.split_once('?').map_or((text, None), |(path, query)| (path, Some(query)));
        let part = |text: &str, skip| {
            Template::for_header(&Word { text: text.to_owned(), span: replacement.span.right(skip) }, maps)
        };
        let args = query.map(|query| part(query, path.len() + 1)).transpose()?;
        let path = part(path, 0)?;
        let leads_to_kylin = match then {
            AfterRewrite::Redirect(_) => Some(false),
            AfterRewrite::Next | AfterRewrite::Last | AfterRewrite::Break => path.may_begin_with(KYLIN, maps),
        };
        let paths = path.possible_values(maps).unwrap_or_default();
        Ok(Rewrite { pattern, path, args, keeps_args, then, leads_to_kylin, paths })
    }

    /// Returns whether the new path is below `/kylin` for some requests.
    pub(crate) fn names_kylin(&self) -> bool {
        self.leads_to_kylin == Some(true)
    }

    /// Returns the new paths; `None` if they depend on the request.
    pub(crate) fn paths(&self) -> &[String] {
        &self.paths
    }
}

impl Condition {
    fn read(directive: &Directive, maps: &Maps, root: &Result<PathBuf, &str>) -> Result<Condition, Fault> {
        let wrong = || directive.span().value("invalid condition of \"if\"", IF);
        let mut words = directive.args.clone();
        // `( $a = b )` is equivalent to `($a = b)`.
        let first = words.first_mut().ok_or_else(wrong)?;
        first.text = first.text.strip_prefix('(').ok_or_else(wrong)?.to_owned();
        first.span = first.span.right(1);
        let last = words.last_mut().ok_or_else(wrong)?;
        last.text = last.text.strip_suffix(')').ok_or_else(wrong)?.to_owned();
        if words.first().is_some_and(|word| word.text.is_empty()) && words.len() > 1 {
            words.remove(0);
        }
        if words.last().is_some_and(|word| word.text.is_empty())
            && words.len() > 1
            && directive.args.last().is_some_and(|last| last.text == ")")
        {
            words.pop();
        }
        if let [word, path] = &words[..]
            && let Some((test, is_negated)) = FileTest::read(&word.text)
        {
            let of_site = ["$request_filename", "$document_root$", "$realpath_root$"];
            if let Some(rest) = below_root(&path.text) {
                let root = root.as_ref().map_err(|reason| {
                    let message = format!("the folder of $document_root is not known: {reason}");
                    path.span.unsupported(
                        message,
                        format!("root /FOLDER; or the whole name of the file, as in /FOLDER/{rest}"),
                    )
                })?;
                return Ok(Condition::File(test, Some(root.join(rest)), is_negated));
            }
            return match path.text.contains('$') {
                false if path.text.starts_with('/') => {
                    Ok(Condition::File(test, Some(PathBuf::from(&path.text)), is_negated))
                }
                true if of_site.iter().any(|start| path.text.starts_with(start)) => {
                    Ok(Condition::File(test, None, is_negated))
                }
                _ => Err(path.invalid("file", "the whole name of a file, such as /etc/kylin/maintenance")),
            };
        }
        let subject = |word: &Word| match word.text.starts_with('$') {
            true => Template::new(word, maps),
            false => Err(word.invalid("condition", IF)),
        };
        match &words[..] {
            [variable] => subject(variable).map(Condition::True),
            [variable, operator, value] => {
                let subject = subject(variable)?;
                let is_negated = operator.text.starts_with('!');
                match operator.text.as_str() {
                    "=" | "!=" => Ok(Condition::Equals(subject, Template::new(value, maps)?, is_negated)),
                    "~" | "!~" | "~*" | "!~*" => {
                        let ignores_case = operator.text.ends_with('*');
                        let pattern = maps.bind(Pattern::new(&value.text, ignores_case, value, 0)?, value)?;
                        Ok(Condition::Matches(subject, pattern, is_negated))
                    }
                    _ => Err(operator.invalid("operator", IF)),
                }
            }
            _ => Err(wrong()),
        }
    }
}
