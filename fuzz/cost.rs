//! Gives each parser inputs of repeated units, at one length and at four times that length.
//! `./cost` counts the instructions.
//!
//! Each case prints a line: target, unit, length, and the peak of allocated bytes. The counts are
//! callgrind's, which writes a file after each call of `measured`.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use kylin_lb::fuzzing::TARGETS;

struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(held, Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The units that are repeated for each parser.
const UNITS: &[&str] = &[
    "a",
    "1",
    " ",
    "\t",
    "\r",
    "\n",
    "\r\n",
    "\0",
    "é",
    "\u{a0}",
    "\"",
    "'",
    "`",
    "\\",
    "\\\"",
    "(",
    ")",
    "()",
    "[",
    "]",
    "[]",
    "{",
    "}",
    "{}",
    "<",
    ">",
    ",",
    ";",
    ":",
    "=",
    "a=b;",
    "a=",
    "&",
    "&a=b",
    "%",
    "%2",
    "%25",
    "%2e",
    "/",
    "//",
    "/.",
    "/../",
    "/a",
    "/a;b",
    ".",
    "..",
    "-",
    "--",
    "--\n",
    "/*",
    "*/",
    "/*/",
    "/**/",
    "#",
    "# a\n",
    "$",
    "$a",
    "${a}",
    "$1",
    "?",
    "*",
    "@",
    "a@b,",
    "a.b.",
    "1.2.3.4,",
    "[::1],",
    "~",
    "|",
    "+",
    "0x",
    "1e",
    "a b;\n",
    "a{",
    "a {}",
    "{\"a\":",
    "[{\"a\":",
    "{\"a\":1,",
    "\"a\",",
    "<a>",
    "<a/>",
    "<a b='c'/>",
    "&amp;",
    "<!--",
    "a: b\r\n",
    "a:\r\n",
    " a\r\n",
    "1\r\na\r\n",
    "1;a=b\r\n",
    "\\u0041",
    "\\\n",
    "select ",
    "with a as (",
    "select 1;",
    "union all ",
];

/// The text around the units, by parser.
const FRAMES: &[(&str, &str, &str)] = &[
    ("request_head", "GET /kylin/api/query HTTP/1.1\r\nHost: a\r\n", "\r\n"),
    ("request_head", "GET /", " HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("request_head", "GET / HTTP/1.1\r\nHost: a\r\nCookie: ", "\r\n\r\n"),
    ("response_head", "HTTP/1.1 200 OK\r\n", "\r\n"),
    ("response_head", "HTTP/1.1 200 ", "\r\n\r\n"),
    ("chunked", "5;", "\r\nhello\r\n0\r\n\r\n"),
    ("chunked", "0\r\n", "\r\n"),
    ("cookies", "JSESSIONID=1; ", ""),
    ("cookies", "a=b; Path=", "; Expires=Thu, 01 Jan 1970 00:00:00 GMT"),
    ("forwarded", "", ", 10.0.0.1"),
    ("path", "/kylin/api/", ""),
    ("path", "/kylin/api/query?", ""),
    ("sql", "select ", " from t"),
    ("sql", "select [", "]"),
    ("sql", "select '", "'"),
    ("sql", "explain ", ""),
    ("query", "{\"sql\":\"select ", "\"}"),
    ("query", "{\"sql\":\"select 1\",\"params\":[", "]}"),
    ("query", "sql=", "&project=p"),
    ("response_body", "{\"msg\":\"", "\",\"code\":\"999\"}"),
    ("response_body", "{\"data\":{\"x\":", "}}"),
    ("response_body", "{\"config\":\"", "\"}"),
    ("response_body", "[{\"name\":\"a\",\"uuid\":\"", "\"}]"),
    ("nginx", "upstream a { server ", "; }"),
    ("nginx", "server { location / { ", " } }"),
    ("nginx", "map $a $b { ", " }"),
    ("nginx", "server { server_name ", "; location / { proxy_pass http://a; } }"),
    ("nginx", "server { location ~ ", " { proxy_pass http://127.0.0.1; } }"),
    ("properties", "kylin.metadata.url=a@jdbc,", "\n"),
    ("properties", "kylin.server.cluster-servers=", "\n"),
    ("tomcat", "<Context><Manager className=\"a.RedisSessionManager\" host=\"", "\"/></Context>"),
    ("tomcat", "<Context>", "</Context>"),
    ("discovery", "q1 ", "\n"),
    ("discovery", "{\"payload\":{\"description\":\"", "\"},\"address\":\"a\",\"port\":1}"),
];

#[inline(never)]
fn measured(target: fn(&[u8]), input: &[u8]) {
    target(std::hint::black_box(input));
}

fn main() {
    let size: usize = std::env::args().nth(1).and_then(|size| size.parse().ok()).unwrap_or(16 * 1024);
    let only = std::env::args().nth(2);
    for (name, target) in TARGETS {
        if only.as_deref().is_some_and(|only| only != name) {
            continue;
        }
        let bare = [(name, "", "")];
        for (_, before, after) in FRAMES.iter().filter(|frame| frame.0 == name).chain(&bare) {
            for unit in UNITS {
                for length in [size, 4 * size] {
                    let input = format!("{before}{}{after}", unit.repeat(length / unit.len()));
                    PEAK.store(HELD.load(Ordering::Relaxed), Ordering::Relaxed);
                    let before_call = HELD.load(Ordering::Relaxed);
                    measured(target, input.as_bytes());
                    let peak = PEAK.load(Ordering::Relaxed).saturating_sub(before_call);
                    println!(
                        "{name}\t{before}{unit}{after}\t{length}\t{peak}",
                        before = before.escape_debug(),
                        unit = format_args!("({})*", unit.escape_debug()),
                        after = after.escape_debug()
                    );
                }
            }
        }
    }
}
