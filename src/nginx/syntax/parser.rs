//! Parses words into a tree of directives, and follows `include`.
//!
//! The parser checks the syntax of directives, not their semantics. A configuration may come from
//! an untrusted source, so everything has a bound: text, directives, depth of blocks and of
//! includes.

use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};

use super::error::{ErrorKind, Fault};
use super::include::{self, MAX_TEXT_EXPECTED, MIME_TYPES};
use super::lexer::{Lexer, OWN_COMMENT, Terminator, Word};
use super::source::{Sources, Span};

/// `name args... ;` or `name args... { block }`.
#[derive(Debug)]
pub(crate) struct Directive {
    pub(crate) name: Word,
    pub(crate) args: Vec<Word>,
    pub(crate) block: Option<Vec<Directive>>,
    /// Whether the directive stands in a `# kylin_lb:` comment, which nginx skips.
    pub(crate) in_comment: bool,
}

impl Directive {
    pub(crate) fn is(&self, name: &str) -> bool {
        self.name.text == name
    }

    pub(crate) fn span(&self) -> Span {
        self.name.span
    }
}

/// Hashes the words without their positions, so that moved directives count as unchanged.
impl Hash for Directive {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Directive { name, args, block, in_comment } = self;
        (&name.text, args.len()).hash(state);
        args.iter().for_each(|word| word.text.hash(state));
        (block, in_comment).hash(state);
    }
}

/// Files that are part of every nginx, and have no effect here, such as parameters of FastCGI.
const OF_NGINX: [&str; 7] =
    ["fastcgi.conf", "fastcgi_params", "scgi_params", "uwsgi_params", "koi-utf", "koi-win", "win-utf"];

/// Files that Debian, certbot and control panels install, and the parts of their content that
/// matter here. They are read if they exist.
const OF_PACKAGES: [(&str, &str); 3] = [
    (
        "proxy_params",
        "proxy_set_header Host $http_host; proxy_set_header X-Real-IP $remote_addr; \
         proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_set_header X-Forwarded-Proto $scheme;",
    ),
    ("options-ssl-nginx.conf", "ssl_protocols TLSv1.2 TLSv1.3; ssl_prefer_server_ciphers off;"),
    ("fastcgi-php.conf", ""),
];

/// The maximum size of all files together, in bytes.
const MAX_TEXT_BYTES: usize = 4 << 20;
const MAX_DIRECTIVES: usize = 200_000;
const MAX_FILES: usize = 4096;
/// The maximum nesting of blocks, which bounds recursion. nginx has no such limit.
const MAX_BLOCK_DEPTH: usize = 32;
const MAX_INCLUDE_DEPTH: usize = 16;

/// Reads files into directives.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    pub(crate) sources: Sources,
    /// Includes of [`OF_NGINX`], and those of [`OF_PACKAGES`] that do not exist.
    pub(crate) skipped_includes: Vec<(Span, String)>,
    /// The folder of relative includes; `None` refuses `include`.
    pub(crate) folder: Option<PathBuf>,
    /// The prefix of nginx, as the caller gives it.
    pub(crate) prefix: Option<PathBuf>,
    /// The files that are being read, outermost first.
    open_files: Vec<PathBuf>,
    /// The names of the blocks that are being read, outermost first.
    open_blocks: Vec<String>,
    text_bytes: usize,
    directives: usize,
}

impl Parser {
    /// Reads a file and the files that it includes. Relative names are resolved in `folder`, by
    /// default the folder of the file.
    pub(crate) fn file(&mut self, path: &Path, folder: Option<&Path>) -> Result<Vec<Directive>, Fault> {
        self.prefix = folder.map(Path::to_owned);
        let folder = folder.or(path.parent()).filter(|folder| !folder.as_os_str().is_empty());
        self.folder = Some(folder.unwrap_or(Path::new(".")).to_owned());
        self.include_file(path, None)
    }

    /// Reads text that may not include anything.
    pub(crate) fn text(&mut self, name: &str, text: &str) -> Result<Vec<Directive>, Fault> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(Fault::new(ErrorKind::Limit, None, "too large", MAX_TEXT_EXPECTED));
        }
        self.source(name, text, None)
    }

    fn source(&mut self, name: &str, text: &str, from: Option<Span>) -> Result<Vec<Directive>, Fault> {
        self.text_bytes += text.len();
        let Some(file) = self.sources.add(name, text).filter(|&file| usize::from(file) < MAX_FILES) else {
            let expected = format!("at most {MAX_FILES}, each counted as often as it is included");
            return Err(Fault::new(ErrorKind::Limit, from, "too many files", expected));
        };
        let text = self.sources.text(file);
        self.block(&mut Lexer::new(&text, file), None)
    }

    /// Reads up to the `}` of the block of `opened`, or to the end of the file.
    fn block(&mut self, lexer: &mut Lexer<'_>, opened: Option<&Word>) -> Result<Vec<Directive>, Fault> {
        let (mut directives, mut words) = (Vec::new(), Vec::new());
        loop {
            let (terminator, span) = lexer.statement(&mut words)?;
            match (terminator, opened) {
                (Terminator::EndOfFile, None) | (Terminator::BlockClose, Some(_)) => return Ok(directives),
                (Terminator::BlockClose, None) => {
                    return Err(span.syntax("unexpected \"}\"", "a directive: no block is open"));
                }
                (Terminator::EndOfFile, Some(opened)) => {
                    let message = format!("the block of \"{}\" is never closed", opened.text);
                    return Err(opened.span.syntax(message, "\"}\" before the end of the file"));
                }
                (Terminator::OwnComment, _) => {
                    directives.extend(self.own_comment(lexer.comment(), span)?);
                    continue;
                }
                (Terminator::Semicolon | Terminator::BlockOpen, _) => {}
            }
            self.count(span)?;
            let mut args = words.drain(..);
            let Some(name) = args.next() else { continue };
            if is_rest_of_repetition(&name.text) {
                let message = "a brace in a regular expression without quotes begins a block";
                return Err(name.span.syntax(message, "the whole expression in quotes: \"^/x{2}\""));
            }
            let args: Vec<Word> = args.collect();
            let opens_block = terminator == Terminator::BlockOpen;
            if name.text == "include" {
                directives.extend(self.include(&name, &args, opens_block)?);
                continue;
            }
            if opens_block && self.open_blocks.len() >= MAX_BLOCK_DEPTH {
                return Err(span.limit("blocks nested too deeply", format!("at most {MAX_BLOCK_DEPTH} levels")));
            }
            let block = match opens_block {
                true if name.text.ends_with("_by_lua_block") => {
                    lexer.skip_lua(&name)?;
                    Some(Vec::new())
                }
                true => {
                    self.open_blocks.push(name.text.clone());
                    let block = self.block(lexer, Some(&name))?;
                    self.open_blocks.pop();
                    Some(block)
                }
                false => None,
            };
            directives.push(Directive { name, args, block, in_comment: false });
        }
    }

    fn count(&mut self, span: Span) -> Result<(), Fault> {
        self.directives += 1;
        if self.directives > MAX_DIRECTIVES {
            return Err(span.limit("too many directives", format!("at most {MAX_DIRECTIVES}")));
        }
        Ok(())
    }

    /// Reads the directives of a `# kylin_lb:` comment that begins at `at`.
    fn own_comment(&mut self, mut line: Lexer<'_>, at: Span) -> Result<Vec<Directive>, Fault> {
        let is_of_http = !self.open_blocks.iter().any(|block| matches!(block.as_str(), "stream" | "mail"));
        if !is_of_http || !matches!(self.open_blocks.last().map(String::as_str), Some("upstream" | "server")) {
            let message = "a \"# kylin_lb:\" comment outside an upstream and a server";
            return Err(at.misplaced(message, "the comment inside upstream NAME { ... } or server { ... }"));
        }
        let (mut directives, mut words) = (Vec::new(), Vec::new());
        loop {
            match line.statement(&mut words)? {
                (Terminator::Semicolon, span) => {
                    self.count(span)?;
                    let mut args = words.drain(..);
                    let Some(name) = args.next() else { continue };
                    let args = args.collect();
                    directives.push(Directive { name, args, block: None, in_comment: true });
                }
                (Terminator::EndOfFile, _) if directives.is_empty() => {
                    return Err(at.syntax("a \"# kylin_lb:\" comment that says nothing", OWN_COMMENT));
                }
                (Terminator::EndOfFile, _) => return Ok(directives),
                (Terminator::BlockOpen | Terminator::BlockClose | Terminator::OwnComment, span) => {
                    return Err(span.syntax("a brace or a comment in a \"# kylin_lb:\" comment", OWN_COMMENT));
                }
            }
        }
    }

    fn include(&mut self, name: &Word, args: &[Word], opens_block: bool) -> Result<Vec<Directive>, Fault> {
        let (false, [pattern]) = (opens_block, args) else {
            return Err(name.span.value("include takes one file", "include FILE;"));
        };
        let file_name = Path::new(&pattern.text).file_name().unwrap_or_default();
        if OF_NGINX.iter().any(|known| file_name == *known) {
            self.skipped_includes.push((name.span, pattern.text.clone()));
            return Ok(Vec::new());
        }
        let exists = || self.folder.as_ref().is_some_and(|folder| folder.join(&pattern.text).exists());
        if file_name == "mime.types" && !exists() {
            return self.source("mime.types", MIME_TYPES, Some(pattern.span));
        }
        if let Some((file, text)) = OF_PACKAGES.iter().find(|(known, _)| file_name == *known)
            && !exists()
        {
            self.skipped_includes.push((name.span, format!("{}, which does not exist: {text}", pattern.text)));
            return self.source(file, text, Some(pattern.span));
        }
        let Some(folder) = &self.folder else {
            let expected = "the included text itself, or a configuration read from a file";
            return Err(name.span.unsupported("include in a text that is not a file", expected));
        };
        if pattern.shell_variable().is_some() {
            return Err(pattern.invalid("file", "the name of a file, or a pattern like conf.d/*.conf"));
        }
        let path = folder.join(&pattern.text);
        let paths = if include::is_pattern(&pattern.text) { include::expand(&path, MAX_FILES) } else { vec![path] };
        let mut directives = Vec::new();
        for path in paths {
            directives.extend(self.include_file(&path, Some(pattern.span))?);
        }
        Ok(directives)
    }

    fn include_file(&mut self, path: &Path, from: Option<Span>) -> Result<Vec<Directive>, Fault> {
        let text = include::read(path, MAX_TEXT_BYTES - self.text_bytes.min(MAX_TEXT_BYTES), from)?;
        // The file was just read, so its path can be resolved.
        let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        if let Some(span) = from {
            if self.open_files.contains(&real) {
                return Err(span.limit(format!("{} includes itself", path.display()), "another file"));
            }
            if self.open_files.len() > MAX_INCLUDE_DEPTH {
                return Err(span.limit("includes nested too deeply", format!("at most {MAX_INCLUDE_DEPTH} levels")));
            }
        }
        self.open_files.push(real);
        let directives = self.source(&path.to_string_lossy(), &text, from)?;
        self.open_files.pop();
        Ok(directives)
    }
}

/// Returns whether a word can follow `{` in an expression such as `a{2,3}/`.
fn is_rest_of_repetition(word: &str) -> bool {
    let rest = word.trim_start_matches(|letter: char| letter.is_ascii_digit() || letter == ',');
    rest.len() < word.len() && rest.starts_with('}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn shape(directives: &[Directive]) -> String {
        let one = |directive: &Directive| {
            let args: String = directive.args.iter().map(|arg| format!(" {}", arg.text)).collect();
            let block = directive.block.as_ref().map(|block| format!("{{{}}}", shape(block)));
            format!("{}{args}{}", directive.name.text, block.unwrap_or_default())
        };
        directives.iter().map(one).collect::<Vec<_>>().join(",")
    }

    #[test]
    fn blocks_nest_and_includes_are_put_in_place() {
        let folder = tempfile::tempdir().unwrap();
        let main = folder.path().join("main.conf");
        fs::create_dir(folder.path().join("d")).unwrap();
        fs::write(&main, "a { include d/*.conf; } include d/x.conf; include none/*.conf; include fastcgi_params; z;")
            .unwrap();
        fs::write(folder.path().join("d/x.conf"), "x 1;").unwrap();
        // The name is relative to the main file's folder, not to the including file's.
        fs::write(folder.path().join("d/w.conf"), "w { include d/x.conf; }").unwrap();
        let directives = Parser::default().file(&main, None).unwrap();
        assert_eq!(shape(&directives), "a{w{x 1},x 1},x 1,z");
    }

    #[test]
    fn a_file_that_includes_itself_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let main = folder.path().join("main.conf");
        fs::write(&main, "include b.conf;").unwrap();
        fs::write(folder.path().join("b.conf"), "\n  include main.conf;").unwrap();
        let mut parser = Parser::default();
        let error = parser.file(&main, None).unwrap_err().locate("main.conf", &parser.sources);
        assert_eq!((error.kind(), error.line(), error.column()), (ErrorKind::Limit, 2, 11));
        assert!(error.message().ends_with("main.conf includes itself"), "{error}");
    }

    #[test]
    fn files_that_cannot_be_read_are_errors_at_the_include() {
        let folder = tempfile::tempdir().unwrap();
        let main = folder.path().join("main.conf");
        for (text, expected) in [("include gone.conf;", "cannot be read"), ("include .;", "is not a file")] {
            fs::write(&main, text).unwrap();
            let mut parser = Parser::default();
            let error = parser.file(&main, None).unwrap_err().locate("main.conf", &parser.sources);
            assert!(error.to_string().contains(expected) && error.column() == 9, "{error}");
        }
        fs::write(&main, b"a;\nb\xff;").unwrap();
        let error = Parser::default().file(&main, None).unwrap_err().locate("main.conf", &Sources::default());
        assert_eq!(error.to_string(), "main.conf: not UTF-8: byte 0xff at line 2, column 2");
    }

    #[test]
    fn depth_and_number_are_bounded() {
        for text in ["a{".repeat(100_000), "a;".repeat(MAX_DIRECTIVES + 1), " ".repeat(MAX_TEXT_BYTES + 1)] {
            let mut parser = Parser::default();
            let error = parser.text("x", &text).unwrap_err().locate("x", &parser.sources);
            assert_eq!(error.kind(), ErrorKind::Limit);
        }
    }
}
