//! Parses sections, `Define`, `<IfModule>` and similar conditions, and `Include`.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::{ConfigError, Fault};
use super::excerpt::printable;
use super::lines::{Line, MAX_BYTES, Place, Sources, Word};
use super::{Directive, condition, include};

/// The maximum depth of files that include each other.
const MAX_DEPTH: usize = 16;
/// The maximum number of directives.
const MAX_DIRECTIVES: usize = 100_000;

/// A remark about a line.
#[derive(Debug, Clone)]
pub struct Notice {
    file: String,
    line: usize,
    text: String,
}

impl Notice {
    pub fn new(sources: &Sources, place: Place, text: impl Into<String>) -> Self {
        let (line, ..) = sources.position(place);
        Notice { file: sources.name(place).to_owned(), line, text: text.into() }
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{} {}", printable(&self.file), self.line, printable(&self.text))
    }
}

/// A parsed configuration.
#[derive(Debug)]
pub struct Parsed {
    pub sources: Arc<Sources>,
    pub directives: Vec<Directive>,
    /// Directives without effect: modules, and sections whose condition does not hold.
    pub notices: Vec<Notice>,
    /// The folder that relative paths start from.
    pub root: PathBuf,
}

/// Reads a file and the files that it includes.
pub fn parse(path: &Path) -> Result<Parsed, ConfigError> {
    let folder = path.parent().unwrap_or(Path::new("")).to_owned();
    let mut parser = Parser {
        sources: Sources::default(),
        defines: HashMap::new(),
        macros: HashMap::new(),
        modules: None,
        root: folder,
        notices: Vec::new(),
        count: 0,
        added: 0,
    };
    match parser.file(path, None, 0) {
        Ok(directives) => {
            let Parser { sources, notices, root, .. } = parser;
            Ok(Parsed { sources: Arc::new(sources), directives, notices, root })
        }
        Err(fault) => Err(fault.locate(&parser.sources)),
    }
}

struct Parser {
    sources: Sources,
    defines: HashMap<String, String>,
    /// The macros by their names in lower case.
    macros: HashMap<String, Arc<Macro>>,
    /// The modules of `LoadModule`. `None` if there is none, because the file is then part of a
    /// configuration with unknown modules.
    modules: Option<HashSet<String>>,
    root: PathBuf,
    notices: Vec<Notice>,
    count: usize,
    /// The bytes that macros and variables have added.
    added: usize,
}

/// A `<Macro>`: lines with parameters.
struct Macro {
    /// The parameters, longer names first.
    parameters: Vec<(usize, String)>,
    lines: Vec<Line>,
}

/// A section that is being read.
struct Open {
    name: Word,
    args: Vec<Word>,
    /// The directives before it, in the surrounding section.
    outer: Vec<Directive>,
    kind: Kind,
}

enum Kind {
    Section,
    /// A true condition, whose directives belong to the surrounding section.
    Spliced,
    /// A false condition.
    Skipped,
}

/// The modules that every build has (`apache2 -l`).
const BUILT_IN: [&str; 8] = ["core", "so", "http", "unixd", "log_config", "logio", "version", "watchdog"];

impl Parser {
    fn file(&mut self, path: &Path, from: Option<&Word>, depth: usize) -> Result<Vec<Directive>, Fault> {
        let name = path.display().to_string();
        let fault = |message: String| Fault::new(from.map(|word| word.place), message, "");
        let bytes = std::fs::read(path).map_err(|error| {
            let message = format!("{name} cannot be read: {error}");
            if from.is_none() && self.sources.main().is_empty() {
                // The name of the file precedes the message.
                _ = self.sources.add(&name, b"");
                return fault(format!("cannot be read: {error}"));
            }
            fault(message)
        })?;
        let file = self.sources.add(&name, &bytes).map_err(fault)?;
        let text = self.sources.text(file).to_owned();
        let mut at = 0;
        self.lines(std::iter::from_fn(|| Line::next(file, &text, &mut at)), depth)
    }

    /// Reads the lines of a file or of a macro.
    fn lines(&mut self, mut lines: impl Iterator<Item = Line>, depth: usize) -> Result<Vec<Directive>, Fault> {
        let (mut directives, mut open): (Vec<Directive>, Vec<Open>) = (Vec::new(), Vec::new());
        while let Some(line) = lines.next() {
            let Some(written) = line.directive() else { continue };
            let skips = open.iter().any(|open| matches!(open.kind, Kind::Skipped));
            let closes = written.starts_with("</");
            if skips && !closes && !written.starts_with('<') {
                continue;
            }
            let line = if skips { line } else { self.fill(line)? };
            let mut words = line.words()?.into_iter();
            let Some(name) = words.next() else { continue };
            let args: Vec<Word> = words.collect();
            if closes {
                let closed = name.text[2..].to_owned();
                match open.pop() {
                    Some(last) if last.name.text[1..].eq_ignore_ascii_case(&closed) => {
                        let inner = std::mem::replace(&mut directives, last.outer);
                        match last.kind {
                            Kind::Section => {
                                let section = Directive { name: last.name, args: last.args, section: Some(inner) };
                                condition::check(&section)?;
                                directives.push(section);
                            }
                            Kind::Spliced => directives.extend(inner),
                            Kind::Skipped => {}
                        }
                    }
                    Some(last) => {
                        let message = format!("</{closed}> where {}> is open", last.name.text);
                        return Err(name.fault(message, format!("</{}>", &last.name.text[1..])));
                    }
                    None => return Err(name.fault(format!("no <{closed}> is open"), "no such line")),
                }
                continue;
            }
            if name.text.eq_ignore_ascii_case("<Macro") && !skips {
                self.define_macro(&name, &args, &mut lines)?;
                continue;
            }
            self.count += 1;
            if self.count > MAX_DIRECTIVES {
                return Err(name.fault(format!("more than {MAX_DIRECTIVES} directives"), "fewer"));
            }
            if name.text.starts_with('<') {
                let kind = if skips { Kind::Skipped } else { self.kind(&name, &args)? };
                if matches!(kind, Kind::Skipped) && !skips {
                    let written = args.iter().map(|arg| arg.text.as_str()).collect::<Vec<_>>().join(" ");
                    let text = format!("{} {written}>: the condition does not hold", name.text);
                    self.notices.push(Notice::new(&self.sources, name.place, text));
                }
                open.push(Open { name, args, outer: std::mem::take(&mut directives), kind });
                continue;
            }
            let directive = Directive { name, args, section: None };
            if let Some(directive) = self.at_once(directive, depth, &mut directives)? {
                directives.push(directive);
            }
        }
        match open.pop() {
            Some(open) => {
                let message = format!("{}> is not closed", open.name.text);
                Err(open.name.fault(message, format!("</{}> behind it", &open.name.text[1..])))
            }
            None => Ok(directives),
        }
    }

    /// Handles a directive that httpd runs while it reads the file. Returns any other directive.
    fn at_once(
        &mut self,
        directive: Directive,
        depth: usize,
        into: &mut Vec<Directive>,
    ) -> Result<Option<Directive>, Fault> {
        let note = |parser: &mut Self, text: String| {
            parser.notices.push(Notice::new(&parser.sources, directive.name.place, text));
        };
        match directive.name.text.to_ascii_lowercase().as_str() {
            "define" => match &directive.args[..] {
                [name] => _ = self.defines.insert(name.text.clone(), String::new()),
                [name, value] => _ = self.defines.insert(name.text.clone(), value.defined()?.text.clone()),
                [] => return Err(directive.fault("Define needs a name", "Define NAME [VALUE]")),
                [_, _, more, ..] => return Err(more.unexpected(&directive, "Define NAME \"VALUE\"")),
            },
            "undefine" => _ = self.defines.remove(&directive.one("UnDefine NAME")?.text),
            "loadmodule" => {
                let [name, _] = &directive.args[..] else {
                    return Err(directive.fault("LoadModule needs a name and a file", "LoadModule NAME_module FILE"));
                };
                self.modules.get_or_insert_default().insert(module(&name.text));
                note(self, directive.line());
            }
            "serverroot" => {
                self.root = PathBuf::from(&directive.one("ServerRoot FOLDER")?.defined()?.text);
                note(self, directive.line());
            }
            "include" | "includeoptional" => {
                let pattern = directive.one("a file, a folder or a pattern such as conf.d/*.conf")?.defined()?;
                if depth >= MAX_DEPTH {
                    return Err(pattern.fault("files include each other too deeply", "no circle of files"));
                }
                let files = include::files(&self.root, &pattern.text);
                if files.is_none() && directive.is("include") {
                    let message = format!("no file matches {}", self.root.join(&pattern.text).display());
                    return Err(pattern.fault(message, "the path of a file, from ServerRoot; or IncludeOptional"));
                }
                for file in files.into_iter().flatten() {
                    into.extend(self.file(&file, Some(pattern), depth + 1)?);
                }
            }
            "use" => into.extend(self.use_macro(&directive, depth)?),
            "undefmacro" => {
                let name = directive.one("UndefMacro NAME")?;
                self.macros.remove(&name.text.to_ascii_lowercase());
            }
            _ => return Ok(Some(directive)),
        }
        Ok(None)
    }

    /// Keeps the lines up to `</Macro>`.
    fn define_macro(
        &mut self,
        section: &Word,
        args: &[Word],
        lines: &mut impl Iterator<Item = Line>,
    ) -> Result<(), Fault> {
        let Some((name, parameters)) = args.split_first() else {
            return Err(section.fault("<Macro> needs a name", "<Macro NAME $PARAMETER...>"));
        };
        if let Some(plain) = parameters.iter().find(|parameter| !parameter.text.starts_with(['$', '%', '@'])) {
            return Err(plain.fault("not the name of a parameter", "a name that begins with $, % or @"));
        }
        let mut parameters: Vec<_> = parameters.iter().map(|word| word.text.clone()).enumerate().collect();
        parameters.sort_by_key(|(_, name)| std::cmp::Reverse(name.len()));
        let is_end =
            |line: &Line| line.directive().is_some_and(|text| text.to_ascii_lowercase().starts_with("</macro"));
        let mut inner = Vec::new();
        loop {
            match lines.next() {
                Some(line) if is_end(&line) => break,
                Some(line) => inner.push(line),
                None => return Err(section.fault("<Macro> is not closed", "</Macro> behind it")),
            }
        }
        let defined = Arc::new(Macro { parameters, lines: inner });
        match self.macros.insert(name.text.to_ascii_lowercase(), defined) {
            None => Ok(()),
            Some(_) => Err(name.fault(format!("the macro \"{}\" is defined twice", name.text), "another name")),
        }
    }

    /// Reads the lines of a macro.
    fn use_macro(&mut self, directive: &Directive, depth: usize) -> Result<Vec<Directive>, Fault> {
        let Some((name, values)) = directive.args.split_first() else {
            return Err(directive.fault("Use needs the name of a macro", "Use NAME VALUE..."));
        };
        let Some(used) = self.macros.get(&name.text.to_ascii_lowercase()).cloned() else {
            return Err(name.fault(format!("no macro is called \"{}\"", name.text), "<Macro> in front of it"));
        };
        let count = used.parameters.len();
        if values.len() != count {
            let message = format!("the macro \"{}\" takes {count} values, and {} are written", name.text, values.len());
            return Err(name.fault(message, "a value for each parameter"));
        }
        if depth >= MAX_DEPTH {
            return Err(name.fault("macros use each other too deeply", "no circle of macros"));
        }
        let values: Vec<_> =
            used.parameters.iter().map(|(at, name)| (name.as_str(), values[*at].text.as_str())).collect();
        let mut lines = Vec::new();
        for line in &used.lines {
            let line = line.with_values(&values)?;
            self.add(line.length(), name.place)?;
            lines.push(line);
        }
        self.lines(lines.into_iter(), depth + 1)
    }

    fn fill(&mut self, line: Line) -> Result<Line, Fault> {
        let (length, place) = (line.length(), line.place(0));
        let filled = line.fill(&self.defines)?;
        self.add(filled.length().saturating_sub(length), place)?;
        Ok(filled)
    }

    /// Counts bytes that macros or variables add.
    fn add(&mut self, bytes: usize, place: Place) -> Result<(), Fault> {
        self.added += bytes;
        if self.added <= MAX_BYTES {
            return Ok(());
        }
        let message = format!("macros and variables add more than {} MiB to the files", MAX_BYTES >> 20);
        Err(Fault::new(place, message, "fewer or shorter ones"))
    }

    fn kind(&self, name: &Word, args: &[Word]) -> Result<Kind, Fault> {
        let condition = match name.text.to_ascii_lowercase().as_str() {
            "<ifmodule" => |parser: &Self, text: &str| parser.has_module(text),
            "<ifdefine" => |parser: &Self, text: &str| parser.defines.contains_key(text),
            "<iffile" => |parser: &Self, text: &str| parser.root.join(text).exists(),
            "<ifdirective" => |_: &Self, text: &str| crate::httpd::directives::is_known(text),
            "<ifsection" => |_: &Self, text: &str| crate::httpd::directives::is_known(&format!("<{text}")),
            "<ifversion" => return version(name, args),
            _ => return Ok(Kind::Section),
        };
        let [word] = args else { return Err(name.fault(format!("{}> needs one value", name.text), "[!]NAME")) };
        let holds = match word.text.strip_prefix('!') {
            Some(text) => !condition(self, text),
            None => condition(self, &word.text),
        };
        Ok(if holds { Kind::Spliced } else { Kind::Skipped })
    }

    /// Returns whether a module is loaded. Without `LoadModule`, the file is part of a
    /// configuration, and all modules count as loaded. So nothing is left out silently.
    fn has_module(&self, name: &str) -> bool {
        let name = module(name);
        match &self.modules {
            Some(loaded) => loaded.contains(&name) || BUILT_IN.contains(&name.as_str()),
            None => !name.starts_with("mpm_") || name == "mpm_event",
        }
    }
}

/// Returns the bare name of `mod_proxy.c`, `proxy_module`.
fn module(name: &str) -> String {
    let name = name.strip_suffix(".c").or_else(|| name.strip_suffix(".cpp")).unwrap_or(name);
    let name = name.strip_prefix("mod_").unwrap_or(name);
    match name.strip_suffix("_module").unwrap_or(name) {
        // The source files of the MPMs have these names.
        "event" => "mpm_event",
        "prefork" => "mpm_prefork",
        "worker" => "mpm_worker",
        name => name,
    }
    .to_owned()
}

/// The version of httpd whose directives are read.
const VERSION: [u32; 3] = [2, 4, 66];

fn version(name: &Word, args: &[Word]) -> Result<Kind, Fault> {
    let (operator, wanted) = match args {
        [wanted] => ("=", wanted),
        [operator, wanted] => (operator.text.as_str(), wanted),
        _ => return Err(name.fault("<IfVersion> needs an operator and a version", "<IfVersion >= 2.4>")),
    };
    let numbers: Option<Vec<u32>> = wanted.text.split('.').map(super::lines::number_of).collect();
    let Some(numbers) = numbers.filter(|numbers| (1..=3).contains(&numbers.len())) else {
        return Err(wanted.fault("not a version", "a version such as 2.4, without a regular expression"));
    };
    let (operator, negated) = operator.strip_prefix('!').map_or((operator, false), |operator| (operator, true));
    // Missing numbers are 0, but `=` compares only the written ones.
    let order = VERSION.cmp(&std::array::from_fn(|index| numbers.get(index).copied().unwrap_or(0)));
    let holds = match operator {
        "=" | "==" | "" => VERSION[..numbers.len()] == numbers[..],
        ">" => order.is_gt(),
        ">=" => order.is_ge(),
        "<" => order.is_lt(),
        "<=" => order.is_le(),
        _ => return Err(args[0].fault("unknown operator", "=, >, >=, < or <=")),
    };
    Ok(if holds != negated { Kind::Spliced } else { Kind::Skipped })
}
