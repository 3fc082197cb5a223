//! Fields that come again and again, word for word: what a client is, what it takes, what a node says of every answer.
//!
//! To compare a line with one that was read before costs a third of reading it. What tells one user from another is not kept.

use std::cell::RefCell;
use std::ops::Range;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};

/// How many lines a thread keeps; a power of two.
const LINES: usize = 64;

/// Longer lines are not kept.
const LONGEST: usize = 128;

/// How often another line has to come in place of one that is kept before it takes the place: what is different every time is
/// not copied every time.
const PATIENCE: u8 = 8;

thread_local! {
    static KEPT: RefCell<[Option<Kept>; LINES]> = const { RefCell::new([const { None }; LINES]) };
}

struct Kept {
    line: Bytes,
    name: HeaderName,
    value: HeaderValue,
    passed_over: u8,
}

/// The field that `line` was read as before; none when it is to be read, which it always may be.
pub(super) fn find(line: &[u8]) -> Option<(HeaderName, HeaderValue)> {
    KEPT.with_borrow(|kept| match &kept[place(line)?] {
        Some(kept) if kept.line == line => Some((kept.name.clone(), kept.value.clone())),
        _ => None,
    })
}

/// Notes that `line` is a field called `name` with what is at `value` of it, which both are valid.
pub(super) fn note(line: &[u8], name: &HeaderName, value: Range<usize>) {
    if !is_worth_it(name) || line.len() > LONGEST {
        return;
    }
    KEPT.with_borrow_mut(|kept| {
        let Some(place) = place(line) else { return };
        match &mut kept[place] {
            Some(kept) if kept.passed_over < PATIENCE => kept.passed_over += 1,
            place => {
                // A copy of its own, which does not keep all that it came with.
                let line = Bytes::copy_from_slice(line);
                if let Ok(value) = HeaderValue::from_maybe_shared(line.slice(value)) {
                    *place = Some(Kept { line, name: name.clone(), value, passed_over: 0 });
                }
            }
        }
    });
}

fn place(line: &[u8]) -> Option<usize> {
    let (first, last) = (*line.first()?, *line.last()?);
    let mix = line.len() * 31 + usize::from(first) * 7 + usize::from(line[line.len() / 2]) * 5 + usize::from(last);
    Some(mix % LINES)
}

/// Names whose values are few. Never those that are somebody's own: cookies, credentials, addresses.
fn is_worth_it(name: &HeaderName) -> bool {
    matches!(
        *name,
        header::HOST
            | header::USER_AGENT
            | header::ACCEPT
            | header::ACCEPT_ENCODING
            | header::ACCEPT_LANGUAGE
            | header::CONTENT_TYPE
            | header::CONTENT_LANGUAGE
            | header::CONNECTION
            | header::TRANSFER_ENCODING
            | header::SERVER
            | header::VARY
            | header::CACHE_CONTROL
            | header::PRAGMA
            | header::EXPIRES
            | header::X_FRAME_OPTIONS
            | header::X_XSS_PROTECTION
            | header::X_CONTENT_TYPE_OPTIONS
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> bool {
        let (name, value) = line.split_once(": ").unwrap();
        let name: HeaderName = name.parse().unwrap();
        match find(line.as_bytes()) {
            Some(field) => {
                assert_eq!(field, (name, value.parse().unwrap()));
                true
            }
            None => {
                note(line.as_bytes(), &name, line.len() - value.len()..line.len());
                false
            }
        }
    }

    /// Each thread has lines of its own, and so has each test.
    #[test]
    fn a_line_that_comes_again_is_known() {
        assert!(!read("Accept: a/b") && read("Accept: a/b"));
        assert!(!read("accept: a/b"), "word for word");
        assert!(find(b"").is_none() && find(b"Accept: a/").is_none());
    }

    #[test]
    fn what_is_a_users_own_is_not_kept() {
        for line in ["Cookie: a=b", "Authorization: Basic x", "Set-Cookie: a=b", "X-Forwarded-For: 1.2.3.4"] {
            assert!(!read(line) && !read(line), "{line}");
        }
        let long = format!("Accept: {}", "x".repeat(LONGEST));
        assert!(!read(&long) && !read(&long));
    }

    #[test]
    fn a_line_gives_way_to_one_that_comes_more_often() {
        // The same place: they differ where nobody looks.
        let (old, new) = ("Accept: a/bcd", "Accept: z/bcd");
        assert_eq!(place(old.as_bytes()), place(new.as_bytes()));
        assert!(!read(old) && read(old));
        for _ in 0..=PATIENCE {
            assert!(!read(new));
        }
        assert!(read(new) && !read(old));
    }
}
