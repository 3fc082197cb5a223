//! Words into a tree of directives, with `include` already followed.
//!
//! What a directive means is decided later; here only its shape counts. Everything is bounded, since a configuration
//! may come from a place that the host does not control: text, number of directives, depth of blocks and of includes.

use std::path::{Path, PathBuf};

use super::error::{ErrorKind, Fault};
use super::include;
use super::lexer::{Ending, Lexer, Word};
use super::source::{Sources, Span};

/// `name args... ;` or `name args... { block }`.
#[derive(Debug)]
pub(super) struct Directive {
    pub(super) name: Word,
    pub(super) args: Vec<Word>,
    pub(super) block: Option<Vec<Directive>>,
}

impl Directive {
    pub(super) fn is(&self, name: &str) -> bool {
        self.name.text == name
    }

    pub(super) fn span(&self) -> Span {
        self.name.span
    }
}

/// All text together, in bytes.
const MOST_TEXT: usize = 4 << 20;
const MOST_DIRECTIVES: usize = 200_000;
const MOST_FILES: usize = 4096;
/// Blocks in blocks. Three levels are common, nginx has no limit, and ours keeps recursion off the stack's end.
const DEEPEST_BLOCK: usize = 32;
const DEEPEST_INCLUDE: usize = 16;

/// Reads files into directives.
#[derive(Debug, Default)]
pub(super) struct Parser {
    pub(super) sources: Sources,
    /// `include mime.types`: what such a file says concerns static files only, so it need not exist.
    pub(super) unread: Vec<Word>,
    /// Where relative includes start; `None` refuses `include`.
    folder: Option<PathBuf>,
    /// The files that are being read right now, outermost first.
    open: Vec<PathBuf>,
    text: usize,
    directives: usize,
}

impl Parser {
    /// Reads a file and what it includes.
    pub(super) fn file(&mut self, path: &Path) -> Result<Vec<Directive>, Fault> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        self.folder = Some(folder.unwrap_or(Path::new(".")).to_owned());
        let mut directives = Vec::new();
        self.include_file(path, None, 0, &mut directives)?;
        Ok(directives)
    }

    /// Reads text that may not include anything.
    pub(super) fn text(&mut self, name: &str, text: &str) -> Result<Vec<Directive>, Fault> {
        if text.len() > MOST_TEXT {
            return Err(Fault::of_file(ErrorKind::Limit, "too large: a configuration may have 4 MiB in all", None));
        }
        let mut directives = Vec::new();
        self.source(name, text, None, 0, &mut directives)?;
        Ok(directives)
    }

    fn source(
        &mut self,
        name: &str,
        text: &str,
        from: Option<Span>,
        depth: usize,
        into: &mut Vec<Directive>,
    ) -> Result<(), Fault> {
        self.text += text.len();
        let file = self.sources.add(name, text).filter(|&file| usize::from(file) < MOST_FILES);
        let Some(file) = file else {
            let message = format!("more than {MOST_FILES} files");
            return Err(match from {
                Some(span) => Fault::new(ErrorKind::Limit, span, message),
                None => Fault::of_file(ErrorKind::Limit, message, None),
            });
        };
        let text = self.sources.text(file);
        self.block(&mut Lexer::new(&text, file), None, depth, into)
    }

    /// Reads up to the `}` of the block that `opened` opened, or to the end of the file.
    fn block(
        &mut self,
        lexer: &mut Lexer<'_>,
        opened: Option<&Word>,
        depth: usize,
        into: &mut Vec<Directive>,
    ) -> Result<(), Fault> {
        let mut words = Vec::new();
        loop {
            let (ending, span) = lexer.statement(&mut words)?;
            match (ending, opened) {
                (Ending::File, None) | (Ending::Close, Some(_)) => return Ok(()),
                (Ending::Close, None) => {
                    return Err(Fault::new(ErrorKind::Syntax, span, "unexpected \"}\"")
                        .expecting("a directive: no block is open"));
                }
                (Ending::File, Some(opened)) => {
                    let message = format!("the block of \"{}\" is never closed", opened.text);
                    return Err(Fault::new(ErrorKind::Syntax, opened.span, message)
                        .expecting("\"}\" before the end of the file"));
                }
                (Ending::Semicolon | Ending::Open, _) => {}
            }
            self.directives += 1;
            if self.directives > MOST_DIRECTIVES {
                return Err(Fault::new(ErrorKind::Limit, span, format!("more than {MOST_DIRECTIVES} directives")));
            }
            let mut args = std::mem::take(&mut words).into_iter();
            let Some(name) = args.next() else { continue };
            let args: Vec<Word> = args.collect();
            if name.text == "include" {
                self.include(&name, &args, ending, depth, into)?;
                continue;
            }
            let block = match ending {
                Ending::Open if depth >= DEEPEST_BLOCK => {
                    return Err(Fault::new(
                        ErrorKind::Limit,
                        span,
                        format!("blocks nested deeper than {DEEPEST_BLOCK}"),
                    ));
                }
                Ending::Open => {
                    let mut block = Vec::new();
                    self.block(lexer, Some(&name), depth + 1, &mut block)?;
                    Some(block)
                }
                _ => None,
            };
            into.push(Directive { name, args, block });
        }
    }

    fn include(
        &mut self,
        name: &Word,
        args: &[Word],
        ending: Ending,
        depth: usize,
        into: &mut Vec<Directive>,
    ) -> Result<(), Fault> {
        let (Ending::Semicolon, [pattern]) = (ending, args) else {
            return Err(Fault::new(ErrorKind::Value, name.span, "include takes one file").expecting("include FILE;"));
        };
        if Path::new(&pattern.text).file_name().is_some_and(|name| name == "mime.types") {
            self.unread.push(name.clone());
            return Ok(());
        }
        let Some(folder) = &self.folder else {
            return Err(Fault::new(ErrorKind::Unsupported, name.span, "include in a text that is not a file")
                .expecting("the included text itself, or a configuration read from a file"));
        };
        let path = folder.join(&pattern.text);
        let paths = if include::is_pattern(&pattern.text) { include::expand(&path, MOST_FILES) } else { vec![path] };
        paths.iter().try_for_each(|path| self.include_file(path, Some(pattern.span), depth, into))
    }

    fn include_file(
        &mut self,
        path: &Path,
        from: Option<Span>,
        depth: usize,
        into: &mut Vec<Directive>,
    ) -> Result<(), Fault> {
        let text = include::read(path, MOST_TEXT - self.text.min(MOST_TEXT), from)?;
        // It was just read, so it has a true name.
        let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        if let Some(span) = from {
            if self.open.contains(&real) {
                return Err(Fault::new(ErrorKind::Limit, span, format!("{} includes itself", path.display())));
            }
            if self.open.len() > DEEPEST_INCLUDE {
                return Err(Fault::new(
                    ErrorKind::Limit,
                    span,
                    format!("includes nested deeper than {DEEPEST_INCLUDE}"),
                ));
            }
        }
        self.open.push(real);
        self.source(&path.to_string_lossy(), &text, from, depth, into)?;
        self.open.pop();
        Ok(())
    }
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
        fs::write(&main, "a { include d/*.conf; } include d/x.conf; include none/*.conf; include mime.types; z;")
            .unwrap();
        fs::write(folder.path().join("d/x.conf"), "x 1;").unwrap();
        // Relative to the main file's folder, not to the including file's.
        fs::write(folder.path().join("d/w.conf"), "w { include d/x.conf; }").unwrap();
        let directives = Parser::default().file(&main).unwrap();
        assert_eq!(shape(&directives), "a{w{x 1},x 1},x 1,z");
    }

    #[test]
    fn a_file_that_includes_itself_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let main = folder.path().join("main.conf");
        fs::write(&main, "include b.conf;").unwrap();
        fs::write(folder.path().join("b.conf"), "\n  include main.conf;").unwrap();
        let mut parser = Parser::default();
        let error = parser.file(&main).unwrap_err().locate("main.conf", &parser.sources);
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
            let error = parser.file(&main).unwrap_err().locate("main.conf", &parser.sources);
            assert!(error.to_string().contains(expected) && error.column() == 9, "{error}");
        }
        fs::write(&main, b"a;\nb\xff;").unwrap();
        let error = Parser::default().file(&main).unwrap_err().locate("main.conf", &Sources::default());
        assert_eq!(error.to_string(), "main.conf: not UTF-8: byte 0xff at line 2, column 2");
    }

    #[test]
    fn depth_and_number_are_bounded() {
        for text in ["a{".repeat(100_000), "a;".repeat(MOST_DIRECTIVES + 1), " ".repeat(MOST_TEXT + 1)] {
            let mut parser = Parser::default();
            let error = parser.text("x", &text).unwrap_err().locate("x", &parser.sources);
            assert_eq!(error.kind(), ErrorKind::Limit);
        }
    }
}
