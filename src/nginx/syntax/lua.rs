//! Blocks of Lua, such as `access_by_lua_block { ... }`, whose text is not in nginx's syntax.

/// Returns the length of a block after its opening brace, with the closing brace; `None` if the
/// text ends first.
pub(super) fn block(text: &str) -> Option<usize> {
    let (mut depth, mut at) = (1_usize, 0);
    loop {
        let rest = text.get(at..)?;
        at += match rest.as_bytes() {
            [] => return None,
            [b'{', ..] => {
                depth += 1;
                1
            }
            [b'}', ..] if depth == 1 => return Some(at + 1),
            [b'}', ..] => {
                depth -= 1;
                1
            }
            [b'-', b'-', comment @ ..] => match long_bracket(&rest[rest.len() - comment.len()..]) {
                Some(open) => 2 + long_string(&rest[2..], open)?,
                None => rest.find('\n').unwrap_or(rest.len()),
            },
            [b'[', ..] => match long_bracket(rest) {
                Some(open) => long_string(rest, open)?,
                None => 1,
            },
            [quote @ (b'"' | b'\''), ..] => string(rest, *quote)?,
            _ => rest.chars().next().map_or(1, char::len_utf8),
        };
    }
}

/// Returns the length of a string in quotes.
fn string(text: &str, quote: u8) -> Option<usize> {
    let mut bytes = text.bytes().enumerate().skip(1);
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'\\' => _ = bytes.next(),
            byte if byte == quote => return Some(at + 1),
            _ => {}
        }
    }
    None
}

/// Returns the length of the `[[` at the beginning of a text, with any number of `=` between the
/// brackets.
fn long_bracket(text: &str) -> Option<usize> {
    let level = text.strip_prefix('[')?.bytes().take_while(|byte| *byte == b'=').count();
    text[level + 1..].starts_with('[').then_some(level + 2)
}

/// Returns the length of `[[...]]`, whose opening bracket has the length `open`; `None` if it is
/// not closed.
fn long_string(text: &str, open: usize) -> Option<usize> {
    let close = text[..open].replace('[', "]");
    Some(open + text[open..].find(&close)? + open)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_ends_at_the_brace_of_its_own() {
        for inside in
            ["", " x = { y = {} } ", "-- }\n", "--[[ }\n ]] ", "s = '}' ", "s = \"\\\"}\" ", "s = [==[ }]] ]==] ", "名"]
        {
            let text = format!("{inside}}} rest");
            assert_eq!(block(&text), Some(inside.len() + 1), "{inside}");
        }
        for open in ["", "{ }", "'}", "-- }", "[[ }"] {
            assert_eq!(block(open), None, "{open}");
        }
    }
}
