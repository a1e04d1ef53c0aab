//! The few shapes that charts are made of. Coordinates are pixels from the upper left corner.

use std::fmt::Write;

/// A drawing that grows.
pub(super) struct Svg {
    width: f64,
    height: f64,
    body: String,
}

/// Which end of a text lies at its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

impl Svg {
    pub(super) fn new(width: f64, height: f64) -> Svg {
        Svg {
            width,
            height,
            body: String::new(),
        }
    }

    pub(super) fn line(&mut self, class: &str, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) {
        self.push(format_args!(
            "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"
        ));
    }

    pub(super) fn path(&mut self, class: &str, dash: &str, points: &[(f64, f64)]) {
        let points: Vec<String> = points
            .iter()
            .map(|(x, y)| format!("{x:.1},{y:.1}"))
            .collect();
        let points = points.join(" ");
        self.push(format_args!(
            "<polyline class=\"{class}\" stroke-dasharray=\"{dash}\" points=\"{points}\"/>"
        ));
    }

    /// `style` is more attributes; `title` is what a pointer over the shape tells.
    pub(super) fn rect(&mut self, style: &str, [x, y, w, h]: [f64; 4], title: &str) {
        let title = escape(title);
        self.push(format_args!(
            "<rect {style} x=\"{x:.1}\" y=\"{y:.1}\" width=\"{w:.1}\" height=\"{h:.1}\"><title>{title}</title></rect>"
        ));
    }

    /// The mark of a policy, filled, about 9 pixels wide.
    pub(super) fn mark(&mut self, policy: usize, (x, y): (f64, f64), title: &str) {
        let title = escape(title);
        let class = colour(policy);
        let shape = shape(policy);
        self.push(format_args!(
            "<path class=\"f{class}\" transform=\"translate({x:.1} {y:.1})\" d=\"{shape}\"><title>{title}</title></path>"
        ));
    }

    pub(super) fn text(&mut self, (x, y): (f64, f64), anchor: Anchor, text: &str) {
        let anchor = anchor.name();
        let text = escape(text);
        self.push(format_args!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>"
        ));
    }

    /// In a colour of its own, for text on filled shapes.
    pub(super) fn text_on(&mut self, (x, y): (f64, f64), colour: &str, text: &str) {
        let text = escape(text);
        self.push(format_args!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\" style=\"fill:{colour}\">{text}</text>"
        ));
    }

    /// Upwards, its middle at the place.
    pub(super) fn text_up(&mut self, (x, y): (f64, f64), text: &str) {
        let text = escape(text);
        self.push(format_args!(
            "<text transform=\"translate({x:.1} {y:.1}) rotate(-90)\" text-anchor=\"middle\">{text}</text>"
        ));
    }

    /// The element; `label` is for those who cannot see it.
    pub(super) fn finish(self, label: &str) -> String {
        let Svg {
            width,
            height,
            body,
        } = self;
        let label = escape(label);
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" aria-label=\"{label}\" width=\"{width:.0}\" height=\"{height:.0}\" viewBox=\"0 0 {width:.0} {height:.0}\">\n{body}</svg>\n"
        )
    }

    fn push(&mut self, element: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.body, "{element}");
    }
}

impl Anchor {
    fn name(self) -> &'static str {
        match self {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        }
    }
}

/// Classes `c0` to `c7` of lines and `f0` to `f7` of fillings.
pub(super) fn colour(policy: usize) -> usize {
    policy % super::palette::SERIES.len()
}

/// Colours and shapes repeat after eight policies; dashes tell those apart.
pub(super) fn dash(policy: usize) -> &'static str {
    match policy / super::palette::SERIES.len() {
        0 => "none",
        1 => "7 3",
        _ => "2 3",
    }
}

fn shape(policy: usize) -> &'static str {
    match policy % 8 {
        0 => "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0Z",
        1 => "M-4,-4H4V4H-4Z",
        2 => "M0,-5L5,4H-5Z",
        3 => "M0,-5.5L5.5,0L0,5.5L-5.5,0Z",
        4 => "M0,5L5,-4H-5Z",
        5 => "M-1.5,-5H1.5V-1.5H5V1.5H1.5V5H-1.5V1.5H-5V-1.5H-1.5Z",
        6 => "M-5,-3L-3,-5L0,-2L3,-5L5,-3L2,0L5,3L3,5L0,2L-3,5L-5,3L-2,0Z",
        _ => "M-5,-2H5V2H-5Z",
    }
}

/// Text for the inside of elements and attributes.
pub(super) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c if c.is_control() => safe.push(' '),
            c => safe.push(c),
        }
    }
    safe
}
