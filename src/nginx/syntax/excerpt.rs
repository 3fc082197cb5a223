//! Makes configuration text in error messages safe to print.
//!
//! The reader of httpd files in the example `kylin_front` also compiles this file, so that both
//! show errors in the same way.

use std::fmt::Write as _;

/// The maximum number of characters of a line that an error shows.
const MAX_SHOWN_CHARS: usize = 100;

/// Returns the part of a line around a column, safe to print, and the position of the column in it.
/// `column` counts characters from 1.
pub(crate) fn excerpt(text: &str, column: usize) -> (String, usize) {
    let column = column.saturating_sub(1);
    let is_long = text.chars().nth(MAX_SHOWN_CHARS).is_some();
    let from = if is_long { column.saturating_sub(MAX_SHOWN_CHARS * 2 / 3) } else { 0 };
    let mut shown = String::from(if from > 0 { "..." } else { "" });
    let mut caret = None;
    let mut rest = text.chars().skip(from);
    for (index, c) in rest.by_ref().take(MAX_SHOWN_CHARS).enumerate() {
        if from + index == column {
            caret = Some(shown.chars().count());
        }
        print(c, &mut shown);
    }
    let caret = caret.unwrap_or_else(|| shown.chars().count());
    if rest.next().is_some() {
        shown.push_str("...");
    }
    (shown, caret)
}

/// Returns text that cannot move the terminal's cursor or change the reading direction.
pub(crate) fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    text.chars().for_each(|c| print(c, &mut shown));
    shown
}

fn print(c: char, to: &mut String) {
    match c {
        '\t' => to.push(' '),
        c if c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}') => {
            // Writing to a String cannot fail.
            let _ = write!(to, "{}", c.escape_unicode());
        }
        c => to.push(c),
    }
}
