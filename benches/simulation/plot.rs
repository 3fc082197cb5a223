//! The results as a picture: a row per front, with seconds on a logarithmic scale.

use std::fmt::Write as _;

use crate::{Kind, Results};

const ROW: f64 = 30.0;
const TOP: f64 = 64.0;
const NAMES: f64 = 206.0;
const PANEL: f64 = 230.0;
const GAP: f64 = 22.0;
/// Seconds at the left and the right edge of a panel.
const FROM: f64 = 0.05;
const TO: f64 = 2000.0;
const TICKS: [f64; 5] = [0.1, 1.0, 10.0, 100.0, 1000.0];

/// Returns the picture of results side by side, each under its title.
pub(crate) fn svg(results: &[(String, &Results)]) -> String {
    let rows = results.iter().map(|(_, rows)| rows.len()).max().unwrap_or(0);
    let bottom = TOP + ROW * rows as f64;
    let (width, height) = (NAMES + (PANEL + GAP) * results.len() as f64, bottom + 62.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         font-family=\"Helvetica, Arial, sans-serif\" font-size=\"12\">\n\
         <title>Response times under each policy: 8 nodes of 8 slots</title>\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
    );
    text(
        &mut svg,
        12.0,
        24.0,
        "start",
        "font-size=\"15\" font-weight=\"bold\"",
        "Seconds to a response, 8 nodes of 8 slots",
    );
    if let Some((_, rows)) = results.first() {
        for (row, (name, kind, _)) in rows.iter().enumerate() {
            let style = format!("fill=\"{}\"", color(*kind));
            text(&mut svg, NAMES - 10.0, middle(row) + 4.0, "end", &style, name);
        }
    }
    for (index, (title, rows)) in results.iter().enumerate() {
        panel(&mut svg, NAMES + (PANEL + GAP) * index as f64, bottom, title, rows);
    }
    legend(&mut svg, bottom + 46.0);
    svg.push_str("</svg>\n");
    svg
}

fn panel(svg: &mut String, left: f64, bottom: f64, title: &str, rows: &Results) {
    text(svg, left + PANEL / 2.0, TOP - 12.0, "middle", "font-weight=\"bold\"", title);
    for (row, _) in rows.iter().enumerate().step_by(2) {
        let y = middle(row) - ROW / 2.0;
        let _ = writeln!(svg, "<rect x=\"{left}\" y=\"{y}\" width=\"{PANEL}\" height=\"{ROW}\" fill=\"#f5f6f8\"/>");
    }
    for tick in TICKS {
        let x = left + along(tick);
        let _ = writeln!(svg, "<line x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{bottom}\" stroke=\"#d4d8de\"/>");
        text(svg, x, bottom + 16.0, "middle", "fill=\"#555555\" font-size=\"11\"", &format!("{tick}"));
    }
    for (row, (_, kind, figures)) in rows.iter().enumerate() {
        let [half, mean, most] = [figures.within(0.5), figures.mean(), figures.within(0.99)].map(|at| left + along(at));
        let (y, color) = (middle(row), color(*kind));
        let _ = writeln!(
            svg,
            "<line x1=\"{:.1}\" y1=\"{y}\" x2=\"{:.1}\" y2=\"{y}\" stroke=\"{color}\" stroke-width=\"2\"/>\n\
             <line x1=\"{half:.1}\" y1=\"{}\" x2=\"{half:.1}\" y2=\"{}\" stroke=\"{color}\" stroke-width=\"2\"/>\n\
             <circle cx=\"{mean:.1}\" cy=\"{y}\" r=\"5\" fill=\"{color}\"/>\n\
             <circle cx=\"{most:.1}\" cy=\"{y}\" r=\"4\" fill=\"#ffffff\" stroke=\"{color}\" stroke-width=\"2\"/>",
            half.min(most),
            half.max(most),
            y - 6.0,
            y + 6.0,
        );
    }
}

fn legend(svg: &mut String, y: f64) {
    let color = color(Kind::Common);
    let _ = writeln!(
        svg,
        "<line x1=\"{NAMES}\" y1=\"{}\" x2=\"{NAMES}\" y2=\"{}\" stroke=\"{color}\" stroke-width=\"2\"/>\n\
         <circle cx=\"{}\" cy=\"{y}\" r=\"5\" fill=\"{color}\"/>\n\
         <circle cx=\"{}\" cy=\"{y}\" r=\"4\" fill=\"#ffffff\" stroke=\"{color}\" stroke-width=\"2\"/>",
        y - 6.0,
        y + 6.0,
        NAMES + 90.0,
        NAMES + 170.0,
    );
    for (offset, name) in [(10.0, "median"), (100.0, "mean"), (180.0, "99 of 100 within; seconds, logarithmic")] {
        text(svg, NAMES + offset, y + 4.0, "start", "fill=\"#333333\"", name);
    }
}

/// Returns the distance from a panel's left edge for this many seconds.
fn along(seconds: f64) -> f64 {
    PANEL * ((seconds.clamp(FROM, TO) / FROM).ln() / (TO / FROM).ln())
}

fn middle(row: usize) -> f64 {
    TOP + ROW * (row as f64 + 0.5)
}

fn color(kind: Kind) -> &'static str {
    match kind {
        Kind::Common => "#4a4f57",
        Kind::KnowsQueries => "#0b62c4",
        Kind::Ideal => "#2c8a4b",
    }
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, style: &str, text: &str) {
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" {style}>{text}</text>");
}
