//! A chart as SVG, by hand: a grid, lines with a mark and a whisker a point, and a legend. It brings its own
//! background, and colours for light and for dark, so that it can be read on any page.

use std::fmt::Write as _;

use super::axis::Fitted;
use super::{Chart, Line, Role};
use crate::figures::Samples;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 440.0;
/// The inside of the grid.
const LEFT: f64 = 84.0;
const RIGHT: f64 = WIDTH - 28.0;
const TOP: f64 = 84.0;
const BOTTOM: f64 = HEIGHT - 60.0;
/// Space between the outermost points and the grid's ends.
const MARGIN: f64 = 18.0;
/// A line with more points is a curve: it has no marks.
const MARKED_POINTS_MAX: usize = 20;
/// About what a letter of the legend takes.
const LETTER: f64 = 7.2;

/// What a page may be; the second colours are for dark ones.
const STYLE: &str = "
  .page { fill: #ffffff } .grid { stroke: #e2e5e9 } text { fill: #2b3138; font: 13px system-ui, sans-serif }
  .title { font-size: 16px; font-weight: 600 } .faint { fill: #5f6873 } .curve { fill: none; stroke-width: 2.2 }
  .whisker { stroke-width: 1.4; opacity: 0.75 } .dashed { stroke-dasharray: 6 5 }
  .ours0 { stroke: #1d5fd6; color: #1d5fd6 } .ours1 { stroke: #0a8a8a; color: #0a8a8a } .ours2 { stroke: #6b3fd4; color: #6b3fd4 }
  .peer0 { stroke: #c8500a; color: #c8500a } .peer1 { stroke: #a3276b; color: #a3276b } .peer2 { stroke: #8a6d00; color: #8a6d00 }
  .limit { stroke: #79828d; color: #79828d } .dot { fill: currentColor; stroke: none }
  @media (prefers-color-scheme: dark) {
    .page { fill: #14181d } .grid { stroke: #2d343c } text { fill: #dfe4ea } .faint { fill: #9aa5b1 }
    .ours0 { stroke: #6aa5ff; color: #6aa5ff } .ours1 { stroke: #3fc7c7; color: #3fc7c7 } .ours2 { stroke: #b198ff; color: #b198ff }
    .peer0 { stroke: #ff9a52; color: #ff9a52 } .peer1 { stroke: #f07fbb; color: #f07fbb } .peer2 { stroke: #e0c04a; color: #e0c04a }
    .limit { stroke: #8d97a3; color: #8d97a3 }
  }
";
/// Colours of a role.
const COLOURS: usize = 3;

/// The whole file.
pub(super) fn drawn(chart: &Chart) -> String {
    let points = || chart.lines.iter().flat_map(|line| &line.points);
    let figures = points().flat_map(|(_, samples)| [samples.lowest(), samples.highest()]);
    let x = chart.x.fitted(points().map(|(x, _)| *x));
    let y = chart.y.fitted(figures);
    let mut svg = Svg(String::new());
    svg.open(&chart.title);
    svg.grid(&x, &y);
    svg.labels(chart);
    let styles = styles(&chart.lines);
    // Ours last: it is on top.
    for (line, style) in chart.lines.iter().zip(&styles).rev() {
        svg.line(line, style, &x, &y);
    }
    svg.legend(&chart.lines, &styles);
    svg.0.push_str("</svg>\n");
    svg.0
}

/// A colour each: those of one role differ from each other, and limits are dashed.
fn styles(lines: &[Line]) -> Vec<String> {
    let mut ours = (0..COLOURS).cycle();
    let mut peers = (0..COLOURS).cycle();
    let style = |line: &Line| match line.role {
        Role::Ours => format!("ours{}", ours.next().unwrap_or_default()),
        Role::Peer => format!("peer{}", peers.next().unwrap_or_default()),
        Role::Limit => "limit dashed".to_owned(),
    };
    lines.iter().map(style).collect()
}

struct Svg(String);

impl Svg {
    fn open(&mut self, title: &str) {
        let title = escaped(title);
        self.element(format_args!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" \
             height=\"{HEIGHT}\" role=\"img\" aria-label=\"{title}\">\n<style>{STYLE}</style>\n\
             <rect class=\"page\" width=\"{WIDTH}\" height=\"{HEIGHT}\" rx=\"8\"/>"
        ));
        self.text("title", 20.0, 30.0, "start", &title);
    }

    fn grid(&mut self, x: &Fitted, y: &Fitted) {
        for (at, label) in &y.ticks {
            let at = down(y, *at);
            self.element(format_args!(
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>"
            ));
            self.text("faint", LEFT - 8.0, at + 4.5, "end", &escaped(label));
        }
        for (at, label) in &x.ticks {
            let at = across(x, *at);
            self.element(format_args!(
                "<line class=\"grid\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{BOTTOM}\"/>"
            ));
            self.text("faint", at, BOTTOM + 20.0, "middle", &escaped(label));
        }
    }

    fn labels(&mut self, chart: &Chart) {
        let middle = (LEFT + RIGHT) / 2.0;
        let (x, y) = (escaped(chart.x.label()), escaped(chart.y.label()));
        self.text("", middle, HEIGHT - 16.0, "middle", &x);
        let middle = (TOP + BOTTOM) / 2.0;
        self.element(format_args!(
            "<text transform=\"translate(20 {middle}) rotate(-90)\" text-anchor=\"middle\">{y}</text>"
        ));
    }

    fn line(&mut self, line: &Line, style: &str, x: &Fitted, y: &Fitted) {
        let place = |(at, samples): &(f64, Samples)| (across(x, *at), down(y, samples.median()));
        let path: Vec<String> = line
            .points
            .iter()
            .map(|point| {
                let (across, down) = place(point);
                format!("{across:.1},{down:.1}")
            })
            .collect();
        let path = path.join(" ");
        self.element(format_args!(
            "<polyline class=\"curve {style}\" points=\"{path}\"/>"
        ));
        if line.points.len() > MARKED_POINTS_MAX {
            return;
        }
        for point in &line.points {
            let (across, middle) = place(point);
            self.whisker(style, across, &point.1, y);
            self.element(format_args!(
                "<g class=\"{style}\"><circle class=\"dot\" cx=\"{across:.1}\" cy=\"{middle:.1}\" r=\"3.8\"/></g>"
            ));
        }
    }

    /// From the lowest to the highest.
    fn whisker(&mut self, style: &str, across: f64, samples: &Samples, y: &Fitted) {
        let (low, high) = (down(y, samples.lowest()), down(y, samples.highest()));
        let (left, right) = (across - 4.0, across + 4.0);
        if low - high < 1.0 {
            return;
        }
        let style = style.trim_end_matches(" dashed");
        self.element(format_args!(
            "<path class=\"whisker {style}\" d=\"M{across:.1} {low:.1}V{high:.1}M{left:.1} {low:.1}H{right:.1}\
             M{left:.1} {high:.1}H{right:.1}\"/>"
        ));
    }

    fn legend(&mut self, lines: &[Line], styles: &[String]) {
        let mut at = 20.0;
        for (line, style) in lines.iter().zip(styles) {
            let end = at + 26.0;
            self.element(format_args!(
                "<line class=\"curve {style}\" x1=\"{at:.1}\" x2=\"{end:.1}\" y1=\"56\" y2=\"56\"/>"
            ));
            self.text("", end + 7.0, 60.5, "start", &escaped(&line.name));
            at = end + 27.0 + line.name.chars().count() as f64 * LETTER;
        }
    }

    fn text(&mut self, class: &str, x: f64, y: f64, anchor: &str, text: &str) {
        self.element(format_args!(
            "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>"
        ));
    }

    fn element(&mut self, element: std::fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        writeln!(self.0, "{element}").ok();
    }
}

fn across(x: &Fitted, at: f64) -> f64 {
    let (first, last) = (LEFT + MARGIN, RIGHT - MARGIN);
    first + x.place(at) * (last - first)
}

fn down(y: &Fitted, figure: f64) -> f64 {
    BOTTOM - y.place(figure) * (BOTTOM - TOP)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
